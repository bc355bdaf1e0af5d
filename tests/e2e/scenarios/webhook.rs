//! What comes in from the internet: only what Slack signed, lately, of bearable size and sound.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use carapace_e2e::slack::Said;
use carapace_e2e::{eventually, tap::Tap};
use serde_json::{Value, json};

use crate::Scenario;
use crate::conversation::{Talker, answers};
use crate::world::{SOON, World};

pub(crate) const ALL: &[Scenario] = &[
    ("a_webhook_that_slack_did_not_sign_stores_nothing", unsigned),
    ("a_webhook_that_is_garbled_stores_nothing", garbled),
    ("a_webhook_over_a_mebibyte_stores_nothing", too_large),
    ("a_bots_own_words_start_nothing", echoes),
    (
        "slack_is_answered_before_anything_behind_the_bus_moves",
        stalled,
    ),
];

fn now() -> Result<i64> {
    Ok(i64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    )?)
}

/// A message that was written and not delivered yet, and a tap that would see it on the bus.
fn unsent<'a>(ada: &'a Talker<'a>) -> Result<(Said, Tap<'a>)> {
    let slack = ada.world.slack()?;
    let said = slack.say(&ada.member, &ada.channel, None, "hello")?;
    let tap = ada
        .world
        .tap_on(&json!({ "detail": { "user_id": [ada.member.id] } }))?;
    Ok((said, tap))
}

/// Posts a body with a signature header of its own; the answer must be `status` with this error.
fn refused(
    world: &World,
    (timestamp, signature): (Option<&str>, Option<&str>),
    body: &[u8],
    (status, error): (u16, &str),
) -> Result<()> {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(timestamp.map(|value| ("x-slack-request-timestamp", value)));
    headers.extend(signature.map(|value| ("x-slack-signature", value)));
    let (got, answer) = world.slack()?.post(&headers, body)?;
    ensure!(got == status, "{got} {answer}");
    let answer: Value = serde_json::from_str(&answer).context("the answer is not JSON")?;
    ensure!(
        answer["error"] == error && answer["message"].is_string(),
        "{answer:#}"
    );
    Ok(())
}

/// Nothing of the refused ones has come by; the same message, sound, has.
fn only_the_sound_one(world: &World, said: &Said, tap: &Tap<'_>) -> Result<()> {
    ensure!(world.slack()?.deliver(said)?.status == 200, "the control");
    answers(world, said, 1)?;
    let seen = tap.seen("Slack Message Received")?;
    ensure!(seen.len() == 1, "{seen:#?}");
    Ok(())
}

fn unsigned(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let (said, tap) = unsent(&ada)?;
    let slack = world.slack()?;
    let body = said.body.as_bytes();
    let (now, then, soon) = (now()?, now()? - 301, now()? + 360);
    let good = slack.sign(now, body);
    let text = |number: i64| number.to_string();
    let altered = said.body.replace("hello", "hallo");
    ensure!(altered != said.body, "nothing was altered");
    let shouting = good.to_uppercase();
    let other = format!("v0={}", "0".repeat(64));
    for (what, timestamp, signature, body) in [
        ("unsigned", None, None, body),
        ("no timestamp", None, Some(good.as_str()), body),
        ("no signature", Some(text(now)), None, body),
        (
            "stale",
            Some(text(then)),
            Some(&slack.sign(then, body)),
            body,
        ),
        (
            "from the future",
            Some(text(soon)),
            Some(&slack.sign(soon, body)),
            body,
        ),
        (
            "another time than was signed",
            Some(text(now - 1)),
            Some(&good),
            body,
        ),
        ("altered", Some(text(now)), Some(&good), altered.as_bytes()),
        ("another key", Some(text(now)), Some(&other), body),
        (
            "another version",
            Some(text(now)),
            Some(&good.replace("v0=", "v1=")),
            body,
        ),
        ("half a signature", Some(text(now)), Some(&good[..35]), body),
        ("in capitals", Some(text(now)), Some(&shouting), body),
        (
            "a time that is none",
            Some("now".to_owned()),
            Some(&good),
            body,
        ),
    ] {
        refused(
            world,
            (timestamp.as_deref(), signature),
            body,
            (401, "SignatureRejected"),
        )
        .context(what)?;
    }
    only_the_sound_one(world, &said, &tap)
}

fn garbled(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let (said, tap) = unsent(&ada)?;
    let sound: Value = serde_json::from_str(&said.body)?;
    let with = |path: &str, value: Value| {
        let mut body = sound.clone();
        if let Some(field) = body.pointer_mut(path) {
            *field = value;
        }
        body.to_string().into_bytes()
    };
    let now = now()?;
    for (what, body) in [
        ("empty", Vec::new()),
        (
            "cut off",
            said.body.as_bytes()[..said.body.len() / 2].to_vec(),
        ),
        (
            "half a character",
            said.body.replace("hello", r"\ud83e").into_bytes(),
        ),
        ("a list", b"[]".to_vec()),
        ("nested without end", b"[".repeat(100_000)),
        (
            "a channel that is none",
            with("/event/channel", json!("../../x")),
        ),
        ("a user that is a number", with("/event/user", json!(7))),
        ("a time that is none", with("/event/ts", json!("yesterday"))),
        (
            "a text that is a list",
            with("/event/text", json!(["hello"])),
        ),
        (
            "more than Slack sends",
            with("/event/text", json!("a".repeat(40_001))),
        ),
    ] {
        let signature = world.slack()?.sign(now, &body);
        let signed = (Some(&*now.to_string()), Some(&*signature));
        refused(world, signed, &body, (400, "WebhookRejected")).context(what)?;
    }
    only_the_sound_one(world, &said, &tap)
}

fn too_large(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let (said, tap) = unsent(&ada)?;
    let mut body: Value = serde_json::from_str(&said.body)?;
    body["padding"] = json!("x".repeat(1024 * 1024));
    let body = body.to_string();
    let (now, signature) = (now()?, world.slack()?.sign(now()?, body.as_bytes()));
    let signed = (Some(&*now.to_string()), Some(&*signature));
    refused(world, signed, body.as_bytes(), (413, "BodyTooLarge"))?;
    only_the_sound_one(world, &said, &tap)
}

fn echoes(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let (said, tap) = unsent(&ada)?;
    let sound: Value = serde_json::from_str(&said.body)?;
    for (field, value) in [
        ("bot_id", json!("B0CLAW")),
        ("subtype", json!("message_changed")),
    ] {
        let mut body = sound.clone();
        body["event"][field] = value;
        let body = body.to_string();
        let now = now()?;
        let signature = world.slack()?.sign(now, body.as_bytes());
        let headers = [
            ("content-type", "application/json"),
            ("x-slack-request-timestamp", &*now.to_string()),
            ("x-slack-signature", &*signature),
        ];
        let (status, answer) = world.slack()?.post(&headers, body.as_bytes())?;
        ensure!(status == 200, "{field}: {status} {answer}");
    }
    only_the_sound_one(world, &said, &tap)
}

/// I5, and no more than that: Slack wants its answer within three seconds.
fn stalled(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let slack = world.slack()?;
    slack
        .misbehave(&json!({ "user": ada.member.id, "method": "users.info", "stall_seconds": 4 }))?;
    let (said, tap) = unsent(&ada)?;
    let began = Instant::now();
    let delivery = slack.deliver(&said)?;
    ensure!(delivery.status == 200, "{delivery:?}");
    let id = format!("ONCE#slack.{}", said.event_id);
    ensure!(
        world.item(&id, "MESSAGE")?.is_none(),
        "the control: what is behind the bus did not stall"
    );
    eventually(
        "the message is on the bus",
        SOON,
        || tap.seen("Slack Message Received"),
        |seen| seen.len() == 1,
    )?;
    ensure!(
        slack.replies(&said.channel, &said.thread_ts)?.is_empty(),
        "the control: it was answered already"
    );
    answers(world, &said, 1)?;
    let (acknowledged, answered) = (delivery.took, began.elapsed());
    ensure!(
        acknowledged * 4 < answered,
        "acknowledged after {acknowledged:?}, of {answered:?} until the answer"
    );
    Ok(())
}

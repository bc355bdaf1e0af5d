//! What somebody writes in Slack, and what their agent answers in the thread.
//!
//! The agent is the scripted one: `SLOW n` takes n quarters of a second, `HOLD` waits for a `RELEASE`
//! in another thread, `RECALL` repeats what was said before, `CRASH` ends the agent's process.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carapace_core::agentd::ErrorName;
use carapace_core::conversation::words;
use carapace_e2e::cluster::AGENTS;
use carapace_e2e::eventually;
use carapace_e2e::execution::{CONVERSATION, Execution};
use carapace_e2e::platform::SandboxRequest;
use carapace_e2e::slack::{Member, Message, Said};
use serde_json::{Value, json};

use crate::Scenario;
use crate::world::{Acquaintance, Person, SOON, World};

pub(crate) const ALL: &[Scenario] = &[
    ("a_message_wakes_the_agent_and_its_reply_streams", wakes),
    ("a_second_message_goes_on_with_the_conversation", remembers),
    ("a_webhook_delivered_three_times_is_answered_once", replayed),
    ("somebody_unknown_gets_the_link_and_no_sandbox", unknown),
    (
        "whoever_slack_does_not_vouch_for_gets_no_sandbox",
        unvouched,
    ),
    ("ten_quick_messages_are_answered_in_order", ten),
    ("two_threads_of_one_user_are_answered_at_once", two_threads),
    ("a_direct_message_is_answered", direct),
    ("a_file_without_a_word_is_answered", file),
    (
        "whoever_writes_from_their_mailbox_is_known_whatever_its_tag",
        tagged,
    ),
    ("a_message_of_40000_characters_arrives_whole", long),
    ("a_turn_longer_than_an_invocation_has_no_seam", slices),
    ("an_agent_that_crashes_mid_turn_is_said_so", crashes),
    ("a_slow_slack_gets_all_of_the_reply", paced),
    ("a_slack_that_fails_gets_the_reply_later", slack_fails),
    ("a_holder_that_dies_leaves_nobody_waiting", holder_dies),
    ("an_agent_that_cannot_wake_is_said_so", cannot_wake),
    (
        "a_sandbox_that_is_gone_is_replaced_under_a_message",
        sandbox_gone,
    ),
    ("the_models_refusals_are_put_into_words", model_refuses),
];

/// Somebody with an account, in the workspace and in a channel of their own.
pub(crate) struct Talker<'a> {
    pub(crate) world: &'a World,
    pub(crate) person: Person<'a>,
    pub(crate) member: Member,
    pub(crate) channel: String,
}

impl<'a> Talker<'a> {
    pub(crate) fn new(world: &'a World) -> Result<Self> {
        let person = world.person("ada")?;
        let slack = world.slack()?;
        let member = slack.member("Ada", &person.email)?;
        let channel = slack.channel("ada")?;
        Ok(Self {
            world,
            person,
            member,
            channel,
        })
    }

    /// Somebody to whom another scenario has talked before, in threads of its own, so that their agent
    /// is awake; somebody new if there is nobody. To wake an agent is more work than all that most
    /// scenarios then ask of it.
    pub(crate) fn known(world: &'a World) -> Result<Self> {
        // Not matched on: nobody else could get or leave one for as long as the other is made.
        let known = world.acquaintances().pop();
        let Some(Acquaintance {
            user,
            member,
            channel,
        }) = known
        else {
            return Self::new(world);
        };
        Ok(Self {
            world,
            person: world.person_of(user),
            member,
            channel,
        })
    }

    /// Leaves them to the next scenario, for which everything must be as if nothing had been.
    pub(crate) fn stays(self) {
        self.world.acquaintances().push(Acquaintance {
            user: self.person.stays(),
            member: self.member,
            channel: self.channel,
        });
    }

    /// Writes to the agent, in a new thread or in the one of `before`.
    pub(crate) fn says(&self, before: Option<&Said>, text: &str) -> Result<Said> {
        let thread = before.map(|said| said.thread_ts.as_str());
        self.world
            .slack()?
            .mention(&self.member, &self.channel, thread, text)
    }

    /// What the agent has answered in a thread, when there are `count` whole answers.
    pub(crate) fn hears(&self, said: &Said, count: usize) -> Result<Vec<Message>> {
        answers(self.world, said, count)
    }

    /// An answer that has begun and has not ended.
    fn hears_begin(&self, said: &Said) -> Result<Message> {
        let slack = self.world.slack()?;
        let mut replies = eventually(
            "an answer that grows",
            SOON,
            || slack.replies(&said.channel, &said.thread_ts),
            |replies| replies.len() == 1 && replies[0].streaming,
        )?;
        Ok(replies.remove(0))
    }

    /// Lets what is held go on, by a thread of its own.
    fn releases(&self) -> Result<()> {
        let said = self.says(None, "RELEASE")?;
        self.hears(&said, 1)?;
        Ok(())
    }

    fn hears_one(&self, said: &Said) -> Result<String> {
        Ok(self.hears(said, 1)?.remove(0).text)
    }

    /// The execution that a message started, when it has ended.
    pub(crate) fn conversation(&self, said: &Said) -> Result<Execution> {
        let id = format!("slack.{}", said.event_id);
        Ok(self.world.ended_of(CONVERSATION, &id, 1, SOON)?.remove(0))
    }
}

/// The bot's messages in a thread that say something, once there are `count` and none still grows.
pub(crate) fn answers(world: &World, said: &Said, count: usize) -> Result<Vec<Message>> {
    let slack = world.slack()?;
    eventually(
        &format!("{count} answers in the thread"),
        SOON * 2,
        || slack.replies(&said.channel, &said.thread_ts),
        |replies| replies.len() == count && replies.iter().all(|reply| !reply.streaming),
    )
}

fn wakes(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let said = ada.says(None, "SLOW 2 HOLD hello")?;
    let growing = ada.hears_begin(&said)?;
    ada.releases()?;
    let answer = ada.hears(&said, 1)?.remove(0);
    ensure!(
        answer.text == "w0 w1 You said: SLOW 2 HOLD hello",
        "{answer:#?}"
    );
    ensure!(
        answer.text.starts_with(&growing.text) && growing.text != answer.text,
        "{growing:#?}"
    );
    ensure!(answer.edits == 0, "it was rewritten: {answer:#?}");
    let thread = world.slack()?.thread(&said.channel, &said.thread_ts)?;
    ensure!(
        thread
            .statuses
            .iter()
            .any(|status| status.contains("waking")),
        "nobody was told: {:?}",
        thread.statuses
    );
    ensure!(thread.status.is_none(), "{:?} stayed", thread.status);
    let execution = ada.conversation(&said)?;
    ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    ensure!(world.agent_state(&ada.person.key)?.as_deref() == Some("Ready"));
    Ok(())
}

fn remembers(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let first = ada.says(None, "my cat is Tom")?;
    ada.hears(&first, 1)?;
    let second = ada.says(Some(&first), "RECALL")?;
    let answers = ada.hears(&second, 2)?;
    ensure!(answers[1].text.contains("my cat is Tom"), "{answers:#?}");
    let elsewhere = ada.says(None, "RECALL")?;
    let other = ada.hears_one(&elsewhere)?;
    ensure!(!other.contains("Tom"), "another thread heard: {other}");
    Ok(())
}

/// I4: Slack delivers again what it believes was not taken.
fn replayed(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let said = ada.says(None, "hello")?;
    let slack = world.slack()?;
    for _ in 0..2 {
        ensure!(slack.deliver(&said)?.status == 200);
    }
    let id = format!("slack.{}", said.event_id);
    let executions = world.ended_of(CONVERSATION, &id, 3, SOON)?;
    ensure!(
        executions.iter().all(|e| e.status == "SUCCEEDED"),
        "{executions:#?}"
    );
    let answer = ada.hears_one(&said)?;
    ensure!(answer == "You said: hello", "{answer:?}");
    // Days later, when everything has long come to rest.
    ensure!(slack.deliver(&said)?.status == 200);
    world.ended_of(CONVERSATION, &id, 4, SOON)?;
    ada.hears(&said, 1)?;
    Ok(())
}

fn unknown(world: &World) -> Result<()> {
    let slack = world.slack()?;
    let eve = slack.member(
        "Eve",
        &format!("eve-{}@example.com", ulid::Ulid::generate()),
    )?;
    let channel = slack.channel("eve")?;
    let said = slack.mention(&eve, &channel, None, "hello")?;
    for _ in 0..2 {
        ensure!(slack.deliver(&said)?.status == 200);
    }
    let answer = answers(world, &said, 1)?.remove(0);
    ensure!(
        answer.text.contains("https://sign-up.example.com/"),
        "{answer:#?}"
    );
    let id = format!("slack.{}", said.event_id);
    for execution in world.ended_of(CONVERSATION, &id, 3, SOON)? {
        ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
        let states = world.history(&execution.arn)?;
        let entered: Vec<&str> = states.iter().filter_map(|e| e.entered()).collect();
        ensure!(!entered.contains(&"WakeAgent"), "{entered:?}");
    }
    answers(world, &said, 1)?;
    Ok(())
}

/// I6. What is said to each of them is theirs to read; who else there is, is not in it.
fn unvouched(world: &World) -> Result<()> {
    let slack = world.slack()?;
    for (what, change) in [
        ("a guest", json!({ "is_restricted": true })),
        (
            "a single-channel guest",
            json!({ "is_ultra_restricted": true }),
        ),
        ("somebody deactivated", json!({ "deleted": true })),
        ("a bot", json!({ "is_bot": true })),
        (
            "somebody of another workspace",
            json!({ "team_id": "T0OTHER" }),
        ),
        (
            "an address that is not confirmed",
            json!({ "is_email_confirmed": false }),
        ),
    ] {
        let ada = world.person("ada")?;
        let mut profile = json!({ "name": "Ada", "email": ada.email });
        for (key, value) in change.as_object().into_iter().flatten() {
            profile[key] = value.clone();
        }
        let member = slack.member_with(profile)?;
        let channel = slack.channel("ada")?;
        let said = slack.mention(&member, &channel, None, "hello")?;
        let answer = answers(world, &said, 1).context(what)?.remove(0);
        ensure!(
            !answer.text.contains("You said") && !answer.text.contains(&ada.email),
            "{what}: {answer:#?}"
        );
        ensure!(
            // Their sign-in makes a record, and nothing else has come of it.
            world
                .agent_state(&ada.key)?
                .is_none_or(|state| state == "Absent"),
            "{what} has an agent"
        );
        ensure!(
            world.cluster.claim(&ada.key)?.is_none(),
            "{what} has a claim"
        );
    }
    Ok(())
}

/// I1. They come in the reverse of the order they were written in, while the agent is at work.
fn ten(world: &World) -> Result<()> {
    let ada = Talker::known(world)?;
    let slack = world.slack()?;
    let first = ada.says(None, "SLOW 1 HOLD hello")?;
    ada.hears_begin(&first)?;
    let thread = Some(first.thread_ts.as_str());
    let written: Vec<Said> = (0..10)
        .map(|n| slack.say(&ada.member, &ada.channel, thread, &format!("number {n}")))
        .collect::<Result<_>>()?;
    for said in written.iter().rev() {
        let delivery = slack.deliver(said)?;
        ensure!(delivery.status == 200, "{delivery:?}");
    }
    for said in &written {
        let execution = ada.conversation(said)?;
        ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    }
    ada.releases()?;
    let answers = ada.hears(&first, 11)?;
    let texts: Vec<&str> = answers[1..].iter().map(|a| a.text.as_str()).collect();
    let expected: Vec<String> = (0..10).map(|n| format!("You said: number {n}")).collect();
    ensure!(texts == expected, "{texts:#?}");
    ada.stays();
    Ok(())
}

fn two_threads(world: &World) -> Result<()> {
    let ada = Talker::known(world)?;
    let held = ada.says(None, "SLOW 1 HOLD one")?;
    ada.hears_begin(&held)?;
    let still = ada.says(None, "two")?;
    let answer = ada.hears_one(&still)?;
    ensure!(answer == "You said: two", "{answer:?}");
    let growing = ada.hears_begin(&held)?;
    ensure!(!growing.text.contains("You said"), "{growing:#?}");
    ada.releases()?;
    let answer = ada.hears_one(&held)?;
    ensure!(answer == "w0 You said: SLOW 1 HOLD one", "{answer:?}");
    ada.stays();
    Ok(())
}

fn direct(world: &World) -> Result<()> {
    let mut ada = Talker::new(world)?;
    ada.channel = world.slack()?.dm(&ada.member)?;
    let said = ada.says(None, "hello")?;
    let answer = ada.hears_one(&said)?;
    ensure!(answer == "You said: hello", "{answer:?}");
    Ok(())
}

/// Slack has a subtype for a direct message that comes with files.
fn file(world: &World) -> Result<()> {
    let ada = Talker::known(world)?;
    let slack = world.slack()?;
    let mut said = slack.say(&ada.member, &slack.dm(&ada.member)?, None, "")?;
    let mut body: Value = serde_json::from_str(&said.body)?;
    body["event"]["subtype"] = json!("file_share");
    body["event"]["files"] = json!([{ "id": "F0PLAN", "name": "plan.pdf" }]);
    said.body = body.to_string();
    ensure!(slack.deliver(&said)?.status == 200);
    let answer = ada.hears_one(&said)?;
    let expected = "You said: [Attached in Slack, but not here: plan.pdf]";
    ensure!(answer == expected, "{answer:?}");
    ada.stays();
    Ok(())
}

/// I6. One mailbox, written otherwise in Slack than at sign-up.
fn tagged(world: &World) -> Result<()> {
    let mut ada = Talker::new(world)?;
    let (name, domain) = ada.person.email.split_once('@').context("an address")?;
    let email = format!("{}+Slack@{domain}", name.to_uppercase());
    ada.member = world.slack()?.member("Ada L.", &email)?;
    let said = ada.says(None, "hello")?;
    let answer = ada.hears_one(&said)?;
    ensure!(answer == "You said: hello", "{answer:?}");
    let record = ada.conversation(&said)?;
    ensure!(record.status == "SUCCEEDED", "{record:#?}");
    Ok(())
}

/// 40,000 characters are the most that Slack sends; as it writes them, 480 kB on the wire.
fn long(world: &World) -> Result<()> {
    let ada = Talker::known(world)?;
    let text: String = "天地玄黄宇宙洪荒日月盈昃辰宿列张"
        .chars()
        .cycle()
        .take(40_000)
        .collect();
    let said = ada.says(None, &text)?;
    ensure!(said.body.len() > 480_000, "{} bytes", said.body.len());
    let slack = world.slack()?;
    let whole = format!("You said: {text}");
    let joined = |replies: &Vec<Message>| -> String {
        replies.iter().map(|reply| reply.text.as_str()).collect()
    };
    let replies = eventually(
        "all of it comes back",
        SOON * 2,
        || slack.replies(&said.channel, &said.thread_ts),
        |replies| joined(replies).len() >= whole.len() && replies.iter().all(|r| !r.streaming),
    )?;
    ensure!(
        joined(&replies) == whole,
        "{} messages differ",
        replies.len()
    );
    ada.stays();
    Ok(())
}

fn slices(world: &World) -> Result<()> {
    let ada = Talker::known(world)?;
    let said = ada.says(None, "SLOW 70")?;
    let answer = ada.hears(&said, 1)?.remove(0);
    let words: Vec<String> = (0..70).map(|n| format!("w{n}")).collect();
    let words = words.join(" ");
    ensure!(
        answer.text == format!("{words} You said: SLOW 70"),
        "{answer:#?}"
    );
    ensure!(answer.edits == 0, "a seam shows: {answer:#?}");
    let execution = ada.conversation(&said)?;
    let history = world.history(&execution.arn)?;
    let slices = history
        .iter()
        .filter(|event| event.entered() == Some("RunTurns"))
        .count();
    ensure!(slices > 1, "the control: it took {slices} invocations");
    ada.stays();
    Ok(())
}

fn crashes(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let first = ada.says(None, "remember me")?;
    ada.hears(&first, 1)?;
    ada.says(Some(&first), "CRASH")?;
    let answers = ada.hears(&first, 2)?;
    ensure!(
        answers[1].text == words(ErrorName::TurnLost),
        "{answers:#?}"
    );
    ada.says(Some(&first), "RECALL")?;
    let answers = ada.hears(&first, 3)?;
    ensure!(answers[2].text.contains("remember me"), "{answers:#?}");
    Ok(())
}

fn paced(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    world.slack()?.misbehave(&json!({
        "channel": ada.channel, "method": "chat.appendStream", "rate_limited": 2, "retry_after": 1,
    }))?;
    let said = ada.says(None, "SLOW 12")?;
    let answer = ada.hears(&said, 1)?.remove(0);
    ensure!(
        answer.text.ends_with("w11 You said: SLOW 12"),
        "{answer:#?}"
    );
    Ok(())
}

fn slack_fails(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    for method in ["chat.startStream", "chat.appendStream", "chat.stopStream"] {
        world.slack()?.misbehave(&json!({
            "channel": ada.channel, "method": method, "error": "internal_error", "times": 2,
        }))?;
    }
    let said = ada.says(None, "SLOW 6")?;
    let answer = ada.hears(&said, 1)?.remove(0);
    ensure!(
        answer.text == "w0 w1 w2 w3 w4 w5 You said: SLOW 6",
        "{answer:#?}"
    );
    Ok(())
}

/// I1: the end of an execution is an event like others, and another goes on where it stopped.
fn holder_dies(world: &World) -> Result<()> {
    let ada = Talker::known(world)?;
    let first = ada.says(None, "SLOW 1 HOLD one")?;
    ada.hears_begin(&first)?;
    for text in ["two", "three"] {
        let said = ada.says(Some(&first), text)?;
        ensure!(ada.conversation(&said)?.status == "SUCCEEDED");
    }
    let id = format!("slack.{}", first.event_id);
    let holder = world.executions_of(CONVERSATION, &id)?.remove(0);
    world.stop_execution(&holder.arn)?;
    ada.releases()?;
    let answers = ada.hears(&first, 3)?;
    let texts: Vec<&str> = answers.iter().map(|a| a.text.as_str()).collect();
    ensure!(
        texts[0] == "w0 You said: SLOW 1 HOLD one"
            && texts[1..] == ["You said: two", "You said: three"],
        "{texts:#?}"
    );
    ensure!(world.execution(&holder.arn)?.status == "ABORTED");
    ada.stays();
    Ok(())
}

/// I1, I7: the user reads it, the message is kept, and the conversation is free again.
fn cannot_wake(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let wall = world.forbid_claim(&ada.person.key)?;
    let said = ada.says(None, "hello")?;
    let answer = ada.hears_one(&said)?;
    ensure!(answer.contains("could not be started"), "{answer}");
    ada.conversation(&said)?;
    let dlq = world.control_plane("ConversationDlqUrl")?;
    let id = format!("slack.{}", said.event_id);
    let kept = eventually(
        "the message is on the DLQ",
        SOON,
        || world.queued(dlq, &id),
        |kept| kept.len() == 1,
    )?;
    wall.fall()?;

    let again = ada.says(Some(&said), "and now?")?;
    let answers = ada.hears(&again, 2)?;
    ensure!(answers[1].text == "You said: and now?", "{answers:#?}");
    // Put back on the bus, as an operator does, it is answered after all.
    let event: Value = serde_json::from_str(&kept[0])?;
    world.put_event(
        event["source"].as_str().unwrap_or_default(),
        event["detail-type"].as_str().unwrap_or_default(),
        &event["detail"].to_string(),
    )?;
    let answers = ada.hears(&again, 3)?;
    ensure!(answers[2].text == "You said: hello", "{answers:#?}");
    Ok(())
}

fn sandbox_gone(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let first = ada.says(None, "hello")?;
    ada.hears(&first, 1)?;
    let claim = format!("agent-{}", ada.person.key);
    world
        .cluster
        .kubectl(&["-n", AGENTS, "delete", "sandboxclaim", &claim])?;
    ada.says(Some(&first), "are you there?")?;
    let answers = ada.hears(&first, 2)?;
    ensure!(
        answers[1].text == "You said: are you there?",
        "{answers:#?}"
    );
    Ok(())
}

fn model_refuses(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    for (says, name) in [
        ("MODEL 401", ErrorName::ModelKeyRejected),
        ("MODEL 429", ErrorName::ModelRateLimited),
        ("MODEL BUDGET", ErrorName::ModelBudgetExceeded),
        ("MODEL 500", ErrorName::ModelUnavailable),
    ] {
        let said = ada.says(None, says)?;
        let answer = ada.hears_one(&said).context(says)?;
        ensure!(answer == words(name), "{says}: {answer}");
    }
    let said = ada.says(None, "hello")?;
    let answer = ada.hears_one(&said)?;
    ensure!(answer == "You said: hello", "{answer:?}");
    Ok(())
}

/// Those that take away what all share.
pub(crate) const ALONE: &[Scenario] = &[
    (
        "a_message_wakes_the_agent_from_an_empty_pool",
        wakes_from_an_empty_pool,
    ),
    (
        "a_model_gateway_that_is_down_is_said_so_and_comes_back",
        gateway_down,
    ),
];

/// I1, I4: a sandbox has to be booted first, and the message waits for it, however often it comes.
fn wakes_from_an_empty_pool(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let pool = world.drained()?;
    let said = ada.says(None, "hello")?;
    let slack = world.slack()?;
    for _ in 0..2 {
        ensure!(slack.deliver(&said)?.status == 200);
    }
    let answer = ada.hears_one(&said)?;
    ensure!(answer == "You said: hello", "{answer:?}");
    let id = format!("slack.{}", said.event_id);
    let executions = world.ended_of(CONVERSATION, &id, 3, SOON)?;
    ensure!(
        executions.iter().all(|e| e.status == "SUCCEEDED"),
        "{executions:#?}"
    );
    ada.hears(&said, 1)?;
    let statuses = slack.thread(&said.channel, &said.thread_ts)?.statuses;
    ensure!(
        statuses.iter().any(|status| status.contains("waking")),
        "nobody was told: {statuses:?}"
    );
    // A cold sandbox carries its claim's name.
    let (sandbox, _) = world.cluster.sandbox_of(&ada.person.key)?;
    ensure!(sandbox == format!("agent-{}", ada.person.key), "{sandbox}");
    pool.fill()
}

const GATEWAY: &str = "model-gateway";

fn gateway_down(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    // An agent that has not called the model yet: a connection that stands would outlive the way.
    ada.person
        .gets_an_agent(&SandboxRequest::new(&ada.person.key))?;
    gateway_answers(world, false)?;
    let down = unanswered_for_a_minute(&ada);
    gateway_answers(world, true)?;
    let said = down?;
    ada.says(Some(&said), "and now?")?;
    let answers = ada.hears(&said, 2)?;
    ensure!(answers[1].text == "You said: and now?", "{answers:#?}");
    Ok(())
}

/// Writes again and again for a minute, each time in a thread of its own, and is told each time.
fn unanswered_for_a_minute(ada: &Talker<'_>) -> Result<Said> {
    let began = Instant::now();
    loop {
        let said = ada.says(None, "anybody there?")?;
        let answer = ada.hears_one(&said)?;
        ensure!(answer == words(ErrorName::ModelUnavailable), "{answer}");
        if began.elapsed() > Duration::from_secs(60) {
            return Ok(said);
        }
    }
}

/// Whether the gateway's address leads to it.
fn gateway_answers(world: &World, yes: bool) -> Result<()> {
    let name = if yes { "litellm" } else { "nobody" };
    let selector = json!([{ "op": "replace", "path": "/spec/selector", "value": {
        "app.kubernetes.io/name": name,
    } }]);
    world.cluster.kubectl(&[
        "-n",
        GATEWAY,
        "patch",
        "service",
        "litellm",
        "--type=json",
        "-p",
        &selector.to_string(),
    ])?;
    eventually(
        "the gateway's endpoints",
        SOON,
        || world.cluster.list("endpointslices", GATEWAY),
        |slices| {
            let ready = slices.iter().any(|slice| {
                let endpoints = slice["endpoints"].as_array();
                endpoints.is_some_and(|endpoints| !endpoints.is_empty())
            });
            ready == yes
        },
    )?;
    Ok(())
}

//! Somebody writes to their agent in Slack, and it answers from inside its sandbox.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use carapace_e2e::Platform;
use carapace_e2e::execution::CONVERSATION;
use carapace_e2e::slack::{Said, Slack};

use super::{AGENTS_POOL, SOON, draw, warm_sandbox};
use crate::ui::{Ui, human};

/// A reply of the real OpenClaw on two busy cores.
const ANSWERED_WITHIN: Duration = Duration::from_secs(180);

/// Shows a stranger, a first message, a second one, and a webhook that comes three times; returns
/// the drawing of the first message's execution.
pub(crate) fn run(ui: Ui, platform: &Platform) -> Result<String> {
    let slack = platform.slack()?;
    if let Some(page) = &platform.info.slack_url {
        ui.note(&format!(
            "the workspace is a stand-in; its threads grow at {page}"
        ));
    }
    stranger(ui, platform, &slack)?;

    let user = platform.new_user("grace")?;
    let member = slack.member("Grace", &user.email)?;
    let channel = slack.channel("general")?;
    ui.holds("Grace has signed up; she has no sandbox yet");
    // What is to be seen is a claim on a warm pool, as it mostly is.
    warm_sandbox(ui, platform, AGENTS_POOL)?;
    // And on a node with room for it: here the sandbox that fills the pool up again would take both
    // processors from the first answer. It has to wait until the answers are there.
    let nodes = ["--selector", "katacontainers.io/kata-runtime=true"];
    platform.cluster.kubectl(&["cordon", nodes[0], nodes[1]])?;

    let said = slack.say(&member, &channel, None, "My cat is called Tom. SLOW 4")?;
    let began = Instant::now();
    let delivery = slack.deliver(&said)?;
    ensure!(
        delivery.status == 200,
        "the webhook was refused: {delivery:?}"
    );
    ui.holds(&format!(
        "the signed webhook is acknowledged after {}, once its event is on the bus",
        human(delivery.took)
    ));
    println!();
    println!("    Grace: {}", said.text);
    let first_words = watch(&slack, &said, 1, began)?;
    let again = slack.mention(&member, &channel, Some(&said.thread_ts), "RECALL")?;
    println!("    Grace: {}", again.text);
    watch(&slack, &again, 2, Instant::now())?;
    println!();
    platform
        .cluster
        .kubectl(&["uncordon", nodes[0], nodes[1]])?;

    let id = format!("slack.{}", said.event_id);
    let execution = platform.ended_of(CONVERSATION, &id, 1, SOON)?.remove(0);
    ensure!(
        execution.status == "SUCCEEDED",
        "conversation ended as {execution:#?}"
    );
    let answers = slack.replies(&channel, &said.thread_ts)?;
    ensure!(
        answers[1].text.contains("My cat is called Tom"),
        "the agent forgot: {answers:#?}"
    );
    ui.holds("the second message went on with the same session: the agent remembers");
    for _ in 0..2 {
        ensure!(slack.deliver(&said)?.status == 200);
    }
    platform.ended_of(CONVERSATION, &id, 3, SOON)?;
    let answers = slack.replies(&channel, &said.thread_ts)?.len();
    ensure!(answers == 2, "answered {answers} times");
    ui.holds("the first webhook, delivered three times, is answered once");
    ui.row(
        "From the webhook to the first words, the agent asleep",
        human(first_words),
    );
    draw(ui, "conversation", &platform.history(&execution.arn)?)
}

/// I6: who has no account has no sandbox.
fn stranger(ui: Ui, platform: &Platform, slack: &Slack<'_>) -> Result<()> {
    let email = format!("mallory-{}@example.com", ulid::Ulid::generate());
    let mallory = slack.member("Mallory", &email)?;
    let channel = slack.channel("random")?;
    let said = slack.mention(&mallory, &channel, None, "hello")?;
    let id = format!("slack.{}", said.event_id);
    let execution = platform.ended_of(CONVERSATION, &id, 1, SOON)?.remove(0);
    let history = platform.history(&execution.arn)?;
    let states: Vec<&str> = history.iter().filter_map(|e| e.entered()).collect();
    ensure!(
        !states.contains(&"WakeAgent"),
        "a sandbox was asked for: {states:?}"
    );
    let replies = slack.replies(&channel, &said.thread_ts)?;
    let reply = replies.first().context("nobody told them")?;
    ui.holds(&format!(
        "Mallory never signed up: {}; the reply: {:?}",
        states.join(" → "),
        reply.text
    ));
    Ok(())
}

/// Prints a thread's newest reply as it grows, until it is whole; returns when its first words came.
fn watch(slack: &Slack<'_>, said: &Said, answers: usize, began: Instant) -> Result<Duration> {
    let mut shown = String::new();
    let mut told = None;
    let mut first_words = None;
    loop {
        let status = slack.thread(&said.channel, &said.thread_ts)?.status;
        if status != told && shown.is_empty() {
            if let Some(status) = &status {
                println!("    … the agent {status}");
            }
            told = status;
        }
        let replies = slack.replies(&said.channel, &said.thread_ts)?;
        if let Some(reply) = replies.get(answers - 1) {
            first_words.get_or_insert_with(|| began.elapsed());
            match reply.text.strip_prefix(&shown) {
                Some(more) if shown.is_empty() => print!("    Agent: {more}"),
                Some(more) => print!("{more}"),
                None => print!("\n    Agent: {}", reply.text),
            }
            std::io::stdout().flush()?;
            shown.clone_from(&reply.text);
            if !reply.streaming {
                println!();
                return first_words.context("no words");
            }
        }
        if began.elapsed() > ANSWERED_WITHIN {
            bail!("no whole answer within {ANSWERED_WITHIN:?}: {replies:#?}");
        }
        // About as often as a person's eye would.
        thread::sleep(Duration::from_millis(100));
    }
}

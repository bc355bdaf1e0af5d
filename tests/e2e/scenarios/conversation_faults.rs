//! A function of `conversation` dies at every point where it has just done something or is about
//! to: the message is answered once all the same, and those behind it in order (I1, I4).

use anyhow::{Result, ensure};
use carapace_e2e::{eventually, execution::CONVERSATION};
use libtest_mimic::Trial;

use crate::{
    conversation::{Talker, answers},
    death::{SIDES, arm, trial},
    world::{SOON, World},
};

const PROMISE: &str = "answers_once_all_the_same";

/// One scenario per point and side of it.
pub(crate) fn all(world: Option<&World>) -> Vec<Trial> {
    let conversing = [
        carapace_conversation::fault::CONVERSATION_ACCEPT,
        carapace_conversation::fault::CONVERSATION_TURN,
    ];
    let conversing = conversing.into_iter().flatten().copied();
    let mut trials = Vec::new();
    for side in SIDES {
        for point in conversing.clone() {
            trials.push(trial(world, (point, side), PROMISE, answered));
        }
        for point in carapace_slack::fault::SLACK_REPLY {
            trials.push(trial(world, (point, side), PROMISE, told));
        }
    }
    trials
}

fn answered(world: &World, fault: &str) -> Result<()> {
    // Before a message is accepted, no agent is woken: where that dies, there is one to wake.
    let ada = if fault.starts_with("accept.") {
        Talker::new(world)?
    } else {
        Talker::known(world)?
    };
    let armed = arm(world, &ada.member.id, fault)?;
    let first = ada.says(None, "SLOW 8 one")?;
    // A reply waits three seconds for the message that begins its thread. Where the acceptance of that
    // one dies, its next try may take longer, and whichever comes first would be answered first.
    if fault.starts_with("accept.") {
        eventually(
            "the first message is in the inbox",
            SOON,
            || world.item(&format!("ONCE#slack.{}", first.event_id), "MESSAGE"),
            Option::is_some,
        )?;
    }
    let second = ada.says(Some(&first), "two")?;
    let heard = ada.hears(&first, 2)?;
    let texts: Vec<&str> = heard.iter().map(|message| message.text.as_str()).collect();
    ensure!(
        texts
            == [
                "w0 w1 w2 w3 w4 w5 w6 w7 You said: SLOW 8 one",
                "You said: two"
            ],
        "{texts:#?}"
    );
    for said in [&first, &second] {
        let execution = ada.conversation(said)?;
        ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    }
    ensure!(!armed.exists(), "no function came by {fault}");
    ada.hears(&first, 2)?;
    ada.stays();
    Ok(())
}

fn told(world: &World, fault: &str) -> Result<()> {
    let slack = world.slack()?;
    let eve = slack.member(
        "Eve",
        &format!("eve-{}@example.com", ulid::Ulid::generate()),
    )?;
    let armed = arm(world, &eve.id, fault)?;
    let channel = slack.channel("eve")?;
    let said = slack.mention(&eve, &channel, None, "hello")?;
    let id = format!("slack.{}", said.event_id);
    let execution = world.ended_of(CONVERSATION, &id, 1, SOON)?.remove(0);
    ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    ensure!(!armed.exists(), "no function came by {fault}");
    let heard = answers(world, &said, 1)?.remove(0);
    ensure!(
        heard.text.contains("https://sign-up.example.com/"),
        "{heard:#?}"
    );
    Ok(())
}

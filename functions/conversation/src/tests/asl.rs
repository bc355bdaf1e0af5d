//! The state machine's file and the functions' errors are one interface written in two places.

use std::collections::BTreeSet;

use carapace_control_plane::lambda::Named;

use super::machine::machine;
use crate::{accept::AcceptError, turn::TurnError};

/// What the function of ours that a state invokes can raise.
fn raised(state: &str) -> Option<&'static [&'static str]> {
    Some(match state {
        "AcceptMessage" => AcceptError::NAMES,
        "RunTurns" | "AbandonMessage" => TurnError::NAMES,
        _ => return None,
    })
}

#[test]
fn every_error_is_handled_where_it_can_be_raised_and_no_other_is() {
    let machine = machine();
    let mut invoked = 0;
    for (name, _) in machine.tasks() {
        if let Some(raised) = raised(name) {
            invoked += 1;
            machine.assert_handles(name, raised);
        }
    }
    assert_eq!(invoked, 3);
}

/// Crashes, throttling and transport: a function that dies anywhere is called again.
#[test]
fn every_invocation_is_retried_when_lambda_fails_it() {
    let machine = machine();
    for (name, _) in machine.tasks() {
        if raised(name).is_some() {
            machine.assert_retries_lambda(name);
        }
    }
}

/// What ends an execution without the inbox having been served must be nobody's business any more.
#[test]
fn losing_the_conversation_to_another_is_no_failure() {
    let machine = machine();
    for name in ["RunTurns", "AbandonMessage"] {
        let mut catchers = machine.states[name].catch.iter();
        let lost = catchers.find(|c| c.error_equals.iter().any(|error| error == "LeaseLost"));
        let next = &machine.states[&lost.unwrap().next];
        assert_eq!(next.r#type, "Succeed", "{name}");
    }
}

#[test]
fn every_state_leads_somewhere_and_says_why_it_exists() {
    machine().assert_leads_somewhere();
}

#[test]
fn the_names_that_cdk_fills_in() {
    let expected = [
        "ConversationAcceptArn",
        "ConversationDlqUrl",
        "ConversationTurnArn",
        "SandboxCreateArn",
        "SlackReplyArn",
    ];
    assert_eq!(
        machine().placeholders,
        BTreeSet::from(expected.map(str::to_owned))
    );
}

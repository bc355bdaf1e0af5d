//! The state machine's file and the functions' errors are one interface written in two places.

use std::collections::BTreeSet;

use carapace_control_plane::lambda::Named;

use super::machine::{DEFINITION, State, machine};
use crate::{accept::AcceptError, turn::TurnError, wire::INPUT_REJECTED};

/// What the function of ours that a state invokes can raise.
fn raised(state: &str) -> Option<&'static [&'static str]> {
    Some(match state {
        "AcceptMessage" => AcceptError::NAMES,
        "RunTurns" | "AbandonMessage" => TurnError::NAMES,
        _ => return None,
    })
}

/// The errors of AWS that every invocation may meet, and `States.ALL`, are not ours.
fn handled(state: &State) -> BTreeSet<&str> {
    let retried = state.retry.iter().flat_map(|retrier| &retrier.error_equals);
    let caught = state.catch.iter().flat_map(|catcher| &catcher.error_equals);
    let names = retried.chain(caught).map(String::as_str);
    names.filter(|name| !name.contains('.')).collect()
}

#[test]
fn every_error_is_handled_where_it_can_be_raised_and_no_other_is() {
    let machine = machine();
    let mut invoked = 0;
    for (name, state) in &machine.states {
        let Some(raised) = raised(name) else {
            continue;
        };
        invoked += 1;
        let raised: BTreeSet<&str> = raised.iter().copied().chain([INPUT_REJECTED]).collect();
        assert_eq!(handled(state), raised, "{name}");
    }
    assert_eq!(invoked, 3);
}

/// Crashes, throttling and transport: a function that dies anywhere is called again.
#[test]
fn every_invocation_is_retried_when_lambda_fails_it() {
    for (name, state) in &machine().states {
        if raised(name).is_none() {
            continue;
        }
        let retried: Vec<&String> = state.retry.iter().flat_map(|r| &r.error_equals).collect();
        for error in [
            "Lambda.ServiceException",
            "Lambda.AWSLambdaException",
            "Lambda.SdkClientException",
            "Lambda.ClientExecutionTimeoutException",
            "Lambda.TooManyRequestsException",
            "Lambda.Unknown",
            "Runtime.ExitError",
            "Sandbox.Timedout",
            "States.Timeout",
        ] {
            assert!(retried.iter().any(|name| *name == error), "{name} {error}");
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
    let machine = machine();
    assert!(!machine.comment.is_empty());
    for (name, state) in &machine.states {
        assert!(!state.comment.is_empty(), "{name}");
        if state.r#type == "Task" {
            assert!(state.timeout_seconds.is_some(), "{name}");
        }
        let ends = state.end || matches!(state.r#type.as_str(), "Fail" | "Succeed" | "Choice");
        assert_eq!(ends, state.next.is_none(), "{name}");
        let caught = state.catch.iter().map(|catcher| &catcher.next);
        let chosen = state.choices.iter().map(|choice| &choice.next);
        for next in caught
            .chain(chosen)
            .chain(&state.next)
            .chain(&state.default)
        {
            assert!(machine.states.contains_key(next), "{name} leads to {next}");
        }
    }
}

#[test]
fn the_names_that_cdk_fills_in() {
    let names: BTreeSet<&str> = DEFINITION
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
        .collect();
    let expected = [
        "ConversationAcceptArn",
        "ConversationDlqUrl",
        "ConversationTurnArn",
        "SandboxCreateArn",
        "SlackReplyArn",
    ];
    assert_eq!(names, BTreeSet::from(expected));
}

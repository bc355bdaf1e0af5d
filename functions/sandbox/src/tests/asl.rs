//! The state machine's file and the functions' errors are one interface written in two places.

use std::collections::BTreeSet;

use carapace_control_plane::lambda::Named;
use carapace_test_support::{Retrier, State};

use super::{machine::machine, users};
use crate::{
    announce::{
        AnnounceFailedError, AnnounceReadyError, AnnounceRecordedError, AnnounceRetiredError,
    },
    bind::BindError,
    claim::{ClaimError, PATIENCE},
    release::ReleaseError,
    retire::{self, RetireError},
};

/// What the function that a state invokes can raise.
fn raised(state: &str) -> Option<&'static [&'static str]> {
    Some(match state {
        "ClaimSandbox" => ClaimError::NAMES,
        "ReleaseClaim" => ReleaseError::NAMES,
        "BindSandbox" => BindError::NAMES,
        "AnnounceReady" => AnnounceReadyError::NAMES,
        "AnnounceFailed" => AnnounceFailedError::NAMES,
        "AnnounceRecorded" => AnnounceRecordedError::NAMES,
        _ => return None,
    })
}

#[test]
fn every_error_is_handled_where_it_can_be_raised_and_no_other_is() {
    let machine = machine();
    for (name, _) in machine.tasks() {
        match raised(name) {
            Some(raised) => machine.assert_handles(name, raised),
            None => assert_eq!(
                name, "DeadLetterEvent",
                "a task whose errors nobody has listed"
            ),
        }
    }
}

#[test]
fn every_error_of_a_retirement_is_handled_where_it_can_be_raised() {
    let machine = users::offboard();
    machine.assert_handles("RetireSandbox", RetireError::NAMES);
    machine.assert_handles("AnnounceRetired", AnnounceRetiredError::NAMES);
}

/// A pod that is asked to stop has half a minute for it, and its node may be slow.
#[test]
fn a_claim_that_is_being_deleted_is_waited_for() {
    let machine = users::offboard();
    let state = &machine.states["RetireSandbox"];
    let waiting = state
        .retry
        .iter()
        .find(|r| r.error_equals == ["ClaimStillThere"])
        .unwrap();
    let each = retire::PATIENCE.as_secs() + waiting.interval_seconds;
    assert!(u64::from(waiting.max_attempts) * each > 300);
    assert!(state.timeout_seconds.unwrap() >= 2 * retire::PATIENCE.as_secs());
}

/// Crashes, throttling and transport: a function that dies anywhere is called again.
#[test]
fn every_invocation_is_retried_when_lambda_fails_it() {
    let machine = machine();
    for (name, _) in machine.tasks() {
        machine.assert_retries_lambda(name);
    }
}

/// Its concurrency is reserved, so a burst of requests is throttled: for minutes, not seconds, and
/// for whatever it is called to do.
#[test]
fn being_one_too_many_at_the_function_that_makes_claims_is_waited_out() {
    let machine = machine();
    let callers: Vec<_> = machine
        .tasks()
        .filter(|(_, state)| state.arguments["FunctionName"] == "${SandboxClaimArn}")
        .collect();
    let names: Vec<&str> = callers.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["ClaimSandbox", "ReleaseClaim"]);
    for (name, state) in callers {
        let throttled = |r: &&Retrier| {
            let names = &r.error_equals;
            names.iter().any(|e| e == "Lambda.TooManyRequestsException")
        };
        let [only] = state.retry.iter().filter(throttled).collect::<Vec<_>>()[..] else {
            panic!("{name}: {:?}", state.retry);
        };
        let alone = ["Lambda.TooManyRequestsException"];
        assert_eq!(only.error_equals, alone, "{name}");
        let pauses = (only.interval_seconds, only.backoff_rate, only.max_attempts);
        assert_eq!(pauses, (5, 1, 120), "{name}");
    }
}

#[test]
fn nothing_leaves_a_state_uncaught_but_the_last_resort() {
    let machine = machine();
    for (name, state) in machine.tasks() {
        let last = state
            .catch
            .last()
            .map(|catcher| catcher.error_equals.as_slice());
        let all = last == Some(&["States.ALL".to_owned()]);
        assert!(all || name == "DeadLetterEvent", "{name}");
    }
}

#[test]
fn every_state_leads_somewhere_and_says_why_it_exists() {
    machine().assert_leads_somewhere();
}

/// The longest a state can take: every try to its timeout, every pause between them.
fn longest(state: &State) -> u64 {
    let task = state.timeout_seconds.expect("a task has a timeout");
    let retries: u64 = state
        .retry
        .iter()
        .map(|retrier| {
            // A function that is not ready yet has its own deadline; it is counted apart.
            if retrier.error_equals == ["NotReadyYet"] {
                return 0;
            }
            let pauses: u64 = (0..retrier.max_attempts)
                .map(|n| retrier.interval_seconds * retrier.backoff_rate.pow(n))
                .sum();
            // A call that Lambda refuses to take never began, so it costs its pause alone.
            let refused = retrier.error_equals == ["Lambda.TooManyRequestsException"];
            let attempts = if refused { 0 } else { retrier.max_attempts };
            pauses + u64::from(attempts) * task
        })
        .sum();
    task + retries
}

/// A machine that runs into its own timeout ends in silence.
#[test]
fn the_machine_outlasts_all_its_states() {
    let machine = machine();
    let all: u64 = machine.tasks().map(|(_, state)| longest(state)).sum();
    let waiting = 900;
    assert!(
        machine.timeout_seconds > all + waiting,
        "{all} s and {waiting} s of waiting"
    );
}

#[test]
fn waiting_outlasts_the_longest_deadline_and_a_task_its_functions_patience() {
    let machine = machine();
    let claim = &machine.states["ClaimSandbox"];
    let waiting = claim
        .retry
        .iter()
        .find(|r| r.error_equals == ["NotReadyYet"])
        .unwrap();
    let each = PATIENCE.as_secs() + waiting.interval_seconds;
    assert!(u64::from(waiting.max_attempts) * each > 900);
    assert!(claim.timeout_seconds.unwrap() >= 2 * PATIENCE.as_secs());
}

#[test]
fn the_names_that_cdk_fills_in() {
    let expected = [
        "SandboxAnnounceArn",
        "SandboxBindArn",
        "SandboxClaimArn",
        "SandboxCreateDlqUrl",
    ];
    assert_eq!(
        machine().placeholders,
        BTreeSet::from(expected.map(str::to_owned))
    );
}

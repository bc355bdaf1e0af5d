//! The state machines' files and the functions' errors are one interface written in two places.

use carapace_control_plane::lambda::Named;
use carapace_test_support::Machine;

use crate::{
    offboard::{OffboardError, PATIENCE, PurgeError},
    onboard::OnboardError,
};

fn onboard() -> Machine {
    Machine::parse(include_str!("../../../statemachines/user-onboard.asl.json"))
}

fn offboard() -> Machine {
    Machine::parse(include_str!(
        "../../../statemachines/user-offboard.asl.json"
    ))
}

#[test]
fn every_error_is_handled_where_it_can_be_raised_and_no_other_is() {
    onboard().assert_handles("OnboardUser", OnboardError::NAMES);
    offboard().assert_handles("RetireAgent", OffboardError::NAMES);
    offboard().assert_handles("PurgeData", PurgeError::NAMES);
}

#[test]
fn every_invocation_is_retried_when_lambda_fails_it_and_every_state_leads_somewhere() {
    for machine in [onboard(), offboard()] {
        machine.assert_leads_somewhere();
        for (name, _) in machine.tasks() {
            machine.assert_retries_lambda(name);
        }
    }
}

/// Somebody who comes back while a removal is at work is a user when it has ended.
#[test]
fn a_sign_in_waits_longer_for_a_removal_than_one_that_does_not_fail_takes() {
    let machine = onboard();
    let retry = &machine.states["OnboardUser"].retry;
    let waits = retry.iter().find(|r| r.error_equals == ["StillRetiring"]);
    let waits = waits.unwrap();
    assert_eq!(waits.backoff_rate, 1);
    assert!(waits.interval_seconds * u64::from(waits.max_attempts) >= 600);
}

#[test]
fn a_task_outlasts_its_functions_patience() {
    let machine = offboard();
    let purge = machine.states["PurgeData"].timeout_seconds.unwrap();
    assert!(purge >= 2 * PATIENCE.as_secs());
}

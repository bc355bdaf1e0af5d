//! The stand-in for Slack against Slack's own SDK: which arguments there are, which a call must have,
//! and in what form they are sent. Run with `SLACK_ARGUMENTS` naming the file that
//! `slack/arguments.py` wrote.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::sync::OnceLock;

use carapace_stand_ins::slack::{METHODS, Method};
use serde_json::Value;

const VERSION: &str = "3.48.0";

fn contract() -> &'static Value {
    static CONTRACT: OnceLock<Value> = OnceLock::new();
    CONTRACT.get_or_init(|| {
        let Ok(path) = std::env::var("SLACK_ARGUMENTS") else {
            panic!(
                "SLACK_ARGUMENTS must name the file written by tests/stand-ins/slack/arguments.py in \
                 an environment with tests/stand-ins/slack/requirements.txt"
            );
        };
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let contract: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(contract["version"], VERSION, "{path} is of another version");
        contract
    })
}

/// What the SDK says of a method.
fn sdk(method: &Method) -> &'static Value {
    let described = &contract()["methods"][method.name];
    assert!(described.is_object(), "the SDK has no {}", method.name);
    described
}

fn names<'a>(method: &'a Method, which: &str) -> BTreeSet<&'a str> {
    let list = sdk(method)[which].as_array().unwrap();
    list.iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn every_argument_is_taken_or_refused_for_a_reason_and_no_other_is_known() {
    for method in &METHODS {
        let taken = method.arguments.iter().map(|argument| argument.name);
        let refused = method.refused.iter().map(|(name, why)| {
            assert!(!why.is_empty(), "{}: {name}", method.name);
            *name
        });
        let known: Vec<&str> = taken.chain(refused).collect();
        let distinct: BTreeSet<&str> = known.iter().copied().collect();
        assert_eq!(known.len(), distinct.len(), "{}: one twice", method.name);
        let (required, optional) = (names(method, "required"), names(method, "optional"));
        let slacks: BTreeSet<&str> = required.union(&optional).copied().collect();
        assert_eq!(distinct, slacks, "{}", method.name);
    }
}

#[test]
fn the_same_arguments_are_required() {
    for method in &METHODS {
        let required = method.arguments.iter().filter(|a| a.required);
        let required: BTreeSet<&str> = required.map(|argument| argument.name).collect();
        assert_eq!(required, names(method, "required"), "{}", method.name);
    }
}

#[test]
fn json_is_read_where_slacks_own_client_sends_it_and_not_where_it_only_asks() {
    for method in &METHODS {
        let described = sdk(method);
        if described["form"] == "json" {
            assert!(method.takes_json, "{}", method.name);
        }
        if described["verb"] == "GET" {
            assert!(!method.takes_json, "{}", method.name);
        }
    }
    let kinds: BTreeSet<bool> = METHODS.iter().map(|method| method.takes_json).collect();
    assert_eq!(kinds.len(), 2, "the control: there are both");
}

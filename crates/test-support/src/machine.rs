//! A state machine's file, and what it owes the functions that it calls.

use std::collections::{BTreeMap, BTreeSet};

use carapace_control_plane::lambda::INPUT_REJECTED;
use serde::Deserialize;
use serde_json::Value;

/// What AWS can raise wherever a function is invoked: crashes, throttling and transport.
const LAMBDA_FAILURES: [&str; 9] = [
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Sandbox.Timedout",
    "States.Timeout",
];

/// A state machine as its file has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Machine {
    /// Why the machine exists.
    pub comment: String,
    /// The name of the first state.
    pub start_at: String,
    /// After how many seconds an execution is ended.
    pub timeout_seconds: u64,
    /// The states by their names.
    pub states: BTreeMap<String, State>,
    /// The names that CDK fills in: what stands between `${` and `}`.
    #[serde(skip)]
    pub placeholders: BTreeSet<String>,
}

/// A state as the file has it; what is not said there is empty or `None`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    /// `Task`, `Choice`, `Wait`, `Succeed` or `Fail`.
    pub r#type: String,
    /// Why the state exists.
    pub comment: String,
    /// The ARN of the service integration that a task uses.
    #[serde(default)]
    pub resource: String,
    /// What a task gives to the service integration.
    #[serde(default)]
    pub arguments: Value,
    /// After how many seconds a try of a task is ended.
    pub timeout_seconds: Option<u64>,
    /// For how many seconds a `Wait` waits: a number, or a name that the deployment fills.
    pub seconds: Option<Value>,
    /// Errors after which a task is tried again; of the first that matches an error.
    #[serde(default)]
    pub retry: Vec<Retrier>,
    /// Errors after which the execution goes on elsewhere; to the first that matches an error.
    #[serde(default)]
    pub catch: Vec<Catcher>,
    /// Where the execution goes on.
    pub next: Option<String>,
    /// Whether the execution ends here.
    #[serde(default)]
    pub end: bool,
    /// The rules of a choice.
    #[serde(default)]
    pub choices: Vec<Choice>,
    /// Where a choice leads if no rule applies.
    pub default: Option<String>,
    /// The variables that are assigned when the state ends well, or a choice takes its default.
    #[serde(default)]
    pub assign: Value,
    /// The error of a `Fail`.
    pub error: Option<String>,
}

/// Errors after which a task is tried again.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Retrier {
    /// The errors' names.
    pub error_equals: Vec<String>,
    /// The pause before the first further try.
    #[serde(default = "interval_seconds")]
    pub interval_seconds: u64,
    /// By what the pause is multiplied from one try to the next. The language allows fractions, which
    /// no machine here has.
    #[serde(default = "backoff_rate")]
    pub backoff_rate: u64,
    /// The longest pause.
    pub max_delay_seconds: Option<u64>,
    /// How many further tries.
    #[serde(default = "max_attempts")]
    pub max_attempts: u32,
}

/// The language's defaults.
fn interval_seconds() -> u64 {
    1
}

fn backoff_rate() -> u64 {
    2
}

fn max_attempts() -> u32 {
    3
}

/// Errors after which the execution goes on elsewhere.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Catcher {
    /// The errors' names.
    pub error_equals: Vec<String>,
    /// Where it goes on.
    pub next: String,
    /// The variables that are assigned.
    #[serde(default)]
    pub assign: Value,
}

/// A rule of a choice.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Choice {
    /// The rule in words, by which it is known to tests.
    pub comment: String,
    /// Where it leads.
    pub next: String,
    /// The variables that are assigned.
    #[serde(default)]
    pub assign: Value,
}

impl Machine {
    /// The machine in a file's text.
    pub fn parse(definition: &str) -> Self {
        let machine: Self = serde_json::from_str(definition).unwrap();
        let names = definition.split("${").skip(1);
        let names = names.filter_map(|rest| rest.split_once('}'));
        Self {
            placeholders: names.map(|(name, _)| name.to_owned()).collect(),
            ..machine
        }
    }

    /// The states that call a service, with their names.
    pub fn tasks(&self) -> impl Iterator<Item = (&str, &State)> {
        let states = self.states.iter().map(|(name, state)| (&**name, state));
        states.filter(|(_, state)| state.r#type == "Task")
    }

    /// A state retries or catches by name what its function raises, which are these errors and that
    /// of a payload that it does not take, and no other error of ours.
    pub fn assert_handles(&self, state: &str, raised: &[&str]) {
        let handled = &self.states[state];
        let retried = handled.retry.iter().flat_map(|r| &r.error_equals);
        let caught = handled.catch.iter().flat_map(|c| &c.error_equals);
        let handled = retried.chain(caught).map(String::as_str);
        // The errors of AWS, which every invocation may meet, have a dot in their names.
        let handled: BTreeSet<&str> = handled.filter(|name| !name.contains('.')).collect();
        let raised: BTreeSet<&str> = raised.iter().copied().chain([INPUT_REJECTED]).collect();
        assert_eq!(handled, raised, "{state}");
    }

    /// A function that dies in this state, or that Lambda does not get to run, is called again.
    pub fn assert_retries_lambda(&self, state: &str) {
        let retry = &self.states[state].retry;
        let retried: BTreeSet<&str> = retry
            .iter()
            .flat_map(|r| r.error_equals.iter().map(String::as_str))
            .collect();
        for error in LAMBDA_FAILURES {
            let again = retried.contains("States.ALL") || retried.contains(error);
            assert!(again, "{state} {error}");
        }
    }

    /// Every state leads to states that exist or ends the execution, every task has a timeout, and
    /// the machine and its states say why they exist.
    pub fn assert_leads_somewhere(&self) {
        assert!(!self.comment.is_empty());
        for (name, state) in &self.states {
            assert!(!state.comment.is_empty(), "{name}");
            if state.r#type == "Task" {
                assert!(state.timeout_seconds.is_some(), "{name}");
            }
            let ends = state.end || matches!(&*state.r#type, "Fail" | "Succeed" | "Choice");
            assert_eq!(ends, state.next.is_none(), "{name}");
            let caught = state.catch.iter().map(|catcher| &catcher.next);
            let chosen = state.choices.iter().map(|choice| &choice.next);
            let ways = caught.chain(chosen).chain(&state.next);
            for next in ways.chain(&state.default) {
                assert!(self.states.contains_key(next), "{name} leads to {next}");
            }
        }
    }
}

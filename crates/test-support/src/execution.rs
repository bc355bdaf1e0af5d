//! One execution of a machine, from its event to its end.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use carapace_control_plane::fault::planned::Death;
use carapace_core::ports::Clock;
use futures::FutureExt;
use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};

use crate::{
    machine::{Machine, State},
    time::Time,
};

/// More states than any execution of a test goes through, unless it goes in circles.
const TOO_MANY: usize = 1000;
/// In seconds, what stands for the name that `user-offboard` leaves open: as on AWS.
const PURGE_DELAY: u64 = 40;

/// What a machine's expressions say, and the services that it calls.
pub trait Steps {
    /// What the expressions of a task make its payload; asked once, however often the task is tried.
    fn payload(&mut self, state: &str, execution: &Execution) -> Value;

    /// One try of a call. The callee is the name that CDK fills in for the function or the state
    /// machine, such as `SandboxClaimArn`. Messages to a dead-letter queue are not asked for: see
    /// [`End::dead_letters`].
    fn call(
        &mut self,
        callee: &str,
        payload: Value,
    ) -> impl Future<Output = Result<Value, Diagnostic>>;

    /// The comment of the rule that a choice takes, or `None` for its default.
    fn choose(&mut self, state: &str, _: &Execution) -> Option<&'static str> {
        panic!("no rule is written for {state}")
    }
}

/// What an execution knows while it runs.
#[derive(Debug)]
pub struct Execution {
    /// `$states.context.Execution.Input`
    pub event: Value,
    /// `$states.context.Execution.StartTime`
    pub started_at: Timestamp,
    /// `$states.input`: what the task before answered, at first the event.
    pub input: Value,
    /// `$failure`, as the machine's own `Assign` makes it.
    pub failure: Option<Diagnostic>,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The state it ended in.
    pub state: String,
    /// The error, if it failed.
    pub error: Option<String>,
    /// The states it went through.
    pub path: Vec<String>,
    /// What was sent to a dead-letter queue, in order.
    pub dead_letters: Vec<Value>,
}

impl End {
    /// How often the execution went through this state.
    pub fn times(&self, state: &str) -> usize {
        self.path.iter().filter(|name| *name == state).count()
    }
}

impl Machine {
    /// Runs one execution to its end.
    pub async fn execute(&self, time: &Time, event: Value, mut steps: impl Steps) -> End {
        let mut execution = Execution {
            event: event.clone(),
            started_at: time.now(),
            input: event,
            failure: None,
        };
        let mut end = End {
            state: self.start_at.clone(),
            error: None,
            path: Vec::new(),
            dead_letters: Vec::new(),
        };
        loop {
            let state = &self.states[&end.state];
            end.path.push(end.state.clone());
            let last = end.path.len().saturating_sub(20);
            assert!(
                end.path.len() < TOO_MANY,
                "it goes in circles: {:?}",
                &end.path[last..]
            );
            let next = match &*state.r#type {
                "Task" if state.resource == "arn:aws:states:::sqs:sendMessage" => {
                    end.dead_letters.push(execution.message(state));
                    execution.input = json!({});
                    state.next.as_ref()
                }
                "Task" => {
                    let payload = steps.payload(&end.state, &execution);
                    match tried(time, state, payload, &mut steps).await {
                        Ok(output) => {
                            execution.input = output;
                            state.next.as_ref()
                        }
                        Err(error) => {
                            let mut catchers = state.catch.iter();
                            let caught = catchers.find(|c| matches(&c.error_equals, &error));
                            let caught = caught
                                .unwrap_or_else(|| panic!("{} lets {error:?} out", end.state));
                            execution.assign(&caught.assign, Some(error));
                            Some(&caught.next)
                        }
                    }
                }
                "Wait" => {
                    let seconds = match &state.seconds {
                        Some(Value::Number(number)) => number.as_u64(),
                        Some(Value::String(open)) if open.contains("${PurgeDelaySeconds}") => {
                            Some(PURGE_DELAY)
                        }
                        _ => None,
                    };
                    let seconds =
                        seconds.unwrap_or_else(|| panic!("{} waits for what?", end.state));
                    time.sleep(Duration::from_secs(seconds)).await;
                    state.next.as_ref()
                }
                "Choice" => Some(execution.choose(&end.state, state, &mut steps)),
                "Succeed" => None,
                "Fail" => {
                    end.error = Some(execution.error(state));
                    None
                }
                other => panic!("{} is a {other}, which can't be run here", end.state),
            };
            match next {
                Some(next) => end.state.clone_from(next),
                None => return end,
            }
        }
    }
}

impl Execution {
    /// What is sent to a queue: a machine keeps the event as it came, or a part of its input.
    fn message(&self, state: &State) -> Value {
        let body = state.arguments["MessageBody"].as_str().unwrap();
        let what = body.strip_prefix("{% $string($states.");
        let what = what.and_then(|rest| rest.strip_suffix(") %}"));
        match what {
            Some("context.Execution.Input") => self.event.clone(),
            Some("input.event") => self.input["event"].clone(),
            _ => panic!("nothing is written for the message {body}"),
        }
    }

    /// Where a choice leads.
    fn choose<'a>(&mut self, name: &str, state: &'a State, steps: &mut impl Steps) -> &'a String {
        let Some(rule) = steps.choose(name, self) else {
            self.assign(&state.assign, None);
            let default = state.default.as_ref();
            return default.unwrap_or_else(|| panic!("{name} has no default"));
        };
        let mut choices = state.choices.iter();
        let choice = choices.find(|choice| choice.comment == rule);
        let choice = choice.unwrap_or_else(|| panic!("{name} has no rule {rule:?}"));
        self.assign(&choice.assign, None);
        &choice.next
    }

    /// Of the variables only `$failure` is kept: the error as it came, or under another name.
    fn assign(&mut self, variables: &Value, error: Option<Diagnostic>) {
        self.failure = match variables.get("failure") {
            None => return,
            Some(Value::String(whole)) => {
                assert_eq!(whole, "{% $states.errorOutput %}");
                error
            }
            Some(renamed) => {
                let [name, cause] = ["Error", "Cause"].map(|part| renamed[part].as_str().unwrap());
                Some(Diagnostic {
                    error_type: name.to_owned(),
                    error_message: match error {
                        Some(error) => error.error_message,
                        None => cause.to_owned(),
                    },
                })
            }
        };
    }

    /// The error with which a `Fail` ends the execution.
    fn error(&self, state: &State) -> String {
        match state.error.as_deref() {
            Some("{% $failure.Error %}") => self.failure.as_ref().unwrap().error_type.clone(),
            Some(literal) if !literal.starts_with("{%") => literal.to_owned(),
            other => panic!("nothing is written for the error {other:?}"),
        }
    }
}

/// Runs a task with its retries.
async fn tried(
    time: &Time,
    state: &State,
    payload: Value,
    steps: &mut impl Steps,
) -> Result<Value, Diagnostic> {
    let callee = callee(state);
    let mut attempts = vec![0; state.retry.len()];
    loop {
        let error = match survived(steps.call(callee, payload.clone())).await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let mut retriers = state.retry.iter();
        let retrier = retriers.position(|r| matches(&r.error_equals, &error));
        let Some(retrier) = retrier else {
            return Err(error);
        };
        let (rule, attempts) = (&state.retry[retrier], &mut attempts[retrier]);
        if *attempts >= rule.max_attempts {
            return Err(error);
        }
        let wait = rule.interval_seconds * rule.backoff_rate.pow(*attempts);
        let wait = rule.max_delay_seconds.map_or(wait, |most| wait.min(most));
        *attempts += 1;
        time.sleep(Duration::from_secs(wait)).await;
    }
}

/// The name that CDK fills in for what a task calls.
fn callee(state: &State) -> &str {
    let arguments = &state.arguments;
    let callee = arguments
        .get("FunctionName")
        .or_else(|| arguments.get("StateMachineArn"));
    let name = callee.and_then(Value::as_str).and_then(|name| {
        let name = name.strip_prefix("${")?;
        name.strip_suffix('}')
    });
    name.unwrap_or_else(|| panic!("nothing is written for {:?}", state.resource))
}

/// The planned death of a function looks as it does on Lambda.
async fn survived(
    call: impl Future<Output = Result<Value, Diagnostic>>,
) -> Result<Value, Diagnostic> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(answer) => answer,
        Err(death) if death.is::<Death>() => Err(Diagnostic {
            error_type: "Runtime.ExitError".into(),
            error_message: "the process exited".into(),
        }),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn matches(names: &[String], error: &Diagnostic) -> bool {
    let mut names = names.iter();
    names.any(|name| name == "States.ALL" || *name == error.error_type)
}

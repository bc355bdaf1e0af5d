//! The state machine `conversation`, run from its own file: states, retries and catches are those
//! that are deployed. Only its expressions are written again: one payload per task, and what each
//! choice looks at.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, time::Duration};

use carapace_core::ports::Clock;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde_json::{Value, json};

use super::world::World;
use crate::fault::planned::Death;

/// How long the machine lets a message be in hand.
const TOO_LONG: SignedDuration = SignedDuration::from_hours(2);

/// The machine as it is deployed.
pub(super) const DEFINITION: &str = include_str!("../../../../statemachines/conversation.asl.json");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Machine {
    pub(super) comment: String,
    pub(super) start_at: String,
    pub(super) states: BTreeMap<String, State>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) r#type: String,
    pub(super) comment: String,
    pub(super) next: Option<String>,
    pub(super) default: Option<String>,
    #[serde(default)]
    pub(super) choices: Vec<Choice>,
    #[serde(default)]
    pub(super) end: bool,
    pub(super) timeout_seconds: Option<u64>,
    #[serde(default)]
    pub(super) retry: Vec<Retrier>,
    #[serde(default)]
    pub(super) catch: Vec<Catcher>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Choice {
    pub(super) comment: String,
    pub(super) next: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Retrier {
    pub(super) error_equals: Vec<String>,
    #[serde(default = "one")]
    pub(super) interval_seconds: u64,
    #[serde(default = "one")]
    pub(super) backoff_rate: u64,
    pub(super) max_delay_seconds: Option<u64>,
    pub(super) max_attempts: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Catcher {
    pub(super) error_equals: Vec<String>,
    pub(super) next: String,
}

fn one() -> u64 {
    1
}

pub(super) fn machine() -> Machine {
    serde_json::from_str(DEFINITION).unwrap()
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// The state it ended in.
    pub(super) state: String,
    /// The error, if it failed.
    pub(super) error: Option<String>,
    /// The states it went through.
    pub(super) path: Vec<String>,
    /// What was sent to the dead-letter queue.
    pub(super) dead_letters: Vec<Value>,
}

impl End {
    pub(super) fn times(&self, state: &str) -> usize {
        self.path.iter().filter(|name| *name == state).count()
    }
}

/// What an execution has assigned.
struct Execution<'a> {
    world: &'a World,
    name: &'a str,
    event: Value,
    input: Value,
    accepted: Value,
    wakes: u32,
    /// The message in hand, and since when.
    in_hand: (Value, Timestamp),
    /// The number of the newest message that is known to have come to its end.
    done: u64,
    failure: Option<Diagnostic>,
}

/// Runs one execution to its end.
pub(super) async fn execute(world: &World, name: &str, event: Value) -> End {
    let machine = machine();
    let mut execution = Execution {
        world,
        name,
        event: event.clone(),
        input: event,
        accepted: Value::Null,
        wakes: 0,
        in_hand: (Value::Null, Timestamp::UNIX_EPOCH),
        done: 0,
        failure: None,
    };
    let mut end = End {
        state: machine.start_at.clone(),
        error: None,
        path: Vec::new(),
        dead_letters: Vec::new(),
    };
    loop {
        let state = &machine.states[&end.state];
        end.path.push(end.state.clone());
        assert!(
            end.path.len() < 1000,
            "it goes in circles: {:?}",
            &end.path[980..]
        );
        match state.r#type.as_str() {
            "Succeed" => return end,
            "Fail" => {
                end.error = execution.failure.map(|failure| failure.error_type);
                return end;
            }
            "Choice" => {
                end.state = execution.choose(&end.state, state);
                continue;
            }
            _ => {}
        }
        match execution
            .task(state, &end.state, &mut end.dead_letters)
            .await
        {
            Ok(output) => {
                execution.input = output;
                match &state.next {
                    Some(next) => end.state.clone_from(next),
                    None => return end,
                }
            }
            Err(error) => {
                let mut catchers = state.catch.iter();
                let caught = catchers.find(|c| matches(&c.error_equals, &error));
                let caught = caught.unwrap_or_else(|| panic!("{} lets {error:?} out", end.state));
                if end.state != "TellWaking" {
                    execution.failure = Some(Diagnostic {
                        error_type: match end.state.as_str() {
                            "WakeAgent" => "AgentNotWoken".into(),
                            _ => error.error_type,
                        },
                        error_message: error.error_message,
                    });
                }
                end.state.clone_from(&caught.next);
            }
        }
    }
}

impl Execution<'_> {
    /// Where a choice leads: its rules are known by their comments.
    fn choose(&mut self, name: &str, state: &State) -> String {
        let outcome = self.input["outcome"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let rule = match (name, outcome.as_str()) {
            ("RouteMessage", "run") => {
                self.accepted = self.input.clone();
                self.done = self.input["done"].as_u64().unwrap();
                self.in_hand = (self.input["event_id"].clone(), self.world.time.now());
                if self.input["wake"] == true {
                    self.wakes = 1;
                    "run, and the agent is to be woken"
                } else {
                    self.wakes = 0;
                    "run"
                }
            }
            ("RouteMessage", "not_linked") => "not linked",
            ("RouteMessage", "queued" | "duplicate" | "ignored") => "queued, duplicate or ignored",
            ("RouteAbandoned", "abandoned") => {
                self.done = self.input["done"].as_u64().unwrap();
                &outcome
            }
            ("RouteTurns", "more") => {
                let now = self.world.time.now();
                let event = self.input["event_id"].clone();
                if event != self.in_hand.0 {
                    self.in_hand = (event, now);
                }
                if now.duration_since(self.in_hand.1) > TOO_LONG {
                    self.fail("TurnTooLong");
                    "a message takes too long"
                } else {
                    "more"
                }
            }
            ("RouteTurns" | "RouteAbandoned", "idle") => &outcome,
            ("RouteTurns", "asleep") if self.wakes < 3 => {
                self.wakes += 1;
                assert!(self.input["place"].is_object() && self.input["event_id"].is_string());
                "the agent is asleep"
            }
            ("RouteTurns", "asleep") => {
                self.fail("AgentNotWoken");
                "the agent is asleep again"
            }
            ("ServeNext", _) => {
                let failure = self.failure.as_ref().unwrap();
                match failure.error_type.as_str() {
                    "AgentNotWoken" => "the agent did not wake",
                    _ => return state.default.clone().unwrap(),
                }
            }
            _ => panic!("{name} does not know {outcome:?}"),
        };
        let mut choices = state.choices.iter();
        let choice = choices.find(|choice| choice.comment == rule);
        choice
            .unwrap_or_else(|| panic!("{name} has no rule {rule:?}"))
            .next
            .clone()
    }

    fn fail(&mut self, error: &str) {
        self.failure = Some(Diagnostic {
            error_type: error.into(),
            error_message: String::new(),
        });
    }

    /// Runs one state's task with its retries.
    async fn task(
        &self,
        state: &State,
        name: &str,
        dead_letters: &mut Vec<Value>,
    ) -> Result<Value, Diagnostic> {
        let mut attempts = vec![0; state.retry.len()];
        loop {
            let error = match self.invoke(name, dead_letters).await {
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
            self.world.time.sleep(Duration::from_secs(wait)).await;
        }
    }

    /// One try of a task. The death of a function looks as it does on Lambda.
    async fn invoke(&self, name: &str, dead_letters: &mut Vec<Value>) -> Result<Value, Diagnostic> {
        let world = self.world;
        let held = |action: &str| {
            json!({
                "action": action, "user_key": self.accepted["user_key"],
                "conversation": self.accepted["conversation"], "execution": self.name
            })
        };
        let call = async {
            match name {
                "AcceptMessage" => {
                    let payload = json!({"event": self.event, "execution": self.name});
                    world.accept().handle(payload).await
                }
                "RunTurns" => world.turn().handle(held("run")).await,
                "AbandonMessage" => {
                    let failure = self.failure.as_ref().unwrap();
                    let mut payload = held("abandon");
                    payload["reason"] = json!(failure.error_type);
                    payload["message"] = json!(failure.error_message);
                    payload["done"] = json!(self.done);
                    world.turn().handle(payload).await
                }
                "WakeAgent" => world.wake(&self.accepted).await,
                "ReplyNotLinked" | "TellWaking" => Ok(json!({"told": true})),
                "DeadLetterMessage" => {
                    dead_letters.push(self.input["event"].clone());
                    Ok(json!({}))
                }
                "DeadLetterEvent" => {
                    dead_letters.push(self.event.clone());
                    Ok(json!({}))
                }
                other => panic!("no payload is written for {other}"),
            }
        };
        match AssertUnwindSafe(call).catch_unwind().await {
            Ok(answer) => answer,
            Err(death) if death.is::<Death>() => Err(Diagnostic {
                error_type: "Runtime.ExitError".into(),
                error_message: "the process exited".into(),
            }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn matches(names: &[String], error: &Diagnostic) -> bool {
    let mut names = names.iter();
    names.any(|name| name == "States.ALL" || *name == error.error_type)
}

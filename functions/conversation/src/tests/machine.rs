//! The state machine `conversation`, run from its own file, on a world in memory.

use carapace_core::ports::Clock;
use carapace_test_support::{Diagnostic, End, Execution, Machine, Steps};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::world::World;

/// How long the machine lets a message be in hand.
const TOO_LONG: SignedDuration = SignedDuration::from_hours(2);

/// The machine as it is deployed.
pub(super) fn machine() -> Machine {
    Machine::parse(include_str!(
        "../../../../statemachines/conversation.asl.json"
    ))
}

/// Runs one execution to its end.
pub(super) async fn execute(world: &World, name: &str, event: Value) -> End {
    let variables = Variables {
        world,
        name,
        accepted: Value::Null,
        wakes: 0,
        in_hand: (Value::Null, Timestamp::UNIX_EPOCH),
        done: 0,
    };
    machine().execute(&world.time, event, variables).await
}

/// What an execution has assigned.
struct Variables<'a> {
    world: &'a World,
    name: &'a str,
    accepted: Value,
    wakes: u32,
    /// The message in hand, and since when.
    in_hand: (Value, Timestamp),
    /// The number of the newest message that is known to have come to its end.
    done: u64,
}

impl Steps for Variables<'_> {
    fn payload(&mut self, state: &str, execution: &Execution) -> Value {
        let held = |action: &str| {
            json!({
                "action": action, "user_key": self.accepted["user_key"],
                "conversation": self.accepted["conversation"], "execution": self.name
            })
        };
        match state {
            "AcceptMessage" => json!({"event": execution.event, "execution": self.name}),
            "RunTurns" => held("run"),
            "AbandonMessage" => {
                let failure = execution.failure.as_ref().unwrap();
                let mut payload = held("abandon");
                payload["reason"] = json!(failure.error_type);
                payload["message"] = json!(failure.error_message);
                payload["done"] = json!(self.done);
                payload
            }
            "WakeAgent" => self.accepted.clone(),
            "ReplyNotLinked" | "TellWaking" => execution.input.clone(),
            other => panic!("no payload is written for {other}"),
        }
    }

    async fn call(&mut self, callee: &str, payload: Value) -> Result<Value, Diagnostic> {
        match callee {
            "ConversationAcceptArn" => self.world.accept().handle(payload).await,
            "ConversationTurnArn" => self.world.turn().handle(payload).await,
            "SandboxCreateArn" => self.world.wake(&payload).await,
            "SlackReplyArn" => Ok(json!({"told": true})),
            other => panic!("{other} is nobody's name"),
        }
    }

    fn choose(&mut self, state: &str, execution: &Execution) -> Option<&'static str> {
        let input = &execution.input;
        let outcome = input["outcome"].as_str().unwrap_or_default();
        Some(match (state, outcome) {
            ("RouteMessage", "run") => {
                self.accepted = input.clone();
                self.done = input["done"].as_u64().unwrap();
                self.in_hand = (input["event_id"].clone(), self.world.time.now());
                if input["wake"] == true {
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
                self.done = input["done"].as_u64().unwrap();
                "abandoned"
            }
            ("RouteTurns", "more") => {
                let now = self.world.time.now();
                let event = input["event_id"].clone();
                if event != self.in_hand.0 {
                    self.in_hand = (event, now);
                }
                if now.duration_since(self.in_hand.1) > TOO_LONG {
                    "a message takes too long"
                } else {
                    "more"
                }
            }
            ("RouteTurns" | "RouteAbandoned", "idle") => "idle",
            ("RouteTurns", "asleep") if self.wakes < 3 => {
                self.wakes += 1;
                assert!(input["place"].is_object() && input["event_id"].is_string());
                "the agent is asleep"
            }
            ("RouteTurns", "asleep") => "the agent is asleep again",
            ("ServeNext", _) => {
                let failure = execution.failure.as_ref().unwrap();
                match failure.error_type.as_str() {
                    "AgentNotWoken" => "the agent did not wake",
                    _ => return None,
                }
            }
            _ => panic!("{state} does not know {outcome:?}"),
        })
    }
}

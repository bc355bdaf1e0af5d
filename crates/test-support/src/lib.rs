//! A workflow in a unit test: the state machine's own file, the functions' own code, and a world in
//! memory around them.
//!
//! [`Machine`] is read from the file that is deployed, so states, retries and catches are those that
//! run on AWS. Its expressions are not evaluated: [`Steps`] writes them again, one payload per task
//! and one rule per choice, and carries the calls out. [`Time`] is the clock of such a world: it
//! passes only when everybody waits for it, and it lets calls interleave in an order that a seed
//! decides. What a machine's file and its functions' errors owe each other is checked by
//! [`Machine`]'s `assert_…` methods.
//!
//! A function that dies as a test [planned](carapace_control_plane::fault::planned) looks as it does
//! on Lambda: its try ends with `Runtime.ExitError`.
//!
//! ```
//! use carapace_core::ports::Clock;
//! use carapace_test_support::{Diagnostic, Execution, Machine, Steps, Time};
//! use serde_json::{Value, json};
//!
//! // include_str!("../../../../statemachines/greet.asl.json")
//! let greet = r#"{
//!   "Comment": "Greets.", "StartAt": "GreetUser", "TimeoutSeconds": 60,
//!   "States": {
//!     "GreetUser": {
//!       "Type": "Task", "Comment": "Says it.", "Resource": "arn:aws:states:::lambda:invoke",
//!       "Arguments": {"FunctionName": "${GreetArn}", "Payload": {"whom": "{% $states.input.name %}"}},
//!       "TimeoutSeconds": 10,
//!       "Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 2, "BackoffRate": 2, "MaxAttempts": 3}],
//!       "Catch": [{
//!         "ErrorEquals": ["States.ALL"], "Next": "UserIgnored",
//!         "Assign": {"failure": "{% $states.errorOutput %}"}
//!       }],
//!       "End": true
//!     },
//!     "UserIgnored": {"Type": "Fail", "Comment": "Says why.", "Error": "{% $failure.Error %}"}
//!   }
//! }"#;
//!
//! /// A function that is busy for a while.
//! struct Greeting {
//!     busy: u32,
//! }
//!
//! impl Steps for Greeting {
//!     fn payload(&mut self, state: &str, execution: &Execution) -> Value {
//!         match state {
//!             "GreetUser" => json!({"whom": execution.input["name"]}),
//!             other => panic!("no payload is written for {other}"),
//!         }
//!     }
//!
//!     async fn call(&mut self, callee: &str, payload: Value) -> Result<Value, Diagnostic> {
//!         assert_eq!((callee, &payload["whom"]), ("GreetArn", &json!("Ada")));
//!         if self.busy == 0 {
//!             return Ok(json!({}));
//!         }
//!         self.busy -= 1;
//!         Err(Diagnostic { error_type: "Busy".into(), error_message: "later".into() })
//!     }
//! }
//!
//! let (machine, time) = (Machine::parse(greet), Time::seeded(1));
//! let begun = time.now();
//! let end = time.run(machine.execute(&time, json!({"name": "Ada"}), Greeting { busy: 2 }));
//! assert_eq!((end.state.as_str(), end.error), ("GreetUser", None));
//! assert_eq!(time.now().duration_since(begun).as_secs(), 2 + 4);
//!
//! let end = time.run(machine.execute(&time, json!({"name": "Ada"}), Greeting { busy: 4 }));
//! assert_eq!(end.path, ["GreetUser", "UserIgnored"]);
//! assert_eq!(end.error.as_deref(), Some("Busy"));
//! ```

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "whatever is wrong here fails the test that uses it"
)]

pub use execution::{End, Execution, Steps};
pub use lambda_runtime::Diagnostic;
pub use machine::{Catcher, Choice, Machine, Retrier, State};
pub use time::Time;

mod execution;
mod machine;
mod time;

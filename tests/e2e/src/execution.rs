//! Executions of the state machines.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carapace_asl::HistoryEvent;
use serde_json::{Value, json};

use crate::aws;
use crate::{Platform, eventually};

/// The output of the control plane that names the state machine `sandbox-create`.
pub const SANDBOX_CREATE: &str = "SandboxCreateArn";
/// The one that names `conversation`.
pub const CONVERSATION: &str = "ConversationArn";

/// One execution of a state machine.
#[derive(Clone, Debug)]
pub struct Execution {
    /// Its ARN.
    pub arn: String,
    /// `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT` or `ABORTED`.
    pub status: String,
    /// The name of the error it ended with.
    pub error: Option<String>,
    /// The words beside that error.
    pub cause: Option<String>,
    /// What it was started with.
    pub input: Value,
    /// What it ended with.
    pub output: Value,
}

impl Execution {
    /// True once it no longer runs.
    pub fn has_ended(&self) -> bool {
        self.status != "RUNNING"
    }
}

impl Platform {
    /// The executions of `sandbox-create` that the event with this id started, oldest first.
    pub fn executions(&self, event_id: &str) -> Result<Vec<Execution>> {
        self.executions_of(SANDBOX_CREATE, event_id)
    }

    /// The executions that the event with this id started of the machine that `output` names,
    /// oldest first.
    pub fn executions_of(&self, output: &str, event_id: &str) -> Result<Vec<Execution>> {
        let machine = self.control_plane(output)?;
        let list = self.aws.call(
            aws::STATES,
            "ListExecutions",
            &json!({ "stateMachineArn": machine, "maxResults": 1000 }),
        )?;
        let mut found = Vec::new();
        for item in list["executions"].as_array().into_iter().flatten().rev() {
            let arn = aws::string(item, "/executionArn")?;
            if self.event_of(&arn)? == event_id {
                found.push(self.execution(&arn)?);
            }
        }
        Ok(found)
    }

    /// The id of the event that started an execution. It never changes, so it is asked for once:
    /// many scenarios look for theirs among the executions of all.
    fn event_of(&self, arn: &str) -> Result<String> {
        let known = |events: &Mutex<HashMap<String, String>>| {
            events
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(arn)
                .cloned()
        };
        if let Some(event) = known(&self.events) {
            return Ok(event);
        }
        let input = self.execution(arn)?.input;
        let event = input["detail"]["id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.insert(arn.to_owned(), event.clone());
        Ok(event)
    }

    /// One execution as it stands.
    pub fn execution(&self, arn: &str) -> Result<Execution> {
        let answer = self.aws.call(
            aws::STATES,
            "DescribeExecution",
            &json!({ "executionArn": arn }),
        )?;
        Ok(Execution {
            arn: arn.to_owned(),
            status: aws::string(&answer, "/status")?,
            error: answer["error"].as_str().map(str::to_owned),
            cause: answer["cause"].as_str().map(str::to_owned),
            input: embedded(&answer["input"])?,
            output: embedded(&answer["output"])?,
        })
    }

    /// Waits until exactly `count` executions of this event exist and all of them have ended.
    pub fn ended(&self, event_id: &str, count: usize, within: Duration) -> Result<Vec<Execution>> {
        self.ended_of(SANDBOX_CREATE, event_id, count, within)
    }

    /// The same of the machine that `output` names.
    pub fn ended_of(
        &self,
        output: &str,
        event_id: &str,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Execution>> {
        let look = || self.executions_of(output, event_id);
        let all = eventually(
            &format!("{count} execution(s) for event {event_id}"),
            within,
            look,
            |all| all.len() >= count,
        )?;
        // Not by listing them until then: that is work for the local AWS, which those that are waited
        // for need more.
        for Execution { arn, .. } in all {
            eventually(
                &format!("the end of {arn}"),
                within,
                || self.execution(&arn),
                Execution::has_ended,
            )?;
        }
        let all = look()?;
        ensure!(
            all.len() == count && all.iter().all(Execution::has_ended),
            "not {count} ended execution(s) for event {event_id}: {all:#?}"
        );
        Ok(all)
    }

    /// Ends an execution from outside, as an operator may.
    pub fn stop_execution(&self, arn: &str) -> Result<()> {
        self.aws.call(
            aws::STATES,
            "StopExecution",
            &json!({ "executionArn": arn, "error": "Stopped", "cause": "by a test" }),
        )?;
        Ok(())
    }

    /// What happened in an execution, step by step.
    pub fn history(&self, arn: &str) -> Result<Vec<HistoryEvent>> {
        let input = json!({ "executionArn": arn, "maxResults": 1000 });
        let mut answer = self.aws.call(aws::STATES, "GetExecutionHistory", &input)?;
        serde_json::from_value(answer["events"].take()).context("reading an execution's history")
    }
}

/// Step Functions carries inputs and outputs as JSON in a string; an absent one is null.
fn embedded(value: &Value) -> Result<Value> {
    match value.as_str() {
        None | Some("") => Ok(Value::Null),
        Some(text) => serde_json::from_str(text).with_context(|| format!("not JSON: {text}")),
    }
}

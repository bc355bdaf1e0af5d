//! What Step Functions remembers of an execution.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

/// The answer to `GetExecutionHistory`, or as much of it as drawings need.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct History {
    /// Oldest first. Where an answer came in pages, their events one after the other.
    pub events: Vec<HistoryEvent>,
}

/// One event of an execution.
///
/// Source: the Step Functions API reference, `HistoryEvent`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEvent {
    /// For example `TaskStateEntered` or `ExecutionFailed`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it happened. The API gives seconds since 1970, the AWS CLI a date in ISO 8601.
    #[serde(deserialize_with = "timestamp")]
    pub timestamp: Timestamp,
    /// The state, where the event is about one.
    #[serde(default)]
    state_entered_event_details: Option<StateDetails>,
    #[serde(default)]
    state_exited_event_details: Option<StateDetails>,
    #[serde(default)]
    execution_failed_event_details: Option<ErrorDetails>,
    #[serde(default)]
    execution_timed_out_event_details: Option<ErrorDetails>,
    #[serde(default)]
    execution_aborted_event_details: Option<ErrorDetails>,
    #[serde(default)]
    task_failed_event_details: Option<ErrorDetails>,
    #[serde(default)]
    task_timed_out_event_details: Option<ErrorDetails>,
    #[serde(default)]
    task_start_failed_event_details: Option<ErrorDetails>,
    #[serde(default)]
    task_submit_failed_event_details: Option<ErrorDetails>,
    #[serde(default)]
    lambda_function_failed_event_details: Option<ErrorDetails>,
    #[serde(default)]
    lambda_function_timed_out_event_details: Option<ErrorDetails>,
    #[serde(default)]
    lambda_function_schedule_failed_event_details: Option<ErrorDetails>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct StateDetails {
    name: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct ErrorDetails {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    cause: Option<String>,
}

/// What an event means for a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    Entered(&'a str),
    Exited(&'a str),
    /// A state tried its work, for the first time or again.
    Attempted,
    /// An attempt failed, with the error's name.
    AttemptFailed(&'a str),
    Succeeded,
    /// The execution ended in failure: the error's name and its cause.
    Failed(&'a str, &'a str),
    Other,
}

impl HistoryEvent {
    /// The state that begins with this event.
    pub fn entered(&self) -> Option<&str> {
        match self.meaning() {
            Meaning::Entered(state) => Some(state),
            _ => None,
        }
    }

    pub(crate) fn meaning(&self) -> Meaning<'_> {
        if let Some(state) = &self.state_entered_event_details {
            return Meaning::Entered(&state.name);
        }
        if let Some(state) = &self.state_exited_event_details {
            return Meaning::Exited(&state.name);
        }
        match self.event_type.as_str() {
            "ExecutionSucceeded" => Meaning::Succeeded,
            "ExecutionFailed" => ended(
                self.execution_failed_event_details.as_ref(),
                "States.Runtime",
            ),
            "ExecutionTimedOut" => ended(
                self.execution_timed_out_event_details.as_ref(),
                "States.Timeout",
            ),
            "ExecutionAborted" => ended(self.execution_aborted_event_details.as_ref(), "Aborted"),
            "TaskScheduled" | "LambdaFunctionScheduled" => Meaning::Attempted,
            _ => self
                .failed_attempt()
                .map_or(Meaning::Other, Meaning::AttemptFailed),
        }
    }

    fn failed_attempt(&self) -> Option<&str> {
        let details = [
            &self.task_failed_event_details,
            &self.task_start_failed_event_details,
            &self.task_submit_failed_event_details,
            &self.task_timed_out_event_details,
            &self.lambda_function_failed_event_details,
            &self.lambda_function_schedule_failed_event_details,
            &self.lambda_function_timed_out_event_details,
        ];
        let details = details.into_iter().find_map(Option::as_ref)?;
        Some(details.error.as_deref().unwrap_or("States.TaskFailed"))
    }
}

fn ended<'a>(details: Option<&'a ErrorDetails>, default: &'a str) -> Meaning<'a> {
    let error = details
        .and_then(|details| details.error.as_deref())
        .unwrap_or(default);
    let cause = details
        .and_then(|details| details.cause.as_deref())
        .unwrap_or_default();
    Meaning::Failed(error, cause)
}

fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Seconds(f64),
        Date(Timestamp),
    }
    match Either::deserialize(deserializer)? {
        Either::Date(timestamp) => Ok(timestamp),
        Either::Seconds(seconds) => jiff::SignedDuration::try_from_secs_f64(seconds)
            .and_then(Timestamp::from_duration)
            .map_err(serde::de::Error::custom),
    }
}

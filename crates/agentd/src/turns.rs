//! Turns: what a user says to the agent, and what comes of it.
//!
//! A turn belongs to nobody's connection. It is taken on once, under an id that its caller chose and
//! that is OpenClaw's idempotency key too; it goes on when its caller is gone; and whoever asks for
//! it again, by the same `POST` or by a `GET`, is told what has come of it so far and then the rest.
//!
//! - The [`book`] decides, and keeps what is told. It is pure.
//! - The [`history`] says where OpenClaw stands with a turn. It is pure too.
//! - [`drive`] takes one turn from its beginning to its end, through lines that break and agents that
//!   restart.
//! - The [`routes`] are what the control plane calls.
//!
//! **After a restart of `agentd`** the book is empty. A turn that was running goes on in OpenClaw,
//! and is found again when its caller posts the same id: by its run if it is still under way, by its
//! answer if it has ended. A `GET` can't find it, since only the `POST` names the conversation, and
//! is answered by 404.
//!
//! **After a restart of OpenClaw** a turn that it never took on is sent again; one that it resumes by
//! itself is followed; and one of which only the question is left ends in `TurnLost`, since the agent
//! may have acted on it. So does one that was given to an OpenClaw that doesn't come back in time: it
//! may resume it later. `AgentUnavailable`, after which a user may try again, is for a turn that
//! OpenClaw never had.

mod book;
mod drive;
mod history;
pub(crate) mod routes;

use std::sync::{Mutex, MutexGuard, PoisonError};

use carapace_core::agentd::{ActivityPhase, ErrorName};
use serde_json::Value;
use tokio::sync::watch;

use crate::model_error;
use book::{Book, Fault, Heard};

/// The session that a conversation is to OpenClaw. The agent's name is fixed here and the
/// conversation's charset has no colon: no caller can name a session that is something else.
fn session_key(conversation: &carapace_core::ConversationId) -> String {
    format!(
        "agent:{}:{conversation}",
        crate::openclaw_config::MAIN_AGENT
    )
}

/// The book, and a bell for those who read it.
#[derive(Debug)]
pub(crate) struct Turns {
    book: Mutex<Book>,
    changed: watch::Sender<u64>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            book: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Turns {
    /// Notes an event of OpenClaw, if it is about a turn.
    pub(crate) fn note(&self, event: &str, payload: &Value) {
        let Some((run, heard)) = heard(event, payload) else {
            return;
        };
        if self.book().heard(run, heard) {
            self.ring();
        }
    }

    /// Notes that the model's gateway answered a call with an error.
    pub(crate) fn model_failed(&self, name: ErrorName) {
        tracing::warn!(error = ?name, "a model call failed");
        self.book().model_failed(name);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the book and tells whoever waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let result = change(&mut self.book());
        self.ring();
        result
    }

    fn ring(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until the book says so.
    async fn until<T>(&self, holds: impl Fn(&Book) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(value) = holds(&self.book()) {
                return value;
            }
            // The sender is `self`.
            let _ = changed.changed().await;
        }
    }
}

/// The run that an event is about, and what it says of it.
///
/// The last word on a turn is the `chat` event's. The lifecycle's `error` isn't: OpenClaw tries
/// again after some.
fn heard<'a>(event: &str, payload: &'a Value) -> Option<(&'a str, Heard)> {
    let run = payload["runId"].as_str()?;
    let data = &payload["data"];
    let heard = match (event, payload["stream"].as_str(), payload["state"].as_str()) {
        ("agent", Some("assistant"), _) if data["replace"] == true && data["text"] == "" => {
            Heard::TakenBack {
                message: data["itemId"].as_str().map(str::to_owned),
            }
        }
        ("agent", Some("assistant"), _) => Heard::Said {
            message: data["itemId"].as_str().map(str::to_owned),
            text: data["text"].as_str()?.to_owned(),
        },
        ("agent", Some("tool"), _) => Heard::Tool {
            name: data["name"].as_str()?.chars().take(64).collect(),
            phase: match data["phase"].as_str()? {
                "start" => ActivityPhase::Start,
                "result" => ActivityPhase::End,
                _ => return None,
            },
        },
        ("agent", Some("lifecycle"), _) => match data["phase"].as_str()? {
            "end" | "error" => Heard::Settled,
            _ => return None,
        },
        ("chat", _, Some("final")) => {
            Heard::Answered(history::text(&payload["message"]["content"]))
        }
        ("chat", _, Some("aborted")) => Heard::Aborted,
        ("chat", _, Some("error")) => Heard::Failed(fault(&payload["errorDetail"])),
        _ => return None,
    };
    Some((run, heard))
}

/// OpenClaw adds a detail to the error of a run whose last model call failed.
fn fault(detail: &Value) -> Fault {
    match detail["failoverReason"].as_str() {
        Some(reason) => Fault::Model(model_error::of_reason(reason)),
        None => Fault::Other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As 2026.9.6 sends them, without what isn't looked at.
    #[test]
    fn what_openclaw_says_of_a_run_is_understood() {
        let said = |text: &str| Heard::Said {
            message: Some("a39:1".to_owned()),
            text: text.to_owned(),
        };
        let tool = |phase| Heard::Tool {
            name: "exec".to_owned(),
            phase,
        };
        let message = json!({"role": "assistant", "content": [{"type": "text", "text": "w0 w1"}]});
        let assistant = json!({"text": "w0 w1", "delta": " w1", "itemId": "a39:1"});
        for (event, rest, expected) in [
            (
                "agent",
                json!({"stream": "assistant", "data": assistant}),
                Some(said("w0 w1")),
            ),
            (
                "agent",
                json!({"stream": "tool", "data": {"phase": "start", "name": "exec", "args": {}}}),
                Some(tool(ActivityPhase::Start)),
            ),
            (
                "agent",
                json!({"stream": "tool", "data": {"phase": "update", "name": "exec"}}),
                None,
            ),
            (
                "agent",
                json!({"stream": "tool", "data": {"phase": "result", "name": "exec", "isError": true}}),
                Some(tool(ActivityPhase::End)),
            ),
            (
                "agent",
                json!({"stream": "lifecycle", "data": {"phase": "finishing", "error": "retried"}}),
                None,
            ),
            (
                "agent",
                json!({"stream": "lifecycle", "data": {"phase": "end", "aborted": false}}),
                Some(Heard::Settled),
            ),
            ("chat", json!({"state": "delta", "message": message}), None),
            (
                "chat",
                json!({"state": "final", "message": message}),
                Some(Heard::Answered("w0 w1".to_owned())),
            ),
            (
                "chat",
                json!({"state": "final"}),
                Some(Heard::Answered(String::new())),
            ),
            (
                "chat",
                json!({"state": "aborted", "stopReason": "rpc", "message": message}),
                Some(Heard::Aborted),
            ),
            (
                "chat",
                json!({"state": "error", "errorMessage": "no"}),
                Some(Heard::Failed(Fault::Other)),
            ),
            (
                "chat",
                json!({"state": "error", "errorMessage": "no", "errorKind": "rate_limit",
                    "errorDetail": {"provider": "agentd", "failoverReason": "rate_limit"}}),
                Some(Heard::Failed(Fault::Model(Some(
                    ErrorName::ModelRateLimited,
                )))),
            ),
            (
                "chat",
                json!({"state": "error", "errorMessage": "no",
                    "errorDetail": {"provider": "agentd", "failoverReason": "format"}}),
                Some(Heard::Failed(Fault::Model(None))),
            ),
            (
                "agent",
                json!({"stream": "assistant",
                    "data": {"text": "", "delta": "", "replace": true, "itemId": "a39:1"}}),
                Some(Heard::TakenBack {
                    message: Some("a39:1".to_owned()),
                }),
            ),
            ("session.message", json!({"state": "final"}), None),
            ("agent", json!({"stream": "assistant", "data": null}), None),
        ] {
            let mut payload = rest;
            payload["runId"] = json!("t");
            let heard = heard(event, &payload).map(|(run, heard)| {
                assert_eq!(run, "t");
                heard
            });
            assert_eq!(heard, expected, "{event} {payload}");
        }
    }
}

//! Where a turn stands, read from what OpenClaw's `chat.history` says of its session.
//!
//! This is how a turn is found again after the line broke, or either side restarted. The facts are
//! those of 2026.9.6: the user's message carries the turn's id with `:user` behind it; a run under
//! way is in `inFlightRun`, or at least among `activeRunIds`; after a restart OpenClaw resumes by
//! itself what was interrupted, under a new run and behind a message of `internal_system`.

use carapace_core::TurnId;
use serde_json::Value;

/// Where a turn stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// OpenClaw has never taken it on, and the session is free.
    Unknown,
    /// OpenClaw has never taken it on, and the session has another run.
    SessionBusy,
    /// It is being answered, by this run, which has said this much.
    Running {
        run: String,
        text: String,
    },
    Answered(String),
    Aborted,
    /// A model call failed for good; what OpenClaw says of that in the answer's place is for its own
    /// log.
    Failed,
    /// It was taken on, and nothing came or comes of it.
    Unanswered,
}

/// Reads a history; `None` if it is none.
pub(crate) fn standing(history: &Value, turn: &TurnId) -> Option<Standing> {
    let messages = history["messages"].as_array()?;
    let in_flight = &history["inFlightRun"];
    let session = &history["sessionInfo"];
    let active = session["activeRunIds"].as_array();
    let run = in_flight["runId"]
        .as_str()
        .or_else(|| active?.first()?.as_str());
    let busy = run.is_some() || session["hasActiveRun"] == true;
    let key = format!("{turn}:user");
    let asked = messages.iter().rposition(|message| {
        message["role"] == "user" && message["idempotencyKey"].as_str() == Some(&key)
    });
    if run == Some(turn.as_str()) || (busy && asked.is_some()) {
        let text = in_flight["text"].as_str().unwrap_or_default();
        return Some(Standing::Running {
            run: run.unwrap_or(turn.as_str()).to_owned(),
            text: text.to_owned(),
        });
    }
    let Some(asked) = asked else {
        return Some(if busy {
            Standing::SessionBusy
        } else {
            Standing::Unknown
        });
    };
    let answers = messages[asked + 1..]
        .iter()
        .take_while(|message| message["role"] != "user" || is_internal(message))
        .filter(|message| message["role"] == "assistant");
    let last = answers.filter_map(outcome).last();
    Some(last.unwrap_or(Standing::Unanswered))
}

/// Whether OpenClaw is to resume by itself what was interrupted: to its own mind the session is being
/// worked on, and nothing is under way. It begins some seconds after its start.
pub(crate) fn is_interrupted(history: &Value) -> bool {
    let session = &history["sessionInfo"];
    session["status"] == "running" && session["hasActiveRun"] == false
}

/// What a message of the agent leaves of the turn, if it is the last one that means anything.
fn outcome(message: &Value) -> Option<Standing> {
    if was_aborted(message) {
        return Some(Standing::Aborted);
    }
    match message["stopReason"].as_str() {
        Some("error") => return Some(Standing::Failed),
        // A part of an answer: it was about to use a tool, or was cut off.
        Some("toolUse" | "aborted") => return Some(Standing::Unanswered),
        _ => {}
    }
    let text = text(&message["content"]);
    (!text.is_empty()).then_some(Standing::Answered(text))
}

fn is_internal(message: &Value) -> bool {
    message["provenance"]["kind"] == "internal_system"
}

fn was_aborted(message: &Value) -> bool {
    message["openclawAbort"]["aborted"] == true
}

/// A message's content is a text, or parts of which some are texts.
pub(crate) fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter(|part| part["type"] == "text")
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(turn: &str) -> Value {
        json!({"role": "user", "content": "hello", "idempotencyKey": format!("{turn}:user")})
    }

    fn assistant(text: &str) -> Value {
        json!({"role": "assistant", "content": [{"type": "text", "text": text}]})
    }

    fn stopped(text: &str, reason: &str) -> Value {
        let mut message = assistant(text);
        message["stopReason"] = json!(reason);
        message
    }

    /// OpenClaw's own, after a restart.
    fn resumed() -> Value {
        json!({
            "role": "user", "content": "[System] Your previous turn was interrupted",
            "provenance": {"kind": "internal_system", "sourceTool": "main_session_restart_recovery"},
        })
    }

    fn stands(messages: &[Value], rest: Value) -> Standing {
        let mut history = rest;
        history["messages"] = json!(messages);
        standing(&history, &TurnId::parse("t").unwrap()).unwrap()
    }

    fn idle() -> Value {
        json!({"sessionInfo": {"hasActiveRun": false, "activeRunIds": []}})
    }

    #[test]
    fn a_turn_that_was_never_taken_on_is_unknown_or_waits() {
        assert_eq!(stands(&[], idle()), Standing::Unknown);
        let before = [user("s"), assistant("before")];
        assert_eq!(stands(&before, idle()), Standing::Unknown);
        for busy in [
            json!({"sessionInfo": {"hasActiveRun": true, "activeRunIds": ["s"]}}),
            json!({"sessionInfo": {"hasActiveRun": true}}),
            json!({"inFlightRun": {"runId": "s", "text": ""}}),
        ] {
            assert_eq!(stands(&before[..1], busy), Standing::SessionBusy);
        }
    }

    #[test]
    fn a_turn_under_way_says_what_it_has_said() {
        let running = |run: &str, text: &str| Standing::Running {
            run: run.to_owned(),
            text: text.to_owned(),
        };
        let in_flight = json!({"inFlightRun": {"runId": "t", "text": "so far"}});
        assert_eq!(
            stands(&[user("t")], in_flight.clone()),
            running("t", "so far")
        );
        assert_eq!(stands(&[], in_flight), running("t", "so far"));
        let resumed = json!({"sessionInfo": {"hasActiveRun": true, "activeRunIds": ["r"]}});
        assert_eq!(stands(&[user("t")], resumed), running("r", ""));
    }

    #[test]
    fn the_answer_is_the_last_thing_said_before_the_next_message() {
        let messages = [
            user("s"),
            assistant("before"),
            user("t"),
            assistant("let me see"),
            assistant("42"),
            json!({"role": "assistant", "content": []}),
            user("u"),
            assistant("after"),
        ];
        assert_eq!(stands(&messages, idle()), Standing::Answered("42".into()));
        let messages = [user("t"), resumed(), assistant("resumed")];
        assert_eq!(
            stands(&messages, idle()),
            Standing::Answered("resumed".into())
        );
    }

    #[test]
    fn a_turn_may_have_come_to_nothing() {
        assert_eq!(stands(&[user("t")], idle()), Standing::Unanswered);
        assert_eq!(
            stands(&[user("t"), user("u"), assistant("after")], idle()),
            Standing::Unanswered
        );
        let aborted = json!({
            "role": "assistant", "content": [{"type": "text", "text": "w0 w1"}],
            "openclawAbort": {"aborted": true, "origin": "rpc", "runId": "t"},
        });
        assert_eq!(stands(&[user("t"), aborted], idle()), Standing::Aborted);
        let failed = stopped(
            "LLM request failed (authentication failed, HTTP 401).",
            "error",
        );
        let messages = [user("t"), assistant("let me see"), failed];
        assert_eq!(stands(&messages, idle()), Standing::Failed);
    }

    #[test]
    fn what_was_said_on_the_way_is_no_answer() {
        for reason in ["toolUse", "aborted"] {
            let messages = [user("t"), stopped("let me see", reason)];
            assert_eq!(stands(&messages, idle()), Standing::Unanswered, "{reason}");
        }
        let messages = [
            user("t"),
            stopped("let me see", "toolUse"),
            stopped("42", "stop"),
        ];
        assert_eq!(stands(&messages, idle()), Standing::Answered("42".into()));
    }

    #[test]
    fn a_session_that_is_worked_on_by_nobody_is_interrupted() {
        let session = |status: &str, active: bool| {
            is_interrupted(&json!({"sessionInfo": {"status": status, "hasActiveRun": active}}))
        };
        assert!(session("running", false));
        assert!(!session("running", true));
        assert!(!session("done", false));
        assert!(!is_interrupted(&idle()));
        assert!(!is_interrupted(&json!(null)));
    }

    #[test]
    fn what_is_no_history_is_not_taken_for_one() {
        let turn = TurnId::parse("t").unwrap();
        for garbage in [
            json!(null),
            json!({}),
            json!({"messages": "many"}),
            json!([]),
        ] {
            assert_eq!(standing(&garbage, &turn), None, "{garbage}");
        }
    }
}

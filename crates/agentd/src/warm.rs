//! The model's side of the warming turn.
//!
//! A fresh OpenClaw needs seconds for its first turn and a fraction of one for the next, so a pod
//! has its first turn before anybody claims it. There is no user yet and no key: `agentd` answers
//! the model call itself. It knows the call by a random word in the turn's message, so that only
//! this turn is answered here, even if a bind comes in the middle of it.

use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use carapace_core::agentd::ErrorName;
use hyper::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::secret::Secret;

const REPLY: &str = "ready";

/// The word of the warming turn under way, if one is.
#[derive(Debug, Default)]
pub(crate) struct WarmTurn(Mutex<Option<Secret>>);

impl WarmTurn {
    /// From now on calls that carry the word are answered here, until the guard is dropped.
    pub(crate) fn begin(&self, word: Secret) -> Warming<'_> {
        self.set(Some(word));
        Warming(self)
    }

    /// Whether a call belongs to the warming turn.
    pub(crate) fn is_asked_by(&self, request: &[u8]) -> bool {
        let word = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().is_some_and(|word| {
            let word = word.expose().as_bytes();
            request.windows(word.len()).any(|window| window == word)
        })
    }

    fn set(&self, word: Option<Secret>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = word;
    }
}

/// Ends with the warming turn.
pub(crate) struct Warming<'a>(&'a WarmTurn);

impl Drop for Warming<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[derive(Deserialize)]
struct Request {
    model: String,
    #[serde(default)]
    stream: bool,
}

/// One short completion, in the form that was asked for.
pub(crate) fn answer(request: &[u8]) -> Result<Response, ErrorName> {
    let request: Request =
        serde_json::from_slice(request).map_err(|_| ErrorName::MalformedRequest)?;
    // Another model's name than the one asked for would be noted as a change of route.
    let model = request.model;
    let usage = json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0});
    if !request.stream {
        let message = json!({"role": "assistant", "content": REPLY});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        return Ok(axum::Json(json!({
            "id": "warm", "object": "chat.completion", "created": 0, "model": model,
            "choices": [choice], "usage": usage,
        }))
        .into_response());
    }
    let event = |delta: Value, finish_reason: Option<&str>, usage: &Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
        let chunk = json!({
            "id": "warm", "object": "chat.completion.chunk", "created": 0, "model": model,
            "choices": [choice], "usage": usage,
        });
        format!("data: {chunk}\n\n")
    };
    let events = [
        event(
            json!({"role": "assistant", "content": REPLY}),
            None,
            &Value::Null,
        ),
        event(json!({}), Some("stop"), &usage),
        "data: [DONE]\n\n".to_owned(),
    ];
    Ok((
        [(CONTENT_TYPE, "text/event-stream")],
        Body::from(events.concat()),
    )
        .into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_turn_under_way_is_answered_here() {
        let warm = WarmTurn::default();
        let word = Secret::random().unwrap();
        let request = format!("{{\"messages\":[\"{}\"]}}", word.expose());
        assert!(!warm.is_asked_by(request.as_bytes()));
        let warming = warm.begin(word);
        assert!(warm.is_asked_by(request.as_bytes()));
        assert!(!warm.is_asked_by(b"{}"));
        drop(warming);
        assert!(!warm.is_asked_by(request.as_bytes()));
    }
}

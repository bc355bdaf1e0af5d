//! Completions that repeat what was said.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Failure;

/// What a token costs, so that a key's spend grows with its use.
const PRICE: f64 = 0.000_001;

/// OpenClaw puts such a message behind the user's own.
const INTERNAL_CONTEXT: &str = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>";

/// An answer, whole or as a stream.
#[derive(Debug)]
pub(crate) struct Completion {
    id: String,
    created: i64,
    model: String,
    words: Vec<String>,
    prompt_tokens: u64,
    stream: bool,
    stream_usage: bool,
}

fn invalid(message: String) -> Failure {
    Failure::proxy(StatusCode::BAD_REQUEST, "invalid_request_error", message)
}

impl Completion {
    pub(crate) fn of(body: &[u8], known: &str, now: Timestamp) -> Result<Self, Failure> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let request: Value = serde_json::from_slice(body).map_err(|error| {
            invalid(format!("Invalid JSON payload: {error}")).about("request_body")
        })?;
        let model = request["model"].as_str().unwrap_or_default();
        if model != known {
            return Err(invalid(format!(
                "/chat/completions: Invalid model name passed in model={model}. Call `/v1/models` \
                 to view available models for your key."
            )));
        }
        let Some(messages) = request["messages"].as_array() else {
            let message = "/chat/completions: Missing required parameter: 'messages'.";
            return Err(invalid(message.to_owned()).about("messages"));
        };
        let said = messages
            .iter()
            .rev()
            .filter(|message| message["role"] == "user")
            .map(|message| text(&message["content"]))
            .find(|said| !said.starts_with(INTERNAL_CONTEXT))
            .unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            id: format!("chatcmpl-{}-{count}", now.as_microsecond()),
            created: now.as_second(),
            model: model.to_owned(),
            words: format!("You said: {said}")
                .split_inclusive(' ')
                .map(str::to_owned)
                .collect(),
            prompt_tokens: messages
                .iter()
                .map(|message| tokens(&text(&message["content"])))
                .sum(),
            stream: request["stream"] == true,
            stream_usage: request["stream_options"]["include_usage"] == true,
        })
    }

    pub(crate) fn cost(&self) -> f64 {
        let tokens = self.prompt_tokens + self.words.len() as u64;
        u32::try_from(tokens).map_or(f64::from(u32::MAX), f64::from) * PRICE
    }

    fn usage(&self) -> Value {
        let completion_tokens = self.words.len() as u64;
        json!({
            "completion_tokens": completion_tokens,
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        })
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> Value {
        let mut choice = json!({"index": 0, "delta": delta});
        if let Some(reason) = finish_reason {
            choice["finish_reason"] = json!(reason);
        }
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created,
            "model": self.model, "choices": [choice],
        })
    }

    fn chunks(&self) -> Vec<Value> {
        let mut chunks: Vec<Value> = self
            .words
            .iter()
            .map(|word| self.chunk(&json!({"content": word}), None))
            .collect();
        if let Some(first) = chunks.first_mut() {
            first["choices"][0]["delta"]["role"] = json!("assistant");
        }
        chunks.push(self.chunk(&json!({}), Some("stop")));
        if self.stream_usage {
            let mut last = self.chunk(&json!({}), None);
            last["usage"] = self.usage();
            chunks.push(last);
        }
        chunks
    }
}

impl IntoResponse for Completion {
    fn into_response(self) -> Response {
        if !self.stream {
            let message = json!({"content": self.words.concat(), "role": "assistant"});
            let choice = json!({"finish_reason": "stop", "index": 0, "message": message});
            return Json(json!({
                "id": self.id, "created": self.created, "model": self.model,
                "object": "chat.completion", "choices": [choice], "usage": self.usage(),
            }))
            .into_response();
        }
        let events = self
            .chunks()
            .into_iter()
            .map(|chunk| format!("data: {chunk}\n\n"));
        let events = events.chain(["data: [DONE]\n\n".to_owned()]);
        // Each event is a piece of its own on the wire, as a client must be ready for.
        let pieces = events.map(Ok::<_, std::convert::Infallible>);
        let body = Body::from_stream(futures::stream::iter(pieces));
        ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], body).into_response()
    }
}

/// A message's content is a text or a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    }
}

fn tokens(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

//! Completions by script, in the real proxy's form.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Failure, refusals};
use crate::model::{self, Fault, Role, Said, Script};

/// What a token costs, so that a key's spend grows with its use.
const PRICE: f64 = 0.000_001;
const CALL_ID: &str = "call_1";
/// The tool that is used for a command: OpenClaw's.
const TOOL: &str = "exec";

/// An answer, whole or as a stream.
#[derive(Debug)]
pub(crate) struct Completion {
    id: String,
    created: i64,
    model: String,
    script: Script,
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
        let tools = request["tools"].as_array();
        let messages: Vec<Said> = messages.iter().map(said).collect();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            id: format!("chatcmpl-{}-{count}", now.as_microsecond()),
            created: now.as_second(),
            model: model.to_owned(),
            script: Script::of(&messages, tools.is_some_and(|tools| !tools.is_empty())),
            prompt_tokens: messages.iter().map(|said| model::tokens(&said.text)).sum(),
            stream: request["stream"] == true,
            stream_usage: request["stream_options"]["include_usage"] == true,
        })
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.script.fault
    }

    /// Lets it fail, whatever was asked.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.script.fail(fault);
    }

    pub(crate) fn cost(&self) -> f64 {
        let tokens = self.prompt_tokens + self.script.words.len() as u64;
        u32::try_from(tokens).map_or(f64::from(u32::MAX), f64::from) * PRICE
    }

    fn usage(&self) -> Value {
        let completion_tokens = self.script.words.len() as u64;
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

    /// The chunks, and how long each of them takes.
    fn chunks(&self) -> Vec<(Duration, Value)> {
        let mut chunks: Vec<(Duration, Value)> = Vec::new();
        let mut finish_reason = "stop";
        if let Some(command) = &self.script.command {
            let function = json!({"name": TOOL, "arguments": arguments(command)});
            let call = json!({"index": 0, "id": CALL_ID, "type": "function", "function": function});
            let delta = json!({"content": null, "tool_calls": [call]});
            chunks.push((Duration::ZERO, self.chunk(&delta, None)));
            finish_reason = "tool_calls";
        } else {
            for (number, word) in self.script.words.iter().enumerate() {
                let wait = if number < self.script.slow {
                    model::SLOW
                } else {
                    Duration::ZERO
                };
                chunks.push((wait, self.chunk(&json!({"content": word}), None)));
            }
        }
        if let Some((_, first)) = chunks.first_mut() {
            first["choices"][0]["delta"]["role"] = json!("assistant");
        }
        if self.is_broken_off() {
            return chunks;
        }
        chunks.push((Duration::ZERO, self.chunk(&json!({}), Some(finish_reason))));
        if self.stream_usage {
            let mut last = self.chunk(&json!({}), None);
            last["usage"] = self.usage();
            chunks.push((Duration::ZERO, last));
        }
        chunks
    }

    fn is_broken_off(&self) -> bool {
        self.script.fault.is_some_and(Fault::is_midway)
    }

    fn whole(&self) -> Value {
        let (message, finish_reason) = if let Some(command) = &self.script.command {
            let function = json!({"name": TOOL, "arguments": arguments(command)});
            let call = json!({"id": CALL_ID, "type": "function", "function": function});
            let message = json!({"content": null, "role": "assistant", "tool_calls": [call]});
            (message, "tool_calls")
        } else {
            let said = self.script.words.concat();
            (json!({"content": said, "role": "assistant"}), "stop")
        };
        let choice = json!({"finish_reason": finish_reason, "index": 0, "message": message});
        json!({
            "id": self.id, "created": self.created, "model": self.model,
            "object": "chat.completion", "choices": [choice], "usage": self.usage(),
        })
    }
}

impl IntoResponse for Completion {
    fn into_response(self) -> Response {
        if !self.stream {
            return Json(self.whole()).into_response();
        }
        let mut events: Vec<(Duration, String)> = self
            .chunks()
            .into_iter()
            .map(|(wait, chunk)| (wait, format!("data: {chunk}\n\n")))
            .collect();
        match self.script.fault {
            // The real one ends it without the [DONE].
            Some(Fault::Midway) => {
                let error = refusals::midway();
                events.push((Duration::ZERO, format!("data: {error}\n\n")));
            }
            Some(Fault::Cut) => {}
            _ => events.push((Duration::ZERO, "data: [DONE]\n\n".to_owned())),
        }
        // Each event is a piece of its own on the wire, as a client must be ready for.
        let pieces = futures::stream::iter(events).then(|(wait, event)| async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            Ok::<_, std::convert::Infallible>(event)
        });
        let body = Body::from_stream(pieces);
        ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], body).into_response()
    }
}

fn arguments(command: &str) -> String {
    json!({"command": command}).to_string()
}

fn said(message: &Value) -> Said {
    Said {
        role: match message["role"].as_str() {
            Some("user") => Role::User,
            Some("tool") => Role::Tool,
            _ => Role::Other,
        },
        text: text(&message["content"]),
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

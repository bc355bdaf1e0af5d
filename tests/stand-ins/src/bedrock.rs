//! Stand-in for Amazon Bedrock's runtime: `Converse` and `ConverseStream`, as far as LiteLLM uses them.
//!
//! A call has to be signed, though the signature isn't checked: whoever forgets to sign would be
//! refused by the real one, too. What is answered follows the script in what is asked; the refusals
//! are Bedrock's own, by their names.

mod event_stream;

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};

use crate::model::{self, Fault, Role, Said, Script};

const CREDENTIAL: &str = "AWS4-HMAC-SHA256 Credential=";
const TOOL_USE_ID: &str = "tooluse_1";
/// The tool that is used for a command: OpenClaw's.
const TOOL: &str = "exec";

/// The routes of a runtime that has these models.
pub fn router(models: Vec<String>) -> Router {
    Router::new()
        .route("/model/{model}/converse", post(converse))
        .route("/model/{model}/converse-stream", post(converse_stream))
        .with_state(models)
}

/// A refusal, before anything was answered.
#[derive(Debug)]
struct Exception {
    status: StatusCode,
    name: &'static str,
    message: String,
}

impl Exception {
    fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            name,
            message: message.into(),
        }
    }

    /// By the status that a script asks for; none for one that only a gateway has.
    fn scripted(status: u16) -> Option<Self> {
        let (name, message) = match status {
            403 => (
                "AccessDeniedException",
                "You don't have access to the model with the specified model ID.",
            ),
            429 => (
                "ThrottlingException",
                "Too many requests, please wait before trying again.",
            ),
            500 => (
                "InternalServerException",
                "The system encountered an unexpected error during processing. Try your request again.",
            ),
            503 => (
                "ServiceUnavailableException",
                "Bedrock is unable to process your request.",
            ),
            _ => return None,
        };
        Some(Self::new(StatusCode::from_u16(status).ok()?, name, message))
    }
}

impl IntoResponse for Exception {
    fn into_response(self) -> Response {
        let body = Json(json!({"message": self.message}));
        let mut response = (self.status, [("x-amzn-ErrorType", self.name)], body).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS
            && let Ok(seconds) = model::RETRY_AFTER.parse()
        {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// A call that is answered.
struct Call {
    script: Script,
    input_tokens: u64,
}

async fn call(
    models: &[String],
    model: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Call, Exception> {
    let signature = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    if !signature
        .is_some_and(|it| it.starts_with(CREDENTIAL) && it.contains("/bedrock/aws4_request"))
    {
        let name = "MissingAuthenticationTokenException";
        return Err(Exception::new(
            StatusCode::FORBIDDEN,
            name,
            "Missing Authentication Token",
        ));
    }
    if !models.iter().any(|known| known == model) {
        let message = "The provided model identifier is invalid.";
        return Err(validation(message));
    }
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| validation(&format!("The body is no JSON: {error}")))?;
    let Some(messages) = request["messages"].as_array() else {
        return Err(validation("messages is missing"));
    };
    let messages: Vec<Said> = messages.iter().flat_map(said).collect();
    let tools = request["toolConfig"]["tools"].as_array();
    let script = Script::of(&messages, tools.is_some_and(|tools| !tools.is_empty()));
    match script.fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Status(status)) => {
            if let Some(refusal) = Exception::scripted(status) {
                return Err(refusal);
            }
        }
        _ => {}
    }
    Ok(Call {
        script,
        input_tokens: messages.iter().map(|said| model::tokens(&said.text)).sum(),
    })
}

fn validation(message: &str) -> Exception {
    Exception::new(StatusCode::BAD_REQUEST, "ValidationException", message)
}

/// A message's texts and tool results, each as something said.
fn said(message: &Value) -> Vec<Said> {
    let role = if message["role"] == "user" {
        Role::User
    } else {
        Role::Other
    };
    let mut texts = String::new();
    let mut all = Vec::new();
    for block in message["content"].as_array().into_iter().flatten() {
        if let Some(text) = block["text"].as_str() {
            // LiteLLM joins what several messages of one role said into one.
            if role == Role::User && !texts.is_empty() {
                all.push(Said {
                    role,
                    text: std::mem::take(&mut texts),
                });
            }
            texts.push_str(text);
        }
        let result = block["toolResult"]["content"].as_array();
        for text in result
            .into_iter()
            .flatten()
            .filter_map(|it| it["text"].as_str())
        {
            all.push(Said {
                role: Role::Tool,
                text: text.to_owned(),
            });
        }
    }
    if !texts.is_empty() {
        all.push(Said { role, text: texts });
    }
    all
}

impl Call {
    fn usage(&self) -> Value {
        let output = self.script.words.len() as u64;
        json!({
            "inputTokens": self.input_tokens, "outputTokens": output,
            "totalTokens": self.input_tokens + output,
        })
    }

    fn tool_input(&self) -> Option<Value> {
        let command = self.script.command.as_ref()?;
        Some(json!({"command": command}))
    }

    /// What an event stream says, and how long it waits before each.
    fn events(&self) -> Vec<(Duration, Vec<u8>)> {
        let mut events = vec![("messageStart", json!({"role": "assistant"}), Duration::ZERO)];
        let stop_reason = if let Some(input) = self.tool_input() {
            let start = json!({"toolUse": {"toolUseId": TOOL_USE_ID, "name": TOOL}});
            let delta = json!({"toolUse": {"input": input.to_string()}});
            let block = |name: &str, value: Value| json!({name: value, "contentBlockIndex": 0});
            events.push(("contentBlockStart", block("start", start), Duration::ZERO));
            events.push(("contentBlockDelta", block("delta", delta), Duration::ZERO));
            "tool_use"
        } else {
            for (number, word) in self.script.words.iter().enumerate() {
                let wait = if number < self.script.slow {
                    model::SLOW
                } else {
                    Duration::ZERO
                };
                let delta = json!({"delta": {"text": word}, "contentBlockIndex": 0});
                events.push(("contentBlockDelta", delta, wait));
            }
            "end_turn"
        };
        let is_broken_off = self.script.fault.is_some_and(Fault::is_midway);
        if !is_broken_off {
            let end = json!({"stopReason": stop_reason});
            let metadata = json!({"usage": self.usage(), "metrics": {"latencyMs": 1}});
            events.push((
                "contentBlockStop",
                json!({"contentBlockIndex": 0}),
                Duration::ZERO,
            ));
            events.push(("messageStop", end, Duration::ZERO));
            events.push(("metadata", metadata, Duration::ZERO));
        }
        let mut encoded: Vec<_> = events
            .into_iter()
            .map(|(name, payload, wait)| (wait, event_stream::event(name, &payload)))
            .collect();
        if self.script.fault == Some(Fault::Midway) {
            let payload = json!({"message": "Too many requests, please wait before trying again."});
            let exception = event_stream::exception("throttlingException", &payload);
            encoded.push((Duration::ZERO, exception));
        }
        encoded
    }
}

async fn converse(
    State(models): State<Vec<String>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Exception> {
    let call = call(&models, &model, &headers, &body).await?;
    let (content, stop_reason) = match call.tool_input() {
        Some(input) => {
            let tool = json!({"toolUseId": TOOL_USE_ID, "name": TOOL, "input": input});
            (json!({"toolUse": tool}), "tool_use")
        }
        None => (json!({"text": call.script.words.concat()}), "end_turn"),
    };
    let message = json!({"role": "assistant", "content": [content]});
    let answer = json!({
        "output": {"message": message}, "stopReason": stop_reason,
        "usage": call.usage(), "metrics": {"latencyMs": 1},
    });
    Ok(Json(answer).into_response())
}

async fn converse_stream(
    State(models): State<Vec<String>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Exception> {
    let call = call(&models, &model, &headers, &body).await?;
    let is_cut = call.script.fault == Some(Fault::Cut);
    let body = Body::from_stream(pieces(call.events(), is_cut));
    let kind = "application/vnd.amazon.eventstream";
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

/// Each event is a piece of its own on the wire; what is cut ends by a broken connection.
fn pieces(
    events: Vec<(Duration, Vec<u8>)>,
    is_cut: bool,
) -> impl Stream<Item = Result<Vec<u8>, std::io::Error>> {
    let events = futures::stream::iter(events).then(|(wait, event)| async move {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok::<_, Infallible>(event)
    });
    let end = is_cut.then(|| Err(std::io::ErrorKind::ConnectionReset.into()));
    // Whoever reads the pieces has read the last one before the connection breaks: a reset overtakes
    // what is still on its way.
    let end = futures::stream::iter(end).then(|end| async {
        tokio::time::sleep(model::SLOW).await;
        end
    });
    events
        .map(|event| event.map_err(|never| match never {}))
        .chain(end)
}

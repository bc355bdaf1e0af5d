//! The line to OpenClaw: its WebSocket gateway, protocol 4, on the pod's loopback.
//!
//! One connection is kept for as long as it holds. Over it `agentd` learns the version, warms a
//! fresh gateway with one turn on the agent `warm`, sends the user's turns, and follows their runs. When
//! the connection breaks, OpenClaw has usually restarted, and everything begins again: waiting,
//! connecting, and, while there is no user, warming. After a bind there is no warming turn any more:
//! the user's first turn is as good, and nothing but the user's turns should use the user's key.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::Shared;
use crate::openclaw_config::WARM_AGENT;
use crate::secret::Secret;
use crate::switchboard::{Exchange, RequestError};

const PROTOCOL: u8 = 4;
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Below the two seconds that the kubelet gives its probe, so that it hears the reason.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A first turn takes some seconds, and under gVisor on a busy node many.
const WARM_TIMEOUT: Duration = Duration::from_mins(2);
/// Between one broken line and the next.
const PAUSE: Duration = Duration::from_millis(500);
/// The greeting lists every method, and a history holds the messages of a conversation's end.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// What is known of OpenClaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not up, or the line is down.
    Down,
    /// Up, in its first turn.
    Warming,
    /// Ready for its user.
    Ready,
}

/// The latest news of OpenClaw.
#[derive(Debug)]
pub(crate) struct Health(Mutex<(Phase, Option<String>)>);

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new((Phase::Down, None)))
    }
}

impl Health {
    pub(crate) fn phase(&self) -> Phase {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn version(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }

    fn set(&self, phase: Phase, version: Option<&str>) {
        let mut health = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        health.0 = phase;
        if let Some(version) = version {
            health.1 = Some(version.to_owned());
        }
    }
}

/// Why the line broke.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("connecting to the gateway")]
    Connect(#[source] std::io::Error),
    #[error("talking to the gateway")]
    WebSocket(#[from] tungstenite::Error),
    #[error("the gateway said something that is no message of protocol {PROTOCOL}")]
    Protocol,
    #[error("the gateway refused {method}: {reason}")]
    Refused {
        method: &'static str,
        reason: String,
    },
    #[error("the gateway closed the line")]
    Closed,
    #[error("the gateway took longer than {0:?}")]
    Timeout(Duration),
    #[error("the warming turn failed: {0}")]
    WarmTurn(String),
    #[error("there is no randomness for the warming turn")]
    Randomness(#[source] std::io::Error),
}

/// Keeps the line up for as long as the process runs.
pub(crate) async fn keep_line(shared: Arc<Shared>, mut exchange: Exchange) {
    loop {
        until_ready(&shared).await;
        let Err(error) = follow(&shared, &mut exchange).await;
        exchange.close();
        shared.health.set(Phase::Down, None);
        shared.activity.forget_runs(Timestamp::now());
        tracing::warn!(error = %chain(&error), "the line to OpenClaw is down");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether OpenClaw says at this moment that it takes turns.
pub(crate) async fn is_ready(shared: &Shared) -> bool {
    let Ok(request) = shared
        .openclaw
        .request(Method::GET, "/readyz", Bytes::new())
    else {
        return false;
    };
    let answer = tokio::time::timeout(PROBE_TIMEOUT, shared.openclaw.send(request)).await;
    matches!(answer, Ok(Ok(answer)) if answer.status() == StatusCode::OK)
}

async fn until_ready(shared: &Shared) {
    while !is_ready(shared).await {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn follow(
    shared: &Shared,
    exchange: &mut Exchange,
) -> Result<std::convert::Infallible, LineError> {
    let connecting = Line::connect(shared.config.openclaw, &shared.gateway_token);
    let (mut line, version) = within(HANDSHAKE_TIMEOUT, connecting).await?;
    shared.health.set(Phase::Warming, Some(&version));
    if matches!(shared.binding.bound(), Ok(None)) {
        let started = std::time::Instant::now();
        within(WARM_TIMEOUT, warm(&mut line, shared)).await?;
        tracing::info!(%version, took = ?started.elapsed(), "OpenClaw is warm");
    }
    shared.health.set(Phase::Ready, Some(&version));
    exchange.open();
    loop {
        tokio::select! {
            frame = line.frame() => match frame? {
                Frame::Event(event) => note(shared, &event),
                Frame::Res(answer) => exchange.answered(&answer.id.clone(), answer.into_result()),
                Frame::Other => {}
            },
            call = exchange.next() => {
                let id = line.send(call.method, &call.params).await?;
                exchange.sent(id, call);
            }
        }
    }
}

/// One turn, up to its end.
async fn warm(line: &mut Line, shared: &Shared) -> Result<(), LineError> {
    let word = Secret::random().map_err(LineError::Randomness)?;
    let run = format!("warm-{}", &word.expose()[..16]);
    let message = format!("Answer with one word: ready. ({})", word.expose());
    let _answered_here = shared.warm_turn.begin(word);
    let turn = json!({
        "sessionKey": format!("agent:{WARM_AGENT}:{run}"),
        "message": message,
        "idempotencyKey": run,
    });
    line.request("chat.send", &turn).await?;
    loop {
        match line.event().await?.run_event() {
            Some(RunEvent {
                run: ended,
                phase: RunPhase::End,
                ..
            }) if ended == run => return Ok(()),
            Some(RunEvent {
                run: ended,
                phase: RunPhase::Error,
                error,
                ..
            }) if ended == run => {
                return Err(LineError::WarmTurn(error.unwrap_or_default()));
            }
            _ => {}
        }
    }
}

fn note(shared: &Shared, event: &Event) {
    shared.turns.note(&event.event, &event.payload);
    let Some(event) = event.run_event() else {
        return;
    };
    if event.agent.as_deref() == Some(WARM_AGENT) {
        return;
    }
    match event.phase {
        RunPhase::Start => shared.activity.run_started(&event.run, Timestamp::now()),
        RunPhase::End | RunPhase::Error => {
            shared.activity.run_ended(&event.run, Timestamp::now());
        }
        RunPhase::Other => {}
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, LineError>>,
) -> Result<T, LineError> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| LineError::Timeout(limit))?
}

fn chain(error: &LineError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What the gateway sends.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Frame {
    Event(Event),
    Res(Answer),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    payload: Value,
}

#[derive(Deserialize)]
struct Answer {
    id: String,
    ok: bool,
    #[serde(default)]
    payload: Value,
    #[serde(default)]
    error: Value,
}

impl Answer {
    fn into_result(self) -> Result<Value, RequestError> {
        if self.ok {
            return Ok(self.payload);
        }
        Err(RequestError::Refused {
            reason: self.reason(),
            is_temporary: self.error["code"] == "UNAVAILABLE",
        })
    }

    fn reason(&self) -> String {
        let reason = self.error["message"].as_str().unwrap_or("no reason given");
        reason.chars().take(200).collect()
    }
}

/// An `agent` event of the stream `lifecycle`.
#[derive(Debug, PartialEq, Eq)]
struct RunEvent {
    run: String,
    agent: Option<String>,
    phase: RunPhase,
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunPhase {
    Start,
    End,
    Error,
    /// Between the two: the model is known, the run is finishing.
    Other,
}

impl Event {
    fn run_event(&self) -> Option<RunEvent> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let payload = &self.payload;
        if self.event != "agent" || payload["stream"] != "lifecycle" {
            return None;
        }
        Some(RunEvent {
            run: text(&payload["runId"])?,
            agent: text(&payload["agentId"]),
            phase: match payload["data"]["phase"].as_str()? {
                "start" => RunPhase::Start,
                "end" => RunPhase::End,
                "error" => RunPhase::Error,
                _ => RunPhase::Other,
            },
            error: text(&payload["data"]["error"]),
        })
    }
}

struct Line {
    socket: WebSocketStream<TcpStream>,
    last_id: u64,
}

impl Line {
    /// Connects and introduces itself; returns OpenClaw's version too.
    async fn connect(address: SocketAddr, token: &Secret) -> Result<(Self, String), LineError> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(LineError::Connect)?;
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let url = format!("ws://{address}/");
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(url, stream, Some(limits)).await?;
        let mut line = Self { socket, last_id: 0 };
        while line.event().await?.event != "connect.challenge" {}
        let introduction = json!({
            "minProtocol": PROTOCOL,
            "maxProtocol": PROTOCOL,
            "client": {
                "id": "gateway-client",
                "version": env!("CARGO_PKG_VERSION"),
                "platform": "linux",
                "mode": "backend",
            },
            "role": "operator",
            // No more than turns need.
            "scopes": ["operator.read", "operator.write"],
            "caps": ["tool-events"],
            "commands": [],
            "permissions": {},
            "auth": {"token": token.expose()},
        });
        let hello = line.request("connect", &introduction).await?;
        let version = hello["server"]["version"]
            .as_str()
            .ok_or(LineError::Protocol)?;
        let version = version.chars().take(64).collect();
        Ok((line, version))
    }

    /// Asks and waits for the answer. Events in between are not kept: whoever asks has nothing
    /// under way yet.
    async fn request(&mut self, method: &'static str, params: &Value) -> Result<Value, LineError> {
        let id = self.send(method, params).await?;
        loop {
            match self.frame().await? {
                Frame::Res(answer) if answer.id == id && answer.ok => return Ok(answer.payload),
                Frame::Res(answer) if answer.id == id => {
                    let reason = answer.reason();
                    return Err(LineError::Refused { method, reason });
                }
                _ => {}
            }
        }
    }

    /// Asks, and tells under which id.
    async fn send(&mut self, method: &'static str, params: &Value) -> Result<String, LineError> {
        self.last_id += 1;
        let id = self.last_id.to_string();
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.socket.send(Message::text(frame.to_string())).await?;
        Ok(id)
    }

    async fn event(&mut self) -> Result<Event, LineError> {
        loop {
            if let Frame::Event(event) = self.frame().await? {
                return Ok(event);
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame, LineError> {
        loop {
            match self.socket.next().await.ok_or(LineError::Closed)?? {
                Message::Text(text) => {
                    return serde_json::from_str(&text).map_err(|_| LineError::Protocol);
                }
                Message::Close(_) => return Err(LineError::Closed),
                // Pings are answered by the library.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 2026.9.6 sends it.
    fn event(stream: &str, data: &str) -> Event {
        let text = format!(
            r#"{{"type":"event","event":"agent","payload":{{"runId":"run-1","sessionKey":"agent:main:c1",
            "sessionId":"35a633a6-fd29-4bab-9bab-d80827b6d415","agentId":"main","stream":"{stream}",
            "data":{data},"seq":3,"ts":1795559729996,"isHeartbeat":false}},"seq":13}}"#
        );
        match serde_json::from_str(&text).unwrap() {
            Frame::Event(event) => event,
            _ => panic!("{text}"),
        }
    }

    #[test]
    fn a_run_lasts_from_start_to_end_and_nothing_in_between_ends_it() {
        for (data, phase) in [
            (
                r#"{"phase":"start","startedAt":1795559729996}"#,
                RunPhase::Start,
            ),
            (
                r#"{"phase":"model","provider":"agentd","model":"agent"}"#,
                RunPhase::Other,
            ),
            (
                r#"{"phase":"finishing","stopReason":"stop","aborted":false}"#,
                RunPhase::Other,
            ),
            (
                r#"{"phase":"end","stopReason":"stop","aborted":false}"#,
                RunPhase::End,
            ),
            (
                r#"{"phase":"error","error":"the model answered 429"}"#,
                RunPhase::Error,
            ),
        ] {
            let event = event("lifecycle", data).run_event().unwrap();
            assert_eq!(event.phase, phase, "{data}");
            assert_eq!(
                (event.run.as_str(), event.agent.as_deref()),
                ("run-1", Some("main"))
            );
        }
    }

    #[test]
    fn other_events_are_no_runs() {
        for (stream, data) in [
            ("run_status", r#"{"phase":"start"}"#),
            ("assistant", r#"{"text":"end","delta":"end"}"#),
            ("lifecycle", "{}"),
            ("lifecycle", "null"),
        ] {
            assert_eq!(event(stream, data).run_event(), None, "{stream} {data}");
        }
        let text = r#"{"type":"event","event":"chat","payload":{"stream":"lifecycle"}}"#;
        let Frame::Event(chat) = serde_json::from_str(text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!(chat.run_event(), None);
    }

    #[test]
    fn a_frame_of_a_newer_protocol_is_passed_over() {
        let text = r#"{"type":"hologram","payload":{"a":1}}"#;
        assert!(matches!(serde_json::from_str(text).unwrap(), Frame::Other));
    }
}

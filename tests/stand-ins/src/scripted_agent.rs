//! Stand-in for OpenClaw: the gateway's HTTP probes and its WebSocket protocol 4, without the
//! agent behind it. A turn is one call of the model and its answer, but for what [some words in the
//! message](turns) ask for.
//!
//! It is as strict as the original in what `agentd` depends on: an unknown key in the configuration
//! stops it, a client is challenged first and has to introduce itself with the token, methods want
//! their scopes, a session has one turn at a time, and a turn goes on when its client is gone.

mod config;
mod turns;
mod wire;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

pub use config::{Configuration, read};

use turns::{Event, Turns};
use wire::{Connect, Failure, Request as Call};

/// The version whose behaviour is imitated, marked as an imitation.
pub const VERSION: &str = "2026.9.6-scripted";

const PROTOCOL: u64 = 4;
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

struct Gateway {
    configuration: Configuration,
    turns: Turns,
}

/// Waits for the configuration to appear: `agentd` writes it while this container starts.
pub async fn wait_for_configuration(path: &Path) -> anyhow::Result<Configuration> {
    while !tokio::fs::try_exists(path).await.unwrap_or(false) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = tokio::fs::read(path)
        .await
        .with_context(|| format!("reading {}", path.display()))?;
    read(&text).with_context(|| format!("{} is not a configuration", path.display()))
}

/// Serves on the configured port of the loopback.
pub async fn listen(configuration: &Configuration) -> anyhow::Result<TcpListener> {
    let port = configuration.port();
    TcpListener::bind(("127.0.0.1", port))
        .await
        .with_context(|| format!("listening on {port}"))
}

/// Serves until the task is dropped, or a turn crashes it. What was said is kept in the directory
/// `state`, if one is given, for the next program.
pub async fn serve(
    listener: TcpListener,
    configuration: Configuration,
    state: Option<&Path>,
) -> anyhow::Result<()> {
    let turns = Turns::new(&configuration, state)?;
    let gateway = Arc::new(Gateway {
        configuration,
        turns,
    });
    let router = Router::new()
        .route(
            "/health",
            get(async || Json(json!({"ok": true, "status": "live"}))),
        )
        .route(
            "/readyz",
            get(async || Json(json!({"ready": true, "failing": []}))),
        )
        .route("/", get(upgrade))
        .with_state(Arc::clone(&gateway));
    tokio::select! {
        served = axum::serve(listener, router) => served.context("serving"),
        () = gateway.turns.crashed() => {
            gateway.turns.fall();
            anyhow::bail!("crashed, as a turn asked for")
        }
    }
}

async fn upgrade(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let Some(accept) = accepted_key(request.headers()) else {
        return (StatusCode::BAD_REQUEST, "this is a WebSocket").into_response();
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
        converse(&gateway, socket).await;
    });
    let headers = [
        (CONNECTION, "Upgrade".to_owned()),
        (UPGRADE, "websocket".to_owned()),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn accepted_key(headers: &HeaderMap) -> Option<String> {
    let is = |name, expected: &str| {
        headers
            .get(name)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes()))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    (is(UPGRADE, "websocket") && is(SEC_WEBSOCKET_VERSION, "13"))
        .then(|| derive_accept_key(key.as_bytes()))
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// One client, from the challenge to the end of its line. Its turns outlive it.
async fn converse(gateway: &Gateway, mut socket: Socket) {
    let introduced = tokio::time::timeout(HANDSHAKE_TIMEOUT, introduce(gateway, &mut socket)).await;
    let Ok(Some(scopes)) = introduced else {
        let frame = CloseFrame {
            code: 1008.into(),
            reason: "connect first".into(),
        };
        let _ = socket.close(Some(frame)).await;
        return;
    };
    let mut events = gateway.turns.events();
    let mut number = 0_u64;
    loop {
        let frame = tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => answer(gateway, &scopes, &text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            event = events.recv() => match event {
                Ok(Event::Told { name, payload }) if scopes.contains("operator.read") => {
                    number += 1;
                    json!({"type": "event", "event": name, "payload": payload, "seq": number})
                }
                Ok(Event::Told { .. }) => continue,
                Ok(Event::Garbage) => json!("garbage"),
                // A client that doesn't keep up loses its line, as with the original.
                Ok(Event::Drop) | Err(_) => return,
            },
        };
        if socket.send(Message::text(frame.to_string())).await.is_err() {
            return;
        }
    }
}

/// The challenge, and the client's first request; returns the scopes it was granted.
async fn introduce(gateway: &Gateway, socket: &mut Socket) -> Option<HashSet<String>> {
    let challenge = json!({
        "type": "event",
        "event": "connect.challenge",
        "payload": {"nonce": turns::unique(), "ts": jiff::Timestamp::now().as_millisecond()},
    });
    socket
        .send(Message::text(challenge.to_string()))
        .await
        .ok()?;
    loop {
        let Message::Text(text) = socket.next().await?.ok()? else {
            continue;
        };
        let call: Call = serde_json::from_str(&text).ok()?;
        let answer = Connect::check(&call, gateway.configuration.token(), PROTOCOL);
        let (frame, scopes) = match answer {
            Ok(scopes) => (wire::success(&call.id, &greeting()), Some(scopes)),
            Err(failure) => (wire::failure(&call.id, &failure), None),
        };
        socket.send(Message::text(frame.to_string())).await.ok()?;
        return scopes;
    }
}

fn greeting() -> Value {
    json!({
        "type": "hello-ok",
        "protocol": PROTOCOL,
        "server": {"version": VERSION, "connId": turns::unique()},
        "features": {
            "methods": ["health", "chat.send", "chat.history", "sessions.abort", "sessions.subscribe", "sessions.messages.subscribe"],
            "events": ["connect.challenge", "agent", "chat"],
        },
    })
}

fn answer(gateway: &Gateway, scopes: &HashSet<String>, text: &str) -> Value {
    let call: Call = match serde_json::from_str(text) {
        Ok(call) => call,
        Err(error) => return wire::failure("", &Failure::invalid(error.to_string())),
    };
    let needs = match call.method.as_str() {
        "chat.send" | "sessions.abort" => "operator.write",
        _ => "operator.read",
    };
    let result = if scopes.contains(needs) {
        perform(gateway, &call)
    } else {
        Err(Failure::invalid(format!("missing scope: {needs}")))
    };
    match result {
        Ok(payload) => wire::success(&call.id, &payload),
        Err(failure) => wire::failure(&call.id, &failure),
    }
}

fn perform(gateway: &Gateway, call: &Call) -> Result<Value, Failure> {
    match call.method.as_str() {
        "health" => Ok(json!({"ok": true})),
        "sessions.subscribe" | "sessions.messages.subscribe" => Ok(json!({"subscribed": true})),
        "chat.send" => gateway.turns.send(call.params()?),
        "chat.history" => gateway.turns.history(&call.params()?),
        "sessions.abort" => gateway.turns.abort(&call.params()?),
        method => Err(Failure::invalid(format!("unknown method: {method}"))),
    }
}

//! The stand-in for OpenClaw: as strict as the original where somebody could rely on it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use carapace_stand_ins::model_gateway::{ModelGateway, Settings};
use carapace_stand_ins::scripted_agent;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const MASTER: &str = "sk-master-0123456789";

fn configuration(model: SocketAddr) -> Value {
    json!({
        "gateway": {
            "mode": "local", "bind": "loopback", "port": 18789,
            "auth": {"mode": "token", "token": "gateway-token"},
            "controlUi": {"enabled": false},
        },
        "update": {"checkOnStart": false},
        "plugins": {"enabled": false, "slots": {"memory": "none"}},
        "tools": {"profile": "coding", "exec": {"host": "gateway", "security": "full", "ask": "off"}},
        "models": {
            "mode": "replace",
            "catalogRefresh": {"enabled": false},
            "providers": {"agentd": {
                "baseUrl": format!("http://{model}/v1"), "apiKey": MASTER, "api": "openai-completions",
                "models": [{
                    "id": "agent", "name": "agent", "reasoning": false, "input": ["text"],
                    "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
                    "contextWindow": 128_000, "maxTokens": 8192,
                }],
            }},
        },
        "agents": {
            "ownership": "explicit",
            "defaults": {
                "model": {"primary": "agentd/agent"}, "workspace": "/workspace",
                "skipBootstrap": true, "heartbeat": {"every": "0m"},
                "systemAgent": {"agentId": "main"},
            },
            "entries": {"main": {"workspace": "/workspace"}, "warm": {"workspace": "/tmp/warm"}},
        },
        "talk": {"agentId": "main"},
    })
}

fn read(configuration: &Value) -> anyhow::Result<scripted_agent::Configuration> {
    scripted_agent::read(configuration.to_string().as_bytes())
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// An agent in front of the stand-in for the model gateway.
async fn start() -> SocketAddr {
    let settings = Settings {
        master_key: MASTER.to_owned(),
        model: "agent".to_owned(),
    };
    start_with(serve(ModelGateway::new(settings).unwrap().router()).await).await
}

async fn start_with(model: SocketAddr) -> SocketAddr {
    let configuration = read(&configuration(model)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        scripted_agent::serve(listener, configuration, None)
            .await
            .unwrap();
    });
    address
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
}

impl Client {
    async fn open(address: SocketAddr) -> Self {
        let url = format!("ws://{address}/");
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut client = Self { socket, last_id: 0 };
        let challenge = client.frame().await;
        assert_eq!(challenge["event"], "connect.challenge");
        assert!(challenge["payload"]["nonce"].is_string());
        client
    }

    async fn connected(address: SocketAddr) -> Self {
        let mut client = Self::open(address).await;
        let hello = client.request("connect", introduction()).await;
        assert_eq!(
            (&hello["ok"], &hello["payload"]["protocol"]),
            (&json!(true), &json!(4))
        );
        client
    }

    async fn frame(&mut self) -> Value {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(10), self.socket.next()).await;
            match next.unwrap() {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Close(frame))) => {
                    return json!({"closed": frame.unwrap().code.to_string()});
                }
                Some(Ok(_)) => {}
                other => panic!("the line broke: {other:?}"),
            }
        }
    }

    async fn request(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id.to_string();
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.socket
            .send(Message::text(frame.to_string()))
            .await
            .unwrap();
        loop {
            let frame = self.frame().await;
            if frame["id"] == id {
                return frame;
            }
        }
    }

    async fn send(&mut self, session: &str, message: &str, key: &str) -> Value {
        let params = json!({"sessionKey": session, "message": message, "idempotencyKey": key});
        self.request("chat.send", params).await
    }

    /// The lifecycle events up to the end of a run, and what was said.
    async fn follow(&mut self, run: &str) -> (Vec<String>, String) {
        let (mut phases, mut said) = (Vec::new(), String::new());
        loop {
            let payload = self.frame().await["payload"].take();
            if payload["runId"] != run {
                continue;
            }
            match payload["stream"].as_str() {
                Some("lifecycle") => {
                    let phase = payload["data"]["phase"].as_str().unwrap();
                    phases.push(phase.to_owned());
                    if phase == "end" || phase == "error" {
                        return (phases, said);
                    }
                }
                Some("assistant") => said.push_str(payload["data"]["delta"].as_str().unwrap()),
                _ => {}
            }
        }
    }
}

fn introduction() -> Value {
    json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator",
        "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
        "scopes": ["operator.read", "operator.write"], "auth": {"token": "gateway-token"},
    })
}

#[tokio::test]
async fn a_turn_is_answered_by_the_model_piece_by_piece() {
    let address = start().await;
    let mut client = Client::connected(address).await;
    let accepted = client.send("agent:main:one", "hello there", "turn-1").await;
    assert_eq!(
        accepted["payload"],
        json!({"runId": "turn-1", "status": "started"})
    );
    let (phases, said) = client.follow("turn-1").await;
    assert_eq!(phases, ["start", "end"]);
    assert_eq!(said, "You said: hello there");
    let history = client
        .request("chat.history", json!({"sessionKey": "agent:main:one"}))
        .await;
    let texts: Vec<_> = history["payload"]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            let content = &message["content"];
            let text = content.as_str().or_else(|| content[0]["text"].as_str());
            text.unwrap()
        })
        .collect();
    assert_eq!(texts, ["hello there", "You said: hello there"]);
}

#[tokio::test]
async fn the_same_turn_again_starts_nothing() {
    let mut client = Client::connected(start().await).await;
    client.send("agent:main:one", "hello", "turn-1").await;
    client.follow("turn-1").await;
    let again = client.send("agent:main:one", "hello", "turn-1").await;
    assert_eq!(again["payload"], json!({"runId": "turn-1", "status": "ok"}));
    let history = client
        .request("chat.history", json!({"sessionKey": "agent:main:one"}))
        .await;
    assert_eq!(history["payload"]["messages"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_turn_outlives_its_client_and_holds_back_the_next() {
    let (release, released) = tokio::sync::watch::channel(false);
    let model = serve(Router::new().fallback(move || {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            "data: {\"choices\":[{\"delta\":{\"content\":\"late\"}}]}\n\ndata: [DONE]\n\n"
        }
    }))
    .await;
    let address = start_with(model).await;
    let mut watcher = Client::connected(address).await;
    let mut client = Client::connected(address).await;
    client.send("agent:main:one", "first", "turn-1").await;
    client.send("agent:main:one", "second", "turn-2").await;
    drop(client);
    let history = json!({"sessionKey": "agent:main:one"});
    let under_way = loop {
        let answer = watcher.request("chat.history", history.clone()).await;
        if answer["payload"]["inFlightRun"].is_object() {
            break answer;
        }
    };
    assert_eq!(under_way["payload"]["inFlightRun"]["runId"], "turn-1");
    release.send(true).unwrap();
    let (phases, said) = watcher.follow("turn-2").await;
    assert_eq!(
        (phases, said.as_str()),
        (vec!["start".to_owned(), "end".to_owned()], "late")
    );
    let answer = watcher.request("chat.history", history).await;
    let roles = answer["payload"]["messages"].as_array().unwrap().len();
    assert_eq!(roles, 4, "the first turn came before: {answer}");
}

#[tokio::test]
async fn a_model_that_refuses_ends_the_turn_with_its_error() {
    let model = serve(
        Router::new().fallback(async || (axum::http::StatusCode::TOO_MANY_REQUESTS, "slow down")),
    )
    .await;
    let mut client = Client::connected(start_with(model).await).await;
    client.send("agent:main:one", "hello", "turn-1").await;
    loop {
        let payload = client.frame().await["payload"].take();
        if payload["data"]["phase"] == "error" {
            let error = payload["data"]["error"].as_str().unwrap();
            assert!(
                error.contains("429") && error.contains("slow down"),
                "{error}"
            );
            break;
        }
    }
}

#[tokio::test]
async fn a_running_turn_can_be_aborted() {
    let model = serve(Router::new().fallback(async || std::future::pending::<()>().await)).await;
    let mut client = Client::connected(start_with(model).await).await;
    client.send("agent:main:one", "hello", "turn-1").await;
    while client.frame().await["payload"]["data"]["phase"] != "start" {}
    let aborted = client
        .request("sessions.abort", json!({"key": "agent:main:one"}))
        .await;
    assert_eq!(
        aborted["payload"],
        json!({"ok": true, "abortedRunId": "turn-1", "status": "aborted"})
    );
    let again = client
        .request("sessions.abort", json!({"key": "agent:main:one"}))
        .await;
    assert_eq!(again["payload"]["status"], "no-active-run");
    let history = client
        .request("chat.history", json!({"sessionKey": "agent:main:one"}))
        .await;
    let messages = &history["payload"]["messages"];
    assert_eq!(messages[0]["idempotencyKey"], "turn-1:user");
    assert_eq!(messages[1]["openclawAbort"]["aborted"], true, "{messages}");
    let resent = client.send("agent:main:one", "hello", "turn-1").await;
    assert_eq!(resent["payload"]["status"], "timeout");
}

#[tokio::test]
async fn a_session_remembers_and_no_other_does() {
    let mut client = Client::connected(start().await).await;
    client
        .send("agent:main:one", "my cat is Tom", "turn-1")
        .await;
    client.follow("turn-1").await;
    for (session, run, remembers) in [
        ("agent:main:one", "turn-2", true),
        ("agent:main:two", "turn-3", false),
    ] {
        client.send(session, "RECALL", run).await;
        let (_, said) = client.follow(run).await;
        assert_eq!(said.contains("my cat is Tom"), remembers, "{said}");
    }
}

#[tokio::test]
async fn a_turn_says_more_when_it_is_asked_to() {
    let mut client = Client::connected(start().await).await;
    client.send("agent:main:one", "SLOW 2 TOOL", "turn-1").await;
    let (mut tools, mut said) = (Vec::new(), String::new());
    loop {
        let payload = client.frame().await["payload"].take();
        match payload["stream"].as_str() {
            Some("tool") => tools.push(payload["data"]["phase"].clone()),
            Some("assistant") => said.push_str(payload["data"]["delta"].as_str().unwrap()),
            _ if payload["state"] == "final" => break,
            _ => {}
        }
    }
    assert_eq!(tools, ["start", "result"]);
    assert_eq!(said, "w0 w1 You said: SLOW 2 TOOL");
}

#[tokio::test]
async fn a_held_turn_goes_on_when_another_session_releases_it() {
    let mut client = Client::connected(start().await).await;
    client.send("agent:main:one", "HOLD", "turn-1").await;
    client.send("agent:main:two", "hello", "turn-2").await;
    client.follow("turn-2").await;
    let key = json!({"sessionKey": "agent:main:one"});
    let history = client.request("chat.history", key).await;
    let in_flight = &history["payload"]["inFlightRun"]["runId"];
    assert_eq!(in_flight, "turn-1", "{history}");
    client.send("agent:main:two", "RELEASE", "turn-3").await;
    let (_, said) = client.follow("turn-1").await;
    assert_eq!(said, "You said: HOLD");
}

#[tokio::test]
async fn a_dropped_line_does_not_end_the_turn() {
    let address = start().await;
    let mut client = Client::connected(address).await;
    client.send("agent:main:one", "DROP", "turn-1").await;
    let line = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(Ok(_)) = client.socket.next().await {}
    });
    line.await.unwrap();
    let mut client = Client::connected(address).await;
    loop {
        let history = client
            .request("chat.history", json!({"sessionKey": "agent:main:one"}))
            .await;
        if history["payload"]["messages"][1]["content"][0]["text"] == "You said: DROP" {
            break;
        }
    }
}

#[tokio::test]
async fn a_crash_leaves_the_question_behind() {
    let state = tempfile::tempdir().unwrap();
    let configuration = read(&configuration("127.0.0.1:1".parse().unwrap())).unwrap();
    let serve = async |message: Option<&str>| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = scripted_agent::serve(listener, configuration.clone(), Some(state.path()));
        let talk = async {
            let mut client = Client::connected(address).await;
            if let Some(message) = message {
                client.send("agent:main:one", message, "turn-1").await;
                std::future::pending::<()>().await;
            }
            client
                .request("chat.history", json!({"sessionKey": "agent:main:one"}))
                .await
        };
        tokio::select! {
            served = served => Err(served.unwrap_err()),
            history = talk => Ok(history),
        }
    };
    let crash = serve(Some("CRASH")).await.unwrap_err();
    assert!(crash.to_string().contains("crashed"), "{crash}");
    let history = serve(None).await.unwrap();
    let messages = history["payload"]["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "{history}");
    assert_eq!(messages[0]["idempotencyKey"], "turn-1:user");
    assert_eq!(history["payload"]["sessionInfo"]["hasActiveRun"], false);
}

#[tokio::test]
async fn a_client_that_does_not_introduce_itself_properly_is_sent_away() {
    let address = start().await;
    let changed = |path: &str, value: Value| {
        let mut introduction = introduction();
        *introduction.pointer_mut(path).unwrap() = value;
        introduction
    };
    for params in [
        changed("/auth/token", json!("wrong")),
        changed("/minProtocol", json!(5)),
        changed("/maxProtocol", json!(3)),
        changed("/client/id", json!("webchat")),
        changed("/role", json!("node")),
        json!({}),
    ] {
        let mut client = Client::open(address).await;
        let refused = client.request("connect", params.clone()).await;
        assert_eq!(
            (&refused["ok"], &refused["error"]["code"]),
            (&json!(false), &json!("INVALID_REQUEST")),
            "{params}"
        );
        assert_eq!(client.frame().await, json!({"closed": "1008"}));
    }
    let mut hasty = Client::open(address).await;
    let refused = hasty.send("agent:main:one", "hello", "turn-1").await;
    assert_eq!(refused["ok"], false, "nothing goes before connect");
}

#[tokio::test]
async fn a_request_that_the_original_refuses_is_refused() {
    let address = start().await;
    let mut client = Client::connected(address).await;
    for (session, message, key) in [
        ("agent:nobody:one", "hello", "k"),
        ("main", "hello", "k"),
        ("agent:main:", "hello", "k"),
        ("agent:main:one", " ", "k"),
        ("agent:main:one", "hello", ""),
    ] {
        let refused = client.send(session, message, key).await;
        assert_eq!(refused["ok"], false, "{session} {message:?} {key:?}");
    }
    let unknown = client.request("gateway.explode", json!({})).await;
    assert!(
        unknown["error"]["message"]
            .as_str()
            .unwrap()
            .contains("unknown method")
    );
    let mut reader = Client::open(address).await;
    let mut introduction = introduction();
    introduction["scopes"] = json!(["operator.read"]);
    assert_eq!(reader.request("connect", introduction).await["ok"], true);
    let refused = reader.send("agent:main:one", "hello", "turn-1").await;
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("operator.write")
    );
}

#[tokio::test]
async fn an_unknown_or_missing_key_in_the_configuration_stops_it() {
    let good = configuration("127.0.0.1:1".parse().unwrap());
    assert!(read(&good).is_ok());
    let added = [
        "",
        "/gateway",
        "/gateway/auth",
        "/models",
        "/models/providers/agentd",
        "/agents",
        "/agents/defaults",
        "/agents/entries/main",
        "/tools/exec",
        "/plugins",
        "/talk",
    ];
    for path in added {
        let mut changed = good.clone();
        changed.pointer_mut(path).unwrap()["unheardOf"] = json!(1);
        assert!(read(&changed).is_err(), "{path}/unheardOf");
    }
    for (path, value) in [
        ("/gateway/bind", json!("lan")),
        ("/gateway/auth/token", json!("")),
        ("/gateway/auth/mode", json!("none")),
        ("/models/mode", json!("merge")),
        ("/agents/ownership", json!("implicit")),
        ("/agents/defaults/model/primary", json!("agentd/other")),
        ("/talk/agentId", json!("nobody")),
        ("/agents/entries/main", Value::Null),
    ] {
        let mut changed = good.clone();
        *changed.pointer_mut(path).unwrap() = value;
        assert!(read(&changed).is_err(), "{path}");
    }
}

#[tokio::test]
async fn its_health_is_there_to_be_probed() {
    let address = start().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, field) in [("/health", "ok"), ("/readyz", "ready")] {
        let answer = client
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap()[field], true);
    }
    let plain = client
        .get(format!("http://{address}/"))
        .send()
        .await
        .unwrap();
    assert_eq!(plain.status(), 400, "no WebSocket");
}

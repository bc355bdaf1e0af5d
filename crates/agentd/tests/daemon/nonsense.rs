//! An OpenClaw that makes no sense. Whatever it says, the user gets an answer or an error that has a
//! name, and the daemon takes the next turn as if nothing had been.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{ALICE, ALICES_KEY, Pod};
use crate::turn::{end, held};

/// What it says to a request, if that isn't what a gateway in its right mind says.
type Nonsense = Box<dyn Fn(&Value) -> Option<Vec<Message>> + Send>;

/// OpenClaw's gateway, which has never anything in its history.
#[derive(Clone)]
struct Gateway {
    nonsense: Arc<Mutex<Nonsense>>,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Gateway {
    fn serve(listener: TcpListener) -> Self {
        let gateway = Self {
            nonsense: Arc::new(Mutex::new(Box::new(|_| None))),
            requests: Arc::default(),
        };
        let serving = gateway.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let gateway = serving.clone();
                tokio::spawn(async move {
                    // Whoever hangs up has heard enough.
                    let _ = gateway.answer(stream).await;
                });
            }
        });
        gateway
    }

    fn says(&self, nonsense: impl Fn(&Value) -> Option<Vec<Message>> + Send + 'static) {
        *self.nonsense.lock().unwrap() = Box::new(nonsense);
    }

    fn comes_to_its_senses(&self) {
        self.says(|_| None);
    }

    /// How often the daemon has given it this text.
    fn heard(&self, text: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        let sent = |request: &&Value| {
            request["method"] == "chat.send" && request["params"]["message"] == text
        };
        requests.iter().filter(sent).count()
    }

    async fn answer(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        let mut head = [0; 12];
        while stream.peek(&mut head).await? < head.len() {}
        if head == *b"GET /readyz " {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            return Ok(stream.write_all(answer.as_bytes()).await?);
        }
        let mut socket = tokio_tungstenite::accept_async(stream).await?;
        socket
            .send(event("connect.challenge", &json!({"nonce": "1"})))
            .await?;
        while let Some(message) = socket.next().await {
            let Message::Text(text) = message? else {
                continue;
            };
            let request: Value = serde_json::from_str(&text)?;
            self.requests.lock().unwrap().push(request.clone());
            let nonsense = (self.nonsense.lock().unwrap())(&request);
            for message in nonsense.unwrap_or_else(|| sensible(&request)) {
                socket.send(message).await?;
            }
        }
        Ok(())
    }
}

fn event(name: &str, payload: &Value) -> Message {
    Message::text(json!({"type": "event", "event": name, "payload": payload}).to_string())
}

fn response(request: &Value, payload: &Value) -> Message {
    let id = &request["id"];
    Message::text(json!({"type": "res", "id": id, "ok": true, "payload": payload}).to_string())
}

fn refusal(request: &Value, code: &str, message: &str) -> Message {
    let error = json!({"code": code, "message": message});
    let id = &request["id"];
    Message::text(json!({"type": "res", "id": id, "ok": false, "error": error}).to_string())
}

fn lifecycle(run: &Value, agent: &str, phase: &str) -> Message {
    let data = json!({"phase": phase});
    event(
        "agent",
        &json!({"runId": run, "agentId": agent, "stream": "lifecycle", "data": data}),
    )
}

fn said(run: &Value, text: &str) -> Message {
    let data = json!({"text": text, "itemId": "1"});
    event(
        "agent",
        &json!({"runId": run, "agentId": "main", "stream": "assistant", "data": data}),
    )
}

fn answered(run: &Value, text: &str) -> Message {
    let message = json!({"role": "assistant", "content": text});
    event(
        "chat",
        &json!({"runId": run, "state": "final", "message": message}),
    )
}

fn is_turn(request: &Value) -> bool {
    let session = request["params"]["sessionKey"].as_str();
    request["method"] == "chat.send" && session.is_some_and(|key| key.starts_with("agent:main:"))
}

fn run(request: &Value) -> &Value {
    &request["params"]["idempotencyKey"]
}

/// What a gateway in its right mind says.
fn sensible(request: &Value) -> Vec<Message> {
    let ok = |payload: Value| response(request, &payload);
    match request["method"].as_str().unwrap() {
        "connect" => vec![ok(json!({"server": {"version": "nonsense"}}))],
        "chat.history" => vec![ok(json!({"messages": [], "sessionInfo": {}}))],
        "chat.send" if is_turn(request) => vec![
            ok(json!({"status": "started"})),
            lifecycle(run(request), "main", "start"),
            said(run(request), "sense"),
            lifecycle(run(request), "main", "end"),
            answered(run(request), "sense"),
        ],
        "chat.send" => vec![ok(json!({})), lifecycle(run(request), "warm", "end")],
        _ => vec![ok(json!({}))],
    }
}

/// Alice's sandbox beside such an OpenClaw, with little patience.
async fn pod() -> (Pod, Gateway) {
    let mut pod = Pod::prepare().await;
    let gateway = Gateway::serve(pod.openclaw_listener());
    let mut config = pod.config();
    config.openclaw_patience = Duration::from_secs(2);
    pod.start_with(config).await;
    pod.until_ready().await;
    let (status, body) = pod.bind(ALICE, ALICES_KEY).await;
    assert_eq!((status, body), (200, json!({"bound": true})));
    (pod, gateway)
}

/// The control of all that is claimed here.
async fn takes_the_next_turn(pod: &Pod, gateway: &Gateway, conversation: &str) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let id = format!("next-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    gateway.comes_to_its_senses();
    pod.until_ready().await;
    let events = pod.turn(&id, conversation, "next").await.rest().await;
    assert_eq!(end(&events), ("done", &json!("sense")), "{events:?}");
}

#[tokio::test]
async fn what_is_no_frame_ends_in_an_error_and_the_next_turn_is_taken() {
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let frames: Vec<(&str, Message)> = vec![
        ("no JSON", Message::text("<html>502 Bad Gateway</html>")),
        ("half of it", Message::text("{\"type\":\"event\",\"ev")),
        ("no object", Message::text("[1, 2, 3]")),
        ("nested", Message::text(nested)),
        ("no kind", Message::text("{\"event\":\"chat\"}")),
        ("no id", Message::text("{\"type\":\"res\",\"ok\":true}")),
        (
            "another kind of id",
            Message::text("{\"type\":\"res\",\"id\":1,\"ok\":true}"),
        ),
        // The most that is taken is 16 MiB.
        ("too much", Message::text("x".repeat(17 * 1024 * 1024))),
    ];
    let told = frames.into_iter().map(|(name, frame)| async move {
        let (pod, gateway) = pod().await;
        gateway.says(move |request| is_turn(request).then(|| vec![frame.clone()]));
        let events = pod.turn("t1", "c1", "hello").await.rest().await;
        // It was given away, again and again under one id, and what became of it nobody knows.
        assert_eq!(end(&events), ("error", &json!("TurnLost")), "{name}");
        assert!(gateway.heard("hello") > 1, "{name}");
        takes_the_next_turn(&pod, &gateway, "c1").await;
    });
    futures::future::join_all(told).await;
}

#[tokio::test]
async fn what_is_a_frame_and_means_nothing_is_passed_over() {
    let (pod, gateway) = pod().await;
    gateway.says(|request| {
        let own = run(request);
        let chat = |rest: &Value| {
            let mut payload = json!({"runId": own});
            payload
                .as_object_mut()
                .unwrap()
                .extend(rest.as_object().unwrap().clone());
            event("chat", &payload)
        };
        let stranger = json!("nobody-asked-for-this");
        is_turn(request).then(|| {
            vec![
                Message::binary(vec![0xff; 64]),
                Message::text("{\"type\":\"hologram\"}"),
                event("weather", &json!("sunny")),
                event("agent", &json!(null)),
                event("chat", &json!({"runId": 7, "state": "final"})),
                chat(&json!({"state": "jubilant"})),
                chat(&json!({"state": 7})),
                event(
                    "agent",
                    &json!({"runId": own, "stream": "assistant", "data": []}),
                ),
                event(
                    "agent",
                    &json!({"runId": own, "stream": "tool", "data": {"phase": "start"}}),
                ),
                // Answers to what nobody asked.
                response(&json!({"id": "4711"}), &json!({"status": "started"})),
                refusal(&json!({"id": ""}), "UNAVAILABLE", "no"),
                // Runs of nobody here.
                lifecycle(&stranger, "main", "end"),
                said(&stranger, "a stranger's secret"),
                answered(&stranger, "a stranger's secret"),
                response(request, &json!("started")),
                answered(own, "an end without a start"),
                answered(own, "and another one"),
                said(own, "after the end"),
            ]
        })
    });
    let events = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(end(&events), ("done", &json!("an end without a start")));
    assert_eq!(held(&events), "", "{events:?}");
    let again = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(again, events, "it ends once");
    pod.eventually("the sandbox to be idle", async || {
        let status = pod.status().await;
        (status["busy"] == false).then_some(()).ok_or(status)
    })
    .await;
    takes_the_next_turn(&pod, &gateway, "c1").await;
}

#[tokio::test]
async fn an_end_of_which_nothing_is_in_the_history_ends_in_an_error() {
    let (pod, gateway) = pod().await;
    gateway.says(|request| {
        is_turn(request).then(|| {
            vec![
                response(request, &json!({})),
                lifecycle(run(request), "main", "end"),
            ]
        })
    });
    let events = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("AgentFailed")));
    takes_the_next_turn(&pod, &gateway, "c1").await;
}

#[tokio::test]
async fn more_than_anybody_reads_is_cut() {
    const MOST: usize = 512 * 1024;
    let (pod, gateway) = pod().await;
    gateway.says(|request| {
        let long = "x".repeat(4 * MOST);
        let tool = json!({"phase": "start", "name": long});
        let tool = json!({"runId": run(request), "stream": "tool", "data": tool});
        is_turn(request).then(|| {
            vec![
                response(request, &json!({"status": long})),
                said(run(request), &long),
                event("agent", &tool),
                answered(run(request), &long),
            ]
        })
    });
    let events = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(held(&events).len(), MOST);
    let tools = events.iter().filter(|event| event.name == "activity");
    let names: Vec<_> = tools
        .map(|event| event.data["tool"].as_str().unwrap().len())
        .collect();
    assert_eq!(names, [64]);
    let (name, text) = end(&events);
    assert_eq!((name, text.as_str().unwrap().len()), ("done", MOST));
    takes_the_next_turn(&pod, &gateway, "c1").await;
}

#[tokio::test]
async fn a_refusal_ends_in_an_error_without_its_words() {
    let (pod, gateway) = pod().await;
    gateway.says(|request| {
        let words = "sk-secret".repeat(100_000);
        is_turn(request).then(|| vec![refusal(request, "INVALID_REQUEST", &words)])
    });
    let events = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("AgentFailed")));
    let message = events.last().unwrap().data["message"].as_str().unwrap();
    assert!(!message.contains("sk-secret"), "{message}");
    assert_eq!(gateway.heard("hello"), 1);
    takes_the_next_turn(&pod, &gateway, "c1").await;
}

/// As the original does before a restart of its own: it finishes what it has, and takes nothing on.
#[tokio::test]
async fn a_turn_that_is_refused_for_now_is_taken_on_later_and_not_tried_for_ever() {
    let (pod, gateway) = pod().await;
    gateway.says(|request| {
        is_turn(request).then(|| vec![refusal(request, "UNAVAILABLE", "draining")])
    });
    let waiting = pod.turn("t1", "c1", "first").await;
    pod.eventually("it to be asked again", async || {
        let heard = gateway.heard("first");
        (heard > 1).then_some(()).ok_or(json!(heard))
    })
    .await;
    gateway.comes_to_its_senses();
    assert_eq!(end(&waiting.rest().await), ("done", &json!("sense")));
    gateway.says(|request| {
        is_turn(request).then(|| vec![refusal(request, "UNAVAILABLE", "draining")])
    });
    // It never had it: here it is right to try again.
    let events = pod.turn("t2", "c1", "second").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("AgentUnavailable")));
    takes_the_next_turn(&pod, &gateway, "c1").await;
}

#[tokio::test]
async fn a_history_that_is_none_ends_in_an_error_and_nothing_is_sent() {
    for history in [
        json!(null),
        json!([]),
        json!({"messages": "many"}),
        json!({"messages": {"0": "one"}}),
    ] {
        let (pod, gateway) = pod().await;
        let answer = history.clone();
        gateway.says(move |request| {
            (request["method"] == "chat.history").then(|| vec![response(request, &answer)])
        });
        let events = pod.turn("t1", "c1", "hello").await.rest().await;
        assert_eq!(end(&events), ("error", &json!("AgentFailed")), "{history}");
        assert_eq!(gateway.heard("hello"), 0, "{history}");
        takes_the_next_turn(&pod, &gateway, "c1").await;
    }
}

/// Whether it has the turn can't be told: it must not be called worth another try.
#[tokio::test]
async fn a_silence_after_a_turn_was_given_away_ends_in_its_loss() {
    let (pod, gateway) = pod().await;
    gateway.says(|request| {
        let asks = request["method"] == "chat.history";
        let second = request["params"]["sessionKey"] == "agent:main:c2";
        (is_turn(request) || (asks && second)).then(Vec::new)
    });
    let (lost, never_given) = futures::join!(
        async { pod.turn("t1", "c1", "hello").await.rest().await },
        async { pod.turn("t2", "c2", "hello").await.rest().await },
    );
    assert_eq!(end(&lost), ("error", &json!("TurnLost")));
    assert_eq!(end(&never_given), ("error", &json!("AgentUnavailable")));
    takes_the_next_turn(&pod, &gateway, "c1").await;
}

#[tokio::test]
async fn a_greeting_that_is_none_is_no_line_and_the_next_one_is_taken() {
    let (pod, gateway) = pod().await;
    for (id, greeting) in [
        ("t1", Message::text("garbage")),
        ("t2", Message::binary(vec![0; 16])),
        ("t3", Message::text("x".repeat(17 * 1024 * 1024))),
    ] {
        gateway.says(move |request| match request["method"].as_str() {
            // What breaks the line that is up.
            Some("chat.history") => Some(vec![Message::text("garbage")]),
            Some("connect") => Some(vec![greeting.clone(), Message::Close(None)]),
            _ => None,
        });
        let events = pod.turn(id, "c1", "hello").await.rest().await;
        assert_eq!(end(&events), ("error", &json!("AgentUnavailable")), "{id}");
        takes_the_next_turn(&pod, &gateway, "c1").await;
    }
}

//! From a fresh pod to a warm one, and back from a restart.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{ALICE, ALICES_KEY, BOB, Pod, SANDBOX, answer, say};

#[tokio::test]
async fn a_fresh_pod_is_warmed_without_the_model_and_without_a_key() {
    let mut pod = Pod::prepare().await;
    pod.start().await;
    let (status, body) = pod.get(&pod.control("/readyz"), None).await;
    assert_eq!((status, &body["error"]), (503, &json!("NotReady")));
    pod.start_openclaw();
    pod.until_ready().await;
    let status = pod.status().await;
    assert_eq!(status["bound"], false);
    assert_eq!(status["busy"], false);
    assert_eq!(status["sandbox"], SANDBOX);
    assert_eq!(
        status["openclaw"],
        json!({"ready": true, "version": "2026.9.6-scripted"})
    );
    assert!(
        status["guest_kernel"]
            .as_str()
            .unwrap()
            .starts_with("Linux version"),
        "{status}"
    );
    assert_eq!(
        status.get("last_activity"),
        None,
        "the warming turn is nobody's work"
    );
    assert_eq!(status["tokens"], json!({"prompt": 0, "completion": 0}));
    assert!(
        pod.upstream.received().is_empty(),
        "the warming turn reached the model"
    );
    let history = ask(&pod, "sessions.subscribe", json!({})).await;
    assert_eq!(history["subscribed"], true);
}

#[tokio::test]
async fn the_users_turn_goes_to_the_model_with_the_users_key_and_shows_as_busy() {
    let pod = Pod::of_alice().await;
    let (release, released) = tokio::sync::watch::channel(false);
    pod.upstream.answers(move |_| slow_stream(released.clone()));
    let turn =
        json!({"sessionKey": "agent:main:one", "message": "Hello?", "idempotencyKey": "turn-1"});
    assert_eq!(ask(&pod, "chat.send", turn).await["status"], "started");
    pod.eventually("the turn to show", async || {
        let status = pod.status().await;
        let shows = status["busy"] == true && status["dirty_since"].is_string();
        shows.then_some(()).ok_or(status)
    })
    .await;
    release.send(true).unwrap();
    let status = pod
        .eventually("the turn to end", async || {
            let status = pod.status().await;
            (status["busy"] == false)
                .then(|| status.clone())
                .ok_or(status)
        })
        .await;
    assert_eq!(status["tokens"], json!({"prompt": 5, "completion": 1}));
    let received = pod.upstream.received();
    assert_eq!(received.len(), 1);
    assert_eq!(
        received[0].headers["authorization"],
        format!("Bearer {ALICES_KEY}")
    );
}

#[tokio::test]
async fn a_restart_keeps_the_user_and_disturbs_nothing() {
    let mut pod = Pod::of_alice().await;
    let config = pod.openclaw_config();
    pod.restart().await;
    pod.until_ready().await;
    assert!(
        pod.openclaw_config() == config,
        "OpenClaw would have to restart too"
    );
    let status = pod.status().await;
    assert_eq!(
        (&status["bound"], &status["user_key"]),
        (&json!(true), &json!(ALICE))
    );
    assert_eq!(pod.bind(BOB, "sk-bobs").await.0, 409);
    assert_eq!(pod.bind(ALICE, ALICES_KEY).await.0, 200);
    assert!(
        pod.upstream.received().is_empty(),
        "a bound pod isn't warmed with the user's key"
    );
    assert_eq!(pod.complete(&say("hello")).await.0, 200);
    assert_eq!(
        pod.upstream.received()[0].headers["authorization"],
        format!("Bearer {ALICES_KEY}")
    );
}

#[tokio::test]
async fn a_damaged_binding_answers_nobody() {
    let mut pod = Pod::prepare().await;
    std::fs::write(pod.path("private/binding.json"), "{\"format\":1").unwrap();
    pod.start().await;
    pod.start_openclaw();
    let token = pod.signer.token(ALICE);
    let answers = [
        pod.bind(ALICE, ALICES_KEY).await,
        pod.get(&pod.control("/v1/status"), Some(&token)).await,
        pod.get(&pod.control("/readyz"), None).await,
    ];
    for (status, body) in answers {
        assert_eq!((status, &body["error"]), (503, &json!("BindingUnreadable")));
    }
    let (status, body) = pod.complete(&say("hello")).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("BindingUnreadable"))
    );
    assert!(pod.upstream.received().is_empty());
}

#[tokio::test]
async fn a_stop_lets_an_answer_under_way_finish() {
    let mut pod = Pod::of_alice().await;
    let (release, released) = tokio::sync::watch::channel(false);
    pod.upstream.answers(move |_| slow_stream(released.clone()));
    let response = pod
        .http
        .post(pod.proxy("/v1/chat/completions"))
        .json(&say("hello"));
    let mut stream = response.send().await.unwrap().bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"data:"), "{first:?}");
    let (control, proxy) = (pod.control("/readyz"), pod.proxy("/v1/models"));
    let stopped = pod.stop().await;
    for url in [control, proxy] {
        pod.eventually("new calls to be refused", async || {
            let refused = pod.http.get(&url).send().await.is_err();
            refused.then_some(()).ok_or(json!(url))
        })
        .await;
    }
    assert!(!stopped.is_finished(), "it waits for the answer");
    release.send(true).unwrap();
    let mut rest = Vec::new();
    while let Some(bytes) = stream.next().await {
        rest.extend_from_slice(&bytes.unwrap());
    }
    assert!(
        rest.ends_with(b"data: [DONE]\n\n"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_no_warming_turn_waits_for_a_user() {
    let pod = Pod::ready().await;
    let (status, body) = pod.complete(&say("Answer with one word: ready.")).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("NotBound")));
    let models = pod.http.get(pod.proxy("/v1/models"));
    let (status, body) = answer(models).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("NotBound")));
    assert!(pod.upstream.received().is_empty());
}

/// A first event at once, the rest when it is released.
pub fn slow_stream(mut released: tokio::sync::watch::Receiver<bool>) -> axum::response::Response {
    let (mut sender, receiver) = futures::channel::mpsc::channel::<Result<String, String>>(4);
    tokio::spawn(async move {
        let event = |json: Value| Ok(format!("data: {json}\n\n"));
        let first = json!({"choices": [{"index": 0, "delta": {"content": "he"}}]});
        let last = json!({
            "choices": [{"index": 0, "delta": {"content": "llo"}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1},
        });
        sender.send(event(first)).await.unwrap();
        released.wait_for(|released| *released).await.unwrap();
        sender.send(event(last)).await.unwrap();
        sender
            .send(Ok("data: [DONE]\n\n".to_owned()))
            .await
            .unwrap();
    });
    axum::response::Response::builder()
        .header("content-type", "text/event-stream")
        .body(axum::body::Body::from_stream(receiver))
        .unwrap()
}

/// One request to the scripted agent, as `agentd` will make them for turns.
async fn ask(pod: &Pod, method: &str, params: Value) -> Value {
    let config: Value = serde_json::from_slice(&pod.openclaw_config()).unwrap();
    let token = config["gateway"]["auth"]["token"].as_str().unwrap();
    let url = format!("ws://{}/", pod.openclaw());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let connect = json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator",
        "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
        "scopes": ["operator.read", "operator.write"], "auth": {"token": token},
    });
    let mut answer = Value::Null;
    for (id, method, params) in [("1", "connect", connect), ("2", method, params)] {
        let request = json!({"type": "req", "id": id, "method": method, "params": params});
        socket
            .send(Message::text(request.to_string()))
            .await
            .unwrap();
        loop {
            let Message::Text(text) = socket.next().await.unwrap().unwrap() else {
                continue;
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["id"] == id {
                assert_eq!(frame["ok"], true, "{frame}");
                answer = frame["payload"].clone();
                break;
            }
        }
    }
    answer
}

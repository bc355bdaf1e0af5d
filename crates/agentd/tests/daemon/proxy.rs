//! The agent's way to the model.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use carapace_agentd::MAX_REQUEST_BYTES;
use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::boot::slow_stream;
use crate::harness::{ALICES_KEY, Pod, answer, json_response, say};

#[tokio::test]
async fn the_users_key_goes_out_and_the_clients_credentials_do_not() {
    let pod = Pod::of_alice().await;
    pod.upstream.answers(|_| {
        let answer = json_response(StatusCode::OK, &json!({"object": "list"}));
        let (mut head, body) = answer.into_parts();
        for (name, value) in [
            ("set-cookie", "session=1"),
            ("x-litellm-model-api-base", "https://internal"),
            ("x-litellm-key-spend", "12"),
            ("x-request-id", "r-1"),
        ] {
            head.headers.insert(name, value.parse().unwrap());
        }
        Response::from_parts(head, body)
    });
    let request = pod
        .http
        .post(pod.proxy("/v1/chat/completions?user=bob"))
        .bearer_auth("sk-stolen")
        .header("x-api-key", "sk-stolen")
        .header("api-key", "sk-stolen")
        .header("cookie", "admin=1")
        .header("litellm-changed-by", "somebody")
        .header("x-forwarded-for", "10.0.0.1")
        .header("user-agent", "curl")
        .json(&say("hello"));
    let response = request.send().await.unwrap();
    let back: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str().to_owned())
        .collect();
    for name in [
        "set-cookie",
        "x-litellm-model-api-base",
        "x-litellm-key-spend",
    ] {
        assert!(!back.contains(&name.to_owned()), "{back:?}");
    }
    assert!(back.contains(&"x-request-id".to_owned()), "{back:?}");
    let received = pod.upstream.received();
    let [only] = received.as_slice() else {
        panic!("{received:?}")
    };
    assert_eq!(only.path, "/v1/chat/completions");
    assert_eq!(
        only.headers["authorization"],
        format!("Bearer {ALICES_KEY}")
    );
    assert_eq!(only.body, say("hello").to_string().into_bytes());
    let mut names: Vec<_> = only
        .headers
        .keys()
        .map(axum::http::HeaderName::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent"
        ]
    );
    assert_eq!(only.headers["user-agent"], "carapace-agentd");
}

#[tokio::test]
async fn the_models_are_the_gateways() {
    let pod = Pod::of_alice().await;
    let models = json!({"object": "list", "data": [{"id": "agent"}]});
    let answered = models.clone();
    pod.upstream
        .answers(move |_| json_response(StatusCode::OK, &answered));
    assert_eq!(
        answer(pod.http.get(pod.proxy("/v1/models"))).await,
        (200, models)
    );
    assert_eq!(pod.upstream.received()[0].path, "/v1/models");
}

#[tokio::test]
async fn the_gateways_errors_are_passed_on_as_they_are() {
    let pod = Pod::of_alice().await;
    let body = r#"{"error":{"message":"slow down", "type":"rate_limit","code":"429"}}"#;
    for status in [400_u16, 401, 429, 500, 503] {
        pod.upstream.answers(move |_| {
            Response::builder()
                .status(status)
                .header("content-type", "application/json")
                .header("retry-after", "17")
                .body(Body::from(body))
                .unwrap()
        });
        let request = pod
            .http
            .post(pod.proxy("/v1/chat/completions"))
            .json(&say("hello"));
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()["retry-after"], "17");
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.text().await.unwrap(), body, "to the byte");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_key() {
    let pod = Pod::of_alice().await;
    let elsewhere = format!("http://{}/elsewhere", pod.upstream.address);
    pod.upstream.answers(move |_| {
        let builder = Response::builder()
            .status(307)
            .header("location", &elsewhere);
        builder.body(Body::empty()).unwrap()
    });
    assert_eq!(pod.complete(&say("hello")).await.0, 307);
    assert_eq!(pod.upstream.received().len(), 1);
}

#[tokio::test]
async fn a_gateway_that_is_away_is_said_to_be() {
    let mut pod = Pod::of_alice().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    pod.stop().await.await.unwrap();
    let mut config = pod.config();
    config.model_gateway = format!("http://{address}").parse().unwrap();
    pod.start_with(config).await;
    let (status, body) = pod.complete(&say("hello")).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (502, &json!("GatewayUnreachable"))
    );
    assert_eq!(pod.status().await["busy"], false);
}

#[tokio::test]
async fn a_stream_comes_through_piece_by_piece() {
    let pod = Pod::of_alice().await;
    let (release, released) = tokio::sync::watch::channel(false);
    pod.upstream.answers(move |_| slow_stream(released.clone()));
    let request = pod
        .http
        .post(pod.proxy("/v1/chat/completions"))
        .json(&say("hello"));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let first = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
    let first = first
        .expect("the first piece waits for the others")
        .unwrap()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&first).contains("\"he\""),
        "{first:?}"
    );
    let status = pod.status().await;
    assert_eq!(status["busy"], true);
    assert!(status["last_activity"].is_string());
    release.send(true).unwrap();
    let mut rest = Vec::new();
    while let Some(bytes) = stream.next().await {
        rest.extend_from_slice(&bytes.unwrap());
    }
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    let status = pod
        .eventually("the call to end", async || {
            let status = pod.status().await;
            (status["busy"] == false)
                .then(|| status.clone())
                .ok_or(status)
        })
        .await;
    assert_eq!(status["tokens"], json!({"prompt": 5, "completion": 1}));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_call() {
    let pod = Pod::of_alice().await;
    let (_release, released) = tokio::sync::watch::channel(false);
    pod.upstream.answers(move |_| slow_stream(released.clone()));
    let request = pod
        .http
        .post(pod.proxy("/v1/chat/completions"))
        .json(&say("hello"));
    let mut stream = request.send().await.unwrap().bytes_stream();
    stream.next().await.unwrap().unwrap();
    assert_eq!(pod.status().await["busy"], true);
    drop(stream);
    pod.eventually("the call to end", async || {
        let status = pod.status().await;
        (status["busy"] == false).then_some(()).ok_or(status)
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_too_large_goes_no_further() {
    let pod = Pod::of_alice().await;
    let url = pod.proxy("/v1/chat/completions");
    let (status, body) = answer(pod.http.post(&url).body(vec![b'x'; MAX_REQUEST_BYTES + 1])).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (413, &json!("BodyTooLarge"))
    );
    assert!(pod.upstream.received().is_empty());
    assert_eq!(
        answer(pod.http.post(&url).body(vec![b'x'; MAX_REQUEST_BYTES]))
            .await
            .0,
        200
    );
    assert_eq!(pod.upstream.received()[0].body.len(), MAX_REQUEST_BYTES);
}

/// A request that has come to its body and gets no further.
async fn stalled(pod: &Pod) -> TcpStream {
    let mut stream = TcpStream::connect(pod.addresses().model_proxy)
        .await
        .unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: proxy\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn only_so_many_requests_are_held_in_memory_and_the_others_are_told_so() {
    let pod = Pod::of_alice().await;
    let stalled = join_all((0..8).map(|_| stalled(&pod))).await;
    pod.eventually("the proxy to be full", async || {
        let (status, body) = pod.complete(&say("hello")).await;
        let full = (status, &body["error"]["code"]) == (503, &json!("Overloaded"));
        full.then_some(()).ok_or(body)
    })
    .await;
    let models = pod.http.get(pod.proxy("/v1/models"));
    assert_eq!(answer(models).await.0, 200, "it has no body to hold");
    drop(stalled);
    pod.eventually("the proxy to have room", async || {
        let (status, body) = pod.complete(&say("hello")).await;
        (status == 200).then_some(()).ok_or(body)
    })
    .await;
}

#[tokio::test]
async fn answers_that_take_long_keep_no_request_in_memory() {
    let pod = Pod::of_alice().await;
    let (_release, released) = tokio::sync::watch::channel(false);
    pod.upstream.answers(move |_| slow_stream(released.clone()));
    let calls = (0..20).map(|_| async {
        let url = pod.proxy("/v1/chat/completions");
        pod.http.post(url).json(&say("hello")).send().await.unwrap()
    });
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
}

#[tokio::test]
async fn there_is_nothing_else_behind_the_proxy() {
    let pod = Pod::of_alice().await;
    for path in [
        "/key/generate",
        "/v1/key/info",
        "/v1/../key/info",
        "/v1/embeddings",
        "/",
    ] {
        let (status, body) = answer(pod.http.get(pod.proxy(path))).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (404, &json!("NotFound")),
            "{path}"
        );
    }
    assert_eq!(
        answer(pod.http.delete(pod.proxy("/v1/models"))).await.0,
        405
    );
    assert!(pod.upstream.received().is_empty());
}

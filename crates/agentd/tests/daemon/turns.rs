//! Turns: run once, told to whoever asks, ended always.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{ALICE, ALICES_KEY, BOB, Pod, answer, json_response};
use crate::turn::{end, held, reader};

impl Pod {
    /// The model as the scripted agent needs it.
    async fn with_model() -> Self {
        let pod = Self::of_alice().await;
        pod.upstream.answers(|received| {
            let request: Value = serde_json::from_slice(&received.body).unwrap();
            let said = request["messages"].as_array().unwrap().last().unwrap()["content"].clone();
            let delta = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}}]});
            let (one, two) = (delta("You said: "), delta(said.as_str().unwrap()));
            axum::response::Response::builder()
                .header("content-type", "text/event-stream")
                .body(axum::body::Body::from(format!(
                    "data: {one}\n\ndata: {two}\n\ndata: [DONE]\n\n"
                )))
                .unwrap()
        });
        pod
    }

    fn model_calls(&self) -> usize {
        self.upstream.received().len()
    }
}

#[tokio::test]
async fn a_turn_streams_its_reply_and_its_tools() {
    let pod = Pod::with_model().await;
    let events = pod
        .turn("t1", "c1", "SLOW 2 TOOL please")
        .await
        .rest()
        .await;
    let reply = "w0 w1 You said: SLOW 2 TOOL please";
    assert_eq!(end(&events), ("done", &json!(reply)));
    assert_eq!(held(&events), reply);
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let tools: Vec<_> = events
        .iter()
        .filter(|event| event.name == "activity")
        .collect();
    assert_eq!(tools[0].data, json!({"tool": "nothing", "phase": "start"}));
    assert_eq!(tools[1].data, json!({"tool": "nothing", "phase": "end"}));
    let received = pod.upstream.received();
    assert_eq!(received.len(), 1);
    assert_eq!(
        received[0].headers["authorization"],
        format!("Bearer {ALICES_KEY}")
    );
}

#[tokio::test]
async fn a_conversation_remembers_and_no_other_hears_of_it() {
    let pod = Pod::with_model().await;
    pod.turn("t1", "c1", "my cat is Tom").await.rest().await;
    let same = pod.turn("t2", "c1", "RECALL").await.rest().await;
    assert!(held(&same).contains("my cat is Tom"), "{same:?}");
    let other = pod.turn("t3", "c2", "RECALL").await.rest().await;
    assert_eq!(end(&other).0, "done");
    assert!(!held(&other).contains("Tom"), "{other:?}");
}

#[tokio::test]
async fn conversations_go_side_by_side_and_one_has_one_turn_at_a_time() {
    let pod = Pod::with_model().await;
    let mut first = pod.turn("t1", "c1", "SLOW 1 HOLD").await;
    first.next().await.unwrap();
    let (status, body) = answer(pod.posting("t2", "c1", "me too")).await;
    assert_eq!((status, &body["error"]), (409, &json!("TurnInProgress")));
    let other = pod.turn("t3", "c2", "hello").await.rest().await;
    assert_eq!(end(&other), ("done", &json!("You said: hello")));
    assert_eq!(pod.status().await["busy"], true);
    pod.turn("t4", "c3", "RELEASE").await;
    assert_eq!(end(&first.rest().await).0, "done");
    let next = pod.turn("t2", "c1", "me too").await.rest().await;
    assert_eq!(end(&next), ("done", &json!("You said: me too")));
    pod.eventually("the sandbox to be idle", async || {
        let status = pod.status().await;
        (status["busy"] == false).then_some(()).ok_or(status)
    })
    .await;
}

#[tokio::test]
async fn the_same_turn_again_is_told_again_and_run_once() {
    let pod = Pod::with_model().await;
    let mut first = pod.turn("t1", "c1", "SLOW 3").await;
    let beginning = first.next().await.unwrap();
    let while_running = pod.turn("t1", "c1", "SLOW 3").await;
    let mut told = vec![beginning];
    told.extend(first.rest().await);
    assert_eq!(while_running.rest().await, told);
    assert_eq!(pod.turn("t1", "c1", "SLOW 3").await.rest().await, told);
    for from in 0..=told.len() {
        let number = from.checked_sub(1).map_or(0, |last| told[last].id);
        let attached = reader(pod.on_turn("GET", &format!("t1?from={number}"))).await;
        assert_eq!(attached.rest().await, told[from..], "from {number}");
    }
    assert_eq!(pod.model_calls(), 1);
    for (conversation, text) in [("c1", "another text"), ("c2", "SLOW 3")] {
        let (status, body) = answer(pod.posting("t1", conversation, text)).await;
        assert_eq!((status, &body["error"]), (409, &json!("TurnMismatch")));
    }
}

#[tokio::test]
async fn a_turn_outlives_its_caller() {
    let pod = Pod::with_model().await;
    let mut caller = pod.turn("t1", "c1", "SLOW 3").await;
    let seen = caller.next().await.unwrap();
    drop(caller);
    let rest = reader(pod.on_turn("GET", &format!("t1?from={}", seen.id))).await;
    let mut events = vec![seen];
    events.extend(rest.rest().await);
    assert_eq!(held(&events), "w0 w1 w2 You said: SLOW 3");
    assert_eq!(end(&events).0, "done");
}

#[tokio::test]
async fn a_cancelled_turn_stops_and_frees_its_conversation() {
    let pod = Pod::with_model().await;
    let mut reader = pod.turn("t1", "c1", "SLOW 100").await;
    reader.next().await.unwrap();
    let cancelled = answer(pod.on_turn("DELETE", "t1")).await;
    assert_eq!(cancelled, (200, json!({"cancelling": true})));
    let events = reader.rest().await;
    assert_eq!(end(&events), ("error", &json!("TurnCancelled")));
    assert_eq!(pod.model_calls(), 0, "it had not got to the model");
    let again = answer(pod.on_turn("DELETE", "t1")).await;
    assert_eq!(again, (200, json!({"cancelling": false})));
    let next = pod.turn("t2", "c1", "hello").await.rest().await;
    assert_eq!(end(&next), ("done", &json!("You said: hello")));
}

#[tokio::test]
async fn a_turn_that_takes_too_long_is_stopped() {
    let mut pod = Pod::with_model().await;
    pod.stop().await.await.unwrap();
    let mut config = pod.config();
    config.turn_timeout = Duration::from_secs(1);
    pod.restart_with(config).await;
    let events = pod.turn("t1", "c1", "SLOW 100").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("TurnTimedOut")));
    let next = pod.turn("t2", "c1", "hello").await.rest().await;
    assert_eq!(end(&next).0, "done", "the agent was stopped: {next:?}");
}

#[tokio::test]
async fn a_line_that_breaks_loses_nothing() {
    let pod = Pod::with_model().await;
    for (id, word) in [("t1", "DROP"), ("t2", "GARBAGE")] {
        let text = format!("SLOW 2 {word}");
        let events = pod.turn(id, "c1", &text).await.rest().await;
        let reply = format!("w0 w1 You said: {text}");
        assert_eq!(end(&events), ("done", &json!(reply)), "{events:?}");
    }
    assert_eq!(pod.model_calls(), 2);
}

#[tokio::test]
async fn a_turn_that_a_crash_swallowed_is_lost_and_not_run_again() {
    let mut pod = Pod::with_model().await;
    let reader = pod.turn("t1", "c1", "CRASH").await;
    pod.openclaw_crashed().await;
    pod.restart_openclaw().await;
    let events = reader.rest().await;
    assert_eq!(end(&events), ("error", &json!("TurnLost")));
    assert_eq!(pod.turn("t1", "c1", "CRASH").await.rest().await, events);
    assert_eq!(pod.model_calls(), 0);
    let next = pod.turn("t2", "c1", "RECALL").await.rest().await;
    assert_eq!(end(&next).0, "done");
}

#[tokio::test]
async fn a_turn_waits_for_an_agent_that_comes_back_and_not_for_ever() {
    let mut pod = Pod::with_model().await;
    pod.turn("t0", "c0", "CRASH").await;
    pod.openclaw_crashed().await;
    let waiting = pod.turn("t1", "c1", "hello").await;
    pod.restart_openclaw().await;
    assert_eq!(
        end(&waiting.rest().await),
        ("done", &json!("You said: hello"))
    );
    pod.stop().await.await.unwrap();
    let mut config = pod.config();
    config.openclaw_patience = Duration::from_secs(1);
    pod.restart_with(config).await;
    let given = pod.turn("t2", "c2", "CRASH").await;
    pod.openclaw_crashed().await;
    let events = pod.turn("t3", "c3", "hello").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("AgentUnavailable")));
    // The agent has this one, and may go on with it when it is back: not to be tried again blindly.
    let events = given.rest().await;
    assert_eq!(end(&events), ("error", &json!("TurnLost")));
    let message = events.last().unwrap().data["message"].as_str().unwrap();
    assert!(!message.contains("Try again"), "{message}");
}

/// What the agent has goes on when it is back, whatever the user was told before.
#[tokio::test]
async fn a_turn_that_is_cancelled_while_the_agent_is_away_is_stopped_when_it_is_back() {
    let mut pod = Pod::with_model().await;
    let given = pod.turn("t1", "c1", "CRASH").await;
    pod.openclaw_crashed().await;
    let waiting = pod.turn("t2", "c2", "hello").await;
    for id in ["t1", "t2"] {
        let cancelled = answer(pod.on_turn("DELETE", id)).await;
        assert_eq!(cancelled, (200, json!({"cancelling": true})));
    }
    // Nobody has this one: it is over at once.
    let events = waiting.rest().await;
    assert_eq!(end(&events), ("error", &json!("TurnCancelled")));
    pod.restart_openclaw().await;
    let events = given.rest().await;
    assert_eq!(end(&events), ("error", &json!("TurnCancelled")));
    assert_eq!(pod.model_calls(), 0);
}

#[tokio::test]
async fn after_a_restart_of_agentd_a_turn_is_found_again() {
    let mut pod = Pod::with_model().await;
    pod.turn("t1", "c1", "hello").await.rest().await;
    let mut running = pod.turn("t2", "c2", "SLOW 30").await;
    running.next().await.unwrap();
    drop(running);
    pod.restart().await;
    let (status, body) = answer(pod.on_turn("GET", "t2")).await;
    assert_eq!((status, &body["error"]), (404, &json!("TurnNotFound")));
    let (ended, running, other) = futures::join!(
        pod.turn("t1", "c1", "hello"),
        pod.turn("t2", "c2", "SLOW 30"),
        pod.turn("t3", "c4", "hi"),
    );
    assert_eq!(
        end(&ended.rest().await),
        ("done", &json!("You said: hello"))
    );
    assert_eq!(end(&other.rest().await).0, "done");
    let events = running.rest().await;
    assert!(held(&events).starts_with("w0 w1 w2 "), "{events:?}");
    assert_eq!(end(&events).0, "done");
    assert_eq!(held(&events), events.last().unwrap().data["text"]);
    assert_eq!(pod.model_calls(), 3, "each turn was run once");
}

#[tokio::test]
async fn a_session_that_is_busy_with_something_unknown_takes_no_turn() {
    let mut pod = Pod::with_model().await;
    let mut forgotten = pod.turn("t1", "c1", "SLOW 1 HOLD").await;
    forgotten.next().await.unwrap();
    drop(forgotten);
    pod.restart().await;
    let events = pod.turn("t2", "c1", "hello").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("TurnInProgress")));
}

#[tokio::test]
async fn a_model_that_refuses_ends_the_turn_by_the_refusals_name_and_without_its_words() {
    let pod = Pod::of_alice().await;
    for (status, kind, text, name) in [
        (
            401,
            "token_not_found_in_db",
            "Authentication Error, sk-secret",
            "ModelKeyRejected",
        ),
        (
            422,
            "budget_exceeded",
            "Budget has been exceeded! sk-secret",
            "ModelBudgetExceeded",
        ),
        (
            429,
            "throttling_error",
            "litellm.RateLimitError: sk-secret",
            "ModelRateLimited",
        ),
        (
            500,
            "None",
            "litellm.InternalServerError: sk-secret",
            "ModelUnavailable",
        ),
        (
            401,
            "None",
            "litellm.AuthenticationError: sk-secret",
            "ModelUnavailable",
        ),
        (
            400,
            "invalid_request_error",
            "no such thing as sk-secret",
            "AgentFailed",
        ),
    ] {
        let error =
            json!({"message": text, "type": kind, "param": "None", "code": status.to_string()});
        let body = json!({"error": error});
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        pod.upstream.answers(move |_| json_response(status, &body));
        let events = pod
            .turn(
                &format!("t-{kind}-{status}-{name}").replace(' ', "-"),
                "c1",
                "hello",
            )
            .await;
        let events = events.rest().await;
        assert_eq!(end(&events), ("error", &json!(name)), "{status} {kind}");
        let message = events.last().unwrap().data["message"].as_str().unwrap();
        assert!(!message.contains("sk-secret"), "{message}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_says_so_ends_the_turn_by_the_models_name() {
    let pod = Pod::of_alice().await;
    let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"some\"}}]}\n\n";
    let error = "data: {\"error\":{\"message\":\"slow\",\"type\":\"None\",\"code\":\"429\"}}\n\n";
    for (id, rest, name) in [
        ("t1", "", "ModelUnavailable"),
        ("t2", error, "ModelRateLimited"),
    ] {
        pod.upstream.answers(move |_| {
            axum::response::Response::builder()
                .header("content-type", "text/event-stream")
                .body(axum::body::Body::from(format!("{word}{rest}")))
                .unwrap()
        });
        let events = pod.turn(id, "c1", "hello").await.rest().await;
        assert_eq!(end(&events), ("error", &json!(name)));
    }
}

#[tokio::test]
async fn a_gateway_that_is_away_ends_the_turn_by_the_models_name() {
    let mut pod = Pod::ready().await;
    let mut config = pod.config();
    pod.stop().await.await.unwrap();
    // Nothing listens there.
    config.model_gateway = "http://127.0.0.1:9".parse().unwrap();
    pod.restart_with(config).await;
    pod.until_ready().await;
    pod.bind(ALICE, ALICES_KEY).await;
    let events = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("ModelUnavailable")));
}

#[tokio::test]
async fn a_turn_whose_model_call_failed_is_told_the_same_way_after_a_restart() {
    let mut pod = Pod::of_alice().await;
    pod.upstream.answers(|_| {
        let error = json!({"message": "litellm.RateLimitError: slow", "code": "429"});
        json_response(
            axum::http::StatusCode::TOO_MANY_REQUESTS,
            &json!({"error": error}),
        )
    });
    let events = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("ModelRateLimited")));
    pod.restart().await;
    pod.until_ready().await;
    // What the gateway said is forgotten, and what OpenClaw kept is for its own log.
    let events = pod.turn("t1", "c1", "hello").await.rest().await;
    assert_eq!(end(&events), ("error", &json!("AgentFailed")));
    assert_eq!(pod.model_calls(), 1, "it is not tried again");
}

#[tokio::test]
async fn only_a_token_for_turns_and_for_the_user_has_turns() {
    let pod = Pod::with_model().await;
    let body = json!({"id": "t1", "conversation": "c1", "text": "hello"});
    let eves = pod.turn_token(BOB);
    let binder = pod.signer.token(ALICE);
    for (token, status, error) in [
        (Some(&binder), 403, "NotAllowed"),
        (Some(&eves), 403, "WrongUser"),
        (None, 401, "InvalidToken"),
    ] {
        for (method, path) in [
            ("POST", "/v1/turns"),
            ("GET", "/v1/turns/t1"),
            ("DELETE", "/v1/turns/t1"),
        ] {
            let request = pod.http.request(method.parse().unwrap(), pod.control(path));
            let mut request = request.json(&body);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let refused = answer(request).await;
            assert_eq!(
                (refused.0, &refused.1["error"]),
                (status, &json!(error)),
                "{method} {path}"
            );
        }
    }
    assert_eq!(pod.model_calls(), 0);
    let unbound = Pod::ready().await;
    let (status, body) = answer(unbound.posting("t1", "c1", "hello")).await;
    assert_eq!((status, &body["error"]), (503, &json!("NotBound")));
}

#[tokio::test]
async fn a_turn_that_is_none_is_refused() {
    let pod = Pod::with_model().await;
    let text = "x".repeat(200 * 1024);
    for (id, conversation, text, status, error) in [
        ("", "c1", "hello", 400, "MalformedRequest"),
        ("../t", "c1", "hello", 400, "MalformedRequest"),
        ("t1", "subagent:x", "hello", 400, "MalformedRequest"),
        ("t1", "C1", "hello", 400, "MalformedRequest"),
        ("t1", "c1", " \n", 400, "MalformedRequest"),
        ("t1", "c1", &format!("{text}x"), 413, "BodyTooLarge"),
    ] {
        let refused = answer(pod.posting(id, conversation, text)).await;
        assert_eq!(
            (refused.0, &refused.1["error"]),
            (status, &json!(error)),
            "{id} {conversation}"
        );
    }
    for (rest, status) in [("t9", 404), ("t%2F1", 404), ("t9?from=x", 404)] {
        assert_eq!(answer(pod.on_turn("GET", rest)).await.0, status, "{rest}");
    }
    assert_eq!(answer(pod.on_turn("DELETE", "t9")).await.0, 404);
    assert_eq!(pod.model_calls(), 0);
    let longest = pod.turn("t1", "c1", &text).await.rest().await;
    assert_eq!(end(&longest).0, "done");
    assert_eq!(answer(pod.on_turn("GET", "t1?from=x")).await.0, 400);
}

#[tokio::test]
async fn nothing_of_a_callers_headers_gets_to_the_agent() {
    let pod = Pod::with_model().await;
    let request = pod
        .posting("t1", "c1", "hello")
        .header("x-openclaw-session-key", "agent:warm:c9")
        .header("x-openclaw-agent-id", "warm");
    reader(request).await.rest().await;
    let recalled = pod.turn("t2", "c1", "RECALL").await.rest().await;
    assert!(held(&recalled).contains("Before, you said: hello"));
}

//! The control routes: who may call, and what a binding is.

use serde_json::{Value, json};

use crate::harness::{ALICE, ALICES_KEY, BOB, Pod, Signer, answer, say};

#[tokio::test]
async fn a_sandbox_is_bound_once_and_for_ever() {
    let pod = Pod::ready().await;
    for _ in 0..2 {
        assert_eq!(
            pod.bind(ALICE, ALICES_KEY).await,
            (200, json!({"bound": true}))
        );
    }
    for key in [ALICES_KEY, "sk-bobs"] {
        let (status, body) = pod.bind(BOB, key).await;
        assert_eq!(
            (status, &body["error"]),
            (409, &json!("BoundToAnother")),
            "{key}"
        );
    }
    assert_eq!(pod.status().await["user_key"], ALICE);
}

/// What a rotation of the gateway's master key comes to in here.
#[tokio::test]
async fn the_same_user_with_another_key_calls_the_model_with_that_from_then_on() {
    let mut pod = Pod::of_alice().await;
    assert_eq!(
        pod.bind(ALICE, "sk-another").await,
        (200, json!({"bound": true}))
    );
    assert_eq!(pod.complete(&say("hello")).await.0, 200);
    pod.restart().await;
    assert_eq!(pod.complete(&say("hello")).await.0, 200);
    let received = pod.upstream.received();
    let keys: Vec<_> = received
        .iter()
        .map(|request| request.headers["authorization"].clone())
        .collect();
    assert_eq!(keys, ["Bearer sk-another", "Bearer sk-another"]);
    assert_eq!(pod.bind(BOB, "sk-another").await.0, 409);
}

#[tokio::test]
async fn without_a_good_token_nothing_is_answered() {
    let pod = Pod::ready().await;
    let stranger = Signer::new("stranger");
    let impostor = Signer::new("one");
    let unsigned = {
        let token = pod
            .signer
            .token_with(ALICE, |header, _| header["alg"] = json!("none"));
        let (signed, _) = token.rsplit_once('.').unwrap();
        format!("{signed}.")
    };
    let tokens = [
        pod.signer
            .token_with(ALICE, |_, claims| claims["aud"] = json!("agents-other")),
        pod.signer.token_with(ALICE, |_, claims| {
            claims["iat"] = json!(claims["iat"].as_i64().unwrap() - 120);
            claims["exp"] = json!(claims["exp"].as_i64().unwrap() - 120);
        }),
        pod.signer.token_with(ALICE, |_, claims| {
            claims["exp"] = json!(claims["exp"].as_i64().unwrap() + 3600);
        }),
        pod.signer
            .token_with(ALICE, |_, claims| claims["iss"] = json!("somebody")),
        pod.signer
            .token_with(ALICE, |header, _| header["alg"] = json!("HS256")),
        pod.signer
            .token_with(ALICE, |header, _| header["kid"] = json!("another")),
        stranger.token(ALICE),
        impostor.token(ALICE),
        unsigned,
        "garbage".to_owned(),
        String::new(),
    ];
    for token in &tokens {
        let answers = [
            pod.bind_with(token, ALICE, ALICES_KEY).await,
            pod.get(&pod.control("/v1/status"), Some(token)).await,
        ];
        for (status, body) in answers {
            assert_eq!(
                (status, &body["error"]),
                (401, &json!("InvalidToken")),
                "{token}"
            );
        }
    }
    let (status, body) = pod.get(&pod.control("/v1/status"), None).await;
    assert_eq!((status, &body["error"]), (401, &json!("InvalidToken")));
    let good = pod.signer.token(ALICE);
    let twice = pod
        .http
        .get(pod.control("/v1/status"))
        .bearer_auth(&good)
        .bearer_auth(&good);
    assert_eq!(answer(twice).await.0, 401, "two tokens are none");
    let basic = pod
        .http
        .get(pod.control("/v1/status"))
        .header("authorization", format!("Basic {good}"));
    assert_eq!(answer(basic).await.0, 401);
    assert_eq!(pod.status().await["bound"], false);
}

#[tokio::test]
async fn a_token_is_for_its_user_and_its_purpose() {
    let pod = Pod::ready().await;
    let (status, body) = pod
        .bind_with(&pod.signer.token(BOB), ALICE, ALICES_KEY)
        .await;
    assert_eq!((status, &body["error"]), (403, &json!("WrongUser")));
    let sweeper = pod
        .signer
        .token_with(ALICE, |_, claims| claims["sub"] = json!("sandbox-sweep"));
    let (status, body) = pod.bind_with(&sweeper, ALICE, ALICES_KEY).await;
    assert_eq!((status, &body["error"]), (403, &json!("NotAllowed")));
    assert_eq!(
        pod.get(&pod.control("/v1/status"), Some(&sweeper)).await.0,
        200
    );
    assert_eq!(pod.bind(ALICE, ALICES_KEY).await.0, 200);
    let (status, body) = pod
        .get(&pod.control("/v1/status"), Some(&pod.signer.token(BOB)))
        .await;
    assert_eq!((status, &body["error"]), (403, &json!("WrongUser")));
}

#[tokio::test]
async fn keys_rotate_without_a_restart() {
    let pod = Pod::ready().await;
    let next = Signer::new("two");
    let url = pod.control("/v1/status");
    let accepts = async |signer: &Signer| pod.get(&url, Some(&signer.token(ALICE))).await.0 == 200;
    assert!(accepts(&pod.signer).await && !accepts(&next).await);
    pod.publish(&[pod.signer.jwk(), next.jwk()]);
    assert!(accepts(&pod.signer).await && accepts(&next).await);
    pod.publish(&[next.jwk()]);
    assert!(!accepts(&pod.signer).await && accepts(&next).await);
    for damaged in ["", "{\"keys\":", "[]"] {
        std::fs::write(pod.path("jwks/jwks.json"), damaged).unwrap();
        let (status, body) = pod.get(&url, Some(&next.token(ALICE))).await;
        assert_eq!(
            (status, &body["error"]),
            (503, &json!("KeysUnavailable")),
            "{damaged:?}"
        );
    }
    std::fs::remove_file(pod.path("jwks/jwks.json")).unwrap();
    let (status, body) = pod.get(&url, Some(&next.token(ALICE))).await;
    assert_eq!((status, &body["error"]), (503, &json!("KeysUnavailable")));
}

#[tokio::test]
async fn hostile_bodies_are_refused_before_they_are_read_or_parsed() {
    let pod = Pod::ready().await;
    let post = |body: Vec<u8>| {
        let token = pod.signer.token(ALICE);
        answer(
            pod.http
                .post(pod.control("/v1/bind"))
                .bearer_auth(token)
                .body(body),
        )
    };
    let (status, body) = post(vec![b' '; 16 * 1024 + 1]).await;
    assert_eq!((status, &body["error"]), (413, &json!("BodyTooLarge")));
    let nested = format!("{}{}", "[".repeat(8000), "]".repeat(8000));
    for malformed in [
        "",
        "null",
        "[]",
        "{",
        "\u{feff}{}",
        &nested,
        &json!({"user_key": ALICE}).to_string(),
        &json!({"user_key": ALICE, "model_key": null}).to_string(),
        &json!({"user_key": ALICE, "model_key": ""}).to_string(),
        &json!({"user_key": ALICE, "model_key": "sk-a\r\nx-evil: 1"}).to_string(),
        &json!({"user_key": "../../../etc/passwd", "model_key": "sk-a"}).to_string(),
        &json!({"user_key": ALICE.to_uppercase(), "model_key": "sk-a"}).to_string(),
        &format!("{{\"user_key\":\"{ALICE}\",\"user_key\":\"{BOB}\",\"model_key\":\"sk-a\"}}"),
    ] {
        let (status, body) = post(malformed.as_bytes().to_vec()).await;
        assert_eq!(
            (status, &body["error"]),
            (400, &json!("MalformedRequest")),
            "{malformed:.80}"
        );
    }
    let large = pod
        .http
        .post(pod.control("/v1/bind"))
        .body(vec![0; 16 * 1024 + 1]);
    assert_eq!(
        answer(large).await.0,
        401,
        "nothing is read from a stranger"
    );
    assert_eq!(pod.status().await["bound"], false);
}

#[tokio::test]
async fn other_routes_and_methods_say_so() {
    let pod = Pod::ready().await;
    let names = async |request: reqwest::RequestBuilder| -> (u16, Value) {
        let (status, body) = answer(request).await;
        (status, body["error"].clone())
    };
    let missing = names(pod.http.get(pod.control("/v1/other"))).await;
    assert_eq!(missing, (404, json!("NotFound")));
    let wrong = names(pod.http.get(pod.control("/v1/bind"))).await;
    assert_eq!(wrong, (405, json!("MethodNotAllowed")));
    let proxied = names(pod.http.get(pod.control("/v1/models"))).await;
    assert_eq!(
        proxied,
        (404, json!("NotFound")),
        "the proxy is on loopback alone"
    );
}

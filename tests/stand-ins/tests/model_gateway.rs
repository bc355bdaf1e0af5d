//! The stand-in for LiteLLM as its callers use it: keys that are made, asked for, used and deleted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use carapace_stand_ins::model_gateway::{ModelGateway, Settings};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

const MASTER: &str = "sk-master-0123456789";
const ALICE: &str = "sk-alice-0123456789";
const BOB: &str = "sk-bob-0123456789";

struct Gateway {
    base: String,
    client: reqwest::Client,
}

impl Gateway {
    async fn start() -> Self {
        let settings = Settings {
            master_key: MASTER.to_owned(),
            model: "agent".to_owned(),
        };
        let router = ModelGateway::new(settings).unwrap().router();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            base,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn post(&self, key: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self
            .client
            .post(format!("{}{path}", self.base))
            .bearer_auth(key);
        let answer = request.json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn info(&self, key: &str, about: &str) -> (u16, Value) {
        let request = self
            .client
            .get(format!("{}/key/info{about}", self.base))
            .bearer_auth(key);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn generate(&self, key: &str, alias: &str) -> (u16, Value) {
        let body = json!({
            "key": key, "key_alias": alias, "duration": "24h",
            "metadata": {"user_key": "a"}, "user_id": "a",
        });
        self.post(MASTER, "/key/generate", body).await
    }

    async fn say(&self, key: &str) -> (u16, Value) {
        let messages = json!([{"role": "user", "content": "hello there"}]);
        let body = json!({"model": "agent", "messages": messages});
        self.post(key, "/v1/chat/completions", body).await
    }
}

#[tokio::test]
async fn a_key_works_from_its_making_to_its_deletion() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.say(ALICE).await.0, 401);
    let (status, made) = gateway.generate(ALICE, "alice").await;
    assert_eq!((status, &made["key"]), (200, &json!(ALICE)));
    assert!(made["expires"].is_string());
    let (status, completion) = gateway.say(ALICE).await;
    assert_eq!(status, 200);
    assert_eq!(
        completion["choices"][0]["message"]["content"],
        "You said: hello there"
    );
    let deleted = gateway
        .post(MASTER, "/key/delete", json!({"key_aliases": ["alice"]}))
        .await;
    assert_eq!(deleted, (200, json!({"deleted_keys": ["alice"]})));
    assert_eq!(gateway.say(ALICE).await.0, 401);
    let (status, remembered) = gateway.info(MASTER, &format!("?key={ALICE}")).await;
    assert_eq!(
        (status, &remembered["info"]["status"]),
        (200, &json!("deleted"))
    );
    assert_eq!(
        gateway
            .post(MASTER, "/key/delete", json!({"keys": [ALICE]}))
            .await
            .0,
        404
    );
    assert_eq!(
        gateway.generate(ALICE, "alice").await.0,
        200,
        "the alias is free again"
    );
}

#[tokio::test]
async fn the_reply_repeats_the_user_and_not_what_openclaw_adds() {
    let gateway = Gateway::start().await;
    let body = json!({"model": "agent", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": "!"}]},
        {"role": "assistant", "content": "hm"},
        {"role": "user", "content": "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nnone"},
    ]});
    let (_, completion) = gateway.post(MASTER, "/v1/chat/completions", body).await;
    assert_eq!(
        completion["choices"][0]["message"]["content"],
        "You said: hello!"
    );
}

#[tokio::test]
async fn an_alias_is_taken_once_and_a_key_stays_as_it_was_made() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.generate(ALICE, "alice").await.0, 200);
    for key in [ALICE, BOB] {
        let (status, refused) = gateway.generate(key, "alice").await;
        assert_eq!(status, 400);
        assert_eq!(refused["error"]["type"], "bad_request_error");
        assert_eq!(refused["error"]["param"], "key_alias");
    }
    assert_eq!(gateway.say(BOB).await.0, 401, "a refused key is not made");
    assert_eq!(gateway.generate(ALICE, "another").await.0, 200);
    let (_, known) = gateway.info(MASTER, &format!("?key={ALICE}")).await;
    assert_eq!(known["info"]["key_alias"], "alice");
}

#[tokio::test]
async fn a_key_is_known_by_itself_and_by_its_hash() {
    let gateway = Gateway::start().await;
    gateway.generate(ALICE, "alice").await;
    let hash = HEXLOWER.encode(&Sha256::digest(ALICE));
    for about in [ALICE, &hash] {
        let (status, known) = gateway.info(MASTER, &format!("?key={about}")).await;
        assert_eq!((status, &known["key"]), (200, &json!(about)));
        assert_eq!(known["info"]["user_id"], "a");
        assert!(
            !known.to_string().contains("\"token\""),
            "the hash is not given away"
        );
    }
    let (status, missing) = gateway.info(MASTER, "?key=sk-nobody-0123456789").await;
    assert_eq!(
        (status, &missing["error"]["type"]),
        (404, &json!("not_found_error"))
    );
}

#[tokio::test]
async fn what_a_key_spends_tells_that_it_was_used() {
    let gateway = Gateway::start().await;
    gateway.generate(ALICE, "alice").await;
    gateway.generate(BOB, "bob").await;
    gateway.say(ALICE).await;
    let spend = async |key: &str| {
        let (_, known) = gateway.info(MASTER, &format!("?key={key}")).await;
        known["info"]["spend"].as_f64().unwrap()
    };
    assert!(spend(ALICE).await > 0.0);
    assert!(spend(BOB).await == 0.0);
}

#[tokio::test]
async fn a_virtual_key_is_no_master_key() {
    let gateway = Gateway::start().await;
    gateway.generate(ALICE, "alice").await;
    gateway.generate(BOB, "bob").await;
    for (path, body) in [
        ("/key/generate", json!({})),
        ("/key/delete", json!({"keys": [BOB]})),
    ] {
        let (status, refused) = gateway.post(ALICE, path, body).await;
        assert_eq!(
            (status, &refused["error"]["type"]),
            (401, &json!("auth_error")),
            "{path}"
        );
    }
    assert_eq!(
        gateway.info(ALICE, "").await.1["info"]["key_alias"],
        "alice"
    );
    assert_eq!(gateway.info(ALICE, &format!("?key={BOB}")).await.0, 403);
    assert_eq!(gateway.say(BOB).await.0, 200, "it is still there");
}

#[tokio::test]
async fn a_key_ends_when_its_time_has_passed() {
    let gateway = Gateway::start().await;
    let body = json!({"key": ALICE, "duration": "0s"});
    assert_eq!(gateway.post(MASTER, "/key/generate", body).await.0, 200);
    let (status, refused) = gateway.say(ALICE).await;
    assert_eq!(
        (status, &refused["error"]["type"]),
        (401, &json!("expired_key"))
    );
    let (_, known) = gateway.info(MASTER, &format!("?key={ALICE}")).await;
    assert_eq!(known["info"]["status"], "expired");
}

#[tokio::test]
async fn a_key_that_the_real_gateway_would_not_make_is_not_made() {
    let gateway = Gateway::start().await;
    for (body, expected) in [
        (json!({"key": "no-prefix-0123456789"}), 400),
        (json!({"key": "sk-short"}), 400),
        (json!({"key": ALICE, "duration": "soon"}), 500),
        (
            json!({"key": ALICE, "duration": "99999999999999999999d"}),
            500,
        ),
        (json!({"key": ALICE, "metadata": []}), 422),
    ] {
        let (status, answer) = gateway.post(MASTER, "/key/generate", body.clone()).await;
        assert_eq!(status, expected, "{body}: {answer}");
    }
    assert_eq!(gateway.say(ALICE).await.0, 401);
}

#[test]
fn a_master_key_without_its_prefix_is_refused() {
    let settings = Settings {
        master_key: "master".to_owned(),
        model: "agent".to_owned(),
    };
    assert!(ModelGateway::new(settings).is_err());
}

impl Gateway {
    async fn ask(&self, text: &str, stream: bool) -> reqwest::Response {
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"model": "agent", "messages": messages, "stream": stream});
        let url = format!("{}/v1/chat/completions", self.base);
        let request = self.client.post(url).bearer_auth(ALICE).json(&body);
        request.send().await.unwrap()
    }

    async fn tell(&self, key: &str, script: Value) -> u16 {
        let url = format!("{}/_stand-in/script", self.base);
        let request = self.client.post(url).bearer_auth(key).json(&script);
        request.send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn what_is_asked_says_how_a_call_fails_streamed_or_not() {
    let gateway = Gateway::start().await;
    gateway.generate(ALICE, "alice").await;
    for (word, status, kind) in [
        ("401", 401, "token_not_found_in_db"),
        ("403", 403, "permission_error"),
        ("429", 429, "throttling_error"),
        ("LIMIT", 429, "throttling_error"),
        ("BUDGET", 422, "budget_exceeded"),
        ("500", 503, "internal_server_error"),
        ("503", 503, "internal_server_error"),
    ] {
        for stream in [true, false] {
            let answer = gateway.ask(&format!("please MODEL {word}"), stream).await;
            assert_eq!(answer.status(), status, "{word}");
            let waits = answer.headers().contains_key("retry-after");
            assert_eq!(waits, word == "LIMIT");
            let error = answer.json::<Value>().await.unwrap()["error"].take();
            assert_eq!(error["type"], kind, "{error}");
            assert_eq!(error["code"], status.to_string(), "{error}");
        }
    }
    let cut = gateway.ask("MODEL CUT", true).await.text().await.unwrap();
    assert!(cut.contains("said: ") && !cut.contains("[DONE]"), "{cut}");
    let midway = gateway.ask("MODEL MIDWAY", true).await;
    let midway = midway.text().await.unwrap();
    assert!(
        midway.contains("said: ") && midway.contains(r#""code":"429""#),
        "{midway}"
    );
    let hangs = gateway.ask("MODEL HANG", true);
    let patience = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(patience, hangs).await.is_err());
}

#[tokio::test]
async fn a_key_that_has_spent_its_budget_is_refused() {
    let gateway = Gateway::start().await;
    let body = json!({"key": ALICE, "key_alias": "alice", "max_budget": 0.000_001});
    gateway.post(MASTER, "/key/generate", body).await;
    assert_eq!(gateway.say(ALICE).await.0, 200);
    let (status, body) = gateway.say(ALICE).await;
    assert_eq!(
        (status, &body["error"]["type"]),
        (422, &json!("budget_exceeded"))
    );
    let message = body["error"]["message"].as_str().unwrap();
    let expected = "Budget has been exceeded! Key=alice (sk-...6789) Current cost: ";
    assert!(message.starts_with(expected), "{message}");
}

#[tokio::test]
async fn the_calls_of_a_users_keys_fail_as_told_and_nobody_elses() {
    let gateway = Gateway::start().await;
    gateway.generate(ALICE, "alice").await;
    let body = json!({"key": BOB, "key_alias": "bob", "user_id": "b"});
    gateway.post(MASTER, "/key/generate", body).await;
    let twice = json!({"user_id": "a", "model": "429", "times": 2});
    assert_eq!(gateway.tell(ALICE, twice.clone()).await, 401);
    assert_eq!(
        gateway
            .tell(MASTER, json!({"user_id": "a", "model": "7"}))
            .await,
        400
    );
    assert_eq!(gateway.tell(MASTER, twice).await, 204);
    assert_eq!(gateway.say(BOB).await.0, 200);
    let answers = [
        gateway.say(ALICE).await.0,
        gateway.say(ALICE).await.0,
        gateway.say(ALICE).await.0,
    ];
    assert_eq!(answers, [429, 429, 200]);
    gateway
        .tell(MASTER, json!({"user_id": "a", "model": "BUDGET"}))
        .await;
    for _ in 0..3 {
        assert_eq!(gateway.say(ALICE).await.0, 422);
    }
    gateway.tell(MASTER, json!({"user_id": "a"})).await;
    assert_eq!(gateway.say(ALICE).await.0, 200);
}

#[tokio::test]
async fn an_agent_with_tools_is_answered_by_the_whole_script() {
    let gateway = Gateway::start().await;
    gateway.generate(ALICE, "alice").await;
    let tools = json!([{"type": "function", "function": {"name": "exec"}}]);
    let ask = async |messages: Value| {
        let body = json!({"model": "agent", "messages": messages, "tools": tools});
        let (status, answer) = gateway.post(ALICE, "/v1/chat/completions", body).await;
        assert_eq!(status, 200);
        answer["choices"][0].clone()
    };
    let asked = json!({"role": "user", "content": "TOOL cat file"});
    let choice = ask(json!([asked])).await;
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], r#"{"command":"cat file"}"#);
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "42"});
    let choice = ask(json!([asked, choice["message"], result])).await;
    let said = choice["message"]["content"].as_str().unwrap();
    assert_eq!(said, "You said: TOOL cat file The tool said: 42");
}

impl Gateway {
    async fn new_user(&self, id: &str, more: Value) -> (u16, Value) {
        let mut body = json!({"user_id": id, "auto_create_key": false});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.post(MASTER, "/user/new", body).await
    }

    async fn user(&self, key: &str, path: &str) -> (u16, Value) {
        let request = self.client.get(format!("{}{path}", self.base));
        let answer = request.bearer_auth(key).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

#[tokio::test]
async fn a_user_is_made_once_changed_and_deleted_with_all_keys() {
    let gateway = Gateway::start().await;
    let unknown = gateway.user(MASTER, "/v2/user/info?user_id=a").await;
    assert_eq!(
        (unknown.0, &unknown.1["error"]["code"]),
        (404, &json!("404"))
    );
    let limits = json!({"max_budget": 20.0, "budget_duration": "30d", "tpm_limit": 5});
    assert_eq!(gateway.new_user("a", limits.clone()).await.0, 200);
    assert_eq!(gateway.new_user("a", limits).await.0, 409);
    assert_eq!(gateway.new_user("b", json!({})).await.0, 200);
    gateway.generate(ALICE, "alice").await;
    let bobs = json!({"key": BOB, "key_alias": "bob", "user_id": "b"});
    gateway.post(MASTER, "/key/generate", bobs).await;
    let change = json!({"user_id": "a", "max_budget": 40.0, "tpm_limit": null});
    assert_eq!(gateway.post(MASTER, "/user/update", change).await.0, 200);
    let (_, known) = gateway.user(ALICE, "/user/info?user_id=a").await;
    let row = &known["user_info"];
    assert_eq!(
        (
            &row["max_budget"],
            &row["budget_duration"],
            &row["tpm_limit"]
        ),
        (&json!(40.0), &json!("30d"), &Value::Null)
    );
    assert_eq!(known["keys"][0]["key_alias"], "alice");
    let both = json!({"user_ids": ["a", "nobody"]});
    let (status, refused) = gateway.post(MASTER, "/user/delete", both).await;
    assert_eq!(status, 404);
    let expected = json!({"detail": {"error": "User not found, passed user_id=nobody"}});
    assert_eq!(refused, expected);
    assert_eq!(gateway.say(ALICE).await.0, 200, "all or none");
    let one = json!({"user_ids": ["a"]});
    let deleted = gateway.post(MASTER, "/user/delete", one.clone()).await;
    assert_eq!(deleted, (200, json!(1)));
    assert_eq!(gateway.say(ALICE).await.0, 401);
    assert_eq!(gateway.info(MASTER, &format!("?key={ALICE}")).await.0, 404);
    assert_eq!(gateway.post(MASTER, "/user/delete", one).await.0, 404);
    assert_eq!(gateway.say(BOB).await.0, 200);
}

#[tokio::test]
async fn the_keys_of_a_user_share_the_users_budget() {
    let gateway = Gateway::start().await;
    gateway
        .new_user("a", json!({"max_budget": 0.000_001}))
        .await;
    gateway.generate(ALICE, "alice").await;
    gateway.generate(BOB, "bob").await;
    assert_eq!(gateway.say(ALICE).await.0, 200);
    for key in [ALICE, BOB] {
        let (status, body) = gateway.say(key).await;
        assert_eq!(
            (status, &body["error"]["type"]),
            (422, &json!("budget_exceeded"))
        );
        let message = body["error"]["message"].as_str().unwrap();
        let expected = "ExceededBudget: User=a over budget. Spend=";
        assert!(message.starts_with(expected), "{message}");
    }
    let more = json!({"user_id": "a", "max_budget": 20.0});
    gateway.post(MASTER, "/user/update", more).await;
    assert_eq!(gateway.say(BOB).await.0, 200);
}

#[tokio::test]
async fn a_virtual_key_neither_changes_users_nor_asks_about_others() {
    let gateway = Gateway::start().await;
    gateway.new_user("a", json!({})).await;
    gateway.new_user("b", json!({})).await;
    gateway.generate(ALICE, "alice").await;
    for (path, body) in [
        ("/user/new", json!({"user_id": "c"})),
        ("/user/update", json!({"user_id": "a", "max_budget": 1.0})),
        ("/user/delete", json!({"user_ids": ["b"]})),
    ] {
        assert_eq!(gateway.post(ALICE, path, body).await.0, 401, "{path}");
    }
    let others = gateway.user(ALICE, "/user/info?user_id=b").await;
    assert_eq!(others.0, 403);
    let theirs = gateway.user(MASTER, "/v2/user/info?user_id=b").await;
    assert_eq!(theirs.0, 200);
    let none = gateway.user(MASTER, "/v2/user/info?user_id=c").await;
    assert_eq!(none.0, 404);
}

#[tokio::test]
async fn a_user_that_the_real_gateway_would_not_make_is_not_made() {
    let gateway = Gateway::start().await;
    for (more, expected) in [
        (json!({"budget_duration": "soon"}), 400),
        (json!({"budget_duration": "0d"}), 400),
        (json!({"tpm_limit": "many"}), 422),
        (json!({"user_role": "king"}), 422),
    ] {
        assert_eq!(
            gateway.new_user("a", more.clone()).await.0,
            expected,
            "{more}"
        );
    }
    let none = gateway.user(MASTER, "/v2/user/info?user_id=a").await;
    assert_eq!(none.0, 404);
}

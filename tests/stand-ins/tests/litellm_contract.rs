//! The stand-in for LiteLLM against the real one's own words: the schemas of its API, and the answers
//! that were seen at it. Run with `LITELLM_OPENAPI` naming the file that `litellm/openapi.py` wrote.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::OnceLock;

use carapace_stand_ins::model_gateway::{ModelGateway, Settings};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

const VERSION: &str = "1.106.2";
const KEY: &str = "sk-0123456789abcdefghijklmnopqrstuvwxyzABCD";

fn contract() -> &'static Value {
    static CONTRACT: OnceLock<Value> = OnceLock::new();
    CONTRACT.get_or_init(|| {
        let Ok(path) = std::env::var("LITELLM_OPENAPI") else {
            panic!(
                "LITELLM_OPENAPI must name the file written by tests/stand-ins/litellm/openapi.py \
                 in an environment with tests/stand-ins/litellm/requirements.txt"
            );
        };
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let contract: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            contract["x-litellm-version"], VERSION,
            "{path} is of another version"
        );
        contract
    })
}

/// What is wrong with an instance; nothing, if the list is empty.
fn violations(schema: &Value, instance: &Value) -> Vec<String> {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": contract()["components"],
    });
    let validator = jsonschema::validator_for(&whole).unwrap();
    validator
        .iter_errors(instance)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn operation(method: &str, path: &str) -> &'static Value {
    let operation = &contract()["paths"][path][method];
    assert!(
        operation.is_object(),
        "the real gateway has no {method} {path}"
    );
    operation
}

fn request_schema(method: &str, path: &str) -> &'static Value {
    let schema = &operation(method, path)["requestBody"]["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} takes no body");
    schema
}

fn component(name: &str) -> &'static Value {
    let schema = &contract()["components"]["schemas"][name];
    assert!(schema.is_object(), "there is no schema {name}");
    schema
}

struct StandIn {
    base: String,
    client: reqwest::Client,
}

impl StandIn {
    async fn start() -> Self {
        let text = |name: &str| contract()[name].as_str().unwrap().to_owned();
        let settings = Settings {
            master_key: text("x-master-key"),
            model: text("x-model"),
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

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.to_uppercase().parse().unwrap();
        self.client.request(method, format!("{}{path}", self.base))
    }

    fn as_master(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.request(method, path)
            .bearer_auth(contract()["x-master-key"].as_str().unwrap())
    }

    /// Sends a body that must be one the real gateway takes, and returns an answer that must be one
    /// that it could have given.
    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let plain = path.split('?').next().unwrap();
        let mut request = self.as_master(method, path);
        if let Some(body) = body {
            let wrong = violations(request_schema(method, plain), body);
            assert!(wrong.is_empty(), "{method} {path} {body}: {wrong:#?}");
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{method} {path}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let described =
            &operation(method, plain)["responses"]["200"]["content"]["application/json"];
        assert!(
            described["schema"].is_object(),
            "{method} {path} has no described answer"
        );
        let wrong = violations(&described["schema"], &answer);
        assert!(
            wrong.is_empty(),
            "{method} {path} answered {answer}: {wrong:#?}"
        );
        answer
    }
}

fn key_request() -> Value {
    json!({
        "key": KEY,
        "key_alias": "agent-aaaaaaaaaaaaaaaaaaaa-0b1c2d3e-0000-4000-8000-000000000000",
        "duration": "24h",
        "allowed_routes": ["llm_api_routes", "/key/info"],
        "metadata": {"user_key": "aaaaaaaaaaaaaaaaaaaa"},
        "user_id": "aaaaaaaaaaaaaaaaaaaa",
    })
}

fn completion_request() -> Value {
    json!({
        "model": contract()["x-model"],
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        ],
    })
}

#[tokio::test]
async fn the_life_of_a_key_fits_the_real_api() {
    let stand_in = StandIn::start().await;
    let made = stand_in
        .exchange("post", "/key/generate", Some(&key_request()))
        .await;
    assert_eq!(made["key"], KEY);
    let declared = operation("get", "/key/info")["parameters"]
        .as_array()
        .unwrap();
    assert!(
        declared
            .iter()
            .any(|parameter| parameter["name"] == "key" && parameter["in"] == "query")
    );
    let hash = HEXLOWER.encode(&Sha256::digest(KEY));
    for name in [KEY, &hash] {
        let known = stand_in
            .exchange("get", &format!("/key/info?key={name}"), None)
            .await;
        assert_eq!(known["info"]["user_id"], key_request()["user_id"]);
        // The schema of the answer is open, but the row is a row of the real table.
        let mut row = known["info"].clone();
        row["token"] = json!(hash);
        let wrong = violations(component("LiteLLM_VerificationToken"), &row);
        assert!(wrong.is_empty(), "{row}: {wrong:#?}");
    }
    stand_in
        .exchange("post", "/key/delete", Some(&json!({"keys": [KEY]})))
        .await;
}

fn user_request() -> Value {
    json!({
        "user_id": "aaaaaaaaaaaaaaaaaaaa",
        "user_role": "internal_user_viewer",
        "auto_create_key": false,
        "max_budget": 20.0,
        "budget_duration": "30d",
        "tpm_limit": 200_000,
        "rpm_limit": 60,
        "metadata": {"user_key": "aaaaaaaaaaaaaaaaaaaa"},
    })
}

/// I6: a field that the real one does not know would be left out in silence, and with it a limit.
#[tokio::test]
async fn the_life_of_a_user_fits_the_real_api() {
    let stand_in = StandIn::start().await;
    let me = user_request()["user_id"].as_str().unwrap().to_owned();
    for (path, request) in [
        ("/user/new", user_request()),
        ("/user/update", user_request()),
        ("/user/delete", json!({"user_ids": [me]})),
        ("/key/generate", key_request()),
    ] {
        let schema = request_schema("post", path)["$ref"].as_str().unwrap();
        let known = &component(schema.rsplit('/').next().unwrap())["properties"];
        for field in request.as_object().unwrap().keys() {
            // It means nothing for a user that is there.
            let is_known = known.get(field).is_some() || field == "auto_create_key";
            assert!(is_known, "{path} knows no {field}");
        }
    }
    let made = stand_in
        .exchange("post", "/user/new", Some(&user_request()))
        .await;
    assert_eq!((&made["user_id"], &made["key"]), (&json!(me), &json!("")));
    stand_in
        .exchange("post", "/key/generate", Some(&key_request()))
        .await;
    let change = json!({"user_id": me, "max_budget": 40.0, "tpm_limit": 7});
    stand_in
        .exchange("post", "/user/update", Some(&change))
        .await;
    for path in ["/user/info", "/v2/user/info"] {
        let parameters = operation("get", path)["parameters"].as_array().unwrap();
        let is_query = |p: &Value| p["name"] == "user_id" && p["in"] == "query";
        assert!(parameters.iter().any(is_query), "{path}");
        let known = stand_in
            .exchange("get", &format!("{path}?user_id={me}"), None)
            .await;
        let row = known.get("user_info").unwrap_or(&known);
        for (field, value) in [
            ("max_budget", json!(40.0)),
            ("tpm_limit", json!(7)),
            ("rpm_limit", json!(60)),
            ("budget_duration", json!("30d")),
            ("user_role", json!("internal_user_viewer")),
        ] {
            assert_eq!(row[field], value, "{path} {field}");
        }
        // The schema of the first version's row is open; this one's is not.
        let wrong = violations(component("UserInfoV2Response"), row);
        assert!(wrong.is_empty(), "{row}: {wrong:#?}");
    }
    stand_in
        .exchange("post", "/user/delete", Some(&json!({"user_ids": [me]})))
        .await;
    let gone = stand_in.request("get", "/v1/models").bearer_auth(KEY);
    assert_eq!(gone.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn completions_fit_the_real_api() {
    let stand_in = StandIn::start().await;
    let path = "/v1/chat/completions";
    let answer = stand_in
        .exchange("post", path, Some(&completion_request()))
        .await;
    let wrong = violations(component("answer-ModelResponse"), &answer);
    assert!(wrong.is_empty(), "{answer}: {wrong:#?}");
    let mut streamed = completion_request();
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let wrong = violations(request_schema("post", path), &streamed);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let response = stand_in
        .as_master("post", path)
        .json(&streamed)
        .send()
        .await
        .unwrap();
    let chunks = events(&response.text().await.unwrap());
    assert!(chunks.len() > 3, "{chunks:#?}");
    for chunk in &chunks {
        let wrong = violations(component("answer-ModelResponseStream"), chunk);
        assert!(wrong.is_empty(), "{chunk}: {wrong:#?}");
    }
    stand_in.exchange("get", "/v1/models", None).await;
}

#[tokio::test]
async fn what_the_real_schemas_refuse_the_stand_in_refuses() {
    let stand_in = StandIn::start().await;
    let mut wrong_message = completion_request();
    wrong_message["messages"] = json!("hello");
    for (path, body) in [
        ("/key/generate", json!({"duration": 24})),
        ("/key/generate", json!({"key": 7})),
        ("/key/generate", json!({"key_alias": ["a"]})),
        ("/key/generate", json!({"user_id": {}})),
        ("/key/generate", json!({"metadata": "alice"})),
        ("/key/generate", json!({"models": "agent"})),
        ("/key/generate", json!({"max_budget": "much"})),
        ("/key/generate", json!(["sk-a"])),
        ("/key/generate", json!({"allowed_routes": "/key/info"})),
        ("/user/new", json!({"user_id": 7})),
        ("/user/new", json!({"max_budget": "much"})),
        ("/user/new", json!({"budget_duration": 30})),
        ("/user/new", json!({"tpm_limit": "many"})),
        ("/user/new", json!({"rpm_limit": 1.5})),
        ("/user/new", json!({"user_role": "king"})),
        ("/user/new", json!({"auto_create_key": "never"})),
        ("/user/update", json!({"user_id": "a", "max_budget": {}})),
        ("/user/delete", json!({})),
        ("/user/delete", json!({"user_ids": "a"})),
        ("/user/delete", json!({"user_ids": [7]})),
        ("/key/delete", json!({"keys": KEY})),
        ("/key/delete", json!({"keys": [7]})),
        (
            "/v1/chat/completions",
            json!({"model": contract()["x-model"]}),
        ),
        ("/v1/chat/completions", json!({"messages": []})),
        ("/v1/chat/completions", wrong_message),
    ] {
        let refused = violations(request_schema("post", path), &body);
        assert!(
            !refused.is_empty(),
            "the schema of {path} would take {body}"
        );
        let answer = stand_in
            .as_master("post", path)
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_client_error(),
            "{path} {body}: {}",
            answer.status()
        );
    }
    // And an answer that isn't one would be noticed.
    for (schema, answer) in [
        ("GenerateKeyResponse", json!({"key_alias": "a"})),
        ("GenerateKeyResponse", json!({"key": KEY, "expires": 7})),
        (
            "answer-ModelResponse",
            json!({"id": "a", "created": 1, "object": "chat.completion"}),
        ),
        (
            "answer-ModelResponseStream",
            json!({"id": "a", "created": "now", "object": "", "choices": []}),
        ),
        (
            "LiteLLM_VerificationToken",
            json!({"token": KEY, "spend": "much"}),
        ),
    ] {
        assert!(
            !violations(component(schema), &answer).is_empty(),
            "{schema} would take {answer}"
        );
    }
}

#[tokio::test]
async fn what_the_real_gateway_was_seen_to_answer_the_stand_in_answers() {
    let stand_in = StandIn::start().await;
    let observed = contract()["x-observed"].as_array().unwrap();
    assert!(observed.len() > 10, "nothing was observed");
    for observation in observed {
        let name = &observation["name"];
        let (asked, real) = (&observation["request"], &observation["answer"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut request = stand_in.request(&text(&asked["method"]), &text(&asked["path"]));
        for (header, value) in asked["headers"].as_object().unwrap() {
            request = request.header(header, text(value));
        }
        if let Some(body) = asked["body"].as_str() {
            request = request.body(body.to_owned());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), real["status"], "{name}");
        assert_eq!(
            response.headers()["content-type"],
            text(&real["content-type"]),
            "{name}"
        );
        let said = response.text().await.unwrap();
        if text(&real["content-type"]).starts_with("text/event-stream") {
            compare_streams(name, &events(&text(&real["body"])), &events(&said));
            continue;
        }
        let real: Value = serde_json::from_str(&text(&real["body"])).unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(shape(&said), shape(&real), "{name}:\n{said}\n{real}");
        for stable in [
            "/error/type",
            "/error/param",
            "/error/code",
            "/detail/0/loc",
            "/detail/0/type",
        ] {
            assert_eq!(
                said.pointer(stable),
                real.pointer(stable),
                "{name} {stable}"
            );
        }
    }
}

/// The first piece, the last word and the usage; how many pieces come between is the model's matter.
fn compare_streams(name: &Value, real: &[Value], said: &[Value]) {
    let has_usage = |chunk: &&Value| chunk.get("usage").is_some();
    let has_reason = |chunk: &&Value| chunk["choices"][0].get("finish_reason").is_some();
    assert_eq!(shape(&said[0]), shape(&real[0]), "{name}: the first piece");
    let reasons = [said, real].map(|chunks| chunks.iter().find(has_reason).map(shape));
    assert_eq!(reasons[0], reasons[1], "{name}: the last word");
    let usages = [said, real].map(|chunks| chunks.iter().find(has_usage));
    match usages {
        [Some(said), Some(real)] => {
            // Details depend on the provider.
            let mut real = real.clone();
            real["usage"]
                .as_object_mut()
                .unwrap()
                .retain(|field, _| !field.ends_with("_details"));
            assert_eq!(shape(said), shape(&real), "{name}: the usage");
        }
        [said, real] => assert_eq!(said, real, "{name}: one counts and the other does not"),
    }
}

/// The pieces of a stream, which must end as the real one's does.
fn events(text: &str) -> Vec<Value> {
    let mut data: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    data.into_iter()
        .map(|json| serde_json::from_str(json).unwrap())
        .collect()
}

/// The form of a JSON value: its keys and types without its values.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        Value::Array(items) => json!(items.first().map(shape).into_iter().collect::<Vec<_>>()),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
    }
}

#[tokio::test]
async fn a_spent_budget_is_refused_in_the_real_gateways_words() {
    let stand_in = StandIn::start().await;
    let key = "sk-0123456789abcdefghijklmnopqrstuvwxyz6789";
    let body = json!({"key": key, "key_alias": "alice", "max_budget": 0.000_001});
    stand_in
        .exchange("post", "/key/generate", Some(&body))
        .await;
    let complete = async || {
        let request = stand_in.request("post", "/v1/chat/completions");
        let request = request.bearer_auth(key).json(&completion_request());
        request.send().await.unwrap()
    };
    assert_eq!(complete().await.status(), 200);
    let refused = complete().await;
    let real = &contract()["x-budget"];
    assert_eq!(refused.status().as_u16(), real["status"]);
    let mut said: Value = refused.json().await.unwrap();
    let mut real = real["body"].clone();
    for answer in [&mut said, &mut real] {
        let message = answer["error"]["message"].as_str().unwrap();
        answer["error"]["message"] = json!(without_amounts(message));
    }
    assert_eq!(said, real);
}

/// What was spent and what might have been differ.
fn without_amounts(message: &str) -> String {
    let words = message.split(' ').map(|word| {
        let amount = word.trim_end_matches(',');
        if amount.parse::<f64>().is_ok() {
            "N"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

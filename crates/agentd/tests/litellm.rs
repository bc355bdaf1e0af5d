//! The whole way to the model but for the cluster around it: a turn or a call, `agentd`'s proxy, the
//! stand-in that keeps the keys, the real LiteLLM with the configuration that is deployed, and
//! Bedrock's stand-in, whose event stream is read by botocore.
//!
//! Run with `LITELLM_PYTHON` naming the interpreter of an environment with
//! `tests/stand-ins/litellm/requirements.txt`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "the harness is another test's, too, and has no readers outside"
)]

#[path = "daemon/harness.rs"]
mod harness;

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use carapace_stand_ins::bedrock;
use carapace_stand_ins::model_gateway::{ModelGateway, Settings};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use harness::{ALICE, ALICES_KEY, Pod, answer, say};

const MASTER_KEY: &str = "sk-master-key-of-the-test";
const MODEL: &str = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
const SECRET_WORDS: &str = "a very private question";
/// It takes six seconds alone, and many times that on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(180);
/// Ends with the test: a process without its parent would stay for ever.
const LAUNCH: &str = "
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from litellm.proxy.proxy_cli import run_server
run_server()
";

/// One for all tests of this program.
struct LiteLlm {
    address: SocketAddr,
    log: tempfile::NamedTempFile,
    process: Child,
}

fn litellm() -> &'static LiteLlm {
    static LITELLM: OnceLock<LiteLlm> = OnceLock::new();
    LITELLM.get_or_init(|| {
        let started = std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let litellm = runtime.block_on(LiteLlm::start());
            // Bedrock is served there for as long as the tests run.
            std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
            litellm
        });
        started.join().unwrap()
    })
}

impl LiteLlm {
    async fn start() -> Self {
        let Ok(python) = std::env::var("LITELLM_PYTHON") else {
            panic!("LITELLM_PYTHON is not set; `cargo xtask test --only litellm` sets it");
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bedrock = listener.local_addr().unwrap();
        let router = bedrock::router(vec![MODEL.to_owned()]);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let address = {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            free.local_addr().unwrap()
        };
        let log = tempfile::NamedTempFile::new().unwrap();
        let config =
            Path::new(env!("CARAPACE_ROOT")).join("cluster/charts/model-gateway/files/config.yaml");
        let output = File::options().append(true).open(log.path()).unwrap();
        let process = Command::new(python)
            .args(["-c", LAUNCH, "--config"])
            .arg(config)
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .env_clear()
            .envs([
                ("PATH", "/usr/bin:/bin".to_owned()),
                ("HOME", std::env::temp_dir().display().to_string()),
                ("LITELLM_MASTER_KEY", MASTER_KEY.to_owned()),
                ("AGENT_MODEL", format!("bedrock/converse/{MODEL}")),
                ("AWS_REGION", "eu-central-1".to_owned()),
                ("AWS_ACCESS_KEY_ID", "stand-in".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "stand-in".to_owned()),
                ("AWS_BEDROCK_RUNTIME_ENDPOINT", format!("http://{bedrock}")),
                ("LITELLM_LOCAL_MODEL_COST_MAP", "True".to_owned()),
            ])
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut litellm = Self {
            address,
            log,
            process,
        };
        litellm.until_alive().await;
        litellm
    }

    async fn until_alive(&mut self) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = self.url("/health/liveliness");
        let deadline = Instant::now() + STARTS_WITHIN;
        while client.get(&url).send().await.is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "LiteLLM ended: {}", self.said());
            assert!(Instant::now() < deadline, "LiteLLM: {}", self.said());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// What it answers to a call by itself.
    async fn complete(&self, key: Option<&str>, request: &Value) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let post = client.post(self.url("/v1/chat/completions")).json(request);
        answer(match key {
            Some(key) => post.bearer_auth(key),
            None => post,
        })
        .await
    }
}

/// A gateway with Alice's key in it, before the real LiteLLM or by itself.
async fn gateway(litellm: Option<&LiteLlm>) -> String {
    let settings = Settings {
        master_key: MASTER_KEY.to_owned(),
        model: "agent".to_owned(),
    };
    let gateway = ModelGateway::new(settings).unwrap();
    let gateway = match litellm {
        Some(litellm) => gateway.in_front_of(&litellm.url("")).unwrap(),
        None => gateway,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, gateway.router()).await.unwrap() });
    let gateway = format!("http://{address}");
    let body = json!({"key": ALICES_KEY, "key_alias": "alice", "user_id": ALICE});
    assert_eq!(manage(&gateway, "/key/generate", &body).await, 200);
    gateway
}

async fn manage(gateway: &str, path: &str, body: &Value) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = client.post(format!("{gateway}{path}")).json(body);
    let answer = post.bearer_auth(MASTER_KEY).send().await.unwrap();
    answer.status().as_u16()
}

/// Alice's sandbox, whose model calls go there.
async fn pod(gateway: &str) -> Pod {
    let mut pod = Pod::prepare().await;
    let mut config = pod.config();
    config.model_gateway = gateway.parse().unwrap();
    pod.start_with(config).await;
    pod.start_openclaw();
    pod.until_ready().await;
    let (status, body) = pod.bind(ALICE, ALICES_KEY).await;
    assert_eq!((status, body), (200, json!({"bound": true})));
    pod
}

fn streamed(text: &str) -> Value {
    let mut request = say(text);
    request["stream"] = json!(true);
    request["stream_options"] = json!({"include_usage": true});
    request
}

/// As an agent with tools asks.
fn with_tools(mut request: Value) -> Value {
    let parameters = json!({"type": "object", "properties": {"command": {"type": "string"}}});
    let function = json!({"name": "exec", "parameters": parameters});
    request["tools"] = json!([{"type": "function", "function": function}]);
    request
}

impl Pod {
    /// A turn's last event, by its name and what it says.
    async fn ends(&self, id: &str, text: &str) -> (String, Value) {
        let token = self.signer.token_with(ALICE, |_, claims| {
            claims["sub"] = json!("conversation-turn");
        });
        let body = json!({"id": id, "conversation": id, "text": text});
        let post = self.http.post(self.control("/v1/turns"));
        let events = post.bearer_auth(token).json(&body).send().await.unwrap();
        let events = events.text().await.unwrap();
        let last = events.trim_end().rsplit("\n\n").next().unwrap();
        let field = |name: &str| {
            let mut lines = last.lines();
            lines.find_map(|line| line.strip_prefix(name)).unwrap()
        };
        let data = serde_json::from_str(field("data:").trim()).unwrap();
        (field("event:").trim().to_owned(), data)
    }
}

#[tokio::test]
async fn an_answer_comes_through_piece_by_piece_and_is_counted() {
    let pod = pod(&gateway(Some(litellm())).await).await;
    let request = with_tools(streamed("SLOW 6 please"));
    let post = pod.http.post(pod.proxy("/v1/chat/completions"));
    let answer = post.json(&request).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut stream = answer.bytes_stream();
    let (mut text, mut first) = (String::new(), None);
    while let Some(piece) = stream.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        first.get_or_insert_with(Instant::now);
    }
    // Six words, a quarter of a second before each.
    let apart = first.unwrap().elapsed();
    assert!(apart > Duration::from_secs(1), "all at once: {apart:?}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let said: String = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok())
        .filter_map(|chunk| {
            let content = chunk["choices"][0]["delta"]["content"].as_str();
            content.map(str::to_owned)
        })
        .collect();
    assert_eq!(said, "w0 w1 w2 w3 w4 w5 You said: SLOW 6 please");
    let tokens = pod.status().await["tokens"].take();
    assert_eq!(tokens, json!({"prompt": 3, "completion": 11}));
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_is_heard() {
    let pod = pod(&gateway(Some(litellm())).await).await;
    let mut request = with_tools(say("TOOL cat file"));
    let (status, completion) = pod.complete(&request).await;
    assert_eq!(status, 200, "{completion}");
    let message = &completion["choices"][0]["message"];
    let call = &message["tool_calls"][0];
    let arguments = call["function"]["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    assert_eq!(arguments, json!({"command": "cat file"}));
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "42"});
    let messages = request["messages"].as_array_mut().unwrap();
    messages.extend([message.clone(), result]);
    let (status, completion) = pod.complete(&request).await;
    assert_eq!(status, 200, "{completion}");
    let said = &completion["choices"][0]["message"]["content"];
    assert_eq!(said, "You said: TOOL cat file The tool said: 42");
}

#[tokio::test]
async fn what_bedrock_refuses_comes_out_as_it_is_and_as_the_stand_in_alone_has_it() {
    let litellm = litellm();
    let (through, alone) = (
        pod(&gateway(Some(litellm)).await).await,
        pod(&gateway(None).await).await,
    );
    for (word, status) in [("403", 403), ("429", 429), ("500", 503), ("503", 503)] {
        for request in [say, streamed] {
            let request = request(&format!("MODEL {word}"));
            let real = litellm.complete(Some(MASTER_KEY), &request).await;
            assert_eq!(real.0, status, "{word}: {}", real.1);
            assert_eq!(through.complete(&request).await, real);
            assert_eq!(alone.complete(&request).await, real);
        }
    }
}

#[tokio::test]
async fn a_stream_that_bedrock_ends_by_an_error_ends_by_an_error() {
    let litellm = litellm();
    let errors = async |pod: &Pod, text: &str| -> Vec<Value> {
        let post = pod.http.post(pod.proxy("/v1/chat/completions"));
        let answer = post.json(&streamed(text)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        assert!(!text.contains("[DONE]"), "{text}");
        text.lines()
            .filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok())
            .filter(|event: &Value| event.get("error").is_some())
            .collect()
    };
    let through = pod(&gateway(Some(litellm)).await).await;
    let alone = pod(&gateway(None).await).await;
    let real = errors(&through, "MODEL MIDWAY").await;
    assert_eq!(real.len(), 1);
    assert_eq!(real[0]["error"]["code"], "429", "{real:?}");
    assert_eq!(errors(&alone, "MODEL MIDWAY").await, real);
    // Of a connection that breaks LiteLLM makes an error, too.
    assert_eq!(errors(&through, "MODEL CUT").await.len(), 1);
}

#[tokio::test]
async fn a_turn_ends_by_the_name_of_what_went_wrong() {
    for real in [Some(litellm()), None] {
        let gateway = gateway(real).await;
        let pod = pod(&gateway).await;
        for (word, name) in [
            ("401", "ModelKeyRejected"),
            ("BUDGET", "ModelBudgetExceeded"),
            ("403", "ModelUnavailable"),
            ("429", "ModelRateLimited"),
            ("LIMIT", "ModelRateLimited"),
            ("500", "ModelUnavailable"),
            ("503", "ModelUnavailable"),
            ("CUT", "ModelUnavailable"),
            ("MIDWAY", "ModelRateLimited"),
        ] {
            let (event, data) = pod
                .ends(
                    &format!("t-{}", word.to_lowercase()),
                    &format!("MODEL {word}"),
                )
                .await;
            assert_eq!(
                (event.as_str(), &data["error"]),
                ("error", &json!(name)),
                "{word}"
            );
        }
        let (event, data) = pod.ends("well", "hello").await;
        assert_eq!(
            (event.as_str(), &data["text"]),
            ("done", &json!("You said: hello"))
        );
        let body = json!({"keys": [ALICES_KEY]});
        assert_eq!(manage(&gateway, "/key/delete", &body).await, 200);
        let (_, data) = pod.ends("deleted", "hello").await;
        assert_eq!(data["error"], "ModelKeyRejected");
    }
}

/// Without a database it can't look a key up, and says that instead; what it says with one is read from
/// its source by `tests/stand-ins/litellm/openapi.py`.
#[tokio::test]
async fn only_the_master_key_is_good_without_a_database() {
    let request = say("hello");
    let (status, body) = litellm().complete(None, &request).await;
    assert_eq!(
        (status, &body["error"]["type"]),
        (401, &json!("auth_error"))
    );
    for key in ["sk-somebody-elses-key", ALICES_KEY] {
        let (status, body) = litellm().complete(Some(key), &request).await;
        let kind = &body["error"]["type"];
        assert_eq!((status, kind), (400, &json!("no_db_connection")), "{body}");
    }
}

#[tokio::test]
async fn neither_what_is_said_nor_a_key_is_in_the_log() {
    let pod = pod(&gateway(Some(litellm())).await).await;
    for text in [SECRET_WORDS.to_owned(), format!("MODEL 500 {SECRET_WORDS}")] {
        pod.complete(&say(&text)).await;
        pod.complete(&streamed(&text)).await;
    }
    let said = litellm().said();
    assert!(said.contains("/v1/chat/completions"), "{said}");
    for secret in [SECRET_WORDS, MASTER_KEY, ALICES_KEY] {
        assert!(!said.contains(secret), "{secret} is in the log: {said}");
    }
}

//! A sandbox in one process: the daemon, the scripted agent beside it, and a model gateway that does
//! what the test tells it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use carapace_agentd::config::Config;
use carapace_agentd::{Addresses, Agentd};
use carapace_stand_ins::scripted_agent;
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const SANDBOX: &str = "agents-x7k2p";
pub const ALICE: &str = "aaaaaaaaaaaaaaaaaaaa";
pub const BOB: &str = "bbbbbbbbbbbbbbbbbbbb";
pub const ALICES_KEY: &str = "sk-alices-very-own-key";

/// What the control plane signs with.
pub struct Signer {
    pub id: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    pub fn new(id: &'static str) -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self { id, pair }
    }

    pub fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "kid": self.id, "alg": "ES256", "use": "sig",
            "x": BASE64URL_NOPAD.encode(&point[1..33]), "y": BASE64URL_NOPAD.encode(&point[33..]),
        })
    }

    pub fn token(&self, user: &str) -> String {
        self.token_with(user, |_, _| ())
    }

    /// A token whose header and claims are changed before they are signed.
    pub fn token_with(&self, user: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let now = Timestamp::now().as_second();
        let mut header = json!({"alg": "ES256", "kid": self.id, "typ": "JWT"});
        let mut claims = json!({
            "iss": "carapace", "sub": "sandbox-bind", "aud": SANDBOX,
            "user_key": user, "iat": now, "exp": now + 60,
        });
        change(&mut header, &mut claims);
        let part = |json: &Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

/// A request as the model gateway got it.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

type Answer = Box<dyn Fn(&Received) -> Response + Send + Sync>;

/// The model gateway's side.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<UpstreamState>,
}

struct UpstreamState {
    received: Mutex<Vec<Received>>,
    answer: Mutex<Answer>,
}

impl Upstream {
    async fn start() -> Self {
        let completion = json!({
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2},
        });
        let answer: Answer = Box::new(move |_| json_response(StatusCode::OK, &completion));
        let state = Arc::new(UpstreamState {
            received: Mutex::default(),
            answer: Mutex::new(answer),
        });
        let router = Router::new()
            .fallback(receive)
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state }
    }

    pub fn answers(&self, answer: impl Fn(&Received) -> Response + Send + Sync + 'static) {
        *self.state.answer.lock().unwrap() = Box::new(answer);
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }
}

async fn receive(State(state): State<Arc<UpstreamState>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    let received = Received {
        path: head.uri.to_string(),
        headers: head.headers,
        body,
    };
    let response = (state.answer.lock().unwrap())(&received);
    state.received.lock().unwrap().push(received);
    response
}

pub fn json_response(status: StatusCode, json: &Value) -> Response {
    let builder = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    builder.body(Body::from(json.to_string())).unwrap()
}

/// A pod: what is in `files` outlives the processes.
pub struct Pod {
    pub files: TempDir,
    pub upstream: Upstream,
    pub signer: Signer,
    pub http: reqwest::Client,
    openclaw: SocketAddr,
    reserved: Option<TcpListener>,
    scripted: Option<JoinHandle<anyhow::Result<()>>>,
    daemon: Option<Daemon>,
    /// Where the last daemon had it.
    model_proxy: Option<SocketAddr>,
}

struct Daemon {
    addresses: Addresses,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Pod {
    /// Directories, keys and a gateway, but no daemon yet.
    pub async fn prepare() -> Self {
        let files = tempfile::tempdir().unwrap();
        for directory in ["private", "config", "jwks"] {
            std::fs::create_dir(files.path().join(directory)).unwrap();
        }
        let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pod = Self {
            files,
            upstream: Upstream::start().await,
            signer: Signer::new("one"),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            openclaw: reserved.local_addr().unwrap(),
            reserved: Some(reserved),
            scripted: None,
            daemon: None,
            model_proxy: None,
        };
        pod.publish(&[pod.signer.jwk()]);
        pod
    }

    /// Booted and warm.
    pub async fn ready() -> Self {
        let mut pod = Self::prepare().await;
        pod.start().await;
        pod.start_openclaw();
        pod.until_ready().await;
        pod
    }

    /// Booted, warm, and Alice's.
    pub async fn of_alice() -> Self {
        let pod = Self::ready().await;
        let (status, body) = pod.bind(ALICE, ALICES_KEY).await;
        assert_eq!((status, body), (200, json!({"bound": true})));
        pod
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub fn publish(&self, keys: &[Value]) {
        std::fs::write(
            self.path("jwks/jwks.json"),
            json!({"keys": keys}).to_string(),
        )
        .unwrap();
    }

    pub fn config(&self) -> Config {
        let variables = [
            ("AGENTD_SANDBOX", SANDBOX.to_owned()),
            (
                "AGENTD_MODEL_GATEWAY_URL",
                format!("http://{}", self.upstream.address),
            ),
            (
                "AGENTD_JWKS_PATH",
                self.path("jwks/jwks.json").display().to_string(),
            ),
            (
                "AGENTD_PRIVATE_DIR",
                self.path("private").display().to_string(),
            ),
            (
                "AGENTD_CONFIG_DIR",
                self.path("config").display().to_string(),
            ),
            ("AGENTD_LISTEN", "127.0.0.1:0".to_owned()),
            ("AGENTD_MODEL_PROXY_LISTEN", "127.0.0.1:0".to_owned()),
            ("AGENTD_OPENCLAW_URL", format!("http://{}", self.openclaw)),
        ];
        Config::from_lookup(&|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.clone())
        })
        .unwrap()
    }

    pub async fn start(&mut self) {
        self.start_with(self.config()).await;
    }

    pub async fn start_with(&mut self, config: Config) {
        let agentd = Agentd::start(config).await.unwrap();
        let addresses = agentd.addresses();
        self.model_proxy = Some(addresses.model_proxy);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(agentd.run(async {
            let _ = stopped.await;
        }));
        self.daemon = Some(Daemon {
            addresses,
            stop,
            task,
        });
    }

    /// The same ports again, as in a pod: OpenClaw's configuration names them.
    pub async fn restart(&mut self) {
        self.stop().await.await.unwrap();
        self.restart_with(self.config()).await;
    }

    /// The same after a stop, with another configuration.
    pub async fn restart_with(&mut self, mut config: Config) {
        config.model_proxy_listen = self.model_proxy.unwrap();
        self.start_with(config).await;
    }

    /// Like SIGTERM; the task ends when the daemon has stopped.
    pub async fn stop(&mut self) -> JoinHandle<()> {
        let daemon = self.daemon.take().unwrap();
        daemon.stop.send(()).unwrap();
        tokio::task::yield_now().await;
        daemon.task
    }

    pub fn openclaw_config(&self) -> Vec<u8> {
        std::fs::read(self.path("config/openclaw.json")).unwrap()
    }

    /// OpenClaw's port, for whoever takes its place.
    pub fn openclaw_listener(&mut self) -> TcpListener {
        self.reserved.take().unwrap()
    }

    /// The stand-in takes what the daemon rendered, or fails.
    pub fn start_openclaw(&mut self) {
        let listener = self.openclaw_listener();
        self.serve_openclaw(listener);
    }

    /// Waits for a crash that a turn asked for.
    pub async fn openclaw_crashed(&mut self) {
        let scripted = self.scripted.take().unwrap();
        let crash = scripted.await.unwrap().unwrap_err();
        assert!(crash.to_string().contains("crashed"), "{crash:#}");
    }

    /// As the kubelet does after a crash: on the same port, with the same files.
    pub async fn restart_openclaw(&mut self) {
        let listener = self
            .eventually("OpenClaw's port to be free", async || {
                let bound = TcpListener::bind(self.openclaw).await;
                bound.map_err(|error| json!(error.to_string()))
            })
            .await;
        self.serve_openclaw(listener);
    }

    fn serve_openclaw(&mut self, listener: TcpListener) {
        let configuration = scripted_agent::read(&self.openclaw_config()).unwrap();
        let state = self.files.path().to_owned();
        self.scripted = Some(tokio::spawn(async move {
            scripted_agent::serve(listener, configuration, Some(&state)).await
        }));
    }

    pub fn addresses(&self) -> Addresses {
        self.daemon.as_ref().unwrap().addresses
    }

    pub fn openclaw(&self) -> SocketAddr {
        self.openclaw
    }

    pub fn control(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses().control)
    }

    pub fn proxy(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses().model_proxy)
    }

    pub async fn until_ready(&self) {
        self.eventually("the pod to be ready", async || {
            let (status, body) = self.get(&self.control("/readyz"), None).await;
            (status == 200).then_some(()).ok_or(body)
        })
        .await;
    }

    /// Waits for a condition, and tells what was last seen when it doesn't come.
    pub async fn eventually<T>(&self, what: &str, probe: impl AsyncFn() -> Result<T, Value>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match probe().await {
                Ok(value) => return value,
                Err(seen) if Instant::now() > deadline => {
                    panic!("waited in vain for {what}; last seen: {seen}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub async fn get(&self, url: &str, token: Option<&str>) -> (u16, Value) {
        let mut request = self.http.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        answer(request).await
    }

    pub async fn bind(&self, user: &str, key: &str) -> (u16, Value) {
        self.bind_with(&self.signer.token(user), user, key).await
    }

    pub async fn bind_with(&self, token: &str, user: &str, key: &str) -> (u16, Value) {
        let body = json!({"user_key": user, "model_key": key});
        answer(
            self.http
                .post(self.control("/v1/bind"))
                .bearer_auth(token)
                .json(&body),
        )
        .await
    }

    pub async fn status(&self) -> Value {
        let (status, body) = self
            .get(&self.control("/v1/status"), Some(&self.signer.token(ALICE)))
            .await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub async fn complete(&self, request: &Value) -> (u16, Value) {
        answer(
            self.http
                .post(self.proxy("/v1/chat/completions"))
                .json(request),
        )
        .await
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

pub fn say(text: &str) -> Value {
    json!({"model": "agent", "messages": [{"role": "user", "content": text}]})
}

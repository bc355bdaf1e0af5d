//! Stand-in for LiteLLM 1.106.2: its routes for keys and users and its completions, as far as they are
//! used here.
//!
//! Status codes, error forms and odd habits are those of the real proxy, read from its source and
//! seen at it: a second key of the same alias is refused, the same key again under another alias
//! changes nothing and is answered all the same, a deleted key is still told about unless it went with
//! its user, a key in a query may be given as its hash. A completion follows the script in what is asked, and is paid for from the
//! key that was used, so that `spend` tells whose key a call carried and when its budget is used up, or
//! its user's.
//! With the real LiteLLM behind it, only the keys are kept here, and completions go on to that one.
//!
//! `POST /_stand-in/script {"user_id": …, "model": "429", "times": 2}`, with the master key, makes the
//! next calls of a user's keys fail as if the word stood behind `MODEL` in what they ask; without
//! `times` all of them, and without `model` none any more.

mod completions;
mod keys;
mod refusals;
mod users;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::Fault;
use keys::{Caller, Keys};

/// Longer bodies aren't read; the real proxy's limit is the server's.
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Below the second that the kubelet gives its probe.
const ALIVE_WITHIN: Duration = Duration::from_millis(800);

/// What a gateway is started with.
#[derive(Clone)]
pub struct Settings {
    /// The key that makes keys.
    pub master_key: String,
    /// The one model that there is.
    pub model: String,
}

/// A gateway with its keys.
#[derive(Clone)]
pub struct ModelGateway {
    settings: Settings,
    keys: Arc<Mutex<Keys>>,
    litellm: Option<LiteLlm>,
}

/// The real one.
#[derive(Clone)]
struct LiteLlm {
    url: String,
    client: reqwest::Client,
}

/// Why a gateway can't be started.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidMasterKey;

impl std::fmt::Display for InvalidMasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the master key must begin with sk-")
    }
}

impl std::error::Error for InvalidMasterKey {}

impl ModelGateway {
    /// A gateway without any keys but the master's.
    pub fn new(settings: Settings) -> Result<Self, InvalidMasterKey> {
        if !settings.master_key.starts_with("sk-") {
            return Err(InvalidMasterKey);
        }
        Ok(Self {
            settings,
            keys: Arc::default(),
            litellm: None,
        })
    }

    /// The same, with completions passed on to the real LiteLLM at this address.
    pub fn in_front_of(self, url: &str) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self {
            litellm: Some(LiteLlm { url, client }),
            ..self
        })
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/key/generate", post(generate))
            .route("/key/info", get(info))
            .route("/key/delete", post(delete))
            .route("/user/new", post(new_user))
            .route("/user/update", post(update_user))
            .route("/user/delete", post(delete_users))
            .route("/user/info", get(user_and_keys))
            .route("/v2/user/info", get(user))
            .route("/v1/chat/completions", post(complete))
            .route("/chat/completions", post(complete))
            .route("/v1/models", get(models))
            .route("/models", get(models))
            .route("/_stand-in/script", post(script))
            .route("/health/liveliness", get(async || Json("I'm alive!")))
            .route("/health/readiness", get(readiness))
            .fallback(async || (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"}))))
            .with_state(self.clone())
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Failure> {
        let value = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Err(Failure::unauthorized("No api key passed in."));
        };
        let Some(key) = value.strip_prefix("Bearer ") else {
            let message = "Malformed API Key passed in. Ensure Key has `Bearer ` prefix.";
            return Err(Failure::unauthorized(message));
        };
        if key == self.settings.master_key {
            return Ok(Caller::Master);
        }
        self.keys().caller(key, Timestamp::now())
    }

    /// Only the master key may make keys.
    fn master(&self, headers: &HeaderMap, route: &str) -> Result<(), Failure> {
        match self.caller(headers)? {
            Caller::Master => Ok(()),
            Caller::Key(_) => Err(Failure::unauthorized(&format!(
                "Only proxy admin can be used to generate, delete, update info for new \
                 keys/users/teams. Route={route}. Your role=unknown. Your user_id=unknown"
            ))),
        }
    }
}

/// An answer that isn't a success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// `ProxyException`
    Proxy {
        status: StatusCode,
        kind: &'static str,
        message: String,
        param: Value,
    },
    /// FastAPI's own
    Validation {
        kind: &'static str,
        loc: Value,
        message: &'static str,
    },
    /// FastAPI's `HTTPException`, where the proxy leaves it as it is.
    Detail { status: StatusCode, error: String },
}

impl Failure {
    fn proxy(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self::Proxy {
            status,
            kind,
            message: message.into(),
            param: Value::Null,
        }
    }

    fn unauthorized(message: &str) -> Self {
        Self::Proxy {
            status: StatusCode::UNAUTHORIZED,
            kind: "auth_error",
            message: format!("Authentication Error, {message}"),
            // Python's None, made a string on its way out.
            param: json!("None"),
        }
    }

    fn about(self, param: &str) -> Self {
        match self {
            Self::Proxy {
                status,
                kind,
                message,
                ..
            } => Self::Proxy {
                status,
                kind,
                message,
                param: json!(param),
            },
            other => other,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Proxy {
                status,
                kind,
                message,
                param,
            } => {
                let code = status.as_str();
                let mut error =
                    json!({"message": message, "type": kind, "param": param, "code": code});
                // Only where a model was looked for and not found.
                if message.contains("Invalid model name") {
                    error["provider_specific_fields"] = json!({"error": message});
                }
                (status, Json(json!({ "error": error }))).into_response()
            }
            Self::Detail { status, error } => {
                (status, Json(json!({ "detail": { "error": error } }))).into_response()
            }
            Self::Validation { kind, loc, message } => {
                let detail = json!([{"type": kind, "loc": loc, "msg": message}]);
                (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    Json(json!({ "detail": detail })),
                )
                    .into_response()
            }
        }
    }
}

async fn body(request: Request) -> Result<Vec<u8>, Failure> {
    match axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES).await {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => Err(Failure::proxy(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            "Request body too large",
        )),
    }
}

async fn management_body(request: Request) -> Result<Value, Failure> {
    let json = body(request).await?;
    serde_json::from_slice(&json).map_err(|error| Failure::Validation {
        kind: "json_invalid",
        loc: json!(["body", error.column().saturating_sub(1)]),
        message: "JSON decode error",
    })
}

async fn generate(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let allowed = gateway.master(request.headers(), "/key/generate");
    // FastAPI reads the body before it asks who is there.
    let body = management_body(request).await?;
    allowed?;
    gateway.keys().generate(&body, Timestamp::now()).map(Json)
}

#[derive(Deserialize)]
struct InfoQuery {
    key: Option<String>,
}

async fn info(
    State(gateway): State<ModelGateway>,
    Query(query): Query<InfoQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    let caller = gateway.caller(&headers)?;
    gateway
        .keys()
        .info(&caller, query.key.as_deref(), Timestamp::now())
        .map(Json)
}

async fn delete(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let allowed = gateway.master(request.headers(), "/key/delete");
    let body = management_body(request).await?;
    allowed?;
    gateway.keys().delete(&body, Timestamp::now()).map(Json)
}

async fn new_user(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let allowed = gateway.master(request.headers(), "/user/new");
    let body = management_body(request).await?;
    allowed?;
    gateway.keys().new_user(&body, Timestamp::now()).map(Json)
}

async fn update_user(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let allowed = gateway.master(request.headers(), "/user/update");
    let body = management_body(request).await?;
    allowed?;
    let mut keys = gateway.keys();
    keys.update_user(&body, Timestamp::now()).map(Json)
}

async fn delete_users(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let allowed = gateway.master(request.headers(), "/user/delete");
    let body = management_body(request).await?;
    allowed?;
    gateway.keys().delete_users(&body).map(Json)
}

/// The real ones tell their own user without it, or with the master key everybody; here it is asked for.
#[derive(Deserialize)]
struct UserQuery {
    user_id: String,
}

async fn user(
    State(gateway): State<ModelGateway>,
    Query(query): Query<UserQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    let caller = gateway.caller(&headers)?;
    gateway.keys().user(&caller, &query.user_id).map(Json)
}

async fn user_and_keys(
    State(gateway): State<ModelGateway>,
    Query(query): Query<UserQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    let caller = gateway.caller(&headers)?;
    let keys = gateway.keys();
    keys.user_and_keys(&caller, &query.user_id).map(Json)
}

async fn complete(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<Response, Failure> {
    let caller = gateway.caller(request.headers())?;
    gateway.keys().within_budget(&caller)?;
    let body = body(request).await?;
    let now = Timestamp::now();
    let mut completion = completions::Completion::of(&body, &gateway.settings.model, now)?;
    let told = gateway.keys().fault(&caller);
    if let Some(fault) = told {
        completion.fail(fault);
    }
    match completion.fault() {
        Some(Fault::Budget) => return Err(gateway.keys().over_budget(&caller)),
        Some(Fault::Status(401)) => return Err(gateway.keys().unknown(&caller)),
        Some(Fault::Limit) => {
            let Caller::Key(hash) = &caller else {
                return Ok(refusals::of_limiter("master"));
            };
            return Ok(refusals::of_limiter(hash));
        }
        _ => {}
    }
    if let Some(litellm) = &gateway.litellm {
        // Told by the control route, a fault isn't in what the model will read.
        if told.is_none() {
            let answer = litellm.pass_on(&gateway.settings.master_key, body).await?;
            gateway.keys().spend(&caller, completion.cost());
            return Ok(answer);
        }
    }
    match completion.fault() {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Status(status)) => {
            if let Some(refusal) = refusals::of_provider(status, &gateway.settings.model) {
                return Ok(refusal);
            }
        }
        _ => {}
    }
    gateway.keys().spend(&caller, completion.cost());
    Ok(completion.into_response())
}

impl LiteLlm {
    async fn is_alive(&self) -> bool {
        let url = format!("{}/health/liveliness", self.url);
        let answer = self.client.get(url).timeout(ALIVE_WITHIN).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// The answer streams back as it comes.
    async fn pass_on(&self, master_key: &str, body: Vec<u8>) -> Result<Response, Failure> {
        let url = format!("{}/v1/chat/completions", self.url);
        let request = self
            .client
            .post(url)
            .bearer_auth(master_key)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let answer = request.send().await.map_err(|error| {
            let message = format!("LiteLLM can't be reached: {error}");
            Failure::proxy(StatusCode::BAD_GATEWAY, "internal_server_error", message)
        })?;
        let mut response = Response::builder().status(answer.status());
        for name in [CONTENT_TYPE, RETRY_AFTER] {
            if let Some(value) = answer.headers().get(&name) {
                response = response.header(name, value);
            }
        }
        let body = Body::from_stream(answer.bytes_stream());
        response.body(body).map_err(|error| {
            Failure::proxy(
                StatusCode::BAD_GATEWAY,
                "internal_server_error",
                error.to_string(),
            )
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    user_id: String,
    /// The word behind `MODEL`.
    model: Option<String>,
    times: Option<u32>,
}

async fn script(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<StatusCode, Failure> {
    gateway.master(request.headers(), "/_stand-in/script")?;
    let invalid =
        |message: String| Failure::proxy(StatusCode::BAD_REQUEST, "invalid_request_error", message);
    let told: Told = serde_json::from_slice(&body(request).await?)
        .map_err(|error| invalid(error.to_string()))?;
    let fault = match told.model.as_deref() {
        None => None,
        Some(word) => Some(Fault::parse(word).ok_or_else(|| invalid(format!("no fault {word}")))?),
    };
    gateway.keys().tell(told.user_id, fault, told.times);
    Ok(StatusCode::NO_CONTENT)
}

async fn models(
    State(gateway): State<ModelGateway>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    gateway.caller(&headers)?;
    let model = &gateway.settings.model;
    // The real proxy dates every model the same.
    let entry =
        json!({"id": model, "object": "model", "created": 1_677_610_602, "owned_by": "openai"});
    Ok(Json(json!({"data": [entry], "object": "list"})))
}

/// With the real one behind it, nobody is served before that one is.
async fn readiness(State(gateway): State<ModelGateway>) -> Response {
    let is_ready = match &gateway.litellm {
        Some(litellm) => litellm.is_alive().await,
        None => true,
    };
    if is_ready {
        Json(json!({"status": "healthy", "db": "connected"})).into_response()
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

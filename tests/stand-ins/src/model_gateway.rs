//! Stand-in for LiteLLM 1.106.2: its key routes and its completions, as far as they are used here.
//!
//! Status codes, error forms and odd habits are those of the real proxy, read from its source and
//! seen at it: a second key of the same alias is refused, the same key again under another alias
//! changes nothing and is answered all the same, a deleted key is still told about, a key in a query
//! may be given as its hash. A completion repeats the user's last message, and is paid for from the
//! key that was used, so that `spend` tells whose key a call carried.

mod completions;
mod keys;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use keys::{Caller, Keys};

/// Longer bodies aren't read; the real proxy's limit is the server's.
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

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
        })
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/key/generate", post(generate))
            .route("/key/info", get(info))
            .route("/key/delete", post(delete))
            .route("/v1/chat/completions", post(complete))
            .route("/chat/completions", post(complete))
            .route("/v1/models", get(models))
            .route("/models", get(models))
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
            validation @ Self::Validation { .. } => validation,
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

async fn complete(
    State(gateway): State<ModelGateway>,
    request: Request,
) -> Result<Response, Failure> {
    let caller = gateway.caller(request.headers())?;
    let body = body(request).await?;
    let completion = completions::Completion::of(&body, &gateway.settings.model, Timestamp::now())?;
    gateway.keys().spend(&caller, completion.cost());
    Ok(completion.into_response())
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

async fn readiness() -> Json<Value> {
    Json(json!({"status": "healthy", "db": "connected"}))
}

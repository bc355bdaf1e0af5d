//! The routes that the control plane and the kubelet call.
//!
//! Everything but `/readyz` is checked before a byte of the body is read. The agent's own shell
//! shares the pod's loopback, so that no address is trusted more than another.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use carapace_core::agentd::{
    BIND_PATH, BIND_SUBJECT, BindRequest, BindResponse, ErrorBody, ErrorName, OpenClawStatus,
    READY_PATH, STATUS_PATH, Status, TURN_SUBJECT, TokenClaims,
};
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use crate::gateway::{self, Phase};
use crate::token::{self, Keys, TokenError};
use crate::{Shared, body, turns};

const MAX_BIND_BYTES: usize = 16 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The routes on the pod's address.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(BIND_PATH, post(bind))
        .route(STATUS_PATH, get(status))
        .route(READY_PATH, get(ready))
        .merge(turns::routes::router())
        .fallback(async || Refusal::new(ErrorName::NotFound, "there is no such route"))
        .method_not_allowed_fallback(async || {
            Refusal::new(
                ErrorName::MethodNotAllowed,
                "the method doesn't fit the route",
            )
        })
        .with_state(shared)
}

async fn bind(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Json<BindResponse>, Refusal> {
    let (head, body) = request.into_parts();
    let claims = authenticate(&shared, &head.headers).await?;
    if claims.sub != BIND_SUBJECT {
        let message = format!("only {BIND_SUBJECT} may bind");
        return Err(Refusal::new(ErrorName::NotAllowed, message));
    }
    let body = body::read(body, MAX_BIND_BYTES, BODY_TIMEOUT).await?;
    // serde's own message could quote the key.
    let wanted: BindRequest =
        serde_json::from_slice(&body).map_err(|_| ErrorName::MalformedRequest)?;
    if claims.user_key != wanted.user_key {
        let message = "the token is for another user than the binding";
        return Err(Refusal::new(ErrorName::WrongUser, message));
    }
    shared.binding.bind(wanted.into()).await?;
    Ok(Json(BindResponse { bound: true }))
}

async fn status(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Json<Status>, Refusal> {
    let claims = authenticate(&shared, request.headers()).await?;
    let binding = shared.binding.bound()?;
    if binding
        .as_ref()
        .is_some_and(|binding| binding.user_key != claims.user_key)
    {
        let message = "the token is for another user than this sandbox's";
        return Err(Refusal::new(ErrorName::WrongUser, message));
    }
    let activity = shared.activity.summary();
    let ready = shared.health.phase() == Phase::Ready && gateway::is_ready(&shared).await;
    Ok(Json(Status {
        bound: binding.is_some(),
        user_key: binding.map(|binding| binding.user_key),
        busy: activity.busy,
        last_activity: activity.last,
        dirty_since: activity.dirty_since,
        tokens: activity.tokens,
        openclaw: OpenClawStatus {
            ready,
            version: shared.health.version(),
        },
        guest_kernel: shared.guest_kernel.clone(),
        sandbox: shared.config.sandbox.clone(),
    }))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    shared.binding.bound()?;
    let why_not = match shared.health.phase() {
        Phase::Down => "OpenClaw is not up",
        Phase::Warming => "OpenClaw is being warmed",
        Phase::Ready if gateway::is_ready(&shared).await => {
            return Ok(Json(json!({"ready": true})).into_response());
        }
        Phase::Ready => "OpenClaw takes no turns at the moment",
    };
    Err(Refusal::new(ErrorName::NotReady, why_not))
}

/// The bearer of a token for the user of this sandbox, and for turns.
pub(crate) async fn authenticate_turn(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    let claims = authenticate(shared, headers).await?;
    if claims.sub != TURN_SUBJECT {
        let message = format!("only {TURN_SUBJECT} may have turns");
        return Err(Refusal::new(ErrorName::NotAllowed, message));
    }
    let Some(binding) = shared.binding.bound()? else {
        let message = "this sandbox has no user yet";
        return Err(Refusal::new(ErrorName::NotBound, message));
    };
    if binding.user_key != claims.user_key {
        let message = "the token is for another user than this sandbox's";
        return Err(Refusal::new(ErrorName::WrongUser, message));
    }
    Ok(())
}

async fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<TokenClaims, Refusal> {
    // A damaged binding answers nobody, whoever asks.
    shared.binding.bound()?;
    let token = bearer(headers).ok_or(TokenError::Missing)?;
    let keys = Keys::read(&shared.config.jwks_path)
        .await
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "no call can be authenticated");
            Refusal::new(ErrorName::KeysUnavailable, error.to_string())
        })?;
    let claims = token::verify(token, &keys, &shared.config.sandbox, Timestamp::now())?;
    Ok(claims)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Any answer that isn't a success.
#[derive(Debug)]
pub(crate) struct Refusal(ErrorBody);

impl Refusal {
    pub(crate) fn new(error: ErrorName, message: impl Into<String>) -> Self {
        Self(ErrorBody {
            error,
            message: message.into(),
        })
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        tracing::warn!(%error, "a call was refused");
        Self::new(ErrorName::InvalidToken, error.to_string())
    }
}

impl From<ErrorName> for Refusal {
    fn from(name: ErrorName) -> Self {
        let message = match name {
            ErrorName::BoundToAnother => "this sandbox is bound to another user, for ever",
            ErrorName::BindingUnreadable => "the stored binding is unreadable; replace the sandbox",
            ErrorName::BindingNotStored => "the binding could not be stored; try the same again",
            ErrorName::TurnInProgress => "another turn of this conversation is under way",
            ErrorName::TurnMismatch => {
                "there is a turn of this id with another text or in another conversation"
            }
            ErrorName::TurnNotFound => "no turn of this id is known here",
            ErrorName::TooManyTurns => "too many turns are under way in this sandbox",
            ErrorName::BodyTooLarge => "the body is too large",
            ErrorName::RequestTimeout => "the body did not arrive in time",
            _ => "the body is not what the route takes",
        };
        Self::new(name, message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.error.status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

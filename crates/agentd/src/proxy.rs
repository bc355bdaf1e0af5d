//! The agent's only way to the model.
//!
//! A call comes in from the agent, loses whatever credentials and odd headers it brought, gets the
//! user's key, and goes to the model gateway; the answer streams back as it comes. The gateway's
//! errors are the agent's to see: they are passed on as they are. What they mean is noted for the
//! turns under way on the way, before the agent hears of them. An answer that begins with this
//! proxy's own trouble has OpenAI's error form, since OpenAI clients read it, with one of our
//! stable names as its code.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use carapace_core::UserKey;
use carapace_core::agentd::{ErrorName, ModelKey};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Shared;
use crate::activity::Call;
use crate::body;
use crate::model_error;
use crate::usage::Meter;
use crate::warm;

/// The longest request that is passed on: room for a context window of a million tokens.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How many requests are held in memory at once. The agent runs what it is told to, and must not be
/// able to have this daemon killed for want of memory.
const MAX_HELD: usize = 8;
/// How long one request too many waits to be let in. A request is let go when the gateway has it,
/// not when it is answered, so long answers don't use this up.
const HELD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an error's words may take; an answer that is no error streams on as it comes.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the gateway may take to begin its answer; once begun, it may take as long as it likes.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(10);

/// What an answer keeps of its headers. The others tell about the gateway and its providers.
const PASSED_BACK: [&str; 11] = [
    "content-type",
    "cache-control",
    "retry-after",
    "x-request-id",
    "x-litellm-call-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
];

/// The routes on the pod's loopback.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let proxy = Proxy {
        shared,
        room: Arc::new(Semaphore::new(MAX_HELD)),
    };
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/models", get(models))
        .fallback(async || Refusal::Named(ErrorName::NotFound))
        .method_not_allowed_fallback(async || Refusal::Named(ErrorName::MethodNotAllowed))
        .with_state(proxy)
}

#[derive(Clone)]
struct Proxy {
    shared: Arc<Shared>,
    /// Permits to hold a request in memory.
    room: Arc<Semaphore>,
}

/// A request in memory, and the permit to hold it. It lives as long as any copy of its bytes.
struct Held {
    body: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Proxy {
    async fn read(&self, body: Body) -> Result<Bytes, Refusal> {
        let room = Arc::clone(&self.room).acquire_owned();
        let Ok(Ok(room)) = tokio::time::timeout(HELD_TIMEOUT, room).await else {
            tracing::warn!(held = MAX_HELD, "too many requests to the model at once");
            return Err(Refusal::Overloaded);
        };
        let body = body::read(body, MAX_REQUEST_BYTES, REQUEST_TIMEOUT).await?;
        Ok(Bytes::from_owner(Held { body, _room: room }))
    }
}

async fn complete(State(proxy): State<Proxy>, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let body = proxy.read(body).await?;
    let shared = &proxy.shared;
    if shared.warm_turn.is_asked_by(&body) {
        return Ok(warm::answer(&body)?);
    }
    pass_on(
        shared,
        Method::POST,
        "/v1/chat/completions",
        &head.headers,
        body,
    )
    .await
}

async fn models(State(proxy): State<Proxy>, request: Request) -> Result<Response, Refusal> {
    pass_on(
        &proxy.shared,
        Method::GET,
        "/v1/models",
        request.headers(),
        Bytes::new(),
    )
    .await
}

async fn pass_on(
    shared: &Arc<Shared>,
    method: Method,
    path: &'static str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let binding = shared.binding.bound()?.ok_or(ErrorName::NotBound)?;
    let call = shared.activity.call();
    let mut request = shared.upstream.request(method, path, body)?;
    copy_and_authorize(headers, request.headers_mut(), &binding.model_key)?;
    let sent = tokio::time::timeout(ANSWER_TIMEOUT, shared.upstream.send(request)).await;
    let answer = match sent {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(%path, error = %error.chain(), "the model gateway can't be reached");
            shared.turns.model_failed(ErrorName::ModelUnavailable);
            return Err(ErrorName::GatewayUnreachable.into());
        }
        Err(_) => {
            tracing::warn!(%path, timeout = ?ANSWER_TIMEOUT, "the model gateway does not answer");
            shared.turns.model_failed(ErrorName::ModelUnavailable);
            return Err(ErrorName::GatewayUnreachable.into());
        }
    };
    Ok(answer_of(answer, binding.user_key, path, Arc::clone(shared), call).await)
}

fn copy_and_authorize(
    from: &HeaderMap,
    to: &mut HeaderMap,
    key: &ModelKey,
) -> Result<(), ErrorName> {
    for name in [CONTENT_TYPE, ACCEPT] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", key.expose()))
        .map_err(|_| ErrorName::BindingUnreadable)?;
    bearer.set_sensitive(true);
    to.insert(AUTHORIZATION, bearer);
    to.insert(USER_AGENT, HeaderValue::from_static("carapace-agentd"));
    Ok(())
}

async fn answer_of(
    answer: hyper::Response<Incoming>,
    user: UserKey,
    path: &'static str,
    shared: Arc<Shared>,
    call: Call,
) -> Response {
    let (head, mut body) = answer.into_parts();
    let content_type = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let is_stream = content_type.is_some_and(|kind| kind.starts_with("text/event-stream"));
    let status = head.status;
    let begin = if status.is_success() {
        Bytes::new()
    } else {
        let begin = begin_of_error(&mut body).await;
        if let Some(name) = model_error::of_answer(status.as_u16(), &begin) {
            shared.turns.model_failed(name);
        }
        begin
    };
    let seen = Seen {
        meter: Meter::new(is_stream),
        shared,
        user,
        path,
        status,
        _call: call,
    };
    let mut response = Response::new(Body::new(Passing { begin, body, seen }));
    *response.status_mut() = status;
    for name in PASSED_BACK {
        let name = HeaderName::from_static(name);
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// An error's words, or their begin: they have to be understood before the agent hears of them, since
/// it may end its turn at once.
async fn begin_of_error(body: &mut Incoming) -> Bytes {
    let mut begin = BytesMut::new();
    let reading = async {
        while begin.len() < model_error::MOST_READ {
            // An error that breaks off has said what it has said.
            let Some(Ok(frame)) = body.frame().await else {
                return;
            };
            if let Some(bytes) = frame.data_ref() {
                begin.extend_from_slice(bytes);
            }
        }
    };
    // What comes later is passed on later.
    let _ = tokio::time::timeout(ERROR_TIMEOUT, reading).await;
    begin.freeze()
}

/// An answer on its way, frame by frame as the gateway sends it.
struct Passing {
    /// What was read of it already.
    begin: Bytes,
    body: Incoming,
    seen: Seen,
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.begin.is_empty() {
            let begin = std::mem::take(&mut self.begin);
            return Poll::Ready(Some(Ok(Frame::data(begin))));
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    self.seen.look_at(bytes);
                }
            }
            Poll::Ready(Some(Err(_))) => self.seen.broke_off(),
            Poll::Ready(None) => self.seen.ended(),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.begin.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let begin = self.begin.len() as u64;
        let rest = self.body.size_hint();
        let mut whole = SizeHint::new();
        whole.set_lower(rest.lower() + begin);
        if let Some(upper) = rest.upper() {
            whole.set_upper(upper + begin);
        }
        whole
    }
}

/// What an answer showed. It is counted when the answer ends or the agent turns away from it.
struct Seen {
    meter: Meter,
    shared: Arc<Shared>,
    user: UserKey,
    path: &'static str,
    status: StatusCode,
    _call: Call,
}

impl Seen {
    fn look_at(&mut self, bytes: &[u8]) {
        self.meter.see(bytes);
        if let Some(name) = self.meter.error() {
            self.shared.turns.model_failed(name);
        }
    }

    /// A stream that says neither that it is done nor what went wrong has broken off.
    fn ended(&mut self) {
        if self.meter.is_unfinished() {
            self.broke_off();
        }
    }

    fn broke_off(&self) {
        if self.status.is_success() {
            tracing::warn!(path = self.path, "the model's answer broke off");
            self.shared.turns.model_failed(ErrorName::ModelUnavailable);
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        let tokens = self.meter.finish();
        self.shared.activity.used(tokens);
        tracing::info!(
            user_key = %self.user,
            path = self.path,
            status = self.status.as_u16(),
            prompt_tokens = tokens.prompt,
            completion_tokens = tokens.completion,
            "model call"
        );
    }
}

/// An error of the proxy itself.
#[derive(Debug)]
enum Refusal {
    Named(ErrorName),
    /// 503: as many requests are in memory as may be. Only the agent can meet this, so the names that
    /// the control plane reads don't have it.
    Overloaded,
}

impl From<ErrorName> for Refusal {
    fn from(name: ErrorName) -> Self {
        Self::Named(name)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = match self {
            Self::Named(name) => (name.status(), json!(name)),
            Self::Overloaded => (503, json!("Overloaded")),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let message = match self {
            Self::Named(ErrorName::NotBound) => {
                "this sandbox has no user yet, so it can't call the model"
            }
            Self::Named(ErrorName::GatewayUnreachable) => {
                "the model gateway can't be reached; try again"
            }
            Self::Named(ErrorName::BodyTooLarge) => "the request is larger than 8 MiB",
            Self::Named(ErrorName::RequestTimeout) => "the request did not arrive in time",
            Self::Named(ErrorName::BindingUnreadable) => {
                "this sandbox is damaged and serves nobody"
            }
            Self::Named(ErrorName::NotFound) => "only /v1/chat/completions and /v1/models are here",
            Self::Named(ErrorName::MethodNotAllowed) => "the method doesn't fit the route",
            Self::Named(_) => "the request is not one for a chat completion",
            Self::Overloaded => "too many requests at once; try again",
        };
        let error =
            json!({"message": message, "type": "agentd_error", "param": null, "code": code});
        (status, Json(json!({ "error": error }))).into_response()
    }
}

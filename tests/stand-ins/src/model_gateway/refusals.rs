//! What LiteLLM makes of its provider's refusals, as seen at it in front of Bedrock's stand-in:
//! `tests/litellm_bedrock.rs` holds one against the other.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::model;

const THROTTLED: &str = "Too many requests, please wait before trying again.";

/// The answer to a call that the provider refused; none for a status that it doesn't have.
pub(crate) fn of_provider(status: u16, model: &str) -> Option<Response> {
    let (status, exception, kind, said) = match status {
        403 => (
            StatusCode::FORBIDDEN,
            "PermissionDeniedError",
            "permission_error",
            "You don't have access to the model with the specified model ID.",
        ),
        429 => (
            StatusCode::TOO_MANY_REQUESTS,
            "RateLimitError",
            "throttling_error",
            THROTTLED,
        ),
        500 => unavailable(
            "The system encountered an unexpected error during processing. Try your request again.",
        ),
        503 => unavailable("Bedrock is unable to process your request."),
        _ => return None,
    };
    let said = json!({"message": said});
    let message = format!(
        "litellm.{exception}: BedrockException - {said}\n\nLiteLLM: model group '{model}' failed with \
         the error above. No fallback was attempted."
    );
    let mut response = (status, Json(error(&message, kind, status))).into_response();
    // The provider's own, under a name that OpenAI's clients don't look for.
    if status == StatusCode::TOO_MANY_REQUESTS
        && let Ok(seconds) = model::RETRY_AFTER.parse()
    {
        let headers = response.headers_mut();
        headers.insert("llm_provider-retry-after", seconds);
    }
    Some(response)
}

/// It has no other word for a provider that fails.
fn unavailable(said: &str) -> (StatusCode, &'static str, &'static str, &str) {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "ServiceUnavailableError",
        "internal_server_error",
        said,
    )
}

/// The answer to a key that calls more often than it may: LiteLLM's own limiter.
pub(crate) fn of_limiter(hash: &str) -> Response {
    let status = StatusCode::TOO_MANY_REQUESTS;
    let message = format!(
        "Rate limit exceeded for api_key: {hash}. Limit type: requests. Current limit: 1, Remaining: 0."
    );
    let body = Json(error(&message, "throttling_error", status));
    (status, [(RETRY_AFTER, model::RETRY_AFTER)], body).into_response()
}

/// What a stream ends by whose provider is asked too often in the middle of it.
pub(crate) fn midway() -> Value {
    let said = json!({"message": THROTTLED});
    let message = format!(
        "litellm.RateLimitError: BedrockException: Rate Limit Error - throttlingException {said}"
    );
    error(&message, "throttling_error", StatusCode::TOO_MANY_REQUESTS)
}

fn error(message: &str, kind: &str, status: StatusCode) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": status.as_str()}})
}

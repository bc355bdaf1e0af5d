//! What a failed model call means to the user, told from what the gateway said.
//!
//! The gateway is LiteLLM 1.106.2: its own refusals and its provider's come in the same form, and
//! only some of them are about the user's key. This only looks; what the gateway said goes on to the
//! agent as it is.

use carapace_core::agentd::ErrorName;
use serde::Deserialize;
use serde_json::Value;

/// An error's body is looked at up to here; LiteLLM's are a fraction of it.
pub(crate) const MOST_READ: usize = 64 * 1024;

/// LiteLLM's form, which is OpenAI's.
#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(default)]
    error: Said,
}

#[derive(Debug, Default, Deserialize)]
struct Said {
    #[serde(default)]
    message: Value,
    #[serde(default, rename = "type")]
    kind: Value,
    /// The status, as a text, or a name.
    #[serde(default)]
    code: Value,
}

/// The meaning of an answer that is no success; `None` if the agent brought it on itself, by a
/// request that makes no sense.
pub(crate) fn of_answer(status: u16, body: &[u8]) -> Option<ErrorName> {
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    of(status, &body.error)
}

/// The meaning of an event of a stream, if it is an error: a stream that has begun has answered 200.
pub(crate) fn of_event(json: &[u8]) -> Option<ErrorName> {
    #[derive(Deserialize)]
    struct Event {
        error: Said,
    }
    let error = serde_json::from_slice::<Event>(json).ok()?.error;
    let status = match &error.code {
        Value::String(code) => code.parse().ok(),
        code => code.as_u64().and_then(|code| u16::try_from(code).ok()),
    };
    // Whatever it is, the answer has come to nothing.
    of(status.unwrap_or(500), &error).or(Some(ErrorName::ModelUnavailable))
}

fn of(status: u16, error: &Said) -> Option<ErrorName> {
    let message = error.message.as_str().unwrap_or_default();
    // LiteLLM answers 422, or what the operator set in its place; a provider's own quota has another
    // type.
    if error.kind == "budget_exceeded" {
        return Some(ErrorName::ModelBudgetExceeded);
    }
    // It can't look up a key for want of its database, and answers 400.
    if error.kind == "no_db_connection" {
        return Some(ErrorName::ModelUnavailable);
    }
    // It puts the name of its own exception in front of what its provider answered: then it is the
    // gateway whom the provider refuses, and no key of ours changes that.
    let is_providers = message.starts_with("litellm.");
    match status {
        401 | 403 if is_providers => Some(ErrorName::ModelUnavailable),
        401 | 403 => Some(ErrorName::ModelKeyRejected),
        429 => Some(ErrorName::ModelRateLimited),
        408 | 500.. => Some(ErrorName::ModelUnavailable),
        _ => None,
    }
}

/// What OpenClaw 2026.9.6 takes for the reason of a failed run, where that is clear.
pub(crate) fn of_reason(reason: &str) -> Option<ErrorName> {
    match reason {
        "auth" | "auth_permanent" => Some(ErrorName::ModelKeyRejected),
        "billing" => Some(ErrorName::ModelBudgetExceeded),
        "rate_limit" => Some(ErrorName::ModelRateLimited),
        "server_error" | "overloaded" | "timeout" => Some(ErrorName::ModelUnavailable),
        _ => None,
    }
}

/// Why a turn failed, of which OpenClaw says that a model call failed, and thinks to know why, while
/// the gateway `answered` some call of this time with an error.
///
/// A call doesn't say which turn it belongs to, and turns run side by side: what the gateway answered
/// may have been about another turn's call. But what it says of the key is true for all of them, and
/// only the gateway knows it for certain; of the rest OpenClaw knows which of its runs it hit.
pub(crate) fn of_turn(reason: Option<ErrorName>, answered: Option<ErrorName>) -> Option<ErrorName> {
    use ErrorName::{ModelBudgetExceeded, ModelKeyRejected};
    let is_the_keys = |name: &ErrorName| matches!(name, ModelBudgetExceeded | ModelKeyRejected);
    answered
        .filter(is_the_keys)
        .or(reason.filter(|name| !is_the_keys(name)))
        .or(answered)
        .or(reason)
}

#[cfg(test)]
mod tests {
    use ErrorName::{ModelBudgetExceeded, ModelKeyRejected, ModelRateLimited, ModelUnavailable};

    use super::*;

    fn body(kind: &str, message: &str, code: &str) -> String {
        format!(
            r#"{{"error":{{"message":"{message}","type":"{kind}","param":"None","code":"{code}"}}}}"#
        )
    }

    #[test]
    fn the_gateways_refusals_are_told_from_its_providers() {
        for (status, kind, message, name) in [
            (
                401,
                "token_not_found_in_db",
                "Authentication Error, Invalid proxy server token passed.",
                Some(ModelKeyRejected),
            ),
            (
                401,
                "expired_key",
                "Authentication Error - Expired Key.",
                Some(ModelKeyRejected),
            ),
            (
                403,
                "key_model_access_denied",
                "key not allowed to access model.",
                Some(ModelKeyRejected),
            ),
            (
                401,
                "auth_error",
                "litellm.AuthenticationError: BedrockException - no",
                Some(ModelUnavailable),
            ),
            (
                403,
                "None",
                "litellm.PermissionDeniedError: BedrockException - no",
                Some(ModelUnavailable),
            ),
            (
                422,
                "budget_exceeded",
                "Budget has been exceeded! Key=u",
                Some(ModelBudgetExceeded),
            ),
            (
                429,
                "budget_exceeded",
                "Budget has been exceeded! Key=u",
                Some(ModelBudgetExceeded),
            ),
            (
                429,
                "throttling_error",
                "litellm.RateLimitError: slow",
                Some(ModelRateLimited),
            ),
            (
                500,
                "internal_server_error",
                "litellm.InternalServerError: no",
                Some(ModelUnavailable),
            ),
            (
                408,
                "timeout",
                "litellm.Timeout: no",
                Some(ModelUnavailable),
            ),
            (
                400,
                "no_db_connection",
                "No connected db.",
                Some(ModelUnavailable),
            ),
            (400, "invalid_request_error", "no", None),
            (422, "invalid_request_error", "no", None),
        ] {
            let text = body(kind, message, &status.to_string());
            assert_eq!(of_answer(status, text.as_bytes()), name, "{status} {text}");
        }
    }

    #[test]
    fn an_error_that_is_not_litellms_is_told_by_its_status() {
        for text in [
            "",
            "<html>",
            "[]",
            r#"{"error":"no"}"#,
            r#"{"error":{"type":7}}"#,
        ] {
            assert_eq!(of_answer(429, text.as_bytes()), Some(ModelRateLimited));
            assert_eq!(of_answer(502, text.as_bytes()), Some(ModelUnavailable));
            assert_eq!(of_answer(404, text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_error_in_a_stream_is_found_whatever_form_its_code_has() {
        let error = body("throttling_error", "litellm.RateLimitError: slow", "429");
        assert_eq!(of_event(error.as_bytes()), Some(ModelRateLimited));
        for (text, name) in [
            (
                r#"{"error":{"message":"no","code":429}}"#,
                Some(ModelRateLimited),
            ),
            (
                r#"{"error":{"message":"no","code":null}}"#,
                Some(ModelUnavailable),
            ),
            (
                r#"{"error":{"message":"no","code":"400"}}"#,
                Some(ModelUnavailable),
            ),
            (r#"{"choices":[{"delta":{"content":"error"}}]}"#, None),
            ("[DONE]", None),
        ] {
            assert_eq!(of_event(text.as_bytes()), name, "{text}");
        }
    }

    #[test]
    fn what_the_gateway_says_of_the_key_counts_and_otherwise_what_hit_the_run() {
        for (reason, answered, name) in [
            (None, None, None),
            // OpenClaw knows no budgets: to it this is a malformed request.
            (None, Some(ModelBudgetExceeded), Some(ModelBudgetExceeded)),
            (
                Some(ModelRateLimited),
                Some(ModelBudgetExceeded),
                Some(ModelBudgetExceeded),
            ),
            (
                Some(ModelRateLimited),
                Some(ModelUnavailable),
                Some(ModelRateLimited),
            ),
            // The provider refused the gateway.
            (
                Some(ModelKeyRejected),
                Some(ModelUnavailable),
                Some(ModelUnavailable),
            ),
            (Some(ModelKeyRejected), None, Some(ModelKeyRejected)),
            (Some(ModelUnavailable), None, Some(ModelUnavailable)),
        ] {
            assert_eq!(of_turn(reason, answered), name, "{reason:?} {answered:?}");
        }
    }
}

//! What the control plane and `agentd`, the daemon in an agent's VM, say to each other.
//!
//! The control plane calls in, the VM never calls out: these are the bodies of those calls, the
//! claims of the token that each call carries, and the names of the errors that come back. Both
//! sides read them from here, so that neither can drift from the other.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ConversationId, SandboxName, TurnId, UserKey};

/// The port that `agentd` answers on, in every sandbox.
pub const PORT: u16 = 18790;
/// `POST` [`BindRequest`], answered by [`BindResponse`].
pub const BIND_PATH: &str = "/v1/bind";
/// `GET`, answered by [`Status`].
pub const STATUS_PATH: &str = "/v1/status";
/// `POST` [`TurnRequest`]; a turn's own path is this, a slash and its [`TurnId`]: `GET` with
/// `?from=n` attaches behind event n, `DELETE` cancels. Both ways of attaching are answered by a
/// `text/event-stream` of [`TurnEvent`]s.
pub const TURNS_PATH: &str = "/v1/turns";
/// `GET`, for the kubelet, the one route without a token: 200 once the agent is booted and warmed.
pub const READY_PATH: &str = "/readyz";

/// `iss` of every token.
pub const TOKEN_ISSUER: &str = "carapace";
/// `sub` of the only tokens that may bind.
pub const BIND_SUBJECT: &str = "sandbox-bind";
/// `sub` of the only tokens that may begin, follow and cancel turns.
pub const TURN_SUBJECT: &str = "conversation-turn";
/// The longest text of a turn, in bytes of UTF-8.
pub const TURN_TEXT_MAX_BYTES: usize = 200 * 1024;
/// The longest a token may live, from `iat` to `exp`, in seconds. `agentd` refuses longer ones, so
/// that a signer with a wrong clock or configuration can't mint a lasting key to somebody's VM.
pub const TOKEN_MAX_SECONDS: i64 = 60;

/// The claims of the ES256 token that every call carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// [`TOKEN_ISSUER`].
    pub iss: String,
    /// The function that calls.
    pub sub: String,
    /// The sandbox the token is for; no other accepts it.
    pub aud: SandboxName,
    /// The user on whose behalf the call is made.
    pub user_key: UserKey,
    /// Seconds since the epoch.
    pub iat: i64,
    /// Seconds since the epoch, at most [`TOKEN_MAX_SECONDS`] after `iat`.
    pub exp: i64,
}

/// A user's key to the model gateway. It shows itself on the wire only, never in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelKey(String);

/// Why a text can't be a [`ModelKey`]. It doesn't repeat the text: that would be the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a model key is 1 to {max} visible ASCII characters", max = ModelKey::MAX_LENGTH)]
pub struct InvalidModelKey;

impl ModelKey {
    /// The longest key that is accepted, in bytes.
    pub const MAX_LENGTH: usize = 512;

    /// Accepts what can stand in an HTTP header as it is.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidModelKey> {
        let text = text.into();
        let fits = (1..=Self::MAX_LENGTH).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(InvalidModelKey)
        }
    }

    /// The secret itself, for the one place that puts it into a header.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelKey(redacted)")
    }
}

impl TryFrom<String> for ModelKey {
    type Error = InvalidModelKey;

    fn try_from(text: String) -> Result<Self, InvalidModelKey> {
        Self::parse(text)
    }
}

impl From<ModelKey> for String {
    fn from(key: ModelKey) -> Self {
        key.0
    }
}

/// Hands a warm sandbox to its user, once and for ever. The same again changes nothing; the same
/// user with another key gets that key instead of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindRequest {
    /// Whose sandbox it is from now on; the token must name the same user.
    pub user_key: UserKey,
    /// What `agentd` adds to the agent's model calls on their way out.
    pub model_key: ModelKey,
}

/// The answer to a [`BindRequest`]: it is sent after the binding is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindResponse {
    /// Always true; a sandbox that can't be bound answers an [`ErrorBody`].
    pub bound: bool,
}

/// What a sandbox says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it has its user.
    pub bound: bool,
    /// The user, once bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_key: Option<UserKey>,
    /// Whether a run is between its start and its end, or a model call is under way.
    pub busy: bool,
    /// When a run or a model call last began or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<Timestamp>,
    /// Since when there has been activity that no snapshot holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_since: Option<Timestamp>,
    /// What the model calls of this sandbox have used since `agentd` started.
    #[serde(default)]
    pub tokens: TokenCount,
    /// The agent beside `agentd`.
    pub openclaw: OpenClawStatus,
    /// `/proc/version` as seen inside the VM: tells a kernel of its own from the host's.
    pub guest_kernel: String,
    /// Its name.
    pub sandbox: SandboxName,
}

/// Model tokens, as the gateway's answers report them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCount {
    /// Tokens that were sent.
    pub prompt: u64,
    /// Tokens that were generated.
    pub completion: u64,
}

/// The state of OpenClaw, as `agentd` sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenClawStatus {
    /// Whether it accepts turns and has been warmed.
    pub ready: bool,
    /// Its version, once it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Something the user says to the agent. The same id again is the same turn: what has come of it so
/// far is told again, and nothing is run twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnRequest {
    /// Chosen by the caller.
    pub id: TurnId,
    /// Turns of one conversation follow each other and remember each other; those of different
    /// conversations do neither.
    pub conversation: ConversationId,
    /// What is said: not blank, at most [`TURN_TEXT_MAX_BYTES`].
    pub text: String,
}

/// What comes of a turn. On the wire each is a server-sent event, `event` being the variant's name
/// in lower case, `data` its fields as JSON, and `id` a number that grows within the turn. `done` or
/// `error` is the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
pub enum TurnEvent {
    /// The agent says more.
    Delta {
        /// What it says, to be put behind what it has said.
        text: String,
    },
    /// The agent has taken back what it said, or a reader attached behind events that are no longer
    /// kept.
    Text {
        /// All of what it has said, in place of what was told before.
        text: String,
    },
    /// The agent uses a tool.
    Activity {
        /// The tool's name.
        tool: String,
        /// Whether it begins or has ended.
        phase: ActivityPhase,
    },
    /// The turn has ended well.
    Done {
        /// The whole answer.
        text: String,
    },
    /// The turn has ended without an answer.
    Error(ErrorBody),
}

impl TurnEvent {
    /// `event` of the server-sent event.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Delta { .. } => "delta",
            Self::Text { .. } => "text",
            Self::Activity { .. } => "activity",
            Self::Done { .. } => "done",
            Self::Error(_) => "error",
        }
    }
}

/// Where in its use a tool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivityPhase {
    /// It begins.
    Start,
    /// It has ended, well or not.
    End,
}

/// The answer to a `DELETE` of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelResponse {
    /// Whether the turn was under way. It ends by an event of its own, once the agent has stopped.
    pub cancelling: bool,
}

/// The body of every answer that isn't a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, as a name that callers may match.
    pub error: ErrorName,
    /// The same for a person.
    pub message: String,
}

/// The stable names of `agentd`'s errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorName {
    /// 401: no token, or one that is not valid here and now.
    InvalidToken,
    /// 403: the token may not do this.
    NotAllowed,
    /// 403: the token is for another user than the one the call or the sandbox is about.
    WrongUser,
    /// 409: the sandbox has another user.
    BoundToAnother,
    /// 503: what was stored of the binding can't be read, so nothing is answered any more.
    BindingUnreadable,
    /// 503: the binding could not be stored, so it doesn't count yet; the same may be tried again.
    BindingNotStored,
    /// 503: the public keys that tokens are checked against can't be read.
    KeysUnavailable,
    /// 503: the sandbox has no user yet, so there is no key to call the model with.
    NotBound,
    /// 503: the agent is not ready yet.
    NotReady,
    /// 502: the model gateway can't be reached.
    GatewayUnreachable,
    /// 409: another turn of the same conversation is under way.
    TurnInProgress,
    /// 409: there is a turn of this id, with another text or in another conversation.
    TurnMismatch,
    /// 404: no turn of this id is known here.
    TurnNotFound,
    /// 503: as many turns are under way as this sandbox runs side by side.
    TooManyTurns,
    /// Ends a turn: it was cancelled.
    TurnCancelled,
    /// Ends a turn: it took longer than a turn may.
    TurnTimedOut,
    /// Ends a turn: the agent took it on, then restarted and no longer knows of it, or may still do
    /// it. Whether it acted on it can't be told, so it isn't tried again.
    TurnLost,
    /// Ends a turn: the agent couldn't finish it, or didn't make sense.
    AgentFailed,
    /// Ends a turn: the agent can't be reached, and never had it.
    AgentUnavailable,
    /// Ends a turn: the model gateway refused the user's key.
    ModelKeyRejected,
    /// Ends a turn: the model, or the gateway for this user, had been asked too often, and still was
    /// when the agent gave up trying again.
    ModelRateLimited,
    /// Ends a turn: the user's budget at the model gateway is used up.
    ModelBudgetExceeded,
    /// Ends a turn: the model or its gateway couldn't be reached, failed, or broke off.
    ModelUnavailable,
    /// 400: the body is not what the route takes.
    MalformedRequest,
    /// 408: the body did not arrive in time.
    RequestTimeout,
    /// 413: the body is larger than the route takes.
    BodyTooLarge,
    /// 404: there is no such route.
    NotFound,
    /// 405: the route exists, for another method.
    MethodNotAllowed,
    /// A name that this version doesn't know yet.
    #[serde(other)]
    Unknown,
}

impl ErrorName {
    /// The HTTP status that goes with the name.
    pub fn status(self) -> u16 {
        match self {
            Self::MalformedRequest => 400,
            Self::InvalidToken => 401,
            Self::NotAllowed | Self::WrongUser => 403,
            Self::NotFound | Self::TurnNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::BoundToAnother
            | Self::TurnInProgress
            | Self::TurnMismatch
            | Self::TurnCancelled => 409,
            Self::BodyTooLarge => 413,
            Self::Unknown => 500,
            Self::GatewayUnreachable
            | Self::AgentFailed
            | Self::TurnLost
            | Self::ModelKeyRejected
            | Self::ModelRateLimited
            | Self::ModelBudgetExceeded
            | Self::ModelUnavailable => 502,
            Self::BindingUnreadable
            | Self::BindingNotStored
            | Self::KeysUnavailable
            | Self::NotBound
            | Self::NotReady
            | Self::TooManyTurns
            | Self::AgentUnavailable => 503,
            Self::TurnTimedOut => 504,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_key_is_not_shown_when_something_is_logged() {
        let key = ModelKey::parse("sk-very-secret").unwrap();
        let request = format!("{:?}", Some(&key));
        assert!(!request.contains("very-secret"), "{request}");
        assert_eq!(serde_json::to_string(&key).unwrap(), r#""sk-very-secret""#);
    }

    #[test]
    fn a_model_key_that_could_break_a_header_is_refused() {
        let long = "k".repeat(ModelKey::MAX_LENGTH + 1);
        for text in [
            "",
            "sk-a b",
            "sk-a\r\nx-admin: 1",
            "sk-\u{e9}",
            "sk-\0",
            &long,
        ] {
            assert_eq!(ModelKey::parse(text), Err(InvalidModelKey), "{text:?}");
        }
        let longest = "k".repeat(ModelKey::MAX_LENGTH);
        assert_eq!(ModelKey::parse(longest.as_str()).unwrap().expose(), longest);
    }

    #[test]
    fn an_event_of_a_turn_is_its_name_and_its_data() {
        let error = ErrorBody {
            error: ErrorName::TurnLost,
            message: "lost".to_owned(),
        };
        for (event, json) in [
            (
                TurnEvent::Delta { text: "a".into() },
                r#"{"event":"delta","data":{"text":"a"}}"#,
            ),
            (
                TurnEvent::Activity {
                    tool: "exec".into(),
                    phase: ActivityPhase::Start,
                },
                r#"{"event":"activity","data":{"tool":"exec","phase":"start"}}"#,
            ),
            (
                TurnEvent::Error(error),
                r#"{"event":"error","data":{"error":"TurnLost","message":"lost"}}"#,
            ),
        ] {
            let written = serde_json::to_value(&event).unwrap();
            assert_eq!(written.to_string().len(), json.len());
            assert_eq!(written["event"], event.name());
            assert_eq!(serde_json::from_str::<TurnEvent>(json).unwrap(), event);
        }
    }

    #[test]
    fn an_error_name_of_a_newer_agentd_is_tolerated() {
        let body: ErrorBody =
            serde_json::from_str(r#"{"error":"MovedToMars","message":"far"}"#).unwrap();
        assert_eq!(body.error, ErrorName::Unknown);
    }
}

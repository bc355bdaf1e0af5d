//! The events on the bus, as they travel.
//!
//! Whoever may put an event on the bus may put any JSON on it, so nothing is believed before it is
//! read here: every field has a type, a bound and a reason to be refused. Fields that nobody knows
//! are left alone, since a producer may be newer than its consumers; an unknown version is
//! refused, since its known fields may have come to mean something else.
//!
//! The types are written in the order in which they appear on the wire. Their JSON Schemas are
//! made from them by [`schemas`] and kept in `docs/events/`.

use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

use jiff::{SignedDuration, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ChannelId, ClaimName, ConversationId, CorrelationId, EventId, InvalidName, MessageTs, PoolName,
    Reason, SandboxName, SlackUserId, Sub, TeamId, TurnId, UserKey, agentd::TURN_TEXT_MAX_BYTES,
    later, quoted, slack::Place,
};

/// The one version of every event's detail so far.
pub const VERSION: u64 = 1;

/// `source` of the events that the sandbox functions put on the bus.
pub const SANDBOX_SOURCE: &str = "carapace.sandbox";

/// `source` of the events that come from Slack.
pub const SLACK_SOURCE: &str = "carapace.slack";

/// `source` of the events about who is a user.
pub const SIGNUP_SOURCE: &str = "carapace.signup";

/// An event that is not what its type says it is. It goes to the dead-letter queue as it came, so
/// this has to say what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event is not accepted: its {field} is {value}, but {why}")]
pub struct EventRejected {
    /// The path of the field, `detail.user_key`.
    pub field: String,
    /// What stood there, cut and escaped.
    pub value: String,
    /// What is wrong with it.
    pub why: String,
}

/// How long an agent may take to be ready before the request counts as failed, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ReadyWithin(u64);

impl ReadyWithin {
    const SECONDS: RangeInclusive<u64> = 5..=900;
    const RULE: &'static str = "a whole number of seconds from 5 to 900";

    /// The time as a duration.
    pub fn duration(self) -> SignedDuration {
        SignedDuration::try_from(Duration::from_secs(self.0)).unwrap_or(SignedDuration::MAX)
    }
}

impl Default for ReadyWithin {
    fn default() -> Self {
        Self(600)
    }
}

impl TryFrom<u64> for ReadyWithin {
    type Error = InvalidName;

    fn try_from(seconds: u64) -> Result<Self, InvalidName> {
        if Self::SECONDS.contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(InvalidName {
                what: "a time to be ready",
                value: seconds.to_string(),
                rule: Self::RULE,
            })
        }
    }
}

impl From<ReadyWithin> for u64 {
    fn from(within: ReadyWithin) -> Self {
        within.0
    }
}

impl JsonSchema for ReadyWithin {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ReadyWithin".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let (minimum, maximum) = (Self::SECONDS.start(), Self::SECONDS.end());
        json_schema!({ "type": "integer", "minimum": minimum, "maximum": maximum })
    }
}

/// `Sandbox Requested`: somebody wants a user's agent to be ready. From any source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxRequested {
    /// The version of this detail.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// The event's own id. The same id is the same request, whenever and however often it comes.
    pub id: EventId,
    /// When the request was made.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Whose agent it is about.
    pub user_key: UserKey,
    /// Ties the events of one story together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The warm pool to take the sandbox from; without it the one that the function is set to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// How long it may take; 600 seconds if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_within_seconds: Option<ReadyWithin>,
}

/// `Sandbox Ready`: a user's agent has its sandbox and answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxReady {
    /// The version of this detail.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// The id of this event: the cause's, prolonged. A second copy has the same.
    pub id: EventId,
    /// When the outcome was recorded.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Whose agent it is about.
    pub user_key: UserKey,
    /// As in the event that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The sandbox that the agent lives in.
    pub sandbox: SandboxName,
    /// The claim that holds it.
    pub claim: ClaimName,
    /// The pool that it came from.
    pub pool: PoolName,
    /// The id of the event that asked.
    pub cause: EventId,
}

/// `Sandbox Failed`: a request ended without a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxFailed {
    /// The version of this detail.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// The id of this event: the cause's, prolonged. A second copy has the same.
    pub id: EventId,
    /// When the outcome was recorded.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Whose agent it is about.
    pub user_key: UserKey,
    /// As in the event that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The claim that was to hold the sandbox. It is gone, unless it serves another request.
    pub claim: ClaimName,
    /// The stable name of what went wrong.
    pub reason: Reason,
    /// What went wrong, for a person.
    pub message: Message,
    /// The id of the event that asked.
    pub cause: EventId,
}

/// `Sandbox Retired`: an agent's user is one no more, and has nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxRetired {
    /// The version of this detail.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// The id of this event: the cause's, prolonged. A second copy has the same.
    pub id: EventId,
    /// When the outcome was recorded.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Whose agent it was.
    pub user_key: UserKey,
    /// As in the event that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The claim that held the sandbox, if there was one. It is gone.
    pub claim: ClaimName,
    /// Why: `UserDeleted` or `UserDisabled`.
    pub reason: Reason,
    /// The id of the event that asked.
    pub cause: EventId,
}

/// `Slack Message Received`: somebody has said something to their agent, in Slack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlackMessageReceived {
    /// The version of this detail.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// `slack.` and the id that Slack gave the event; Slack keeps it when it delivers it again. It
    /// also names the turn, so it begins with a letter or a digit.
    #[schemars(regex(pattern = TurnId::PATTERN))]
    pub id: EventId,
    /// When it was received.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Ties the events of one story together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The workspace.
    pub team_id: TeamId,
    /// Who said it.
    pub user_id: SlackUserId,
    /// Where it was said: a channel, or the direct message with the bot.
    pub channel_id: ChannelId,
    /// The thread that it belongs to, which is the conversation: the `ts` of the thread's first
    /// message, which may be this one.
    pub thread_ts: MessageTs,
    /// The message itself.
    pub ts: MessageTs,
    /// What was said, without the mention of the bot in front of it. Not blank.
    #[schemars(length(min = 1, max = 40_000))]
    pub text: String,
}

/// `User Signed In`: somebody has signed in. Who does so for the first time is onboarded by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserSignedIn {
    /// The version of this detail.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// `sign-in.` and the id of the invocation that made the tokens.
    pub id: EventId,
    /// When.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Who.
    pub user_key: UserKey,
    /// What the user pool calls the account; with the pool's id it makes the key.
    pub sub: Sub,
    /// Ties the events of one story together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
}

/// `User Deleted`: an operator has removed somebody, or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserDeleted {
    /// The version of this detail.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// The event's own id. The same id is the same removal.
    pub id: EventId,
    /// When.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Who.
    pub user_key: UserKey,
    /// Ties the events of one story together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
}

/// That somebody may be a user no more. Whoever hears of it asks the user pool whether that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It was said on our bus.
    Told(UserDeleted),
    /// CloudTrail saw a call to Cognito.
    Seen(AccountCall),
}

/// A call to Cognito after which an account may be gone or disabled, as CloudTrail reports it
/// (<https://docs.aws.amazon.com/cognito/latest/developerguide/logging-using-cloudtrail.html>).
/// The account's name is hidden there; its `sub` is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountCall {
    /// `cloudtrail.` and the id that CloudTrail gave the call.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// The user pool; not said where the caller spoke for themselves.
    pub pool_id: Option<String>,
    /// The account. Not said, for one, where the call failed.
    pub sub: Option<Sub>,
    /// Whether Cognito refused to do it.
    pub failed: bool,
}

/// A sentence for a person, of bounded length and without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Message(String);

impl Message {
    const LENGTH: usize = 1024;

    /// The sentence as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Message {
    /// Never refuses: that a report is too long must not keep a failure from being reported.
    fn from(text: String) -> Self {
        let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self(clean.take(Self::LENGTH).collect())
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<Message> for String {
    fn from(message: Message) -> Self {
        message.0
    }
}

impl JsonSchema for Message {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Message".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": Self::LENGTH })
    }
}

impl SandboxRequested {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "Sandbox Requested";

    /// Reads the event as EventBridge delivers it, envelope and all.
    pub fn from_event(event: &Value) -> Result<Self, EventRejected> {
        let envelope = Fields::of("", event)?;
        envelope.known_detail_type(Self::DETAIL_TYPE)?;
        let detail = Fields::of("detail", envelope.required("detail")?)?;
        detail.known_version()?;
        Ok(Self {
            version: VERSION,
            id: detail.name("id", EventId::parse)?,
            at: detail.time("at")?,
            user_key: detail.name("user_key", UserKey::parse)?,
            correlation_id: detail.optional_name("correlation_id", CorrelationId::parse)?,
            pool: detail.optional_name("pool", PoolName::parse)?,
            ready_within_seconds: detail.ready_within("ready_within_seconds")?,
        })
    }

    /// When it counts as failed, if work on it began at `started_at`.
    pub fn deadline(&self, started_at: Timestamp) -> Timestamp {
        later(
            started_at,
            self.ready_within_seconds.unwrap_or_default().duration(),
        )
    }
}

impl SandboxReady {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "Sandbox Ready";
}

impl SandboxFailed {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "Sandbox Failed";
}

impl SandboxRetired {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "Sandbox Retired";
}

impl SlackMessageReceived {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "Slack Message Received";

    /// The longest text, in characters: the longest that Slack lets anybody write.
    pub const TEXT_CHARACTERS: usize = 40_000;

    /// Reads the event as EventBridge delivers it, envelope and all.
    pub fn from_event(event: &Value) -> Result<Self, EventRejected> {
        let envelope = Fields::of("", event)?;
        envelope.known_detail_type(Self::DETAIL_TYPE)?;
        let detail = Fields::of("detail", envelope.required("detail")?)?;
        detail.known_version()?;
        let id = detail.name("id", EventId::parse)?;
        detail.name("id", TurnId::parse)?;
        Ok(Self {
            version: VERSION,
            id,
            at: detail.time("at")?,
            correlation_id: detail.optional_name("correlation_id", CorrelationId::parse)?,
            team_id: detail.name("team_id", TeamId::parse)?,
            user_id: detail.name("user_id", SlackUserId::parse)?,
            channel_id: detail.name("channel_id", ChannelId::parse)?,
            thread_ts: detail.name("thread_ts", MessageTs::parse)?,
            ts: detail.name("ts", MessageTs::parse)?,
            text: detail.said("text", Self::TEXT_CHARACTERS)?,
        })
    }

    /// Where the reply goes, and to whom.
    pub fn place(&self) -> Place {
        Place {
            team_id: self.team_id.clone(),
            channel_id: self.channel_id.clone(),
            thread_ts: self.thread_ts.clone(),
            user_id: self.user_id.clone(),
        }
    }

    /// The conversation that it belongs to.
    pub fn conversation(&self) -> ConversationId {
        ConversationId::of_thread(&self.team_id, &self.channel_id, &self.thread_ts)
    }
}

impl UserSignedIn {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "User Signed In";

    /// Reads the event as EventBridge delivers it, envelope and all.
    pub fn from_event(event: &Value) -> Result<Self, EventRejected> {
        let envelope = Fields::of("", event)?;
        envelope.known_detail_type(Self::DETAIL_TYPE)?;
        let detail = Fields::of("detail", envelope.required("detail")?)?;
        detail.known_version()?;
        Ok(Self {
            version: VERSION,
            id: detail.name("id", EventId::parse)?,
            at: detail.time("at")?,
            user_key: detail.name("user_key", UserKey::parse)?,
            sub: detail.name("sub", Sub::parse)?,
            correlation_id: detail.optional_name("correlation_id", CorrelationId::parse)?,
        })
    }
}

impl UserDeleted {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "User Deleted";

    /// Reads the event as EventBridge delivers it, envelope and all.
    pub fn from_event(event: &Value) -> Result<Self, EventRejected> {
        let envelope = Fields::of("", event)?;
        envelope.known_detail_type(Self::DETAIL_TYPE)?;
        let detail = Fields::of("detail", envelope.required("detail")?)?;
        detail.known_version()?;
        Ok(Self {
            version: VERSION,
            id: detail.name("id", EventId::parse)?,
            at: detail.time("at")?,
            user_key: detail.name("user_key", UserKey::parse)?,
            correlation_id: detail.optional_name("correlation_id", CorrelationId::parse)?,
        })
    }
}

impl Removal {
    /// Reads the event as EventBridge delivers it, from our bus or from AWS's own.
    pub fn from_event(event: &Value) -> Result<Self, EventRejected> {
        let envelope = Fields::of("", event)?;
        if envelope.text("detail-type")? == UserDeleted::DETAIL_TYPE {
            return Ok(Self::Told(UserDeleted::from_event(event)?));
        }
        AccountCall::from_event(event).map(Self::Seen)
    }
}

impl AccountCall {
    /// `detail-type` of the event.
    pub const DETAIL_TYPE: &'static str = "AWS API Call via CloudTrail";

    /// `source` of the event, which nobody but AWS can put on a bus.
    pub const SOURCE: &'static str = "aws.cognito-idp";

    /// The calls after which an account may be gone or disabled.
    pub const CALLS: [&'static str; 3] = ["AdminDeleteUser", "AdminDisableUser", "DeleteUser"];

    /// Reads the event as EventBridge delivers it, envelope and all.
    pub fn from_event(event: &Value) -> Result<Self, EventRejected> {
        let envelope = Fields::of("", event)?;
        envelope.known_detail_type(Self::DETAIL_TYPE)?;
        if envelope.text("source")? != Self::SOURCE {
            let why = format!("{:?} is what is read here", Self::SOURCE);
            return Err(envelope.reject("source", why));
        }
        let detail = Fields::of("detail", envelope.required("detail")?)?;
        if !Self::CALLS.contains(&detail.text("eventName")?) {
            let why = format!("it must be one of {}", Self::CALLS.join(", "));
            return Err(detail.reject("eventName", why));
        }
        let id = detail.name("eventID", |text| {
            EventId::parse(text).and_then(|id| EventId::parse(format!("cloudtrail.{id}")))
        })?;
        let inner = |path, field| {
            let inner = detail.optional(field);
            inner.map(|inner| Fields::of(path, inner)).transpose()
        };
        let request = inner("detail.requestParameters", "requestParameters")?;
        let more = inner("detail.additionalEventData", "additionalEventData")?;
        Ok(Self {
            id,
            at: detail.time("eventTime")?,
            pool_id: match request {
                Some(request) => request
                    .optional("userPoolId")
                    .map(|_| request.text("userPoolId").map(str::to_owned))
                    .transpose()?,
                None => None,
            },
            sub: match more {
                Some(more) => more.optional_name("sub", Sub::parse)?,
                None => None,
            },
            // Some of Cognito's records have the field and say nothing in it.
            failed: detail.optional("errorCode").is_some_and(|code| *code != ""),
        })
    }
}

/// The fields of one JSON object, read one by one so that a refusal can name the field.
struct Fields<'a> {
    path: &'static str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn of(path: &'static str, value: &'a Value) -> Result<Self, EventRejected> {
        match value {
            Value::Object(object) => Ok(Self { path, object }),
            other => Err(EventRejected {
                field: if path.is_empty() {
                    "whole".into()
                } else {
                    path.into()
                },
                value: shown(Some(other)),
                why: "it must be a JSON object".into(),
            }),
        }
    }

    /// A field that says nothing (`null`) counts as one that isn't there: that is how several
    /// producers leave one out.
    fn optional(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn required(&self, field: &str) -> Result<&'a Value, EventRejected> {
        self.optional(field)
            .ok_or_else(|| self.reject(field, "it is required"))
    }

    fn text(&self, field: &str) -> Result<&'a str, EventRejected> {
        self.required(field)?
            .as_str()
            .ok_or_else(|| self.reject(field, "it must be a text"))
    }

    fn name<T>(
        &self,
        field: &str,
        parse: impl Fn(String) -> Result<T, InvalidName>,
    ) -> Result<T, EventRejected> {
        parse(self.text(field)?.to_owned())
            .map_err(|refused| self.reject(field, format!("it must be {}", refused.rule)))
    }

    fn optional_name<T>(
        &self,
        field: &str,
        parse: impl Fn(String) -> Result<T, InvalidName>,
    ) -> Result<Option<T>, EventRejected> {
        self.optional(field)
            .map(|_| self.name(field, parse))
            .transpose()
    }

    fn time(&self, field: &str) -> Result<Timestamp, EventRejected> {
        /// Longer than any RFC 3339 time with nanoseconds; nothing longer is worth parsing.
        const LENGTH: usize = 40;
        let text = self.text(field)?;
        let parsed = if text.len() <= LENGTH {
            text.parse().ok()
        } else {
            None
        };
        parsed.ok_or_else(|| self.reject(field, "it must be a time as in RFC 3339"))
    }

    fn ready_within(&self, field: &str) -> Result<Option<ReadyWithin>, EventRejected> {
        let Some(value) = self.optional(field) else {
            return Ok(None);
        };
        let within = value
            .as_u64()
            .and_then(|seconds| ReadyWithin::try_from(seconds).ok());
        within
            .map(Some)
            .ok_or_else(|| self.reject(field, format!("it must be {}", ReadyWithin::RULE)))
    }

    /// What somebody said: not blank, of bounded length.
    fn said(&self, field: &str, characters: usize) -> Result<String, EventRejected> {
        let text = self.text(field)?;
        if text.trim().is_empty() {
            return Err(self.reject(field, "it must not be blank"));
        }
        if text.len() > TURN_TEXT_MAX_BYTES || text.chars().count() > characters {
            let most = format!("it must have at most {characters} characters");
            return Err(EventRejected {
                // Not the text itself: what somebody said does not go into a log.
                value: format!("a text of {} bytes", text.len()),
                ..self.reject(field, most)
            });
        }
        Ok(text.to_owned())
    }

    fn known_detail_type(&self, known: &str) -> Result<(), EventRejected> {
        if self.text("detail-type")? == known {
            return Ok(());
        }
        Err(self.reject("detail-type", format!("{known:?} is what is read here")))
    }

    fn known_version(&self) -> Result<(), EventRejected> {
        if self.required("version")?.as_u64() == Some(VERSION) {
            return Ok(());
        }
        Err(self.reject("version", "1 is the only version that is known here"))
    }

    fn reject(&self, field: &str, why: impl Into<String>) -> EventRejected {
        let path = if self.path.is_empty() {
            String::new()
        } else {
            format!("{}.", self.path)
        };
        EventRejected {
            field: format!("{path}{field}"),
            value: shown(self.object.get(field)),
            why: why.into(),
        }
    }
}

/// A JSON value as it may stand in an error message; of a list or an object only what it is.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "missing".into(),
        Some(Value::String(text)) => quoted(text),
        Some(Value::Array(items)) => format!("a list of {}", items.len()),
        Some(Value::Object(object)) => format!("an object of {} fields", object.len()),
        Some(plain) => plain.to_string(),
    }
}

/// The JSON Schema of each event's detail, as (file name, pretty JSON).
pub fn schemas() -> Vec<(&'static str, String)> {
    vec![
        (
            "sandbox-requested.json",
            schema::<SandboxRequested>(SandboxRequested::DETAIL_TYPE),
        ),
        (
            "sandbox-ready.json",
            schema::<SandboxReady>(SandboxReady::DETAIL_TYPE),
        ),
        (
            "sandbox-failed.json",
            schema::<SandboxFailed>(SandboxFailed::DETAIL_TYPE),
        ),
        (
            "sandbox-retired.json",
            schema::<SandboxRetired>(SandboxRetired::DETAIL_TYPE),
        ),
        (
            "slack-message-received.json",
            schema::<SlackMessageReceived>(SlackMessageReceived::DETAIL_TYPE),
        ),
        (
            "user-signed-in.json",
            schema::<UserSignedIn>(UserSignedIn::DETAIL_TYPE),
        ),
        (
            "user-deleted.json",
            schema::<UserDeleted>(UserDeleted::DETAIL_TYPE),
        ),
    ]
}

fn schema<T: JsonSchema>(detail_type: &str) -> String {
    let mut schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>();
    schema.insert("title".into(), detail_type.into());
    format!("{:#}\n", schema.to_value())
}

#[cfg(test)]
mod tests;

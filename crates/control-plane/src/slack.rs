//! Slack's Web API, with the bot token of the app.
//!
//! What may become of a call is Slack's to say, in words that it documents per method
//! (<https://docs.slack.dev/reference/methods>). They are sorted here by what the caller can do
//! about them; a word that nobody knows is a refusal. Of what Slack answers only the word is passed
//! on, since the rest may repeat what somebody said.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use carapace_core::{
    ChannelId, MessageTs, SlackUserId, TeamId,
    ports::{Slack, SlackTrouble},
    slack::{Place, profile::SlackProfile},
};
use http::{Method, Uri, uri::Scheme};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    http::{Answer, JsonClient},
    secrets::{Content, Secret},
};

/// How long Slack may take. It answers within a second when all is well.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait if Slack says that there were too many calls, but not how long to wait.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Longer than Slack ever asks for. What is waited for must come to an end.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Where Slack answers: a URL that the names of methods are appended to, `https://slack.com/api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlackApiUrl(String);

/// A text that is no URL to append a method to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be http:// or https://, a host and a path, without a query")]
pub struct NotAnApiUrl;

impl FromStr for SlackApiUrl {
    type Err = NotAnApiUrl;

    fn from_str(text: &str) -> Result<Self, NotAnApiUrl> {
        let uri: Uri = text.parse().map_err(|_| NotAnApiUrl)?;
        let web = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme());
        let host = uri
            .authority()
            .is_some_and(|host| !host.as_str().contains('@'));
        if web && host && !text.contains(['?', '#']) {
            Ok(Self(text.trim_end_matches('/').to_owned()))
        } else {
            Err(NotAnApiUrl)
        }
    }
}

/// The bot token of the Slack app: with it one can read and write wherever the bot is.
#[derive(Clone)]
pub struct BotToken(String);

/// Why a text can't be the bot token. It doesn't repeat the text: that would be the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bot token is xoxb- and more, 16 to 512 visible ASCII characters")]
pub struct InvalidBotToken;

impl BotToken {
    /// Accepts what can stand in an HTTP header and is of the kind that Slack gives to bots. A token
    /// of another kind could do more than the app's manifest says, or not what is needed.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidBotToken> {
        let text = text.into();
        let fits = (16..=512).contains(&text.len()) && text.starts_with("xoxb-");
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(InvalidBotToken)
        }
    }
}

impl fmt::Debug for BotToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BotToken(redacted)")
    }
}

/// As `{"bot_token": "xoxb-…"}`.
impl Content for BotToken {
    const FIELD: &'static str = "bot_token";

    fn take(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.to_string())
    }
}

/// The secret that holds the bot token.
pub type BotTokenSecret = Secret<BotToken>;

/// Slack's Web API.
#[derive(Debug)]
pub struct SlackApi {
    client: OnceLock<JsonClient>,
    url: SlackApiUrl,
    secret: BotTokenSecret,
    team: Mutex<Option<TeamId>>,
}

/// What a method may answer that another may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Opens a stream.
    Start,
    /// Needs a stream that is open.
    Stream,
    /// Anything else.
    Plain,
}

/// What is sent to a method.
enum Arguments<'a> {
    /// JSON, as most methods take it.
    Json(Value),
    /// A query, since the methods that only read take no JSON. It has to be written as URLs have it.
    Query(&'a str),
}

#[derive(Deserialize)]
struct Posted {
    ts: MessageTs,
}

#[derive(Deserialize)]
struct Tested {
    team_id: TeamId,
}

#[derive(Deserialize)]
struct UserInfo {
    user: UserObject,
}

/// A user object. Flags that Slack leaves out are not set; it leaves most of them out for users
/// that are gone. Those without which nobody could be told from a bot have to be there.
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "it is Slack's object")]
struct UserObject {
    id: SlackUserId,
    team_id: TeamId,
    deleted: bool,
    is_bot: bool,
    #[serde(default)]
    is_app_user: bool,
    #[serde(default)]
    is_restricted: bool,
    #[serde(default)]
    is_ultra_restricted: bool,
    #[serde(default)]
    is_stranger: bool,
    #[serde(default)]
    is_email_confirmed: bool,
    #[serde(default)]
    profile: Profile,
}

#[derive(Default, Deserialize)]
struct Profile {
    email: Option<String>,
}

/// An answer that asks for nothing more.
#[derive(Deserialize)]
struct Done {}

impl SlackApi {
    /// Slack at this address; nothing is called yet.
    pub fn new(url: SlackApiUrl, secret: BotTokenSecret) -> Self {
        Self {
            client: OnceLock::new(),
            url,
            secret,
            team: Mutex::new(None),
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        method: &'static str,
        kind: Kind,
        arguments: Value,
    ) -> Result<T, SlackTrouble> {
        self.call(method, kind, Arguments::Json(arguments)).await
    }

    /// Calls a method, which takes no longer than Slack may take, whatever the token's secret takes:
    /// whoever finds a call that may be under way waits for as long.
    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        kind: Kind,
        arguments: Arguments<'_>,
    ) -> Result<T, SlackTrouble> {
        let called = self.attempt(method, kind, arguments);
        match tokio::time::timeout(PATIENCE, called).await {
            Ok(answer) => answer,
            Err(_) => Err(SlackTrouble::Unavailable(format!(
                "{method}: no answer within {PATIENCE:?}"
            ))),
        }
    }

    /// Only a call that Slack did not even look at is made again, with a token that has been read anew.
    async fn attempt<T: DeserializeOwned>(
        &self,
        method: &'static str,
        kind: Kind,
        arguments: Arguments<'_>,
    ) -> Result<T, SlackTrouble> {
        let token = self.secret.read().await?;
        let rejected = match self.send(method, kind, &arguments, &token).await {
            Err(rejected @ SlackTrouble::TokenRejected(_)) => rejected,
            answer => return answer,
        };
        let Some(token) = self.secret.read_again().await? else {
            return Err(rejected);
        };
        // It may be the token of another workspace.
        *self.team.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.send(method, kind, &arguments, &token).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: &'static str,
        kind: Kind,
        arguments: &Arguments<'_>,
        token: &BotToken,
    ) -> Result<T, SlackTrouble> {
        let client = self.client.get_or_init(|| JsonClient::new(PATIENCE));
        let url = format!("{}/{method}", self.url.0);
        let answer = match arguments {
            Arguments::Json(body) => client.send(Method::POST, &url, &token.0, Some(body)).await,
            Arguments::Query(query) => {
                let url = format!("{url}?{query}");
                let nothing = None::<&()>;
                client.send(Method::GET, &url, &token.0, nothing).await
            }
        };
        let answer =
            answer.map_err(|error| SlackTrouble::Unavailable(format!("{method}: {error}")))?;
        read(method, kind, &answer)
    }
}

impl Slack for SlackApi {
    async fn start_stream(&self, place: &Place) -> Result<MessageTs, SlackTrouble> {
        // In a channel Slack wants to know for whom; in a direct message it doesn't mind being told.
        let arguments = json!({
            "channel": place.channel_id,
            "thread_ts": place.thread_ts,
            "recipient_user_id": place.user_id,
            "recipient_team_id": place.team_id,
        });
        let posted: Posted = self
            .post("chat.startStream", Kind::Start, arguments)
            .await?;
        Ok(posted.ts)
    }

    async fn append_stream(
        &self,
        channel: &ChannelId,
        ts: &MessageTs,
        text: &str,
    ) -> Result<(), SlackTrouble> {
        let arguments = json!({ "channel": channel, "ts": ts, "markdown_text": text });
        let _: Done = self
            .post("chat.appendStream", Kind::Stream, arguments)
            .await?;
        Ok(())
    }

    async fn stop_stream(
        &self,
        channel: &ChannelId,
        ts: &MessageTs,
        text: Option<&str>,
    ) -> Result<(), SlackTrouble> {
        let mut arguments = json!({ "channel": channel, "ts": ts });
        if let Some(text) = text {
            arguments["markdown_text"] = text.into();
        }
        let _: Done = self
            .post("chat.stopStream", Kind::Stream, arguments)
            .await?;
        Ok(())
    }

    async fn post_message(&self, place: &Place, text: &str) -> Result<MessageTs, SlackTrouble> {
        // Not `text`, which would be shown as it is, and of which an update takes 4,000 characters.
        let arguments = json!({
            "channel": place.channel_id, "thread_ts": place.thread_ts, "markdown_text": text,
        });
        let posted: Posted = self
            .post("chat.postMessage", Kind::Plain, arguments)
            .await?;
        Ok(posted.ts)
    }

    async fn update(
        &self,
        channel: &ChannelId,
        ts: &MessageTs,
        text: &str,
    ) -> Result<(), SlackTrouble> {
        let arguments = json!({ "channel": channel, "ts": ts, "markdown_text": text });
        let _: Done = self.post("chat.update", Kind::Plain, arguments).await?;
        Ok(())
    }

    async fn set_status(&self, place: &Place, status: &str) -> Result<(), SlackTrouble> {
        let arguments = json!({
            "channel_id": place.channel_id, "thread_ts": place.thread_ts, "status": status,
        });
        let method = "assistant.threads.setStatus";
        let _: Done = self.post(method, Kind::Plain, arguments).await?;
        Ok(())
    }

    async fn user(&self, user: &SlackUserId) -> Result<SlackProfile, SlackTrouble> {
        // An id needs no escaping: it is letters and digits.
        let query = format!("user={user}");
        let info: UserInfo = self
            .call("users.info", Kind::Plain, Arguments::Query(&query))
            .await?;
        let user = info.user;
        Ok(SlackProfile {
            id: user.id,
            team_id: user.team_id,
            deleted: user.deleted,
            is_bot: user.is_bot,
            is_app_user: user.is_app_user,
            is_restricted: user.is_restricted,
            is_ultra_restricted: user.is_ultra_restricted,
            is_stranger: user.is_stranger,
            is_email_confirmed: user.is_email_confirmed,
            email: user.profile.email,
        })
    }

    async fn team(&self) -> Result<TeamId, SlackTrouble> {
        let known = || self.team.lock().unwrap_or_else(PoisonError::into_inner);
        let team = known().clone();
        if let Some(team) = team {
            return Ok(team);
        }
        let tested: Tested = self.post("auth.test", Kind::Plain, json!({})).await?;
        *known() = Some(tested.team_id.clone());
        Ok(tested.team_id)
    }
}

/// What an answer means. Whatever else listens at that address, its answer is no yes.
fn read<T: DeserializeOwned>(
    method: &'static str,
    kind: Kind,
    answer: &Answer,
) -> Result<T, SlackTrouble> {
    #[derive(Deserialize)]
    struct Verdict {
        ok: bool,
        error: Option<String>,
        needed: Option<String>,
    }
    let retry_after = answer
        .retry_after
        .map_or(RETRY_AFTER, |wait| wait.min(LONGEST_RETRY_AFTER));
    if answer.status == 429 {
        return Err(SlackTrouble::RateLimited(retry_after));
    }
    match answer.json::<Verdict>() {
        Some(verdict) if verdict.ok && answer.status == 200 => answer.json().ok_or_else(|| {
            SlackTrouble::Refused(format!("{method}: the answer is not what Slack documents"))
        }),
        Some(Verdict {
            ok: false,
            error: Some(error),
            needed,
        }) => Err(sorted(method, kind, &error, needed.as_deref(), retry_after)),
        _ if matches!(answer.status, 408 | 500..) => Err(SlackTrouble::Unavailable(format!(
            "{method}: HTTP {}",
            answer.status
        ))),
        _ => Err(SlackTrouble::Refused(format!(
            "{method}: HTTP {} without a reason",
            answer.status
        ))),
    }
}

/// Sorts Slack's word for what went wrong.
fn sorted(
    method: &'static str,
    kind: Kind,
    error: &str,
    needed: Option<&str>,
    retry_after: Duration,
) -> SlackTrouble {
    let said = format!("{method}: {}", word(error));
    match error {
        "ratelimited" | "rate_limited" | "message_limit_exceeded" => {
            SlackTrouble::RateLimited(retry_after)
        }
        // Slack closes a stream by itself after some minutes, and for a user who wants it stopped.
        "message_not_in_streaming_state" | "stopped_by_user" => SlackTrouble::NotStreaming,
        "channel_type_not_supported"
        | "method_not_supported_for_channel_type"
        | "feature_not_enabled"
        | "unknown_method"
        | "missing_recipient_team_id"
        | "missing_recipient_user_id"
        | "team_not_found"
        | "user_not_found"
            if kind == Kind::Start =>
        {
            SlackTrouble::NotStreamable
        }
        "channel_type_not_supported" if kind == Kind::Stream => SlackTrouble::NotStreaming,
        "app_access_restricted"
        | "cannot_reply_to_message"
        | "channel_not_found"
        | "invalid_thread_ts"
        | "is_archived"
        | "is_inactive"
        | "message_not_found"
        | "messages_tab_disabled"
        | "not_in_channel"
        | "restricted_action"
        | "restricted_action_non_threadable_channel"
        | "restricted_action_read_only_channel"
        | "restricted_action_thread_locked"
        | "restricted_action_thread_only_channel"
        | "thread_not_found" => SlackTrouble::Undeliverable(said),
        "account_inactive"
        | "invalid_auth"
        | "no_permission"
        | "not_allowed_token_type"
        | "not_authed"
        | "team_access_not_granted"
        | "token_expired"
        | "token_revoked" => SlackTrouble::TokenRejected(said),
        // The one that an operator can mend by the manifest, if told what is missing.
        "missing_scope" => {
            SlackTrouble::TokenRejected(match needed.filter(|scope| is_scope(scope)) {
                Some(scope) => format!("{said}, it needs {scope}"),
                None => said,
            })
        }
        // `streaming_state_conflict`: a stream that is still open can't be updated.
        "external_channel_migrating"
        | "fatal_error"
        | "internal_error"
        | "messaging_processing_failed"
        | "org_login_required"
        | "request_timeout"
        | "service_unavailable"
        | "streaming_state_conflict"
        | "team_added_to_org"
        | "update_failed" => SlackTrouble::Unavailable(said),
        _ => SlackTrouble::Refused(said),
    }
}

/// One of Slack's words, if it looks like one: what else answers may repeat what it was sent.
fn word(error: &str) -> &str {
    let fits = (1..=64).contains(&error.len());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if fits && error.bytes().all(plain) {
        error
    } else {
        "an error that is none of Slack's"
    }
}

/// `users:read.email`, or several with commas.
fn is_scope(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || b":.,_".contains(&byte);
    text.len() <= 64 && text.bytes().all(fits)
}

#[cfg(test)]
mod tests;

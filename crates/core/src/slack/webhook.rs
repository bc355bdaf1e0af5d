//! What Slack posts to the app, and which of it somebody has said to the agent.
//!
//! Slack sends everything that the app is subscribed to, in one envelope
//! (<https://docs.slack.dev/apis/events-api>), and more than was asked for: what the bot itself
//! says comes back to it, and so does every edit. Only what is plainly a person's new message to the
//! agent is a message here, a mention in a channel or a line of a direct conversation; anything else
//! is ignored, or two agents might end up talking to each other. What looks like a message and has a
//! field of the wrong form is refused instead: Slack doesn't write such a thing, so something is
//! misunderstood, and it should be seen.
//!
//! Files are not passed on. That somebody attached some is said in words behind the text, so that the
//! agent can say that it does not have them, and a file without a word is answered, too.
//!
//! The text is Slack's `mrkdwn`, with `&`, `<` and `>` written as entities
//! (<https://docs.slack.dev/messaging/formatting-message-text>). The same text comes once more in
//! `blocks`, and large ones in escapes, so what is posted may be several times as long as what was
//! said.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    ChannelId, EventId, InvalidName, MessageTs, SlackUserId, TeamId,
    event::{SlackMessageReceived, VERSION},
    quoted,
};

/// What was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Webhook {
    /// Slack makes sure that the URL is ours; it wants this text back.
    Challenge(String),
    /// Somebody has said something to the agent.
    Message(Box<SlackMessageReceived>),
    /// Nothing for an agent, and why.
    Ignored(&'static str),
}

/// Why a body is not what Slack documents. It repeats nothing that anybody said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookRejected {
    /// It is no JSON, or not of the envelope's form.
    #[error("the body is not a JSON object as Slack sends it: line {line}, column {column}")]
    Malformed {
        /// The line that is wrong.
        line: usize,
        /// The column.
        column: usize,
    },
    /// A field is missing, or isn't what it should be.
    #[error("the body's {field} is {value}, but it must be {rule}")]
    Field {
        /// The path of the field, `event.user`.
        field: &'static str,
        /// What stood there, cut and escaped, or of what kind it was.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// Somebody has said more than Slack lets anybody say.
    #[error("the text has {characters} characters, but at most {most} are taken", most = SlackMessageReceived::TEXT_CHARACTERS)]
    TextTooLong {
        /// How long it is.
        characters: usize,
    },
}

/// The envelope. What depends on the kind of event is read when that is known: a `user` is a name
/// in some events and an object in others.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    challenge: Value,
    #[serde(default)]
    team_id: Value,
    #[serde(default)]
    event_id: Value,
    #[serde(default)]
    authorizations: Value,
    #[serde(default)]
    event: Option<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    subtype: Value,
    #[serde(default)]
    channel_type: Value,
    #[serde(default)]
    channel: Value,
    #[serde(default)]
    user: Value,
    #[serde(default)]
    bot_id: Value,
    #[serde(default)]
    text: Value,
    #[serde(default)]
    files: Value,
    #[serde(default)]
    ts: Value,
    #[serde(default)]
    thread_ts: Value,
}

/// The kinds of `message` that a person has just written all the same: with files, and with `/me`
/// (<https://docs.slack.dev/reference/events/message>). All others tell of something that happened.
const SAID: [&str; 2] = ["file_share", "me_message"];

/// Files that are named; of more there is only the number.
const FILES: usize = 10;

/// The characters of a file's name that are shown.
const FILE_NAME_CHARACTERS: usize = 100;

/// Reads a body whose signature has been verified, and which is not larger than the caller allows.
pub fn read(body: &[u8], now: Timestamp) -> Result<Webhook, WebhookRejected> {
    let envelope: Envelope =
        serde_json::from_slice(body).map_err(|error| WebhookRejected::Malformed {
            line: error.line(),
            column: error.column(),
        })?;
    match text("type", &envelope.kind)? {
        "url_verification" => challenge(&envelope.challenge),
        "event_callback" => message(&envelope, now),
        _ => Ok(Webhook::Ignored("not an event")),
    }
}

/// It is repeated to whoever sent it, so it has to look like what Slack sends: a random word.
fn challenge(challenge: &Value) -> Result<Webhook, WebhookRejected> {
    const FIELD: &str = "challenge";
    let word = text(FIELD, challenge)?;
    let plain = word.bytes().all(|byte| byte.is_ascii_graphic());
    if !(1..=512).contains(&word.len()) || !plain {
        let rule = "a word of at most 512 visible ASCII characters";
        return Err(rejected(FIELD, challenge, rule));
    }
    Ok(Webhook::Challenge(word.to_owned()))
}

fn message(envelope: &Envelope, now: Timestamp) -> Result<Webhook, WebhookRejected> {
    let Some(event) = &envelope.event else {
        return Err(rejected("event", &Value::Null, "a JSON object"));
    };
    let mention = match text("event.type", &event.kind)? {
        "app_mention" => true,
        "message" if event.channel_type == "im" => false,
        "message" => return Ok(Webhook::Ignored("not said to the agent")),
        _ => return Ok(Webhook::Ignored("not a message")),
    };
    if !event.subtype.is_null() && !SAID.iter().any(|said| event.subtype == *said) {
        return Ok(Webhook::Ignored("not a new message"));
    }
    if !event.bot_id.is_null() {
        return Ok(Webhook::Ignored("said by a bot"));
    }
    if event.user.is_null() {
        return Ok(Webhook::Ignored("said by nobody"));
    }
    let channel_id = name("event.channel", &event.channel, ChannelId::parse)?;
    let direct = channel_id.as_str().starts_with('D');
    if direct == mention {
        // A mention in a direct message comes as a message, too.
        return Ok(Webhook::Ignored("comes in another way"));
    }
    let user_id = name("event.user", &event.user, SlackUserId::parse)?;
    let bots = our_bots(&envelope.authorizations)?;
    if bots.contains(&user_id.as_str()) {
        return Ok(Webhook::Ignored("said by a bot"));
    }
    let team_id = name("team_id", &envelope.team_id, TeamId::parse)?;
    let id = name("event_id", &envelope.event_id, |id| slack_event(&id))?;
    let ts = name("event.ts", &event.ts, MessageTs::parse)?;
    let thread_ts = if event.thread_ts.is_null() {
        ts.clone()
    } else {
        name("event.thread_ts", &event.thread_ts, MessageTs::parse)?
    };
    let mut text = said(text("event.text", &event.text)?, &bots);
    let characters = text.chars().count();
    if characters > SlackMessageReceived::TEXT_CHARACTERS {
        return Err(WebhookRejected::TextTooLong { characters });
    }
    if let Some(attached) = attached(&event.files)? {
        let gap = if text.is_empty() { "" } else { "\n\n" };
        // What was said comes first, should there be no room for both.
        let added = gap.chars().count() + attached.chars().count();
        if characters + added <= SlackMessageReceived::TEXT_CHARACTERS {
            text.extend([gap, &attached]);
        }
    }
    if text.is_empty() {
        return Ok(Webhook::Ignored("says nothing"));
    }
    Ok(Webhook::Message(Box::new(SlackMessageReceived {
        version: VERSION,
        id,
        at: now,
        correlation_id: None,
        team_id,
        user_id,
        channel_id,
        thread_ts,
        ts,
        text,
    })))
}

/// The event's id on our bus. Slack's own is short and of letters and digits.
fn slack_event(text: &str) -> Result<EventId, InvalidName> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if (1..=64).contains(&text.len()) && plain {
        EventId::parse(format!("slack.{text}"))
    } else {
        Err(InvalidName {
            what: "the id of an event of Slack",
            value: quoted(text),
            rule: "1 to 64 characters of A-Z, a-z and 0-9",
        })
    }
}

/// The names under which the app itself is in the workspaces that see this event.
fn our_bots(authorizations: &Value) -> Result<Vec<&str>, WebhookRejected> {
    match authorizations {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => Ok(list
            .iter()
            .filter(|one| one["is_bot"] == true)
            .filter_map(|one| one["user_id"].as_str())
            .collect()),
        other => Err(rejected("authorizations", other, "a list")),
    }
}

/// What was said: without the mention that it begins with, and as it was typed.
fn said(text: &str, bots: &[&str]) -> String {
    let mut rest = text.trim_start();
    while let Some(behind) = bots.iter().find_map(|bot| after_mention(rest, bot)) {
        rest = behind.trim_start();
    }
    let typed: String = decoded(rest).chars().filter(|c| is_typed(*c)).collect();
    typed.trim().to_owned()
}

/// Nobody can type other control characters, and each takes six bytes on the bus. The last two are no
/// characters at all, and SQS takes no text with one: it could not be kept in a queue.
fn is_typed(c: char) -> bool {
    matches!(c, '\n' | '\t') || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// The words for the files that came with a message; none, if there are none.
fn attached(files: &Value) -> Result<Option<String>, WebhookRejected> {
    let files = match files {
        Value::Null => return Ok(None),
        Value::Array(files) => files,
        other => return Err(rejected("event.files", other, "a list")),
    };
    if files.is_empty() {
        return Ok(None);
    }
    let mut names: Vec<String> = files.iter().take(FILES).map(file_name).collect();
    if let Some(more) = files.len().checked_sub(FILES).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    let names = names.join(", ");
    Ok(Some(format!("[Attached in Slack, but not here: {names}]")))
}

/// What somebody called it. Of a file from another organisation Slack tells only the id.
fn file_name(file: &Value) -> String {
    let name = file["name"].as_str().unwrap_or_default();
    let shown = |c: &char| is_typed(*c) && !matches!(c, '\n' | '\t');
    let name: String = name
        .chars()
        .filter(shown)
        .take(FILE_NAME_CHARACTERS)
        .collect();
    match name.trim() {
        "" => "a file".to_owned(),
        name => name.to_owned(),
    }
}

/// What is behind `<@U123>` or `<@U123|name>`.
fn after_mention<'a>(text: &'a str, user: &str) -> Option<&'a str> {
    let rest = text.strip_prefix("<@")?.strip_prefix(user)?;
    let (label, behind) = rest.split_once('>')?;
    (label.is_empty() || label.starts_with('|')).then_some(behind)
}

/// Slack's three entities, each read once: `&amp;lt;` is how `&lt;` looks when somebody typed it.
fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, entity) = rest.split_at(at);
        out.push_str(before);
        let known = [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>')];
        let found = known
            .iter()
            .find_map(|(name, c)| Some((*c, entity.strip_prefix(name)?)));
        let (c, behind) = found.unwrap_or(('&', &entity[1..]));
        out.push(c);
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn text<'a>(field: &'static str, value: &'a Value) -> Result<&'a str, WebhookRejected> {
    value
        .as_str()
        .ok_or_else(|| rejected(field, value, "a text"))
}

fn name<T>(
    field: &'static str,
    value: &Value,
    parse: impl Fn(String) -> Result<T, InvalidName>,
) -> Result<T, WebhookRejected> {
    parse(text(field, value)?.to_owned()).map_err(|refused| rejected(field, value, refused.rule))
}

fn rejected(field: &'static str, value: &Value, rule: &'static str) -> WebhookRejected {
    let value = match value {
        Value::Null => "missing".to_owned(),
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        plain => quoted(&plain.to_string()),
    };
    WebhookRejected::Field { field, value, rule }
}

#[cfg(test)]
mod tests;

//! What a workspace holds: members, channels, messages and the status lines of threads.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::api::Failure;

/// The workspace's id.
pub const TEAM: &str = "T0CARAPACE";
/// The bot's user.
pub const BOT_USER: &str = "U0CLAW";
/// The bot itself.
pub(super) const BOT_ID: &str = "B0CLAW";

/// A status goes by itself: <https://docs.slack.dev/reference/methods/assistant.threads.setStatus>.
const STATUS_LIFE: Duration = Duration::from_secs(120);

/// What a member may be said to be, beside a name and an address. What is true of most stays so.
const MEMBER_FLAGS: [(&str, bool); 7] = [
    ("deleted", false),
    ("is_bot", false),
    ("is_app_user", false),
    ("is_restricted", false),
    ("is_ultra_restricted", false),
    ("is_email_confirmed", true),
    ("is_stranger", false),
];

/// Everything in memory.
pub(super) struct Workspace {
    stream_life: Duration,
    members: BTreeMap<String, Value>,
    channels: BTreeMap<String, Channel>,
    calls: BTreeMap<&'static str, u64>,
    /// The newest timestamp in microseconds: each message has its own.
    newest: i64,
    ids: u64,
    revision: u64,
}

struct Channel {
    name: String,
    /// The other side of a direct conversation with the bot.
    direct: Option<String>,
    has_bot: bool,
    /// By their ts.
    messages: BTreeMap<String, Message>,
    /// By the ts of the thread's first message.
    statuses: BTreeMap<String, Statuses>,
}

#[derive(Default)]
struct Statuses {
    set: Vec<String>,
    now: Option<(String, Timestamp)>,
}

/// A message and what has happened to it.
pub(super) struct Message {
    thread: Option<String>,
    user: String,
    pub(super) text: String,
    /// Since when it streams.
    streaming: Option<Timestamp>,
    edits: u32,
}

/// Where a message is.
#[derive(Debug)]
pub(super) struct MessageRef {
    pub(super) channel: String,
    pub(super) ts: String,
}

/// To whom a stream is shown.
pub(super) struct Recipient<'a> {
    pub(super) team: Option<&'a str>,
    pub(super) user: Option<&'a str>,
}

impl Message {
    pub(super) fn is_streaming(&self) -> bool {
        self.streaming.is_some()
    }

    pub(super) fn end_stream(&mut self) {
        self.streaming = None;
    }

    pub(super) fn replace(&mut self, text: &str) {
        text.clone_into(&mut self.text);
        self.edits += 1;
    }

    fn is_bots(&self) -> bool {
        self.user == BOT_USER
    }

    /// As the harness and the page read it.
    fn described(&self, ts: &str) -> Value {
        json!({
            "ts": ts, "user": self.user, "bot": self.is_bots(), "text": self.text,
            "streaming": self.is_streaming(), "edits": self.edits,
        })
    }
}

/// What Slack takes for a timestamp.
fn is_timestamp(ts: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    ts.split_once('.')
        .is_some_and(|(seconds, rest)| digits(seconds) && digits(rest) && rest.len() == 6)
}

impl Workspace {
    pub(super) fn new(stream_life: Duration) -> Self {
        let mut workspace = Self {
            stream_life,
            members: BTreeMap::new(),
            channels: BTreeMap::new(),
            calls: BTreeMap::new(),
            newest: 0,
            ids: 0,
            revision: 0,
        };
        let bot =
            json!({ "id": BOT_USER, "name": "Claw", "is_bot": true, "is_email_confirmed": false });
        if let Value::Object(bot) = bot {
            // Its own profile is one that is taken.
            let _ = workspace.add_member(&bot);
        }
        workspace
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Something can be seen to have changed.
    pub(super) fn touch(&mut self) {
        self.revision += 1;
    }

    pub(super) fn count(&mut self, method: &'static str) {
        *self.calls.entry(method).or_default() += 1;
    }

    pub(super) fn calls(&self, method: &str) -> u64 {
        self.calls.get(method).copied().unwrap_or_default()
    }

    /// Random, since what is remembered of a former workspace must not fit this one.
    fn new_id(&mut self, prefix: &str) -> String {
        self.ids += 1;
        let seed = format!(
            "{:?} {} {}",
            std::time::SystemTime::now(),
            std::process::id(),
            self.ids
        );
        let hash = BASE32_NOPAD.encode(&Sha256::digest(seed));
        format!("{prefix}0{}", &hash[..9])
    }

    fn new_ts(&mut self, now: Timestamp) -> String {
        self.newest = now.as_microsecond().max(self.newest + 1);
        let (seconds, micros) = (self.newest / 1_000_000, self.newest % 1_000_000);
        format!("{seconds}.{micros:06}")
    }

    /// Adds somebody with what `users.info` is to say of them; returns that.
    pub(super) fn add_member(&mut self, described: &Map<String, Value>) -> Result<Value, String> {
        let text = |field: &str| described.get(field).and_then(Value::as_str);
        let known = |field: &str| {
            ["id", "name", "email", "team_id"].contains(&field)
                || MEMBER_FLAGS.iter().any(|(flag, _)| *flag == field)
        };
        if let Some(unknown) = described.keys().find(|field| !known(field)) {
            return Err(format!("a member has no {unknown}"));
        }
        let name = text("name").ok_or("a member has a name")?.to_owned();
        let id = match text("id") {
            Some(id) => id.to_owned(),
            None => self.new_id("U"),
        };
        let mut profile = json!({
            "real_name": name, "real_name_normalized": name, "display_name": name,
            "display_name_normalized": name, "team": text("team_id").unwrap_or(TEAM),
        });
        // Without the scope users:read.email, or for somebody without an address, there is none.
        if let Some(email) = text("email") {
            profile["email"] = json!(email);
        }
        let mut user = json!({
            "id": id, "team_id": text("team_id").unwrap_or(TEAM), "name": name.to_lowercase(),
            "real_name": name, "profile": profile, "color": "9f69e7", "tz": "Etc/UTC",
            "tz_label": "Coordinated Universal Time", "tz_offset": 0, "is_admin": false,
            "is_owner": false, "is_primary_owner": false, "updated": 1_700_000_000,
            "who_can_share_contact_card": "EVERYONE",
        });
        for (flag, usual) in MEMBER_FLAGS {
            let said = described.get(flag);
            let value = match said {
                None => usual,
                Some(said) => said.as_bool().ok_or(format!("{flag} is true or false"))?,
            };
            // Slack says this of strangers only.
            if flag != "is_stranger" || said.is_some() {
                user[flag] = json!(value);
            }
        }
        self.members.insert(id, user.clone());
        self.touch();
        Ok(user)
    }

    /// What `users.info` says.
    pub(super) fn member(&self, id: &str) -> Result<&Value, Failure> {
        let member = self.members.get(id);
        member.ok_or_else(|| Failure::named("user_not_found"))
    }

    pub(super) fn add_channel(&mut self, name: &str, has_bot: bool) -> String {
        self.insert_channel("C", name.to_owned(), None, has_bot)
    }

    /// The direct conversation of a member with the bot: always the same one.
    pub(super) fn direct_channel(&mut self, user: &str) -> Result<String, Failure> {
        let name = self.name_of(user);
        self.member(user)?;
        let there = |(_, channel): &(&String, &Channel)| channel.direct.as_deref() == Some(user);
        if let Some((id, _)) = self.channels.iter().find(there) {
            return Ok(id.clone());
        }
        Ok(self.insert_channel("D", name, Some(user.to_owned()), true))
    }

    fn insert_channel(
        &mut self,
        prefix: &str,
        name: String,
        direct: Option<String>,
        has_bot: bool,
    ) -> String {
        let id = self.new_id(prefix);
        let channel = Channel {
            name,
            direct,
            has_bot,
            messages: BTreeMap::new(),
            statuses: BTreeMap::new(),
        };
        self.channels.insert(id.clone(), channel);
        self.touch();
        id
    }

    fn name_of(&self, user: &str) -> String {
        let name = self.members.get(user).and_then(|m| m["real_name"].as_str());
        name.unwrap_or(user).to_owned()
    }

    /// A channel that the bot may speak in.
    pub(super) fn channel(&self, id: &str) -> Result<String, Failure> {
        match self.channels.get(id) {
            None => Err(Failure::named("channel_not_found")),
            Some(channel) if !channel.has_bot => Err(Failure::named("not_in_channel")),
            Some(_) => Ok(id.to_owned()),
        }
    }

    /// Who is on the other side of a direct conversation.
    pub(super) fn partner(&self, channel: &str) -> Option<&str> {
        self.channels.get(channel)?.direct.as_deref()
    }

    /// The first message of a thread. Slack would take any reply of it, and advises against that.
    pub(super) fn thread(&self, channel: &str, ts: &str, missing: &str) -> Result<String, Failure> {
        if !is_timestamp(ts) {
            return Err(Failure::named("invalid_thread_ts"));
        }
        let message = self.channels.get(channel).and_then(|c| c.messages.get(ts));
        match message {
            Some(Message { thread: None, .. }) => Ok(ts.to_owned()),
            _ => Err(Failure::named(missing)),
        }
    }

    pub(super) fn message(&self, channel: &str, ts: &str) -> Result<MessageRef, Failure> {
        if !is_timestamp(ts) {
            return Err(Failure::named("invalid_ts"));
        }
        let there = self
            .channels
            .get(channel)
            .is_some_and(|c| c.messages.contains_key(ts));
        match there {
            true => Ok(MessageRef {
                channel: channel.to_owned(),
                ts: ts.to_owned(),
            }),
            false => Err(Failure::named("message_not_found")),
        }
    }

    /// A message that the bot may change.
    pub(super) fn owned(
        &mut self,
        message: &MessageRef,
        others: &str,
    ) -> Result<&mut Message, Failure> {
        let found = self
            .channels
            .get_mut(&message.channel)
            .and_then(|channel| channel.messages.get_mut(&message.ts));
        match found {
            None => Err(Failure::named("message_not_found")),
            Some(message) if !message.is_bots() => Err(Failure::named(others)),
            Some(message) => Ok(message),
        }
    }

    /// Outside of direct conversations, a stream names whom it is for.
    pub(super) fn check_recipient(
        &self,
        channel: &str,
        recipient: &Recipient<'_>,
    ) -> Result<(), Failure> {
        if self.partner(channel).is_some() {
            return Ok(());
        }
        let Some(user) = recipient.user else {
            return Err(Failure::named("missing_recipient_user_id"));
        };
        let Some(team) = recipient.team else {
            return Err(Failure::named("missing_recipient_team_id"));
        };
        let member = self.member(user)?;
        match member["team_id"] == team {
            true => Ok(()),
            false => Err(Failure::named("user_not_found")),
        }
    }

    /// The bot says something. A status line goes with it.
    pub(super) fn add_reply(
        &mut self,
        channel: &str,
        thread: Option<&str>,
        text: &str,
        streams: bool,
        now: Timestamp,
    ) -> MessageRef {
        if let Some(channel) = self.channels.get_mut(channel)
            && let Some(statuses) = thread.and_then(|thread| channel.statuses.get_mut(thread))
        {
            statuses.now = None;
        }
        let message = Message {
            thread: thread.map(str::to_owned),
            user: BOT_USER.to_owned(),
            text: text.to_owned(),
            streaming: streams.then_some(now),
            edits: 0,
        };
        self.insert_message(channel, message, now)
    }

    /// A member says something.
    pub(super) fn add_members_message(
        &mut self,
        user: &str,
        channel: &str,
        thread: Option<&str>,
        text: &str,
        now: Timestamp,
    ) -> Result<MessageRef, Failure> {
        self.member(user)?;
        if !self.channels.contains_key(channel) {
            return Err(Failure::named("channel_not_found"));
        }
        let thread = thread
            .map(|ts| self.thread(channel, ts, "thread_not_found"))
            .transpose()?;
        let message = Message {
            thread,
            user: user.to_owned(),
            text: text.to_owned(),
            streaming: None,
            edits: 0,
        };
        Ok(self.insert_message(channel, message, now))
    }

    fn insert_message(&mut self, channel: &str, message: Message, now: Timestamp) -> MessageRef {
        let ts = self.new_ts(now);
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.messages.insert(ts.clone(), message);
        }
        self.touch();
        MessageRef {
            channel: channel.to_owned(),
            ts,
        }
    }

    /// A message as the Web API's answers show it.
    pub(super) fn shown(&self, message: &MessageRef) -> Result<Value, Failure> {
        let MessageRef { channel, ts } = message;
        let found = self.channels.get(channel).and_then(|c| c.messages.get(ts));
        let found = found.ok_or_else(|| Failure::named("message_not_found"))?;
        let mut shown = json!({
            "type": "message", "user": found.user, "bot_id": BOT_ID, "team": TEAM, "ts": ts,
            "text": found.text,
        });
        if let Some(thread) = &found.thread {
            shown["thread_ts"] = json!(thread);
        }
        Ok(shown)
    }

    /// An empty one takes the status away.
    pub(super) fn set_status(&mut self, channel: &str, thread: &str, status: &str, now: Timestamp) {
        if let Some(channel) = self.channels.get_mut(channel) {
            let statuses = channel.statuses.entry(thread.to_owned()).or_default();
            statuses.now = None;
            if !status.is_empty() {
                statuses.set.push(status.to_owned());
                statuses.now = Some((status.to_owned(), now));
            }
        }
        self.touch();
    }

    /// Ends what has streamed for too long, as Slack does.
    pub(super) fn end_old_streams(&mut self, now: Timestamp) {
        let life = self.stream_life;
        self.end_streams(|_, since| now.duration_since(since).unsigned_abs() >= life);
    }

    /// Ends what streams in a channel, out of turn.
    pub(super) fn end_streams_in(&mut self, channel: Option<&str>) {
        self.end_streams(|id, _| channel.is_none_or(|channel| channel == id));
    }

    fn end_streams(&mut self, ends: impl Fn(&str, Timestamp) -> bool) {
        let mut ended = false;
        for (id, channel) in &mut self.channels {
            for message in channel.messages.values_mut() {
                if message.streaming.is_some_and(|since| ends(id, since)) {
                    message.end_stream();
                    ended = true;
                }
            }
        }
        if ended {
            self.touch();
        }
    }

    /// A thread for whoever watches it.
    pub(super) fn described_thread(
        &self,
        channel: &str,
        thread: &str,
        now: Timestamp,
    ) -> Result<Value, Failure> {
        let found = self.channels.get(channel);
        let found = found.ok_or_else(|| Failure::named("channel_not_found"))?;
        let root = found.messages.get(thread);
        if root.is_none_or(|root| root.thread.is_some()) {
            return Err(Failure::named("thread_not_found"));
        }
        Ok(found.described_thread(thread, now))
    }

    /// Everything, for the page.
    pub(super) fn described(&self, now: Timestamp) -> Value {
        let names: BTreeMap<&str, String> = self
            .members
            .keys()
            .map(|id| (id.as_str(), self.name_of(id)))
            .collect();
        let channels: Vec<Value> = self
            .channels
            .iter()
            .map(|(id, channel)| {
                let roots = channel.messages.iter().filter(|(_, m)| m.thread.is_none());
                let threads: Vec<Value> = roots
                    .map(|(ts, _)| channel.described_thread(ts, now))
                    .collect();
                json!({
                    "id": id, "name": channel.name, "direct": channel.direct.is_some(),
                    "threads": threads,
                })
            })
            .collect();
        json!({ "revision": self.revision, "team": TEAM, "names": names, "channels": channels })
    }
}

impl Channel {
    fn described_thread(&self, thread: &str, now: Timestamp) -> Value {
        let messages: Vec<Value> = self
            .messages
            .iter()
            .filter(|(ts, message)| *ts == thread || message.thread.as_deref() == Some(thread))
            .map(|(ts, message)| message.described(ts))
            .collect();
        let statuses = self.statuses.get(thread);
        let status = statuses
            .and_then(|statuses| statuses.now.as_ref())
            .filter(|(_, since)| now.duration_since(*since).unsigned_abs() < STATUS_LIFE)
            .map(|(status, _)| status);
        let set: &[String] = statuses.map_or(&[], |statuses| &statuses.set);
        json!({ "ts": thread, "status": status, "statuses": set, "messages": messages })
    }
}

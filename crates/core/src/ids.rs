//! The names of things, each with a type of its own.
//!
//! A name is parsed where it comes in, and never again: whoever holds a [`UserKey`] holds twenty
//! characters that are safe in a Kubernetes name, a table key, a file name and a log line. The
//! pattern of each name is written once, next to its parser, and a test keeps the two equal: the
//! schemas in `docs/events/` are made from the patterns.

use std::{borrow::Cow, fmt, str::FromStr};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A text that is not the name it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not {what}: it must be {rule}")]
pub struct InvalidName {
    /// What it was taken for, with its article: `a user key`.
    pub what: &'static str,
    /// The text, cut and escaped so that it can stand in a log line.
    pub value: String,
    /// What it would have to look like.
    pub rule: &'static str,
}

/// Makes a text fit for an error message: quoted, escaped, and of bounded length.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start:?}… ({} bytes)", text.len())
}

macro_rules! name {
    (
        $(#[$doc:meta])*
        $name:ident, $what:literal, $rule:literal, $pattern:literal, $accepts:expr
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("What ", $what, " looks like, as a regular expression.")]
            pub const PATTERN: &'static str = $pattern;

            #[doc = concat!("Takes the text for ", $what, ", if it is one.")]
            pub fn parse(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let accepts: fn(&str) -> bool = $accepts;
                if accepts(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { what: $what, value: quoted(&text), rule: $rule })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

name! {
    /// A person in the user pool, in twenty characters that reveal nothing about them.
    UserKey, "a user key", "20 characters of a-z and 2-7",
    "^[a-z2-7]{20}$",
    is_user_key
}

name! {
    /// The `SandboxClaim` of a user. There is one name per user, so the API server itself keeps a
    /// user from having two.
    ClaimName, "a claim's name", "\"agent-\" and a user key",
    "^agent-[a-z2-7]{20}$",
    |text| text.strip_prefix(ClaimName::PREFIX).is_some_and(is_user_key)
}

name! {
    /// The identity of one `SandboxClaim`, which its successor of the same name does not share.
    ClaimUid, "a claim's UID", "a UUID in lower case",
    "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    is_uuid
}

name! {
    /// A `Sandbox`: the VM of an agent. A warm one has a name of its own, which is never its
    /// claim's.
    SandboxName, "a sandbox's name", "a DNS-1123 label of at most 63 characters",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    is_dns_label
}

name! {
    /// A `SandboxWarmPool`.
    PoolName, "a pool's name", "a DNS-1123 label of at most 63 characters",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    is_dns_label
}

name! {
    /// The identity of an event, chosen by whoever put it on the bus. Events of the same id are
    /// the same event, however often they arrive.
    EventId, "an event's id", "1 to 128 characters of A-Z, a-z, 0-9 and _ . : -",
    "^[A-Za-z0-9_.:-]{1,128}$",
    is_event_id
}

name! {
    /// What ties events of one story together; it is passed on unchanged.
    CorrelationId, "a correlation id", "1 to 128 characters of A-Z, a-z, 0-9 and _ . : -",
    "^[A-Za-z0-9_.:-]{1,128}$",
    is_event_id
}

name! {
    /// One turn of a conversation, named by whoever asks for it. The same id again is the same
    /// turn: it is answered again, and never run again.
    TurnId, "a turn's id", "1 to 128 characters of A-Z, a-z, 0-9 and _ . : -, the first a letter or digit",
    "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$",
    |text| is_event_id(text) && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

name! {
    /// A conversation of a user with the agent: a thread in Slack, a page in a browser.
    ///
    /// It becomes the end of a session key of OpenClaw, which folds case, so that two conversations
    /// that differ in nothing else would be one; and which divides keys at colons, so that a colon
    /// could name a session that isn't a conversation. Neither can be written here.
    ConversationId, "a conversation's id", "1 to 128 characters of a-z, 0-9 and . _ -, the first a letter or digit",
    "^[a-z0-9][a-z0-9._-]{0,127}$",
    is_conversation_id
}

name! {
    /// The stable name of an error, as a state machine matches it and as a `Sandbox Failed`
    /// reports it: our own, or one of AWS such as `States.Timeout`.
    Reason, "an error's name", "1 to 64 characters of A-Z, a-z, 0-9 and . _, a letter first",
    "^[A-Za-z][A-Za-z0-9._]{0,63}$",
    |text| text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
}

name! {
    /// An execution of a state machine, by its name. Whoever holds a conversation is one.
    Holder, "an execution's name", "1 to 80 characters of A-Z, a-z, 0-9 and _ -",
    "^[A-Za-z0-9_-]{1,80}$",
    |text| (1..=80).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

name! {
    /// What the user pool calls an account, for ever: its `sub`, in Cognito a UUID. It goes into a
    /// filter expression, so it has nothing that could end a text there.
    Sub, "an account's sub", "1 to 64 characters of A-Z, a-z, 0-9 and -",
    "^[A-Za-z0-9-]{1,64}$",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

name! {
    /// A workspace of Slack, or an organisation of several.
    TeamId, "a Slack team's id", "T or E and 1 to 30 characters of A-Z and 0-9",
    "^[TE][A-Z0-9]{1,30}$",
    |text| is_slack_id(text, b"TE")
}

name! {
    /// A user of Slack: a member of ours, a guest, somebody of another workspace, or a bot.
    SlackUserId, "a Slack user's id", "U or W and 1 to 30 characters of A-Z and 0-9",
    "^[UW][A-Z0-9]{1,30}$",
    |text| is_slack_id(text, b"UW")
}

name! {
    /// A conversation in Slack's sense: a channel (C), a direct message (D), a private group (G).
    ChannelId, "a Slack channel's id", "C, D or G and 1 to 30 characters of A-Z and 0-9",
    "^[CDG][A-Z0-9]{1,30}$",
    |text| is_slack_id(text, b"CDG")
}

name! {
    /// A message of a channel, by the time that Slack gave it. It looks like a number, and is none:
    /// read as one it would lose its last digits.
    MessageTs, "a Slack message's ts", "up to 12 digits, a dot and 6 digits",
    "^[0-9]{1,12}\\.[0-9]{6}$",
    is_message_ts
}

impl ConversationId {
    /// The conversation that a thread of Slack is. Slack's ids have no small letters, so none are
    /// lost here.
    pub fn of_thread(team: &TeamId, channel: &ChannelId, thread_ts: &MessageTs) -> Self {
        Self(format!("slack.{team}.{channel}.{thread_ts}").to_ascii_lowercase())
    }
}

impl UserKey {
    const LENGTH: usize = 20;

    /// The key of the user whom the pool knows as `sub`.
    ///
    /// A hash, so that it is the same everywhere without being looked up, and says nothing about
    /// the person where it is seen: in pod names, logs and the model gateway. Its 100 bits keep
    /// two users apart.
    pub fn derive(pool_id: &str, sub: &str) -> Self {
        let digest = Sha256::digest(format!("{pool_id}/{sub}"));
        let mut key = BASE32_NOPAD.encode(&digest).to_ascii_lowercase();
        key.truncate(Self::LENGTH);
        Self(key)
    }
}

impl MessageTs {
    /// What messages are sorted by: numbers, of which a longer one is larger.
    pub fn order(&self) -> (usize, &str) {
        (self.0.len(), &self.0)
    }
}

impl ClaimName {
    const PREFIX: &'static str = "agent-";

    /// The one claim that this user can have.
    pub fn of(user: &UserKey) -> Self {
        Self(format!("{}{user}", Self::PREFIX))
    }
}

impl EventId {
    const LENGTH: usize = 128;

    /// The id of the event that answers this one.
    ///
    /// It depends on nothing else, so an answer that is put on the bus twice is the same event
    /// twice, and subscribers can drop the second. An id too long to be prolonged is cut and keeps
    /// a digest of the whole, so that two long ids with one beginning get different answers.
    #[must_use]
    pub fn answer(&self, suffix: &'static str) -> Self {
        const DIGEST: usize = 32;
        let plain = format!("{}.{suffix}", self.0);
        if plain.len() <= Self::LENGTH {
            return Self(plain);
        }
        let mut digest = HEXLOWER.encode(&Sha256::digest(&self.0));
        digest.truncate(DIGEST);
        let kept = Self::LENGTH.saturating_sub(DIGEST + suffix.len() + 2);
        let start: String = self.0.chars().take(kept).collect();
        Self(format!("{start}.{digest}.{suffix}"))
    }
}

impl Reason {
    /// The name that an error comes with, whatever it looks like: a failure has to be reported even
    /// if its name has characters that a name of ours would not have.
    pub fn of_error(name: &str) -> Self {
        let word = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '_'
            }
        };
        let text: String = name.chars().map(word).take(64).collect();
        if text.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Self(text);
        }
        let rest: String = text.chars().take(64 - "Error_".len()).collect();
        Self(format!("Error_{rest}"))
    }
}

fn is_user_key(text: &str) -> bool {
    text.len() == UserKey::LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte))
}

fn is_slack_id(text: &str, kinds: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    match text.as_bytes() {
        [kind, rest @ ..] => {
            kinds.contains(kind) && (1..=30).contains(&rest.len()) && rest.iter().all(plain)
        }
        [] => false,
    }
}

fn is_message_ts(text: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(seconds, order)| {
        (1..=12).contains(&seconds.len()) && digits(seconds) && order.len() == 6 && digits(order)
    })
}

fn is_uuid(text: &str) -> bool {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let groups: Vec<&str> = text.split('-').collect();
    groups.len() == GROUPS.len()
        && groups.iter().zip(GROUPS).all(|(group, length)| {
            group.len() == length
                && group
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_conversation_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text
            .bytes()
            .all(|byte| plain(byte) || b"._-".contains(&byte))
}

fn is_event_id(text: &str) -> bool {
    (1..=EventId::LENGTH).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_user_key_is_the_start_of_a_digest_in_base32() {
        // printf 'us-east-1_Pool/sub-1' | sha256sum | xxd -r -p | base32 | head -c 20
        let key = UserKey::derive("us-east-1_Pool", "sub-1");
        assert_eq!(key.as_str(), "jzymnv3uvr46d7ntz4wo");
        assert_eq!(UserKey::parse(key.as_str()).unwrap(), key);
    }

    #[test]
    fn users_of_different_pools_have_different_keys() {
        assert_ne!(UserKey::derive("a", "sub"), UserKey::derive("b", "sub"));
        assert_ne!(UserKey::derive("a", "sub"), UserKey::derive("a", "sub2"));
    }

    #[test]
    fn names_are_refused_with_the_value_and_the_rule() {
        let refused = UserKey::parse("Not a key\n").unwrap_err().to_string();
        insta::assert_snapshot!(
            refused,
            @r#""Not a key\n" is not a user key: it must be 20 characters of a-z and 2-7"#
        );
        let refused = EventId::parse("x".repeat(5000)).unwrap_err().to_string();
        assert!(refused.len() < 300, "{refused}");
    }

    #[test]
    fn names_that_look_alike_are_refused() {
        for text in [
            "",
            "agent",
            "aaaaaaaaaaaaaaaaaaa1",
            "AAAAAAAAAAAAAAAAAAAA",
            "аaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(UserKey::parse(text).is_err(), "{text}");
        }
        for text in ["", "-a", "a-", "a_b", "A", "a.b", &"a".repeat(64)] {
            assert!(PoolName::parse(text).is_err(), "{text}");
        }
        for text in ["", "a b", "a/b", "ä", "a\0", &"a".repeat(129)] {
            assert!(EventId::parse(text).is_err(), "{text}");
        }
        for text in [
            "agent-",
            "aaaaaaaaaaaaaaaaaaaa",
            "agent-aaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(ClaimName::parse(text).is_err(), "{text}");
        }
        for text in [
            "",
            "..",
            ".a",
            "C1",
            "a:b",
            "subagent:x",
            "a/b",
            "a b",
            "\u{e9}",
        ] {
            assert!(ConversationId::parse(text).is_err(), "{text}");
        }
        for text in ["", ".", "..", "-a", "a/b", "a?b", "a\n"] {
            assert!(TurnId::parse(text).is_err(), "{text}");
        }
        for text in ["", "0-0-0-0-0", "4F5E1A1C-0C8B-4E3A-9C6D-1B2A3C4D5E6F"] {
            assert!(ClaimUid::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_name_stays_as_it_is_if_it_can() {
        for name in ["States.Timeout", "Lambda.Unknown", "PoolNotFound"] {
            assert_eq!(Reason::of_error(name).as_str(), name);
        }
        assert_eq!(
            Reason::of_error("&alloc::String").as_str(),
            "Error__alloc__String"
        );
        assert_eq!(Reason::of_error("").as_str(), "Error_");
    }

    #[test]
    fn an_answer_to_a_long_id_still_fits_and_still_tells_its_cause() {
        let short = EventId::parse("req-1").unwrap();
        assert_eq!(short.answer("ready").as_str(), "req-1.ready");
        let long = |last: char| EventId::parse(format!("{}{last}", "x".repeat(127))).unwrap();
        assert_ne!(long('a').answer("ready"), long('b').answer("ready"));
        assert_eq!(long('a').answer("ready"), long('a').answer("ready"));
    }

    /// The schema is all that other teams see of the parser.
    fn agrees<T: JsonSchema + TryFrom<String>>(text: &str) -> Result<(), TestCaseError> {
        let schema = serde_json::to_value(schemars::schema_for!(T)).unwrap();
        prop_assert_eq!(
            jsonschema::is_valid(&schema, &json!(text)),
            T::try_from(text.to_owned()).is_ok(),
            "{} and its pattern disagree on {:?}",
            T::schema_name(),
            text
        );
        Ok(())
    }

    proptest! {
        #[test]
        fn a_pattern_accepts_what_its_parser_accepts(
            text in prop_oneof![
                "[a-z2-7]{19,21}",
                "agent-[a-z2-8]{20}",
                "[-a-z0-9]{1,64}",
                "[A-Za-z0-9_.:/-]{0,4}",
                "[A-Za-z0-9_.:-]{127,129}",
                "[a-z0-9._-]{127,129}",
                "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-g]{12}",
                "[TEUWCDGX][A-Z0-9]{0,2}",
                "[TUC][A-Z0-9]{29,32}",
                "[0-9]{0,13}[.][0-9]{5,7}",
                "[A-Za-z0-9_-]{79,81}",
                "\\PC{0,5}",
            ]
        ) {
            agrees::<UserKey>(&text)?;
            agrees::<ClaimName>(&text)?;
            agrees::<ClaimUid>(&text)?;
            agrees::<SandboxName>(&text)?;
            agrees::<PoolName>(&text)?;
            agrees::<EventId>(&text)?;
            agrees::<CorrelationId>(&text)?;
            agrees::<Reason>(&text)?;
            agrees::<TurnId>(&text)?;
            agrees::<ConversationId>(&text)?;
            agrees::<Holder>(&text)?;
            agrees::<TeamId>(&text)?;
            agrees::<SlackUserId>(&text)?;
            agrees::<ChannelId>(&text)?;
            agrees::<MessageTs>(&text)?;
        }

        #[test]
        fn every_thread_is_a_conversation_of_its_own(
            team in "[TE][A-Z0-9]{1,30}", channel in "[CDG][A-Z0-9]{1,30}", ts in "[0-9]{1,12}[.][0-9]{6}"
        ) {
            let id = ConversationId::of_thread(
                &TeamId::parse(team.as_str()).unwrap(),
                &ChannelId::parse(channel.as_str()).unwrap(),
                &MessageTs::parse(ts.as_str()).unwrap(),
            );
            prop_assert_eq!(ConversationId::parse(id.as_str()).unwrap(), id.clone());
            prop_assert_eq!(id.as_str().to_ascii_uppercase(), format!("SLACK.{team}.{channel}.{ts}"));
        }

        #[test]
        fn a_name_comes_back_from_its_json(text in "[A-Za-z0-9_.:-]{1,128}") {
            let id = EventId::parse(text).unwrap();
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<EventId>(&json).unwrap(), id);
        }

        #[test]
        fn every_error_has_a_name(text in "\\PC{0,80}|[A-Za-z.:_]{1,70}") {
            let reason = Reason::of_error(&text);
            prop_assert_eq!(Reason::parse(reason.as_str()).unwrap(), reason.clone());
            prop_assert!(Reason::parse(text.as_str()) != Ok(reason.clone()) || reason.as_str() == text);
        }

        #[test]
        fn every_answer_is_an_event_id(text in "[A-Za-z0-9_.:-]{1,128}") {
            let answer = EventId::parse(text).unwrap().answer("failed");
            prop_assert!(EventId::parse(answer.as_str()).is_ok());
        }
    }
}

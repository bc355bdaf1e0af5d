//! Items of the table, and what they mean.

use std::{collections::HashMap, num::NonZeroU32, str::FromStr};

use aws_sdk_dynamodb::types::AttributeValue;
use carapace_core::{
    ClaimName, EventId, UserKey,
    agent::{
        AgentRecord, AgentState, Announcement, Assigned, Attempt, Held, Outcome, Publication,
        Retirement, Version,
    },
    allowance::Allowance,
    event::{SandboxFailed, SandboxReady, SandboxRetired},
    history::{Digest, Entry, Head},
    ports::Trouble,
    quoted,
};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use ulid::Ulid;

use super::refused;

/// The attributes of a record that say what its user may spend, named as in [`Allowance`].
const BUDGET_USD: &str = "budget_usd";
const BUDGET_DAYS: &str = "budget_days";
const REQUESTS: &str = "requests_per_minute";
const TOKENS: &str = "tokens_per_minute";

/// Whose an item is that is not under its user's own key: the key of the index `items-by-owner`.
pub(super) const OWNER: &str = "owner";

/// The attributes of an item.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The key of an item.
pub(super) struct Key {
    pk: String,
    sk: String,
}

impl Key {
    pub(super) fn new(pk: String, sk: impl Into<String>) -> Self {
        Self { pk, sk: sk.into() }
    }

    pub(super) fn agent(user: &UserKey) -> Self {
        Self {
            pk: format!("USER#{user}"),
            sk: "AGENT".to_owned(),
        }
    }

    pub(super) fn outcome(event: &EventId) -> Self {
        Self {
            pk: format!("ONCE#{event}"),
            sk: "OUTCOME".to_owned(),
        }
    }

    fn entry(user: &UserKey, id: Ulid) -> Self {
        Self {
            pk: format!("USER#{user}"),
            sk: format!("EVENT#{id}"),
        }
    }

    pub(super) fn attributes(&self) -> Item {
        Writer::new(self).0
    }
}

/// An agent's record as an item.
pub(super) fn agent(record: &AgentRecord) -> Item {
    let mut item = Writer::new(&Key::agent(&record.user));
    item.number("version", &record.version.0);
    item.text("state", &record.state.name());
    item.text("updated_at", &record.updated_at);
    if let Some(head) = record.head {
        item.text("history_id", &head.id);
        item.text("history_hash", &head.digest);
    }
    if let Some(allowance) = record.allowance {
        item.number(BUDGET_USD, &allowance.budget_usd);
        item.number(BUDGET_DAYS, &allowance.budget_days);
        item.number(REQUESTS, &allowance.requests_per_minute);
        item.number(TOKENS, &allowance.tokens_per_minute);
    }
    match &record.state {
        AgentState::Absent => {}
        AgentState::Claiming(attempt) | AgentState::Releasing(attempt) => {
            item.text("event_id", &attempt.event);
            item.text("pool", &attempt.pool);
            item.text("until", &attempt.until);
            item.text("claim", &ClaimName::of(&record.user));
            if let Some(assigned) = &attempt.assigned {
                item.text("claim_uid", &assigned.uid);
                item.text("sandbox", &assigned.sandbox);
            }
        }
        AgentState::Ready(held) => {
            item.text("event_id", &held.event);
            item.text("pool", &held.pool);
            item.text("claim", &ClaimName::of(&record.user));
            item.text("claim_uid", &held.assigned.uid);
            item.text("sandbox", &held.assigned.sandbox);
        }
        AgentState::Failed { event, reason } => {
            item.text("event_id", event);
            item.text("reason", reason);
        }
        AgentState::Retiring(retirement) | AgentState::Retired(retirement) => {
            item.text("event_id", &retirement.event);
            item.text("reason", &retirement.reason);
        }
    }
    item.0
}

/// An entry of an agent's history as an item.
pub(super) fn entry(user: &UserKey, entry: &Entry) -> Item {
    let mut item = Writer::new(&Key::entry(user, entry.id));
    item.text("at", &entry.at);
    item.text("fact", &entry.fact);
    item.text("prev_hash", &entry.previous);
    item.text("hash", &entry.digest);
    item.0
}

/// An outcome as an item.
pub(super) fn outcome(outcome: &Outcome, expires: Timestamp) -> Result<Item, Trouble> {
    let detail = serde_json::to_string(&outcome.announcement).map_err(|error| refused(&error))?;
    let mut item = Writer::new(&Key::outcome(&outcome.event));
    item.text("user_key", &outcome.user);
    item.text("detail_type", &outcome.announcement.detail_type());
    item.text("detail", &detail);
    item.number("attempt", &outcome.publication.attempt.get());
    if let Some(until) = outcome.publication.pending_until {
        item.text("pending_until", &until);
    }
    item.number("ttl", &expires.as_second());
    Ok(item.0)
}

/// The record that [`agent`] wrote.
pub(super) fn read_agent(user: &UserKey, item: &Item) -> Result<AgentRecord, Trouble> {
    let item = Reader::new("AGENT", item);
    let attempt = || {
        Ok(Attempt {
            event: item.parsed("event_id")?,
            pool: item.parsed("pool")?,
            until: item.parsed("until")?,
            assigned: item.has("claim_uid").then(|| item.assigned()).transpose()?,
        })
    };
    let retirement = || {
        Ok(Retirement {
            event: item.parsed("event_id")?,
            reason: item.parsed("reason")?,
        })
    };
    let state = match item.text("state")? {
        "Absent" => AgentState::Absent,
        "Claiming" => AgentState::Claiming(attempt()?),
        "Releasing" => AgentState::Releasing(attempt()?),
        "Ready" => AgentState::Ready(Held {
            event: item.parsed("event_id")?,
            pool: item.parsed("pool")?,
            assigned: item.assigned()?,
        }),
        "Failed" => AgentState::Failed {
            event: item.parsed("event_id")?,
            reason: item.parsed("reason")?,
        },
        "Retiring" => AgentState::Retiring(retirement()?),
        "Retired" => AgentState::Retired(retirement()?),
        _ => return Err(item.odd("state")),
    };
    let head = item.has("history_id").then(|| item.head()).transpose()?;
    let allowance = item.has(BUDGET_USD).then(|| item.allowance()).transpose()?;
    Ok(AgentRecord {
        user: user.clone(),
        version: Version(item.number("version")?),
        state,
        allowance,
        updated_at: item.parsed("updated_at")?,
        head,
    })
}

/// The outcome that [`outcome`] wrote.
pub(super) fn read_outcome(
    user: &UserKey,
    event: &EventId,
    item: &Item,
) -> Result<Outcome, Trouble> {
    let item = Reader::new("OUTCOME", item);
    // An event id is chosen by its producer. One that was used for two users is no duplicate, and
    // the second must not be answered with the first one's sandbox.
    if item.text("user_key")? != user.as_str() {
        return Err(refused(&format!(
            "the event id {} was used before for another user; an id names one event only",
            quoted(event.as_str())
        )));
    }
    let announcement = match item.text("detail_type")? {
        SandboxReady::DETAIL_TYPE => Announcement::Ready(item.json("detail")?),
        SandboxFailed::DETAIL_TYPE => Announcement::Failed(item.json("detail")?),
        SandboxRetired::DETAIL_TYPE => Announcement::Retired(item.json("detail")?),
        _ => return Err(item.odd("detail_type")),
    };
    let attempt = u32::try_from(item.number("attempt")?)
        .ok()
        .and_then(NonZeroU32::new);
    let pending_until = item
        .has("pending_until")
        .then(|| item.parsed("pending_until"))
        .transpose()?;
    Ok(Outcome {
        event: event.clone(),
        user: user.clone(),
        announcement,
        publication: Publication {
            attempt: attempt.ok_or_else(|| item.odd("attempt"))?,
            pending_until,
        },
    })
}

pub(super) struct Writer(Item);

impl Writer {
    pub(super) fn new(key: &Key) -> Self {
        let mut writer = Self(Item::new());
        writer.text("pk", &key.pk);
        writer.text("sk", &key.sk);
        writer
    }

    pub(super) fn text(&mut self, name: &str, value: &impl ToString) {
        self.0
            .insert(name.to_owned(), AttributeValue::S(value.to_string()));
    }

    pub(super) fn number(&mut self, name: &str, value: &impl ToString) {
        self.0
            .insert(name.to_owned(), AttributeValue::N(value.to_string()));
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.0.insert(name.to_owned(), AttributeValue::Bool(value));
    }

    pub(super) fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), Trouble> {
        let text = serde_json::to_string(value).map_err(|error| refused(&error))?;
        self.text(name, &text);
        Ok(())
    }

    pub(super) fn item(self) -> Item {
        self.0
    }
}

pub(super) struct Reader<'a> {
    what: &'static str,
    item: &'a Item,
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, item: &'a Item) -> Self {
        Self { what, item }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.item.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, Trouble> {
        let value = self.item.get(name).and_then(|value| value.as_s().ok());
        value.map(String::as_str).ok_or_else(|| self.odd(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, Trouble> {
        let value = self.item.get(name).and_then(|value| value.as_n().ok());
        value
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| self.odd(name))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Trouble> {
        let value = self.item.get(name).and_then(|value| value.as_bool().ok());
        value.copied().ok_or_else(|| self.odd(name))
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<T, Trouble> {
        self.text(name)?.parse().map_err(|_| self.odd(name))
    }

    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Trouble> {
        serde_json::from_str(self.text(name)?).map_err(|_| self.odd(name))
    }

    fn assigned(&self) -> Result<Assigned, Trouble> {
        Ok(Assigned {
            uid: self.parsed("claim_uid")?,
            sandbox: self.parsed("sandbox")?,
        })
    }

    /// All of it or none: a budget must not be guessed from a part.
    fn allowance(&self) -> Result<Allowance, Trouble> {
        let fields = [BUDGET_USD, BUDGET_DAYS, REQUESTS, TOKENS];
        let mut written = serde_json::Map::new();
        for field in fields {
            written.insert(field.to_owned(), self.number(field)?.into());
        }
        serde_json::from_value(written.into())
            .map_err(|error| refused(&format!("an {} item's allowance: {error}", self.what)))
    }

    fn head(&self) -> Result<Head, Trouble> {
        let digest = Digest::parse(self.text("history_hash")?);
        Ok(Head {
            id: self.parsed("history_id")?,
            digest: digest.ok_or_else(|| self.odd("history_hash"))?,
        })
    }

    /// A value that this version can't read: written by a newer one, or by hand.
    pub(super) fn odd(&self, name: &str) -> Trouble {
        let value = self
            .item
            .get(name)
            .map_or("missing".to_owned(), |value| match value {
                AttributeValue::S(text) | AttributeValue::N(text) => quoted(text),
                _ => "of another type".to_owned(),
            });
        refused(&format!(
            "the attribute {name} of an {} item is {value}",
            self.what
        ))
    }
}

#[cfg(test)]
pub(super) mod tests;

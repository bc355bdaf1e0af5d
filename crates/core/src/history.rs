//! What happened to an agent, in an order that can't be changed afterwards.
//!
//! Every entry carries the digest of the one before it, and the agent's record carries the digest
//! of the last. Since the record is only ever replaced by whoever read its latest version, entries
//! form one chain without gaps or branches; an entry that is edited, dropped or slipped in later
//! breaks it, and [`verify`] says where.
//!
//! What is digested is the entry's fact exactly as it is stored, as text: a reader of a later
//! version, which might write the same fact differently, can still check it.

use std::fmt;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use crate::{
    ClaimName, ClaimUid, EventId, PoolName, Reason, SandboxName, UserKey, allowance::Allowance,
};

/// The SHA-256 of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// What the first entry has in place of a predecessor's digest.
    pub const NONE: Self = Self([0; 32]);

    /// Reads a digest as [`fmt::Display`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        HEXLOWER
            .decode(text.as_bytes())
            .ok()?
            .try_into()
            .ok()
            .map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The last entry of a chain: all that is needed to add the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The entry's id.
    pub id: Ulid,
    /// Its digest.
    pub digest: Digest,
}

/// Something that happened to an agent, for whoever reads its story later. It never holds a
/// secret, and nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Fact {
    /// A request set out to claim a sandbox.
    ClaimStarted {
        /// The event that asked.
        event: EventId,
        /// The claim's name.
        claim: ClaimName,
        /// The pool it is to be served from.
        pool: PoolName,
        /// Whose attempt had been given up, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead_of: Option<EventId>,
    },
    /// The claim got its sandbox.
    SandboxAssigned {
        /// The event that asked.
        event: EventId,
        /// The claim's identity.
        uid: ClaimUid,
        /// The sandbox.
        sandbox: SandboxName,
    },
    /// The claim of an agent that had been ready turned out to be gone.
    SandboxLost {
        /// The event that found out, and claims anew.
        event: EventId,
        /// The claim that is gone.
        uid: ClaimUid,
    },
    /// The claim is about to be deleted.
    ReleaseStarted {
        /// The event whose attempt failed.
        event: EventId,
    },
    /// A request ended with the agent ready.
    AnsweredReady {
        /// The event that asked.
        event: EventId,
        /// The sandbox.
        sandbox: SandboxName,
    },
    /// A request ended without a sandbox.
    AnsweredFailed {
        /// The event that asked.
        event: EventId,
        /// What went wrong.
        reason: Reason,
    },
    /// The user signed in for the first time, or for the first time after they had been removed.
    Onboarded {
        /// The event.
        event: EventId,
        /// What the user may spend.
        allowance: Allowance,
    },
    /// The user is one no more, and what they have is about to be taken away.
    RetireStarted {
        /// The event that said so.
        event: EventId,
        /// Why.
        reason: Reason,
    },
    /// It has been taken away.
    Retired {
        /// The event that saw it through.
        event: EventId,
        /// Why.
        reason: Reason,
    },
}

/// One entry of an agent's history, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Greater than that of every entry before it, so that the order of keys is the order of
    /// events, whatever the clocks of the writers say.
    pub id: Ulid,
    /// When it was written, by the writer's clock.
    pub at: Timestamp,
    /// The [`Fact`], as the JSON that was digested.
    pub fact: String,
    /// The digest of the entry before.
    pub previous: Digest,
    /// The digest of this entry.
    pub digest: Digest,
}

impl Entry {
    /// The entry as the end of the chain.
    pub fn head(&self) -> Head {
        Head {
            id: self.id,
            digest: self.digest,
        }
    }
}

/// The entry that adds `fact` to the chain that ends in `head`.
pub fn append(user: &UserKey, head: Option<Head>, fact: &Fact, now: Timestamp) -> Entry {
    // Nothing in a fact can fail to serialise; if that changes, the tests see the empty object.
    let fact = serde_json::to_string(fact).unwrap_or_else(|_| "{}".into());
    let previous = head.map_or(Digest::NONE, |head| head.digest);
    let id = next_id(head, &previous, &fact, now);
    let digest = digest(user, id, now, &fact, &previous);
    Entry {
        id,
        at: now,
        fact,
        previous,
        digest,
    }
}

/// A chain that is not what was once written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the history of {user} is broken at entry {id}: {why}")]
pub struct Broken {
    /// Whose history it is.
    pub user: UserKey,
    /// The first entry that doesn't fit.
    pub id: Ulid,
    /// In what way.
    pub why: &'static str,
}

/// Checks a whole chain, oldest entry first, against the head that the agent's record holds.
pub fn verify(user: &UserKey, entries: &[Entry], head: Option<Head>) -> Result<(), Broken> {
    let broken = |id, why| {
        Err(Broken {
            user: user.clone(),
            id,
            why,
        })
    };
    let mut last: Option<Head> = None;
    for entry in entries {
        if entry.previous != last.map_or(Digest::NONE, |last| last.digest) {
            return broken(entry.id, "it does not follow the entry before it");
        }
        if last.is_some_and(|last| entry.id <= last.id) {
            return broken(entry.id, "its id is not greater than the one before it");
        }
        if entry.digest != digest(user, entry.id, entry.at, &entry.fact, &entry.previous) {
            return broken(entry.id, "its digest is not that of its content");
        }
        last = Some(entry.head());
    }
    if last == head {
        return Ok(());
    }
    let id = last.or(head).map_or(Ulid::nil(), |end| end.id);
    broken(id, "it is not the end that the agent's record names")
}

/// An id after that of `head`, even when this writer's clock is behind the last writer's.
///
/// Its lower bits come from the content instead of a random source: that an id is new is
/// guaranteed by its being greater than the last one of the same chain.
fn next_id(head: Option<Head>, previous: &Digest, fact: &str, now: Timestamp) -> Ulid {
    let millisecond = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let after = head.map_or(Ulid::nil(), |head| head.id);
    if after.timestamp_ms() >= millisecond
        && let Ok(next) = after.increment()
    {
        return next;
    }
    let mut seed = Sha256::new();
    seed.update(previous.0);
    seed.update(fact);
    let lower = seed
        .finalize()
        .iter()
        .take(10)
        .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    Ulid::from_parts(millisecond.max(after.timestamp_ms() + 1), lower)
}

/// Every part is followed by a line end, which none of them contains, so two different entries
/// can't be digested alike.
fn digest(user: &UserKey, id: Ulid, at: Timestamp, fact: &str, previous: &Digest) -> Digest {
    let text = format!("carapace.history.v1\n{user}\n{previous}\n{id}\n{at}\n{fact}\n");
    Digest(Sha256::digest(text).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user() -> UserKey {
        UserKey::derive("pool", "sub")
    }

    fn chain(times: &[i64]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for (n, time) in times.iter().enumerate() {
            let fact = Fact::ReleaseStarted {
                event: EventId::parse(format!("e{n}")).unwrap(),
            };
            let now = Timestamp::from_millisecond(*time).unwrap();
            entries.push(append(&user(), entries.last().map(Entry::head), &fact, now));
        }
        entries
    }

    fn checked(entries: &[Entry], head: Option<Head>) -> Result<(), &'static str> {
        verify(&user(), entries, head).map_err(|broken| broken.why)
    }

    #[test]
    fn an_entry_on_the_wire_stays_what_it_is() {
        let fact = Fact::ClaimStarted {
            event: EventId::parse("req-1").unwrap(),
            claim: ClaimName::of(&user()),
            pool: PoolName::parse("agents").unwrap(),
            instead_of: None,
        };
        let entry = append(
            &user(),
            None,
            &fact,
            "2026-11-24T10:00:00.123Z".parse().unwrap(),
        );
        insta::assert_snapshot!(format!("{}\n{}\n{}", entry.id, entry.fact, entry.digest));
        assert_eq!(serde_json::from_str::<Fact>(&entry.fact).unwrap(), fact);
    }

    #[test]
    fn a_changed_a_dropped_and_a_foreign_entry_are_found() {
        let entries = chain(&[1, 2, 3]);
        let head = entries.last().map(Entry::head);
        assert_eq!(checked(&entries, head), Ok(()));

        let mut changed = entries.clone();
        changed[1].fact = changed[1].fact.replace("e1", "e9");
        assert_eq!(
            checked(&changed, head),
            Err("its digest is not that of its content")
        );

        let mut dropped = entries.clone();
        dropped.remove(1);
        assert_eq!(
            checked(&dropped, head),
            Err("it does not follow the entry before it")
        );

        let cut = &entries[..2];
        assert_eq!(
            checked(cut, head),
            Err("it is not the end that the agent's record names")
        );

        let other = UserKey::derive("pool", "another");
        assert!(verify(&other, &entries, head).is_err());
    }

    #[test]
    fn an_agent_without_history_has_an_intact_one() {
        assert_eq!(checked(&[], None), Ok(()));
    }

    proptest! {
        /// Writers' clocks differ; the order of the keys must not.
        #[test]
        fn ids_grow_whatever_the_clocks_say(times in prop::collection::vec(0_i64..1000, 1..20)) {
            let entries = chain(&times);
            prop_assert!(entries.windows(2).all(|pair| pair[0].id < pair[1].id));
            prop_assert_eq!(checked(&entries, entries.last().map(Entry::head)), Ok(()));
        }
    }
}

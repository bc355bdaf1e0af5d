//! The inboxes of conversations, and who serves them.

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use carapace_core::{
    EventId, Holder,
    agent::Version,
    conversation::{ConversationKey, Hold, Lease, LeaseChange, Queued, QueuedChange},
    event::SlackMessageReceived,
    ports::{Inbox, Saved, Seen, Trouble},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    AgentTable, KEPT, at_version,
    item::{Item, Key, OWNER, Reader, Writer},
    later, write,
};

/// How long a message is kept that has come to its end.
const MESSAGE_KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);

impl Inbox for AgentTable {
    async fn lease(&self, key: &ConversationKey) -> Result<Lease, Trouble> {
        match self.get(lease_key(key)).await? {
            Some(item) => read_lease(key, &item),
            None => Ok(Lease::absent(key.clone())),
        }
    }

    async fn seen(&self, event: &EventId) -> Result<Option<Seen>, Trouble> {
        let item = self.get(seen_key(event)).await?;
        item.map(|item| read_seen(&item)).transpose()
    }

    async fn queued(&self, key: &ConversationKey, seq: u64) -> Result<Option<Queued>, Trouble> {
        let item = self.get(queued_key(key, seq)).await?;
        item.map(|item| read_queued(key, seq, &item)).transpose()
    }

    async fn held_by(&self, holder: &Holder) -> Result<Option<ConversationKey>, Trouble> {
        let item = self.get(holder_key(holder)).await?;
        item.map(|item| read_holder(&item)).transpose()
    }

    async fn save(
        &self,
        change: &LeaseChange,
        queued: Option<&QueuedChange>,
    ) -> Result<Saved, Trouble> {
        let lease = &change.lease;
        let mut writes = vec![write(at_version(
            self.put(self::lease(lease)?),
            change.read,
        ))?];
        if let Some(append) = &change.append {
            let put = self.put(self::queued(append, lease.updated_at)?);
            writes.push(write(at_version(put, Version(0)))?);
            if let Some(event) = &change.once {
                writes.push(self.once(event, append, change)?);
            }
        }
        if let Some(holder) = &change.holder {
            // What it took before it takes again: an execution takes one conversation only.
            let item = held(holder, &lease.key, later(lease.updated_at, KEPT));
            writes.push(write(self.put(item))?);
        }
        if let Some(queued) = queued {
            writes.push(self.replace(queued, lease.updated_at)?);
        }
        self.transact(writes).await
    }

    /// A transaction, though of one item: if its answer is lost and it is sent again, it is known for
    /// the same, where a conditional write would take its own trace for somebody else's.
    async fn save_queued(&self, change: &QueuedChange) -> Result<Saved, Trouble> {
        let write = self.replace(change, Timestamp::now())?;
        self.transact(vec![write]).await
    }
}

impl AgentTable {
    fn replace(&self, change: &QueuedChange, now: Timestamp) -> Result<TransactWriteItem, Trouble> {
        let put = self.put(queued(&change.queued, now)?);
        write(at_version(put, change.read))
    }

    /// The marker that keeps an event from being put into an inbox twice.
    fn once(
        &self,
        event: &EventId,
        append: &Queued,
        change: &LeaseChange,
    ) -> Result<TransactWriteItem, Trouble> {
        let expires = later(change.lease.updated_at, KEPT);
        let put = self.put(once(event, append, expires));
        write(match change.once_read {
            None => put.condition_expression("attribute_not_exists(pk)"),
            Some(seq) => put
                .condition_expression("seq = :seq")
                .expression_attribute_values(":seq", AttributeValue::N(seq.to_string())),
        })
    }
}

fn lease_key(key: &ConversationKey) -> Key {
    Key::new(conversation(key), "LEASE")
}

fn queued_key(key: &ConversationKey, seq: u64) -> Key {
    Key::new(conversation(key), format!("MSG#{seq:012}"))
}

fn seen_key(event: &EventId) -> Key {
    Key::new(format!("ONCE#{event}"), "MESSAGE")
}

fn holder_key(holder: &Holder) -> Key {
    Key::new(format!("HOLDER#{holder}"), "CONVERSATION")
}

/// Neither a user's key nor a conversation's id has a `#`.
fn conversation(key: &ConversationKey) -> String {
    format!("CONV#{}#{}", key.user, key.id)
}

/// A lease under which messages wait is kept for as long as they do.
fn lease(lease: &Lease) -> Result<Item, Trouble> {
    let mut item = Writer::new(&lease_key(&lease.key));
    item.text(OWNER, &lease.key.user);
    item.number("version", &lease.version.0);
    item.number("last", &lease.last);
    item.json("waiting", &lease.waiting)?;
    if let Some(begun) = lease.begun {
        item.number("begun", &begun);
    }
    item.number("done", &lease.done);
    if let Some(hold) = &lease.held {
        item.text("holder", &hold.holder);
        item.text("until", &hold.until);
    }
    item.text("updated_at", &lease.updated_at);
    if lease.next().is_none() {
        item.number("ttl", &later(lease.updated_at, KEPT).as_second());
    }
    Ok(item.item())
}

fn read_lease(key: &ConversationKey, item: &Item) -> Result<Lease, Trouble> {
    let item = Reader::new("LEASE", item);
    let held = || {
        Ok(Hold {
            holder: item.parsed("holder")?,
            until: item.parsed("until")?,
        })
    };
    Ok(Lease {
        key: key.clone(),
        version: Version(item.number("version")?),
        last: item.number("last")?,
        waiting: item.json("waiting")?,
        begun: item
            .has("begun")
            .then(|| item.number("begun"))
            .transpose()?,
        done: item.number("done")?,
        held: item.has("holder").then(held).transpose()?,
        updated_at: item.parsed("updated_at")?,
    })
}

fn queued(queued: &Queued, now: Timestamp) -> Result<Item, Trouble> {
    let mut item = Writer::new(&queued_key(&queued.key, queued.seq));
    item.text(OWNER, &queued.key.user);
    item.number("version", &queued.version.0);
    item.json("detail", &queued.message)?;
    item.text("arrived_at", &queued.arrived_at);
    item.json("reply", &queued.reply)?;
    if let Some(outcome) = &queued.outcome {
        item.json("outcome", outcome)?;
        item.number("ttl", &later(now, MESSAGE_KEPT).as_second());
    }
    Ok(item.item())
}

fn read_queued(key: &ConversationKey, seq: u64, item: &Item) -> Result<Queued, Trouble> {
    let item = Reader::new("MSG", item);
    let message: SlackMessageReceived = item.json("detail")?;
    Ok(Queued {
        key: key.clone(),
        seq,
        version: Version(item.number("version")?),
        // What was written before this was kept has waited long enough.
        arrived_at: match item.has("arrived_at") {
            true => item.parsed("arrived_at")?,
            false => message.at,
        },
        message,
        reply: item.json("reply")?,
        outcome: item
            .has("outcome")
            .then(|| item.json("outcome"))
            .transpose()?,
    })
}

fn once(event: &EventId, queued: &Queued, expires: Timestamp) -> Item {
    let mut item = Writer::new(&seen_key(event));
    item.text("user_key", &queued.key.user);
    item.text("conversation", &queued.key.id);
    item.number("seq", &queued.seq);
    item.number("ttl", &expires.as_second());
    item.item()
}

fn read_seen(item: &Item) -> Result<Seen, Trouble> {
    let item = Reader::new("MESSAGE", item);
    Ok(Seen {
        user: item.parsed("user_key")?,
        conversation: item.parsed("conversation")?,
        seq: item.number("seq")?,
    })
}

fn held(holder: &Holder, key: &ConversationKey, expires: Timestamp) -> Item {
    let mut item = Writer::new(&holder_key(holder));
    item.text("user_key", &key.user);
    item.text("conversation", &key.id);
    item.number("ttl", &expires.as_second());
    item.item()
}

fn read_holder(item: &Item) -> Result<ConversationKey, Trouble> {
    let item = Reader::new("CONVERSATION", item);
    Ok(ConversationKey {
        user: item.parsed("user_key")?,
        id: item.parsed("conversation")?,
    })
}

#[cfg(test)]
mod tests {
    use carapace_core::{
        ConversationId, MessageTs, Reason, UserKey,
        conversation::{TurnOutcome, Waiting},
        event::SlackMessageReceived,
    };
    use serde_json::json;

    use super::{super::item::tests::shown, *};

    fn key() -> ConversationKey {
        ConversationKey {
            user: UserKey::derive("pool", "sub"),
            id: ConversationId::parse("slack.t0carapace.c1.1764000000.000001").unwrap(),
        }
    }

    fn at() -> Timestamp {
        "2026-11-24T10:00:00.123456789Z".parse().unwrap()
    }

    fn holder() -> Holder {
        Holder::parse("0a1b-2c3d").unwrap()
    }

    fn leases() -> Vec<Lease> {
        let free = Lease {
            key: key(),
            version: Version(7),
            last: 3,
            waiting: Vec::new(),
            begun: None,
            done: 3,
            held: None,
            updated_at: at(),
        };
        let held = Lease {
            waiting: vec![Waiting {
                seq: 3,
                ts: MessageTs::parse("1764000000.000001").unwrap(),
            }],
            begun: Some(3),
            done: 2,
            held: Some(Hold {
                holder: holder(),
                until: at(),
            }),
            ..free.clone()
        };
        vec![free, held]
    }

    fn messages() -> Vec<Queued> {
        let event = json!({"detail-type": "Slack Message Received", "detail": {
            "version": 1, "id": "slack.Ev1", "at": "2026-11-24T10:00:00Z", "team_id": "T0CARAPACE",
            "user_id": "U1", "channel_id": "C1", "thread_ts": "1764000000.000001",
            "ts": "1764000000.000001", "text": "hello"
        }});
        let waiting = Queued {
            key: key(),
            seq: 3,
            version: Version(2),
            message: SlackMessageReceived::from_event(&event).unwrap(),
            arrived_at: at(),
            reply: serde_json::from_value(json!({"parts": [{
                "ts": "1764000000.000002", "from": 0, "said": 5, "saying": 9, "mode": "Stream",
                "digest": 7
            }]}))
            .unwrap(),
            outcome: None,
        };
        let reason = || Reason::parse("AgentNotWoken").unwrap();
        let outcomes = [
            TurnOutcome::Answered,
            TurnOutcome::Failed(reason()),
            TurnOutcome::Abandoned(reason()),
        ];
        let ended = outcomes.map(|outcome| Queued {
            outcome: Some(outcome),
            ..waiting.clone()
        });
        [vec![waiting.clone()], ended.to_vec()].concat()
    }

    #[test]
    fn inboxes_on_the_wire() {
        let mut items: Vec<Item> = leases().iter().map(|l| lease(l).unwrap()).collect();
        items.extend(messages()[..2].iter().map(|m| queued(m, at()).unwrap()));
        items.push(once(&messages()[0].message.id, &messages()[0], at()));
        items.push(held(&holder(), &key(), at()));
        insta::assert_json_snapshot!(items.iter().map(shown).collect::<Vec<_>>());
    }

    #[test]
    fn every_lease_and_every_message_comes_back_as_it_was() {
        for written in leases() {
            assert_eq!(
                read_lease(&key(), &lease(&written).unwrap()).unwrap(),
                written
            );
        }
        for written in messages() {
            let item = queued(&written, at()).unwrap();
            assert_eq!(read_queued(&key(), 3, &item).unwrap(), written);
        }
        let mut item = queued(&messages()[0], at()).unwrap();
        item.remove("arrived_at").unwrap();
        let of_old = read_queued(&key(), 3, &item).unwrap();
        assert_eq!(of_old.arrived_at, of_old.message.at);
        let seen = read_seen(&once(&messages()[0].message.id, &messages()[0], at())).unwrap();
        assert_eq!((seen.user, seen.conversation), (key().user, key().id));
        assert_eq!(seen.seq, 3);
        let taken = held(&holder(), &key(), at());
        assert_eq!(read_holder(&taken).unwrap(), key());
    }

    /// A message that waits must not vanish, nor the lease that says that it does.
    #[test]
    fn nothing_that_is_still_to_be_served_expires() {
        let [free, waiting] = &leases()[..] else {
            panic!("two leases");
        };
        let expires = |lease: &Lease| self::lease(lease).unwrap().contains_key("ttl");
        assert!(expires(free) && !expires(waiting));
        for message in messages() {
            let item = queued(&message, at()).unwrap();
            assert_eq!(item.contains_key("ttl"), message.outcome.is_some());
        }
    }
}

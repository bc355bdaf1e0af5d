//! Replies to messages that are in no inbox.

use carapace_core::{
    EventId,
    agent::Version,
    ports::{Replies, Saved, StoredReply, Trouble},
};
use jiff::Timestamp;

use super::{
    AgentTable, KEPT, at_version,
    item::{Item, Key, Reader, Writer},
    later, write,
};

impl Replies for AgentTable {
    async fn reply(&self, event: &EventId) -> Result<StoredReply, Trouble> {
        match self.get(key(event)).await? {
            Some(item) => read_reply(&item),
            None => Ok(StoredReply::default()),
        }
    }

    async fn save_reply(&self, event: &EventId, stored: &StoredReply) -> Result<Saved, Trouble> {
        let item = reply(event, stored, later(Timestamp::now(), KEPT))?;
        let read = Version(stored.version.0.saturating_sub(1));
        self.transact(vec![write(at_version(self.put(item), read))?])
            .await
    }
}

fn key(event: &EventId) -> Key {
    Key::new(format!("ONCE#{event}"), "REPLY")
}

fn reply(event: &EventId, stored: &StoredReply, expires: Timestamp) -> Result<Item, Trouble> {
    let mut item = Writer::new(&key(event));
    item.number("version", &stored.version.0);
    item.json("reply", &stored.reply)?;
    item.flag("done", stored.done);
    item.number("ttl", &expires.as_second());
    Ok(item.item())
}

fn read_reply(item: &Item) -> Result<StoredReply, Trouble> {
    let item = Reader::new("REPLY", item);
    Ok(StoredReply {
        version: Version(item.number("version")?),
        reply: item.json("reply")?,
        done: item.flag("done")?,
    })
}

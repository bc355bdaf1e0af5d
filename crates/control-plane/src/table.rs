//! The table: agents, outcomes, histories and conversations in DynamoDB.
//!
//! | pk | sk | what |
//! |---|---|---|
//! | `USER#<user key>` | `AGENT` | an agent's record; the only items with a `state`, so the index `agents-by-state` lists agents and nothing else |
//! | `USER#<user key>` | `EVENT#<ulid>` | an entry of its history |
//! | `USER#<user key>` | `ACCOUNT` | the account of the user pool that the user was onboarded with |
//! | `ONCE#<event id>` | `OUTCOME` | the one end of an event, and how far it is announced |
//! | | `MESSAGE` | the inbox that a message was put into |
//! | | `REPLY` | what was posted in reply to a message that is in no inbox |
//! | `CONV#<user key>#<conversation>` | `LEASE` | who serves a conversation, and how far its inbox goes |
//! | | `MSG#<12 digits>` | a message of the inbox, and what was said in reply |
//! | `HOLDER#<execution>` | `CONVERSATION` | the conversation that an execution took |
//! | `SLACK#<team>#<user>` | `LINK` | who a user of Slack is |
//!
//! What is not under its user's own key and says more than a user's key does has an `owner`: links,
//! leases and messages. The index `items-by-owner` finds them when the user is one no more. What
//! stays then, in `USER#`, `ONCE#` and `HOLDER#`, names nobody, and all but the history expires.
//!
//! A change is one transaction whose conditions repeat what was read. That the two reads of
//! [`Ledger::load`] aren't one snapshot is harmless for the same reason: a decision that rests on
//! two different moments can't be saved.

mod inbox;
mod item;
mod links;
mod possessions;
mod registrations;
mod replies;

use std::sync::Arc;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, Put, TransactWriteItem, builders::PutBuilder},
};
use carapace_core::{
    EventId, UserKey,
    agent::{AgentChange, AgentRecord, Change, Known, OutcomeChange, Version},
    ports::{Ledger, Saved, Trouble},
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;

use self::item::{Item, Key};
use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "DynamoDB";
const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

/// How long it is kept what came of an event. One that is replayed must find it, and the bus's
/// archive goes back 30 days.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 90);

/// The table.
#[derive(Debug)]
pub struct AgentTable {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    name: String,
}

impl AgentTable {
    /// The table of this name; nothing is called yet.
    pub fn new(aws: Arc<Aws>, name: String) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
            name,
        }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await
    }

    async fn get(&self, key: Key) -> Result<Option<Item>, Trouble> {
        let request = self
            .client()
            .await
            .get_item()
            .table_name(&self.name)
            .consistent_read(true);
        let request = request.set_key(Some(key.attributes()));
        let answer = boxed(request.send()).await;
        Ok(answer
            .map_err(|error| trouble(SERVICE, error.code(), &error))?
            .item)
    }

    /// The agent's record, if it still has the version that was read.
    fn agent(&self, change: &AgentChange) -> Result<[TransactWriteItem; 2], Trouble> {
        let put = at_version(self.put(item::agent(&change.record)), change.read);
        // The entry's key is new by construction; the condition keeps history unwritable all the
        // same.
        let entry = self
            .put(item::entry(&change.record.user, &change.entry))
            .condition_expression("attribute_not_exists(pk)");
        Ok([write(put)?, write(entry)?])
    }

    /// The outcome, if nobody has set out to announce it since it was read.
    fn outcome(&self, change: &OutcomeChange) -> Result<TransactWriteItem, Trouble> {
        let expires = later(change.outcome.announcement.at(), KEPT);
        let put = self.put(item::outcome(&change.outcome, expires)?);
        let put = match change.read {
            None => put.condition_expression("attribute_not_exists(pk)"),
            Some(read) => put
                .condition_expression("attempt = :attempt AND attribute_exists(pending_until)")
                .expression_attribute_values(
                    ":attempt",
                    AttributeValue::N(read.attempt.to_string()),
                ),
        };
        write(put)
    }

    fn put(&self, item: Item) -> PutBuilder {
        Put::builder().table_name(&self.name).set_item(Some(item))
    }

    /// Deletes an item whose attribute has this value. Returns whether there was one, as far as is
    /// known: a call that is repeated because its answer was lost finds none.
    async fn delete_if(&self, key: &Key, attribute: &str, value: &str) -> Result<bool, Trouble> {
        let delete = self.client().await.delete_item().table_name(&self.name);
        let delete = delete
            .set_key(Some(key.attributes()))
            .condition_expression("#attribute = :value")
            .expression_attribute_names("#attribute", attribute)
            .expression_attribute_values(":value", AttributeValue::S(value.to_owned()));
        match boxed(delete.send()).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(CONDITION_FAILED) => Ok(false),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }

    /// Writes all or nothing.
    async fn transact(&self, writes: Vec<TransactWriteItem>) -> Result<Saved, Trouble> {
        Ok(match self.transacted(writes).await? {
            Transacted::Yes => Saved::Yes,
            Transacted::ConditionFailed | Transacted::Conflict => Saved::Overtaken,
        })
    }

    /// The same, for whom it makes a difference why nothing was written.
    async fn transacted(&self, writes: Vec<TransactWriteItem>) -> Result<Transacted, Trouble> {
        let request = self
            .client()
            .await
            .transact_write_items()
            .set_transact_items(Some(writes));
        match boxed(request.send()).await {
            Ok(_) => Ok(Transacted::Yes),
            Err(error) => overtaken(&error).ok_or_else(|| trouble(SERVICE, error.code(), &error)),
        }
    }
}

/// What came of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transacted {
    Yes,
    /// Something is not as it was read; nothing was written.
    ConditionFailed,
    /// Somebody else was writing at that moment; nothing was written.
    Conflict,
}

/// A write that holds only if the item is at the version that was read; 0 is one that isn't there.
fn at_version(put: PutBuilder, read: Version) -> PutBuilder {
    match read {
        Version(0) => put.condition_expression("attribute_not_exists(pk)"),
        Version(read) => put
            .condition_expression("version = :read")
            .expression_attribute_values(":read", AttributeValue::N(read.to_string())),
    }
}

/// A time after `at`, at most the end of time.
fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn write(put: PutBuilder) -> Result<TransactWriteItem, Trouble> {
    let put = put.build().map_err(|error| refused(&error))?;
    Ok(TransactWriteItem::builder().put(put).build())
}

fn refused(why: &dyn std::fmt::Display) -> Trouble {
    Trouble::Refused {
        service: SERVICE,
        why: why.to_string(),
    }
}

impl Ledger for AgentTable {
    async fn load(&self, user: &UserKey, event: &EventId) -> Result<Known, Trouble> {
        let (agent, outcome) =
            tokio::try_join!(self.get(Key::agent(user)), self.get(Key::outcome(event)),)?;
        let agent = match agent {
            Some(item) => item::read_agent(user, &item)?,
            None => AgentRecord::absent(user.clone()),
        };
        let outcome = outcome
            .map(|item| item::read_outcome(user, event, &item))
            .transpose()?;
        Ok(Known { agent, outcome })
    }

    async fn save(&self, change: &Change) -> Result<Saved, Trouble> {
        let mut writes = Vec::new();
        if let Some(agent) = &change.agent {
            writes.extend(self.agent(agent)?);
        }
        if let Some(outcome) = &change.outcome {
            writes.push(self.outcome(outcome)?);
        }
        self.transact(writes).await
    }
}

/// Whether nothing was written because somebody else wrote, or is writing, what the transaction was
/// about.
fn overtaken<R>(error: &SdkError<TransactWriteItemsError, R>) -> Option<Transacted> {
    let Some(TransactWriteItemsError::TransactionCanceledException(canceled)) =
        error.as_service_error()
    else {
        return None;
    };
    let codes = canceled
        .cancellation_reasons()
        .iter()
        .filter_map(|reason| reason.code())
        .filter(|code| *code != "None");
    let mut so_far = None;
    for code in codes {
        so_far = Some(match (code, so_far) {
            ("ConditionalCheckFailed", _)
            | ("TransactionConflict", Some(Transacted::ConditionFailed)) => {
                Transacted::ConditionFailed
            }
            ("TransactionConflict", _) => Transacted::Conflict,
            _ => return None,
        });
    }
    so_far
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{CancellationReason, error::TransactionCanceledException};

    use super::*;

    fn canceled(codes: &[&str]) -> Option<Transacted> {
        let reasons = codes
            .iter()
            .map(|code| CancellationReason::builder().code(*code).build());
        let canceled = TransactionCanceledException::builder()
            .set_cancellation_reasons(Some(reasons.collect()))
            .build();
        let error = TransactWriteItemsError::TransactionCanceledException(canceled);
        overtaken(&SdkError::service_error(error, ()))
    }

    #[test]
    fn only_what_others_wrote_or_are_writing_is_no_failure() {
        let (failed, conflict) = ("ConditionalCheckFailed", "TransactionConflict");
        for (codes, expected) in [
            (&["None", failed][..], Some(Transacted::ConditionFailed)),
            (&[conflict, "None"], Some(Transacted::Conflict)),
            (&[conflict, failed], Some(Transacted::ConditionFailed)),
            (&[failed, conflict], Some(Transacted::ConditionFailed)),
            (&["None", "None"], None),
            (&[failed, "ThrottlingError"], None),
            (&["ValidationError", failed], None),
            (&[], None),
        ] {
            assert_eq!(canceled(codes), expected, "{codes:?}");
        }
    }
}

//! `conversation-accept`: whose message it is, and who serves it.

use std::time::Duration;

use carapace_control_plane::{directory::UserPoolId, from_trouble, named};
use carapace_core::{
    EventId, Holder, UserKey,
    agent::AgentState,
    conversation::{self, AcceptAct, ConversationKey, TurnOutcome},
    email::EmailAddress,
    event::{EventRejected, SlackMessageReceived},
    identity::{Entries, IdentityKey, Policies},
    ports::{
        Clock, Directory, Inbox, Ledger, Link, Links, Replies, Saved, Slack, SlackTrouble, Trouble,
    },
    slack::profile::{self, NotLinked},
};
use jiff::SignedDuration;
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::Instrument;

use crate::{
    fault::{self, ACCEPT_LINK, ACCEPT_RECORD, Moment},
    log,
    wire::{self, AcceptPayload, Accepted},
};

/// How long it is believed who a Slack user is. Somebody who leaves keeps the agent for as long.
const LINK_FRESH: SignedDuration = SignedDuration::from_hours(1);

/// How often somebody else may be faster. Each time, whoever it was has brought the conversation a
/// step on.
const ROUNDS: u32 = 40;

/// How many executions in a row may have ended before they accepted anything.
const MOST_ENDED: usize = 4;

/// The step.
pub struct AcceptMessage<T, S, P, I, D, K> {
    /// The table: agents, inboxes and links.
    pub table: T,
    /// Slack.
    pub slack: S,
    /// Where the sign-up policy is.
    pub policies: P,
    /// Which mailboxes have accounts.
    pub identities: I,
    /// The accounts themselves.
    pub directory: D,
    /// The clock.
    pub clock: K,
    /// Where they are signed up, which is a part of who they are.
    pub pool: UserPoolId,
}

/// Why a message was not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The event can't be read.
    #[error(transparent)]
    EventRejected(#[from] EventRejected),
    /// Slack asks for patience.
    #[error("Slack wants to be asked again in {0:?}")]
    RateLimited(Duration),
    /// Slack does not take our token.
    #[error("Slack does not accept the bot token: {0}")]
    SlackTokenRejected(String),
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(AcceptError: EventRejected, RateLimited, SlackTokenRejected, Unavailable, Refused);

from_trouble!(AcceptError);

impl From<SlackTrouble> for AcceptError {
    fn from(trouble: SlackTrouble) -> Self {
        match trouble {
            SlackTrouble::RateLimited(wait) => Self::RateLimited(wait),
            SlackTrouble::TokenRejected(why) => Self::SlackTokenRejected(why),
            SlackTrouble::Unavailable(_) => Self::Unavailable(trouble.to_string()),
            SlackTrouble::Trouble(trouble) => trouble.into(),
            SlackTrouble::NotStreaming
            | SlackTrouble::NotStreamable
            | SlackTrouble::Undeliverable(_)
            | SlackTrouble::Refused(_) => Self::Refused(trouble.to_string()),
        }
    }
}

/// What an event is about.
enum Subject {
    Message(SlackMessageReceived),
    Ended(Ended),
}

/// An execution that ended otherwise than by itself.
struct Ended {
    holder: Holder,
    /// What it was started with, if the event says so.
    input: Option<String>,
    /// Whether the input was too long for the event.
    cut: bool,
}

impl<T, S, P, I, D, K> AcceptMessage<T, S, P, I, D, K>
where
    T: Ledger + Inbox + Links + Replies,
    S: Slack,
    P: Policies,
    I: Entries,
    D: Directory,
    K: Clock,
{
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        let step = async {
            let AcceptPayload { event, execution } = wire::read(payload)?;
            wire::write(&self.accept(&event, &execution).await?)
        };
        step.instrument(log::step("accept")).await
    }

    /// Accepts a message, or takes over what an execution that ended has left behind.
    pub async fn accept(&self, event: &Value, execution: &Holder) -> Result<Accepted, AcceptError> {
        let mut event = event.clone();
        // The input of an execution that ended may be the end of another one.
        for _ in 0..MOST_ENDED {
            let ended = match subject(&event)? {
                Subject::Message(message) => return self.message(&message, execution).await,
                Subject::Ended(ended) => ended,
            };
            if let Some(key) = self.table.held_by(&ended.holder).await? {
                return self.take_over(&key, &ended.holder, execution).await;
            }
            // It ended before it had a conversation, so its message may not be in an inbox.
            let Some(input) = ended.input else {
                if ended.cut {
                    return Err(rejected("detail.input", "it must be included").into());
                }
                return Ok(Accepted::Ignored);
            };
            event = serde_json::from_str(&input)
                .map_err(|_| rejected("detail.input", "it must be the JSON of an event"))?;
        }
        Err(AcceptError::EventRejected(rejected(
            "detail.input",
            "it leads to no message",
        )))
    }

    async fn message(
        &self,
        message: &SlackMessageReceived,
        execution: &Holder,
    ) -> Result<Accepted, AcceptError> {
        log::message(&message.id);
        let user = match self.user(message).await? {
            Ok(user) => user,
            Err(reason) => return self.not_linked(message, reason).await,
        };
        let key = ConversationKey {
            user,
            id: message.conversation(),
        };
        log::about(&key.user, &key.id);
        for round in 0..ROUNDS {
            let (seen, once_read) = match self.table.seen(&message.id).await? {
                // Its author had no agent then, and was told so: that was the answer.
                None if self.table.reply(&message.id).await?.done => {
                    return Ok(Accepted::Duplicate);
                }
                None => (None, None),
                // The id is Slack's, so this is the same message; whose it was then is whose it is.
                Some(seen) if seen.user != key.user || seen.conversation != key.id => {
                    return Ok(Accepted::Duplicate);
                }
                Some(seen) => (self.unless_abandoned(&key, seen.seq).await?, Some(seen.seq)),
            };
            let Some(wake) = self.asleep(&key.user, &message.id).await? else {
                // Their agent was removed a moment ago.
                return match self.user(message).await? {
                    Err(reason) => self.not_linked(message, reason).await,
                    Ok(_) => Err(overtaken()),
                };
            };
            let lease = self.table.lease(&key).await?;
            let now = self.clock.now();
            let mut accepted = conversation::accept(&lease, seen, message, execution, wake, now);
            if let Some(change) = &mut accepted.change {
                if change.once.is_some() {
                    change.once_read = once_read;
                }
                fault::point(&message.user_id, ACCEPT_RECORD, Moment::Before);
                if Inbox::save(&self.table, change, None).await? == Saved::Overtaken {
                    self.pause(round).await;
                    continue;
                }
                fault::point(&message.user_id, ACCEPT_RECORD, Moment::After);
            }
            tracing::info!(act = ?accepted.act, wake, "the message is in the inbox");
            return Ok(match accepted.act {
                AcceptAct::Run => Accepted::Run {
                    user_key: key.user,
                    conversation: key.id,
                    wake,
                    place: message.place(),
                    event_id: message.id.clone(),
                    done: lease.done,
                },
                AcceptAct::Queued => Accepted::Queued,
                AcceptAct::Duplicate => Accepted::Duplicate,
            });
        }
        Err(overtaken())
    }

    /// Serves what an execution that ended has left behind.
    async fn take_over(
        &self,
        key: &ConversationKey,
        dead: &Holder,
        execution: &Holder,
    ) -> Result<Accepted, AcceptError> {
        log::about(&key.user, &key.id);
        for round in 0..ROUNDS {
            let lease = self.table.lease(key).await?;
            // The one to be served next, or else the newest.
            let seq = lease.next().unwrap_or(lease.done);
            let Some(head) = self.table.queued(key, seq).await? else {
                return Ok(Accepted::Ignored);
            };
            let message = &head.message;
            let Some(wake) = self.asleep(&key.user, &message.id).await? else {
                // The inbox is about to be deleted.
                return self.not_linked(message, NotLinked::Removed).await;
            };
            let now = self.clock.now();
            let accepted = conversation::take_over(&lease, dead, execution, wake, now);
            if let Some(change) = &accepted.change {
                fault::point(&message.user_id, ACCEPT_RECORD, Moment::Before);
                if Inbox::save(&self.table, change, None).await? == Saved::Overtaken {
                    self.pause(round).await;
                    continue;
                }
                fault::point(&message.user_id, ACCEPT_RECORD, Moment::After);
            }
            if accepted.act != AcceptAct::Run {
                return Ok(Accepted::Duplicate);
            }
            log::message(&message.id);
            tracing::warn!(%dead, "takes over what an execution that ended has left behind");
            return Ok(Accepted::Run {
                user_key: key.user.clone(),
                conversation: key.id.clone(),
                wake,
                place: message.place(),
                event_id: message.id.clone(),
                done: lease.done,
            });
        }
        Err(overtaken())
    }

    /// Nobody whose message is taken. Somebody may have left since it was: what was answered then
    /// stays answered.
    async fn not_linked(
        &self,
        message: &SlackMessageReceived,
        reason: NotLinked,
    ) -> Result<Accepted, AcceptError> {
        if self.was_answered(&message.id).await? {
            return Ok(Accepted::Duplicate);
        }
        tracing::info!(?reason, "nobody who may have an agent");
        Ok(Accepted::NotLinked {
            reason,
            event_id: message.id.clone(),
            place: message.place(),
        })
    }

    /// The user behind a Slack user, or why there is none.
    async fn user(
        &self,
        message: &SlackMessageReceived,
    ) -> Result<Result<UserKey, NotLinked>, AcceptError> {
        let (team, member) = (&message.team_id, &message.user_id);
        let known = self.table.link(team, member).await?;
        // Before anybody is asked: what they answer is not true for longer because it took a while.
        let now = self.clock.now();
        if let Some(link) = known.filter(|link| link.expires > now)
            && !self.is_over(&link.user, &message.id).await?
        {
            return Ok(Ok(link.user));
        }
        let our_team = self.slack.team().await?;
        if *team != our_team {
            return Ok(Err(NotLinked::OtherWorkspace));
        }
        let profile = self.slack.user(member).await?;
        let address = match profile::address(&profile, &our_team) {
            Ok(address) => address,
            Err(reason) => return Ok(Err(reason)),
        };
        let user = match self.user_of(&address).await? {
            Ok(user) => user,
            Err(reason) => return Ok(Err(reason)),
        };
        let expires = now + LINK_FRESH;
        let link = Link { user, expires };
        // They have an account, and have not signed in since their agent was removed.
        if self.is_over(&link.user, &message.id).await? {
            return Ok(Err(NotLinked::Removed));
        }
        fault::point(member, ACCEPT_LINK, Moment::Before);
        self.table.save_link(team, member, &link).await?;
        fault::point(member, ACCEPT_LINK, Moment::After);
        Ok(Ok(link.user))
    }

    /// The user whose mailbox this is. There is one account for each, found by the entry that was made
    /// when it signed up: by the address alone it could be none, or not the only one.
    async fn user_of(&self, address: &EmailAddress) -> Result<Result<UserKey, NotLinked>, Trouble> {
        let policy = self.policies.policy().await?;
        let mailbox = match profile::mailbox(address, &policy) {
            Ok(mailbox) => mailbox,
            Err(reason) => return Ok(Err(reason)),
        };
        let key = IdentityKey::derive(self.pool.as_str(), &mailbox);
        let found = match self.identities.entry(&key).await? {
            Some(entry) => self.directory.account(&entry.username).await?,
            None => None,
        };
        let account = profile::account(found.as_ref(), &mailbox, &policy);
        Ok(account.map(|account| UserKey::derive(self.pool.as_str(), &account.sub)))
    }

    /// A message that was given up and is put back on the bus is to be answered after all.
    async fn unless_abandoned(
        &self,
        key: &ConversationKey,
        seq: u64,
    ) -> Result<Option<u64>, Trouble> {
        let queued = self.table.queued(key, seq).await?;
        let outcome = queued.and_then(|queued| queued.outcome);
        Ok(match outcome {
            Some(TurnOutcome::Abandoned(_)) => None,
            _ => Some(seq),
        })
    }

    /// Whether the message came to its end in an inbox, whosever that was.
    async fn was_answered(&self, event: &EventId) -> Result<bool, Trouble> {
        let Some(seen) = self.table.seen(event).await? else {
            return Ok(false);
        };
        let key = ConversationKey {
            user: seen.user,
            id: seen.conversation,
        };
        // What is no longer kept has come to its end long ago.
        Ok(match self.table.queued(&key, seen.seq).await? {
            None => true,
            Some(queued) => matches!(
                queued.outcome,
                Some(TurnOutcome::Answered | TurnOutcome::Failed(_))
            ),
        })
    }

    /// Whether the user's agent has to be woken. `None`: it was removed, or is about to be.
    async fn asleep(&self, user: &UserKey, event: &EventId) -> Result<Option<bool>, Trouble> {
        let state = self.table.load(user, event).await?.agent.state;
        let asleep = !matches!(state, AgentState::Ready(_));
        Ok((!state.is_over()).then_some(asleep))
    }

    /// Whether the user's agent was removed, or is about to be.
    async fn is_over(&self, user: &UserKey, event: &EventId) -> Result<bool, Trouble> {
        Ok(self.asleep(user, event).await?.is_none())
    }

    async fn pause(&self, round: u32) {
        tracing::debug!(round, "somebody else was faster");
        let pause = Duration::from_millis(5) * round.min(20);
        self.clock.sleep(pause).await;
    }
}

fn subject(event: &Value) -> Result<Subject, EventRejected> {
    const CHANGE: &str = "Step Functions Execution Status Change";
    if event["source"] != "aws.states" || event["detail-type"] != CHANGE {
        return Ok(Subject::Message(SlackMessageReceived::from_event(event)?));
    }
    let detail = &event["detail"];
    let name = detail["executionArn"].as_str().unwrap_or_default();
    let name = name.rsplit(':').next().unwrap_or_default();
    let holder = Holder::parse(name);
    let holder = holder.map_err(|error| rejected("detail.executionArn", error.rule))?;
    let input = detail["input"].as_str().map(str::to_owned);
    Ok(Subject::Ended(Ended {
        holder,
        input,
        cut: detail["inputDetails"]["included"] == false,
    }))
}

fn rejected(field: &str, why: &str) -> EventRejected {
    EventRejected {
        field: field.to_owned(),
        value: "not that".to_owned(),
        why: why.to_owned(),
    }
}

fn overtaken() -> AcceptError {
    AcceptError::Unavailable(format!(
        "others wrote the conversation {ROUNDS} times in a row"
    ))
}

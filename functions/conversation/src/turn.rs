//! `conversation-turn`: the agent answers the messages of an inbox, one after the other, in the
//! thread.
//!
//! An invocation has a slice of time. When it is over, the turn goes on in the sandbox, what has been
//! said of it is recorded, and the next invocation takes it up where it is: the same turn is begun
//! again, which `agentd` answers with all that has come of it.
//!
//! - The [`shift`] is an execution's hold on the conversation, for one slice.
//! - [`listen`] follows a turn in the sandbox.
//! - [`speak`] brings what was heard into the thread.
//!
//! **Two runs at once.** The machine runs one invocation of an execution at a time, but it may have
//! given one up that still runs. Whoever writes the message in hand takes it from the other, since
//! every write names the version that was read; the other finds that out before its next call to
//! Slack and stands aside. Only a call that was already under way can't be called back: so whoever
//! finds one in the record waits until it can't be under way any more.

mod abandon;
mod listen;
mod shift;
mod speak;

use std::time::Duration;

use carapace_control_plane::{from_trouble, named};
use carapace_core::{
    conversation::LeaseLost,
    ports::{Claims, Clock, Inbox, Ledger, Slack, SlackTrouble, Turns},
};
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::Instrument;

use self::shift::Shift;
use crate::{
    log,
    wire::{self, Held, TurnPayload, Turned},
};

/// The step.
pub struct ServeInbox<T, C, S, A, K> {
    /// The table: agents and inboxes.
    pub table: T,
    /// The claims.
    pub claims: C,
    /// Slack.
    pub slack: S,
    /// The daemons in the sandboxes.
    pub turns: A,
    /// The clock.
    pub clock: K,
    /// How long an invocation serves.
    pub slice: Duration,
}

/// Why the inbox was not served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// Another execution has the conversation, and serves it.
    #[error("the conversation is another execution's by now")]
    LeaseLost,
    /// Slack can't be reached, or asks for more patience than there is.
    #[error("{0}")]
    SlackUnavailable(String),
    /// Slack does not take our token.
    #[error("Slack does not accept the bot token: {0}")]
    SlackTokenRejected(String),
    /// Something else that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(TurnError: LeaseLost, SlackUnavailable, SlackTokenRejected, Unavailable, Refused);

from_trouble!(TurnError);

impl From<SlackTrouble> for TurnError {
    fn from(trouble: SlackTrouble) -> Self {
        match trouble {
            SlackTrouble::RateLimited(_) | SlackTrouble::Unavailable(_) => {
                Self::SlackUnavailable(trouble.to_string())
            }
            SlackTrouble::TokenRejected(why) => Self::SlackTokenRejected(why),
            SlackTrouble::Trouble(trouble) => trouble.into(),
            SlackTrouble::NotStreaming
            | SlackTrouble::NotStreamable
            | SlackTrouble::Undeliverable(_)
            | SlackTrouble::Refused(_) => Self::Refused(trouble.to_string()),
        }
    }
}

impl From<LeaseLost> for TurnError {
    fn from(_: LeaseLost) -> Self {
        Self::LeaseLost
    }
}

/// Why work on a message stops before its end.
#[derive(Debug)]
enum Halt {
    /// Time is up.
    More,
    /// The agent isn't there.
    Asleep,
    /// Another run has the message in hand.
    Aside,
    /// It can't go on.
    Failed(TurnError),
}

impl<E: Into<TurnError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl<T, C, S, A, K> ServeInbox<T, C, S, A, K>
where
    T: Ledger + Inbox,
    C: Claims,
    S: Slack,
    A: Turns,
    K: Clock,
{
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        let payload = wire::read(payload);
        let step = async {
            wire::write(&match payload? {
                TurnPayload::Run { held } => self.run(held).await?,
                TurnPayload::Abandon {
                    held,
                    done,
                    reason,
                    message,
                } => self.abandon(held, done, &reason, &message).await?,
            })
        };
        step.instrument(log::step("turn")).await
    }

    /// Serves the inbox until it is empty, or for a slice.
    pub async fn run(&self, held: Held) -> Result<Turned, TurnError> {
        let mut shift = Shift::begin(self, held).await?;
        loop {
            let Some(mut queued) = shift.head().await? else {
                if shift.release().await? {
                    return Ok(Turned::Idle);
                }
                continue;
            };
            let place = queued.message.place();
            let event_id = queued.message.id.clone();
            log::message(&event_id);
            match shift.serve(&mut queued).await {
                Ok(()) => {}
                Err(Halt::More) => return Ok(Turned::More { place, event_id }),
                Err(Halt::Asleep) => {
                    shift.await_agent().await?;
                    return Ok(Turned::Asleep { place, event_id });
                }
                Err(Halt::Aside) => {
                    tracing::warn!("another run has the message in hand");
                    if !shift.stand_aside(&queued.message.user_id).await? {
                        return Ok(Turned::More { place, event_id });
                    }
                }
                Err(Halt::Failed(error)) => return Err(error),
            }
        }
    }
}

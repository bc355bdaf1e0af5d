//! `user-offboard`: find out who is a user no more, lock their agent, and delete what is kept of
//! them.
//!
//! An operator's removal, and each of the calls to Cognito that it consists of, comes as an event of
//! its own, minutes apart and in any order. All of them do the same, one after the other or at once:
//! the first locks the agent, whoever is at work when all is gone announces it, and the rest find
//! nothing left to do.

use std::time::Duration;

use carapace_control_plane::{
    directory::UserPoolId, from_trouble, log, named, removal::RemovalOrder, settle::settle,
};
use carapace_core::{
    CorrelationId, EventId, Reason, Sub, UserKey,
    agent::{AgentState, Announcement, Known, Retire, RetireAct, Version},
    event::{EventRejected, Removal},
    ports::{Clock, Directory, Ledger, Possessions, Registration, Registrations, Roster, Trouble},
};
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::Instrument;

use crate::{
    fault::{self, Moment, OFFBOARD_FORGET, OFFBOARD_PURGE, OFFBOARD_RECORD},
    wire::{self, OffboardPayload, Purged, Retiring},
};

/// How long one invocation goes on deleting before it lets the state machine call again.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How many items are deleted before it is looked whether to go on.
const AT_ONCE: usize = 100;

/// The step.
pub struct OffboardUser<T, D, K> {
    /// The table.
    pub table: T,
    /// The accounts.
    pub directory: D,
    /// The clock.
    pub clock: K,
    /// Where they are signed up, which is a part of who they are.
    pub pool: UserPoolId,
}

/// Why it is not known who is a user no more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffboardError {
    /// The event can't be read.
    #[error(transparent)]
    EventRejected(#[from] EventRejected),
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(OffboardError: EventRejected, Unavailable, Refused);

from_trouble!(OffboardError);

/// Why not all was deleted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(PurgeError: Unavailable, Refused);

from_trouble!(PurgeError);

/// Whom an event may be about.
struct Suspect {
    event: EventId,
    user: UserKey,
    correlation_id: Option<CorrelationId>,
    /// What the user pool calls the account, if the event says that. Who was told by an operator has
    /// their word instead.
    sub: Option<Sub>,
}

impl<T, D, K> OffboardUser<T, D, K>
where
    T: Ledger + Registrations + Possessions,
    D: Directory + Roster,
    K: Clock,
{
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        match wire::read(payload)? {
            OffboardPayload::Retire { event } => {
                let step = async { wire::write(&self.retire(&event).await?) };
                step.instrument(log::step("retire")).await
            }
            OffboardPayload::Purge { removal } => {
                let step = async { wire::write(&self.purge(&removal).await?) };
                step.instrument(log::step("purge")).await
            }
        }
    }

    /// Locks the agent of whom the event is about, if they are a user no more.
    pub async fn retire(&self, event: &Value) -> Result<Retiring, OffboardError> {
        let Some(suspect) = self.suspect(Removal::from_event(event)?) else {
            tracing::info!("the event is about nobody here");
            return Ok(Retiring::Nothing);
        };
        let (user, event) = (&suspect.user, &suspect.event);
        log::about(user, event, suspect.correlation_id.as_ref());
        let known = self.table.load(user, event).await?;
        let Some(reason) = self.reason(&suspect, &known).await? else {
            tracing::info!("a user as before, or never one");
            return Ok(Retiring::Nothing);
        };
        let retire = Retire {
            event: event.clone(),
            reason: reason.clone(),
        };
        let point = fault::at(user, OFFBOARD_RECORD);
        let act = settle(&self.table, &self.clock, user, &retire, point).await?;
        tracing::info!(%reason, ?act, "a user no more");
        let removal = RemovalOrder {
            event_id: suspect.event,
            user_key: suspect.user,
            reason,
            correlation_id: suspect.correlation_id,
        };
        Ok(match act {
            RetireAct::Retire => Retiring::Retire { removal },
            RetireAct::Purge => Retiring::Purge { removal },
            RetireAct::Announce => Retiring::Announce { removal },
        })
    }

    /// Whom the event is about. `None`: nobody of our user pool, or nothing was done to them.
    fn suspect(&self, removal: Removal) -> Option<Suspect> {
        match removal {
            Removal::Told(told) => Some(Suspect {
                event: told.id,
                user: told.user_key,
                correlation_id: told.correlation_id,
                sub: None,
            }),
            Removal::Seen(call) => {
                let ours = call.pool_id.is_none_or(|id| id == self.pool.as_str());
                let sub = call.sub.filter(|_| ours && !call.failed)?;
                Some(Suspect {
                    event: call.id,
                    user: UserKey::derive(self.pool.as_str(), sub.as_str()),
                    correlation_id: None,
                    sub: Some(sub),
                })
            }
        }
    }

    /// Why they are a user no more. `None`: they are one, or never were.
    async fn reason(&self, suspect: &Suspect, known: &Known) -> Result<Option<Reason>, Trouble> {
        // What was recorded stands, and what was begun is ended, whatever the account is by now: else
        // somebody whose removal got stuck would be locked out for good.
        if let Some(outcome) = &known.outcome
            && let Announcement::Retired(retired) = &outcome.announcement
        {
            return Ok(Some(retired.reason.clone()));
        }
        if let AgentState::Retiring(retirement) = &known.agent.state {
            return Ok(Some(retirement.reason.clone()));
        }
        let enabled = match self.table.registration(&suspect.user).await? {
            Some(registration) => self.enabled(&suspect.user, &registration).await?,
            None if known.agent.version == Version(0) => return Ok(None),
            // Somebody who has an agent and never signed in since there are registrations.
            None => match &suspect.sub {
                Some(sub) => {
                    let found = self.directory.by_sub(sub).await?;
                    found.map(|(_, account)| account.enabled)
                }
                // Nobody can be asked about a key alone; an operator's word is enough.
                None => None,
            },
        };
        Ok(match enabled {
            None => Some(Reason::of_error("UserDeleted")),
            Some(false) => Some(Reason::of_error("UserDisabled")),
            Some(true) => None,
        })
    }

    /// Whether the user's account may be used. `None`: it is gone. One that has its name by now, as
    /// those of another identity provider can be made again, is somebody else's.
    async fn enabled(
        &self,
        user: &UserKey,
        registration: &Registration,
    ) -> Result<Option<bool>, Trouble> {
        let account = self.directory.account(&registration.username).await?;
        let theirs =
            account.filter(|account| UserKey::derive(self.pool.as_str(), &account.sub) == *user);
        Ok(theirs.map(|account| account.enabled))
    }

    /// Deletes what is kept of a user whose agent is over, until it is gone or time is up.
    pub async fn purge(&self, removal: &RemovalOrder) -> Result<Purged, PurgeError> {
        let (user, event) = (&removal.user_key, &removal.event_id);
        log::about(user, event, removal.correlation_id.as_ref());
        let begun = self.clock.now();
        let mut deleted = 0;
        loop {
            // Another event may have come to its end before this one, and the user may be back.
            let known = self.table.load(user, event).await?;
            if !known.agent.state.is_over() {
                tracing::warn!(deleted, "a user again: what is kept of them now is theirs");
                return Ok(Purged {
                    more: false,
                    deleted,
                });
            }
            fault::point(user, OFFBOARD_PURGE, Moment::Before);
            let purged = self.table.purge(user, AT_ONCE).await?;
            fault::point(user, OFFBOARD_PURGE, Moment::After);
            deleted += purged.deleted;
            if !purged.more {
                break;
            }
            if self.clock.now().duration_since(begun).unsigned_abs() >= PATIENCE {
                tracing::info!(deleted, "there is more to delete");
                return Ok(Purged {
                    more: true,
                    deleted,
                });
            }
        }
        self.forget(user).await?;
        tracing::info!(deleted, "nothing is left of what was kept of them");
        Ok(Purged {
            more: false,
            deleted,
        })
    }

    /// Deletes the name of an account that is gone. That of one which is only disabled is needed when
    /// it comes to that.
    async fn forget(&self, user: &UserKey) -> Result<(), Trouble> {
        let Some(registration) = self.table.registration(user).await? else {
            return Ok(());
        };
        let forgotten = match self.directory.account(&registration.username).await? {
            None => registration,
            Some(account) if UserKey::derive(self.pool.as_str(), &account.sub) == *user => {
                return Ok(());
            }
            // Somebody else has the name by now; whose mailbox it is, is theirs to say.
            Some(_) => Registration {
                identity: None,
                ..registration
            },
        };
        fault::point(user, OFFBOARD_FORGET, Moment::Before);
        self.table.forget(user, &forgotten).await?;
        fault::point(user, OFFBOARD_FORGET, Moment::After);
        Ok(())
    }
}

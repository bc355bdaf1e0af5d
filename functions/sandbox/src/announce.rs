//! `sandbox-announce`: record the one outcome of an event, and put it on the bus.
//!
//! Recording and publishing are two systems, so something can always die in between. The record
//! comes first, in one transaction with the agent's new state; it holds the announcement to the
//! last byte and a lease. Whoever finds the lease run out publishes the same bytes under the same
//! id. So subscribers see one event, or, if death fell between publishing and noting it, the same
//! event twice; never two different ones, and never none while anybody retries.

use carapace_control_plane::{log, named, removal::RemovalOrder, settle::settle};
use carapace_core::{
    Reason, UserKey,
    agent::{Announce, AnnounceAct, Assigned, End, Published},
    event::{EventRejected, Message, SandboxRequested},
    ports::{Bus, Clock, Ledger, Trouble},
};
use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde_json::Value;
use tracing::Instrument;

use crate::{
    fault::{self, ANNOUNCE_CLEAR, ANNOUNCE_PUT, ANNOUNCE_RECORD, Moment},
    wire::{self, AnnouncePayload, Announced, Claimed},
};

/// The step.
pub struct AnnounceOutcome<L, B, K> {
    /// The table.
    pub ledger: L,
    /// The bus.
    pub bus: B,
    /// The clock.
    pub clock: K,
}

/// Why nothing could be announced.
enum Hitch {
    InProgress { until: Timestamp },
    Lost,
    NotReleased,
    Trouble(Trouble),
}

impl From<Trouble> for Hitch {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Why a success was not announced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceReadyError {
    /// Another invocation is at it, or died at it.
    #[error("another invocation may be announcing it; its lease ends at {until}")]
    AnnouncementInProgress {
        /// When to try again.
        until: Timestamp,
    },
    /// The sandbox isn't the agent's any more.
    #[error("the claim is lost: another attempt has taken over, or this one was released")]
    ClaimLost,
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(AnnounceReadyError: AnnouncementInProgress, ClaimLost, Unavailable, Refused);

/// Why a failure was not announced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceFailedError {
    /// The event can't be read, so there is nobody to announce it to.
    #[error(transparent)]
    EventRejected(#[from] EventRejected),
    /// Another invocation is at it, or died at it.
    #[error("another invocation may be announcing it; its lease ends at {until}")]
    AnnouncementInProgress {
        /// When to try again.
        until: Timestamp,
    },
    /// The claim of the failed attempt has to be released first.
    #[error("the attempt still stands; it has to be released before its failure is announced")]
    ClaimNotReleased,
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(AnnounceFailedError:
    EventRejected, AnnouncementInProgress, ClaimNotReleased, Unavailable, Refused,
);

/// Why it was not announced that an agent is retired.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceRetiredError {
    /// Another invocation is at it, or died at it.
    #[error("another invocation may be announcing it; its lease ends at {until}")]
    AnnouncementInProgress {
        /// When to try again.
        until: Timestamp,
    },
    /// There is no such end to announce.
    #[error("the agent is not being retired: it is as it was before, or its user is back")]
    NotRetiring,
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(AnnounceRetiredError: AnnouncementInProgress, NotRetiring, Unavailable, Refused);

/// Why a recorded outcome was not announced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceRecordedError {
    /// The event can't be read.
    #[error(transparent)]
    EventRejected(#[from] EventRejected),
    /// Another invocation is at it, or died at it.
    #[error("another invocation may be announcing it; its lease ends at {until}")]
    AnnouncementInProgress {
        /// When to try again.
        until: Timestamp,
    },
    /// No outcome is recorded.
    #[error("there is no recorded outcome to announce")]
    NothingRecorded,
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(AnnounceRecordedError:
    EventRejected, AnnouncementInProgress, NothingRecorded, Unavailable, Refused,
);

impl From<Hitch> for AnnounceReadyError {
    fn from(hitch: Hitch) -> Self {
        match hitch {
            Hitch::InProgress { until } => Self::AnnouncementInProgress { until },
            Hitch::Lost | Hitch::NotReleased => Self::ClaimLost,
            Hitch::Trouble(trouble @ Trouble::Unavailable { .. }) => {
                Self::Unavailable(trouble.to_string())
            }
            Hitch::Trouble(trouble) => Self::Refused(trouble.to_string()),
        }
    }
}

impl From<Hitch> for AnnounceFailedError {
    fn from(hitch: Hitch) -> Self {
        match hitch {
            Hitch::InProgress { until } => Self::AnnouncementInProgress { until },
            Hitch::Lost | Hitch::NotReleased => Self::ClaimNotReleased,
            Hitch::Trouble(trouble @ Trouble::Unavailable { .. }) => {
                Self::Unavailable(trouble.to_string())
            }
            Hitch::Trouble(trouble) => Self::Refused(trouble.to_string()),
        }
    }
}

impl From<Hitch> for AnnounceRetiredError {
    fn from(hitch: Hitch) -> Self {
        match hitch {
            Hitch::InProgress { until } => Self::AnnouncementInProgress { until },
            Hitch::Lost | Hitch::NotReleased => Self::NotRetiring,
            Hitch::Trouble(trouble @ Trouble::Unavailable { .. }) => {
                Self::Unavailable(trouble.to_string())
            }
            Hitch::Trouble(trouble) => Self::Refused(trouble.to_string()),
        }
    }
}

impl From<Hitch> for AnnounceRecordedError {
    fn from(hitch: Hitch) -> Self {
        match hitch {
            Hitch::InProgress { until } => Self::AnnouncementInProgress { until },
            Hitch::Lost | Hitch::NotReleased => Self::NothingRecorded,
            Hitch::Trouble(trouble @ Trouble::Unavailable { .. }) => {
                Self::Unavailable(trouble.to_string())
            }
            Hitch::Trouble(trouble) => Self::Refused(trouble.to_string()),
        }
    }
}

impl<L: Ledger, B: Bus, K: Clock> AnnounceOutcome<L, B, K> {
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        let step = async {
            wire::write(&match wire::read(payload)? {
                AnnouncePayload::Ready(claimed) => self.ready(claimed).await?,
                AnnouncePayload::Failed {
                    event,
                    reason,
                    message,
                } => self.failed(&event, &reason, &message).await?,
                AnnouncePayload::Retired { removal } => self.retired(removal).await?,
                AnnouncePayload::Recorded { event } => self.recorded(&event).await?,
            })
        };
        step.instrument(log::step("announce")).await
    }

    /// The agent is ready.
    pub async fn ready(&self, claimed: Claimed) -> Result<Announced, AnnounceReadyError> {
        let assigned = Assigned {
            uid: claimed.claim_uid,
            sandbox: claimed.sandbox,
        };
        let announce = Announce {
            event: claimed.event_id,
            correlation_id: claimed.correlation_id,
            end: End::Ready(assigned),
        };
        Ok(self.announce(&claimed.user_key, &announce).await?)
    }

    /// The attempt failed, with this error.
    pub async fn failed(
        &self,
        event: &Value,
        error: &str,
        cause: &str,
    ) -> Result<Announced, AnnounceFailedError> {
        let requested = SandboxRequested::from_event(event)?;
        let end = End::Failed {
            reason: Reason::of_error(error),
            message: message(cause),
        };
        let user = requested.user_key.clone();
        Ok(self.announce(&user, &about(requested, end)).await?)
    }

    /// The agent's user is one no more, and has nothing any more.
    pub async fn retired(&self, removal: RemovalOrder) -> Result<Announced, AnnounceRetiredError> {
        let announce = Announce {
            event: removal.event_id,
            correlation_id: removal.correlation_id,
            end: End::Retired,
        };
        Ok(self.announce(&removal.user_key, &announce).await?)
    }

    /// What was recorded may not be on the bus yet.
    pub async fn recorded(&self, event: &Value) -> Result<Announced, AnnounceRecordedError> {
        let requested = SandboxRequested::from_event(event)?;
        let user = requested.user_key.clone();
        Ok(self
            .announce(&user, &about(requested, End::Recorded))
            .await?)
    }

    async fn announce(&self, user: &UserKey, announce: &Announce) -> Result<Announced, Hitch> {
        log::about(user, &announce.event, announce.correlation_id.as_ref());
        let act = settle(
            &self.ledger,
            &self.clock,
            user,
            announce,
            fault::at(user, ANNOUNCE_RECORD),
        )
        .await?;
        let (announcement, attempt) = match act {
            AnnounceAct::Publish {
                announcement,
                attempt,
            } => (announcement, attempt),
            AnnounceAct::Done => return Ok(Announced { announced: false }),
            AnnounceAct::InProgress { until } => return Err(Hitch::InProgress { until }),
            AnnounceAct::Lost => return Err(Hitch::Lost),
            AnnounceAct::NotReleased => return Err(Hitch::NotReleased),
        };
        fault::point(user, ANNOUNCE_PUT, Moment::Before);
        self.bus.publish(&announcement).await?;
        fault::point(user, ANNOUNCE_PUT, Moment::After);
        let published = Published {
            event: announce.event.clone(),
            attempt,
        };
        settle(
            &self.ledger,
            &self.clock,
            user,
            &published,
            fault::at(user, ANNOUNCE_CLEAR),
        )
        .await?;
        tracing::info!(
            announcement = announcement.detail_type(), id = %announcement.id(), attempt,
            "the outcome is announced"
        );
        Ok(Announced { announced: true })
    }
}

fn about(requested: SandboxRequested, end: End) -> Announce {
    Announce {
        event: requested.id,
        correlation_id: requested.correlation_id,
        end,
    }
}

/// What went wrong, from the `Cause` of an error: of a function's error the text, of anything else
/// whatever Step Functions has to say.
fn message(cause: &str) -> Message {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct LambdaError {
        error_message: String,
    }
    match serde_json::from_str::<LambdaError>(cause) {
        Ok(error) => error.error_message.into(),
        Err(_) => cause.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_failure_is_the_functions_own_words() {
        let lambda = r#"{"errorMessage":"no sandbox","errorType":"PoolNotFound","trace":[]}"#;
        assert_eq!(message(lambda).as_str(), "no sandbox");
        assert_eq!(message("took too long").as_str(), "took too long");
        assert_eq!(message(r#"{"other":1}"#).as_str(), r#"{"other":1}"#);
    }
}

//! `sandbox-claim`, action `release`: delete the claim of an attempt that failed.

use std::time::Duration;

use carapace_control_plane::{from_trouble, log, named, settle::settle};
use carapace_core::{
    ClaimName, UserKey,
    agent::{Release, ReleaseAct},
    claim::ClaimView,
    event::{EventRejected, SandboxRequested},
    ports::{Claims, Clock, Deleted, Ledger, Trouble},
};
use serde_json::Value;

use crate::{
    claim::ClaimSandbox,
    fault::{self, Moment, RELEASE_DELETE, RELEASE_RECORD},
    wire::Released,
};

/// How often a claim may be written between being read and being deleted. Its controller writes it
/// a few times while it comes up, and then no more.
const ROUNDS: u32 = 20;

/// Why a claim could not be released.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The event can't be read, so it can't have a claim.
    #[error(transparent)]
    EventRejected(#[from] EventRejected),
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(ReleaseError: EventRejected, Unavailable, Refused);

from_trouble!(ReleaseError);

impl<L: Ledger, C: Claims, K: Clock> ClaimSandbox<L, C, K> {
    /// Deletes the claim, if it is this event's and the agent isn't ready.
    pub async fn release(&self, event: &Value) -> Result<Released, ReleaseError> {
        let requested = SandboxRequested::from_event(event)?;
        log::about(
            &requested.user_key,
            &requested.id,
            requested.correlation_id.as_ref(),
        );
        self.release_claim(&requested).await
    }

    async fn release_claim(&self, requested: &SandboxRequested) -> Result<Released, ReleaseError> {
        let user = &requested.user_key;
        let release = Release {
            event: requested.id.clone(),
        };
        match settle(
            &self.ledger,
            &self.clock,
            user,
            &release,
            fault::at(user, RELEASE_RECORD),
        )
        .await?
        {
            ReleaseAct::Nothing => return Ok(Released { released: false }),
            ReleaseAct::Delete => {}
        }
        let name = ClaimName::of(user);
        for round in 0..ROUNDS {
            let Some(claim) = self.claims.find(&name).await? else {
                return Ok(Released { released: true });
            };
            // The record said that the claim is this event's a moment ago. If another attempt has
            // taken over since, the claim carries that attempt's event by now, or will before it
            // can be deleted: then it isn't what was seen here any more.
            if claim.event.as_ref() != Some(&requested.id) {
                tracing::warn!(claim = %name, owner = ?claim.event, "the claim is another event's");
                return Ok(Released { released: false });
            }
            if claim.terminating {
                return Ok(Released { released: true });
            }
            match self.delete(user, &claim).await? {
                Deleted::Yes => return Ok(Released { released: true }),
                Deleted::Changed => {
                    self.clock.sleep(Duration::from_millis(10) * round).await;
                }
            }
        }
        Err(ReleaseError::Unavailable(format!(
            "the claim {name} was written {ROUNDS} times between being read and being deleted"
        )))
    }

    /// Deletes the claim if it is still exactly the one that was seen.
    pub(crate) async fn delete(
        &self,
        user: &UserKey,
        claim: &ClaimView,
    ) -> Result<Deleted, Trouble> {
        fault::point(user, RELEASE_DELETE, Moment::Before);
        let deleted = self.claims.delete(claim).await?;
        if deleted == Deleted::Yes {
            fault::point(user, RELEASE_DELETE, Moment::After);
            tracing::info!(claim = %claim.name, claim_uid = %claim.uid, "the claim is deleted");
        }
        Ok(deleted)
    }
}

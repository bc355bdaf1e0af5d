//! `sandbox-retire`: take away from a user who is one no more what costs money and could still act.
//!
//! The claim goes first and has to be gone before the gateway forgets the user: whoever binds a
//! sandbox makes a key only for a claim that is there, and takes it back if it finds the agent
//! retired after that.

use std::time::Duration;

use carapace_control_plane::{from_trouble, log, named, removal::RemovalOrder, settle::settle};
use carapace_core::{
    ClaimName, UserKey,
    agent::StillRetiring,
    ports::{Claims, Clock, Deleted, Ledger, ModelKeyTrouble, ModelUsers},
};
use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::Instrument;

use crate::{
    fault::{self, Moment, RETIRE_DELETE, RETIRE_KEYS},
    wire::{self, Released, RetirePayload},
};

/// How long one invocation waits for the claim to be gone before it lets the state machine call
/// again. A pod has half a minute to stop.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait before a claim is read again that was written between being read and being
/// deleted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The step.
pub struct RetireSandbox<L, C, U, K> {
    /// The table.
    pub ledger: L,
    /// The claims.
    pub claims: C,
    /// The model gateway's users.
    pub model_users: U,
    /// The clock.
    pub clock: K,
}

/// Why the user still has something.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetireError {
    /// It was deleted, and takes its time to go: call again.
    #[error("the claim {0} is deleted and still there after {PATIENCE:?}")]
    ClaimStillThere(ClaimName),
    /// The model gateway is not there at the moment.
    #[error("{0}")]
    ModelGatewayUnavailable(String),
    /// The model gateway does not remove the user.
    #[error("{0}")]
    ModelGatewayRefused(String),
    /// Something else that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something else that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(RetireError:
    ClaimStillThere, ModelGatewayUnavailable, ModelGatewayRefused, Unavailable, Refused,
);

from_trouble!(RetireError);

impl From<ModelKeyTrouble> for RetireError {
    fn from(trouble: ModelKeyTrouble) -> Self {
        match trouble {
            ModelKeyTrouble::Unavailable(_) => Self::ModelGatewayUnavailable(trouble.to_string()),
            ModelKeyTrouble::Refused(_) => Self::ModelGatewayRefused(trouble.to_string()),
            ModelKeyTrouble::Trouble(trouble) => trouble.into(),
        }
    }
}

impl<L, C, U, K> RetireSandbox<L, C, U, K>
where
    L: Ledger,
    C: Claims,
    U: ModelUsers,
    K: Clock,
{
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        let step = async {
            let RetirePayload { removal } = wire::read(payload)?;
            wire::write(&self.retire(&removal).await?)
        };
        step.instrument(log::step("retire")).await
    }

    /// Deletes the claim, whichever event made it, and removes the user from the gateway; nothing of
    /// it if the agent isn't being retired any more.
    pub async fn retire(&self, removal: &RemovalOrder) -> Result<Released, RetireError> {
        let (user, event) = (&removal.user_key, &removal.event_id);
        log::about(user, event, removal.correlation_id.as_ref());
        let retiring = StillRetiring {
            event: event.clone(),
        };
        if !settle(&self.ledger, &self.clock, user, &retiring, |_| {}).await? {
            tracing::info!("the agent is being retired no more");
            return Ok(Released { released: false });
        }
        self.end_claim(user).await?;
        fault::point(user, RETIRE_KEYS, Moment::Before);
        self.model_users.remove(user).await?;
        fault::point(user, RETIRE_KEYS, Moment::After);
        tracing::info!("the agent has neither a sandbox nor a key");
        Ok(Released { released: true })
    }

    /// Returns when the claim is gone.
    async fn end_claim(&self, user: &UserKey) -> Result<(), RetireError> {
        let name = ClaimName::of(user);
        let now = self.clock.now();
        let until = now.checked_add(PATIENCE).unwrap_or(Timestamp::MAX);
        loop {
            let Some(claim) = self.claims.find(&name).await? else {
                return Ok(());
            };
            let left = until.duration_since(self.clock.now());
            let left = Duration::try_from(left).unwrap_or_default();
            if left.is_zero() {
                return Err(RetireError::ClaimStillThere(name));
            }
            if claim.terminating {
                // Whatever it has come to is read again.
                let _ = self.claims.next(&claim, left).await?;
                continue;
            }
            fault::point(user, RETIRE_DELETE, Moment::Before);
            match self.claims.delete(&claim).await? {
                Deleted::Yes => {
                    fault::point(user, RETIRE_DELETE, Moment::After);
                    tracing::info!(claim = %claim.name, claim_uid = %claim.uid, "the claim is deleted");
                }
                Deleted::Changed => self.clock.sleep(LOOK_AGAIN).await,
            }
        }
    }
}

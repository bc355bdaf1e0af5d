//! `sandbox-bind`: hand the sandbox to its user.

use std::net::IpAddr;

use carapace_control_plane::{from_trouble, log, named, settle::settle};
use carapace_core::{
    UserKey,
    agent::{Bind, BindAct},
    agentd::BindRequest,
    allowance::Allowance,
    claim::{Reading, read},
    ports::{Agentd, BindTrouble, Claims, Clock, Ledger, ModelKeyTrouble, ModelKeys, ModelUsers},
};
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::Instrument;

use crate::{
    fault::{self, BIND_AGENTD, BIND_KEY, BIND_REVOKE, Moment},
    wire::{self, Bound, Claimed},
};

const TAKEN_OVER: &str = "another attempt has taken over, or this one was released";

/// The step.
pub struct BindSandbox<L, C, M, A, K> {
    /// The table.
    pub ledger: L,
    /// The claims.
    pub claims: C,
    /// The model gateway.
    pub model_keys: M,
    /// The daemons in the sandboxes.
    pub agentd: A,
    /// The clock.
    pub clock: K,
    /// What a user may spend for whom nothing is settled, because they have not signed in since there
    /// were allowances.
    pub default_allowance: Allowance,
}

/// Why the sandbox was not bound.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The claim is gone, or another attempt has taken it over.
    #[error("the claim {0} is lost: {1}")]
    ClaimLost(carapace_core::ClaimName, &'static str),
    /// Nothing answers in the sandbox, or it asks to be called again.
    #[error("{0}")]
    AgentdUnreachable(String),
    /// The sandbox does not accept the call.
    #[error("{0}")]
    AgentdRefused(String),
    /// The sandbox has another user. It keeps that one, for ever.
    #[error("{0}")]
    SandboxBoundToAnother(String),
    /// The model gateway is not there at the moment.
    #[error("{0}")]
    ModelGatewayUnavailable(String),
    /// The model gateway does not register the key.
    #[error("{0}")]
    ModelGatewayRefused(String),
    /// Something else that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something else that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(BindError:
    ClaimLost, AgentdUnreachable, AgentdRefused, SandboxBoundToAnother, ModelGatewayUnavailable,
    ModelGatewayRefused, Unavailable, Refused,
);

from_trouble!(BindError);

impl From<ModelKeyTrouble> for BindError {
    fn from(trouble: ModelKeyTrouble) -> Self {
        match trouble {
            ModelKeyTrouble::Unavailable(_) => Self::ModelGatewayUnavailable(trouble.to_string()),
            ModelKeyTrouble::Refused(_) => Self::ModelGatewayRefused(trouble.to_string()),
            ModelKeyTrouble::Trouble(trouble) => trouble.into(),
        }
    }
}

impl From<BindTrouble> for BindError {
    fn from(trouble: BindTrouble) -> Self {
        match trouble {
            BindTrouble::Unreachable(_) => Self::AgentdUnreachable(trouble.to_string()),
            BindTrouble::Refused(_) => Self::AgentdRefused(trouble.to_string()),
            BindTrouble::BoundToAnother(_) => Self::SandboxBoundToAnother(trouble.to_string()),
            BindTrouble::Trouble(trouble) => trouble.into(),
        }
    }
}

impl<L, C, M, A, K> BindSandbox<L, C, M, A, K>
where
    L: Ledger,
    C: Claims,
    M: ModelKeys + ModelUsers,
    A: Agentd,
    K: Clock,
{
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        let step = async { wire::write(&self.bind(wire::read(payload)?).await?) };
        step.instrument(log::step("bind")).await
    }

    /// Binds the sandbox, or makes sure that it is bound.
    pub async fn bind(&self, mut claimed: Claimed) -> Result<Bound, BindError> {
        let user = &claimed.user_key;
        log::about(user, &claimed.event_id, claimed.correlation_id.as_ref());
        log::sandbox(&claimed.claim, &claimed.sandbox);
        let bind = Bind {
            event: claimed.event_id.clone(),
            uid: claimed.claim_uid.clone(),
        };
        let lost = |why| Err(BindError::ClaimLost(claimed.claim.clone(), why));
        let allowance = match self.may_bind(user, &bind).await? {
            BindAct::Proceed(allowance) => allowance.unwrap_or(self.default_allowance),
            BindAct::Lost => return lost(TAKEN_OVER),
        };
        // An address is only as good as the moment it was read: pods come and go, and the next one
        // to have this address must not be sent somebody's key.
        let Some(address) = self.present_address(&claimed).await? else {
            return lost("the sandbox is not the claim's any more");
        };

        fault::point(user, BIND_KEY, Moment::Before);
        let model_key = self
            .model_keys
            .issue(user, &claimed.claim_uid, &allowance)
            .await?;
        fault::point(user, BIND_KEY, Moment::After);
        // Whoever retires the agent deletes the claim and then all keys of its user. If that was
        // between the look at the claim and now, there is a key again.
        if self.may_bind(user, &bind).await? == BindAct::Lost {
            return lost(TAKEN_OVER);
        }

        let request = BindRequest {
            user_key: user.clone(),
            model_key,
        };
        fault::point(user, BIND_AGENTD, Moment::Before);
        self.agentd
            .bind(&claimed.sandbox, address, &request)
            .await?;
        fault::point(user, BIND_AGENTD, Moment::After);

        tracing::info!(%address, "the sandbox is bound");
        claimed.address = address;
        Ok(Bound {
            claimed,
            bound: true,
        })
    }

    /// Whether the claim still is the agent's. If it has none any more because its user is one no
    /// more, they have no key either when this returns.
    async fn may_bind(&self, user: &UserKey, bind: &Bind) -> Result<BindAct, BindError> {
        let act = settle(&self.ledger, &self.clock, user, bind, |_| {}).await?;
        if act == BindAct::Lost {
            let known = self.ledger.load(user, &bind.event).await?;
            if known.agent.state.is_over() {
                tracing::warn!("the agent was retired meanwhile: its user's keys are deleted");
                fault::point(user, BIND_REVOKE, Moment::Before);
                self.model_keys.remove(user).await?;
                fault::point(user, BIND_REVOKE, Moment::After);
            }
        }
        Ok(act)
    }

    /// Where the sandbox answers now. `None`: the claim holds another one, or none.
    async fn present_address(&self, claimed: &Claimed) -> Result<Option<IpAddr>, BindError> {
        let claim = self.claims.find(&claimed.claim).await?;
        let Some(claim) = claim.filter(|claim| claim.uid == claimed.claim_uid) else {
            return Ok(None);
        };
        match read(&claim, self.clock.now()) {
            Reading::Ready { sandbox, address } if sandbox == claimed.sandbox => Ok(Some(address)),
            Reading::Wait { reason, .. } if !claim.terminating => Err(
                BindError::AgentdUnreachable(format!("the sandbox is not ready: {reason}")),
            ),
            _ => Ok(None),
        }
    }
}

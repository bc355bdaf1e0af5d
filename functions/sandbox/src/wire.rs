//! What the steps hand to each other through the state machine.

use std::net::IpAddr;

pub use carapace_control_plane::lambda::INPUT_REJECTED;
pub(crate) use carapace_control_plane::lambda::{read_payload as read, write_answer as write};
use carapace_control_plane::removal::RemovalOrder;
use carapace_core::{ClaimName, ClaimUid, CorrelationId, EventId, PoolName, SandboxName, UserKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `sandbox-claim` takes.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum ClaimPayload {
    /// Make sure of the claim.
    Claim {
        /// The event, as EventBridge delivered it.
        event: Value,
        /// When the execution started; the deadline counts from here.
        started_at: Timestamp,
    },
    /// Delete the claim.
    Release {
        /// The event, as EventBridge delivered it.
        event: Value,
    },
}

/// A claim that has its sandbox: the answer of `sandbox-claim`, and what `sandbox-bind` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The event that asked.
    pub event_id: EventId,
    /// Passed on from the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// Whose agent it is.
    pub user_key: UserKey,
    /// The claim.
    pub claim: ClaimName,
    /// Its identity.
    pub claim_uid: ClaimUid,
    /// The sandbox.
    pub sandbox: SandboxName,
    /// Its pod's address.
    pub address: IpAddr,
    /// The pool it came from.
    pub pool: PoolName,
}

/// What `sandbox-retire` takes.
#[derive(Debug, Deserialize)]
pub struct RetirePayload {
    /// Whose sandbox is to go, and by which event.
    pub removal: RemovalOrder,
}

/// The answer to a release, and of `sandbox-retire`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Released {
    /// To a release: whether this event had a claim, which is gone now. To a retirement: whether the
    /// agent is being retired, and has neither sandbox nor keys now.
    pub released: bool,
}

/// A sandbox that has its user: the answer of `sandbox-bind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// What was bound.
    #[serde(flatten)]
    pub claimed: Claimed,
    /// Always true; what can't be bound is an error.
    pub bound: bool,
}

/// What `sandbox-announce` takes.
#[derive(Debug, Deserialize)]
#[serde(tag = "announcement", rename_all = "snake_case")]
pub enum AnnouncePayload {
    /// The agent is ready.
    Ready(Claimed),
    /// It is not.
    Failed {
        /// The event, as EventBridge delivered it.
        event: Value,
        /// The name of the error that ended it.
        reason: String,
        /// The error's `Cause`, as Step Functions has it.
        message: String,
    },
    /// Its user is one no more, and has nothing any more.
    Retired {
        /// Whose it was, and by which event.
        removal: RemovalOrder,
    },
    /// Whatever was recorded, but may not have been put on the bus.
    Recorded {
        /// The event, as EventBridge delivered it.
        event: Value,
    },
}

/// The answer of `sandbox-announce`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Announced {
    /// Whether it was this call that put the announcement on the bus.
    pub announced: bool,
}

//! What the functions need of the world, one capability per trait, and only the operations that
//! are used. The adapters in `carapace-control-plane` implement them; tests have stateful fakes.

use std::{future::Future, net::IpAddr, time::Duration};

use jiff::Timestamp;

use crate::{
    ClaimName, ClaimUid, EventId, SandboxName, UserKey,
    agent::{Announcement, Change, Known},
    agentd::{BindRequest, ModelKey},
    claim::{ClaimView, WantedClaim},
};

/// Why a service that we depend on did not do its part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It could not be reached, was overloaded or failed: the same may work in a moment.
    #[error("{service} is unavailable: {why}")]
    Unavailable {
        /// Which service.
        service: &'static str,
        /// What it said.
        why: String,
    },
    /// It does not let us, or has no such thing: the same will fail until somebody changes
    /// permissions or configuration.
    #[error("{service} refused: {why}")]
    Refused {
        /// Which service.
        service: &'static str,
        /// What it said.
        why: String,
    },
}

/// What is known about agents and events.
pub trait Ledger {
    /// Reads an agent's record and the outcome of one event.
    fn load(&self, user: &UserKey, event: &EventId)
    -> impl Future<Output = Result<Known, Trouble>>;

    /// Saves a change as a whole or not at all.
    fn save(&self, change: &Change) -> impl Future<Output = Result<Saved, Trouble>>;
}

/// What came of saving a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Saved {
    /// It is durable.
    Yes,
    /// Somebody else saved something since it was read; nothing was written.
    Overtaken,
}

/// The `SandboxClaim`s of the cluster.
pub trait Claims {
    /// Makes sure of a claim, whether or not it is there already.
    fn apply(&self, claim: &WantedClaim) -> impl Future<Output = Result<ClaimView, ClaimTrouble>>;

    /// Reads a claim.
    fn find(&self, name: &ClaimName) -> impl Future<Output = Result<Option<ClaimView>, Trouble>>;

    /// Waits until the claim is other than `seen`, but not longer than `patience`.
    fn next(
        &self,
        seen: &ClaimView,
        patience: Duration,
    ) -> impl Future<Output = Result<ClaimChange, Trouble>>;

    /// Deletes the claim if it is still exactly `seen`.
    fn delete(&self, seen: &ClaimView) -> impl Future<Output = Result<Deleted, Trouble>>;
}

/// Why a claim was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimTrouble {
    /// The API server takes the claim for invalid.
    #[error("the API server rejected the claim: {0}")]
    Rejected(String),
    /// As with every other service.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// What has become of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimChange {
    /// It was written.
    Changed(Box<ClaimView>),
    /// It was deleted.
    Gone,
    /// Nothing, in the time given.
    Same,
}

/// What came of deleting a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Deleted {
    /// It is gone, or on its way out.
    Yes,
    /// It was written since it was seen, or is another one by now: look again.
    Changed,
}

/// The bus.
pub trait Bus {
    /// Puts an announcement on it; when this returns, it is accepted.
    fn publish(&self, announcement: &Announcement) -> impl Future<Output = Result<(), Trouble>>;
}

/// The model gateway's keys.
pub trait ModelKeys {
    /// The key of the sandbox that this claim of this user holds, known to the gateway when this
    /// returns. The same again gives the same key.
    fn issue(
        &self,
        user: &UserKey,
        claim: &ClaimUid,
    ) -> impl Future<Output = Result<ModelKey, ModelKeyTrouble>>;
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelKeyTrouble {
    /// The gateway could not be reached or failed.
    #[error("the model gateway is unavailable: {0}")]
    Unavailable(String),
    /// The gateway does not register the key.
    #[error("the model gateway refused the key: {0}")]
    Refused(String),
    /// The master key could not be read.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// The daemon in a sandbox.
pub trait Agentd {
    /// Hands the sandbox to its user, for good. The same again changes nothing; another key takes
    /// the place of the one it had.
    fn bind(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        request: &BindRequest,
    ) -> impl Future<Output = Result<(), BindTrouble>>;
}

/// Why a sandbox was not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindTrouble {
    /// Nothing answers there, or not in time, or it asks to be called again.
    #[error("agentd is unreachable: {0}")]
    Unreachable(String),
    /// It answered, and does not do it.
    #[error("agentd refused: {0}")]
    Refused(String),
    /// It has another user, and keeps that one.
    #[error("the sandbox is bound to another: {0}")]
    BoundToAnother(String),
    /// The call could not be signed.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// Time, which passes.
pub trait Clock {
    /// What time it is.
    fn now(&self) -> Timestamp;

    /// Lets some time pass.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

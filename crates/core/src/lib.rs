//! The domain of Carapace: what an agent is, what happens to it, and what to do next.
//!
//! Nothing here waits, looks at a clock, reads the environment or draws a random number. Time and
//! everything that was read elsewhere come in as values, decisions go out as values, so the hard
//! part is tested without a runtime and without a network. The traits in [`ports`] name what the
//! functions wait for; they are implemented elsewhere.
//!
//! The way of an event: [`event`] reads it, [`agent::decide`] says what it means for the agent,
//! [`claim`] reads what Kubernetes says about its sandbox, [`history`] keeps what happened.
//!
//! The way of a message: [`slack`] reads it and judges who sent it, [`conversation`] puts it into an
//! inbox and says who serves that, [`reply`] brings the answer into the thread.

pub mod agent;
pub mod agentd;
pub mod allowance;
pub mod claim;
pub mod conversation;
pub mod email;
pub mod event;
pub mod history;
pub mod identity;
mod ids;
pub mod model_key;
pub mod policy;
pub mod ports;
pub mod reply;
pub mod slack;

pub use ids::{
    ChannelId, ClaimName, ClaimUid, ConversationId, CorrelationId, EventId, Holder, InvalidName,
    MessageTs, PoolName, Reason, SandboxName, SlackUserId, Sub, TeamId, TurnId, UserKey, quoted,
};

use jiff::{SignedDuration, Timestamp};

/// A time after `at`. Past the end of time, in the year 9999, time stands still.
fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

//! What the steps take and answer.

pub use carapace_control_plane::lambda::INPUT_REJECTED;
pub(crate) use carapace_control_plane::lambda::{read_payload as read, write_answer as write};
use carapace_control_plane::removal::RemovalOrder;
use carapace_core::UserKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `user-onboard` takes.
#[derive(Debug, Deserialize)]
pub struct OnboardPayload {
    /// The event, as EventBridge delivered it.
    pub event: Value,
}

/// The answer of `user-onboard`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// What came of it.
    pub outcome: SignedIn,
    /// Whom it is about.
    pub user_key: UserKey,
}

/// What came of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignedIn {
    /// They are a user now.
    Onboarded,
    /// They were one before.
    Known,
    /// Their account is gone.
    NoAccount,
    /// Their account was disabled.
    Disabled,
}

/// What `user-offboard` takes.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum OffboardPayload {
    /// Find out who is a user no more, and lock their agent.
    Retire {
        /// The event, as EventBridge delivered it.
        event: Value,
    },
    /// Delete what is kept of them.
    Purge {
        /// Of whom, and by which event.
        removal: RemovalOrder,
    },
}

/// The answer to `retire`: what is left to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "next", rename_all = "snake_case")]
pub enum Retiring {
    /// Nothing: nobody is a user no more by this event.
    Nothing,
    /// All of it.
    Retire {
        /// For the steps that do it.
        removal: RemovalOrder,
    },
    /// The agent is retired; delete what may have been written since.
    Purge {
        /// For the steps that do it.
        removal: RemovalOrder,
    },
    /// The event has its outcome, which may not have been announced.
    Announce {
        /// For the steps that do it.
        removal: RemovalOrder,
    },
}

/// The answer to `purge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Whether there is more: call again.
    pub more: bool,
    /// How many items were deleted.
    pub deleted: usize,
}

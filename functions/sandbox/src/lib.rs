//! Creating, binding, announcing and ending sandboxes: the steps of the state machine
//! `sandbox-create`, and of `user-offboard` those that are about sandboxes.
//!
//! | function | action | what it does |
//! |---|---|---|
//! | `sandbox-claim` | `claim` | makes sure of the user's claim and waits a while for its sandbox |
//! | | `release` | deletes the claim of an attempt that failed |
//! | `sandbox-bind` | | hands the sandbox to its user |
//! | `sandbox-announce` | `ready`, `failed` | records the one outcome of an event and puts it on the bus |
//! | | `retired` | the same where the agent's user is one no more |
//! | | `recorded` | puts an outcome on the bus that somebody else recorded |
//! | `sandbox-retire` | | deletes the claim of a user who is one no more, and their keys |
//!
//! Each step reads its wire type, asks [`carapace_core::agent::decide`] what to do, does it, and
//! answers. A step may be repeated at any time, also while an earlier try is still running; the
//! names of its errors are what the state machine retries and catches.

pub mod announce;
pub mod bind;
pub mod claim;
pub mod config;
pub mod fault;
pub mod release;
pub mod retire;
pub mod wire;

#[cfg(test)]
mod tests;

//! Creating, binding and announcing sandboxes: the steps of the state machine `sandbox-create`.
//!
//! | function | action | what it does |
//! |---|---|---|
//! | `sandbox-claim` | `claim` | makes sure of the user's claim and waits a while for its sandbox |
//! | | `release` | deletes the claim of an attempt that failed |
//! | `sandbox-bind` | | hands the sandbox to its user |
//! | `sandbox-announce` | `ready`, `failed` | records the one outcome of an event and puts it on the bus |
//! | | `recorded` | puts an outcome on the bus that somebody else recorded |
//!
//! Each step reads its wire type, asks [`carapace_core::agent::decide`] what to do, does it, and
//! answers. A step may be repeated at any time, also while an earlier try is still running; the
//! names of its errors are what the state machine retries and catches.

pub mod announce;
pub mod bind;
pub mod claim;
pub mod config;
pub mod fault;
mod ledger;
mod log;
pub mod release;
pub mod wire;

#[cfg(test)]
mod tests;

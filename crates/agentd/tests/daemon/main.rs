//! The daemon as a whole, over its sockets: what it promises to the control plane, to the agent and
//! to the user.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a test's harness has no readers outside"
)]

mod boot;
mod control;
mod harness;
mod nonsense;
mod proxy;
mod turn;
mod turns;

//! Taking messages to an agent, and its answers back: the steps of the state machine `conversation`.
//!
//! | function | action | what it does |
//! |---|---|---|
//! | `conversation-accept` | | puts a message into the inbox of its conversation, once, and takes the conversation if nobody has it |
//! | `conversation-turn` | `run` | serves the inbox in order and streams each answer into the thread |
//! | | `abandon` | gives up the message in hand, and tells so |
//!
//! A conversation is served by one execution at a time, which holds its lease. Each step reads its
//! wire type, asks [`carapace_core::conversation`] what to do, does it, and answers. What has been
//! said of a reply is recorded around every call to Slack, as [`carapace_core::reply`] has it. A step
//! may be repeated at any time, also while an earlier try is still running; the names of its errors
//! are what the state machine retries and catches.

pub mod accept;
pub mod config;
pub mod fault;
mod log;
pub mod turn;
pub mod wire;

#[cfg(test)]
mod tests;

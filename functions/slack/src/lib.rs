//! What comes in from Slack, and what goes back without an agent.
//!
//! | function | what it does |
//! |---|---|
//! | `slack-ingress` | takes what Slack posts to `/slack/events`, and puts the messages in it on the bus |
//! | `slack-reply` | tells a user in the thread that they have no agent, or that theirs is waking up |
//!
//! `slack-ingress` is the one function that the internet can call. It believes nothing that Slack
//! did not sign, and says that it took a message only when the bus has it. Everything else that a
//! message needs is behind the bus, so that Slack has its answer long before its three seconds are
//! over.

pub mod config;
pub mod fault;
pub mod ingress;
pub mod reply;
pub mod wire;

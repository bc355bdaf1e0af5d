//! The deployed platform on a local stack, as a person or a system outside it sees it: sign up,
//! put an event on the bus, look at what came of it. The demo and every scenario are written in
//! these words; what they rest on (ports, processes, namespaces) belongs to `carapace-local`.
//!
//! Nothing here sleeps to let something happen: [`eventually`] waits for a condition with a
//! deadline and, when it passes, says what was last seen.

pub mod agentd;
pub mod aws;
pub mod cluster;
pub mod deploy;
mod eventually;
pub mod execution;
pub mod identity;
pub mod platform;
pub mod reach;
pub mod removal;
pub mod slack;
pub mod tap;

pub use eventually::eventually;
pub use platform::Platform;

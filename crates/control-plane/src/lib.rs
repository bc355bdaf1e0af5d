//! The adapters that the Lambda functions share: what the ports in [`carapace_core::ports`] are on
//! AWS and Kubernetes, and the little that every function needs to be one.
//!
//! Each adapter is behind a feature of its own, so that a function links only what it uses. Clients
//! are made when they are first needed, since making them is most of a cold start and many
//! invocations need only some. Nothing is retried here beyond what the SDKs do by themselves:
//! patience is the state machines' business, where it can be seen.

#[cfg(feature = "accounts")]
pub mod accounts;
#[cfg(feature = "agentd")]
pub mod agentd;
#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "bus")]
pub mod bus;
#[cfg(feature = "kube")]
pub mod claims;
pub mod config;
#[cfg(feature = "directory")]
pub mod directory;
pub mod fault;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "identities")]
pub mod identities;
#[cfg(feature = "kms")]
pub mod jwt;
#[cfg(feature = "kube")]
pub mod kubernetes;
pub mod lambda;
pub mod log;
#[cfg(feature = "parameters")]
pub mod parameters;
pub mod removal;
#[cfg(feature = "secrets")]
pub mod secrets;
pub mod settle;
#[cfg(feature = "slack")]
pub mod slack;
#[cfg(feature = "table")]
pub mod table;
#[cfg(feature = "aws")]
pub mod time;

//! The local stack: AWS, Kubernetes and a node, real parts on one machine, built from package
//! registries alone.
//!
//! - [`build`] builds every part from its published source into the user's cache.
//! - [`packages`] says which Debian packages the machine lacks.
//! - [`Stack`] starts a stack, finds a running one, works with it and ends it.
//!
//! A stack is a set of processes in namespaces of their own, kept by one supervisor that is a
//! re-execution of the calling program. So a program that uses this crate must begin with
//!
//! ```no_run
//! # use std::process::ExitCode;
//! fn main() -> ExitCode {
//!     if std::env::args_os().nth(1).is_some_and(|argument| argument == carapace_local::SUPERVISE) {
//!         return carapace_local::supervisor_main();
//!     }
//!     // …
//!     ExitCode::SUCCESS
//! }
//! ```
//!
//! # What a stack promises
//! - It ends with the process that started it, however that ends, unless it was started detached.
//! - When it has ended, no process, mount, network namespace or cgroup of it is left.
//! - It listens on loopback only, at ports that it chose; two stacks run side by side.
//! - Its URLs are the same inside its network and on the host.
//! - Nothing is reachable from a pod unless a NetworkPolicy allows it and is in force.

pub mod build;
mod cache;
mod certificates;
mod cgroups;
mod info;
mod kube_api;
pub mod packages;
mod parts;
mod progress;
mod stack;
mod state;
mod supervisor;
mod unpacked;

pub use self::{
    cache::Cache,
    info::{Decoy, NodeKind, PartStatus, StackInfo},
    progress::{Listener, Progress},
    stack::{Stack, StackError, UpOptions},
    supervisor::{ARGUMENT as SUPERVISE, supervisor_main},
    unpacked::UnpackedImage,
};

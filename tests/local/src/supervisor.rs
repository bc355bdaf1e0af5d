//! The processes behind a running stack, all of them re-executions of the calling program.
//!
//! - The **keeper** lives as long as its stack. Its network namespace is the stack's, but it holds
//!   listening sockets that it opened in the host's before it left: they are the forwarders. It
//!   starts every part, watches it and answers on the control socket.
//! - **init** is the first process of the stack's PID namespace and the only reaper in it. The
//!   kernel kills it when the keeper dies, and everything else in the namespace when it dies;
//!   mounts and the network vanish with their last process. So no exit of any sort, `kill -9`
//!   included, leaves a process behind.
//! - The **janitor** stays outside and does what the kernel does not: when the keeper is gone it
//!   removes the stack's cgroup and state. It shares the keeper's lock on the state directory, so
//!   that the lock is free exactly when nothing of the stack is left.
//! - **exec** stands in for PID namespaces where they may not be created: it asks the kernel to be
//!   killed together with the keeper, then becomes the part.

mod control;
mod decoy;
mod forward;
mod init;
mod isolation;
mod janitor;
mod keeper;
mod nursery;
mod plan;
mod ports;

use std::{env, ffi::OsString, process::ExitCode};

pub(crate) use self::{
    control::{Answer, Request, ask},
    decoy::listen as listen_as_decoy,
    isolation::Isolation,
    nursery::{Nursery, Part, SYSTEM_PATH},
    plan::{AwsPlan, Event, Plan},
    ports::Ports,
};

/// The argument by which a program that uses this crate knows that it was started as one of these
/// processes.
pub const ARGUMENT: &str = "__supervise";

/// Which of the processes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Keeper,
    Init,
    Janitor,
    Exec,
}

impl Role {
    const ALL: [Self; 4] = [Self::Keeper, Self::Init, Self::Janitor, Self::Exec];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Init => "init",
            Self::Janitor => "janitor",
            Self::Exec => "exec",
        }
    }

    /// The command that becomes this process.
    pub(crate) fn command(self) -> std::process::Command {
        // Not `current_exe`: the file may have been replaced by a newer build meanwhile.
        let mut command = std::process::Command::new("/proc/self/exe");
        command.args([ARGUMENT, self.name()]);
        command
    }
}

/// Runs one of the stack's own processes. A program that starts stacks must call this first when
/// its first argument is [`ARGUMENT`], before it starts a thread or parses anything.
pub fn supervisor_main() -> ExitCode {
    let mut arguments = env::args_os().skip(2);
    let role = arguments.next();
    let role = Role::ALL
        .into_iter()
        .find(|known| role.as_deref() == Some(known.name().as_ref()));
    let rest: Vec<OsString> = arguments.collect();
    match role {
        Some(Role::Keeper) => keeper::main(),
        Some(Role::Init) => init::main(),
        Some(Role::Janitor) => janitor::main(),
        Some(Role::Exec) => isolation::exec_main(&rest),
        None => {
            eprintln!(
                "`{ARGUMENT}` is for the stack's own processes; it is not meant to be called"
            );
            ExitCode::from(2)
        }
    }
}

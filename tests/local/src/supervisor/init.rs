//! The first process of the stack's PID namespace.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

/// What init says when `/proc` is its own, and what it must hear before it goes on.
pub(super) const HANDSHAKE: &[u8; 1] = b"\n";

pub(super) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the stack's init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The file system shows the PID namespace of the process that mounts it.
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )?;
    // SIGCHLD must be blocked to be waited for; its default would be to be ignored.
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    // If the keeper died before it could be asked for its death signal, this read ends.
    io::stdout().write_all(HANDSHAKE)?;
    io::stdout().flush()?;
    io::stdin().read_exact(&mut [0; HANDSHAKE.len()])?;
    loop {
        children.wait()?;
        // One signal may stand for many children.
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}

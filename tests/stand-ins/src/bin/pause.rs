//! Stand-in for Kubernetes' pause image: the first process of a pod, which holds its namespaces.
//!
//! A first process has no default signal handlers, so that without waiting for SIGTERM explicitly it
//! could only be killed; and orphans become its children, which somebody has to bury.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

const ABOUT: &str = "pause: a stand-in for Kubernetes' pause image.\n\
                     Holds a pod's namespaces until it gets SIGTERM or SIGINT. Takes no arguments.";

fn main() -> ExitCode {
    if let Some(argument) = std::env::args().nth(1) {
        println!("{ABOUT}");
        return if argument == "--help" {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pause: waiting for signals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wait() -> nix::Result<()> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]
        .into_iter()
        .collect();
    signals.thread_block()?;
    eprintln!("pause: a stand-in for Kubernetes' pause image, waiting for SIGTERM");
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => bury_the_dead(),
            _ => return Ok(()),
        }
    }
}

/// Several deaths can come as one signal.
fn bury_the_dead() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

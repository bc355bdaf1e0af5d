//! Removes what outlives the keeper.

use std::{
    fs,
    io::{self, BufRead, Write},
    path::PathBuf,
    process::{ChildStdin, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};
use serde::{Deserialize, Serialize};

use super::Role;
use crate::{
    cgroups,
    state::{Lock, Process, StateDir},
};

/// Killed processes are gone in milliseconds; a minute means that something is stuck in the kernel.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the janitor must know.
#[derive(Debug, Serialize, Deserialize)]
struct Duty {
    id: String,
    state_dir: PathBuf,
}

/// A hired janitor. It waits for this value to be dropped, which the kernel does at the latest when
/// this process ends, and holds the lock until it is done.
pub(super) struct Janitor {
    pipe: ChildStdin,
}

impl Janitor {
    pub(super) fn hire(id: &str, state: &StateDir, lock: &Lock) -> io::Result<Self> {
        let mut janitor = Role::Janitor
            .command()
            .stdin(Stdio::piped())
            // It has nothing to say; this is how it inherits the lock.
            .stdout(Stdio::from(lock.share()?))
            .stderr(Stdio::inherit())
            .spawn()?;
        let pipe = janitor
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("the janitor has no standard input"))?;
        let mut this = Self { pipe };
        this.tell(&Duty {
            id: id.to_owned(),
            state_dir: state.root().to_owned(),
        })?;
        Ok(this)
    }

    /// Tells the janitor of the init whose end is the end of all processes of the stack.
    pub(super) fn tell_init(&mut self, init: Process) -> io::Result<()> {
        self.tell(&init)
    }

    fn tell(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_string(what)?;
        line.push('\n');
        self.pipe.write_all(line.as_bytes())
    }
}

pub(super) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the stack's janitor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // What ends the keeper's terminal or group must not end the janitor.
    setsid()?;
    let mut stdin = io::stdin().lock();
    let mut line = String::new();
    stdin.read_line(&mut line)?;
    let duty: Duty = serde_json::from_str(&line)?;
    line.clear();
    stdin.read_line(&mut line)?;
    let init = match line.as_str() {
        // The keeper is gone already.
        "" => None,
        line => Some(serde_json::from_str(line)?),
    };
    io::copy(&mut stdin, &mut io::sink())?;
    clean(&duty, init)
}

fn clean(duty: &Duty, init: Option<Process>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    if let Some(init) = init {
        // The kernel has done so already, if the keeper's end was what it was asked to watch.
        init.kill();
    }
    while init.is_some_and(Process::is_alive) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    kill_marked(&duty.id);
    cgroups::remove(&duty.id, PATIENCE)?;
    StateDir::at(&duty.state_dir).clear()
}

/// Kills every process that carries the stack's mark. Where there is no PID namespace, a part's own
/// children could have been left behind.
fn kill_marked(id: &str) {
    let mark = format!("{}={id}", super::nursery::MARK);
    // Again until none is left: one of them may have started another meanwhile.
    for _ in 0..100 {
        let mut found = false;
        for pid in processes() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
            {
                found = true;
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if !found {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn processes() -> Vec<i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

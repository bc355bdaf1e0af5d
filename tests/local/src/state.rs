//! The state directory: everything of a stack that is a file.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// The names of Unix sockets are short. containerd refuses one of more than 104 bytes, and adds 38 to
/// this: `/data/containerd/containerd.sock.ttrpc`. The kernel takes 107, and the kubelet adds 40:
/// `/data/kubelet/pod-resources/kubelet.sock`.
pub(crate) const LONGEST_PATH: usize = 66;

/// The name of the log of the stack's own processes, beside those of its parts.
pub(crate) const SUPERVISOR: &str = "supervisor";

/// The layout of a state directory.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
}

impl StateDir {
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What the stack says about itself; there exactly while it is up.
    pub(crate) fn info(&self) -> PathBuf {
        self.root.join("stack.json")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// A part's own directory. Nothing in it outlives the stack.
    pub(crate) fn data(&self, part: &str) -> PathBuf {
        self.root.join("data").join(part)
    }

    /// Where the real node's containerd listens. The file is visible on the host, too.
    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.data("containerd").join("containerd.sock")
    }

    /// Makes this process the owner of the directory, or says that another one is.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        fs::create_dir_all(&self.root)?;
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether everything in it may be overwritten: it is new, empty, or a former stack's.
    pub(crate) fn is_usable(&self) -> io::Result<bool> {
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
            Ok(mut entries) => Ok(entries.next().is_none() || self.root.join(LOCK).exists()),
        }
    }

    /// Whether a stack, or the rest of one, still owns the directory.
    pub(crate) fn is_in_use(&self) -> io::Result<bool> {
        if !self.root.join(LOCK).exists() {
            return Ok(false);
        }
        Ok(self.lock()?.is_none())
    }

    /// Removes the logs of a former stack's parts. The supervisor's own is in use already.
    pub(crate) fn clear_logs(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.logs())? {
            let log = entry?.path();
            if log != self.log(SUPERVISOR) {
                fs::remove_file(log)?;
            }
        }
        Ok(())
    }

    fn lock_file(&self) -> io::Result<File> {
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.root.join(LOCK))
    }

    /// Removes everything but the logs.
    pub(crate) fn clear(&self) -> io::Result<()> {
        for file in [self.info(), self.control(), self.kubeconfig()] {
            ignore_absence(fs::remove_file(file))?;
        }
        for dir in [self.bin(), self.root.join("data")] {
            ignore_absence(fs::remove_dir_all(dir))?;
        }
        Ok(())
    }
}

const LOCK: &str = "stack.lock";

/// The right to use a state directory, held until every copy of the file is closed.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// The stack that the directory was last used for.
    pub(crate) fn last_owner(&mut self) -> io::Result<Option<String>> {
        let mut id = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut id)?;
        Ok(Some(id).filter(|id| !id.is_empty()))
    }

    /// Writes down who uses the directory, so that its successor can clean up after a crash.
    pub(crate) fn sign(&mut self, id: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(id.as_bytes())
    }

    /// The same lock for another process.
    pub(crate) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pid: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may itself contain anything; the state follows it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        // Field 22 of proc_pid_stat(5), where the state is field 3.
        let started = fields.get(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Ends it, unless it has ended already.
    pub(crate) fn kill(self) {
        if self.is_alive()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            // Gone meanwhile is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The memory that a process has in use, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse().ok()
        })
        .unwrap_or_default()
}

/// The last lines of a log, for an error message.
pub(crate) fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{self, Command};

    use super::*;

    #[test]
    fn a_state_directory_has_one_owner_and_remembers_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path());
        let mut lock = state.lock().unwrap().unwrap();
        assert_eq!(lock.last_owner().unwrap(), None);
        lock.sign("abc").unwrap();
        assert!(state.lock().unwrap().is_none());

        let shared = lock.share().unwrap();
        drop(lock);
        assert!(state.is_in_use().unwrap(), "a shared lock is still a lock");
        drop(shared);
        // A child that another test is starting has it too, until it has become its own program.
        let mut lock = loop {
            match state.lock().unwrap() {
                Some(lock) => break lock,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(lock.last_owner().unwrap().as_deref(), Some("abc"));
    }

    #[test]
    fn clearing_keeps_the_logs() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path());
        fs::create_dir_all(state.data("etcd")).unwrap();
        fs::create_dir_all(state.logs()).unwrap();
        fs::write(state.log("etcd"), "x").unwrap();
        fs::write(state.info(), "{}").unwrap();
        state.clear().unwrap();
        assert!(state.log("etcd").exists());
        assert!(!state.info().exists() && !state.root().join("data").exists());
        state.clear().unwrap();
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path());
        assert!(state.is_usable().unwrap());
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        assert!(!state.is_usable().unwrap());
        drop(state.lock().unwrap());
        assert!(state.is_usable().unwrap(), "a former stack's directory");
        assert!(StateDir::at(dir.path().join("new")).is_usable().unwrap());
    }

    #[test]
    fn a_process_that_ended_is_not_alive_even_before_it_is_reaped() {
        assert!(Process::find(process::id()).unwrap().is_alive());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        child.kill().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}

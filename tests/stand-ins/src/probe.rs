//! What can be seen and reached from inside a sandbox: the questions that tests ask through
//! `kubectl exec`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// Where Kubernetes puts a pod's own credentials.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What came of dialling one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialled {
    /// As it was given.
    pub target: String,
    /// In one word.
    pub outcome: Outcome,
    /// The address, or the system's words.
    pub detail: String,
}

/// How a TCP connection ends before it begins. A policy that denies shows as refused or as a
/// timeout, depending on who enforces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Somebody answered.
    Open,
    /// Somebody answered that nobody is there.
    Refused,
    /// Nobody answered.
    Timeout,
    /// There is no way, or no such name.
    Unreachable,
}

/// Dials all targets at once, each for at most `timeout`.
pub async fn dial(targets: &[String], timeout: Duration) -> Vec<Dialled> {
    join_all(targets.iter().map(|target| dial_one(target, timeout))).await
}

async fn dial_one(target: &str, timeout: Duration) -> Dialled {
    use std::io::ErrorKind::{ConnectionRefused, TimedOut};
    let (outcome, detail) = match tokio::time::timeout(timeout, TcpStream::connect(target)).await {
        Err(_) => (Outcome::Timeout, format!("no answer within {timeout:?}")),
        Ok(Ok(stream)) => {
            let peer = stream
                .peer_addr()
                .map_or_else(|_| String::new(), |peer| peer.to_string());
            (Outcome::Open, peer)
        }
        Ok(Err(error)) => {
            let outcome = match error.kind() {
                ConnectionRefused => Outcome::Refused,
                TimedOut => Outcome::Timeout,
                _ => Outcome::Unreachable,
            };
            (outcome, error.to_string())
        }
    };
    Dialled {
        target: target.to_owned(),
        outcome,
        detail,
    }
}

/// What a process in the sandbox sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// `/proc/version`.
    pub kernel: String,
    /// The user it runs as.
    pub uid: u32,
    /// The names of its environment, sorted.
    pub env: BTreeSet<String>,
    /// Whether the pod was given credentials for the Kubernetes API.
    pub service_account_token: bool,
    /// Whether another container's processes are in sight.
    pub processes: usize,
    /// How many files were searched: a search that saw nothing proves nothing.
    pub searched: usize,
    /// The files, and variables as `$NAME`, that hold what was searched for.
    pub found: BTreeSet<String>,
}

/// Looks around, and searches every readable file below `root` for `needle`.
pub fn inspect(root: &Path, needle: Option<&str>) -> Inspection {
    let mut search = Search {
        needle: needle
            .map(str::as_bytes)
            .filter(|needle| !needle.is_empty()),
        searched: 0,
        found: BTreeSet::new(),
    };
    search.walk(root);
    let mut processes = 0;
    for process in process_directories() {
        processes += 1;
        // What is searched for stands in this process's own command line.
        if process != Path::new("/proc").join(std::process::id().to_string()) {
            search.file(&process.join("environ"));
            search.file(&process.join("cmdline"));
        }
    }
    let holds = |value: &str| needle.is_some_and(|needle| value.contains(needle));
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        holds(&value.to_string_lossy()).then(|| format!("${}", name.to_string_lossy()))
    });
    search.found.extend(variables);
    Inspection {
        kernel: fs::read_to_string("/proc/version")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        uid: nix::unistd::getuid().as_raw(),
        env: std::env::vars_os()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect(),
        service_account_token: Path::new(SERVICE_ACCOUNT_TOKEN).exists(),
        processes,
        searched: search.searched,
        found: search.found,
    }
}

fn process_directories() -> impl Iterator<Item = PathBuf> {
    let is_process =
        |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(move |entry| is_process(&entry.file_name()))
        .map(|entry| entry.path())
}

struct Search<'a> {
    needle: Option<&'a [u8]>,
    searched: usize,
    found: BTreeSet<String>,
}

impl Search<'_> {
    /// Links are not followed: what they point to is met on its own way. The kernel's own trees are
    /// left out: reading some of their files waits for ever.
    fn walk(&mut self, directory: &Path) {
        if ["/proc", "/sys", "/dev"]
            .iter()
            .any(|kernel| directory == Path::new(kernel))
        {
            return;
        }
        for entry in fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.walk(&entry.path()),
                Ok(kind) if kind.is_file() => self.file(&entry.path()),
                _ => {}
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let Some(needle) = self.needle else { return };
        let Ok(file) = File::open(path) else { return };
        self.searched += 1;
        if contains(file, needle) {
            self.found.insert(path.display().to_string());
        }
    }
}

/// Searches in pieces that overlap, since a file may be larger than the memory of a pod.
fn contains(mut file: impl Read, needle: &[u8]) -> bool {
    let mut window = vec![0; needle.len() + 64 * 1024];
    let mut kept = 0;
    loop {
        let Ok(read) = file.read(&mut window[kept..]) else {
            return false;
        };
        if read == 0 {
            return false;
        }
        let filled = kept + read;
        if window[..filled]
            .windows(needle.len())
            .any(|part| part == needle)
        {
            return true;
        }
        kept = filled.min(needle.len() - 1);
        window.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dialling_tells_open_from_refused() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let targets = [
            open.local_addr().unwrap().to_string(),
            closed.local_addr().unwrap().to_string(),
            "not a target".to_owned(),
        ];
        drop(closed);
        let outcomes: Vec<_> = dial(&targets, Duration::from_secs(5))
            .await
            .into_iter()
            .map(|d| d.outcome)
            .collect();
        assert_eq!(
            outcomes,
            [Outcome::Open, Outcome::Refused, Outcome::Unreachable]
        );
    }

    #[test]
    fn a_needle_is_found_wherever_it_lies() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("a/b");
        fs::create_dir_all(&nested).unwrap();
        // Across the edge of two pieces, and at the very end.
        for (name, before) in [("edge", 64 * 1024 - 3), ("small", 0), ("large", 1_000_000)] {
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(b"sk-needle");
            fs::write(nested.join(name), bytes).unwrap();
        }
        fs::write(nested.join("other"), "sk-needl").unwrap();
        let inspection = inspect(directory.path(), Some("sk-needle"));
        let found: Vec<_> = inspection
            .found
            .iter()
            .filter_map(|path| path.rsplit('/').next())
            .collect();
        assert_eq!(found, ["edge", "large", "small"]);
        assert!(inspection.searched >= 4);
        assert!(
            inspect(directory.path(), Some("sk-absent-needle"))
                .found
                .is_empty()
        );
    }
}

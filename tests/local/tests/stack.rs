//! The promises of a stack, tried on real ones.
//!
//! What needs root is ignored without it. A stack takes a few seconds of all cores to start, so
//! tests run one after the other unless `--test-threads` says otherwise.

#[path = "stack/cluster.rs"]
mod cluster;
#[path = "stack/images.rs"]
mod images;
#[path = "stack/leftovers.rs"]
mod leftovers;
#[path = "stack/lifecycle.rs"]
mod lifecycle;
#[path = "stack/network.rs"]
mod network;
#[path = "stack/node.rs"]
mod node;

use std::{
    env,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use carapace_local::{NodeKind, Stack, UpOptions};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::geteuid;
use tempfile::TempDir;

fn main() -> ExitCode {
    let first = env::args_os().nth(1);
    if first.as_deref() == Some(carapace_local::SUPERVISE.as_ref()) {
        return carapace_local::supervisor_main();
    }
    if first.as_deref() == Some(lifecycle::STARTER.as_ref()) {
        return lifecycle::starter_main();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials = [node::trials(), network::trials(), lifecycle::trials()]
        .into_iter()
        .flatten()
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that needs root.
fn trial(name: &str, test: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:?}")))
    })
    .with_ignored_flag(!geteuid().is_root())
}

/// A stack with a directory of its own, both gone when the test ends.
struct TestStack {
    stack: Stack,
    // After the stack, which still writes into it while it ends.
    _dir: TempDir,
}

impl TestStack {
    /// A stack without AWS, which has tests of its own.
    fn up(node: NodeKind) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let stack = Stack::up(&options(&dir, node)?, &mut |_| {})?;
        Ok(Self { stack, _dir: dir })
    }
}

fn options(dir: &TempDir, node: NodeKind) -> Result<UpOptions> {
    // The longest that is allowed, since every socket's name must fit.
    let rest = UpOptions::LONGEST_STATE_DIR - dir.path().as_os_str().len() - 1;
    let mut options = UpOptions::new(dir.path().join("s".repeat(rest)), node);
    options.aws = false;
    if node == NodeKind::Gvisor {
        options.images = images::archives()?;
    }
    Ok(options)
}

/// Looks until `look` gives something, and otherwise tells what it said last.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context(format!("{what}: not within 30 s"));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// `ensure!` for pairs that should be the same.
fn same<T: PartialEq + std::fmt::Debug>(seen: &T, expected: &T) -> Result<()> {
    if seen != expected {
        bail!("expected {expected:?}, saw {seen:?}");
    }
    Ok(())
}

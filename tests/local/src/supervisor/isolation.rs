//! What keeps a stack apart from the host and from other stacks.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl, signal::Signal},
};
use serde::{Deserialize, Serialize};

/// How a stack's processes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Isolation {
    /// In network, PID and mount namespaces of their own.
    Namespaces,
    /// On the host's loopback, each bound to the keeper's life. For machines where namespaces may
    /// not be created; no real node can run like this.
    Processes,
}

impl Isolation {
    /// Moves this process into a new network namespace, if the machine allows it. What it has
    /// opened before stays in the old one.
    pub(super) fn enter() -> io::Result<Self> {
        match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                let up = Command::new("ip")
                    .args(["link", "set", "lo", "up"])
                    .env("PATH", super::nursery::SYSTEM_PATH)
                    .status()?;
                match up.success() {
                    true => Ok(Self::Namespaces),
                    false => Err(io::Error::other(format!("`ip link set lo up`: {up}"))),
                }
            }
            Err(nix::Error::EPERM) => Ok(Self::Processes),
            Err(error) => Err(error.into()),
        }
    }
}

/// Directories that parts of a real node insist on. Inside, each is empty, in memory, and gone with
/// the stack; on the host they are created, if need be, and stay as they are. They cannot be removed
/// afterwards: the kernel would take them away from every other stack, too.
const SCRATCH: &[&str] = &[
    // Sockets of containerd's shims and the state of runc and runsc.
    "/run/containerd",
    // The CNI library's cache.
    "/var/lib/cni",
    // Device plug-ins' sockets, wherever the kubelet's own directory is.
    "/var/lib/kubelet",
    // Links to the containers' logs.
    "/var/log/containers",
];

/// Gives the calling thread, and every process it starts from now on, mounts of their own and a PID
/// namespace whose first process is the next one that it starts.
pub(super) fn leave_host() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Private, or every mount of a container would show on the host.
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )?;
    for dir in SCRATCH {
        fs::create_dir_all(dir)?;
        mount(
            Some("tmpfs"),
            *dir,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=0755"),
        )?;
    }
    unshare(CloneFlags::CLONE_NEWPID)?;
    Ok(())
}

/// Becomes the program in `arguments`, to be killed by the kernel when the keeper dies.
pub(super) fn exec_main(arguments: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = arguments.split_first() else {
        eprintln!("no program to execute");
        return ExitCode::from(2);
    };
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        eprintln!(
            "cannot bind {} to the keeper's life: {error}",
            program.display()
        );
        return ExitCode::FAILURE;
    }
    let error = Command::new(program).args(arguments).exec();
    eprintln!("cannot execute {}: {error}", program.display());
    ExitCode::FAILURE
}

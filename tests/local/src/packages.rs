//! What the machine itself must bring: a handful of Debian packages.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::unistd::geteuid;

use crate::{
    NodeKind,
    progress::{Listener, Steps},
};

/// Something the machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The program or file that was looked for.
    pub what: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// What needs it.
    pub needed_by: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} (package {}, needed by {})",
            self.what, self.package, self.needed_by
        )
    }
}

/// Why the missing packages could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// Installing needs root.
    #[error("missing: {missing}\n\nInstall with: sudo apt-get install {packages}")]
    NotRoot {
        /// What is missing.
        missing: String,
        /// The packages to install.
        packages: String,
    },
    /// apt-get is not there or failed.
    #[error("`apt-get install {packages}` failed: {problem}\n\nMissing: {missing}")]
    AptGet {
        /// What is missing.
        missing: String,
        /// The packages that were asked for.
        packages: String,
        /// What went wrong.
        problem: String,
    },
}

enum Proof {
    Program,
    Header,
    PythonModule,
}

/// Every program here is run by a part of the stack, by Go's C compiler or by a test.
const COMMON: &[(&str, Proof, &str, &str)] = &[
    ("ip", Proof::Program, "iproute2", "the network namespace"),
    ("nsenter", Proof::Program, "util-linux", "`stack.enter`"),
    (
        "ensurepip",
        Proof::PythonModule,
        "python3-venv",
        "MiniStack's Python environment",
    ),
    (
        "objdump",
        Proof::Program,
        "binutils",
        "the check of the Lambda functions",
    ),
    ("curl", Proof::Program, "curl", "the stack's tests"),
    ("g++", Proof::Program, "g++", "the fuzz targets"),
    ("pgrep", Proof::Program, "procps", "the launcher's tests"),
];

const GVISOR: &[(&str, Proof, &str, &str)] = &[
    ("gcc", Proof::Program, "gcc", "the build of runc"),
    (
        "pkg-config",
        Proof::Program,
        "pkg-config",
        "the build of runc",
    ),
    (
        "/usr/include/seccomp.h",
        Proof::Header,
        "libseccomp-dev",
        "the build of runc",
    ),
    ("modprobe", Proof::Program, "kmod", "the bridge's firewall"),
    ("iptables", Proof::Program, "iptables", "kube-router"),
    ("ipset", Proof::Program, "ipset", "kube-router"),
    ("nft", Proof::Program, "nftables", "kube-proxy"),
];

/// What this machine lacks to run a stack with such a node.
pub fn missing(node: NodeKind) -> Vec<Missing> {
    let node: &[_] = match node {
        NodeKind::Gvisor => GVISOR,
        NodeKind::Kwok | NodeKind::None => &[],
    };
    COMMON
        .iter()
        .chain(node)
        .filter(|(what, proof, ..)| !is_there(what, proof))
        .map(|&(what, _, package, needed_by)| Missing {
            what,
            package,
            needed_by,
        })
        .collect()
}

/// Which of these Debian packages this machine lacks, files of which are `needed_by` something.
pub fn absent(packages: &[&'static str], needed_by: &'static str) -> Vec<Missing> {
    let installed = |package: &str| {
        let output = Command::new("dpkg").args(["--listfiles", package]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let absent = packages.iter().filter(|package| !installed(package));
    absent
        .map(|package| Missing {
            what: package,
            package,
            needed_by,
        })
        .collect()
}

/// Installs what is missing, which needs root; otherwise the error says what to run.
pub fn install(missing: &[Missing], listener: &mut Listener<'_>) -> Result<(), PackageError> {
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing
        .iter()
        .map(Missing::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let mut packages: Vec<_> = missing.iter().map(|missing| missing.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !geteuid().is_root() {
        return Err(PackageError::NotRoot {
            missing: list,
            packages: packages.join(" "),
        });
    }
    let failed = |problem: String| PackageError::AptGet {
        missing: list.clone(),
        packages: packages.join(" "),
        problem,
    };
    let apt_get = |arguments: &[&str]| {
        let output = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )),
        }
    };
    let step = format!("install {}", packages.join(", "));
    Steps::new(1, listener).run(&step, Some(Duration::from_secs(15)), || {
        let install: Vec<&str> = ["install", "--yes", "--no-install-recommends"]
            .into_iter()
            .chain(packages.iter().copied())
            .collect();
        // The lists may be absent or too old; they are fetched only when that shows.
        apt_get(&install).or_else(|_| {
            apt_get(&["update"])?;
            apt_get(&install)
        })
    })
}

/// Sees to it that the kernel shows a bridge's traffic to the firewall, without which no policy
/// holds between pods of one node. Returns what to do where that is not in our hands.
pub fn load_bridge_firewall() -> Result<(), &'static str> {
    let loaded = || Path::new("/proc/sys/net/bridge").is_dir();
    if !loaded() {
        // Whether it worked shows in what is loaded then.
        let _ = Command::new("modprobe").arg("br_netfilter").output();
    }
    if loaded() {
        Ok(())
    } else {
        Err(
            "the kernel's br_netfilter cannot be loaded here, without which no policy holds between pods; try `modprobe br_netfilter`, or use a simulated node",
        )
    }
}

fn is_there(what: &str, proof: &Proof) -> bool {
    match proof {
        Proof::Program => search_path().any(|dir| dir.join(what).is_file()),
        Proof::Header => Path::new(what).is_file(),
        Proof::PythonModule => Command::new("python3")
            .args(["-c", &format!("import {what}")])
            .output()
            .is_ok_and(|output| output.status.success()),
    }
}

/// The administrator's directories are looked into even if they are not on the user's `PATH`.
fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .collect::<Vec<_>>()
        .into_iter()
}

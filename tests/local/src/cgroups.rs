//! The stack's own cgroup: everything that its kubelet creates lies below it.
//!
//! Version 1 has one hierarchy for each controller, version 2 has one for all; in both the stack's
//! cgroup is a directory of its name at the top of each.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const ROOT: &str = "/sys/fs/cgroup";

/// The cgroup's name, as the kubelet is told it.
pub(crate) fn name(id: &str) -> String {
    format!("carapace-{id}")
}

/// Creates the cgroup in every hierarchy.
pub(crate) fn create(id: &str) -> io::Result<()> {
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(name(id));
        fs::create_dir_all(&dir)?;
        // A cpuset of version 1 starts empty, and nothing can run in an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = hierarchy.join(file);
            if inherited.is_file() && !is_v2(&hierarchy) {
                fs::write(dir.join(file), fs::read(inherited)?)?;
            }
        }
    }
    Ok(())
}

/// Kills what is left in the cgroup and removes it. What stays after `patience` is reported.
pub(crate) fn remove(id: &str, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(name(id));
        loop {
            match remove_tree(&dir) {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{}: {error}", dir.display()),
                    ));
                }
                // Busy until the killed processes are gone.
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for pid in fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
    {
        // Zero is a process of another pid namespace, and kill(0) would be this process's own group.
        if let Some(pid) = pid.parse().ok().filter(|pid| *pid > 0) {
            // Gone already is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    // The files in it are the kernel's; they go with the directory.
    fs::remove_dir(dir)
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    if is_v2(&root) {
        return vec![root];
    }
    let Ok(entries) = fs::read_dir(&root) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        // Names such as `cpu` may be links to `cpu,cpuacct`; a hierarchy has its own task file.
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").is_file())
        .collect();
    found.sort();
    found
}

fn is_v2(hierarchy: &Path) -> bool {
    hierarchy.join("cgroup.controllers").is_file()
}

//! What a stack must not leave behind.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use carapace_local::{Cache, StackInfo};

use crate::eventually;

/// Everything of one stack that lies outside its state directory, written down while it is up.
pub(crate) struct Traces {
    id: String,
    state_dir: PathBuf,
    /// Its processes' namespaces, as the kernel names them.
    namespaces: Vec<PathBuf>,
}

impl Traces {
    pub(crate) fn of(info: &StackInfo, parts: &[u32]) -> Self {
        let own: Vec<PathBuf> = namespaces_of("self");
        let mut namespaces: Vec<PathBuf> = parts
            .iter()
            .flat_map(|pid| namespaces_of(&pid.to_string()))
            .filter(|namespace| !own.contains(namespace))
            .collect();
        namespaces.sort();
        namespaces.dedup();
        Self {
            id: info.id.clone(),
            state_dir: info.state_dir.clone(),
            namespaces,
        }
    }

    /// A stack that was not up long enough to be looked at.
    pub(crate) fn of_directory(state_dir: &Path) -> Self {
        Self {
            id: String::new(),
            state_dir: state_dir.to_owned(),
            namespaces: Vec::new(),
        }
    }

    /// Whether the traces were worth writing down.
    pub(crate) fn ensure_complete(&self) -> Result<()> {
        ensure!(
            self.namespaces.len() >= 3,
            "a stack has its own network, mounts and process numbers, not only {:?}",
            self.namespaces
        );
        Ok(())
    }

    pub(crate) fn await_none(&self) -> Result<()> {
        eventually("nothing is left", || {
            let found: Vec<String> = [self.processes(), self.cgroups(), self.mounts()].concat();
            ensure!(found.is_empty(), "{found:#?}");
            ensure!(
                !self.state_dir.join("stack.json").exists()
                    && !self.state_dir.join("data").exists(),
                "its state is still there"
            );
            Ok(())
        })
    }

    /// Processes by where they live, by what they carry in their environment, by which program they
    /// run and by their cgroup: a container's process shows only some of these.
    fn processes(&self) -> Vec<String> {
        let programs = Cache::of_user().root().to_owned();
        // A starter is this very program, which may itself have been compiled into the cache.
        let this = env::current_exe().unwrap_or_default();
        let mark = format!("CARAPACE_STACK={}", self.id);
        let cgroup = format!("carapace-{}", self.id);
        let state_dir = self.state_dir.to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else {
                continue;
            };
            let read = |file: &str| {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let lives_there = namespaces_of(pid)
                .iter()
                .any(|namespace| self.namespaces.contains(namespace));
            let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            let command = read("cmdline");
            let is_part =
                program.starts_with(&programs) && program != this && command.contains(&state_dir);
            let is_marked = !self.id.is_empty()
                && (read("environ").contains(&mark) || read("cgroup").contains(&cgroup));
            if lives_there || is_part || is_marked {
                found.push(format!("process {pid}: {}", command.replace('\0', " ")));
            }
        }
        found
    }

    fn cgroups(&self) -> Vec<String> {
        let name = format!("carapace-{}", self.id);
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
        hierarchies
            .map(|hierarchy| hierarchy.path().join(&name))
            .chain([root.join(&name)])
            .filter(|cgroup| !self.id.is_empty() && cgroup.exists())
            .map(|cgroup| format!("cgroup {}", cgroup.display()))
            .collect()
    }

    fn mounts(&self) -> Vec<String> {
        let state_dir = self.state_dir.to_string_lossy().into_owned();
        fs::read_to_string("/proc/self/mounts")
            .unwrap_or_default()
            .lines()
            .filter(|mount| mount.contains(&state_dir))
            .map(|mount| format!("mount {mount}"))
            .collect()
    }
}

fn namespaces_of(pid: &str) -> Vec<PathBuf> {
    ["net", "mnt", "pid"]
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .collect()
}

//! gVisor's containerd shim, made to run where root lacks `CAP_SYS_RESOURCE`.
//!
//! The shim lowers its own OOM score and dies when that is forbidden, as it is in many containers
//! and virtual machines. containerd itself can be told to tolerate it (`restrict_oom_score_adj`),
//! the function the shim borrows from it cannot. So the shim is built against a copy of that
//! module in which one condition is wider.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{BuildError, copy_tree, download, io_error};
use crate::cache::Cache;

const CONTAINERD: &str = "github.com/containerd/containerd/v2";
const PATCHED_FILE: &str = "pkg/sys/oom_linux.go";
const CONDITION: &str =
    "if os.IsPermission(err) && (!runningPrivileged() || userns.RunningInUserNS()) {";
/// The wider condition; it still names both functions, or their imports would be unused.
pub(super) const PATCH: &str =
    "if os.IsPermission(err) && (!runningPrivileged() || userns.RunningInUserNS() || true) {";

/// A folder with gVisor's pins whose containerd is the patched copy.
pub(super) fn patched_module(
    cache: &Cache,
    pins: &Path,
    program: &Path,
) -> Result<PathBuf, BuildError> {
    // Beside the programs' own folder and of the same name: it changes exactly when they do.
    let name = program
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default();
    let dir = cache.root().join("source").join(name);
    let containerd = dir.join("containerd");
    let go_mod = dir.join("go.mod");
    if go_mod.is_file() {
        return Ok(dir);
    }
    fs::create_dir_all(&dir).map_err(io_error("creating", &dir))?;
    copy_tree(
        &download("containerd-shim-runsc-v1", CONTAINERD, pins)?,
        &containerd,
    )?;
    patch(&containerd.join(PATCHED_FILE))?;
    copy_tree(&pins.join("go.sum"), &dir.join("go.sum"))?;
    let pins = pins.join("go.mod");
    let text = fs::read_to_string(&pins).map_err(io_error("reading", &pins))?;
    // Last, since it marks the folder as complete.
    fs::write(
        &go_mod,
        format!("{text}\nreplace {CONTAINERD} => ./containerd\n"),
    )
    .map_err(io_error("writing", &go_mod))?;
    Ok(dir)
}

fn patch(path: &Path) -> Result<(), BuildError> {
    let text = fs::read_to_string(path).map_err(io_error("reading", path))?;
    if text.matches(CONDITION).count() != 1 {
        return Err(BuildError::PatchDoesNotApply {
            path: path.to_owned(),
            pattern: CONDITION,
        });
    }
    fs::write(path, text.replace(CONDITION, PATCH)).map_err(io_error("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_changed_is_not_built_unpatched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oom_linux.go");
        fs::write(&path, "if os.IsPermission(err) {").unwrap();
        let error = patch(&path).unwrap_err();
        assert!(matches!(error, BuildError::PatchDoesNotApply { .. }));
        fs::write(&path, format!("a\n{CONDITION}\nb")).unwrap();
        patch(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("a\n{PATCH}\nb"));
    }
}

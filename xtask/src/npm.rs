//! The CDK app's packages, exactly as its lock file has them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::quietly;

/// `npm ci`, unless what is installed is what the lock file says.
pub(crate) fn install(directory: &Path) -> Result<()> {
    let lock =
        fs::read(directory.join("package-lock.json")).context("reading package-lock.json")?;
    // Written last: an interrupted installation leaves none.
    let marker = directory.join("node_modules/.installed-lock");
    if fs::read(&marker).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    quietly(
        Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(directory),
    )?;
    fs::write(&marker, lock).with_context(|| format!("writing {}", marker.display()))
}

//! Running other programs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    // xtask is never installed: it serves the repository that it was compiled in.
    PathBuf::from(env!("CARAPACE_ROOT"))
}

/// The `cargo` that runs us, without what it told us about our own package: build scripts that
/// look at these variables would run again whenever we are not the one who builds.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// Runs a command whose output matters only when it fails; then the error shows the end of it.
pub(crate) fn quietly(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let args: Vec<_> = command
        .get_args()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let shown = format!(
        "{} {}",
        name.rsplit('/').next().unwrap_or(&name),
        args.join(" ")
    );
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!("cannot start `{name}`: is it installed? `cargo xtask doctor` tells")
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(40)..].join("\n  ");
    bail!("`{shown}` failed ({}):\n  {tail}", output.status)
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    // The owner of our own entry in /proc is the effective user.
    std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

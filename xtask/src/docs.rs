//! The parts of docs/ that are generated: the state graphs and the event schemas.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process::root;

/// Writes every generated part, or, with `check`, fails if one is not current.
pub(crate) fn generate(check: bool) -> Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for (path, text) in expected()? {
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        if !check {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        changed.push(path);
    }
    if check && !changed.is_empty() {
        let names: Vec<_> = changed.iter().map(|p| p.display().to_string()).collect();
        bail!(
            "not current: {}; run `cargo xtask docs` and commit what it writes",
            names.join(", ")
        );
    }
    Ok(changed)
}

/// Every state machine of the repository.
pub(crate) fn machines() -> Result<Vec<carapace_asl::Machine>> {
    Ok(carapace_asl::parse_directory(
        &root().join("statemachines"),
    )?)
}

/// What each file should hold.
fn expected() -> Result<Vec<(PathBuf, String)>> {
    let docs = root().join("docs");
    let architecture = docs.join("architecture.md");
    let mut text = fs::read_to_string(&architecture)?;
    for machine in machines()? {
        let graph = format!(
            "```mermaid\n{}\n```",
            carapace_asl::mermaid(&machine).trim_end()
        );
        text =
            carapace_asl::replace_block(&text, &format!("statemachine {}", machine.name), &graph)
                .with_context(|| format!("writing the graphs into {}", architecture.display()))?;
    }
    let mut files = vec![(architecture, text)];
    for (name, schema) in carapace_core::event::schemas() {
        files.push((docs.join("events").join(name), schema));
    }
    Ok(files)
}

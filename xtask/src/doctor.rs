//! `cargo xtask doctor`: what this machine has and lacks.

use std::process::Command;

use anyhow::{Result, bail};
use carapace_local::{Cache, NodeKind, packages};

use crate::openclaw;
use crate::process::is_root;
use crate::ui::Ui;

/// The pins that version managers read, too.
const GO: &str = include_str!("../../.go-version");
const NODE: &str = include_str!("../../.node-version");
const PYTHON: &str = include_str!("../../.python-version");

/// A program that must be there, the least version of it, and how to get it.
struct Tool {
    name: &'static str,
    version_argument: &'static str,
    least: &'static str,
    how: &'static str,
}

const TOOLS: [Tool; 6] = [
    Tool {
        name: "cargo",
        version_argument: "--version",
        least: env!("CARGO_PKG_RUST_VERSION"),
        how: "https://rustup.rs; rust-toolchain.toml names the version",
    },
    Tool {
        name: "go",
        version_argument: "version",
        least: GO,
        how: "https://go.dev/dl",
    },
    Tool {
        name: "node",
        version_argument: "--version",
        least: NODE,
        how: "https://nodejs.org",
    },
    Tool {
        name: "npm",
        version_argument: "--version",
        least: "10",
        how: "it comes with Node.js",
    },
    Tool {
        name: "python3",
        version_argument: "--version",
        least: PYTHON,
        how: "apt-get install python3 python3-venv",
    },
    Tool {
        name: "cc",
        version_argument: "--version",
        least: "0",
        how: "apt-get install gcc libc6-dev",
    },
];

/// Looks at everything; fails if something is missing that cannot be installed on the way.
pub(crate) fn run(ui: Ui) -> Result<()> {
    let mut missing = 0;
    ui.heading("Toolchains");
    for tool in &TOOLS {
        match found(tool) {
            Ok(version) => ui.holds(&format!("{} {version}", tool.name)),
            Err(problem) => {
                missing += 1;
                ui.fails(&format!("{}: {problem}; get it: {}", tool.name, tool.how));
            }
        }
    }

    ui.heading("The real node (gVisor)");
    let root = is_root();
    if root {
        ui.holds("root: namespaces, cgroups and containerd can be used");
    } else {
        ui.fails("not root: only the simulated node can be used (`--node kwok`)");
    }
    let mut packages = packages::missing(NodeKind::Gvisor);
    packages.extend(openclaw::missing());
    for package in &packages {
        ui.note(&format!(
            "missing: {package}{}",
            if root {
                "; it is installed when a stack needs it"
            } else {
                ""
            }
        ));
    }
    if packages.is_empty() {
        ui.holds("every Debian package that it and the agents in it need is installed");
    }

    ui.heading("Caches");
    ui.row("Built parts", Cache::of_user().root().display());
    if missing > 0 {
        bail!("{missing} toolchain(s) are missing or too old");
    }
    Ok(())
}

fn found(tool: &Tool) -> Result<String, String> {
    let output = Command::new(tool.name)
        .arg(tool.version_argument)
        .output()
        .map_err(|_| "not found".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = version(&text).ok_or_else(|| format!("no version in {text:?}"))?;
    let least = tool.least.trim();
    if numbers(found) < numbers(least) {
        return Err(format!("{found} is older than {least}"));
    }
    Ok(found.to_owned())
}

/// The first thing in a text that looks like `major.minor` or more.
fn version(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find(|word| word.split('.').filter(|part| !part.is_empty()).count() > 1)
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_print() {
        assert_eq!(
            version("cargo 1.95.0 (f2d3ce0bd 2026-03-21)"),
            Some("1.95.0")
        );
        assert_eq!(version("go version go1.26.8 linux/amd64"), Some("1.26.8"));
        assert_eq!(version("v20.20.2"), Some("20.20.2"));
        assert_eq!(version("gcc (Debian 12.2.0-14) 12.2.0"), Some("12.2.0"));
        assert_eq!(version("none"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("1.26.8") > numbers("1.26.3"));
        assert!(numbers("1.26.10") > numbers("1.26.8"));
        assert!(numbers("20.20.2") > numbers("20"));
        assert!(numbers("3.9.2") < numbers("3.11"));
    }
}

//! The Lambda functions as zip-able directories: `<out>/<name>/bootstrap`.

mod kept;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use kept::Kept;

use crate::process::{cargo, quietly, root};

/// The newest glibc that Lambda's `provided.al2023` has.
const GLIBC: (u32, u32) = (2, 34);

/// Every function: the package it is built from and its name.
pub(crate) const FUNCTIONS: &[(&str, &str)] = &[
    ("carapace-signup", "pre-sign-up"),
    ("carapace-signup", "pre-token"),
    ("carapace-sandbox", "sandbox-claim"),
    ("carapace-sandbox", "sandbox-bind"),
    ("carapace-sandbox", "sandbox-announce"),
    ("carapace-sandbox", "sandbox-retire"),
    ("carapace-slack", "slack-ingress"),
    ("carapace-slack", "slack-reply"),
    ("carapace-conversation", "conversation-accept"),
    ("carapace-conversation", "conversation-turn"),
    ("carapace-user", "user-onboard"),
    ("carapace-user", "user-offboard"),
];

/// The packages whose functions can be killed by a scenario.
const MORTAL: [&str; 4] = [
    "carapace-sandbox",
    "carapace-slack",
    "carapace-conversation",
    "carapace-user",
];

/// What the functions are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// AWS: the `lambda` profile.
    Deployment,
    /// The demo: the same code, built fast.
    Demo,
    /// The scenarios: as for the demo, and able to die where a scenario asks for it.
    Scenarios,
}

impl For {
    /// Cargo's own target directory serves both; the features differ only in the last crates.
    fn directory(self) -> &'static str {
        match self {
            Self::Deployment => "dist/lambda",
            Self::Demo => "target/lambda-demo",
            Self::Scenarios => "target/lambda-scenarios",
        }
    }
}

/// One built function.
#[derive(Debug)]
pub(crate) struct Built {
    /// Its name.
    pub name: &'static str,
    /// The size of its binary in bytes.
    pub bytes: u64,
}

/// Builds all functions and lays them out; returns the directory and what is in it.
pub(crate) fn build(target: For) -> Result<(PathBuf, Vec<Built>)> {
    let root = root();
    let programs = match target {
        For::Deployment => for_deployment(&root)?,
        For::Demo | For::Scenarios => for_the_stack(target)?,
    };
    let out = root.join(target.directory());
    let mut built = Vec::new();
    for (name, program) in programs {
        let bootstrap = out.join(name).join("bootstrap");
        fs::create_dir_all(out.join(name))?;
        replace(&program, &bootstrap)?;
        built.push(Built {
            name,
            bytes: fs::metadata(&bootstrap)?.len(),
        });
    }
    Ok((out, built))
}

/// A function's name and its program.
type Program = (&'static str, PathBuf);

/// As the tests are compiled, with whose dependencies they share.
fn for_the_stack(target: For) -> Result<Vec<Program>> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked", "--workspace"]);
    for (_, name) in FUNCTIONS {
        command.args(["--bin", name]);
    }
    if target == For::Scenarios {
        for package in MORTAL {
            command.args(["--features", &format!("{package}/fault-injection")]);
        }
    }
    quietly(&mut command)?;
    let directory = target_dir().join("debug");
    let names = FUNCTIONS.iter().map(|&(_, name)| name);
    Ok(names.map(|name| (name, directory.join(name))).collect())
}

/// By themselves, so that they have the features of their own packages and no others.
fn for_deployment(root: &Path) -> Result<Vec<Program>> {
    let kept = Kept::of_user(root)?;
    let mut programs: Vec<Program> = Vec::new();
    let mut missing = Vec::new();
    for &(_, name) in FUNCTIONS {
        match kept.get(name) {
            Some(program) => programs.push((name, program)),
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        let mut command = cargo();
        command.args(["build", "--quiet", "--locked", "--profile", "lambda"]);
        // All of them, whatever is missing: with fewer, the dependencies' features would be others.
        let packages: BTreeSet<&str> = FUNCTIONS.iter().map(|(package, _)| *package).collect();
        for package in packages {
            command.args(["--package", package]);
        }
        for name in &missing {
            command.args(["--bin", name]);
        }
        quietly(&mut command)?;
    }
    let directory = target_dir().join("lambda");
    for name in missing {
        let program = directory.join(name);
        runs_on_lambda(&program)?;
        kept.put(name, &program, &directory.join(format!("{name}.d")))?;
        programs.push((name, program));
    }
    Ok(programs)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Puts a copy of `from` at `to` unless the same bytes are there: an untouched file keeps the
/// CDK's asset hash and its upload.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // A running function may hold the old file open: never write into it.
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary)?;
    fs::rename(&temporary, to).with_context(|| format!("writing {}", to.display()))
}

/// Fails if the binary asks for a newer glibc than Lambda has: it would not start there.
fn runs_on_lambda(binary: &Path) -> Result<()> {
    let text = quietly(Command::new("objdump").arg("-T").arg(binary))?;
    // A weak reference is one that the program can do without.
    let needed = text
        .lines()
        .filter(|line| line.split_whitespace().nth(1) != Some("w"));
    let newest = needed
        .flat_map(|line| line.split("GLIBC_").skip(1))
        .filter_map(version)
        .max();
    match newest {
        Some(needed) if needed > GLIBC => bail!(
            "{} needs glibc {}.{}, but provided.al2023 has {}.{}: build on Debian 12 or older",
            binary.display(),
            needed.0,
            needed.1,
            GLIBC.0,
            GLIBC.1,
        ),
        _ => Ok(()),
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let text = text
        .split(|c: char| c != '.' && !c.is_ascii_digit())
        .next()?;
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_glibc_are_compared_as_numbers() {
        assert_eq!(version("2.34) memcpy"), Some((2, 34)));
        assert!(version("2.4") < version("2.34"));
        assert_eq!(version("PRIVATE) x"), None);
    }
}

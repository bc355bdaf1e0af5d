//! Functions that were built for deployment before, kept in the user's cache by the content of
//! everything that they are made of.
//!
//! Cargo goes by files' times, which are new in every clone, and to link one function takes a minute.
//! What a function is made of is what cargo wrote down when it built it: a source that came since is
//! named by one that changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use carapace_local::Cache;
use carapace_oci_image::Digest;
use serde::{Deserialize, Serialize};

use crate::process::quietly;

/// The functions that are kept, seen from one checkout.
pub(super) struct Kept<'a> {
    root: &'a Path,
    directory: PathBuf,
    settings: String,
}

/// What is written down beside a function.
#[derive(Debug, Serialize, Deserialize)]
struct MadeOf {
    /// Of what holds for all of them, see [`settings`].
    settings: String,
    /// Of the program itself: the two files are not written at once.
    program: String,
    /// Of the sources, by their path in the repository.
    sources: BTreeMap<String, String>,
}

impl<'a> Kept<'a> {
    /// What the user's cache holds for the checkout at `root`.
    pub(super) fn of_user(root: &'a Path) -> Result<Self> {
        Ok(Self {
            root,
            directory: Cache::of_user().root().join("lambdas"),
            settings: settings(root)?,
        })
    }

    /// The function's program, if it was built from exactly what is here.
    pub(super) fn get(&self, name: &str) -> Option<PathBuf> {
        let made_of = fs::read(self.made_of(name)).ok()?;
        let made_of: MadeOf = serde_json::from_slice(&made_of).ok()?;
        let program = self.program(name);
        let same = |path: &Path, digest: &str| {
            fs::read(path).is_ok_and(|bytes| Digest::of(&bytes).hex() == digest)
        };
        let current = made_of.settings == self.settings
            && same(&program, &made_of.program)
            && (made_of.sources.iter()).all(|(path, digest)| same(&self.root.join(path), digest));
        current.then_some(program)
    }

    /// Keeps a program that was just built; `dep_info` is what cargo wrote down about it.
    pub(super) fn put(&self, name: &str, program: &Path, dep_info: &Path) -> Result<()> {
        let said = fs::read_to_string(dep_info)
            .with_context(|| format!("reading {}", dep_info.display()))?;
        let mut sources = BTreeMap::new();
        for path in prerequisites(&said) {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let inside = path.strip_prefix(self.root).with_context(|| {
                format!("{name} is made of {}, which is not ours", path.display())
            })?;
            let inside = inside.to_str().context("a source's path is not UTF-8")?;
            sources.insert(inside.to_owned(), Digest::of(&bytes).hex().to_owned());
        }
        let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
        let made_of = MadeOf {
            settings: self.settings.clone(),
            program: Digest::of(&bytes).hex().to_owned(),
            sources,
        };
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("creating {}", self.directory.display()))?;
        super::replace(program, &self.program(name))?;
        let partial = self.directory.join(format!("{name}.partial"));
        fs::write(&partial, serde_json::to_vec(&made_of)?)?;
        fs::rename(&partial, self.made_of(name))?;
        Ok(())
    }

    fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn made_of(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.made-of"))
    }
}

/// A hash of what holds for all functions: the manifests with the profile and the versions, the
/// compiler, and what the caller's environment tells cargo to do otherwise.
fn settings(root: &Path) -> Result<String> {
    let mut all = Vec::new();
    let mut manifests = vec![
        root.join(".cargo/config.toml"),
        root.join("Cargo.lock"),
        root.join("Cargo.toml"),
    ];
    for parent in ["crates", "functions"] {
        let mut members: Vec<_> = fs::read_dir(root.join(parent))
            .and_then(|entries| entries.map(|e| Ok(e?.path())).collect())
            .with_context(|| format!("reading {parent}/"))?;
        members.sort();
        manifests.extend(members.iter().map(|member| member.join("Cargo.toml")));
    }
    for path in manifests {
        all.extend(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    all.extend(quietly(Command::new("rustc").arg("-vV").current_dir(root))?.into_bytes());
    let mut told: Vec<_> = std::env::vars()
        .filter(|(name, _)| name.contains("RUSTFLAGS") || name.starts_with("CARGO_PROFILE_"))
        .collect();
    told.sort();
    all.extend(format!("{told:?}").into_bytes());
    Ok(Digest::of(&all).hex().to_owned())
}

/// The files of a rule as `make` reads it, in which a space in a name is `\ `.
fn prerequisites(rule: &str) -> Vec<PathBuf> {
    let list = rule.split_once(": ").map_or("", |(_, list)| list);
    let list = list.lines().next().unwrap_or_default().replace("\\ ", "\0");
    list.split_whitespace()
        .map(|path| PathBuf::from(path.replace('\0', " ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        directory: tempfile::TempDir,
        settings: &'static str,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let place = Self {
                directory,
                settings: "release",
            };
            place.write("main source.rs", "fn main() {}");
            place.write("built", "a program");
            let rule = format!("built: {}\n", place.at("main\\ source.rs").display());
            place.write("built.d", &rule);
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.at(name), text).unwrap();
        }

        fn kept(&self) -> Kept<'_> {
            Kept {
                root: self.directory.path(),
                directory: self.at("cache"),
                settings: self.settings.to_owned(),
            }
        }

        fn put(&self) {
            let (program, rule) = (self.at("built"), self.at("built.d"));
            self.kept().put("f", &program, &rule).unwrap();
        }
    }

    #[test]
    fn a_function_is_found_as_long_as_it_is_made_of_the_same() {
        let mut place = Place::new();
        assert_eq!(place.kept().get("f"), None);
        place.put();
        let found = place.kept().get("f").unwrap();
        assert_eq!(fs::read_to_string(found).unwrap(), "a program");
        place.write("main source.rs", "fn main() { }");
        assert_eq!(place.kept().get("f"), None, "a source changed");
        place.write("main source.rs", "fn main() {}");
        assert!(place.kept().get("f").is_some(), "and back");
        place.settings = "other";
        assert_eq!(place.kept().get("f"), None, "the settings changed");
    }

    #[test]
    fn a_program_that_is_not_the_one_written_down_is_not_taken() {
        let place = Place::new();
        place.put();
        place.write("cache/f", "half a prog");
        assert_eq!(place.kept().get("f"), None);
        place.put();
        fs::remove_file(place.at("main source.rs")).unwrap();
        assert_eq!(place.kept().get("f"), None, "a source is gone");
    }

    #[test]
    fn a_source_from_elsewhere_is_not_passed_over() {
        let place = Place::new();
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        place.write(
            "built.d",
            &format!("built: {}\n", elsewhere.path().display()),
        );
        let put = place
            .kept()
            .put("f", &place.at("built"), &place.at("built.d"));
        assert!(put.is_err());
        assert_eq!(place.kept().get("f"), None);
    }
}

//! Builds the programs of the local stack from their published sources.
//!
//! Every program is a step of its own and is put in place by a rename, so an interrupted build goes
//! on where it stopped. What was built is kept in the [`Cache`] under a hash of the module's pins,
//! the flags and the compiler's version; the repository holds pins, never programs.

mod gvisor;
mod program;
mod python;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

pub use program::Program;
use program::{Module, ModuleFiles};
pub use python::python;
use serde::Deserialize;

use crate::{
    cache::{self, Cache, Key},
    progress::{Listener, Steps},
};

/// Why a program could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no Go on the `PATH`.
    #[error(
        "`go` is not on the PATH ({0}); install Go 1.26.8 or newer from https://go.dev/dl or your distribution"
    )]
    GoMissing(io::Error),
    /// The compiler or the module proxy said no.
    #[error("building {program} failed: `{command}` ended with {status}\n{output}")]
    Failed {
        /// What was being built.
        program: String,
        /// The command that failed.
        command: String,
        /// How it ended.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// A module file does not say what is expected of it.
    #[error("{path}: {problem}")]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The source that must be changed before it is built is not as it was.
    #[error(
        "{path} no longer contains the line `{pattern}`; look at what changed there and adapt tests/local/src/build/gvisor.rs"
    )]
    PatchDoesNotApply {
        /// The file to be patched.
        path: PathBuf,
        /// The line that was looked for.
        pattern: &'static str,
    },
    /// A file could not be read or written.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Where the wanted programs are.
#[derive(Clone, Debug, Default)]
pub struct Built {
    programs: BTreeMap<Program, PathBuf>,
}

impl Built {
    /// The program's file, if it was asked for.
    pub fn path(&self, program: Program) -> Option<&Path> {
        self.programs.get(&program).map(PathBuf::as_path)
    }

    /// Every program that was asked for.
    pub fn iter(&self) -> impl Iterator<Item = (Program, &Path)> {
        self.programs
            .iter()
            .map(|(program, path)| (*program, path.as_path()))
    }

    /// The files of the program's own module that belong to it: CRDs, roles, stages.
    pub(crate) fn files(&self, program: Program) -> Option<PathBuf> {
        self.path(program).map(files_beside)
    }
}

/// Builds those of `wanted` that the cache does not hold yet.
pub fn programs(
    cache: &Cache,
    wanted: &[Program],
    listener: &mut Listener<'_>,
) -> Result<Built, BuildError> {
    let go = go_version()?;
    let mut keys = BTreeMap::new();
    let mut built = Built::default();
    let mut missing = Vec::new();
    for &program in wanted {
        let module = program.module();
        let dir = match keys.get(&module) {
            Some(dir) => dir,
            None => keys
                .entry(module)
                .or_insert(cache.dir("bin", &module_key(module, &go)?)),
        };
        let path = dir.join(program.name());
        if !is_complete(program, &path) {
            missing.push((program, path.clone()));
        }
        built.programs.insert(program, path);
    }

    let mut steps = Steps::new(missing.len(), listener);
    for (program, path) in missing {
        let dir = path.parent().unwrap_or(cache.root()).to_owned();
        let _only_one = cache::lock(&dir, || {
            steps.note(&format!(
                "another process builds into {}; waiting for it",
                dir.display()
            ));
        })
        .map_err(io_error("locking", &dir))?;
        steps.run(
            &format!("build {program}"),
            Some(program.measured()),
            // The other process may have built it while this one waited.
            || match is_complete(program, &path) {
                true => Ok(()),
                false => build(cache, program, &path),
            },
        )?;
    }
    Ok(built)
}

/// How long the programs take to build, as measured, with nothing cached.
pub fn estimate(programs: &[Program]) -> Duration {
    programs.iter().map(|program| program.measured()).sum()
}

fn is_complete(program: Program, path: &Path) -> bool {
    path.is_file() && (program.files().is_none() || files_beside(path).is_dir())
}

fn build(cache: &Cache, program: Program, path: &Path) -> Result<(), BuildError> {
    let module = program.module();
    let source = match module {
        Module::Gvisor => gvisor::patched_module(cache, &sources(module), path)?,
        _ => sources(module),
    };
    let unfinished = beside(path, "unfinished");
    let mut go = go();
    go.args(["build", "-mod=readonly", "-trimpath", "-ldflags"])
        .arg(linker_flags(module)?)
        .arg("-o")
        .arg(&unfinished)
        .current_dir(&source)
        .env("CGO_ENABLED", if program.needs_c() { "1" } else { "0" });
    if let Some(tags) = program.tags() {
        go.args(["-tags", tags]);
    }
    go.arg(program.package());
    run(program.name(), &mut go)?;
    if let Some(files) = program.files() {
        copy_module_files(program, &files, &source, path)?;
    }
    // Last, since a program that is there is taken to be complete.
    fs::rename(&unfinished, path).map_err(io_error("renaming", &unfinished))
}

/// The programs need a few files that are published with them, such as CRDs. They are kept beside
/// the program, so that neither Go nor its module cache is needed to start a stack.
fn copy_module_files(
    program: Program,
    files: &ModuleFiles,
    source: &Path,
    path: &Path,
) -> Result<(), BuildError> {
    let from = download(program.name(), files.module, source)?;
    let unfinished = beside(path, "files-unfinished");
    let remove = |dir: &Path| match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("removing", dir)(error))
        }
        _ => Ok(()),
    };
    remove(&unfinished)?;
    fs::create_dir_all(&unfinished).map_err(io_error("creating", &unfinished))?;
    for file in files.paths {
        let from = from.join(file);
        let to = unfinished.join(from.file_name().unwrap_or_default());
        copy_tree(&from, &to)?;
    }
    let to = files_beside(path);
    remove(&to)?;
    fs::rename(&unfinished, &to).map_err(io_error("renaming", &unfinished))
}

/// The directory of a module's source, downloaded if need be.
fn download(program: &str, module: &str, main: &Path) -> Result<PathBuf, BuildError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Download {
        dir: PathBuf,
    }
    let mut go = go();
    go.args(["mod", "download", "-json", module])
        .current_dir(main);
    let output = run(program, &mut go)?;
    serde_json::from_str::<Download>(&output)
        .map(|download| download.dir)
        .map_err(|error| BuildError::Module {
            path: main.join("go.mod"),
            problem: format!("`go mod download -json {module}` was not understood: {error}"),
        })
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), BuildError> {
    if !from.is_dir() {
        let text = fs::read(from).map_err(io_error("reading", from))?;
        // Not `fs::copy`: it would keep the module cache's read-only mode.
        return fs::write(to, text).map_err(io_error("writing", to));
    }
    fs::create_dir_all(to).map_err(io_error("creating", to))?;
    for entry in fs::read_dir(from).map_err(io_error("reading", from))? {
        let entry = entry.map_err(io_error("reading", from))?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The folder with the pins of one Go module.
fn sources(module: Module) -> PathBuf {
    Path::new(env!("CARAPACE_ROOT"))
        .join("tests/local/go")
        .join(module.name())
}

fn module_key(module: Module, go_version: &str) -> Result<Key, BuildError> {
    let dir = sources(module);
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map_err(io_error("reading", &path))
    };
    let flags: Vec<&str> = Program::ALL
        .iter()
        .filter(|program| program.module() == module)
        .flat_map(|program| {
            [
                program.name(),
                program.package(),
                program.tags().unwrap_or_default(),
            ]
        })
        .collect();
    Ok(Key::of(
        module.name(),
        &[
            &read("go.mod")?,
            &read("go.sum")?,
            linker_flags(module)?.as_bytes(),
            flags.join(" ").as_bytes(),
            match module {
                Module::Gvisor => gvisor::PATCH.as_bytes(),
                _ => b"",
            },
            go_version.as_bytes(),
        ],
    ))
}

/// Kubernetes' version is only known to its own build scripts; without it every part says v0.0.0,
/// and a kubelet of an unknown version is refused by some clients.
fn linker_flags(module: Module) -> Result<String, BuildError> {
    const STRIPPED: &str = "-s -w";
    if module != Module::Kubernetes {
        return Ok(STRIPPED.to_owned());
    }
    let path = sources(module).join("go.mod");
    let version = required_version(&path, "k8s.io/kubernetes")?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    let base = "k8s.io/component-base/version";
    Ok(format!(
        "{STRIPPED} -X {base}.gitVersion={version} -X {base}.gitMajor={major} \
         -X {base}.gitMinor={minor} -X {base}.gitTreeState=clean \
         -X k8s.io/client-go/pkg/version.gitVersion={version}"
    ))
}

fn required_version(go_mod: &Path, module: &str) -> Result<String, BuildError> {
    let text = fs::read_to_string(go_mod).map_err(io_error("reading", go_mod))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(module)?.strip_prefix(' '))
        .find(|rest| rest.starts_with('v'))
        .and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .ok_or_else(|| BuildError::Module {
            path: go_mod.to_owned(),
            problem: format!("it does not require {module}"),
        })
}

fn go() -> Command {
    let mut go = Command::new("go");
    // The user's own flags and workspaces must not reach the pinned builds, and a missing toolchain
    // is something to say, not to download.
    go.env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .env("GO111MODULE", "on")
        .env_remove("GOFLAGS")
        .env_remove("GOOS")
        .env_remove("GOARCH");
    go
}

fn go_version() -> Result<String, BuildError> {
    match go().arg("version").output() {
        Err(error) => Err(BuildError::GoMissing(error)),
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
    }
}

/// Runs a step's command and gives what it printed.
fn run(program: &str, command: &mut Command) -> Result<String, BuildError> {
    let output = command.output();
    let line = format!("{command:?}").replace('"', "");
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            return Err(BuildError::Failed {
                program: program.to_owned(),
                command: line,
                status: error.to_string(),
                output: String::new(),
            });
        }
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    let lines: Vec<&str> = printed.lines().collect();
    Err(BuildError::Failed {
        program: program.to_owned(),
        command: line,
        status: output.status.to_string(),
        output: lines[lines.len().saturating_sub(20)..].join("\n"),
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

fn files_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.files"))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_program_is_a_tool_of_its_module() {
        for &program in Program::ALL {
            let go_mod = fs::read_to_string(sources(program.module()).join("go.mod")).unwrap();
            assert!(
                go_mod
                    .lines()
                    .any(|line| line.trim().trim_start_matches("tool ") == program.package()),
                "{program}: {} is not a tool of the module",
                program.package()
            );
        }
    }

    #[test]
    fn programs_have_names_of_their_own() {
        let names: BTreeSet<_> = Program::ALL.iter().map(|program| program.name()).collect();
        assert_eq!(names.len(), Program::ALL.len());
    }

    #[test]
    fn kubernetes_is_told_its_version() {
        let flags = linker_flags(Module::Kubernetes).unwrap();
        assert!(
            flags.contains(" -X k8s.io/component-base/version.gitVersion=v1."),
            "{flags}"
        );
        assert_eq!(linker_flags(Module::Node).unwrap(), "-s -w");
    }

    #[test]
    fn a_failed_build_says_what_failed_and_shows_its_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in $(seq 30); do echo line $i; done; exit 3"]);
        let message = run("etcd", &mut command).unwrap_err().to_string();
        assert!(message.starts_with("building etcd failed:"), "{message}");
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.contains("line 30") && !message.contains("line 10\n"));
    }
}

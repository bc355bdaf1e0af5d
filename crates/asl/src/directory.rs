//! Every state machine of a project.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::check::parse;
use crate::finding::Rejected;
use crate::machine::Machine;

/// Why a directory of state machines could not be read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The directory or a file in it cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// At least one file is no machine; all that is wrong with all of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Rejected(Vec<Rejected>),
}

/// Reads and checks every `*.asl.json` of a directory, in the order of their names.
pub fn parse_directory(directory: &Path) -> Result<Vec<Machine>, DirectoryError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error| DirectoryError::Unreadable { path, error }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
        let path = entry.map_err(unreadable(directory))?.path();
        if path.to_string_lossy().ends_with(".asl.json") {
            paths.push(path);
        }
    }
    paths.sort();
    let (mut machines, mut rejected) = (Vec::new(), Vec::new());
    for path in paths {
        let source = fs::read_to_string(&path).map_err(unreadable(&path))?;
        match parse(&path.display().to_string(), &source) {
            Ok(machine) => machines.push(machine),
            Err(error) => rejected.push(error),
        }
    }
    if rejected.is_empty() {
        Ok(machines)
    } else {
        Err(DirectoryError::Rejected(rejected))
    }
}

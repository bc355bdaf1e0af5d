//! From a file's text to a [`Machine`], or to everything that is wrong with it.

use std::path::Path;

use crate::finding::{Finding, Rejected};
use crate::machine::Machine;
use crate::read::{self, Notes};
use crate::{flow, json};

/// Reads and checks the text of a file.
///
/// `file` is what the findings call it, and gives the machine its name: `sandbox-create` for
/// `statemachines/sandbox-create.asl.json`.
pub fn parse(file: &str, source: &str) -> Result<Machine, Rejected> {
    let rejected = |mut findings: Vec<Finding>| {
        findings.sort();
        findings.dedup();
        Rejected {
            file: file.to_owned(),
            findings,
        }
    };
    let root = json::read(source).map_err(|error| {
        let message = format!("no JSON: {error}");
        rejected(vec![Finding {
            line: error.line(),
            path: String::new(),
            message,
        }])
    })?;
    let mut notes = Notes::default();
    let machine = read::machine(&name(file), source, &root, &mut notes);
    if let Some(machine) = &machine {
        flow::check(machine, &mut notes);
    }
    match machine {
        Some(machine) if notes.findings.is_empty() => Ok(machine),
        _ => Err(rejected(notes.findings)),
    }
}

fn name(file: &str) -> String {
    let name = Path::new(file)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    name.strip_suffix(".asl.json").unwrap_or(&name).to_owned()
}

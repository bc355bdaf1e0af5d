//! What is wrong with a definition, and where.

use std::fmt;

/// One thing that is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The line in the file, from 1.
    pub line: usize,
    /// The field, for example `States.ClaimSandbox.Catch[0].Next`; empty for the file as a whole.
    pub path: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

/// A definition that is no [`Machine`](crate::Machine), with all of the reasons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejected {
    /// The file, as the caller named it.
    pub file: String,
    /// Never empty; in the order of the file.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            index,
            Finding {
                line,
                path,
                message,
            },
        ) in self.findings.iter().enumerate()
        {
            if index > 0 {
                writeln!(formatter)?;
            }
            let separator = if path.is_empty() { "" } else { ": " };
            write!(
                formatter,
                "{}:{line}: {path}{separator}{message}",
                self.file
            )?;
        }
        Ok(())
    }
}

//! The socket on which a running stack is asked and told things.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::plan::Failure;
use crate::info::PartStatus;

/// One line of JSON from the library.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Status,
    Down,
    /// To outlive its starter.
    Detach,
    /// Adds a node whose pods are only said to run.
    AddKwokNode {
        name: String,
        program: PathBuf,
        stages: PathBuf,
    },
}

/// One line of JSON from the keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Status(Vec<PartStatus>),
    Done,
    Failed(Failure),
}

/// Asks the stack whose control socket this is.
pub(crate) fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

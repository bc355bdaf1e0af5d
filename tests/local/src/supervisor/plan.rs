//! What the keeper is told on its standard input, and what it tells on its standard output: one
//! JSON value a line.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{NodeKind, StackError, StackInfo, UnpackedImage};

/// Everything the keeper needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) state_dir: PathBuf,
    /// Whether the stack outlives the process that starts it.
    pub(crate) detached: bool,
    pub(crate) node: NodeKind,
    pub(crate) aws: Option<AwsPlan>,
    /// Program name → file.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// CRDs and roles of agent-sandbox.
    pub(crate) agent_sandbox_files: PathBuf,
    /// kwok's stages, wherever kwok is among the programs.
    pub(crate) kwok_stages: Option<PathBuf>,
    /// OCI archives for the real node; one of them holds the pause image.
    pub(crate) images: Vec<PathBuf>,
    /// Images whose root filesystems are on the disk already.
    pub(crate) unpacked: Vec<UnpackedImage>,
}

/// How MiniStack is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AwsPlan {
    pub(crate) python: PathBuf,
    pub(crate) launcher: PathBuf,
    /// Known to the API server and to MiniStack alone.
    pub(crate) webhook_secret: String,
    /// What the launcher's own routes ask for.
    pub(crate) admin_token: String,
}

/// What the keeper reports while the stack starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    Starting {
        part: String,
        number: usize,
        of: usize,
    },
    Ready {
        part: String,
        millis: u64,
    },
    Up(Box<StackInfo>),
    Failed(Failure),
}

/// A part that failed, and what its log says about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) part: String,
    pub(crate) problem: String,
    pub(crate) log: Option<PathBuf>,
    pub(crate) last_lines: String,
}

impl From<Failure> for StackError {
    fn from(failure: Failure) -> Self {
        let Failure {
            part,
            problem,
            log,
            last_lines,
        } = failure;
        Self::PartFailed {
            part,
            problem,
            last_lines,
            log,
        }
    }
}

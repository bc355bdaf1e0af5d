//! OCI images without Docker: one layer, the same bytes every time.
//!
//! An image is made in two steps that know nothing of each other. [`Image::build`] turns an
//! [`ImageSpec`] into three blobs (layer, configuration, manifest), each named by its digest: that
//! is all a registry's push needs. [`Image::write_archive`] puts those blobs into the tar of an OCI
//! image layout, which `ctr images import` takes.
//!
//! The root filesystem is the least that a static program expects: `/tmp` for everybody, a user
//! `agent` (1000) beside `root`, name resolution by files then DNS, and nothing to execute except
//! what the specification adds. That may be a whole tree of the machine's files: with
//! [`Image::build_in`] the layer goes through a file, and memory holds none of it.
//!
//! ```
//! use carapace_oci_image::{Image, ImageFile, ImageSpec, Reference};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let reference = Reference::parse("carapace.local/pause:dev")?;
//! let mut spec = ImageSpec::new(reference, ["/pause"]);
//! spec.files.push(ImageFile::executable("/pause", b"\x7fELF".to_vec()));
//! let image = Image::build(&spec)?;
//! let mut archive = Vec::new();
//! image.write_archive(&mut archive)?;
//! # Ok(())
//! # }
//! ```

mod archive;
mod blob;
mod layer;
mod reference;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use blob::{Blob, Digest};
pub use reference::{InvalidReference, Reference};

/// The user that agents run as. OpenClaw keeps its files to their owner, so that whoever shares
/// them, `agentd` above all, has to be the same user.
pub const AGENT_UID: u64 = 1000;

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// The name that the image is imported under.
    pub reference: Reference,
    /// What the binaries were compiled for.
    pub architecture: Architecture,
    /// The program and its first arguments; never a shell line.
    pub entrypoint: Vec<String>,
    /// The user the program runs as unless the pod says otherwise.
    pub uid: u64,
    /// Where the program starts.
    pub working_dir: String,
    /// Environment of the program.
    pub env: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Added to the root filesystem. Parent directories come by themselves.
    pub files: Vec<ImageFile>,
    /// A PEM bundle of the authorities to trust, for programs that speak TLS to the outside.
    pub ca_certificates: Option<Vec<u8>>,
}

impl ImageSpec {
    /// An image for this machine's architecture, run by the agent's user.
    pub fn new<E: Into<String>>(
        reference: Reference,
        entrypoint: impl IntoIterator<Item = E>,
    ) -> Self {
        Self {
            reference,
            architecture: Architecture::of_this_machine(),
            entrypoint: entrypoint.into_iter().map(Into::into).collect(),
            uid: AGENT_UID,
            working_dir: "/".to_owned(),
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            files: Vec::new(),
            ca_certificates: None,
        }
    }
}

/// A file in an image. It belongs to root and carries no time.
#[derive(Clone)]
pub struct ImageFile {
    /// Absolute path in the image.
    pub path: String,
    /// What is there.
    pub content: Content,
}

/// What is at a path in an image.
#[derive(Clone)]
pub enum Content {
    /// A file, held in memory.
    Bytes {
        /// Permission bits.
        mode: u32,
        /// Itself.
        bytes: Vec<u8>,
    },
    /// A file of this machine, with its permission bits, read when the layer is written.
    Copy(PathBuf),
    /// A symbolic link. Its target is not looked at.
    Link(PathBuf),
}

impl ImageFile {
    /// A program that everybody may run.
    pub fn executable(path: impl Into<String>, bytes: Vec<u8>) -> Self {
        let content = Content::Bytes { mode: 0o755, bytes };
        Self::new(path, content)
    }

    /// A file that everybody may read.
    pub fn data(path: impl Into<String>, bytes: Vec<u8>) -> Self {
        let content = Content::Bytes { mode: 0o644, bytes };
        Self::new(path, content)
    }

    /// A file as it is on this machine.
    pub fn copy(path: impl Into<String>, source: impl Into<PathBuf>) -> Self {
        Self::new(path, Content::Copy(source.into()))
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, target: impl Into<PathBuf>) -> Self {
        Self::new(path, Content::Link(target.into()))
    }

    /// All files and links below `source`, as if it were at `path`. What else a directory may hold
    /// (sockets, devices, empty directories) stays behind.
    pub fn tree(path: &str, source: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in source.read_dir()? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                let path = entry.path();
                io::Error::other(format!("{} is not UTF-8", path.display()))
            })?;
            let path = format!("{path}/{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                found.extend(Self::tree(&path, &entry.path())?);
            } else if kind.is_symlink() {
                found.push(Self::link(path, entry.path().read_link()?));
            } else if kind.is_file() {
                found.push(Self::copy(path, entry.path()));
            }
        }
        Ok(found)
    }

    fn new(path: impl Into<String>, content: Content) -> Self {
        Self {
            path: path.into(),
            content,
        }
    }
}

impl fmt::Debug for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.path)?;
        match &self.content {
            Content::Bytes { mode, bytes } => write!(f, "({mode:o}, {} bytes)", bytes.len()),
            Content::Copy(source) => write!(f, "(from {})", source.display()),
            Content::Link(target) => write!(f, "-> {}", target.display()),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { mode, bytes } => write!(f, "Bytes({mode:o}, {} bytes)", bytes.len()),
            Self::Copy(source) => f.debug_tuple("Copy").field(source).finish(),
            Self::Link(target) => f.debug_tuple("Link").field(target).finish(),
        }
    }
}

/// A processor, as OCI names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// `x86_64`
    Amd64,
    /// `aarch64`
    Arm64,
}

impl Architecture {
    /// What the running program was compiled for.
    pub const fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Arm64
        } else {
            Self::Amd64
        }
    }
}

/// Why an image can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The entrypoint is empty or relative: there is no `PATH` to look it up in.
    #[error(
        "the entrypoint of {reference} must begin with an absolute path, but is {entrypoint:?}"
    )]
    Entrypoint {
        /// The image.
        reference: Reference,
        /// What was given.
        entrypoint: Vec<String>,
    },
    /// A path that isn't absolute and plain would land outside the root filesystem.
    #[error("{0:?} is not an absolute path without `.`, `..` or empty parts")]
    Path(String),
    /// Two files claim one path, or one path is both a file and a directory.
    #[error("{0:?} is given twice")]
    Duplicate(String),
    /// A variable that no process could have.
    #[error("{0:?} can't be the name of an environment variable")]
    EnvironmentName(String),
    /// A file of this machine can't be read.
    #[error("reading {}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The tar writer refused an entry, or there is no room for the layer.
    #[error("writing the layer")]
    Layer(#[source] io::Error),
    /// The configuration or the manifest has no JSON.
    #[error("writing the image's JSON")]
    Json(#[from] serde_json::Error),
}

/// An image: push its blobs, the manifest last, or write them as an archive.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name it goes by.
    pub reference: Reference,
    /// What it runs on.
    pub architecture: Architecture,
    /// The root filesystem.
    pub layer: Blob,
    /// How to run it.
    pub config: Blob,
    /// What binds the two; its digest names the image.
    pub manifest: Blob,
}

impl Image {
    /// Builds the blobs, in memory. The same specification gives the same bytes, on any day and
    /// machine.
    pub fn build(spec: &ImageSpec) -> Result<Self, BuildError> {
        check_process(spec)?;
        let mut bytes = Vec::new();
        layer::write(spec, &mut bytes)?;
        Self::with_layer(spec, Blob::new(LAYER, bytes))
    }

    /// The same for an image that is too large for memory: the layer is kept in a file without a
    /// name in `directory`, which goes when the image does.
    pub fn build_in(spec: &ImageSpec, directory: &Path) -> Result<Self, BuildError> {
        check_process(spec)?;
        let mut file = blob::Writer::in_directory(directory).map_err(BuildError::Layer)?;
        layer::write(spec, &mut file)?;
        let layer = file.finish(LAYER).map_err(BuildError::Layer)?;
        Self::with_layer(spec, layer)
    }

    fn with_layer(spec: &ImageSpec, layer: Blob) -> Result<Self, BuildError> {
        let config = Blob::new(CONFIG, serde_json::to_vec(&config_of(spec, &layer.digest))?);
        let manifest = serde_json::to_vec(&Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            config: config.descriptor(),
            layers: [layer.descriptor()],
        })?;
        Ok(Self {
            reference: spec.reference.clone(),
            architecture: spec.architecture,
            layer,
            config,
            manifest: Blob::new(MANIFEST, manifest),
        })
    }

    /// What names the image wherever it is stored.
    pub fn digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// The blobs in the order that a registry wants them: what is referred to comes first.
    pub fn blobs(&self) -> [&Blob; 3] {
        [&self.layer, &self.config, &self.manifest]
    }

    /// Writes an OCI image layout as a tar.
    pub fn write_archive(&self, to: impl io::Write) -> io::Result<()> {
        archive::write(self, to)
    }
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The time of everything: an image differs only when its content does.
const CREATED: &str = "1970-01-01T00:00:00Z";

fn check_process(spec: &ImageSpec) -> Result<(), BuildError> {
    if !spec
        .entrypoint
        .first()
        .is_some_and(|program| program.starts_with('/'))
    {
        return Err(BuildError::Entrypoint {
            reference: spec.reference.clone(),
            entrypoint: spec.entrypoint.clone(),
        });
    }
    match spec
        .env
        .keys()
        .find(|name| name.is_empty() || name.contains(['=', '\0']))
    {
        Some(name) => Err(BuildError::EnvironmentName(name.clone())),
        None => Ok(()),
    }
}

fn config_of(spec: &ImageSpec, layer: &Digest) -> Configuration {
    Configuration {
        created: CREATED,
        architecture: spec.architecture,
        os: "linux",
        process: Process {
            user: format!("{uid}:{uid}", uid = spec.uid),
            env: spec
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            entrypoint: spec.entrypoint.clone(),
            working_dir: spec.working_dir.clone(),
            labels: spec.labels.clone(),
        },
        rootfs: RootFs {
            kind: "layers",
            diff_ids: [layer.clone()],
        },
    }
}

/// See the OCI image specification, `descriptor.md`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

#[derive(Serialize)]
struct Platform {
    architecture: Architecture,
    os: &'static str,
}

/// `manifest.md`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: [Descriptor; 1],
}

/// `config.md`
#[derive(Serialize)]
struct Configuration {
    created: &'static str,
    architecture: Architecture,
    os: &'static str,
    #[serde(rename = "config")]
    process: Process,
    rootfs: RootFs,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    entrypoint: Vec<String>,
    working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The layer isn't compressed, so what it holds and what is stored have one digest.
    diff_ids: [Digest; 1],
}

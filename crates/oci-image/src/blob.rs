//! Content by its digest, in memory or in a file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::Descriptor;

/// `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new_with_prefix(bytes))
    }

    /// The digits alone, as blobs are named in a layout.
    pub fn hex(&self) -> &str {
        self.0
            .split_once(':')
            .map_or(self.0.as_str(), |(_, hex)| hex)
    }

    fn from_hash(hash: Sha256) -> Self {
        Self(format!("sha256:{}", HEXLOWER.encode(&hash.finalize())))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Content with its type and name.
#[derive(Clone)]
pub struct Blob {
    /// What it is, in OCI's words.
    pub media_type: &'static str,
    /// Its name.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    store: Store,
}

#[derive(Clone)]
enum Store {
    Memory(Arc<[u8]>),
    File(Arc<File>),
}

impl Blob {
    pub(crate) fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            store: Store::Memory(bytes.into()),
        }
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type,
            digest: self.digest.clone(),
            size: self.size,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    /// The content, from its beginning.
    pub fn reader(&self) -> impl Read {
        Reader {
            store: self.store.clone(),
            at: 0,
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} ({} bytes)",
            self.media_type, self.digest, self.size
        )
    }
}

/// Readers of one file each keep their own place in it, so that they don't disturb each other.
struct Reader {
    store: Store,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.store {
            Store::Memory(bytes) => bytes.as_ref().read_at(buffer, self.at),
            Store::File(file) => file.read_at(buffer, self.at)?,
        };
        self.at += count as u64;
        Ok(count)
    }
}

trait ReadAt {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> usize;
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> usize {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..));
        let rest = rest.unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }
}

/// Writes a blob to a file and hashes it on the way.
pub(crate) struct Writer {
    file: BufWriter<File>,
    hash: Sha256,
    size: u64,
}

/// Large enough that hashing and writing are done in few, long strokes.
const BUFFER: usize = 1 << 20;

impl Writer {
    pub(crate) fn in_directory(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(directory)?),
            hash: Sha256::new(),
            size: 0,
        })
    }

    pub(crate) fn finish(self, media_type: &'static str) -> io::Result<Blob> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Blob {
            media_type,
            digest: Digest::from_hash(self.hash),
            size: self.size,
            store: Store::File(Arc::new(file)),
        })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

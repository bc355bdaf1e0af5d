//! The root filesystem, as one uncompressed tar.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tar::{EntryType, Header};

use crate::{AGENT_UID, BuildError, Content, ImageSpec};

/// For name resolution by a static glibc, which otherwise asks DNS before `/etc/hosts`.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";
const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\n\
                      agent:x:1000:1000:agent:/home/agent:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nagent:x:1000:\n";
/// Where OpenSSL, rustls-native-certs and Node all look first.
const CA_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Mode and owner of the directories that every image has.
const DIRECTORIES: [(&str, u32, u64); 8] = [
    ("/dev", 0o755, 0),
    ("/etc", 0o755, 0),
    ("/home", 0o755, 0),
    ("/home/agent", 0o700, AGENT_UID),
    ("/proc", 0o555, 0),
    ("/root", 0o700, 0),
    ("/sys", 0o555, 0),
    ("/tmp", 0o1777, 0),
];

enum Entry<'a> {
    Directory { mode: u32, owner: u64 },
    File { mode: u32, bytes: &'a [u8] },
    Copy(&'a Path),
    Link(&'a Path),
}

/// Entries are sorted by path, belong to root and have no times, so that the same content gives the
/// same bytes.
pub(crate) fn write(spec: &ImageSpec, to: impl io::Write) -> Result<(), BuildError> {
    let mut tar = tar::Builder::new(to);
    for (path, entry) in &entries(spec)? {
        append(&mut tar, path.trim_start_matches('/'), entry)?;
    }
    let mut to = tar.into_inner().map_err(BuildError::Layer)?;
    to.flush().map_err(BuildError::Layer)
}

fn append<W: io::Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    entry: &Entry<'_>,
) -> Result<(), BuildError> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let appended = match entry {
        Entry::Directory { mode, owner } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            header.set_uid(*owner);
            header.set_gid(*owner);
            tar.append_data(&mut header, format!("{path}/"), &[][..])
        }
        Entry::File { mode, bytes } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, *bytes)
        }
        Entry::Copy(source) => {
            let unreadable = |error| BuildError::Source {
                path: source.to_path_buf(),
                source: error,
            };
            let file = File::open(source).map_err(unreadable)?;
            let metadata = file.metadata().map_err(unreadable)?;
            header.set_entry_type(EntryType::Regular);
            // Who owns it is lost, so nothing may run with its owner's rights.
            header.set_mode(metadata.permissions().mode() & 0o777);
            header.set_size(metadata.len());
            // A file that changes meanwhile must not move what follows it.
            tar.append_data(&mut header, path, Exactly::new(file, metadata.len()))
        }
        Entry::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, target)
        }
    };
    appended.map_err(BuildError::Layer)
}

/// As many bytes as were promised, or an error.
struct Exactly<R> {
    inner: io::Take<R>,
}

impl<R: io::Read> Exactly<R> {
    fn new(inner: R, size: u64) -> Self {
        Self {
            inner: inner.take(size),
        }
    }
}

impl<R: io::Read> io::Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer)? {
            0 if self.inner.limit() > 0 && !buffer.is_empty() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            count => Ok(count),
        }
    }
}

fn entries(spec: &ImageSpec) -> Result<BTreeMap<String, Entry<'_>>, BuildError> {
    let mut entries = BTreeMap::new();
    for (path, mode, owner) in DIRECTORIES {
        entries.insert(path.to_owned(), Entry::Directory { mode, owner });
    }
    let given = spec.files.iter().map(|file| {
        let entry = match &file.content {
            Content::Bytes { mode, bytes } => Entry::File { mode: *mode, bytes },
            Content::Copy(source) => Entry::Copy(source),
            Content::Link(target) => Entry::Link(target),
        };
        (file.path.as_str(), entry)
    });
    let base = [
        ("/etc/passwd", PASSWD),
        ("/etc/group", GROUP),
        ("/etc/nsswitch.conf", NSSWITCH),
    ]
    .map(|(path, text)| (path, readable(text.as_bytes())));
    let authorities = spec
        .ca_certificates
        .as_deref()
        .map(|pem| (CA_CERTIFICATES, readable(pem)));
    for (path, entry) in base.into_iter().chain(authorities).chain(given) {
        add_parents(&mut entries, path)?;
        let before = entries.insert(path.to_owned(), entry);
        if before.is_some() {
            return Err(BuildError::Duplicate(path.to_owned()));
        }
    }
    Ok(entries)
}

fn readable(bytes: &[u8]) -> Entry<'_> {
    Entry::File { mode: 0o644, bytes }
}

fn add_parents(entries: &mut BTreeMap<String, Entry<'_>>, path: &str) -> Result<(), BuildError> {
    let parts: Vec<&str> = path
        .strip_prefix('/')
        .unwrap_or_default()
        .split('/')
        .collect();
    let plain = |part: &&str| !part.is_empty() && !matches!(*part, "." | "..");
    if !parts.iter().all(plain) || path.contains('\0') {
        return Err(BuildError::Path(path.to_owned()));
    }
    for depth in 1..parts.len() {
        let parent = format!("/{}", parts[..depth].join("/"));
        let directory = Entry::Directory {
            mode: 0o755,
            owner: 0,
        };
        // Below a link an entry would land wherever the link leads.
        let entry = entries.entry(parent.clone()).or_insert(directory);
        if !matches!(entry, Entry::Directory { .. }) {
            return Err(BuildError::Duplicate(parent));
        }
    }
    Ok(())
}

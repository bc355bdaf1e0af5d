//! The root filesystem, as one uncompressed tar.

use std::collections::BTreeMap;

use tar::{EntryType, Header};

use crate::{AGENT_UID, BuildError, ImageSpec};

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
}

/// Entries are sorted by path, belong to root and have no times, so that the same content gives the
/// same bytes.
pub(crate) fn write(spec: &ImageSpec) -> Result<Vec<u8>, BuildError> {
    let entries = entries(spec)?;
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in &entries {
        let relative = path.trim_start_matches('/');
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        let appended = match entry {
            Entry::Directory { mode, owner } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(*mode);
                header.set_uid(*owner);
                header.set_gid(*owner);
                header.set_size(0);
                tar.append_data(&mut header, format!("{relative}/"), &[][..])
            }
            Entry::File { mode, bytes } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(*mode);
                header.set_uid(0);
                header.set_gid(0);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, relative, *bytes)
            }
        };
        appended.map_err(BuildError::Layer)?;
    }
    tar.into_inner().map_err(BuildError::Layer)
}

fn entries(spec: &ImageSpec) -> Result<BTreeMap<String, Entry<'_>>, BuildError> {
    let mut entries = BTreeMap::new();
    for (path, mode, owner) in DIRECTORIES {
        entries.insert(path.to_owned(), Entry::Directory { mode, owner });
    }
    let given = spec
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.mode, &file.bytes[..]));
    let base = [
        ("/etc/passwd", PASSWD),
        ("/etc/group", GROUP),
        ("/etc/nsswitch.conf", NSSWITCH),
    ]
    .map(|(path, text)| (path, 0o644, text.as_bytes()));
    let authorities = spec
        .ca_certificates
        .as_deref()
        .map(|pem| (CA_CERTIFICATES, 0o644, pem));
    for (path, mode, bytes) in base.into_iter().chain(authorities).chain(given) {
        add_parents(&mut entries, path)?;
        let before = entries.insert(path.to_owned(), Entry::File { mode, bytes });
        if before.is_some() {
            return Err(BuildError::Duplicate(path.to_owned()));
        }
    }
    Ok(entries)
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
        if let Entry::File { .. } = entries.entry(parent.clone()).or_insert(directory) {
            return Err(BuildError::Duplicate(parent));
        }
    }
    Ok(())
}

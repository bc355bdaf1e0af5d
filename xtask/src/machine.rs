//! This machine's own files, as they go into an image: programs with the libraries they load, at the
//! paths where they are.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use carapace_oci_image::{Digest, ImageFile};

/// Links that Debian makes when a package is installed, so that no package lists them.
pub(crate) const LINKS: [(&str, &str); 7] = [
    ("/bin", "usr/bin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
    ("/sbin", "usr/sbin"),
    ("/usr/bin/awk", "mawk"),
    ("/usr/bin/sh", "dash"),
    ("/usr/bin/which", "which.debianutils"),
];

/// What packages bring for people to read, or for the machine's administrator.
const LEFT_OUT: [&str; 10] = [
    "/etc",
    "/usr/sbin",
    "/usr/share/bash-completion",
    "/usr/share/bug",
    "/usr/share/doc",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/locale",
    "/usr/share/man",
    "/usr/share/menu",
];

pub(crate) const CA_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Two, because two checkouts may take turns.
const KEPT_ARCHIVES: usize = 2;

/// Where a file of a package really is, if the image is to have it.
pub(crate) fn in_image(listed: &Path) -> Option<PathBuf> {
    // A package may call its file /bin/bash where /bin is a link.
    let path = listed
        .parent()?
        .canonicalize()
        .ok()?
        .join(listed.file_name()?);
    let kind = path.symlink_metadata().ok()?;
    let wanted = (kind.is_file() || kind.is_symlink())
        && !LEFT_OUT.iter().any(|left_out| path.starts_with(left_out))
        && !LINKS.iter().any(|(link, _)| path == Path::new(link));
    wanted.then_some(path)
}

/// The shared libraries that these programs load, and the loader itself.
pub(crate) fn libraries<P: AsRef<Path>>(
    programs: impl IntoIterator<Item = P>,
) -> Result<BTreeSet<PathBuf>> {
    let said = ldd(programs)?;
    let missing = said.lines().find(|line| line.contains("not found"));
    ensure!(
        missing.is_none(),
        "ldd says: {}",
        missing.unwrap_or_default().trim()
    );
    let found = named(&said)?;
    ensure!(!found.is_empty(), "ldd names no library at all");
    Ok(found)
}

/// The same for parts that may never be loaded, so that what they lack is no error.
pub(crate) fn libraries_if_any<P: AsRef<Path>>(
    parts: impl IntoIterator<Item = P>,
) -> Result<BTreeSet<PathBuf>> {
    named(&ldd(parts)?)
}

fn ldd<P: AsRef<Path>>(programs: impl IntoIterator<Item = P>) -> Result<String> {
    let mut command = Command::new("ldd");
    for program in programs {
        command.arg(program.as_ref());
    }
    // It fails as soon as one of them is linked statically, having told about all the others.
    let output = command.output().context("running ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The libraries that ldd found.
fn named(said: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in said.lines() {
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            continue;
        };
        // Lines that end with a colon name the program, not a library.
        if path.ends_with(':') {
            continue;
        }
        let path = Path::new(path);
        let listed = in_image(path).with_context(|| format!("{} is gone", path.display()))?;
        // Both the name that is looked for and the file that it leads to.
        found.insert(listed.canonicalize()?);
        found.insert(listed);
    }
    Ok(found)
}

pub(crate) fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.symlink_metadata().is_ok_and(|kind| kind.is_file())
        && File::open(path)
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut magic))
            .is_ok()
        && magic == *b"\x7fELF"
}

pub(crate) fn short(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()[..12].to_owned()
}

/// A file of this machine, at its own path.
pub(crate) fn as_it_is(path: &Path) -> Result<ImageFile> {
    let name = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(match path.read_link() {
        Ok(target) => ImageFile::link(name, target),
        Err(_) => ImageFile::copy(name, path),
    })
}

/// Removes what has not been used for longest: an archive has more than 800 MB.
pub(crate) fn forget_old_archives(directory: &Path) -> Result<()> {
    let mut archives = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // An unpacked image's description goes with its archive.
        if name.ends_with(".tar") && !name.ends_with(".json.tar") {
            archives.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    archives.sort();
    let old = archives.len().saturating_sub(KEPT_ARCHIVES);
    for (_, path) in &archives[..old] {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn libraries_come_with_the_file_behind_their_name_and_with_the_loader() {
        let found = libraries(["/usr/bin/env"]).unwrap();
        assert!(
            found.iter().any(|path| path.ends_with("libc.so.6")),
            "{found:?}"
        );
        assert!(
            found
                .iter()
                .any(|path| path.to_string_lossy().contains("ld-linux")),
            "{found:?}"
        );
        for path in &found {
            let directory = path.parent().unwrap();
            assert_eq!(directory, directory.canonicalize().unwrap());
            assert!(found.contains(&path.canonicalize().unwrap()), "{path:?}");
        }
    }

    #[test]
    fn the_oldest_archives_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        for (age, name) in [
            (3, "image-a.tar"),
            (1, "image-b.tar"),
            (2, "image-c.tar"),
            (8, "image-b.json.tar"),
            (9, "other"),
        ] {
            let file = File::create(directory.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(100 - age))
                .unwrap();
        }
        forget_old_archives(directory.path()).unwrap();
        let mut left: Vec<_> = directory
            .path()
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["image-b.json.tar", "image-b.tar", "image-c.tar", "other"]
        );
    }
}

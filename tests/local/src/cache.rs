//! Where built programs are kept between runs: the user's cache directory, never the repository.

use std::{
    env, fs,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// The directory that keeps what was built, by the hash of what it was built from.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$CARAPACE_CACHE`, else `$XDG_CACHE_HOME/carapace`, else `~/.cache/carapace`.
    pub fn of_user() -> Self {
        let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let root = from("CARAPACE_CACHE")
            .map(PathBuf::from)
            .or_else(|| from("XDG_CACHE_HOME").map(|home| PathBuf::from(home).join("carapace")))
            .or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".cache/carapace")))
            .unwrap_or_else(|| env::temp_dir().join("carapace-cache"));
        Self::at(root)
    }

    /// A cache elsewhere.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn dir(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(&key.0)
    }
}

/// Names a cache entry by what it is and by a hash of everything it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn of(name: &str, inputs: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for input in inputs {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            hash.update(input.len().to_le_bytes());
            hash.update(input);
        }
        Self(format!("{name}-{}", HEXLOWER.encode(&hash.finalize()[..6])))
    }
}

/// Makes this process the only one that fills `dir`, for as long as the file is held.
pub(crate) fn lock(dir: &Path, waiting: impl FnOnce()) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(".lock"))?;
    if file.try_lock().is_err() {
        waiting();
        file.lock()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn a_key_changes_with_each_input_and_with_where_one_ends() {
        let key = Key::of("node", &[b"ab", b"c"]);
        assert_eq!(key, Key::of("node", &[b"ab", b"c"]));
        assert_ne!(key, Key::of("node", &[b"a", b"bc"]));
        assert_ne!(key, Key::of("node", &[b"ab", b"d"]));
        assert_ne!(key, Key::of("kube", &[b"ab", b"c"]));
        assert_eq!(key.0.len(), "node-".len() + 12);
    }
}

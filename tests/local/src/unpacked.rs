//! Large images, unpacked once for all stacks.
//!
//! containerd takes an archive of 800 MB by reading, hashing, copying and unpacking it: some 20
//! seconds of a processor, for every stack anew, since no stack finds another's files. So the root
//! filesystem is kept beside the archive as plain files, and a stack gets a snapshot that leads
//! there. Containers only ever read it: what they write goes to a layer of their own.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// An image of one uncompressed layer whose root filesystem is on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnpackedImage {
    /// All of it as an OCI archive, for a node that cannot use what was unpacked.
    pub archive: PathBuf,
    /// The same archive without the layer.
    pub description: PathBuf,
    /// The layer's digest.
    pub layer: String,
    /// What the layer holds, as files with their owners and modes. Whoever removes it must hold its
    /// lock alone: see [`UnpackedImage::remove_unused`].
    pub root: PathBuf,
}

impl UnpackedImage {
    /// Keeps the root filesystem from being removed for as long as the file is held.
    pub(crate) fn hold(&self) -> io::Result<File> {
        let directory = File::open(&self.root)?;
        directory.lock_shared()?;
        // Whoever had it before may have removed it.
        match self.root.is_dir() {
            true => Ok(directory),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Removes an unpacked root filesystem, unless a stack uses it; gives whether it is gone.
    pub fn remove_unused(root: &Path) -> io::Result<bool> {
        let directory = match File::open(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            directory => directory?,
        };
        if directory.try_lock().is_err() {
            return Ok(false);
        }
        // Out of the way first: half a root filesystem must not be taken for a whole one.
        let doomed = root.with_extension("removed");
        std::fs::rename(root, &doomed)?;
        std::fs::remove_dir_all(&doomed)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stack_uses_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("image.root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let image = UnpackedImage {
            archive: directory.path().join("image.tar"),
            description: directory.path().join("image.json.tar"),
            layer: "sha256:0".to_owned(),
            root: root.clone(),
        };
        let first = image.hold().unwrap();
        let second = image.hold().unwrap();
        drop(first);
        assert!(!UnpackedImage::remove_unused(&root).unwrap());
        assert!(root.join("file").exists());
        drop(second);
        assert!(UnpackedImage::remove_unused(&root).unwrap());
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
        assert!(UnpackedImage::remove_unused(&root).unwrap(), "twice");
        assert_eq!(image.hold().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

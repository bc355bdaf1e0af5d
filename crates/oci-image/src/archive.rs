//! The OCI image layout (`image-layout.md`) in a tar, as `ctr images import` reads it.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use tar::{EntryType, Header};

use crate::{Descriptor, INDEX, Image, Platform};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: [Descriptor; 1],
}

pub(crate) fn write(image: &Image, to: impl io::Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    append(&mut tar, "oci-layout", layout.len() as u64, &layout[..])?;
    let index = serde_json::to_vec(&index(image))?;
    append(&mut tar, "index.json", index.len() as u64, &index[..])?;
    for blob in image.blobs() {
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        append(&mut tar, &name, blob.size, blob.reader())?;
    }
    tar.into_inner()?.flush()
}

fn index(image: &Image) -> Index {
    let mut descriptor = image.manifest.descriptor();
    descriptor.platform = Some(Platform {
        architecture: image.architecture,
        os: "linux",
    });
    descriptor.annotations = BTreeMap::from([
        // containerd's own annotation carries the full name; OCI's holds the tag alone.
        ("io.containerd.image.name", image.reference.to_string()),
        (
            "org.opencontainers.image.ref.name",
            image.reference.tag().to_owned(),
        ),
    ]);
    Index {
        schema_version: 2,
        media_type: INDEX,
        manifests: [descriptor],
    }
}

fn append<W: io::Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    tar.append_data(&mut header, name, content)
}

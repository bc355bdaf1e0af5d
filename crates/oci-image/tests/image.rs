//! What an image promises to whoever imports it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Read;

use carapace_oci_image::{BuildError, Digest, Image, ImageFile, ImageSpec, Reference};
use serde_json::{Value, json};

fn spec() -> ImageSpec {
    let reference = Reference::parse("carapace.local/agentd:dev").unwrap();
    let mut spec = ImageSpec::new(reference, ["/usr/bin/agentd", "--verbose"]);
    spec.files.push(ImageFile::executable(
        "/usr/bin/agentd",
        b"\x7fELF agentd".to_vec(),
    ));
    spec.files
        .push(ImageFile::data("/etc/agentd/readme", b"hello".to_vec()));
    spec.env.insert("RUST_LOG".to_owned(), "info".to_owned());
    spec.labels
        .insert("carapace.dev/part".to_owned(), "agentd".to_owned());
    spec
}

struct Entry {
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    bytes: Vec<u8>,
}

fn entries(tar: &[u8]) -> BTreeMap<String, Entry> {
    let mut names = Vec::new();
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let header = entry.header();
        names.push(path.clone());
        entries.insert(
            path,
            Entry {
                kind: header.entry_type(),
                mode: header.mode().unwrap(),
                owner: (header.uid().unwrap(), header.gid().unwrap()),
                mtime: header.mtime().unwrap(),
                bytes,
            },
        );
    }
    assert_eq!(names.len(), entries.len(), "no path twice: {names:?}");
    entries
}

fn archive(image: &Image) -> BTreeMap<String, Entry> {
    let mut bytes = Vec::new();
    image.write_archive(&mut bytes).unwrap();
    entries(&bytes)
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    Image::build(&spec())
        .unwrap()
        .write_archive(&mut first)
        .unwrap();
    let mut reordered = spec();
    reordered.files.reverse();
    Image::build(&reordered)
        .unwrap()
        .write_archive(&mut second)
        .unwrap();
    assert!(first == second, "the archives differ");
}

#[test]
fn another_byte_in_a_file_gives_another_image() {
    let mut changed = spec();
    changed.files[0].bytes[0] ^= 1;
    let (first, second) = (
        Image::build(&spec()).unwrap(),
        Image::build(&changed).unwrap(),
    );
    assert_ne!(first.digest(), second.digest());
    assert_ne!(first.layer.digest, second.layer.digest);
}

#[test]
fn every_digest_from_the_index_down_is_that_of_its_content() {
    let image = Image::build(&spec()).unwrap();
    let files = archive(&image);
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let follow = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let bytes = &files[&path].bytes;
        assert_eq!(Digest::of(bytes).to_string(), digest, "{path}");
        assert_eq!(descriptor["size"], bytes.len(), "{path}");
        bytes
    };
    assert_eq!(
        json(&files["oci-layout"].bytes),
        json!({"imageLayoutVersion": "1.0.0"})
    );
    let index = json(&files["index.json"].bytes);
    let descriptor = &index["manifests"][0];
    assert_eq!(
        descriptor["annotations"],
        json!({
            "io.containerd.image.name": "carapace.local/agentd:dev",
            "org.opencontainers.image.ref.name": "dev",
        })
    );
    let manifest = json(follow(descriptor));
    let config = json(follow(&manifest["config"]));
    let layer = follow(&manifest["layers"][0]);
    assert_eq!(
        config["rootfs"]["diff_ids"],
        json!([Digest::of(layer).to_string()])
    );
    assert_eq!(descriptor["digest"], image.digest().to_string());
    assert_eq!(files.len(), 5, "nothing else is in the archive");
}

#[test]
fn the_configuration_says_how_to_run_it() {
    let image = Image::build(&spec()).unwrap();
    let mut config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
    assert_eq!(
        config["config"].take(),
        json!({
            "User": "1000:1000",
            "Env": ["RUST_LOG=info"],
            "Entrypoint": ["/usr/bin/agentd", "--verbose"],
            "WorkingDir": "/",
            "Labels": {"carapace.dev/part": "agentd"},
        })
    );
    assert_eq!(config["os"], "linux");
}

#[test]
fn the_root_filesystem_is_what_a_static_program_expects() {
    let mut with_authorities = spec();
    with_authorities.ca_certificates = Some(b"-----BEGIN CERTIFICATE-----".to_vec());
    let files = entries(&Image::build(&with_authorities).unwrap().layer.bytes);
    let temporary = &files["tmp/"];
    assert_eq!(
        (temporary.kind, temporary.mode),
        (tar::EntryType::Directory, 0o1777)
    );
    let home = &files["home/agent/"];
    assert_eq!((home.owner, home.mode), ((1000, 1000), 0o700));
    let passwd = String::from_utf8(files["etc/passwd"].bytes.clone()).unwrap();
    assert!(
        passwd
            .lines()
            .any(|line| line.starts_with("agent:x:1000:1000:")),
        "{passwd}"
    );
    let program = &files["usr/bin/agentd"];
    assert_eq!((program.mode, program.owner), (0o755, (0, 0)));
    assert_eq!(files["etc/agentd/readme"].mode, 0o644);
    assert!(files.contains_key("etc/ssl/certs/ca-certificates.crt"));
    assert!(
        files.values().all(|file| file.mtime == 0),
        "a time would change the digest"
    );
}

#[test]
fn authorities_are_left_out_when_none_are_given() {
    let files = entries(&Image::build(&spec()).unwrap().layer.bytes);
    assert!(
        !files.keys().any(|path| path.contains("ssl")),
        "{:?}",
        files.keys()
    );
}

#[test]
fn a_directory_comes_before_what_it_holds() {
    let image = Image::build(&spec()).unwrap();
    let mut seen = Vec::new();
    for entry in tar::Archive::new(&image.layer.bytes[..]).entries().unwrap() {
        let path = entry.unwrap().path().unwrap().into_owned();
        let parent = path.parent().unwrap().to_owned();
        assert!(
            parent.as_os_str().is_empty() || seen.contains(&parent),
            "{}",
            path.display()
        );
        seen.push(path);
    }
}

#[test]
fn a_path_out_of_the_root_is_refused() {
    for path in [
        "agentd",
        "",
        "/",
        "/../agentd",
        "/usr/./agentd",
        "/usr//agentd",
        "/a\0b",
    ] {
        let mut hostile = spec();
        hostile.files.push(ImageFile::data(path, Vec::new()));
        let error = Image::build(&hostile).unwrap_err();
        assert!(
            matches!(error, BuildError::Path(ref at) if at == path),
            "{path:?}: {error}"
        );
    }
}

#[test]
fn a_path_given_twice_is_refused() {
    for path in [
        "/usr/bin/agentd",
        "/etc/passwd",
        "/usr/bin",
        "/usr/bin/agentd/too",
        "/tmp",
    ] {
        let mut doubled = spec();
        doubled.files.push(ImageFile::data(path, Vec::new()));
        let error = Image::build(&doubled).unwrap_err();
        assert!(
            matches!(error, BuildError::Duplicate(_)),
            "{path:?}: {error}"
        );
    }
}

#[test]
fn a_program_that_could_not_be_found_is_refused() {
    for entrypoint in [vec![], vec!["agentd".to_owned()]] {
        let mut lost = spec();
        lost.entrypoint = entrypoint;
        assert!(matches!(
            Image::build(&lost),
            Err(BuildError::Entrypoint { .. })
        ));
    }
}

#[test]
fn a_long_path_survives() {
    let mut deep = spec();
    let path = format!(
        "/opt/{}/file",
        "directory/".repeat(30).trim_end_matches('/')
    );
    deep.files
        .push(ImageFile::data(path.clone(), b"here".to_vec()));
    let files = entries(&Image::build(&deep).unwrap().layer.bytes);
    assert_eq!(files[path.trim_start_matches('/')].bytes, b"here");
}

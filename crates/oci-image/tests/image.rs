//! What an image promises to whoever imports it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use carapace_oci_image::{
    Blob, BuildError, Content, Digest, Image, ImageFile, ImageSpec, Reference,
};
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
    target: Option<PathBuf>,
}

fn bytes(blob: &Blob) -> Vec<u8> {
    let mut bytes = Vec::new();
    blob.reader().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, blob.size);
    bytes
}

fn entries(tar: &[u8]) -> BTreeMap<String, Entry> {
    let mut names = Vec::new();
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let target = entry.link_name().unwrap().map(std::borrow::Cow::into_owned);
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
                target,
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
    changed.files[0].content = Content::Bytes {
        mode: 0o755,
        bytes: b"\x7fELF agentD".to_vec(),
    };
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
    let mut config: Value = serde_json::from_slice(&bytes(&image.config)).unwrap();
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
    let files = entries(&bytes(&Image::build(&with_authorities).unwrap().layer));
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
    let files = entries(&bytes(&Image::build(&spec()).unwrap().layer));
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
    for entry in tar::Archive::new(image.layer.reader()).entries().unwrap() {
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
    let files = entries(&bytes(&Image::build(&deep).unwrap().layer));
    assert_eq!(files[path.trim_start_matches('/')].bytes, b"here");
}

/// A small tree of files, as a package manager leaves one.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("lib/empty")).unwrap();
    fs::write(at.join("lib/index.js"), "the library").unwrap();
    fs::write(at.join("run"), "the program").unwrap();
    fs::set_permissions(at.join("run"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(at.join("lib/index.js"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("../lib/index.js", at.join("lib/main")).unwrap();
    symlink("/nowhere", at.join("dangling")).unwrap();
}

fn with_tree(at: &Path) -> ImageSpec {
    let mut spec = spec();
    spec.files.extend(ImageFile::tree("/opt/app", at).unwrap());
    spec
}

#[test]
fn a_tree_keeps_its_modes_and_links() {
    let directory = tempfile::tempdir().unwrap();
    tree(directory.path());
    let image = Image::build(&with_tree(directory.path())).unwrap();
    let files = entries(&bytes(&image.layer));
    let program = &files["opt/app/run"];
    assert_eq!(program.bytes, b"the program");
    assert_eq!(program.mode, 0o755, "and no right of its owner");
    assert_eq!((program.owner, program.mtime), ((0, 0), 0));
    assert_eq!(files["opt/app/lib/index.js"].mode, 0o640);
    for (link, target) in [("lib/main", "../lib/index.js"), ("dangling", "/nowhere")] {
        let link = &files[&format!("opt/app/{link}")];
        assert_eq!(link.kind, tar::EntryType::Symlink);
        assert_eq!(link.target.as_deref(), Some(Path::new(target)));
        assert_eq!((link.owner, link.mtime), ((0, 0), 0));
    }
    assert!(!files.contains_key("opt/app/lib/empty/"));
}

#[test]
fn a_layer_in_a_file_is_the_same_as_one_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    tree(directory.path());
    let spec = with_tree(directory.path());
    let in_memory = Image::build(&spec).unwrap();
    let in_a_file = Image::build_in(&spec, scratch.path()).unwrap();
    assert_eq!(in_memory.digest(), in_a_file.digest());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    in_memory.write_archive(&mut first).unwrap();
    in_a_file.write_archive(&mut second).unwrap();
    assert!(first == second, "the archives differ");
    assert_eq!(Digest::of(&bytes(&in_a_file.layer)), in_a_file.layer.digest);
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "the file has no name"
    );
}

#[test]
fn the_same_tree_elsewhere_and_later_gives_the_same_image() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(first.path());
    tree(second.path());
    let old = fs::File::open(second.path().join("run")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let image = |at| Image::build(&with_tree(at)).unwrap();
    assert_eq!(image(first.path()).digest(), image(second.path()).digest());
}

#[test]
fn a_file_that_is_gone_is_named() {
    let mut lost = spec();
    lost.files.push(ImageFile::copy("/run", "/no/such/file"));
    let error = Image::build(&lost).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
}

#[test]
fn nothing_lies_below_a_link() {
    let mut led_astray = spec();
    led_astray.files.push(ImageFile::link("/lib", "usr/lib"));
    led_astray
        .files
        .push(ImageFile::data("/lib/libc.so", Vec::new()));
    let error = Image::build(&led_astray).unwrap_err();
    assert!(
        matches!(error, BuildError::Duplicate(ref at) if at == "/lib"),
        "{error}"
    );
}

#[test]
fn the_program_starts_where_it_was_told() {
    let mut elsewhere = spec();
    elsewhere.working_dir = "/opt/app".to_owned();
    let image = Image::build(&elsewhere).unwrap();
    let config: Value = serde_json::from_slice(&bytes(&image.config)).unwrap();
    assert_eq!(config["config"]["WorkingDir"], "/opt/app");
}

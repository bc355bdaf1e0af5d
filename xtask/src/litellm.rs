//! The image of the real LiteLLM, made without Docker: the pinned packages of PyPI, and this machine's
//! own Python to run them.
//!
//! Like OpenClaw's, it is kept in the user's cache by a hash of what it was made from.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use carapace_local::Cache;
use carapace_oci_image::{Content, Image, ImageFile, ImageSpec, Reference};
use serde::Deserialize;

use crate::machine::{self, CA_CERTIFICATES, LINKS};
use crate::process::quietly;
use crate::ui::Ui;

/// Where Python looks for the packages, beside its own.
const PACKAGES: &str = "/app/site-packages";
/// Python finds its library from where its program is.
const PROGRAM: &str = "/usr/local/bin/python3";
const LIBRARIES: &str = "/usr/local/lib";
/// As pip writes it, and as the image that LiteLLM's makers publish has it.
const LITELLM: &str = "/usr/local/bin/litellm";
const SCRIPT: &str =
    "#!/usr/local/bin/python3\nfrom litellm.proxy.proxy_cli import run_server\nrun_server()\n";
/// Of Python's library and of the packages: what only serves to install, to test, to draw windows, or,
/// with 170 MB, to export accounts.
const LEFT_OUT: [&str; 14] = [
    "_distutils_hack",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pip",
    "polars",
    "_polars_runtime_32",
    "pydoc_data",
    "setuptools",
    "site-packages",
    "test",
    "tkinter",
    "turtledemo",
];
/// Changed by hand when this file changes what it makes of the same inputs.
const RECIPE: u8 = 2;

/// What the interpreter says of itself.
#[derive(Deserialize)]
struct Python {
    program: PathBuf,
    library: PathBuf,
    packages: PathBuf,
    version: String,
}

impl Python {
    fn of(interpreter: &Path) -> Result<Self> {
        const QUESTION: &str = "import json, os, sys, sysconfig as s; print(json.dumps({\
            'program': os.path.realpath(sys._base_executable), \
            'library': s.get_path('stdlib'), \
            'packages': s.get_path('purelib'), \
            'version': s.get_python_version()}))";
        let said = quietly(Command::new(interpreter).args(["-c", QUESTION]))?;
        serde_json::from_str(&said)
            .with_context(|| format!("{} doesn't say where it is", interpreter.display()))
    }
}

/// Builds the image, unless the cache has it; returns its archive. The interpreter is that of an
/// environment with LiteLLM's packages.
pub(crate) fn build(ui: Ui, interpreter: &Path) -> Result<PathBuf> {
    let directory = Cache::of_user().root().join("litellm");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let lock = File::create(directory.join(".lock"))?;
    lock.lock()?;
    let python = Python::of(interpreter)?;
    // The environment's own path has a hash of all that is in it.
    let key = format!(
        "{RECIPE} {} {} {}",
        python.packages.display(),
        python.program.display(),
        python.version
    );
    let archive = directory.join(format!("image-{}.tar", machine::short(key.as_bytes())));
    if !archive.exists() {
        let step = ui.step("LiteLLM's image", Some(Duration::from_secs(15)));
        write(&archive, &python)?;
        step.done("LiteLLM's image");
    }
    File::open(&archive)?.set_modified(SystemTime::now())?;
    machine::forget_old_archives(&directory)?;
    Ok(archive)
}

/// The image, in an archive that is there whole or not at all.
fn write(archive: &Path, python: &Python) -> Result<()> {
    let mut spec = ImageSpec::new(Reference::parse("carapace.local/litellm:dev")?, [LITELLM]);
    spec.env.extend(
        [
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("PYTHONPATH", PACKAGES),
            ("LD_LIBRARY_PATH", LIBRARIES),
            // Nothing can be written beside the packages.
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    spec.ca_certificates = Some(
        fs::read(CA_CERTIFICATES)
            .context("reading the authorities; is ca-certificates installed?")?,
    );
    let library = format!("{LIBRARIES}/python{}", python.version);
    let mut natives = vec![python.program.clone()];
    for (path, source) in [
        (library.as_str(), &python.library),
        (PACKAGES, &python.packages),
    ] {
        for mut file in ImageFile::tree(path, source)? {
            let below = file.path[path.len()..].trim_start_matches('/');
            if is_left_out(below) {
                continue;
            }
            if let Content::Copy(source) = &file.content {
                if machine::is_elf(source) {
                    natives.push(source.clone());
                }
                if source.extension().is_some_and(|it| it == "pyc") {
                    file = ImageFile::data(file.path.clone(), timeless(fs::read(source)?));
                }
            }
            spec.files.push(file);
        }
    }
    spec.files.push(ImageFile::copy(PROGRAM, &python.program));
    spec.files
        .push(ImageFile::executable(LITELLM, SCRIPT.as_bytes().to_vec()));
    for (link, target) in LINKS
        .into_iter()
        .filter(|(link, _)| link.starts_with("/lib"))
    {
        spec.files.push(ImageFile::link(link, target));
    }
    for path in libraries(&natives, python)? {
        let own = python
            .library
            .parent()
            .is_some_and(|lib| path.starts_with(lib));
        match (own, path.file_name().and_then(|name| name.to_str())) {
            // Its own, and its directory may be closed to the image's user.
            (true, Some(name)) if !path.starts_with("/usr/lib") => {
                spec.files.push(ImageFile::copy(
                    format!("{LIBRARIES}/{name}"),
                    path.canonicalize()?,
                ));
            }
            _ => spec.files.push(machine::as_it_is(&path)?),
        }
    }
    let directory = archive.parent().context("the archive has no directory")?;
    let image = Image::build_in(&spec, directory)?;
    let partial = directory.join("image-partial");
    image.write_archive(BufWriter::with_capacity(1 << 20, File::create(&partial)?))?;
    fs::rename(&partial, archive).with_context(|| format!("writing {}", archive.display()))
}

fn is_left_out(below: &str) -> bool {
    let top = below.split('/').next().unwrap_or_default();
    let name = top.split_once('-').map_or(top, |(name, _)| name);
    LEFT_OUT.contains(&top)
        || LEFT_OUT.contains(&name)
        || (name == "config" && top.starts_with("config-"))
        // Debian's library is beside other programs' packages.
        || name == "dist"
}

/// The libraries that these load, without those that the packages bring along.
fn libraries(natives: &[PathBuf], python: &Python) -> Result<BTreeSet<PathBuf>> {
    let found = machine::libraries_if_any(natives)?;
    Ok(found
        .into_iter()
        .filter(|path| !path.starts_with(&python.packages))
        .collect())
}

/// Compiled Python says of which time its source was, and an image's files have no times: without this
/// it would all be compiled again at each start, and nowhere be kept. The form that says "of this
/// source, don't check" is PEP 552's.
fn timeless(mut compiled: Vec<u8>) -> Vec<u8> {
    const UNCHECKED_HASH: u32 = 0b01;
    if let Some(flags) = compiled.get_mut(4..8) {
        flags.copy_from_slice(&UNCHECKED_HASH.to_le_bytes());
    }
    compiled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_serves_to_install_or_to_test_is_left_out() {
        for (below, left_out) in [
            ("pip/__init__.py", true),
            ("pip-24.0.dist-info/METADATA", true),
            ("test/support.py", true),
            ("config-3.11-x86_64-linux-gnu/libpython3.11.a", true),
            ("site-packages/x.py", true),
            ("dist-packages/x.py", true),
            ("site.py", false),
            ("json/tests/x.py", false),
            ("litellm/proxy/proxy_cli.py", false),
            ("os.py", false),
        ] {
            assert_eq!(is_left_out(below), left_out, "{below}");
        }
    }

    #[test]
    fn compiled_python_is_not_checked_against_its_source() {
        let compiled = vec![
            0xa7, 0x0d, 0x0d, 0x0a, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
        ];
        let timeless = timeless(compiled.clone());
        assert_eq!(timeless[4..8], [1, 0, 0, 0]);
        assert_eq!(timeless[8..], compiled[8..]);
    }
}

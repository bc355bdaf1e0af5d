//! The two images of the tests, both made of one small program that is compiled on the spot.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};
use carapace_oci_image::{Image, ImageFile, ImageSpec, Reference};

/// What the tests' pods run.
pub(crate) const POD: &str = "carapace.local/pod:dev";
const PAUSE: &str = "carapace.local/pause:dev";

/// OCI archives of both, made once for all tests.
pub(crate) fn archives() -> Result<Vec<PathBuf>> {
    static MADE: OnceLock<Result<Vec<PathBuf>, String>> = OnceLock::new();
    MADE.get_or_init(|| make().map_err(|error| format!("{error:?}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn make() -> Result<Vec<PathBuf>> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = dir.join("pod");
    let source = Path::new(env!("CARAPACE_ROOT")).join("tests/local/tests/stack/pod.rs");
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "-O", "-C", "strip=symbols"])
        // There is nothing in the image to link against.
        .args(["-C", "target-feature=+crt-static", "-o"])
        .args([&program, &source])
        .output()
        .context("running rustc")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let binary = fs::read(&program)?;
    [(PAUSE, "pause.tar"), (POD, "pod.tar")]
        .into_iter()
        .map(|(name, file)| {
            let mut spec = ImageSpec::new(Reference::parse(name)?, ["/pod"]);
            spec.files
                .push(ImageFile::executable("/pod", binary.clone()));
            let archive = dir.join(file);
            Image::build(&spec)?.write_archive(fs::File::create(&archive)?)?;
            Ok(archive)
        })
        .collect()
}

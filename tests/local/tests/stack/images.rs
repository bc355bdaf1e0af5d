//! The two images of the tests, both made of one small program that is compiled on the spot.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};
use carapace_local::UnpackedImage;
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

/// The tests' own image as files in `dir`.
pub(crate) fn unpacked(dir: &Path) -> Result<UnpackedImage> {
    let archive = archives()?
        .into_iter()
        .find(|archive| archive.ends_with("pod.tar"))
        .context("the pod's image was not made")?;
    let mut spec = ImageSpec::new(Reference::parse(POD)?, ["/pod"]);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pod");
    spec.files
        .push(ImageFile::executable("/pod", fs::read(program)?));
    let image = Image::build(&spec)?;
    let layer = format!("blobs/sha256/{}", image.layer.digest.hex());
    let (files, root) = (dir.join("files"), dir.join("image.root"));
    for directory in [&files, &root] {
        fs::create_dir(directory)?;
    }
    let description = dir.join("image.json.tar");
    tar(&["-xf", text(&archive)?, "-C", text(&files)?])?;
    tar(&["-xf", text(&files.join(&layer))?, "-C", text(&root)?])?;
    fs::remove_file(files.join(&layer))?;
    let rest = ["oci-layout", "index.json", "blobs"];
    tar(&[
        &["-cf", text(&description)?, "-C", text(&files)?],
        &rest[..],
    ]
    .concat())?;
    Ok(UnpackedImage {
        archive,
        description,
        layer: image.layer.digest.to_string(),
        root,
    })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn tar(arguments: &[&str]) -> Result<()> {
    let status = Command::new("tar").args(arguments).status()?;
    ensure!(status.success(), "tar {arguments:?}: {status}");
    Ok(())
}

//! Large images as plain files beside their archives, which a stack and tests use as they are.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carapace_local::UnpackedImage;
use serde_json::Value;

use crate::process::quietly;
use crate::ui::Ui;

/// Unpacks an archive of one layer, unless that was done before. Nobody may write below the root
/// filesystem: it is everybody's.
pub(crate) fn unpack(ui: Ui, what: &str, archive: &Path) -> Result<UnpackedImage> {
    let directory = archive.parent().context("the archive has no directory")?;
    let lock = File::create(directory.join(".lock"))?;
    lock.lock()?;
    forget_old_roots(directory)?;
    let description = archive.with_extension("json.tar");
    let root = archive.with_extension("root");
    let manifest = read(archive, &manifest_of(archive)?)?;
    let layer = manifest["layers"][0]["digest"]
        .as_str()
        .with_context(|| format!("{} has no layer", archive.display()))?
        .to_owned();
    if !description.exists() {
        describe(archive, &manifest, &description)?;
    }
    if !root.exists() {
        let step = ui.step(
            &format!("{what}'s image, unpacked"),
            Some(Duration::from_secs(15)),
        );
        extract(archive, &blob(&manifest["layers"][0])?, &root)?;
        step.done(&format!("{what}'s image, unpacked"));
    }
    Ok(UnpackedImage {
        archive: archive.to_owned(),
        description,
        layer,
        root,
    })
}

/// The archive without its layer: what is left are some kilobytes.
fn describe(archive: &Path, manifest: &Value, description: &Path) -> Result<()> {
    let partial = archive.with_extension("json-partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    let members = [
        "oci-layout".to_owned(),
        "index.json".to_owned(),
        manifest_of(archive)?,
        blob(&manifest["config"])?,
    ];
    quietly(
        Command::new("tar")
            .args(["--extract", "--directory"])
            .arg(&partial)
            .arg("--file")
            .arg(archive)
            .args(&members),
    )?;
    let unfinished = partial.join("description.tar");
    quietly(
        Command::new("tar")
            .args(["--create", "--directory"])
            .arg(&partial)
            .arg("--file")
            .arg(&unfinished)
            .args(&members),
    )?;
    fs::rename(&unfinished, description)
        .with_context(|| format!("writing {}", description.display()))?;
    fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))
}

fn extract(archive: &Path, layer: &str, root: &Path) -> Result<()> {
    let partial = archive.with_extension("root-partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    let mut outer = Command::new("tar")
        .args(["--extract", "--to-stdout", "--file"])
        .arg(archive)
        .arg(layer)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting tar")?;
    let layer = outer.stdout.take().context("tar has no output")?;
    let inner = Command::new("tar")
        .args(["--extract", "--numeric-owner", "--directory"])
        .arg(&partial)
        .stdin(layer)
        .status()
        .context("starting tar")?;
    ensure!(
        outer.wait()?.success() && inner.success(),
        "{} can't be unpacked into {}: is there room?",
        archive.display(),
        partial.display()
    );
    fs::rename(&partial, root).with_context(|| format!("writing {}", root.display()))
}

/// Removes what belongs to archives that are gone, except for what a running stack uses.
fn forget_old_roots(directory: &Path) -> Result<()> {
    for entry in directory.read_dir()? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        if let Some(image) = name.strip_suffix(".root")
            && !Path::new(&format!("{image}.tar")).exists()
        {
            UnpackedImage::remove_unused(&path)
                .with_context(|| format!("removing {}", path.display()))?;
        }
        if let Some(image) = name.strip_suffix(".json.tar")
            && !Path::new(&format!("{image}.tar")).exists()
        {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn manifest_of(archive: &Path) -> Result<String> {
    blob(&read(archive, "index.json")?["manifests"][0])
}

/// Where an archive has what a descriptor describes.
fn blob(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str();
    let hex = digest.and_then(|digest| digest.strip_prefix("sha256:"));
    Ok(format!(
        "blobs/sha256/{}",
        hex.context("a blob without a digest")?
    ))
}

fn read(archive: &Path, member: &str) -> Result<Value> {
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--to-stdout", "--file"]);
    let text = quietly(tar.arg(archive).arg(member))?;
    serde_json::from_str(&text).with_context(|| format!("{member} is no JSON"))
}

#[cfg(test)]
mod tests {
    use carapace_oci_image::{Image, ImageFile, ImageSpec, Reference};

    use super::*;

    #[test]
    fn an_archive_is_unpacked_beside_itself_and_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("image-1.tar");
        let reference = Reference::parse("carapace.local/x:dev").unwrap();
        let mut spec = ImageSpec::new(reference, ["/x"]);
        spec.files
            .push(ImageFile::executable("/x", vec![7; 100_000]));
        let image = Image::build(&spec).unwrap();
        image
            .write_archive(File::create(&archive).unwrap())
            .unwrap();

        let unpacked = unpack(Ui::new(), "X", &archive).unwrap();
        assert_eq!(fs::read(unpacked.root.join("x")).unwrap().len(), 100_000);
        assert_eq!(unpacked.layer, image.layer.digest.to_string());
        let described = fs::metadata(&unpacked.description).unwrap().len();
        assert!(described < 50_000, "{described} bytes");
        let listed = quietly(
            Command::new("tar")
                .args(["--list", "--file"])
                .arg(&unpacked.description),
        )
        .unwrap();
        assert!(listed.starts_with("oci-layout\nindex.json\n"), "{listed}");
        assert!(!listed.contains(image.layer.digest.hex()), "{listed}");

        fs::remove_file(&archive).unwrap();
        forget_old_roots(directory.path()).unwrap();
        assert!(!unpacked.root.exists() && !unpacked.description.exists());
    }
}

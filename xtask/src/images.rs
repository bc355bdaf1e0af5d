//! The container images of the local stack: static binaries, one layer each, made without Docker:
//! the same blobs can be pushed to a registry.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use carapace_oci_image::{Image, ImageFile, ImageSpec, Reference};

use crate::lambdas::target_dir;
use crate::process::{cargo, quietly};

/// The images, by the binary that each holds.
const IMAGES: [&str; 5] = [AGENTD, SCRIPTED_AGENT, "model-gateway", "slack", "pause"];
const SCRIPTED_AGENT: &str = "scripted-agent";
const AGENTD: &str = "agentd";

/// What was built.
pub(crate) struct Images {
    /// One OCI archive for each.
    pub archives: Vec<PathBuf>,
    /// The scripted agent's program by itself.
    pub scripted_agent: PathBuf,
    /// agentd by itself.
    pub agentd: PathBuf,
}

/// Builds the binaries, statically linked so that they need no base image, and writes one OCI
/// archive for each.
pub(crate) fn build() -> Result<Images> {
    let target = "x86_64-unknown-linux-gnu";
    // A directory of its own: other flags would throw away what the ordinary build has compiled.
    let directory = target_dir().join("static");
    quietly(
        cargo()
            .args([
                "build",
                "--quiet",
                "--locked",
                "--bins",
                "--target",
                target,
                "--target-dir",
            ])
            .arg(&directory)
            .args([
                "--package",
                "carapace-agentd",
                "--package",
                "carapace-stand-ins",
                "--config",
            ])
            .arg(format!(
                r#"target.{target}.rustflags=["-C","target-feature=+crt-static"]"#
            )),
    )?;
    let out = target_dir().join("images");
    fs::create_dir_all(&out)?;
    // Two jobs may want them at once.
    let _only_one = File::create(out.join(".lock")).and_then(|file| {
        file.lock()?;
        Ok(file)
    })?;
    let binaries = directory.join(target).join("debug");
    let mut archives = Vec::new();
    for name in IMAGES {
        let binary = binaries.join(name);
        let archive = out.join(format!("{name}.tar"));
        write(name, &binary, &archive)?;
        archives.push(archive);
    }
    Ok(Images {
        archives,
        scripted_agent: binaries.join(SCRIPTED_AGENT),
        agentd: binaries.join(AGENTD),
    })
}

/// One image in an archive that is there whole or not at all.
fn write(name: &str, binary: &Path, archive: &Path) -> Result<()> {
    let program = format!("/{name}");
    let reference = Reference::parse(&format!("carapace.local/{name}:dev"))?;
    let mut spec = ImageSpec::new(reference, [program.clone()]);
    let bytes = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    spec.files.push(ImageFile::executable(program, bytes));
    let image = Image::build(&spec)?;
    let partial = archive.with_extension("partial");
    image.write_archive(BufWriter::new(File::create(&partial)?))?;
    fs::rename(&partial, archive).with_context(|| format!("writing {}", archive.display()))
}

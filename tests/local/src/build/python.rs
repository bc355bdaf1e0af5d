//! A Python environment of exactly the packages that a requirements file pins.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{BuildError, io_error, run};
use crate::{
    cache::{self, Cache, Key},
    progress::{Listener, Steps},
};

/// The interpreter of an environment that holds what `requirements` asks for.
pub fn python(
    cache: &Cache,
    requirements: &Path,
    listener: &mut Listener<'_>,
) -> Result<PathBuf, BuildError> {
    let text = fs::read(requirements).map_err(io_error("reading", requirements))?;
    let version = run("python", Command::new("python3").arg("--version"))?;
    let key = Key::of("python", &[&text, version.as_bytes()]);
    let dir = cache.dir("python", &key);
    let venv = dir.join("venv");
    let interpreter = venv.join("bin/python");
    let complete = dir.join(".complete");
    if complete.is_file() {
        return Ok(interpreter);
    }
    let mut steps = Steps::new(1, listener);
    let _only_one = cache::lock(&dir, || {
        steps.note(&format!(
            "another process fills {}; waiting for it",
            dir.display()
        ));
    })
    .map_err(io_error("locking", &dir))?;
    if complete.is_file() {
        return Ok(interpreter);
    }
    steps.run(
        "install Python packages",
        Some(Duration::from_secs(20)),
        || {
            // Made in place, not renamed: an environment's scripts contain its path. The mark
            // written last is what says that it is complete.
            run(
                "the Python environment",
                Command::new("python3")
                    .args(["-m", "venv", "--clear"])
                    .arg(&venv),
            )?;
            run(
                "the Python environment",
                Command::new(&interpreter)
                    // Without dependencies, or what is not pinned would come at any version.
                    .args(["-m", "pip", "install", "--no-deps", "--quiet", "--no-input"])
                    .args(["--disable-pip-version-check", "--requirement"])
                    .arg(requirements),
            )?;
            fs::write(&complete, b"").map_err(io_error("writing", &complete))
        },
    )?;
    Ok(interpreter)
}

//! The death of a function at a point where it has just done something or is about to.
//!
//! The functions under test are built with the feature `fault-injection`: where such a point is
//! armed for a user, the process exits on the spot, as when Lambda kills it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use libtest_mimic::{Failed, Trial};

use crate::world::World;

/// The sides of a point.
pub(crate) const SIDES: [&str; 2] = ["before", "after"];

/// The scenario of one death, `a_function_killed_{side}_{point}_{promise}`; it is given the fault to
/// [`arm`].
pub(crate) fn trial(
    world: Option<&World>,
    (point, side): (&str, &str),
    promise: &str,
    scenario: fn(&World, &str) -> Result<()>,
) -> Trial {
    let fault = format!("{point}.{side}");
    let world = world.cloned();
    let point = point.replace(['.', '-'], "_");
    let name = format!("a_function_killed_{side}_{point}_{promise}");
    Trial::test(name, move || match &world {
        Some(world) => scenario(world, &fault).map_err(|error| Failed::from(format!("{error:?}"))),
        None => Err(Failed::from("there is no stack to run on")),
    })
}

/// Has the next function die that comes by the point for the user with this key: ours or Slack's,
/// whichever the function goes by. It takes away the file that is returned.
pub(crate) fn arm(world: &World, key: impl AsRef<Path>, fault: &str) -> Result<PathBuf> {
    let directory = world.faults().join(key);
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let file = directory.join(fault);
    fs::write(&file, "").with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

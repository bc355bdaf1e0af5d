//! `cargo xtask demo`: the main job on real parts, one thing after the other.

mod creation;
mod isolation;
mod sign_up;
mod slack;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use carapace_asl::HistoryEvent;
use carapace_e2e::cluster::AGENTS;
use carapace_e2e::identity::User;
use carapace_e2e::{Platform, deploy};
use carapace_local::{NodeKind, Stack};
use serde_json::Value;

use crate::lambdas::For;
use crate::setup::{self, Deployment};
use crate::ui::{Ui, human};
use crate::{cli, docs};

/// Long enough for any step on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Runs the demo.
pub(crate) fn run(ui: Ui, options: &cli::Demo) -> Result<()> {
    let began = Instant::now();
    let state_dir = setup::state_dir(options.stack.state_dir.state_dir.as_deref(), "demo")?;
    let node = options.stack.node;
    let agent = options.agent.unwrap_or(match node {
        cli::Node::Gvisor => cli::Agent::Openclaw,
        cli::Node::Kwok => cli::Agent::Scripted,
    });
    let Deployment { stack, took } = setup::deployed(ui, node, agent, &state_dir, For::Demo)?;

    // What talks to pods must do so from inside the stack's network.
    let status = stack
        .enter(std::env::current_exe()?)
        .arg("demo-inside")
        .arg("--state-dir")
        .arg(&state_dir)
        .args(if ui.color() { &["--color"][..] } else { &[] })
        .status()
        .context("starting the demo inside the stack's network")?;
    if !status.success() {
        bail!(
            "the demo failed; the logs of every part are in {}",
            stack.info().logs_dir.display()
        );
    }
    ui.heading("Summary");
    for (name, took) in &took {
        ui.row(name, human(*took));
    }
    ui.row("All of it", human(began.elapsed()));
    ui.row("Logs", stack.info().logs_dir.display());
    if options.keep {
        keep(ui, stack, &state_dir)
    } else {
        let step = ui.step("stopping the stack", None);
        stack.down()?;
        step.done("everything that was started is stopped");
        Ok(())
    }
}

/// The part of the demo that runs inside the stack's network.
pub(crate) fn inside(ui: Ui, state_dir: &Path) -> Result<()> {
    let platform = Platform::open(state_dir)?;
    let mut took = Vec::new();

    let began = Instant::now();
    ui.heading("Signing up");
    let ada = sign_up::run(ui, &platform)?;
    took.push(("Sign-up and sign-in", began.elapsed()));

    // Not earlier: nobody needs a sandbox to sign up.
    let began = Instant::now();
    setup::settled(ui, &platform)?;
    took.push(("Waiting for the model gateway", began.elapsed()));

    let began = Instant::now();
    ui.heading("An event becomes an agent in a sandbox of its own");
    let mut graphs = Vec::new();
    if platform.info.node == NodeKind::Gvisor {
        let pool = scripted_pool(&platform)?;
        let graph = creation::run(ui, &platform, &ada, pool)?;
        let eve = creation::another(ui, &platform, "eve", pool)?;
        took.push(("Event-triggered creation", began.elapsed()));

        let began = Instant::now();
        ui.heading("What the agent cannot do");
        isolation::run(ui, &platform, &ada, &eve, pool)?;
        took.push(("Proof of isolation", began.elapsed()));
        graphs.push(("sandbox-create", graph));

        let began = Instant::now();
        ui.heading("Somebody writes in Slack, and the agent answers");
        graphs.push(("conversation", slack::run(ui, &platform)?));
        took.push(("Messages and replies", began.elapsed()));
    } else {
        let graph = creation::without_a_node(ui, &platform, &ada)?;
        took.push(("Event-triggered creation, in vain", began.elapsed()));
        graphs.push(("sandbox-create", graph));
    }

    for (machine, graph) in graphs {
        ui.heading(&format!("The execution of {machine}"));
        for line in graph.lines() {
            println!("  {line}");
        }
    }
    ui.heading("How long it took");
    for (name, took) in took {
        ui.row(name, human(took));
    }
    Ok(())
}

fn keep(ui: Ui, stack: Stack, state_dir: &Path) -> Result<()> {
    // Only now: until here, an interrupted demo takes its stack with it.
    let info = stack.detach()?;
    let platform = Platform::open(state_dir)?;
    ui.heading("It is still running");
    ui.row(
        "AWS",
        format!(
            "export AWS_ENDPOINT_URL={} AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_REGION={}",
            info.aws_endpoint.as_deref().unwrap_or_default(),
            info.access_key_id,
            info.secret_access_key,
            info.region,
        ),
    );
    ui.row(
        "Kubernetes",
        format!("export KUBECONFIG={}", info.kubeconfig.display()),
    );
    if let Some(page) = &info.slack_url {
        ui.row("Slack", page);
    }
    ui.row("kubectl", info.bin_dir.join("kubectl").display());
    ui.row("State machine", platform.control_plane("SandboxCreateArn")?);
    ui.row(
        "Parts",
        format!(
            "cargo xtask stack status --state-dir {}",
            state_dir.display()
        ),
    );
    ui.row(
        "Stop it",
        format!("cargo xtask stack down --state-dir {}", state_dir.display()),
    );
    Ok(())
}

/// The state graph of a machine with the way that an execution took through it.
fn draw(ui: Ui, name: &str, history: &[HistoryEvent]) -> Result<String> {
    let machine = docs::machines()?
        .into_iter()
        .find(|machine| machine.name == name)
        .with_context(|| format!("statemachines/{name}.asl.json is missing"))?;
    Ok(carapace_asl::draw_execution(&machine, history, ui.color()))
}

/// The pod address and name of a user's sandbox.
fn sandbox(platform: &Platform, user: &User) -> Result<(String, String)> {
    platform
        .cluster
        .sandbox_of(&user.key)
        .with_context(|| anyhow!("looking for the sandbox of {}", user.email))
}

/// The sandboxes in the API.
const SANDBOXES: &str = "/apis/agents.x-k8s.io/v1beta1/namespaces/agents/sandboxes";

/// The pool that users' agents come from.
const AGENTS_POOL: &str = "agents";

/// The pool whose sandboxes hold the scripted agent: one of its own where users' agents are the real
/// OpenClaw.
pub(crate) fn scripted_pool(platform: &Platform) -> Result<&'static str> {
    let own = platform
        .cluster
        .get("sandboxwarmpool", AGENTS, deploy::SCRIPTED)?;
    Ok(own.map_or(AGENTS_POOL, |_| deploy::SCRIPTED))
}

/// The name of a sandbox of the pool that is warm, has no claim yet, and can be bound. The real
/// OpenClaw takes a while to replace one that was claimed.
fn warm_sandbox(ui: Ui, platform: &Platform, pool: &str) -> Result<String> {
    // Not `kubectl` again and again: it would take a processor from what is waited for.
    let proxy = platform.cluster.proxy()?;
    let find = || {
        let sandboxes = proxy.get(SANDBOXES)?;
        Ok(sandboxes["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|s| is_warm(s, pool))
            .filter_map(|s| s["metadata"]["name"].as_str())
            .map(str::to_owned)
            .collect::<Vec<_>>())
    };
    let began = Instant::now();
    let step = ui.step(&format!("the pool {pool} warms a sandbox"), None);
    let names = carapace_e2e::eventually(
        "a warm sandbox in the pool",
        deploy::POOL_FILLS_WITHIN,
        find,
        |names| !names.is_empty(),
    )?;
    // A claim may get any of them.
    for name in &names {
        deploy::await_trust(platform, name)?;
    }
    if began.elapsed() < Duration::from_secs(2) {
        step.quiet();
    } else {
        step.done(&format!("the pool {pool} has a warm sandbox"));
    }
    names
        .into_iter()
        .next()
        .context("the pool has no warm sandbox")
}

fn is_warm(sandbox: &Value, pool: &str) -> bool {
    let pooled = sandbox["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|o| o["kind"] == "SandboxWarmPool" && o["name"] == pool);
    let ready = sandbox["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    pooled && ready
}

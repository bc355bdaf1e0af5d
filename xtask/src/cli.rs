//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Builds, runs and tests Carapace on one machine.
///
/// Two commands are all it takes on a fresh machine; each installs or builds what it lacks, says
/// how far it is, and goes on where it was interrupted:
///
///   cargo xtask demo   the main job: an event becomes an agent in a sandbox of its own, which
///                      answers in Slack
///   cargo xtask test   everything that must hold before a change lands
///
/// What they build is cached outside the repository, by version, in $CARAPACE_CACHE (or
/// $XDG_CACHE_HOME/carapace, or ~/.cache/carapace). What they start is stopped on any exit.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    verbatim_doc_comment
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the main job on real parts, step by step
    ///
    /// Starts a stack, deploys the platform with `cdk deploy`, signs people up, asks for agents with
    /// events on the bus, proves that each sandbox is isolated, and lets somebody write to their
    /// agent in Slack. Stops everything at the end, or on Ctrl-C.
    Demo(Demo),
    /// Run everything that must hold before a change lands
    ///
    /// Formatting, lints, licences, unit tests, the state machines, the CDK app, the charts, the
    /// stand-ins against the real things' contracts, and the scenarios on a local stack with IAM
    /// enforced. Ends with a line 'N passed, N failed'.
    Test(Test),
    /// Run the checks that read the code: formatting, clippy, cargo-deny, state machines, docs
    Lint,
    /// Run a local stack by hand
    #[command(subcommand)]
    Stack(Stack),
    /// Build the Lambda functions as they are deployed: size-optimised, one `bootstrap` each
    Lambdas,
    /// Synthesise the CDK app to cdk/cdk.out without deploying it
    Synth(Synth),
    /// Write the generated parts of docs/: state graphs and event schemas
    Docs {
        /// Change nothing; fail if a generated part is not current
        #[arg(long)]
        check: bool,
    },
    #[command(hide = true)]
    DemoInside {
        #[arg(long)]
        state_dir: PathBuf,
        #[arg(long)]
        color: bool,
    },
    /// Say what this machine has, what it lacks, and how to get it
    Doctor,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Leave everything running at the end and print how to look further
    #[arg(long)]
    pub keep: bool,
    /// The agent that answers in Slack; without a word the real OpenClaw, or on `--node kwok`, where
    /// nothing runs, the scripted one
    #[arg(long)]
    pub agent: Option<Agent>,
    #[command(flatten)]
    pub stack: StackOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// List the jobs and what each checks
    #[arg(long)]
    pub list: bool,
    /// Run only these jobs (by name, repeatable); `scenarios:FILTER` runs the scenarios whose
    /// name contains FILTER
    #[arg(long, value_name = "JOB")]
    pub only: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Synth {
    /// The stage to synthesise
    #[arg(long, default_value = "aws")]
    pub stage: Stage,
    /// A context value for the app (repeatable); cdk/README.md lists the keys
    #[arg(short = 'c', long = "context", value_name = "KEY=VALUE")]
    pub(crate) context: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Stage {
    Aws,
    Local,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Stack {
    /// Start a stack and leave it running
    Up(StackOptions),
    /// Stop a stack and everything it started
    Down(StateDir),
    /// Show the parts of a stack, with process id, memory and log
    Status(StateDir),
    /// Print the log of one part, or list the logs
    Logs {
        #[command(flatten)]
        state_dir: StateDir,
        /// The part, as `status` names it
        part: Option<String>,
        /// Keep printing as the log grows
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StackOptions {
    /// The kind of node that agents run on
    #[arg(long, default_value = "gvisor")]
    pub node: Node,
    #[command(flatten)]
    pub state_dir: StateDir,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StateDir {
    /// Where the stack keeps its state and logs; another directory is another stack
    #[arg(long, value_name = "DIR", env = "CARAPACE_STATE")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Agent {
    /// A stand-in that speaks OpenClaw's local protocol: small, and Ready at once
    Scripted,
    /// The real OpenClaw, from npm. Takes 2 GB of disk once, 1.3 GiB of memory per sandbox, and
    /// about half a minute until a sandbox is Ready
    Openclaw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Node {
    /// A real kubelet; agents run under gVisor, each with a kernel of its own. Needs root
    Gvisor,
    /// A simulated node: pods become Ready but run nothing. Needs no privileges
    Kwok,
}

//! Starting, finding, using and ending a stack.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use nix::unistd::geteuid;

use crate::{
    Cache, NodeKind, PartStatus, Progress, StackInfo, UnpackedImage,
    build::{self, BuildError, Built, Program},
    packages::{self, PackageError},
    progress::Listener,
    state::{self, LONGEST_PATH, SUPERVISOR, StateDir},
    supervisor::{Answer, AwsPlan, Event, Plan, Request, Role, ask},
};

/// Nothing of a stack is asked to end by itself, so this is only reached when the kernel is stuck.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a stack is to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpOptions {
    /// Where everything of it lies. One directory holds one stack at a time; only its logs stay.
    pub state_dir: PathBuf,
    /// The sort of node.
    pub node: NodeKind,
    /// Whether there is an AWS API beside the Kubernetes one.
    pub aws: bool,
    /// OCI archives to import into the real node. One must hold `carapace.local/pause:dev`.
    pub images: Vec<PathBuf>,
    /// Images that are too large to be imported every time.
    pub unpacked: Vec<UnpackedImage>,
    /// Where built programs are kept.
    pub cache: Cache,
}

impl UpOptions {
    /// How many bytes the state directory's absolute path may have.
    pub const LONGEST_STATE_DIR: usize = LONGEST_PATH;

    /// A stack with AWS and such a node, and the user's cache.
    pub fn new(state_dir: impl Into<PathBuf>, node: NodeKind) -> Self {
        Self {
            state_dir: state_dir.into(),
            node,
            aws: true,
            images: Vec::new(),
            unpacked: Vec::new(),
            cache: Cache::of_user(),
        }
    }

    /// The programs that such a stack runs.
    pub fn programs(&self) -> Vec<Program> {
        let node = match self.node {
            NodeKind::Gvisor => Program::GVISOR_NODE,
            NodeKind::Kwok => Program::KWOK_NODE,
            NodeKind::None => &[],
        };
        [Program::CONTROL_PLANE, node].concat()
    }
}

/// Why a stack could not be started, found or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// A program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The machine lacks something.
    #[error(transparent)]
    Packages(#[from] PackageError),
    /// A part did not start; the rest was ended.
    #[error("{part}: {problem}{}", details(last_lines, log.as_deref()))]
    PartFailed {
        /// The part's name.
        part: String,
        /// What was expected and not seen, or how it ended.
        problem: String,
        /// The end of its log.
        last_lines: String,
        /// Its log.
        log: Option<PathBuf>,
    },
    /// The supervisor ended without saying why.
    #[error(
        "the stack's supervisor ended with {status}{}",
        details(last_lines, Some(log))
    )]
    SupervisorEnded {
        /// How it ended.
        status: String,
        /// The end of its log.
        last_lines: String,
        /// Its log.
        log: PathBuf,
    },
    /// A stack runs there already.
    #[error("a stack is already up in {state_dir}; end it first, or choose another directory")]
    AlreadyUp {
        /// Its directory.
        state_dir: PathBuf,
    },
    /// No stack runs there.
    #[error("no stack is up in {state_dir}; start one first")]
    NotUp {
        /// Its directory.
        state_dir: PathBuf,
    },
    /// A real node was asked for without being root.
    #[error(
        "a real node (gvisor) needs root, for its namespaces and cgroups; run this as root, or use the node kind `kwok`"
    )]
    NeedsRoot,
    /// The directory holds something else, which a stack would not respect.
    #[error(
        "{state_dir} is neither empty nor the directory of a former stack; choose another one for the stack's state"
    )]
    NotAStateDir {
        /// The directory.
        state_dir: PathBuf,
    },
    /// Unix sockets below the directory would have names that the kernel refuses.
    #[error(
        "the state directory {state_dir} is too long: {length} bytes, of which {LONGEST_PATH} may be used; choose a shorter one"
    )]
    StateDirTooLong {
        /// The directory.
        state_dir: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Something of an ended stack does not go away.
    #[error(
        "the stack in {state_dir} was told to end, but something of it is still there after {} s; see {log}",
        PATIENCE.as_secs()
    )]
    DoesNotEnd {
        /// Its directory.
        state_dir: PathBuf,
        /// The supervisor's log.
        log: PathBuf,
    },
    /// Only a real node has images.
    #[error("this stack has no real node to import an image into")]
    NoRealNode,
    /// containerd did not take an image.
    #[error("importing {archive} failed: {problem}")]
    Import {
        /// The archive.
        archive: PathBuf,
        /// What containerd's client said.
        problem: String,
    },
    /// A file or a process could not be handled.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, and on what.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// A running stack.
///
/// The one that [`Stack::up`] gives is ended when it is dropped, or when its process ends in
/// whatever way. One that was started detached, or that was attached to, is left alone.
#[derive(Debug)]
pub struct Stack {
    info: StackInfo,
    state: StateDir,
    /// The supervisor, if this value ends it.
    keeper: Option<Child>,
}

impl Stack {
    /// Starts a stack that ends together with the returned value.
    pub fn up(options: &UpOptions, listener: &mut Listener<'_>) -> Result<Self, StackError> {
        start(options, false, listener)
    }

    /// Starts a stack that stays until [`Stack::down`].
    pub fn up_detached(
        options: &UpOptions,
        listener: &mut Listener<'_>,
    ) -> Result<Self, StackError> {
        start(options, true, listener)
    }

    /// Finds the stack that runs in a state directory.
    pub fn attach(state_dir: impl AsRef<Path>) -> Result<Self, StackError> {
        let state = StateDir::at(absolute(state_dir.as_ref())?);
        let not_up = || StackError::NotUp {
            state_dir: state.root().to_owned(),
        };
        if !state.is_in_use().map_err(io_error("looking for a stack"))? {
            return Err(not_up());
        }
        // Absent while the stack starts or ends: then it cannot be used either.
        let text = fs::read(state.info()).map_err(|_| not_up())?;
        let info = serde_json::from_slice(&text).map_err(|error| StackError::Io {
            what: format!("reading {}", state.info().display()),
            source: error.into(),
        })?;
        Ok(Self {
            info,
            state,
            keeper: None,
        })
    }

    /// What there is and where.
    pub fn info(&self) -> &StackInfo {
        &self.info
    }

    /// Every process, in the order in which they were started.
    pub fn status(&self) -> Result<Vec<PartStatus>, StackError> {
        match self.ask(&Request::Status)? {
            Answer::Status(parts) => Ok(parts),
            Answer::Done => Ok(Vec::new()),
            Answer::Failed(failure) => Err(failure.into()),
        }
    }

    /// Ends it, and returns when nothing of it is left.
    pub fn down(mut self) -> Result<(), StackError> {
        if let Some(keeper) = self.keeper.take() {
            return end(keeper, &self.state);
        }
        match self.ask(&Request::Down)? {
            Answer::Failed(failure) => Err(failure.into()),
            Answer::Done | Answer::Status(_) => await_end(&self.state),
        }
    }

    /// Lets the stack outlive this value and its process, as if it had been started detached.
    pub fn detach(mut self) -> Result<StackInfo, StackError> {
        if self.keeper.is_some() {
            match self.ask(&Request::Detach)? {
                Answer::Failed(failure) => return Err(failure.into()),
                Answer::Done | Answer::Status(_) => self.keeper = None,
            }
        }
        Ok(self.info.clone())
    }

    /// Adds a node whose pods are only said to run, to a stack of any kind. Beside a real node it is
    /// tainted with `kwok.x-k8s.io/node`, so that only pods that ask for it are scheduled to it.
    pub fn add_kwok_node(
        &self,
        name: &str,
        cache: &Cache,
        listener: &mut Listener<'_>,
    ) -> Result<(), StackError> {
        let built = build::programs(cache, Program::KWOK_NODE, listener)?;
        let (Some(program), Some(stages)) = (
            built.path(Program::Kwok).map(Path::to_owned),
            built.files(Program::Kwok),
        ) else {
            return Ok(());
        };
        let request = Request::AddKwokNode {
            name: name.to_owned(),
            program,
            stages,
        };
        match self.ask(&request)? {
            Answer::Failed(failure) => Err(failure.into()),
            Answer::Done | Answer::Status(_) => Ok(()),
        }
    }

    /// One of the stack's programs, such as `kubectl` or `helm`, or any other, as the stack's user:
    /// with its kubeconfig, its AWS endpoint and credentials, and its programs on the `PATH`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.resolve(program.as_ref()));
        self.configure(&mut command);
        command
    }

    /// The same, but run inside the stack's network, where pods can be reached.
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(pid) = self.info.netns_pid else {
            return self.command(program);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg("--")
            .arg(self.resolve(program.as_ref()));
        self.configure(&mut command);
        command
    }

    /// Makes the image in an OCI archive available to the real node's pods.
    pub fn import_image(&self, archive: &Path) -> Result<(), StackError> {
        if self.info.node != NodeKind::Gvisor {
            return Err(StackError::NoRealNode);
        }
        let output = self
            .command("ctr")
            .arg("--address")
            .arg(self.state.containerd_socket())
            .args(["--namespace", "k8s.io", "images", "import", "--local"])
            .arg(archive)
            .output()
            .map_err(io_error("running ctr"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(StackError::Import {
                archive: archive.to_owned(),
                problem: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            }),
        }
    }

    fn resolve(&self, program: &OsStr) -> OsString {
        let own = self.info.bin_dir.join(program);
        match own.is_file() {
            true => own.into_os_string(),
            false => program.to_owned(),
        }
    }

    fn configure(&self, command: &mut Command) {
        let mut path = self.info.bin_dir.clone().into_os_string();
        if let Some(inherited) = std::env::var_os("PATH") {
            path.push(":");
            path.push(inherited);
        }
        command
            .env("PATH", path)
            .env("KUBECONFIG", &self.info.kubeconfig)
            // What they remember of this stack's API must not stay in the user's home.
            .env("KUBECACHEDIR", self.state.data("kubectl"))
            .env("HELM_CACHE_HOME", self.state.data("helm").join("cache"))
            .env("HELM_CONFIG_HOME", self.state.data("helm").join("config"))
            .env("HELM_DATA_HOME", self.state.data("helm").join("data"))
            .env("AWS_REGION", &self.info.region)
            .env("AWS_DEFAULT_REGION", &self.info.region)
            .env("AWS_ACCESS_KEY_ID", &self.info.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &self.info.secret_access_key)
            // A developer's own session or profile must never be used against, or instead of, it.
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE");
        match &self.info.aws_endpoint {
            Some(endpoint) => command.env("AWS_ENDPOINT_URL", endpoint),
            None => command.env_remove("AWS_ENDPOINT_URL"),
        };
    }

    fn ask(&self, request: &Request) -> Result<Answer, StackError> {
        ask(&self.state.control(), request).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => StackError::NotUp {
                state_dir: self.state.root().to_owned(),
            },
            _ => StackError::Io {
                what: "asking the stack's supervisor".to_owned(),
                source,
            },
        })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            // Nobody is left to tell; the supervisor's log says it.
            let _ = end(keeper, &self.state);
        }
    }
}

fn start(
    options: &UpOptions,
    detached: bool,
    listener: &mut Listener<'_>,
) -> Result<Stack, StackError> {
    let state_dir = absolute(&options.state_dir)?;
    let length = state_dir.as_os_str().len();
    if length > LONGEST_PATH {
        return Err(StackError::StateDirTooLong { state_dir, length });
    }
    let state = StateDir::at(&state_dir);
    // All of this before anything is built, which may take minutes.
    if options.node == NodeKind::Gvisor && !geteuid().is_root() {
        return Err(StackError::NeedsRoot);
    }
    if !state
        .is_usable()
        .map_err(io_error("looking into the state directory"))?
    {
        return Err(StackError::NotAStateDir { state_dir });
    }
    if state.is_in_use().map_err(io_error("looking for a stack"))? {
        return Err(StackError::AlreadyUp { state_dir });
    }
    packages::install(&packages::missing(options.node), listener)?;
    let built = build::programs(&options.cache, &options.programs(), listener)?;
    let plan = plan(options, &state_dir, detached, &built, listener)?;

    fs::create_dir_all(state.logs()).map_err(io_error("creating the logs' directory"))?;
    let log = state.log(SUPERVISOR);
    let keeper_log = fs::File::create(&log).map_err(io_error("creating the supervisor's log"))?;
    let mut keeper = Role::Keeper
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(keeper_log)
        .spawn()
        .map_err(io_error("starting the stack's supervisor"))?;
    let info = match tell_and_listen(&mut keeper, &plan, listener) {
        Ok(Some(info)) => info,
        Ok(None) => {
            let status = keeper
                .wait()
                .map_or_else(|error| error.to_string(), |status| status.to_string());
            await_end(&state)?;
            return Err(StackError::SupervisorEnded {
                status,
                last_lines: state::last_lines(&log, 15),
                log,
            });
        }
        Err(error) => {
            end(keeper, &state)?;
            return Err(error);
        }
    };
    Ok(Stack {
        info,
        state,
        keeper: (!detached).then_some(keeper),
    })
}

fn plan(
    options: &UpOptions,
    state_dir: &Path,
    detached: bool,
    built: &Built,
    listener: &mut Listener<'_>,
) -> Result<Plan, StackError> {
    let aws = match options.aws {
        true => {
            let sources = Path::new(env!("CARAPACE_ROOT")).join("tests/local");
            Some(AwsPlan {
                python: build::python(&options.cache, &sources.join("requirements.txt"), listener)?,
                launcher: sources.join("ministack/launch.py"),
                webhook_secret: random(24)?,
                admin_token: random(24)?,
            })
        }
        false => None,
    };
    let programs: BTreeMap<String, PathBuf> = built
        .iter()
        .map(|(program, path)| (program.name().to_owned(), path.to_owned()))
        .collect();
    let images = options
        .images
        .iter()
        .map(|image| absolute(image))
        .collect::<Result<_, _>>()?;
    Ok(Plan {
        id: random(4)?,
        state_dir: state_dir.to_owned(),
        detached,
        node: options.node,
        aws,
        programs,
        agent_sandbox_files: built
            .files(Program::AgentSandboxController)
            .unwrap_or_default(),
        kwok_stages: built.files(Program::Kwok),
        images,
        unpacked: options.unpacked.clone(),
    })
}

/// Hands the plan over and passes the keeper's reports on, until the stack is up.
fn tell_and_listen(
    keeper: &mut Child,
    plan: &Plan,
    listener: &mut Listener<'_>,
) -> Result<Option<StackInfo>, StackError> {
    let broken = io_error("talking to the stack's supervisor");
    let mut line = serde_json::to_string(plan).map_err(|error| StackError::Io {
        what: "writing the plan".to_owned(),
        source: error.into(),
    })?;
    line.push('\n');
    if let Some(stdin) = &mut keeper.stdin {
        stdin.write_all(line.as_bytes()).map_err(broken)?;
    }
    let Some(stdout) = keeper.stdout.take() else {
        return Ok(None);
    };
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Event::Starting { part, number, of }) => listener(Progress::Started {
                step: format!("start {part}"),
                number,
                of,
                estimate: None,
            }),
            Ok(Event::Ready { part, millis }) => listener(Progress::Finished {
                step: format!("start {part}"),
                took: Duration::from_millis(millis),
            }),
            Ok(Event::Up(info)) => return Ok(Some(*info)),
            Ok(Event::Failed(failure)) => return Err(failure.into()),
            Err(_) => listener(Progress::Note(line)),
        }
    }
    Ok(None)
}

/// Ends a stack by closing the pipe that its supervisor watches.
fn end(mut keeper: Child, state: &StateDir) -> Result<(), StackError> {
    drop(keeper.stdin.take());
    keeper
        .wait()
        .map_err(io_error("waiting for the stack's supervisor"))?;
    await_end(state)
}

/// Waits until the lock on the state directory is free, which is when the janitor is done.
fn await_end(state: &StateDir) -> Result<(), StackError> {
    let deadline = Instant::now() + PATIENCE;
    while state
        .is_in_use()
        .map_err(io_error("waiting for the stack's end"))?
    {
        if Instant::now() > deadline {
            return Err(StackError::DoesNotEnd {
                state_dir: state.root().to_owned(),
                log: state.log(SUPERVISOR),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, StackError> {
    std::path::absolute(path).map_err(|source| StackError::Io {
        what: format!("resolving {}", path.display()),
        source,
    })
}

/// So many random bytes, in hexadecimal.
fn random(bytes: usize) -> Result<String, StackError> {
    let mut buffer = vec![0; bytes];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut buffer))
        .map_err(io_error("reading /dev/urandom"))?;
    Ok(HEXLOWER.encode(&buffer))
}

fn details(last_lines: &str, log: Option<&Path>) -> String {
    last_lines
        .lines()
        .map(|line| format!("\n    {line}"))
        .chain(log.map(|log| format!("\nIts log: {}", log.display())))
        .collect::<Vec<_>>()
        .concat()
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> StackError {
    move |source| StackError::Io {
        what: what.to_owned(),
        source,
    }
}

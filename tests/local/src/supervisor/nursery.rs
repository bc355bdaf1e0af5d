//! Starts parts where they belong, and knows what became of each.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::{mpsc::UnboundedSender, oneshot},
};

use super::{Isolation, Role, init::HANDSHAKE, isolation};
use crate::{
    info::PartStatus,
    state::{Process, StateDir, resident_kib},
};

/// The name under which the end of the namespace's init is reported.
pub(super) const INIT: &str = "init";

/// What every process of a stack carries in its environment; the value is the stack's id.
pub(super) const MARK: &str = "CARAPACE_STACK";

/// Where the system's own programs are, for processes that do not inherit the user's `PATH`.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process to be started.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Part {
    pub(crate) fn new(name: &str, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Adds an argument as it is.
    pub(crate) fn arg(mut self, value: impl Into<OsString>) -> Self {
        self.arguments.push(value.into());
        self
    }

    /// Adds `--name=value`.
    pub(crate) fn flag(self, name: &str, value: impl Into<OsString>) -> Self {
        let mut flag = OsString::from(format!("--{name}="));
        flag.push(value.into());
        self.arg(flag)
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// Why a part did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot execute {program}: {source}")]
    Execute { program: PathBuf, source: io::Error },
    #[error("cannot write its log {log}: {source}")]
    Log { log: PathBuf, source: io::Error },
    #[error("the stack is shutting down")]
    ShuttingDown,
}

/// A part that ended by itself.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) part: String,
    pub(crate) status: String,
}

type Spawn = (Command, oneshot::Sender<io::Result<Child>>);

/// Where parts live.
#[derive(Clone)]
pub(crate) struct Nursery {
    id: String,
    state: StateDir,
    isolation: Isolation,
    init: Option<Process>,
    spawns: Sender<Spawn>,
    parts: Arc<Mutex<Vec<PartStatus>>>,
    exits: UnboundedSender<Exit>,
}

impl Nursery {
    /// Must be called within a runtime. Exits of parts are sent to `exits`.
    pub(super) fn open(
        id: &str,
        state: &StateDir,
        isolation: Isolation,
        exits: UnboundedSender<Exit>,
    ) -> io::Result<Self> {
        let (spawns, requests) = channel();
        let (opened, outcome) = channel();
        let runtime = Handle::current();
        // A thread of its own, since namespaces are a thread's: the rest of this process keeps the
        // host's mounts. It must outlive all parts, as the kernel takes the death of the thread
        // that started a process for the death of its parent.
        thread::Builder::new()
            .name("nursery".to_owned())
            .spawn(move || {
                let _ = opened.send(match isolation {
                    Isolation::Namespaces => leave_host().map(Some),
                    Isolation::Processes => Ok(None),
                });
                spawn_all(&requests, &runtime);
            })?;
        let init = outcome
            .recv()
            .unwrap_or_else(|error| Err(io::Error::other(error)))?;
        let init_process = init.as_ref().and_then(|init| Process::find(init.id()));
        if let Some(mut init) = init {
            let exits = exits.clone();
            thread::spawn(move || {
                let status = init.wait().map(|status| status.to_string());
                let _ = exits.send(Exit {
                    part: INIT.to_owned(),
                    status: status.unwrap_or_else(|error| error.to_string()),
                });
            });
        }
        Ok(Self {
            id: id.to_owned(),
            state: state.clone(),
            isolation,
            init: init_process,
            spawns,
            parts: Arc::default(),
            exits,
        })
    }

    /// The first process of the stack's PID namespace.
    pub(super) fn init(&self) -> Option<Process> {
        self.init
    }

    /// Starts a part, its output going to its log.
    pub(crate) async fn start(&self, part: Part) -> Result<(), StartError> {
        let log = self.state.log(&part.name);
        let open_log = || -> io::Result<(File, File)> {
            let file = File::options().create(true).append(true).open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (stdout, stderr) = open_log().map_err(|source| StartError::Log {
            log: log.clone(),
            source,
        })?;
        let mut command = match self.isolation {
            Isolation::Namespaces => Command::new(&part.program),
            Isolation::Processes => {
                let mut command = Command::from(Role::Exec.command());
                command.arg(&part.program);
                command
            }
        };
        command
            .args(&part.arguments)
            .env_clear()
            .envs(self.environment())
            .envs(part.environment)
            .current_dir(self.state.root())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let (sender, child) = oneshot::channel();
        self.spawns
            .send((command, sender))
            .map_err(|_| StartError::ShuttingDown)?;
        let child = child
            .await
            .map_err(|_| StartError::ShuttingDown)?
            .map_err(|source| StartError::Execute {
                program: part.program,
                source,
            })?;
        self.watch(part.name, child);
        Ok(())
    }

    /// The parts, in the order in which they were started.
    pub(crate) fn status(&self) -> Vec<PartStatus> {
        let mut parts = self.records().clone();
        for part in &mut parts {
            part.rss_kib = match part.is_up() {
                true => resident_kib(part.pid),
                false => 0,
            };
        }
        parts
    }

    /// Ends everything at once. Nothing of a stack is meant to survive it, so nothing is asked to
    /// end by itself.
    pub(super) fn kill_all(&self) {
        if let Some(init) = self.init {
            init.kill();
            return;
        }
        for part in self.records().iter().filter(|part| part.is_up()) {
            if let Some(process) = Process::find(part.pid) {
                process.kill();
            }
        }
    }

    /// Whether every process that was started here has ended and was reaped.
    pub(super) fn is_empty(&self) -> bool {
        let none_up = self.records().iter().all(|part| !part.is_up());
        none_up && !self.init.is_some_and(Process::is_alive)
    }

    fn watch(&self, name: String, mut child: Child) {
        let index = {
            let mut parts = self.records();
            parts.push(PartStatus {
                name: name.clone(),
                pid: child.id().unwrap_or_default(),
                rss_kib: 0,
                exited: None,
            });
            parts.len() - 1
        };
        let this = self.clone();
        tokio::spawn(async move {
            let status = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            if let Some(part) = this.records().get_mut(index) {
                part.exited = Some(status.clone());
            }
            // Nobody listens once the stack is up; `status` tells it then.
            let _ = this.exits.send(Exit { part: name, status });
        });
    }

    fn records(&self) -> std::sync::MutexGuard<'_, Vec<PartStatus>> {
        // A list of values cannot be half changed.
        self.parts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Nothing of the user's environment: proxies, credentials and locales change what parts do.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut path = self.state.bin().into_os_string();
        path.push(":");
        path.push(SYSTEM_PATH);
        vec![
            ("PATH".into(), path),
            ("HOME".into(), self.state.data("home").into()),
            ("TMPDIR".into(), self.state.data("tmp").into()),
            ("LANG".into(), "C.UTF-8".into()),
            (MARK.into(), self.id.clone().into()),
        ]
    }
}

/// Leaves the host's mounts and process numbers, and gives the new namespace's init.
fn leave_host() -> io::Result<std::process::Child> {
    isolation::leave_host()?;
    let mut init = Role::Init
        .command()
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let no_pipe = || io::Error::other("init has no pipe");
    init.stdout
        .take()
        .ok_or_else(no_pipe)?
        .read_exact(&mut [0; HANDSHAKE.len()])?;
    init.stdin
        .take()
        .ok_or_else(no_pipe)?
        .write_all(HANDSHAKE)?;
    Ok(init)
}

fn spawn_all(requests: &Receiver<Spawn>, runtime: &Handle) {
    let _within = runtime.enter();
    while let Ok((mut command, answer)) = requests.recv() {
        // Whoever asked may have been cancelled; the part then dies with the stack.
        let _ = answer.send(command.spawn());
    }
    // Returning would end this thread, and with it, for the kernel, all parts.
    loop {
        thread::park();
    }
}

/// Prepares the directories that every part expects.
pub(super) fn prepare(state: &StateDir) -> io::Result<()> {
    for dir in [
        state.logs(),
        state.bin(),
        state.data("home"),
        state.data("tmp"),
    ] {
        fs::create_dir_all(dir)?;
    }
    Ok(())
}

//! The parts of a stack: what each is started with, in which order, and when it counts as ready.
//!
//! Everything starts as early as its dependencies allow, side by side. Ready means that a part does
//! what it is for, asked of itself or seen in the API; nothing is ever waited for by the clock.

mod agent_sandbox;
mod aws;
mod control_plane;
mod gate;
mod gvisor_node;
mod kwok_node;
mod network;

use std::{
    fmt, fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    certificates::{Authority, CertificateError},
    info::{Decoy, NodeKind, StackInfo},
    kube_api::{ApiError, KubeApi},
    state::{SUPERVISOR, StateDir},
    supervisor::{Event, Isolation, Nursery, Part, Plan, Ports},
};

pub(crate) use self::kwok_node::add as add_kwok_node;

/// Twenty times what the slowest part takes on two cores; only a hang takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A part that could not be started.
#[derive(Clone, Debug)]
pub(crate) struct PartFailure {
    pub(crate) part: String,
    pub(crate) problem: String,
}

impl PartFailure {
    pub(crate) fn new(part: &str, problem: impl fmt::Display) -> Self {
        Self {
            part: part.to_owned(),
            problem: problem.to_string(),
        }
    }

    fn of<E: fmt::Display>(part: &str) -> impl FnOnce(E) -> Self {
        move |error| Self::new(part, error)
    }
}

impl fmt::Display for PartFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.part, self.problem)
    }
}

/// Tells the process that starts the stack how far it is.
#[derive(Clone)]
pub(crate) struct Reporter {
    output: Arc<Mutex<io::Stdout>>,
}

impl Reporter {
    pub(crate) fn new(output: Arc<Mutex<io::Stdout>>) -> Self {
        Self { output }
    }

    pub(crate) fn report(&self, event: &Event) {
        let (Ok(mut output), Ok(mut line)) = (self.output.lock(), serde_json::to_string(event))
        else {
            return;
        };
        line.push('\n');
        // The starter of a detached stack no longer reads; that is no reason to stop.
        let _ = output.write_all(line.as_bytes());
        let _ = output.flush();
    }
}

/// One stack, seen by those who start its parts.
pub(crate) struct Site {
    pub(crate) nursery: Nursery,
    pub(crate) state: StateDir,
    plan: Plan,
    isolation: Isolation,
    ports: Ports,
    authority: Authority,
    api: KubeApi,
    /// Becomes true when the API server answers.
    api_is_ready: watch::Sender<bool>,
    pub(crate) reporter: Reporter,
    started: AtomicUsize,
}

impl Site {
    pub(crate) fn new(
        plan: Plan,
        state: StateDir,
        isolation: Isolation,
        ports: Ports,
        nursery: Nursery,
        reporter: Reporter,
    ) -> Result<Self, String> {
        let authority = Authority::new(&state.data("pki")).map_err(|error| error.to_string())?;
        let admin = control_plane::ADMIN;
        let certificate = authority
            .client("admin", &admin)
            .map_err(|error| error.to_string())?;
        let api = KubeApi::new(ports.kube_api, &authority, &certificate)
            .map_err(|error| error.to_string())?;
        authority
            .kubeconfig(&state.kubeconfig(), &kube_api_url(ports), &admin)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            nursery,
            state,
            plan,
            isolation,
            ports,
            authority,
            api,
            api_is_ready: watch::channel(false).0,
            reporter,
            started: AtomicUsize::new(0),
        })
    }

    fn program(&self, name: &str) -> PathBuf {
        self.state.bin().join(name)
    }

    /// Creates a part's own directory.
    fn data(&self, part: &str) -> Result<PathBuf, PartFailure> {
        let dir = self.state.data(part);
        fs::create_dir_all(&dir).map_err(PartFailure::of(part))?;
        Ok(dir)
    }

    /// A kubeconfig for a part that acts under a name of its own.
    fn kubeconfig(
        &self,
        part: &str,
        identity: &crate::certificates::Identity<'_>,
    ) -> Result<PathBuf, PartFailure> {
        let path = self.state.data("pki").join(format!("{part}.kubeconfig"));
        self.authority
            .kubeconfig(&path, &kube_api_url(self.ports), identity)
            .map_err(PartFailure::of(part))?;
        Ok(path)
    }

    /// Starts a part and waits until `check` says that it is ready.
    async fn start(
        &self,
        part: Part,
        check: impl AsyncFnMut() -> Result<bool, String>,
    ) -> Result<(), PartFailure> {
        let name = part.name.clone();
        let begun = Instant::now();
        self.reporter.report(&Event::Starting {
            part: name.clone(),
            number: self.started.fetch_add(1, Ordering::Relaxed) + 1,
            of: parts_of(&self.plan),
        });
        self.nursery
            .start(part)
            .await
            .map_err(PartFailure::of(&name))?;
        self.await_ready(&name, check).await?;
        self.reporter.report(&Event::Ready {
            part: name,
            millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        Ok(())
    }

    /// Waits until `check` says yes; its last problem is part of the error if it never does.
    async fn await_ready(
        &self,
        part: &str,
        mut check: impl AsyncFnMut() -> Result<bool, String>,
    ) -> Result<(), PartFailure> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = "it did not answer".to_owned();
        while Instant::now() < deadline {
            match timeout(PATIENCE, check()).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => "it is not ready".clone_into(&mut seen),
                Ok(Err(problem)) => seen = problem,
                Err(_) => "it did not answer".clone_into(&mut seen),
            }
            // How often to look, not how long to wait.
            sleep(Duration::from_millis(40)).await;
        }
        Err(PartFailure::new(
            part,
            format!("not ready within {} s: {seen}", PATIENCE.as_secs()),
        ))
    }

    async fn await_api(&self) {
        // The sender lives in this value, so this cannot fail before it succeeds.
        let _ = self.api_is_ready.subscribe().wait_for(|ready| *ready).await;
    }
}

/// Starts everything, and says what there is.
pub(crate) async fn start(site: &Site) -> Result<StackInfo, PartFailure> {
    let decoys = match site.plan.node {
        NodeKind::Gvisor => network::prepare(site).await?,
        NodeKind::Kwok | NodeKind::None => Vec::new(),
    };
    tokio::try_join!(
        control_plane::start(site),
        aws::start(site),
        agent_sandbox::start(site),
        async {
            match site.plan.node {
                NodeKind::Gvisor => gvisor_node::start(site).await,
                NodeKind::Kwok => kwok_node::start(site).await,
                NodeKind::None => Ok(()),
            }
        },
    )?;
    let info = describe(site, decoys);
    let text = serde_json::to_string_pretty(&info).map_err(PartFailure::of(SUPERVISOR))?;
    // By a rename, since others take the file's presence for its completeness.
    let unfinished = site.state.data("stack.json");
    write(SUPERVISOR, &unfinished, &text)?;
    // It holds a token.
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))
        .map_err(PartFailure::of(SUPERVISOR))?;
    fs::rename(&unfinished, site.state.info()).map_err(PartFailure::of(SUPERVISOR))?;
    Ok(info)
}

fn describe(site: &Site, decoys: Vec<Decoy>) -> StackInfo {
    let aws = site.plan.aws.as_ref();
    StackInfo {
        id: site.plan.id.clone(),
        state_dir: site.state.root().to_owned(),
        logs_dir: site.state.logs(),
        bin_dir: site.state.bin(),
        aws_endpoint: aws.map(|_| aws::endpoint(site.ports)),
        aws_admin_token: aws.map(|aws| aws.admin_token.clone()),
        region: aws::REGION.to_owned(),
        account: aws::ACCOUNT.to_owned(),
        access_key_id: "test".to_owned(),
        secret_access_key: "test".to_owned(),
        kubeconfig: site.state.kubeconfig(),
        kube_api: kube_api_url(site.ports),
        kube_ca: site.authority.path(),
        node: site.plan.node,
        node_ip: network::NODE_IP.to_string(),
        supervisor_pid: std::process::id(),
        netns_pid: match site.isolation {
            Isolation::Namespaces => Some(std::process::id()),
            Isolation::Processes => None,
        },
        model_gateway_url: "http://10.96.0.40:4000".to_owned(),
        slack_url: match site.plan.node {
            NodeKind::Gvisor => Some(format!("http://127.0.0.1:{}", site.ports.slack)),
            NodeKind::Kwok | NodeKind::None => None,
        },
        decoys,
    }
}

fn parts_of(plan: &Plan) -> usize {
    let node = match plan.node {
        NodeKind::Gvisor => gvisor_node::PARTS,
        NodeKind::Kwok => kwok_node::PARTS,
        NodeKind::None => 0,
    };
    control_plane::PARTS + agent_sandbox::PARTS + usize::from(plan.aws.is_some()) + node
}

fn kube_api_url(ports: Ports) -> String {
    format!("https://127.0.0.1:{}", ports.kube_api)
}

/// Writes a part's file.
fn write(part: &str, path: &Path, text: &str) -> Result<(), PartFailure> {
    fs::write(path, text)
        .map_err(|error| PartFailure::new(part, format!("writing {}: {error}", path.display())))
}

/// Whether a plain HTTP GET of a loopback port is answered with 200.
async fn answers(port: u16, path: &str) -> Result<bool, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        // The status line is enough; the rest may be long.
        stream.take(64).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = exchange
        .await
        .map_err(|error| format!("http://{address}{path}: {error}"))?;
    match answer.split_whitespace().nth(1) {
        Some("200") => Ok(true),
        status => Err(format!(
            "http://{address}{path} answers {}",
            status.unwrap_or("nothing")
        )),
    }
}

/// Runs a program to its end in the stack's network, with `input` on its standard input, and gives
/// what it printed.
async fn run(part: &str, mut command: Command, input: &str) -> Result<String, PartFailure> {
    let program = command.as_std().get_program().to_owned();
    let failed =
        |problem: String| PartFailure::new(part, format!("`{}`: {problem}", program.display()));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not want it all says so with its status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child
        .wait_with_output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

impl From<CertificateError> for PartFailure {
    fn from(error: CertificateError) -> Self {
        Self::new(SUPERVISOR, error)
    }
}

impl From<ApiError> for PartFailure {
    fn from(error: ApiError) -> Self {
        Self::new("kube-apiserver", error)
    }
}

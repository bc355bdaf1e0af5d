//! The process that keeps a stack.

use std::{
    cell::Cell,
    future::pending,
    io::{self, BufRead},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    process::ExitCode,
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::unistd::setsid;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::{
    Answer, Event, Isolation, Nursery, Plan, Ports, Request,
    forward::HostPort,
    janitor::Janitor,
    nursery::{self, Exit, INIT},
    plan::Failure,
};
use crate::{
    NodeKind, cgroups,
    parts::{self, PartFailure, Reporter, Site},
    state::{Lock, SUPERVISOR, StateDir, last_lines},
};

/// Where `tests/local/values/slack.yaml` puts Slack's stand-in, of which the host sees the page.
const SLACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 41)), 80);

/// How long killed parts may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn main() -> ExitCode {
    let mut line = String::new();
    if let Err(error) = io::stdin().lock().read_line(&mut line) {
        eprintln!("the keeper got no plan: {error}");
        return ExitCode::from(2);
    }
    let plan: Plan = match serde_json::from_str(&line) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("the keeper did not understand its plan: {error}");
            return ExitCode::from(2);
        }
    };
    let state = StateDir::at(&plan.state_dir);
    let reporter = Reporter::new(Arc::new(Mutex::new(io::stdout())));
    match keep(plan, &state, &reporter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            reporter.report(&Event::Failed(failure.with_log(&state)));
            ExitCode::FAILURE
        }
    }
}

fn keep(plan: Plan, state: &StateDir, reporter: &Reporter) -> Result<(), PartFailure> {
    // The terminal's signals are for the process that started the stack; this one follows it.
    setsid().map_err(failed("leaving the terminal"))?;
    let lock = take_over(state, &plan.id).map_err(failed("preparing the state directory"))?;
    link_programs(&plan, state).map_err(failed("linking the stack's programs"))?;

    let mut janitor =
        Janitor::hire(&plan.id, state, &lock).map_err(failed("starting the janitor"))?;

    // Until the stack has ended: its containers read from there.
    let _unpacked: Vec<_> = plan
        .unpacked
        .iter()
        .map(|image| {
            image.hold().map_err(|error| {
                let root = image.root.display();
                PartFailure::new(
                    SUPERVISOR,
                    format!("using the unpacked image {root}: {error}"),
                )
            })
        })
        .collect::<Result<_, _>>()?;
    let aws = HostPort::take().map_err(failed("choosing a port"))?;
    let kube_api = HostPort::take().map_err(failed("choosing a port"))?;
    let slack = HostPort::take().map_err(failed("choosing a port"))?;
    let isolation = Isolation::enter().map_err(failed("creating a network namespace"))?;
    if isolation == Isolation::Processes && plan.node == NodeKind::Gvisor {
        return Err(PartFailure::new(
            SUPERVISOR,
            "a real node needs root with the right to create namespaces; run this as root, or use the node kind `kwok`",
        ));
    }
    let ports = Ports::choose(aws.number(), kube_api.number(), slack.number(), isolation)
        .map_err(failed("choosing ports"))?;
    // Only now, so that every thread of it is in the stack's network.
    let runtime = Runtime::new().map_err(failed("starting its runtime"))?;
    // Local, since what starts a part is not meant to move between threads.
    let kept = LocalSet::new().block_on(&runtime, async {
        match isolation {
            Isolation::Namespaces => {
                aws.forward().map_err(failed("forwarding a port"))?;
                kube_api.forward().map_err(failed("forwarding a port"))?;
                slack
                    .forward_to_service(SLACK)
                    .map_err(failed("forwarding a port"))?;
            }
            // The parts listen there themselves, and there are no services.
            Isolation::Processes => drop((aws, kube_api, slack)),
        }
        let (exits, exited) = mpsc::unbounded_channel();
        let nursery = Nursery::open(&plan.id, state, isolation, exits)
            .map_err(failed("creating the stack's namespaces"))?;
        if let Some(init) = nursery.init() {
            janitor
                .tell_init(init)
                .map_err(failed("telling the janitor"))?;
        }
        if plan.node == NodeKind::Gvisor {
            cgroups::create(&plan.id).map_err(failed("creating the stack's cgroup"))?;
        }
        let detached = Rc::new(Cell::new(plan.detached));
        let site = Site::new(
            plan,
            state.clone(),
            isolation,
            ports,
            nursery.clone(),
            reporter.clone(),
        )
        .map_err(|problem| PartFailure::new(SUPERVISOR, problem))?;
        run(Rc::new(site), &nursery, exited, &detached).await
    });
    // Threads that wait for a part or for standard input must not delay the end.
    runtime.shutdown_background();
    kept
}

/// Starts the parts, and stays until there is a reason to end.
async fn run(
    site: Rc<Site>,
    nursery: &Nursery,
    mut exited: mpsc::UnboundedReceiver<Exit>,
    detached: &Rc<Cell<bool>>,
) -> Result<(), PartFailure> {
    let mut starter = watch_starter();
    let mut orders = take_orders(&site, detached).map_err(failed("listening for orders"))?;
    let started = tokio::select! {
        started = parts::start(&site) => started.map(Some),
        Some(exit) = exited.recv() => Err(exit.into_failure()),
        () = starters_end(&mut starter) => Ok(None),
        () = told_to_end(&mut orders) => Ok(None),
    };
    let outcome = match started {
        Ok(Some(info)) => {
            site.reporter.report(&Event::Up(Box::new(info)));
            tokio::select! {
                exit = essential_exit(&mut exited) => Err(exit.into_failure()),
                () = starters_end_of_foreground(&mut starter, detached) => Ok(()),
                () = told_to_end(&mut orders) => Ok(()),
            }
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    nursery.kill_all();
    // The kernel ends a PID namespace only when each process in it was reaped. Left to the host's
    // init that can take seconds; the parts are this process's children.
    let all_ended = async { while !nursery.is_empty() && exited.recv().await.is_some() {} };
    if timeout(PATIENCE, all_ended).await.is_err() {
        eprintln!("some parts do not end; leaving them to the janitor");
    }
    outcome
}

/// Resolves when something ended without which nothing of the stack is left. Other parts that end
/// are told by `status`, and by the log.
async fn essential_exit(exited: &mut mpsc::UnboundedReceiver<Exit>) -> Exit {
    while let Some(exit) = exited.recv().await {
        if exit.part == INIT {
            return exit;
        }
        eprintln!("{} ended with {}", exit.part, exit.status);
    }
    // The nursery, which is borrowed meanwhile, holds a sender.
    pending().await
}

/// Resolves when the process that started the stack ends, unless the stack is to outlive it.
async fn starters_end_of_foreground(ended: &mut oneshot::Receiver<()>, detached: &Cell<bool>) {
    starters_end(ended).await;
    if detached.get() {
        pending::<()>().await;
    }
}

/// Resolves when there is an order to end.
async fn told_to_end(orders: &mut mpsc::Receiver<End>) {
    // The tasks that give orders end with the runtime, after this has resolved.
    let _ = orders.recv().await;
}

/// Resolves when the process that started the stack has ended, or has let it go. It holds the other
/// end of standard input, and the kernel closes that however it dies.
async fn starters_end(ended: &mut oneshot::Receiver<()>) {
    // A reader that is gone without a word has ended all the same.
    let _ = ended.await;
}

fn watch_starter() -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = end.send(());
    });
    ended
}

/// The order to end.
struct End;

/// Orders from signals and from the control socket, which also lets the stack outlive its starter.
fn take_orders(site: &Rc<Site>, detached: &Rc<Cell<bool>>) -> io::Result<mpsc::Receiver<End>> {
    let (order, orders) = mpsc::channel(8);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut received = signal(kind)?;
        let order = order.clone();
        spawn_local(async move {
            received.recv().await;
            let _ = order.send(End).await;
        });
    }
    let socket = UnixListener::bind(site.state.control())?;
    let (site, detached) = (Rc::clone(site), Rc::clone(detached));
    spawn_local(async move {
        while let Ok((client, _)) = socket.accept().await {
            let (site, detached, order) = (Rc::clone(&site), Rc::clone(&detached), order.clone());
            spawn_local(async move {
                if let Err(error) = serve(client, &site, &detached, &order).await {
                    eprintln!("the control socket: {error}");
                }
            });
        }
    });
    Ok(orders)
}

async fn serve(
    client: UnixStream,
    site: &Site,
    detached: &Cell<bool>,
    orders: &mpsc::Sender<End>,
) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await?;
    let mut ends = false;
    let answer = match serde_json::from_str(&line)? {
        Request::Status => Answer::Status(site.nursery.status()),
        Request::Down => {
            ends = true;
            Answer::Done
        }
        Request::Detach => {
            // Here, not by an order: whoever asked may end as soon as it has the answer, and that
            // end must not be seen before this.
            detached.set(true);
            Answer::Done
        }
        Request::AddKwokNode {
            name,
            program,
            stages,
        } => match parts::add_kwok_node(site, &name, &program, &stages).await {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure.with_log(&site.state)),
        },
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await?;
    writer.shutdown().await?;
    // After the answer, which would otherwise not be given any more.
    if ends {
        let _ = orders.send(End).await;
    }
    Ok(())
}

/// Makes the state directory this stack's own, after cleaning up behind one that crashed together
/// with its janitor.
fn take_over(state: &StateDir, id: &str) -> io::Result<Lock> {
    let Some(mut lock) = state.lock()? else {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!(
                "another stack uses {}; end it first, or choose another directory",
                state.root().display()
            ),
        ));
    };
    if let Some(former) = lock.last_owner()? {
        cgroups::remove(&former, PATIENCE)?;
    }
    state.clear()?;
    lock.sign(id)?;
    nursery::prepare(state)?;
    state.clear_logs()?;
    Ok(lock)
}

/// One directory with everything in it, for `PATH`s and for programs that look beside themselves.
fn link_programs(plan: &Plan, state: &StateDir) -> io::Result<()> {
    for (name, program) in &plan.programs {
        symlink(program, state.bin().join(name))?;
    }
    Ok(())
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> PartFailure {
    move |error| PartFailure::new(SUPERVISOR, format!("{what}: {error}"))
}

impl Exit {
    fn into_failure(self) -> PartFailure {
        PartFailure::new(&self.part, format!("it ended with {}", self.status))
    }
}

impl PartFailure {
    fn with_log(self, state: &StateDir) -> Failure {
        let log = state.log(&self.part);
        Failure {
            last_lines: last_lines(&log, 15),
            log: log.is_file().then_some(log),
            part: self.part,
            problem: self.problem,
        }
    }
}

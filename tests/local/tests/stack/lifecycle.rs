//! How stacks begin and end.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use carapace_local::{NodeKind, Progress, Stack, StackError, UpOptions};
use libtest_mimic::Trial;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    TestStack,
    cluster::{Cluster, run},
    images,
    leftovers::Traces,
    options, same, trial,
};

/// The argument that makes this program start a stack and wait for its end, so that a test can be
/// unkind to it.
pub(crate) const STARTER: &str = "__start";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "nothing_is_left_of_a_stack_that_was_ended",
            nothing_is_left_of_a_stack_that_was_ended,
        ),
        trial(
            "nothing_is_left_when_the_supervisor_is_killed",
            nothing_is_left_when_the_supervisor_is_killed,
        ),
        trial(
            "nothing_is_left_when_supervisor_and_janitor_are_killed_and_another_stack_comes",
            nothing_is_left_when_supervisor_and_janitor_are_killed_and_another_stack_comes,
        ),
        trial(
            "a_stack_ends_with_its_starter",
            a_stack_ends_with_its_starter,
        ),
        trial(
            "a_stack_that_is_interrupted_while_it_starts_leaves_nothing",
            a_stack_that_is_interrupted_while_it_starts_leaves_nothing,
        ),
        trial(
            "a_detached_stack_outlives_its_starter_and_ends_when_told",
            a_detached_stack_outlives_its_starter_and_ends_when_told,
        ),
        trial(
            "aws_answers_at_the_same_url_inside_and_outside",
            aws_answers_at_the_same_url_inside_and_outside,
        ),
        trial(
            "a_stack_can_be_kept_after_it_was_started",
            a_stack_can_be_kept_after_it_was_started,
        ),
        trial("two_stacks_run_side_by_side", two_stacks_run_side_by_side),
        trial(
            "a_directory_holds_one_stack_at_a_time",
            a_directory_holds_one_stack_at_a_time,
        ),
        trial(
            "a_directory_that_would_not_do_is_refused_at_once",
            a_directory_that_would_not_do_is_refused_at_once,
        ),
        trial(
            "a_failure_names_its_part_and_leaves_nothing",
            a_failure_names_its_part_and_leaves_nothing,
        ),
        trial(
            "where_namespaces_are_forbidden_a_stack_still_ends_with_its_supervisor",
            where_namespaces_are_forbidden_a_stack_still_ends_with_its_supervisor,
        ),
    ]
}

/// `__start <state dir> <node> [detached]`: prints a line for each sign of progress, then `up`, and
/// waits for the end of its input.
pub(crate) fn starter_main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(2).collect();
    let started = match arguments.as_slice() {
        [dir, node, detached @ ..] => start(Path::new(dir), node, !detached.is_empty()),
        arguments => Err(anyhow::anyhow!("unknown arguments {arguments:?}")),
    };
    match started {
        Ok(stack) => {
            println!("up");
            for _ in std::io::stdin().lines() {}
            drop(stack);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn start(dir: &Path, node: &str, detached: bool) -> Result<Stack> {
    let node = match node {
        "gvisor" => NodeKind::Gvisor,
        "kwok" => NodeKind::Kwok,
        node => bail!("unknown node {node}"),
    };
    let mut options = UpOptions::new(dir, node);
    options.aws = false;
    if node == NodeKind::Gvisor {
        options.images = images::archives()?;
    }
    let mut tell = |progress| match progress {
        Progress::Started { step, .. } => println!("{step}"),
        Progress::Finished { step, .. } => println!("done: {step}"),
        Progress::Note(text) => println!("{text}"),
    };
    Ok(match detached {
        true => Stack::up_detached(&options, &mut tell)?,
        false => Stack::up(&options, &mut tell)?,
    })
}

/// Runs this program as a starter, by way of `wrapper` if that is not empty.
fn starter(wrapper: &[&str], arguments: &[&str]) -> Result<Child> {
    let this = env::current_exe()?;
    let mut command = match wrapper.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
        None => Command::new(this),
    };
    Ok(command
        .arg(STARTER)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?)
}

/// Reads what a starter prints up to a line that begins with `beginning`.
fn await_line(starter: &mut Child, beginning: &str) -> Result<()> {
    let output = starter.stdout.take().context("the output is a pipe")?;
    let mut seen = Vec::new();
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next().transpose()? {
        if line.starts_with(beginning) {
            // Whatever follows must not block, nor kill, the one who prints it.
            thread::spawn(move || lines.for_each(drop));
            return Ok(());
        }
        seen.push(line);
    }
    bail!("the starter never printed {beginning:?}, but {seen:#?}")
}

fn traces(stack: &Stack) -> Result<Traces> {
    let mut pids: Vec<u32> = stack.status()?.iter().map(|part| part.pid).collect();
    pids.push(stack.info().supervisor_pid);
    Ok(Traces::of(stack.info(), &pids))
}

/// A stack with a running pod has all that a stack can leave behind.
fn run_a_pod(stack: &Stack) -> Result<()> {
    let cluster = Cluster::of(stack);
    cluster.define_runtime_class()?;
    cluster.start_pod("pod")?;
    cluster.await_pod("pod").map(drop)
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(pid.try_into()?), signal)?)
}

fn nothing_is_left_of_a_stack_that_was_ended() -> Result<()> {
    let TestStack { stack, _dir } = TestStack::up(NodeKind::Gvisor)?;
    run_a_pod(&stack)?;
    let traces = traces(&stack)?;
    traces.ensure_complete()?;
    let logs = stack.info().logs_dir.clone();
    stack.down()?;
    traces.await_none()?;
    ensure!(
        logs.join("kube-apiserver.log").is_file(),
        "its logs are gone"
    );
    Ok(())
}

fn nothing_is_left_when_the_supervisor_is_killed() -> Result<()> {
    let test = TestStack::up(NodeKind::Gvisor)?;
    run_a_pod(&test.stack)?;
    let traces = traces(&test.stack)?;
    traces.ensure_complete()?;
    send(test.stack.info().supervisor_pid, Signal::SIGKILL)?;
    traces.await_none()
}

fn nothing_is_left_when_supervisor_and_janitor_are_killed_and_another_stack_comes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = options(&dir, NodeKind::Gvisor)?;
    let stack = Stack::up(&options, &mut |_| {})?;
    run_a_pod(&stack)?;
    let traces = traces(&stack)?;
    let supervisor = stack.info().supervisor_pid;
    let janitor = child_with_argument(supervisor, "janitor")?;
    send(janitor, Signal::SIGKILL)?;
    send(supervisor, Signal::SIGKILL)?;
    drop(stack);
    let id_of_second = {
        let second = Stack::up(&options, &mut |_| {})?;
        second.info().id.clone()
    };
    ensure!(!id_of_second.is_empty(), "a stack has an id");
    traces.await_none()
}

fn a_stack_ends_with_its_starter() -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let dir = tempfile::tempdir()?;
        let state = dir.path().join("s");
        let mut starter = starter(&[], &[&state.to_string_lossy(), "gvisor"])?;
        await_line(&mut starter, "up")?;
        let stack = Stack::attach(&state)?;
        run_a_pod(&stack)?;
        let traces = traces(&stack)?;
        traces.ensure_complete()?;
        send(starter.id(), signal)?;
        starter.wait()?;
        traces
            .await_none()
            .with_context(|| format!("after {signal}"))?;
    }
    Ok(())
}

fn a_stack_that_is_interrupted_while_it_starts_leaves_nothing() -> Result<()> {
    let before = cgroups()?;
    for moment in [
        "start etcd",
        "start kube-apiserver",
        "done: start containerd",
        "start kubelet",
        "done: start kubelet",
    ] {
        let dir = tempfile::tempdir()?;
        let state = dir.path().join("s");
        let mut starter = starter(&[], &[&state.to_string_lossy(), "gvisor"])?;
        await_line(&mut starter, moment)?;
        send(starter.id(), Signal::SIGINT)?;
        starter.wait()?;
        // Its id is known to nobody, but everything that it starts names its directory.
        Traces::of_directory(&state)
            .await_none()
            .with_context(|| format!("interrupted at {moment:?}"))?;
        same(&cgroups()?, &before).with_context(|| format!("interrupted at {moment:?}"))?;
    }
    Ok(())
}

fn a_detached_stack_outlives_its_starter_and_ends_when_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let state = dir.path().join("s");
    let mut starter = starter(&[], &[&state.to_string_lossy(), "kwok", "detached"])?;
    await_line(&mut starter, "up")?;
    send(starter.id(), Signal::SIGKILL)?;
    starter.wait()?;

    let stack = Stack::attach(&state)?;
    let parts = stack.status()?;
    ensure!(
        parts.iter().all(carapace_local::PartStatus::is_up),
        "{parts:?}"
    );
    ensure!(parts.iter().all(|part| part.rss_kib > 0), "{parts:?}");
    Cluster::of(&stack).kubectl(&["get", "nodes"])?;
    let traces = traces(&stack)?;
    stack.down()?;
    traces.await_none()?;
    let again = Stack::attach(&state);
    ensure!(matches!(again, Err(StackError::NotUp { .. })), "{again:?}");
    Ok(())
}

fn aws_answers_at_the_same_url_inside_and_outside() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut options = options(&dir, NodeKind::None)?;
    options.aws = true;
    let stack = Stack::up(&options, &mut |_| {})?;
    let endpoint = stack.info().aws_endpoint.clone();
    let endpoint = endpoint.context("there is AWS")?;
    for mut curl in [stack.command("curl"), stack.enter("curl")] {
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*"])
            .args(["--max-time", "5", &format!("{endpoint}/_ministack/health")]);
        let health = run(curl, "")?;
        ensure!(health.contains(r#""auth": "enabled""#), "{health}");
    }
    Ok(())
}

fn a_stack_can_be_kept_after_it_was_started() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let stack = Stack::up(&options(&dir, NodeKind::None)?, &mut |_| {})?;
    let info = stack.detach()?;
    let stack = Stack::attach(&info.state_dir)?;
    Cluster::of(&stack).kubectl(&["get", "namespaces"])?;
    let traces = traces(&stack)?;
    stack.down()?;
    traces.await_none()
}

fn two_stacks_run_side_by_side() -> Result<()> {
    let one = TestStack::up(NodeKind::Gvisor)?;
    let two = TestStack::up(NodeKind::Gvisor)?;
    for (test, pod) in [(&one, "one"), (&two, "two")] {
        let cluster = Cluster::of(&test.stack);
        cluster.define_runtime_class()?;
        cluster.start_pod(pod)?;
    }
    let cluster = Cluster::of(&one.stack);
    // Both nodes, and both first pods, have the same address: each in a network of its own.
    same(
        &cluster.await_pod("one")?,
        &Cluster::of(&two.stack).await_pod("two")?,
    )?;
    ensure!(
        cluster.get("pod", "two").is_err(),
        "one sees the other's pod"
    );
    let traces = traces(&two.stack)?;
    drop(two);
    traces.await_none()?;
    cluster.kubectl(&["exec", "one", "--", "/pod", "print"])?;
    Ok(())
}

fn a_directory_holds_one_stack_at_a_time() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = options(&dir, NodeKind::None)?;
    let stack = Stack::up(&options, &mut |_| {})?;
    let second = Stack::up(&options, &mut |_| {});
    ensure!(
        matches!(second, Err(StackError::AlreadyUp { .. })),
        "{second:?}"
    );
    Cluster::of(&stack).kubectl(&["get", "namespaces"])?;
    stack.down()?;
    Stack::up(&options, &mut |_| {})?.down()?;
    Ok(())
}

fn a_directory_that_would_not_do_is_refused_at_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut options = options(&dir, NodeKind::None)?;
    options.state_dir.as_mut_os_string().push("s");
    let refused = Stack::up(&options, &mut |_| {});
    ensure!(
        matches!(refused, Err(StackError::StateDirTooLong { .. })),
        "{refused:?}"
    );
    // Another program's `data` or `bin` must not be taken for a former stack's.
    options.state_dir = dir.path().join("project");
    fs::create_dir_all(options.state_dir.join("data"))?;
    let refused = Stack::up(&options, &mut |_| {});
    ensure!(
        matches!(refused, Err(StackError::NotAStateDir { .. })),
        "{refused:?}"
    );
    ensure!(options.state_dir.join("data").exists(), "it was removed");
    Ok(())
}

fn a_failure_names_its_part_and_leaves_nothing() -> Result<()> {
    let before = cgroups()?;
    let dir = tempfile::tempdir()?;
    let mut options = options(&dir, NodeKind::Gvisor)?;
    options.images = vec![dir.path().join("missing.tar")];
    let Err(error) = Stack::up(&options, &mut |_| {}) else {
        bail!("a stack came up without its image");
    };
    let text = error.to_string();
    ensure!(
        text.starts_with("containerd: ") && text.contains("missing.tar"),
        "{text}"
    );
    ensure!(text.contains("Its log: "), "{text}");
    Traces::of_directory(&options.state_dir).await_none()?;
    same(&cgroups()?, &before)
}

fn where_namespaces_are_forbidden_a_stack_still_ends_with_its_supervisor() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let state = dir.path().join("s");
    let without = [
        "setpriv",
        "--bounding-set=-sys_admin",
        "--inh-caps=-sys_admin",
        "--",
    ];
    let mut starter = starter(&without, &[&state.to_string_lossy(), "kwok"])?;
    await_line(&mut starter, "up")?;
    let stack = Stack::attach(&state)?;
    same(&stack.info().netns_pid, &None)?;
    Cluster::of(&stack).kubectl(&["get", "nodes"])?;
    let traces = traces(&stack)?;
    send(stack.info().supervisor_pid, Signal::SIGKILL)?;
    traces.await_none()?;
    drop(starter.stdin.take());
    starter.wait()?;

    // A real node cannot run like that, and says what to do.
    let mut command = Command::new(without[0]);
    command
        .args(&without[1..])
        .arg(env::current_exe()?)
        .args([STARTER, &state.to_string_lossy(), "gvisor"])
        .stdin(Stdio::null());
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !output.status.success() && text.contains("`kwok`"),
        "{text}"
    );
    Ok(())
}

fn child_with_argument(parent: u32, argument: &str) -> Result<u32> {
    let mut pgrep = Command::new("pgrep");
    pgrep.args(["--parent", &parent.to_string(), "--full", argument]);
    Ok(run(pgrep, "")?.trim().parse()?)
}

fn cgroups() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup")? {
        let Ok(entries) = fs::read_dir(hierarchy?.path()) else {
            continue;
        };
        found.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("carapace-"))
                .map(|entry| entry.path().display().to_string()),
        );
    }
    found.sort();
    Ok(found)
}

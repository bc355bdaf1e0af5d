//! The real OpenClaw beside `agentd`: the image of the local stack, run by gVisor, as its node runs it,
//! with the environment and the directories that the chart gives it. The model is the test's.
//!
//! What differs from a pod: OpenClaw shares the loopback with `agentd` through the host's network
//! instead of through gVisor's own, and `agentd` is in the test's process.
//!
//! Run by `cargo xtask test --only openclaw`, in a network of its own that has nothing but a loopback,
//! with `RUNSC` naming gVisor's program and `OPENCLAW_IMAGE` the image's root filesystem.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "the harness is another test's, too, and has no readers outside"
)]

#[path = "daemon/harness.rs"]
mod harness;
#[path = "daemon/turn.rs"]
mod turn;

use std::fs::File;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use futures::SinkExt;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;
use tokio::sync::{RwLock, watch};

use harness::{ALICE, ALICES_KEY, Pod, Received};
use turn::{Event, Reader, end, held, reader};

/// It takes half a minute alone, and many times that on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(240);
/// A restart in the middle included.
const ENDS_WITHIN: Duration = Duration::from_secs(240);
/// The user that the image and the chart run it as.
const AGENT: u32 = 1000;
const CHART: &str = include_str!("../../../cluster/charts/agents/templates/_sandbox-template.tpl");

/// One for all tests of this program: a start takes longer than everything that is done with it.
static STAGE: LazyLock<RwLock<Stage>> =
    LazyLock::new(|| RwLock::new(RUNTIME.block_on(Stage::set())));
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

struct Stage {
    pod: Pod,
    openclaw: OpenClaw,
    /// Lets the model finish what it holds back.
    release: watch::Sender<bool>,
}

/// Beside other tests.
fn beside_others(story: impl AsyncFnOnce(&Stage)) {
    let stage = &*STAGE;
    RUNTIME.block_on(async { story(&*stage.read().await).await });
}

/// With OpenClaw for itself alone.
fn alone(story: impl AsyncFnOnce(&mut Stage)) {
    let stage = &*STAGE;
    RUNTIME.block_on(async { story(&mut *stage.write().await).await });
}

impl Stage {
    async fn set() -> Self {
        let mut pod = Pod::prepare().await;
        let mut config = pod.config();
        // How busy the machine is must not decide.
        config.openclaw_patience = ENDS_WITHIN;
        pod.start_with(config).await;
        drop(pod.openclaw_listener());
        let (release, released) = watch::channel(true);
        pod.upstream
            .answers(move |received| model(received, released.clone()));
        let openclaw = OpenClaw::in_pod(&pod);
        let mut stage = Self {
            pod,
            openclaw,
            release,
        };
        stage.openclaw.start().await;
        stage.until_ready().await;
        let (status, body) = stage.pod.bind(ALICE, ALICES_KEY).await;
        assert_eq!((status, body), (200, json!({"bound": true})));
        stage
    }

    async fn until_ready(&self) {
        let began = Instant::now();
        loop {
            let (status, body) = self.pod.get(&self.pod.control("/readyz"), None).await;
            if status == 200 {
                return;
            }
            assert!(
                began.elapsed() < STARTS_WITHIN,
                "{body}\n{}",
                self.openclaw.said()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All events of a turn: it ends, whatever happens.
    async fn rest(&self, name: &str, reader: Reader) -> Vec<Event> {
        let events = tokio::time::timeout(ENDS_WITHIN, reader.rest()).await;
        events.unwrap_or_else(|_| panic!("{name} hangs\n{}", self.openclaw.said()))
    }

    async fn turn(&self, id: &str, conversation: &str, text: &str) -> Vec<Event> {
        let reader = self.pod.turn(id, conversation, text).await;
        self.rest(id, reader).await
    }

    /// What the model was told in the calls of a turn that said this last.
    fn calls(&self, text: &str) -> Vec<Vec<(String, String)>> {
        let received = self.pod.upstream.received();
        let calls = received.iter().map(messages);
        calls
            .filter(|messages| last_of_user(messages).is_some_and(|said| said.contains(text)))
            .collect()
    }
}

/// The container `agent` of a pod, in the pod's kernel, which outlives it. OpenClaw knows another
/// process by its number and its start since the kernel's own: in a kernel as young as the last one
/// it would take itself for the process that was killed, and not start.
struct OpenClaw {
    directory: PathBuf,
    starts: u32,
    kernel: Option<Child>,
    process: Option<Child>,
}

/// The name of the container that holds the kernel.
const KERNEL: &str = "pod";

impl OpenClaw {
    fn in_pod(pod: &Pod) -> Self {
        for directory in ["state", "workspace", "agent-tmp", KERNEL, "agent", "runsc"] {
            std::fs::create_dir(pod.path(directory)).unwrap();
        }
        for owned in [
            "state",
            "workspace",
            "agent-tmp",
            "config",
            "config/openclaw.json",
        ] {
            chown(pod.path(owned), Some(AGENT), Some(AGENT)).unwrap();
        }
        std::fs::write(pod.path("hosts"), "127.0.0.1 localhost\n").unwrap();
        let mount = |name: &str, to: &str, mode: &str| {
            json!({
                "destination": to, "type": "bind", "source": pod.path(name),
                "options": ["rbind", mode],
            })
        };
        let pod_is = |kind: &str| {
            json!({
                "io.kubernetes.cri.container-type": kind,
                "io.kubernetes.cri.sandbox-id": KERNEL,
            })
        };
        let spec = |args: &[&str], mounts: &[Value], annotations: Value| {
            let proc = json!({"destination": "/proc", "type": "proc", "source": "proc"});
            let mounts = [&[proc], mounts].concat();
            json!({
                "ociVersion": "1.0.2",
                "hostname": "agents-x7k2p",
                "process": {
                    "user": {"uid": AGENT, "gid": AGENT},
                    "args": args,
                    "cwd": "/app/node_modules/openclaw",
                    "env": environment(),
                    "noNewPrivileges": true,
                    "capabilities": {},
                },
                "root": {"path": variable("OPENCLAW_IMAGE"), "readonly": true},
                "mounts": mounts,
                "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}]},
                "annotations": annotations,
            })
        };
        let pause = spec(&["/usr/bin/sleep", "infinity"], &[], pod_is("sandbox"));
        let agent = spec(
            &["/usr/local/bin/node", "openclaw.mjs", "gateway", "run"],
            &[
                mount("state", "/state", "rw"),
                mount("workspace", "/workspace", "rw"),
                mount("agent-tmp", "/tmp", "rw"),
                mount("config", "/config", "ro"),
                mount("hosts", "/etc/hosts", "ro"),
            ],
            pod_is("container"),
        );
        for (bundle, spec) in [(KERNEL, pause), ("agent", agent)] {
            std::fs::write(pod.path(bundle).join("config.json"), spec.to_string()).unwrap();
        }
        Self {
            directory: pod.path("."),
            starts: 0,
            kernel: None,
            process: None,
        }
    }

    fn runsc(&self) -> Command {
        let mut runsc = Command::new(variable("RUNSC"));
        runsc
            .arg("--root")
            .arg(self.directory.join("runsc"))
            .args(["--platform", "systrap", "--systrap-disable-fast-path"])
            .args(["--network", "host"])
            .args(["--ignore-cgroups", "--overlay2", "none"]);
        runsc
    }

    fn name(&self) -> String {
        format!("openclaw-{}", self.starts)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// As the kubelet does, after a crash as well: a new container on the same directories.
    async fn start(&mut self) {
        if self.kernel.is_none() {
            self.kernel = Some(self.run(KERNEL, KERNEL));
            let began = Instant::now();
            while !self.runs(KERNEL).await {
                assert!(began.elapsed() < STARTS_WITHIN, "{}", self.said());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        self.starts += 1;
        self.process = Some(self.run("agent", &self.name()));
    }

    fn run(&self, bundle: &str, name: &str) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        self.runsc()
            .args(["run", "--bundle"])
            .arg(self.directory.join(bundle))
            .arg(name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn runs(&self, name: &str) -> bool {
        let state = self.runsc().args(["state", name]).output().await.unwrap();
        let state: Value = serde_json::from_slice(&state.stdout).unwrap_or_default();
        state["status"] == "running"
    }

    /// Sends a signal to OpenClaw itself, from outside of its container.
    async fn signal(&self, signal: &str) {
        let kill = self
            .runsc()
            .args(["kill", &self.name(), signal])
            .output()
            .await
            .unwrap();
        assert!(kill.status.success(), "{kill:?}\n{}", self.said());
    }

    async fn killed(&mut self) {
        self.signal("KILL").await;
        let mut process = self.process.take().unwrap();
        let status = process.wait().await.unwrap();
        assert_eq!(status.code(), Some(128 + 9), "{}", self.said());
    }
}

/// As the chart and the image have it.
fn environment() -> Vec<String> {
    let flags = CHART
        .lines()
        .find(|line| line.contains("range list \"OPENCLAW_"))
        .unwrap();
    let flags = flags
        .split('"')
        .filter(|part| part.starts_with("OPENCLAW_"));
    let mut environment: Vec<_> = flags.map(|flag| format!("{flag}=1")).collect();
    assert!(environment.len() > 5, "{environment:?}");
    environment.extend(
        [
            "OPENCLAW_EXEC_SHELL_SNAPSHOT=0",
            "OPENCLAW_STATE_DIR=/state",
            "OPENCLAW_CONFIG_PATH=/config/openclaw.json",
            "HOME=/state/home",
            // The image's own.
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "LANG=C.UTF-8",
            "NODE_COMPILE_CACHE=/app/compile-cache",
            "OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED=1",
        ]
        .map(str::to_owned),
    );
    environment
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; `cargo xtask test --only openclaw` sets it"))
}

/// Who said what, in a call of the model.
fn messages(received: &Received) -> Vec<(String, String)> {
    let request: Value = serde_json::from_slice(&received.body).unwrap_or_default();
    let messages = request["messages"].as_array().cloned().unwrap_or_default();
    let text = |content: &Value| match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    };
    messages
        .iter()
        .map(|message| {
            let role = message["role"].as_str().unwrap().to_owned();
            (role, text(&message["content"]))
        })
        .collect()
}

/// Where the user's last words are. What OpenClaw adds of its own comes as the user's, too.
fn place_of_user(messages: &[(String, String)]) -> Option<usize> {
    messages.iter().rposition(|(role, text)| {
        role == "user" && !text.contains("BEGIN_OPENCLAW_INTERNAL_CONTEXT")
    })
}

fn last_of_user(messages: &[(String, String)]) -> Option<&str> {
    Some(&messages[place_of_user(messages)?].1)
}

/// The model. Words in what the user said last make it do more than to repeat that:
/// - `SLOW n` says n words, a tenth of a second apart.
/// - `HOLD` says a word, and the rest when it is released.
/// - `TOOL command` uses the shell first.
fn model(received: &Received, mut released: watch::Receiver<bool>) -> Response {
    let messages = messages(received);
    let said = last_of_user(&messages).unwrap_or_default().to_owned();
    let place = place_of_user(&messages).unwrap_or_default();
    let after_tool = messages[place..].iter().any(|(role, _)| role == "tool");
    let (mut sender, receiver) = futures::channel::mpsc::channel::<Result<String, String>>(4);
    tokio::spawn(async move {
        let chunk = |delta: Value, reason: Value| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
            let chunk = json!({
                "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "agent",
                "choices": [choice],
            });
            Ok(format!("data: {chunk}\n\n"))
        };
        let word = |text: String| chunk(json!({"content": text}), Value::Null);
        let words: Vec<&str> = said.split_whitespace().collect();
        let behind = |word: &str| {
            let at = words.iter().position(|known| *known == word)?;
            Some(words[at + 1..].join(" "))
        };
        let mut pieces = vec![chunk(
            json!({"role": "assistant", "content": ""}),
            Value::Null,
        )];
        let mut reason = "stop";
        let slow = behind("SLOW").and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
        match behind("TOOL") {
            Some(command) if !after_tool => {
                let arguments = json!({"command": command}).to_string();
                let function = json!({"name": "exec", "arguments": arguments});
                let call =
                    json!({"index": 0, "id": "call_1", "type": "function", "function": function});
                pieces.push(chunk(json!({"tool_calls": [call]}), Value::Null));
                reason = "tool_calls";
            }
            Some(_) => pieces.push(word("The tool is done.".to_owned())),
            None if behind("HOLD").is_some() => pieces.push(word("w0 ".to_owned())),
            None => match slow {
                Some(count) => pieces.extend((0..count).map(|n| word(format!("w{n} ")))),
                None => pieces.push(word(format!("You said: {}", said.trim()))),
            },
        }
        for piece in pieces {
            if sender.send(piece).await.is_err() {
                return;
            }
            if slow.is_some() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if behind("HOLD").is_some() {
            // Whoever hangs up is waited for no longer.
            tokio::select! {
                _ = released.wait_for(|released| *released) => {}
                () = async { while !sender.is_closed() { tokio::time::sleep(Duration::from_millis(20)).await } } => return,
            }
            let _ = sender.send(word("w1".to_owned())).await;
        }
        let _ = sender.send(chunk(json!({}), json!(reason))).await;
        let _ = sender.send(Ok("data: [DONE]\n\n".to_owned())).await;
    });
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(Body::from_stream(receiver))
        .unwrap()
}

#[test]
fn a_conversation_remembers_and_no_other_hears_of_it() {
    beside_others(async |stage| {
        let first = stage.turn("m1", "m-one", "My cat is Tom.").await;
        assert_eq!(end(&first).0, "done", "{first:?}");
        let second = stage.turn("m2", "m-one", "What is it called?").await;
        assert_eq!(end(&second).0, "done", "{second:?}");
        let other = stage.turn("m3", "m-two", "And who am I?").await;
        assert_eq!(end(&other).0, "done", "{other:?}");
        let told = |text: &str| {
            let calls = stage.calls(text);
            assert_eq!(calls.len(), 1, "{text}: {calls:?}");
            let said = calls[0].iter().filter(|(role, _)| role != "system");
            said.map(|(_, text)| text.clone())
                .collect::<Vec<_>>()
                .join("\n")
        };
        let same = told("What is it called?");
        assert!(same.contains("My cat is Tom."), "{same}");
        assert!(
            same.contains("You said: "),
            "it forgot its own words: {same}"
        );
        let other = told("And who am I?");
        assert!(!other.contains("Tom"), "{other}");
        assert!(!other.contains("called"), "{other}");
    });
}

#[test]
fn a_turn_outlives_its_caller_and_is_read_to_its_end_once() {
    beside_others(async |stage| {
        let mut caller = stage.pod.turn("d1", "d-one", "SLOW 20").await;
        let mut events = Vec::from_iter(caller.next().await);
        drop(caller);
        let from = events[0].id;
        let attached = reader(stage.pod.on_turn("GET", &format!("d1?from={from}"))).await;
        events.extend(stage.rest("d1", attached).await);
        let whole = (0..20)
            .map(|n| format!("w{n}"))
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(held(&events).trim(), whole);
        let (name, text) = end(&events);
        assert_eq!((name, text.as_str().unwrap().trim()), ("done", &*whole));
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        assert_eq!(stage.calls("SLOW 20").len(), 1);
    });
}

/// OpenClaw goes down, which its log tells by these words, in the middle of a turn that the model is
/// answering and of one whose tool runs; a third comes in meanwhile.
async fn survives(
    stage: &mut Stage,
    name: &str,
    words: &str,
    goes_down: impl AsyncFnOnce(&mut OpenClaw),
) {
    let of = |what: &str| format!("{what}-{name}");
    let turns = ["held", "tool", "late"].map(|what| (of(what), of(&format!("c-{what}"))));
    let [(held_id, held_in), (tool_id, tool_in), (late_id, late_in)] = &turns;
    let held_text = format!("HOLD {name}");
    // Longer than it takes to be killed, and not so long that it could not be done twice.
    let tool_text = "TOOL sleep 20".to_owned();
    let late_text = format!("hello after {name}");
    stage.release.send_replace(false);
    let mut held_back = stage.pod.turn(held_id, held_in, &held_text).await;
    let mut tool = stage.pod.turn(tool_id, tool_in, &tool_text).await;
    let mut begun = vec![held_back.next().await.unwrap()];
    let mut used = Vec::new();
    while used
        .last()
        .is_none_or(|event: &Event| event.name != "activity")
    {
        let next = tool.next().await;
        used.push(next.unwrap_or_else(|| panic!("no tool was used: {used:?}")));
    }
    goes_down(&mut stage.openclaw).await;
    let late = stage.pod.turn(late_id, late_in, &late_text).await;
    stage.release.send_replace(true);

    begun.extend(stage.rest(held_id, held_back).await);
    used.extend(stage.rest(tool_id, tool).await);
    let late = stage.rest(late_id, late).await;
    let began = Instant::now();
    while !stage.openclaw.said().contains(words) {
        let waited = began.elapsed();
        assert!(waited < STARTS_WITHIN, "{}", stage.openclaw.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    assert_eq!(end(&late).0, "done", "{late:?}");
    assert_eq!(stage.calls(&late_text).len(), 1);
    for (id, conversation, text, events) in [
        (held_id, held_in, &held_text, &begun),
        (tool_id, tool_in, &tool_text, &used),
    ] {
        let (how, what) = end(events);
        let ends = events
            .iter()
            .filter(|event| ["done", "error"].contains(&event.name.as_str()));
        assert_eq!(ends.count(), 1, "{events:?}");
        match how {
            // What was said on the way is no answer.
            "done" => assert!(
                !["", "w0", "Let me see."].contains(&what.as_str().unwrap().trim()),
                "{events:?}"
            ),
            _ => assert_eq!(what, "TurnLost", "{events:?}"),
        }
        let again = stage.turn(id, conversation, text).await;
        assert_eq!((held(&again), end(&again)), (held(events), end(events)));

        let next = format!("next after {id}");
        let events = stage.turn(&format!("next-{id}"), conversation, &next).await;
        assert_eq!(end(&events).0, "done", "{events:?}");
        let calls = stage.calls(&next);
        assert_eq!(calls.len(), 1, "{calls:?}");
        let times = |wanted: &str| {
            let said = calls[0].iter().filter(|(_, said)| said.contains(wanted));
            said.count()
        };
        assert_eq!(times(text), 1, "it was taken on once: {calls:?}");
        assert!(times("w0 w1") <= 1, "it was answered once: {calls:?}");
    }
}

#[test]
fn a_kill_in_the_middle_of_turns_ends_each_of_them_once() {
    alone(async |stage| {
        let words = "for restart recovery";
        survives(stage, "kill", words, async |openclaw| {
            openclaw.killed().await;
            openclaw.start().await;
        })
        .await;
    });
}

/// Its own restart, in the same process, waits for the turns that it has, and a turn that it doesn't
/// take on meanwhile waits for it.
#[test]
fn a_restart_in_process_interrupts_no_turn_and_loses_none() {
    alone(async |stage| {
        let words = "in-process restart";
        survives(stage, "restart", words, async |openclaw| {
            openclaw.signal("USR2").await;
        })
        .await;
        let whole = stage
            .turn("held-restart", "c-held-restart", "HOLD restart")
            .await;
        assert_eq!(end(&whole), ("done", &json!("w0 w1")), "{whole:?}");
    });
}

//! The programs as a pod runs them: what they say about themselves, and how they end.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PAUSE: &str = env!("CARGO_BIN_EXE_pause");
const GATEWAY: &str = env!("CARGO_BIN_EXE_model-gateway");
const SLACK: &str = env!("CARGO_BIN_EXE_slack");
const AGENT: &str = env!("CARGO_BIN_EXE_scripted-agent");

/// Ends with the test.
struct Program {
    child: Child,
    says: BufReader<std::process::ChildStderr>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stderr.take().unwrap());
        Self { child, says }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line
    }

    fn ends_on_sigterm(mut self) {
        kill(
            Pid::from_raw(self.child.id().try_into().unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end within 10 seconds");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_says_that_it_is_a_stand_in_and_for_what() {
    for (program, original) in [
        (PAUSE, "Kubernetes"),
        (GATEWAY, "LiteLLM"),
        (SLACK, "Slack"),
        (AGENT, "OpenClaw"),
    ] {
        let help = Command::new(program).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(
            help.contains("stand-in for") && help.contains(original),
            "{help}"
        );
    }
}

#[test]
fn pause_waits_for_sigterm() {
    let mut pause = Program::start(&mut Command::new(PAUSE));
    assert!(pause.line().contains("stand-in"));
    pause.ends_on_sigterm();
}

#[test]
fn the_gateway_serves_on_a_port_of_its_own_and_ends_on_sigterm() {
    let mut command = Command::new(GATEWAY);
    command
        .args(["--host", "127.0.0.1", "--port", "0"])
        .env("LITELLM_MASTER_KEY", "sk-master");
    let mut gateway = Program::start(&mut command);
    assert!(gateway.line().contains("stand-in for LiteLLM"));
    assert!(gateway.line().contains("127.0.0.1:"));
    gateway.ends_on_sigterm();
}

#[test]
fn the_gateway_takes_its_master_key_from_a_file_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("master-key");
    std::fs::write(&file, "sk-master\n").unwrap();
    let mut command = Command::new(GATEWAY);
    command.args(["--host", "127.0.0.1", "--port", "0"]);
    command.env_remove("LITELLM_MASTER_KEY");
    let without = command.output().unwrap();
    assert!(!without.status.success());
    assert!(String::from_utf8_lossy(&without.stderr).contains("LITELLM_MASTER_KEY_FILE"));
    let mut gateway = Program::start(command.env("LITELLM_MASTER_KEY_FILE", &file));
    gateway.line();
    assert!(gateway.line().contains("listening"));
    gateway.ends_on_sigterm();
}

#[test]
fn slack_takes_its_bots_token_from_a_file_or_not_at_all_and_ends_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bot-token");
    std::fs::write(&file, "xoxb-token\n").unwrap();
    let mut command = Command::new(SLACK);
    command.args(["--host", "127.0.0.1", "--port", "0"]);
    command.env_remove("SLACK_BOT_TOKEN");
    let without = command.output().unwrap();
    assert!(!without.status.success());
    assert!(String::from_utf8_lossy(&without.stderr).contains("SLACK_BOT_TOKEN_FILE"));
    let mut slack = Program::start(command.env("SLACK_BOT_TOKEN_FILE", &file));
    assert!(slack.line().contains("stand-in for Slack"));
    assert!(slack.line().contains("127.0.0.1:"));
    slack.ends_on_sigterm();
}

#[test]
fn the_agent_waits_for_its_configuration_and_stops_at_a_bad_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("openclaw.json");
    let mut command = Command::new(AGENT);
    command
        .args(["gateway", "run"])
        .env("OPENCLAW_CONFIG_PATH", &file);
    let mut agent = Program::start(&mut command);
    assert!(agent.line().contains("stand-in for OpenClaw"));
    assert!(agent.child.try_wait().unwrap().is_none(), "it waits");
    std::fs::write(directory.path().join("new"), "{\"unheardOf\":1}").unwrap();
    std::fs::rename(directory.path().join("new"), &file).unwrap();
    assert!(!agent.child.wait().unwrap().success());
    let never = directory.path().join("never");
    let mut patient = Program::start(command.env("OPENCLAW_CONFIG_PATH", never));
    patient.line();
    patient.ends_on_sigterm();
}

#[test]
fn the_agents_eyes_tell_what_they_see() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("leak"), "a sk-needle-in-a-file b").unwrap();
    let mut command = Command::new(AGENT);
    command
        .args(["inspect", "--find", "sk-needle", "--root"])
        .arg(directory.path());
    let output = command
        .env("LEAK", "sk-needle-in-a-variable")
        .output()
        .unwrap();
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found: Vec<_> = seen["found"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found.as_str().unwrap())
        .collect();
    assert!(found.contains(&"$LEAK"), "{seen}");
    assert!(found.iter().any(|path| path.ends_with("/leak")), "{seen}");
    assert!(
        seen["kernel"].as_str().unwrap().contains("version"),
        "{seen}"
    );
    let dialled = Command::new(AGENT)
        .args(["dial", "--timeout-ms", "500", "127.0.0.1:1"])
        .output();
    let dialled: Value = serde_json::from_slice(&dialled.unwrap().stdout).unwrap();
    assert_eq!(dialled[0]["target"], "127.0.0.1:1");
    assert_eq!(dialled[0]["outcome"], "refused");
}

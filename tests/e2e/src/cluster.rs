//! The cluster, through the real `kubectl`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use carapace_core::UserKey;
use carapace_local::Stack;
use serde::Deserialize;
use serde_json::Value;

/// The namespace that sandboxes live in.
pub const AGENTS: &str = "agents";

/// The cluster as its administrator sees it.
#[derive(Debug)]
pub struct Cluster {
    stack: Stack,
}

/// What the agent's container can reach, as seen from inside.
#[derive(Clone, Debug, Deserialize)]
pub struct Dial {
    /// Host and port, as asked for.
    pub target: String,
    /// `open`, `refused`, `timeout` or `unreachable`.
    pub outcome: String,
}

impl Dial {
    /// True if a connection came about.
    pub fn is_open(&self) -> bool {
        self.outcome == "open"
    }
}

impl Cluster {
    pub(crate) fn new(stack: Stack) -> Self {
        Self { stack }
    }

    /// The stack it runs on.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Runs `kubectl` with these arguments and returns what it prints.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run(args, None)
    }

    /// Asks the API server whether it would take a manifest.
    pub fn dry_run(&self, manifest: &str) -> Result<()> {
        self.run(&["create", "--dry-run=server", "-f", "-"], Some(manifest))?;
        Ok(())
    }

    /// Applies one or more manifests in YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.run(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            Some(manifests),
        )?;
        Ok(())
    }

    /// One object as JSON; `None` when there is none.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let text = self.kubectl(&[
            "-n",
            namespace,
            "get",
            kind,
            name,
            "--ignore-not-found",
            "-o",
            "json",
        ])?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// The objects of one kind in a namespace.
    pub fn list(&self, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["-n", namespace, "get", kind, "-o", "json"])?;
        let mut list: Value = serde_json::from_str(&text)?;
        Ok(list["items"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default())
    }

    /// The user's claim.
    pub fn claim(&self, user: &UserKey) -> Result<Option<Value>> {
        self.get("sandboxclaim", AGENTS, &format!("agent-{user}"))
    }

    /// The name and the pod address of the sandbox that holds the user's agent.
    pub fn sandbox_of(&self, user: &UserKey) -> Result<(String, String)> {
        let claim = self
            .claim(user)?
            .ok_or_else(|| anyhow!("user {user} has no claim"))?;
        let name = claim["status"]["sandbox"]["name"].as_str();
        let address = claim["status"]["sandbox"]["podIPs"][0].as_str();
        match (name, address) {
            (Some(name), Some(address)) => Ok((name.to_owned(), address.to_owned())),
            _ => bail!(
                "the claim of {user} names no sandbox: {:#}",
                claim["status"]
            ),
        }
    }

    /// Runs a command in the agent's own container and returns what it prints.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        let mut args = vec!["-n", AGENTS, "exec", pod, "-c", "agent", "--"];
        args.extend(command);
        self.kubectl(&args)
    }

    /// Tries to connect from the agent's container to each of `targets`.
    pub fn dial(&self, pod: &str, targets: &[&str]) -> Result<Vec<Dial>> {
        let mut command = vec!["/scripted-agent", "dial", "--timeout-ms", "1500"];
        command.extend(targets);
        let text = self.exec(pod, &command)?;
        serde_json::from_str(&text).with_context(|| format!("reading {text}"))
    }

    /// A plain HTTP door to the API server, for what must not include the start of a `kubectl`.
    pub fn proxy(&self) -> Result<Proxy> {
        let mut child = self
            .stack
            .command("kubectl")
            .args(["proxy", "--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting kubectl proxy")?;
        let stdout = child.stdout.take();
        let mut proxy = Proxy {
            child,
            url: String::new(),
            agent: ureq::Agent::config_builder()
                .timeout_global(Some(Duration::from_secs(30)))
                .build()
                .into(),
        };
        let mut line = String::new();
        BufReader::new(stdout.context("kubectl proxy has no output")?).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().filter(|a| a.contains(':'));
        proxy.url = format!(
            "http://{}",
            address.with_context(|| format!("kubectl proxy said {line:?}"))?
        );
        Ok(proxy)
    }

    fn run(&self, args: &[&str], input: Option<&str>) -> Result<String> {
        let mut child = self
            .stack
            .command("kubectl")
            .args(args)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// See [`Cluster::proxy`]. It ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    url: String,
    agent: ureq::Agent,
}

impl Proxy {
    /// Reads what is at a path of the API.
    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(self
            .agent
            .get(format!("{}{path}", self.url))
            .call()?
            .body_mut()
            .read_json()?)
    }

    /// Creates an object.
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        Ok(self
            .agent
            .post(format!("{}{path}", self.url))
            .send_json(object)?
            .body_mut()
            .read_json()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

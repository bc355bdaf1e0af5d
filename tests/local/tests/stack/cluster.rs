//! What the tests say to Kubernetes.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use carapace_local::Stack;
use serde_json::{Value, json};

use crate::{eventually, images::POD};

/// The cluster of a stack.
pub(crate) struct Cluster<'a> {
    stack: &'a Stack,
}

impl<'a> Cluster<'a> {
    pub(crate) fn of(stack: &'a Stack) -> Self {
        Self { stack }
    }

    pub(crate) fn apply(&self, object: &Value) -> Result<()> {
        let mut kubectl = self.stack.command("kubectl");
        kubectl.args(["apply", "-f", "-"]);
        run(kubectl, &object.to_string()).map(drop)
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let object = self.kubectl(&["get", kind, name, "-o", "json"])?;
        Ok(serde_json::from_str(&object)?)
    }

    /// The class that the chart makes on a real cluster.
    pub(crate) fn define_runtime_class(&self) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": { "name": "kata-qemu" },
            "handler": "kata-qemu",
        }))
    }

    /// Starts a pod that serves at port 8080, in gVisor.
    pub(crate) fn start_pod(&self, name: &str) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": pod_spec(),
        }))
    }

    /// Starts a pod that dials `targets` from its first moment on for some seconds, then serves.
    pub(crate) fn start_probing_pod(&self, name: &str, targets: &[&str]) -> Result<()> {
        let mut spec = pod_spec();
        spec["containers"][0]["args"] = json!([&["probe-and-serve", "3"], targets].concat());
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": spec,
        }))
    }

    /// Whether such a pod ever got a connection to each of its targets.
    pub(crate) fn probed(&self, pod: &str) -> Result<Vec<bool>> {
        outcomes(&self.kubectl(&["logs", pod])?)
    }

    /// Waits until a pod is ready, and gives its address.
    pub(crate) fn await_pod(&self, name: &str) -> Result<String> {
        eventually(&format!("pod {name} is ready"), || {
            let pod = self.get("pod", name)?;
            ensure!(is_ready(&pod), "{}", pod["status"]);
            let ip = pod["status"]["podIP"].as_str();
            ip.map(str::to_owned).context("a ready pod has an address")
        })
    }

    /// Whether a pod gets a connection to each of `targets`.
    pub(crate) fn dial(&self, pod: &str, targets: &[&str]) -> Result<Vec<bool>> {
        outcomes(&self.kubectl(&[&["exec", pod, "--", "/pod", "dial"], targets].concat())?)
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = self.stack.command("kubectl");
        kubectl.args(arguments);
        run(kubectl, "")
    }
}

/// A pod that serves at port 8080, in gVisor.
pub(crate) fn pod_spec() -> Value {
    json!({
        "runtimeClassName": "kata-qemu",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "pod",
            "image": POD,
            "imagePullPolicy": "Never",
            "args": ["serve", "8080"],
            "readinessProbe": { "httpGet": { "port": 8080 }, "periodSeconds": 1 },
        }],
    })
}

pub(crate) fn is_ready(object: &Value) -> bool {
    object["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })
}

fn outcomes(printed: &str) -> Result<Vec<bool>> {
    printed
        .lines()
        .map(|line| match line {
            "open" => Ok(true),
            "closed" => Ok(false),
            line => bail!("the pod says {line:?}"),
        })
        .collect()
}

pub(crate) fn run(mut command: Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

//! What pods can reach.

use anyhow::{Context, Result, ensure};
use carapace_local::{NodeKind, StackInfo};
use libtest_mimic::Trial;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{TestStack, cluster::Cluster, eventually, same, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_policy_allows_what_it_says_and_nothing_else",
            a_policy_allows_what_it_says_and_nothing_else,
        ),
        trial(
            "a_new_pod_reaches_nothing_before_its_policy_is_in_force",
            a_new_pod_reaches_nothing_before_its_policy_is_in_force,
        ),
        trial(
            "without_its_policy_engine_a_new_pod_stays_shut",
            without_its_policy_engine_a_new_pod_stays_shut,
        ),
    ]
}

fn a_policy_allows_what_it_says_and_nothing_else() -> Result<()> {
    let test = TestStack::up(NodeKind::Gvisor)?;
    let cluster = Cluster::of(&test.stack);
    let info = test.stack.info();
    cluster.define_runtime_class()?;
    for name in ["agent", "allowed", "other"] {
        cluster.start_pod(name)?;
    }
    cluster.await_pod("agent")?;
    let allowed = format!("{}:8080", cluster.await_pod("allowed")?);
    let other = format!("{}:8080", cluster.await_pod("other")?);
    let internet = decoy(info, "internet")?;
    let mut targets = vec![allowed.as_str(), internet, other.as_str()];
    targets.extend(forbidden(info));
    let api = format!("{}:{}", info.node_ip, port(&info.kube_api)?);
    let kubelet = format!("{}:10250", info.node_ip);
    // Through the Service, which kube-proxy turns into the node's address.
    targets.extend([api.as_str(), kubelet.as_str(), "10.96.0.1:443"]);

    eventually("without a policy everything is open", || {
        let open = cluster.dial("agent", &targets)?;
        same(&open, &vec![true; targets.len()])
    })?;

    cluster.apply(&egress_policy(
        "agent",
        &json!([
            {
                "to": [{ "podSelector": { "matchLabels": { "app": "allowed" } } }],
                "ports": [{ "port": 8080 }],
            },
            {
                "to": [{ "ipBlock": {
                    "cidr": "0.0.0.0/0",
                    "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"],
                } }],
                "ports": [{ "port": 443 }],
            },
        ]),
    ))?;
    let expected: Vec<bool> = (0..targets.len()).map(|index| index < 2).collect();
    eventually("the policy holds", || {
        same(&cluster.dial("agent", &targets)?, &expected)
    })?;
    Ok(())
}

fn a_new_pod_reaches_nothing_before_its_policy_is_in_force() -> Result<()> {
    let test = TestStack::up(NodeKind::Gvisor)?;
    let cluster = Cluster::of(&test.stack);
    cluster.define_runtime_class()?;
    cluster.start_pod("other")?;
    let other = format!("{}:8080", cluster.await_pod("other")?);
    let mut targets = vec![other.as_str(), decoy(test.stack.info(), "internet")?];
    targets.extend(forbidden(test.stack.info()));
    cluster.apply(&egress_policy("agent", &json!([])))?;
    // A pod without a policy shows that probing works.
    for pod in ["agent", "free"] {
        cluster.start_probing_pod(pod, &targets)?;
    }
    for (pod, open) in [("agent", false), ("free", true)] {
        cluster.await_pod(pod)?;
        same(&cluster.probed(pod)?, &vec![open; targets.len()])
            .with_context(|| format!("the pod {pod}"))?;
    }
    Ok(())
}

fn without_its_policy_engine_a_new_pod_stays_shut() -> Result<()> {
    let test = TestStack::up(NodeKind::Gvisor)?;
    let cluster = Cluster::of(&test.stack);
    let info = test.stack.info();
    let internet = decoy(info, "internet")?;
    cluster.define_runtime_class()?;
    cluster.start_pod("old")?;
    let old = format!("{}:8080", cluster.await_pod("old")?);
    eventually("the engine knows the old pod", || {
        same(&cluster.dial("old", &[internet])?, &vec![true])
    })?;
    let engine = test.stack.status()?;
    let engine = engine
        .iter()
        .find(|part| part.name == "kube-router")
        .context("there is an engine")?;
    kill(Pid::from_raw(engine.pid.try_into()?), Signal::SIGKILL)?;
    eventually("status tells that it is dead", || {
        let parts = test.stack.status()?;
        ensure!(
            parts
                .iter()
                .any(|part| part.name == "kube-router" && !part.is_up()),
            "{parts:?}"
        );
        Ok(())
    })?;

    cluster.start_pod("new")?;
    // The kubelet's own probes still get through, or no pod would ever be ready.
    let new = format!("{}:8080", cluster.await_pod("new")?);
    let mut targets = vec![old.as_str(), internet];
    targets.extend(forbidden(info));
    same(&cluster.dial("new", &targets)?, &vec![false; targets.len()])?;
    // The rules of the old pod are still there, and they alone would let it in.
    same(
        &cluster.dial("old", &[new.as_str(), internet])?,
        &vec![false, true],
    )
}

/// Everything that stands for something that an agent must not reach.
fn forbidden(info: &StackInfo) -> Vec<&str> {
    info.decoys
        .iter()
        .filter(|decoy| decoy.name != "internet")
        .map(|decoy| decoy.address.as_str())
        .collect()
}

fn decoy<'a>(info: &'a StackInfo, name: &str) -> Result<&'a str> {
    info.decoys
        .iter()
        .find(|decoy| decoy.name == name)
        .map(|decoy| decoy.address.as_str())
        .with_context(|| format!("there is no decoy for {name}"))
}

fn port(url: &str) -> Result<&str> {
    let (_, port) = url.rsplit_once(':').context("the URL has a port")?;
    Ok(port)
}

fn egress_policy(pod: &str, egress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": pod },
        "spec": {
            "podSelector": { "matchLabels": { "app": pod } },
            "policyTypes": ["Egress"],
            "egress": egress,
        },
    })
}

//! A node in name only, whose pods kwok reports as running: for scale, and where there is no root.

use std::{fs, path::Path};

use serde_json::json;

use crate::{certificates::Identity, info::NodeKind, supervisor::Part};

use super::{PartFailure, Site, answers, write};

pub(super) const PARTS: usize = 1;

const NAME: &str = "kwok";
/// How kwok knows its nodes from real ones.
const ANNOTATION: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

pub(super) async fn start(site: &Site) -> Result<(), PartFailure> {
    let Some(stages) = &site.plan.kwok_stages else {
        return Err(PartFailure::new(NAME, "it was not built"));
    };
    site.await_api().await;
    add(site, "kwok-1", &site.program(NAME), stages).await
}

/// Adds a node of that name, and starts kwok if it does not run yet.
pub(crate) async fn add(
    site: &Site,
    name: &str,
    program: &Path,
    stages: &Path,
) -> Result<(), PartFailure> {
    let runs = site
        .nursery
        .status()
        .iter()
        .any(|part| part.name == NAME && part.is_up());
    if !runs {
        start_kwok(site, program, stages).await?;
    }
    let path = format!("/api/v1/nodes/{name}");
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": { ANNOTATION.0: ANNOTATION.1 },
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "katacontainers.io/kata-runtime": "true",
                "type": "kwok",
            },
        },
    });
    if site.plan.node == NodeKind::Gvisor {
        // Pods that are to run must not be scheduled to where they would only seem to.
        node["spec"]["taints"] =
            json!([{ "key": ANNOTATION.0, "value": ANNOTATION.1, "effect": "NoSchedule" }]);
    }
    site.api.apply(&path, node.to_string()).await?;
    site.await_ready(NAME, async || {
        site.api
            .has_condition(&path, "Ready")
            .await
            .map_err(|error| error.to_string())
    })
    .await
}

async fn start_kwok(site: &Site, program: &Path, stages: &Path) -> Result<(), PartFailure> {
    let mut documents = Vec::new();
    for entry in fs::read_dir(stages).map_err(PartFailure::of(NAME))? {
        let path = entry.map_err(PartFailure::of(NAME))?.path();
        documents.push(fs::read_to_string(path).map_err(PartFailure::of(NAME))?);
    }
    let config = site.data(NAME)?.join("stages.yaml");
    write(NAME, &config, &documents.join("\n---\n"))?;
    let kubeconfig = site.kubeconfig(
        NAME,
        &Identity {
            user: "kwok",
            groups: &["system:masters"],
        },
    )?;
    let (name, value) = ANNOTATION;
    let kwok = Part::new(NAME, program)
        .flag("config", config)
        .flag("kubeconfig", kubeconfig)
        .flag("manage-all-nodes", "false")
        .flag(
            "manage-nodes-with-annotation-selector",
            format!("{name}={value}"),
        )
        .flag("cidr", "10.200.0.1/16")
        .flag("node-ip", "127.0.0.1")
        .flag("server-address", format!("127.0.0.1:{}", site.ports.kwok))
        // Or it renews no leases, and after 40 s its pods are not ready for good.
        .flag("node-lease-duration-seconds", "40");
    site.start(kwok, async || answers(site.ports.kwok, "/healthz").await)
        .await
}

//! The real node, and the one in name only.

use std::path::Path;

use anyhow::{Result, ensure};
use carapace_local::{Cache, NodeKind, Stack, StackError, UnpackedImage};
use libtest_mimic::Trial;
use serde_json::json;

use crate::{
    TestStack,
    cluster::{Cluster, is_ready, pod_spec, run},
    eventually, images, options, same, trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_pod_of_the_runtime_class_has_a_kernel_of_its_own",
            a_pod_of_the_runtime_class_has_a_kernel_of_its_own,
        ),
        trial(
            "a_claim_gets_a_warm_sandbox_at_once",
            a_claim_gets_a_warm_sandbox_at_once,
        ),
        trial(
            "an_unpacked_image_runs_and_its_files_are_only_read",
            an_unpacked_image_runs_and_its_files_are_only_read,
        ),
        trial(
            "an_image_can_be_imported_into_a_running_stack",
            an_image_can_be_imported_into_a_running_stack,
        ),
        trial(
            "a_kwok_node_makes_pods_ready_that_do_not_run",
            a_kwok_node_makes_pods_ready_that_do_not_run,
        ),
        trial(
            "a_node_in_name_only_can_join_any_stack",
            a_node_in_name_only_can_join_any_stack,
        ),
    ]
}

fn a_pod_of_the_runtime_class_has_a_kernel_of_its_own() -> Result<()> {
    let test = TestStack::up(NodeKind::Gvisor)?;
    let cluster = Cluster::of(&test.stack);
    cluster.define_runtime_class()?;
    cluster.start_pod("pod")?;
    let address = cluster.await_pod("pod")?;

    let kernel = cluster.kubectl(&["exec", "pod", "--", "/pod", "print", "/proc/version"])?;
    ensure!(kernel.contains("gvisor"), "the pod's kernel is {kernel:?}");
    // It can be reached from inside of the stack's network; on the host there is no trace of that.
    let url = format!("http://{address}:8080/");
    let mut inside = test.stack.enter("curl");
    inside.args([
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "5",
        &url,
    ]);
    run(inside, "")?;
    ensure!(
        !Path::new("/sys/class/net/cni0").exists(),
        "the pods' bridge is on the host"
    );
    Ok(())
}

fn a_claim_gets_a_warm_sandbox_at_once() -> Result<()> {
    let test = TestStack::up(NodeKind::Gvisor)?;
    let cluster = Cluster::of(&test.stack);
    cluster.define_runtime_class()?;
    let extensions = "extensions.agents.x-k8s.io/v1beta1";
    cluster.apply(&json!({
        "apiVersion": extensions,
        "kind": "SandboxTemplate",
        "metadata": { "name": "agents" },
        "spec": {
            "networkPolicyManagement": "Unmanaged",
            "podTemplate": { "spec": pod_spec() },
        },
    }))?;
    cluster.apply(&json!({
        "apiVersion": extensions,
        "kind": "SandboxWarmPool",
        "metadata": { "name": "agents" },
        "spec": { "replicas": 1, "sandboxTemplateRef": { "name": "agents" } },
    }))?;
    eventually("the pool is warm", || {
        let pool = cluster.get("sandboxwarmpool", "agents")?;
        ensure!(pool["status"]["readyReplicas"] == 1, "{}", pool["status"]);
        Ok(())
    })?;
    let warm = cluster.kubectl(&["get", "pods", "-o", "name"])?;

    cluster.apply(&json!({
        "apiVersion": extensions,
        "kind": "SandboxClaim",
        "metadata": { "name": "claim" },
        "spec": { "warmPoolRef": { "name": "agents" } },
    }))?;
    let sandbox = eventually("the claim is ready", || {
        let claim = cluster.get("sandboxclaim", "claim")?;
        ensure!(is_ready(&claim), "{}", claim["status"]);
        Ok(claim["status"]["sandbox"]["name"].clone())
    })?;
    // The pod of a sandbox has the sandbox's name, which is what its tokens are addressed to.
    same(
        &warm.trim(),
        &format!("pod/{}", sandbox.as_str().unwrap_or_default()).as_str(),
    )
}

fn an_unpacked_image_runs_and_its_files_are_only_read() -> Result<()> {
    let (dir, kept) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let image = images::unpacked(kept.path())?;
    let mut options = options(&dir, NodeKind::Gvisor)?;
    options.images.retain(|archive| *archive != image.archive);
    options.unpacked.push(image.clone());
    let stack = Stack::up(&options, &mut |_| {})?;
    let cluster = Cluster::of(&stack);
    cluster.define_runtime_class()?;
    cluster.start_pod("pod")?;
    cluster.await_pod("pod")?;
    // In gVisor and in the node's own kernel alike, a container's files are a layer of its own.
    let mut plain = pod_spec();
    plain["runtimeClassName"] = json!(null);
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "plain" }, "spec": plain,
    }))?;
    cluster.await_pod("plain")?;

    let used = || UnpackedImage::remove_unused(&image.root).map(|gone| !gone);
    ensure!(used()?, "a running stack's image can be removed");
    stack.down()?;
    let left: Vec<_> = std::fs::read_dir(&image.root)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    ensure!(
        left.iter().any(|name| name == "pod"),
        "the stack took its image with it: {left:?}"
    );
    ensure!(!used()?, "an ended stack's image can't be removed");
    Ok(())
}

fn an_image_can_be_imported_into_a_running_stack() -> Result<()> {
    let test = TestStack::up(NodeKind::Gvisor)?;
    for archive in images::archives()? {
        test.stack.import_image(&archive)?;
    }
    let missing = test.stack.import_image("/nonexistent.tar".as_ref());
    ensure!(
        matches!(missing, Err(StackError::Import { .. })),
        "{missing:?}"
    );
    Ok(())
}

fn a_kwok_node_makes_pods_ready_that_do_not_run() -> Result<()> {
    let test = TestStack::up(NodeKind::Kwok)?;
    let cluster = Cluster::of(&test.stack);
    cluster.define_runtime_class()?;
    cluster.start_pod("pod")?;
    cluster.await_pod("pod")?;
    ensure!(
        matches!(
            test.stack.import_image("/nonexistent.tar".as_ref()),
            Err(StackError::NoRealNode)
        ),
        "a node in name only took an image"
    );
    Ok(())
}

fn a_node_in_name_only_can_join_any_stack() -> Result<()> {
    let test = TestStack::up(NodeKind::None)?;
    let cluster = Cluster::of(&test.stack);
    same(
        &cluster.kubectl(&["get", "nodes", "-o", "name"])?,
        &String::new(),
    )?;
    for name in ["one", "two"] {
        test.stack
            .add_kwok_node(name, &Cache::of_user(), &mut |_| {})?;
        ensure!(is_ready(&cluster.get("node", name)?), "{name} is not ready");
    }
    Ok(())
}

//! From `Sandbox Requested` to `Sandbox Ready`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carapace_e2e::Platform;
use carapace_e2e::cluster::AGENTS;
use carapace_e2e::identity::User;
use carapace_e2e::platform::SandboxRequest;
use serde_json::json;

use super::{AGENTS_POOL, SOON, draw, warm_sandbox};
use crate::ui::{Ui, human};

/// Shows the chain, twice with the same event; returns the drawing of the first execution.
pub(crate) fn run(ui: Ui, platform: &Platform, user: &User, pool: &str) -> Result<String> {
    let bare = bare_claim(platform, pool)?;
    // What is measured is a claim on a warm pool: the bare one has just emptied it.
    warm_sandbox(ui, platform, pool)?;
    let tap = platform.tap(&user.key)?;
    let request = SandboxRequest::new(&user.key).from_pool(pool);
    let began = Instant::now();
    platform.request_sandbox(&request)?;
    ui.holds("`Sandbox Requested` is on the bus `carapace`");
    let ready = tap.expect("Sandbox Ready", SOON)?;
    let took = began.elapsed();

    let execution = platform.ended(&request.id, 1, SOON)?.remove(0);
    ensure!(
        execution.status == "SUCCEEDED",
        "sandbox-create ended as {execution:#?}"
    );
    let history = platform.history(&execution.arn)?;
    let states: Vec<&str> = history.iter().filter_map(|e| e.entered()).collect();
    ui.holds(&format!(
        "the rule started sandbox-create: {}",
        states.join(" → ")
    ));
    let detail = &ready["detail"];
    ui.holds(&format!(
        "the claim {} bound the warm sandbox {}",
        detail["claim"].as_str().unwrap_or("?"),
        detail["sandbox"].as_str().unwrap_or("?"),
    ));
    ui.holds("agentd in it took the binding; `Sandbox Ready` is on the bus");

    platform.request_sandbox(&request)?;
    platform.ended(&request.id, 2, SOON)?;
    let announced = tap.seen("Sandbox Ready")?.len();
    ensure!(announced == 1, "announced {announced} times");
    ui.holds("the same event a second time changed nothing: one claim, one announcement");

    ui.row("State transitions", states.len());
    ui.row("From event to Ready, the functions' first run", human(took));
    ui.row(
        "A bare claim on the same pool",
        format!("{} (the API server and agent-sandbox alone)", human(bare)),
    );
    draw(ui, "sandbox-create", &history)
}

/// A second person's agent, when the functions have run before.
pub(crate) fn another(ui: Ui, platform: &Platform, name: &str, pool: &str) -> Result<User> {
    let user = platform.new_user(name)?;
    warm_sandbox(ui, platform, pool)?;
    let tap = platform.tap(&user.key)?;
    let began = Instant::now();
    platform.request_sandbox(&SandboxRequest::new(&user.key).from_pool(pool))?;
    let ready = tap.expect("Sandbox Ready", SOON)?;
    let took = began.elapsed();
    ui.row("From event to Ready, the functions being warm", human(took));
    let sandbox = ready["detail"]["sandbox"].as_str().unwrap_or("?");
    ui.holds(&format!(
        "a second person, {}, has the sandbox {sandbox}",
        user.key
    ));
    Ok(user)
}

/// On a node that runs nothing there is nobody to bind: the failure is dealt with instead.
pub(crate) fn without_a_node(ui: Ui, platform: &Platform, user: &User) -> Result<String> {
    let bare = bare_claim(platform, AGENTS_POOL)?;
    let tap = platform.tap(&user.key)?;
    let request = SandboxRequest::new(&user.key);
    platform.request_sandbox(&request)?;
    ui.holds("`Sandbox Requested` is on the bus `carapace`");
    ui.note(
        "pods of a simulated node run nothing, so binding is tried for about a minute and given up",
    );
    let failed = tap.expect("Sandbox Failed", 3 * SOON)?;
    let detail = &failed["detail"];
    let execution = platform.ended(&request.id, 1, SOON)?.remove(0);
    ui.holds(&format!(
        "the claim is released; `Sandbox Failed` is on the bus: {}",
        detail["reason"]
    ));
    ui.row("A bare claim", human(bare));
    draw(ui, "sandbox-create", &platform.history(&execution.arn)?)
}

/// The floor: what a claim costs without any of ours around it.
fn bare_claim(platform: &Platform, pool: &str) -> Result<Duration> {
    let proxy = platform.cluster.proxy()?;
    let name = format!("bare-{}", ulid::Ulid::generate().to_string().to_lowercase());
    let claims =
        format!("/apis/extensions.agents.x-k8s.io/v1beta1/namespaces/{AGENTS}/sandboxclaims");
    let claim = json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": "SandboxClaim",
        "metadata": { "name": name },
        "spec": { "warmPoolRef": { "name": pool } },
    });
    let began = Instant::now();
    proxy.post(&claims, &claim)?;
    loop {
        let seen = proxy.get(&format!("{claims}/{name}"))?;
        let ready = seen["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if ready {
            break;
        }
        ensure!(
            began.elapsed() < SOON,
            "a bare claim was not Ready within {SOON:?}: {seen:#}"
        );
    }
    let took = began.elapsed();
    platform.cluster.kubectl(&[
        "-n",
        AGENTS,
        "delete",
        "sandboxclaim",
        &name,
        "--wait=false",
    ])?;
    Ok(took)
}

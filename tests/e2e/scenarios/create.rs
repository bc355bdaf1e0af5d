//! From an event to an agent in a sandbox of its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use carapace_e2e::cluster::AGENTS;
use carapace_e2e::platform::SandboxRequest;
use serde_json::json;

use crate::Scenario;
use crate::world::{SOON, World, container};

pub(crate) const ALL: &[Scenario] = &[
    (
        "an_event_becomes_a_bound_sandbox_in_three_transitions",
        warm,
    ),
    ("the_same_event_again_changes_nothing", replay),
    (
        "another_event_for_a_ready_agent_changes_nothing",
        second_event,
    ),
    (
        "twenty_twins_of_one_event_make_one_claim_and_one_announcement",
        twins,
    ),
    ("an_empty_warm_pool_means_a_cold_start", cold),
    ("a_pool_that_does_not_exist_fails_with_its_name", no_pool),
    (
        "a_sandbox_that_never_gets_ready_is_released_at_its_deadline",
        never_ready,
    ),
    (
        "an_agentd_that_does_not_answer_is_never_announced_ready",
        unreachable,
    ),
    (
        "an_agentd_bound_to_somebody_else_is_never_announced_ready",
        bound_to_another,
    ),
];

fn warm(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let request = SandboxRequest::new(&ada.key);
    let ready = ada.gets_an_agent(&request)?;
    let (sandbox, address) = world.cluster.sandbox_of(&ada.key)?;
    ensure!(
        ready["detail"]["sandbox"] == sandbox,
        "announced {ready:#}, but the claim holds {sandbox}"
    );
    ensure!(ready["detail"]["cause"] == request.id, "{ready:#}");

    let execution = world.ended(&request.id, 1, SOON)?.remove(0);
    ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    let states: Vec<_> = world
        .history(&execution.arn)?
        .iter()
        .filter_map(|e| e.entered().map(str::to_owned))
        .collect();
    ensure!(
        states == ["ClaimSandbox", "BindSandbox", "AnnounceReady"],
        "went through {states:?}"
    );

    ensure!(world.agent_state(&ada.key)?.as_deref() == Some("Ready"));
    // I1: one recorded outcome.
    ensure!(
        world
            .item(&format!("ONCE#{}", request.id), "OUTCOME")?
            .is_some(),
        "no outcome is recorded"
    );
    let token = world.agentd_token(&sandbox, &ada.key)?;
    let (status, body) = world.agentd(&address, Some(&token), "GET", "/v1/status", None)?;
    ensure!(
        status == 200 && body["bound"] == true && body["user_key"] == ada.key.to_string(),
        "{status} {body:#}"
    );
    Ok(())
}

/// I4: replaying an event changes nothing.
fn replay(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let request = SandboxRequest::new(&ada.key);
    ada.gets_an_agent(&request)?;
    let before = (
        world
            .cluster
            .claim(&ada.key)?
            .map(|c| c["metadata"]["uid"].clone()),
        world.item(&format!("USER#{}", ada.key), "AGENT")?,
        world.items(&format!("USER#{}", ada.key), "EVENT#")?,
    );
    let tap = world.tap(&ada.key)?;
    world.request_sandbox(&request)?;
    let executions = world.ended(&request.id, 2, SOON)?;
    ensure!(
        executions.iter().all(|e| e.status == "SUCCEEDED"),
        "{executions:#?}"
    );
    let after = (
        world
            .cluster
            .claim(&ada.key)?
            .map(|c| c["metadata"]["uid"].clone()),
        world.item(&format!("USER#{}", ada.key), "AGENT")?,
        world.items(&format!("USER#{}", ada.key), "EVENT#")?,
    );
    ensure!(before == after, "changed from {before:#?} to {after:#?}");
    ensure!(
        tap.seen("Sandbox Ready")?.is_empty(),
        "announced a second time"
    );
    Ok(())
}

/// I2: at most one live claim per user.
fn second_event(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    let sandbox = world.cluster.sandbox_of(&ada.key)?;
    let another = SandboxRequest::new(&ada.key);
    world.request_sandbox(&another)?;
    let execution = world.ended(&another.id, 1, SOON)?.remove(0);
    ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    ensure!(
        world.cluster.sandbox_of(&ada.key)? == sandbox,
        "the agent moved"
    );
    ensure!(
        world
            .item(&format!("ONCE#{}", another.id), "OUTCOME")?
            .is_some(),
        "I1: no outcome is recorded"
    );
    Ok(())
}

/// I2 and I4 under concurrency.
fn twins(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key);
    std::thread::scope(|scope| {
        let puts: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| world.request_sandbox(&request)))
            .collect();
        puts.into_iter().try_for_each(|put| match put.join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("a thread panicked"),
        })
    })?;
    let executions = world.ended(&request.id, 20, SOON * 2)?;
    ensure!(
        executions.iter().all(|e| e.status == "SUCCEEDED"),
        "{executions:#?}"
    );
    let announced = tap.seen("Sandbox Ready")?;
    ensure!(
        announced.len() == 1,
        "announced {} times: {announced:#?}",
        announced.len()
    );
    let claims = world.cluster.list("sandboxclaims", AGENTS)?;
    let own = claims.iter().filter(|c| {
        c["metadata"]["name"]
            .as_str()
            .is_some_and(|n| n.contains(&ada.key.to_string()))
    });
    ensure!(own.count() == 1, "not one claim");
    Ok(())
}

fn cold(world: &World) -> Result<()> {
    let pool = world.pool("empty", 0, |_| {})?;
    let ada = world.person("ada")?;
    let ready = ada.gets_an_agent(&SandboxRequest::new(&ada.key).from_pool(pool.name()))?;
    // A cold sandbox carries its claim's name.
    ensure!(
        ready["detail"]["sandbox"] == format!("agent-{}", ada.key),
        "{ready:#}"
    );
    Ok(())
}

fn no_pool(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key).from_pool("no-such-pool");
    world.request_sandbox(&request)?;
    let failed = tap.expect("Sandbox Failed", SOON)?;
    ensure!(failed["detail"]["reason"] == "PoolNotFound", "{failed:#}");
    ensure!(
        failed["detail"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("no-such-pool")),
        "{failed:#}"
    );
    let execution = world.ended(&request.id, 1, SOON)?.remove(0);
    ensure!(
        execution.status == "FAILED" && execution.error.as_deref() == Some("PoolNotFound"),
        "{execution:#?}"
    );
    world.assert_released(&ada.key, "PoolNotFound")
}

fn never_ready(world: &World) -> Result<()> {
    let pool = world.pool("never-ready", 0, |pod| {
        for probe in ["startupProbe", "readinessProbe"] {
            if let Ok(agentd) = container(pod, "agentd") {
                agentd[probe] = json!({ "httpGet": { "path": "/never", "port": 18790 }, "periodSeconds": 1, "failureThreshold": 600 });
            }
        }
    })?;
    let ada = world.person("ada")?;
    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key)
        .from_pool(pool.name())
        .ready_within(Duration::from_secs(8));
    world.request_sandbox(&request)?;
    let failed = tap.expect("Sandbox Failed", SOON)?;
    ensure!(
        failed["detail"]["reason"] == "ReadyDeadlineExceeded",
        "{failed:#}"
    );
    world.ended(&request.id, 1, SOON)?;
    ensure!(
        tap.seen("Sandbox Ready")?.is_empty(),
        "announced ready all the same"
    );
    world.assert_released(&ada.key, "ReadyDeadlineExceeded")
}

fn unreachable(world: &World) -> Result<()> {
    // Ready for the kubelet, but deaf on the port that the control plane calls.
    let pool = world.pool("deaf", 0, |pod| {
        if let Ok(agentd) = container(pod, "agentd") {
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(object) = agentd.as_object_mut() {
                    object.remove(probe);
                }
            }
            for variable in agentd["env"].as_array_mut().into_iter().flatten() {
                if variable["name"] == "AGENTD_LISTEN" {
                    variable["value"] = json!("0.0.0.0:18799");
                }
            }
        }
    })?;
    let ada = world.person("ada")?;
    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key).from_pool(pool.name());
    world.request_sandbox(&request)?;
    let failed = tap.expect("Sandbox Failed", SOON * 2)?;
    ensure!(
        failed["detail"]["reason"] == "AgentdUnreachable",
        "{failed:#}"
    );
    world.ended(&request.id, 1, SOON)?;
    ensure!(
        tap.seen("Sandbox Ready")?.is_empty(),
        "announced ready all the same"
    );
    world.assert_released(&ada.key, "AgentdUnreachable")
}

/// I3: a sandbox serves exactly the user it was bound to.
fn bound_to_another(world: &World) -> Result<()> {
    let pool = world.pool("taken", 1, |_| {})?;
    let (eve, ada) = (world.person("eve")?, world.person("ada")?);
    let (sandbox, address) = pool.warm()?.into_iter().next().unwrap_or_default();
    let token = world.agentd_token(&sandbox, &eve.key)?;
    let binding = json!({ "user_key": eve.key.to_string(), "model_key": "sk-of-somebody-else" });
    let (status, body) =
        world.agentd(&address, Some(&token), "POST", "/v1/bind", Some(&binding))?;
    ensure!(
        status == 200,
        "the first binding was refused: {status} {body:#}"
    );

    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key).from_pool(pool.name());
    world.request_sandbox(&request)?;
    let failed = tap.expect("Sandbox Failed", SOON)?;
    ensure!(
        failed["detail"]["reason"] == "SandboxBoundToAnother",
        "{failed:#}"
    );
    world.ended(&request.id, 1, SOON)?;
    ensure!(
        tap.seen("Sandbox Ready")?.is_empty(),
        "announced ready all the same"
    );
    world.assert_released(&ada.key, "SandboxBoundToAnother")
}

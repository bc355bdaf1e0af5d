//! A function dies, at every point where it has just done something or is about to: the workflow
//! ends as if it had not (I1, I2, I4).

use anyhow::{Result, ensure};
use carapace_e2e::platform::SandboxRequest;
use carapace_sandbox::fault;
use libtest_mimic::Trial;

use crate::{
    death::{SIDES, arm, trial},
    world::{SOON, World},
};

/// The side effects of `sandbox-create` on its way to `Sandbox Ready`.
fn creating() -> impl Iterator<Item = &'static str> {
    points().filter(|point| !point.starts_with("release."))
}

/// The side effects on its way to `Sandbox Failed`, once there is a claim to release.
fn failing() -> impl Iterator<Item = &'static str> {
    points().filter(|point| point.starts_with("release.") || point.starts_with("announce."))
}

fn points() -> impl Iterator<Item = &'static str> {
    [
        fault::SANDBOX_CLAIM,
        fault::SANDBOX_BIND,
        fault::SANDBOX_ANNOUNCE,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// One scenario per point and side of it.
pub(crate) fn all(world: Option<&World>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for side in SIDES {
        for point in creating() {
            let promise = "while_creating_changes_nothing";
            trials.push(trial(world, (point, side), promise, killed_while_creating));
        }
        for point in failing() {
            let promise = "while_failing_changes_nothing";
            trials.push(trial(world, (point, side), promise, killed_while_failing));
        }
    }
    trials
}

fn killed_while_creating(world: &World, fault: &str) -> Result<()> {
    let ada = world.person("ada")?;
    let armed = arm(world, ada.key.as_str(), fault)?;
    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key);
    world.request_sandbox(&request)?;
    let execution = world.ended(&request.id, 1, SOON)?.remove(0);
    ensure!(!armed.exists(), "no function came by {fault}");
    ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    ensure!(world.agent_state(&ada.key)?.as_deref() == Some("Ready"));

    let (sandbox, address) = world.cluster.sandbox_of(&ada.key)?;
    let token = world.agentd_token(&sandbox, &ada.key)?;
    let (status, body) = world.agentd(&address, Some(&token), "GET", "/v1/status", None)?;
    ensure!(
        status == 200 && body["user_key"] == ada.key.to_string(),
        "{status} {body:#}"
    );
    announced_once(&tap.seen("Sandbox Ready")?, was_put_unnoted(fault))?;
    ensure!(
        tap.seen("Sandbox Failed")?.is_empty(),
        "announced as failed, too"
    );
    ensure!(
        world
            .item(&format!("ONCE#{}", request.id), "OUTCOME")?
            .is_some(),
        "no outcome is recorded"
    );
    Ok(())
}

fn killed_while_failing(world: &World, fault: &str) -> Result<()> {
    let ada = world.person("ada")?;
    let armed = arm(world, ada.key.as_str(), fault)?;
    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key).from_pool("no-such-pool");
    world.request_sandbox(&request)?;
    let execution = world.ended(&request.id, 1, SOON)?.remove(0);
    ensure!(!armed.exists(), "no function came by {fault}");
    ensure!(
        execution.error.as_deref() == Some("PoolNotFound"),
        "{execution:#?}"
    );
    announced_once(&tap.seen("Sandbox Failed")?, was_put_unnoted(fault))?;
    world.assert_released(&ada.key, "PoolNotFound")
}

/// The event is on the bus, and nobody noted it.
fn was_put_unnoted(fault: &str) -> bool {
    ["announce.put.after", "announce.clear.before"].contains(&fault)
}

/// One event; or, when death fell between putting it and noting that, the same event twice: with
/// one id, by which consumers drop the second.
fn announced_once(events: &[serde_json::Value], may_repeat: bool) -> Result<()> {
    ensure!(!events.is_empty(), "never announced");
    ensure!(
        events.len() == 1 || may_repeat,
        "announced {} times: {events:#?}",
        events.len()
    );
    ensure!(
        events
            .iter()
            .all(|e| e["detail"]["id"] == events[0]["detail"]["id"]),
        "two ids: {events:#?}"
    );
    Ok(())
}

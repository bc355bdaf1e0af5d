//! Events that no one should act on.

use anyhow::{Context as _, Result, ensure};
use carapace_e2e::aws;
use carapace_e2e::eventually;
use carapace_e2e::platform::SandboxRequest;
use serde_json::{Value, json};

use crate::Scenario;
use crate::world::{SOON, World};

pub(crate) const ALL: &[Scenario] = &[
    (
        "an_unknown_event_version_goes_to_the_dlq_and_creates_nothing",
        unknown_version,
    ),
    (
        "a_malformed_detail_goes_to_the_dlq_and_creates_nothing",
        malformed,
    ),
    ("an_unknown_field_is_tolerated", unknown_field),
];

fn unknown_version(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let mut detail = SandboxRequest::new(&ada.key).detail();
    detail["version"] = json!(99);
    rejected(world, &detail)?;
    ensure!(world.cluster.claim(&ada.key)?.is_none(), "a claim was made");
    let state = world.agent_state(&ada.key)?;
    // Their sign-in may have made one.
    ensure!(
        state.as_deref().is_none_or(|state| state == "Absent"),
        "the record was touched: {state:?}"
    );
    Ok(())
}

fn malformed(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let whole = SandboxRequest::new(&ada.key).detail();
    for (what, field, value) in [
        ("no user", "user_key", Value::Null),
        ("a user that is none", "user_key", json!("../../etc/passwd")),
        ("no time", "at", json!("yesterday")),
        ("a pool that is no name", "pool", json!("Not A Name")),
        (
            "a deadline beyond bounds",
            "ready_within_seconds",
            json!(1_000_000),
        ),
    ] {
        let mut detail = whole.clone();
        detail["id"] = json!(format!("bad-{}", ulid::Ulid::generate()));
        detail[field] = value;
        rejected(world, &detail).context(what)?;
    }
    ensure!(world.cluster.claim(&ada.key)?.is_none(), "a claim was made");
    let state = world.agent_state(&ada.key)?;
    // Their sign-in may have made one.
    ensure!(
        state.as_deref().is_none_or(|state| state == "Absent"),
        "the record was touched: {state:?}"
    );
    Ok(())
}

fn unknown_field(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let tap = world.tap(&ada.key)?;
    let mut detail = SandboxRequest::new(&ada.key).detail();
    detail["colour"] = json!("teal");
    world.put_event("test.operator", "Sandbox Requested", &detail.to_string())?;
    tap.expect("Sandbox Ready", SOON)?;
    Ok(())
}

/// Alone, since the queue is everybody's: it must be empty first.
pub(crate) const ALONE: &[Scenario] = &[("a_message_on_the_dlq_raises_the_alarm", alarm)];

fn alarm(world: &World) -> Result<()> {
    let queue = world.control_plane("SandboxCreateDlqUrl")?;
    world
        .aws
        .call(aws::SQS, "PurgeQueue", &json!({ "QueueUrl": queue }))?;
    alarm_becomes(world, "OK")?;
    let detail = json!({ "version": 99, "id": format!("bad-{}", ulid::Ulid::generate()) });
    rejected(world, &detail)?;
    alarm_becomes(world, "ALARM")
}

fn alarm_becomes(world: &World, state: &str) -> Result<()> {
    let name = world.control_plane("SandboxCreateDlqAlarmName")?;
    let form = [
        ("Action", "DescribeAlarms"),
        ("Version", "2010-08-01"),
        ("AlarmNames.member.1", name),
    ];
    eventually(
        &format!("alarm {name} is in {state}"),
        SOON * 2,
        || world.aws.query("monitoring", &form),
        |xml| xml.contains(&format!("<StateValue>{state}</StateValue>")),
    )?;
    Ok(())
}

/// I7: the event, as it was, is on the DLQ exactly once, and its execution failed by name.
fn rejected(world: &World, detail: &Value) -> Result<()> {
    world.put_event("test.operator", "Sandbox Requested", &detail.to_string())?;
    let id = detail["id"].as_str().unwrap_or_default();
    let execution = world.ended(id, 1, SOON)?.remove(0);
    ensure!(
        execution.error.as_deref() == Some("EventRejected"),
        "{execution:#?}"
    );
    let url = world.control_plane("SandboxCreateDlqUrl")?;
    let found = eventually(
        "the event is on the DLQ",
        SOON,
        || world.queued(url, id),
        |found| !found.is_empty(),
    )?;
    let event: Value = serde_json::from_str(&found[0])?;
    ensure!(event["detail"] == *detail, "the DLQ holds {event:#}");
    let once = world.aws.call(
        aws::SQS,
        "GetQueueAttributes",
        &json!({ "QueueUrl": url, "AttributeNames": ["All"] }),
    )?;
    ensure!(
        found.len() == 1,
        "{} copies on the DLQ: {once:#}",
        found.len()
    );
    Ok(())
}

//! IAM is enforced: a role without a permission stops the workflow. These scenarios change roles
//! that all others use, so they run alone.

use anyhow::{Context, Result, ensure};
use carapace_e2e::platform::SandboxRequest;
use serde_json::Value;

use crate::Scenario;
use crate::world::{SOON, World};

pub(crate) const ALONE: &[Scenario] = &[
    (
        "without_its_permissions_sandbox_announce_cannot_announce_until_the_event_is_put_back",
        announce,
    ),
    ("without_its_permissions_sandbox_bind_cannot_bind", bind),
];

/// I7: the event whose retries ran out waits on the DLQ, whole; put back when the cause is gone, it
/// comes to its one end.
fn announce(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let tap = world.tap(&ada.key)?;
    let request = SandboxRequest::new(&ada.key);
    let role = world.control_plane("SandboxAnnounceRoleName")?;
    without_policies(world, role, |world| {
        world.request_sandbox(&request)?;
        let execution = world.ended(&request.id, 1, SOON * 3)?.remove(0);
        ensure!(
            execution.error.as_deref() == Some("Refused"),
            "IAM is not enforced: {execution:#?}"
        );
        ensure!(
            tap.seen("Sandbox Ready")?.is_empty(),
            "announced without permission"
        );
        Ok(())
    })?;

    let queue = world.control_plane("SandboxCreateDlqUrl")?;
    let waiting = world.queued(queue, &request.id)?;
    ensure!(waiting.len() == 1, "on the DLQ: {waiting:#?}");
    let event: Value = serde_json::from_str(&waiting[0])?;
    ensure!(
        event["detail"]["id"] == request.id,
        "the DLQ holds {event:#}"
    );
    world.put_event(
        "test.operator",
        "Sandbox Requested",
        &event["detail"].to_string(),
    )?;
    tap.expect("Sandbox Ready", SOON)?;
    world.ended(&request.id, 2, SOON)?;
    ensure!(
        tap.seen("Sandbox Ready")?.len() == 1,
        "announced more than once"
    );
    Ok(())
}

fn bind(world: &World) -> Result<()> {
    without_policies(
        world,
        world.control_plane("SandboxBindRoleName")?,
        |world| {
            let ada = world.person("ada")?;
            let tap = world.tap(&ada.key)?;
            let request = SandboxRequest::new(&ada.key);
            world.request_sandbox(&request)?;
            let execution = world.ended(&request.id, 1, SOON * 3)?.remove(0);
            ensure!(
                execution.error.as_deref() == Some("Refused"),
                "IAM is not enforced: {execution:#?}"
            );
            ensure!(
                tap.seen("Sandbox Ready")?.is_empty(),
                "announced without a binding"
            );
            tap.expect("Sandbox Failed", SOON)?;
            Ok(())
        },
    )
}

/// Takes a role's inline policies away, runs `then`, and gives them back whatever came of it.
fn without_policies(
    world: &World,
    role: &str,
    then: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    let iam = |form: &[(&str, &str)]| {
        let form = [&[("Version", "2010-05-08")], form].concat();
        world.aws.query("iam", &form)
    };
    let names = iam(&[("Action", "ListRolePolicies"), ("RoleName", role)])?;
    let mut taken = Vec::new();
    for name in names
        .split("<member>")
        .skip(1)
        .filter_map(|rest| rest.split("</member>").next())
    {
        let answer = iam(&[
            ("Action", "GetRolePolicy"),
            ("RoleName", role),
            ("PolicyName", name),
        ])?;
        let document = answer
            .split_once("<PolicyDocument>")
            .and_then(|(_, rest)| rest.split_once("</PolicyDocument>"))
            .map(|(document, _)| percent_decoded(document))
            .with_context(|| format!("no policy document in {answer}"))?;
        taken.push((name.to_owned(), document));
    }
    ensure!(
        !taken.is_empty(),
        "role {role} has no inline policy to take away"
    );
    let taken_away = taken.iter().try_for_each(|(name, _)| {
        iam(&[
            ("Action", "DeleteRolePolicy"),
            ("RoleName", role),
            ("PolicyName", name),
        ])
        .map(drop)
    });
    let result = taken_away.and_then(|()| then(world));
    for (name, document) in &taken {
        iam(&[
            ("Action", "PutRolePolicy"),
            ("RoleName", role),
            ("PolicyName", name),
            ("PolicyDocument", document),
        ])
        .with_context(|| format!("giving {role} its policy {name} back"))?;
    }
    result
}

/// IAM shows a policy document percent-encoded.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = (*first == b'%').then(|| tail.get(..2)).flatten();
        let decoded = pair
            .and_then(|p| std::str::from_utf8(p).ok())
            .and_then(|p| u8::from_str_radix(p, 16).ok());
        if let Some(byte) = decoded {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes)
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

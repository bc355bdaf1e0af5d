//! What an agent cannot do from inside its sandbox, before and after it has a user.

use anyhow::{Result, ensure};
use carapace_e2e::Platform;
use carapace_e2e::identity::User;
use carapace_e2e::reach;
use serde_json::Value;

use super::{sandbox, warm_sandbox};
use crate::ui::Ui;

/// Shows it on Ada's sandbox, on a second person's, and on a warm one that is nobody's yet.
pub(super) fn run(ui: Ui, platform: &Platform, ada: &User, eve: &User, pool: &str) -> Result<()> {
    let (adas, address) = sandbox(platform, ada)?;
    let (eves, others) = sandbox(platform, eve)?;

    let report = platform
        .cluster
        .exec(&adas, &["/scripted-agent", "inspect"])?;
    let report: Value = serde_json::from_str(&report)?;
    let inside = report["kernel"].as_str().unwrap_or_default().trim();
    let host = std::fs::read_to_string("/proc/version")?;
    ensure!(
        !inside.is_empty() && inside != host.trim(),
        "the sandbox runs the host's kernel: {inside}"
    );
    ui.holds("the kernel in the sandbox is not the host's");
    ui.row("  host", first_words(&host));
    ui.row(
        "  sandbox",
        format!(
            "{} (gVisor, in Kata's place: a kernel of its own, no hardware VM)",
            first_words(inside)
        ),
    );

    let reply = platform
        .cluster
        .exec(&adas, &["/scripted-agent", "complete", "hello from inside"])?;
    ui.holds(&format!(
        "the model answers the agent through its agentd: {:?}",
        reply.trim()
    ));
    let key = platform.model_key(&ada.key)?;
    let found = platform
        .cluster
        .exec(&adas, &["/scripted-agent", "inspect", "--find", &key])?;
    let found: Value = serde_json::from_str(&found)?;
    ensure!(
        found["found"].as_array().is_some_and(Vec::is_empty),
        "the agent can read the key: {found:#}"
    );
    ui.holds("the model key is nowhere in the agent's container: no file, no variable, no process");
    ensure!(
        report["service_account_token"] == false,
        "the agent has a Kubernetes credential"
    );
    ui.holds("the agent has no Kubernetes credential");

    let token = platform.agentd_token(&eves, &eve.key)?;
    let (status, body) = platform.agentd(&address, Some(&token), "GET", "/v1/status", None)?;
    ensure!(status == 401, "{status} {body:#}");
    let forged = platform.agentd_token(&adas, &eve.key)?;
    let (wrong_user, body) = platform.agentd(&address, Some(&forged), "GET", "/v1/status", None)?;
    ensure!(wrong_user == 403, "{wrong_user} {body:#}");
    ui.holds(
        "Eve's tokens are refused by Ada's sandbox: 401 for another sandbox, 403 for another user",
    );

    let targets = reach::targets(platform, &others);
    let names = |open| {
        let names = targets
            .iter()
            .filter(|target| target.open == open)
            .map(|target| target.name);
        names.collect::<Vec<_>>().join(", ")
    };
    let warm = warm_sandbox(ui, platform, pool)?;
    for (when, pod) in [
        ("before the claim, in a warm sandbox", &warm),
        ("after the claim, in Ada's", &adas),
    ] {
        reach::hold(platform, pod, &targets)?;
        ui.holds(&format!(
            "{when}: {} answers; out of reach are {}",
            names(true),
            names(false)
        ));
    }
    ui.note("each of them answers on the node, before and after");
    Ok(())
}

/// `Linux version 6.18.44 …` as far as a line has room.
fn first_words(version: &str) -> String {
    version
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

//! What an agent can and cannot do from inside its sandbox. Every refusal has a control beside
//! it that shows the same thing answering elsewhere: nothing here passes because nobody listens.

use anyhow::{Context, Result, anyhow, ensure};
use carapace_e2e::platform::SandboxRequest;
use carapace_e2e::reach;
use serde_json::{Value, json};

use crate::Scenario;
use crate::world::World;

pub(crate) const ALL: &[Scenario] = &[
    ("a_sandbox_has_a_kernel_of_its_own", kernel),
    ("the_model_key_is_nowhere_the_agent_can_read", model_key),
    ("the_agent_has_no_kubernetes_credential", no_credential),
    ("a_token_for_another_user_or_sandbox_is_refused", tokens),
    ("network_policy_holds_before_and_after_the_claim", network),
];

fn kernel(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    let (sandbox, address) = world.cluster.sandbox_of(&ada.key)?;
    let host = std::fs::read_to_string("/proc/version")?;
    let inside = world
        .cluster
        .exec(&sandbox, &["/scripted-agent", "inspect"])?;
    let inside: Value = serde_json::from_str(&inside)?;
    let token = world.agentd_token(&sandbox, &ada.key)?;
    let (_, status) = world.agentd(&address, Some(&token), "GET", "/v1/status", None)?;
    for kernel in [&inside["kernel"], &status["guest_kernel"]] {
        let kernel = kernel
            .as_str()
            .ok_or_else(|| anyhow!("no kernel in {inside:#} {status:#}"))?;
        ensure!(
            !kernel.is_empty() && kernel.trim() != host.trim(),
            "the sandbox runs the host's kernel: {kernel}"
        );
    }
    Ok(())
}

/// I8: no secret in a sandbox where the agent could read it.
fn model_key(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    let (sandbox, _) = world.cluster.sandbox_of(&ada.key)?;

    // The key is there, and works: the model answers the agent through its agentd.
    let reply = world.cluster.exec(
        &sandbox,
        &["/scripted-agent", "complete", "a penny for your thoughts"],
    )?;
    ensure!(
        reply.contains("a penny for your thoughts"),
        "the model answered {reply:?}"
    );

    let key = world.model_key(&ada.key)?;
    let found = search(world, &sandbox, &key)?;
    ensure!(
        found.is_empty(),
        "the agent can read the model key in {found:?}"
    );

    // The control: the search finds what the agent can read, such as its own configuration.
    let known = search(world, &sandbox, "http://127.0.0.1:18791/v1")?;
    ensure!(!known.is_empty(), "the search finds nothing at all");
    Ok(())
}

fn search(world: &World, sandbox: &str, text: &str) -> Result<Vec<Value>> {
    let report = world
        .cluster
        .exec(sandbox, &["/scripted-agent", "inspect", "--find", text])?;
    let report: Value = serde_json::from_str(&report).with_context(|| report)?;
    report["found"]
        .as_array()
        .cloned()
        .ok_or_else(|| anyhow!("no `found` in {report:#}"))
}

fn no_credential(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    let (sandbox, _) = world.cluster.sandbox_of(&ada.key)?;
    let report: Value = serde_json::from_str(
        &world
            .cluster
            .exec(&sandbox, &["/scripted-agent", "inspect"])?,
    )?;
    ensure!(report["service_account_token"] == false, "{report:#}");
    let names = report["env"]
        .as_array()
        .ok_or_else(|| anyhow!("no `env` in {report:#}"))?;
    let leaked: Vec<_> = names
        .iter()
        .filter_map(Value::as_str)
        .filter(|name| {
            name.starts_with("AWS_")
                || name.contains("KEY")
                || name.contains("TOKEN")
                || name.contains("SECRET")
        })
        .collect();
    ensure!(leaked.is_empty(), "the agent's environment has {leaked:?}");
    Ok(())
}

/// I3: a sandbox serves exactly the user it was bound to.
fn tokens(world: &World) -> Result<()> {
    let (ada, eve) = (world.person("ada")?, world.person("eve")?);
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    eve.gets_an_agent(&SandboxRequest::new(&eve.key))?;
    let (adas, address) = world.cluster.sandbox_of(&ada.key)?;
    let (eves, _) = world.cluster.sandbox_of(&eve.key)?;
    let ask = |token: Option<&str>| {
        world
            .agentd(&address, token, "GET", "/v1/status", None)
            .map(|(status, _)| status)
    };

    ensure!(
        ask(Some(&world.agentd_token(&adas, &ada.key)?))? == 200,
        "the control: Ada's own token"
    );
    ensure!(ask(None)? == 401, "no token");
    ensure!(
        ask(Some("eyJhbGciOiJub25lIn0.e30."))? == 401,
        "a token that nobody signed"
    );
    ensure!(
        ask(Some(&world.agentd_token(&eves, &eve.key)?))? == 401,
        "Eve's token for Eve's sandbox"
    );
    ensure!(
        ask(Some(&world.agentd_token(&adas, &eve.key)?))? == 403,
        "Eve's token for Ada's sandbox"
    );

    let binding = json!({ "user_key": eve.key.to_string(), "model_key": "sk-eve" });
    let token = world.agentd_token(&adas, &eve.key)?;
    let (status, body) =
        world.agentd(&address, Some(&token), "POST", "/v1/bind", Some(&binding))?;
    ensure!(
        status == 403 || status == 409,
        "Ada's sandbox let itself be bound to Eve: {status} {body:#}"
    );
    Ok(())
}

fn network(world: &World) -> Result<()> {
    let pool = world.pool("network", 1, |_| {})?;
    let (ada, eve) = (world.person("ada")?, world.person("eve")?);
    eve.gets_an_agent(&SandboxRequest::new(&eve.key))?;
    let (_, others) = world.cluster.sandbox_of(&eve.key)?;
    let targets = reach::targets(world, &others);

    let (warm, _) = pool
        .warm()?
        .into_iter()
        .next()
        .context("the pool has no warm sandbox")?;
    reach::hold(world, &warm, &targets).context("in the warm sandbox, before any claim")?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key).from_pool(pool.name()))?;
    let (claimed, _) = world.cluster.sandbox_of(&ada.key)?;
    ensure!(claimed == warm, "the claim did not take the warm sandbox");
    reach::hold(world, &claimed, &targets).context("in the claimed sandbox")
}

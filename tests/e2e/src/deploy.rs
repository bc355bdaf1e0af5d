//! Deploying the platform to a stack, the way an operator deploys it to AWS: `cdk bootstrap`,
//! `cdk deploy --all`, then the charts with Helm.
//!
//! Three values connect the halves: the public key that agentd trusts, the model gateway's master
//! key, and what Slack and its app share. An operator on AWS carries them over as `cdk/README.md`
//! says; here this module does. What need not come from the one half is made before either
//! ([`Shared`]), so that the slow parts of the cluster start while CloudFormation still works; the
//! key comes last ([`connect`]).

pub mod cdk;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use carapace_core::UserKey;
use carapace_local::{Stack, StackInfo};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};

use crate::aws;
use crate::cluster::{AGENTS, Cluster};
use crate::eventually;
use crate::platform::Platform;

/// The real OpenClaw takes 20 s on an idle machine, its image's import not counted; on a busy one
/// many times that.
pub const POOL_FILLS_WITHIN: Duration = Duration::from_secs(300);

/// The kubelet looks at a pod's `ConfigMap`s once a second here.
const TRUSTED_WITHIN: Duration = Duration::from_secs(60);

/// The warm pools in the API.
const POOLS: &str = "/apis/extensions.agents.x-k8s.io/v1beta1/namespaces/agents/sandboxwarmpools";

/// The scripted agent, and the pool of it where the users' agents are another.
pub const SCRIPTED: &str = "scripted";

/// What a deployment is made from.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// The top of the repository.
    pub root: &'a Path,
    /// Which agent the sandboxes hold: `tests/local/values/agents-<name>.yaml` describes it.
    pub agent: &'a str,
    /// Whether the model gateway's stand-in has the real LiteLLM behind it, and Bedrock's stand-in
    /// behind that one; otherwise it answers by itself.
    pub litellm: bool,
    /// One directory per Lambda, each with its `bootstrap`.
    pub lambdas: &'a Path,
    /// Where Lambdas look for the faults that a scenario asks for; `None` in the demo.
    pub faults: Option<&'a Path>,
}

/// The secrets that both halves have to agree on.
pub struct Shared {
    master_key: String,
    bot_token: String,
    signing_secret: String,
}

impl Shared {
    /// New ones.
    pub fn generate() -> Result<Self> {
        Ok(Self {
            master_key: random()?,
            bot_token: format!("xoxb-0-0-{}", random()?),
            signing_secret: random()?,
        })
    }
}

/// Everything in the cluster that can do without the other half, installed by Helm from the same
/// files as on AWS: the model gateway, Slack, and agents that take a while to start. Until
/// [`connect`], those trust nobody.
pub fn install_charts(stack: &Stack, sources: &Sources<'_>, shared: &Shared) -> Result<()> {
    let values = sources.root.join("tests/local/values");
    // First what takes longest.
    if sources.agent != SCRIPTED {
        install_agents(stack, sources, &[])?;
    }
    let cluster = Cluster::new(Stack::attach(&stack.info().state_dir)?);
    cluster.apply(
        &json!({
            "apiVersion": "v1", "kind": "List", "items": [
                { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "model-gateway" } },
                {
                    "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                    "metadata": { "name": "litellm-master-key", "namespace": "model-gateway" },
                    "stringData": { "master-key": format!("sk-{}", shared.master_key) },
                },
                { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "slack" } },
                {
                    "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                    "metadata": { "name": "slack-bot-token", "namespace": "slack" },
                    "stringData": { "bot-token": shared.bot_token },
                },
            ],
        })
        .to_string(),
    )?;
    let mut gateway = vec![values.join("model-gateway.yaml")];
    let mut extra = Vec::new();
    let config = sources
        .root
        .join("cluster/charts/model-gateway/files/config.yaml");
    let config = format!("litellm.config={}", config.display());
    if sources.litellm {
        gateway.push(values.join("model-gateway-litellm.yaml"));
        extra = vec!["--set-file", config.as_str()];
    }
    helm(
        stack,
        "model-gateway",
        &sources.root.join("tests/stand-ins/chart"),
        &gateway,
        &extra,
    )?;
    helm(
        stack,
        "slack",
        &sources.root.join("tests/stand-ins/slack-chart"),
        &[values.join("slack.yaml")],
        &[],
    )
}

/// Tells each half what it has to know of the other: Secrets Manager the gateway's key and Slack's
/// secrets, the agents the key that signs the control plane's calls.
pub fn connect(platform: &Platform, sources: &Sources<'_>, shared: &Shared) -> Result<()> {
    for (output, secret) in [
        (
            "ModelGatewaySecretArn",
            json!({ "master_key": shared.master_key }),
        ),
        (
            "SlackBotTokenSecretArn",
            json!({ "bot_token": shared.bot_token }),
        ),
        (
            "SlackSigningSecretArn",
            json!({ "signing_secret": shared.signing_secret }),
        ),
    ] {
        let input = json!({
            "SecretId": platform.control_plane(output)?, "SecretString": secret.to_string(),
        });
        platform.aws.call(aws::SECRETS, "PutSecretValue", &input)?;
    }
    let jwks = platform.info.state_dir.join("jwks.json");
    fs::write(&jwks, self::jwks(platform)?.to_string())
        .with_context(|| format!("writing {}", jwks.display()))?;
    let set = format!("controlPlane.jwks={}", jwks.display());
    install_agents(platform.cluster.stack(), sources, &["--set-file", &set])?;
    if sources.agent != SCRIPTED {
        add_scripted_pool(platform, sources)?;
    }
    Ok(())
}

fn install_agents(stack: &Stack, sources: &Sources<'_>, extra: &[&str]) -> Result<()> {
    let values = sources.root.join("tests/local/values");
    helm(
        stack,
        "agents",
        &sources.root.join("cluster/charts/agents"),
        &[
            values.join("agents.yaml"),
            values.join(format!("agents-{}.yaml", sources.agent)),
        ],
        extra,
    )
}

/// A second pool, beside the one that users' agents come from. What has nothing to do with the agent
/// is shown on its sandboxes, while the first of the real agents starts.
fn add_scripted_pool(platform: &Platform, sources: &Sources<'_>) -> Result<()> {
    let values = sources.root.join("tests/local/values");
    let output = platform
        .cluster
        .stack()
        .command("helm")
        .args(["template", "agents"])
        .arg(sources.root.join("cluster/charts/agents"))
        .args(["--namespace", AGENTS, "--show-only", "templates/pools.yaml"])
        .arg("--values")
        .arg(values.join("agents.yaml"))
        .arg("--values")
        .arg(values.join("agents-scripted.yaml"))
        .output()?;
    if !output.status.success() {
        bail!("helm template: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Template and pool are both `agents` in the chart; what refers to them, too.
    let rendered = String::from_utf8(output.stdout)?;
    let renamed = rendered.lines().map(|line| match line.trim() {
        "name: agents" => line.replace(AGENTS, SCRIPTED),
        _ => line.to_owned(),
    });
    platform
        .cluster
        .apply(&renamed.collect::<Vec<_>>().join("\n"))
}

/// Waits until the model gateway answers, LiteLLM in it included: no sandbox is bound without it.
pub fn await_model_gateway(platform: &Platform) -> Result<()> {
    // Not `kubectl` again and again: it would take a processor from what is waited for.
    let proxy = platform.cluster.proxy()?;
    let ready = eventually(
        "the model gateway is ready",
        POOL_FILLS_WITHIN,
        || proxy.get("/apis/apps/v1/namespaces/model-gateway/deployments/litellm"),
        |deployment| deployment["status"]["readyReplicas"].as_u64() > Some(0),
    );
    // That it is not ready says nothing of why, and the stack is about to be taken down.
    ready.map(drop).map_err(|error| {
        let log = platform.cluster.kubectl(&[
            "-n",
            "model-gateway",
            "logs",
            "deployment/litellm",
            "--tail=15",
        ]);
        let log = log.unwrap_or_else(|unread| format!("it can't be read: {unread:#}"));
        error.context(format!(
            "the model gateway does not start; its log ends:\n{log}"
        ))
    })
}

/// Waits until this pool holds as many warm sandboxes as it should.
pub fn await_warm_pool(platform: &Platform, pool: &str) -> Result<()> {
    let proxy = platform.cluster.proxy()?;
    eventually(
        &format!("the warm pool {pool} is filled"),
        POOL_FILLS_WITHIN,
        || proxy.get(&format!("{POOLS}/{pool}")),
        |pool| {
            pool["status"]["readyReplicas"].is_u64()
                && pool["status"]["readyReplicas"] == pool["spec"]["replicas"]
        },
    )?;
    Ok(())
}

/// Waits until this sandbox takes the control plane's word. One that started before [`connect`] learns
/// of the key from the kubelet, which brings a changed `ConfigMap` within seconds. Must be called
/// inside the stack's network.
pub fn await_trust(platform: &Platform, sandbox: &str) -> Result<()> {
    let nobody = UserKey::derive("nobody", sandbox);
    let pod = platform.cluster.get("pod", AGENTS, sandbox)?;
    let address = pod.as_ref().and_then(|pod| pod["status"]["podIP"].as_str());
    let address = address.with_context(|| format!("the sandbox {sandbox} has no address"))?;
    eventually(
        &format!("the sandbox {sandbox} knows the control plane's key"),
        TRUSTED_WITHIN,
        || {
            let token = platform.agentd_token(sandbox, &nobody)?;
            platform.agentd(address, Some(&token), "GET", "/v1/status", None)
        },
        // It has no user yet, and says so to whom it trusts.
        |(status, _)| *status != 401,
    )?;
    Ok(())
}

/// 128 bits, as Slack's own secrets have.
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}

/// The public half of the key in KMS that signs the control plane's calls to agentd.
fn jwks(platform: &Platform) -> Result<Value> {
    let key = platform.control_plane("AgentdSigningKeyArn")?;
    let answer = platform
        .aws
        .call(aws::KMS, "GetPublicKey", &json!({ "KeyId": key }))?;
    let spki = BASE64.decode(aws::string(&answer, "/PublicKey")?.as_bytes())?;
    // A P-256 key's SubjectPublicKeyInfo ends with the uncompressed point: 0x04, x, y.
    let point = spki
        .len()
        .checked_sub(65)
        .map(|at| &spki[at..])
        .filter(|p| p[0] == 4);
    let point = point.ok_or_else(|| anyhow!("KMS key {key} is not a P-256 key"))?;
    Ok(json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
        "kid": key.rsplit('/').next(),
        "x": BASE64URL_NOPAD.encode(&point[1..33]),
        "y": BASE64URL_NOPAD.encode(&point[33..]),
    }] }))
}

fn helm(
    stack: &Stack,
    release: &str,
    chart: &Path,
    values: &[PathBuf],
    extra: &[&str],
) -> Result<()> {
    let mut command = stack.command("helm");
    command
        .args(["upgrade", "--install", release])
        .arg(chart)
        .args(
            values
                .iter()
                .flat_map(|file| [OsStr::new("--values"), file.as_os_str()]),
        )
        .args(["--namespace", release, "--create-namespace"])
        .args(extra);
    run_logged(command, stack.info(), &format!("helm-{release}"))
}

/// Runs a command with its output in a log of its own; a failure shows the end of it.
fn run_logged(mut command: Command, info: &StackInfo, name: &str) -> Result<()> {
    let path = info.logs_dir.join(format!("{name}.log"));
    let log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("starting {program}"))?;
    if !status.success() {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n  ");
        bail!(
            "{name} failed ({status}); the end of {}:\n  {tail}",
            path.display()
        );
    }
    Ok(())
}

//! Deploying the platform to a stack, the way an operator deploys it to AWS: `cdk bootstrap`,
//! `cdk deploy --all`, then the charts with Helm.
//!
//! Three values connect the halves: the public key that agentd trusts, the model gateway's master
//! key, and what Slack and its app share. An operator on AWS carries them over as `cdk/README.md`
//! says; here this module does.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use carapace_local::{NodeKind, Stack, StackInfo};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};

use crate::aws;
use crate::cluster::AGENTS;
use crate::eventually;
use crate::platform::{OUTPUTS_FILE, Platform};

/// The real OpenClaw takes 20 s on an idle machine, its image's import not counted; on a busy one
/// many times that.
pub const POOL_FILLS_WITHIN: Duration = Duration::from_secs(300);

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

/// `cdk bootstrap`: the account gets its asset bucket and deployment roles.
pub fn bootstrap(stack: &Stack, sources: &Sources<'_>) -> Result<()> {
    let info = stack.info();
    let environment = format!("aws://{}/{}", info.account, info.region);
    cdk(
        stack,
        sources,
        "cdk-bootstrap",
        &["bootstrap", &environment],
    )
}

/// `cdk deploy --all`: network, cluster, control plane, identity.
pub fn deploy(stack: &Stack, sources: &Sources<'_>) -> Result<()> {
    let outputs = stack.info().state_dir.join(OUTPUTS_FILE);
    let outputs = outputs
        .to_str()
        .ok_or_else(|| anyhow!("{} is not UTF-8", outputs.display()))?;
    cdk(
        stack,
        sources,
        "cdk-deploy",
        &[
            "deploy",
            "--all",
            "--require-approval",
            "never",
            "--concurrency",
            "4",
            "--outputs-file",
            outputs,
        ],
    )
}

/// The charts, installed by Helm from the same files as on AWS.
pub fn install_charts(platform: &Platform, sources: &Sources<'_>) -> Result<()> {
    let jwks = jwks(platform)?;
    let jwks_file = platform.info.state_dir.join("jwks.json");
    std::fs::write(&jwks_file, jwks.to_string())?;
    let secret = platform.aws.call(
        aws::SECRETS,
        "GetSecretValue",
        &json!({ "SecretId": platform.control_plane("ModelGatewaySecretArn")? }),
    )?;
    let secret: Value = serde_json::from_str(&aws::string(&secret, "/SecretString")?)?;
    platform.cluster.apply(
        &json!({
            "apiVersion": "v1", "kind": "List", "items": [
                { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "model-gateway" } },
                {
                    "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                    "metadata": { "name": "litellm-master-key", "namespace": "model-gateway" },
                    "stringData": { "master-key": format!("sk-{}", aws::string(&secret, "/master_key")?) },
                },
            ],
        })
        .to_string(),
    )?;
    let values = sources.root.join("tests/local/values");
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
        platform,
        "model-gateway",
        &sources.root.join("tests/stand-ins/chart"),
        &gateway,
        &extra,
    )?;
    share_with_slack(platform)?;
    helm(
        platform,
        "slack",
        &sources.root.join("tests/stand-ins/slack-chart"),
        &[values.join("slack.yaml")],
        &[],
    )?;
    let set = format!("controlPlane.jwks={}", jwks_file.display());
    helm(
        platform,
        "agents",
        &sources.root.join("cluster/charts/agents"),
        &[
            values.join("agents.yaml"),
            values.join(format!("agents-{}.yaml", sources.agent)),
        ],
        &["--set-file", &set],
    )?;
    if sources.agent != SCRIPTED {
        add_scripted_pool(platform, sources)?;
    }
    Ok(())
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
    let ready = eventually(
        "the model gateway is ready",
        POOL_FILLS_WITHIN,
        || {
            platform
                .cluster
                .get("deployment", "model-gateway", "litellm")
        },
        |deployment| {
            let ready = deployment.as_ref().map(|it| &it["status"]["readyReplicas"]);
            ready.is_some_and(|ready| ready.as_u64().unwrap_or(0) > 0)
        },
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
    eventually(
        &format!("the warm pool {pool} is filled"),
        POOL_FILLS_WITHIN,
        || platform.cluster.get("sandboxwarmpool", AGENTS, pool),
        |pool| {
            pool.as_ref().is_some_and(|pool| {
                pool["status"]["readyReplicas"].is_u64()
                    && pool["status"]["readyReplicas"] == pool["spec"]["replicas"]
            })
        },
    )?;
    Ok(())
}

/// What an operator copies from the Slack app's page: its bot's token and its signing secret.
fn share_with_slack(platform: &Platform) -> Result<()> {
    let bot_token = format!("xoxb-0-0-{}", random()?);
    let put = |output: &str, secret: Value| {
        let input = json!({
            "SecretId": platform.control_plane(output)?, "SecretString": secret.to_string(),
        });
        platform.aws.call(aws::SECRETS, "PutSecretValue", &input)
    };
    put("SlackBotTokenSecretArn", json!({ "bot_token": bot_token }))?;
    put(
        "SlackSigningSecretArn",
        json!({ "signing_secret": random()? }),
    )?;
    platform.cluster.apply(
        &json!({
            "apiVersion": "v1", "kind": "List", "items": [
                { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "slack" } },
                {
                    "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                    "metadata": { "name": "slack-bot-token", "namespace": "slack" },
                    "stringData": { "bot-token": bot_token },
                },
            ],
        })
        .to_string(),
    )
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
    platform: &Platform,
    release: &str,
    chart: &Path,
    values: &[PathBuf],
    extra: &[&str],
) -> Result<()> {
    let mut command = platform.cluster.stack().command("helm");
    command
        .args(["upgrade", "--install", release])
        .arg(chart)
        .args(
            values
                .iter()
                .flat_map(|file| [OsStr::new("--values"), file.as_os_str()]),
        )
        .args(["--namespace", release, "--create-namespace"])
        .args(extra)
        .env(
            "HELM_CACHE_HOME",
            platform.info.state_dir.join("helm/cache"),
        )
        .env(
            "HELM_CONFIG_HOME",
            platform.info.state_dir.join("helm/config"),
        )
        .env("HELM_DATA_HOME", platform.info.state_dir.join("helm/data"));
    run_logged(command, &platform.info, &format!("helm-{release}"))
}

/// The CDK app and CLI exactly as for AWS; only the endpoint is another, and the stage.
fn cdk(stack: &Stack, sources: &Sources<'_>, log: &str, args: &[&str]) -> Result<()> {
    let directory = sources.root.join("cdk");
    let info = stack.info();
    let output = info.state_dir.join("cdk.out");
    // Every version of a function that was ever deployed from here would stay in it.
    if output.exists() {
        fs::remove_dir_all(&output).with_context(|| format!("clearing {}", output.display()))?;
    }
    let mut command = stack.command(directory.join("node_modules/.bin/cdk"));
    command
        .args(args)
        .arg("--output")
        .arg(&output)
        .args(["-c", "stage=local", "-c"])
        .arg(format!("lambdaDir={}", sources.lambdas.display()))
        .args(["--progress", "events", "--no-color"])
        .current_dir(&directory)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("CDK_DISABLE_CLI_TELEMETRY", "true")
        .env("CDK_DISABLE_VERSION_CHECK", "1")
        .env_remove("AWS_CA_BUNDLE");
    // Said here although the stage knows them: a context file of the operator's own would win.
    for value in [
        format!("account={}", info.account),
        format!("region={}", info.region),
        "allowedEmailDomains=example.com".to_owned(),
        "signUpPolicy=sign-up-policy.json".to_owned(),
    ] {
        command.arg("-c").arg(value);
    }
    if info.node == NodeKind::Kwok {
        // No pod answers on a simulated node. Loopback refuses at once, where a service's address
        // would lead out of the machine.
        command.args(["-c", "modelGatewayUrl=http://127.0.0.1:9"]);
        command.args(["-c", "slackApiUrl=http://127.0.0.1:9/api"]);
    } else {
        command
            .arg("-c")
            .arg(format!("modelGatewayUrl={}", info.model_gateway_url));
    }
    if let Some(faults) = sources.faults {
        command
            .arg("-c")
            .arg(format!("faultDir={}", faults.display()));
    }
    run_logged(command, info, log)
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

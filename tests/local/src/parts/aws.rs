//! AWS: MiniStack under its launcher (`tests/local/ministack`).

use std::path::PathBuf;

use tokio::process::Command;

use crate::supervisor::{Part, Ports};

use super::{PartFailure, Site, answers, kube_api_url, run, write};

pub(super) const REGION: &str = "us-east-1";
pub(super) const ACCOUNT: &str = "000000000000";
/// The EKS cluster that the stack's control plane stands for.
const CLUSTER: &str = "carapace";
const NAME: &str = "ministack";

pub(super) fn endpoint(ports: Ports) -> String {
    format!("http://127.0.0.1:{}", ports.aws)
}

/// The kubeconfig with which the API server asks IAM who a token belongs to.
pub(super) async fn token_webhook(site: &Site) -> Result<Option<PathBuf>, PartFailure> {
    let Some(aws) = &site.plan.aws else {
        return Ok(None);
    };
    // Only the launcher knows how the address follows from the secret.
    let mut launcher = Command::new(&aws.python);
    launcher
        .arg(&aws.launcher)
        .args(["webhook-kubeconfig", "--cluster", CLUSTER])
        .args(["--account", ACCOUNT, "--region", REGION])
        .args(["--endpoint", &endpoint(site.ports)])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KUBE_WEBHOOK_SECRET", &aws.webhook_secret);
    let kubeconfig = run(NAME, launcher, "").await?;
    let path = site.state.data("pki").join("token-webhook.kubeconfig");
    write(NAME, &path, &kubeconfig)?;
    Ok(Some(path))
}

pub(super) async fn start(site: &Site) -> Result<(), PartFailure> {
    let Some(aws) = &site.plan.aws else {
        return Ok(());
    };
    let ministack = Part::new(NAME, &aws.python)
        .arg(&aws.launcher)
        // The launcher's own folder is in the repository.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", site.ports.aws.to_string())
        // An address: a name would make S3 clients put the bucket in front of it.
        .env("AWS_ENDPOINT_URL", endpoint(site.ports))
        // What the host names of APIs and function URLs end in; those must be names.
        .env("MINISTACK_HOST", "localhost")
        .env("MINISTACK_REGION", REGION)
        .env("MINISTACK_ACCOUNT_ID", ACCOUNT)
        // Or it listens on every interface for things that nothing here uses.
        .env("IOT_MTLS_ENABLED", "0")
        // Or every caller is the account's root, and every one of them a cluster admin.
        .env("AUTH", "true")
        .env("STATE_DIR", site.data(NAME)?)
        .env("KUBE_API_URL", kube_api_url(site.ports))
        .env("KUBE_CA_FILE", site.authority.path())
        .env("KUBE_ADMIN_KUBECONFIG", site.state.kubeconfig())
        .env("KUBECTL", site.program("kubectl"))
        .env("KUBE_CLUSTER", CLUSTER)
        .env("KUBE_WEBHOOK_SECRET", &aws.webhook_secret)
        .env("LOCAL_ADMIN_TOKEN", &aws.admin_token);
    site.start(ministack, async || {
        answers(site.ports.aws, "/_ministack/health").await
    })
    .await
}

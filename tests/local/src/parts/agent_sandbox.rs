//! agent-sandbox: its resource definitions, its roles and its controller, from its own module.

use std::{fs, path::Path};

use futures::future::{try_join, try_join_all};
use serde_json::{Value, json};

use crate::supervisor::Part;

use super::{PartFailure, Site, answers};

pub(super) const PARTS: usize = 1;

const NAME: &str = "agent-sandbox-controller";
const NAMESPACE: &str = "agent-sandbox-system";
const ROLES: [(&str, &str); 2] = [
    ("agent-sandbox-controller", "rbac.generated.yaml"),
    (
        "agent-sandbox-controller-extensions",
        "extensions-rbac.generated.yaml",
    ),
];

pub(super) async fn start(site: &Site) -> Result<(), PartFailure> {
    site.await_api().await;
    let files = &site.plan.agent_sandbox_files;
    let definitions = definitions(&files.join("crds"))?;
    // Side by side: the API server takes its time to establish each of them.
    let defined = try_join_all(
        definitions
            .into_iter()
            .map(|(name, yaml)| define(site, name, yaml)),
    );
    let (kubeconfig, _) = try_join(authorize(site, files), defined).await?;
    let controller = Part::new(NAME, site.program(NAME))
        .env("KUBECONFIG", kubeconfig)
        .arg("--extensions")
        .flag("leader-elect", "false")
        .flag("enable-webhook", "false")
        .flag(
            "metrics-bind-address",
            format!("127.0.0.1:{}", site.ports.agent_sandbox_metrics),
        )
        .flag(
            "health-probe-bind-address",
            format!("127.0.0.1:{}", site.ports.agent_sandbox_health),
        );
    site.start(controller, async || {
        answers(site.ports.agent_sandbox_health, "/readyz").await
    })
    .await
}

/// The definitions, by name, from files that are named `<group>_<plural>.yaml`.
fn definitions(dir: &Path) -> Result<Vec<(String, String)>, PartFailure> {
    let mut definitions = Vec::new();
    for entry in fs::read_dir(dir).map_err(PartFailure::of(NAME))? {
        let path = entry.map_err(PartFailure::of(NAME))?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let Some((group, plural)) = stem.split_once('_') else {
            return Err(PartFailure::new(
                NAME,
                format!("{} is not named like a definition", path.display()),
            ));
        };
        definitions.push((
            format!("{plural}.{group}"),
            fs::read_to_string(&path).map_err(PartFailure::of(NAME))?,
        ));
    }
    definitions.sort();
    Ok(definitions)
}

async fn define(site: &Site, name: String, yaml: String) -> Result<(), PartFailure> {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    site.api.apply(&path, yaml).await?;
    // One version of each kind is used, so there is nothing to convert, and no webhook to do it.
    let none = json!({ "spec": { "conversion": { "strategy": "None", "webhook": null } } });
    site.api.merge(&path, &none).await?;
    site.await_ready(NAME, async || {
        site.api
            .has_condition(&path, "Established")
            .await
            .map_err(|error| error.to_string())
    })
    .await
}

/// Gives the controller its published roles, and a token of its own.
async fn authorize(site: &Site, files: &Path) -> Result<std::path::PathBuf, PartFailure> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
    });
    site.api
        .apply(
            &format!("/api/v1/namespaces/{NAMESPACE}"),
            namespace.to_string(),
        )
        .await?;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": NAME },
    });
    let account_path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAME}");
    site.api.apply(&account_path, account.to_string()).await?;
    for (role, file) in ROLES {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let yaml = fs::read_to_string(files.join(file)).map_err(PartFailure::of(NAME))?;
        site.api
            .apply(&format!("{rbac}/clusterroles/{role}"), yaml)
            .await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE }],
        });
        site.api
            .apply(
                &format!("{rbac}/clusterrolebindings/{role}"),
                binding.to_string(),
            )
            .await?;
    }
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        // A stack that is kept must not lose its controller over night.
        "spec": { "expirationSeconds": 30 * 24 * 3600 },
    });
    let token = site
        .api
        .create(&format!("{account_path}/token"), &request)
        .await?;
    let Value::String(token) = &token["status"]["token"] else {
        return Err(PartFailure::new(NAME, "the API server issued no token"));
    };
    let path = site.state.data("pki").join(format!("{NAME}.kubeconfig"));
    site.authority
        .kubeconfig_with_token(&path, &super::kube_api_url(site.ports), token)?;
    Ok(path)
}

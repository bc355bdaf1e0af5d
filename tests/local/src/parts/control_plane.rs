//! etcd and the three processes that make Kubernetes' control plane.

use crate::{
    certificates::Identity,
    info::NodeKind,
    supervisor::{Isolation, Part},
};

use super::{PartFailure, Site, answers, aws, network};

pub(super) const PARTS: usize = 4;

/// Who the user of a stack is. The group is the one that no authorizer refuses.
pub(super) const ADMIN: Identity<'static> = Identity {
    user: "carapace-admin",
    groups: &["system:masters"],
};

const SERVICE_ACCOUNT_ISSUER: &str = "https://kubernetes.default.svc";

pub(super) async fn start(site: &Site) -> Result<(), PartFailure> {
    let service_accounts = site.authority.key_pair("service-accounts")?;
    // One certificate for all: what they serve besides the API are their health checks.
    let serving = site.authority.server(
        "control-plane",
        &[
            "127.0.0.1",
            "localhost",
            &network::NODE_IP.to_string(),
            &network::API_SERVICE_IP.to_string(),
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ],
    )?;

    start_etcd(site).await?;

    let kubelet_client = site
        .authority
        .client("kube-apiserver-kubelet-client", &ADMIN)?;
    let ca = site.authority.path();
    let mut api_server = Part::new("kube-apiserver", site.program("kube-apiserver"))
        // A third of what it does while a stack starts is to tidy up, for the sake of memory that a stack
        // of a few hundred objects never misses.
        .env("GOGC", "off")
        .env("GOMEMLIMIT", "1GiB")
        .flag(
            "etcd-servers",
            format!("http://127.0.0.1:{}", site.ports.etcd),
        )
        .flag("secure-port", site.ports.kube_api.to_string())
        .flag("tls-cert-file", &serving.certificate)
        .flag("tls-private-key-file", &serving.key)
        .flag("client-ca-file", &ca)
        .flag("service-account-issuer", SERVICE_ACCOUNT_ISSUER)
        .flag("service-account-key-file", &service_accounts.certificate)
        .flag("service-account-signing-key-file", &service_accounts.key)
        .flag("authorization-mode", "Node,RBAC")
        .flag("enable-admission-plugins", "NodeRestriction")
        .flag("service-cluster-ip-range", network::SERVICE_CIDR)
        .flag("allow-privileged", "true")
        .flag("kubelet-certificate-authority", &ca)
        .flag("kubelet-client-certificate", &kubelet_client.certificate)
        .flag("kubelet-client-key", &kubelet_client.key)
        .flag("kubelet-preferred-address-types", "InternalIP")
        .flag("profiling", "false");
    api_server = match (site.isolation, site.plan.node) {
        // Reachable at the node's address, as on a real one, so that pods *could* get there.
        (Isolation::Namespaces, NodeKind::Gvisor) => api_server
            .flag("bind-address", "0.0.0.0")
            .flag("advertise-address", network::NODE_IP.to_string()),
        // A loopback address cannot be an endpoint of the Service `kubernetes`.
        _ => api_server
            .flag("bind-address", "127.0.0.1")
            .flag("advertise-address", "127.0.0.1")
            .flag("endpoint-reconciler-type", "none"),
    };
    if let Some(webhook) = aws::token_webhook(site).await? {
        api_server = api_server
            .flag("authentication-token-webhook-config-file", webhook)
            .flag("authentication-token-webhook-version", "v1")
            // An access entry that is taken away must stop working within a test's patience.
            .flag("authentication-token-webhook-cache-ttl", "1s");
    }
    site.start(api_server, async || {
        site.api
            .get("/readyz")
            .await
            .map(|_| true)
            .map_err(|error| error.to_string())
    })
    .await?;
    site.api_is_ready.send_replace(true);

    let manager_config = site.kubeconfig(
        "kube-controller-manager",
        &Identity {
            user: "system:kube-controller-manager",
            groups: &[],
        },
    )?;
    let manager = Part::new(
        "kube-controller-manager",
        site.program("kube-controller-manager"),
    )
    .flag("kubeconfig", manager_config)
    .flag("bind-address", "127.0.0.1")
    .flag("secure-port", site.ports.controller_manager.to_string())
    .flag("tls-cert-file", &serving.certificate)
    .flag("tls-private-key-file", &serving.key)
    .flag("service-account-private-key-file", &service_accounts.key)
    .flag("root-ca-file", &ca)
    .flag("use-service-account-credentials", "true")
    // It makes a service account for each of its forty controllers before it does anything else.
    .flag("kube-api-qps", "300")
    .flag("kube-api-burst", "600")
    .flag("leader-elect", "false")
    .flag("profiling", "false");
    let scheduler_config = site.kubeconfig(
        "kube-scheduler",
        &Identity {
            user: "system:kube-scheduler",
            groups: &[],
        },
    )?;
    let scheduler = Part::new("kube-scheduler", site.program("kube-scheduler"))
        .flag("kubeconfig", scheduler_config)
        .flag("bind-address", "127.0.0.1")
        .flag("secure-port", site.ports.scheduler.to_string())
        .flag("tls-cert-file", &serving.certificate)
        .flag("tls-private-key-file", &serving.key)
        .flag("leader-elect", "false")
        .flag("profiling", "false");
    let scheduler_api = site.api.at(site.ports.scheduler);
    tokio::try_join!(
        // What the controllers are for: without it no pod can be created in the namespace.
        site.start(manager, async || {
            site.api
                .get("/api/v1/namespaces/default/serviceaccounts/default")
                .await
                .map(|_| true)
                .map_err(|error| error.to_string())
        }),
        site.start(scheduler, async || {
            scheduler_api
                .get("/readyz")
                .await
                .map(|_| true)
                .map_err(|error| error.to_string())
        }),
    )?;
    Ok(())
}

async fn start_etcd(site: &Site) -> Result<(), PartFailure> {
    let client = format!("http://127.0.0.1:{}", site.ports.etcd);
    let peer = format!("http://127.0.0.1:{}", site.ports.etcd_peer);
    let etcd = Part::new("etcd", site.program("etcd"))
        .flag("data-dir", site.data("etcd")?)
        .flag("listen-client-urls", &client)
        .flag("advertise-client-urls", &client)
        .flag("listen-peer-urls", &peer)
        .flag("initial-advertise-peer-urls", &peer)
        .flag("initial-cluster", format!("default={peer}"))
        // Its data does not outlive the stack, so nothing is gained by waiting for the disk.
        .flag("unsafe-no-fsync", "true")
        .flag("log-level", "warn");
    site.start(etcd, async || answers(site.ports.etcd, "/health").await)
        .await
}

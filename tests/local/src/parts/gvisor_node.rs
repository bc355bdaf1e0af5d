//! A real node: containerd and the kubelet, pods in gVisor, and the two that make its network obey.
//!
//! gVisor stands in for Kata under Kata's name, `kata-qemu`: each pod has a kernel of its own, but
//! there is no hardware VM around it.

use std::{fs, os::unix::fs::symlink, path::Path};

use futures::future::try_join_all;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde_json::{Value, json};
use tokio::task::spawn_local;

use crate::{UnpackedImage, certificates::Identity, cgroups, supervisor::Part};

use super::{
    PartFailure, Site, answers, gate,
    network::{BRIDGE, NODE_IP, POD_CIDR, SERVICE_CIDR, tool},
    run, write,
};

pub(super) const PARTS: usize = 4;

const NODE: &str = "node-1";
/// containerd's snapshotters: overlays, and copies where there can be none.
const OVERLAYFS: &str = "overlayfs";
const NATIVE: &str = "native";
/// The image that holds each pod's namespaces; it must be among the stack's images.
const PAUSE_IMAGE: &str = "carapace.local/pause:dev";
/// What the pods' network is called by the CNI plug-ins.
const NETWORK: &str = "pods";
/// In a network of its own, the ports that these parts have by default are free.
const KUBE_PROXY_HEALTH: u16 = 10256;
const KUBE_ROUTER_HEALTH: u16 = 20244;

pub(super) async fn start(site: &Site) -> Result<(), PartFailure> {
    tokio::try_join!(
        async {
            let snapshotter = start_containerd(site).await?;
            // No pod can be there before the stack is up, so that nothing asks for an image earlier.
            tokio::try_join!(import_all(site, snapshotter), async {
                site.await_api().await;
                start_kubelet(site).await
            })
        },
        async {
            site.await_api().await;
            tokio::try_join!(start_kube_router(site), start_kube_proxy(site))
        },
    )?;
    Ok(())
}

/// Gives the snapshotter that it uses.
async fn start_containerd(site: &Site) -> Result<&'static str, PartFailure> {
    const PART: &str = "containerd";
    let data = site.data(PART)?;
    let socket = site.state.containerd_socket();
    let cni = site.data("cni")?;
    let runsc = data.join("runsc.toml");
    // Its fast path spins while it waits for the kernel or for the program, on processors that the
    // rest of the stack needs: on two of them OpenClaw starts with a fifth less work without it.
    let settings =
        "[runsc_config]\n  platform = \"systrap\"\n  systrap-disable-fast-path = \"true\"\n";
    write(PART, &runsc, settings)?;
    // Its own overlays cannot lie on another one, as the root of a container usually is.
    let snapshotter = match statfs(&data).map(|stat| stat.filesystem_type()) {
        Ok(OVERLAYFS_SUPER_MAGIC) => NATIVE,
        _ => OVERLAYFS,
    };
    let config = data.join("config.toml");
    write(
        PART,
        &config,
        &format!(
            r#"version = 3
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{socket}"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "{snapshotter}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  # Lowering a score needs a capability that containers and virtual machines often lack.
  restrict_oom_score_adj = true
  # Below the state directory, where nothing of the host is.
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{bin}"]
  conf_dir = "{cni}"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu]
  runtime_type = "io.containerd.runsc.v1"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu.options]
  TypeUrl = "io.containerd.runsc.v1.options"
  ConfigPath = "{runsc}"
"#,
            root = data.join("root").display(),
            state = data.join("state").display(),
            socket = socket.display(),
            bin = site.state.bin().display(),
            cni = cni.display(),
            runsc = runsc.display(),
        ),
    )?;
    let addresses = site.data("cni-addresses")?;
    // The plug-in's directory for the network of that name.
    let given_out = addresses.join(NETWORK);
    spawn_local(async move { gate::keep(&given_out).await });
    let network = json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": addresses,
                "ranges": [[{ "subnet": POD_CIDR }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    write(PART, &cni.join("10-pods.conflist"), &network.to_string())?;
    let containerd = Part::new(PART, site.program(PART))
        .arg("--config")
        .arg(config);
    site.start(containerd, async || {
        let mut ctr = tool("ctr", &["--timeout", "2s", "version"]);
        ctr.env("PATH", site.state.bin())
            .env("CONTAINERD_ADDRESS", &socket);
        run(PART, ctr, "")
            .await
            .map(|_| true)
            .map_err(|failure| failure.problem)
    })
    .await?;
    Ok(snapshotter)
}

async fn import_all(site: &Site, snapshotter: &str) -> Result<(), PartFailure> {
    let images = site.plan.images.iter().map(|image| import(site, image));
    let unpacked = site.plan.unpacked.iter().map(|image| async move {
        match snapshotter {
            OVERLAYFS => adopt(site, image).await,
            _ => import(site, &image.archive).await,
        }
    });
    tokio::try_join!(try_join_all(images), try_join_all(unpacked))?;
    Ok(())
}

async fn import(site: &Site, image: &Path) -> Result<(), PartFailure> {
    let mut import = ctr(site, &["images", "import", "--local"]);
    import.arg(image);
    run("containerd", import, "").await.map(drop)
}

/// Makes an image of files that are on the disk already. A layer whose snapshot is there is not
/// unpacked, and then nothing asks for the layer itself: containerd does the same for layers that
/// images have in common.
async fn adopt(site: &Site, image: &UnpackedImage) -> Result<(), PartFailure> {
    const PART: &str = "containerd";
    let failed = |problem: String| {
        let root = image.root.display();
        PartFailure::new(PART, format!("using the unpacked image {root}: {problem}"))
    };
    let snapshots = ["snapshots", "--snapshotter", OVERLAYFS];
    let unfinished = format!("unpacked {}", image.layer);
    let mut prepare = ctr(site, &snapshots);
    prepare.args(["prepare", "--mounts", &unfinished]);
    let mounts = run(PART, prepare, "").await?;
    let mounts: Value =
        serde_json::from_str(&mounts).map_err(|error| failed(format!("{error}: {mounts}")))?;
    let directory = mounts[0]["Source"]
        .as_str()
        .ok_or_else(|| failed(format!("its snapshot has no directory: {mounts}")))?;
    fs::remove_dir(directory)
        .and_then(|()| symlink(&image.root, directory))
        .map_err(|error| failed(format!("{directory}: {error}")))?;
    let mut commit = ctr(site, &snapshots);
    // The name under which containerd looks for a layer that has none below it.
    commit.args(["commit", &image.layer, &unfinished]);
    run(PART, commit, "").await?;
    import(site, &image.description).await
}

/// containerd's client, for what the kubelet sees.
fn ctr(site: &Site, arguments: &[&str]) -> tokio::process::Command {
    let mut ctr = tokio::process::Command::new(site.program("ctr"));
    ctr.arg("--address")
        .arg(site.state.containerd_socket())
        .args(["--namespace", "k8s.io"])
        .args(arguments);
    ctr
}

async fn start_kubelet(site: &Site) -> Result<(), PartFailure> {
    const PART: &str = "kubelet";
    let data = site.data(PART)?;
    let socket = site.state.containerd_socket();
    let serving = site
        .authority
        .server("kubelet", &[&NODE_IP.to_string(), NODE])?;
    let resolv_conf = data.join("resolv.conf");
    write(PART, &resolv_conf, "nameserver 10.96.0.10\n")?;
    let config = data.join("config.yaml");
    let settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": site.authority.path() },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": serving.certificate,
        "tlsPrivateKeyFile": serving.key,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cgroups::name(&site.plan.id)),
        // Virtual machines and older distributions still have it, and it does all that is needed.
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "resolvConf": resolv_conf,
        "healthzBindAddress": "127.0.0.1",
        "readOnlyPort": 0,
        "podLogsDir": site.data("pod-logs")?,
        "volumePluginDir": data.join("volume-plugins"),
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "1s",
        "eventRecordQPS": 0,
        "maxPods": 200,
        // The developer's disk is none of its business, and images cannot be pulled again.
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
    });
    write(PART, &config, &settings.to_string())?;
    let kubeconfig = site.kubeconfig(
        PART,
        &Identity {
            user: "system:node:node-1",
            groups: &["system:nodes"],
        },
    )?;
    let kubelet = Part::new(PART, site.program(PART))
        .flag("config", config)
        .flag("kubeconfig", kubeconfig)
        .flag("root-dir", &data)
        .flag("cert-dir", data.join("pki"))
        .flag("hostname-override", NODE)
        .flag("node-ip", NODE_IP.to_string())
        .flag("node-labels", "katacontainers.io/kata-runtime=true");
    site.start(kubelet, async || {
        site.api
            .has_condition(&format!("/api/v1/nodes/{NODE}"), "Ready")
            .await
            .map_err(|error| error.to_string())
    })
    .await
}

/// kube-router, as nothing but the engine of network policies.
async fn start_kube_router(site: &Site) -> Result<(), PartFailure> {
    const PART: &str = "kube-router";
    let kubeconfig = site.kubeconfig(
        PART,
        &Identity {
            user: "carapace:kube-router",
            groups: &[],
        },
    )?;
    authorize_kube_router(site).await?;
    // It gives up at once if its node is not there yet.
    site.await_ready(PART, async || {
        site.api
            .get(&format!("/api/v1/nodes/{NODE}"))
            .await
            .map(|_| true)
            .map_err(|error| error.to_string())
    })
    .await?;
    let router = Part::new(PART, site.program(PART))
        .flag("kubeconfig", kubeconfig)
        .flag("hostname-override", NODE)
        .flag("run-firewall", "true")
        .flag("run-router", "false")
        .flag("run-service-proxy", "false")
        .flag("enable-cni", "false")
        .flag("enable-ipv6", "false")
        .flag("health-port", KUBE_ROUTER_HEALTH.to_string())
        .flag("service-cluster-ip-range", SERVICE_CIDR)
        // It lets pods reach the node at every port of this range, so there is next to none.
        .flag("service-node-port-range", "32766-32767")
        .flag("iptables-sync-period", "30s");
    site.start(router, async || {
        // Its first rules are what makes it an engine; before them all is closed.
        let rules = run(PART, tool("iptables", &["-w", "-S", "FORWARD"]), "")
            .await
            .map_err(|failure| failure.problem)?;
        match rules.contains("KUBE-ROUTER-FORWARD") {
            true => answers(KUBE_ROUTER_HEALTH, "/healthz").await,
            false => Err("it has not written its rules yet".to_owned()),
        }
    })
    .await
}

async fn authorize_kube_router(site: &Site) -> Result<(), PartFailure> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let verbs = ["get", "list", "watch"];
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": "carapace:kube-router" },
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "namespaces", "nodes", "pods", "services"],
                "verbs": verbs,
            },
            {
                "apiGroups": ["networking.k8s.io"],
                "resources": ["networkpolicies"],
                "verbs": verbs,
            },
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": verbs,
            },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "carapace:kube-router" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "carapace:kube-router",
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "User",
            "name": "carapace:kube-router",
        }],
    });
    for (kind, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        site.api
            .apply(
                &format!("{rbac}/{kind}/carapace:kube-router"),
                object.to_string(),
            )
            .await?;
    }
    Ok(())
}

async fn start_kube_proxy(site: &Site) -> Result<(), PartFailure> {
    const PART: &str = "kube-proxy";
    let kubeconfig = site.kubeconfig(
        PART,
        &Identity {
            user: "system:kube-proxy",
            groups: &[],
        },
    )?;
    let settings = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": kubeconfig },
        "mode": "nftables",
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": NODE,
        "healthzBindAddress": format!("127.0.0.1:{KUBE_PROXY_HEALTH}"),
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": [format!("{NODE_IP}/32")],
        // The limits are the machine's, not the namespace's; they are not a stack's to set.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "nftables": { "minSyncPeriod": "0s", "syncPeriod": "30s" },
    });
    let config = site.data(PART)?.join("config.yaml");
    write(PART, &config, &settings.to_string())?;
    let proxy = Part::new(PART, site.program(PART)).flag("config", config);
    site.start(proxy, async || {
        // It calls itself healthy before it has written anything.
        run(
            PART,
            tool("nft", &["list", "table", "ip", "kube-proxy"]),
            "",
        )
        .await
        .map_err(|failure| failure.problem)?;
        answers(KUBE_PROXY_HEALTH, "/healthz").await
    })
    .await
}

//! The programs: which package of which pinned module each one is, and how it is built.

use std::{fmt, time::Duration};

/// A folder of `tests/local/go`: programs whose dependencies agree share one set of pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Module {
    Kubernetes,
    Node,
    Gvisor,
    Network,
}

impl Module {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Node => "node",
            Self::Gvisor => "gvisor",
            Self::Network => "network",
        }
    }
}

/// Files of a module that a program needs at run time.
pub(super) struct ModuleFiles {
    pub(super) module: &'static str,
    pub(super) paths: &'static [&'static str],
}

/// A program of the local stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(
    missing_docs,
    reason = "each is named as its project names it, and `name` says it again"
)]
#[non_exhaustive]
pub enum Program {
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    KubeScheduler,
    Kubectl,
    AgentSandboxController,
    Helm,
    Kwok,
    Kubelet,
    KubeProxy,
    Containerd,
    Ctr,
    ContainerdShimRunc,
    Bridge,
    HostLocal,
    Loopback,
    Runc,
    Runsc,
    ContainerdShimRunsc,
    KubeRouter,
}

struct Recipe {
    name: &'static str,
    module: Module,
    package: &'static str,
    /// Seconds on 2 idle cores with an empty build cache, in the order of [`Program::ALL`]: later
    /// programs find most of their packages compiled by earlier ones.
    seconds: u64,
}

impl Program {
    /// Every program, in the order in which they are best built.
    pub const ALL: &[Self] = &[
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubectl,
        Self::AgentSandboxController,
        Self::Helm,
        Self::Kwok,
        Self::Kubelet,
        Self::KubeProxy,
        Self::Containerd,
        Self::Ctr,
        Self::ContainerdShimRunc,
        Self::Bridge,
        Self::HostLocal,
        Self::Loopback,
        Self::Runc,
        Self::Runsc,
        Self::ContainerdShimRunsc,
        Self::KubeRouter,
    ];

    /// What every stack runs, and the two programs people talk to it with.
    pub const CONTROL_PLANE: &[Self] = &[
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubectl,
        Self::AgentSandboxController,
        Self::Helm,
    ];

    /// What a node whose pods really run needs.
    pub const GVISOR_NODE: &[Self] = &[
        Self::Kubelet,
        Self::KubeProxy,
        Self::Containerd,
        Self::Ctr,
        Self::ContainerdShimRunc,
        Self::Bridge,
        Self::HostLocal,
        Self::Loopback,
        Self::Runc,
        Self::Runsc,
        Self::ContainerdShimRunsc,
        Self::KubeRouter,
    ];

    /// What a node whose pods are only said to run needs.
    pub const KWOK_NODE: &[Self] = &[Self::Kwok];

    /// The name of its file.
    pub fn name(self) -> &'static str {
        self.recipe().name
    }

    pub(super) fn module(self) -> Module {
        self.recipe().module
    }

    pub(super) fn package(self) -> &'static str {
        self.recipe().package
    }

    pub(super) fn measured(self) -> Duration {
        Duration::from_secs(self.recipe().seconds)
    }

    /// runc enters its container before Go's runtime starts, which only C can do.
    pub(super) fn needs_c(self) -> bool {
        self == Self::Runc
    }

    pub(super) fn tags(self) -> Option<&'static str> {
        match self {
            // Snapshotters that nothing here uses, and that would need C libraries.
            Self::Containerd => Some("no_aufs no_btrfs no_devmapper no_zfs"),
            Self::Runc => Some("seccomp"),
            _ => None,
        }
    }

    pub(super) fn files(self) -> Option<ModuleFiles> {
        match self {
            Self::AgentSandboxController => Some(ModuleFiles {
                module: "sigs.k8s.io/agent-sandbox",
                paths: &[
                    "k8s/crds",
                    "k8s/rbac.generated.yaml",
                    "k8s/extensions-rbac.generated.yaml",
                ],
            }),
            Self::Kwok => Some(ModuleFiles {
                module: "sigs.k8s.io/kwok",
                paths: &[
                    "kustomize/stage/node/fast/node-initialize.yaml",
                    "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
                    "kustomize/stage/pod/fast/pod-ready.yaml",
                    "kustomize/stage/pod/fast/pod-complete.yaml",
                    "kustomize/stage/pod/fast/pod-delete.yaml",
                ],
            }),
            _ => None,
        }
    }

    fn recipe(self) -> Recipe {
        let (name, module, package, seconds) = match self {
            Self::Etcd => ("etcd", Module::Kubernetes, "go.etcd.io/etcd/server/v3", 44),
            Self::KubeApiserver => (
                "kube-apiserver",
                Module::Kubernetes,
                "k8s.io/kubernetes/cmd/kube-apiserver",
                141,
            ),
            Self::KubeControllerManager => (
                "kube-controller-manager",
                Module::Kubernetes,
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                43,
            ),
            Self::KubeScheduler => (
                "kube-scheduler",
                Module::Kubernetes,
                "k8s.io/kubernetes/cmd/kube-scheduler",
                3,
            ),
            Self::Kubectl => (
                "kubectl",
                Module::Kubernetes,
                "k8s.io/kubernetes/cmd/kubectl",
                16,
            ),
            Self::AgentSandboxController => (
                "agent-sandbox-controller",
                Module::Kubernetes,
                "sigs.k8s.io/agent-sandbox/cmd/agent-sandbox-controller",
                6,
            ),
            Self::Helm => ("helm", Module::Kubernetes, "helm.sh/helm/v4/cmd/helm", 15),
            Self::Kwok => ("kwok", Module::Kubernetes, "sigs.k8s.io/kwok/cmd/kwok", 7),
            Self::Kubelet => (
                "kubelet",
                Module::Kubernetes,
                "k8s.io/kubernetes/cmd/kubelet",
                13,
            ),
            Self::KubeProxy => (
                "kube-proxy",
                Module::Kubernetes,
                "k8s.io/kubernetes/cmd/kube-proxy",
                5,
            ),
            Self::Containerd => (
                "containerd",
                Module::Node,
                "github.com/containerd/containerd/v2/cmd/containerd",
                37,
            ),
            Self::Ctr => (
                "ctr",
                Module::Node,
                "github.com/containerd/containerd/v2/cmd/ctr",
                2,
            ),
            Self::ContainerdShimRunc => (
                "containerd-shim-runc-v2",
                Module::Node,
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                1,
            ),
            Self::Bridge => (
                "bridge",
                Module::Node,
                "github.com/containernetworking/plugins/plugins/main/bridge",
                1,
            ),
            Self::HostLocal => (
                "host-local",
                Module::Node,
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
                1,
            ),
            Self::Loopback => (
                "loopback",
                Module::Node,
                "github.com/containernetworking/plugins/plugins/main/loopback",
                1,
            ),
            Self::Runc => ("runc", Module::Node, "github.com/opencontainers/runc", 7),
            Self::Runsc => ("runsc", Module::Gvisor, "gvisor.dev/gvisor/runsc", 42),
            Self::ContainerdShimRunsc => (
                "containerd-shim-runsc-v1",
                Module::Gvisor,
                "gvisor.dev/gvisor/shim",
                8,
            ),
            Self::KubeRouter => (
                "kube-router",
                Module::Network,
                "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
                67,
            ),
        };
        Recipe {
            name,
            module,
            package,
            seconds,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

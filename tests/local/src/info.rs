//! What a running stack says about itself in `stack.json`, for whoever works with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The sort of node that pods are scheduled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A real kubelet with containerd; pods of the RuntimeClass `kata-qemu` run in gVisor, with a
    /// kernel of their own but without a hardware VM. Needs root.
    Gvisor,
    /// A node in name only: kwok reports its pods as running. For scale, and where there is no root.
    Kwok,
    /// No node: the API only.
    None,
}

/// Everything needed to use a running stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StackInfo {
    /// Random, and part of every name that lies outside the state directory.
    pub id: String,
    /// Where everything of this stack lies.
    pub state_dir: PathBuf,
    /// One file for each part.
    pub logs_dir: PathBuf,
    /// The programs of this stack.
    pub bin_dir: PathBuf,
    /// The AWS API; absent when the stack was started without it.
    pub aws_endpoint: Option<String>,
    /// The bearer token for the launcher's own routes, which no real AWS has.
    pub aws_admin_token: Option<String>,
    /// The region that the AWS API answers for.
    pub region: String,
    /// The account that the AWS API answers for.
    pub account: String,
    /// Credentials of the account's root; MiniStack accepts these for it.
    pub access_key_id: String,
    /// The other half of them.
    pub secret_access_key: String,
    /// A cluster administrator's configuration; its URL is valid inside and outside of the stack.
    pub kubeconfig: PathBuf,
    /// The Kubernetes API.
    pub kube_api: String,
    /// The certificate authority of the Kubernetes API (PEM).
    pub kube_ca: PathBuf,
    /// The sort of node.
    pub node: NodeKind,
    /// The node's address on the pods' bridge.
    pub node_ip: String,
    /// The process that keeps the stack.
    pub supervisor_pid: u32,
    /// A process whose network namespace is the stack's; absent when the stack runs in the host's.
    pub netns_pid: Option<u32>,
    /// Where pods reach the model gateway.
    pub model_gateway_url: String,
    /// Where Slack's stand-in answers once its chart is installed, inside and outside of the stack;
    /// absent where no pod runs. Its page is at the root.
    pub slack_url: Option<String>,
    /// Listeners that no pod of an agent may reach, or that it may: what network tests dial.
    pub decoys: Vec<Decoy>,
}

/// A listener that exists so that a test of its unreachability can fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decoy {
    /// What it stands for, such as `instance metadata`.
    pub name: String,
    /// Address and port.
    pub address: String,
}

/// One process of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartStatus {
    /// Its name; its log is `<name>.log`.
    pub name: String,
    /// Its process id, as the host sees it.
    pub pid: u32,
    /// Its resident memory; zero when it is down.
    pub rss_kib: u64,
    /// How it ended, if it did.
    pub exited: Option<String>,
}

impl PartStatus {
    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.exited.is_none()
    }
}

//! The kinds of agent-sandbox, v1beta1, reduced to the fields that are used.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// What a claim asks for.
///
/// There is no lifecycle: without one a claim ends only when it is deleted. And there is neither
/// environment nor volume, since either would force a cold start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "extensions.agents.x-k8s.io",
    version = "v1beta1",
    kind = "SandboxClaim",
    namespaced,
    status = "SandboxClaimStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxClaimSpec {
    pub(crate) warm_pool_ref: WarmPoolRef,
    #[serde(default, skip_serializing_if = "PodMetadata::is_empty")]
    pub(crate) additional_pod_metadata: PodMetadata,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WarmPoolRef {
    pub(crate) name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodMetadata {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl PodMetadata {
    fn is_empty(&self) -> bool {
        self.annotations.is_empty()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxClaimStatus {
    #[serde(default)]
    pub(crate) conditions: Vec<Condition>,
    #[serde(default)]
    pub(crate) sandbox: SandboxStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxStatus {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, rename = "podIPs")]
    pub(crate) pod_ips: Vec<String>,
}

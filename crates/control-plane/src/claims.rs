//! The cluster's `SandboxClaim`s.

use std::{collections::BTreeMap, future::Future, pin::pin, time::Duration};

use carapace_core::{
    ClaimName, ClaimUid, EventId, SandboxName,
    claim::{
        ClaimView, Condition, DO_NOT_DISRUPT_ANNOTATION, EVENT_ANNOTATION, USER_KEY_ANNOTATION,
        WantedClaim,
    },
    ports::{ClaimChange, ClaimTrouble, Claims, Deleted, Trouble},
};
use futures::TryStreamExt;
use jiff::Timestamp;
use kube::{
    Api, Error,
    api::{DeleteParams, Patch, PatchParams, Preconditions, WatchEvent, WatchParams},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    aws::{boxed, chain},
    kubernetes::{Cluster, PodMetadata, SERVICE, SandboxClaim, SandboxClaimSpec, WarmPoolRef},
};

/// Who owns the fields that we set, in the eyes of server-side apply.
const FIELD_MANAGER: &str = "carapace";

/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before a watch that ended early is resumed, so that a server that ends every
/// watch at once isn't called in a tight loop.
const PAUSE: Duration = Duration::from_millis(200);

/// The claims of one namespace.
pub struct ClaimApi {
    cluster: Cluster,
    namespace: String,
}

impl ClaimApi {
    /// The claims of this namespace; nothing is called yet.
    pub fn new(cluster: Cluster, namespace: String) -> Self {
        Self { cluster, namespace }
    }

    async fn api(&self) -> Result<Api<SandboxClaim>, Trouble> {
        Ok(Api::namespaced(
            self.cluster.client().await?,
            &self.namespace,
        ))
    }

    /// Waits for the first event after `version`. `None`: the watch ended without one, as it may at
    /// any time.
    async fn first_event(
        &self,
        name: &ClaimName,
        version: &str,
        patience: Duration,
    ) -> Result<Option<ClaimChange>, Trouble> {
        let seconds = u32::try_from(patience.as_secs()).unwrap_or(u32::MAX).max(1);
        let selected = WatchParams::default()
            .fields(&format!("metadata.name={name}"))
            .timeout(seconds);
        let api = self.api().await?;
        let events = boxed(api.watch(&selected, version)).await;
        let mut events = pin!(events.map_err(|error| trouble(&error))?);
        while let Some(event) = events.try_next().await.map_err(|error| trouble(&error))? {
            match event {
                WatchEvent::Added(claim) | WatchEvent::Modified(claim) => {
                    return Ok(Some(ClaimChange::Changed(Box::new(view(claim)?))));
                }
                WatchEvent::Deleted(_) => return Ok(Some(ClaimChange::Gone)),
                WatchEvent::Bookmark(_) => {}
                // 410 for one: the server has forgotten what came after this version.
                WatchEvent::Error(_) => return Ok(None),
            }
        }
        Ok(None)
    }
}

impl Claims for ClaimApi {
    async fn apply(&self, claim: &WantedClaim) -> Result<ClaimView, ClaimTrouble> {
        let api = self.api().await?;
        // By force: a field that we set is ours, whoever has edited it by hand in between.
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let object = Patch::Apply(object(claim));
        match in_time(boxed(api.patch(claim.name.as_str(), &parameters, &object))).await? {
            Ok(claim) => Ok(view(claim)?),
            Err(error) => Err(match status(&error) {
                Some(400 | 404 | 422) => ClaimTrouble::Rejected(chain(&error)),
                _ => trouble(&error).into(),
            }),
        }
    }

    async fn find(&self, name: &ClaimName) -> Result<Option<ClaimView>, Trouble> {
        let api = self.api().await?;
        match in_time(boxed(api.get_opt(name.as_str()))).await? {
            Ok(claim) => claim.map(view).transpose(),
            Err(error) => Err(trouble(&error)),
        }
    }

    /// A watch is only ever a hint that it is time to look: when one ends early, breaks or has lost
    /// its place, the claim itself is read, and only what is read there counts as unchanged.
    async fn next(&self, seen: &ClaimView, patience: Duration) -> Result<ClaimChange, Trouble> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(ClaimChange::Same);
            }
            let watched = self.first_event(&seen.name, &seen.resource_version, left);
            match timeout(left, watched).await {
                Err(_) => return Ok(ClaimChange::Same),
                Ok(Ok(Some(next))) => return Ok(next),
                Ok(Err(refused @ Trouble::Refused { .. })) => return Err(refused),
                Ok(Err(Trouble::Unavailable { why, .. })) => {
                    tracing::debug!(claim = %seen.name, why, "a watch broke off and is resumed");
                }
                Ok(Ok(None)) => {
                    tracing::debug!(claim = %seen.name, "a watch ended early and is resumed");
                }
            }
            match self.find(&seen.name).await? {
                None => return Ok(ClaimChange::Gone),
                Some(now) if now.resource_version != seen.resource_version => {
                    return Ok(ClaimChange::Changed(Box::new(now)));
                }
                Some(_) => sleep(PAUSE.min(left)).await,
            }
        }
    }

    async fn delete(&self, seen: &ClaimView) -> Result<Deleted, Trouble> {
        let api = self.api().await?;
        let parameters = DeleteParams::default().preconditions(Preconditions {
            uid: Some(seen.uid.to_string()),
            resource_version: Some(seen.resource_version.clone()),
        });
        match in_time(boxed(api.delete(seen.name.as_str(), &parameters))).await? {
            Ok(_) => Ok(Deleted::Yes),
            Err(error) => match status(&error) {
                Some(404) => Ok(Deleted::Yes),
                Some(409) => Ok(Deleted::Changed),
                _ => Err(trouble(&error)),
            },
        }
    }
}

async fn in_time<T>(call: impl Future<Output = T>) -> Result<T, Trouble> {
    timeout(PATIENCE, call)
        .await
        .map_err(|_| Trouble::Unavailable {
            service: SERVICE,
            why: format!("no answer within {PATIENCE:?}"),
        })
}

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// 401 is worth another try: it is also what a server says that could not ask about the token.
fn trouble(error: &Error) -> Trouble {
    let why = match error {
        Error::Api(status) => format!("HTTP {}, {}", status.code, status.message),
        other => chain(other),
    };
    match status(error) {
        Some(403 | 404 | 405 | 422) => Trouble::Refused {
            service: SERVICE,
            why,
        },
        _ => Trouble::Unavailable {
            service: SERVICE,
            why,
        },
    }
}

fn object(claim: &WantedClaim) -> SandboxClaim {
    let annotations = BTreeMap::from([
        (USER_KEY_ANNOTATION.to_owned(), claim.user.to_string()),
        (EVENT_ANNOTATION.to_owned(), claim.event.to_string()),
    ]);
    let on_the_pod = BTreeMap::from([(DO_NOT_DISRUPT_ANNOTATION.to_owned(), "true".to_owned())]);
    let spec = SandboxClaimSpec {
        warm_pool_ref: WarmPoolRef {
            name: claim.pool.to_string(),
        },
        additional_pod_metadata: PodMetadata {
            annotations: on_the_pod,
        },
    };
    let mut object = SandboxClaim::new(claim.name.as_str(), spec);
    object.metadata.annotations = Some(annotations);
    object
}

fn view(claim: SandboxClaim) -> Result<ClaimView, Trouble> {
    let odd = |why: &dyn std::fmt::Display| Trouble::Refused {
        service: SERVICE,
        why: format!("it answered with a claim that cannot be read: {why}"),
    };
    let meta = claim.metadata;
    let status = claim.status.unwrap_or_default();
    // The Kubernetes types use an earlier version of the time library.
    let created_at = meta.creation_timestamp.map(|time| time.0.as_second());
    let created_at = created_at.and_then(|second| Timestamp::from_second(second).ok());
    let ready = status
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready");
    let event = meta
        .annotations
        .unwrap_or_default()
        .remove(EVENT_ANNOTATION);
    let sandbox = Some(status.sandbox.name).filter(|name| !name.is_empty());
    Ok(ClaimView {
        name: ClaimName::parse(meta.name.unwrap_or_default()).map_err(|error| odd(&error))?,
        uid: ClaimUid::parse(meta.uid.unwrap_or_default()).map_err(|error| odd(&error))?,
        resource_version: meta.resource_version.unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        created_at: created_at.ok_or_else(|| odd(&"it has no creation time"))?,
        terminating: meta.deletion_timestamp.is_some(),
        // A claim that somebody else has annotated is nobody's that we know.
        event: event.and_then(|event| EventId::parse(event).ok()),
        ready: ready.map(|condition| Condition {
            is_true: condition.status == "True",
            reason: condition.reason,
            message: condition.message,
            observed_generation: condition.observed_generation,
        }),
        sandbox: sandbox
            .map(SandboxName::parse)
            .transpose()
            .map_err(|error| odd(&error))?,
        pod_ips: status
            .sandbox
            .pod_ips
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use carapace_core::{PoolName, UserKey};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_as_it_is_applied() {
        let user = UserKey::derive("pool", "sub");
        let wanted = WantedClaim {
            name: ClaimName::of(&user),
            user,
            event: EventId::parse("req-1").unwrap(),
            pool: PoolName::parse("agents").unwrap(),
        };
        insta::assert_json_snapshot!(object(&wanted));
    }

    fn answered(changes: &serde_json::Value) -> Result<ClaimView, Trouble> {
        let mut claim = json!({
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxClaim",
            "metadata": {
                "name": "agent-abcdefghijklmnopqrst",
                "namespace": "agents",
                "uid": "4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f",
                "resourceVersion": "41",
                "generation": 1,
                "creationTimestamp": "2026-11-24T10:00:00Z",
                "annotations": {"carapace.dev/event-id": "req-1", "agents.x-k8s.io/sandbox-name": "agents-x7k2p"}
            },
            "spec": {"warmPoolRef": {"name": "agents"}, "aFieldOfTomorrow": true},
            "status": {
                "conditions": [
                    {"type": "Finished", "status": "False", "reason": "Running", "message": "", "lastTransitionTime": "2026-11-24T10:00:00Z"},
                    {"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready", "lastTransitionTime": "2026-11-24T10:00:01Z", "observedGeneration": 3}
                ],
                "sandbox": {"name": "agents-x7k2p", "podIPs": ["not an address", "10.244.0.7", "fd00::7"]}
            }
        });
        for (field, value) in changes.as_object().unwrap() {
            claim[field] = value.clone();
        }
        view(serde_json::from_value(claim).unwrap())
    }

    #[test]
    fn a_claim_as_it_is_read() {
        insta::assert_debug_snapshot!(answered(&json!({})).unwrap());
        assert_eq!(answered(&json!({"status": null})).unwrap().ready, None);
    }

    #[test]
    fn a_claim_that_is_none_of_ours_is_refused() {
        let refused = answered(&json!({"metadata": {"name": "somebody-elses"}})).unwrap_err();
        assert!(matches!(refused, Trouble::Refused { .. }), "{refused}");
    }
}

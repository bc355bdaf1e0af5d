//! What a `SandboxClaim` says about its sandbox.
//!
//! The claim's `Ready` condition is written by two hands. Some reasons are the claim controller's
//! own; others are forwarded from the `Sandbox`, together with *that* object's observed
//! generation. Reading them needs the following care (agent-sandbox 0.5.6,
//! `computeReadyCondition`):
//!
//! - The sandbox's name is only known from the status: a warm one never has its claim's name.
//! - `Ready` alone isn't enough: name and address are cleared while the pod is absent, and a claim
//!   that is being deleted stays `Ready` for a while.
//! - A reason to give up counts only if it was found for the present generation of the claim, and
//!   that can be told only where the claim controller set it.
//! - `WarmPoolNotFound` and `TemplateNotFound` are also said by a controller that has not heard of
//!   a new pool yet, so they count only after a moment.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use crate::{ClaimName, ClaimUid, EventId, PoolName, SandboxName, UserKey, later};

/// Annotation of a claim: the user whose claim it is.
pub const USER_KEY_ANNOTATION: &str = "carapace.dev/user-key";
/// Annotation of a claim: the event that owns it. It fences deletion: an attempt that was given up
/// can't delete the claim of the attempt that took its place.
pub const EVENT_ANNOTATION: &str = "carapace.dev/event-id";
/// Annotation that the claim hands to its pod: Karpenter leaves a node alone while somebody's agent
/// runs on it, and only then, since warm pods don't carry it.
pub const DO_NOT_DISRUPT_ANNOTATION: &str = "karpenter.sh/do-not-disrupt";

/// How old a claim has to be before a missing pool counts as missing. It covers the time that a
/// pool, created a moment ago, takes to reach the controller.
pub const POOL_GRACE: SignedDuration = SignedDuration::from_secs(5);

/// A claim to be made, or to be made sure of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedClaim {
    /// Its name.
    pub name: ClaimName,
    /// Whose it is.
    pub user: UserKey,
    /// The event that owns it.
    pub event: EventId,
    /// The pool it is served from.
    pub pool: PoolName,
}

/// A claim as the API server holds it, reduced to what is read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimView {
    /// Its name.
    pub name: ClaimName,
    /// Its identity.
    pub uid: ClaimUid,
    /// The version of the object; it changes with every write.
    pub resource_version: String,
    /// Counts the changes of the spec.
    pub generation: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// The event that owns it, from [`EVENT_ANNOTATION`].
    pub event: Option<EventId>,
    /// The `Ready` condition.
    pub ready: Option<Condition>,
    /// `status.sandbox.name`.
    pub sandbox: Option<SandboxName>,
    /// `status.sandbox.podIPs`, those that are addresses.
    pub pod_ips: Vec<IpAddr>,
}

/// A condition of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether its status is `True`; `False` and `Unknown` are both not.
    pub is_true: bool,
    /// A word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The generation it was found for: the claim's, or the sandbox's where it was forwarded.
    pub observed_generation: Option<i64>,
}

/// What a claim's status comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// The sandbox is there and answers at this address.
    Ready {
        /// The sandbox.
        sandbox: SandboxName,
        /// Its pod's address.
        address: IpAddr,
    },
    /// It isn't yet.
    Wait {
        /// What it waits for, for whoever reads the error if it waits too long.
        reason: String,
        /// When the same status would come to something else, if only time has to pass.
        look_again: Option<Timestamp>,
    },
    /// It won't be, whatever one waits for.
    GiveUp {
        /// Whether it is the pool that is missing.
        no_pool: bool,
        /// The condition's reason and message.
        reason: String,
    },
}

/// Reads the claim's status.
pub fn read(claim: &ClaimView, now: Timestamp) -> Reading {
    if claim.terminating {
        return wait("the claim of an earlier attempt is still being deleted");
    }
    let Some(ready) = &claim.ready else {
        return wait("the controller has not looked at the claim yet");
    };
    if ready.is_true {
        return match (&claim.sandbox, claim.pod_ips.first()) {
            (Some(sandbox), Some(address)) => Reading::Ready {
                sandbox: sandbox.clone(),
                address: *address,
            },
            (None, _) => wait("the claim is ready but does not name its sandbox yet"),
            (_, None) => wait("the sandbox is ready but its pod has no address yet"),
        };
    }
    let reason = if ready.message.is_empty() {
        ready.reason.clone()
    } else {
        format!("{}: {}", ready.reason, ready.message)
    };
    let stale = ready
        .observed_generation
        .is_some_and(|seen| seen < claim.generation);
    match ready.reason.as_str() {
        "WarmPoolNotFound" | "TemplateNotFound" => {
            let counts_from = later(claim.created_at, POOL_GRACE);
            if now >= counts_from && !stale {
                Reading::GiveUp {
                    no_pool: true,
                    reason,
                }
            } else {
                Reading::Wait {
                    reason,
                    look_again: Some(counts_from),
                }
            }
        }
        // The claim controller's own verdicts on the claim's spec.
        "InvalidMetadata"
        | "EnvVarsInjectionRejected"
        | "VolumeClaimTemplatesError"
        | "ClaimExpired"
            if !stale =>
        {
            Reading::GiveUp {
                no_pool: false,
                reason,
            }
        }
        // Forwarded from the sandbox. A pod that has ended never starts again by itself.
        "PodFailed" | "PodSucceeded" | "SandboxExpired" => Reading::GiveUp {
            no_pool: false,
            reason,
        },
        _ => Reading::Wait {
            reason,
            look_again: None,
        },
    }
}

fn wait(reason: &str) -> Reading {
    Reading::Wait {
        reason: reason.to_owned(),
        look_again: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn claim() -> ClaimView {
        ClaimView {
            name: ClaimName::of(&UserKey::derive("pool", "sub")),
            uid: ClaimUid::parse("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f").unwrap(),
            resource_version: "7".into(),
            generation: 2,
            created_at: at(100),
            terminating: false,
            event: None,
            ready: None,
            sandbox: None,
            pod_ips: Vec::new(),
        }
    }

    fn ready() -> ClaimView {
        ClaimView {
            ready: Some(Condition {
                is_true: true,
                reason: "DependenciesReady".into(),
                message: String::new(),
                observed_generation: Some(1),
            }),
            sandbox: Some(SandboxName::parse("agents-x7k2p").unwrap()),
            pod_ips: vec!["10.244.0.7".parse().unwrap()],
            ..claim()
        }
    }

    fn not_ready(reason: &str, observed_generation: Option<i64>) -> ClaimView {
        let condition = Condition {
            is_true: false,
            reason: reason.into(),
            message: "as it is".into(),
            observed_generation,
        };
        ClaimView {
            ready: Some(condition),
            ..claim()
        }
    }

    fn waits(claim: &ClaimView, now: Timestamp) -> bool {
        matches!(read(claim, now), Reading::Wait { .. })
    }

    #[test]
    fn a_ready_claim_names_its_sandbox_and_where_it_answers() {
        let Reading::Ready { sandbox, address } = read(&ready(), at(101)) else {
            panic!("{:?}", read(&ready(), at(101)));
        };
        assert_eq!(
            (sandbox.as_str(), address.to_string()),
            ("agents-x7k2p", "10.244.0.7".into())
        );
    }

    /// `Ready` is forwarded with the sandbox's generation, which says nothing about the claim's.
    #[test]
    fn readiness_counts_whatever_generation_it_was_found_for() {
        let mut claim = ready();
        claim.generation = 9;
        assert!(matches!(read(&claim, at(101)), Reading::Ready { .. }));
    }

    #[test]
    fn a_ready_claim_without_sandbox_without_address_or_on_its_way_out_has_to_wait() {
        assert!(waits(
            &ClaimView {
                sandbox: None,
                ..ready()
            },
            at(999)
        ));
        assert!(waits(
            &ClaimView {
                pod_ips: Vec::new(),
                ..ready()
            },
            at(999)
        ));
        assert!(waits(
            &ClaimView {
                terminating: true,
                ..ready()
            },
            at(999)
        ));
        assert!(waits(&claim(), at(999)));
    }

    #[test]
    fn what_may_pass_is_waited_for() {
        for reason in [
            "AdoptionConflict",
            "SandboxCreatePending",
            "SandboxMissing",
            "SandboxNotReady",
            "DependenciesNotReady",
            "ReconcilerError",
            "SandboxSuspended",
            "MultiplePods",
            "ANewReason",
        ] {
            assert!(waits(&not_ready(reason, Some(2)), at(999)), "{reason}");
        }
    }

    #[test]
    fn what_never_passes_is_given_up() {
        for reason in [
            "InvalidMetadata",
            "EnvVarsInjectionRejected",
            "VolumeClaimTemplatesError",
            "ClaimExpired",
            "PodFailed",
            "PodSucceeded",
            "SandboxExpired",
        ] {
            let given_up = Reading::GiveUp {
                no_pool: false,
                reason: format!("{reason}: as it is"),
            };
            assert_eq!(read(&not_ready(reason, Some(2)), at(101)), given_up);
            assert_eq!(read(&not_ready(reason, None), at(101)), given_up);
        }
    }

    #[test]
    fn a_verdict_on_an_earlier_spec_does_not_count() {
        assert!(waits(&not_ready("InvalidMetadata", Some(1)), at(999)));
        assert!(waits(&not_ready("WarmPoolNotFound", Some(1)), at(999)));
        // This one comes from the sandbox, whose generation is another count.
        assert!(!waits(&not_ready("PodFailed", Some(1)), at(999)));
    }

    #[test]
    fn a_pool_is_missing_only_after_the_controller_had_time_to_hear_of_it() {
        for reason in ["WarmPoolNotFound", "TemplateNotFound"] {
            let claim = not_ready(reason, Some(2));
            let reason = format!("{reason}: as it is");
            let again = Some(at(105));
            assert_eq!(
                read(&claim, at(104)),
                Reading::Wait {
                    reason: reason.clone(),
                    look_again: again
                }
            );
            assert_eq!(
                read(&claim, at(105)),
                Reading::GiveUp {
                    no_pool: true,
                    reason
                }
            );
        }
    }
}

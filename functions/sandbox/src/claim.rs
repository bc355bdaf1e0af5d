//! `sandbox-claim`, action `claim`: make sure of the user's claim and wait for its sandbox.

use std::{net::IpAddr, time::Duration};

use carapace_control_plane::{from_trouble, log, named, settle::settle};
use carapace_core::{
    ClaimName, EventId, PoolName, SandboxName, UserKey,
    agent::{Assign, Assigned, Held, HoldAct, Request, RequestAct},
    claim::{ClaimView, Reading, WantedClaim, read},
    event::{EventRejected, SandboxRequested},
    ports::{ClaimChange, ClaimTrouble, Claims, Clock, Deleted, Ledger},
};
use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::Instrument;

use crate::{
    fault::{self, CLAIM_APPLY, CLAIM_BOUND_RECORD, CLAIM_RECORD, Moment},
    wire::{self, ClaimPayload, Claimed},
};

/// How long one invocation waits for a sandbox before it lets the state machine call again. Waiting
/// costs less here than transitions cost there, but a function must not run into its own timeout.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often an invocation looks whether another event's attempt has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The step.
pub struct ClaimSandbox<L, C, K> {
    /// The table.
    pub ledger: L,
    /// The claims.
    pub claims: C,
    /// The clock.
    pub clock: K,
    /// The pool of a request that names none.
    pub default_pool: PoolName,
}

/// Why there is no sandbox.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The event can't be read. Nothing was created.
    #[error(transparent)]
    EventRejected(#[from] EventRejected),
    /// The event came to its end some time ago: this is a late copy.
    #[error("the event {event} was answered before; a copy of it changes nothing")]
    AlreadyAnswered {
        /// The event.
        event: EventId,
    },
    /// The event has come to its end, but whoever recorded that may have died before saying so.
    #[error("the outcome of the event {event} is recorded but may not have been announced")]
    AnnouncementPending {
        /// The event.
        event: EventId,
    },
    /// There is time left: call again.
    #[error("no sandbox yet: {reason}")]
    NotReadyYet {
        /// What it waits for.
        reason: String,
    },
    /// There is no time left.
    #[error("no sandbox by {deadline}, the end of the time the request allows: {reason}")]
    ReadyDeadlineExceeded {
        /// When it would have had to be ready.
        deadline: Timestamp,
        /// What it was waiting for.
        reason: String,
    },
    /// The pool, or its template, does not exist.
    #[error("the pool {pool} cannot serve a claim: {reason}")]
    PoolNotFound {
        /// The pool.
        pool: PoolName,
        /// What the controller says.
        reason: String,
    },
    /// The API server or the controller does not accept the claim.
    #[error("the claim was rejected: {0}")]
    ClaimRejected(String),
    /// Another attempt has taken the claim over.
    #[error("the claim {claim} belongs to another attempt by now")]
    ClaimLost {
        /// The claim.
        claim: ClaimName,
    },
    /// The agent's user was deleted or disabled.
    #[error("the agent is retired: its user {user} was removed, and has not signed in since")]
    AgentRetired {
        /// The user.
        user: UserKey,
    },
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(ClaimError:
    EventRejected, AlreadyAnswered, AnnouncementPending, NotReadyYet, ReadyDeadlineExceeded,
    PoolNotFound, ClaimRejected, ClaimLost, AgentRetired, Unavailable, Refused,
);

from_trouble!(ClaimError);

impl<L: Ledger, C: Claims, K: Clock> ClaimSandbox<L, C, K> {
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        match wire::read(payload)? {
            ClaimPayload::Claim { event, started_at } => {
                let step = async { wire::write(&self.claim(&event, started_at).await?) };
                step.instrument(log::step("claim")).await
            }
            ClaimPayload::Release { event } => {
                let step = async { wire::write(&self.release(&event).await?) };
                step.instrument(log::step("release")).await
            }
        }
    }

    /// The user's sandbox, when it is ready.
    pub async fn claim(&self, event: &Value, started_at: Timestamp) -> Result<Claimed, ClaimError> {
        let requested = SandboxRequested::from_event(event)?;
        log::about(
            &requested.user_key,
            &requested.id,
            requested.correlation_id.as_ref(),
        );
        let deadline = requested.deadline(started_at);
        let soon = self
            .clock
            .now()
            .checked_add(PATIENCE)
            .unwrap_or(Timestamp::MAX);
        let attempt = Attempt {
            step: self,
            requested,
            deadline,
            until: soon.min(deadline),
        };
        attempt.run().await
    }
}

/// One invocation's part of an attempt.
struct Attempt<'a, L, C, K> {
    step: &'a ClaimSandbox<L, C, K>,
    requested: SandboxRequested,
    /// When the request counts as failed.
    deadline: Timestamp,
    /// When this invocation gives up.
    until: Timestamp,
}

/// What a claim has come to.
enum Seen {
    /// Its sandbox answers.
    Ready(ClaimView, SandboxName, IpAddr),
    /// It was deleted.
    Gone,
    /// It will never have a sandbox that answers, and why.
    Hopeless(ClaimView, String),
}

/// That the agent does not have the sandbox any more that its record names.
struct Lost {
    /// What the record says.
    assigned: Assigned,
    /// The pool of the claim, if that is still there and is to be kept.
    pool: Option<PoolName>,
}

impl<L: Ledger, C: Claims, K: Clock> Attempt<'_, L, C, K> {
    async fn run(&self) -> Result<Claimed, ClaimError> {
        let event = &self.requested.id;
        let default_pool = || self.step.default_pool.clone();
        let pool_asked = self.requested.pool.clone().unwrap_or_else(default_pool);
        let mut lost: Option<Lost> = None;
        loop {
            let (gone, pool) = match lost.take() {
                Some(Lost { assigned, pool }) => {
                    (Some(assigned), pool.unwrap_or_else(|| pool_asked.clone()))
                }
                None => (None, pool_asked.clone()),
            };
            let request = Request {
                event: event.clone(),
                pool,
                deadline: self.deadline,
                gone,
            };
            let step = self.step;
            let user = &self.requested.user_key;
            match settle(
                &step.ledger,
                &step.clock,
                user,
                &request,
                fault::at(user, CLAIM_RECORD),
            )
            .await?
            {
                RequestAct::Answered => {
                    return Err(ClaimError::AlreadyAnswered {
                        event: event.clone(),
                    });
                }
                RequestAct::Unannounced => {
                    return Err(ClaimError::AnnouncementPending {
                        event: event.clone(),
                    });
                }
                RequestAct::Retired => {
                    return Err(ClaimError::AgentRetired { user: user.clone() });
                }
                RequestAct::Wait { owner } => {
                    let reason = format!("the event {owner} is at work for the same user");
                    let left = self.time_left(&reason)?;
                    self.step.clock.sleep(LOOK_AGAIN.min(left)).await;
                }
                RequestAct::Claim { pool } => {
                    if let Some(claimed) = self.make_claim(&pool).await? {
                        return Ok(claimed);
                    }
                    self.time_left("the claim vanished while it was waited for")?;
                }
                RequestAct::Use(held) => match self.use_claim(&held).await? {
                    Ok(claimed) => return Ok(claimed),
                    Err(why) => {
                        tracing::warn!(
                            claim_uid = %held.assigned.uid, sandbox = %held.assigned.sandbox,
                            "the agent's sandbox is gone"
                        );
                        self.time_left("the agent's sandbox is gone and it is to get another")?;
                        lost = Some(why);
                    }
                },
            }
        }
    }

    /// Sees this event's own claim through. `None`: it was deleted in the meantime.
    async fn make_claim(&self, pool: &PoolName) -> Result<Option<Claimed>, ClaimError> {
        let user = &self.requested.user_key;
        let name = ClaimName::of(user);
        let wanted = WantedClaim {
            name: name.clone(),
            user: user.clone(),
            event: self.requested.id.clone(),
            pool: pool.clone(),
        };
        // The attempt is this event's until some time after the deadline, so whoever comes in time
        // writes its own claim. Whoever was frozen since it looked might write another event's.
        self.time_left("the claim is not made yet")?;
        fault::point(user, CLAIM_APPLY, Moment::Before);
        let claim = self
            .step
            .claims
            .apply(&wanted)
            .await
            .map_err(|trouble| match trouble {
                ClaimTrouble::Rejected(why) => ClaimError::ClaimRejected(why),
                ClaimTrouble::Trouble(trouble) => trouble.into(),
            })?;
        fault::point(user, CLAIM_APPLY, Moment::After);
        tracing::info!(claim = %name, claim_uid = %claim.uid, %pool, "the claim is made");
        let Some((claim, sandbox, address)) = self.wait_until_ready(claim, pool).await? else {
            return Ok(None);
        };
        let assigned = Assigned {
            uid: claim.uid,
            sandbox,
        };
        let assign = Assign {
            event: self.requested.id.clone(),
            assigned: assigned.clone(),
        };
        let step = self.step;
        match settle(
            &step.ledger,
            &step.clock,
            user,
            &assign,
            fault::at(user, CLAIM_BOUND_RECORD),
        )
        .await?
        {
            HoldAct::Proceed => Ok(Some(self.claimed(assigned, address, pool))),
            HoldAct::Lost => Err(ClaimError::ClaimLost { claim: name }),
        }
    }

    /// Makes use of the claim that the agent has, or finds out that the agent has lost its sandbox.
    async fn use_claim(&self, held: &Held) -> Result<Result<Claimed, Lost>, ClaimError> {
        let name = ClaimName::of(&self.requested.user_key);
        let gone = || Lost {
            assigned: held.assigned.clone(),
            pool: None,
        };
        loop {
            let claim = self.step.claims.find(&name).await?;
            let same = |claim: &ClaimView| claim.uid == held.assigned.uid && !claim.terminating;
            let Some(claim) = claim.filter(same) else {
                return Ok(Err(gone()));
            };
            match self.see_through(claim, &held.pool).await? {
                Seen::Ready(claim, sandbox, address) if claim.uid == held.assigned.uid => {
                    if sandbox == held.assigned.sandbox {
                        let assigned = held.assigned.clone();
                        return Ok(Ok(self.claimed(assigned, address, &held.pool)));
                    }
                    // The claim has got another sandbox, one that has no user yet. The attempt that
                    // records and binds it keeps the claim, and with it the pool in its spec.
                    return Ok(Err(Lost {
                        pool: Some(held.pool.clone()),
                        ..gone()
                    }));
                }
                Seen::Hopeless(claim, reason) if claim.uid == held.assigned.uid => {
                    tracing::warn!(
                        claim_uid = %claim.uid, reason, "the agent's sandbox will not come back"
                    );
                    match self.step.delete(&self.requested.user_key, &claim).await? {
                        Deleted::Yes => return Ok(Err(gone())),
                        // It may have recovered, or be another one.
                        Deleted::Changed => {
                            let left = self.time_left(&reason)?;
                            self.step.clock.sleep(LOOK_AGAIN.min(left)).await;
                        }
                    }
                }
                Seen::Ready(..) | Seen::Gone | Seen::Hopeless(..) => return Ok(Err(gone())),
            }
        }
    }

    /// As [`Self::see_through`], for a claim that is this event's: that it is hopeless is how the
    /// attempt ends.
    async fn wait_until_ready(
        &self,
        claim: ClaimView,
        pool: &PoolName,
    ) -> Result<Option<(ClaimView, SandboxName, IpAddr)>, ClaimError> {
        match self.see_through(claim, pool).await? {
            Seen::Ready(claim, sandbox, address) => Ok(Some((claim, sandbox, address))),
            Seen::Gone => Ok(None),
            Seen::Hopeless(_, reason) => Err(ClaimError::ClaimRejected(reason)),
        }
    }

    /// Watches a claim until it comes to something. A pool that is missing is an error whosever the
    /// claim is: it says nothing about the sandbox, and another claim would fare no better.
    async fn see_through(&self, mut claim: ClaimView, pool: &PoolName) -> Result<Seen, ClaimError> {
        loop {
            let now = self.step.clock.now();
            let (reason, look_again) = match read(&claim, now) {
                Reading::Ready { sandbox, address } => {
                    return Ok(Seen::Ready(claim, sandbox, address));
                }
                Reading::GiveUp {
                    no_pool: true,
                    reason,
                } => {
                    return Err(ClaimError::PoolNotFound {
                        pool: pool.clone(),
                        reason,
                    });
                }
                Reading::GiveUp {
                    no_pool: false,
                    reason,
                } => return Ok(Seen::Hopeless(claim, reason)),
                Reading::Wait { reason, look_again } => (reason, look_again),
            };
            let left = self.time_left(&reason)?;
            let sooner = look_again.map_or(left, |at| left.min(between(now, at)));
            match self.step.claims.next(&claim, sooner).await? {
                ClaimChange::Changed(changed) => claim = *changed,
                ClaimChange::Gone => return Ok(Seen::Gone),
                ClaimChange::Same => {}
            }
        }
    }

    /// How long this invocation may still wait; an error if it may not.
    fn time_left(&self, reason: &str) -> Result<Duration, ClaimError> {
        let now = self.step.clock.now();
        let reason = || reason.to_owned();
        if now >= self.deadline {
            return Err(ClaimError::ReadyDeadlineExceeded {
                deadline: self.deadline,
                reason: reason(),
            });
        }
        if now >= self.until {
            return Err(ClaimError::NotReadyYet { reason: reason() });
        }
        Ok(between(now, self.until))
    }

    fn claimed(&self, assigned: Assigned, address: IpAddr, pool: &PoolName) -> Claimed {
        tracing::info!(sandbox = %assigned.sandbox, %address, "the sandbox is ready");
        Claimed {
            event_id: self.requested.id.clone(),
            correlation_id: self.requested.correlation_id.clone(),
            user_key: self.requested.user_key.clone(),
            claim: ClaimName::of(&self.requested.user_key),
            claim_uid: assigned.uid,
            sandbox: assigned.sandbox,
            address,
            pool: pool.clone(),
        }
    }
}

/// The time from `now` to `then`; none if it has passed.
fn between(now: Timestamp, then: Timestamp) -> Duration {
    then.duration_since(now).try_into().unwrap_or_default()
}

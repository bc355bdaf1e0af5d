//! An agent's record, and the one function that decides how it changes.
//!
//! Many invocations of many functions may be at work for one agent at once: the same event
//! delivered twice, two different requests, a retry of a step whose first try is still running or
//! died half-way. None of them talks to another. They all do the same: load what is [`Known`], let
//! [`decide`] say what it means, save the [`Change`] on condition that nobody saved anything since,
//! and only then [act](Decision::act). Whoever loses that race loads again and finds out what the
//! winner did. So there are no locks, and a step may be repeated at any time.
//!
//! ```text
//!            Request              Assign, Announce ready
//!  Absent ───────────▶ Claiming ─────────────────────────▶ Ready
//!  Failed ──────────▶     │ ▲                                │
//!    ▲                    │ └── Request: the sandbox is gone ┘
//!    │  Announce failed   ▼ Release
//!    └──────────────── Releasing
//!
//!                 Retire              Announce retired            Onboard
//!  any of these ──────────▶ Retiring ──────────────────▶ Retired ─────────▶ Absent
//! ```
//!
//! An attempt has one owner, the event that started it; the others wait for its end and make use
//! of it. An owner that dies leaves a hold that passes by itself ([`HOLD_GRACE`]), after which
//! another request takes over. Every event ends in one [`Outcome`], which is recorded together with
//! the change of state that it reports. Its announcement is part of the record: it may be put on
//! the bus by whoever holds its lease, and looks the same whoever does.

mod tenure;

use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

pub use self::tenure::{Onboard, OnboardAct, Retire, RetireAct, StillRetiring};
use crate::{
    ClaimName, ClaimUid, CorrelationId, EventId, PoolName, Reason, SandboxName, UserKey,
    allowance::Allowance,
    event::{self, Message, SandboxFailed, SandboxReady, SandboxRetired},
    history::{self, Fact, Head},
    later,
};

/// How long after its deadline an attempt still belongs to the event that started it. It covers
/// binding, releasing and announcing with a few retries each, not with all that the state machine
/// allows: an owner that needs longer may find that another event has taken over. Every step asks
/// the record first and its claim's version last, so it loses the attempt then and breaks nothing.
pub const HOLD_GRACE: SignedDuration = SignedDuration::from_mins(5);

/// How long one invocation may take to put an announcement on the bus before another does. It has
/// to be longer than an invocation of `sandbox-announce` can run.
pub const ANNOUNCEMENT_LEASE: SignedDuration = SignedDuration::from_secs(10);

/// How often a record has been written: 0 is one that doesn't exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version(pub u64);

/// What the table holds about an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    /// Whose agent it is.
    pub user: UserKey,
    /// The version that was read; a write is conditional on it.
    pub version: Version,
    /// What the agent is doing.
    pub state: AgentState,
    /// What its user may spend; nothing is settled before they have signed in.
    pub allowance: Option<Allowance>,
    /// When it was last written; the beginning of time if never.
    pub updated_at: Timestamp,
    /// The end of the agent's history.
    pub head: Option<Head>,
}

impl AgentRecord {
    /// The record of an agent that nobody has asked for yet.
    pub fn absent(user: UserKey) -> Self {
        Self {
            user,
            version: Version::default(),
            state: AgentState::Absent,
            allowance: None,
            updated_at: Timestamp::UNIX_EPOCH,
            head: None,
        }
    }
}

/// What an agent is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentState {
    /// It has no sandbox, and none is on its way.
    Absent,
    /// An event's attempt to get it a sandbox is under way.
    Claiming(Attempt),
    /// It has a sandbox, which was bound to its user.
    Ready(Held),
    /// An attempt has failed and its claim is being deleted.
    Releasing(Attempt),
    /// The last attempt failed. The next request starts another.
    Failed {
        /// The event whose attempt it was.
        event: EventId,
        /// What went wrong.
        reason: Reason,
    },
    /// Its user is one no more, and what they had is being taken away.
    Retiring(Retirement),
    /// Its user is one no more, and has nothing any more.
    Retired(Retirement),
}

impl AgentState {
    /// The name of the state, as the table's index lists agents.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Absent => "Absent",
            Self::Claiming(_) => "Claiming",
            Self::Ready(_) => "Ready",
            Self::Releasing(_) => "Releasing",
            Self::Failed { .. } => "Failed",
            Self::Retiring(_) => "Retiring",
            Self::Retired(_) => "Retired",
        }
    }

    /// Whether its user is one no more: nothing is begun for them.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Retiring(_) | Self::Retired(_))
    }
}

/// Why an agent's user is one no more, and by which event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    /// The event.
    pub event: EventId,
    /// Why.
    pub reason: Reason,
}

/// An attempt to get a sandbox, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The event that started it, and alone may carry it on or call it off.
    pub event: EventId,
    /// The pool that the sandbox is to come from.
    pub pool: PoolName,
    /// When another event may take over.
    pub until: Timestamp,
    /// What the claim got, once that is known.
    pub assigned: Option<Assigned>,
}

/// The sandbox that a claim got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The claim's identity.
    pub uid: ClaimUid,
    /// The sandbox.
    pub sandbox: SandboxName,
}

/// The sandbox that an agent has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The event whose attempt got it.
    pub event: EventId,
    /// The pool it came from.
    pub pool: PoolName,
    /// The claim and the sandbox.
    pub assigned: Assigned,
}

/// The one end of an event, and how far it has been announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The event that it answers.
    pub event: EventId,
    /// Whose agent it was about.
    pub user: UserKey,
    /// What is put on the bus.
    pub announcement: Announcement,
    /// Whether it has been.
    pub publication: Publication,
}

/// The event that reports an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// The agent is ready.
    Ready(SandboxReady),
    /// It is not.
    Failed(SandboxFailed),
    /// Its user is one no more.
    Retired(SandboxRetired),
}

impl Announcement {
    /// `detail-type` of the event.
    pub fn detail_type(&self) -> &'static str {
        match self {
            Self::Ready(_) => SandboxReady::DETAIL_TYPE,
            Self::Failed(_) => SandboxFailed::DETAIL_TYPE,
            Self::Retired(_) => SandboxRetired::DETAIL_TYPE,
        }
    }

    /// The event's id.
    pub fn id(&self) -> &EventId {
        match self {
            Self::Ready(ready) => &ready.id,
            Self::Failed(failed) => &failed.id,
            Self::Retired(retired) => &retired.id,
        }
    }

    /// When the outcome was recorded.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Ready(ready) => ready.at,
            Self::Failed(failed) => failed.at,
            Self::Retired(retired) => retired.at,
        }
    }
}

/// `detail` of the event.
impl Serialize for Announcement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ready(ready) => ready.serialize(serializer),
            Self::Failed(failed) => failed.serialize(serializer),
            Self::Retired(retired) => retired.serialize(serializer),
        }
    }
}

/// How far an announcement has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    /// How many invocations have set out to put it on the bus. It tells their leases apart.
    pub attempt: NonZeroU32,
    /// When the next may set out. `None`: it is on the bus.
    pub pending_until: Option<Timestamp>,
}

/// Everything that a decision about one event and one agent rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The agent.
    pub agent: AgentRecord,
    /// The end of the event, if it has come to one.
    pub outcome: Option<Outcome>,
}

/// What to save and what to do then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<A> {
    /// To be saved first, as a whole, on condition that nothing of it was saved since it was read.
    /// If somebody was faster, the decision is void: load and decide again.
    pub change: Option<Change>,
    /// What to do, once the change is saved.
    pub act: A,
}

/// A change of what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The agent's new record and the entry in its history that says why.
    pub agent: Option<AgentChange>,
    /// The event's end.
    pub outcome: Option<OutcomeChange>,
}

/// A new version of an agent's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentChange {
    /// The version that it takes the place of.
    pub read: Version,
    /// The new record.
    pub record: AgentRecord,
    /// The entry that the record's head points at.
    pub entry: history::Entry,
}

/// A new version of an event's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeChange {
    /// The publication that it takes the place of; `None` if there was no outcome.
    pub read: Option<Publication>,
    /// The new outcome.
    pub outcome: Outcome,
}

/// Something that happens to an agent on behalf of an event.
pub trait Input {
    /// What there is to do about it.
    type Act;

    /// The event.
    fn event(&self) -> &EventId;

    /// What it means in the present state.
    fn next(&self, known: &Known, now: Timestamp) -> Next<Self::Act>;
}

/// The part of a decision that depends on the input; [`decide`] makes the rest of it.
#[derive(Debug)]
pub struct Next<A> {
    state: Option<(AgentState, Fact)>,
    /// `None`: as before.
    allowance: Option<Allowance>,
    outcome: Option<Outcome>,
    act: A,
}

impl<A> Next<A> {
    fn act(act: A) -> Self {
        Self {
            state: None,
            allowance: None,
            outcome: None,
            act,
        }
    }

    fn becomes(mut self, state: AgentState, fact: Fact) -> Self {
        self.state = Some((state, fact));
        self
    }

    /// Together with [`Self::becomes`] only: what is written has an entry in the history.
    fn allowed(mut self, allowance: Allowance) -> Self {
        self.allowance = Some(allowance);
        self
    }

    fn with(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }
}

/// Decides what `input` means for the agent. Everything that ever changes a record or an outcome
/// comes from here.
pub fn decide<I: Input>(known: &Known, input: &I, now: Timestamp) -> Decision<I::Act> {
    let Next {
        state,
        allowance,
        outcome,
        act,
    } = input.next(known, now);
    let agent = state.map(|(state, fact)| {
        let before = &known.agent;
        let entry = history::append(&before.user, before.head, &fact, now);
        let record = AgentRecord {
            user: before.user.clone(),
            version: Version(before.version.0 + 1),
            // Should they come back, they begin anew.
            allowance: if state.is_over() {
                None
            } else {
                allowance.or(before.allowance)
            },
            state,
            updated_at: now,
            head: Some(entry.head()),
        };
        AgentChange {
            read: before.version,
            record,
            entry,
        }
    });
    let outcome = outcome.map(|outcome| OutcomeChange {
        read: known.outcome.as_ref().map(|before| before.publication),
        outcome,
    });
    let change = (agent.is_some() || outcome.is_some()).then_some(Change { agent, outcome });
    Decision { change, act }
}

/// An event asks for the agent to be ready.
#[derive(Debug, Clone)]
pub struct Request {
    /// The event.
    pub event: EventId,
    /// The pool to claim from, if it comes to claiming.
    pub pool: PoolName,
    /// When the attempt counts as failed.
    pub deadline: Timestamp,
    /// What the record says that the agent has, and the claim is gone or has this sandbox no more:
    /// found out on an earlier round.
    pub gone: Option<Assigned>,
}

/// What to do about a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestAct {
    /// The attempt is this event's: make sure of the claim, and see it through.
    Claim {
        /// The pool that the attempt set out for, whatever a later copy of the event says.
        pool: PoolName,
    },
    /// The agent has its sandbox already: make sure that it is still there, and use it.
    Use(Held),
    /// Another event's attempt is under way: look again later.
    Wait {
        /// The other event.
        owner: EventId,
    },
    /// The event has come to its end, and that is announced: there is nothing left to do.
    Answered,
    /// The event has come to its end, but that may not be announced yet.
    Unannounced,
    /// The agent's user is one no more.
    Retired,
}

impl Input for Request {
    type Act = RequestAct;

    fn event(&self) -> &EventId {
        &self.event
    }

    fn next(&self, known: &Known, now: Timestamp) -> Next<RequestAct> {
        if let Some(outcome) = &known.outcome {
            let on_the_bus = outcome.publication.pending_until.is_none();
            return Next::act(if on_the_bus {
                RequestAct::Answered
            } else {
                RequestAct::Unannounced
            });
        }
        match &known.agent.state {
            AgentState::Absent | AgentState::Failed { .. } => self.start(known, None),
            AgentState::Claiming(attempt) if attempt.event == self.event && now < attempt.until => {
                Next::act(RequestAct::Claim {
                    pool: attempt.pool.clone(),
                })
            }
            AgentState::Claiming(attempt) | AgentState::Releasing(attempt)
                if now < attempt.until =>
            {
                Next::act(RequestAct::Wait {
                    owner: attempt.event.clone(),
                })
            }
            AgentState::Claiming(attempt) | AgentState::Releasing(attempt) => {
                self.start(known, Some(attempt.event.clone()))
            }
            AgentState::Ready(held) if self.gone.as_ref() == Some(&held.assigned) => {
                let lost = Fact::SandboxLost {
                    event: self.event.clone(),
                    uid: held.assigned.uid.clone(),
                };
                Next::act(RequestAct::Claim {
                    pool: self.pool.clone(),
                })
                .becomes(AgentState::Claiming(self.attempt()), lost)
            }
            AgentState::Ready(held) => Next::act(RequestAct::Use(held.clone())),
            AgentState::Retiring(_) | AgentState::Retired(_) => Next::act(RequestAct::Retired),
        }
    }
}

impl Request {
    fn start(&self, known: &Known, instead_of: Option<EventId>) -> Next<RequestAct> {
        let fact = Fact::ClaimStarted {
            event: self.event.clone(),
            claim: ClaimName::of(&known.agent.user),
            pool: self.pool.clone(),
            instead_of,
        };
        Next::act(RequestAct::Claim {
            pool: self.pool.clone(),
        })
        .becomes(AgentState::Claiming(self.attempt()), fact)
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            event: self.event.clone(),
            pool: self.pool.clone(),
            until: later(self.deadline, HOLD_GRACE),
            assigned: None,
        }
    }
}

/// The claim of an event's attempt got its sandbox.
#[derive(Debug, Clone)]
pub struct Assign {
    /// The event.
    pub event: EventId,
    /// What the claim got.
    pub assigned: Assigned,
}

/// Whether an event may go on with the claim that it holds in its hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldAct {
    /// It may.
    Proceed,
    /// The claim serves nobody, or another attempt, by now.
    Lost,
}

impl Input for Assign {
    type Act = HoldAct;

    fn event(&self) -> &EventId {
        &self.event
    }

    fn next(&self, known: &Known, _now: Timestamp) -> Next<HoldAct> {
        match &known.agent.state {
            AgentState::Claiming(attempt) if attempt.event == self.event => {
                let proceed = Next::act(HoldAct::Proceed);
                if attempt.assigned.as_ref() == Some(&self.assigned) {
                    return proceed;
                }
                let assigned = Some(self.assigned.clone());
                let fact = Fact::SandboxAssigned {
                    event: self.event.clone(),
                    uid: self.assigned.uid.clone(),
                    sandbox: self.assigned.sandbox.clone(),
                };
                proceed.becomes(
                    AgentState::Claiming(Attempt {
                        assigned,
                        ..attempt.clone()
                    }),
                    fact,
                )
            }
            _ => Next::act(holds(known, &self.event, &self.assigned.uid)),
        }
    }
}

/// The sandbox is about to be bound to the user.
#[derive(Debug, Clone)]
pub struct Bind {
    /// The event.
    pub event: EventId,
    /// The claim that holds the sandbox.
    pub uid: ClaimUid,
}

/// What to do about a [`Bind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindAct {
    /// Bind it. The user may spend so much; `None`: nothing is settled.
    Proceed(Option<Allowance>),
    /// The claim serves nobody, or another attempt, by now.
    Lost,
}

impl Input for Bind {
    type Act = BindAct;

    fn event(&self) -> &EventId {
        &self.event
    }

    fn next(&self, known: &Known, _now: Timestamp) -> Next<BindAct> {
        Next::act(match holds(known, &self.event, &self.uid) {
            HoldAct::Proceed => BindAct::Proceed(known.agent.allowance),
            HoldAct::Lost => BindAct::Lost,
        })
    }
}

/// Whether the agent's sandbox is the one of this claim, and this event may use it.
fn holds(known: &Known, event: &EventId, uid: &ClaimUid) -> HoldAct {
    let held = match &known.agent.state {
        AgentState::Claiming(attempt) if attempt.event == *event => attempt.assigned.as_ref(),
        AgentState::Ready(held) => Some(&held.assigned),
        _ => None,
    };
    if held.is_some_and(|held| held.uid == *uid) {
        HoldAct::Proceed
    } else {
        HoldAct::Lost
    }
}

/// An attempt has failed; its claim must not outlive it.
#[derive(Debug, Clone)]
pub struct Release {
    /// The event whose attempt it is.
    pub event: EventId,
}

/// What to do about a [`Release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseAct {
    /// Delete the claim, if it is still this event's.
    Delete,
    /// There is no claim of this event to delete.
    Nothing,
}

impl Input for Release {
    type Act = ReleaseAct;

    fn event(&self) -> &EventId {
        &self.event
    }

    /// The intent is recorded before the deed: once it is, no twin of the event can announce the
    /// sandbox as ready that is about to go.
    fn next(&self, known: &Known, _now: Timestamp) -> Next<ReleaseAct> {
        match &known.agent.state {
            AgentState::Claiming(attempt) if attempt.event == self.event => {
                Next::act(ReleaseAct::Delete).becomes(
                    AgentState::Releasing(attempt.clone()),
                    Fact::ReleaseStarted {
                        event: self.event.clone(),
                    },
                )
            }
            AgentState::Releasing(attempt) if attempt.event == self.event => {
                Next::act(ReleaseAct::Delete)
            }
            // Nobody has a claim there. If this event made one, it was too late.
            AgentState::Retiring(_) | AgentState::Retired(_) => Next::act(ReleaseAct::Delete),
            _ => Next::act(ReleaseAct::Nothing),
        }
    }
}

/// The end of an event is to be recorded, if it isn't yet, and announced, if it isn't yet.
#[derive(Debug, Clone)]
pub struct Announce {
    /// The event.
    pub event: EventId,
    /// Passed on from the event.
    pub correlation_id: Option<CorrelationId>,
    /// The end that it has come to.
    pub end: End,
}

/// The end of an event.
#[derive(Debug, Clone)]
pub enum End {
    /// The agent is ready, in the sandbox of this claim.
    Ready(Assigned),
    /// It isn't.
    Failed {
        /// What went wrong.
        reason: Reason,
        /// The same for a person.
        message: Message,
    },
    /// The agent's user is one no more, and has nothing any more.
    Retired,
    /// Whatever has been recorded.
    Recorded,
}

/// What to do about an [`Announce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnnounceAct {
    /// Put this on the bus, then report [`Published`] with this attempt.
    Publish {
        /// What to put there.
        announcement: Announcement,
        /// The lease under which it is done.
        attempt: NonZeroU32,
    },
    /// It has been put on the bus.
    Done,
    /// Another invocation is putting it on the bus, or died doing so: look again after this.
    InProgress {
        /// When its lease ends.
        until: Timestamp,
    },
    /// The sandbox isn't this agent's any more, or the agent isn't being retired: there is no such end
    /// to announce.
    Lost,
    /// The attempt still stands, so there is no failure to announce before it is released.
    NotReleased,
}

impl Input for Announce {
    type Act = AnnounceAct;

    fn event(&self) -> &EventId {
        &self.event
    }

    fn next(&self, known: &Known, now: Timestamp) -> Next<AnnounceAct> {
        match &known.outcome {
            Some(outcome) => announce_again(outcome, now),
            None => match &self.end {
                End::Ready(assigned) => self.ready(known, assigned, now),
                End::Failed { reason, message } => self.failed(known, reason, message, now),
                End::Retired => self.retired(known, now),
                End::Recorded => Next::act(AnnounceAct::Lost),
            },
        }
    }
}

/// What was recorded stands, whatever this invocation came to say.
fn announce_again(outcome: &Outcome, now: Timestamp) -> Next<AnnounceAct> {
    match outcome.publication.pending_until {
        None => Next::act(AnnounceAct::Done),
        Some(until) if now < until => Next::act(AnnounceAct::InProgress { until }),
        Some(_) => {
            let attempt = outcome.publication.attempt.saturating_add(1);
            publish(Outcome {
                publication: lease(attempt, now),
                ..outcome.clone()
            })
        }
    }
}

fn publish(outcome: Outcome) -> Next<AnnounceAct> {
    let announcement = outcome.announcement.clone();
    let attempt = outcome.publication.attempt;
    Next::act(AnnounceAct::Publish {
        announcement,
        attempt,
    })
    .with(outcome)
}

fn lease(attempt: NonZeroU32, now: Timestamp) -> Publication {
    Publication {
        attempt,
        pending_until: Some(later(now, ANNOUNCEMENT_LEASE)),
    }
}

impl Announce {
    fn ready(&self, known: &Known, assigned: &Assigned, now: Timestamp) -> Next<AnnounceAct> {
        if holds(known, &self.event, &assigned.uid) == HoldAct::Lost {
            return Next::act(AnnounceAct::Lost);
        }
        let held = match &known.agent.state {
            AgentState::Claiming(Attempt {
                event,
                pool,
                assigned: Some(assigned),
                ..
            }) => Held {
                event: event.clone(),
                pool: pool.clone(),
                assigned: assigned.clone(),
            },
            AgentState::Ready(held) => held.clone(),
            _ => return Next::act(AnnounceAct::Lost),
        };
        let user = &known.agent.user;
        let fact = Fact::AnsweredReady {
            event: self.event.clone(),
            sandbox: held.assigned.sandbox.clone(),
        };
        let announcement = Announcement::Ready(SandboxReady {
            version: event::VERSION,
            id: self.event.answer("ready"),
            at: now,
            user_key: user.clone(),
            correlation_id: self.correlation_id.clone(),
            sandbox: held.assigned.sandbox.clone(),
            claim: ClaimName::of(user),
            pool: held.pool.clone(),
            cause: self.event.clone(),
        });
        publish(self.first(user, announcement, now)).becomes(AgentState::Ready(held), fact)
    }

    fn failed(
        &self,
        known: &Known,
        reason: &Reason,
        message: &Message,
        now: Timestamp,
    ) -> Next<AnnounceAct> {
        let user = &known.agent.user;
        let state = match &known.agent.state {
            AgentState::Claiming(attempt) if attempt.event == self.event => {
                return Next::act(AnnounceAct::NotReleased);
            }
            AgentState::Releasing(attempt) if attempt.event == self.event => AgentState::Failed {
                event: self.event.clone(),
                reason: reason.clone(),
            },
            // The agent is none of this event's business; only the answer is.
            other => other.clone(),
        };
        let fact = Fact::AnsweredFailed {
            event: self.event.clone(),
            reason: reason.clone(),
        };
        let announcement = Announcement::Failed(SandboxFailed {
            version: event::VERSION,
            id: self.event.answer("failed"),
            at: now,
            user_key: user.clone(),
            correlation_id: self.correlation_id.clone(),
            claim: ClaimName::of(user),
            reason: reason.clone(),
            message: message.clone(),
            cause: self.event.clone(),
        });
        publish(self.first(user, announcement, now)).becomes(state, fact)
    }

    fn retired(&self, known: &Known, now: Timestamp) -> Next<AnnounceAct> {
        let retirement = match &known.agent.state {
            // The one that it was begun with: every event that joined in ends it for all.
            AgentState::Retiring(retirement) => retirement,
            AgentState::Retired(_) => return Next::act(AnnounceAct::Done),
            _ => return Next::act(AnnounceAct::Lost),
        };
        let user = &known.agent.user;
        let reason = &retirement.reason;
        let fact = Fact::Retired {
            event: self.event.clone(),
            reason: reason.clone(),
        };
        let announcement = Announcement::Retired(SandboxRetired {
            version: event::VERSION,
            id: self.event.answer("retired"),
            at: now,
            user_key: user.clone(),
            correlation_id: self.correlation_id.clone(),
            claim: ClaimName::of(user),
            reason: reason.clone(),
            cause: self.event.clone(),
        });
        let state = AgentState::Retired(Retirement {
            event: self.event.clone(),
            reason: reason.clone(),
        });
        publish(self.first(user, announcement, now)).becomes(state, fact)
    }

    fn first(&self, user: &UserKey, announcement: Announcement, now: Timestamp) -> Outcome {
        Outcome {
            event: self.event.clone(),
            user: user.clone(),
            announcement,
            publication: lease(NonZeroU32::MIN, now),
        }
    }
}

/// An announcement is on the bus.
#[derive(Debug, Clone)]
pub struct Published {
    /// The event that it answers.
    pub event: EventId,
    /// The lease under which it was put there.
    pub attempt: NonZeroU32,
}

impl Input for Published {
    type Act = ();

    fn event(&self) -> &EventId {
        &self.event
    }

    /// Whoever has taken over in the meantime reports it too; its lease is not ours to end.
    fn next(&self, known: &Known, _now: Timestamp) -> Next<()> {
        match &known.outcome {
            Some(outcome)
                if outcome.publication.pending_until.is_some()
                    && outcome.publication.attempt == self.attempt =>
            {
                let publication = Publication {
                    attempt: self.attempt,
                    pending_until: None,
                };
                Next::act(()).with(Outcome {
                    publication,
                    ..outcome.clone()
                })
            }
            _ => Next::act(()),
        }
    }
}

#[cfg(test)]
mod tests;

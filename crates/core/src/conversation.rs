//! A conversation: an ordered inbox, and one execution at a time that serves it.
//!
//! Messages of one thread may arrive together, twice, and while the agent is still at work on an
//! earlier one. Each is put into the inbox once. They may also overtake each other on their way, so
//! what decides about their order is when they were written, as Slack says it, and a message is not
//! begun before those written earlier have had a moment to arrive ([`SETTLE`]). Whoever puts one in while
//! nobody serves the inbox takes its [`Lease`] and serves it until it is empty; whoever finds it
//! served goes away, and can be sure that the message will be come to: the lease is given back only
//! together with the knowledge that nothing is waiting, in one conditional write.
//!
//! ```text
//!              accept: put it in, take the lease          finish, finish, …
//!  free ──────────────────────────────────────────▶ held ────────┐
//!   ▲ ▲                                              │ ▲ ◀───────┘
//!   │ └──────────────── close: nothing waits ────────┘ │  accept: put it in, go away
//!   └── the holder died, its time ran out ─────────────┘
//!       the next accept, or take_over, takes it
//! ```
//!
//! A holder is an execution of a state machine and can die at any point. Its lease then runs out,
//! or is taken over as soon as its death is known. It can also be slow and find itself replaced:
//! then each write it tries fails, since every one names the version of the lease that was read.
//! So nothing here needs a lock, and every function is a pure step from what was read to what is to
//! be saved: load, decide, save on condition, or else load again.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use crate::Holder;
use crate::{
    ConversationId, EventId, MessageTs, Reason, UserKey, agent::Version, agentd::ErrorName,
    event::SlackMessageReceived, later, reply::Reply,
};

/// How long a holder may be silent before another may take its place.
pub const LEASE: SignedDuration = SignedDuration::from_secs(90);

/// How long a holder may wait for its agent to wake before another may take its place. It has to
/// be longer than a request for a sandbox can take.
pub const WAKE_LEASE: SignedDuration = SignedDuration::from_mins(20);

/// How old a lease has to be before its holder renews it.
pub const RENEW_AFTER: SignedDuration = SignedDuration::from_secs(20);

/// How old a message has to be at least before it is begun, if earlier ones may still be on their way.
/// Webhooks, rules and executions take different times, the first one of a quiet function above all;
/// most of this passes anyway while a message is on its way to its turn.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(1);

/// The same for a message of a thread of which nothing else has come: what began the thread is likely
/// to be late, and the step that brings it may have died and be tried again.
pub const SETTLE_FIRST: SignedDuration = SignedDuration::from_secs(3);

/// The oldest that it has to be. Where its own way to the inbox was slow, that of an earlier one is
/// likely to be slower, so it waits there for as long as its way took.
pub const SETTLE_MOST: SignedDuration = SignedDuration::from_secs(10);

/// Which conversation, and whose. A thread that several users write in is a conversation for each
/// of them, with an agent of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConversationKey {
    /// Whose agent it is with.
    pub user: UserKey,
    /// The thread.
    pub id: ConversationId,
}

/// How far an inbox has been served, and by whom it is served now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The conversation.
    pub key: ConversationKey,
    /// The version that was read; a write is conditional on it.
    pub version: Version,
    /// The number of the message that arrived last; 0 if there has been none.
    pub last: u64,
    /// The messages that have not come to their end.
    pub waiting: Vec<Waiting>,
    /// The number of the one of them that has been begun. It is finished first, whatever arrives.
    pub begun: Option<u64>,
    /// The number of the message that came to its end last; 0 if none has.
    pub done: u64,
    /// Who serves it.
    pub held: Option<Hold>,
    /// When it was last written; the beginning of time if never.
    pub updated_at: Timestamp,
}

/// A message that has not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its number.
    pub seq: u64,
    /// When it was written.
    pub ts: MessageTs,
}

/// Who serves an inbox, and until when that is to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The execution.
    pub holder: Holder,
    /// When another may take its place.
    pub until: Timestamp,
}

/// A message of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The conversation.
    pub key: ConversationKey,
    /// Its number; the first is 1.
    pub seq: u64,
    /// The version that was read; a write is conditional on it.
    pub version: Version,
    /// What was said.
    pub message: SlackMessageReceived,
    /// When it was put into the inbox.
    pub arrived_at: Timestamp,
    /// What has been posted in reply to it.
    pub reply: Reply,
    /// What has come of it, once it has come to its end.
    pub outcome: Option<TurnOutcome>,
}

/// The end of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TurnOutcome {
    /// The agent has answered.
    Answered,
    /// The agent couldn't answer, and the user has been told why.
    Failed(Reason),
    /// It never came to an answer, because something of ours is broken. The message has gone to the
    /// dead-letter queue, from where it may come back.
    Abandoned(Reason),
}

/// What to save of a decision, as a whole, on condition that all of it is as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseChange {
    /// The lease as it is to be.
    pub lease: Lease,
    /// The version that it takes the place of.
    pub read: Version,
    /// A message to be put into the inbox; there must be none of its number.
    pub append: Option<Queued>,
    /// The event whose marker is to say that this conversation has it, under the new message's
    /// number.
    pub once: Option<EventId>,
    /// The number that the event's marker must have had so far; `None`: there must be no marker.
    pub once_read: Option<u64>,
    /// The execution that is to be found to have taken this conversation.
    pub holder: Option<Holder>,
}

/// A new version of a message, to be saved on condition that it is as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedChange {
    /// The message as it is to be.
    pub queued: Queued,
    /// The version that it takes the place of.
    pub read: Version,
}

/// What to save and what to do then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// To be saved first. If somebody was faster, the decision is void: load and decide again.
    pub change: Option<LeaseChange>,
    /// What to do, once the change is saved.
    pub act: AcceptAct,
}

/// What whoever brings a message does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptAct {
    /// Serve the inbox: the lease is theirs.
    Run,
    /// Nothing: the message waits, and somebody will come to it.
    Queued,
    /// Nothing: there is nothing new.
    Duplicate,
}

/// What came of wanting to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made"
)]
pub enum CloseAct {
    /// Nothing waits: save this, and stop.
    Close(LeaseChange),
    /// A message has arrived in the meantime: go on.
    NotEmpty,
}

/// Another execution has taken the conversation over, or it was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the conversation is held by somebody else by now")]
pub struct LeaseLost;

impl Lease {
    /// The lease of a conversation that nobody has said anything in yet.
    pub fn absent(key: ConversationKey) -> Self {
        Self {
            key,
            version: Version::default(),
            last: 0,
            waiting: Vec::new(),
            begun: None,
            done: 0,
            held: None,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// The number of the message whose turn it is: the one that has been begun, or else the one
    /// written first.
    pub fn next(&self) -> Option<u64> {
        if let Some(begun) = self.begun.filter(|seq| self.awaits(*seq)) {
            return Some(begun);
        }
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|waiting| (waiting.ts.order(), waiting.seq));
        Some(waiting.min()?.1)
    }

    /// Whether this message has not come to its end.
    pub fn awaits(&self, seq: u64) -> bool {
        self.waiting.iter().any(|waiting| waiting.seq == seq)
    }

    fn is_held_by(&self, holder: &Holder) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| held.holder == *holder)
    }

    /// Whether somebody who hasn't been heard of may take it.
    fn is_free(&self, now: Timestamp) -> bool {
        self.held.as_ref().is_none_or(|held| held.until <= now)
    }

    fn change(&self, now: Timestamp) -> LeaseChange {
        LeaseChange {
            lease: Self {
                version: Version(self.version.0 + 1),
                updated_at: now,
                ..self.clone()
            },
            read: self.version,
            append: None,
            once: None,
            once_read: None,
            holder: None,
        }
    }
}

impl LeaseChange {
    fn hold(mut self, holder: &Holder, term: SignedDuration, now: Timestamp) -> Self {
        self.lease.held = Some(Hold {
            holder: holder.clone(),
            until: later(now, term),
        });
        self
    }

    /// A holder that begins has to be found by its name: if it dies, the name is all that is told.
    fn take(self, holder: &Holder, wake: bool, now: Timestamp) -> Self {
        let term = if wake { WAKE_LEASE } else { LEASE };
        let mut change = self.hold(holder, term, now);
        change.holder = Some(holder.clone());
        change
    }

    fn free(mut self) -> Self {
        self.lease.held = None;
        self
    }
}

impl Queued {
    /// How old it has to be before it is begun. Nothing comes before the message that a thread begins
    /// with.
    pub fn settles(&self) -> SignedDuration {
        let message = &self.message;
        if message.ts == message.thread_ts {
            return SignedDuration::ZERO;
        }
        let least = if self.seq == 1 { SETTLE_FIRST } else { SETTLE };
        let way = self.arrived_at.duration_since(message.at);
        way.saturating_mul(2).clamp(least, SETTLE_MOST)
    }

    /// The message with what has been posted of its reply.
    #[must_use]
    pub fn replied(&self, reply: &Reply) -> QueuedChange {
        self.change(|queued| queued.reply = reply.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Self)) -> QueuedChange {
        let mut queued = self.clone();
        change(&mut queued);
        queued.version = Version(self.version.0 + 1);
        QueuedChange {
            queued,
            read: self.version,
        }
    }
}

impl Accepted {
    fn nothing(act: AcceptAct) -> Self {
        Self { change: None, act }
    }

    fn after(change: LeaseChange, act: AcceptAct) -> Self {
        Self {
            change: Some(change),
            act,
        }
    }
}

/// A message has arrived, brought by an execution. `seen` is the number under which it was put into
/// the inbox before, if it was and if it has not been abandoned there; whoever knows of an abandoned
/// one puts its number into [`LeaseChange::once_read`]. `wake`: the agent has to be woken before it
/// can answer, which may take a while.
pub fn accept(
    lease: &Lease,
    seen: Option<u64>,
    message: &SlackMessageReceived,
    holder: &Holder,
    wake: bool,
    now: Timestamp,
) -> Accepted {
    if seen.is_some() {
        // It may be here again because whoever brought it died, so it is a reason to look.
        return resume(lease, None, holder, wake, now);
    }
    let seq = lease.last + 1;
    let mut change = lease.change(now);
    change.lease.last = seq;
    change.lease.waiting.push(Waiting {
        seq,
        ts: message.ts.clone(),
    });
    change.once = Some(message.id.clone());
    change.append = Some(Queued {
        key: lease.key.clone(),
        seq,
        version: Version(1),
        message: message.clone(),
        arrived_at: now,
        reply: Reply::default(),
        outcome: None,
    });
    if lease.is_free(now) || lease.is_held_by(holder) {
        Accepted::after(change.take(holder, wake, now), AcceptAct::Run)
    } else {
        Accepted::after(change, AcceptAct::Queued)
    }
}

/// An execution has ended otherwise than by itself, so what it held is anybody's.
pub fn take_over(
    lease: &Lease,
    dead: &Holder,
    holder: &Holder,
    wake: bool,
    now: Timestamp,
) -> Accepted {
    resume(lease, Some(dead), holder, wake, now)
}

/// Serves what waits, if nobody else does.
fn resume(
    lease: &Lease,
    dead: Option<&Holder>,
    holder: &Holder,
    wake: bool,
    now: Timestamp,
) -> Accepted {
    let orphaned = dead.is_some_and(|dead| lease.is_held_by(dead));
    let ours = lease.is_held_by(holder);
    if lease.next().is_none() && orphaned && !ours {
        // Otherwise the next message would wait for a holder that can't come back.
        return Accepted::after(lease.change(now).free(), AcceptAct::Duplicate);
    }
    if ours || (lease.next().is_some() && (orphaned || lease.is_free(now))) {
        let change = lease.change(now).take(holder, wake, now);
        return Accepted::after(change, AcceptAct::Run);
    }
    Accepted::nothing(AcceptAct::Duplicate)
}

/// The holder is still at work. `None`: it has said so lately enough.
pub fn renew(
    lease: &Lease,
    holder: &Holder,
    now: Timestamp,
) -> Result<Option<LeaseChange>, LeaseLost> {
    let held = lease.held.as_ref().filter(|held| held.holder == *holder);
    let until = held.ok_or(LeaseLost)?.until;
    // The term that was given for waking is too long for somebody who works: it ends here.
    let young = later(now, LEASE - RENEW_AFTER) < until && until <= later(now, LEASE);
    Ok((!young).then(|| lease.change(now).hold(holder, LEASE, now)))
}

/// The holder waits for its agent to wake, which may take a while.
pub fn await_agent(
    lease: &Lease,
    holder: &Holder,
    now: Timestamp,
) -> Result<LeaseChange, LeaseLost> {
    if !lease.is_held_by(holder) {
        return Err(LeaseLost);
    }
    Ok(lease.change(now).hold(holder, WAKE_LEASE, now))
}

/// The message whose turn it is is about to be begun. `None`: it has been.
pub fn begin(
    lease: &Lease,
    holder: &Holder,
    seq: u64,
    now: Timestamp,
) -> Result<Option<LeaseChange>, LeaseLost> {
    if !lease.is_held_by(holder) || lease.next() != Some(seq) {
        return Err(LeaseLost);
    }
    if lease.begun == Some(seq) {
        return Ok(None);
    }
    let mut change = lease.change(now).hold(holder, LEASE, now);
    change.lease.begun = Some(seq);
    Ok(Some(change))
}

/// The message in hand has come to its end, even if one that was written earlier has arrived in the
/// meantime. Both changes are to be saved together.
pub fn finish(
    lease: &Lease,
    holder: &Holder,
    queued: &Queued,
    outcome: TurnOutcome,
    now: Timestamp,
) -> Result<(LeaseChange, QueuedChange), LeaseLost> {
    let waits = lease.key == queued.key && lease.awaits(queued.seq);
    if !lease.is_held_by(holder) || !waits || queued.outcome.is_some() {
        return Err(LeaseLost);
    }
    let mut change = lease.change(now).hold(holder, LEASE, now);
    change
        .lease
        .waiting
        .retain(|waiting| waiting.seq != queued.seq);
    change.lease.begun = None;
    change.lease.done = queued.seq;
    Ok((
        change,
        queued.change(|queued| queued.outcome = Some(outcome)),
    ))
}

/// The holder has nothing left to do, as far as it knows.
pub fn close(lease: &Lease, holder: &Holder, now: Timestamp) -> Result<CloseAct, LeaseLost> {
    if !lease.is_held_by(holder) {
        return Err(LeaseLost);
    }
    if lease.next().is_some() {
        return Ok(CloseAct::NotEmpty);
    }
    Ok(CloseAct::Close(lease.change(now).free()))
}

/// What the user reads in the thread when the agent couldn't answer.
pub fn words(error: ErrorName) -> &'static str {
    match error {
        ErrorName::TurnCancelled => "Stopped, as you asked.",
        ErrorName::TurnTimedOut => {
            "That took longer than I may spend on one answer, so I stopped. Try it in smaller steps."
        }
        ErrorName::TurnLost => {
            "I was restarted in the middle of this and can't tell how far I got. Check what has been \
             done before you ask again."
        }
        ErrorName::TurnMismatch | ErrorName::TurnNotFound | ErrorName::AgentFailed => {
            "Something went wrong while I worked on this. Please ask again."
        }
        ErrorName::TurnInProgress | ErrorName::TooManyTurns => {
            "I have too much to do at the moment. Please ask again in a while."
        }
        ErrorName::NotReady
        | ErrorName::NotBound
        | ErrorName::AgentUnavailable
        | ErrorName::KeysUnavailable
        | ErrorName::BindingUnreadable
        | ErrorName::BindingNotStored
        | ErrorName::RequestTimeout => {
            "Your agent isn't available at the moment. Please ask again in a few minutes."
        }
        ErrorName::ModelKeyRejected => {
            "The model doesn't accept your agent's key. An administrator of the platform has to look \
             into it."
        }
        ErrorName::ModelRateLimited => {
            "The model is asked too much at the moment. Please ask again in a few minutes."
        }
        ErrorName::ModelBudgetExceeded => {
            "Your budget for the model is used up. An administrator of the platform can raise it."
        }
        ErrorName::ModelUnavailable | ErrorName::GatewayUnreachable => {
            "The model can't be reached at the moment. Please ask again in a few minutes."
        }
        ErrorName::BodyTooLarge => "That is more than I can read at once. Please send less.",
        ErrorName::InvalidToken
        | ErrorName::NotAllowed
        | ErrorName::WrongUser
        | ErrorName::BoundToAnother
        | ErrorName::MalformedRequest
        | ErrorName::NotFound
        | ErrorName::MethodNotAllowed
        | ErrorName::Unknown => {
            "I couldn't reach your agent. An administrator of the platform has to look into it."
        }
    }
}

#[cfg(test)]
mod tests;

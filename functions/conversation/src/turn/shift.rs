//! An execution's hold on the conversation, for one slice.

use std::time::Duration;

use carapace_core::{
    Holder, SlackUserId,
    conversation::{
        self, CloseAct, ConversationKey, Lease, LeaseChange, Queued, QueuedChange, TurnOutcome,
    },
    ports::{Clock, Inbox, Saved},
};
use jiff::{SignedDuration, Timestamp};

use super::{Halt, ServeInbox, TurnError};
use crate::{
    fault::{self, Moment, TURN_NOTE, TURN_RELEASE, TURN_RENEW, TURN_TAKE},
    log,
    wire::Held,
};

/// How often somebody else may write the lease while a step of ours wants to. Each time, whoever it
/// was has put a message into the inbox.
const ROUNDS: u32 = 40;

/// How often it is looked whether the lease has to be renewed.
const LOOK: Duration = Duration::from_secs(10);

/// Longer than a call to Slack can be under way: its client gives up before.
const UNDER_WAY: Duration = Duration::from_secs(12);

/// The hold.
pub(super) struct Shift<'a, T, C, S, A, K> {
    pub(super) step: &'a ServeInbox<T, C, S, A, K>,
    pub(super) key: ConversationKey,
    pub(super) holder: Holder,
    pub(super) lease: Lease,
    /// When the slice is over.
    pub(super) end: Timestamp,
    /// When more may be said in the thread.
    pub(super) may_speak_at: Timestamp,
    /// Whose message was served last.
    served: Option<SlackUserId>,
    /// How often in a row Slack could not be reached.
    pub(super) slack_failed: u32,
    /// How often in a row the agent could not be reached.
    pub(super) agent_failed: u32,
}

impl<'a, T, C, S, A, K> Shift<'a, T, C, S, A, K>
where
    T: Inbox,
    K: Clock,
{
    pub(super) async fn begin(
        step: &'a ServeInbox<T, C, S, A, K>,
        held: Held,
    ) -> Result<Self, TurnError> {
        log::about(&held.user_key, &held.conversation);
        let key = ConversationKey {
            user: held.user_key,
            id: held.conversation,
        };
        let lease = step.table.lease(&key).await?;
        let now = step.clock.now();
        let shift = Self {
            step,
            key,
            holder: held.execution,
            lease,
            end: after(now, step.slice),
            may_speak_at: now,
            served: None,
            slack_failed: 0,
            agent_failed: 0,
        };
        shift.check()?;
        Ok(shift)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.step.clock.now()
    }

    /// Whether the conversation is still this execution's.
    fn check(&self) -> Result<(), TurnError> {
        match &self.lease.held {
            Some(hold) if hold.holder == self.holder => Ok(()),
            _ => Err(TurnError::LeaseLost),
        }
    }

    async fn reload(&mut self) -> Result<(), TurnError> {
        self.lease = self.step.table.lease(&self.key).await?;
        self.check()
    }

    /// The message whose turn it is, begun.
    pub(super) async fn head(&mut self) -> Result<Option<Queued>, TurnError> {
        for _ in 0..ROUNDS {
            let Some(seq) = self.lease.next() else {
                return Ok(None);
            };
            let queued = self.step.table.queued(&self.key, seq).await?;
            match queued {
                Some(queued) if queued.outcome.is_none() => {
                    if self.begin_message(&queued).await? {
                        self.served = Some(queued.message.user_id.clone());
                        return Ok(Some(queued));
                    }
                }
                // It has come to its end since the lease was read: another run is ahead of this one.
                Some(_) => self.reload().await?,
                None => {
                    return Err(TurnError::Refused(format!(
                        "message {seq} of the inbox is missing, though it has not come to its end"
                    )));
                }
            }
        }
        Err(overtaken())
    }

    /// False: look again whose turn it is.
    async fn begin_message(&mut self, queued: &Queued) -> Result<bool, TurnError> {
        let user = &queued.message.user_id;
        let now = self.now();
        let Some(change) = conversation::begin(&self.lease, &self.holder, queued.seq, now)? else {
            return Ok(true);
        };
        let settle: Duration = queued.settles().try_into().unwrap_or_default();
        let young = span(now, after(queued.message.at, settle));
        // A time that lies in the future is a wrong clock, and nothing to wait for.
        if !young.is_zero() && young <= settle && now < self.end {
            self.rest(young, user).await?;
            self.reload().await?;
            return Ok(false);
        }
        fault::point(user, TURN_TAKE, Moment::Before);
        let taken = self.save(change, None).await?;
        if taken {
            fault::point(user, TURN_TAKE, Moment::After);
        }
        Ok(taken)
    }

    /// Says that this execution is still at work, if it is time to.
    pub(super) async fn renew(&mut self, user: &SlackUserId) -> Result<(), TurnError> {
        for _ in 0..ROUNDS {
            let now = self.now();
            let Some(change) = conversation::renew(&self.lease, &self.holder, now)? else {
                return Ok(());
            };
            fault::point(user, TURN_RENEW, Moment::Before);
            if self.save(change, None).await? {
                fault::point(user, TURN_RENEW, Moment::After);
                return Ok(());
            }
        }
        Err(overtaken())
    }

    /// Keeps the conversation for as long as waking the agent may take.
    pub(super) async fn await_agent(&mut self) -> Result<(), TurnError> {
        for _ in 0..ROUNDS {
            let change = conversation::await_agent(&self.lease, &self.holder, self.now())?;
            if self.save(change, None).await? {
                return Ok(());
            }
        }
        Err(overtaken())
    }

    /// Records the end of the message in hand.
    pub(super) async fn finish(
        &mut self,
        queued: &Queued,
        outcome: &TurnOutcome,
        point: &'static str,
    ) -> Result<(), Halt> {
        let user = &queued.message.user_id;
        for _ in 0..ROUNDS {
            if !self.lease.awaits(queued.seq) {
                // Another run of this execution was faster, and said the same.
                return Ok(());
            }
            let now = self.now();
            let (change, ended) =
                conversation::finish(&self.lease, &self.holder, queued, outcome.clone(), now)?;
            fault::point(user, point, Moment::Before);
            if self.save(change, Some(&ended)).await? {
                fault::point(user, point, Moment::After);
                tracing::info!(
                    ?outcome,
                    seq = queued.seq,
                    "the message has come to its end"
                );
                return Ok(());
            }
            if self.lease.awaits(queued.seq) {
                self.check_in_hand(queued).await?;
            }
        }
        Err(overtaken().into())
    }

    /// Gives the conversation back, unless there is more in the inbox. False: there is.
    pub(super) async fn release(&mut self) -> Result<bool, TurnError> {
        let user = self.served.clone();
        for _ in 0..ROUNDS {
            match conversation::close(&self.lease, &self.holder, self.now())? {
                CloseAct::NotEmpty => return Ok(false),
                CloseAct::Close(change) => {
                    at(user.as_ref(), Moment::Before);
                    if self.save(change, None).await? {
                        at(user.as_ref(), Moment::After);
                        return Ok(true);
                    }
                }
            }
        }
        Err(overtaken())
    }

    /// Saves a change of the lease, or reads it again if somebody else was faster.
    async fn save(
        &mut self,
        change: LeaseChange,
        queued: Option<&QueuedChange>,
    ) -> Result<bool, TurnError> {
        match self.step.table.save(&change, queued).await? {
            Saved::Yes => {
                self.lease = change.lease;
                Ok(true)
            }
            Saved::Overtaken => {
                self.reload().await?;
                Ok(false)
            }
        }
    }

    /// Notes what has been, or is about to be, said of the reply.
    pub(super) async fn note(&mut self, queued: &mut Queued) -> Result<(), Halt> {
        let user = queued.message.user_id.clone();
        let change = queued.replied(&queued.reply);
        for _ in 0..ROUNDS {
            fault::point(&user, TURN_NOTE, Moment::Before);
            match self.step.table.save_queued(&change).await? {
                Saved::Yes => {
                    fault::point(&user, TURN_NOTE, Moment::After);
                    *queued = change.queued;
                    return Ok(());
                }
                Saved::Overtaken => self.check_in_hand(queued).await?,
            }
        }
        Err(overtaken().into())
    }

    /// Whether the message is as it was read; a write can also have been refused because another was
    /// under way.
    async fn check_in_hand(&mut self, queued: &Queued) -> Result<(), Halt> {
        let now = self.step.table.queued(&self.key, queued.seq).await?;
        if now.is_some_and(|now| now.version == queued.version) {
            return Ok(());
        }
        self.reload().await?;
        Err(Halt::Aside)
    }

    /// Makes the message this run's own, if a call to Slack may be under way for another: once that
    /// can't be any more, what it was about is put right. The slice is longer by the wait, or else one
    /// that is shorter would never get beyond it.
    pub(super) async fn take_in_hand(&mut self, queued: &mut Queued) -> Result<(), Halt> {
        if !queued.reply.is_under_way() {
            return Ok(());
        }
        queued.reply.resume();
        self.note(queued).await?;
        self.end = after(self.end, UNDER_WAY);
        match self.rest(UNDER_WAY, &queued.message.user_id).await? {
            true => Ok(()),
            false => Err(Halt::More),
        }
    }

    /// Lets another run of this execution go on; false: the slice is over.
    pub(super) async fn stand_aside(&mut self, user: &SlackUserId) -> Result<bool, TurnError> {
        let more = self.rest(UNDER_WAY, user).await?;
        self.reload().await?;
        Ok(more)
    }

    /// Waits, but not beyond the slice, and keeps the conversation meanwhile; false: the slice is
    /// over.
    pub(super) async fn rest(
        &mut self,
        time: Duration,
        user: &SlackUserId,
    ) -> Result<bool, TurnError> {
        let until = after(self.now(), time).min(self.end);
        loop {
            self.renew(user).await?;
            let left = span(self.now(), until);
            if left.is_zero() {
                return Ok(self.now() < self.end);
            }
            self.step.clock.sleep(left.min(LOOK)).await;
        }
    }
}

fn at(user: Option<&SlackUserId>, moment: Moment) {
    if let Some(user) = user {
        fault::point(user, TURN_RELEASE, moment);
    }
}

fn overtaken() -> TurnError {
    TurnError::Unavailable(format!(
        "others wrote the conversation {ROUNDS} times in a row"
    ))
}

/// A time after `at`, at most the end of time.
pub(super) fn after(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// How long it is from one time to another; nothing, if that has passed.
pub(super) fn span(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

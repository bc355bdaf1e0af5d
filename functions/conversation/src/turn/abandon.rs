//! Giving up the message in hand, because something of ours is broken.

use std::time::Duration;

use carapace_core::{
    Reason,
    conversation::{Queued, TurnOutcome},
    event::{SLACK_SOURCE, SlackMessageReceived},
    ports::{Clock, Inbox, Slack},
};
use serde_json::{Value, json};

use super::{
    Halt, ServeInbox, TurnError,
    shift::{Shift, after, span},
    speak::Spoken,
};
use crate::{
    fault::ABANDON_FINISH,
    log,
    wire::{Held, Turned},
};

/// How long Slack is tried if it is Slack that is broken.
const LAST_TRY: Duration = Duration::from_secs(5);

impl<T, C, S, A, K> ServeInbox<T, C, S, A, K>
where
    T: Inbox,
    S: Slack,
    K: Clock,
{
    /// Gives up the message in hand: the user is told, the message gets its end, and is answered as
    /// an event, so that it can be kept.
    ///
    /// `done` is the message that the machine knows to have come to its end last. If another was
    /// abandoned since, that was an earlier try of this step, whose answer was lost: the one behind
    /// it must not be given up in its stead.
    pub async fn abandon(
        &self,
        held: Held,
        done: Option<u64>,
        reason: &str,
        message: &str,
    ) -> Result<Turned, TurnError> {
        let mut shift = Shift::begin(self, held).await?;
        let reason = Reason::of_error(reason);
        if let Some(abandoned) = shift.abandoned_since(done).await? {
            return answer(&abandoned);
        }
        if matches!(reason.as_str(), "SlackUnavailable" | "SlackTokenRejected") {
            shift.end = shift.end.min(after(shift.now(), LAST_TRY));
        }
        loop {
            let Some(mut queued) = shift.head().await? else {
                if shift.release().await? {
                    return Ok(Turned::Idle);
                }
                continue;
            };
            log::message(&queued.message.id);
            tracing::error!(%reason, message, "the message is given up");
            let outcome = TurnOutcome::Abandoned(reason.clone());
            let finished = match shift.tell(&mut queued, words(&reason)).await {
                Ok(()) => shift.finish(&queued, &outcome, ABANDON_FINISH).await,
                Err(halt) => Err(halt),
            };
            match finished {
                Ok(()) => return answer(&queued),
                Err(Halt::Aside) => {
                    let user = queued.message.user_id.clone();
                    shift.stand_aside(&user).await?;
                    if shift.now() >= shift.end {
                        return Err(TurnError::Unavailable(
                            "another run has the message in hand".to_owned(),
                        ));
                    }
                }
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::More | Halt::Asleep) => {
                    return Err(TurnError::Unavailable("time is up".to_owned()));
                }
            }
        }
    }
}

impl<T, C, S, A, K> Shift<'_, T, C, S, A, K>
where
    T: Inbox,
    S: Slack,
    K: Clock,
{
    async fn abandoned_since(&self, done: Option<u64>) -> Result<Option<Queued>, TurnError> {
        let newest = self.lease.done;
        if done.is_none_or(|done| newest == done) {
            return Ok(None);
        }
        let queued = self.step.table.queued(&self.key, newest).await?;
        let is_abandoned =
            |queued: &Queued| matches!(queued.outcome, Some(TurnOutcome::Abandoned(_)));
        Ok(queued.filter(is_abandoned))
    }

    /// Says it in the thread, as the message's reply, if Slack lets us: the message is given up
    /// whether or not its user can be told.
    async fn tell(&mut self, queued: &mut Queued, text: &str) -> Result<(), Halt> {
        let user = queued.message.user_id.clone();
        match self.take_in_hand(queued).await {
            Ok(()) | Err(Halt::More) => {}
            Err(halt) => return Err(halt),
        }
        loop {
            let pause = span(self.now(), self.may_speak_at);
            if !pause.is_zero() && !self.rest(pause, &user).await? {
                break;
            }
            match self.speak(queued, text, true).await {
                Ok(Spoken::Some) => {}
                Ok(Spoken::All) => return Ok(()),
                Ok(Spoken::Undeliverable(_))
                | Err(
                    Halt::More
                    | Halt::Failed(
                        TurnError::SlackUnavailable(_)
                        | TurnError::SlackTokenRejected(_)
                        | TurnError::Refused(_),
                    ),
                ) => break,
                Err(halt) => return Err(halt),
            }
        }
        tracing::warn!("the user could not be told that the message is given up");
        Ok(())
    }
}

/// What the user reads.
fn words(reason: &Reason) -> &'static str {
    match reason.as_str() {
        "AgentNotWoken" => {
            "Your agent could not be started, so I couldn't pass this on. Please ask again in a few \
             minutes."
        }
        _ => {
            "Something went wrong on the way to your agent, so this was not answered. Please ask \
             again in a few minutes."
        }
    }
}

fn answer(queued: &Queued) -> Result<Turned, TurnError> {
    Ok(Turned::Abandoned {
        event: event(&queued.message)?,
        done: queued.seq,
    })
}

/// The message as an event that can be put back on the bus as it is.
fn event(message: &SlackMessageReceived) -> Result<Value, TurnError> {
    let detail = serde_json::to_value(message);
    let detail = detail.map_err(|error| TurnError::Refused(error.to_string()))?;
    Ok(json!({
        "source": SLACK_SOURCE,
        "detail-type": SlackMessageReceived::DETAIL_TYPE,
        "detail": detail,
    }))
}

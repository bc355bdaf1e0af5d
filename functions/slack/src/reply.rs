//! `slack-reply`: tell a user something in the thread, without an agent.
//!
//! Whoever has no agent is told so once per message that they sent, whatever dies on the way: what
//! has been said is kept with the event, as [`carapace_core::reply`] wants it. That an agent wakes up
//! is a status and not a message, so it may be set any number of times.

use carapace_control_plane::{
    from_trouble,
    lambda::{read_payload, write_answer},
    named,
};
use carapace_core::{
    EventId,
    agent::Version,
    ports::{Replies, Saved, Slack, SlackTrouble, StoredReply, Trouble},
    reply::{Mode, PLACEHOLDER, Step, next},
    slack::Place,
};
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{
    config::SignUpUrl,
    fault::{self, Moment, REPLY_OPEN, REPLY_RECORD, REPLY_SAY},
    wire::{ReplyPayload, Told},
};

/// What is shown while the agent wakes up, behind its name.
const WAKING: &str = "is waking up…";

/// How many calls a text takes at most. A sentence takes two; more only if somebody died before.
const STEPS: u32 = 20;

/// The function.
pub struct ReplyToUser<R, S> {
    /// What has been said.
    pub replies: R,
    /// Slack.
    pub slack: S,
    /// Where people sign up.
    pub sign_up_url: SignUpUrl,
}

/// Why the user was not told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Slack wants fewer calls.
    #[error("{0}")]
    RateLimited(SlackTrouble),
    /// Slack, or something else that this depends on, is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Slack, or something else that this depends on, does not do it.
    #[error("{0}")]
    Refused(String),
    /// Slack does not accept the bot's token.
    #[error("{0}")]
    SlackTokenRejected(SlackTrouble),
}

named!(ReplyError: RateLimited, Unavailable, Refused, SlackTokenRejected);

from_trouble!(ReplyError);

impl From<SlackTrouble> for ReplyError {
    fn from(trouble: SlackTrouble) -> Self {
        match trouble {
            SlackTrouble::RateLimited(_) => Self::RateLimited(trouble),
            SlackTrouble::TokenRejected(_) => Self::SlackTokenRejected(trouble),
            SlackTrouble::Unavailable(_) => Self::Unavailable(trouble.to_string()),
            SlackTrouble::NotStreaming
            | SlackTrouble::NotStreamable
            | SlackTrouble::Undeliverable(_)
            | SlackTrouble::Refused(_) => Self::Refused(trouble.to_string()),
            SlackTrouble::Trouble(trouble) => trouble.into(),
        }
    }
}

/// Why a text was not said, as far as it makes a difference here.
enum Hitch {
    Slack(SlackTrouble),
    Error(ReplyError),
}

impl From<SlackTrouble> for Hitch {
    fn from(trouble: SlackTrouble) -> Self {
        Self::Slack(trouble)
    }
}

impl From<Trouble> for Hitch {
    fn from(trouble: Trouble) -> Self {
        Self::Error(trouble.into())
    }
}

impl From<ReplyError> for Hitch {
    fn from(error: ReplyError) -> Self {
        Self::Error(error)
    }
}

impl<R, S> ReplyToUser<R, S>
where
    R: Replies,
    S: Slack,
{
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        let span = info_span!("step", step = "reply", event_id = Empty, user_id = Empty);
        let step = async { write_answer(&self.tell(read_payload(payload)?).await?) };
        step.instrument(span).await
    }

    /// Tells the user, or finds that there is nowhere to.
    pub async fn tell(&self, payload: ReplyPayload) -> Result<Told, ReplyError> {
        let span = Span::current();
        let told = match payload {
            ReplyPayload::Waking { place } => {
                span.record("user_id", place.user_id.as_str());
                let set = self.slack.set_status(&place, WAKING).await;
                set.map_err(Hitch::Slack)
            }
            ReplyPayload::NotLinked {
                reason,
                event_id,
                place,
            } => {
                span.record("event_id", event_id.as_str());
                span.record("user_id", place.user_id.as_str());
                tracing::info!(?reason, "somebody who has no agent is told so");
                let text = reason.text(self.sign_up_url.as_str());
                self.say(&event_id, &place, &text).await
            }
        };
        match told {
            Ok(()) => Ok(Told { told: true }),
            // The channel is gone, or the bot was put out of it: nobody is left who could read it.
            Err(Hitch::Slack(SlackTrouble::Undeliverable(why))) => {
                tracing::info!(why, "there is nowhere to say it");
                Ok(Told { told: false })
            }
            Err(Hitch::Slack(trouble)) => Err(trouble.into()),
            Err(Hitch::Error(error)) => Err(error),
        }
    }

    /// Says a text in the thread, once per event.
    async fn say(&self, event: &EventId, place: &Place, text: &str) -> Result<(), Hitch> {
        let mut stored = self.replies.reply(event).await?;
        if stored.done {
            return Ok(());
        }
        stored.reply.resume();
        for _ in 0..STEPS {
            let Some(step) = next(&stored.reply, text, true) else {
                stored.done = true;
                return self.save(event, place, &mut stored).await;
            };
            stored.reply.begin(&step);
            // Before a message is opened, too: of two who are at it only one goes on.
            self.save(event, place, &mut stored).await?;
            let done = self.perform(place, &mut stored, &step).await;
            if let Err(Hitch::Slack(SlackTrouble::RateLimited(_))) = done {
                // It did nothing, so whoever comes next need not doubt what the thread shows.
                stored.reply.refused(&step);
                self.save(event, place, &mut stored).await?;
            }
            done?;
        }
        Err(ReplyError::Refused(format!("the text was not said within {STEPS} calls")).into())
    }

    /// Makes one call, and takes down what came of it.
    async fn perform(
        &self,
        place: &Place,
        stored: &mut StoredReply,
        step: &Step,
    ) -> Result<(), Hitch> {
        let reply = &mut stored.reply;
        let (user, channel) = (&place.user_id, &place.channel_id);
        let ts = |part: &usize| match reply.parts.get(*part) {
            Some(part) => Ok(part.ts.clone()),
            None => Err(ReplyError::Refused(format!("the reply has no part {part}"))),
        };
        let (part, said) = match step {
            Step::Open => {
                let from = reply.said();
                fault::point(user, REPLY_OPEN, Moment::Before);
                let (ts, mode) = match self.slack.start_stream(place).await {
                    Ok(ts) => (ts, Mode::Stream),
                    Err(SlackTrouble::NotStreamable) => {
                        let ts = self.slack.post_message(place, PLACEHOLDER).await?;
                        (ts, Mode::Update)
                    }
                    Err(trouble) => return Err(trouble.into()),
                };
                fault::point(user, REPLY_OPEN, Moment::After);
                reply.opened(ts, mode, from);
                return Ok(());
            }
            Step::Append { part, text, .. } => {
                let ts = ts(part)?;
                fault::point(user, REPLY_SAY, Moment::Before);
                (*part, self.slack.append_stream(channel, &ts, text).await)
            }
            Step::Close { part, text, .. } => {
                let ts = ts(part)?;
                let text = text.as_deref();
                fault::point(user, REPLY_SAY, Moment::Before);
                (*part, self.slack.stop_stream(channel, &ts, text).await)
            }
            Step::Update { part, text, .. } => {
                let ts = ts(part)?;
                fault::point(user, REPLY_SAY, Moment::Before);
                (*part, self.slack.update(channel, &ts, text).await)
            }
        };
        match said {
            Ok(()) => {
                fault::point(user, REPLY_SAY, Moment::After);
                reply.succeeded(step);
                Ok(())
            }
            Err(SlackTrouble::NotStreaming) => {
                reply.not_streaming(part);
                Ok(())
            }
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn save(
        &self,
        event: &EventId,
        place: &Place,
        stored: &mut StoredReply,
    ) -> Result<(), Hitch> {
        stored.version = Version(stored.version.0 + 1);
        fault::point(&place.user_id, REPLY_RECORD, Moment::Before);
        let saved = self.replies.save_reply(event, stored).await?;
        fault::point(&place.user_id, REPLY_RECORD, Moment::After);
        match saved {
            Saved::Yes => Ok(()),
            Saved::Overtaken => {
                let why = "another invocation is telling them, or died at it".to_owned();
                Err(ReplyError::Unavailable(why).into())
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! What was heard of the agent, brought into the thread.

use std::time::Duration;

use carapace_core::{
    conversation::Queued,
    ports::{Clock, Inbox, Slack, SlackTrouble},
    reply::{self, Mode, PLACEHOLDER, Step},
};

use super::{
    Halt,
    shift::{Shift, after},
};
use crate::fault::{self, Moment, TURN_APPEND, TURN_CLOSE, TURN_OPEN, TURN_POST, TURN_UPDATE};

/// Between two pieces of what is said. Slack takes about one call per second and thread; what the
/// agent says in between is put together.
const PACE: Duration = Duration::from_millis(700);

/// The first wait when Slack can't be reached; then twice as long each time.
const HICCUP: Duration = Duration::from_secs(1);

/// What came of wanting to say something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spoken {
    /// The thread shows all that there is.
    All,
    /// There may be more to say.
    Some,
    /// Nothing can be said there.
    Undeliverable(String),
}

impl<T, C, S, A, K> Shift<'_, T, C, S, A, K>
where
    T: Inbox,
    S: Slack,
    K: Clock,
{
    /// Makes the next call that brings the thread nearer to showing the text.
    pub(super) async fn speak(
        &mut self,
        queued: &mut Queued,
        text: &str,
        whole: bool,
    ) -> Result<Spoken, Halt> {
        let Some(step) = reply::next(&queued.reply, text, whole) else {
            return Ok(Spoken::All);
        };
        let before = queued.reply.clone();
        queued.reply.begin(&step);
        if queued.reply != before {
            self.note(queued).await?;
        }
        let called = self.call(queued, &step).await;
        if step != Step::Open {
            self.may_speak_at = after(self.now(), PACE);
        }
        let trouble = match called {
            Ok(()) => {
                self.slack_failed = 0;
                self.note(queued).await?;
                return Ok(Spoken::Some);
            }
            Err(trouble) => trouble,
        };
        tracing::warn!(%trouble, "Slack did not take a piece of the reply");
        let user = queued.message.user_id.clone();
        match trouble {
            SlackTrouble::NotStreaming => {
                match &step {
                    Step::Append { part, .. } | Step::Close { part, .. } => {
                        queued.reply.not_streaming(*part);
                    }
                    Step::Open | Step::Update { .. } => {
                        return Err(Halt::Failed(SlackTrouble::NotStreaming.into()));
                    }
                }
                self.note(queued).await?;
                Ok(Spoken::Some)
            }
            SlackTrouble::RateLimited(time) => {
                queued.reply.refused(&step);
                self.note(queued).await?;
                if time > self.step.slice {
                    return Err(Halt::Failed(SlackTrouble::RateLimited(time).into()));
                }
                self.rest_or_more(time, queued).await
            }
            SlackTrouble::Unavailable(_) => {
                // Whether it has happened is not known.
                queued.reply.resume();
                self.note(queued).await?;
                let pause = HICCUP * 2_u32.saturating_pow(self.slack_failed.min(6));
                self.slack_failed += 1;
                if self.rest(pause, &user).await? {
                    Ok(Spoken::Some)
                } else {
                    Err(Halt::Failed(trouble.into()))
                }
            }
            SlackTrouble::Undeliverable(why) => {
                queued.reply.refused(&step);
                Ok(Spoken::Undeliverable(why))
            }
            trouble => Err(Halt::Failed(trouble.into())),
        }
    }

    async fn rest_or_more(&mut self, time: Duration, queued: &Queued) -> Result<Spoken, Halt> {
        match self.rest(time, &queued.message.user_id).await? {
            true => Ok(Spoken::Some),
            false => Err(Halt::More),
        }
    }

    /// Makes a call, and puts down what came of it.
    async fn call(&self, queued: &mut Queued, step: &Step) -> Result<(), SlackTrouble> {
        let slack = &self.step.slack;
        let message = &queued.message;
        let (user, channel) = (&message.user_id, &message.channel_id);
        let ts = |part: usize| {
            let part = queued.reply.parts.get(part);
            let part = part.ok_or_else(|| SlackTrouble::Refused("no such part".to_owned()));
            part.map(|part| &part.ts)
        };
        match step {
            Step::Open => {
                let from = queued.reply.said();
                let place = message.place();
                fault::point(user, TURN_OPEN, Moment::Before);
                let (opened, mode) = match slack.start_stream(&place).await {
                    Err(SlackTrouble::NotStreamable) => {
                        fault::point(user, TURN_POST, Moment::Before);
                        let posted = slack.post_message(&place, PLACEHOLDER).await?;
                        fault::point(user, TURN_POST, Moment::After);
                        (posted, Mode::Update)
                    }
                    opened => (opened?, Mode::Stream),
                };
                fault::point(user, TURN_OPEN, Moment::After);
                queued.reply.opened(opened, mode, from);
                return Ok(());
            }
            Step::Append { part, text, .. } => {
                fault::point(user, TURN_APPEND, Moment::Before);
                slack.append_stream(channel, ts(*part)?, text).await?;
                fault::point(user, TURN_APPEND, Moment::After);
            }
            Step::Close { part, text, .. } => {
                fault::point(user, TURN_CLOSE, Moment::Before);
                slack
                    .stop_stream(channel, ts(*part)?, text.as_deref())
                    .await?;
                fault::point(user, TURN_CLOSE, Moment::After);
            }
            Step::Update { part, text, .. } => {
                fault::point(user, TURN_UPDATE, Moment::Before);
                slack.update(channel, ts(*part)?, text).await?;
                fault::point(user, TURN_UPDATE, Moment::After);
            }
        }
        queued.reply.succeeded(step);
        Ok(())
    }

    /// Says in the thread what the agent does. A courtesy: it is not waited for, nor tried again.
    pub(super) async fn show(&self, queued: &Queued, status: &str) {
        let message = &queued.message;
        fault::point(&message.user_id, fault::TURN_STATUS, Moment::Before);
        let shown = self.step.slack.set_status(&message.place(), status).await;
        fault::point(&message.user_id, fault::TURN_STATUS, Moment::After);
        if let Err(trouble) = shown {
            tracing::info!(%trouble, "the thread does not show what the agent does");
        }
    }
}

//! One turn, from its beginning to its end.
//!
//! The book is changed by what OpenClaw says, as it says it. This here only sees to it that the turn
//! gets to OpenClaw once, and that it ends: it looks into the history before it sends, and again
//! whenever a line broke in between; it stops what was cancelled or takes too long.
//!
//! A turn that OpenClaw has, or may have, never ends with the advice to try again: OpenClaw resumes
//! by itself what a restart interrupted, and it would be done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carapace_core::agentd::ErrorName;
use carapace_core::{ConversationId, TurnId};
use serde_json::{Value, json};

use super::book::{Ending, Fault};
use super::history::{Standing, is_interrupted, standing};
use super::session_key;
use crate::Shared;
use crate::switchboard::RequestError;

/// Between the run's end and the word to the user; OpenClaw says them in one breath.
const SETTLING: Duration = Duration::from_secs(2);
/// After a restart OpenClaw takes a moment to resume what was interrupted.
const RESUMING: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often a run is looked after whose events may not be known for its own.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long a run that is stopped may take to stop.
const STOPPING: Duration = Duration::from_secs(15);
const ABORT_INTERVAL: Duration = Duration::from_secs(2);
/// A line that breaks again and again in one turn is no accident.
const MOST_BREAKS: usize = 5;
/// Enough to find the turn in, whatever tools it used.
const HISTORY_MESSAGES: u32 = 200;

/// Takes a turn that the book has just admitted to its end.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    id: TurnId,
    conversation: ConversationId,
    text: String,
) {
    let _busy = shared.activity.call();
    let turn = Turn {
        shared: &shared,
        session: session_key(&conversation),
        id: &id,
        is_handed_over: AtomicBool::new(false),
    };
    let limit = shared.config.turn_timeout;
    let overdue = async {
        tokio::time::sleep(limit).await;
        let ending = Ending(ErrorName::TurnTimedOut);
        shared.turns.change(|book| book.stop(&id, ending));
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = turn.pursue(&text) => ended,
        never = overdue => never,
    };
    if let Err(ending) = ended {
        shared.turns.change(|book| book.fail(&id, ending));
    }
    tracing::info!(turn = %id, error = ?ended.err().map(|ending| ending.0), "a turn has ended");
}

struct Turn<'a> {
    shared: &'a Shared,
    session: String,
    id: &'a TurnId,
    /// OpenClaw has it, or may have it.
    is_handed_over: AtomicBool,
}

/// What a step of a turn comes to.
enum Step<T> {
    Taken(T),
    /// The line broke; the next one has to be waited for.
    LineDown,
    /// The turn has ended in the book.
    Ended,
}

/// How it is known that a turn is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    /// It was sent over this line, and its run has its id.
    Sent,
    /// The history says so. That a run is being resumed is known before its name is, so that its
    /// events may be nobody's: the history is looked into again and again.
    Found,
}

impl Turn<'_> {
    /// Returns when the book says that the turn has ended, or with how it must end.
    async fn pursue(&self, text: &str) -> Result<(), Ending> {
        for _ in 0..MOST_BREAKS {
            let line = self.line().await?;
            let (sent, run) = match self.settle(line, true).await? {
                Step::Taken(true) => (Step::Taken(()), Run::Found),
                Step::Taken(false) => (self.send(line, text).await?, Run::Sent),
                Step::LineDown => (Step::LineDown, Run::Found),
                Step::Ended => (Step::Ended, Run::Found),
            };
            let followed = match sent {
                Step::Taken(()) => self.follow(line, run).await?,
                other => other,
            };
            if let Step::Ended = followed {
                return Ok(());
            }
            tracing::warn!(turn = %self.id, "the line broke, or was silent, in the middle of a turn");
        }
        Err(self.given_up(ErrorName::AgentFailed))
    }

    /// A line, within OpenClaw's patience. A turn that is stopped before it is sent has ended; one
    /// that OpenClaw has goes on there until it can be told.
    async fn line(&self) -> Result<u64, Ending> {
        let patience = self.shared.config.openclaw_patience;
        tokio::select! {
            line = self.shared.switchboard.up() => Ok(line),
            () = tokio::time::sleep(patience) => Err(self.given_up(ErrorName::AgentUnavailable)),
            () = self.stopped(), if !self.is_handed_over() => Err(self.wanted_ending()),
        }
    }

    fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::Relaxed)
    }

    fn hand_over(&self, is_handed_over: bool) {
        self.is_handed_over.store(is_handed_over, Ordering::Relaxed);
    }

    /// How a turn ends of which nothing more can be learnt.
    fn given_up(&self, name: ErrorName) -> Ending {
        Ending(match self.is_handed_over() {
            true => ErrorName::TurnLost,
            false => name,
        })
    }

    /// Finds out whether OpenClaw has the turn already, and catches up with it: `true` if it is under
    /// way there, `false` if it has to be sent. What a run has said so far is `wanted` unless its
    /// events have told it.
    async fn settle(&self, line: u64, wanted: bool) -> Result<Step<bool>, Ending> {
        let began = tokio::time::Instant::now();
        loop {
            let history = tokio::select! {
                history = self.history(line) => history?,
                () = self.stopped() => return self.stop(line).await,
            };
            let Some(history) = history else {
                return Ok(Step::LineDown);
            };
            let turns = &self.shared.turns;
            let standing =
                standing(&history, self.id).ok_or_else(|| self.given_up(ErrorName::AgentFailed))?;
            self.hand_over(!matches!(
                standing,
                Standing::Unknown | Standing::SessionBusy
            ));
            match standing {
                Standing::Unknown => return Ok(Step::Taken(false)),
                Standing::SessionBusy => return Err(Ending(ErrorName::TurnInProgress)),
                Standing::Running { run, text } => {
                    turns.change(|book| {
                        let is_new = book.adopt(self.id, &run);
                        if (wanted || is_new) && !text.is_empty() {
                            book.said(self.id, None, &text);
                        }
                    });
                    return Ok(Step::Taken(true));
                }
                Standing::Answered(_) | Standing::Failed | Standing::Unanswered
                    if is_interrupted(&history)
                        && began.elapsed() < self.shared.config.openclaw_patience =>
                {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Standing::Answered(text) => {
                    turns.change(|book| book.answer(self.id, &text));
                    return Ok(Step::Ended);
                }
                Standing::Aborted => {
                    turns.change(|book| book.aborted(self.id));
                    return Ok(Step::Ended);
                }
                Standing::Failed => {
                    return Err(turns.book().ending(self.id, Fault::Model(None)));
                }
                Standing::Unanswered if began.elapsed() > RESUMING => {
                    return Err(Ending(ErrorName::TurnLost));
                }
                Standing::Unanswered => tokio::time::sleep(POLL_INTERVAL).await,
            }
            // What the line says in the meantime may have ended it.
            if !turns.book().is_running(self.id) {
                return Ok(Step::Ended);
            }
        }
    }

    /// `None`: the line is down.
    async fn history(&self, line: u64) -> Result<Option<Value>, Ending> {
        let params = json!({"sessionKey": self.session, "limit": HISTORY_MESSAGES});
        let patience = self.shared.config.openclaw_patience;
        let asked = async {
            loop {
                let answer = self
                    .shared
                    .switchboard
                    .request(line, "chat.history", params.clone())
                    .await;
                match answer {
                    // Its first access to a database may take a while, and all it does at its start.
                    Err(
                        RequestError::Timeout
                        | RequestError::Refused {
                            is_temporary: true, ..
                        },
                    ) => tokio::time::sleep(POLL_INTERVAL).await,
                    answer => return answer,
                }
            }
        };
        let answer = tokio::time::timeout(patience, asked).await;
        self.judge(answer.unwrap_or(Err(RequestError::Timeout)))
    }

    /// Gives the turn to OpenClaw. The request isn't interrupted: a turn must not be stopped before
    /// it is known to have begun, since it could begin afterwards.
    async fn send(&self, line: u64, text: &str) -> Result<Step<()>, Ending> {
        let params = json!({
            "sessionKey": self.session,
            "message": text,
            "idempotencyKey": self.id.as_str(),
        });
        let patience = self.shared.config.openclaw_patience;
        let began = tokio::time::Instant::now();
        loop {
            self.hand_over(true);
            let asked = self
                .shared
                .switchboard
                .request(line, "chat.send", params.clone());
            let answer = tokio::time::timeout(patience, asked).await;
            let answer = answer.unwrap_or(Err(RequestError::Timeout));
            match answer {
                // Whether it has the turn all the same is for the history to say.
                Err(RequestError::Timeout) => return Ok(Step::LineDown),
                Err(RequestError::Refused { is_temporary, .. }) => {
                    self.hand_over(false);
                    // Before a restart of its own it finishes what it has, and takes nothing on.
                    if is_temporary && began.elapsed() < patience {
                        tokio::select! {
                            () = tokio::time::sleep(POLL_INTERVAL) => continue,
                            () = self.stopped() => return Err(self.wanted_ending()),
                        }
                    }
                }
                Ok(_) | Err(RequestError::LineDown) => {}
            }
            return Ok(match self.judge(answer)? {
                Some(_) => Step::Taken(()),
                None => Step::LineDown,
            });
        }
    }

    /// Waits for the end of a turn that is under way.
    async fn follow<T>(&self, line: u64, run: Run) -> Result<Step<T>, Ending> {
        let turns = &self.shared.turns;
        loop {
            let looks_again = tokio::select! {
                () = self.ended() => return Ok(Step::Ended),
                () = self.stopped() => return self.stop(line).await,
                () = self.shared.switchboard.down(line) => return Ok(Step::LineDown),
                () = turns.until(|book| book.is_settled(self.id).then_some(())) => false,
                () = tokio::time::sleep(LOOK_INTERVAL), if run == Run::Found => true,
            };
            if !looks_again {
                // The run is over, and OpenClaw is about to say how it ended, unless it tries again.
                tokio::select! {
                    () = self.ended() => return Ok(Step::Ended),
                    () = tokio::time::sleep(SETTLING) => {}
                }
                if !turns.book().is_settled(self.id) {
                    continue;
                }
            }
            match self.settle(line, false).await? {
                Step::Taken(true) => {}
                Step::Taken(false) => return Err(Ending(ErrorName::AgentFailed)),
                Step::LineDown => return Ok(Step::LineDown),
                Step::Ended => return Ok(Step::Ended),
            }
        }
    }

    async fn ended(&self) {
        let turns = &self.shared.turns;
        turns
            .until(|book| (!book.is_running(self.id)).then_some(()))
            .await;
    }

    async fn stopped(&self) {
        let turns = &self.shared.turns;
        turns
            .until(|book| book.is_stopping(self.id).then_some(()))
            .await;
    }

    /// Stops whatever the session runs. The turn ends when OpenClaw says that it has.
    async fn stop<T>(&self, line: u64) -> Result<Step<T>, Ending> {
        let turns = &self.shared.turns;
        let stopping = async {
            // Again and again: what a restart interrupted can be stopped only once it is resumed.
            loop {
                let params = json!({"key": self.session});
                let answer = self
                    .shared
                    .switchboard
                    .request(line, "sessions.abort", params)
                    .await;
                match answer {
                    Ok(_) => {}
                    Err(RequestError::LineDown) => return Step::LineDown,
                    Err(error) => {
                        tracing::warn!(turn = %self.id, %error, "a turn could not be stopped");
                        return Step::Ended;
                    }
                }
                let ended = tokio::time::timeout(ABORT_INTERVAL, self.ended()).await;
                if ended.is_ok() {
                    return Step::Ended;
                }
            }
        };
        match tokio::time::timeout(STOPPING, stopping).await {
            Ok(Step::LineDown) => return Ok(Step::LineDown),
            Ok(Step::Ended | Step::Taken(())) => {}
            Err(_) => {
                tracing::warn!(turn = %self.id, "a turn was stopped, and OpenClaw does not say so");
            }
        }
        turns.change(|book| book.aborted(self.id));
        Ok(Step::Ended)
    }

    fn wanted_ending(&self) -> Ending {
        self.shared
            .turns
            .book()
            .wanted_ending(self.id)
            .unwrap_or(Ending(ErrorName::TurnCancelled))
    }

    fn judge(&self, answer: Result<Value, RequestError>) -> Result<Option<Value>, Ending> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(RequestError::LineDown) => Ok(None),
            Err(error) => {
                tracing::warn!(turn = %self.id, %error, "OpenClaw does not take a turn");
                Err(self.given_up(match error {
                    RequestError::Timeout
                    | RequestError::Refused {
                        is_temporary: true, ..
                    } => ErrorName::AgentUnavailable,
                    _ => ErrorName::AgentFailed,
                }))
            }
        }
    }
}

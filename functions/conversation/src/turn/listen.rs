//! A turn in the sandbox, followed from its beginning to its end.

use std::{net::IpAddr, pin::pin, time::Duration};

use carapace_core::{
    ClaimName, Reason, SandboxName, TurnId,
    agent::{AgentState, Held},
    agentd::{ErrorBody, ErrorName, TurnEvent, TurnRequest},
    claim::{Reading, read},
    conversation::{Queued, TurnOutcome, words},
    ports::{Claims, Clock, Inbox, Ledger, Slack, TurnStream, TurnTrouble, Turns},
    reply,
};
use futures::future::{Either, select};

use super::{
    Halt, TurnError,
    shift::{Shift, after, span},
    speak::Spoken,
};
use crate::fault::{self, Moment, TURN_BEGIN, TURN_FINISH};

/// What the thread shows until the agent says something.
const THINKING: &str = "is thinking…";

/// What stands in the thread if the agent has nothing to say: a question without any answer looks
/// like one that got lost.
const NOTHING_SAID: &str = "(The agent gave no answer.)";

/// How often in a row an agent that should be there may not answer. The waits in between come to
/// seven seconds, in which an `agentd` that restarts is back.
const MOST_FAILURES: u32 = 4;

/// How long to wait for an agent that is there and has too much to do.
const BUSY: Duration = Duration::from_secs(2);

/// How long what there is of a turn takes to be told. Before, what is heard may be what the agent took
/// back since, and is not to stand in the thread again.
const CATCH_UP: Duration = Duration::from_millis(300);

/// The longest between two looks at the lease and the clock.
const LOOK: Duration = Duration::from_secs(10);

/// What has been heard of a turn.
#[derive(Debug, Default)]
struct Heard {
    text: String,
    outcome: Option<TurnOutcome>,
}

/// Why a turn is not under way.
enum Hitch {
    /// Nobody answers, or not as the user's agent would: it may be on its way up, or gone.
    Absent(String),
    /// There is no such agent: it has to be woken.
    Gone(String),
    /// It is there and does not take the turn yet.
    Busy(String),
    /// It does not take the turn at all, and this is what the user is told.
    Never(ErrorName),
    Failed(TurnError),
}

impl<E: Into<TurnError>> From<E> for Hitch {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl<T, C, S, A, K> Shift<'_, T, C, S, A, K>
where
    T: Ledger + Inbox,
    C: Claims,
    S: Slack,
    A: Turns,
    K: Clock,
{
    /// Takes the message in hand to its end.
    pub(super) async fn serve(&mut self, queued: &mut Queued) -> Result<(), Halt> {
        let user = queued.message.user_id.clone();
        if self.now() >= self.end {
            return Err(Halt::More);
        }
        self.take_in_hand(queued).await?;
        if queued.reply.parts.is_empty() {
            let asked = self.now();
            self.show(queued, THINKING).await;
            // The slice is longer by it: a Slack that takes a whole one must not keep the turn from
            // being begun, slice after slice.
            self.end = after(self.end, span(asked, self.now()));
        }
        let mut heard = Heard::default();
        // The number of the last event that was heard for the first time.
        let mut newest = 0;
        let mut stream: Option<A::Stream> = None;
        loop {
            self.renew(&user).await?;
            let now = self.now();
            if now >= self.end {
                return Err(Halt::More);
            }
            let whole = heard.outcome.is_some();
            let silent = reply::next(&queued.reply, &heard.text, whole).is_none();
            if let (true, Some(outcome)) = (silent, &heard.outcome) {
                return self.finish(queued, outcome, TURN_FINISH).await;
            }
            if !silent && now >= self.may_speak_at {
                let spoken = self.speak(queued, &heard.text, whole).await?;
                if let Spoken::Undeliverable(why) = spoken {
                    tracing::warn!(why, "the reply can't be delivered");
                    let outcome = failed("Undeliverable");
                    return self.finish(queued, &outcome, TURN_FINISH).await;
                }
                continue;
            }
            let mut wait = span(now, self.end).min(LOOK);
            if !silent {
                wait = wait.min(span(now, self.may_speak_at));
            }
            if whole {
                self.step.clock.sleep(wait).await;
                continue;
            }
            let mut following = match stream.take() {
                Some(stream) => stream,
                None => match self.begin_turn(queued).await {
                    Ok(stream) => {
                        let caught_up = after(self.now(), CATCH_UP);
                        self.may_speak_at = self.may_speak_at.max(caught_up);
                        stream
                    }
                    Err(Hitch::Never(error)) => {
                        heard.fail(error);
                        continue;
                    }
                    Err(hitch) => {
                        self.wait_for_agent(hitch, queued).await?;
                        continue;
                    }
                },
            };
            let next = {
                let sleep = pin!(self.step.clock.sleep(wait));
                match select(pin!(following.next()), sleep).await {
                    Either::Left((next, _)) => Some(next),
                    Either::Right(_) => None,
                }
            };
            match next {
                None => stream = Some(following),
                Some(Ok(Some((number, event)))) => {
                    // What was told before is no sign of life: it may end where it ended then.
                    if number > newest {
                        newest = number;
                        self.agent_failed = 0;
                    }
                    heard.take(event);
                    stream = Some(following);
                }
                // The line broke. Whoever begins the turn again is told all of it again.
                Some(broken) => {
                    heard.text.clear();
                    let why = match broken {
                        Err(TurnTrouble::Trouble(trouble)) => return Err(trouble.into()),
                        Err(trouble) => trouble.to_string(),
                        Ok(_) => "the stream of a turn ended before the turn".to_owned(),
                    };
                    self.wait_for_agent(Hitch::Absent(why), queued).await?;
                }
            }
        }
    }

    /// Begins the turn of the message in hand. The same again is the same turn.
    async fn begin_turn(&self, queued: &Queued) -> Result<A::Stream, Hitch> {
        let message = &queued.message;
        let (sandbox, address) = self.agent(queued).await?;
        let id = TurnId::parse(message.id.as_str());
        let id = id.map_err(|error| TurnError::Refused(error.to_string()))?;
        let request = TurnRequest {
            id,
            conversation: self.key.id.clone(),
            text: message.text.clone(),
        };
        fault::point(&message.user_id, TURN_BEGIN, Moment::Before);
        let begun = self
            .step
            .turns
            .begin(&sandbox, address, &self.key.user, &request)
            .await;
        fault::point(&message.user_id, TURN_BEGIN, Moment::After);
        match begun {
            Ok(stream) => Ok(stream),
            Err(TurnTrouble::Unreachable(why)) => Err(Hitch::Absent(why)),
            Err(TurnTrouble::Refused(body)) => Err(refused(&body)),
            Err(TurnTrouble::Trouble(trouble)) => Err(trouble.into()),
        }
    }

    /// Where the user's agent is, if it is there: a record says what was, the claim what is. An
    /// address is only as good as the moment it was read; the next pod to have it must not be told
    /// what somebody said.
    async fn agent(&self, queued: &Queued) -> Result<(SandboxName, IpAddr), Hitch> {
        let user = &self.key.user;
        let known = self.step.table.load(user, &queued.message.id).await?;
        let AgentState::Ready(Held { assigned, .. }) = known.agent.state else {
            return Err(Hitch::Gone("the agent is not ready".to_owned()));
        };
        let claim = self.step.claims.find(&ClaimName::of(user)).await?;
        let Some(claim) = claim.filter(|claim| claim.uid == assigned.uid && !claim.terminating)
        else {
            return Err(Hitch::Gone("the agent's claim is gone".to_owned()));
        };
        match read(&claim, self.now()) {
            Reading::Ready { sandbox, address } if sandbox == assigned.sandbox => {
                Ok((sandbox, address))
            }
            Reading::Wait { reason, .. } => {
                Err(Hitch::Absent(format!("the sandbox is not ready: {reason}")))
            }
            _ => Err(Hitch::Gone("the agent's sandbox is gone".to_owned())),
        }
    }

    /// Waits as long as it makes sense for an agent that does not answer as it should.
    async fn wait_for_agent(&mut self, hitch: Hitch, queued: &Queued) -> Result<(), Halt> {
        let absent = matches!(hitch, Hitch::Absent(_));
        let (why, wait) = match hitch {
            Hitch::Gone(why) => {
                tracing::info!(why, "the agent has to be woken");
                return Err(Halt::Asleep);
            }
            Hitch::Absent(why) => {
                self.agent_failed += 1;
                if self.agent_failed >= MOST_FAILURES {
                    tracing::warn!(why, "the agent has to be woken");
                    return Err(Halt::Asleep);
                }
                (why, Duration::from_secs(1 << (self.agent_failed - 1)))
            }
            Hitch::Busy(why) => (why, BUSY),
            Hitch::Never(error) => (format!("{error:?}"), BUSY),
            Hitch::Failed(error) => return Err(Halt::Failed(error)),
        };
        tracing::info!(why, "the agent is waited for");
        match (self.rest(wait, &queued.message.user_id).await?, absent) {
            (true, _) => Ok(()),
            (false, true) => Err(Halt::Asleep),
            (false, false) => Err(Halt::More),
        }
    }
}

/// What it means that `agentd` does not take a turn.
fn refused(body: &ErrorBody) -> Hitch {
    let why = format!("{:?}, {}", body.error, body.message);
    match body.error {
        ErrorName::TurnInProgress
        | ErrorName::TooManyTurns
        | ErrorName::NotReady
        | ErrorName::RequestTimeout => Hitch::Busy(why),
        // Not this user's sandbox (any more), or one that can't tell: another one has to be found.
        ErrorName::NotBound
        | ErrorName::WrongUser
        | ErrorName::BoundToAnother
        | ErrorName::BindingUnreadable
        | ErrorName::BindingNotStored
        | ErrorName::KeysUnavailable
        | ErrorName::AgentUnavailable
        | ErrorName::GatewayUnreachable => Hitch::Absent(why),
        ErrorName::TurnMismatch
        | ErrorName::BodyTooLarge
        | ErrorName::TurnCancelled
        | ErrorName::TurnTimedOut
        | ErrorName::TurnLost
        | ErrorName::AgentFailed
        | ErrorName::ModelKeyRejected
        | ErrorName::ModelRateLimited
        | ErrorName::ModelBudgetExceeded
        | ErrorName::ModelUnavailable => Hitch::Never(body.error),
        // A fault of ours: of the token, or of how the daemon is called.
        ErrorName::InvalidToken
        | ErrorName::NotAllowed
        | ErrorName::MalformedRequest
        | ErrorName::TurnNotFound
        | ErrorName::NotFound
        | ErrorName::MethodNotAllowed
        | ErrorName::Unknown => Hitch::Failed(TurnError::Refused(why)),
    }
}

impl Heard {
    fn take(&mut self, event: TurnEvent) {
        match event {
            TurnEvent::Delta { text } => self.text.push_str(&text),
            TurnEvent::Text { text } => self.text = text,
            TurnEvent::Activity { .. } => {}
            TurnEvent::Done { text } => {
                self.text = text;
                if self.text.trim().is_empty() {
                    NOTHING_SAID.clone_into(&mut self.text);
                }
                self.outcome = Some(TurnOutcome::Answered);
            }
            TurnEvent::Error(body) => self.fail(body.error),
        }
    }

    /// What the agent has said so far stands; why there is no more follows it.
    fn fail(&mut self, error: ErrorName) {
        if self.text.trim().is_empty() {
            self.text.clear();
        } else {
            self.text.push_str("\n\n");
        }
        self.text.push_str(words(error));
        self.outcome = Some(failed(&format!("{error:?}")));
    }
}

fn failed(name: &str) -> TurnOutcome {
    TurnOutcome::Failed(Reason::of_error(name))
}

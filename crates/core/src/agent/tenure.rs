//! The beginning and the end of an agent's time: its user signs in for the first time, and one day
//! is a user no more.

use jiff::Timestamp;

use crate::{
    EventId, Reason,
    agent::{AgentState, Input, Known, Next, Retirement},
    allowance::Allowance,
    history::Fact,
};

/// A user has signed in, and Cognito says that the account is theirs and may be used.
#[derive(Debug, Clone)]
pub struct Onboard {
    /// The event.
    pub event: EventId,
    /// What the user may spend, unless that was settled before.
    pub allowance: Allowance,
}

/// What came of an [`Onboard`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnboardAct {
    /// The user has an agent, from now on.
    Onboarded,
    /// The user had one before.
    Known,
    /// What they had before is still being removed: look again later.
    StillRetiring,
}

impl Input for Onboard {
    type Act = OnboardAct;

    fn event(&self) -> &EventId {
        &self.event
    }

    fn next(&self, known: &Known, _now: Timestamp) -> Next<OnboardAct> {
        let agent = &known.agent;
        let state = match &agent.state {
            AgentState::Retiring(_) => return Next::act(OnboardAct::StillRetiring),
            AgentState::Retired(_) => AgentState::Absent,
            _ if agent.allowance.is_some() => return Next::act(OnboardAct::Known),
            // It was asked for before its user signed in.
            other => other.clone(),
        };
        let fact = Fact::Onboarded {
            event: self.event.clone(),
            allowance: self.allowance,
        };
        Next::act(OnboardAct::Onboarded)
            .becomes(state, fact)
            .allowed(self.allowance)
    }
}

/// A user is one no more: the account was deleted or disabled, and Cognito has confirmed that.
#[derive(Debug, Clone)]
pub struct Retire {
    /// The event.
    pub event: EventId,
    /// Why.
    pub reason: Reason,
}

/// What to do about a [`Retire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireAct {
    /// Take away all that the user has, then announce it.
    Retire,
    /// It was taken away and announced before. A disabled account may have been deleted since, so
    /// see to what is kept of it.
    Purge,
    /// This event has come to its end; that may not have been announced yet.
    Announce,
}

impl Input for Retire {
    type Act = RetireAct;

    fn event(&self) -> &EventId {
        &self.event
    }

    /// The intent is recorded before the deed: once it is, nothing is claimed, bound or put into an
    /// inbox for this user any more, so that what is taken away stays away.
    fn next(&self, known: &Known, _now: Timestamp) -> Next<RetireAct> {
        if known.outcome.is_some() {
            return Next::act(RetireAct::Announce);
        }
        match &known.agent.state {
            AgentState::Retired(_) => Next::act(RetireAct::Purge),
            // Another event may have died at it. Both do the same, and it may be done twice.
            AgentState::Retiring(_) => Next::act(RetireAct::Retire),
            _ => {
                let retirement = Retirement {
                    event: self.event.clone(),
                    reason: self.reason.clone(),
                };
                let fact = Fact::RetireStarted {
                    event: self.event.clone(),
                    reason: self.reason.clone(),
                };
                Next::act(RetireAct::Retire).becomes(AgentState::Retiring(retirement), fact)
            }
        }
    }
}

/// Whether what a user has is still to be taken away. `true`: it is.
#[derive(Debug, Clone)]
pub struct StillRetiring {
    /// The event.
    pub event: EventId,
}

impl Input for StillRetiring {
    type Act = bool;

    fn event(&self) -> &EventId {
        &self.event
    }

    fn next(&self, known: &Known, _now: Timestamp) -> Next<bool> {
        Next::act(matches!(known.agent.state, AgentState::Retiring(_)))
    }
}

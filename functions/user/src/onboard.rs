//! `user-onboard`: give whoever signed in a record, an allowance, and the name of their account.
//!
//! The account's name is kept before the record is made: a user with a record but without a name is
//! one whom nobody can ask the user pool about when they are to be removed.

use carapace_control_plane::{directory::UserPoolId, from_trouble, log, named, settle::settle};
use carapace_core::{
    Sub, UserKey,
    agent::{Onboard, OnboardAct},
    allowance::Allowance,
    event::{EventRejected, UserSignedIn},
    identity::{IdentityKey, Policies, Username},
    ports::{Clock, Ledger, Registration, Registrations, Roster, Trouble},
    slack::profile::Account,
};
use lambda_runtime::Diagnostic;
use serde_json::Value;
use tracing::Instrument;

use crate::{
    fault::{self, Moment, ONBOARD_RECORD, ONBOARD_REGISTER},
    wire::{self, OnboardPayload, Signed, SignedIn},
};

/// The step.
pub struct OnboardUser<T, R, P, K> {
    /// The table.
    pub table: T,
    /// The accounts.
    pub roster: R,
    /// Where the sign-up policy is; it says whose mailbox an address is.
    pub policies: P,
    /// The clock.
    pub clock: K,
    /// Where they are signed up, which is a part of who they are.
    pub pool: UserPoolId,
    /// What a new user may spend.
    pub allowance: Allowance,
}

/// Why nobody became a user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnboardError {
    /// The event can't be read.
    #[error(transparent)]
    EventRejected(#[from] EventRejected),
    /// What they had is still being taken away: call again.
    #[error("the agent of {0} is still being retired; what is made now would be deleted with it")]
    StillRetiring(UserKey),
    /// The event contradicts itself, or is about another user pool.
    #[error(
        "the account that the event names has another user key than {0} in the user pool {1}: the \
         event is of another pool, or was not put on the bus by pre-token"
    )]
    WrongUser(UserKey, UserPoolId),
    /// Something that this depends on is not there at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// Something that this depends on does not let us.
    #[error("{0}")]
    Refused(String),
}

named!(OnboardError: EventRejected, StillRetiring, WrongUser, Unavailable, Refused);

from_trouble!(OnboardError);

impl<T, R, P, K> OnboardUser<T, R, P, K>
where
    T: Ledger + Registrations,
    R: Roster,
    P: Policies,
    K: Clock,
{
    /// Answers one invocation.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        let step = async {
            let OnboardPayload { event } = wire::read(payload)?;
            wire::write(&self.onboard(&event).await?)
        };
        step.instrument(log::step("onboard")).await
    }

    /// Makes whoever signed in a user, if they aren't one.
    pub async fn onboard(&self, event: &Value) -> Result<Signed, OnboardError> {
        let sign_in = UserSignedIn::from_event(event)?;
        let user = &sign_in.user_key;
        log::about(user, &sign_in.id, sign_in.correlation_id.as_ref());
        let outcome = self.outcome(&sign_in).await?;
        tracing::info!(?outcome, "a sign-in");
        Ok(Signed {
            outcome,
            user_key: sign_in.user_key,
        })
    }

    async fn outcome(&self, sign_in: &UserSignedIn) -> Result<SignedIn, OnboardError> {
        let user = &sign_in.user_key;
        let (username, account) = match self.standing(&sign_in.sub).await? {
            Ok(standing) => standing,
            Err(outcome) => return Ok(outcome),
        };
        if UserKey::derive(self.pool.as_str(), &account.sub) != *user {
            return Err(OnboardError::WrongUser(user.clone(), self.pool.clone()));
        }
        if self.register(user, username, &account).await? {
            // A removal that was at work until now knew of nobody to remove.
            if let Err(outcome) = self.standing(&sign_in.sub).await? {
                return Ok(outcome);
            }
        }
        let onboard = Onboard {
            event: sign_in.id.clone(),
            allowance: self.allowance,
        };
        let point = fault::at(user, ONBOARD_RECORD);
        match settle(&self.table, &self.clock, user, &onboard, point).await? {
            OnboardAct::Onboarded => Ok(SignedIn::Onboarded),
            OnboardAct::Known => Ok(SignedIn::Known),
            OnboardAct::StillRetiring => Err(OnboardError::StillRetiring(user.clone())),
        }
    }

    /// The account, if it may be used, or what comes of its sign-in.
    async fn standing(&self, sub: &Sub) -> Result<Result<(Username, Account), SignedIn>, Trouble> {
        Ok(match self.roster.by_sub(sub).await? {
            None => Err(SignedIn::NoAccount),
            Some((_, account)) if !account.enabled => Err(SignedIn::Disabled),
            Some(standing) => Ok(standing),
        })
    }

    /// Keeps the account's name, and whose mailbox it has. Answers whether that is news.
    async fn register(
        &self,
        user: &UserKey,
        username: Username,
        account: &Account,
    ) -> Result<bool, Trouble> {
        let before = self.table.registration(user).await?;
        let policy = self.policies.policy().await?;
        // An address that the policy has blocked since is nobody's now; whose it was stays known.
        let mailbox = account.address.as_ref();
        let mailbox = mailbox.and_then(|address| policy.identity(address).ok());
        let identity = mailbox.map(|mailbox| IdentityKey::derive(self.pool.as_str(), &mailbox));
        let registration = Registration {
            username,
            identity: identity.or_else(|| before.as_ref()?.identity.clone()),
        };
        if before.as_ref() == Some(&registration) {
            return Ok(false);
        }
        fault::point(user, ONBOARD_REGISTER, Moment::Before);
        self.table.save_registration(user, &registration).await?;
        fault::point(user, ONBOARD_REGISTER, Moment::After);
        Ok(true)
    }
}

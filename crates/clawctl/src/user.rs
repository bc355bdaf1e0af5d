//! One user: finding them, showing them, removing them.
//!
//! An account is found by its address or, by way of the name that the table keeps, by its user
//! key. A name may come to be somebody else's: an identity provider's user who was deleted and signs
//! in again has the same name, another `sub`, and so another key. So an account that is found by a
//! key must make that key; otherwise the one that was meant is gone.

use std::{future::Future, io::Write};

use carapace_core::{
    EventId, UserKey,
    agent::{AgentRecord, AgentState, Version},
    email::EmailAddress,
    event::{UserDeleted, VERSION},
    identity::Username,
    ports::Trouble,
};
use jiff::Timestamp;

use crate::{cli::Who, failure::Failure};

#[cfg(test)]
mod tests;

/// An account of the user pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its name in the pool.
    pub username: Username,
    /// Whose it is.
    pub user: UserKey,
    /// Its address as Cognito has it, if it has one.
    pub address: Option<String>,
    /// Cognito's word for how far sign-up has come.
    pub status: String,
    /// Whether its owner can sign in.
    pub enabled: bool,
}

/// What a deployment can do for an operator.
pub(crate) trait Deployment {
    /// The accounts with this address.
    fn by_address(
        &self,
        address: &EmailAddress,
    ) -> impl Future<Output = Result<Vec<Account>, Trouble>>;

    /// The account of this name.
    fn by_name(
        &self,
        username: &Username,
    ) -> impl Future<Output = Result<Option<Account>, Trouble>>;

    /// The name of the account that a user was onboarded with.
    fn registered(&self, user: &UserKey)
    -> impl Future<Output = Result<Option<Username>, Trouble>>;

    /// The record of a user's agent. `question` is the id of an event that never was.
    fn agent(
        &self,
        user: &UserKey,
        question: &EventId,
    ) -> impl Future<Output = Result<AgentRecord, Trouble>>;

    /// Locks the owner of an account out. One that is gone is no trouble.
    fn disable(&self, username: &Username) -> impl Future<Output = Result<(), Trouble>>;

    /// Deletes an account. One that is gone is no trouble.
    fn delete(&self, username: &Username) -> impl Future<Output = Result<(), Trouble>>;

    /// Puts the event on the bus; when this returns, it is accepted.
    fn say(&self, event: &UserDeleted) -> impl Future<Output = Result<(), Trouble>>;

    /// The name of the bus.
    fn bus(&self) -> &str;
}

/// How somebody is to be removed.
#[derive(Debug)]
pub(crate) struct How {
    /// Disable the account, and leave it.
    pub keep_account: bool,
    /// Who has to agree.
    pub ask: Ask,
    /// The id of the event.
    pub id: EventId,
    /// The time of the event.
    pub at: Timestamp,
}

/// Who has to agree before anything is changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// Nobody.
    Nobody,
    /// Whoever answers this.
    With(fn(&str) -> Result<bool, Failure>),
}

/// A user, and the account that they have if they have one.
struct Found {
    user: UserKey,
    account: Option<Account>,
}

/// Shows a user. `question` is the id of an event that never was.
pub(crate) async fn show(
    deployment: &impl Deployment,
    who: &Who,
    question: EventId,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let Found { user, account } = find(deployment, who).await?;
    let agent = deployment.agent(&user, &question).await;
    let agent = agent.map_err(untouched(format!("reading the agent of {user}")))?;
    let unheard_of = agent.version == Version::default();
    if account.is_none() && unheard_of {
        return Err(Failure::Nobody(user));
    }
    writeln!(out, "User {user}\n")?;
    match &account {
        Some(account) => {
            let address = account.address.as_deref().unwrap_or("none");
            let enabled = if account.enabled {
                "enabled"
            } else {
                "disabled"
            };
            writeln!(out, "  Address:  {address}")?;
            writeln!(
                out,
                "  Account:  {}, {}, {enabled}",
                account.username.as_str(),
                account.status
            )?;
        }
        None => writeln!(out, "  Account:  none")?,
    }
    if unheard_of {
        writeln!(out, "  Agent:    none")?;
        return Ok(());
    }
    writeln!(out, "  Agent:    {}", in_words(&agent.state))?;
    if let Some(allowance) = agent.allowance {
        writeln!(
            out,
            "  Budget:   {} USD in {} days, {} requests and {} tokens a minute",
            allowance.budget_usd,
            allowance.budget_days,
            allowance.requests_per_minute,
            allowance.tokens_per_minute
        )?;
    }
    writeln!(out, "  Changed:  {}", agent.updated_at)?;
    Ok(())
}

/// Removes a user: deletes the account, or disables it if it is to stay, and says so. In this order:
/// what hears of it looks at the account, and takes nothing from somebody whose account stands.
pub(crate) async fn remove(
    deployment: &impl Deployment,
    who: &Who,
    how: How,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let Found { user, account } = find(deployment, who).await?;
    if let Ask::With(agrees) = how.ask
        && !agrees(&question(&user, account.as_ref(), how.keep_account))?
    {
        return Err(Failure::Declined);
    }
    let state = match &account {
        None => {
            writeln!(out, "gone      no account is known for {user}")?;
            "gone"
        }
        Some(Account { username, .. }) => {
            let (state, done) = if how.keep_account {
                ("disabled", deployment.disable(username).await)
            } else {
                ("deleted", deployment.delete(username).await)
            };
            done.map_err(|trouble| Failure::NotEnded {
                state,
                username: username.clone(),
                user: user.clone(),
                trouble,
            })?;
            writeln!(out, "{state:<10}account {}", username.as_str())?;
            state
        }
    };
    let event = UserDeleted {
        version: VERSION,
        id: how.id,
        at: how.at,
        user_key: user.clone(),
        correlation_id: None,
    };
    deployment
        .say(&event)
        .await
        .map_err(|trouble| Failure::NotSaid {
            state,
            bus: deployment.bus().to_owned(),
            user: user.clone(),
            trouble,
        })?;
    writeln!(
        out,
        "said      `User Deleted` {} on the bus {}",
        event.id,
        deployment.bus()
    )?;
    writeln!(
        out,
        "\nThe state machine user-offboard takes away what the user has. When it has,\n\
         `clawctl user show {user}` says that the agent is Retired."
    )?;
    Ok(())
}

async fn find(deployment: &impl Deployment, who: &Who) -> Result<Found, Failure> {
    match who {
        Who::Address(address) => by_address(deployment, address).await,
        Who::Key(user) => by_key(deployment, user).await,
    }
}

async fn by_address(
    deployment: &impl Deployment,
    address: &EmailAddress,
) -> Result<Found, Failure> {
    let accounts = deployment.by_address(address).await;
    let accounts = accounts.map_err(untouched(format!("looking for the account of {address}")))?;
    let mut accounts = accounts.into_iter();
    match (accounts.next(), accounts.len()) {
        (None, _) => Err(Failure::NoAccount(address.clone())),
        (Some(account), 0) => Ok(Found {
            user: account.user.clone(),
            account: Some(account),
        }),
        (Some(first), _) => Err(Failure::Several {
            address: address.clone(),
            keys: std::iter::once(first)
                .chain(accounts)
                .map(|a| a.user)
                .collect(),
        }),
    }
}

async fn by_key(deployment: &impl Deployment, user: &UserKey) -> Result<Found, Failure> {
    let name = deployment.registered(user).await;
    let name = name.map_err(untouched(format!("reading which account {user} has")))?;
    let account = match &name {
        Some(name) => deployment.by_name(name).await,
        None => Ok(None),
    };
    let account = account.map_err(untouched(format!("looking for the account of {user}")))?;
    Ok(Found {
        user: user.clone(),
        account: account.filter(|account| account.user == *user),
    })
}

fn question(user: &UserKey, account: Option<&Account>, keep_account: bool) -> String {
    let Some(account) = account else {
        return format!("No account is known for {user}. Take away what else the user has?");
    };
    let address = account.address.as_deref();
    let name = address.unwrap_or(account.username.as_str());
    let verb = if keep_account { "Disable" } else { "Delete" };
    format!("{verb} the account of {name} and take away all that user {user} has?")
}

fn in_words(state: &AgentState) -> String {
    match state {
        AgentState::Retiring(why) | AgentState::Retired(why) => {
            format!(
                "{}, {}, by the event {}",
                state.name(),
                why.reason,
                why.event
            )
        }
        AgentState::Failed { event, reason } => {
            format!("{}, {reason}, on the event {event}", state.name())
        }
        _ => state.name().to_owned(),
    }
}

fn untouched(doing: String) -> impl FnOnce(Trouble) -> Failure {
    |trouble| Failure::Untouched { doing, trouble }
}

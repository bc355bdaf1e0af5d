//! What an operator is told when it does not work.

use std::process::ExitCode;

use carapace_core::{UserKey, email::EmailAddress, identity::Username, ports::Trouble};

/// The parameter of Systems Manager that says where everything is.
pub(crate) const SETTINGS: &str = "/carapace/clawctl";

/// Why a command did not do what it was asked. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There are no settings, or not for us.
    #[error(
        "the parameter {SETTINGS} cannot be read: {0}; name the account and the region that \
         Carapace is deployed to with --profile and --region"
    )]
    NoSettings(Trouble),
    /// There is something else where the settings should be.
    #[error(
        "the parameter {SETTINGS} is not what `cdk deploy` writes there: {0}; deploy the stack \
         CarapaceControlPlane again"
    )]
    BadSettings(String),
    /// The user pool has nobody with this address.
    #[error(
        "no account has the address {0}; somebody whose account is gone already is named by their \
         user key"
    )]
    NoAccount(EmailAddress),
    /// It has several.
    #[error(
        "{} accounts have the address {address}; name the one by its user key: {}",
        keys.len(),
        listed(keys)
    )]
    Several {
        /// The address.
        address: EmailAddress,
        /// Whose they are.
        keys: Vec<UserKey>,
    },
    /// Neither the user pool nor the table knows this key.
    #[error(
        "nothing is known of the user key {0}; whoever has not signed in yet is named by their \
         address"
    )]
    Nobody(UserKey),
    /// Nobody is there who could be asked.
    #[error("standard input is no terminal, so nobody can confirm this; say --yes")]
    NobodyToAsk,
    /// The operator has thought better of it.
    #[error("nothing was changed")]
    Declined,
    /// A call failed, and nothing had been changed.
    #[error("{doing}: {trouble}; nothing was changed")]
    Untouched {
        /// What was going on.
        doing: String,
        /// What came of it.
        trouble: Trouble,
    },
    /// Ending the account failed. A call that was not answered may have done what it was to do.
    #[error(
        "the account {} was not {state}, or not for sure: {trouble}; nothing else was changed; run the \
         same command again, with the user key {user} if the account turns out to be gone",
        username.as_str()
    )]
    NotEnded {
        /// What it was to be: `deleted` or `disabled`.
        state: &'static str,
        /// The account.
        username: Username,
        /// Whose it is.
        user: UserKey,
        /// Why.
        trouble: Trouble,
    },
    /// The account is as it was to be, and the platform has not heard of it from us.
    #[error(
        "the account is {state}, but `User Deleted` is not on the bus {bus}: {trouble}; where a \
         trail of CloudTrail logs management events, the platform hears of it within some minutes all \
         the same; to be sure, run `clawctl user remove {user}{}`",
        if *state == "disabled" { " --disable" } else { "" }
    )]
    NotSaid {
        /// `deleted`, `disabled` or `gone`.
        state: &'static str,
        /// The bus.
        bus: String,
        /// Whose account it is, or was.
        user: UserKey,
        /// Why.
        trouble: Trouble,
    },
    /// Standard input or output is gone.
    #[error("the terminal: {0}")]
    Terminal(#[from] std::io::Error),
}

impl Failure {
    /// 3 if something was changed, or may have been, and the command is to be run again; otherwise 1.
    /// A command line that makes no sense is 2.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotEnded { .. } | Self::NotSaid { .. } => ExitCode::from(3),
            _ => ExitCode::from(1),
        }
    }
}

fn listed(keys: &[UserKey]) -> String {
    let keys: Vec<&str> = keys.iter().map(UserKey::as_str).collect();
    keys.join(", ")
}

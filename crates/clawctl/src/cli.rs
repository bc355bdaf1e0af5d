//! The command line, and what it sets off.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    str::FromStr,
};

use carapace_core::{EventId, UserKey, email::EmailAddress, quoted};
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use ulid::Ulid;

use crate::{
    aws::{Deployed, sdk_config},
    failure::Failure,
    user::{self, Ask, How},
};

/// Looks after the users of a Carapace
///
/// It works with the AWS account and the region that Carapace is deployed to, and finds everything
/// else in the parameter /carapace/clawctl, which `cdk deploy` writes. Credentials come from where
/// the AWS SDKs look for them: the environment, ~/.aws/config and ~/.aws/credentials, or the
/// machine's role. For a profile of IAM Identity Center, sign in with the AWS CLI first and hand its
/// credentials over:
///
///   eval "$(aws configure export-credentials --format env)"
#[derive(Debug, Parser)]
#[command(
    name = "clawctl",
    version,
    verbatim_doc_comment,
    after_long_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The region [default: AWS_REGION, or the profile's]
    #[arg(long, global = true, value_name = "REGION")]
    region: Option<String>,
    /// The profile of ~/.aws/config [default: AWS_PROFILE, or `default`]
    #[arg(long, global = true, value_name = "PROFILE")]
    profile: Option<String>,
}

const EXIT_CODES: &str = "\
Exit status:
  0  it is done
  1  it is not done, and nothing was changed
  2  the command line makes no sense
  3  something was changed, or may have been: run the command again for the rest";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show or remove a user
    #[command(subcommand)]
    User(UserCommand),
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Show a user's account, the state of their agent and what they may spend
    ///
    /// Changes nothing. Needs ssm:GetParameter on /carapace/clawctl, cognito-idp:ListUsers and
    /// cognito-idp:AdminGetUser on the user pool, and dynamodb:GetItem on the table.
    Show {
        /// The user's e-mail address, or their user key: the 20 characters in the name of their
        /// claim, agent-<USER KEY>
        #[arg(value_name = "ADDRESS|USER KEY")]
        user: Who,
    },
    /// Remove a user: account, sandbox, model key, Slack links and messages
    ///
    /// The account is deleted, which locks the user out at once. `User Deleted` goes on the bus, and the
    /// state machine user-offboard takes away what the user has. What must stay for an audit stays
    /// under the user key, without anything personal; docs/operations.md says what.
    ///
    /// Doing it again changes nothing. Somebody whose account is gone already is named by their
    /// user key; what may be left of them is taken away then.
    ///
    /// Needs what `user show` needs, cognito-idp:AdminDeleteUser on the user pool, or
    /// cognito-idp:AdminDisableUser with --disable, and events:PutEvents on the bus.
    Remove {
        /// The user's e-mail address, or their user key: the 20 characters in the name of their
        /// claim, agent-<USER KEY>
        #[arg(value_name = "ADDRESS|USER KEY")]
        user: Who,
        /// Leave the account, disabled: the address cannot sign up anew. Once it is enabled, the user
        /// who signs in gets an agent again, an empty one
        #[arg(long)]
        disable: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// A user, as an operator names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// By their address.
    Address(EmailAddress),
    /// By what the platform calls them.
    Key(UserKey),
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            let address = EmailAddress::parse(text);
            return address
                .map(Self::Address)
                .map_err(|error| format!("{} is no e-mail address: {error}", quoted(text)));
        }
        UserKey::parse(text)
            .map(Self::Key)
            .map_err(|error| format!("{error}, or name an e-mail address"))
    }
}

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let config = Box::pin(sdk_config(cli.region, cli.profile)).await;
    let deployed = Box::pin(Deployed::find(config)).await?;
    let out = &mut io::stdout().lock();
    let Command::User(command) = cli.command;
    match command {
        UserCommand::Show { user } => user::show(&deployed, &user, new_event_id(), out).await,
        UserCommand::Remove { user, disable, yes } => {
            let how = How {
                keep_account: disable,
                ask: if yes { Ask::Nobody } else { Ask::With(confirm) },
                id: new_event_id(),
                at: Timestamp::now(),
            };
            user::remove(&deployed, &user, how, out).await
        }
    }
}

fn new_event_id() -> EventId {
    // Letters, digits and a dot: always an event's id.
    EventId::parse(format!("clawctl.{}", Ulid::generate())).unwrap_or_else(|_| unreachable!())
}

/// Whether whoever sits at the terminal says yes.
fn confirm(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::NobodyToAsk);
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["clawctl", "user", "remove", "Ada@Example.com", "-y"]);
        let Command::User(UserCommand::Remove { user, disable, yes }) = cli.command else {
            panic!("another command");
        };
        assert!(matches!(user, Who::Address(address) if address.to_string() == "Ada@example.com"));
        assert!(yes && !disable);
    }

    #[test]
    fn a_user_is_named_by_an_address_or_a_key_and_by_nothing_else() {
        let key = "abcdefghijklmnopqr23";
        assert_eq!(key.parse(), Ok(Who::Key(UserKey::parse(key).unwrap())));
        for text in [
            "",
            "ada",
            "agent-abcdefghijklmnopqr23",
            "a@b",
            "\"ada\"@example.com",
        ] {
            assert!(text.parse::<Who>().is_err(), "{text}");
        }
        let refused = "ada".parse::<Who>().unwrap_err();
        assert!(refused.contains("\"ada\" is not a user key"), "{refused}");
        assert!(refused.ends_with("or name an e-mail address"), "{refused}");
    }

    #[test]
    fn an_event_s_id_says_who_made_it() {
        assert!(new_event_id().as_str().starts_with("clawctl."));
        assert_ne!(new_event_id(), new_event_id());
    }
}

//! The functions' configuration, and the functions made from it.

use std::{num::ParseIntError, str::FromStr, sync::Arc, time::Duration};

use carapace_control_plane::{
    agentd::AgentdClient,
    aws::Aws,
    claims::ClaimApi,
    config::{Environment, Misconfigured, from_process},
    directory::{UserPool, UserPoolId},
    identities::IdentityTable,
    jwt::{SigningKeyId, TokenSigner},
    kubernetes::claims,
    parameters::PolicyParameter,
    slack::{BotTokenSecret, SlackApi, SlackApiUrl},
    table::AgentTable,
    time::SystemClock,
};

use crate::{accept::AcceptMessage, turn::ServeInbox};

/// `conversation-accept`, as it is deployed.
pub type ConversationAccept =
    AcceptMessage<AgentTable, SlackApi, PolicyParameter, IdentityTable, UserPool, SystemClock>;
/// `conversation-turn`, as it is deployed.
pub type ConversationTurn = ServeInbox<AgentTable, ClaimApi, SlackApi, AgentdClient, SystemClock>;

/// `conversation-accept` from `TABLE_NAME`, `USER_POOL_ID`, `SIGN_UP_POLICY_PARAMETER` and Slack's
/// variables.
pub fn conversation_accept() -> Result<ConversationAccept, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required::<String>("TABLE_NAME");
        let pool = environment.required::<UserPoolId>("USER_POOL_ID");
        let parameter = environment.required("SIGN_UP_POLICY_PARAMETER");
        let slack = slack(environment, &aws);
        let (table, pool) = (table?, pool?);
        Some(AcceptMessage {
            table: AgentTable::new(Arc::clone(&aws), table.clone()),
            slack: slack?,
            policies: PolicyParameter::new(Arc::clone(&aws), parameter?),
            identities: IdentityTable::new(Arc::clone(&aws), table),
            directory: UserPool::new(Arc::clone(&aws), pool.clone()),
            clock: SystemClock,
            pool,
        })
    })
}

/// `conversation-turn` from `TABLE_NAME`, `SIGNING_KEY_ID`, `TURN_SLICE_SECONDS`, Slack's variables
/// and the cluster's.
pub fn conversation_turn() -> Result<ConversationTurn, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let key = environment.required::<SigningKeyId>("SIGNING_KEY_ID");
        let slice = environment.required::<Slice>("TURN_SLICE_SECONDS");
        let slack = slack(environment, &aws);
        let claims = claims(environment, &aws);
        Some(ServeInbox {
            table: AgentTable::new(Arc::clone(&aws), table?),
            claims: claims?,
            slack: slack?,
            turns: AgentdClient::new(TokenSigner::new(Arc::clone(&aws), key?)),
            clock: SystemClock,
            slice: slice?.0,
        })
    })
}

/// How long an invocation serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice(Duration);

/// A text that is no slice's length.
#[derive(Debug, thiserror::Error)]
enum NotASlice {
    #[error("it must be a number of seconds")]
    NotANumber(#[from] ParseIntError),
    /// Lambda ends a function after 15 minutes, and a slice needs some time to end well.
    #[error("it must be 1 to 840 seconds")]
    OutOfBounds,
}

impl FromStr for Slice {
    type Err = NotASlice;

    fn from_str(text: &str) -> Result<Self, NotASlice> {
        let seconds: u64 = text.parse()?;
        if (1..=840).contains(&seconds) {
            Ok(Self(Duration::from_secs(seconds)))
        } else {
            Err(NotASlice::OutOfBounds)
        }
    }
}

/// Slack, from `SLACK_BOT_TOKEN_SECRET_ARN` and `SLACK_API_URL`.
fn slack(environment: &mut Environment<'_>, aws: &Arc<Aws>) -> Option<SlackApi> {
    let secret = environment.required("SLACK_BOT_TOKEN_SECRET_ARN");
    let url = environment.required::<SlackApiUrl>("SLACK_API_URL");
    let secret = BotTokenSecret::new(Arc::clone(aws), secret?);
    Some(SlackApi::new(url?, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_ends_before_lambda_ends_it() {
        assert_eq!("240".parse::<Slice>().unwrap().0, Duration::from_secs(240));
        for text in ["", "0", "-1", "841", "4m", "99999999999999999999"] {
            assert!(text.parse::<Slice>().is_err(), "{text}");
        }
    }
}

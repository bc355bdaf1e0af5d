//! The accounts of a Cognito user pool, one by one, by their names.

use std::sync::Arc;

use aws_sdk_cognitoidentityprovider::{Client, error::ProvideErrorMetadata, types::UserStatusType};
use carapace_core::{
    identity::{Account, Accounts, Username},
    ports::Trouble,
};
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "Cognito";
const NOT_FOUND: &str = "UserNotFoundException";

/// Cognito's user pools. Which one is told by each event.
#[derive(Debug)]
pub struct UserPools {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
}

impl UserPools {
    /// Nothing is called yet.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
        }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await
    }
}

impl Accounts for UserPools {
    async fn account(&self, pool_id: &str, username: &Username) -> Result<Account, Trouble> {
        let request = self.client().await.admin_get_user();
        let request = request.user_pool_id(pool_id).username(username.as_str());
        match boxed(request.send()).await {
            Ok(user) => Ok(account(user.user_status())),
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(Account::Missing),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }

    async fn delete_unconfirmed(&self, pool_id: &str, username: &Username) -> Result<(), Trouble> {
        // Cognito deletes without conditions. Asked again right before, so that a code that was
        // typed meanwhile counts.
        if self.account(pool_id, username).await? != Account::Unconfirmed {
            return Ok(());
        }
        let request = self.client().await.admin_delete_user();
        let request = request.user_pool_id(pool_id).username(username.as_str());
        match boxed(request.send()).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(()),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }
}

/// Every status but the one is of an account that somebody has, or was given. A status that is not
/// said is none that would let another in.
fn account(status: Option<&UserStatusType>) -> Account {
    match status {
        Some(UserStatusType::Unconfirmed) => Account::Unconfirmed,
        _ => Account::Standing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I6
    #[test]
    fn only_an_account_that_cognito_calls_unconfirmed_is_unconfirmed() {
        assert_eq!(
            account(Some(&UserStatusType::Unconfirmed)),
            Account::Unconfirmed
        );
        for status in [
            UserStatusType::Confirmed,
            UserStatusType::ExternalProvider,
            UserStatusType::ForceChangePassword,
            UserStatusType::from("TOMORROW"),
        ] {
            assert_eq!(account(Some(&status)), Account::Standing);
        }
        assert_eq!(account(None), Account::Standing);
    }
}

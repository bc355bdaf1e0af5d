//! Who is signed up: a Cognito user pool.

use std::{fmt, str::FromStr, sync::Arc};

use aws_sdk_cognitoidentityprovider::{
    Client, error::ProvideErrorMetadata, operation::admin_get_user::AdminGetUserOutput,
    types::UserStatusType,
};
use carapace_core::{
    email::EmailAddress,
    identity::Username,
    ports::{Directory, Trouble},
    slack::profile::Account,
};
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "Cognito";

const NOT_FOUND: &str = "UserNotFoundException";

/// The id of a user pool, `eu-central-1_AbCdEf123`. It is a part of every user's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPoolId(String);

/// A text that is no user pool's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a user pool's id: a region, _ and letters and digits")]
pub struct NotAPoolId;

impl UserPoolId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserPoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserPoolId {
    type Err = NotAPoolId;

    fn from_str(text: &str) -> Result<Self, NotAPoolId> {
        let (region, name) = text.split_once('_').ok_or(NotAPoolId)?;
        let region = !region.is_empty()
            && region
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if region && name && text.len() <= 55 {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAPoolId)
        }
    }
}

/// A user pool.
#[derive(Debug)]
pub struct UserPool {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    id: UserPoolId,
}

impl UserPool {
    /// The pool with this id; nothing is called yet.
    pub fn new(aws: Arc<Aws>, id: UserPoolId) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
            id,
        }
    }
}

impl Directory for UserPool {
    async fn account(&self, username: &Username) -> Result<Option<Account>, Trouble> {
        let client = self
            .client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await;
        let request = client.admin_get_user().user_pool_id(self.id.as_str());
        match boxed(request.username(username.as_str()).send()).await {
            Ok(user) => Ok(account(&user)),
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }
}

/// An account without a `sub` is none: there is no telling whose agent it would have.
fn account(user: &AdminGetUserOutput) -> Option<Account> {
    let attribute = |name: &str| {
        let found = user.user_attributes().iter().find(|a| a.name() == name);
        found.and_then(|attribute| attribute.value())
    };
    let address = attribute("email").and_then(|email| EmailAddress::parse(email).ok());
    Some(Account {
        sub: attribute("sub")?.to_owned(),
        address,
        // Whoever comes through another identity provider has nothing to confirm here. Every other
        // status is of an account that can't sign in as it is.
        confirmed: matches!(
            user.user_status(),
            Some(UserStatusType::Confirmed | UserStatusType::ExternalProvider)
        ),
        email_verified: attribute("email_verified") == Some("true"),
        enabled: user.enabled(),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_cognitoidentityprovider::types::AttributeType;

    use super::*;

    const ALL: [(&str, &str); 3] = [
        ("sub", "s-1"),
        ("email", "Ada@example.com"),
        ("email_verified", "true"),
    ];

    fn user(attributes: &[(&str, &str)], status: UserStatusType) -> AdminGetUserOutput {
        let attribute = |(name, value): &(&str, &str)| {
            let attribute = AttributeType::builder().name(*name).value(*value);
            attribute.build().unwrap()
        };
        AdminGetUserOutput::builder()
            .username("u-1")
            .set_user_attributes(Some(attributes.iter().map(attribute).collect()))
            .user_status(status)
            .enabled(true)
            .build()
            .unwrap()
    }

    #[test]
    fn an_account_is_read_as_cognito_has_it() {
        for status in [UserStatusType::Confirmed, UserStatusType::ExternalProvider] {
            let expected = Account {
                sub: "s-1".to_owned(),
                address: Some(EmailAddress::parse("Ada@example.com").unwrap()),
                confirmed: true,
                email_verified: true,
                enabled: true,
            };
            assert_eq!(account(&user(&ALL, status)), Some(expected));
        }
    }

    /// I6
    #[test]
    fn an_account_that_says_nothing_of_its_address_has_not_proven_it() {
        for status in [
            UserStatusType::Unconfirmed,
            UserStatusType::ForceChangePassword,
            UserStatusType::ResetRequired,
            UserStatusType::from("TOMORROW"),
        ] {
            let read = account(&user(&ALL[..2], status)).unwrap();
            assert!(!read.confirmed && !read.email_verified, "{read:?}");
        }
        for verified in ["false", "True", ""] {
            let attributes = [ALL[0], ALL[1], ("email_verified", verified)];
            let read = account(&user(&attributes, UserStatusType::Confirmed)).unwrap();
            assert!(!read.email_verified, "{verified}");
        }
    }

    /// I6
    #[test]
    fn an_account_without_an_id_is_none_and_one_of_another_form_of_address_has_none() {
        assert_eq!(account(&user(&ALL[1..], UserStatusType::Confirmed)), None);
        for email in [
            "",
            "ada",
            "ada@example.com@evil.example",
            "\"ada\"@example.com",
        ] {
            let attributes = [ALL[0], ("email", email), ALL[2]];
            let read = account(&user(&attributes, UserStatusType::Confirmed)).unwrap();
            assert_eq!(read.address, None, "{email}");
        }
    }

    #[test]
    fn a_pools_id_is_a_region_and_a_name() {
        for id in ["eu-central-1_AbCdEf123", "us-east-1_pool"] {
            assert_eq!(id.parse::<UserPoolId>().unwrap().as_str(), id);
        }
        for text in ["", "_", "eu-central-1", "eu-central-1_", "eu_a/b", "eu_a_b"] {
            assert_eq!(text.parse::<UserPoolId>(), Err(NotAPoolId), "{text}");
        }
    }
}

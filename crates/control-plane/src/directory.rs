//! Who is signed up: a Cognito user pool.

use std::{fmt, str::FromStr, sync::Arc};

use aws_sdk_cognitoidentityprovider::{
    Client,
    error::ProvideErrorMetadata,
    types::{AttributeType, UserStatusType, UserType},
};
use carapace_core::{
    Sub,
    email::EmailAddress,
    identity::Username,
    ports::{Directory, Roster, Trouble},
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

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await
    }
}

impl Directory for UserPool {
    async fn account(&self, username: &Username) -> Result<Option<Account>, Trouble> {
        let request = self.client().await.admin_get_user();
        let request = request.user_pool_id(self.id.as_str());
        match boxed(request.username(username.as_str()).send()).await {
            Ok(user) => Ok(account(
                user.user_attributes(),
                user.user_status(),
                user.enabled(),
            )),
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }
}

impl Roster for UserPool {
    async fn by_sub(&self, sub: &Sub) -> Result<Option<(Username, Account)>, Trouble> {
        let request = self.client().await.list_users();
        let request = request
            .user_pool_id(self.id.as_str())
            // A sub has nothing that could end the text.
            .filter(format!("sub = \"{sub}\""))
            // One more than there can be.
            .limit(2);
        let found = boxed(request.send()).await;
        let found = found.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        the_only_one(sub, found.users())
    }
}

/// A sub names one account. An answer that names two, or another one, is no answer.
fn the_only_one(sub: &Sub, users: &[UserType]) -> Result<Option<(Username, Account)>, Trouble> {
    let refused = |why: String| Trouble::Refused {
        service: SERVICE,
        why,
    };
    let user = match users {
        [] => return Ok(None),
        [user] => user,
        _ => return Err(refused(format!("more than one account has the sub {sub}"))),
    };
    let username = user.username().and_then(Username::parse);
    let account = account(user.attributes(), user.user_status(), user.enabled());
    match (username, account) {
        (Some(username), Some(account)) if account.sub == sub.as_str() => {
            Ok(Some((username, account)))
        }
        _ => Err(refused(format!(
            "what it found for the sub {sub} is no account with that sub and a name"
        ))),
    }
}

/// An account without a `sub` is none: there is no telling whose agent it would have.
fn account(
    attributes: &[AttributeType],
    status: Option<&UserStatusType>,
    enabled: bool,
) -> Option<Account> {
    let attribute = |name: &str| {
        let found = attributes.iter().find(|a| a.name() == name);
        found.and_then(|attribute| attribute.value())
    };
    let address = attribute("email").and_then(|email| EmailAddress::parse(email).ok());
    Some(Account {
        sub: attribute("sub")?.to_owned(),
        address,
        // Whoever comes through another identity provider has nothing to confirm here. Every other
        // status is of an account that can't sign in as it is.
        confirmed: matches!(
            status,
            Some(UserStatusType::Confirmed | UserStatusType::ExternalProvider)
        ),
        email_verified: attribute("email_verified") == Some("true"),
        enabled,
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

    fn attributes(named: &[(&str, &str)]) -> Vec<AttributeType> {
        let attribute = |(name, value): &(&str, &str)| {
            let attribute = AttributeType::builder().name(*name).value(*value);
            attribute.build().unwrap()
        };
        named.iter().map(attribute).collect()
    }

    fn read(named: &[(&str, &str)], status: &UserStatusType) -> Option<Account> {
        account(&attributes(named), Some(status), true)
    }

    fn user(username: &str, named: &[(&str, &str)]) -> UserType {
        UserType::builder()
            .username(username)
            .set_attributes(Some(attributes(named)))
            .user_status(UserStatusType::Confirmed)
            .enabled(true)
            .build()
    }

    #[test]
    fn a_sub_finds_the_one_account_that_has_it() {
        let sub = Sub::parse("s-1").unwrap();
        assert_eq!(the_only_one(&sub, &[]), Ok(None));
        let found = the_only_one(&sub, &[user("u-1", &ALL)]);
        let (username, account) = found.unwrap().unwrap();
        assert_eq!(username, Username::parse("u-1").unwrap());
        assert!(account.enabled && account.sub == "s-1");
    }

    /// I6
    #[test]
    fn an_answer_about_another_account_or_two_is_no_answer() {
        let sub = Sub::parse("s-1").unwrap();
        let other = [("sub", "s-2"), ALL[1], ALL[2]];
        for users in [
            vec![user("u-1", &ALL), user("u-2", &ALL)],
            vec![user("u-2", &other)],
            vec![user("u-1", &ALL[1..])],
            vec![user("", &ALL)],
        ] {
            let refused = the_only_one(&sub, &users);
            assert!(
                matches!(refused, Err(Trouble::Refused { .. })),
                "{refused:?}"
            );
        }
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
            assert_eq!(read(&ALL, &status), Some(expected));
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
            let read = read(&ALL[..2], &status).unwrap();
            assert!(!read.confirmed && !read.email_verified, "{read:?}");
        }
        for verified in ["false", "True", ""] {
            let attributes = [ALL[0], ALL[1], ("email_verified", verified)];
            let read = read(&attributes, &UserStatusType::Confirmed).unwrap();
            assert!(!read.email_verified, "{verified}");
        }
    }

    /// I6
    #[test]
    fn an_account_without_an_id_is_none_and_one_of_another_form_of_address_has_none() {
        assert_eq!(read(&ALL[1..], &UserStatusType::Confirmed), None);
        for email in [
            "",
            "ada",
            "ada@example.com@evil.example",
            "\"ada\"@example.com",
        ] {
            let attributes = [ALL[0], ("email", email), ALL[2]];
            let read = read(&attributes, &UserStatusType::Confirmed).unwrap();
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

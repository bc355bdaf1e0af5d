//! What is deployed, reached through AWS.

use std::sync::Arc;

use aws_config::Region;
use aws_sdk_cognitoidentityprovider::{
    Client as Cognito,
    error::{ProvideErrorMetadata, SdkError},
    types::{AttributeType, UserStatusType},
};
use carapace_control_plane::{
    aws::{Aws, trouble},
    bus::EventBus,
    directory::UserPoolId,
    table::AgentTable,
};
use carapace_core::{
    EventId, UserKey,
    agent::AgentRecord,
    email::EmailAddress,
    event::UserDeleted,
    identity::Username,
    ports::{Ledger as _, Registrations as _, Trouble},
};
use serde::Deserialize;

use crate::{
    failure::{Failure, SETTINGS},
    user::{Account, Deployment},
};

const COGNITO: &str = "Cognito";
const SYSTEMS_MANAGER: &str = "Systems Manager";
const NO_SUCH_ACCOUNT: &str = "UserNotFoundException";

/// Where everything is, as `cdk deploy` writes it. It may say more than this.
#[derive(Debug, Deserialize)]
struct Settings {
    user_pool_id: String,
    bus_name: String,
    table_name: String,
}

/// A deployed Carapace.
#[derive(Debug)]
pub(crate) struct Deployed {
    cognito: Cognito,
    pool: UserPoolId,
    table: AgentTable,
    bus: EventBus,
    bus_name: String,
}

/// The configuration of all clients: the region and the profile that are given, the rest, and what
/// isn't, from where AWS's SDKs look for it.
pub(crate) async fn sdk_config(region: Option<String>, profile: Option<String>) -> Arc<Aws> {
    let aws = Aws::with(|loader| {
        let loader = match region {
            Some(region) => loader.region(Region::new(region)),
            None => loader,
        };
        match profile {
            Some(profile) => loader.profile_name(profile),
            None => loader,
        }
    });
    Arc::new(aws.await)
}

impl Deployed {
    /// Reads where everything is.
    pub(crate) async fn find(aws: Arc<Aws>) -> Result<Self, Failure> {
        let config = aws.config().await;
        let client = aws_sdk_ssm::Client::new(config);
        let answer = Box::pin(client.get_parameter().name(SETTINGS).send()).await;
        let answer = answer.map_err(|error| {
            Failure::NoSettings(match error.code() {
                Some("ParameterNotFound") => Trouble::Refused {
                    service: SYSTEMS_MANAGER,
                    why: "there is no such parameter".to_owned(),
                },
                code => trouble(SYSTEMS_MANAGER, code, &error),
            })
        })?;
        let value = answer.parameter().and_then(|parameter| parameter.value());
        let (settings, pool) = parse(value.unwrap_or_default())?;
        Ok(Self {
            cognito: Cognito::new(config),
            pool,
            table: AgentTable::new(Arc::clone(&aws), settings.table_name),
            bus: EventBus::new(Arc::clone(&aws), settings.bus_name.clone()),
            bus_name: settings.bus_name,
        })
    }

    /// An account, by what Cognito says of it. One without a `sub` has no user key, and so nothing
    /// that it could be removed from.
    fn account(
        &self,
        username: Option<&str>,
        attributes: &[AttributeType],
        status: Option<&str>,
        enabled: bool,
    ) -> Result<Account, Trouble> {
        account(&self.pool, username, attributes, status, enabled)
    }
}

fn parse(text: &str) -> Result<(Settings, UserPoolId), Failure> {
    let settings: Settings =
        serde_json::from_str(text).map_err(|error| Failure::BadSettings(error.to_string()))?;
    for (name, value) in [
        ("bus_name", &settings.bus_name),
        ("table_name", &settings.table_name),
    ] {
        if value.is_empty() {
            return Err(Failure::BadSettings(format!("its {name} is empty")));
        }
    }
    let pool = settings.user_pool_id.parse();
    let pool = pool.map_err(|error| Failure::BadSettings(format!("its user_pool_id: {error}")))?;
    Ok((settings, pool))
}

fn account(
    pool: &UserPoolId,
    username: Option<&str>,
    attributes: &[AttributeType],
    status: Option<&str>,
    enabled: bool,
) -> Result<Account, Trouble> {
    let attribute = |name: &str| {
        let found = attributes.iter().find(|a| a.name() == name);
        found.and_then(AttributeType::value)
    };
    let known = username.and_then(Username::parse).zip(attribute("sub"));
    let (username, sub) = known.ok_or_else(|| Trouble::Refused {
        service: COGNITO,
        why: "it describes an account without its name or its sub".to_owned(),
    })?;
    Ok(Account {
        username,
        user: UserKey::derive(pool.as_str(), sub),
        address: attribute("email").map(str::to_owned),
        status: status.unwrap_or("of no status").to_owned(),
        enabled,
    })
}

impl Deployment for Deployed {
    async fn by_address(&self, address: &EmailAddress) -> Result<Vec<Account>, Trouble> {
        // An address has no character that could end the text in the filter.
        let request = self
            .cognito
            .list_users()
            .user_pool_id(self.pool.as_str())
            .filter(format!("email = \"{address}\""));
        let users = request.into_paginator().items().send();
        let users: Result<Vec<_>, _> = Box::pin(users.collect()).await;
        let users = users.map_err(|error| trouble(COGNITO, error.code(), &error))?;
        users
            .iter()
            .map(|user| {
                self.account(
                    user.username(),
                    user.attributes(),
                    user.user_status().map(UserStatusType::as_str),
                    user.enabled(),
                )
            })
            .collect()
    }

    async fn by_name(&self, username: &Username) -> Result<Option<Account>, Trouble> {
        let request = self
            .cognito
            .admin_get_user()
            .user_pool_id(self.pool.as_str())
            .username(username.as_str());
        let user = match Box::pin(request.send()).await {
            Ok(user) => user,
            Err(error) if error.code() == Some(NO_SUCH_ACCOUNT) => return Ok(None),
            Err(error) => return Err(trouble(COGNITO, error.code(), &error)),
        };
        let account = self.account(
            Some(user.username()),
            user.user_attributes(),
            user.user_status().map(UserStatusType::as_str),
            user.enabled(),
        );
        account.map(Some)
    }

    async fn registered(&self, user: &UserKey) -> Result<Option<Username>, Trouble> {
        let registration = self.table.registration(user).await?;
        Ok(registration.map(|registration| registration.username))
    }

    async fn agent(&self, user: &UserKey, question: &EventId) -> Result<AgentRecord, Trouble> {
        Ok(self.table.load(user, question).await?.agent)
    }

    async fn disable(&self, username: &Username) -> Result<(), Trouble> {
        let request = self
            .cognito
            .admin_disable_user()
            .user_pool_id(self.pool.as_str())
            .username(username.as_str());
        there_no_more(Box::pin(request.send()).await)
    }

    async fn delete(&self, username: &Username) -> Result<(), Trouble> {
        let request = self
            .cognito
            .admin_delete_user()
            .user_pool_id(self.pool.as_str())
            .username(username.as_str());
        there_no_more(Box::pin(request.send()).await)
    }

    async fn say(&self, event: &UserDeleted) -> Result<(), Trouble> {
        self.bus.publish_removal(event).await
    }

    fn bus(&self) -> &str {
        &self.bus_name
    }
}

/// What a call means after which an account is to do nothing any more.
fn there_no_more<T, E, R>(answer: Result<T, SdkError<E, R>>) -> Result<(), Trouble>
where
    SdkError<E, R>: ProvideErrorMetadata + std::error::Error,
{
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(NO_SUCH_ACCOUNT) => Ok(()),
        Err(error) => Err(trouble(COGNITO, error.code(), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_may_say_more_than_is_known() {
        let text = r#"{"user_pool_id": "eu-central-1_Ab1", "bus_name": "carapace",
            "table_name": "carapace", "cluster_name": "carapace"}"#;
        let (settings, pool) = parse(text).unwrap();
        assert_eq!(pool.as_str(), "eu-central-1_Ab1");
        assert_eq!(
            (&*settings.bus_name, &*settings.table_name),
            ("carapace", "carapace")
        );
    }

    #[test]
    fn settings_that_lack_something_are_refused_by_name() {
        for (text, named) in [
            ("", "EOF"),
            (r#"{"bus_name": "b", "table_name": "t"}"#, "user_pool_id"),
            (
                r#"{"user_pool_id": "x", "bus_name": "b", "table_name": "t"}"#,
                "user_pool_id",
            ),
            (
                r#"{"user_pool_id": "e_A", "bus_name": "b", "table_name": ""}"#,
                "table_name",
            ),
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }

    #[test]
    fn an_account_has_the_key_of_its_sub_and_none_without_one() {
        let pool: UserPoolId = "eu-central-1_Ab1".parse().unwrap();
        let attribute = |name: &str, value: &str| {
            let attribute = AttributeType::builder().name(name).value(value);
            attribute.build().unwrap()
        };
        let attributes = [
            attribute("sub", "s-1"),
            attribute("email", "ada@example.com"),
        ];
        let read = account(&pool, Some("ada"), &attributes, Some("CONFIRMED"), true).unwrap();
        assert_eq!(read.user, UserKey::derive("eu-central-1_Ab1", "s-1"));
        assert_eq!(read.address.as_deref(), Some("ada@example.com"));
        assert!(account(&pool, Some("ada"), &attributes[1..], None, true).is_err());
        assert!(account(&pool, None, &attributes, None, true).is_err());
    }
}

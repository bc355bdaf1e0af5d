//! Which account of the user pool a user has.

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use carapace_core::{
    UserKey,
    identity::{IdentityKey, Username},
    ports::{Registration, Registrations, Trouble},
};

use super::{
    AgentTable, SERVICE,
    item::{Item, Key, Reader, Writer},
};
use crate::aws::{boxed, trouble};

/// In both items.
const USERNAME: &str = "username";

impl Registrations for AgentTable {
    async fn registration(&self, user: &UserKey) -> Result<Option<Registration>, Trouble> {
        let item = self.get(key(user)).await?;
        item.map(|item| read(&item)).transpose()
    }

    /// Whoever writes last has asked Cognito last.
    async fn save_registration(
        &self,
        user: &UserKey,
        registration: &Registration,
    ) -> Result<(), Trouble> {
        let put = self.client().await.put_item().table_name(&self.name);
        let put = put.set_item(Some(written(user, registration)));
        match boxed(put.send()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }

    /// The mailbox first: as long as the registration is there, whoever comes again finds it. What is
    /// gone, or names another account by now, is no trouble.
    async fn forget(&self, user: &UserKey, registration: &Registration) -> Result<(), Trouble> {
        let username = registration.username.as_str();
        if let Some(identity) = &registration.identity {
            self.delete_if(&identity_key(identity), USERNAME, username)
                .await?;
        }
        self.delete_if(&key(user), USERNAME, username).await?;
        Ok(())
    }
}

fn key(user: &UserKey) -> Key {
    Key::new(format!("USER#{user}"), "ACCOUNT")
}

/// As the sign-up wrote it.
fn identity_key(identity: &IdentityKey) -> Key {
    Key::new(format!("IDENTITY#{}", identity.as_str()), "ACCOUNT")
}

fn written(user: &UserKey, registration: &Registration) -> Item {
    let mut item = Writer::new(&key(user));
    item.text(USERNAME, &registration.username.as_str());
    if let Some(identity) = &registration.identity {
        item.text("identity", &identity.as_str());
    }
    item.item()
}

fn read(item: &Item) -> Result<Registration, Trouble> {
    let item = Reader::new("ACCOUNT", item);
    // What is odd is not repeated: it may be somebody's address.
    let odd = |name: &str| super::refused(&format!("the {name} of an ACCOUNT item is not one"));
    let identity = item
        .has("identity")
        .then(|| IdentityKey::parse(item.text("identity")?).ok_or_else(|| odd("identity")))
        .transpose()?;
    Ok(Registration {
        username: Username::parse(item.text(USERNAME)?).ok_or_else(|| odd(USERNAME))?,
        identity,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use carapace_core::email::{EmailAddress, PlusTags};

    use super::{super::item::tests::shown, *};

    fn user() -> UserKey {
        UserKey::derive("pool", "sub")
    }

    fn registrations() -> [Registration; 2] {
        let address = EmailAddress::parse("ada@example.com").unwrap();
        let mailbox = address.canonical(PlusTags::SameIdentity);
        let with = |identity| Registration {
            username: Username::parse("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f").unwrap(),
            identity,
        };
        [
            with(Some(IdentityKey::derive("pool", &mailbox))),
            with(None),
        ]
    }

    #[test]
    fn registrations_on_the_wire() {
        let items = registrations().map(|registration| written(&user(), &registration));
        // Nothing there is personal but the name that Cognito gave, and no index lists it.
        assert!(items.iter().all(|item| !item.contains_key("state")));
        insta::assert_json_snapshot!(items.iter().map(shown).collect::<Vec<_>>());
    }

    #[test]
    fn a_registration_comes_back_as_it_was() {
        for registration in registrations() {
            assert_eq!(
                read(&written(&user(), &registration)).unwrap(),
                registration
            );
        }
    }

    /// I6
    #[test]
    fn a_registration_of_another_form_is_refused_and_not_repeated() {
        for (name, value) in [
            ("username", ""),
            ("username", "ada lovelace"),
            ("identity", "ada@example.com"),
            ("identity", ""),
        ] {
            let mut item = written(&user(), &registrations()[0]);
            item.insert(name.into(), AttributeValue::S(value.into()));
            let refused = read(&item).unwrap_err().to_string();
            assert!(
                refused.contains(name) && !refused.contains("ada"),
                "{refused}"
            );
        }
    }
}

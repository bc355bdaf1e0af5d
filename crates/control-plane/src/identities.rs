//! Which mailboxes have accounts, and how many asked for one: items of the table.
//!
//! | pk | sk | what |
//! |---|---|---|
//! | `IDENTITY#<sha256 of pool and canonical address>` | `ACCOUNT` | `username`, `at`: the account that the mailbox has |
//! | `RATE#<domain>#<hour>` | `SIGN_UPS` | `sign_ups`, `ttl`: how many there were in an hour since 1970; sub-domains that one entry of the policy allows count with their parent |
//!
//! An entry of a mailbox has no `ttl`: what is forgotten could be had a second time. It holds
//! nothing that says who somebody is.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{Client, error::ProvideErrorMetadata, types::AttributeValue};
use carapace_core::{
    email::EmailDomain,
    identity::{Counted, Entered, Entries, Entry, Identities, IdentityKey, Username},
    ports::Trouble,
};
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "DynamoDB";
const OVERTAKEN: &str = "ConditionalCheckFailedException";

type Item = HashMap<String, AttributeValue>;

/// The mailboxes in the table.
#[derive(Debug)]
pub struct IdentityTable {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    name: String,
}

impl IdentityTable {
    /// The table of this name; nothing is called yet.
    pub fn new(aws: Arc<Aws>, name: String) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
            name,
        }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await
    }
}

impl Entries for IdentityTable {
    async fn entry(&self, key: &IdentityKey) -> Result<Option<Entry>, Trouble> {
        let request = self.client().await.get_item().table_name(&self.name);
        let request = request
            .consistent_read(true)
            .set_key(Some(identity_key(key)));
        let answer = boxed(request.send()).await;
        let answer = answer.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        answer.item.map(|item| read(&item)).transpose()
    }
}

impl Identities for IdentityTable {
    async fn enter(
        &self,
        key: &IdentityKey,
        seen: Option<&Entry>,
        entry: &Entry,
    ) -> Result<Entered, Trouble> {
        let put = self.client().await.put_item().table_name(&self.name);
        let put = put.set_item(Some(item(key, entry)));
        let put = match seen {
            None => put.condition_expression("attribute_not_exists(pk)"),
            Some(seen) => put
                .condition_expression("username = :username AND #at = :at")
                .expression_attribute_names("#at", "at")
                .expression_attribute_values(":username", text(seen.username.as_str()))
                .expression_attribute_values(":at", text(&seen.at.to_string())),
        };
        match boxed(put.send()).await {
            Ok(_) => Ok(Entered::Yes),
            Err(error) if error.code() == Some(OVERTAKEN) => Ok(Entered::Overtaken),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }

    async fn count(&self, domain: &EmailDomain, hour: i64, most: u32) -> Result<Counted, Trouble> {
        let number = |n: i64| AttributeValue::N(n.to_string());
        let update = self.client().await.update_item().table_name(&self.name);
        let update = update
            .set_key(Some(key(&format!("RATE#{domain}#{hour}"), "SIGN_UPS")))
            // One write that counts and judges: of many at once exactly so many pass.
            .update_expression("SET #ttl = :ttl ADD sign_ups :one")
            .condition_expression("attribute_not_exists(sign_ups) OR sign_ups < :most")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":most", number(most.into()))
            // A day longer than it is needed, for whoever wants to know what went on.
            .expression_attribute_values(":ttl", number((hour + 25) * 3600));
        match boxed(update.send()).await {
            Ok(_) => Ok(Counted::Yes),
            Err(error) if error.code() == Some(OVERTAKEN) => Ok(Counted::TooMany),
            Err(error) => Err(trouble(SERVICE, error.code(), &error)),
        }
    }
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn key(pk: &str, sk: &str) -> Item {
    [("pk", pk), ("sk", sk)]
        .map(|(name, value)| (name.to_owned(), text(value)))
        .into()
}

fn identity_key(identity: &IdentityKey) -> Item {
    key(&format!("IDENTITY#{}", identity.as_str()), "ACCOUNT")
}

fn item(identity: &IdentityKey, entry: &Entry) -> Item {
    let mut item = identity_key(identity);
    item.insert("username".to_owned(), text(entry.username.as_str()));
    item.insert("at".to_owned(), text(&entry.at.to_string()));
    item
}

fn read(item: &Item) -> Result<Entry, Trouble> {
    let field = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
    let username = field("username").and_then(|text| Username::parse(text));
    let at = field("at").and_then(|text| text.parse().ok());
    match (username, at) {
        (Some(username), Some(at)) => Ok(Entry { username, at }),
        // Nobody's entry: it must not be taken for a free mailbox.
        _ => Err(Trouble::Refused {
            service: SERVICE,
            why: "an entry of a mailbox is not of the form that it is written in".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use carapace_core::email::{EmailAddress, PlusTags};
    use jiff::Timestamp;

    use super::*;

    fn identity() -> IdentityKey {
        let address = EmailAddress::parse("ada@example.com").unwrap();
        IdentityKey::derive("pool", &address.canonical(PlusTags::SameIdentity))
    }

    fn entry() -> Entry {
        Entry {
            username: Username::parse("4f5e1a1c").unwrap(),
            at: Timestamp::new(1_800_000_000, 123_456_789).unwrap(),
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        assert_eq!(read(&item(&identity(), &entry())).unwrap(), entry());
    }

    #[test]
    fn an_entry_says_neither_the_address_nor_the_pool() {
        let item = item(&identity(), &entry());
        let written = format!("{item:?}");
        assert_eq!(item.len(), 4);
        assert!(!written.contains("ada") && !written.contains("example"));
        assert!(written.contains(r#"S("ACCOUNT")"#) && written.contains("IDENTITY#"));
    }

    /// I6
    #[test]
    fn an_entry_of_another_form_is_trouble_and_no_free_mailbox() {
        for field in ["username", "at"] {
            let mut item = item(&identity(), &entry());
            item.remove(field);
            assert!(read(&item).is_err(), "{field}");
            item.insert(field.to_owned(), text(""));
            assert!(read(&item).is_err(), "{field}");
        }
    }
}

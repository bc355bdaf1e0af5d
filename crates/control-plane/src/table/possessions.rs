//! What is kept of a user and not under the user's own key.

use aws_sdk_dynamodb::{error::ProvideErrorMetadata, types::AttributeValue};
use carapace_core::{
    UserKey,
    ports::{Possessions, Purged, Trouble},
    quoted,
};

use super::{
    AgentTable, SERVICE,
    item::{Item, Key, OWNER, Reader},
    refused,
};
use crate::aws::{boxed, trouble};

const INDEX: &str = "items-by-owner";

/// The most that is deleted at once, whatever is asked for: one page of the index, far from the time
/// that a function has.
const MOST: usize = 100;

impl Possessions for AgentTable {
    async fn purge(&self, user: &UserKey, most: usize) -> Result<Purged, Trouble> {
        let page = i32::try_from(most.clamp(1, MOST)).map_err(|error| refused(&error))?;
        let query = self
            .client()
            .await
            .query()
            .table_name(&self.name)
            .index_name(INDEX)
            .limit(page)
            .key_condition_expression("#owner = :owner")
            .expression_attribute_names("#owner", OWNER)
            .expression_attribute_values(":owner", AttributeValue::S(user.to_string()));
        let found = boxed(query.send()).await;
        let found = found.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        // All are looked at before one is deleted.
        let keys = found.items().iter().map(|item| deletable(user, item));
        let keys = keys.collect::<Result<Vec<Key>, Trouble>>()?;
        let mut deleted = 0;
        for key in keys {
            // A user of Slack may have become another's since the index was written.
            deleted += usize::from(self.delete_if(&key, OWNER, user.as_str()).await?);
        }
        Ok(Purged {
            deleted,
            more: found.last_evaluated_key().is_some(),
        })
    }
}

/// The key of what the index has found, if it is of a kind that goes with its user. The index takes in
/// whatever has an owner, so a kind that is not known here must not vanish with it unnoticed.
fn deletable(user: &UserKey, item: &Item) -> Result<Key, Trouble> {
    let item = Reader::new("possession", item);
    let (pk, sk) = (item.text("pk")?, item.text("sk")?);
    let link = pk.starts_with("SLACK#") && sk == "LINK";
    let conversation =
        pk.starts_with(&format!("CONV#{user}#")) && (sk == "LEASE" || sk.starts_with("MSG#"));
    if link || conversation {
        return Ok(Key::new(pk.to_owned(), sk));
    }
    // The rest of the key may say who somebody is.
    let kind = pk.split('#').next().unwrap_or_default();
    Err(refused(&format!(
        "{user} owns an item of the kind {} {} that isn't deleted with its user: see to it by hand, \
         or teach this version what it is",
        quoted(kind),
        quoted(sk.split('#').next().unwrap_or_default()),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserKey {
        UserKey::derive("pool", "sub")
    }

    fn found(pk: &str, sk: &str) -> Item {
        Key::new(pk.to_owned(), sk).attributes()
    }

    #[test]
    fn links_and_conversations_go_with_their_user() {
        let me = user();
        for (pk, sk) in [
            ("SLACK#T0CARAPACE#U1".to_owned(), "LINK"),
            (format!("CONV#{me}#slack.t0.c1.1764000000.000001"), "LEASE"),
            (
                format!("CONV#{me}#slack.t0.c1.1764000000.000001"),
                "MSG#000000000003",
            ),
        ] {
            let item = found(&pk, sk);
            assert_eq!(deletable(&me, &item).unwrap().attributes(), item);
        }
    }

    /// I6: what is another's, or stays for audit, is not deleted whatever the index says.
    #[test]
    fn nothing_else_is_deleted_whoever_is_said_to_own_it() {
        let me = user();
        let other = UserKey::derive("pool", "another");
        for (pk, sk) in [
            (format!("CONV#{other}#slack.t0.c1.1"), "LEASE"),
            (format!("CONV#{me}"), "LEASE"),
            (format!("CONV#{me}#slack.t0.c1.1"), "OTHER"),
            (format!("USER#{me}"), "AGENT"),
            (format!("USER#{me}"), "EVENT#01KB0000000000000000000000"),
            ("SLACK#T0CARAPACE#U1".to_owned(), "PROFILE"),
            ("ONCE#req-1".to_owned(), "OUTCOME"),
            ("IDENTITY#00".to_owned(), "ACCOUNT"),
            (String::new(), ""),
        ] {
            let Err(refusal) = deletable(&me, &found(&pk, sk)) else {
                panic!("{pk} {sk} would be deleted");
            };
            assert!(matches!(refusal, Trouble::Refused { .. }), "{refusal}");
        }
        let Err(refusal) = deletable(&me, &found("SLACK#T0CARAPACE#U1", "PROFILE")) else {
            panic!("a kind that nobody knows");
        };
        assert!(!refusal.to_string().contains("U1"), "{refusal}");
    }
}

//! Who is who: users of Slack and users of the platform.

use carapace_core::{
    SlackUserId, TeamId,
    ports::{Link, Links, Trouble},
};

use super::{
    AgentTable,
    item::{Item, Key, OWNER, Reader, Writer},
    write,
};

impl Links for AgentTable {
    async fn link(&self, team: &TeamId, user: &SlackUserId) -> Result<Option<Link>, Trouble> {
        let item = self.get(key(team, user)).await?;
        item.map(|item| read_link(&item)).transpose()
    }

    /// Nobody loses anything if two write it at once: both have just found it out.
    async fn save_link(
        &self,
        team: &TeamId,
        user: &SlackUserId,
        link: &Link,
    ) -> Result<(), Trouble> {
        let put = self.put(self::link(team, user, link));
        // If somebody else is just writing it, theirs will do.
        let _ = self.transact(vec![write(put)?]).await?;
        Ok(())
    }
}

fn key(team: &TeamId, user: &SlackUserId) -> Key {
    Key::new(format!("SLACK#{team}#{user}"), "LINK")
}

fn link(team: &TeamId, user: &SlackUserId, link: &Link) -> Item {
    let mut item = Writer::new(&key(team, user));
    item.text(OWNER, &link.user);
    item.text("user_key", &link.user);
    item.text("expires", &link.expires);
    item.number("ttl", &link.expires.as_second());
    item.item()
}

fn read_link(item: &Item) -> Result<Link, Trouble> {
    let item = Reader::new("LINK", item);
    Ok(Link {
        user: item.parsed("user_key")?,
        expires: item.parsed("expires")?,
    })
}

#[cfg(test)]
mod tests {
    use carapace_core::UserKey;

    use super::{super::item::tests::shown, *};

    #[test]
    fn a_link_comes_back_as_it_was() {
        let team = TeamId::parse("T0CARAPACE").unwrap();
        let member = SlackUserId::parse("U1").unwrap();
        let written = Link {
            user: UserKey::derive("pool", "sub"),
            expires: "2026-11-24T10:00:00.5Z".parse().unwrap(),
        };
        let item = link(&team, &member, &written);
        insta::assert_json_snapshot!(shown(&item));
        assert_eq!(read_link(&item).unwrap(), written);
    }
}

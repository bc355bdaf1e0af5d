//! Removing people from a deployment that remembers what was done to it, in order.

use std::cell::RefCell;

use carapace_core::{Reason, agent::Retirement, allowance::Allowance};

use super::*;

const POOL: &str = "eu-central-1_Ab1";

fn key(sub: &str) -> UserKey {
    UserKey::derive(POOL, sub)
}

fn account(name: &str, sub: &str) -> Account {
    Account {
        username: Username::parse(name).unwrap(),
        user: key(sub),
        address: Some("ada@example.com".to_owned()),
        status: "CONFIRMED".to_owned(),
        enabled: true,
    }
}

fn address() -> Who {
    "ada@example.com".parse().unwrap()
}

/// Accounts, records, and everything that was asked to change.
#[derive(Default)]
struct Fake {
    accounts: Vec<Account>,
    registered: Option<(UserKey, Username)>,
    agent: Option<AgentRecord>,
    /// The calls that fail.
    broken: Vec<&'static str>,
    changes: RefCell<Vec<String>>,
    said: RefCell<Vec<UserDeleted>>,
}

impl Fake {
    fn with(accounts: impl IntoIterator<Item = Account>) -> Self {
        Self {
            accounts: accounts.into_iter().collect(),
            ..Self::default()
        }
    }

    fn registered(mut self, user: UserKey, name: &str) -> Self {
        self.registered = Some((user, Username::parse(name).unwrap()));
        self
    }

    fn broken(mut self, call: &'static str) -> Self {
        self.broken.push(call);
        self
    }

    fn works(&self, call: &str) -> Result<(), Trouble> {
        if self.broken.contains(&call) {
            return Err(Trouble::Unavailable {
                service: "AWS",
                why: "out for lunch".to_owned(),
            });
        }
        Ok(())
    }

    fn changed(&self, call: &str, of: &str) -> Result<(), Trouble> {
        self.works(call)?;
        self.changes.borrow_mut().push(format!("{call} {of}"));
        Ok(())
    }

    fn changes(&self) -> Vec<String> {
        self.changes.borrow().clone()
    }
}

impl Deployment for Fake {
    async fn by_address(&self, address: &EmailAddress) -> Result<Vec<Account>, Trouble> {
        self.works("find")?;
        let all = self.accounts.iter();
        let of_this = all.filter(|a| a.address == Some(address.to_string()));
        Ok(of_this.cloned().collect())
    }

    async fn by_name(&self, username: &Username) -> Result<Option<Account>, Trouble> {
        self.works("find")?;
        let mut all = self.accounts.iter();
        Ok(all.find(|a| a.username == *username).cloned())
    }

    async fn registered(&self, user: &UserKey) -> Result<Option<Username>, Trouble> {
        self.works("read")?;
        let registered = self.registered.as_ref();
        Ok(registered
            .filter(|(whose, _)| whose == user)
            .map(|(_, name)| name.clone()))
    }

    async fn agent(&self, user: &UserKey, _: &EventId) -> Result<AgentRecord, Trouble> {
        self.works("read")?;
        let record = self.agent.clone();
        Ok(record.unwrap_or_else(|| AgentRecord::absent(user.clone())))
    }

    async fn disable(&self, username: &Username) -> Result<(), Trouble> {
        self.changed("disable", username.as_str())
    }

    async fn delete(&self, username: &Username) -> Result<(), Trouble> {
        self.changed("delete", username.as_str())
    }

    async fn say(&self, event: &UserDeleted) -> Result<(), Trouble> {
        self.changed("say", event.user_key.as_str())?;
        self.said.borrow_mut().push(event.clone());
        Ok(())
    }

    fn bus(&self) -> &'static str {
        "carapace"
    }
}

fn id() -> EventId {
    EventId::parse("clawctl.01").unwrap()
}

fn at_once() -> How {
    How {
        keep_account: false,
        ask: Ask::Nobody,
        id: id(),
        at: Timestamp::from_second(1_800_000_000).unwrap(),
    }
}

async fn removed(fake: &Fake, who: &Who, how: How) -> (Result<(), Failure>, String) {
    let mut out = Vec::new();
    let result = remove(fake, who, how, &mut out).await;
    (result, String::from_utf8(out).unwrap())
}

async fn shown(fake: &Fake, who: &Who) -> (Result<(), Failure>, String) {
    let mut out = Vec::new();
    let result = show(fake, who, id(), &mut out).await;
    (result, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn somebody_is_deleted_first_and_then_it_is_said() {
    let fake = Fake::with([account("name", "s-1")]);
    let (result, out) = removed(&fake, &address(), at_once()).await;
    result.unwrap();
    let said = format!("say {}", key("s-1"));
    assert_eq!(fake.changes(), ["delete name", &said]);
    let [event] = &fake.said.borrow()[..] else {
        panic!("said more than once");
    };
    assert_eq!((&event.id, &event.user_key), (&id(), &key("s-1")));
    assert!(!serde_json::to_string(event).unwrap().contains("ada"));
    insta::assert_snapshot!(out);
}

#[tokio::test]
async fn an_account_that_is_to_stay_is_disabled_only() {
    let fake = Fake::with([account("name", "s-1")]);
    let how = How {
        keep_account: true,
        ..at_once()
    };
    removed(&fake, &address(), how).await.0.unwrap();
    assert_eq!(fake.changes()[..1], ["disable name"]);
    assert_eq!(fake.changes().len(), 2);
}

/// I4
#[tokio::test]
async fn somebody_whose_account_is_gone_is_still_said_to_be_removed() {
    let gone = Fake::default().registered(key("s-1"), "name");
    for fake in [gone, Fake::default()] {
        let (result, out) = removed(&fake, &Who::Key(key("s-1")), at_once()).await;
        result.unwrap();
        assert_eq!(fake.changes(), [format!("say {}", key("s-1"))]);
        assert!(out.contains("no account is known"), "{out}");
    }
}

/// I6: a name may be somebody else's by now.
#[tokio::test]
async fn an_account_of_the_same_name_that_makes_another_key_is_left_alone() {
    let fake = Fake::with([account("Okta_1", "s-2")]).registered(key("s-1"), "Okta_1");
    let (result, _) = removed(&fake, &Who::Key(key("s-1")), at_once()).await;
    result.unwrap();
    assert_eq!(fake.changes(), [format!("say {}", key("s-1"))]);
}

#[tokio::test]
async fn a_key_finds_the_account_that_the_user_was_onboarded_with() {
    let fake = Fake::with([account("name", "s-1")]).registered(key("s-1"), "name");
    let (result, _) = removed(&fake, &Who::Key(key("s-1")), at_once()).await;
    result.unwrap();
    assert_eq!(fake.changes()[..1], ["delete name"]);
}

#[tokio::test]
async fn nothing_is_changed_before_somebody_has_agreed() {
    for (ask, expected) in [
        (Ask::With(|_| Ok(false)), "nothing was changed"),
        (Ask::With(|_| Err(Failure::NobodyToAsk)), "say --yes"),
    ] {
        let fake = Fake::with([account("name", "s-1")]);
        let (result, out) = removed(&fake, &address(), How { ask, ..at_once() }).await;
        let failure = result.unwrap_err().to_string();
        assert!(failure.contains(expected), "{failure}");
        assert!(fake.changes().is_empty() && out.is_empty());
    }
    let fake = Fake::with([account("name", "s-1")]);
    let ask = Ask::With(|question| {
        assert!(question.contains("ada@example.com"), "{question}");
        assert!(question.contains(key("s-1").as_str()), "{question}");
        Ok(true)
    });
    removed(&fake, &address(), How { ask, ..at_once() })
        .await
        .0
        .unwrap();
    assert_eq!(fake.changes().len(), 2);
}

#[tokio::test]
async fn who_cannot_be_told_apart_is_not_removed() {
    let none = Fake::default();
    let (result, _) = removed(&none, &address(), at_once()).await;
    assert!(matches!(result, Err(Failure::NoAccount(_))), "{result:?}");
    let two = Fake::with([account("one", "s-1"), account("two", "s-2")]);
    let (result, _) = removed(&two, &address(), at_once()).await;
    let failure = result.unwrap_err().to_string();
    for sub in ["s-1", "s-2"] {
        assert!(failure.contains(key(sub).as_str()), "{failure}");
    }
    assert!(two.changes().is_empty());
}

/// Every call fails once: what is said of it is true, and says how to go on.
#[tokio::test]
async fn a_call_that_fails_is_reported_with_what_was_changed_before_it() {
    let mut reports = Vec::new();
    for (broken, changed) in [("find", 0), ("disable", 0), ("delete", 0), ("say", 1)] {
        let fake = Fake::with([account("name", "s-1")]).broken(broken);
        let how = How {
            keep_account: broken == "disable",
            ..at_once()
        };
        let (result, _) = removed(&fake, &address(), how).await;
        assert_eq!(fake.changes().len(), changed, "{broken}");
        let failure = result.unwrap_err();
        let nothing_changed = matches!(failure, Failure::Untouched { .. });
        assert_eq!(nothing_changed, broken == "find", "{failure}");
        reports.push(format!("{broken}: {failure}"));
    }
    let fake = Fake::with([account("name", "s-1")]).broken("read");
    let (result, _) = removed(&fake, &Who::Key(key("s-1")), at_once()).await;
    reports.push(format!("read: {}", result.unwrap_err()));
    insta::assert_snapshot!(reports.join("\n"));
}

/// What the report of a bus that failed asks for finishes the job: the account is gone by then.
#[tokio::test]
async fn running_it_again_by_the_key_says_what_could_not_be_said() {
    let fake = Fake::with([account("name", "s-1")]).broken("say");
    let (result, _) = removed(&fake, &address(), at_once()).await;
    let failure = result.unwrap_err().to_string();
    let again = format!("clawctl user remove {}`", key("s-1"));
    assert!(failure.contains(&again), "{failure}");
    let afterwards = Fake::default().registered(key("s-1"), "name");
    let (result, _) = removed(&afterwards, &Who::Key(key("s-1")), at_once()).await;
    result.unwrap();
    assert_eq!(afterwards.said.borrow().len(), 1);
}

#[tokio::test]
async fn a_user_is_shown_with_account_agent_and_budget() {
    let mut fake = Fake::with([account("name", "s-1")]);
    fake.agent = Some(AgentRecord {
        version: Version(3),
        allowance: Some(Allowance {
            budget_usd: 20,
            budget_days: 30,
            requests_per_minute: 60,
            tokens_per_minute: 200_000,
        }),
        ..AgentRecord::absent(key("s-1"))
    });
    let (result, out) = shown(&fake, &address()).await;
    result.unwrap();
    insta::assert_snapshot!(out);
    assert!(fake.changes().is_empty());
}

#[tokio::test]
async fn a_user_who_was_removed_is_shown_by_their_key() {
    let fake = Fake {
        agent: Some(AgentRecord {
            version: Version(9),
            state: AgentState::Retired(Retirement {
                event: id(),
                reason: Reason::of_error("UserDeleted"),
            }),
            ..AgentRecord::absent(key("s-1"))
        }),
        ..Fake::default()
    };
    let (result, out) = shown(&fake, &Who::Key(key("s-1"))).await;
    result.unwrap();
    insta::assert_snapshot!(out);
}

#[tokio::test]
async fn nobody_is_shown_for_a_key_that_nothing_is_known_of() {
    let (result, out) = shown(&Fake::default(), &Who::Key(key("s-1"))).await;
    assert!(matches!(result, Err(Failure::Nobody(_))), "{result:?}");
    assert!(out.is_empty());
}

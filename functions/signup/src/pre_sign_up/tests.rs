use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use carapace_core::{
    email::EmailDomain,
    identity::{Account, Entries, UNCONFIRMED_KEPT, UNDER_WAY},
    policy::Policy,
};
use jiff::{SignedDuration, Timestamp};

use super::*;

/// A pool, its table and its policy, as far as pre-sign-up sees them.
struct World {
    policy: RefCell<Result<Arc<Policy>, Trouble>>,
    entries: RefCell<HashMap<String, Entry>>,
    counts: RefCell<HashMap<(String, i64), u32>>,
    accounts: RefCell<HashMap<String, Account>>,
    now: Cell<Timestamp>,
    /// Calls until one fails, and whether that one has its effect all the same.
    fails: Cell<Option<(u32, bool)>>,
    calls: Cell<u32>,
    silent: Cell<bool>,
    /// Enters the mailbox right before us, for this username.
    faster: RefCell<Option<Username>>,
}

fn no_answer() -> Trouble {
    Trouble::Unavailable {
        service: "a service",
        why: "it did not answer".to_owned(),
    }
}

impl World {
    fn new() -> Self {
        Self::with(&json!({}))
    }

    fn with(fields: &Value) -> Self {
        let mut policy = json!({
            "version": 1,
            "allowed_domains": ["example.com", "example.org"],
            "blocked_addresses": ["blocked@example.com"],
            "identity_providers": [{
                "name": "Acme", "issuer": "https://acme.example", "domains": ["acme.example"],
                "auto_confirm": true
            }],
            "plus_tags": "same_identity",
            "sign_ups_per_domain_per_hour": 3
        });
        for (name, value) in fields.as_object().unwrap() {
            policy[name] = value.clone();
        }
        let policy = Policy::parse(&policy.to_string()).unwrap();
        Self {
            policy: RefCell::new(Ok(Arc::new(policy))),
            entries: RefCell::default(),
            counts: RefCell::default(),
            accounts: RefCell::default(),
            now: Cell::new(Timestamp::from_second(1_800_000_000).unwrap()),
            fails: Cell::new(None),
            calls: Cell::new(0),
            silent: Cell::new(false),
            faster: RefCell::default(),
        }
    }

    fn trigger(&self) -> PreSignUp<&Self, &Self, &Self, &Self> {
        PreSignUp {
            policies: self,
            identities: self,
            accounts: self,
            clock: self,
            within: Duration::from_millis(100),
        }
    }

    async fn ask(&self, event: Value) -> Result<Value, SignUpDenied> {
        self.trigger().answer(event).await
    }

    /// A whole sign-up: if it is let through, Cognito makes the account.
    async fn sign_up(&self, username: &str, email: &str) -> Result<(), SignUpDenied> {
        self.ask(event("PreSignUp_SignUp", username, email)).await?;
        self.put_account(username, Account::Unconfirmed);
        Ok(())
    }

    fn put_account(&self, username: &str, account: Account) {
        let mut accounts = self.accounts.borrow_mut();
        accounts.insert(username.to_owned(), account);
    }

    fn later(&self, by: SignedDuration) {
        self.now.set(self.now.get().checked_add(by).unwrap());
    }

    async fn call<T>(&self, effect: impl FnOnce() -> T) -> Result<T, Trouble> {
        if self.silent.get() {
            std::future::pending::<()>().await;
        }
        self.calls.set(self.calls.get() + 1);
        match self.fails.get() {
            Some((0, has_effect)) => {
                self.fails.set(None);
                if has_effect {
                    effect();
                }
                Err(no_answer())
            }
            Some((n, has_effect)) => {
                self.fails.set(Some((n - 1, has_effect)));
                Ok(effect())
            }
            None => Ok(effect()),
        }
    }
}

impl Policies for &World {
    async fn policy(&self) -> Result<Arc<Policy>, Trouble> {
        self.call(|| self.policy.borrow().clone()).await?
    }
}

impl Entries for &World {
    async fn entry(&self, key: &IdentityKey) -> Result<Option<Entry>, Trouble> {
        let read = || self.entries.borrow().get(key.as_str()).cloned();
        self.call(read).await
    }
}

impl Identities for &World {
    async fn enter(
        &self,
        key: &IdentityKey,
        read: Option<&Entry>,
        entry: &Entry,
    ) -> Result<Entered, Trouble> {
        self.call(|| {
            let mut entries = self.entries.borrow_mut();
            if let Some(username) = self.faster.take() {
                let at = self.now.get();
                entries.insert(key.as_str().to_owned(), Entry { username, at });
            }
            if entries.get(key.as_str()) != read {
                return Entered::Overtaken;
            }
            entries.insert(key.as_str().to_owned(), entry.clone());
            Entered::Yes
        })
        .await
    }

    async fn count(&self, domain: &EmailDomain, hour: i64, most: u32) -> Result<Counted, Trouble> {
        self.call(|| {
            let mut counts = self.counts.borrow_mut();
            let count = counts.entry((domain.to_string(), hour)).or_default();
            if *count >= most {
                return Counted::TooMany;
            }
            *count += 1;
            Counted::Yes
        })
        .await
    }
}

impl Accounts for &World {
    async fn account(&self, pool_id: &str, username: &Username) -> Result<Account, Trouble> {
        assert_eq!(pool_id, POOL);
        let read = || self.accounts.borrow().get(username.as_str()).copied();
        Ok(self.call(read).await?.unwrap_or(Account::Missing))
    }

    async fn delete_unconfirmed(&self, pool_id: &str, username: &Username) -> Result<(), Trouble> {
        assert_eq!(pool_id, POOL);
        self.call(|| {
            let deleted = self.accounts.borrow_mut().remove(username.as_str());
            assert_ne!(deleted, Some(Account::Standing), "somebody's account");
        })
        .await
    }
}

impl Clock for &World {
    fn now(&self) -> Timestamp {
        self.now.get()
    }

    async fn sleep(&self, _: Duration) {}
}

const POOL: &str = "us-east-1_Pool";

fn event(source: &str, username: &str, email: &str) -> Value {
    json!({
        "version": "1",
        "region": "us-east-1",
        "userPoolId": POOL,
        "userName": username,
        "callerContext": {"awsSdkVersion": "aws-sdk-unknown-unknown", "clientId": "client"},
        "triggerSource": source,
        "request": {
            "userAttributes": {"email": email, "name": "Ada"},
            "validationData": null,
            "aFieldOfTomorrow": true
        },
        "response": {"autoConfirmUser": false, "autoVerifyEmail": false, "autoVerifyPhone": false}
    })
}

fn through_acme(email: &str) -> Value {
    event("PreSignUp_ExternalProvider", "acme_00u1_x", email)
}

async fn sign_up(email: &str) -> Result<Value, SignUpDenied> {
    World::new()
        .ask(event("PreSignUp_SignUp", "u-1", email))
        .await
}

#[tokio::test]
async fn an_address_at_an_allowed_domain_may_sign_up_and_is_neither_confirmed_nor_verified() {
    let asked = event("PreSignUp_SignUp", "u-1", "ada@example.com");
    assert_eq!(World::new().ask(asked.clone()).await.unwrap(), asked);
    for email in [
        "a@example.org",
        "Ada.L+claw@EXAMPLE.com",
        "o'neil@example.com",
        "a_b-c@example.com",
    ] {
        assert!(sign_up(email).await.is_ok(), "{email}");
    }
}

/// Whoever can put something into the event before us can't have an account confirmed by it.
#[tokio::test]
async fn nobody_is_confirmed_or_verified_whatever_the_event_says() {
    for response in [
        json!({"autoConfirmUser": true, "autoVerifyEmail": true, "autoVerifyPhone": true}),
        json!({}),
        json!(null),
        json!("yes"),
    ] {
        for source in ["PreSignUp_SignUp", "PreSignUp_AdminCreateUser"] {
            let mut asked = event(source, "u-1", "ada@example.com");
            asked["response"] = response.clone();
            let answer = World::new().ask(asked).await.unwrap();
            assert_eq!(
                answer["response"],
                json!({"autoConfirmUser": false, "autoVerifyEmail": false, "autoVerifyPhone": false})
            );
        }
    }
}

#[derive(Deserialize)]
struct Addresses {
    accepted: Vec<String>,
    hostile: Vec<Hostile>,
}

#[derive(Deserialize)]
struct Hostile {
    address: String,
    why: String,
}

fn addresses() -> Addresses {
    let corpus = include_str!("../../../../crates/core/tests/corpus/addresses.json");
    serde_json::from_str(corpus).unwrap()
}

/// I6
#[tokio::test]
async fn hostile_addresses_are_denied_before_anything_is_asked() {
    for Hostile { address, why } in addresses().hostile {
        for source in [
            "PreSignUp_SignUp",
            "PreSignUp_AdminCreateUser",
            "PreSignUp_ExternalProvider",
        ] {
            let world = World::new();
            let answer = world.ask(event(source, "acme_1", &address)).await;
            assert_eq!(
                answer,
                Err(SignUpDenied::AddressNotAccepted),
                "{why}: {address:?}"
            );
            assert_eq!(world.calls.get(), 0, "{why}");
        }
    }
    let long = format!("{}@example.com", "a".repeat(100_000));
    assert!(sign_up(&long).await.is_err());
}

#[tokio::test]
async fn plain_addresses_elsewhere_are_denied_and_leave_nothing_behind() {
    let world = World::new();
    let accepted = addresses().accepted;
    let elsewhere = accepted
        .iter()
        .filter(|text| !text.to_ascii_lowercase().ends_with("@example.com"));
    let elsewhere = elsewhere.filter(|text| !text.ends_with("@example.org"));
    let look_alikes = [
        "ada@example.com.evil.com",
        "ada@sub.example.com",
        "ada@xexample.com",
        "ada@example.co",
        "ada@xn--xample-9uf.com",
    ];
    for address in elsewhere.map(|text| &**text).chain(look_alikes) {
        let answer = world.sign_up("u-1", address).await;
        assert_eq!(answer, Err(SignUpDenied::DomainNotAllowed), "{address}");
    }
    assert!(world.entries.borrow().is_empty() && world.counts.borrow().is_empty());
}

#[tokio::test]
async fn an_administrator_is_bound_by_the_policy_but_not_by_the_limit() {
    let world = World::new();
    let create = |username: String, email: String| {
        world.ask(event("PreSignUp_AdminCreateUser", &username, &email))
    };
    for n in 0..10 {
        let made = create(format!("u-{n}"), format!("u{n}@example.com")).await;
        assert!(made.is_ok(), "{n}");
        world.put_account(&format!("u-{n}"), Account::Standing);
    }
    let create = async |email: &str| create("u-x".to_owned(), email.to_owned()).await;
    assert_eq!(
        create("ada@evil.com").await,
        Err(SignUpDenied::DomainNotAllowed)
    );
    assert_eq!(create("ada").await, Err(SignUpDenied::AddressNotAccepted));
    assert_eq!(
        create("u1+again@example.com").await,
        Err(SignUpDenied::AddressUnavailable)
    );
}

#[tokio::test]
async fn a_provider_that_the_policy_names_brings_its_own_domains_and_no_other() {
    let world = World::new();
    let answer = world.ask(through_acme("ada@acme.example")).await.unwrap();
    assert_eq!(
        answer["response"],
        json!({"autoConfirmUser": true, "autoVerifyEmail": false, "autoVerifyPhone": false})
    );
    for (username, email, denied) in [
        ("acme_2", "ada@example.com", SignUpDenied::DomainNotAllowed),
        (
            "evil_2",
            "bob@acme.example",
            SignUpDenied::ProviderNotAllowed,
        ),
        (
            "_acme",
            "bob@acme.example",
            SignUpDenied::ProviderNotAllowed,
        ),
        ("acme", "bob@acme.example", SignUpDenied::ProviderNotAllowed),
        (
            "4f5e1a1c",
            "bob@acme.example",
            SignUpDenied::ProviderNotAllowed,
        ),
    ] {
        let asked = event("PreSignUp_ExternalProvider", username, email);
        assert_eq!(world.ask(asked).await, Err(denied), "{username} {email}");
    }
    // Who signs up by themselves can't call themselves by a provider's name.
    let asked = event("PreSignUp_SignUp", "acme_3", "bob@acme.example");
    assert_eq!(world.ask(asked).await, Err(SignUpDenied::DomainNotAllowed));
}

/// As people have logged it: mapped attributes, empty aliases, and nothing of who issued the token.
#[tokio::test]
async fn what_cognito_says_at_a_first_sign_in_through_a_provider_is_enough() {
    let mut asked = through_acme("ada@acme.example");
    asked["request"] = json!({
        "userAttributes": {
            "cognito:email_alias": "",
            "cognito:phone_number_alias": "",
            "email_verified": "true",
            "email": "ada@acme.example"
        },
        "validationData": {}
    });
    let answer = World::new().ask(asked.clone()).await.unwrap();
    assert_eq!(answer["request"], asked["request"]);
    asked["request"]["userAttributes"]["email"] = json!("ada@example.com");
    let answer = World::new().ask(asked).await;
    assert_eq!(answer, Err(SignUpDenied::DomainNotAllowed));
}

#[tokio::test]
async fn what_the_event_says_of_a_provider_has_to_fit_the_policy() {
    let with = |name: &str, value: &str| {
        let mut asked = through_acme("ada@acme.example");
        asked["request"]["userAttributes"][name] = json!(value);
        asked
    };
    let identities = |provider: &str, issuer: Value| {
        with(
            "identities",
            &json!([{"userId": "1", "providerName": provider, "issuer": issuer}]).to_string(),
        )
    };
    for (asked, answer) in [
        (identities("Acme", json!("https://acme.example")), Ok(())),
        (identities("Acme", json!(null)), Ok(())),
        (with("email_verified", "true"), Ok(())),
        (
            identities("Acme", json!("https://evil.example")),
            Err(SignUpDenied::ProviderNotAllowed),
        ),
        (
            identities("Evil", json!("https://acme.example")),
            Err(SignUpDenied::ProviderNotAllowed),
        ),
        (
            with("identities", "[]"),
            Err(SignUpDenied::ProviderNotAllowed),
        ),
        (with("identities", "{"), Err(SignUpDenied::MalformedEvent)),
        (
            with("email_verified", "false"),
            Err(SignUpDenied::AddressNotVerified),
        ),
        (
            with("email_verified", ""),
            Err(SignUpDenied::AddressNotVerified),
        ),
    ] {
        let said = World::new().ask(asked.clone()).await.map(|_| ());
        assert_eq!(said, answer, "{asked}");
    }
}

#[tokio::test]
async fn a_mailbox_has_one_account_however_its_address_is_written() {
    let world = World::new();
    world.sign_up("u-1", "ada@example.com").await.unwrap();
    world.put_account("u-1", Account::Standing);
    for email in ["ada@example.com", "ADA@Example.com", "Ada+2@example.com"] {
        world.later(SignedDuration::from_hours(2));
        let second = world.sign_up("u-2", email).await;
        assert_eq!(second, Err(SignUpDenied::AddressUnavailable), "{email}");
    }
    assert!(world.sign_up("u-3", "ada@example.org").await.is_ok());
}

#[tokio::test]
async fn where_tags_are_identities_each_has_its_account() {
    let world = World::with(&json!({"plus_tags": "distinct"}));
    world.sign_up("u-1", "ada+1@example.com").await.unwrap();
    world.sign_up("u-2", "ada+2@example.com").await.unwrap();
    let second = world.sign_up("u-3", "Ada+1@example.com").await;
    assert_eq!(second, Err(SignUpDenied::AddressUnavailable));
}

#[tokio::test]
async fn a_blocked_mailbox_reads_like_one_that_has_an_account() {
    let world = World::new();
    for email in ["blocked@example.com", "Blocked+1@example.com"] {
        let denied = world.sign_up("u-1", email).await;
        assert_eq!(denied, Err(SignUpDenied::AddressUnavailable));
    }
    // It counts like one as well.
    world.sign_up("u-2", "ada@example.com").await.unwrap();
    let denied = world.sign_up("u-1", "blocked@example.com").await;
    assert_eq!(denied, Err(SignUpDenied::TooManySignUps));
    let refused = World::with(&json!({"plus_tags": "refused"}));
    let denied = refused.sign_up("u-1", "ada+1@example.com").await;
    assert_eq!(denied, Err(SignUpDenied::TagNotAccepted));
}

#[tokio::test]
async fn tries_of_one_sign_up_count_once_and_get_one_answer() {
    let world = World::new();
    for _ in 0..3 {
        assert!(world.sign_up("u-1", "ada@example.com").await.is_ok());
    }
    assert_eq!(world.counts.borrow().values().sum::<u32>(), 1);
    assert_eq!(world.entries.borrow().len(), 1);
}

/// Every call fails once, with and without its effect: the next try of Cognito's ends well, and
/// there is one entry and no more than one count too many.
#[tokio::test]
async fn a_try_that_dies_anywhere_is_made_good_by_the_next() {
    let mut died = 0;
    for n in 0.. {
        for has_effect in [false, true] {
            let world = World::new();
            world.fails.set(Some((n, has_effect)));
            let first = world.sign_up("u-1", "ada@example.com").await;
            if first.is_ok() {
                assert_eq!(died, 8, "policy, entry, count, enter: each in two ways");
                return;
            }
            died += 1;
            assert_eq!(first, Err(SignUpDenied::Unavailable));
            assert!(world.sign_up("u-1", "ada@example.com").await.is_ok());
            assert_eq!(world.entries.borrow().len(), 1);
            assert!(world.counts.borrow().values().sum::<u32>() <= 2);
        }
    }
}

#[tokio::test]
async fn an_entry_without_an_account_keeps_its_owner_out_for_a_minute_and_no_longer() {
    let world = World::with(&json!({"sign_ups_per_domain_per_hour": 9}));
    // Let through, and then Cognito did not like the password.
    let asked = event("PreSignUp_SignUp", "u-1", "ada@example.com");
    world.ask(asked).await.unwrap();
    let again = world.sign_up("u-2", "ada@example.com").await;
    assert_eq!(again, Err(SignUpDenied::AddressUnavailable));
    world.later(UNDER_WAY);
    assert!(world.sign_up("u-2", "ada@example.com").await.is_ok());
    // Should the first come back all the same, it is late.
    let late = world.sign_up("u-1", "ada@example.com").await;
    assert_eq!(late, Err(SignUpDenied::AddressUnavailable));
}

#[tokio::test]
async fn an_account_that_nobody_confirmed_makes_room_after_a_day() {
    let world = World::new();
    world.sign_up("u-1", "ada+squat@example.com").await.unwrap();
    world.later(UNCONFIRMED_KEPT - SignedDuration::from_secs(1));
    let early = world.sign_up("u-2", "ada@example.com").await;
    assert_eq!(early, Err(SignUpDenied::AddressUnavailable));
    world.later(SignedDuration::from_secs(1));
    assert!(world.sign_up("u-2", "ada@example.com").await.is_ok());
    let accounts = world.accounts.borrow();
    assert_eq!(accounts.keys().collect::<Vec<_>>(), ["u-2"]);
}

#[tokio::test]
async fn an_account_that_was_confirmed_keeps_its_mailbox_for_ever() {
    let world = World::new();
    world.sign_up("u-1", "ada@example.com").await.unwrap();
    world.put_account("u-1", Account::Standing);
    world.later(UNCONFIRMED_KEPT * 1000);
    let second = world.sign_up("u-2", "ada@example.com").await;
    assert_eq!(second, Err(SignUpDenied::AddressUnavailable));
}

#[tokio::test]
async fn of_two_sign_ups_at_once_one_gets_the_mailbox() {
    let world = World::new();
    world.faster.replace(Username::parse("u-2"));
    let slower = world.sign_up("u-1", "ada@example.com").await;
    assert_eq!(slower, Err(SignUpDenied::AddressUnavailable));
    // Two tries of one sign-up at once both get it.
    let world = World::new();
    world.faster.replace(Username::parse("u-1"));
    assert!(world.sign_up("u-1", "ada@example.com").await.is_ok());
}

#[tokio::test]
async fn a_domain_has_so_many_sign_ups_an_hour_and_others_have_their_own() {
    let world = World::new();
    for n in 0..3 {
        let email = format!("u{n}@example.com");
        assert!(world.sign_up(&format!("u-{n}"), &email).await.is_ok());
    }
    let fourth = world.sign_up("u-3", "u3@example.com").await;
    assert_eq!(fourth, Err(SignUpDenied::TooManySignUps));
    assert_eq!(world.entries.borrow().len(), 3, "it left no entry");
    assert!(world.sign_up("u-4", "u4@example.org").await.is_ok());
    // One that is on its way is not stopped by it.
    assert!(world.sign_up("u-2", "u2@example.com").await.is_ok());
    world.later(SignedDuration::from_hours(1));
    assert!(world.sign_up("u-3", "u3@example.com").await.is_ok());
}

/// There is no end of sub-domains, so a limit for each of them would be none.
#[tokio::test]
async fn made_up_sub_domains_share_one_limit() {
    let world = World::with(&json!({"allowed_domains": ["*.example.com"]}));
    for n in 0..3 {
        let email = format!("ada@d{n}.example.com");
        assert!(world.sign_up(&format!("u-{n}"), &email).await.is_ok());
    }
    let fourth = world.sign_up("u-3", "ada@a.d3.example.com").await;
    assert_eq!(fourth, Err(SignUpDenied::TooManySignUps));
    assert_eq!(world.counts.borrow().len(), 1);
}

#[tokio::test]
async fn trying_addresses_to_learn_who_has_an_account_is_limited_too() {
    let world = World::new();
    world.sign_up("u-1", "ada@example.com").await.unwrap();
    let mut answers = Vec::new();
    for n in 0..4 {
        let probe = world.sign_up(&format!("p-{n}"), "ada@example.com").await;
        answers.push(probe.unwrap_err());
    }
    assert_eq!(answers[1], SignUpDenied::AddressUnavailable);
    assert_eq!(answers[2..], [SignUpDenied::TooManySignUps; 2]);
}

/// I6
#[tokio::test]
async fn everybody_is_denied_while_the_policy_cannot_be_read() {
    let world = World::new();
    *world.policy.borrow_mut() = Err(no_answer());
    for source in ["PreSignUp_SignUp", "PreSignUp_AdminCreateUser"] {
        let answer = world.ask(event(source, "u-1", "ada@example.com")).await;
        assert_eq!(answer, Err(SignUpDenied::Unavailable));
    }
    assert!(world.entries.borrow().is_empty());
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_not_waited_for() {
    let world = World::new();
    world.silent.set(true);
    let answer = world.sign_up("u-1", "ada@example.com").await;
    assert_eq!(answer, Err(SignUpDenied::Unavailable));
    assert!(WITHIN < Duration::from_secs(5), "Cognito's own limit");
}

/// The event as it is published, and with its placeholders filled in.
#[tokio::test]
async fn the_published_sample_is_understood() {
    let sample = include_str!("../samples/example-cognito-event-userpools-presignup.json");
    let raw: Value = serde_json::from_str(sample).unwrap();
    let answer = World::new().ask(raw.clone()).await;
    assert_eq!(answer, Err(SignUpDenied::AddressNotAccepted));
    let mut filled = raw;
    filled["userPoolId"] = json!(POOL);
    filled["request"]["userAttributes"]["email"] = json!("ada@example.com");
    let answer = World::new().ask(filled.clone()).await.unwrap();
    assert_eq!(answer["response"]["autoVerifyEmail"], false);
    assert_eq!(answer["request"], filled["request"]);
}

/// I6: unknown means deny, and nothing that comes in is a panic.
#[tokio::test]
async fn events_that_cognito_does_not_send_are_denied() {
    let good = event("PreSignUp_SignUp", "u-1", "ada@example.com");
    let without = |field: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(field);
        event
    };
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    let attributes = |attributes: Value| with("request", json!({"userAttributes": attributes}));
    for event in [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!("PreSignUp_SignUp"),
        json!({"response": {}}),
        without("response"),
        without("request"),
        without("triggerSource"),
        without("userName"),
        without("userPoolId"),
        with("userPoolId", json!("")),
        with("userName", json!("")),
        with("userName", json!("a b")),
        with("userName", json!("x".repeat(129))),
        with("triggerSource", json!(null)),
        with("triggerSource", json!("PreSignUp_Tomorrow")),
        with("triggerSource", json!("PreTokenGeneration_Authentication")),
        with("request", json!(null)),
        attributes(json!({"email": ["ada@example.com"]})),
        attributes(json!({"email": null})),
        attributes(json!({"email": {"S": "ada@example.com"}})),
        attributes(json!("ada@example.com")),
    ] {
        let world = World::new();
        assert_eq!(
            world.ask(event.clone()).await,
            Err(SignUpDenied::MalformedEvent),
            "{event}"
        );
        assert_eq!(world.calls.get(), 0, "{event}");
    }
    for event in [
        attributes(json!({})),
        attributes(json!(null)),
        attributes(json!({"Email": "ada@example.com"})),
        attributes(json!({"phone_number": "+491234567"})),
    ] {
        assert_eq!(
            World::new().ask(event.clone()).await,
            Err(SignUpDenied::AddressNotAccepted),
            "{event}"
        );
    }
}

/// What a person reads on the sign-up page, and the names behind it.
#[test]
fn denials_speak_to_the_person_and_repeat_nothing_they_sent() {
    let denials = [
        SignUpDenied::AddressNotAccepted,
        SignUpDenied::TagNotAccepted,
        SignUpDenied::AddressNotVerified,
        SignUpDenied::DomainNotAllowed,
        SignUpDenied::ProviderNotAllowed,
        SignUpDenied::AddressUnavailable,
        SignUpDenied::TooManySignUps,
        SignUpDenied::Unavailable,
        SignUpDenied::MalformedEvent,
    ]
    .map(|denied| {
        let shown = Diagnostic::from(denied);
        format!("{}: {}", shown.error_type, shown.error_message)
    });
    insta::assert_snapshot!(denials.join("\n"));
}

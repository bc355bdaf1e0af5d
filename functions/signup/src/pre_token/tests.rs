use std::cell::{Cell, RefCell};

use carapace_core::ports::Trouble;
use jiff::Timestamp;

use super::*;

/// The bus, and what it does to whoever wants to put something on it.
#[derive(Default)]
struct World {
    announced: RefCell<Vec<UserSignedIn>>,
    fails: Cell<bool>,
    silent: Cell<bool>,
    metrics: RefCell<Vec<Value>>,
}

impl SignIns for &World {
    async fn announce(&self, sign_in: &UserSignedIn) -> Result<(), Trouble> {
        if self.silent.get() {
            std::future::pending::<()>().await;
        }
        if self.fails.get() {
            return Err(Trouble::Unavailable {
                service: "EventBridge",
                why: "down".to_owned(),
            });
        }
        self.announced.borrow_mut().push(sign_in.clone());
        Ok(())
    }
}

impl Clock for &World {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    async fn sleep(&self, _: Duration) {}
}

impl World {
    async fn ask(&self, event: Value) -> Value {
        let step = PreToken {
            sign_ins: self,
            clock: self,
            metric: |metric: &Value| self.metrics.borrow_mut().push(metric.clone()),
            within: Duration::from_millis(20),
        };
        let request_id = "8f507cfc-xmpl-4697-b07a-ac58fc914c95";
        step.handle(event, request_id).await
    }

    fn lost(&self) -> Vec<Value> {
        self.metrics.take()
    }
}

/// The key of user `sub-1` in the pool of [`event`]: see the test of core.
const KEY: &str = "jzymnv3uvr46d7ntz4wo";

fn event(version: &str, trigger: &str) -> Value {
    let details = match version {
        "1" => "claimsOverrideDetails",
        _ => "claimsAndScopeOverrideDetails",
    };
    json!({
        "version": version,
        "triggerSource": trigger,
        "userPoolId": "us-east-1_Pool",
        "userName": "sub-1",
        "request": {"userAttributes": {"sub": "sub-1", "email": "ada@example.com"}},
        "response": {details: null}
    })
}

fn sign_in() -> Value {
    event("2", "TokenGeneration_Authentication")
}

#[tokio::test]
async fn both_tokens_carry_the_users_key() {
    let answer = World::default().ask(sign_in()).await;
    let details = &answer["response"]["claimsAndScopeOverrideDetails"];
    for token in ["idTokenGeneration", "accessTokenGeneration"] {
        assert_eq!(details[token]["claimsToAddOrOverride"][CLAIM], KEY);
    }
    assert_eq!(answer["request"], sign_in()["request"]);
}

#[tokio::test]
async fn an_event_of_the_first_version_has_one_place_for_it() {
    let asked = event("1", "TokenGeneration_Authentication");
    let answer = World::default().ask(asked).await;
    assert_eq!(
        answer["response"],
        json!({"claimsOverrideDetails": {"claimsToAddOrOverride": {CLAIM: KEY}}})
    );
}

#[tokio::test]
async fn who_signs_in_is_announced_once_and_tokens_made_anew_are_no_sign_in() {
    let world = World::default();
    for trigger in SIGN_INS {
        world.ask(event("2", trigger)).await;
    }
    assert_eq!(world.announced.borrow().len(), SIGN_INS.len());
    let announced = world.announced.take();
    insta::assert_json_snapshot!(announced[0]);
    for trigger in ["TokenGeneration_RefreshTokens", "TokenGeneration_Tomorrow"] {
        let answer = world.ask(event("2", trigger)).await;
        assert!(answer.to_string().contains(KEY), "{trigger}");
    }
    assert!(world.announced.borrow().is_empty() && world.lost().is_empty());
}

/// Whoever hears of the sign-in looks the account up by it, in an expression.
#[tokio::test]
async fn a_sub_that_is_none_is_in_the_claim_and_not_on_the_bus() {
    let world = World::default();
    for sub in ["sub 1", "sub\"1", &"s".repeat(65)] {
        let mut asked = sign_in();
        asked["request"]["userAttributes"]["sub"] = json!(sub);
        let answer = world.ask(asked).await;
        let key = UserKey::derive("us-east-1_Pool", sub);
        assert!(answer.to_string().contains(key.as_str()), "{sub}");
        assert_eq!(world.lost().len(), 1, "{sub}");
    }
    assert!(world.announced.borrow().is_empty());
}

/// Cognito makes no tokens if we fail or are late.
#[tokio::test]
async fn a_bus_that_fails_or_is_silent_costs_the_signal_and_not_the_sign_in() {
    let world = World::default();
    world.fails.set(true);
    let answer = world.ask(sign_in()).await;
    assert!(answer.to_string().contains(KEY));
    insta::assert_json_snapshot!(world.lost());
    world.silent.set(true);
    let answer = world.ask(sign_in()).await;
    assert!(answer.to_string().contains(KEY));
    assert_eq!(world.lost().len(), 1);
    assert!(WITHIN <= Duration::from_millis(300));
}

#[tokio::test]
async fn what_the_answer_says_already_stays() {
    let mut asked = sign_in();
    asked["response"]["claimsAndScopeOverrideDetails"] = json!({
        "idTokenGeneration": {"claimsToAddOrOverride": {"a": "b"}, "claimsToSuppress": ["email"]},
        "groupOverrideDetails": {"groupsToOverride": ["g"]}
    });
    let answer = World::default().ask(asked).await;
    assert_eq!(
        answer["response"]["claimsAndScopeOverrideDetails"],
        json!({
            "idTokenGeneration": {
                "claimsToAddOrOverride": {"a": "b", CLAIM: KEY}, "claimsToSuppress": ["email"]
            },
            "accessTokenGeneration": {"claimsToAddOrOverride": {CLAIM: KEY}},
            "groupOverrideDetails": {"groupsToOverride": ["g"]}
        })
    );
}

/// The events as they are published: they name no `sub`, which real ones do.
#[tokio::test]
async fn the_published_samples_are_understood() {
    for (sample, two) in [
        (
            include_str!("../samples/example-cognito-event-userpools-pretokengen.json"),
            false,
        ),
        (
            include_str!("../samples/example-cognito-event-userpools-pretokengen-incoming.json"),
            false,
        ),
        (
            include_str!(
                "../samples/example-cognito-event-userpools-pretokengen-null-group-configuration.json"
            ),
            false,
        ),
        (
            include_str!("../samples/example-cognito-event-userpools-pretokengen-v2.json"),
            true,
        ),
        (
            include_str!("../samples/example-cognito-event-userpools-pretokengen-v2-incoming.json"),
            true,
        ),
        (
            include_str!(
                "../samples/example-cognito-event-userpools-pretokengen-v2-null-group-configuration.json"
            ),
            true,
        ),
    ] {
        let raw: Value = serde_json::from_str(sample).unwrap();
        let world = World::default();
        assert_eq!(
            world.ask(raw.clone()).await,
            raw,
            "without a sub as it came"
        );
        assert_eq!(world.lost().len(), 1);
        let mut filled = raw;
        filled["request"]["userAttributes"]["sub"] = json!("sub-1");
        let answer = world.ask(filled).await;
        let access = "/response/claimsAndScopeOverrideDetails/accessTokenGeneration/claimsToAddOrOverride/carapace:user_key";
        let id = "/response/claimsOverrideDetails/claimsToAddOrOverride/carapace:user_key";
        assert_eq!(answer.pointer(access).is_some(), two, "{sample}");
        assert_eq!(answer.pointer(id).is_some(), !two, "{sample}");
        assert_eq!(world.announced.borrow().len(), 1);
    }
}

#[tokio::test]
async fn an_event_that_cognito_does_not_send_is_answered_as_it_came() {
    let world = World::default();
    let with = |pointer: &str, value: Value| {
        let mut event = sign_in();
        *event.pointer_mut(pointer).unwrap() = value;
        event
    };
    for event in [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!({"request": []}),
        with("/request", json!("x")),
        with("/request/userAttributes", json!(["sub"])),
        with("/request/userAttributes/sub", json!(7)),
        with("/request/userAttributes/sub", json!("")),
        with("/userPoolId", json!(null)),
    ] {
        assert_eq!(world.ask(event.clone()).await, event);
        assert_eq!(world.lost().len(), 1, "{event}");
    }
    assert!(world.announced.borrow().is_empty());
    // Of an answer that is none, one is made.
    for event in [
        with("/response", json!("x")),
        with("/response", json!(null)),
    ] {
        assert!(world.ask(event).await["response"].to_string().contains(KEY));
    }
    assert!(
        world
            .ask(with("/triggerSource", json!(7)))
            .await
            .to_string()
            .contains(KEY)
    );
}

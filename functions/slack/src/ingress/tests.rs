//! Whatever the internet sends, on a bus and a secret that can be looked at.

use std::cell::{Cell, RefCell};

use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use carapace_core::event::SlackMessageReceived;
use data_encoding::BASE64;
use jiff::{SignedDuration, Timestamp};

use super::*;

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const ROTATED: &str = "0123456789abcdef0123456789abcdef";

/// A bus that keeps what it is given, a secret that can be rotated, and the time.
#[derive(Clone, Copy)]
struct World<'a>(&'a State);

struct State {
    now: Timestamp,
    published: RefCell<Vec<SlackMessageReceived>>,
    bus: Cell<Health>,
    /// What Secrets Manager has.
    secret: Cell<&'static str>,
    /// What the function has read of it, if anything.
    cached: Cell<Option<&'static str>>,
    /// How often Secrets Manager was asked.
    asked: Cell<u32>,
    /// Whether it was asked so lately that it isn't asked again.
    settled: Cell<bool>,
    secrets: Cell<Health>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Unavailable,
    Refuses,
}

impl Health {
    fn check(self) -> Result<(), Trouble> {
        let (service, why) = ("AWS", "arn:aws:very:internal".to_owned());
        match self {
            Self::Well => Ok(()),
            Self::Unavailable => Err(Trouble::Unavailable { service, why }),
            Self::Refuses => Err(Trouble::Refused { service, why }),
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            now: "2026-11-25T02:00:00Z".parse().unwrap(),
            published: RefCell::default(),
            bus: Cell::new(Health::Well),
            secret: Cell::new(SECRET),
            cached: Cell::new(None),
            asked: Cell::new(0),
            settled: Cell::new(false),
            secrets: Cell::new(Health::Well),
        }
    }

    fn fetch(&self) -> Result<SigningSecret, Trouble> {
        self.asked.set(self.asked.get() + 1);
        self.secrets.get().check()?;
        self.cached.set(Some(self.secret.get()));
        Ok(secret(self.secret.get()))
    }
}

impl SigningSecrets for World<'_> {
    async fn read(&self) -> Result<SigningSecret, Trouble> {
        match self.0.cached.get() {
            Some(text) => Ok(secret(text)),
            None => self.0.fetch(),
        }
    }

    async fn read_again(&self) -> Result<Option<SigningSecret>, Trouble> {
        if self.0.settled.get() {
            return Ok(None);
        }
        self.0.fetch().map(Some)
    }
}

impl Messages for World<'_> {
    async fn publish(&self, message: &SlackMessageReceived) -> Result<(), Trouble> {
        self.0.bus.get().check()?;
        self.0.published.borrow_mut().push(message.clone());
        Ok(())
    }
}

impl Clock for World<'_> {
    fn now(&self) -> Timestamp {
        self.0.now
    }

    async fn sleep(&self, _: std::time::Duration) {
        unreachable!("nothing is waited for");
    }
}

fn secret(text: &str) -> SigningSecret {
    SigningSecret::parse(text).unwrap()
}

/// A mention in a channel, as Slack posts it.
fn mention() -> Value {
    json!({
        "token": "ZZZZZZWSxiZZZ2yIvs3peJ", "team_id": "T0CARAPACE", "api_app_id": "A0CLAW",
        "event": {
            "type": "app_mention", "user": "U0ADA", "text": "<@U0CLAW> hello",
            "ts": "1764036000.000100", "channel": "C0GENERAL", "event_ts": "1764036000.000100",
        },
        "type": "event_callback", "event_id": "Ev0HELLO", "event_time": 1_764_036_000,
        "authorizations": [
            { "enterprise_id": null, "team_id": "T0CARAPACE", "user_id": "U0CLAW", "is_bot": true },
        ],
    })
}

/// A request as API Gateway hands it on: of a body, signed now with the secret.
struct Sent {
    value: Value,
}

impl Sent {
    fn of(state: &State, body: &impl ToString) -> Self {
        let mut sent = Self::unsigned(body);
        sent.sign(SECRET, state.now);
        sent
    }

    fn unsigned(body: &impl ToString) -> Self {
        let value = json!({
            "version": "2.0", "routeKey": "POST /slack/events", "rawPath": "/slack/events",
            "rawQueryString": "",
            "headers": {
                "accept": "*/*", "content-type": "application/json",
                "host": "abc.execute-api.eu-central-1.amazonaws.com",
                "user-agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
                "x-forwarded-proto": "https",
            },
            "requestContext": {
                "accountId": "123456789012", "apiId": "abc", "domainName": "abc.example.com",
                "domainPrefix": "abc",
                "http": {
                    "method": "POST", "path": "/slack/events", "protocol": "HTTP/1.1",
                    "sourceIp": "192.0.2.1", "userAgent": "Slackbot 1.0",
                },
                "requestId": "id", "routeKey": "POST /slack/events", "stage": "$default",
                "time": "25/Nov/2026:02:00:00 +0000", "timeEpoch": 1_764_036_000_000_i64,
            },
            "body": body.to_string(), "isBase64Encoded": false,
        });
        Self { value }
    }

    fn sign(&mut self, with: &str, at: Timestamp) {
        let at = at.as_second().to_string();
        let body = self.value["body"].as_str().unwrap();
        let signature = signature::sign(&secret(with), &at, body.as_bytes());
        self.header("x-slack-request-timestamp", &at);
        self.header("x-slack-signature", &signature);
    }

    fn header(&mut self, name: &str, value: &str) {
        self.value["headers"][name] = value.into();
    }

    fn take(&mut self, name: &str) -> String {
        let headers = self.value["headers"].as_object_mut().unwrap();
        headers.remove(name).unwrap().as_str().unwrap().to_owned()
    }

    fn encoded(mut self) -> Self {
        let body = self.value["body"].as_str().unwrap();
        self.value["body"] = BASE64.encode(body.as_bytes()).into();
        self.value["isBase64Encoded"] = true.into();
        self
    }
}

async fn post(state: &State, payload: Value) -> (u64, Value) {
    let world = World(state);
    let ingress = ReceiveWebhook {
        secrets: world,
        messages: world,
        clock: world,
    };
    let answer = ingress.handle(payload).await.unwrap();
    assert_eq!(answer["isBase64Encoded"], false);
    assert_eq!(answer["headers"]["content-type"], "application/json");
    let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    (answer["statusCode"].as_u64().unwrap(), body)
}

/// Refused with this, and nothing is stored (I6).
async fn refused(state: &State, sent: Sent, status: u64, error: &str) {
    let (got, body) = post(state, sent.value).await;
    assert_eq!((got, &body["error"]), (status, &json!(error)), "{body}");
    assert!(body["message"].is_string(), "{body}");
    assert_eq!(*state.published.borrow(), []);
}

#[tokio::test]
async fn a_mention_is_on_the_bus_before_slack_is_told_so() {
    let state = State::new();
    let (status, body) = post(&state, Sent::of(&state, &mention()).value).await;
    assert_eq!(status, 200, "{body}");
    let published = state.published.borrow();
    let [message] = published.as_slice() else {
        panic!("{published:?}");
    };
    assert_eq!(message.id.as_str(), "slack.Ev0HELLO");
    assert_eq!(message.text, "hello");
    assert_eq!(body, json!({ "event_id": "slack.Ev0HELLO" }));
}

/// I5: Slack is told to send it again, and told nothing of what is behind.
#[tokio::test]
async fn what_the_bus_did_not_take_is_not_acknowledged() {
    for health in [Health::Unavailable, Health::Refuses] {
        let state = State::new();
        state.bus.set(health);
        let answer = post(&state, Sent::of(&state, &mention()).value).await;
        let (status, body) = answer;
        assert_eq!((status, &body["error"]), (503, &json!("Unavailable")));
        assert!(!body.to_string().contains("internal"), "{body}");
        state.bus.set(Health::Well);
        let (status, _) = post(&state, Sent::of(&state, &mention()).value).await;
        assert_eq!((status, state.published.borrow().len()), (200, 1));
    }
}

#[tokio::test]
async fn without_the_secret_nothing_is_taken() {
    for health in [Health::Unavailable, Health::Refuses] {
        let state = State::new();
        state.secrets.set(health);
        refused(&state, Sent::of(&state, &mention()), 503, "Unavailable").await;
        refused(&state, Sent::unsigned(&mention()), 503, "Unavailable").await;
    }
}

#[tokio::test]
async fn what_slack_did_not_sign_is_refused() {
    let state = State::new();
    let long = SignedDuration::from_secs(301);
    let signed = |change: &dyn Fn(&mut Sent)| {
        let mut sent = Sent::of(&state, &mention());
        change(&mut sent);
        sent
    };
    let capitals = |sent: &mut Sent| {
        let signature = sent.take("x-slack-signature");
        sent.header("x-slack-signature", &signature.to_uppercase());
    };
    for sent in [
        Sent::unsigned(&mention()),
        signed(&|sent| drop(sent.take("x-slack-signature"))),
        signed(&|sent| drop(sent.take("x-slack-request-timestamp"))),
        signed(&|sent| sent.header("x-slack-signature", "")),
        signed(&|sent| sent.header("x-slack-signature", "v0=")),
        signed(&|sent| sent.header("x-slack-signature", &format!("v0={}", "0".repeat(64)))),
        signed(&|sent| sent.header("x-slack-signature", &"é".repeat(67))),
        signed(&|sent| {
            let signature = sent.take("x-slack-signature").replace("v0=", "v1=");
            sent.header("x-slack-signature", &signature);
        }),
        signed(&|sent| {
            let signature = sent.take("x-slack-signature");
            sent.header("x-slack-signature", &signature[..signature.len() - 2]);
        }),
        signed(&capitals),
        signed(&|sent| sent.sign(ROTATED, state.now)),
        signed(&|sent| sent.sign(SECRET, state.now - long)),
        signed(&|sent| sent.sign(SECRET, state.now + long)),
        signed(&|sent| sent.header("x-slack-request-timestamp", "yesterday")),
        signed(&|sent| {
            let earlier = state.now.as_second() - 1;
            sent.header("x-slack-request-timestamp", &earlier.to_string());
        }),
        signed(&|sent| {
            let at = sent.take("x-slack-request-timestamp");
            sent.header("x-slack-request-timestamp", &format!("+{at}"));
        }),
        // Altered on the way: a byte, nothing but white space, all of it.
        signed(&|sent| {
            let body = sent.value["body"]
                .as_str()
                .unwrap()
                .replace("hello", "hallo");
            sent.value["body"] = body.into();
        }),
        signed(&|sent| {
            let body = format!("{} ", sent.value["body"].as_str().unwrap());
            sent.value["body"] = body.into();
        }),
        signed(&|sent| sent.value["body"] = Value::Null),
        signed(&|sent| sent.value["body"] = "".into()),
    ] {
        refused(&state, sent, 401, "SignatureRejected").await;
    }
}

#[tokio::test]
async fn of_two_signatures_none_counts() {
    let state = State::new();
    let two = |name: &str| {
        // As API Gateway hands on two headers of one name.
        let mut joined = Sent::of(&state, &mention());
        let value = joined.take(name);
        joined.header(name, &format!("{value},{value}"));
        // As it never should.
        let mut cased = Sent::of(&state, &mention());
        let value = cased.take(name);
        cased.header(name, &value);
        cased.header(&name.to_uppercase(), &value);
        [joined, cased]
    };
    for name in ["x-slack-signature", "x-slack-request-timestamp"] {
        for sent in two(name) {
            refused(&state, sent, 401, "SignatureRejected").await;
        }
    }
}

#[tokio::test]
async fn a_header_is_known_in_any_case() {
    let state = State::new();
    let mut sent = Sent::of(&state, &mention());
    for (name, cased) in [
        ("x-slack-signature", "X-Slack-Signature"),
        ("x-slack-request-timestamp", "X-SLACK-REQUEST-TIMESTAMP"),
    ] {
        let value = sent.take(name);
        sent.header(cased, &value);
    }
    assert_eq!(post(&state, sent.value).await.0, 200);
    assert_eq!(state.published.borrow().len(), 1);
}

#[tokio::test]
async fn a_header_that_is_none_of_ours_may_be_anything() {
    let state = State::new();
    let mut sent = Sent::of(&state, &mention());
    for value in ["é\u{0}\u{7f}", "", "\r\nx-slack-signature: v0=1"] {
        sent.header("x-anything ☃", value);
        assert_eq!(post(&state, sent.value.clone()).await.0, 200, "{value:?}");
    }
}

#[tokio::test]
async fn a_body_in_base64_is_what_was_encoded() {
    let state = State::new();
    let sent = Sent::of(&state, &mention()).encoded();
    assert_eq!(post(&state, sent.value).await.0, 200);
    assert_eq!(state.published.borrow().len(), 1);

    let other = State::new();
    for garbled in ["%%%", "abc", "YWJj\n", "YWJj=", "é"] {
        let mut sent = Sent::of(&other, &mention()).encoded();
        sent.value["body"] = garbled.into();
        refused(&other, sent, 400, "RequestRejected").await;
    }
    let altered = Sent::of(&other, &mention()).encoded();
    let mut altered = altered.value;
    altered["isBase64Encoded"] = false.into();
    refused(&other, Sent { value: altered }, 401, "SignatureRejected").await;
}

/// Before the signature, which would have to be computed over all of it, and before it is parsed.
#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused_unseen() {
    const LIMIT: usize = 1024 * 1024;
    let state = State::new();
    for bytes in [LIMIT + 1, LIMIT + 2, LIMIT + 3, LIMIT + 4, 3 * LIMIT] {
        let body = "x".repeat(bytes);
        refused(&state, Sent::unsigned(&body), 413, "BodyTooLarge").await;
        refused(&state, Sent::of(&state, &body), 413, "BodyTooLarge").await;
        let encoded = Sent::of(&state, &body).encoded();
        refused(&state, encoded, 413, "BodyTooLarge").await;
    }
    assert_eq!(state.asked.get(), 0, "not even the secret was read");
    let body = "x".repeat(LIMIT);
    refused(&state, Sent::unsigned(&body), 401, "SignatureRejected").await;
    refused(&state, Sent::of(&state, &body), 400, "WebhookRejected").await;
    let encoded = Sent::of(&state, &body).encoded();
    refused(&state, encoded, 400, "WebhookRejected").await;
    // Characters are not bytes.
    let body = "é".repeat(LIMIT / 2 + 1);
    refused(&state, Sent::of(&state, &body), 413, "BodyTooLarge").await;
}

/// What is wrong with the JSON is only seen if it is signed.
#[tokio::test]
async fn what_slack_signed_and_is_garbled_is_refused() {
    let state = State::new();
    let with = |path: &str, value: Value| {
        let mut body = mention();
        *body.pointer_mut(path).unwrap() = value;
        body.to_string()
    };
    for body in [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "payload=%7B%7D".to_owned(),
        "[".repeat(100_000),
        with("/event/channel", json!("../../x")),
        with("/event/user", json!(7)),
        with("/event/ts", json!("yesterday")),
        with("/event/text", json!(["hello"])),
        with("/event/text", json!("a".repeat(40_001))),
        with("/team_id", json!("nobody's")),
        with("/event_id", json!("../../x")),
        with("/event", json!("hello")),
    ] {
        refused(&state, Sent::of(&state, &body), 400, "WebhookRejected").await;
        refused(&state, Sent::unsigned(&body), 401, "SignatureRejected").await;
    }
}

#[tokio::test]
async fn slack_is_asked_not_to_repeat_what_can_never_be_taken() {
    let state = State::new();
    let no_retry = async |sent: Sent| {
        let world = World(&state);
        let ingress = ReceiveWebhook {
            secrets: world,
            messages: world,
            clock: world,
        };
        let answer = ingress.handle(sent.value).await.unwrap();
        answer["headers"]["x-slack-no-retry"] == "1"
    };
    assert!(no_retry(Sent::of(&state, &"{")).await);
    assert!(no_retry(Sent::of(&state, &"x".repeat(2_000_000))).await);
    // The secret may be about to be put.
    assert!(!no_retry(Sent::unsigned(&mention())).await);
    state.bus.set(Health::Unavailable);
    assert!(!no_retry(Sent::of(&state, &mention())).await);
    state.bus.set(Health::Well);
    assert!(!no_retry(Sent::of(&state, &mention())).await);
}

#[tokio::test]
async fn another_path_or_method_is_not_answered() {
    let state = State::new();
    for path in [
        "/",
        "/slack",
        "/slack/events/",
        "/slack/Events",
        "//slack/events",
        "/slack/events/x",
    ] {
        let mut sent = Sent::of(&state, &mention());
        sent.value["rawPath"] = path.into();
        refused(&state, sent, 404, "NotFound").await;
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "post", "POST "] {
        let mut sent = Sent::of(&state, &mention());
        sent.value["requestContext"]["http"]["method"] = method.into();
        refused(&state, sent, 405, "MethodNotAllowed").await;
    }
    assert_eq!(state.asked.get(), 0, "not even the secret was read");
}

#[tokio::test]
async fn what_api_gateway_does_not_send_is_refused() {
    let state = State::new();
    let without = |field: &str| {
        let mut sent = Sent::of(&state, &mention());
        sent.value.as_object_mut().unwrap().remove(field);
        sent.value
    };
    let with = |field: &str, value: Value| {
        let mut sent = Sent::of(&state, &mention());
        sent.value[field] = value;
        sent.value
    };
    for value in [
        Value::Null,
        json!([]),
        json!("hello"),
        json!({}),
        without("rawPath"),
        without("requestContext"),
        with("headers", json!([])),
        with("headers", json!({"x-slack-signature": ["v0=1"]})),
        with("body", json!({})),
        with("isBase64Encoded", json!("yes")),
        with("requestContext", json!({"http": {}})),
        // The payload format 1.0.
        json!({"version": "1.0", "path": "/slack/events", "httpMethod": "POST", "body": "{}"}),
    ] {
        refused(&state, Sent { value }, 400, "RequestRejected").await;
    }
    let unsigned = Sent {
        value: without("headers"),
    };
    refused(&state, unsigned, 401, "SignatureRejected").await;
}

#[tokio::test]
async fn a_challenge_is_answered_if_slack_signed_it() {
    let state = State::new();
    let challenge = json!({
        "token": "Jhj5dZrVaK7ZwHHjRyZWjbDl", "type": "url_verification",
        "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",
    });
    refused(&state, Sent::unsigned(&challenge), 401, "SignatureRejected").await;
    let answer = post(&state, Sent::of(&state, &challenge).value).await;
    assert_eq!(
        answer,
        (200, json!({ "challenge": challenge["challenge"] }))
    );
    assert_eq!(*state.published.borrow(), []);
}

#[tokio::test]
async fn what_is_nothing_for_an_agent_is_acknowledged_and_not_stored() {
    let state = State::new();
    let with = |changes: &[(&str, Value)]| {
        let mut body = mention();
        for (field, value) in changes {
            body["event"][field] = value.clone();
        }
        body
    };
    let in_channel = ("channel_type", json!("channel"));
    for body in [
        with(&[("type", json!("reaction_added"))]),
        with(&[("type", json!("message")), in_channel]),
        with(&[("bot_id", json!("B0CLAW"))]),
        with(&[("text", json!("<@U0CLAW>  "))]),
    ] {
        let (status, answer) = post(&state, Sent::of(&state, &body).value).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["ignored"].is_string(), "{answer}");
        assert_eq!(*state.published.borrow(), [], "{body}");
    }
}

#[tokio::test]
async fn a_rotated_secret_is_noticed_by_the_first_request_that_is_signed_with_it() {
    let state = State::new();
    assert_eq!(
        post(&state, Sent::of(&state, &mention()).value).await.0,
        200
    );
    state.secret.set(ROTATED);
    let mut sent = Sent::unsigned(&mention());
    sent.sign(ROTATED, state.now);
    assert_eq!(post(&state, sent.value).await.0, 200);
    assert_eq!((state.published.borrow().len(), state.asked.get()), (2, 2));
    let (status, _) = post(&state, Sent::of(&state, &mention()).value).await;
    assert_eq!(status, 401, "the old one opens nothing now");
}

#[tokio::test]
async fn rubbish_does_not_have_the_secret_read_again_and_again() {
    let state = State::new();
    assert_eq!(
        post(&state, Sent::of(&state, &mention()).value).await.0,
        200
    );
    state.published.borrow_mut().clear();
    state.settled.set(true);
    for _ in 0..5 {
        let mut sent = Sent::of(&state, &mention());
        sent.sign(ROTATED, state.now);
        refused(&state, sent, 401, "SignatureRejected").await;
    }
    state.settled.set(false);
    let long = SignedDuration::from_secs(301);
    for _ in 0..5 {
        let mut stale = Sent::of(&state, &mention());
        stale.sign(ROTATED, state.now - long);
        refused(&state, stale, 401, "SignatureRejected").await;
        refused(&state, Sent::unsigned(&mention()), 401, "SignatureRejected").await;
    }
    assert_eq!(state.asked.get(), 1);
}

/// The few fields that are read here are where AWS's own type has them.
#[test]
fn a_request_is_what_aws_says_it_is() {
    let mut sent = Sent::of(&State::new(), &mention());
    sent.value["cookies"] = json!([]);
    let aws: ApiGatewayV2httpRequest = serde_json::from_value(sent.value.clone()).unwrap();
    let ours: Request = serde_json::from_value(serde_json::to_value(&aws).unwrap()).unwrap();
    assert_eq!(aws.raw_path.as_deref(), Some(ours.raw_path.as_str()));
    assert_eq!(
        aws.request_context.http.method.as_str(),
        ours.request_context.http.method
    );
    let signature = aws.headers["x-slack-signature"].to_str().unwrap();
    assert_eq!(ours.header("x-slack-signature"), Some(signature));
    assert_eq!(ours.body(BODY_BYTES), Ok(aws.body.unwrap().into_bytes()));
}

#[tokio::test]
async fn refusals_on_the_wire() {
    let state = State::new();
    let mut answers = Vec::new();
    let mut elsewhere = Sent::unsigned(&"");
    elsewhere.value["rawPath"] = "/".into();
    let mut gotten = Sent::unsigned(&"");
    gotten.value["requestContext"]["http"]["method"] = "GET".into();
    for sent in [
        elsewhere,
        gotten,
        Sent::unsigned(&"x".repeat(2_000_000)),
        Sent::unsigned(&"{}"),
        Sent::of(&state, &"{"),
        Sent { value: json!({}) },
    ] {
        let world = World(&state);
        let ingress = ReceiveWebhook {
            secrets: world,
            messages: world,
            clock: world,
        };
        answers.push(ingress.handle(sent.value).await.unwrap());
    }
    insta::assert_json_snapshot!(answers);
}

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri as RequestUri, header},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

use super::*;

mod stand_in;

const TOKEN: &str = "xoxb-the-very-secret-token";

/// A Slack that answers what it is told to, and remembers what it was asked.
#[derive(Clone)]
struct Fake(Arc<Mutex<Told>>);

struct Told {
    answer: (u16, Vec<(&'static str, String)>, String),
    calls: Vec<Value>,
}

impl Fake {
    async fn start() -> (Self, SlackApi) {
        let fake = Self(Arc::new(Mutex::new(Told {
            answer: (200, Vec::new(), r#"{"ok":true}"#.into()),
            calls: Vec::new(),
        })));
        let router = Router::new().fallback(answer).with_state(fake.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/api/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let secret = Secret::known(BotToken::parse(TOKEN).unwrap());
        (fake, SlackApi::new(url.parse().unwrap(), secret))
    }

    fn answers(&self, body: &impl ToString) {
        self.answers_with(200, &[], body);
    }

    fn answers_with(&self, status: u16, headers: &[(&'static str, &str)], body: &impl ToString) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).into()));
        self.0.lock().unwrap().answer = (status, headers.collect(), body.to_string());
    }

    fn calls(&self) -> Vec<Value> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

async fn answer(
    State(fake): State<Fake>,
    method: Method,
    uri: RequestUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name| {
        let value: Option<&header::HeaderValue> = headers.get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let mut told = fake.0.lock().unwrap();
    told.calls.push(json!({
        "method": method.as_str(),
        "url": uri.to_string(),
        "authorization": header(header::AUTHORIZATION),
        "content_type": header(header::CONTENT_TYPE),
        "body": serde_json::from_slice::<Value>(&body).ok(),
    }));
    let (status, headers, body) = told.answer.clone();
    let mut answer = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer
}

fn place() -> Place {
    Place {
        team_id: TeamId::parse("T0CARAPACE").unwrap(),
        channel_id: ChannelId::parse("C0GENERAL").unwrap(),
        thread_ts: ts(),
        user_id: user(),
    }
}

fn ts() -> MessageTs {
    MessageTs::parse("1764000000.000100").unwrap()
}

fn user() -> SlackUserId {
    SlackUserId::parse("U0ADA").unwrap()
}

fn ada() -> Value {
    json!({
        "ok": true,
        "user": {
            "id": "U0ADA", "team_id": "T0CARAPACE", "name": "ada", "deleted": false,
            "is_bot": false, "is_app_user": false, "is_admin": true, "is_restricted": false,
            "is_ultra_restricted": false, "is_email_confirmed": true,
            "profile": { "real_name": "Ada", "email": "ada@example.com" },
        },
    })
}

#[tokio::test]
async fn calls_on_the_wire() {
    let (slack, api) = Fake::start().await;
    let (place, channel) = (place(), place().channel_id);
    slack.answers(&json!({"ok": true, "channel": "C0GENERAL", "ts": "1764000001.000200"}));
    let opened = api.start_stream(&place).await.unwrap();
    let posted = api.post_message(&place, "*hello*").await.unwrap();
    assert_eq!((opened.as_str(), &opened), ("1764000001.000200", &posted));
    api.append_stream(&channel, &ts(), "hel").await.unwrap();
    api.stop_stream(&channel, &ts(), Some("lo")).await.unwrap();
    api.stop_stream(&channel, &ts(), None).await.unwrap();
    api.update(&channel, &ts(), "hello").await.unwrap();
    api.set_status(&place, "is waking up…").await.unwrap();
    slack.answers(&ada());
    let profile = api.user(&user()).await.unwrap();
    assert_eq!(profile.email.as_deref(), Some("ada@example.com"));
    assert!(profile.is_email_confirmed);
    slack.answers(&json!({"ok": true, "team_id": "T0CARAPACE", "user_id": "U0CLAW"}));
    assert_eq!(api.team().await.unwrap(), place.team_id);
    insta::assert_json_snapshot!(slack.calls());
}

#[tokio::test]
async fn which_team_it_is_is_asked_once() {
    let (slack, api) = Fake::start().await;
    slack.answers(&json!({"ok": true, "team_id": "T0CARAPACE"}));
    for _ in 0..3 {
        api.team().await.unwrap();
    }
    assert_eq!(slack.calls().len(), 1);
}

#[tokio::test]
async fn a_user_who_is_gone_has_hardly_any_flags() {
    let (slack, api) = Fake::start().await;
    slack.answers(&json!({
        "ok": true,
        "user": { "id": "U0ADA", "team_id": "T0CARAPACE", "deleted": true, "is_bot": false,
                  "profile": {} },
    }));
    let profile = api.user(&user()).await.unwrap();
    assert!(profile.deleted && !profile.is_email_confirmed && profile.email.is_none());
}

/// I6: that somebody is no bot has to be said.
#[tokio::test]
async fn a_user_of_whom_it_is_not_said_what_they_are_is_no_user() {
    for missing in ["id", "team_id", "deleted", "is_bot"] {
        let (slack, api) = Fake::start().await;
        let mut answer = ada();
        answer["user"].as_object_mut().unwrap().remove(missing);
        slack.answers(&answer);
        let refused = api.user(&user()).await.unwrap_err();
        assert!(
            matches!(refused, SlackTrouble::Refused(_)),
            "{missing}: {refused}"
        );
    }
}

#[tokio::test]
async fn too_many_calls_have_to_wait_as_long_as_slack_says() {
    let (slack, api) = Fake::start().await;
    let tooearly = |seconds| Err(SlackTrouble::RateLimited(Duration::from_secs(seconds)));
    let body = json!({"ok": false, "error": "ratelimited"});
    for (status, header, waits) in [
        (429, Some("7"), 7),
        (429, Some(" 30 "), 30),
        (429, None, 5),
        (429, Some("soon"), 5),
        (429, Some("99999999"), 3600),
        (200, Some("3"), 3),
        (200, None, 5),
    ] {
        let headers: Vec<_> = header
            .map(|value| ("retry-after", value))
            .into_iter()
            .collect();
        slack.answers_with(status, &headers, &body);
        let answer = api.append_stream(&place().channel_id, &ts(), "x").await;
        assert_eq!(answer, tooearly(waits), "{status} {header:?}");
    }
    slack.answers_with(429, &[("retry-after", "9")], &"<html>");
    let answer = api.set_status(&place(), "x").await;
    assert_eq!(answer, tooearly(9));
}

fn trouble(method: &'static str, kind: Kind, error: &str) -> SlackTrouble {
    let body = json!({"ok": false, "error": error}).to_string();
    read::<Done>(method, kind, &Answer::new(200, &body))
        .err()
        .unwrap()
}

#[test]
fn what_slack_says_is_sorted_by_what_can_be_done_about_it() {
    use SlackTrouble as T;
    let name = |trouble: &SlackTrouble| match trouble {
        T::RateLimited(_) => "RateLimited",
        T::NotStreaming => "NotStreaming",
        T::NotStreamable => "NotStreamable",
        T::Undeliverable(_) => "Undeliverable",
        T::TokenRejected(_) => "TokenRejected",
        T::Unavailable(_) => "Unavailable",
        T::Refused(_) => "Refused",
        T::Trouble(_) => "Trouble",
    };
    for (kind, error, sorted) in [
        (Kind::Plain, "ratelimited", "RateLimited"),
        (Kind::Stream, "rate_limited", "RateLimited"),
        (
            Kind::Stream,
            "message_not_in_streaming_state",
            "NotStreaming",
        ),
        (Kind::Stream, "stopped_by_user", "NotStreaming"),
        (Kind::Stream, "channel_type_not_supported", "NotStreaming"),
        (Kind::Start, "channel_type_not_supported", "NotStreamable"),
        (Kind::Start, "missing_recipient_user_id", "NotStreamable"),
        (Kind::Start, "user_not_found", "NotStreamable"),
        (Kind::Start, "unknown_method", "NotStreamable"),
        (Kind::Plain, "user_not_found", "Refused"),
        (Kind::Plain, "unknown_method", "Refused"),
        (Kind::Plain, "channel_type_not_supported", "Refused"),
        (Kind::Start, "channel_not_found", "Undeliverable"),
        (Kind::Stream, "not_in_channel", "Undeliverable"),
        (Kind::Plain, "is_archived", "Undeliverable"),
        (Kind::Plain, "thread_not_found", "Undeliverable"),
        (Kind::Plain, "invalid_thread_ts", "Undeliverable"),
        (Kind::Stream, "message_not_found", "Undeliverable"),
        (
            Kind::Start,
            "restricted_action_thread_locked",
            "Undeliverable",
        ),
        (Kind::Plain, "invalid_auth", "TokenRejected"),
        (Kind::Plain, "token_revoked", "TokenRejected"),
        (Kind::Plain, "account_inactive", "TokenRejected"),
        (Kind::Plain, "not_authed", "TokenRejected"),
        (Kind::Plain, "missing_scope", "TokenRejected"),
        (Kind::Plain, "internal_error", "Unavailable"),
        (Kind::Plain, "service_unavailable", "Unavailable"),
        (Kind::Plain, "request_timeout", "Unavailable"),
        (Kind::Plain, "fatal_error", "Unavailable"),
        (Kind::Plain, "streaming_state_conflict", "Unavailable"),
        (Kind::Plain, "msg_too_long", "Refused"),
        (Kind::Plain, "no_text", "Refused"),
        (Kind::Plain, "something_new", "Refused"),
    ] {
        let trouble = trouble("chat.x", kind, error);
        assert_eq!(name(&trouble), sorted, "{kind:?} {error}: {trouble}");
    }
}

#[test]
fn a_scope_that_is_missing_is_named() {
    let body = json!({"ok": false, "error": "missing_scope", "needed": "users:read.email"});
    let answer = Answer::new(200, &body.to_string());
    let rejected = read::<Done>("users.info", Kind::Plain, &answer).err();
    let Some(SlackTrouble::TokenRejected(why)) = rejected else {
        panic!("{rejected:?}");
    };
    assert_eq!(why, "users.info: missing_scope, it needs users:read.email");
}

/// I6: whatever else listens at that address, its answer is no yes.
#[test]
fn an_answer_that_is_not_slacks_is_no_success() {
    for (status, body) in [
        (200, ""),
        (200, "{}"),
        (200, "<html>"),
        (200, "[true]"),
        (200, r#"{"ok":"true"}"#),
        (200, r#"{"ok":true}"#),
        (200, r#"{"ok":true,"ts":"now"}"#),
        (200, r#"{"ok":false}"#),
        (201, r#"{"ok":true,"ts":"1764000000.000100"}"#),
        (302, ""),
        (404, "not here"),
        (403, r#"{"ok":true}"#),
    ] {
        let read = read::<Posted>("chat.startStream", Kind::Start, &Answer::new(status, body));
        let refused = read.err().unwrap();
        assert!(
            matches!(refused, SlackTrouble::Refused(_)),
            "{status} {body} {refused}"
        );
    }
    for status in [408, 500, 502, 503, 504] {
        let read = read::<Posted>(
            "chat.startStream",
            Kind::Start,
            &Answer::new(status, "oops"),
        );
        let trouble = read.err().unwrap();
        assert!(matches!(trouble, SlackTrouble::Unavailable(_)), "{status}");
    }
}

/// I8.
#[tokio::test]
async fn the_token_is_in_no_error_and_nothing_prints_it() {
    let (slack, api) = Fake::start().await;
    let echo = format!("Bearer {TOKEN}");
    for body in [
        json!({"ok": false, "error": TOKEN}),
        json!({"ok": false, "error": echo}),
        json!({"ok": false, "error": "missing_scope", "needed": TOKEN}),
        json!({"ok": false, "error": "invalid_auth", "needed": echo}),
        json!({"ok": true, "echo": echo}),
        json!(echo),
    ] {
        for status in [200, 400, 401, 500] {
            slack.answers_with(status, &[], &body);
            let trouble = api.start_stream(&place()).await.unwrap_err();
            let said = format!("{trouble} {trouble:?}");
            assert!(!said.contains("very-secret"), "{said}");
        }
    }
    let nobody = SlackApi::new(
        "http://127.0.0.1:1/api".parse().unwrap(),
        Secret::known(BotToken::parse(TOKEN).unwrap()),
    );
    let trouble = nobody.start_stream(&place()).await.unwrap_err();
    assert!(matches!(trouble, SlackTrouble::Unavailable(_)), "{trouble}");
    let said = format!("{trouble} {trouble:?} {nobody:?}");
    assert!(!said.contains("very-secret"), "{said}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (slack, api) = Fake::start().await;
    let (elsewhere, other) = Fake::start().await;
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{}/chat.startStream", other.url.0);
        slack.answers_with(status, &[("location", &to)], &"");
        let refused = api.start_stream(&place()).await.unwrap_err();
        assert!(matches!(refused, SlackTrouble::Refused(_)), "{refused}");
    }
    assert_eq!(elsewhere.calls(), Vec::<Value>::new());
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let (slack, api) = Fake::start().await;
    slack.answers(&format!(
        "{{\"ok\":true,\"x\":\"{}\"}}",
        "x".repeat(1024 * 1024)
    ));
    let trouble = api.set_status(&place(), "x").await.unwrap_err();
    assert!(matches!(trouble, SlackTrouble::Unavailable(_)), "{trouble}");
}

#[tokio::test]
async fn a_token_that_was_read_just_now_is_not_read_again_when_it_is_rejected() {
    let (slack, api) = Fake::start().await;
    slack.answers(&json!({"ok": false, "error": "invalid_auth"}));
    let rejected = api.start_stream(&place()).await.unwrap_err();
    assert_eq!(
        rejected,
        SlackTrouble::TokenRejected("chat.startStream: invalid_auth".into())
    );
    assert_eq!(slack.calls().len(), 1);
}

#[test]
fn a_bot_token_is_one_that_slack_gives_to_bots() {
    assert!(BotToken::parse(TOKEN).is_ok());
    for text in [
        "",
        "xoxb-",
        "xoxp-the-very-secret-token",
        "xoxb-the very secret token",
        "xoxb-the-very-secret-token\n",
        &format!("xoxb-{}", "x".repeat(600)),
    ] {
        assert!(BotToken::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn an_api_url_is_what_a_method_can_be_appended_to() {
    let url: SlackApiUrl = "https://slack.com/api/".parse().unwrap();
    assert_eq!(url.0, "https://slack.com/api");
    assert!("http://10.96.0.41/api".parse::<SlackApiUrl>().is_ok());
    for text in [
        "",
        "slack.com/api",
        "ftp://slack.com/api",
        "https://u:p@slack.com/api",
        "https://slack.com/api?x=1",
        "https://slack.com/api#x",
        "file:///etc/passwd",
    ] {
        assert!(text.parse::<SlackApiUrl>().is_err(), "{text}");
    }
}

use std::{env, fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn envelope(detail: &Value) -> Value {
    json!({
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "source": "ops",
        "detail-type": "Sandbox Requested",
        "account": "000000000000",
        "time": "2026-11-24T10:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": detail
    })
}

fn detail() -> Value {
    json!({
        "version": 1,
        "id": "req-1",
        "at": "2026-11-24T10:00:00Z",
        "user_key": "abcdefghijklmnopqrst"
    })
}

/// The detail with some fields changed; `null` takes one away.
fn but(changes: &Value) -> Value {
    let mut detail = detail();
    let fields = detail.as_object_mut().unwrap();
    for (field, value) in changes.as_object().unwrap() {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.clone(), value.clone());
        }
    }
    detail
}

fn read(detail: &Value) -> Result<SandboxRequested, EventRejected> {
    SandboxRequested::from_event(&envelope(detail))
}

#[test]
fn a_request_with_all_its_fields_is_read() {
    let request = read(&but(&json!({
        "correlation_id": "story-1", "pool": "agents-large", "ready_within_seconds": 30
    })));
    insta::assert_json_snapshot!(request.unwrap());
}

#[test]
fn a_request_may_leave_out_what_is_optional() {
    let request = read(&detail()).unwrap();
    let started_at: Timestamp = "2026-11-24T10:00:01Z".parse().unwrap();
    assert_eq!(
        request.deadline(started_at).to_string(),
        "2026-11-24T10:10:01Z"
    );
    let nulls = json!({
        "version": 1, "id": "req-1", "at": "2026-11-24T10:00:00Z",
        "user_key": "abcdefghijklmnopqrst", "pool": null, "correlation_id": null
    });
    assert_eq!(read(&nulls), Ok(request));
}

#[test]
fn fields_that_nobody_knows_are_left_alone() {
    let mut event = envelope(&but(&json!({"priority": "high", "nested": {"a": [1, 2]}})));
    event["replay-name"] = json!("again");
    assert!(SandboxRequested::from_event(&event).is_ok());
}

#[test]
fn a_refusal_names_the_field_the_value_and_the_reason() {
    let refusals = [
        json!({"version": null}),
        json!({"version": 2}),
        json!({"version": "1"}),
        json!({"id": ""}),
        json!({"id": "a b"}),
        json!({"id": "x".repeat(129)}),
        json!({"at": "yesterday"}),
        json!({"at": 1_764_000_000}),
        json!({"user_key": null}),
        json!({"user_key": "../../etc/passwd"}),
        json!({"user_key": ["abcdefghijklmnopqrst"]}),
        json!({"correlation_id": {"a": 1}}),
        json!({"pool": "Agents"}),
        json!({"ready_within_seconds": 4}),
        json!({"ready_within_seconds": 901}),
        json!({"ready_within_seconds": 30.5}),
        json!({"ready_within_seconds": -1}),
        json!({"ready_within_seconds": "30"}),
    ]
    .map(|changes| read(&but(&changes)).unwrap_err().to_string());
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn what_is_no_event_is_refused_and_never_a_panic() {
    let mut other = envelope(&detail());
    other["detail-type"] = json!("Sandbox Ready");
    for event in [
        json!(null),
        json!([]),
        json!("Sandbox Requested"),
        json!({}),
        other,
        envelope(&json!(null)),
        envelope(&json!([])),
        envelope(&json!("{}")),
    ] {
        assert!(SandboxRequested::from_event(&event).is_err(), "{event}");
    }
}

#[test]
fn a_refusal_is_short_and_on_one_line_whatever_was_sent() {
    let text = "\n\u{202e}\"x".repeat(40_000);
    let refused = read(&but(&json!({"user_key": text})))
        .unwrap_err()
        .to_string();
    assert!(refused.len() < 700 && !refused.contains('\n'), "{refused}");
}

#[test]
fn a_message_is_cut_and_cleaned_and_never_refused() {
    let message = Message::from(format!("a\nb{}", "ü".repeat(2000)));
    assert_eq!(message.as_str().chars().count(), 1024);
    assert!(message.as_str().starts_with("a bü"));
}

/// `docs/events/` is what other teams build on, so it may not drift from the types.
#[test]
fn the_schemas_in_the_documentation_are_those_of_the_types() {
    let folder = PathBuf::from(env!("CARAPACE_ROOT")).join("docs/events");
    let update = env::var_os("UPDATE_SCHEMAS").is_some();
    for (name, schema) in schemas() {
        let file = folder.join(name);
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, &schema).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(
            kept, schema,
            "{name} is not up to date: UPDATE_SCHEMAS=1 cargo test -p carapace-core schemas"
        );
    }
}

fn schema_of(name: &str) -> Value {
    let (_, schema) = schemas()
        .into_iter()
        .find(|(file, _)| *file == name)
        .unwrap();
    serde_json::from_str(&schema).unwrap()
}

/// Some values that fit and some that don't, for every field.
fn details() -> impl Strategy<Value = Value> {
    let field = |fits: BoxedStrategy<Value>| {
        prop_oneof![
            12 => fits,
            1 => Just(json!("")),
            1 => Just(json!(["x"])),
            1 => any::<i64>().prop_map(|n| json!(n)),
            1 => Just(json!("ä b")),
        ]
    };
    let text = |pattern: &'static str| field(pattern.prop_map(|t: String| json!(t)).boxed());
    let seconds = field((0_u64..1000).prop_map(|n| json!(n)).boxed());
    (
        prop_oneof![9 => Just(json!(1)), 1 => Just(json!(2))],
        text("[A-Za-z0-9_.:-]{1,128}"),
        text("[a-z2-7]{20}"),
        prop::option::of(text("[A-Za-z0-9_.:-]{1,128}")),
        prop::option::of(text("[a-z][a-z0-9-]{0,20}[a-z]")),
        prop::option::of(seconds),
    )
        .prop_map(|(version, id, user_key, correlation_id, pool, seconds)| {
            let mut detail = json!({
                "version": version, "id": id, "at": "2026-11-24T10:00:00Z", "user_key": user_key
            });
            for (field, value) in [
                ("correlation_id", correlation_id),
                ("pool", pool),
                ("ready_within_seconds", seconds),
            ] {
                if let Some(value) = value {
                    detail[field] = value;
                }
            }
            detail
        })
}

proptest! {
    #[test]
    fn a_request_is_read_if_and_only_if_it_fits_its_schema(detail in details()) {
        let fits = jsonschema::is_valid(&schema_of("sandbox-requested.json"), &detail);
        prop_assert_eq!(read(&detail).is_ok(), fits, "{} {:?}", detail, read(&detail));
    }

    #[test]
    fn a_request_comes_back_from_what_it_is_written_as(detail in details()) {
        if let Ok(request) = read(&detail) {
            let written = serde_json::to_value(&request).unwrap();
            prop_assert_eq!(&written, &detail);
            prop_assert_eq!(read(&written).unwrap(), request);
        }
    }
}

fn slack_message() -> Value {
    json!({
        "version": 1, "id": "slack.Ev1", "at": "2026-11-24T10:00:00Z", "team_id": "T0CARAPACE",
        "user_id": "U0ADA", "channel_id": "C0GENERAL", "thread_ts": "1700000000.000100",
        "ts": "1700000000.000200", "text": "hello"
    })
}

fn slack(field: &str, value: Value) -> Result<SlackMessageReceived, EventRejected> {
    let mut detail = slack_message();
    detail[field] = value;
    SlackMessageReceived::from_event(&json!({
        "source": SLACK_SOURCE, "detail-type": "Slack Message Received", "detail": detail
    }))
}

#[test]
fn a_slack_message_names_its_conversation_and_where_the_reply_goes() {
    let message = slack("note", json!("of a newer producer")).unwrap();
    assert_eq!(
        message.conversation().as_str(),
        "slack.t0carapace.c0general.1700000000.000100"
    );
    assert_eq!(message.place().thread_ts, message.thread_ts);
    assert_eq!(serde_json::to_value(&message).unwrap(), slack_message());
}

/// The refusal is logged, and what somebody said is nobody else's business.
#[test]
fn a_text_that_is_refused_is_not_repeated() {
    let refused = slack("text", json!("secret ".repeat(10_000))).unwrap_err();
    assert!(!refused.to_string().contains("secret"), "{refused}");
}

#[test]
fn a_slack_message_with_a_field_of_the_wrong_form_is_refused() {
    for (field, value) in [
        ("version", json!(2)),
        ("id", json!("-Ev1")),
        ("id", json!("a b")),
        ("at", json!(1)),
        ("team_id", json!("U0ADA")),
        ("user_id", json!("T0CARAPACE")),
        ("user_id", json!({"id": "U0ADA"})),
        ("channel_id", json!("c0general")),
        ("thread_ts", json!(1_700_000_000.000_1)),
        ("thread_ts", json!(null)),
        ("ts", json!("1700000000")),
        ("correlation_id", json!("a b")),
        ("text", json!(null)),
        ("text", json!(["hello"])),
        ("text", json!(" \n ")),
        ("text", json!("x".repeat(40_001))),
    ] {
        let refused = slack(field, value).unwrap_err();
        assert_eq!(refused.field, format!("detail.{field}"));
        assert!(refused.to_string().len() < 300, "{refused}");
    }
    assert!(slack("text", json!("\u{1f980}".repeat(40_000))).is_ok());
}

#[test]
fn a_sign_in_is_read_as_it_was_written_and_one_that_names_no_user_is_refused() {
    let sign_in = UserSignedIn {
        version: VERSION,
        id: EventId::parse("sign-in.8f507cfc").unwrap(),
        at: Timestamp::UNIX_EPOCH,
        user_key: UserKey::derive("us-east-1_Pool", "sub-1"),
        sub: Sub::parse("sub-1").unwrap(),
        correlation_id: None,
    };
    let event = |detail: Value| json!({"detail-type": UserSignedIn::DETAIL_TYPE, "detail": detail});
    let mut detail = serde_json::to_value(&sign_in).unwrap();
    assert_eq!(
        UserSignedIn::from_event(&event(detail.clone())),
        Ok(sign_in)
    );
    detail["user_key"] = json!("ada@example.com");
    let refused = UserSignedIn::from_event(&event(detail)).unwrap_err();
    assert_eq!(refused.field, "detail.user_key");
}

fn removal_of(call: &str, changes: &Value) -> Result<Removal, EventRejected> {
    let mut detail = json!({
        "eventVersion": "1.08",
        "eventTime": "2026-11-28T10:00:00Z",
        "eventSource": "cognito-idp.amazonaws.com",
        "eventName": call,
        "requestParameters": {
            "userPoolId": "us-east-1_Pool",
            "username": "HIDDEN_DUE_TO_SECURITY_REASONS"
        },
        "responseElements": null,
        "additionalEventData": { "sub": "4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f" },
        "eventID": "0e9e5a8f-3c1b-4c2e-9f93-6d9e8b8d7a11"
    });
    for (field, value) in changes.as_object().unwrap() {
        detail[field] = value.clone();
    }
    Removal::from_event(&json!({
        "detail-type": AccountCall::DETAIL_TYPE, "source": AccountCall::SOURCE, "detail": detail
    }))
}

#[test]
fn calls_that_end_an_account_are_read_as_cloudtrail_reports_them() {
    for call in AccountCall::CALLS {
        let Removal::Seen(seen) = removal_of(call, &json!({})).unwrap() else {
            panic!("{call}");
        };
        assert_eq!(
            seen.id.as_str(),
            "cloudtrail.0e9e5a8f-3c1b-4c2e-9f93-6d9e8b8d7a11"
        );
        assert_eq!(seen.pool_id.as_deref(), Some("us-east-1_Pool"));
        assert_eq!(
            seen.sub.map(String::from).as_deref(),
            Some("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f")
        );
        assert!(!seen.failed);
    }
    let Removal::Seen(seen) = removal_of("DeleteUser", &json!({"errorCode": ""})).unwrap() else {
        panic!();
    };
    assert!(!seen.failed);
    // Who deletes themselves names no pool, and a call that failed no account.
    let changes = json!({
        "requestParameters": { "accessToken": "HIDDEN_DUE_TO_SECURITY_REASONS" },
        "additionalEventData": null,
        "errorCode": "NotAuthorizedException"
    });
    let Removal::Seen(seen) = removal_of("DeleteUser", &changes).unwrap() else {
        panic!();
    };
    assert_eq!((seen.pool_id, seen.sub, seen.failed), (None, None, true));
}

/// I6
#[test]
fn what_is_no_end_of_an_account_is_refused() {
    for (call, changes) in [
        ("AdminEnableUser", json!({})),
        ("DeleteUser", json!({"eventID": ""})),
        ("DeleteUser", json!({"eventID": "a b"})),
        ("DeleteUser", json!({"eventTime": "yesterday"})),
        (
            "DeleteUser",
            json!({"requestParameters": {"userPoolId": 7}}),
        ),
        ("DeleteUser", json!({"requestParameters": "all"})),
        (
            "DeleteUser",
            json!({"additionalEventData": {"sub": "x\" or sub ^= \""}}),
        ),
    ] {
        assert!(removal_of(call, &changes).is_err(), "{call} {changes}");
    }
    // Only AWS can say so in its own name.
    let forged = json!({
        "detail-type": AccountCall::DETAIL_TYPE, "source": "carapace.signup",
        "detail": {"eventName": "DeleteUser", "eventID": "1", "eventTime": "2026-11-28T10:00:00Z"}
    });
    assert_eq!(Removal::from_event(&forged).unwrap_err().field, "source");
}

#[test]
fn an_operators_removal_is_read_as_it_was_written() {
    let deleted = UserDeleted {
        version: VERSION,
        id: EventId::parse("clawctl.01").unwrap(),
        at: "2026-11-28T10:00:00Z".parse().unwrap(),
        user_key: UserKey::derive("us-east-1_Pool", "sub-1"),
        correlation_id: None,
    };
    let event = json!({"detail-type": UserDeleted::DETAIL_TYPE, "detail": deleted});
    assert_eq!(Removal::from_event(&event), Ok(Removal::Told(deleted)));
}

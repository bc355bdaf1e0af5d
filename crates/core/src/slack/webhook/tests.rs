use proptest::prelude::*;
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn envelope(event: &Value) -> Value {
    json!({
        "token": "gone", "team_id": "T0CARAPACE", "context_team_id": "T0CARAPACE",
        "api_app_id": "A0CLAW", "event": event, "type": "event_callback",
        "event_id": "Ev0PV52K21", "event_time": 1_700_000_000, "event_context": "4-eyJ",
        "is_ext_shared_channel": false,
        "authorizations": [{
            "enterprise_id": null, "team_id": "T0CARAPACE", "user_id": "U0CLAW", "is_bot": true,
            "is_enterprise_install": false
        }]
    })
}

fn mention() -> Value {
    json!({
        "type": "app_mention", "user": "U0ADA", "text": "<@U0CLAW> is &lt;b&gt; bold &amp;amp; loud?",
        "ts": "1700000000.000100", "channel": "C0GENERAL", "event_ts": "1700000000.000100",
        "client_msg_id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718", "team": "T0CARAPACE",
        "blocks": [{ "type": "rich_text", "elements": [] }]
    })
}

fn direct() -> Value {
    json!({
        "type": "message", "channel_type": "im", "user": "U0ADA", "text": "hello",
        "ts": "1700000000.000200", "thread_ts": "1700000000.000100", "channel": "D0ADA"
    })
}

fn but(mut event: Value, field: &str, value: Value) -> Value {
    event[field] = value;
    event
}

fn posted(body: &Value) -> Result<Webhook, WebhookRejected> {
    read(body.to_string().as_bytes(), now())
}

fn message(event: &Value) -> SlackMessageReceived {
    match posted(&envelope(event)) {
        Ok(Webhook::Message(message)) => *message,
        other => panic!("{other:?}"),
    }
}

fn ignored(event: &Value) -> &'static str {
    match posted(&envelope(event)) {
        Ok(Webhook::Ignored(why)) => why,
        other => panic!("{event} {other:?}"),
    }
}

fn saying(text: &str) -> Result<Webhook, WebhookRejected> {
    posted(&envelope(&but(direct(), "text", text.into())))
}

#[test]
fn a_mention_in_a_channel_begins_a_thread_of_its_own() {
    insta::assert_json_snapshot!(message(&mention()), @r#"
    {
      "version": 1,
      "id": "slack.Ev0PV52K21",
      "at": "2026-11-24T10:00:00Z",
      "team_id": "T0CARAPACE",
      "user_id": "U0ADA",
      "channel_id": "C0GENERAL",
      "thread_ts": "1700000000.000100",
      "ts": "1700000000.000100",
      "text": "is <b> bold &amp; loud?"
    }
    "#);
}

#[test]
fn a_line_of_a_direct_message_belongs_to_its_thread() {
    let message = message(&direct());
    assert_eq!(
        message.conversation().as_str(),
        "slack.t0carapace.d0ada.1700000000.000100"
    );
    assert_eq!(message.place().channel_id.as_str(), "D0ADA");
    assert_eq!(message.ts.as_str(), "1700000000.000200");
}

#[test]
fn a_message_is_read_again_from_the_bus_as_it_was_written() {
    let message = message(&mention());
    let event = json!({
        "detail-type": SlackMessageReceived::DETAIL_TYPE, "source": "carapace.slack", "detail": message,
    });
    assert_eq!(SlackMessageReceived::from_event(&event), Ok(message));
}

#[test]
fn the_url_is_verified_with_slacks_word_and_nothing_else() {
    let posted =
        |challenge: Value| posted(&json!({ "type": "url_verification", "challenge": challenge }));
    assert_eq!(
        posted("3eZbrw1a".into()),
        Ok(Webhook::Challenge("3eZbrw1a".into()))
    );
    for challenge in [
        json!(null),
        json!(1),
        json!(""),
        json!("a b"),
        json!("x".repeat(513)),
        json!("\n"),
    ] {
        assert!(posted(challenge.clone()).is_err(), "{challenge}");
    }
}

#[test]
fn only_the_mention_in_front_is_taken_away() {
    let text = |text: &str| message(&but(mention(), "text", text.into())).text;
    assert_eq!(text("<@U0CLAW>   hello"), "hello");
    assert_eq!(
        text(" <@U0CLAW|claw> <@U0CLAW> hello <@U0CLAW>"),
        "hello <@U0CLAW>"
    );
    assert_eq!(text("ask <@U0CLAW> this"), "ask <@U0CLAW> this");
    assert_eq!(text("<@U0CLAWS> hello"), "<@U0CLAWS> hello");
    assert_eq!(text("<@U0BOB> hello"), "<@U0BOB> hello");
    assert_eq!(text("a\u{0}\u{7}b\n\tc"), "ab\n\tc");
    // SQS, where what fails is kept, takes every other character there is.
    assert_eq!(text("a\u{fffe}\u{ffff}b\u{fffd}"), "ab\u{fffd}");
    assert_eq!(text("&lt;@U0CLAW&gt; &nbsp; &"), "<@U0CLAW> &nbsp; &");
}

#[test]
fn what_nobody_said_to_the_agent_is_ignored() {
    for (event, why) in [
        (but(direct(), "bot_id", "B0CLAW".into()), "said by a bot"),
        (but(mention(), "bot_id", "B0OTHER".into()), "said by a bot"),
        (but(direct(), "user", "U0CLAW".into()), "said by a bot"),
        (but(direct(), "user", json!(null)), "said by nobody"),
        (
            but(direct(), "subtype", "message_changed".into()),
            "not a new message",
        ),
        (
            but(direct(), "subtype", "bot_message".into()),
            "not a new message",
        ),
        (
            but(direct(), "subtype", "message_deleted".into()),
            "not a new message",
        ),
        (
            but(direct(), "channel_type", "channel".into()),
            "not said to the agent",
        ),
        (
            but(direct(), "channel_type", json!(null)),
            "not said to the agent",
        ),
        (
            but(direct(), "channel", "C0GENERAL".into()),
            "comes in another way",
        ),
        (
            but(mention(), "channel", "D0ADA".into()),
            "comes in another way",
        ),
        (but(mention(), "text", "<@U0CLAW> ".into()), "says nothing"),
        (but(direct(), "text", " \n\u{a0}".into()), "says nothing"),
        (
            json!({ "type": "team_join", "user": { "id": "U0NEW" } }),
            "not a message",
        ),
        (
            json!({ "type": "channel_created", "channel": { "id": "C1" } }),
            "not a message",
        ),
    ] {
        assert_eq!(ignored(&event), why, "{event}");
    }
    let limited = json!({ "type": "app_rate_limited", "team_id": "T0CARAPACE" });
    assert_eq!(posted(&limited), Ok(Webhook::Ignored("not an event")));
    let edited = json!({
        "type": "message", "subtype": "message_changed", "channel": "D0ADA", "channel_type": "im",
        "message": direct(), "previous_message": direct(), "ts": "1700000000.000300"
    });
    assert_eq!(ignored(&edited), "not a new message");
}

#[test]
fn what_comes_with_files_is_said_to_the_agent_which_hears_of_them() {
    let with = |text: &str, files: Value| {
        let event = but(direct(), "subtype", "file_share".into());
        but(but(event, "text", text.into()), "files", files)
    };
    let files = json!([
        { "id": "F1", "name": "plan of\n the year.pdf", "mimetype": "application/pdf" },
        { "id": "F2", "mode": "file_access", "file_access": "check_file_info" }
    ]);
    let note = "[Attached in Slack, but not here: plan of the year.pdf, a file]";
    assert_eq!(
        message(&with("what is in it?", files.clone())).text,
        format!("what is in it?\n\n{note}")
    );
    assert_eq!(message(&with("", files.clone())).text, note);
    let nothing_else = but(mention(), "text", "<@U0CLAW>".into());
    assert_eq!(
        message(&but(nothing_else, "files", files.clone())).text,
        note
    );
    let many = vec![json!({ "name": "\u{6f22}".repeat(1_000) }); 12];
    let note = message(&with("", many.into())).text;
    assert!(note.ends_with(", 2 more]"), "{note}");
    assert!(note.chars().count() < 1_200, "{note}");
    // A file does not make too long what was not.
    let longest = "x".repeat(SlackMessageReceived::TEXT_CHARACTERS);
    assert_eq!(message(&with(&longest, files)).text, longest);
    assert_eq!(ignored(&with("", json!([]))), "says nothing");
    assert_eq!(ignored(&with("", json!(null))), "says nothing");
    insta::assert_snapshot!(
        posted(&envelope(&with("hello", json!({})))).unwrap_err(),
        @"the body's event.files is an object, but it must be a list"
    );
}

#[test]
fn what_somebody_does_with_me_is_said_to_the_agent() {
    let event = but(direct(), "subtype", "me_message".into());
    assert_eq!(message(&event).text, "hello");
}

#[test]
fn the_longest_text_is_taken_however_it_is_written() {
    let text = "\u{8b9}".replace('\u{8b9}', "\u{6f22}").repeat(40_000);
    let event = but(direct(), "text", text.as_str().into());
    let blocks = json!([{ "type": "rich_text", "elements": [{ "type": "text", "text": text }] }]);
    let escaped = envelope(&but(event, "blocks", blocks))
        .to_string()
        .replace('\u{6f22}', "\\u6f22");
    assert!(escaped.len() > 480_000 && escaped.len() < 1024 * 1024);
    let Ok(Webhook::Message(message)) = read(escaped.as_bytes(), now()) else {
        panic!("it is not taken");
    };
    assert_eq!(message.text, text);
    // What EventBridge and Step Functions take.
    assert!(serde_json::to_string(&message).unwrap().len() < 200 * 1024);
}

#[test]
fn the_length_is_that_of_what_was_said() {
    let longest = "&amp;".repeat(40_000);
    assert!(matches!(
        saying(&format!("<@U0CLAW> {longest} ")),
        Ok(Webhook::Message(_))
    ));
    let refused = saying(&"\u{1f980}".repeat(40_001));
    assert_eq!(
        refused,
        Err(WebhookRejected::TextTooLong { characters: 40_001 })
    );
}

#[test]
fn a_field_of_the_wrong_form_is_refused_by_name() {
    let whole = envelope(&direct());
    let at = |path: &[&str], value: &Value| {
        let mut body = whole.clone();
        let place = path
            .iter()
            .fold(&mut body, |value, field| &mut value[*field]);
        *place = value.clone();
        body
    };
    let hostile = [
        json!(1),
        json!(-0.5),
        json!(true),
        json!([]),
        json!({}),
        json!(["U0ADA"]),
        json!({ "$ne": 1 }),
        json!(""),
        json!("../../etc/passwd"),
        json!("x".repeat(100_000)),
    ];
    for path in [
        &["type"][..],
        &["team_id"],
        &["event_id"],
        &["authorizations"],
        &["event"],
        &["event", "type"],
        &["event", "channel"],
        &["event", "user"],
        &["event", "ts"],
        &["event", "thread_ts"],
        &["event", "text"],
        &["event", "files"],
        &["event", "bot_id"],
        &["event", "subtype"],
        &["event", "channel_type"],
    ] {
        for value in &hostile {
            let verdict = posted(&at(path, value));
            if let Ok(Webhook::Message(message)) = &verdict {
                // Any text is a text, and a list may be empty or hold what Slack does not tell of.
                let free = [
                    &["event", "text"][..],
                    &["event", "files"],
                    &["authorizations"],
                ];
                assert!(free.contains(&path), "{path:?} {message:?}");
            }
            if let Err(error) = verdict {
                let error = error.to_string();
                assert!(error.len() < 300 && !error.contains('\n'), "{error}");
            }
        }
    }
    insta::assert_snapshot!(
        posted(&at(&["event", "user"], &json!({ "id": "U0ADA" }))).unwrap_err(),
        @"the body's event.user is an object, but it must be a text"
    );
    insta::assert_snapshot!(
        posted(&at(&["team_id"], &json!("t0"))).unwrap_err(),
        @r#"the body's team_id is "t0", but it must be T or E and 1 to 30 characters of A-Z and 0-9"#
    );
    insta::assert_snapshot!(
        posted(&at(&["event"], &json!(null))).unwrap_err(),
        @"the body's event is missing, but it must be a JSON object"
    );
}

#[test]
fn what_is_no_envelope_is_refused_without_repeating_it() {
    for body in [
        "",
        "null",
        "[]",
        "1",
        "{",
        "\u{feff}{}",
        "{}",
        r#"{"type":"event_callback","event":"secret words"}"#,
        r#"{"type":"event_callback","type":"event_callback"}"#,
        "payload=%7B%7D",
    ] {
        let error = read(body.as_bytes(), now()).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    assert!(read(b"\xff\xfe", now()).is_err());
    let deep = format!(r#"{{"type":"x","blocks":{}"#, "[".repeat(500_000));
    assert!(read(deep.as_bytes(), now()).is_err());
}

proptest! {
    #[test]
    fn whatever_is_posted_is_judged(body in "\\PC{0,200}") {
        let _ = read(body.as_bytes(), now());
    }

    #[test]
    fn whatever_is_said_arrives_as_it_was_typed(text in "[a-z&<>;@|U0CLAW \n\u{6f22}]{0,60}") {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        match saying(&format!("<@U0CLAW> {escaped}")).unwrap() {
            Webhook::Message(message) => prop_assert_eq!(message.text, text.trim()),
            other => {
                prop_assert_eq!(other, Webhook::Ignored("says nothing"));
                prop_assert_eq!(text.trim(), "");
            }
        }
    }
}

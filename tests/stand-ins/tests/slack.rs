//! The stand-in for Slack: what it does, and what it refuses as Slack does.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use carapace_stand_ins::slack::{BOT_USER, STREAM_LIFE, Settings, Slack, TEAM};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

const TOKEN: &str = "xoxb-0-0-token";

struct Workspace {
    base: String,
    client: reqwest::Client,
}

/// A thread that Ada has begun in a channel.
struct Thread<'a> {
    workspace: &'a Workspace,
    user: String,
    channel: String,
    ts: String,
}

impl Workspace {
    async fn start() -> Self {
        Self::with_streams_of(STREAM_LIFE).await
    }

    async fn with_streams_of(stream_life: Duration) -> Self {
        let settings = Settings {
            bot_token: TOKEN.to_owned(),
            stream_life,
        };
        let router = Slack::new(settings).unwrap().router();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            base,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    fn post(&self, method: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/api/{method}", self.base))
    }

    async fn call(&self, method: &str, arguments: Value) -> Value {
        let request = self.post(method).bearer_auth(TOKEN).json(&arguments);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    async fn ok(&self, method: &str, arguments: Value) -> Value {
        let answer = self.call(method, arguments).await;
        assert_eq!(answer["ok"], true, "{method}: {answer}");
        answer
    }

    async fn refused(&self, method: &str, arguments: Value) -> String {
        let answer = self.call(method, arguments.clone()).await;
        assert_eq!(answer["ok"], false, "{method} took {arguments}");
        answer["error"].as_str().unwrap().to_owned()
    }

    async fn control(&self, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/_stand-in/{path}", self.base);
        let answer = self.client.post(url).json(&body).send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        )
    }

    async fn told(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.control(path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn member(&self, name: &str) -> String {
        let email = format!("{}@example.com", name.to_lowercase());
        let member = self.told("members", json!({ "name": name, "email": email }));
        member.await["id"].as_str().unwrap().to_owned()
    }

    async fn thread(&self) -> Thread<'_> {
        let user = self.member("Ada").await;
        let channel = self.told("channels", json!({ "name": "general" })).await;
        self.thread_in(&user, channel["id"].as_str().unwrap()).await
    }

    async fn thread_in(&self, user: &str, channel: &str) -> Thread<'_> {
        let body = json!({ "user": user, "channel": channel, "text": "<@U0CLAW> hello" });
        let message = self.told("messages", body).await;
        Thread {
            workspace: self,
            user: user.to_owned(),
            channel: channel.to_owned(),
            ts: message["ts"].as_str().unwrap().to_owned(),
        }
    }

    async fn calls(&self, method: &str) -> Value {
        let url = format!("{}/_stand-in/calls/{method}", self.base);
        let answer = self.client.get(url).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["calls"].clone()
    }
}

impl Thread<'_> {
    async fn seen(&self) -> Value {
        let (channel, ts) = (&self.channel, &self.ts);
        let base = &self.workspace.base;
        let url = format!("{base}/_stand-in/threads/{channel}/{ts}");
        let answer = self.workspace.client.get(url).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn reply(&self) -> Value {
        self.seen().await["messages"][1].clone()
    }

    fn stream(&self) -> Value {
        json!({
            "channel": self.channel, "thread_ts": self.ts, "recipient_team_id": TEAM,
            "recipient_user_id": self.user,
        })
    }

    async fn start_stream(&self) -> String {
        let started = self.workspace.ok("chat.startStream", self.stream()).await;
        started["ts"].as_str().unwrap().to_owned()
    }

    fn at(&self, ts: &str, field: &str, text: &str) -> Value {
        json!({ "channel": self.channel, "ts": ts, field: text })
    }
}

#[tokio::test]
async fn a_reply_streams_into_the_thread() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    let ts = thread.start_stream().await;
    let reply = thread.reply().await;
    assert_eq!(
        (&reply["text"], &reply["streaming"]),
        (&json!(""), &json!(true))
    );
    for text in ["one ", "two "] {
        slack
            .ok("chat.appendStream", thread.at(&ts, "markdown_text", text))
            .await;
    }
    assert_eq!(thread.reply().await["text"], "one two ");
    let last = thread.at(&ts, "markdown_text", "three");
    let stopped = slack.ok("chat.stopStream", last).await;
    assert_eq!(stopped["message"]["text"], "one two three");
    let reply = thread.reply().await;
    assert_eq!(reply["streaming"], false);
    assert_eq!(
        (&reply["user"], &reply["bot"]),
        (&json!(BOT_USER), &json!(true))
    );
    assert_eq!(slack.calls("chat.appendStream").await, 2);
}

#[tokio::test]
async fn only_what_streams_is_added_to_and_only_what_does_not_is_changed() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    let ts = thread.start_stream().await;
    let update = thread.at(&ts, "markdown_text", "whole");
    assert_eq!(
        slack.refused("chat.update", update.clone()).await,
        "streaming_state_conflict"
    );
    let stop = json!({ "channel": thread.channel, "ts": ts });
    slack.ok("chat.stopStream", stop.clone()).await;
    let append = thread.at(&ts, "markdown_text", "more");
    for (method, arguments) in [("chat.appendStream", append), ("chat.stopStream", stop)] {
        let error = slack.refused(method, arguments).await;
        assert_eq!(error, "message_not_in_streaming_state", "{method}");
    }
    slack.ok("chat.update", update).await;
    let reply = thread.reply().await;
    assert_eq!(
        (&reply["text"], &reply["edits"]),
        (&json!("whole"), &json!(1))
    );
}

#[tokio::test]
async fn a_stream_ends_by_itself() {
    let slack = Workspace::with_streams_of(Duration::ZERO).await;
    let thread = slack.thread().await;
    let ts = thread.start_stream().await;
    assert_eq!(thread.reply().await["streaming"], false);
    let append = thread.at(&ts, "markdown_text", "late");
    assert_eq!(
        slack.refused("chat.appendStream", append).await,
        "message_not_in_streaming_state"
    );
}

#[tokio::test]
async fn a_stream_to_a_channel_says_for_whom_and_one_to_a_member_need_not() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    for (without, error) in [
        ("recipient_user_id", "missing_recipient_user_id"),
        ("recipient_team_id", "missing_recipient_team_id"),
    ] {
        let mut arguments = thread.stream();
        arguments.as_object_mut().unwrap().remove(without);
        assert_eq!(slack.refused("chat.startStream", arguments).await, error);
    }
    let mut stranger = thread.stream();
    stranger["recipient_user_id"] = json!("U0NOBODY");
    assert_eq!(
        slack.refused("chat.startStream", stranger).await,
        "user_not_found"
    );
    let direct = json!({ "direct": thread.user });
    let channel = slack.told("channels", direct.clone()).await["id"].clone();
    assert_eq!(slack.told("channels", direct).await["id"], channel);
    let thread = slack
        .thread_in(&thread.user, channel.as_str().unwrap())
        .await;
    let arguments = json!({ "channel": channel, "thread_ts": thread.ts });
    slack.ok("chat.startStream", arguments).await;
}

#[tokio::test]
async fn only_the_bot_may_call() {
    let slack = Workspace::start().await;
    let error = async |request: reqwest::RequestBuilder| {
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["error"].clone()
    };
    let test = || slack.post("auth.test");
    assert_eq!(error(test()).await, "not_authed");
    assert_eq!(
        error(test().bearer_auth("xoxb-other")).await,
        "invalid_auth"
    );
    assert_eq!(
        error(test().header("authorization", TOKEN)).await,
        "not_authed"
    );
    let nowhere = slack.post("chat.nothing").bearer_auth(TOKEN);
    assert_eq!(error(nowhere).await, "unknown_method");
    let in_json = test().json(&json!({ "token": TOKEN }));
    assert_eq!(error(in_json).await, "not_authed");
    let in_form = test()
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("token={TOKEN}"));
    assert_eq!(error(in_form).await, Value::Null);
    let known = slack.ok("auth.test", json!({})).await;
    assert_eq!(
        (&known["team_id"], &known["user_id"]),
        (&json!(TEAM), &json!(BOT_USER))
    );
}

#[tokio::test]
async fn what_is_no_sound_request_is_refused() {
    let slack = Workspace::start().await;
    for (kind, body, error) in [
        (Some("application/json"), "{", "invalid_json"),
        (
            Some("application/json; charset=utf-8"),
            "[]",
            "json_not_object",
        ),
        (Some("text/html"), "a", "invalid_post_type"),
        (None, "a=b", "missing_post_type"),
    ] {
        let mut request = slack.post("chat.postMessage").bearer_auth(TOKEN).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["error"], error, "{body}");
    }
}

#[tokio::test]
async fn an_argument_that_is_missing_or_unheard_of_is_named() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    let (channel, ts) = (&thread.channel, &thread.ts);
    for (method, arguments, named) in [
        ("chat.postMessage", json!({ "text": "a" }), "channel"),
        (
            "chat.postMessage",
            json!({ "channel": channel, "txet": "a" }),
            "txet",
        ),
        (
            "chat.postMessage",
            json!({ "channel": channel, "text": 7 }),
            "text",
        ),
        (
            "chat.postMessage",
            json!({ "channel": channel, "text": null }),
            "text",
        ),
        (
            "chat.postMessage",
            json!({ "channel": channel, "blocks": [] }),
            "blocks",
        ),
        (
            "chat.startStream",
            json!({ "channel": channel }),
            "thread_ts",
        ),
        (
            "chat.appendStream",
            json!({ "channel": channel, "ts": ts, "text": "a" }),
            "text",
        ),
        (
            "assistant.threads.setStatus",
            json!({ "channel": channel }),
            "channel_id",
        ),
    ] {
        let answer = slack.call(method, arguments.clone()).await;
        assert_eq!(answer["error"], "invalid_arguments", "{method} {arguments}");
        let messages = answer["response_metadata"]["messages"].to_string();
        assert!(messages.contains(named), "{method} {arguments}: {messages}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    let channel = &thread.channel;
    let elsewhere = slack.thread().await.ts;
    let closed = slack.told("channels", json!({ "name": "closed", "without_bot": true }));
    let closed = closed.await["id"].clone();
    let posted = json!({ "channel": channel, "thread_ts": thread.ts, "text": "a" });
    let reply = slack.ok("chat.postMessage", posted).await["ts"].clone();
    let post = |channel: &Value, thread: &Value| json!({ "channel": channel, "thread_ts": thread, "text": "a" });
    let (here, this) = (json!(channel), json!(thread.ts));
    let update = |ts: &str| json!({ "channel": channel, "ts": ts, "text": "a" });
    let status = |channel: &Value, thread: &Value| json!({ "channel_id": channel, "thread_ts": thread, "status": "thinks" });
    for (method, arguments, error) in [
        (
            "chat.postMessage",
            post(&json!("C0NOWHERE"), &this),
            "channel_not_found",
        ),
        ("chat.postMessage", post(&closed, &this), "not_in_channel"),
        (
            "chat.postMessage",
            post(&here, &json!(elsewhere)),
            "thread_not_found",
        ),
        ("chat.postMessage", post(&here, &reply), "thread_not_found"),
        (
            "chat.postMessage",
            post(&here, &json!("yesterday")),
            "invalid_thread_ts",
        ),
        ("chat.update", update("1.000001"), "message_not_found"),
        ("chat.update", update("1"), "invalid_ts"),
        ("chat.update", update(&thread.ts), "cant_update_message"),
        (
            "chat.stopStream",
            json!({ "channel": channel, "ts": thread.ts }),
            "message_not_owned_by_app",
        ),
        (
            "assistant.threads.setStatus",
            status(&json!("C0NOWHERE"), &this),
            "channel_not_found",
        ),
        (
            "assistant.threads.setStatus",
            status(&here, &json!(elsewhere)),
            "invalid_thread_ts",
        ),
    ] {
        let got = slack.refused(method, arguments.clone()).await;
        assert_eq!(got, error, "{method} {arguments}");
    }
}

#[tokio::test]
async fn texts_have_their_limits() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    let post = |field: &str, characters: usize| json!({ "channel": thread.channel, "thread_ts": thread.ts, field: "ä".repeat(characters) });
    for (field, most) in [("text", 40_000), ("markdown_text", 12_000)] {
        slack.ok("chat.postMessage", post(field, most)).await;
        for (characters, error) in [(most + 1, "msg_too_long"), (0, "no_text")] {
            let got = slack
                .refused("chat.postMessage", post(field, characters))
                .await;
            assert_eq!(got, error, "{characters} in {field}");
        }
    }
    let nothing = json!({ "channel": thread.channel });
    assert_eq!(slack.refused("chat.postMessage", nothing).await, "no_text");
    let mut both = post("text", 1);
    both["markdown_text"] = json!("a");
    assert_eq!(
        slack.refused("chat.postMessage", both).await,
        "markdown_text_conflict"
    );

    let ts = thread.start_stream().await;
    let append = |characters: usize| thread.at(&ts, "markdown_text", &"ä".repeat(characters));
    slack.ok("chat.appendStream", append(11_999)).await;
    assert_eq!(
        slack.refused("chat.appendStream", append(2)).await,
        "msg_too_long",
        "a streamed message is full at some time"
    );
    let silent = json!({ "channel": thread.channel, "ts": ts });
    assert_eq!(
        slack.refused("chat.appendStream", silent.clone()).await,
        "markdown_text_or_chunks_required"
    );
    slack.ok("chat.stopStream", silent).await;
    let update = |field: &str, characters| thread.at(&ts, field, &"ä".repeat(characters));
    slack.ok("chat.update", update("text", 4_000)).await;
    slack
        .ok("chat.update", update("markdown_text", 12_000))
        .await;
    for (field, characters) in [("text", 4_001), ("markdown_text", 12_001)] {
        let got = slack
            .refused("chat.update", update(field, characters))
            .await;
        assert_eq!(got, "msg_too_long", "{field}");
    }
}

#[tokio::test]
async fn a_member_is_described_to_whoever_asks_in_a_query_or_a_form() {
    let slack = Workspace::start().await;
    let described = json!({
        "name": "Guest", "email": "guest@example.com", "is_restricted": true, "team_id": "T0OTHER",
    });
    let guest = slack.told("members", described).await["id"].clone();
    let id = guest.as_str().unwrap();
    let form = slack
        .post("users.info")
        .bearer_auth(TOKEN)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("user={id}"));
    let query = slack
        .client
        .get(format!("{}/api/users.info?user={id}", slack.base))
        .bearer_auth(TOKEN);
    for request in [form, query] {
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let user = &answer["user"];
        assert_eq!(user["profile"]["email"], "guest@example.com", "{answer}");
        assert_eq!(user["team_id"], "T0OTHER");
        assert_eq!(
            (&user["is_restricted"], &user["is_bot"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(user["is_email_confirmed"], true);
        assert_eq!(user.get("is_stranger"), None);
    }
    // As the real one does: in JSON it does not see who is asked for.
    let unseen = slack.refused("users.info", json!({ "user": id })).await;
    assert_eq!(unseen, "user_not_found");
    let (status, _) = slack
        .control("members", json!({ "name": "Eve", "is_admni": true }))
        .await;
    assert_eq!(status, 400, "a slip in a test's profile is told");
}

#[tokio::test]
async fn a_status_stays_until_the_bot_speaks_or_takes_it_away() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    let status = |status: &str| json!({ "channel_id": thread.channel, "thread_ts": thread.ts, "status": status });
    let method = "assistant.threads.setStatus";
    slack.ok(method, status("is waking up…")).await;
    assert_eq!(thread.seen().await["status"], "is waking up…");
    slack.ok(method, status("")).await;
    assert_eq!(thread.seen().await["status"], Value::Null);
    slack.ok(method, status("is thinking…")).await;
    thread.start_stream().await;
    let seen = thread.seen().await;
    assert_eq!(seen["status"], Value::Null);
    assert_eq!(seen["statuses"], json!(["is waking up…", "is thinking…"]));
}

#[tokio::test]
async fn it_misbehaves_where_it_is_told_to_and_nowhere_else() {
    let slack = Workspace::start().await;
    let (here, elsewhere) = (slack.thread().await, slack.thread().await);
    let how = json!({
        "channel": here.channel, "method": "chat.startStream", "rate_limited": 2, "retry_after": 7,
    });
    slack.told("misbehave", how).await;
    for _ in 0..2 {
        let request = slack.post("chat.startStream").bearer_auth(TOKEN);
        let answer = request.json(&here.stream()).send().await.unwrap();
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["retry-after"], "7");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"], "ratelimited");
        elsewhere.start_stream().await;
    }
    let ts = here.start_stream().await;
    let append = here.at(&ts, "markdown_text", "once ");
    let how = json!({ "channel": here.channel, "error": "internal_error" });
    slack.told("misbehave", how).await;
    let failed = slack.refused("chat.appendStream", append.clone()).await;
    assert_eq!(failed, "internal_error");
    assert_eq!(here.reply().await["text"], "", "it was not done");
    let how = json!({ "channel": here.channel, "error": "internal_error", "applied": true });
    slack.told("misbehave", how).await;
    let failed = slack.refused("chat.appendStream", append.clone()).await;
    assert_eq!(failed, "internal_error");
    assert_eq!(
        here.reply().await["text"],
        "once ",
        "it was done all the same"
    );
    let how = json!({ "channel": here.channel, "end_streams": true });
    slack.told("misbehave", how).await;
    let late = slack.refused("chat.appendStream", append).await;
    assert_eq!(late, "message_not_in_streaming_state");
    assert_eq!(elsewhere.reply().await["streaming"], true);

    let how = json!({ "user": here.user, "method": "users.info", "stall_seconds": 0.2 });
    slack.told("misbehave", how).await;
    let url = format!("{}/api/users.info?user={}", slack.base, here.user);
    let began = Instant::now();
    slack
        .client
        .get(url)
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200));
    for wrong in [
        json!({ "method": "chat.startStraem", "error": "a" }),
        json!({ "method": "*" }),
        json!({ "error": "a", "status": 500 }),
        json!({ "eror": "a" }),
    ] {
        let (status, answer) = slack.control("misbehave", wrong.clone()).await;
        assert!((400..500).contains(&status), "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn the_page_says_what_it_is_and_carries_nothing_that_was_written() {
    let slack = Workspace::start().await;
    let thread = slack.thread().await;
    let hostile = "<script>alert(1)</script>";
    let body = json!({ "user": thread.user, "channel": thread.channel, "text": hostile });
    slack.told("messages", body).await;
    let page = slack.client.get(&slack.base).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    let page = page.text().await.unwrap();
    assert!(page.contains("stand-in for Slack"));
    assert!(!page.contains("alert(1)") && !page.contains("innerHTML"));
    let look = async |query: &str| {
        let url = format!("{}/_stand-in/workspace{query}", slack.base);
        slack.client.get(url).send().await.unwrap()
    };
    let whole: Value = look("").await.json().await.unwrap();
    assert_eq!(
        whole["channels"][0]["threads"][0]["messages"][0]["text"],
        "<@U0CLAW> hello"
    );
    let unchanged = look(&format!("?revision={}", whole["revision"])).await;
    assert_eq!(unchanged.status(), 204);
    thread.start_stream().await;
    let changed = look(&format!("?revision={}", whole["revision"])).await;
    assert_eq!(changed.status(), 200);
}

/// The page's own script at work, on as little of a browser as it needs.
struct Page {
    lines: Lines<BufReader<ChildStdout>>,
    // It ends with this.
    _browser: Child,
}

impl Page {
    fn open(slack: &Workspace) -> Self {
        let script = Path::new(env!("CARAPACE_ROOT")).join("tests/stand-ins/slack/browser.mjs");
        let mut browser = Command::new("node")
            .arg(script)
            .arg(format!("{}/", slack.base))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(browser.stdout.take().unwrap()).lines();
        Self {
            lines,
            _browser: browser,
        }
    }

    /// Waits until it shows something, and tells what was last seen when that doesn't come.
    async fn shows(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let looking = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                last = serde_json::from_str(&line).unwrap();
                if is_it(&last) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(Duration::from_secs(20), looking).await;
        assert_eq!(found, Ok(true), "it never shows {what}; last: {last}");
        last
    }
}

#[tokio::test]
async fn the_page_shows_threads_and_an_answer_as_it_grows() {
    let slack = Workspace::start().await;
    let mut page = Page::open(&slack);
    let empty = page.shows("nothing", |shown| shown["nothing"].is_string());
    assert_eq!(empty.await["threads"], json!([]));

    let thread = slack.thread().await;
    let elsewhere = slack.thread_in(&thread.user, &thread.channel).await;
    let status =
        json!({ "channel_id": thread.channel, "thread_ts": thread.ts, "status": "thinks" });
    slack.ok("assistant.threads.setStatus", status).await;
    let question = json!({ "who": "Ada", "text": "@Claw hello", "bot": false, "streaming": false });
    // The newest comes first.
    let both = page.shows("a status", |shown| {
        shown["threads"][1]["status"].is_string()
    });
    let both = both.await;
    assert_eq!(both["threads"][0]["messages"], json!([question]));
    assert_eq!(
        both["threads"][1],
        json!({ "where": "#general", "status": "Claw thinks", "messages": [question] })
    );
    assert_eq!(
        both["channels"],
        json!([["All threads", "2"], ["#general", "2"]])
    );

    let ts = thread.start_stream().await;
    let hostile = "<b>bold</b> ";
    for (more, so_far) in [("one ", "one "), (hostile, "one <b>bold</b> ")] {
        slack
            .ok("chat.appendStream", thread.at(&ts, "markdown_text", more))
            .await;
        let shown = page.shows(so_far, |shown| {
            shown["threads"][0]["messages"][1]["text"] == so_far
        });
        let answered = shown.await["threads"][0].clone();
        let answer = json!({ "who": "Claw", "text": so_far, "bot": true, "streaming": true });
        assert_eq!(answered["messages"], json!([question, answer]));
        assert_eq!(
            answered["status"],
            Value::Null,
            "the answer takes its place"
        );
    }
    let last = thread.at(&ts, "markdown_text", "two");
    slack.ok("chat.stopStream", last).await;
    let whole = "one <b>bold</b> two";
    let shown = page.shows("the end", |shown| {
        shown["threads"][0]["messages"][1]["streaming"] == false
    });
    let shown = shown.await;
    assert_eq!(shown["threads"][0]["messages"][1]["text"], whole);
    assert_eq!(
        shown["threads"][1]["messages"],
        json!([question]),
        "{} has no answer",
        elsewhere.ts
    );
    assert_eq!(shown["state"], "live");
}

#[test]
fn a_token_that_is_no_bots_is_refused() {
    let settings = Settings {
        bot_token: "xoxp-somebody".to_owned(),
        stream_life: STREAM_LIFE,
    };
    assert!(Slack::new(settings).is_err());
}

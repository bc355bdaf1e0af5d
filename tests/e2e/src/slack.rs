//! Slack, as its members and its servers see it: somebody writes, the signed webhook goes out, and
//! what the agent answers is read in the thread.
//!
//! The workspace is the stand-in's, which the deployment puts into the cluster; its address in
//! `stack.json` is valid inside and outside of the stack. The webhook is posted to API Gateway.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::Platform;
use crate::aws;

/// The bot's user, as members mention it.
pub const BOT_USER: &str = "U0CLAW";
/// The workspace.
pub const TEAM: &str = "T0CARAPACE";

/// Longer than the longest stall that a scenario asks for.
const PATIENCE: Duration = Duration::from_secs(30);

impl Platform {
    /// The workspace of this platform's bot.
    pub fn slack(&self) -> Result<Slack<'_>> {
        let workspace = self.info.slack_url.as_deref();
        let workspace = workspace.context("Slack's stand-in needs a node that runs it")?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        Ok(Slack {
            workspace,
            webhook: Webhook::of(self)?,
            secret: signing_secret(self)?,
            agent,
        })
    }
}

/// What both sides of a webhook know.
fn signing_secret(platform: &Platform) -> Result<&str> {
    if let Some(secret) = platform.slack_signing_secret.get() {
        return Ok(secret);
    }
    let arn = platform.control_plane("SlackSigningSecretArn")?;
    let input = json!({ "SecretId": arn });
    let answer = platform.aws.call(aws::SECRETS, "GetSecretValue", &input)?;
    let secret: Value = serde_json::from_str(&aws::string(&answer, "/SecretString")?)?;
    let secret = aws::string(&secret, "/signing_secret")?;
    Ok(platform.slack_signing_secret.get_or_init(|| secret))
}

/// A workspace and the webhook that its events go to.
#[derive(Debug)]
pub struct Slack<'a> {
    workspace: &'a str,
    webhook: Webhook,
    secret: &'a str,
    agent: ureq::Agent,
}

/// Where API Gateway is, and by which name it knows the API.
#[derive(Debug)]
struct Webhook {
    url: String,
    host: String,
}

impl Webhook {
    /// The local AWS tells APIs apart by the host that is asked for, which no resolver needs to know.
    fn of(platform: &Platform) -> Result<Self> {
        let endpoint = platform.info.aws_endpoint.as_deref();
        let endpoint = endpoint.context("this stack was started without AWS")?;
        Self::reached(platform.control_plane("SlackEventsUrl")?, endpoint)
    }

    fn reached(url: &str, endpoint: &str) -> Result<Self> {
        let (_, rest) = url
            .split_once("://")
            .with_context(|| format!("{url} is no URL"))?;
        let (host, path) = rest
            .split_once('/')
            .with_context(|| format!("{url} has no path"))?;
        let (api, _) = host
            .split_once(".execute-api.")
            .with_context(|| format!("{url} is no URL of API Gateway"))?;
        Ok(Self {
            url: format!("{}/{path}", endpoint.trim_end_matches('/')),
            host: format!("{api}.execute-api.localhost"),
        })
    }
}

/// Somebody in the workspace.
#[derive(Clone, Debug)]
pub struct Member {
    /// Their user id.
    pub id: String,
    /// Their address; empty, if Slack does not tell one.
    pub email: String,
}

/// A message that was written, and the webhook that tells of it.
#[derive(Clone, Debug)]
pub struct Said {
    /// The event's id: a webhook that is delivered again has it again.
    pub event_id: String,
    /// Where it was written.
    pub channel: String,
    /// The message's own timestamp.
    pub ts: String,
    /// The first message of its thread; its own, if it begins one.
    pub thread_ts: String,
    /// What was written, without the mention.
    pub text: String,
    /// The webhook's body.
    pub body: String,
}

/// What a webhook was answered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The HTTP status.
    pub status: u16,
    /// The answer's body.
    pub body: String,
    /// How long it took.
    pub took: Duration,
}

/// A thread as a member sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct Thread {
    /// The bot's status line.
    pub status: Option<String>,
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Every status line that was ever set.
    pub statuses: Vec<String>,
}

/// A message in a thread.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Message {
    /// Its timestamp.
    pub ts: String,
    /// Who wrote it.
    pub user: String,
    /// Whether that is the bot.
    pub bot: bool,
    /// What it says.
    pub text: String,
    /// Whether it still grows.
    pub streaming: bool,
    /// How often it was rewritten.
    pub edits: u32,
}

impl Slack<'_> {
    /// Somebody joins the workspace.
    pub fn member(&self, name: &str, email: &str) -> Result<Member> {
        self.member_with(json!({ "name": name, "email": email }))
    }

    /// Somebody joins whose profile says more: `is_restricted`, `team_id` and the like.
    pub fn member_with(&self, profile: Value) -> Result<Member> {
        let user = self.tell("members", profile)?;
        let email = user.pointer("/profile/email").and_then(Value::as_str);
        Ok(Member {
            id: aws::string(&user, "/id")?,
            email: email.unwrap_or_default().to_owned(),
        })
    }

    /// A new channel with the bot in it; names may be there twice.
    pub fn channel(&self, name: &str) -> Result<String> {
        aws::string(&self.tell("channels", json!({ "name": name }))?, "/id")
    }

    /// The member's conversation with the bot alone.
    pub fn dm(&self, member: &Member) -> Result<String> {
        let asked = json!({ "direct": member.id });
        aws::string(&self.tell("channels", asked)?, "/id")
    }

    /// A member writes, and mentions the bot where that is needed. Nobody is told yet.
    pub fn say(
        &self,
        member: &Member,
        channel: &str,
        thread: Option<&str>,
        text: &str,
    ) -> Result<Said> {
        let direct = channel.starts_with('D');
        let mention = if direct { "" } else { "<@U0CLAW> " };
        // Slack's own escapes: https://docs.slack.dev/messaging/formatting-message-text
        let escaped = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let written = format!("{mention}{escaped}");
        let message = self.tell(
            "messages",
            json!({ "user": member.id, "channel": channel, "thread_ts": thread, "text": written }),
        )?;
        let ts = aws::string(&message, "/ts")?;
        let event_id = format!("Ev{}", ulid::Ulid::generate());
        let mut event = json!({
            "type": if direct { "message" } else { "app_mention" },
            "user": member.id,
            "client_msg_id": uuid(),
            "text": written,
            "ts": ts,
            "channel": channel,
            "event_ts": ts,
            "team": TEAM,
            "blocks": [blocks(direct, text)],
        });
        if let Some(thread) = thread {
            event["thread_ts"] = json!(thread);
            event["parent_user_id"] = json!(member.id);
        }
        if direct {
            event["channel_type"] = json!("im");
        }
        let envelope = json!({
            "token": "of-former-times",
            "team_id": TEAM,
            "context_team_id": TEAM,
            "context_enterprise_id": null,
            "api_app_id": "A0CLAW",
            "event": event,
            "type": "event_callback",
            "event_id": event_id,
            "event_time": now()?,
            "authorizations": [{
                "enterprise_id": null, "team_id": TEAM, "user_id": BOT_USER, "is_bot": true,
                "is_enterprise_install": false,
            }],
            "is_ext_shared_channel": false,
            "event_context": format!("4-{event_id}"),
        });
        Ok(Said {
            channel: channel.to_owned(),
            thread_ts: thread.unwrap_or(&ts).to_owned(),
            ts,
            event_id,
            text: text.to_owned(),
            body: as_slack_writes(&envelope),
        })
    }

    /// Signs the webhook and posts it. Slack does so again when it was not answered.
    pub fn deliver(&self, said: &Said) -> Result<Delivery> {
        let (timestamp, body) = (now()?, said.body.as_bytes());
        let headers = [
            ("content-type", "application/json"),
            ("x-slack-request-timestamp", &timestamp.to_string()),
            ("x-slack-signature", &self.sign(timestamp, body)),
        ];
        let began = Instant::now();
        let (status, body) = self.post(&headers, body)?;
        Ok(Delivery {
            status,
            body,
            took: began.elapsed(),
        })
    }

    /// A member writes, and the bot's app is told, which must take it.
    pub fn mention(
        &self,
        member: &Member,
        channel: &str,
        thread: Option<&str>,
        text: &str,
    ) -> Result<Said> {
        let said = self.say(member, channel, thread, text)?;
        let delivery = self.deliver(&said)?;
        ensure!(
            delivery.status == 200,
            "the webhook was not taken: {delivery:?}"
        );
        Ok(said)
    }

    /// Posts anything at all to the webhook.
    pub fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Result<(u16, String)> {
        let Webhook { url, host } = &self.webhook;
        let mut request = ureq::http::Request::builder()
            .method("POST")
            .uri(url)
            .header("host", host)
            .header("user-agent", "Slackbot 1.0 (+https://api.slack.com/robots)");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self
            .agent
            .run(request.body(body)?)
            .with_context(|| format!("POST {url} of {host}"))?;
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_to_string()?))
    }

    /// The signature of a body: <https://docs.slack.dev/authentication/verifying-requests-from-slack>.
    /// Written down a second time on purpose: what is under test does not vouch for itself.
    pub fn sign(&self, timestamp: i64, body: &[u8]) -> String {
        signature(self.secret, timestamp, body)
    }

    /// A thread as it is now.
    pub fn thread(&self, channel: &str, thread_ts: &str) -> Result<Thread> {
        let thread = self.look(&format!("threads/{channel}/{thread_ts}"))?;
        Ok(serde_json::from_value(thread)?)
    }

    /// What the bot has said in a thread; a message that is still empty says nothing.
    pub fn replies(&self, channel: &str, thread_ts: &str) -> Result<Vec<Message>> {
        let mut messages = self.thread(channel, thread_ts)?.messages;
        messages.retain(|message| message.bot && !message.text.is_empty());
        Ok(messages)
    }

    /// How often a method of the Web API was called.
    pub fn calls(&self, method: &str) -> Result<u64> {
        let calls = self.look(&format!("calls/{method}"))?;
        calls["calls"]
            .as_u64()
            .ok_or_else(|| anyhow!("the stand-in says {calls:#}"))
    }

    /// Tells the stand-in what is to go wrong, where (`channel`, `user`), in which `method` and how
    /// many `times`: `rate_limited` so many times, an `error`, an HTTP `status`, `stall_seconds`;
    /// `applied`, if it is to be done all the same; or `end_streams`, at once.
    pub fn misbehave(&self, how: &Value) -> Result<()> {
        self.tell("misbehave", how.clone())?;
        Ok(())
    }

    fn tell(&self, path: &str, body: Value) -> Result<Value> {
        let url = format!("{}/_stand-in/{path}", self.workspace);
        let response = self.agent.post(&url).send_json(body);
        answer(&url, response)
    }

    fn look(&self, path: &str) -> Result<Value> {
        let url = format!("{}/_stand-in/{path}", self.workspace);
        answer(&url, self.agent.get(&url).call())
    }
}

fn answer(
    url: &str,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Value> {
    let mut response = response.with_context(|| format!("{url}: is the stand-in's pod up?"))?;
    let text = response.body_mut().read_to_string()?;
    ensure!(
        response.status() == 200,
        "{url}: {} {text}",
        response.status()
    );
    serde_json::from_str(&text).with_context(|| format!("{url} answered {text}"))
}

fn now() -> Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_secs())?)
}

fn uuid() -> String {
    let id = format!("{:032x}", ulid::Ulid::generate().0);
    format!(
        "{}-{}-{}-{}-{}",
        &id[..8],
        &id[8..12],
        &id[12..16],
        &id[16..20],
        &id[20..]
    )
}

fn signature(secret: &str, timestamp: i64, body: &[u8]) -> String {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(format!("v0:{timestamp}:").as_bytes());
    mac.update(body);
    format!("v0={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
}

/// The text again, taken apart: this is what Slack's clients write.
fn blocks(direct: bool, text: &str) -> Value {
    let mut elements = Vec::new();
    if direct {
        elements.push(json!({ "type": "text", "text": text }));
    } else {
        elements.push(json!({ "type": "user", "user_id": BOT_USER }));
        elements.push(json!({ "type": "text", "text": format!(" {text}") }));
    }
    json!({
        "type": "rich_text", "block_id": "Xc1aW",
        "elements": [{ "type": "rich_text_section", "elements": elements }],
    })
}

/// JSON in ASCII, with escaped slashes: a character beyond takes six or twelve bytes.
fn as_slack_writes(value: &Value) -> String {
    use std::fmt::Write as _;
    value
        .to_string()
        .chars()
        .fold(String::new(), |mut out, character| {
            match character {
                '/' => out.push_str("\\/"),
                ascii if ascii.is_ascii() => out.push(ascii),
                other => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// The example of <https://docs.slack.dev/authentication/verifying-requests-from-slack>.
    #[test]
    fn a_body_is_signed_as_slacks_own_example_is() {
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&\
                    channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&\
                    command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2F\
                    commands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=\
                    398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        assert_eq!(
            signature(
                "8f742231b10e8888abcd99yyyzzz85a5",
                1_531_420_618,
                body.as_bytes()
            ),
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
        );
    }

    #[test]
    fn what_is_not_ascii_is_written_as_slack_writes_it() {
        let value = json!({ "text": "ä/天😀\n" });
        let written = as_slack_writes(&value);
        assert_eq!(written, r#"{"text":"\u00e4\/\u5929\ud83d\ude00\n"}"#);
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value);
    }

    #[test]
    fn the_webhook_is_reached_at_the_local_aws_under_the_apis_name() {
        for url in [
            "https://ab12cd34.execute-api.localhost:4566/slack/events",
            "https://ab12cd34.execute-api.eu-west-1.amazonaws.com/slack/events",
        ] {
            let webhook = Webhook::reached(url, "http://127.0.0.1:7777").unwrap();
            assert_eq!(webhook.url, "http://127.0.0.1:7777/slack/events");
            assert_eq!(webhook.host, "ab12cd34.execute-api.localhost");
        }
        assert!(Webhook::reached("http://example.com/slack", "http://a").is_err());
    }

    #[test]
    fn a_webhook_is_signed_and_asks_for_the_api_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut asked = String::new();
            let mut piece = [0; 4096];
            while !asked.ends_with("{}") {
                let length = client.read(&mut piece).unwrap();
                asked.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            }
            client
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .unwrap();
            asked.to_lowercase()
        });
        let url = "https://ab12cd34.execute-api.localhost:4566/slack/events";
        let slack = Slack {
            workspace: "",
            webhook: Webhook::reached(url, &endpoint).unwrap(),
            secret: "secret",
            agent: ureq::Agent::new_with_defaults(),
        };
        let said = Said {
            event_id: String::new(),
            channel: String::new(),
            ts: String::new(),
            thread_ts: String::new(),
            text: String::new(),
            body: "{}".to_owned(),
        };
        let delivery = slack.deliver(&said).unwrap();
        assert_eq!((delivery.status, delivery.body.as_str()), (200, "ok"));
        let asked = server.join().unwrap();
        assert!(
            asked.starts_with("post /slack/events http/1.1\r\n"),
            "{asked}"
        );
        assert!(asked.contains("\r\nx-slack-signature: v0="), "{asked}");
        let hosts: Vec<&str> = asked.lines().filter(|l| l.starts_with("host:")).collect();
        assert_eq!(hosts, ["host: ab12cd34.execute-api.localhost"]);
    }
}

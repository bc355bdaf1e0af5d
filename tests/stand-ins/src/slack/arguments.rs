//! The methods and their arguments, and how a request is read into them.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method as Verb, Uri};
use serde_json::{Map, Value};

use super::api::Failure;
use super::content_type;

/// A method of the Web API, as far as it is used here.
#[derive(Debug)]
pub struct Method {
    /// As Slack spells it.
    pub name: &'static str,
    /// What it takes.
    pub arguments: &'static [Argument],
    /// What Slack takes and this stand-in refuses, and why.
    pub refused: &'static [(&'static str, &'static str)],
    /// Whether it reads JSON bodies. Methods that only read take a query or a form: the arguments in
    /// a JSON body are never seen, as github.com/kortix-ai/suna/pull/6616 found out.
    pub takes_json: bool,
}

/// An argument of a method.
#[derive(Debug)]
pub struct Argument {
    /// As Slack spells it.
    pub name: &'static str,
    /// Whether a call without it is refused.
    pub required: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Flag,
    List,
}

const fn required(name: &'static str) -> Argument {
    Argument {
        name,
        required: true,
        kind: Kind::Text,
    }
}

const fn text(name: &'static str) -> Argument {
    Argument {
        name,
        required: false,
        kind: Kind::Text,
    }
}

const fn flag(name: &'static str) -> Argument {
    Argument {
        name,
        required: false,
        kind: Kind::Flag,
    }
}

const fn list(name: &'static str) -> Argument {
    Argument {
        name,
        required: false,
        kind: Kind::List,
    }
}

const TEXT_ONLY: &str = "it would not be shown: a message here is its text";
const AS_THE_APP: &str = "the app speaks under its own name";

/// All that there are.
pub const METHODS: [Method; 8] = [
    Method {
        name: "auth.test",
        arguments: &[],
        refused: &[],
        takes_json: true,
    },
    Method {
        name: "users.info",
        arguments: &[required("user"), flag("include_locale")],
        refused: &[],
        takes_json: false,
    },
    Method {
        name: "chat.postMessage",
        arguments: &[
            required("channel"),
            text("text"),
            text("markdown_text"),
            text("thread_ts"),
            text("parse"),
            flag("mrkdwn"),
            flag("link_names"),
            flag("unfurl_links"),
            flag("unfurl_media"),
        ],
        refused: &[
            ("as_user", "only classic apps may send it"),
            ("attachments", TEXT_ONLY),
            ("blocks", TEXT_ONLY),
            ("container_id", "there are no containers here"),
            ("icon_emoji", AS_THE_APP),
            ("icon_url", AS_THE_APP),
            ("metadata", TEXT_ONLY),
            ("reply_broadcast", "a reply stays in its thread"),
            ("username", AS_THE_APP),
        ],
        takes_json: true,
    },
    Method {
        name: "chat.update",
        arguments: &[
            required("channel"),
            required("ts"),
            text("text"),
            text("markdown_text"),
            text("parse"),
            flag("link_names"),
        ],
        refused: &[
            ("as_user", "only classic apps may send it"),
            ("attachments", TEXT_ONLY),
            ("blocks", TEXT_ONLY),
            ("file_ids", TEXT_ONLY),
            ("metadata", TEXT_ONLY),
            ("reply_broadcast", "a reply stays in its thread"),
        ],
        takes_json: true,
    },
    Method {
        name: "chat.startStream",
        arguments: &[
            required("channel"),
            required("thread_ts"),
            text("markdown_text"),
            text("recipient_team_id"),
            text("recipient_user_id"),
        ],
        refused: &[
            ("chunks", TEXT_ONLY),
            ("icon_emoji", AS_THE_APP),
            ("icon_url", AS_THE_APP),
            ("task_display_mode", "there are no tasks without chunks"),
            ("username", AS_THE_APP),
        ],
        takes_json: true,
    },
    Method {
        name: "chat.appendStream",
        arguments: &[required("channel"), required("ts"), text("markdown_text")],
        refused: &[("chunks", TEXT_ONLY)],
        takes_json: true,
    },
    Method {
        name: "chat.stopStream",
        arguments: &[required("channel"), required("ts"), text("markdown_text")],
        refused: &[
            ("blocks", TEXT_ONLY),
            ("chunks", TEXT_ONLY),
            ("metadata", TEXT_ONLY),
            ("session_status", "there are no sessions here"),
        ],
        takes_json: true,
    },
    Method {
        name: "assistant.threads.setStatus",
        arguments: &[
            required("channel_id"),
            required("thread_ts"),
            required("status"),
            list("loading_messages"),
        ],
        refused: &[
            ("icon_emoji", AS_THE_APP),
            ("icon_url", AS_THE_APP),
            ("username", AS_THE_APP),
        ],
        takes_json: true,
    },
];

/// What a request carries.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The token, from the header or, in a query or form, beside the arguments.
    pub(super) token: Option<String>,
    pub(super) arguments: Arguments,
}

/// Arguments by name.
#[derive(Debug, Default)]
pub(super) struct Arguments(Map<String, Value>);

impl Request {
    /// Reads a request as Slack does: <https://docs.slack.dev/apis/web-api>.
    pub(super) fn read(
        method: &Method,
        verb: &Verb,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, Failure> {
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::to_owned);
        let mut arguments = pairs(uri.query().unwrap_or_default().as_bytes());
        if *verb == Verb::POST && !body.is_empty() {
            match content_type(headers) {
                None => return Err(Failure::named("missing_post_type")),
                Some("application/x-www-form-urlencoded") => arguments.extend(pairs(body)),
                Some("application/json") => {
                    let json: Value =
                        serde_json::from_slice(body).map_err(|_| Failure::named("invalid_json"))?;
                    let Value::Object(json) = json else {
                        return Err(Failure::named("json_not_object"));
                    };
                    if json.contains_key("token") {
                        // With JSON, only the header is looked at.
                        return Err(Failure::named("not_authed"));
                    }
                    if method.takes_json {
                        arguments.extend(json);
                    }
                }
                // There would be multipart/form-data, too, for files.
                Some(_) => return Err(Failure::named("invalid_post_type")),
            }
        }
        let beside = arguments.remove("token");
        let beside = beside.as_ref().and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            token: bearer.or(beside),
            arguments: Arguments(arguments),
        })
    }
}

fn pairs(text: &[u8]) -> Map<String, Value> {
    form_urlencoded::parse(text)
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect()
}

impl Arguments {
    /// A text that is there.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A text that was found to be there.
    pub(super) fn required(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// Refuses what the method does not take, in the words in which Slack says so.
    pub(super) fn check(&self, method: &Method) -> Result<(), Failure> {
        let mut problems = Vec::new();
        for argument in method.arguments.iter().filter(|a| a.required) {
            // A method without JSON answers as if it had been asked about nobody.
            if method.takes_json && !self.0.contains_key(argument.name) {
                problems.push(format!("[ERROR] missing required field: {}", argument.name));
            }
        }
        for (name, value) in &self.0 {
            if let Some(argument) = method.arguments.iter().find(|a| a.name == name) {
                if !argument.kind.fits(value) {
                    let kind = argument.kind.named();
                    problems.push(format!(
                        "[ERROR] must provide {kind} [json-pointer:/{name}]"
                    ));
                }
            } else if let Some((_, why)) = method.refused.iter().find(|(known, _)| known == name) {
                problems.push(format!("[ERROR] the stand-in does not take {name}: {why}"));
            } else {
                problems.push(format!(
                    "[ERROR] unknown argument: {name} (Slack would ignore it)"
                ));
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::Arguments(problems)),
        }
    }
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Flag => {
                value.is_boolean() || matches!(value.as_str(), Some("true" | "false" | "1" | "0"))
            }
            Self::List => value.as_array().is_some_and(|list| list.len() <= 10),
        }
    }

    fn named(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Flag => "a boolean",
            Self::List => "an array of at most 10",
        }
    }
}

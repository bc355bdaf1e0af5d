//! What the functions are sent, and what they answer.

use std::collections::BTreeMap;

use carapace_core::{
    EventId,
    slack::{Place, profile::NotLinked},
};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What of a request to an HTTP API (payload format 2.0) is looked at.
///
/// `aws_lambda_events` has a type for the whole of it, which fails as a whole if any header has a
/// character that HTTP's own types don't take: everybody on the internet could have this function
/// fail as often as they like, where it is to answer. A test keeps the two in step.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The path, as it was asked for.
    pub raw_path: String,
    /// What API Gateway knows about it.
    pub request_context: RequestContext,
    /// The headers. Of several with one name API Gateway makes one, with commas.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

/// What API Gateway knows about a request.
#[derive(Debug, Deserialize)]
pub struct RequestContext {
    /// How it was asked for.
    pub http: Http,
}

/// How something was asked for.
#[derive(Debug, Deserialize)]
pub struct Http {
    /// The method, in upper case.
    pub method: String,
}

/// A body that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRejected {
    /// It has more bytes than allowed.
    TooLarge,
    /// It is said to be Base64 and isn't.
    NotBase64,
}

impl Request {
    /// The one header of this name, whatever its case. Two of them are none: the one that is checked
    /// here might not be the one that somebody else reads.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut same = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        match (same.next(), same.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// The body's bytes, at most so many; they are not decoded if they must be more.
    pub fn body(self, limit: usize) -> Result<Vec<u8>, BodyRejected> {
        let body = self.body.unwrap_or_default();
        if !self.is_base64_encoded {
            return if body.len() > limit {
                Err(BodyRejected::TooLarge)
            } else {
                Ok(body.into_bytes())
            };
        }
        if body.len() > limit.div_ceil(3) * 4 {
            return Err(BodyRejected::TooLarge);
        }
        match BASE64.decode(body.as_bytes()) {
            Ok(bytes) if bytes.len() > limit => Err(BodyRejected::TooLarge),
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(BodyRejected::NotBase64),
        }
    }
}

/// An answer to an HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The status.
    pub status_code: u16,
    /// The headers.
    pub headers: BTreeMap<&'static str, &'static str>,
    /// The body: JSON.
    pub body: String,
    /// It is text.
    is_base64_encoded: bool,
}

impl Response {
    /// An answer with a body of JSON.
    pub fn json(status_code: u16, body: &Value) -> Self {
        Self {
            status_code,
            headers: BTreeMap::from([("content-type", "application/json")]),
            body: body.to_string(),
            is_base64_encoded: false,
        }
    }

    /// With one header more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// What `slack-reply` takes.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReplyPayload {
    /// Nobody of the platform wrote the message: say why, and what to do.
    NotLinked {
        /// Why.
        reason: NotLinked,
        /// The event that brought the message. For one event it is said once.
        event_id: EventId,
        /// Where to say it.
        place: Place,
    },
    /// The agent wakes up, which takes a moment.
    Waking {
        /// Where the user waits.
        place: Place,
    },
}

/// The answer of `slack-reply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Whether the user was told. If not, there is nowhere to tell them.
    pub told: bool,
}

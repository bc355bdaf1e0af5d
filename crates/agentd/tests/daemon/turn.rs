//! What a caller of turns does: asks for one, and reads what comes of it.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{ALICE, Pod};

/// A reader of a turn's events.
pub struct Reader {
    stream: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    pending: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: u64,
    pub name: String,
    pub data: Value,
}

impl Reader {
    /// `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.pending.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.pending = rest;
                let field = |name: &str| {
                    let mut lines = block.lines();
                    lines
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::trim)
                };
                if let (Some(id), Some(name), Some(data)) =
                    (field("id:"), field("event:"), field("data:"))
                {
                    return Some(Event {
                        id: id.parse().unwrap(),
                        name: name.to_owned(),
                        data: serde_json::from_str(data).unwrap(),
                    });
                }
            }
            let next = tokio::time::timeout(Duration::from_secs(30), self.stream.next()).await;
            let bytes = next.expect("the stream stalls")?.unwrap();
            self.pending.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The text that a reader of these events holds in the end.
pub fn held(events: &[Event]) -> String {
    let mut held = String::new();
    for event in events {
        let text = event.data["text"].as_str().unwrap_or_default();
        match event.name.as_str() {
            "delta" => held.push_str(text),
            "text" => text.clone_into(&mut held),
            _ => {}
        }
    }
    held
}

/// How they end: the last event's name, and the answer or the error's name.
pub fn end(events: &[Event]) -> (&str, &Value) {
    let last = events.last().unwrap();
    let value = match last.name.as_str() {
        "done" => &last.data["text"],
        _ => &last.data["error"],
    };
    (&last.name, value)
}

impl Pod {
    pub fn turn_token(&self, user: &str) -> String {
        self.signer.token_with(user, |_, claims| {
            claims["sub"] = json!("conversation-turn");
        })
    }

    pub fn posting(&self, id: &str, conversation: &str, text: &str) -> reqwest::RequestBuilder {
        let body = json!({"id": id, "conversation": conversation, "text": text});
        let post = self.http.post(self.control("/v1/turns"));
        post.bearer_auth(self.turn_token(ALICE)).json(&body)
    }

    pub async fn turn(&self, id: &str, conversation: &str, text: &str) -> Reader {
        reader(self.posting(id, conversation, text)).await
    }

    pub fn on_turn(&self, method: &str, rest: &str) -> reqwest::RequestBuilder {
        let url = self.control(&format!("/v1/turns/{rest}"));
        let method = method.parse().unwrap();
        let request = self.http.request(method, url);
        request.bearer_auth(self.turn_token(ALICE))
    }
}

/// The reader of an answer that must be a stream of events.
pub async fn reader(request: reqwest::RequestBuilder) -> Reader {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{response:?}");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    Reader {
        stream: Box::pin(response.bytes_stream()),
        pending: String::new(),
    }
}

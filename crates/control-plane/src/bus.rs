//! The bus: an EventBridge event bus.

use std::sync::Arc;

use aws_sdk_eventbridge::{
    Client, error::ProvideErrorMetadata, primitives::DateTime, types::PutEventsRequestEntry,
};
use carapace_core::{
    agent::Announcement,
    event::{
        SANDBOX_SOURCE, SIGNUP_SOURCE, SLACK_SOURCE, SlackMessageReceived, UserDeleted,
        UserSignedIn,
    },
    identity::SignIns,
    ports::{Bus, Trouble},
};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, sorted, trouble};

const SERVICE: &str = "EventBridge";

/// An EventBridge event bus.
#[derive(Debug)]
pub struct EventBus {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    name: String,
}

impl EventBus {
    /// The bus of this name; nothing is called yet.
    pub fn new(aws: Arc<Aws>, name: String) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
            name,
        }
    }

    /// Puts a message from Slack on it; when this returns, it is accepted.
    pub async fn publish_slack(&self, message: &SlackMessageReceived) -> Result<(), Trouble> {
        let detail_type = SlackMessageReceived::DETAIL_TYPE;
        self.put(SLACK_SOURCE, detail_type, message.at, message)
            .await
    }

    /// Says that somebody was removed; when this returns, it is accepted.
    pub async fn publish_removal(&self, removal: &UserDeleted) -> Result<(), Trouble> {
        let detail_type = UserDeleted::DETAIL_TYPE;
        self.put(SIGNUP_SOURCE, detail_type, removal.at, removal)
            .await
    }

    /// Makes the client ahead of its first use, for whoever has no time to spare then.
    pub async fn warm(&self) {
        self.client().await;
    }

    async fn put(
        &self,
        source: &str,
        detail_type: &str,
        at: Timestamp,
        detail: &impl Serialize,
    ) -> Result<(), Trouble> {
        let detail = serde_json::to_string(detail).map_err(|error| Trouble::Refused {
            service: SERVICE,
            why: format!("the event cannot be written as JSON: {error}"),
        })?;
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(&self.name)
            .source(source)
            .detail_type(detail_type)
            .detail(detail)
            .time(DateTime::from_secs(at.as_second()))
            .build();
        let request = self.client().await.put_events().entries(entry);
        let answer = boxed(request.send()).await;
        let answer = answer.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        // PutEvents succeeds as a call even when it took none of the events.
        if answer.failed_entry_count() == 0 {
            return Ok(());
        }
        let code = answer.entries().iter().find_map(|entry| entry.error_code());
        let why = format!(
            "the event was not taken: {}",
            code.unwrap_or("no reason was given")
        );
        Err(sorted(SERVICE, code, why))
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await
    }
}

impl Bus for EventBus {
    async fn publish(&self, announcement: &Announcement) -> Result<(), Trouble> {
        let detail_type = announcement.detail_type();
        let at = announcement.at();
        self.put(SANDBOX_SOURCE, detail_type, at, announcement)
            .await
    }
}

impl SignIns for EventBus {
    async fn announce(&self, sign_in: &UserSignedIn) -> Result<(), Trouble> {
        let detail_type = UserSignedIn::DETAIL_TYPE;
        self.put(SIGNUP_SOURCE, detail_type, sign_in.at, sign_in)
            .await
    }
}

//! `slack-ingress`: take what Slack posts, and put the messages in it on the bus.
//!
//! The order is the defence. What costs nothing comes first: where it was sent, and how large it is.
//! Then whether Slack signed it, lately. Only what Slack signed is parsed, and only what is a
//! message for the agent goes on. Slack is told that it arrived when the bus has it, never before;
//! told anything else, Slack sends it again.

use std::future::Future;

use carapace_control_plane::{bus::EventBus, named, secrets::Secret};
use carapace_core::{
    event::SlackMessageReceived,
    ports::{Clock, Trouble},
    slack::{
        signature::{self, SignatureRejected, SigningSecret},
        webhook::{self, Webhook, WebhookRejected},
    },
};
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};
use tracing::{Instrument, info_span};

use crate::wire::{BodyRejected, Request, Response};

/// Where Slack posts.
const PATH: &str = "/slack/events";

/// The largest body that is looked at. Slack's own are far smaller.
const BODY_BYTES: usize = 1024 * 1024;

/// What Slack signs its requests with.
pub trait SigningSecrets {
    /// The secret.
    fn read(&self) -> impl Future<Output = Result<SigningSecret, Trouble>>;

    /// The secret as it is now, because something was signed with another. `None` if it can't have
    /// changed since.
    fn read_again(&self) -> impl Future<Output = Result<Option<SigningSecret>, Trouble>>;
}

impl SigningSecrets for Secret<SigningSecret> {
    async fn read(&self) -> Result<SigningSecret, Trouble> {
        Secret::read(self).await
    }

    async fn read_again(&self) -> Result<Option<SigningSecret>, Trouble> {
        Secret::read_again(self).await
    }
}

/// Where messages go.
pub trait Messages {
    /// Hands one on; when this returns, it is durable.
    fn publish(&self, message: &SlackMessageReceived) -> impl Future<Output = Result<(), Trouble>>;
}

impl Messages for EventBus {
    async fn publish(&self, message: &SlackMessageReceived) -> Result<(), Trouble> {
        self.publish_slack(message).await
    }
}

/// The function.
pub struct ReceiveWebhook<S, M, K> {
    /// What Slack signs with.
    pub secrets: S,
    /// The bus.
    pub messages: M,
    /// The clock.
    pub clock: K,
}

/// Why a request is not taken. Whoever sent it reads the text, so it gives nothing away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngressError {
    /// It is not what API Gateway sends.
    #[error("the request cannot be read")]
    RequestRejected,
    /// Nothing is there.
    #[error("there is nothing here; Slack's events go to {PATH}")]
    NotFound,
    /// Slack only posts.
    #[error("only POST is answered here")]
    MethodNotAllowed,
    /// The body is larger than any of Slack's.
    #[error("the body has more than {BODY_BYTES} bytes")]
    BodyTooLarge,
    /// Slack did not sign it, or not now.
    #[error(transparent)]
    SignatureRejected(#[from] SignatureRejected),
    /// Slack signed it, and it is not what Slack documents.
    #[error(transparent)]
    WebhookRejected(#[from] WebhookRejected),
    /// The bus or the secret is not to be had.
    #[error("it could not be stored; send it again")]
    Unavailable,
}

named!(IngressError:
    RequestRejected, NotFound, MethodNotAllowed, BodyTooLarge, SignatureRejected, WebhookRejected,
    Unavailable,
);

impl IngressError {
    fn status(&self) -> u16 {
        match self {
            Self::RequestRejected | Self::WebhookRejected(_) => 400,
            Self::SignatureRejected(_) => 401,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTooLarge => 413,
            Self::Unavailable => 503,
        }
    }

    fn response(&self) -> Response {
        use carapace_control_plane::lambda::Named;

        let body = json!({ "error": self.name(), "message": self.to_string() });
        let response = Response::json(self.status(), &body);
        match self {
            Self::MethodNotAllowed => response.with("allow", "POST"),
            // The same bytes will not be taken the next time either.
            Self::BodyTooLarge | Self::WebhookRejected(_) => response.with("x-slack-no-retry", "1"),
            _ => response,
        }
    }
}

/// A failure of ours is logged here in full, and told as little about as possible.
impl From<Trouble> for IngressError {
    fn from(trouble: Trouble) -> Self {
        tracing::error!(message = %trouble, "the webhook can't be taken now");
        Self::Unavailable
    }
}

impl<S, M, K> ReceiveWebhook<S, M, K>
where
    S: SigningSecrets,
    M: Messages,
    K: Clock,
{
    /// Answers one invocation. Whatever was sent, it is answered: that the internet sends rubbish is
    /// no failure of the function.
    pub async fn handle(&self, payload: Value) -> Result<Value, Diagnostic> {
        use carapace_control_plane::lambda::{Named, write_answer};

        let step = async {
            let response = match self.receive(payload).await {
                Ok(response) => response,
                Err(error) => {
                    tracing::info!(
                        error = error.name(), message = %error, "the request is not taken"
                    );
                    error.response()
                }
            };
            write_answer(&response)
        };
        step.instrument(info_span!("step", step = "ingress")).await
    }

    async fn receive(&self, payload: Value) -> Result<Response, IngressError> {
        let request: Request =
            serde_json::from_value(payload).map_err(|_| IngressError::RequestRejected)?;
        if request.raw_path != PATH {
            return Err(IngressError::NotFound);
        }
        if request.request_context.http.method != "POST" {
            return Err(IngressError::MethodNotAllowed);
        }
        let header = |name| request.header(name).unwrap_or_default().to_owned();
        let timestamp = header("x-slack-request-timestamp");
        let signature = header("x-slack-signature");
        let body = request
            .body(BODY_BYTES)
            .map_err(|rejected| match rejected {
                BodyRejected::TooLarge => IngressError::BodyTooLarge,
                BodyRejected::NotBase64 => IngressError::RequestRejected,
            })?;
        self.verify(&timestamp, &signature, &body).await?;
        match webhook::read(&body, self.clock.now())? {
            Webhook::Challenge(challenge) => {
                tracing::info!("Slack makes sure of the URL");
                Ok(Response::json(200, &json!({ "challenge": challenge })))
            }
            Webhook::Ignored(why) => {
                tracing::debug!(why, "nothing for an agent");
                Ok(Response::json(200, &json!({ "ignored": why })))
            }
            Webhook::Message(message) => {
                self.messages.publish(&message).await?;
                tracing::info!(
                    event_id = %message.id, team_id = %message.team_id,
                    channel_id = %message.channel_id, "a message is on the bus"
                );
                Ok(Response::json(200, &json!({ "event_id": message.id })))
            }
        }
    }

    async fn verify(
        &self,
        timestamp: &str,
        signature: &str,
        body: &[u8],
    ) -> Result<(), IngressError> {
        let now = self.clock.now();
        let secret = self.secrets.read().await?;
        match signature::verify(&secret, timestamp, signature, body, now) {
            Err(SignatureRejected::Mismatch) => {}
            verdict => return Ok(verdict?),
        }
        // Slack may have been given a new secret since.
        match self.secrets.read_again().await? {
            Some(secret) => Ok(signature::verify(&secret, timestamp, signature, body, now)?),
            None => Err(SignatureRejected::Mismatch.into()),
        }
    }
}

#[cfg(test)]
mod tests;

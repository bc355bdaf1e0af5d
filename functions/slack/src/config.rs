//! The functions' configuration, and the functions made from it.

use std::{str::FromStr, sync::Arc};

use carapace_control_plane::{
    aws::Aws,
    bus::EventBus,
    config::{Misconfigured, from_process},
    secrets::Secret,
    slack::{SlackApi, SlackApiUrl},
    table::AgentTable,
    time::SystemClock,
};
use carapace_core::slack::signature::SigningSecret;

use crate::{ingress::ReceiveWebhook, reply::ReplyToUser};

/// `slack-ingress`, as it is deployed.
pub type SlackIngress = ReceiveWebhook<Secret<SigningSecret>, EventBus, SystemClock>;
/// `slack-reply`, as it is deployed.
pub type SlackReply = ReplyToUser<AgentTable, SlackApi>;

/// Where people sign up. It stands in a message, so it has to look like a link there and nowhere end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignUpUrl(String);

/// A text that is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a link that begins with https:// or http:// and has no blanks or brackets")]
pub struct NotALink;

impl SignUpUrl {
    /// The link as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SignUpUrl {
    type Err = NotALink;

    fn from_str(text: &str) -> Result<Self, NotALink> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"<>()[]|\"`".contains(&byte);
        match rest {
            Some(rest) if !rest.is_empty() && rest.bytes().all(plain) => Ok(Self(text.to_owned())),
            _ => Err(NotALink),
        }
    }
}

/// `slack-ingress` from `BUS_NAME` and `SLACK_SIGNING_SECRET_ARN`.
pub fn slack_ingress() -> Result<SlackIngress, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let bus = environment.required("BUS_NAME");
        let secret = environment.required("SLACK_SIGNING_SECRET_ARN");
        Some(ReceiveWebhook {
            secrets: Secret::new(Arc::clone(&aws), secret?),
            messages: EventBus::new(Arc::clone(&aws), bus?),
            clock: SystemClock,
        })
    })
}

/// `slack-reply` from `TABLE_NAME`, `SLACK_BOT_TOKEN_SECRET_ARN`, `SLACK_API_URL` and `SIGN_UP_URL`.
pub fn slack_reply() -> Result<SlackReply, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let secret = environment.required("SLACK_BOT_TOKEN_SECRET_ARN");
        let url = environment.required::<SlackApiUrl>("SLACK_API_URL");
        let sign_up_url = environment.required::<SignUpUrl>("SIGN_UP_URL");
        let secret = Secret::new(Arc::clone(&aws), secret?);
        Some(ReplyToUser {
            replies: AgentTable::new(Arc::clone(&aws), table?),
            slack: SlackApi::new(url?, secret),
            sign_up_url: sign_up_url?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_up_url_is_a_link_wherever_it_stands() {
        for text in [
            "https://sign-up.example.com/",
            "http://10.96.0.9/?x=1&y=%20#z",
        ] {
            assert_eq!(text.parse::<SignUpUrl>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "https://",
            "sign-up.example.com",
            "javascript:alert(1)",
            "https://example.com/ sign-up",
            "https://example.com/|<!channel>",
            "https://example.com)",
        ] {
            assert!(text.parse::<SignUpUrl>().is_err(), "{text}");
        }
    }
}

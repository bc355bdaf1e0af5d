//! The model gateway's key management: LiteLLM's `/key/generate` and `/key/info`.

use std::{str::FromStr, sync::OnceLock, time::Duration};

use carapace_core::{
    ClaimUid, UserKey,
    agentd::ModelKey,
    model_key::{self, MasterKey},
    ports::{ModelKeyTrouble, ModelKeys},
    quoted,
};
use http::{Method, Uri, uri::Scheme};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{Answer, JsonClient},
    secrets::MasterKeySecret,
};

/// How long a key lives at the gateway. A sandbox that lives longer needs it registered again.
const LIFETIME: &str = "24h";

/// Where the gateway answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl(String);

/// A text that is no base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be http:// or https://, a host and at most a port")]
pub struct NotABaseUrl;

impl FromStr for GatewayUrl {
    type Err = NotABaseUrl;

    fn from_str(text: &str) -> Result<Self, NotABaseUrl> {
        let uri: Uri = text.parse().map_err(|_| NotABaseUrl)?;
        let web = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme());
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let host = uri
            .authority()
            .is_some_and(|host| !host.as_str().contains('@'));
        if web && bare && host {
            Ok(Self(text.trim_end_matches('/').to_owned()))
        } else {
            Err(NotABaseUrl)
        }
    }
}

/// The gateway.
#[derive(Debug)]
pub struct ModelGateway {
    client: OnceLock<JsonClient>,
    url: GatewayUrl,
    secret: MasterKeySecret,
}

#[derive(Deserialize)]
struct KeyInfo {
    info: KeyFacts,
}

#[derive(Deserialize)]
struct KeyFacts {
    key_alias: Option<String>,
    user_id: Option<String>,
    blocked: Option<bool>,
}

impl ModelGateway {
    /// The gateway at this address; nothing is called yet.
    pub fn new(url: GatewayUrl, secret: MasterKeySecret) -> Self {
        Self {
            client: OnceLock::new(),
            url,
            secret,
        }
    }

    async fn register(
        &self,
        master: &MasterKey,
        key: &ModelKey,
        user: &UserKey,
        claim: &ClaimUid,
    ) -> Result<Registered, ModelKeyTrouble> {
        let alias = model_key::alias(user, claim);
        let body = registration(key, &alias, user);
        let answer = self
            .call(Method::POST, "/key/generate", master, Some(&body))
            .await?;
        match answer.status {
            200..=299 => return Ok(Registered::Yes),
            401 => return Ok(Registered::MasterKeyUnknown),
            _ => {}
        }
        // The key may be there already, which is no failure; the gateway's words for it differ from
        // version to version, so it is asked instead.
        let path = format!("/key/info?key={}", model_key::digest(key));
        let known = self.call(Method::GET, &path, master, None).await?;
        let info = if known.status == 200 {
            known.json::<KeyInfo>()
        } else {
            None
        };
        match info.map(|info| info.info) {
            Some(facts) if facts.is(&alias, user) => Ok(Registered::Yes),
            _ => Err(refusal(&answer)),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        master: &MasterKey,
        body: Option<&Value>,
    ) -> Result<Answer, ModelKeyTrouble> {
        let client = self
            .client
            .get_or_init(|| JsonClient::new(Duration::from_secs(5)));
        let url = format!("{}{path}", self.url.0);
        let answer = client.send(method, &url, master.expose(), body).await;
        let answer = answer.map_err(|error| ModelKeyTrouble::Unavailable(error.to_string()))?;
        match answer.status {
            429 | 500.. => Err(ModelKeyTrouble::Unavailable(format!(
                "HTTP {}",
                answer.status
            ))),
            _ => Ok(answer),
        }
    }
}

enum Registered {
    Yes,
    MasterKeyUnknown,
}

impl KeyFacts {
    fn is(&self, alias: &str, user: &UserKey) -> bool {
        self.key_alias.as_deref() == Some(alias)
            && self.user_id.as_deref() == Some(user.as_str())
            && self.blocked != Some(true)
    }
}

impl ModelKeys for ModelGateway {
    async fn issue(&self, user: &UserKey, claim: &ClaimUid) -> Result<ModelKey, ModelKeyTrouble> {
        // The second round is for a master key that was rotated since it was read.
        for _ in 0..2 {
            let master = self.secret.master_key().await?;
            let key = master
                .derive(user, claim)
                .map_err(|error| ModelKeyTrouble::Refused(error.to_string()))?;
            match self.register(&master, &key, user, claim).await? {
                Registered::Yes => return Ok(key),
                Registered::MasterKeyUnknown => self.secret.forget(),
            }
        }
        Err(ModelKeyTrouble::Refused(
            "it does not accept its own master key".to_owned(),
        ))
    }
}

fn registration(key: &ModelKey, alias: &str, user: &UserKey) -> Value {
    json!({
        "key": key,
        "key_alias": alias,
        "duration": LIFETIME,
        "user_id": user,
        "metadata": { "user_key": user },
    })
}

/// What the gateway said. Its text is not passed on as a whole: it may repeat what it was sent.
fn refusal(answer: &Answer) -> ModelKeyTrouble {
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        r#type: Option<String>,
    }
    let kind = answer.json::<Body>().and_then(|body| body.error.r#type);
    let kind = kind.map_or_else(|| "it gave no reason".to_owned(), |kind| quoted(&kind));
    ModelKeyTrouble::Refused(format!("HTTP {}, {kind}", answer.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserKey {
        UserKey::derive("pool", "sub")
    }

    #[test]
    fn a_registration_on_the_wire() {
        let key = ModelKey::parse("sk-the-key").unwrap();
        insta::assert_json_snapshot!(registration(&key, "agent-user-claim", &user()));
    }

    #[test]
    fn a_base_url_is_a_scheme_a_host_and_a_port() {
        let url: GatewayUrl = "http://10.96.0.40:4000/".parse().unwrap();
        assert_eq!(url.0, "http://10.96.0.40:4000");
        assert!("https://gateway.example.com".parse::<GatewayUrl>().is_ok());
        for text in [
            "",
            "gateway",
            "gateway:4000",
            "ftp://gateway",
            "http://gateway/v1",
            "http://u:p@gateway",
            "http://gateway/?a=1",
            "file:///etc/passwd",
        ] {
            assert!(text.parse::<GatewayUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_there_already_counts_only_if_it_is_the_very_one() {
        let facts = |alias: &str, user_id: &str, blocked| KeyFacts {
            key_alias: Some(alias.into()),
            user_id: Some(user_id.into()),
            blocked,
        };
        let me = user();
        assert!(facts("a", me.as_str(), None).is("a", &me));
        assert!(facts("a", me.as_str(), Some(false)).is("a", &me));
        assert!(!facts("a", me.as_str(), Some(true)).is("a", &me));
        assert!(!facts("b", me.as_str(), None).is("a", &me));
        assert!(!facts("a", "somebody else", None).is("a", &me));
    }
}

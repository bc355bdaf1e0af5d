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
use jiff::Timestamp;
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
    expires: Option<String>,
    deleted_at: Option<String>,
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
        let info = (known.status == 200)
            .then(|| known.json::<KeyInfo>())
            .flatten();
        let comparison = match info {
            Some(info) => info.info.compare(&alias, user, Timestamp::now()),
            None if known.status == 404 => Comparison::Absent,
            None => Comparison::Other,
        };
        match comparison {
            Comparison::Same => Ok(Registered::Yes),
            Comparison::Expired => Ok(Registered::Expired),
            // The gateway does not have the key and does not take it: its alias may be another's.
            Comparison::Absent if answer.status == 400 => {
                Ok(Registered::AliasTaken(refusal(&answer)))
            }
            Comparison::Absent | Comparison::Other => Err(refusal(&answer)),
        }
    }

    /// Removes whatever key has the alias. It is the one that the same claim had under an earlier
    /// master key, or somebody else's who had the master key to make it: worthless or dangerous.
    /// Returns whether there was any.
    async fn free(&self, master: &MasterKey, alias: &str) -> Result<bool, ModelKeyTrouble> {
        let body = json!({ "key_aliases": [alias] });
        let answer = self
            .call(Method::POST, "/key/delete", master, Some(&body))
            .await?;
        match answer.status {
            200..=299 => Ok(true),
            404 => Ok(false),
            _ => Err(refusal(&answer)),
        }
    }

    /// Makes room for a key that was registered so long ago that it has expired: the gateway keeps
    /// it, and its alias, but accepts it no more.
    async fn remove(&self, master: &MasterKey, key: &ModelKey) -> Result<(), ModelKeyTrouble> {
        let body = json!({ "keys": [model_key::digest(key)] });
        let answer = self
            .call(Method::POST, "/key/delete", master, Some(&body))
            .await?;
        match answer.status {
            // 404: somebody else has removed it.
            200..=299 | 404 => Ok(()),
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
    Expired,
    AliasTaken(ModelKeyTrouble),
}

enum Comparison {
    Same,
    Expired,
    /// Never registered, or deleted, which the gateway remembers.
    Absent,
    Other,
}

impl KeyFacts {
    fn compare(&self, alias: &str, user: &UserKey, now: Timestamp) -> Comparison {
        if self.deleted_at.is_some() {
            return Comparison::Absent;
        }
        let same = self.key_alias.as_deref() == Some(alias)
            && self.user_id.as_deref() == Some(user.as_str())
            && self.blocked != Some(true);
        if !same {
            return Comparison::Other;
        }
        let expires = self.expires.as_deref().map(str::parse::<Timestamp>);
        match expires {
            Some(Ok(expires)) if expires <= now => Comparison::Expired,
            _ => Comparison::Same,
        }
    }
}

impl ModelKeys for ModelGateway {
    async fn issue(&self, user: &UserKey, claim: &ClaimUid) -> Result<ModelKey, ModelKeyTrouble> {
        // More than one round only if the master key was rotated, since it was read or since the
        // claim's last key was registered, or if the key has expired since.
        for _ in 0..4 {
            let master = self.secret.read().await?;
            let key = master
                .derive(user, claim)
                .map_err(|error| ModelKeyTrouble::Refused(error.to_string()))?;
            match self.register(&master, &key, user, claim).await? {
                Registered::Yes => return Ok(key),
                Registered::MasterKeyUnknown => self.secret.forget(),
                Registered::Expired => self.remove(&master, &key).await?,
                Registered::AliasTaken(refused) => {
                    if !self.free(&master, &model_key::alias(user, claim)).await? {
                        return Err(refused);
                    }
                    tracing::info!(user_key = %user, claim_uid = %claim, "the claim gets a new key");
                }
            }
        }
        Err(ModelKeyTrouble::Refused(
            "it accepts neither its master key nor the renewal of an expired key".to_owned(),
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
    use std::net::Ipv4Addr;

    use carapace_stand_ins::model_gateway::{ModelGateway as StandIn, Settings};
    use tokio::net::TcpListener;

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
        let me = user();
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let compare = |facts: Value| {
            serde_json::from_value::<KeyFacts>(facts)
                .unwrap()
                .compare("alias", &me, now)
        };
        let same = json!({"key_alias": "alias", "user_id": me});
        let with = |field: &str, value: Value| {
            let mut facts = same.clone();
            facts[field] = value;
            compare(facts)
        };
        assert!(matches!(compare(same.clone()), Comparison::Same));
        assert!(matches!(with("blocked", json!(false)), Comparison::Same));
        assert!(matches!(
            with("expires", json!("2026-11-25T09:00:00Z")),
            Comparison::Same
        ));
        assert!(matches!(
            with("expires", json!("2026-11-24T10:00:00Z")),
            Comparison::Expired
        ));
        assert!(matches!(
            with("deleted_at", json!("2026-11-24T09:00:00Z")),
            Comparison::Absent
        ));
        for (field, value) in [
            ("blocked", json!(true)),
            ("key_alias", json!("another")),
            ("user_id", json!("somebody else")),
            ("user_id", json!(null)),
        ] {
            assert!(
                matches!(with(field, value.clone()), Comparison::Other),
                "{field} {value}"
            );
        }
    }

    /// A gateway that behaves like LiteLLM, and our adapter to it.
    async fn gateway(master_key: &str) -> ModelGateway {
        let settings = Settings {
            master_key: "sk-master-key".into(),
            model: "agent".into(),
        };
        let router = StandIn::new(settings).unwrap().router();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let secret = MasterKeySecret::known(MasterKey::parse(master_key).unwrap());
        ModelGateway::new(url.parse().unwrap(), secret)
    }

    fn claim(last: char) -> ClaimUid {
        ClaimUid::parse(format!("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6{last}")).unwrap()
    }

    #[tokio::test]
    async fn a_key_that_is_issued_twice_is_the_same_and_no_failure() {
        let gateway = gateway("sk-master-key").await;
        let first = gateway.issue(&user(), &claim('0')).await.unwrap();
        assert_eq!(gateway.issue(&user(), &claim('0')).await.unwrap(), first);
        assert_ne!(gateway.issue(&user(), &claim('1')).await.unwrap(), first);
    }

    /// After a rotation the gateway still has the claim's earlier key, under the claim's alias.
    #[tokio::test]
    async fn a_key_of_another_master_key_makes_room_for_the_present_one() {
        let gateway = gateway("sk-master-key").await;
        let master = gateway.secret.read().await.unwrap();
        let alias = model_key::alias(&user(), &claim('0'));
        let earlier = MasterKey::parse("sk-earlier-master-key").unwrap();
        let old = earlier.derive(&user(), &claim('0')).unwrap();
        let path = format!("/key/info?key={}", model_key::digest(&old));
        let old_key = async || {
            let answer = gateway.call(Method::GET, &path, &master, None).await;
            answer.unwrap().json::<KeyInfo>().unwrap().info
        };
        // The second time as if it had been rotated back and forth in between.
        for _ in 0..2 {
            let body = registration(&old, &alias, &user());
            let registered = gateway.call(Method::POST, "/key/generate", &master, Some(&body));
            assert_eq!(registered.await.unwrap().status, 200);
            assert!(old_key().await.deleted_at.is_none());
            let new = gateway.issue(&user(), &claim('0')).await.unwrap();
            assert_ne!(new, old);
            assert_eq!(gateway.issue(&user(), &claim('0')).await.unwrap(), new);
            assert!(old_key().await.deleted_at.is_some(), "it opens nothing now");
            assert!(gateway.free(&master, &alias).await.unwrap());
        }
    }

    #[tokio::test]
    async fn an_alias_that_nobody_has_is_not_in_the_way() {
        let gateway = gateway("sk-master-key").await;
        let master = gateway.secret.read().await.unwrap();
        assert!(!gateway.free(&master, "nobodys-alias").await.unwrap());
    }

    #[tokio::test]
    async fn a_key_that_was_removed_is_registered_again() {
        let gateway = gateway("sk-master-key").await;
        let key = gateway.issue(&user(), &claim('0')).await.unwrap();
        let master = gateway.secret.read().await.unwrap();
        gateway.remove(&master, &key).await.unwrap();
        assert_eq!(gateway.issue(&user(), &claim('0')).await.unwrap(), key);
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_unavailable() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let secret = MasterKeySecret::known(MasterKey::parse("sk-master-key").unwrap());
        let gateway = ModelGateway::new(url.parse().unwrap(), secret);
        let trouble = gateway.issue(&user(), &claim('0')).await.unwrap_err();
        assert!(
            matches!(trouble, ModelKeyTrouble::Unavailable(_)),
            "{trouble}"
        );
    }
}

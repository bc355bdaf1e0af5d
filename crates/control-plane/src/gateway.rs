//! The model gateway's keys and users: LiteLLM's `/key/…` and `/user/…`.
//!
//! A user there is a row with a budget that all keys of that user draw on; LiteLLM makes none by
//! itself when it makes a key. With the row the keys also get the rights of its role, and without a
//! role those of an internal user, who may make keys. So the row is made with the least role, and
//! each key is for calling models only.

use std::{str::FromStr, sync::OnceLock, time::Duration};

use carapace_core::{
    ClaimUid, UserKey,
    agentd::ModelKey,
    allowance::Allowance,
    model_key::{self, MasterKey},
    ports::{ModelKeyTrouble, ModelKeys, ModelUsers},
    quoted,
};
use http::{Method, Uri, uri::Scheme};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    http::{Answer, JsonClient},
    secrets::MasterKeySecret,
};

/// How long a key lives at the gateway. A sandbox that lives longer needs it registered again.
const LIFETIME: &str = "24h";

/// What a key may call: models, and the gateway about itself.
const ALLOWED_ROUTES: [&str; 2] = ["llm_api_routes", "/key/info"];

/// The least that LiteLLM has for somebody who may use keys.
const ROLE: &str = "internal_user_viewer";

/// How often a call is made again because the master key was rotated, or somebody else was faster.
const ROUNDS: usize = 4;

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

/// The part of a user's row that is ours to say. A field that isn't sent stays as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_role: Option<String>,
    /// In US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_budget: Option<f64>,
    /// `30d`, which LiteLLM takes for a calendar month; any other number of days counts from the day
    /// on which it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tpm_limit: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpm_limit: Option<i64>,
}

impl Limits {
    fn of(allowance: &Allowance) -> Self {
        Self {
            user_role: Some(ROLE.to_owned()),
            max_budget: Some(allowance.budget_usd.into()),
            budget_duration: Some(format!("{}d", allowance.budget_days)),
            tpm_limit: Some(allowance.tokens_per_minute.into()),
            rpm_limit: Some(allowance.requests_per_minute.into()),
        }
    }

    /// What of these limits is otherwise in `there`. A budget's duration that is sent again would begin
    /// again, too.
    fn beyond(self, there: &Self) -> Self {
        fn other<T: PartialEq>(wanted: Option<T>, there: Option<&T>) -> Option<T> {
            wanted.filter(|wanted| Some(wanted) != there)
        }
        Self {
            user_role: other(self.user_role, there.user_role.as_ref()),
            max_budget: other(self.max_budget, there.max_budget.as_ref()),
            budget_duration: other(self.budget_duration, there.budget_duration.as_ref()),
            tpm_limit: other(self.tpm_limit, there.tpm_limit.as_ref()),
            rpm_limit: other(self.rpm_limit, there.rpm_limit.as_ref()),
        }
    }
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

    /// Makes sure that the user may spend so much, and no more.
    async fn settle(
        &self,
        master: &MasterKey,
        user: &UserKey,
        allowance: &Allowance,
    ) -> Result<Settled, ModelKeyTrouble> {
        // The first version's answer has all keys that the user ever had.
        let path = format!("/v2/user/info?user_id={user}");
        let known = self.call(Method::GET, &path, master, None).await?;
        let (path, body) = match known.status {
            200 => {
                let there: Limits = known.json().ok_or_else(|| refusal(&known))?;
                let missing = Limits::of(allowance).beyond(&there);
                if missing == Limits::default() {
                    return Ok(Settled::Yes);
                }
                ("/user/update", change(user, &missing))
            }
            401 => return Ok(Settled::MasterKeyUnknown),
            404 => ("/user/new", newcomer(user, allowance)),
            _ => return Err(refusal(&known)),
        };
        let answer = self.call(Method::POST, path, master, Some(&body)).await?;
        match answer.status {
            200..=299 => Ok(Settled::Yes),
            401 => Ok(Settled::MasterKeyUnknown),
            // Somebody else has just made it.
            409 => Ok(Settled::Overtaken),
            _ => Err(refusal(&answer)),
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
    async fn remove_key(&self, master: &MasterKey, key: &ModelKey) -> Result<(), ModelKeyTrouble> {
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

enum Settled {
    Yes,
    MasterKeyUnknown,
    Overtaken,
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
    /// The user first: a key without one would have no budget.
    async fn issue(
        &self,
        user: &UserKey,
        claim: &ClaimUid,
        allowance: &Allowance,
    ) -> Result<ModelKey, ModelKeyTrouble> {
        // More than one round only if the master key was rotated, since it was read or since the
        // claim's last key was registered, if the key has expired since, or if somebody else does the
        // same at the same time.
        for _ in 0..ROUNDS {
            let master = self.secret.read().await?;
            let key = master
                .derive(user, claim)
                .map_err(|error| ModelKeyTrouble::Refused(error.to_string()))?;
            match self.settle(&master, user, allowance).await? {
                Settled::Yes => {}
                Settled::MasterKeyUnknown => {
                    self.secret.forget();
                    continue;
                }
                Settled::Overtaken => continue,
            }
            match self.register(&master, &key, user, claim).await? {
                Registered::Yes => return Ok(key),
                Registered::MasterKeyUnknown => self.secret.forget(),
                Registered::Expired => self.remove_key(&master, &key).await?,
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

impl ModelUsers for ModelGateway {
    /// LiteLLM deletes the keys first and the user last, so that a call that dies is repeated. Other
    /// instances of it than the one that is asked may know a key for another minute.
    async fn remove(&self, user: &UserKey) -> Result<(), ModelKeyTrouble> {
        let body = json!({ "user_ids": [user] });
        for _ in 0..ROUNDS {
            let master = self.secret.read().await?;
            let answer = self
                .call(Method::POST, "/user/delete", &master, Some(&body))
                .await?;
            match answer.status {
                200..=299 => return Ok(()),
                401 => self.secret.forget(),
                404 if answer.json::<NoSuchUser>().is_some() => return Ok(()),
                _ => return Err(refusal(&answer)),
            }
        }
        Err(ModelKeyTrouble::Refused(
            "it does not accept its master key".to_owned(),
        ))
    }
}

/// What `/user/delete` says of a user that it doesn't know. A server that doesn't know the route says
/// 404 in another form, and has removed nobody.
#[derive(Deserialize)]
struct NoSuchUser {
    #[expect(dead_code, reason = "its form is all that counts")]
    detail: NoSuchUserDetail,
}

#[derive(Deserialize)]
struct NoSuchUserDetail {
    #[expect(dead_code, reason = "its form is all that counts")]
    error: String,
}

fn newcomer(user: &UserKey, allowance: &Allowance) -> Value {
    let mut body = json!({
        "user_id": user,
        // Or it would make one that nobody asked for, and that never ends.
        "auto_create_key": false,
        "metadata": { "user_key": user },
    });
    merge(&mut body, &Limits::of(allowance));
    body
}

fn change(user: &UserKey, limits: &Limits) -> Value {
    let mut body = json!({ "user_id": user });
    merge(&mut body, limits);
    body
}

fn merge(body: &mut Value, limits: &Limits) {
    if let (Some(body), Value::Object(limits)) = (body.as_object_mut(), json!(limits)) {
        body.extend(limits);
    }
}

fn registration(key: &ModelKey, alias: &str, user: &UserKey) -> Value {
    json!({
        "key": key,
        "key_alias": alias,
        "duration": LIFETIME,
        "user_id": user,
        "allowed_routes": ALLOWED_ROUTES,
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
        served(StandIn::new(settings).unwrap().router(), master_key).await
    }

    async fn served(router: axum::Router, master_key: &str) -> ModelGateway {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let secret = MasterKeySecret::known(MasterKey::parse(master_key).unwrap());
        ModelGateway::new(url.parse().unwrap(), secret)
    }

    fn claim(last: char) -> ClaimUid {
        ClaimUid::parse(format!("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6{last}")).unwrap()
    }

    const ALLOWANCE: Allowance = Allowance {
        budget_usd: 20,
        budget_days: 30,
        requests_per_minute: 60,
        tokens_per_minute: 200_000,
    };

    async fn issue(gateway: &ModelGateway, claim: char) -> Result<ModelKey, ModelKeyTrouble> {
        gateway
            .issue(&user(), &self::claim(claim), &ALLOWANCE)
            .await
    }

    /// What the gateway says of the user, with the first version's route, which names the keys.
    async fn known(gateway: &ModelGateway, user: &UserKey) -> Option<Value> {
        let master = gateway.secret.read().await.unwrap();
        let path = format!("/user/info?user_id={user}");
        let answer = gateway.call(Method::GET, &path, &master, None).await;
        let answer = answer.unwrap();
        match answer.status {
            200 => answer.json(),
            404 => None,
            status => panic!("{status}"),
        }
    }

    async fn opens(gateway: &ModelGateway, key: &ModelKey) -> bool {
        let as_master = MasterKey::parse(key.expose()).unwrap();
        let answer = gateway.call(Method::GET, "/v1/models", &as_master, None);
        match answer.await.unwrap().status {
            200 => true,
            401 => false,
            status => panic!("{status}"),
        }
    }

    #[test]
    fn users_on_the_wire() {
        let there = Limits {
            max_budget: Some(10.0),
            tpm_limit: None,
            ..Limits::of(&ALLOWANCE)
        };
        let missing = Limits::of(&ALLOWANCE).beyond(&there);
        insta::assert_json_snapshot!([newcomer(&user(), &ALLOWANCE), change(&user(), &missing)]);
    }

    #[test]
    fn only_what_differs_is_sent_again() {
        let wanted = || Limits::of(&ALLOWANCE);
        assert_eq!(wanted().beyond(&wanted()), Limits::default());
        assert_eq!(wanted().beyond(&Limits::default()), wanted());
        // As LiteLLM says it, among much else.
        let answer = json!({
            "user_id": "a", "user_role": "internal_user_viewer", "spend": 1.5, "max_budget": 20.0,
            "budget_duration": "30d", "tpm_limit": 200_000, "rpm_limit": 60, "models": []
        });
        let there: Limits = serde_json::from_value(answer).unwrap();
        assert_eq!(wanted().beyond(&there), Limits::default());
    }

    #[tokio::test]
    async fn who_gets_a_key_has_a_budget_first_and_another_allowance_takes_its_place() {
        let gateway = gateway("sk-master-key").await;
        let me = user();
        assert_eq!(known(&gateway, &me).await, None);
        let key = issue(&gateway, '0').await.unwrap();
        let info = known(&gateway, &me).await.unwrap()["user_info"].take();
        let limits: Limits = serde_json::from_value(info.clone()).unwrap();
        assert_eq!(limits, Limits::of(&ALLOWANCE));
        assert_eq!(info["metadata"], json!({ "user_key": me }));
        let more = Allowance {
            budget_usd: 40,
            tokens_per_minute: 100_000,
            ..ALLOWANCE
        };
        for _ in 0..2 {
            let again = gateway.issue(&me, &claim('0'), &more).await.unwrap();
            assert_eq!(again, key);
            let info = known(&gateway, &me).await.unwrap()["user_info"].take();
            let limits: Limits = serde_json::from_value(info).unwrap();
            assert_eq!(limits, Limits::of(&more));
        }
        assert!(opens(&gateway, &key).await);
    }

    /// Somebody made it by hand, with a role that may make keys and without limits.
    #[tokio::test]
    async fn a_user_with_too_many_rights_is_cut_down_to_the_allowance() {
        let gateway = gateway("sk-master-key").await;
        let master = gateway.secret.read().await.unwrap();
        let body = json!({
            "user_id": user(), "user_role": "internal_user", "auto_create_key": false
        });
        let made = gateway.call(Method::POST, "/user/new", &master, Some(&body));
        assert_eq!(made.await.unwrap().status, 200);
        issue(&gateway, '0').await.unwrap();
        let info = known(&gateway, &user()).await.unwrap()["user_info"].take();
        let limits: Limits = serde_json::from_value(info).unwrap();
        assert_eq!(limits, Limits::of(&ALLOWANCE));
    }

    #[tokio::test]
    async fn a_user_that_two_make_at_once_is_made_once() {
        let gateway = gateway("sk-master-key").await;
        let (one, other) = tokio::join!(issue(&gateway, '0'), issue(&gateway, '1'));
        assert_ne!(one.unwrap(), other.unwrap());
        let keys = known(&gateway, &user()).await.unwrap()["keys"].take();
        assert_eq!(keys.as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn who_is_removed_has_no_key_any_more_and_nobody_else_loses_theirs() {
        let gateway = gateway("sk-master-key").await;
        let other = UserKey::derive("pool", "another");
        let theirs = gateway
            .issue(&other, &claim('2'), &ALLOWANCE)
            .await
            .unwrap();
        let mine = [
            issue(&gateway, '0').await.unwrap(),
            issue(&gateway, '1').await.unwrap(),
        ];
        for _ in 0..2 {
            gateway.remove(&user()).await.unwrap();
            for key in &mine {
                assert!(!opens(&gateway, key).await);
            }
            assert_eq!(known(&gateway, &user()).await, None);
        }
        assert!(opens(&gateway, &theirs).await);
        // Should they come back.
        let again = issue(&gateway, '0').await.unwrap();
        assert_eq!(again, mine[0]);
        assert!(opens(&gateway, &again).await);
    }

    /// I6: a 404 that isn't LiteLLM's word for a user that it doesn't know.
    #[tokio::test]
    async fn a_server_that_does_not_know_the_route_has_removed_nobody() {
        let nothing = axum::Router::new().fallback(async || {
            let body = axum::Json(json!({ "detail": "Not Found" }));
            (axum::http::StatusCode::NOT_FOUND, body)
        });
        let gateway = served(nothing, "sk-master-key").await;
        let trouble = gateway.remove(&user()).await.unwrap_err();
        assert!(matches!(trouble, ModelKeyTrouble::Refused(_)), "{trouble}");
        let trouble = issue(&gateway, '0').await.unwrap_err();
        assert!(matches!(trouble, ModelKeyTrouble::Refused(_)), "{trouble}");
    }

    #[tokio::test]
    async fn a_key_that_is_issued_twice_is_the_same_and_no_failure() {
        let gateway = gateway("sk-master-key").await;
        let first = issue(&gateway, '0').await.unwrap();
        assert_eq!(issue(&gateway, '0').await.unwrap(), first);
        assert_ne!(issue(&gateway, '1').await.unwrap(), first);
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
            let new = issue(&gateway, '0').await.unwrap();
            assert_ne!(new, old);
            assert_eq!(issue(&gateway, '0').await.unwrap(), new);
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
        let key = issue(&gateway, '0').await.unwrap();
        let master = gateway.secret.read().await.unwrap();
        gateway.remove_key(&master, &key).await.unwrap();
        assert_eq!(issue(&gateway, '0').await.unwrap(), key);
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_unavailable() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let secret = MasterKeySecret::known(MasterKey::parse("sk-master-key").unwrap());
        let gateway = ModelGateway::new(url.parse().unwrap(), secret);
        let trouble = issue(&gateway, '0').await.unwrap_err();
        assert!(
            matches!(trouble, ModelKeyTrouble::Unavailable(_)),
            "{trouble}"
        );
    }
}

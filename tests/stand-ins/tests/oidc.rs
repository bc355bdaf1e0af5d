//! The stand-in for an identity provider: what it says, and to whom.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use carapace_stand_ins::oidc::{COOKIE, Provider, Settings};
use data_encoding::BASE64URL_NOPAD;
use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode, Url, redirect};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const BACK: &str = "http://localhost:4566/oauth2/idpresponse";

struct Standing {
    issuer: String,
    provider: Provider,
    client: reqwest::Client,
}

impl Standing {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let provider = Provider::new(Settings {
            issuer: issuer.clone(),
            client_id: "carapace".to_owned(),
            client_secret: "s3cret".to_owned(),
            redirect_uri: BACK.to_owned(),
        })
        .unwrap();
        provider.introduce("00u1", serde_json::from_value(ada()).unwrap());
        let router = provider.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none());
        Self {
            issuer,
            provider,
            client: client.build().unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.issuer));
        answer.send().await.unwrap().json().await.unwrap()
    }

    /// Sends a browser, in which this person has signed in, with these parameters.
    async fn authorize(&self, person: Option<&str>, parameters: &[(&str, &str)]) -> Response {
        let url = Url::parse_with_params(&format!("{}/authorize", self.issuer), parameters);
        let mut request = self.client.get(url.unwrap());
        if let Some(person) = person {
            request = request.header("cookie", format!("theme=dark; {COOKIE}={person}"));
        }
        request.send().await.unwrap()
    }

    async fn token(&self, parameters: &[(&str, &str)]) -> (StatusCode, Value) {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let request = self.client.post(format!("{}/token", self.issuer));
        let answer = request.body(body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn code(&self) -> String {
        back(&self.authorize(Some("00u1"), &asked()).await, "code")
    }
}

fn ada() -> Value {
    json!({ "email": "ada@partner.example", "email_verified": true })
}

fn asked() -> Vec<(&'static str, &'static str)> {
    vec![
        ("response_type", "code"),
        ("client_id", "carapace"),
        ("redirect_uri", BACK),
        ("scope", "openid email"),
        ("state", "a b"),
        ("nonce", "n-1"),
    ]
}

/// A parameter of the URL that somebody is sent back to.
fn back(answer: &Response, name: &str) -> String {
    assert_eq!(answer.status(), StatusCode::FOUND);
    let location = answer.headers()[LOCATION].to_str().unwrap();
    assert!(location.starts_with(BACK), "{location}");
    let url = Url::parse(location).unwrap();
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.map(|(_, value)| value.into_owned()).unwrap()
}

fn exchange(code: &str) -> Vec<(&str, &str)> {
    vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", BACK),
        ("client_id", "carapace"),
        ("client_secret", "s3cret"),
    ]
}

#[tokio::test]
async fn who_has_signed_in_there_is_what_its_signed_token_says() {
    let standing = Standing::start().await;
    let about = standing.get("/.well-known/openid-configuration").await;
    assert_eq!(about["issuer"], standing.issuer);
    let answer = standing.authorize(Some("00u1"), &asked()).await;
    assert_eq!(back(&answer, "state"), "a b");
    let (status, tokens) = standing.token(&exchange(&back(&answer, "code"))).await;
    assert_eq!(status, StatusCode::OK);

    let token = tokens["id_token"].as_str().unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let jwk = standing.get("/jwks").await["keys"][0].clone();
    let decoded = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
    let mut point = vec![4];
    point.extend(decoded(jwk["x"].as_str().unwrap()));
    point.extend(decoded(jwk["y"].as_str().unwrap()));
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &decoded(signature))
        .unwrap();
    let claims = decoded(signed.split_once('.').unwrap().1);
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&json!(standing.issuer), &json!("00u1"), &json!("carapace"))
    );
    assert_eq!(claims["nonce"], "n-1");
    assert_eq!(claims["email"], "ada@partner.example");

    let info = standing.client.get(format!("{}/userinfo", standing.issuer));
    let info = info.bearer_auth(tokens["access_token"].as_str().unwrap());
    let info: Value = info.send().await.unwrap().json().await.unwrap();
    assert_eq!(info["sub"], "00u1");
    assert_eq!(info["email_verified"], true);
}

#[tokio::test]
async fn a_claim_can_be_a_lie() {
    let standing = Standing::start().await;
    let mut said = serde_json::Map::new();
    said.insert("iss".to_owned(), json!("https://elsewhere.example"));
    standing.provider.introduce("00u1", said);
    let code = standing.code().await;
    let (_, tokens) = standing.token(&exchange(&code)).await;
    let payload = tokens["id_token"].as_str().unwrap().split('.').nth(1);
    let claims = BASE64URL_NOPAD.decode(payload.unwrap().as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], "https://elsewhere.example");
    assert_eq!(claims["email"], Value::Null);
}

#[tokio::test]
async fn a_code_is_good_once_and_for_its_client_alone() {
    let standing = Standing::start().await;
    let code = standing.code().await;
    for (name, value, error) in [
        ("client_secret", "guessed", "invalid_client"),
        ("client_id", "other", "invalid_client"),
        ("grant_type", "password", "unsupported_grant_type"),
    ] {
        let mut wrong = exchange(&code);
        wrong.retain(|(key, _)| *key != name);
        wrong.push((name, value));
        assert_eq!(standing.token(&wrong).await.1["error"], error, "{name}");
    }
    assert_eq!(standing.token(&exchange(&code)).await.0, StatusCode::OK);
    let (_, again) = standing.token(&exchange(&code)).await;
    assert_eq!(again["error"], "invalid_grant");

    let code = standing.code().await;
    let mut elsewhere = exchange(&code);
    elsewhere[2].1 = "http://localhost:4566/elsewhere";
    assert_eq!(standing.token(&elsewhere).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn who_is_not_known_or_asks_for_something_else_is_sent_back_with_an_error() {
    let standing = Standing::start().await;
    for person in [None, Some("00u2")] {
        let answer = standing.authorize(person, &asked()).await;
        assert_eq!(back(&answer, "error"), "login_required");
    }
    for (name, value, error) in [
        ("response_type", "token", "unsupported_response_type"),
        ("scope", "email", "invalid_scope"),
    ] {
        let mut other = asked();
        other.retain(|(key, _)| *key != name);
        other.push((name, value));
        let answer = standing.authorize(Some("00u1"), &other).await;
        assert_eq!(back(&answer, "error"), error);
    }
}

#[tokio::test]
async fn nobody_is_sent_to_a_url_that_is_not_registered() {
    let standing = Standing::start().await;
    let mut twice = asked();
    twice.push(("redirect_uri", BACK));
    let mut elsewhere = asked();
    elsewhere[2].1 = "http://evil.example/";
    let mut stranger = asked();
    stranger[1].1 = "stranger";
    for wrong in [twice, elsewhere, stranger] {
        let answer = standing.authorize(Some("00u1"), &wrong).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }
}

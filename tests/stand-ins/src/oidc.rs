//! Stand-in for another organisation's identity provider: OpenID Connect's authorization code flow, as
//! a relying party such as Cognito goes through it. What the specifications let a provider refuse, it
//! refuses: <https://openid.net/specs/openid-connect-core-1_0.html>, section 3.1, on top of
//! <https://www.rfc-editor.org/rfc/rfc6749>, section 4.1.
//!
//! It has no page on which anybody signs in. Who has signed in here stands in the browser's cookie
//! [`COOKIE`], and what the provider knows of them is told to it beforehand: [`Provider::introduce`].
//! That may be a lie, which is what it is for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE as COOKIES, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Map, Value, json};

/// The cookie that says who has signed in at this provider: their `sub`.
pub const COOKIE: &str = "person";

/// How long an ID token is good, in seconds.
const LIFE: u64 = 300;

/// The one signing key's name.
const KEY_ID: &str = "stand-in";

/// What a provider is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own URL, without a slash at the end.
    pub issuer: String,
    /// As what it knows the one relying party.
    pub client_id: String,
    /// What the relying party proves itself with.
    pub client_secret: String,
    /// The one URL to which it sends people back.
    pub redirect_uri: String,
}

/// A provider, and the people that it knows.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    settings: Settings,
    key: EcdsaKeyPair,
    random: SystemRandom,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By `sub`: what is said of them in an ID token, and in the user info.
    people: HashMap<String, Map<String, Value>>,
    /// Whose code it is, and which nonce their ID token is to repeat.
    codes: HashMap<String, (String, Option<String>)>,
    /// Whose access token it is.
    tokens: HashMap<String, String>,
}

/// The operating system gives no randomness, or it makes no key.
#[derive(Debug)]
pub struct NoKey;

impl std::fmt::Display for NoKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no signing key can be made")
    }
}

impl std::error::Error for NoKey {}

impl Provider {
    /// A provider that knows nobody, with a signing key of its own.
    pub fn new(settings: Settings) -> Result<Self, NoKey> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| NoKey)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).map_err(|_| NoKey)?;
        Ok(Self(Arc::new(Inner {
            settings,
            key,
            random,
            state: Mutex::default(),
        })))
    }

    /// Makes somebody known. The claims are what the provider says of them; one that it says of every
    /// token, `iss` for instance, is replaced.
    pub fn introduce(&self, sub: &str, claims: Map<String, Value>) {
        self.state().people.insert(sub.to_owned(), claims);
    }

    /// Its routes. <https://openid.net/specs/openid-connect-discovery-1_0.html> names the first; the
    /// others stand in what it answers.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/.well-known/openid-configuration", get(configuration))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/userinfo", get(user_info))
            .route("/jwks", get(jwks))
            .with_state(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, Known> {
        let state = &self.0.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// 128 bits that nobody can guess.
    fn secret(&self) -> Result<String, NoKey> {
        let mut bytes = [0; 16];
        self.0.random.fill(&mut bytes).map_err(|_| NoKey)?;
        Ok(HEXLOWER.encode(&bytes))
    }

    /// A JSON Web Signature in its compact form: <https://www.rfc-editor.org/rfc/rfc7515>.
    fn signed(&self, claims: &Value) -> Result<String, NoKey> {
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": KEY_ID });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.0.key.sign(&self.0.random, signed.as_bytes());
        let signature = BASE64URL_NOPAD.encode(signature.map_err(|_| NoKey)?.as_ref());
        Ok(format!("{signed}.{signature}"))
    }

    /// Whether this is the relying party: by HTTP Basic or in the form, as RFC 6749 has it in 2.3.1.
    fn is_client(&self, headers: &HeaderMap, form: &HashMap<String, String>) -> bool {
        let Settings {
            client_id,
            client_secret,
            ..
        } = self.settings();
        let basic = headers.get(AUTHORIZATION).and_then(|value| {
            let value = value.to_str().ok()?.strip_prefix("Basic ")?;
            String::from_utf8(BASE64.decode(value.as_bytes()).ok()?).ok()
        });
        match basic {
            Some(basic) => basic == format!("{client_id}:{client_secret}"),
            None => {
                form.get("client_id") == Some(client_id)
                    && form.get("client_secret") == Some(client_secret)
            }
        }
    }
}

async fn configuration(State(provider): State<Provider>) -> Json<Value> {
    let issuer = &provider.settings().issuer;
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "scopes_supported": ["openid", "email"],
    }))
}

async fn jwks(State(provider): State<Provider>) -> Json<Value> {
    // The point's one form here: a byte that says that it is not compressed, then x and y.
    let point = provider.0.key.public_key().as_ref();
    let coordinate = |range| BASE64URL_NOPAD.encode(point.get(range).unwrap_or_default());
    Json(json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID,
        "x": coordinate(1..33), "y": coordinate(33..65),
    }] }))
}

async fn authorize(
    State(provider): State<Provider>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Settings {
        client_id,
        redirect_uri,
        ..
    } = provider.settings();
    let Some(asked) = parameters(query.unwrap_or_default().as_bytes()) else {
        return refusal(StatusCode::BAD_REQUEST, "invalid_request");
    };
    // Nobody is sent to a URL that the relying party did not register, not even with an error.
    if asked.get("client_id") != Some(client_id) || asked.get("redirect_uri") != Some(redirect_uri)
    {
        return refusal(StatusCode::BAD_REQUEST, "invalid_request");
    }
    let scopes = asked.get("scope").map_or("", String::as_str);
    let person = person(&headers).filter(|sub| provider.state().people.contains_key(sub));
    let answer = if asked.get("response_type").map(String::as_str) != Some("code") {
        Err("unsupported_response_type")
    } else if !scopes.split(' ').any(|scope| scope == "openid") {
        Err("invalid_scope")
    } else {
        person.ok_or("login_required")
    };
    let mut back = form_urlencoded::Serializer::new(String::new());
    match answer {
        Ok(sub) => {
            let Ok(code) = provider.secret() else {
                return refusal(StatusCode::INTERNAL_SERVER_ERROR, "server_error");
            };
            back.append_pair("code", &code);
            let grant = (sub, asked.get("nonce").cloned());
            provider.state().codes.insert(code, grant);
        }
        Err(error) => {
            back.append_pair("error", error);
        }
    }
    if let Some(state) = asked.get("state") {
        back.append_pair("state", state);
    }
    let location = format!("{redirect_uri}?{}", back.finish());
    (StatusCode::FOUND, [(LOCATION, location)]).into_response()
}

async fn token(State(provider): State<Provider>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(asked) = parameters(&body) else {
        return refusal(StatusCode::BAD_REQUEST, "invalid_request");
    };
    if !provider.is_client(&headers, &asked) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if asked.get("grant_type").map(String::as_str) != Some("authorization_code") {
        return refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    // A code is good once, whatever comes of it.
    let code = asked.get("code").map_or("", String::as_str);
    let granted = provider.state().codes.remove(code);
    let Some((sub, nonce)) = granted else {
        return refusal(StatusCode::BAD_REQUEST, "invalid_grant");
    };
    if asked.get("redirect_uri") != Some(&provider.settings().redirect_uri) {
        return refusal(StatusCode::BAD_REQUEST, "invalid_grant");
    }
    let Ok((id_token, access_token)) = tokens(&provider, &sub, nonce) else {
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "server_error");
    };
    let answer = json!({
        "access_token": access_token, "token_type": "Bearer", "expires_in": LIFE,
        "id_token": id_token,
    });
    ([(CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// An ID token that says of somebody what the provider knows, and an access token for the user info.
fn tokens(
    provider: &Provider,
    sub: &str,
    nonce: Option<String>,
) -> Result<(String, String), NoKey> {
    let Settings {
        issuer, client_id, ..
    } = provider.settings();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |time| time.as_secs());
    let mut claims = json!({
        "iss": issuer, "sub": sub, "aud": client_id, "iat": now, "exp": now + LIFE,
    });
    if let Some(nonce) = nonce {
        claims["nonce"] = json!(nonce);
    }
    let said = provider.state().people.get(sub).cloned();
    for (name, value) in said.unwrap_or_default() {
        claims[name] = value;
    }
    let access_token = provider.secret()?;
    let token = (access_token.clone(), sub.to_owned());
    provider.state().tokens.extend([token]);
    Ok((provider.signed(&claims)?, access_token))
}

async fn user_info(State(provider): State<Provider>, headers: HeaderMap) -> Response {
    let token = headers.get(AUTHORIZATION).and_then(|value| {
        let value = value.to_str().ok()?;
        value.strip_prefix("Bearer ")
    });
    let known = provider.state();
    let sub = token.and_then(|token| known.tokens.get(token));
    let Some((sub, claims)) = sub.and_then(|sub| known.people.get_key_value(sub)) else {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_token");
    };
    let mut claims = claims.clone();
    claims.insert("sub".to_owned(), json!(sub));
    Json(Value::Object(claims)).into_response()
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// Parameters of OAuth, each of which may be there once: RFC 6749, 3.1.
fn parameters(text: &[u8]) -> Option<HashMap<String, String>> {
    let mut parameters = HashMap::new();
    for (name, value) in form_urlencoded::parse(text) {
        if parameters
            .insert(name.into_owned(), value.into_owned())
            .is_some()
        {
            return None;
        }
    }
    Some(parameters)
}

/// Who has signed in, by the browser.
fn person(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(COOKIES)?.to_str().ok()?;
    let mut cookies = cookies.split("; ").filter_map(|one| one.split_once('='));
    let person = cookies.find(|(name, _)| *name == COOKIE);
    person.map(|(_, sub)| sub.to_owned())
}

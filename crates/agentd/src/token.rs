//! Who may call: compact JWS, ES256 and nothing else.
//!
//! The algorithm is fixed here and never taken from the token, so that neither `none` nor a public
//! key used as an HMAC secret gets anywhere. Verification is a pure function of the token, the keys,
//! the sandbox and the time.

use std::io;
use std::path::{Path, PathBuf};

use carapace_core::SandboxName;
use carapace_core::agentd::{TOKEN_ISSUER, TOKEN_MAX_SECONDS, TokenClaims};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::Deserialize;

/// How far two clocks may be apart, in seconds.
const LEEWAY: i64 = 5;
/// Longer than any token of ours; what is longer isn't looked at.
const MAX_TOKEN_BYTES: usize = 4096;
/// Much more than the two keys of a rotation.
const MAX_JWKS_BYTES: u64 = 64 * 1024;

/// Why a token is refused. None of these repeats what the token says, except for its key id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No `Authorization: Bearer`, or more than one.
    #[error("the call carries no bearer token")]
    Missing,
    /// Not a compact JWS whose parts are what they should be.
    #[error("the token is malformed")]
    Malformed,
    /// Any `alg` but `ES256`.
    #[error("the token is not signed with ES256")]
    Algorithm,
    /// No such key in the JWKS.
    #[error("the token is signed by a key that is not published")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the token's signature is wrong")]
    Signature,
    /// Another `iss`.
    #[error("the token is not issued by {TOKEN_ISSUER}")]
    Issuer,
    /// Another `aud`.
    #[error("the token is for another sandbox")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `iat` lies ahead.
    #[error("the token is from the future")]
    NotYetValid,
    /// `exp` is before `iat` or too long after it.
    #[error("the token lives longer than {TOKEN_MAX_SECONDS} seconds")]
    Lifetime,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// Extensions that the reader must understand; there are none that we do.
    crit: Option<serde_json::Value>,
}

/// The claims of a token, if all of it holds at `now` for the sandbox `audience`.
pub fn verify(
    token: &str,
    keys: &Keys,
    audience: &SandboxName,
    now: Timestamp,
) -> Result<TokenClaims, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = part(header)?;
    if header.alg != "ES256" {
        return Err(TokenError::Algorithm);
    }
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    let signature = BASE64URL_NOPAD
        .decode(signature.as_bytes())
        .map_err(|_| TokenError::Malformed)?;
    keys.verify(&header.kid, signed.as_bytes(), &signature)?;
    let claims: TokenClaims = part(claims)?;
    check(&claims, audience, now)?;
    Ok(claims)
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, TokenError> {
    let json = BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

fn check(claims: &TokenClaims, audience: &SandboxName, now: Timestamp) -> Result<(), TokenError> {
    let now = now.as_second();
    if claims.iss != TOKEN_ISSUER {
        return Err(TokenError::Issuer);
    }
    if claims.aud != *audience {
        return Err(TokenError::Audience);
    }
    let lifetime = claims
        .exp
        .checked_sub(claims.iat)
        .ok_or(TokenError::Lifetime)?;
    if !(1..=TOKEN_MAX_SECONDS).contains(&lifetime) {
        return Err(TokenError::Lifetime);
    }
    if now >= claims.exp.saturating_add(LEEWAY) {
        return Err(TokenError::Expired);
    }
    if now < claims.iat.saturating_sub(LEEWAY) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

/// The control plane's public keys: one, or two while they rotate.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Key>);

#[derive(Debug, Clone)]
struct Key {
    id: String,
    /// Uncompressed: 4, x, y.
    point: [u8; 65],
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

/// RFC 7517 and 7518, as far as an ES256 public key needs them.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    kid: String,
    x: String,
    y: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
}

/// Why there are no keys to check a token against.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file can't be read.
    #[error("reading the public keys in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no JWKS.
    #[error("{path} holds no JWKS")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Keys {
    /// Reads a JWKS. Called for every token: the file is small, calls are few, and a key that was
    /// taken out of it must not live on in a cache.
    pub async fn read(path: &Path) -> Result<Self, KeysError> {
        let at = || path.to_owned();
        let read = |source| KeysError::Read { path: at(), source };
        let size = tokio::fs::metadata(path).await.map_err(read)?.len();
        if size > MAX_JWKS_BYTES {
            return Err(read(io::Error::other(format!(
                "{size} bytes are too many for keys"
            ))));
        }
        let json = tokio::fs::read(path).await.map_err(read)?;
        Self::parse(&json).map_err(|source| KeysError::Parse { path: at(), source })
    }

    /// Keys of other kinds are passed over, as RFC 7517 asks.
    fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let jwks: Jwks = serde_json::from_slice(json)?;
        Ok(Self(
            jwks.keys.into_iter().filter_map(Key::from_json).collect(),
        ))
    }

    fn verify(&self, id: &str, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        let mut known = self.0.iter().filter(|key| key.id == id).peekable();
        if known.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let signed_by = |key: &Key| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
                .verify(message, signature)
                .is_ok()
        };
        if known.any(signed_by) {
            Ok(())
        } else {
            Err(TokenError::Signature)
        }
    }
}

impl Key {
    fn from_json(json: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        let for_us = jwk.kty == "EC"
            && jwk.crv == "P-256"
            && jwk.alg.is_none_or(|alg| alg == "ES256")
            && jwk.usage.is_none_or(|usage| usage == "sig");
        if !for_us {
            return None;
        }
        let coordinate = |text: &str| -> Option<[u8; 32]> {
            BASE64URL_NOPAD
                .decode(text.as_bytes())
                .ok()?
                .try_into()
                .ok()
        };
        let mut point = [4; 65];
        point[1..33].copy_from_slice(&coordinate(&jwk.x)?);
        point[33..].copy_from_slice(&coordinate(&jwk.y)?);
        Some(Self { id: jwk.kid, point })
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Signer {
        id: &'static str,
        pair: EcdsaKeyPair,
    }

    impl Signer {
        fn new(id: &'static str) -> Self {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
            Self { id, pair }
        }

        fn jwk(&self) -> Value {
            let point = self.pair.public_key().as_ref();
            json!({
                "kty": "EC", "crv": "P-256", "kid": self.id, "alg": "ES256", "use": "sig",
                "x": BASE64URL_NOPAD.encode(&point[1..33]),
                "y": BASE64URL_NOPAD.encode(&point[33..]),
            })
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let signed = format!("{}.{}", encode(header), encode(claims));
            let signature = self
                .pair
                .sign(&SystemRandom::new(), signed.as_bytes())
                .unwrap();
            format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }

        fn token(&self, change: impl FnOnce(&mut Value)) -> String {
            let mut claims = claims();
            change(&mut claims);
            self.sign(
                &json!({"alg": "ES256", "kid": self.id, "typ": "JWT"}),
                &claims,
            )
        }
    }

    fn encode(json: &Value) -> String {
        BASE64URL_NOPAD.encode(&serde_json::to_vec(json).unwrap())
    }

    fn claims() -> Value {
        json!({
            "iss": "carapace", "sub": "sandbox-bind", "aud": "agents-x7k2p",
            "user_key": "abcdefghijklmnopqrst", "iat": NOW, "exp": NOW + 60,
        })
    }

    fn keys(signers: &[&Signer]) -> Keys {
        let jwks = json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()});
        Keys::parse(&serde_json::to_vec(&jwks).unwrap()).unwrap()
    }

    fn check_at(token: &str, keys: &Keys, now: i64) -> Result<TokenClaims, TokenError> {
        let audience = SandboxName::parse("agents-x7k2p").unwrap();
        verify(token, keys, &audience, Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn a_token_for_this_sandbox_is_accepted() {
        let signer = Signer::new("one");
        let claims = check_at(&signer.token(|_| ()), &keys(&[&signer]), NOW).unwrap();
        assert_eq!(claims.user_key.to_string(), "abcdefghijklmnopqrst");
        assert_eq!(claims.sub, "sandbox-bind");
    }

    #[test]
    fn both_keys_of_a_rotation_are_accepted_and_no_third() {
        let (old, new, stranger) = (Signer::new("old"), Signer::new("new"), Signer::new("third"));
        let keys = keys(&[&old, &new]);
        assert!(check_at(&old.token(|_| ()), &keys, NOW).is_ok());
        assert!(check_at(&new.token(|_| ()), &keys, NOW).is_ok());
        assert_eq!(
            check_at(&stranger.token(|_| ()), &keys, NOW),
            Err(TokenError::UnknownKey)
        );
        let impostor = Signer::new("old");
        assert_eq!(
            check_at(&impostor.token(|_| ()), &keys, NOW),
            Err(TokenError::Signature)
        );
    }

    #[test]
    fn a_token_counts_between_its_times_and_a_little_around_them() {
        let signer = Signer::new("one");
        let (keys, token) = (keys(&[&signer]), signer.token(|_| ()));
        for (now, expected) in [
            (NOW - LEEWAY - 1, Err(TokenError::NotYetValid)),
            (NOW - LEEWAY, Ok(())),
            (NOW + 60 + LEEWAY - 1, Ok(())),
            (NOW + 60 + LEEWAY, Err(TokenError::Expired)),
        ] {
            assert_eq!(
                check_at(&token, &keys, now).map(|_| ()),
                expected,
                "{}",
                now - NOW
            );
        }
    }

    #[test]
    fn a_claim_that_is_not_ours_is_refused() {
        let signer = Signer::new("one");
        let keys = keys(&[&signer]);
        let cases: [(&str, Value, TokenError); 12] = [
            ("iss", json!("somebody"), TokenError::Issuer),
            ("aud", json!("agents-other"), TokenError::Audience),
            ("aud", json!(["agents-x7k2p"]), TokenError::Malformed),
            ("aud", Value::Null, TokenError::Malformed),
            ("exp", json!(NOW + 61), TokenError::Lifetime),
            ("exp", json!(NOW), TokenError::Lifetime),
            ("exp", json!(i64::MAX), TokenError::Lifetime),
            ("exp", json!("never"), TokenError::Malformed),
            ("exp", json!(1e300), TokenError::Malformed),
            ("iat", json!(i64::MIN), TokenError::Lifetime),
            ("user_key", json!("../../etc"), TokenError::Malformed),
            ("user_key", Value::Null, TokenError::Malformed),
        ];
        for (claim, value, expected) in cases {
            let token = signer.token(|claims| claims[claim] = value.clone());
            assert_eq!(
                check_at(&token, &keys, NOW),
                Err(expected),
                "{claim}: {value}"
            );
        }
        for claim in ["iss", "sub", "aud", "user_key", "iat", "exp"] {
            let token = signer.token(|claims| {
                claims.as_object_mut().unwrap().remove(claim);
            });
            assert_eq!(
                check_at(&token, &keys, NOW),
                Err(TokenError::Malformed),
                "without {claim}"
            );
        }
    }

    #[test]
    fn the_token_does_not_choose_its_algorithm() {
        let signer = Signer::new("one");
        let keys = keys(&[&signer]);
        let none = format!(
            "{}.{}.",
            encode(&json!({"alg": "none", "kid": "one"})),
            encode(&claims())
        );
        assert_eq!(check_at(&none, &keys, NOW), Err(TokenError::Algorithm));
        // The public key as an HMAC secret, as a confused verifier would take it.
        let signed = format!(
            "{}.{}",
            encode(&json!({"alg": "HS256", "kid": "one"})),
            encode(&claims())
        );
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &keys.0[0].point);
        let tag = ring::hmac::sign(&secret, signed.as_bytes());
        let confused = format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()));
        assert_eq!(check_at(&confused, &keys, NOW), Err(TokenError::Algorithm));
        let renamed = confused.replacen(
            &encode(&json!({"alg": "HS256", "kid": "one"})),
            &encode(&json!({"alg": "ES256", "kid": "one"})),
            1,
        );
        assert_eq!(check_at(&renamed, &keys, NOW), Err(TokenError::Signature));
        for header in [
            json!({"alg": "es256", "kid": "one"}),
            json!({"alg": "ES384", "kid": "one"}),
            json!({"alg": "RS256", "kid": "one"}),
        ] {
            let token = signer.sign(&header, &claims());
            assert_eq!(
                check_at(&token, &keys, NOW),
                Err(TokenError::Algorithm),
                "{header}"
            );
        }
    }

    #[test]
    fn a_header_that_asks_for_more_is_refused() {
        let signer = Signer::new("one");
        let keys = keys(&[&signer]);
        for header in [
            json!({"alg": "ES256"}),
            json!({"alg": "ES256", "kid": ["one"]}),
            json!({"alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false}),
        ] {
            let token = signer.sign(&header, &claims());
            assert_eq!(
                check_at(&token, &keys, NOW),
                Err(TokenError::Malformed),
                "{header}"
            );
        }
    }

    #[test]
    fn garbage_is_refused() {
        let signer = Signer::new("one");
        let (keys, token) = (keys(&[&signer]), signer.token(|_| ()));
        let parts: Vec<&str> = token.split('.').collect();
        let long = "a".repeat(MAX_TOKEN_BYTES + 1);
        for garbage in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            "a.b.c".to_owned(),
            long,
            format!("{token}."),
            format!("{token}="),
            format!(" {token}"),
            format!("{}.{}", parts[0], parts[1]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}.{}", parts[0], parts[1], parts[2], parts[2]),
            format!("{}.{}.{}", parts[0], parts[0], parts[2]),
        ] {
            let error = check_at(&garbage, &keys, NOW).unwrap_err();
            assert!(
                matches!(error, TokenError::Malformed | TokenError::Signature),
                "{garbage:?}"
            );
        }
        // One bit anywhere.
        for position in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[position] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(check_at(&changed, &keys, NOW).is_err(), "byte {position}");
        }
    }

    #[test]
    fn keys_of_other_kinds_are_passed_over() {
        let signer = Signer::new("one");
        let changed = |name: &str, value: Value| {
            let mut jwk = signer.jwk();
            jwk[name] = value;
            jwk
        };
        let jwks = json!({"keys": [
            {"kty": "RSA", "kid": "one", "n": "AQAB", "e": "AQAB"},
            {"kty": "oct", "kid": "one", "k": "c2VjcmV0"},
            changed("crv", json!("P-384")),
            changed("use", json!("enc")),
            changed("alg", json!("ES384")),
            changed("x", json!("AA")),
            7,
        ]});
        let keys = Keys::parse(&serde_json::to_vec(&jwks).unwrap()).unwrap();
        assert!(keys.0.is_empty());
        assert_eq!(
            check_at(&signer.token(|_| ()), &keys, NOW),
            Err(TokenError::UnknownKey)
        );
        assert!(Keys::parse(b"[]").is_err());
        assert!(Keys::parse(b"{\"keys\":{}}").is_err());
    }

    #[test]
    fn a_point_off_the_curve_verifies_nothing() {
        let signer = Signer::new("one");
        let mut jwk = signer.jwk();
        jwk["y"] = jwk["x"].clone();
        let keys = Keys::parse(&serde_json::to_vec(&json!({"keys": [jwk]})).unwrap()).unwrap();
        assert_eq!(
            check_at(&signer.token(|_| ()), &keys, NOW),
            Err(TokenError::Signature)
        );
    }
}

//! Tokens for calls into a sandbox: ES256, signed by a key that never leaves KMS.

use std::{fmt, str::FromStr, sync::Arc};

use aws_sdk_kms::{
    Client,
    error::ProvideErrorMetadata,
    primitives::Blob,
    types::{MessageType, SigningAlgorithmSpec},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use carapace_core::{agentd::TokenClaims, ports::Trouble};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "KMS";

/// A KMS key, named so that its id is known: it is the `kid` by which `agentd` finds the public
/// key, and an alias may point at another key tomorrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyId {
    name: String,
    kid: String,
}

/// A text that doesn't name a KMS key by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be the id or the ARN of a KMS key, not an alias")]
pub struct NotAKeyId;

impl SigningKeyId {
    /// The id of the key, as it stands in the head of every token.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl FromStr for SigningKeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<Self, NotAKeyId> {
        let kid = match text.strip_prefix("arn:") {
            Some(arn) => arn.rsplit_once(":key/").ok_or(NotAKeyId)?.1,
            None => text,
        };
        let fits = !kid.is_empty()
            && kid
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !fits {
            return Err(NotAKeyId);
        }
        Ok(Self {
            name: text.to_owned(),
            kid: kid.to_owned(),
        })
    }
}

/// A token, ready to stand behind `Bearer`. It opens one sandbox for a minute, so it isn't shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token itself, for the one place that puts it into a header.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Signs tokens.
#[derive(Debug)]
pub struct TokenSigner {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    key: SigningKeyId,
}

impl TokenSigner {
    /// Signs with this key; nothing is called yet.
    pub fn new(aws: Arc<Aws>, key: SigningKeyId) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
            key,
        }
    }

    /// A token with these claims.
    pub async fn sign(&self, claims: &TokenClaims) -> Result<Token, Trouble> {
        let text = signed_part(self.key.kid(), claims).map_err(|why| refused(&why))?;
        let client = self
            .client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await;
        let request = client
            .sign()
            .key_id(&self.key.name)
            .message(Blob::new(text.as_bytes()))
            .message_type(MessageType::Raw)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256);
        let answer = boxed(request.send()).await;
        let answer = answer.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        let der = answer.signature().map(AsRef::as_ref).unwrap_or_default();
        let raw = raw_signature(der).ok_or_else(|| refused(&"it is no ECDSA P-256 signature"))?;
        Ok(Token(format!("{text}.{}", URL_SAFE_NO_PAD.encode(raw))))
    }
}

fn refused(why: &dyn fmt::Display) -> Trouble {
    Trouble::Refused {
        service: SERVICE,
        why: format!("a token cannot be signed: {why}"),
    }
}

fn signed_part(kid: &str, claims: &TokenClaims) -> Result<String, serde_json::Error> {
    let head = json!({ "alg": "ES256", "typ": "JWT", "kid": kid }).to_string();
    let claims = serde_json::to_vec(claims)?;
    Ok(format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(head),
        URL_SAFE_NO_PAD.encode(claims)
    ))
}

/// The signature as JWS wants it, r and s in 32 bytes each (RFC 7518, 3.4), from what KMS gives:
/// a DER SEQUENCE of two INTEGERs, which drop leading zeros and gain one if they'd look negative.
fn raw_signature(der: &[u8]) -> Option<[u8; 64]> {
    let (body, rest) = der_value(der, 0x30)?;
    let (r, body) = der_value(body, 0x02)?;
    let (s, end) = der_value(body, 0x02)?;
    if !rest.is_empty() || !end.is_empty() {
        return None;
    }
    let mut raw = [0; 64];
    let (left, right) = raw.split_at_mut(32);
    place(r, left)?;
    place(s, right)?;
    Some(raw)
}

/// The content of the first value, which must have this tag, and what follows it. A signature of
/// P-256 is short enough for lengths of one byte.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = der.split_at_checked(2)?;
    if head[0] != tag || head[1] >= 0x80 {
        return None;
    }
    rest.split_at_checked(usize::from(head[1]))
}

/// Puts a positive number at the right end of `field`.
fn place(number: &[u8], field: &mut [u8]) -> Option<()> {
    let digits = match number {
        [0, rest @ ..] => rest,
        [first, ..] if *first < 0x80 => number,
        _ => return None,
    };
    let start = field.len().checked_sub(digits.len())?;
    field.get_mut(start..)?.copy_from_slice(digits);
    Some(())
}

#[cfg(test)]
mod tests {
    use carapace_core::{SandboxName, UserKey};
    use ring::{
        rand::SystemRandom,
        signature::{
            ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, EcdsaKeyPair, KeyPair,
            UnparsedPublicKey,
        },
    };

    use super::*;

    #[test]
    fn a_converted_signature_verifies() {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let public = UnparsedPublicKey::new(
            &ECDSA_P256_SHA256_FIXED,
            pair.public_key().as_ref().to_vec(),
        );
        // Enough of them to meet numbers with a dropped and with an added zero.
        for n in 0..600_u32 {
            let message = n.to_be_bytes();
            let der = pair.sign(&random, &message).unwrap();
            let raw = raw_signature(der.as_ref()).unwrap();
            public.verify(&message, &raw).unwrap();
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        for der in [
            &[][..],
            &[0x30],
            &[0x30, 0x00],
            &[0x30, 0x03, 0x02, 0x01, 0x01],
            &[0x30, 0x06, 0x02, 0x01, 0x81, 0x02, 0x01, 0x01],
            &[0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01, 0x00],
            &[0x30, 0x81, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01],
            &[0x31, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01],
            &[
                [0x30, 0x26, 0x02, 0x21].as_slice(),
                &[1; 33],
                &[0x02, 0x01, 0x01],
            ]
            .concat(),
        ] {
            assert_eq!(raw_signature(der), None, "{der:x?}");
        }
        let small = raw_signature(&[0x30, 0x06, 0x02, 0x01, 0x05, 0x02, 0x01, 0x07]).unwrap();
        assert_eq!((small[31], small[63], small[0]), (5, 7, 0));
    }

    #[test]
    fn what_is_signed_names_the_key_and_the_claims() {
        let claims = TokenClaims {
            iss: "carapace".into(),
            sub: "sandbox-bind".into(),
            aud: SandboxName::parse("agents-x7k2p").unwrap(),
            user_key: UserKey::derive("pool", "sub"),
            iat: 1_764_000_000,
            exp: 1_764_000_060,
        };
        let part = signed_part("4f5e1a1c", &claims).unwrap();
        let (head, body) = part.split_once('.').unwrap();
        let decode = |part: &str| {
            let json = URL_SAFE_NO_PAD.decode(part).unwrap();
            serde_json::from_slice::<serde_json::Value>(&json).unwrap()
        };
        insta::assert_json_snapshot!([decode(head), decode(body)]);
    }

    #[test]
    fn a_key_is_named_by_its_id_or_its_arn_and_by_no_alias() {
        let id = "4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f";
        let arn = format!("arn:aws:kms:us-east-1:000000000000:key/{id}");
        assert_eq!(id.parse::<SigningKeyId>().unwrap().kid(), id);
        assert_eq!(arn.parse::<SigningKeyId>().unwrap().kid(), id);
        for text in [
            "",
            "alias/signer",
            "arn:aws:kms:us-east-1:000000000000:alias/signer",
            "a b",
        ] {
            assert!(text.parse::<SigningKeyId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_shown_when_something_is_logged() {
        assert_eq!(
            format!("{:?}", Token("very.secret".into())),
            "Token(redacted)"
        );
    }
}

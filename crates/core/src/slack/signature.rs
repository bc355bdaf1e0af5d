//! Whether a request comes from Slack, and comes now.
//!
//! Slack signs the body as it sends it, together with the time, with a secret that only Slack and
//! the app know (<https://docs.slack.dev/authentication/verifying-requests-from-slack>). A request
//! that somebody recorded is worth nothing after [`TOLERANCE`]; within it, the event's id tells that
//! it has been seen. The body is taken as bytes: read and written again it would be another.

use std::fmt;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

/// How far Slack's clock and ours may be apart, and how old a request may be.
pub const TOLERANCE: SignedDuration = SignedDuration::from_secs(300);

/// What the signatures of this scheme begin with.
const SCHEME: &str = "v0=";

/// The app's signing secret.
#[derive(Clone)]
pub struct SigningSecret {
    mac: Hmac<Sha256>,
}

/// Why a text can't be the signing secret. It doesn't repeat the text: that would be the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Slack's signing secret is 16 to 128 visible ASCII characters")]
pub struct InvalidSigningSecret;

impl SigningSecret {
    /// Accepts what Slack shows on the app's page. An empty or short one could be guessed.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidSigningSecret> {
        let text = text.as_ref();
        let fits = (16..=128).contains(&text.len());
        if !fits || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidSigningSecret);
        }
        let mac = Hmac::new_from_slice(text.as_bytes()).map_err(|_| InvalidSigningSecret)?;
        Ok(Self { mac })
    }

    fn mac(&self, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        self.mac
            .clone()
            .chain_update("v0:")
            .chain_update(timestamp)
            .chain_update(":")
            .chain_update(body)
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

/// Why a request is not Slack's, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRejected {
    /// There is no time or no signature, or none that Slack would write.
    #[error("the request is not signed the way Slack signs")]
    Malformed,
    /// It was signed too long ago, or in the future.
    #[error("the request was not signed within the last five minutes")]
    Stale,
    /// It was signed with another secret, or changed since.
    #[error("the signature does not match the request")]
    Mismatch,
}

/// Whether Slack signed this body at about this time. `timestamp` and `signature` are the headers
/// `X-Slack-Request-Timestamp` and `X-Slack-Signature` as they came; empty if they did not.
pub fn verify(
    secret: &SigningSecret,
    timestamp: &str,
    signature: &str,
    body: &[u8],
    now: Timestamp,
) -> Result<(), SignatureRejected> {
    let signed_at = seconds(timestamp).ok_or(SignatureRejected::Malformed)?;
    let claimed = signature
        .strip_prefix(SCHEME)
        .filter(|hex| hex.len() == 64)
        .and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok())
        .ok_or(SignatureRejected::Malformed)?;
    if now.duration_since(signed_at).abs() > TOLERANCE {
        return Err(SignatureRejected::Stale);
    }
    // In constant time: otherwise the answer's delay tells how much of a guess was right.
    secret
        .mac(timestamp, body)
        .verify_slice(&claimed)
        .map_err(|_| SignatureRejected::Mismatch)
}

/// Signs a body as Slack does, for those who play its part.
pub fn sign(secret: &SigningSecret, timestamp: &str, body: &[u8]) -> String {
    let mac = secret.mac(timestamp, body).finalize().into_bytes();
    format!("{SCHEME}{}", HEXLOWER.encode(&mac))
}

/// Seconds since the epoch, in plain digits: a sign or a space would be another way to write a
/// number that was signed in one way only.
fn seconds(text: &str) -> Option<Timestamp> {
    let plain = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        return None;
    }
    Timestamp::from_second(text.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of Slack's documentation.
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const AT: &str = "1531420618";
    const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

    fn secret() -> SigningSecret {
        SigningSecret::parse(SECRET).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn signed_at() -> Timestamp {
        at(AT.parse().unwrap())
    }

    #[test]
    fn the_example_of_slacks_documentation_is_slacks() {
        assert_eq!(sign(&secret(), AT, BODY.as_bytes()), SIGNATURE);
        let verdict = verify(&secret(), AT, SIGNATURE, BODY.as_bytes(), signed_at());
        assert_eq!(verdict, Ok(()));
    }

    #[test]
    fn a_request_is_good_for_five_minutes_on_either_side() {
        let judged = |seconds: i64| {
            let now = at(signed_at().as_second() + seconds);
            verify(&secret(), AT, SIGNATURE, BODY.as_bytes(), now)
        };
        for seconds in [-300, -1, 0, 299, 300] {
            assert_eq!(judged(seconds), Ok(()), "{seconds}");
        }
        for seconds in [-100_000, -301, 301, 86_400, 1_000_000_000] {
            assert_eq!(judged(seconds), Err(SignatureRejected::Stale), "{seconds}");
        }
        let now = signed_at() + SignedDuration::new(300, 1);
        let verdict = verify(&secret(), AT, SIGNATURE, BODY.as_bytes(), now);
        assert_eq!(verdict, Err(SignatureRejected::Stale));
    }

    #[test]
    fn what_slack_would_not_write_is_malformed() {
        let capitals = format!("v0={}", SIGNATURE[3..].to_uppercase());
        let (v1, long) = (SIGNATURE.replace("v0", "v1"), format!("{SIGNATURE}00"));
        for signature in [
            "",
            "v0=",
            &SIGNATURE[3..],
            &SIGNATURE[..66],
            &long,
            &v1,
            &capitals,
            &SIGNATURE.replace('a', "g"),
            &SIGNATURE.replace('a', "\u{e4}"),
            &format!("{SIGNATURE},{SIGNATURE}"),
            &format!(" {SIGNATURE}"),
        ] {
            let verdict = verify(&secret(), AT, signature, BODY.as_bytes(), signed_at());
            assert_eq!(verdict, Err(SignatureRejected::Malformed), "{signature}");
        }
        for timestamp in [
            "",
            "-1",
            "+1531420618",
            " 1531420618",
            "1531420618.0",
            "0x5b47a24a",
            "1531420618:",
            "9999999999999",
            "999999999999",
            "\u{661}\u{665}",
        ] {
            let verdict = verify(
                &secret(),
                timestamp,
                SIGNATURE,
                BODY.as_bytes(),
                signed_at(),
            );
            assert_eq!(verdict, Err(SignatureRejected::Malformed), "{timestamp}");
        }
    }

    #[test]
    fn a_number_written_otherwise_than_it_was_signed_does_not_match() {
        let timestamp = format!("00{AT}");
        let verdict = verify(
            &secret(),
            &timestamp,
            SIGNATURE,
            BODY.as_bytes(),
            signed_at(),
        );
        assert_eq!(verdict, Err(SignatureRejected::Mismatch));
    }

    #[test]
    fn another_secret_does_not_match() {
        let other = SigningSecret::parse("8f742231b10e8888abcd99yyyzzz85a6").unwrap();
        let verdict = verify(&other, AT, SIGNATURE, BODY.as_bytes(), signed_at());
        assert_eq!(verdict, Err(SignatureRejected::Mismatch));
    }

    #[test]
    fn a_secret_that_could_be_guessed_or_is_none_is_refused() {
        for text in [
            "",
            "short",
            &"s".repeat(15),
            &"s".repeat(129),
            "8f742231b10e8888 abcd",
            "8f742231b10e8888\n",
        ] {
            assert_eq!(
                SigningSecret::parse(text).err(),
                Some(InvalidSigningSecret),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_secret_is_not_shown_when_something_is_logged() {
        let shown = format!("{:?}", Some(secret()));
        assert!(!shown.contains("8f74"), "{shown}");
        let refused = SigningSecret::parse("a secret with spaces").unwrap_err();
        assert!(!refused.to_string().contains("with spaces"), "{refused}");
    }

    proptest! {
        #[test]
        fn what_was_signed_matches_and_any_change_is_found(
            body in proptest::collection::vec(any::<u8>(), 1..200), at_byte in any::<usize>(), bit in 0..8_u32
        ) {
            let signature = sign(&secret(), AT, &body);
            prop_assert_eq!(verify(&secret(), AT, &signature, &body, signed_at()), Ok(()));
            let mut changed = body;
            let index = at_byte % changed.len();
            changed[index] ^= 1 << bit;
            let verdict = verify(&secret(), AT, &signature, &changed, signed_at());
            prop_assert_eq!(verdict, Err(SignatureRejected::Mismatch));
        }

        #[test]
        fn nothing_that_anybody_sends_is_taken_for_slacks(
            timestamp in "\\PC{0,14}|[0-9]{10}", signature in "\\PC{0,70}|v0=[0-9a-f]{64}", body in "\\PC{0,20}"
        ) {
            prop_assert!(verify(&secret(), &timestamp, &signature, body.as_bytes(), signed_at()).is_err());
        }
    }
}

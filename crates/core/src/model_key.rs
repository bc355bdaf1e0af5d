//! A sandbox's key to the model gateway, which nobody has to keep.
//!
//! It follows from the gateway's master key, the user and the claim. So it can be made again at
//! any time by whoever may read the master key, there is no second store of secrets to guard, and
//! a step that runs twice makes the same key twice. A sandbox of a later claim gets another key:
//! what an earlier one may have leaked is worth nothing then.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{
    ClaimUid, UserKey,
    agentd::{InvalidModelKey, ModelKey},
};

/// The gateway's master key, which can make and revoke every other. It never leaves the control
/// plane.
#[derive(Clone)]
pub struct MasterKey {
    text: String,
    mac: Hmac<Sha256>,
}

/// Why a text can't be the master key. It doesn't repeat the text: that would be the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway's master key is 8 to 512 visible ASCII characters")]
pub struct InvalidMasterKey;

impl MasterKey {
    /// Accepts what can stand in an HTTP header as it is, and isn't absurdly short.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidMasterKey> {
        let text = text.into();
        let fits = (8..=512).contains(&text.len());
        if !fits || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidMasterKey);
        }
        let mac = Hmac::new_from_slice(text.as_bytes()).map_err(|_| InvalidMasterKey)?;
        Ok(Self { text, mac })
    }

    /// The secret itself, for the one place that puts it into a header.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The key for the sandbox that this claim of this user holds.
    pub fn derive(&self, user: &UserKey, claim: &ClaimUid) -> Result<ModelKey, InvalidModelKey> {
        const LENGTH: usize = 40;
        let input = format!("agent/{user}/{claim}");
        let mac = self.mac.clone().chain_update(input).finalize().into_bytes();
        let mut text = BASE64URL_NOPAD.encode(&mac);
        text.truncate(LENGTH);
        ModelKey::parse(format!("sk-{text}"))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(redacted)")
    }
}

/// The name under which the gateway lists the key: it says whose it is, and is as unique.
pub fn alias(user: &UserKey, claim: &ClaimUid) -> String {
    format!("agent-{user}-{claim}")
}

/// What the gateway keeps instead of the key, and what stands for it in a URL: addresses end up
/// in access logs.
pub fn digest(key: &ModelKey) -> String {
    HEXLOWER.encode(&Sha256::digest(key.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(last: char) -> ClaimUid {
        ClaimUid::parse(format!("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6{last}")).unwrap()
    }

    #[test]
    fn a_key_is_a_part_of_the_digest_under_the_master_key() {
        // printf 'agent/<user>/<uid>' | openssl dgst -sha256 -hmac sk-master-key -binary | base64
        let master = MasterKey::parse("sk-master-key").unwrap();
        let key = master
            .derive(&UserKey::derive("pool", "sub"), &claim('0'))
            .unwrap();
        assert_eq!(key.expose(), "sk-hOnsHckkzBoAjOjPmSkSbEJaWi05OEwWgu3knBiB");
    }

    #[test]
    fn another_user_another_claim_or_another_master_key_makes_another_key() {
        let master = MasterKey::parse("sk-master-key").unwrap();
        let (one, two) = (UserKey::derive("pool", "1"), UserKey::derive("pool", "2"));
        let key = master.derive(&one, &claim('0')).unwrap();
        assert_eq!(key, master.derive(&one, &claim('0')).unwrap());
        assert_ne!(key, master.derive(&two, &claim('0')).unwrap());
        assert_ne!(key, master.derive(&one, &claim('1')).unwrap());
        let other = MasterKey::parse("sk-other-master").unwrap();
        assert_ne!(key, other.derive(&one, &claim('0')).unwrap());
    }

    #[test]
    fn the_master_key_is_not_shown_when_something_is_logged() {
        let master = MasterKey::parse("sk-very-secret").unwrap();
        assert_eq!(format!("{master:?}"), "MasterKey(redacted)");
        let refused = MasterKey::parse("sk-secret with a space").unwrap_err();
        assert!(!refused.to_string().contains("secret with"), "{refused}");
    }

    #[test]
    fn an_empty_a_short_and_a_breaking_master_key_are_refused() {
        for text in ["", "sk-1", "sk-master\r\nx: y", &"k".repeat(513)] {
            assert!(MasterKey::parse(text).is_err(), "{text:?}");
        }
    }
}

//! A text that doesn't show itself.

use std::fmt;
use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

use crate::files;

/// A secret that `agentd` made: it prints as a placeholder, so that no log line can hold it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// 256 random bits in hexadecimal.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("the system has no randomness to give"))?;
        Ok(Self(HEXLOWER.encode(&bytes)))
    }

    /// The secret kept in a file, or a new one. A restart must find the one it left: OpenClaw is
    /// still asking for it.
    pub fn kept_in(path: &Path) -> io::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Self(text))
            }
            Ok(_) => Err(io::Error::other(format!("{} is damaged", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Self::random()?;
                files::replace(path, secret.0.as_bytes())?;
                Ok(secret)
            }
            Err(error) => Err(error),
        }
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_a_restart_and_no_two_are_alike() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let first = Secret::kept_in(&path).unwrap();
        assert_eq!(Secret::kept_in(&path).unwrap(), first);
        assert_ne!(Secret::random().unwrap(), first);
        assert!(!format!("{first:?}").contains(first.expose()));
    }

    #[test]
    fn a_damaged_secret_is_not_replaced_in_silence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "short").unwrap();
        assert!(Secret::kept_in(&path).is_err());
    }
}

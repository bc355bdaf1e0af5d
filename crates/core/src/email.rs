//! E-mail addresses, read so that no two readers can disagree about them.
//!
//! What mail servers, sign-up forms and identity providers read differently (quoted local parts,
//! comments, display names, routes, bang paths, the percent hack, Unicode look-alikes, address
//! literals) is refused as a whole, since a disagreement about where the domain begins is how a
//! stranger gets past an allow-list. What remains is a subset of RFC 5321's dot-atoms with one
//! reading only: words of letters, digits and `_ + - '` joined by single dots, one `@`, a domain
//! name of two labels or more.
//!
//! An [`EmailAddress`] is where mail goes; a [`CanonicalAddress`] is whose mailbox that is. Capitals
//! and, where the policy says so, plus-tags make another address of one mailbox, never another
//! person.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An address of one unambiguous form, with its domain in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress {
    local: String,
    domain: EmailDomain,
}

/// The domain of an address: two or more LDH labels, in lower case; the last begins with a letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailDomain(String);

/// One mailbox, however its address is written: in lower case, and without a tag where tags don't
/// make another identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalAddress(String);

/// What `ada+tag@example.com` is to `ada@example.com`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum PlusTags {
    /// The same mailbox, as at most providers of mail: `same_identity`.
    SameIdentity,
    /// Somebody else, as where `+` is a character like any other: `distinct`.
    Distinct,
    /// No address to sign up with: `refused`.
    Refused,
}

/// Why a text is not an address, or not one that is accepted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmail {
    /// Longer than a mail path can be (RFC 5321, 4.5.3.1.3), or empty.
    #[error("an address has 3 to 254 characters")]
    Length,
    /// A letter from outside ASCII may look like one from inside it, or not be seen at all.
    #[error("an address has only ASCII characters here")]
    NotAscii,
    /// No `@`, or several: then it isn't clear where the domain begins.
    #[error("an address has exactly one @")]
    NotOneAt,
    /// The part before the `@` is longer than 64 characters or has something in it that is read in
    /// more than one way.
    #[error(
        "the part before the @ is not words of letters, digits and _ + - ' joined by single dots"
    )]
    LocalPart,
    /// The part after the `@` is no host name of two labels or more.
    #[error("the part after the @ is not a domain name")]
    Domain,
}

impl EmailAddress {
    /// Reads an address as it is; nothing around it is trimmed.
    pub fn parse(text: &str) -> Result<Self, InvalidEmail> {
        if !(3..=254).contains(&text.len()) {
            return Err(InvalidEmail::Length);
        }
        if !text.is_ascii() {
            return Err(InvalidEmail::NotAscii);
        }
        let (local, domain) = text.split_once('@').ok_or(InvalidEmail::NotOneAt)?;
        if domain.contains('@') {
            return Err(InvalidEmail::NotOneAt);
        }
        if !is_local_part(local) {
            return Err(InvalidEmail::LocalPart);
        }
        Ok(Self {
            local: local.to_owned(),
            domain: EmailDomain::parse(domain)?,
        })
    }

    /// Where the mailbox is.
    pub fn domain(&self) -> &EmailDomain {
        &self.domain
    }

    /// Whether the address has a plus-tag.
    pub fn is_tagged(&self) -> bool {
        self.local.contains('+')
    }

    /// The mailbox that the address belongs to. Unless tags are [`PlusTags::Distinct`] they are left
    /// out: one that is refused must not become an identity of its own by mistake.
    pub fn canonical(&self, plus_tags: PlusTags) -> CanonicalAddress {
        let untagged = self
            .local
            .split_once('+')
            .map_or(&*self.local, |(name, _)| name);
        let local = match plus_tags {
            PlusTags::Distinct => &self.local,
            PlusTags::SameIdentity | PlusTags::Refused => untagged,
        };
        CanonicalAddress(format!("{}@{}", local.to_ascii_lowercase(), self.domain))
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl FromStr for EmailAddress {
    type Err = InvalidEmail;

    fn from_str(text: &str) -> Result<Self, InvalidEmail> {
        Self::parse(text)
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = InvalidEmail;

    fn try_from(text: String) -> Result<Self, InvalidEmail> {
        Self::parse(&text)
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.to_string()
    }
}

impl CanonicalAddress {
    /// The mailbox as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CanonicalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PlusTags {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match &*text {
            "same_identity" => Ok(Self::SameIdentity),
            "distinct" => Ok(Self::Distinct),
            "refused" => Ok(Self::Refused),
            _ => Err("it must be same_identity, distinct or refused"),
        }
    }
}

impl EmailDomain {
    /// Reads a domain; capitals become small letters, as in the DNS.
    pub fn parse(text: &str) -> Result<Self, InvalidEmail> {
        let labels: Vec<&str> = text.split('.').collect();
        let named = labels.len() >= 2 && labels.iter().all(|label| is_ldh_label(label));
        // 192.0.2.1 and 192.0x2 have labels too, but no top-level domain begins with a digit.
        let top_level = labels.last().is_some_and(|last| {
            last.len() >= 2 && last.starts_with(|first: char| first.is_ascii_alphabetic())
        });
        if text.len() > 253 || !named || !top_level {
            return Err(InvalidEmail::Domain);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EmailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EmailDomain {
    type Error = InvalidEmail;

    fn try_from(text: String) -> Result<Self, InvalidEmail> {
        Self::parse(&text)
    }
}

impl From<EmailDomain> for String {
    fn from(domain: EmailDomain) -> Self {
        domain.0
    }
}

/// Words joined by single dots. Each begins with a letter, a digit or `_`, so that what is left of
/// a tagged word is a word, and no program takes an address for one of its options.
fn is_local_part(local: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_+-'".contains(&byte))
    };
    local.len() <= 64 && local.split('.').all(is_word)
}

fn is_ldh_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_and_its_domain_in_lower_case() {
        let address = EmailAddress::parse("Ada.Lovelace+claw@Example.COM").unwrap();
        assert_eq!(address.to_string(), "Ada.Lovelace+claw@example.com");
    }

    #[test]
    fn the_longest_parts_are_accepted_and_one_more_is_not() {
        let local = "l".repeat(64);
        let label = "d".repeat(63);
        assert!(EmailAddress::parse(&format!("{local}@{label}.com")).is_ok());
        assert_eq!(
            EmailAddress::parse(&format!("{local}l@{label}.com")),
            Err(InvalidEmail::LocalPart)
        );
        assert_eq!(
            EmailAddress::parse(&format!("a@{label}d.com")),
            Err(InvalidEmail::Domain)
        );
        let long = format!("{local}@{label}.{label}.{label}.com");
        assert_eq!(EmailAddress::parse(&long), Err(InvalidEmail::Length));
    }

    #[test]
    fn one_mailbox_has_one_canonical_address() {
        let canonical = |text: &str, tags| {
            EmailAddress::parse(text)
                .unwrap()
                .canonical(tags)
                .to_string()
        };
        for text in [
            "ada@example.com",
            "ADA@Example.com",
            "ada+claw@example.com",
            "Ada+a+b.c@example.com",
            "ada+@example.com",
        ] {
            assert_eq!(canonical(text, PlusTags::SameIdentity), "ada@example.com");
            assert_eq!(canonical(text, PlusTags::Refused), "ada@example.com");
        }
        assert_eq!(
            canonical("Ada+Claw@example.com", PlusTags::Distinct),
            "ada+claw@example.com"
        );
        // Dots are part of the name: that some providers drop them is theirs alone to know.
        assert_eq!(
            canonical("a.da@example.com", PlusTags::SameIdentity),
            "a.da@example.com"
        );
    }

    #[test]
    fn a_domain_ends_in_a_name() {
        for text in ["example.com", "a.b.example.xn--p1ai", "3.example.c0m"] {
            assert!(EmailDomain::parse(text).is_ok(), "{text}");
        }
        for text in [
            "com",
            "192.0.2.1",
            "192.0x2",
            "example.c",
            "example.com.",
            ".com",
            "a..com",
        ] {
            assert!(EmailDomain::parse(text).is_err(), "{text}");
        }
    }

    /// What is written in the head of this file, as a set.
    fn is_listed(c: char) -> bool {
        c.is_ascii_alphanumeric() || "_+-'.@".contains(c)
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_the_same_again(
            text in "\\PC{0,40}|[a-zA-Z0-9.+@_'-]{3,40}|[a-z+.']{1,9}@[a-zA-Z0-9.-]{1,9}\\.[a-z]{2,3}"
        ) {
            if let Ok(address) = EmailAddress::parse(&text) {
                prop_assert_eq!(EmailAddress::parse(&address.to_string()).unwrap(), address);
                prop_assert_eq!(text.matches('@').count(), 1);
            }
        }

        /// Any character at any place of a good address: it passes only if it is on the list.
        #[test]
        fn nothing_outside_the_allowed_characters_passes(
            c in any::<char>(),
            at in 0_usize..=15,
        ) {
            let mut text = "ada@example.com".to_owned();
            text.insert(at, c);
            prop_assert!(EmailAddress::parse(&text).is_err() || is_listed(c), "{:?}", text);
        }

        #[test]
        fn no_text_of_any_sort_passes_with_a_character_that_is_not_listed(text in any::<String>()) {
            prop_assert!(EmailAddress::parse(&text).is_err() || text.chars().all(is_listed));
        }

        /// A canonical address is an address, and its own.
        #[test]
        fn canonical_is_where_it_ends(
            text in "[a-zA-Z0-9_][a-zA-Z0-9.+_'-]{0,20}@[a-zA-Z0-9]{1,9}\\.[a-zA-Z]{2,3}",
            tags in prop_oneof![
                Just(PlusTags::SameIdentity), Just(PlusTags::Distinct), Just(PlusTags::Refused)
            ],
        ) {
            if let Ok(address) = EmailAddress::parse(&text) {
                let canonical = address.canonical(tags);
                let again = EmailAddress::parse(canonical.as_str()).unwrap();
                prop_assert_eq!(again.canonical(tags), canonical);
                prop_assert_eq!(again.domain(), address.domain());
            }
        }
    }
}

//! Who may sign up, judged by the address they give.
//!
//! The address is read strictly: what mail servers, sign-up forms and identity providers disagree
//! about (quoted local parts, comments, display names, routes, Unicode look-alikes, address
//! literals) is refused as a whole, since a disagreement about where the domain begins is how a
//! stranger gets past an allow-list. What remains has one reading only. The domain must then equal
//! a domain of the list: no suffixes, no sub-domains, no wild cards.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::quoted;

/// An address of one unambiguous form, `dot-atom@domain`, with its domain in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmailAddress {
    local: String,
    domain: EmailDomain,
}

/// The domain of an address: two or more LDH labels, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmailDomain(String);

/// Why a text is not an address, or not one that is accepted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmail {
    /// Longer than a mail path can be (RFC 5321, 4.5.3.1.3), or empty.
    #[error("an address has 3 to 254 characters")]
    Length,
    /// A letter from outside ASCII may look like one from inside it.
    #[error("an address has only ASCII characters here")]
    NotAscii,
    /// No `@`, or several: then it isn't clear where the domain begins.
    #[error("an address has exactly one @")]
    NotOneAt,
    /// The part before the `@` is no dot-atom (RFC 5322, 3.2.3), or longer than 64 characters.
    #[error("the part before the @ is not plain words joined by single dots")]
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
        if !is_dot_atom(local) {
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
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl EmailDomain {
    /// Reads a domain; capitals become small letters, as in the DNS.
    pub fn parse(text: &str) -> Result<Self, InvalidEmail> {
        let labels: Vec<&str> = text.split('.').collect();
        let named = labels.len() >= 2 && labels.iter().all(|label| is_ldh_label(label));
        // An address such as 192.0.2.1 would pass as labels; no top-level domain is a number.
        let numeric = labels
            .last()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if text.len() > 253 || !named || numeric {
            return Err(InvalidEmail::Domain);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for EmailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The domains whose addresses may sign up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedDomains(BTreeSet<EmailDomain>);

/// A list of domains that can't be used, with the entry that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDomains {
    /// An empty list would lock everybody out, which nobody means to write down.
    #[error("the list names no domain; name at least one, separated by commas")]
    Empty,
    /// An entry is no domain, `*.example.com` for one.
    #[error("{0} is not a domain name; every entry is one exact domain, without wild cards")]
    NotADomain(String),
}

impl FromStr for AllowedDomains {
    type Err = InvalidDomains;

    /// Reads a list separated by commas; spaces around a domain are allowed.
    fn from_str(text: &str) -> Result<Self, InvalidDomains> {
        let domains: BTreeSet<EmailDomain> = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                EmailDomain::parse(entry).map_err(|_| InvalidDomains::NotADomain(quoted(entry)))
            })
            .collect::<Result<_, _>>()?;
        if domains.is_empty() {
            Err(InvalidDomains::Empty)
        } else {
            Ok(Self(domains))
        }
    }
}

impl AllowedDomains {
    /// Whether addresses of this domain may sign up: only if it is on the list itself.
    pub fn allow(&self, domain: &EmailDomain) -> bool {
        self.0.contains(domain)
    }
}

fn is_dot_atom(local: &str) -> bool {
    const SYMBOLS: &[u8] = b"!#$%&'*+-/=?^_`{|}~";
    let is_atom = |atom: &str| {
        !atom.is_empty()
            && atom
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || SYMBOLS.contains(&byte))
    };
    local.len() <= 64 && local.split('.').all(is_atom)
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
    fn a_list_is_exact() {
        let list: AllowedDomains = "example.com, Example.ORG ,".parse().unwrap();
        let allows = |domain: &str| list.allow(&EmailDomain::parse(domain).unwrap());
        assert!(allows("example.com") && allows("EXAMPLE.org"));
        assert!(!allows("mail.example.com") && !allows("example.co") && !allows("xexample.com"));
    }

    #[test]
    fn a_list_that_would_mean_something_else_is_refused() {
        assert_eq!(" , ".parse::<AllowedDomains>(), Err(InvalidDomains::Empty));
        for list in [
            "*.example.com",
            "example.com,*",
            "@example.com",
            "com",
            "a@example.com",
        ] {
            assert!(list.parse::<AllowedDomains>().is_err(), "{list}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_the_same_again(text in "\\PC{0,40}|[a-zA-Z0-9.+@-]{3,40}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                prop_assert_eq!(EmailAddress::parse(&address.to_string()).unwrap(), address);
                prop_assert_eq!(text.matches('@').count(), 1);
            }
        }

        /// No text makes the list say yes to a domain that isn't literally behind its last `@`.
        #[test]
        fn only_the_very_domain_is_allowed(text in "[a-z@.,<>\"() \\\\%\0-]{0,12}(@| |)(example\\.com)[a-z@.\"> \0-]{0,6}") {
            let list: AllowedDomains = "example.com".parse().unwrap();
            let allowed = EmailAddress::parse(&text).is_ok_and(|a| list.allow(a.domain()));
            prop_assert!(!allowed || text.ends_with("@example.com"), "{}", text);
        }
    }
}

//! Who may sign up, as the operator wrote it down, and the judgement over one sign-up.
//!
//! The policy is one JSON document. It is read strictly: a field that nobody knows, a list entry
//! that could mean something else, a number out of bounds refuses the whole, since half a policy
//! is another policy. `cdk/lib/identity/policy.ts` refuses the same documents before they are
//! deployed; both are tested with the corpus in `crates/core/tests/corpus`.
//!
//! What the policy does not name is denied. What it blocks is denied whatever else it allows.

use std::{collections::BTreeSet, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

use crate::{
    email::{CanonicalAddress, EmailAddress, EmailDomain, PlusTags},
    quoted,
};

/// The sign-up policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    allowed_domains: Domains,
    allowed_addresses: BTreeSet<CanonicalAddress>,
    blocked_addresses: BTreeSet<CanonicalAddress>,
    identity_providers: Vec<IdentityProvider>,
    plus_tags: PlusTags,
    sign_ups_per_domain_per_hour: u32,
}

/// Why a document is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sign-up policy is not accepted: {field}: {why}")]
pub struct InvalidPolicy {
    /// The path of the field, `identity_providers[0].issuer`; `.` is the document.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

/// In which way somebody signs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// By themselves, on the sign-up page.
    SignUp,
    /// An administrator makes the account. They may skip the page, but not the policy.
    AdminCreateUser,
    /// By their first sign-in through another identity provider.
    ExternalProvider {
        /// The provider's name in the user pool. Cognito may have changed its capitals.
        name: &'a str,
        /// Who issued the assertion, where the event says so. At a first sign-in Cognito's does not:
        /// there the name stands for the issuer with which the provider was added to the pool, and
        /// which Cognito itself holds the assertion against.
        issuer: Option<&'a str>,
    },
}

/// An account may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whose account it is. There is one account for each.
    pub identity: CanonicalAddress,
    /// Whether the account is good without a code that proves the mailbox.
    pub auto_confirm: bool,
}

/// No account may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The policy blocks the mailbox.
    #[error("the address is blocked")]
    AddressBlocked,
    /// The policy does not want tags.
    #[error("the address has a plus-tag")]
    PlusTagRefused,
    /// The policy does not name the domain, or not for this provider.
    #[error("the domain is not allowed")]
    DomainNotAllowed,
    /// The policy does not name the provider, or somebody else issued the assertion.
    #[error("the identity provider is not allowed")]
    ProviderNotAllowed,
}

/// Judges a sign-up.
pub fn judge(
    policy: &Policy,
    source: Source<'_>,
    address: &EmailAddress,
) -> Result<Verdict, Denied> {
    let provider = match source {
        Source::SignUp | Source::AdminCreateUser => None,
        Source::ExternalProvider { name, issuer } => {
            let provider = policy.provider(name, issuer);
            Some(provider.ok_or(Denied::ProviderNotAllowed)?)
        }
    };
    let allowed = if let Some(provider) = provider {
        // A provider speaks for its own domains and for no single address elsewhere.
        provider.domains.allow(address.domain())
    } else {
        let single = address.canonical(policy.plus_tags);
        policy.allowed_domains.allow(address.domain()) || policy.allowed_addresses.contains(&single)
    };
    // First, so that who is blocked can't be told from who never was allowed.
    if !allowed {
        return Err(Denied::DomainNotAllowed);
    }
    Ok(Verdict {
        identity: policy.identity(address)?,
        auto_confirm: provider.is_some_and(|provider| provider.auto_confirm),
    })
}

impl Policy {
    /// The largest document, in bytes: what an advanced parameter of Systems Manager holds.
    pub const MAX_BYTES: usize = 8192;
    /// The most entries of any list.
    pub const MAX_ENTRIES: usize = 100;
    const MAX_SIGN_UPS: u32 = 10_000;

    /// Reads a policy, strictly.
    pub fn parse(text: &str) -> Result<Self, InvalidPolicy> {
        let document = |why: String| InvalidPolicy {
            field: ".".to_owned(),
            why,
        };
        if text.len() > Self::MAX_BYTES {
            return Err(document(format!(
                "it has {} bytes; at most {} are allowed",
                text.len(),
                Self::MAX_BYTES
            )));
        }
        // serde takes a list for a struct whose fields stand in the same order. Nobody writes that.
        let shape: Value = serde_json::from_str(text).map_err(|e| document(e.to_string()))?;
        if !shape.is_object() {
            return Err(document("it must be a JSON object".to_owned()));
        }
        let providers = shape["identity_providers"].as_array();
        let no_object = |provider: &Value| !provider.is_object();
        if let Some(at) = providers.and_then(|them| them.iter().position(no_object)) {
            return Err(InvalidPolicy {
                field: format!("identity_providers[{at}]"),
                why: "it must be a JSON object".to_owned(),
            });
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let wire: Wire = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = error.path().to_string();
            InvalidPolicy {
                field,
                why: error.into_inner().to_string(),
            }
        })?;
        wire.checked()
    }

    /// How many accounts may be made for addresses of one domain within an hour.
    pub fn sign_ups_per_domain_per_hour(&self) -> u32 {
        self.sign_ups_per_domain_per_hour
    }

    /// Whose mailbox an address is: nobody's, if it is blocked or has a tag that is not wanted. Of
    /// such a tag it is not known whether it makes another mailbox.
    pub fn identity(&self, address: &EmailAddress) -> Result<CanonicalAddress, Denied> {
        let identity = address.canonical(self.plus_tags);
        let mailbox = address.canonical(PlusTags::SameIdentity);
        // Where tags are identities, blocking the name without a tag still blocks all of its tags.
        let is_blocked = |one| self.blocked_addresses.contains(one);
        if is_blocked(&identity) || is_blocked(&mailbox) {
            return Err(Denied::AddressBlocked);
        }
        if self.plus_tags == PlusTags::Refused && address.is_tagged() {
            return Err(Denied::PlusTagRefused);
        }
        Ok(identity)
    }

    /// With which domain a domain's sign-ups are counted. The sub-domains of a `*.example.com` are
    /// counted together: there is no end of them, so a limit for each would be none.
    pub fn counted_with<'a>(&'a self, domain: &'a EmailDomain) -> &'a EmailDomain {
        let providers = self.identity_providers.iter();
        let mut all =
            std::iter::once(&self.allowed_domains).chain(providers.map(|one| &one.domains));
        let entry = all.find_map(|domains| domains.entry(domain));
        entry.unwrap_or(domain)
    }

    fn provider(&self, name: &str, issuer: Option<&str>) -> Option<&IdentityProvider> {
        self.identity_providers.iter().find(|provider| {
            provider.name.eq_ignore_ascii_case(name)
                && issuer.is_none_or(|issuer| provider.issuer == issuer)
        })
    }
}

impl FromStr for Policy {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        Self::parse(text)
    }
}

/// Exact domains, and domains of which only the sub-domains are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Domains {
    exact: BTreeSet<EmailDomain>,
    parents: BTreeSet<EmailDomain>,
}

impl Domains {
    fn allow(&self, domain: &EmailDomain) -> bool {
        self.entry(domain).is_some()
    }

    /// What allows this domain: itself, or the nearest of the domains that it is below.
    fn entry(&self, domain: &EmailDomain) -> Option<&EmailDomain> {
        if let Some(exact) = self.exact.get(domain) {
            return Some(exact);
        }
        let mut rest = domain.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(entry) = self.parents.iter().find(|one| one.as_str() == parent) {
                return Some(entry);
            }
            rest = parent;
        }
        None
    }

    fn len(&self) -> usize {
        self.exact.len() + self.parents.len()
    }
}

/// Another identity provider of the user pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityProvider {
    #[serde(deserialize_with = "provider_name")]
    name: String,
    #[serde(deserialize_with = "issuer")]
    issuer: String,
    /// As what the provider knows this platform. Where it is given, the CDK app adds the provider to
    /// the pool, with this issuer and none else; nothing here depends on it.
    #[serde(default, deserialize_with = "client_id")]
    client_id: Option<String>,
    /// Whose addresses it may assert.
    #[serde(deserialize_with = "domains")]
    domains: Domains,
    auto_confirm: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u64,
    #[serde(default, deserialize_with = "domains")]
    allowed_domains: Domains,
    #[serde(default, deserialize_with = "addresses")]
    allowed_addresses: Vec<EmailAddress>,
    #[serde(default, deserialize_with = "addresses")]
    blocked_addresses: Vec<EmailAddress>,
    #[serde(default, deserialize_with = "providers")]
    identity_providers: Vec<IdentityProvider>,
    plus_tags: PlusTags,
    sign_ups_per_domain_per_hour: u64,
}

impl Wire {
    fn checked(self) -> Result<Policy, InvalidPolicy> {
        let refuse = |field: &str, why: String| {
            Err(InvalidPolicy {
                field: field.to_owned(),
                why,
            })
        };
        if self.version != 1 {
            return refuse("version", format!("it is {}, but must be 1", self.version));
        }
        let limit = u32::try_from(self.sign_ups_per_domain_per_hour).unwrap_or(u32::MAX);
        if !(1..=Policy::MAX_SIGN_UPS).contains(&limit) {
            let why = format!(
                "it is {}, but must be from 1 to {}",
                self.sign_ups_per_domain_per_hour,
                Policy::MAX_SIGN_UPS
            );
            return refuse("sign_ups_per_domain_per_hour", why);
        }
        if self.plus_tags == PlusTags::Refused
            && let Some(at) = self
                .allowed_addresses
                .iter()
                .position(EmailAddress::is_tagged)
        {
            let why = "it has a plus-tag, which plus_tags refuses".to_owned();
            return refuse(&format!("allowed_addresses[{at}]"), why);
        }
        if self.allowed_domains.len() == 0
            && self.allowed_addresses.is_empty()
            && self.identity_providers.is_empty()
        {
            let why = "with no allowed_addresses and no identity_providers either, nobody may sign up; name a domain";
            return refuse("allowed_domains", why.to_owned());
        }
        let canonical = |addresses: Vec<EmailAddress>| {
            let addresses = addresses.iter();
            addresses.map(|one| one.canonical(self.plus_tags)).collect()
        };
        Ok(Policy {
            allowed_domains: self.allowed_domains,
            allowed_addresses: canonical(self.allowed_addresses),
            blocked_addresses: canonical(self.blocked_addresses),
            identity_providers: self.identity_providers,
            plus_tags: self.plus_tags,
            sign_ups_per_domain_per_hour: limit,
        })
    }
}

fn bounded<E: Error>(entries: usize) -> Result<(), E> {
    if entries > Policy::MAX_ENTRIES {
        let most = Policy::MAX_ENTRIES;
        return Err(E::custom(format_args!(
            "it has {entries} entries; at most {most} are allowed"
        )));
    }
    Ok(())
}

/// One entry of a list of domains.
#[derive(Deserialize)]
#[serde(try_from = "String")]
enum DomainEntry {
    Exact(EmailDomain),
    SubDomains(EmailDomain),
}

impl TryFrom<String> for DomainEntry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let entry = match text.strip_prefix("*.") {
            Some(parent) => EmailDomain::parse(parent).map(Self::SubDomains),
            None => EmailDomain::parse(&text).map(Self::Exact),
        };
        entry.map_err(|_| {
            format!(
                "{} is neither a domain, example.com, nor all sub-domains of one, *.example.com",
                quoted(&text)
            )
        })
    }
}

fn domains<'de, D: Deserializer<'de>>(json: D) -> Result<Domains, D::Error> {
    let entries = Vec::<DomainEntry>::deserialize(json)?;
    bounded(entries.len())?;
    let mut domains = Domains::default();
    for entry in entries {
        let (new, name) = match entry {
            DomainEntry::Exact(name) => (domains.exact.insert(name.clone()), format!("{name}")),
            DomainEntry::SubDomains(name) => {
                (domains.parents.insert(name.clone()), format!("*.{name}"))
            }
        };
        if !new {
            return Err(D::Error::custom(format_args!("{name} is listed twice")));
        }
    }
    Ok(domains)
}

/// An address as it stands in a list, with what it is in the error.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct AddressEntry(EmailAddress);

impl TryFrom<String> for AddressEntry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address = EmailAddress::parse(&text);
        address
            .map(Self)
            .map_err(|why| format!("{} is not an address: {why}", quoted(&text)))
    }
}

fn addresses<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<EmailAddress>, D::Error> {
    let entries = Vec::<AddressEntry>::deserialize(json)?;
    bounded(entries.len())?;
    Ok(entries.into_iter().map(|entry| entry.0).collect())
}

fn providers<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<IdentityProvider>, D::Error> {
    let providers = Vec::<IdentityProvider>::deserialize(json)?;
    bounded(providers.len())?;
    for (at, provider) in providers.iter().enumerate() {
        let earlier = &providers[..at];
        if earlier
            .iter()
            .any(|one| one.name.eq_ignore_ascii_case(&provider.name))
        {
            let name = quoted(&provider.name);
            return Err(D::Error::custom(format_args!("{name} is listed twice")));
        }
        if provider.domains.len() == 0 {
            let name = quoted(&provider.name);
            return Err(D::Error::custom(format_args!(
                "{name} has no domains: name those whose addresses it may assert"
            )));
        }
        if provider.client_id.is_some() && !speaks_openid_connect(&provider.issuer) {
            let name = quoted(&provider.name);
            return Err(D::Error::custom(format_args!(
                "{name} has a client_id, but {} is no issuer of OpenID Connect: give an https:// URL",
                quoted(&provider.issuer)
            )));
        }
    }
    Ok(providers)
}

/// Cognito's own rule for a provider's name, in ASCII: an underscore ends it in a user's name.
/// <https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_CreateIdentityProvider.html>
fn provider_name<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
    let name = String::deserialize(json)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    if (3..=32).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(D::Error::custom(format_args!(
        "{} is not a provider's name: 3 to 32 characters of A-Z, a-z, 0-9, . and -",
        quoted(&name)
    )))
}

/// An OpenID Connect issuer or the entity id of a SAML provider. It is only ever compared.
fn issuer<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
    let issuer = String::deserialize(json)?;
    let rest = ["https://", "http://", "urn:"]
        .iter()
        .find_map(|scheme| issuer.strip_prefix(scheme));
    if rest.is_some_and(|rest| {
        (1..=200).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_graphic())
    }) {
        return Ok(issuer);
    }
    Err(D::Error::custom(format_args!(
        "{} is not an issuer: https://, http:// or urn: and at most 200 visible ASCII characters",
        quoted(&issuer)
    )))
}

/// What Cognito takes for an issuer; and where a local stack has one, which needs no certificate on
/// the machine's own loopback.
fn speaks_openid_connect(issuer: &str) -> bool {
    ["https://", "http://127.0.0.1:"]
        .iter()
        .any(|scheme| issuer.starts_with(scheme))
}

fn client_id<'de, D: Deserializer<'de>>(json: D) -> Result<Option<String>, D::Error> {
    let id = String::deserialize(json)?;
    if (1..=200).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Some(id));
    }
    Err(D::Error::custom(format_args!(
        "{} is not a client's id: at most 200 visible ASCII characters",
        quoted(&id)
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn policy(fields: &Value) -> Result<Policy, InvalidPolicy> {
        let mut document = json!({
            "version": 1,
            "allowed_domains": ["example.com"],
            "plus_tags": "same_identity",
            "sign_ups_per_domain_per_hour": 10
        });
        for (name, value) in fields.as_object().unwrap() {
            document[name] = value.clone();
        }
        Policy::parse(&document.to_string())
    }

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    #[test]
    fn a_refusal_names_the_field_and_the_value() {
        let refusals = [
            json!({"allowed_domains": ["example.com", "*"]}),
            json!({"allowed_domains": []}),
            json!({"identity_providers": [{"name": "Acme", "issuer": "acme.example", "domains": ["example.com"], "auto_confirm": false}]}),
            json!({"allow_domains": ["example.com"]}),
            json!({"sign_ups_per_domain_per_hour": 0}),
            json!({"version": 2}),
        ]
        .map(|fields| policy(&fields).unwrap_err().to_string());
        insta::assert_snapshot!(refusals.join("\n"));
    }

    #[test]
    fn a_policy_that_does_not_fit_its_parameter_is_refused() {
        let many: Vec<String> = (0..101).map(|n| format!("d{n}.example")).collect();
        assert!(policy(&json!({"allowed_domains": many[..100]})).is_ok());
        assert!(policy(&json!({"allowed_domains": many})).is_err());
        let long = format!("{}{}", " ".repeat(Policy::MAX_BYTES), "{}");
        let refused = Policy::parse(&long).unwrap_err();
        assert!(refused.why.contains("8194 bytes"), "{refused}");
    }

    #[test]
    fn lists_in_place_of_objects_are_refused_although_serde_would_take_them() {
        assert!(Policy::parse(r#"[1,["example.com"],[],[],[],"distinct",5]"#).is_err());
        let provider = json!(["Acme", "https://acme.example", ["example.com"], true]);
        let refused = policy(&json!({"identity_providers": [provider]})).unwrap_err();
        assert_eq!(refused.field, "identity_providers[0]");
        assert!(policy(&json!({"plus_tags": {"distinct": null}})).is_err());
    }

    #[test]
    fn blocked_beats_allowed_whatever_allows_it() {
        let acme = json!({"name": "Acme", "issuer": "https://acme.example", "domains": ["example.com"], "auto_confirm": true});
        let policy = policy(&json!({
            "allowed_addresses": ["mallory@example.com"],
            "blocked_addresses": ["mallory@example.com"],
            "identity_providers": [acme],
            "plus_tags": "distinct"
        }))
        .unwrap();
        let acme = Source::ExternalProvider {
            name: "acme",
            issuer: None,
        };
        for source in [Source::SignUp, Source::AdminCreateUser, acme] {
            for text in ["mallory@example.com", "MALLORY+2@Example.com"] {
                assert_eq!(
                    judge(&policy, source, &address(text)),
                    Err(Denied::AddressBlocked)
                );
            }
            assert!(judge(&policy, source, &address("ada@example.com")).is_ok());
        }
    }

    #[test]
    fn who_is_blocked_where_nobody_may_sign_up_reads_like_everybody_there() {
        let policy = policy(&json!({"blocked_addresses": ["mallory@example.org"]})).unwrap();
        for text in ["mallory@example.org", "ada@example.org"] {
            let judged = judge(&policy, Source::SignUp, &address(text));
            assert_eq!(judged, Err(Denied::DomainNotAllowed), "{text}");
        }
    }

    #[test]
    fn sub_domains_that_one_entry_allows_are_counted_together() {
        let acme = json!({"name": "Acme", "issuer": "https://acme.example", "domains": ["*.acme.example"], "auto_confirm": true});
        let policy = policy(&json!({
            "allowed_domains": ["example.com", "*.example.org", "*.a.example.org", "mail.example.org"],
            "identity_providers": [acme]
        }))
        .unwrap();
        for (domain, with) in [
            ("example.com", "example.com"),
            ("one.example.org", "example.org"),
            ("one.two.example.org", "example.org"),
            ("one.a.example.org", "a.example.org"),
            ("mail.example.org", "mail.example.org"),
            ("one.acme.example", "acme.example"),
            ("example.net", "example.net"),
        ] {
            let domain = EmailDomain::parse(domain).unwrap();
            assert_eq!(policy.counted_with(&domain).as_str(), with);
        }
    }

    #[test]
    fn an_address_with_a_tag_that_is_not_wanted_is_nobodys() {
        let identity = |tags, text| {
            let policy =
                policy(&json!({"plus_tags": tags, "blocked_addresses": ["eve@example.com"]}));
            policy
                .unwrap()
                .identity(&address(text))
                .map(|one| one.to_string())
        };
        for (tags, text, says) in [
            ("same_identity", "Ada+x@example.com", Ok("ada@example.com")),
            ("distinct", "Ada+x@example.com", Ok("ada+x@example.com")),
            ("refused", "Ada+x@example.com", Err(Denied::PlusTagRefused)),
            ("refused", "Ada@example.com", Ok("ada@example.com")),
            ("distinct", "Eve+x@example.com", Err(Denied::AddressBlocked)),
        ] {
            assert_eq!(
                identity(tags, text),
                says.map(str::to_owned),
                "{tags} {text}"
            );
        }
    }

    #[test]
    fn a_provider_that_another_issuer_speaks_through_is_denied() {
        let acme = json!({"name": "Acme", "issuer": "https://acme.example", "domains": ["example.com"], "auto_confirm": true});
        let policy = policy(&json!({"identity_providers": [acme]})).unwrap();
        let through = |issuer| {
            let source = Source::ExternalProvider {
                name: "Acme",
                issuer,
            };
            judge(&policy, source, &address("ada@example.com"))
        };
        assert!(through(Some("https://acme.example")).is_ok_and(|verdict| verdict.auto_confirm));
        assert!(through(None).is_ok());
        assert_eq!(
            through(Some("https://evil.example")),
            Err(Denied::ProviderNotAllowed)
        );
    }

    proptest! {
        /// I6: whatever the text, an accepted policy lets in what it names and nothing else.
        #[test]
        fn only_what_is_named_is_allowed(
            local in "[a-z]{1,5}(\\+[a-z]{1,3})?",
            domain in "([a-z]{1,3}\\.){0,3}(example\\.com|example\\.org|xample\\.com|example\\.co)",
            tags in prop_oneof![Just("same_identity"), Just("distinct"), Just("refused")],
        ) {
            let policy = policy(&json!({
                "allowed_domains": ["example.com", "*.example.org"],
                "plus_tags": tags
            })).unwrap();
            let address = address(&format!("{local}@{domain}"));
            let allowed = judge(&policy, Source::SignUp, &address).is_ok();
            let named = domain == "example.com" || domain.ends_with(".example.org");
            let tag_is_fine = tags != "refused" || !local.contains('+');
            prop_assert_eq!(allowed, named && tag_is_fine);
        }

        #[test]
        fn no_text_is_a_panic(text in any::<String>()) {
            prop_assert!(Policy::parse(&text).is_err());
        }
    }
}

//! What is judged alike here and where the policy is deployed from: see `corpus/README.md`.

#![allow(clippy::unwrap_used, reason = "a test")]

use carapace_core::{
    email::{EmailAddress, EmailDomain},
    policy::{Denied, Policy, Source, judge},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Addresses {
    accepted: Vec<String>,
    hostile: Vec<Hostile>,
}

#[derive(Deserialize)]
struct Hostile {
    address: String,
    why: String,
}

#[derive(Deserialize)]
struct Document {
    name: String,
    text: String,
    accepted: bool,
    #[serde(default)]
    names: String,
    #[serde(default)]
    says: Vec<Says>,
}

#[derive(Deserialize)]
struct Says {
    source: String,
    issuer: Option<String>,
    address: String,
    verdict: String,
    identity: Option<String>,
    auto_confirm: Option<bool>,
}

fn addresses() -> Addresses {
    serde_json::from_str(include_str!("corpus/addresses.json")).unwrap()
}

fn policies() -> Vec<Document> {
    serde_json::from_str(include_str!("corpus/policies.json")).unwrap()
}

#[test]
fn plain_addresses_are_accepted() {
    for address in addresses().accepted {
        assert!(EmailAddress::parse(&address).is_ok(), "{address:?}");
    }
}

/// I6
#[test]
fn hostile_addresses_are_refused() {
    let hostile = addresses().hostile;
    assert!(hostile.len() >= 60);
    for Hostile { address, why } in hostile {
        let read = EmailAddress::parse(&address);
        assert!(read.is_err(), "{why}: {address:?} was read as {read:?}");
    }
}

#[test]
fn addresses_of_any_length_are_refused_at_once() {
    for address in [
        format!("{}@example.com", "a".repeat(1_000_000)),
        format!("a@{}example.com", "a.".repeat(1_000_000)),
        "@".repeat(1_000_000),
    ] {
        assert!(EmailAddress::parse(&address).is_err());
        assert!(EmailDomain::parse(&address).is_err());
    }
}

#[test]
fn policies_are_accepted_or_refused_as_written_down() {
    for Document {
        name,
        text,
        accepted,
        names,
        ..
    } in policies()
    {
        match Policy::parse(&text) {
            Ok(_) => assert!(accepted, "{name}: accepted {text}"),
            Err(refused) => {
                let refused = refused.to_string();
                assert!(!accepted, "{name}: {refused}");
                assert!(
                    refused.contains(&names),
                    "{name}: {refused} does not name {names}"
                );
                assert!(refused.len() < 1000, "{name}: {refused}");
            }
        }
    }
}

#[test]
fn accepted_policies_say_of_addresses_what_is_written_down() {
    let mut said = 0;
    for Document {
        name, text, says, ..
    } in policies()
    {
        for says in says {
            let policy = Policy::parse(&text).unwrap();
            let source = match &*says.source {
                "SignUp" => Source::SignUp,
                "AdminCreateUser" => Source::AdminCreateUser,
                provider => Source::ExternalProvider {
                    name: provider,
                    issuer: says.issuer.as_deref(),
                },
            };
            let address = EmailAddress::parse(&says.address).unwrap();
            let judged = judge(&policy, source, &address);
            let verdict = match &judged {
                Ok(_) => "allowed",
                Err(Denied::AddressBlocked) => "AddressBlocked",
                Err(Denied::PlusTagRefused) => "PlusTagRefused",
                Err(Denied::DomainNotAllowed) => "DomainNotAllowed",
                Err(Denied::ProviderNotAllowed) => "ProviderNotAllowed",
            };
            let about = format!("{name}: {} from {}", says.address, says.source);
            assert_eq!(verdict, says.verdict, "{about}");
            if let Ok(verdict) = judged {
                let identity = verdict.identity.as_str();
                assert_eq!(
                    identity,
                    says.identity.as_deref().unwrap_or(identity),
                    "{about}"
                );
                let confirm = verdict.auto_confirm;
                assert_eq!(confirm, says.auto_confirm.unwrap_or(confirm), "{about}");
            }
            said += 1;
        }
    }
    assert!(said >= 40, "{said}");
}

//! Whatever the text, what the parser accepts has one reading.
#![no_main]

use carapace_core::email::{EmailAddress, PlusTags};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|text: &str| -> Corpus {
    let Ok(address) = EmailAddress::parse(text) else {
        return Corpus::Keep;
    };
    let listed = |c: char| c.is_ascii_alphanumeric() || "_+-'.@".contains(c);
    assert!(text.chars().all(listed), "a character that is not listed");
    assert!(text.len() <= 254 && text.matches('@').count() == 1);
    let (_, domain) = text.rsplit_once('@').expect("one @");
    assert_eq!(address.domain().as_str(), domain.to_ascii_lowercase());
    assert_eq!(
        EmailAddress::parse(&address.to_string()),
        Ok(address.clone())
    );
    for tags in [
        PlusTags::SameIdentity,
        PlusTags::Distinct,
        PlusTags::Refused,
    ] {
        let canonical = address.canonical(tags);
        let again = EmailAddress::parse(canonical.as_str()).expect("canonical is an address");
        assert_eq!(again.canonical(tags), canonical);
        assert_eq!(again.domain(), address.domain());
        assert!(tags == PlusTags::Distinct || !again.is_tagged());
    }
    Corpus::Keep
});

//! Whatever the policy, it does not let in a domain that stands nowhere in it.
#![no_main]

use carapace_core::{
    email::EmailAddress,
    policy::{Policy, Source, judge},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(policy) = Policy::parse(text) else {
        return;
    };
    let stranger = EmailAddress::parse("eve@nowhere.invalid").expect("an address");
    let named = text.to_ascii_lowercase().contains("invalid") || text.contains('\\');
    for source in [
        Source::SignUp,
        Source::AdminCreateUser,
        Source::ExternalProvider {
            name: "Acme",
            issuer: None,
        },
    ] {
        assert!(named || judge(&policy, source, &stranger).is_err());
    }
});

use super::*;

const ALLOWED: &str = "example.com, example.org";

fn trigger() -> PreSignUp {
    PreSignUp {
        allowed: ALLOWED.parse().unwrap(),
    }
}

fn event(source: &str, email: &str) -> Value {
    json!({
        "version": "1",
        "region": "us-east-1",
        "userPoolId": "us-east-1_Pool",
        "userName": "4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f",
        "callerContext": {"awsSdkVersion": "aws-sdk-unknown-unknown", "clientId": "client"},
        "triggerSource": source,
        "request": {
            "userAttributes": {"email": email, "name": "Ada"},
            "validationData": null,
            "aFieldOfTomorrow": true
        },
        "response": {"autoConfirmUser": false, "autoVerifyEmail": false, "autoVerifyPhone": false}
    })
}

fn sign_up(email: &str) -> Result<Value, SignUpDenied> {
    trigger().answer(event("PreSignUp_SignUp", email))
}

#[test]
fn an_address_at_an_allowed_domain_may_sign_up_and_is_neither_confirmed_nor_verified() {
    let asked = event("PreSignUp_SignUp", "ada@example.com");
    assert_eq!(trigger().answer(asked.clone()).unwrap(), asked);
    for email in [
        "a@example.org",
        "Ada.L+claw@EXAMPLE.com",
        "o'neil@example.com",
        "a_b-c@example.com",
    ] {
        assert!(sign_up(email).is_ok(), "{email}");
    }
}

/// Whoever can put something into the event before us can't have an account confirmed by it.
#[test]
fn nobody_is_confirmed_or_verified_whatever_the_event_says() {
    for response in [
        json!({"autoConfirmUser": true, "autoVerifyEmail": true, "autoVerifyPhone": true}),
        json!({}),
        json!(null),
        json!("yes"),
    ] {
        let mut asked = event("PreSignUp_SignUp", "ada@example.com");
        asked["response"] = response;
        let answer = trigger().answer(asked).unwrap();
        assert_eq!(
            answer["response"],
            json!({"autoConfirmUser": false, "autoVerifyEmail": false, "autoVerifyPhone": false})
        );
    }
}

/// Each address, and what somebody might hope for who gives it.
const HOSTILE: &[(&str, &str)] = &[
    ("", "no address at all"),
    ("ada", "no domain"),
    ("@example.com", "no mailbox"),
    ("ada@", "no domain after the @"),
    (
        "ada@evil.com@example.com",
        "a reader that takes the first @",
    ),
    ("ada@example.com@evil.com", "a reader that takes the last @"),
    ("\"ada@evil.com\"@example.com", "a quoted local part"),
    ("\"ada\"@example.com", "a quoted local part without need"),
    ("ada@example.com,ada@evil.com", "a list of two"),
    ("ada@evil.com,ada@example.com", "a list of two, ours last"),
    ("ada@evil.com ada@example.com", "two with a space"),
    ("Ada <ada@example.com>", "a display name"),
    ("<ada@example.com>", "angle brackets"),
    (
        "<ada@evil.com>ada@example.com",
        "a display name that is an address",
    ),
    ("ada(@evil.com)@example.com", "a comment"),
    ("ada@example.com(evil.com)", "a comment after the domain"),
    ("ada@(evil)example.com", "a comment before the domain"),
    ("@evil.com:ada@example.com", "a source route"),
    (
        "ada%evil.com@example.com@evil.com",
        "the percent hack with a second domain",
    ),
    (
        "evil.com!ada@example.com ",
        "a bang path and a trailing space",
    ),
    (" ada@example.com", "a leading space"),
    ("ada@example.com ", "a trailing space"),
    ("ada@ example.com", "a space in the domain"),
    ("ada @example.com", "a space before the @"),
    ("ada@example.com\n", "a line end"),
    ("ada@example.com\r\nBcc: ada@evil.com", "a header injection"),
    ("ada@example.com\0.evil.com", "a NUL that ends strings in C"),
    (
        "ada@evil.com\0@example.com",
        "a NUL that hides the real domain",
    ),
    ("ada@example.com\t", "a tab"),
    (
        "ada@example.com.evil.com",
        "our domain as a sub-domain of another",
    ),
    ("ada@evil-example.com", "our domain as the end of another"),
    (
        "ada@evilexample.com",
        "our domain as the end of another, without a dash",
    ),
    (
        "ada@mail.example.com",
        "a sub-domain: whoever runs it may not run the domain",
    ),
    ("ada@example.com.", "the root's dot"),
    ("ada@.example.com", "an empty label"),
    ("ada@example..com", "an empty label within"),
    ("ada@-example.com", "a label that begins with a dash"),
    ("ada@example-.com", "a label that ends with one"),
    ("ada@example.comx", "a longer top-level domain"),
    ("ada@example.co", "a shorter one"),
    ("ada@example", "no top-level domain"),
    ("ada@еxample.com", "a Cyrillic е"),
    ("ada@example．com", "a full-width dot, which some normalise"),
    ("ada@ｅxample.com", "a full-width letter"),
    ("ada＠evil.com@example.com", "a full-width @"),
    (
        "ada@xn--xample-9uf.com",
        "the Cyrillic look-alike in its ASCII form",
    ),
    ("ada@exam\u{200b}ple.com", "a zero-width space"),
    (
        "ada@example.com\u{202e}",
        "an override of the writing direction",
    ),
    ("ａda@example.com", "a full-width letter in the mailbox"),
    ("ada@[192.0.2.1]", "an address literal"),
    ("ada@[IPv6:2001:db8::1]", "an IPv6 literal"),
    ("ada@192.0.2.1", "a bare IP address"),
    ("ada@example.com:25", "a port"),
    ("ada@example.com/evil", "a path"),
    ("ada@example.com?to=evil.com", "a query"),
    ("ada@example.com#evil", "a fragment"),
    ("ada@example.com;evil.com", "a separator of some clients"),
    ("mailto:ada@example.com", "a URI"),
    (".ada@example.com", "a leading dot"),
    ("ada.@example.com", "a trailing dot"),
    ("a..da@example.com", "two dots"),
    ("a\\@b@example.com", "an escaped @"),
    ("ada@example.com\\", "a backslash"),
    ("ada@exam ple.com", "a space in a label"),
    ("ada@example_.com", "an underscore, which is no host name"),
    ("ada@*.com", "a wild card"),
    ("ada@evil.com", "plainly another domain"),
];

/// I6
#[test]
fn hostile_addresses_are_denied() {
    for (email, hope) in HOSTILE {
        let answer = sign_up(email);
        assert!(
            matches!(
                answer,
                Err(SignUpDenied::AddressNotAccepted | SignUpDenied::DomainNotAllowed)
            ),
            "{hope}: {email:?} {answer:?}"
        );
    }
    let long = [
        format!("{}@example.com", "a".repeat(65)),
        format!("{}@example.com", "a".repeat(100_000)),
        format!("a@{}.example.com", "a.".repeat(200)),
    ];
    for email in long {
        assert!(sign_up(&email).is_err(), "{} bytes", email.len());
    }
}

#[test]
fn an_administrator_is_bound_by_the_same_list() {
    let create = |email| trigger().answer(event("PreSignUp_AdminCreateUser", email));
    assert!(create("ada@example.com").is_ok());
    assert_eq!(create("ada@evil.com"), Err(SignUpDenied::DomainNotAllowed));
    assert_eq!(create("ada"), Err(SignUpDenied::AddressNotAccepted));
}

#[test]
fn no_identity_provider_is_trusted_with_addresses() {
    let answer = trigger().answer(event("PreSignUp_ExternalProvider", "ada@example.com"));
    assert_eq!(answer, Err(SignUpDenied::ProviderNotAllowed));
}

/// I6: unknown means deny, and nothing that comes in is a panic.
#[test]
fn events_that_cognito_does_not_send_are_denied() {
    let good = event("PreSignUp_SignUp", "ada@example.com");
    let without = |field: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(field);
        event
    };
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    let attributes = |attributes: Value| with("request", json!({"userAttributes": attributes}));
    for event in [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!("PreSignUp_SignUp"),
        json!({"response": {}}),
        without("response"),
        without("request"),
        without("triggerSource"),
        with("triggerSource", json!(null)),
        with("triggerSource", json!("PreSignUp_Tomorrow")),
        with("triggerSource", json!("PreTokenGeneration_Authentication")),
        with("request", json!(null)),
        attributes(json!({"email": ["ada@example.com"]})),
        attributes(json!({"email": null})),
        attributes(json!({"email": {"S": "ada@example.com"}})),
        attributes(json!("ada@example.com")),
    ] {
        assert_eq!(
            trigger().answer(event.clone()),
            Err(SignUpDenied::MalformedEvent),
            "{event}"
        );
    }
    for event in [
        attributes(json!({})),
        attributes(json!(null)),
        attributes(json!({"Email": "ada@example.com"})),
        attributes(json!({"phone_number": "+491234567"})),
    ] {
        assert_eq!(
            trigger().answer(event.clone()),
            Err(SignUpDenied::AddressNotAccepted),
            "{event}"
        );
    }
}

/// What a person reads on the sign-up page, and the names behind it.
#[test]
fn denials_speak_to_the_person_and_repeat_nothing_they_sent() {
    let denials = [
        sign_up("<script>@example.com"),
        sign_up("ada@evil.com"),
        trigger().answer(event("PreSignUp_ExternalProvider", "ada@example.com")),
        trigger().answer(json!({})),
    ]
    .map(|answer| {
        let shown = Diagnostic::from(answer.unwrap_err());
        format!("{}: {}", shown.error_type, shown.error_message)
    });
    insta::assert_snapshot!(denials.join("\n"));
}

//! `pre-token`: what every token says of its user, and the word that somebody signed in.
//!
//! Cognito asks before it makes tokens and makes none if the answer is an error or late. Nothing
//! here is worth that: a sign-in that can't be announced is announced by the next, so what does not
//! work within the time is left, logged and counted.

use std::time::Duration;

use carapace_core::{
    EventId, Sub, UserKey,
    event::{UserSignedIn, VERSION},
    identity::SignIns,
    ports::Clock,
};
use serde_json::{Value, json};

/// How long the bus may take. The user is waiting.
pub const WITHIN: Duration = Duration::from_millis(300);

/// The claim with which other parts of the platform recognise a user.
pub const CLAIM: &str = "carapace:user_key";

/// The triggers behind which a person is: they gave a password, a passkey or a code. Tokens that
/// are only made anew are no sign-in.
const SIGN_INS: &[&str] = &[
    "TokenGeneration_HostedAuth",
    "TokenGeneration_Authentication",
    "TokenGeneration_NewPasswordChallenge",
    "TokenGeneration_AuthenticateDevice",
];

/// The trigger.
pub struct PreToken<S, C, M> {
    /// Where sign-ins are announced.
    pub sign_ins: S,
    /// The clock.
    pub clock: C,
    /// Takes a metric, one line of JSON in CloudWatch's embedded metric format.
    pub metric: M,
    /// How long an announcement may take.
    pub within: Duration,
}

impl<S: SignIns, C: Clock, M: Fn(&Value)> PreToken<S, C, M> {
    /// Answers one event: itself, with the claim. An event that nothing can be made of is answered
    /// as it came.
    pub async fn handle(&self, mut event: Value, request_id: &str) -> Value {
        let Some((user, sub)) = user_of(&event) else {
            tracing::error!("the event names no user: tokens are made without the claim");
            self.count("TokensWithoutUserKey");
            return event;
        };
        add_claim(&mut event, &user);
        if event["triggerSource"]
            .as_str()
            .is_some_and(|trigger| SIGN_INS.contains(&trigger))
        {
            self.announce(user, &sub, request_id).await;
        }
        event
    }

    async fn announce(&self, user_key: UserKey, sub: &str, request_id: &str) {
        let Ok(sub) = Sub::parse(sub) else {
            tracing::error!(%user_key, "the user pool gives the account a sub that is none");
            self.count("SignInSignalsLost");
            return;
        };
        let Ok(id) = EventId::parse(format!("sign-in.{request_id}")) else {
            tracing::error!("the invocation has no id that an event could have");
            self.count("SignInSignalsLost");
            return;
        };
        let sign_in = UserSignedIn {
            version: VERSION,
            id,
            at: self.clock.now(),
            user_key,
            sub,
            correlation_id: None,
        };
        let user_key = &sign_in.user_key;
        match tokio::time::timeout(self.within, self.sign_ins.announce(&sign_in)).await {
            Ok(Ok(())) => tracing::info!(%user_key, "a user signed in"),
            Ok(Err(trouble)) => {
                tracing::error!(%user_key, %trouble, "a sign-in is not announced");
                self.count("SignInSignalsLost");
            }
            Err(_) => {
                tracing::error!(%user_key, "a sign-in is not announced: the time is up");
                self.count("SignInSignalsLost");
            }
        }
    }

    fn count(&self, name: &str) {
        (self.metric)(&json!({
            "_aws": {
                "Timestamp": self.clock.now().as_millisecond(),
                "CloudWatchMetrics": [{
                    "Namespace": "Carapace",
                    "Dimensions": [[]],
                    "Metrics": [{ "Name": name, "Unit": "Count" }],
                }],
            },
            name: 1,
        }));
    }
}

/// The user, and what the user pool calls them.
fn user_of(event: &Value) -> Option<(UserKey, String)> {
    let text = |pointer: &str| {
        let text = event.pointer(pointer)?.as_str()?;
        (!text.is_empty()).then_some(text)
    };
    let sub = text("/request/userAttributes/sub")?;
    let user = UserKey::derive(text("/userPoolId")?, sub);
    Some((user, sub.to_owned()))
}

/// Adds the claim beside whatever the answer says already. Version 2 of the event knows scopes and
/// has a place for each token; version 1 has one, for the ID token.
fn add_claim(event: &mut Value, user: &UserKey) {
    let two = event["version"]
        .as_str()
        .is_some_and(|version| version != "1")
        || event.pointer("/request/scopes").is_some()
        || event
            .pointer("/response/claimsAndScopeOverrideDetails")
            .is_some();
    let response = object(event, "response");
    if two {
        let details = object(response, "claimsAndScopeOverrideDetails");
        for token in ["idTokenGeneration", "accessTokenGeneration"] {
            let token = object(details, token);
            object(token, "claimsToAddOrOverride")[CLAIM] = json!(user);
        }
    } else {
        let details = object(response, "claimsOverrideDetails");
        object(details, "claimsToAddOrOverride")[CLAIM] = json!(user);
    }
}

/// The object in this field of an object, which is made one if it is none.
fn object<'a>(parent: &'a mut Value, field: &str) -> &'a mut Value {
    let value = &mut parent[field];
    if !value.is_object() {
        *value = json!({});
    }
    value
}

#[cfg(test)]
mod tests;

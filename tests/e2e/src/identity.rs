//! People: signing up, confirming, signing in, through the calls that the sign-up page makes.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use carapace_core::UserKey;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::aws;
use crate::{Platform, eventually};

/// Long enough for the pool's policy, and worth nothing: it only ever lives in a local stack.
const PASSWORD: &str = "Correct-Horse-7-Battery";

/// A person who has signed in.
#[derive(Clone, Debug)]
pub struct User {
    /// The address that was confirmed.
    pub email: String,
    /// Cognito's immutable id.
    pub sub: String,
    /// What the platform knows them by.
    pub key: UserKey,
    /// What the ID token says of them.
    pub id_token: Value,
    /// What the access token says of them.
    pub access_token: Value,
}

impl Platform {
    /// Signs up with an address. Refusals come back as the error that the sign-up page gets.
    pub fn sign_up(&self, email: &str) -> Result<Value> {
        let input = json!({
            "ClientId": self.output("CarapaceIdentity", "UserPoolClientId")?,
            "Username": email,
            "Password": PASSWORD,
            "UserAttributes": [{ "Name": "email", "Value": email }],
        });
        self.aws.call_unsigned(aws::COGNITO, "SignUp", &input)
    }

    /// Confirms a sign-up with the code that was sent to the address.
    pub fn confirm(&self, email: &str) -> Result<()> {
        let code = self.code_sent_to(email)?;
        let input = json!({
            "ClientId": self.output("CarapaceIdentity", "UserPoolClientId")?,
            "Username": email,
            "ConfirmationCode": code,
        });
        self.aws
            .call_unsigned(aws::COGNITO, "ConfirmSignUp", &input)?;
        Ok(())
    }

    /// Signs in and reads who that is from the tokens.
    pub fn sign_in(&self, email: &str) -> Result<User> {
        let input = json!({
            "ClientId": self.output("CarapaceIdentity", "UserPoolClientId")?,
            "AuthFlow": "USER_PASSWORD_AUTH",
            "AuthParameters": { "USERNAME": email, "PASSWORD": PASSWORD },
        });
        let answer = self
            .aws
            .call_unsigned(aws::COGNITO, "InitiateAuth", &input)?;
        let id_token = claims(&aws::string(&answer, "/AuthenticationResult/IdToken")?)?;
        let access_token = claims(&aws::string(&answer, "/AuthenticationResult/AccessToken")?)?;
        let sub = aws::string(&id_token, "/sub")?;
        Ok(User {
            email: email.to_owned(),
            key: UserKey::derive(self.output("CarapaceIdentity", "UserPoolId")?, &sub),
            sub,
            id_token,
            access_token,
        })
    }

    /// Signs up, confirms and signs in with a new address inside the allowed domain.
    pub fn new_user(&self, name: &str) -> Result<User> {
        let email = format!(
            "{name}-{}@example.com",
            ulid::Ulid::generate().to_string().to_lowercase()
        );
        self.sign_up(&email)?;
        self.confirm(&email)?;
        self.sign_in(&email)
    }

    /// The newest code in an e-mail to this address, read from the local AWS's outbox.
    fn code_sent_to(&self, email: &str) -> Result<String> {
        let newest = || {
            let outbox = self.aws.local("/_ministack/ses/messages")?;
            let messages = outbox["messages"][&self.info.account].as_array();
            let mut to_them = messages
                .into_iter()
                .flatten()
                .filter(|m| m["To"][0] == email);
            Ok(to_them
                .next_back()
                .and_then(|m| m["BodyText"].as_str())
                .and_then(first_code))
        };
        let what = format!("an e-mail with a code to {email}");
        eventually(&what, Duration::from_secs(10), newest, Option::is_some)?
            .ok_or_else(|| anyhow!("no code was sent to {email}"))
    }
}

/// What a token says.
fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1);
    let payload = payload.ok_or_else(|| anyhow!("not a token: {token}"))?;
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes())?)
        .context("reading a token's claims")
}

/// The first run of exactly six digits.
fn first_code(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_digit())
        .find(|run| run.len() == 6)
        .map(str::to_owned)
}

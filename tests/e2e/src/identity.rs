//! People: signing up, confirming, signing in, through the calls that the sign-up page makes; what an
//! administrator does to them; and how they come in through another organisation's identity provider.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use carapace_core::UserKey;
use carapace_core::policy::Policy;
use carapace_local::StackInfo;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use crate::aws::{self, Aws};
use crate::{Platform, eventually};

/// Long enough for the pool's policy, and worth nothing: it only ever lives in a local stack.
const PASSWORD: &str = "Correct-Horse-7-Battery";

/// The sign-up policy of every local stack, as `cdk deploy` is given it.
pub const POLICY: &str = include_str!("../../local/values/sign-up-policy.json");

/// Where Cognito sends people back to who come from the sign-in page or from another provider: what
/// `callbackUrls` is if nothing else is said. Nothing listens there; it is read where it leads.
const CALLBACK: &str = "http://localhost:8400/callback";

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
    /// What new tokens are had for.
    pub refresh_token: String,
}

/// Cognito sent somebody back who came through another identity provider, and says why.
#[derive(Clone, Debug)]
pub struct SentBack {
    /// OAuth's name for it.
    pub error: String,
    /// The words beside it.
    pub description: String,
}

impl std::fmt::Display for SentBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.error, self.description)
    }
}

impl std::error::Error for SentBack {}

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
        let token = |name| aws::string(&answer["AuthenticationResult"], name);
        self.user(
            &token("/IdToken")?,
            &token("/AccessToken")?,
            token("/RefreshToken")?,
        )
    }

    /// Has new tokens made, as a client does before the old ones end.
    pub fn refresh(&self, user: &User) -> Result<Value> {
        let input = json!({
            "ClientId": self.output("CarapaceIdentity", "UserPoolClientId")?,
            "AuthFlow": "REFRESH_TOKEN_AUTH",
            "AuthParameters": { "REFRESH_TOKEN": user.refresh_token },
        });
        self.aws.call_unsigned(aws::COGNITO, "InitiateAuth", &input)
    }

    /// Does something to an account, as an administrator with AWS credentials does: `AdminDisableUser`
    /// for instance. `more` is what the operation takes beside the pool and the user's name.
    pub fn administer(&self, operation: &str, username: &str, more: Value) -> Result<Value> {
        let mut input = more;
        input["UserPoolId"] = json!(self.output("CarapaceIdentity", "UserPoolId")?);
        input["Username"] = json!(username);
        self.aws.call(aws::COGNITO, operation, &input)
    }

    /// Makes an account for an address, as an administrator does who knows whose it is.
    pub fn admin_create_user(&self, email: &str) -> Result<Value> {
        let attributes = json!([
            { "Name": "email", "Value": email },
            { "Name": "email_verified", "Value": "true" },
        ]);
        self.administer(
            "AdminCreateUser",
            email,
            json!({
                "UserAttributes": attributes,
                "MessageAction": "SUPPRESS",
                "TemporaryPassword": format!("{PASSWORD}-for-a-day"),
            }),
        )
    }

    /// Gives an account the password that [`Platform::sign_in`] has.
    pub fn set_password(&self, email: &str) -> Result<()> {
        let more = json!({ "Password": PASSWORD, "Permanent": true });
        self.administer("AdminSetUserPassword", email, more)?;
        Ok(())
    }

    /// Where Cognito awaits people who come back from another identity provider.
    pub fn provider_redirect_uri(&self) -> Result<String> {
        let endpoint = self.aws_endpoint()?;
        // The user pool has no domain: it is at the local AWS's own name.
        Ok(format!(
            "{}/oauth2/idpresponse",
            endpoint.replace("127.0.0.1", "localhost")
        ))
    }

    /// Signs in through another identity provider, step by step as a browser is led: to Cognito, to the
    /// provider, which knows them by this cookie, back to Cognito, and back to the client with a code.
    /// Refusals come back as [`SentBack`].
    pub fn sign_in_through(&self, provider: &str, cookie: &str) -> Result<User> {
        let client = self.output("CarapaceIdentity", "UserPoolClientId")?;
        let endpoint = self.aws_endpoint()?;
        let browser: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let (state, verifier) = (
            Ulid::generate().to_string(),
            format!("{0}{0}", Ulid::generate()),
        );
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(&verifier));
        let asked = query(&[
            ("identity_provider", provider),
            ("client_id", client),
            ("response_type", "code"),
            ("redirect_uri", CALLBACK),
            ("scope", "openid email"),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let at_provider = redirected(
            &browser,
            &format!("{endpoint}/oauth2/authorize?{asked}"),
            "",
        )?;
        let at_cognito = redirected(&browser, &at_provider, cookie)?;
        let back = redirected(&browser, &at_cognito, "")?;
        ensure!(back.starts_with(&format!("{CALLBACK}?")), "sent to {back}");
        ensure!(
            parameter(&back, "state").as_ref() == Some(&state),
            "the client does not know this as its own sign-in: {back}"
        );
        let Some(code) = parameter(&back, "code") else {
            return Err(SentBack {
                error: parameter(&back, "error").unwrap_or_default(),
                description: parameter(&back, "error_description").unwrap_or_default(),
            }
            .into());
        };
        let mut answer = browser
            .post(format!("{endpoint}/oauth2/token"))
            .content_type("application/x-www-form-urlencoded")
            .send(query(&[
                ("grant_type", "authorization_code"),
                ("client_id", client),
                ("code", &code),
                ("redirect_uri", CALLBACK),
                ("code_verifier", &verifier),
            ]))?;
        let answer: Value = answer.body_mut().read_json()?;
        let token = |name| aws::string(&answer, name);
        self.user(
            &token("/id_token")?,
            &token("/access_token")?,
            token("/refresh_token")?,
        )
    }

    fn aws_endpoint(&self) -> Result<&str> {
        let endpoint = self.info.aws_endpoint.as_deref();
        endpoint.context("this stack was started without AWS")
    }

    /// Who that is, from their tokens.
    fn user(&self, id_token: &str, access_token: &str, refresh_token: String) -> Result<User> {
        let id_token = claims(id_token)?;
        let sub = aws::string(&id_token, "/sub")?;
        Ok(User {
            email: aws::string(&id_token, "/email")?,
            key: UserKey::derive(self.output("CarapaceIdentity", "UserPoolId")?, &sub),
            sub,
            access_token: claims(access_token)?,
            id_token,
            refresh_token,
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

/// The sign-up policy of every local stack.
pub fn policy() -> Result<Policy> {
    Ok(POLICY.parse()?)
}

/// Puts the secret of each identity provider that the policy lists where `cdk deploy` looks for it: what
/// an operator does with what the provider gave them. It is random, and stays if it is there.
pub fn store_provider_secrets(info: &StackInfo) -> Result<()> {
    let endpoint = info.aws_endpoint.as_deref();
    let endpoint = endpoint.context("this stack was started without AWS")?;
    let (key, secret) = (&info.access_key_id, &info.secret_access_key);
    let aws = Aws::new(endpoint, &info.region, key, secret);
    let policy: Value = serde_json::from_str(POLICY)?;
    for provider in policy["identity_providers"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let value = json!({ "client_secret": Ulid::generate().to_string() });
        let input = json!({
            "Name": format!("carapace/identity-provider/{}", aws::string(provider, "/name")?),
            "SecretString": value.to_string(),
        });
        match aws.call(aws::SECRETS, "CreateSecret", &input) {
            Err(error) if aws::error_code(&error) != Some("ResourceExistsException") => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

fn query(parameters: &[(&str, &str)]) -> String {
    let pairs = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", aws::percent(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Where a browser is sent that asks for this.
fn redirected(browser: &ureq::Agent, url: &str, cookie: &str) -> Result<String> {
    let mut request = browser.get(url);
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    let mut answer = request.call().with_context(|| format!("GET {url}"))?;
    let location = answer.headers().get("location").cloned();
    let Some(location) = location else {
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        bail!("GET {url} answered {}: {text}", answer.status());
    };
    Ok(location.to_str()?.to_owned())
}

/// A parameter of a URL's query.
fn parameter(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, value) = pairs.find(|(key, _)| key == name)?;
    Some(value.into_owned())
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

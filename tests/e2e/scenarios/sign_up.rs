//! Who may have an agent.

use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use carapace_core::email::EmailAddress;
use carapace_core::identity::{IdentityKey, hour};
use carapace_e2e::aws;
use carapace_e2e::identity::{self, SentBack, User};
use carapace_stand_ins::oidc::{COOKIE, Provider, Settings};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Scenario;
use crate::world::{SOON, World};

pub(crate) const ALL: &[Scenario] = &[
    (
        "an_address_outside_the_allowed_domain_is_refused_with_a_reason",
        outside_the_domain,
    ),
    ("a_look_alike_of_the_allowed_domain_is_refused", look_alikes),
    (
        "an_address_inside_the_allowed_domain_signs_in_once_its_code_is_confirmed",
        inside_the_domain,
    ),
    (
        "a_mailbox_has_one_account_however_its_address_is_written",
        second_account,
    ),
    (
        "every_token_names_its_users_key_and_the_sign_in_is_on_the_bus",
        tokens,
    ),
    (
        "of_ten_sign_ups_at_once_as_many_pass_as_the_domains_limit_leaves",
        crowd,
    ),
    (
        "a_disabled_user_is_locked_out_and_has_no_second_account",
        disabled,
    ),
    (
        "an_administrator_makes_accounts_for_whom_the_policy_names_and_nobody_else",
        made_by_an_administrator,
    ),
    (
        "a_listed_identity_provider_lets_its_own_people_in",
        through_a_partner,
    ),
    (
        "an_identity_provider_lets_nobody_in_whom_the_policy_does_not_name",
        not_through_a_partner,
    ),
];

fn outside_the_domain(world: &World) -> Result<()> {
    refused_for(world.sign_up("mallory@elsewhere.example"), ELSEWHERE)
}

/// I6: what is not known to be allowed is denied.
fn look_alikes(world: &World) -> Result<()> {
    for address in [
        "mallory@example.com.evil.example",
        "mallory@sub.example.com",
        "mallory@example.com@evil.example",
        "mallory@xexample.com",
        "mallory@example.co",
    ] {
        ensure!(world.sign_up(address).is_err(), "{address} was accepted");
    }
    Ok(())
}

fn inside_the_domain(world: &World) -> Result<()> {
    let email = format!("{}@example.com", unique("grace"));
    let answer = world.sign_up(&email)?;
    ensure!(
        answer["UserConfirmed"] == false,
        "the mailbox was not asked to prove itself: {answer:#}"
    );
    ensure!(
        world.sign_in(&email).is_err(),
        "signed in without a confirmed mailbox"
    );
    world.confirm(&email)?;
    let user = world.sign_in(&email)?;
    ensure!(user.key.to_string().len() == 20);
    Ok(())
}

fn second_account(world: &World) -> Result<()> {
    let mailbox = unique("joan");
    let email = format!("{mailbox}@example.com");
    world.sign_up(&email)?;
    world.confirm(&email)?;
    for again in [
        format!("{mailbox}+2@example.com"),
        format!("{}+Claw@Example.com", mailbox.to_uppercase()),
    ] {
        refused_for(world.sign_up(&again), TAKEN)?;
    }
    world.sign_in(&email)?;
    Ok(())
}

fn tokens(world: &World) -> Result<()> {
    let user = world.new_user("mary")?;
    named(&user)?;
    let tap = world.tap(&user.key)?;
    world.sign_in(&user.email)?;
    let event = tap.expect("User Signed In", SOON)?;
    ensure!(event["source"] == "carapace.signup", "{event:#}");
    Ok(())
}

/// I6. The limit is one number for all domains, so this one's counter is put where it leaves four. That
/// four of ten pass, and no more, is what one conditional write for each makes of it.
fn crowd(world: &World) -> Result<()> {
    const DOMAIN: &str = "crowd.example";
    const LEFT: u32 = 4;
    let most = identity::policy()?.sign_ups_per_domain_per_hour();
    let counter = |hour| format!("RATE#{DOMAIN}#{hour}");
    let all = loop {
        let now = hour(Timestamp::now());
        let item = json!({
            "pk": { "S": counter(now) }, "sk": { "S": "SIGN_UPS" },
            "sign_ups": { "N": (most - LEFT).to_string() },
            "ttl": { "N": ((now + 25) * 3600).to_string() },
        });
        let input = json!({ "TableName": world.control_plane("TableName")?, "Item": item });
        world.aws.call(aws::DYNAMODB, "PutItem", &input)?;
        let answers = thread::scope(|scope| {
            let people: Vec<_> = (0..10)
                .map(|_| scope.spawn(|| world.sign_up(&format!("{}@{DOMAIN}", unique("one")))))
                .collect();
            let answers = people.into_iter().map(thread::ScopedJoinHandle::join);
            answers.collect::<Result<Vec<_>, _>>()
        });
        let answers = answers.map_err(|_| anyhow!("a sign-up panicked"))?;
        // They have to be of one hour, or they are counted in two.
        if hour(Timestamp::now()) == now {
            let item = world.item(&counter(now), "SIGN_UPS")?;
            let counted = item.as_ref().map(|item| &item["sign_ups"]["N"]);
            ensure!(
                counted == Some(&json!(most.to_string())),
                "of {most} the counter holds {counted:?}"
            );
            break answers;
        }
    };
    let (passed, denied): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let words = denied.iter().map(|error| format!("{error:?}"));
    let words = words.collect::<Vec<_>>().join("\n");
    ensure!(
        passed.len() == LEFT as usize,
        "{} passed; the others: {words}",
        passed.len()
    );
    for error in denied {
        refused_for(error, "not possible at the moment. Please try again later")?;
    }
    // Whoever is of another domain does not notice.
    world.new_user("edith")?;
    Ok(())
}

/// I6: who is banned stays banned, and comes back as who they were.
fn disabled(world: &World) -> Result<()> {
    let user = world.new_user("mallory")?;
    world.refresh(&user)?;
    world.administer("AdminDisableUser", &user.email, json!({}))?;
    for answer in [
        world.sign_in(&user.email).map(drop),
        world.refresh(&user).map(drop),
    ] {
        let error = answer.err().context("a disabled user got tokens")?;
        ensure!(
            aws::error_code(&error) == Some("NotAuthorizedException"),
            "{error:#}"
        );
    }
    ensure!(world.sign_up(&user.email).is_err(), "signed up again");
    let tagged = user.email.replace('@', "+again@");
    refused_for(world.sign_up(&tagged), TAKEN)?;
    refused_for(world.admin_create_user(&tagged), TAKEN)?;

    world.administer("AdminEnableUser", &user.email, json!({}))?;
    ensure!(world.sign_in(&user.email)?.key == user.key);
    Ok(())
}

fn made_by_an_administrator(world: &World) -> Result<()> {
    let mailbox = unique("kathleen");
    let email = format!("{mailbox}@example.com");
    let made = world.admin_create_user(&email)?;
    let entered = world.item(&entry_of(world, &email)?, "ACCOUNT")?;
    ensure!(
        entered.as_ref().map(|entry| &entry["username"]["S"]) == Some(&made["User"]["Username"]),
        "the mailbox is not entered for {made:#} but as {entered:?}"
    );
    for forbidden in [
        format!("{mailbox}@elsewhere.example"),
        format!("{mailbox}@sub.example.com"),
    ] {
        refused_for(world.admin_create_user(&forbidden), ELSEWHERE)?;
        let user = world.administer("AdminGetUser", &forbidden, json!({}));
        aws::expect_error(user, "UserNotFoundException")?;
    }
    // One account for the mailbox, whoever makes it.
    let tagged = format!("{mailbox}+2@example.com");
    refused_for(world.admin_create_user(&tagged), TAKEN)?;
    refused_for(world.sign_up(&tagged), TAKEN)?;
    world.set_password(&email)?;
    named(&world.sign_in(&email)?)
}

fn through_a_partner(world: &World) -> Result<()> {
    let partner = Partner::of(world)?;
    let (sub, mailbox) = (unique("00u"), unique("lise"));
    let email = format!("{mailbox}@partner.example");
    let cookie = partner.knows(&sub, &email, true);
    let user = world.sign_in_through(Partner::NAME, &cookie)?;
    ensure!(user.email == email, "{:#}", user.id_token);
    named(&user)?;
    let tap = world.tap(&user.key)?;
    ensure!(world.sign_in_through(Partner::NAME, &cookie)?.key == user.key);
    tap.expect("User Signed In", SOON)?;

    // Nor has a mailbox two accounts by having two at the provider.
    let second = partner.knows(
        &unique("00u"),
        &format!("{mailbox}+2@partner.example"),
        true,
    );
    sent_back_for(world.sign_in_through(Partner::NAME, &second), TAKEN)?;

    let username = format!("{}_{sub}", Partner::NAME);
    world.administer("AdminDisableUser", &username, json!({}))?;
    let answer = world.sign_in_through(Partner::NAME, &cookie);
    sent_back_for(answer, "User is disabled")
}

/// I6
fn not_through_a_partner(world: &World) -> Result<()> {
    let partner = Partner::of(world)?;
    let own = || format!("{}@partner.example", unique("mallory"));
    let example = format!("{}@example.com", unique("mallory"));

    let mut refusals = Vec::new();
    let mut refuse = |provider: &str, sub: String, cookie: String, because: &str| {
        sent_back_for(world.sign_in_through(provider, &cookie), because)?;
        refusals.push(format!("{provider}_{sub}"));
        anyhow::Ok(())
    };
    let sub = unique("00u");
    // Which the policy allows whoever has that mailbox, but not the partner to speak for.
    let cookie = partner.knows(&sub, &example, true);
    refuse(Partner::NAME, sub, cookie, ELSEWHERE)?;
    let sub = unique("00u");
    let cookie = partner.knows(&sub, &own(), false);
    refuse(
        Partner::NAME,
        sub,
        cookie,
        "that your identity provider has verified",
    )?;
    // Somebody else's token, in the partner's name: which Cognito finds by the issuer that the policy
    // names, since the CDK app gave it that one.
    let sub = unique("00u");
    let claims = json!({ "email": own(), "email_verified": true, "iss": "https://evil.example" });
    let cookie = partner.says(&sub, claims)?;
    refuse(Partner::NAME, sub, cookie, "issuer")?;
    // What an administrator of the pool adds is not the operator's policy.
    let unlisted = partner.under_another_name(world)?;
    let sub = unique("00u");
    let cookie = partner.knows(&sub, &own(), true);
    refuse(
        &unlisted.name,
        sub,
        cookie,
        "not open through this identity provider",
    )?;

    for username in refusals {
        let user = world.administer("AdminGetUser", &username, json!({}));
        aws::expect_error(user, "UserNotFoundException")?;
    }
    Ok(())
}

/// The identity provider that the local policy lists, at the address and with the secret that the user
/// pool has of it.
struct Partner {
    provider: Provider,
    details: Value,
}

impl Partner {
    const NAME: &str = "Partner";

    fn of(world: &World) -> Result<Self> {
        // One for all scenarios: it has one address.
        static RUNNING: Mutex<Option<Provider>> = Mutex::new(None);
        let pool = world.output("CarapaceIdentity", "UserPoolId")?;
        let asked = json!({ "UserPoolId": pool, "ProviderName": Self::NAME });
        let found = world
            .aws
            .call(aws::COGNITO, "DescribeIdentityProvider", &asked)?;
        let details = found["IdentityProvider"]["ProviderDetails"].clone();
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let provider = match &*running {
            Some(provider) => provider.clone(),
            None => running
                .insert(serve(&details, world.provider_redirect_uri()?)?)
                .clone(),
        };
        Ok(Self { provider, details })
    }

    /// Makes somebody known to the provider; gives the cookie of the browser in which they sign in.
    fn knows(&self, sub: &str, email: &str, verified: bool) -> String {
        let claims = [("email", json!(email)), ("email_verified", json!(verified))];
        let claims = claims.map(|(name, value)| (name.to_owned(), value));
        self.provider.introduce(sub, claims.into_iter().collect());
        format!("{COOKIE}={sub}")
    }

    fn says(&self, sub: &str, claims: Value) -> Result<String> {
        self.provider
            .introduce(sub, serde_json::from_value(claims)?);
        Ok(format!("{COOKIE}={sub}"))
    }

    /// The same provider once more, under a name that the policy does not list.
    fn under_another_name<'a>(&self, world: &'a World) -> Result<Unlisted<'a>> {
        let name = format!("Other-{}", ulid::Ulid::generate());
        let input = json!({
            "UserPoolId": world.output("CarapaceIdentity", "UserPoolId")?,
            "ProviderName": name,
            "ProviderType": "OIDC",
            "ProviderDetails": self.details,
            "AttributeMapping": { "email": "email", "email_verified": "email_verified" },
        });
        world
            .aws
            .call(aws::COGNITO, "CreateIdentityProvider", &input)?;
        Ok(Unlisted { world, name })
    }
}

/// A provider of one scenario; it leaves the pool when dropped.
struct Unlisted<'a> {
    world: &'a World,
    name: String,
}

impl Drop for Unlisted<'_> {
    fn drop(&mut self) {
        if let Ok(pool) = self.world.output("CarapaceIdentity", "UserPoolId") {
            let input = json!({ "UserPoolId": pool, "ProviderName": self.name });
            let delete = "DeleteIdentityProvider";
            let _ = self.world.aws.call(aws::COGNITO, delete, &input);
        }
    }
}

/// Runs the stand-in where the pool looks for the provider, until the scenarios end.
fn serve(details: &Value, redirect_uri: String) -> Result<Provider> {
    let issuer = aws::string(details, "/oidc_issuer")?;
    let address = issuer.strip_prefix("http://").context(issuer.clone())?;
    let listener = TcpListener::bind(address).with_context(|| {
        format!("serving the identity provider of the local policy at {issuer}")
    })?;
    listener.set_nonblocking(true)?;
    let provider = Provider::new(Settings {
        client_id: aws::string(details, "/client_id")?,
        client_secret: aws::string(details, "/client_secret")?,
        issuer,
        redirect_uri,
    })?;
    let router = provider.router();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router).await
        })
    });
    Ok(provider)
}

const TAKEN: &str = "cannot be used for a new account";
const ELSEWHERE: &str = "not open for addresses at this domain";

/// That pre-sign-up said no, and told the person these words.
fn refused_for(answer: Result<Value>, because: &str) -> Result<()> {
    let error = aws::expect_error(answer, "UserLambdaValidationException")?;
    ensure!(
        error.message.contains(because),
        "the person is not told `{because}` but: {error}"
    );
    Ok(())
}

/// That Cognito sent the person back to the client, with an error and these words.
fn sent_back_for(answer: Result<User>, because: &str) -> Result<()> {
    let error = answer.err().context("signed in through the provider")?;
    let error = error.downcast::<SentBack>()?;
    ensure!(
        error.description.contains(because),
        "the person is not told `{because}` but: {error}"
    );
    Ok(())
}

/// That both tokens carry the user's key.
fn named(user: &User) -> Result<()> {
    for token in [&user.id_token, &user.access_token] {
        ensure!(
            token["carapace:user_key"] == user.key.as_str(),
            "the token does not name its user: {token:#}"
        );
    }
    Ok(())
}

/// Under which key of the table a mailbox is entered.
fn entry_of(world: &World, email: &str) -> Result<String> {
    let mailbox = identity::policy()?.identity(&EmailAddress::parse(email)?)?;
    let pool = world.output("CarapaceIdentity", "UserPoolId")?;
    let key = IdentityKey::derive(pool, &mailbox);
    Ok(format!("IDENTITY#{}", key.as_str()))
}

/// A name that nobody else has.
fn unique(name: &str) -> String {
    let id = ulid::Ulid::generate().to_string();
    format!("{name}-{}", id.to_lowercase())
}

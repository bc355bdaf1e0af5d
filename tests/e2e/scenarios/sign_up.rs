//! Who may have an agent.

use anyhow::{Result, ensure};
use carapace_e2e::aws;

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
];

fn outside_the_domain(world: &World) -> Result<()> {
    let error = aws::expect_error(
        world.sign_up("mallory@elsewhere.example"),
        "UserLambdaValidationException",
    )?;
    ensure!(
        error
            .message
            .contains("not open for addresses at this domain"),
        "the person is not told why: {error}"
    );
    Ok(())
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
    let email = format!(
        "grace-{}@example.com",
        ulid::Ulid::generate().to_string().to_lowercase()
    );
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
    let mailbox = format!("joan-{}", ulid::Ulid::generate().to_string().to_lowercase());
    let email = format!("{mailbox}@example.com");
    world.sign_up(&email)?;
    world.confirm(&email)?;
    for again in [
        format!("{mailbox}+2@example.com"),
        format!("{}+Claw@Example.com", mailbox.to_uppercase()),
    ] {
        let error = aws::expect_error(world.sign_up(&again), "UserLambdaValidationException")?;
        ensure!(
            error.message.contains("cannot be used for a new account"),
            "the person is not told what to do: {error}"
        );
    }
    world.sign_in(&email)?;
    Ok(())
}

fn tokens(world: &World) -> Result<()> {
    let user = world.new_user("mary")?;
    for token in [&user.id_token, &user.access_token] {
        ensure!(
            token["carapace:user_key"] == user.key.as_str(),
            "the token does not name its user: {token:#}"
        );
    }
    let tap = world.tap(&user.key)?;
    world.sign_in(&user.email)?;
    let event = tap.expect("User Signed In", SOON)?;
    ensure!(event["source"] == "carapace.signup", "{event:#}");
    Ok(())
}

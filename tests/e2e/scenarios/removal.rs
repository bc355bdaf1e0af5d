//! Users come, are removed, are disabled, and come back.

use anyhow::{Context as _, Result, ensure};
use carapace_e2e::aws;
use carapace_e2e::eventually;
use carapace_e2e::execution::Execution;
use carapace_e2e::identity::User;
use carapace_e2e::platform::SandboxRequest;
use carapace_e2e::removal::{USER_OFFBOARD, USER_ONBOARD};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::Scenario;
use crate::conversation::{Talker, answers};
use crate::death::{SIDES, arm, trial};
use crate::world::{SOON, World};

pub(crate) const ALL: &[Scenario] = &[
    (
        "the_first_sign_in_onboards_and_the_second_changes_nothing",
        onboarded,
    ),
    ("a_removed_user_loses_sandbox_key_links_and_inbox", removed),
    (
        "a_disabled_user_is_retired_and_comes_back_by_signing_in",
        disabled,
    ),
    ("an_account_deleted_by_its_own_user_is_retired", left),
    (
        "a_removal_event_twice_or_for_a_user_who_stands_changes_nothing",
        nothing_to_remove,
    ),
];

/// How often one sign-in is told: the local Cognito calls pre-token for each token it makes, the ID
/// token and the access token.
const TOLD: usize = 2;

/// `user-offboard` waits for the table's index, and a sandbox takes a moment to stop.
const RETIRED_WITHIN: std::time::Duration = SOON.saturating_mul(2);

/// One scenario per point at which a function of `user-offboard` can die, and side of it.
pub(crate) fn all(world: Option<&World>) -> Vec<Trial> {
    let points = carapace_user::fault::USER_OFFBOARD.iter().copied();
    let points = points.chain(carapace_sandbox::fault::SANDBOX_RETIRE.iter().copied());
    let points = points.chain(carapace_sandbox::fault::SANDBOX_ANNOUNCE.iter().copied());
    let mut trials = Vec::new();
    for point in points {
        for side in SIDES {
            let promise = "while_removing_leaves_nothing_behind";
            trials.push(trial(world, (point, side), promise, killed));
        }
    }
    trials
}

/// I4: a sign-in is said again and again, and onboards once.
fn onboarded(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let first = world.ended_about(USER_ONBOARD, &ada, TOLD, SOON)?;
    succeeded(&first)?;
    ensure!(outcomes(&first, "onboarded") == 1, "{first:#?}");
    let before = of_user(world, &ada)?;
    let record = world.item(&partition(&ada), "AGENT")?;
    let record = record.context("nobody has written a record")?;
    ensure!(record["state"]["S"] == "Absent", "{record:#}");
    ensure!(!record["budget_usd"].is_null(), "no budget: {record:#}");
    ensure!(
        world.item(&partition(&ada), "ACCOUNT")?.is_some(),
        "it is not kept which account it is: {before:#?}"
    );
    let facts = world.facts(&ada.key)?;
    ensure!(
        facts.len() == 1 && facts[0]["what"] == "onboarded",
        "{facts:#?}"
    );

    world.sign_in(&ada.email)?;
    let second = world.ended_about(USER_ONBOARD, &ada, 2 * TOLD, SOON)?;
    succeeded(&second)?;
    ensure!(outcomes(&second, "onboarded") == 1, "{second:#?}");
    let after = of_user(world, &ada)?;
    ensure!(before == after, "changed from {before:#?} to {after:#?}");

    let tap = world.tap(&ada.key)?;
    world.request_sandbox(&SandboxRequest::new(&ada.key))?;
    tap.expect("Sandbox Ready", SOON)?;
    Ok(())
}

fn removed(world: &World) -> Result<()> {
    let ada = Talker::new(world)?;
    let user: &User = &ada.person;
    world.ended_about(USER_ONBOARD, user, TOLD, SOON)?;
    let secret = format!("walnut-{}", ulid::Ulid::generate());
    let said = ada.says(None, &secret)?;
    ada.hears(&said, 1)?;
    ada.conversation(&said)?;
    let username = world.item(&partition(user), "ACCOUNT")?;
    let username = aws::string(&username.context("no account is kept")?, "/username/S")?;
    let model_key = world.model_key(&user.key)?;
    // The controls: what must be gone later is there now.
    ensure!(world.gateway_takes(&model_key)?, "the key is no key");
    for personal in [&*secret, &*username] {
        ensure!(
            !mentions(world, personal)?.is_empty(),
            "{personal} is nowhere"
        );
    }
    ensure!(!possessions(world, user)?.is_empty(), "nothing is kept");

    let tap = world.tap(&user.key)?;
    let operator = world.operator()?;
    let ran = operator.clawctl(["user", "remove", &user.email])?;
    ensure!(ran.status == 1 && ran.err.contains("--yes"), "{ran:#?}");
    world.sign_in(&user.email)?;
    let ran = operator.clawctl(["user", "remove", &user.email, "--yes"])?;
    ensure!(ran.status == 0, "{ran:#?}");
    ensure!(
        world.sign_in(&user.email).is_err(),
        "the account still stands"
    );

    let event = tap.expect("Sandbox Retired", RETIRED_WITHIN)?;
    ensure!(event["detail"]["reason"] == "UserDeleted", "{event:#}");
    // Told by the operator, and by CloudTrail of the operator's call.
    let executions = world.ended_about(USER_OFFBOARD, user, 2, RETIRED_WITHIN)?;
    succeeded(&executions)?;
    ensure!(tap.seen("Sandbox Retired")?.len() == 1, "announced again");
    gone(world, user)?;
    ensure!(!world.gateway_takes(&model_key)?, "the key is still good");
    for personal in [&*secret, &*username, &*user.email, &*user.sub] {
        let found = mentions(world, personal)?;
        ensure!(found.is_empty(), "{personal} is kept in {found:#?}");
    }
    let facts = world.facts(&user.key)?;
    for what in ["onboarded", "retire_started", "retired"] {
        let times = facts.iter().filter(|fact| fact["what"] == what).count();
        ensure!(times == 1, "{what} {times} times: {facts:#?}");
    }

    let shown = operator.clawctl(["user", "show", user.key.as_str()])?;
    ensure!(
        shown.status == 0 && shown.out.contains("Retired, UserDeleted"),
        "{shown:#?}"
    );
    let again = operator.clawctl(["user", "remove", user.key.as_str(), "--yes"])?;
    ensure!(again.status == 0, "{again:#?}");

    let said = ada.says(None, "hello again")?;
    let answer = answers(world, &said, 1)?.remove(0);
    ensure!(
        answer.text.contains("https://sign-up.example.com/"),
        "{answer:#?}"
    );
    ensure!(
        possessions(world, user)?.is_empty(),
        "they have something again"
    );
    Ok(())
}

fn disabled(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    world.ended_about(USER_ONBOARD, &ada, TOLD, SOON)?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    let mailbox = world.item(&partition(&ada), "ACCOUNT")?;
    let mailbox = aws::string(&mailbox.context("no account is kept")?, "/identity/S")?;
    let mailbox = format!("IDENTITY#{mailbox}");

    let tap = world.tap(&ada.key)?;
    world.administer("AdminDisableUser", &ada.sub, json!({}))?;
    let event = tap.expect("Sandbox Retired", RETIRED_WITHIN)?;
    ensure!(event["detail"]["reason"] == "UserDisabled", "{event:#}");
    succeeded(&world.ended_about(USER_OFFBOARD, &ada, 1, SOON)?)?;
    gone(world, &ada)?;
    ensure!(
        world.item(&mailbox, "ACCOUNT")?.is_some(),
        "the mailbox is free for another account: a ban can be evaded"
    );
    let refused = SandboxRequest::new(&ada.key);
    world.request_sandbox(&refused)?;
    let execution = world.ended(&refused.id, 1, SOON)?.remove(0);
    ensure!(
        execution.error.as_deref() == Some("AgentRetired"),
        "{execution:#?}"
    );
    ensure!(
        world.cluster.claim(&ada.key)?.is_none(),
        "they have a sandbox"
    );

    world.administer("AdminEnableUser", &ada.sub, json!({}))?;
    world.sign_in(&ada.email)?;
    let back = world.ended_about(USER_ONBOARD, &ada, 2 * TOLD, SOON)?;
    succeeded(&back)?;
    ensure!(outcomes(&back, "onboarded") == 2, "{back:#?}");
    ensure!(world.agent_state(&ada.key)?.as_deref() == Some("Absent"));
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    world.facts(&ada.key)?;
    Ok(())
}

fn left(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    world.ended_about(USER_ONBOARD, &ada, TOLD, SOON)?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    let tap = world.tap(&ada.key)?;
    world.delete_own_account(&ada)?;
    let event = tap.expect("Sandbox Retired", RETIRED_WITHIN)?;
    ensure!(event["detail"]["reason"] == "UserDeleted", "{event:#}");
    succeeded(&world.ended_about(USER_OFFBOARD, &ada, 1, SOON)?)?;
    gone(world, &ada)?;
    let found = mentions(world, &ada.sub)?;
    ensure!(found.is_empty(), "the sub is kept in {found:#?}");
    // The mailbox is free again.
    world.sign_up(&ada.email)?;
    Ok(())
}

/// I4, I6: who stands is not removed by being said to be.
fn nothing_to_remove(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    world.ended_about(USER_ONBOARD, &ada, TOLD, SOON)?;
    ada.gets_an_agent(&SandboxRequest::new(&ada.key))?;
    let before = (world.cluster.sandbox_of(&ada.key)?, of_user(world, &ada)?);
    let tap = world.tap(&ada.key)?;
    let deleted = json!({
        "version": 1,
        "id": format!("test.{}", ulid::Ulid::generate()),
        "at": jiff::Timestamp::now().to_string(),
        "user_key": ada.key.to_string(),
    })
    .to_string();
    let put = || world.put_event("carapace.signup", "User Deleted", &deleted);
    put()?;
    let execution = world.ended_about(USER_OFFBOARD, &ada, 1, SOON)?.remove(0);
    ensure!(execution.status == "SUCCEEDED", "{execution:#?}");
    let after = (world.cluster.sandbox_of(&ada.key)?, of_user(world, &ada)?);
    ensure!(before == after, "changed from {before:#?} to {after:#?}");
    // A call that was refused ends nobody.
    let nobody = world.administer("AdminDeleteUser", "nobody-at-all", json!({}));
    ensure!(nobody.is_err(), "deleted nobody");

    world.administer("AdminDeleteUser", &ada.sub, json!({}))?;
    tap.expect("Sandbox Retired", RETIRED_WITHIN)?;
    succeeded(&world.ended_about(USER_OFFBOARD, &ada, 2, SOON)?)?;
    let before = of_user(world, &ada)?;
    put()?;
    succeeded(&world.ended_about(USER_OFFBOARD, &ada, 3, RETIRED_WITHIN)?)?;
    let after = of_user(world, &ada)?;
    ensure!(before == after, "changed from {before:#?} to {after:#?}");
    ensure!(tap.seen("Sandbox Retired")?.len() == 1, "announced again");
    Ok(())
}

/// I1: a function that dies on the way leaves neither a sandbox nor data behind.
fn killed(world: &World, fault: &str) -> Result<()> {
    let ada = Talker::new(world)?;
    let user: &User = &ada.person;
    world.ended_about(USER_ONBOARD, user, TOLD, SOON)?;
    let said = ada.says(None, "hello")?;
    ada.hears(&said, 1)?;
    ada.conversation(&said)?;
    let armed = arm(world, user.key.as_str(), fault)?;
    let tap = world.tap(&user.key)?;
    world.administer("AdminDeleteUser", &user.sub, json!({}))?;
    tap.expect("Sandbox Retired", RETIRED_WITHIN)?;
    succeeded(&world.ended_about(USER_OFFBOARD, user, 1, SOON)?)?;
    ensure!(!armed.exists(), "no function came by {fault}");
    gone(world, user)?;
    let events = tap.seen("Sandbox Retired")?;
    // When death fell between putting the event and noting that, it is there twice, with one id.
    let unnoted = ["announce.put.after", "announce.clear.before"].contains(&fault);
    ensure!(events.len() == 1 || unnoted, "announced again: {events:#?}");
    let id = &events[0]["detail"]["id"];
    ensure!(
        events.iter().all(|e| e["detail"]["id"] == *id),
        "two ids: {events:#?}"
    );
    world.facts(&user.key)?;
    Ok(())
}

fn outcomes(executions: &[Execution], outcome: &str) -> usize {
    let is = |execution: &&Execution| execution.output["outcome"] == outcome;
    executions.iter().filter(is).count()
}

fn succeeded(executions: &[Execution]) -> Result<()> {
    ensure!(
        executions.iter().all(|one| one.status == "SUCCEEDED"),
        "{executions:#?}"
    );
    Ok(())
}

/// Asserts that the agent is retired, and that neither a sandbox nor anything of the user's is left.
fn gone(world: &World, user: &User) -> Result<()> {
    ensure!(world.agent_state(&user.key)?.as_deref() == Some("Retired"));
    eventually(
        "the claim is gone",
        SOON,
        || world.cluster.claim(&user.key),
        Option::is_none,
    )?;
    let left = possessions(world, user)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// The links, leases and messages of a user.
fn possessions(world: &World, user: &User) -> Result<Vec<Value>> {
    let mut items = world.everything()?;
    items.retain(|item| {
        let (pk, sk) = (&item["pk"]["S"], &item["sk"]["S"]);
        let conversation = format!("CONV#{}#", user.key);
        let of_theirs = pk.as_str().is_some_and(|pk| pk.starts_with(&conversation));
        of_theirs || (*sk == "LINK" && item.to_string().contains(user.key.as_str()))
    });
    Ok(items)
}

/// The items that have a text in them.
fn mentions(world: &World, text: &str) -> Result<Vec<Value>> {
    let mut items = world.everything()?;
    items.retain(|item| item.to_string().contains(text));
    Ok(items)
}

/// All that is kept under the user's key.
fn of_user(world: &World, user: &User) -> Result<Vec<Value>> {
    let mut items = world.everything()?;
    items.retain(|item| item["pk"]["S"] == partition(user));
    Ok(items)
}

fn partition(user: &User) -> String {
    format!("USER#{}", user.key)
}

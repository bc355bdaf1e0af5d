//! What a user says to the agent, and what comes of it. The scripted agent does what some words in
//! a message ask for: `SLOW n` takes n quarters of a second, `RECALL` repeats what was said before.

use anyhow::{Context, Result, bail, ensure};
use carapace_core::agentd::{ErrorName, TurnEvent};
use carapace_e2e::agentd::{Agent, NumberedEvent};
use carapace_e2e::eventually;
use carapace_e2e::platform::SandboxRequest;
use serde_json::{Value, json};

use crate::Scenario;
use crate::world::{Person, SOON, World};

pub(crate) const ALL: &[Scenario] = &[
    ("a_turn_streams_its_reply", streams),
    (
        "a_turn_remembers_its_conversation_and_no_other",
        conversations,
    ),
    ("a_turn_is_attached_to_where_it_was_left", attach),
    ("a_turn_asked_for_twice_is_run_once", twice),
    ("a_turn_survives_the_death_of_its_caller", caller_dies),
    ("a_turn_is_cancelled_and_its_conversation_goes_on", cancel),
    (
        "a_turn_that_a_crash_swallows_ends_in_an_error",
        agent_crashes,
    ),
    ("a_turn_is_refused_by_a_sandbox_without_a_user", unbound),
    ("a_turn_is_refused_to_another_token", tokens),
];

/// A person's agent, newly made.
fn agent_of<'a>(world: &'a World, person: &Person<'_>) -> Result<Agent<'a>> {
    person.gets_an_agent(&SandboxRequest::new(&person.key))?;
    world.agent(&person.key)
}

/// The text that somebody holds who read these events.
fn held(events: &[NumberedEvent]) -> String {
    let mut held = String::new();
    for (_, event) in events {
        match event {
            TurnEvent::Delta { text } => held.push_str(text),
            TurnEvent::Text { text } => held.clone_from(text),
            _ => {}
        }
    }
    held
}

fn ensure_error(events: &[NumberedEvent], name: ErrorName) -> Result<()> {
    match events.last() {
        Some((_, TurnEvent::Error(body))) if body.error == name => Ok(()),
        _ => bail!("not ended by {name:?}: {events:#?}"),
    }
}

fn streams(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let agent = agent_of(world, &ada)?;
    let events = agent.turn("t1", "c1", "SLOW 2 hello")?.rest()?;
    let reply = "w0 w1 You said: SLOW 2 hello";
    ensure!(held(&events) == reply, "{events:#?}");
    let deltas = |event: &&NumberedEvent| matches!(event.1, TurnEvent::Delta { .. });
    ensure!(
        events.iter().filter(deltas).count() > 2,
        "all at once: {events:#?}"
    );
    ensure!(events.is_sorted_by(|a, b| a.0 < b.0), "{events:#?}");
    let done = TurnEvent::Done {
        text: reply.to_owned(),
    };
    ensure!(
        events.last().is_some_and(|(_, event)| *event == done),
        "{events:#?}"
    );
    Ok(())
}

fn conversations(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let agent = agent_of(world, &ada)?;
    agent.turn("t1", "c1", "my cat is Tom")?.answer()?;
    let same = agent.turn("t2", "c1", "RECALL")?.answer()?;
    ensure!(same.contains("my cat is Tom"), "it forgot: {same}");
    let other = agent.turn("t3", "c2", "RECALL")?.answer()?;
    ensure!(
        !other.contains("Tom"),
        "another conversation heard: {other}"
    );
    Ok(())
}

fn attach(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let agent = agent_of(world, &ada)?;
    let mut reader = agent.turn("t1", "c1", "SLOW 4")?;
    let mut events = Vec::from_iter(reader.next_event()?);
    let from = events.last().context("no event")?.0;
    let rest = agent.attach("t1", from)?.rest()?;
    events.extend(reader.rest()?);
    ensure!(events[1..] == rest, "{events:#?}\n{rest:#?}");
    for (behind, event) in events.iter().enumerate() {
        let rest = agent.attach("t1", event.0)?.rest()?;
        ensure!(
            rest == events[behind + 1..],
            "behind {}: {rest:#?}",
            event.0
        );
    }
    ensure!(agent.attach("t2", 0).is_err(), "a turn that never was");
    Ok(())
}

fn twice(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let agent = agent_of(world, &ada)?;
    let before = world.spend(&ada.key)?;
    let first = agent.turn("t1", "c1", "SLOW 2")?.rest()?;
    let once = world.spend(&ada.key)?;
    ensure!(once > before, "the control: a turn costs something");
    let again = agent.turn("t1", "c1", "SLOW 2")?.rest()?;
    ensure!(again == first, "{first:#?}\n{again:#?}");
    let twice = world.spend(&ada.key)?;
    ensure!(
        twice.to_bits() == once.to_bits(),
        "it was paid for twice: {once} {twice}"
    );
    Ok(())
}

fn caller_dies(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let agent = agent_of(world, &ada)?;
    let mut caller = agent.turn("t1", "c1", "SLOW 4")?;
    caller.next_event()?.context("no event")?;
    drop(caller);
    let answer = agent.turn("t1", "c1", "SLOW 4")?.answer()?;
    ensure!(answer == "w0 w1 w2 w3 You said: SLOW 4", "{answer}");
    Ok(())
}

fn cancel(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let agent = agent_of(world, &ada)?;
    let mut reader = agent.turn("t1", "c1", "SLOW 400")?;
    reader.next_event()?.context("no event")?;
    ensure!(
        agent.turn("t2", "c1", "me too").is_err(),
        "two at once in one conversation"
    );
    let cancelled = agent.cancel("t1")?;
    ensure!(
        cancelled == (200, json!({ "cancelling": true })),
        "{cancelled:?}"
    );
    ensure_error(&reader.rest()?, ErrorName::TurnCancelled)?;
    let next = agent.turn("t2", "c1", "hello")?.answer()?;
    ensure!(next == "You said: hello", "{next}");
    Ok(())
}

/// How often a container of a sandbox has restarted, and whether it is ready again.
fn restarts(world: &World, sandbox: &str, name: &str) -> Result<(u64, bool)> {
    let pod = world
        .cluster
        .get("pod", carapace_e2e::cluster::AGENTS, sandbox)?
        .context("the pod is gone")?;
    let statuses = pod["status"]["containerStatuses"].as_array();
    let status = statuses
        .into_iter()
        .flatten()
        .find(|status| status["name"] == name)
        .context("no such container")?;
    Ok((
        status["restartCount"].as_u64().unwrap_or_default(),
        status["ready"] == true,
    ))
}

/// The question is in the history and no answer: whether the agent acted on it can't be told.
fn agent_crashes(world: &World) -> Result<()> {
    let ada = world.person("ada")?;
    let agent = agent_of(world, &ada)?;
    agent.turn("t1", "c1", "remember me")?.answer()?;
    let events = agent.turn("t2", "c1", "CRASH")?.rest()?;
    ensure_error(&events, ErrorName::TurnLost)?;
    let seen = eventually(
        "the agent runs again",
        SOON,
        || restarts(world, &agent.sandbox, "agent"),
        |(count, ready)| *count == 1 && *ready,
    )?;
    ensure!(seen.0 == 1, "{seen:?}");
    let next = agent.turn("t3", "c1", "RECALL")?.answer()?;
    ensure!(next.contains("remember me"), "{next}");
    Ok(())
}

fn unbound(world: &World) -> Result<()> {
    let (ada, pool) = (world.person("ada")?, world.pool("turns", 1, |_| {})?);
    let warm = pool.warm()?;
    let (sandbox, address) = warm.first().context("no warm sandbox")?;
    let token = world.agentd_token_for("conversation-turn", sandbox, &ada.key)?;
    let (status, body) = say(world, address, &token)?;
    ensure!(
        status == 503 && body["error"] == "NotBound",
        "{status} {body:#}"
    );
    Ok(())
}

fn tokens(world: &World) -> Result<()> {
    let (ada, eve) = (world.person("ada")?, world.person("eve")?);
    let agent = agent_of(world, &ada)?;
    let before = world.spend(&ada.key)?;
    for (subject, user, error) in [
        ("sandbox-bind", &ada.key, "NotAllowed"),
        ("conversation-turn", &eve.key, "WrongUser"),
    ] {
        let token = world.agentd_token_for(subject, &agent.sandbox, user)?;
        let (status, body) = say(world, &agent.address, &token)?;
        ensure!(
            status == 403 && body["error"] == error,
            "{subject}: {status} {body:#}"
        );
    }
    let spent = world.spend(&ada.key)?;
    ensure!(spent.to_bits() == before.to_bits(), "it was run: {spent}");
    let answer = agent.turn("t1", "c1", "hello")?.answer()?;
    ensure!(answer == "You said: hello", "the control: {answer}");
    Ok(())
}

fn say(world: &World, address: &str, token: &str) -> Result<(u16, Value)> {
    let turn = json!({ "id": "t1", "conversation": "c1", "text": "hello" });
    world.agentd(address, Some(token), "POST", "/v1/turns", Some(&turn))
}

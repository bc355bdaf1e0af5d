//! What becomes of users, from their first sign-in to what is left of them: the state machines
//! `user-onboard` and `user-offboard`, run from their own files beside `sandbox-create`.

use std::time::Duration;

use carapace_control_plane::removal::RemovalOrder;
use carapace_core::{
    EventId, Reason, UserKey,
    agent::AgentState,
    allowance::Allowance,
    ports::{Clock, Possessions, Purged},
};
use carapace_test_support::{Diagnostic, End, Execution, Machine, Steps, Time};
use carapace_user::{offboard::OffboardUser, onboard::OnboardUser};
use futures::future::{join, join_all};
use serde_json::{Value, json};

use super::{
    machine::{default_allowance, execute, sandbox_announce, sandbox_retire},
    world::{POOL, World},
};
use crate::fault::{self, Moment, planned};

const RETIRED: &str = "Sandbox Retired";

pub(super) fn onboard() -> Machine {
    Machine::parse(include_str!(
        "../../../../statemachines/user-onboard.asl.json"
    ))
}

pub(super) fn offboard() -> Machine {
    Machine::parse(include_str!(
        "../../../../statemachines/user-offboard.asl.json"
    ))
}

fn allowance() -> Allowance {
    Allowance {
        budget_usd: 20,
        budget_days: 30,
        requests_per_minute: 60,
        tokens_per_minute: 200_000,
    }
}

fn user_onboard(world: &World) -> OnboardUser<World, World, World, Time> {
    OnboardUser {
        table: world.clone(),
        roster: world.clone(),
        policies: world.clone(),
        clock: world.time.clone(),
        pool: POOL.parse().unwrap(),
        allowance: allowance(),
    }
}

fn user_offboard(world: &World) -> OffboardUser<World, World, Time> {
    OffboardUser {
        table: world.clone(),
        directory: world.clone(),
        clock: world.time.clone(),
        pool: POOL.parse().unwrap(),
    }
}

/// What an execution of either machine has assigned.
struct Variables<'a> {
    world: &'a World,
    next: Value,
    removal: Value,
    since: i64,
}

impl Steps for Variables<'_> {
    fn payload(&mut self, state: &str, execution: &Execution) -> Value {
        match state {
            "OnboardUser" => json!({"event": execution.event}),
            "RetireAgent" => json!({"action": "retire", "event": execution.event}),
            "RetireSandbox" => json!({"removal": self.removal}),
            "PurgeData" => json!({"action": "purge", "removal": self.removal}),
            "AnnounceRetired" => json!({"announcement": "retired", "removal": self.removal}),
            other => panic!("no payload is written for {other}"),
        }
    }

    async fn call(&mut self, callee: &str, payload: Value) -> Result<Value, Diagnostic> {
        match callee {
            "UserOnboardArn" => user_onboard(self.world).handle(payload).await,
            "UserOffboardArn" => user_offboard(self.world).handle(payload).await,
            "SandboxRetireArn" => sandbox_retire(self.world).handle(payload).await,
            "SandboxAnnounceArn" => sandbox_announce(self.world).handle(payload).await,
            other => panic!("{other} is nobody's name"),
        }
    }

    fn choose(&mut self, state: &str, execution: &Execution) -> Option<&'static str> {
        let input = &execution.input;
        let now = self.world.time.now().as_second();
        match state {
            "RouteRemoval" => {
                self.next = input["next"].clone();
                self.removal = input["removal"].clone();
                self.since = now;
                match input["next"].as_str()? {
                    "retire" => Some("all of it"),
                    "purge" => Some("retired already, but for data"),
                    "announce" => Some("this event has its end"),
                    "nothing" => Some("nothing"),
                    _ => None,
                }
            }
            "RouteRetired" => match input["released"].as_bool()? {
                true => {
                    self.since = now;
                    Some("the agent has nothing to run in")
                }
                false => Some("it is retiring no more"),
            },
            "RoutePurged" => match input["more"].as_bool()? {
                true if now - self.since > 3600 => Some("it takes too long"),
                true => Some("more"),
                false if self.next == "retire" => Some("all of it is done"),
                false => Some("retired before"),
            },
            other => panic!("no rule is written for {other}"),
        }
    }
}

async fn runs(world: &World, machine: Machine, event: Value) -> End {
    let variables = Variables {
        world,
        next: Value::Null,
        removal: Value::Null,
        since: 0,
    };
    machine.execute(&world.time, event, variables).await
}

fn signs_in(world: &World, event: Value) -> End {
    let end = world.time.run(runs(world, onboard(), event));
    world.check();
    end
}

fn leaves(world: &World, event: Value) -> End {
    let end = world.time.run(runs(world, offboard(), event));
    world.check();
    end
}

fn wakes(world: &World, id: &str) -> End {
    let end = world.time.run(execute(world, requested(id)));
    world.check();
    end
}

fn ada() -> UserKey {
    UserKey::derive(POOL, "sub-ada")
}

fn requested(id: &str) -> Value {
    json!({"detail-type": "Sandbox Requested", "source": "ops", "detail": {
        "version": 1, "id": id, "at": "2026-11-24T10:00:00Z", "user_key": ada()
    }})
}

fn signed_in(id: &str) -> Value {
    json!({"detail-type": "User Signed In", "source": "carapace.signup", "detail": {
        "version": 1, "id": id, "at": "2026-11-24T10:00:00Z", "user_key": ada(), "sub": "sub-ada"
    }})
}

/// An operator's word.
fn told(id: &str) -> Value {
    json!({"detail-type": "User Deleted", "source": "carapace.signup", "detail": {
        "version": 1, "id": id, "at": "2026-11-24T10:00:00Z", "user_key": ada(),
        "correlation_id": "story-1"
    }})
}

/// A call to Cognito, as CloudTrail tells of it.
fn seen(call: &str, id: &str) -> Value {
    json!({"source": "aws.cognito-idp", "detail-type": "AWS API Call via CloudTrail", "detail": {
        "eventSource": "cognito-idp.amazonaws.com", "eventName": call, "eventID": id,
        "eventTime": "2026-11-24T10:00:00Z", "requestParameters": {"userPoolId": POOL},
        "additionalEventData": {"sub": "sub-ada"}
    }})
}

/// A world in which Ada has signed up and in, woken her agent and used it for a while.
fn lived_in() -> World {
    let world = World::new();
    world.sign_up("u-ada", "sub-ada", "Ada+claw@example.com");
    assert_eq!(signs_in(&world, signed_in("s1")).error, None);
    assert_eq!(wakes(&world, "e1").error, None);
    world.look(|state| state.possessions.insert(ada(), 250));
    world
}

/// Nothing that costs, that could act, or that says who somebody was. What stays has no name in it.
fn is_bare(world: &World, why: &str) {
    assert_eq!(world.claim(&ada()), None, "{why}");
    let record = world.record(&ada()).unwrap();
    assert!(matches!(record.state, AgentState::Retired(_)), "{why}");
    assert_eq!(record.allowance, None, "{why}");
    world.look(|state| {
        assert!(state.keys.is_empty() && state.spenders.is_empty(), "{why}");
        assert!(state.possessions.is_empty(), "{why}");
        assert!(!state.history[&ada()].is_empty(), "{why}");
    });
}

fn is_forgotten(world: &World, why: &str) {
    world.look(|state| {
        assert!(state.registrations.is_empty(), "{why}");
        assert!(state.identities.is_empty(), "{why}");
    });
}

/// What is left of a run, apart from times.
fn left(world: &World) -> String {
    let record = world.record(&ada());
    let agent = record.map(|agent| (agent.state, agent.allowance));
    let claim = world.claim(&ada()).map(|claim| (claim.uid, claim.sandbox));
    world.look(|state| {
        let outcomes = state.outcomes.values();
        let outcomes: Vec<String> = outcomes
            .map(|outcome| {
                let pending = outcome.publication.pending_until.is_some();
                format!("{} {pending}", outcome.announcement.id())
            })
            .collect();
        let facts = state.history.values().flatten();
        let facts: Vec<&str> = facts.map(|entry| entry.fact.as_str()).collect();
        format!(
            "{agent:?} {claim:?} {outcomes:?} {facts:?} {:?} {:?} {:?} {:?} {:?}",
            state.keys.len(),
            state.spenders,
            state.registrations,
            state.identities,
            state.possessions
        )
    })
}

#[test]
fn a_first_sign_in_makes_a_record_with_an_allowance_and_every_other_changes_nothing() {
    let world = World::new();
    world.sign_up("u-ada", "sub-ada", "ada@example.com");
    let end = signs_in(&world, signed_in("s1"));
    assert_eq!(
        (end.path, end.error),
        (vec!["OnboardUser".to_owned()], None)
    );
    let record = world.record(&ada()).unwrap();
    assert_eq!(record.state, AgentState::Absent);
    assert_eq!(record.allowance, Some(allowance()));
    world.look(|state| {
        let registration = &state.registrations[&ada()];
        assert_eq!(registration.username.as_str(), "u-ada");
        let identity = registration.identity.as_ref().unwrap();
        assert!(state.identities.contains_key(identity.as_str()));
    });
    let before = left(&world);
    for id in ["s1", "s2"] {
        assert_eq!(signs_in(&world, signed_in(id)).error, None);
        assert_eq!(left(&world), before, "I4: {id}");
    }
}

/// I2, I4
#[test]
fn twenty_sign_ins_at_once_make_one_record() {
    for seed in 1..=20 {
        let world = World::seeded(seed);
        world.sign_up("u-ada", "sub-ada", "ada@example.com");
        let many = (0..20).map(|n| runs(&world, onboard(), signed_in(&format!("s{}", n % 3))));
        let ends = world.time.run(join_all(many));
        world.check();
        assert!(ends.iter().all(|end| end.error.is_none()), "{ends:?}");
        world.look(|state| assert_eq!(state.history[&ada()].len(), 1, "seed {seed}"));
    }
}

/// I6
#[test]
fn who_has_no_account_or_one_that_is_disabled_or_somebody_elses_becomes_no_user() {
    let answer = |world: &World, event: Value| {
        let payload = json!({ "event": event });
        world.time.run(user_onboard(world).handle(payload))
    };
    let world = World::new();
    let gone = answer(&world, signed_in("s1")).unwrap();
    assert_eq!(gone, json!({"outcome": "no_account", "user_key": ada()}));
    world.sign_up("u-ada", "sub-ada", "ada@example.com");
    world.disable("u-ada");
    let disabled = answer(&world, signed_in("s2")).unwrap();
    assert_eq!(disabled["outcome"], "disabled");
    world.sign_up("u-bob", "sub-bob", "bob@example.com");
    let mut another = signed_in("s3");
    another["detail"]["sub"] = json!("sub-bob");
    let end = signs_in(&world, another.clone());
    assert_eq!(end.error.as_deref(), Some("WrongUser"));
    assert_eq!(end.dead_letters, [another]);
    world.look(|state| assert!(state.registrations.is_empty() && state.history.is_empty()));
}

#[test]
fn what_a_user_may_spend_is_told_to_the_gateway_and_without_a_sign_in_it_is_the_default() {
    let world = lived_in();
    world.look(|state| assert_eq!(state.spenders[&ada()], allowance()));
    let world = World::new();
    assert_eq!(wakes(&world, "e1").error, None);
    world.look(|state| assert_eq!(state.spenders[&ada()], default_allowance()));
}

/// I1: whether somebody says so, or CloudTrail has seen it, or both.
#[test]
fn a_deleted_user_loses_everything_and_that_is_announced_once() {
    type Events = fn() -> Vec<Value>;
    let ways: [Events; 4] = [
        || vec![told("clawctl.1")],
        || vec![seen("AdminDeleteUser", "c1")],
        || vec![seen("DeleteUser", "c1")],
        || {
            vec![
                told("clawctl.1"),
                seen("AdminDisableUser", "c1"),
                seen("AdminDeleteUser", "c2"),
            ]
        },
    ];
    for events in ways {
        let world = lived_in();
        world.delete_account("u-ada");
        for event in events() {
            let end = leaves(&world, event);
            assert_eq!(end.error, None, "{end:?}");
        }
        is_bare(&world, "deleted");
        is_forgotten(&world, "deleted");
        assert_eq!(world.announced(RETIRED).len(), 1);
        let before = left(&world);
        for event in events() {
            leaves(&world, event);
            assert_eq!(left(&world), before, "I4: replayed");
        }
        assert_eq!(world.announced(RETIRED).len(), 1);
        let end = wakes(&world, "e2");
        assert_eq!(end.error.as_deref(), Some("AgentRetired"));
        assert_eq!(world.announced("Sandbox Failed"), ["e2.failed"]);
        is_bare(&world, "asked for again");
    }
}

#[test]
fn the_path_of_a_removal() {
    let world = lived_in();
    world.delete_account("u-ada");
    let end = leaves(&world, told("clawctl.1"));
    assert_eq!(
        end.path,
        [
            "RetireAgent",
            "RouteRemoval",
            "RetireSandbox",
            "RouteRetired",
            "WaitForWriters",
            "PurgeData",
            "RoutePurged",
            "AnnounceRetired"
        ]
    );
    let again = leaves(&world, seen("AdminDeleteUser", "c1"));
    assert_eq!(again.state, "DataPurged");
    let replayed = leaves(&world, told("clawctl.1"));
    assert_eq!(
        replayed.path,
        ["RetireAgent", "RouteRemoval", "AnnounceRetired"]
    );
}

/// I2, I4: all at once, and twins of them.
#[test]
fn removals_that_come_at_once_end_in_one_announcement() {
    for seed in 1..=20 {
        let world = World::seeded(seed);
        world.sign_up("u-ada", "sub-ada", "ada@example.com");
        signs_in(&world, signed_in("s1"));
        wakes(&world, "e1");
        world.look(|state| state.possessions.insert(ada(), 250));
        world.delete_account("u-ada");
        let events = [
            told("clawctl.1"),
            seen("AdminDisableUser", "c1"),
            seen("AdminDeleteUser", "c2"),
            told("clawctl.1"),
            seen("AdminDeleteUser", "c2"),
        ];
        let all = events.map(|event| runs(&world, offboard(), event));
        let ends = world.time.run(join_all(all));
        world.check();
        assert!(
            ends.iter().all(|end| end.error.is_none()),
            "seed {seed}: {ends:?}"
        );
        is_bare(&world, &format!("seed {seed}"));
        is_forgotten(&world, &format!("seed {seed}"));
        assert_eq!(world.announced(RETIRED).len(), 1, "seed {seed}");
    }
}

/// I1, I4: kills the functions at every side effect of a run, before and after, and lets the machine
/// carry on.
fn survives_every_death(make: fn() -> World, act: fn(&World) -> End) -> Vec<&'static str> {
    let undisturbed = make();
    planned::take_seen();
    assert_eq!(act(&undisturbed).error, None);
    let seen = planned::take_seen();
    assert!(seen.len() > 3, "{seen:?}");
    for (point, moment) in &seen {
        let world = make();
        planned::die_at(point, *moment);
        let end = act(&world);
        let death = format!("{point} {moment:?}: {end:?}");
        assert!(!planned::still_planned(), "never came by {death}");
        assert_eq!(end.error, None, "{death}");
        assert_eq!(left(&world), left(&undisturbed), "{death}");
        let ids = world.announced(RETIRED);
        assert!(ids.iter().all(|id| *id == ids[0]), "{death}");
        let noted = [
            ("announce.put", Moment::After),
            ("announce.clear", Moment::Before),
        ];
        let copies = usize::from(noted.contains(&(*point, *moment)));
        assert_eq!(
            ids.len(),
            undisturbed.announced(RETIRED).len() + copies,
            "{death}"
        );
    }
    planned::take_seen();
    seen.into_iter().map(|(point, _)| point).collect()
}

#[test]
fn becoming_a_user_and_ceasing_to_be_one_survive_a_death_at_every_side_effect() {
    let signed_up = || {
        let world = World::new();
        world.sign_up("u-ada", "sub-ada", "ada@example.com");
        world
    };
    let mut seen = survives_every_death(signed_up, |world| signs_in(world, signed_in("s1")));
    let deleted = || {
        let world = lived_in();
        world.delete_account("u-ada");
        world
    };
    seen.extend(survives_every_death(deleted, |world| {
        leaves(world, told("clawctl.1"))
    }));
    seen.sort_unstable();
    seen.dedup();
    let mut listed = [
        carapace_user::fault::USER_ONBOARD,
        carapace_user::fault::USER_OFFBOARD,
        fault::SANDBOX_RETIRE,
        fault::SANDBOX_ANNOUNCE,
    ]
    .concat();
    listed.sort_unstable();
    assert_eq!(seen, listed);
}

#[test]
fn a_removal_of_somebody_who_is_only_disabled_keeps_their_name_for_the_day_they_are_deleted() {
    let world = lived_in();
    world.disable("u-ada");
    assert_eq!(leaves(&world, seen("AdminDisableUser", "c1")).error, None);
    is_bare(&world, "disabled");
    world.look(|state| assert!(state.registrations.contains_key(&ada())));
    world.delete_account("u-ada");
    let end = leaves(&world, seen("AdminDeleteUser", "c2"));
    assert_eq!(end.state, "DataPurged");
    is_forgotten(&world, "deleted");
    assert_eq!(world.announced(RETIRED), ["cloudtrail.c1.retired"]);
}

#[test]
fn who_was_disabled_and_is_enabled_again_starts_anew_with_their_next_sign_in() {
    let world = lived_in();
    world.disable("u-ada");
    leaves(&world, seen("AdminDisableUser", "c1"));
    world.enable("u-ada");
    assert_eq!(
        wakes(&world, "e2").error.as_deref(),
        Some("AgentRetired"),
        "not before they have signed in"
    );
    assert_eq!(signs_in(&world, signed_in("s2")).error, None);
    let record = world.record(&ada()).unwrap();
    assert_eq!(
        (record.state, record.allowance),
        (AgentState::Absent, Some(allowance()))
    );
    assert_eq!(wakes(&world, "e3").error, None);
    let claim = world.claim(&ada()).unwrap();
    assert_eq!(claim.sandbox.unwrap().as_str(), "agents-2", "I3");
    // I4: the old events, late or put back, don't touch the new life.
    world.look(|state| state.possessions.insert(ada(), 7));
    let before = left(&world);
    for event in [
        seen("AdminDisableUser", "c1"),
        seen("AdminDisableUser", "c0"),
        told("clawctl.0"),
    ] {
        assert_eq!(leaves(&world, event).error, None);
        assert_eq!(left(&world), before);
    }
}

/// Somebody signs in while what they had is being taken away.
#[test]
fn a_sign_in_during_a_removal_waits_for_its_end() {
    let world = lived_in();
    world.look(|state| state.cluster.finalizer = jiff::SignedDuration::from_secs(90));
    world.disable("u-ada");
    let back = async {
        world.time.sleep(Duration::from_secs(5)).await;
        world.enable("u-ada");
        runs(&world, onboard(), signed_in("s2")).await
    };
    let removal = runs(&world, offboard(), seen("AdminDisableUser", "c1"));
    let (removed, back) = world.time.run(join(removal, back));
    world.check();
    assert_eq!((removed.error, back.error), (None, None));
    assert_eq!(world.announced(RETIRED).len(), 1);
    let record = world.record(&ada()).unwrap();
    assert_eq!(
        (record.state, record.allowance),
        (AgentState::Absent, Some(allowance()))
    );
    assert_eq!(world.claim(&ada()), None);
}

/// I1: the queue gets the event when the retries have run out; put back, it is ended, also if the
/// account may be used again by then: else its user would be locked out for good.
#[test]
fn a_removal_that_got_stuck_is_ended_when_its_event_comes_back() {
    let world = lived_in();
    world.look(|state| state.gateway_failures = 1000);
    world.disable("u-ada");
    let event = seen("AdminDisableUser", "c1");
    let end = leaves(&world, event.clone());
    assert_eq!(end.error.as_deref(), Some("ModelGatewayUnavailable"));
    assert_eq!(end.dead_letters, [event]);
    assert_eq!(wakes(&world, "e2").error.as_deref(), Some("AgentRetired"));
    world.look(|state| state.gateway_failures = 0);
    world.enable("u-ada");
    assert_eq!(leaves(&world, end.dead_letters[0].clone()).error, None);
    is_bare(&world, "put back");
    assert_eq!(world.announced(RETIRED), ["cloudtrail.c1.retired"]);
}

#[test]
fn events_about_nobody_here_change_nothing() {
    let world = lived_in();
    let changed = |change: fn(&mut Value)| {
        let mut event = seen("AdminDeleteUser", "c1");
        change(&mut event["detail"]);
        event
    };
    let before = left(&world);
    let is_ignored = |event: Value| {
        let end = leaves(&world, event);
        assert_eq!((end.state.as_str(), end.error), ("NothingToRetire", None));
        assert_eq!(left(&world), before);
    };
    // The account stands and is enabled: what was done came to nothing in the end.
    is_ignored(told("clawctl.1"));
    is_ignored(changed(|_| {}));
    // Nor is anything known to have been done to her by these.
    world.delete_account("u-ada");
    is_ignored(changed(|detail| {
        detail["errorCode"] = json!("UserNotFoundException");
    }));
    is_ignored(changed(|detail| {
        detail["requestParameters"]["userPoolId"] = json!("eu-central-1_Other");
    }));
    is_ignored(changed(|detail| {
        detail["additionalEventData"] = Value::Null;
    }));
    is_ignored(changed(|detail| {
        detail["additionalEventData"]["sub"] = json!("sub-nobody");
    }));
    let mut broken = told("clawctl.1");
    broken["detail"]["user_key"] = json!("../../etc");
    let end = leaves(&world, broken.clone());
    assert_eq!(end.error.as_deref(), Some("EventRejected"));
    assert_eq!(end.dead_letters, [broken], "I6");
    // Even one whose account is gone, if they never were a user.
    let world = World::new();
    for event in [told("clawctl.1"), seen("AdminDeleteUser", "c1")] {
        assert_eq!(leaves(&world, event).state, "NothingToRetire");
    }
    assert_eq!(world.record(&ada()), None);
}

/// Whichever comes first: the removal finds what the sign-in has written, or the sign-in finds no
/// account.
#[test]
fn who_is_deleted_during_their_first_sign_in_is_no_user_afterwards() {
    let (mut retired, mut never) = (0, 0);
    for seed in 1..=80 {
        let world = World::seeded(seed);
        world.sign_up("u-ada", "sub-ada", "ada@example.com");
        let removal = async {
            for _ in 0..seed / 4 {
                world.time.others().await;
            }
            world.delete_account("u-ada");
            runs(&world, offboard(), told("clawctl.1")).await
        };
        let sign_in = runs(&world, onboard(), signed_in("s1"));
        let (signed_in, removed) = world.time.run(join(sign_in, removal));
        world.check();
        assert_eq!((signed_in.error, removed.error), (None, None));
        match world.record(&ada()) {
            None => never += 1,
            Some(record) => {
                assert!(
                    matches!(record.state, AgentState::Retired(_)),
                    "seed {seed}: {record:?}"
                );
                is_forgotten(&world, &format!("seed {seed}"));
                retired += 1;
            }
        }
    }
    assert!(retired > 0 && never > 0, "{retired} {never}");
}

/// Agents that an operator asked for, whose users have never signed in.
#[test]
fn an_agent_whose_user_never_signed_in_is_retired_by_an_operators_word_or_if_the_account_is_gone() {
    let woken = || {
        let world = World::new();
        world.sign_up("u-ada", "sub-ada", "ada@example.com");
        assert_eq!(wakes(&world, "e1").error, None);
        world
    };
    let world = woken();
    assert_eq!(
        leaves(&world, seen("AdminDeleteUser", "c1")).state,
        "NothingToRetire"
    );
    world.delete_account("u-ada");
    assert_eq!(leaves(&world, seen("AdminDeleteUser", "c1")).error, None);
    is_bare(&world, "seen");
    let world = woken();
    assert_eq!(leaves(&world, told("clawctl.1")).error, None);
    is_bare(&world, "told");
}

/// An account of another identity provider can be made again under its name. It has another sub, so
/// it is another user, whose mailbox is theirs.
#[test]
fn a_new_account_of_the_same_name_is_somebody_else() {
    let world = lived_in();
    world.sign_up("u-ada", "sub-new", "ada@example.com");
    assert_eq!(leaves(&world, seen("AdminDeleteUser", "c1")).error, None);
    is_bare(&world, "deleted");
    world.look(|state| {
        assert!(state.registrations.is_empty());
        assert_eq!(
            state.identities.len(),
            1,
            "the new account keeps its mailbox"
        );
    });
}

#[test]
fn more_than_one_invocation_can_delete_is_deleted_by_several() {
    let world = lived_in();
    world.look(|state| state.possessions.insert(ada(), 10_000));
    world.delete_account("u-ada");
    let end = leaves(&world, told("clawctl.1"));
    assert_eq!(end.error, None);
    assert!(end.times("PurgeData") > 2, "{end:?}");
    is_bare(&world, "much");
}

/// Whoever is back has new data, and a step that is late must not delete it.
#[test]
fn a_purge_that_comes_when_the_user_is_back_deletes_nothing() {
    let world = lived_in();
    let removal = RemovalOrder {
        event_id: EventId::parse("cloudtrail.c1").unwrap(),
        user_key: ada(),
        reason: Reason::of_error("UserDisabled"),
        correlation_id: None,
    };
    let purged = world
        .time
        .run(user_offboard(&world).purge(&removal))
        .unwrap();
    assert!(!purged.more && purged.deleted == 0);
    world.look(|state| assert_eq!(state.possessions[&ada()], 250));
    let retired = world
        .time
        .run(sandbox_retire(&world).retire(&removal))
        .unwrap();
    assert!(!retired.released, "nor does it take the sandbox");
    assert!(world.claim(&ada()).is_some());
    let all = world.time.run(world.purge(&ada(), 1000)).unwrap();
    assert_eq!(
        all,
        Purged {
            deleted: 250,
            more: false
        }
    );
}

/// I2: whoever comes first. No claim, no key and no announcement of readiness may be left that comes
/// after the retirement.
#[test]
fn a_request_that_races_with_a_removal_leaves_neither_a_claim_nor_a_key() {
    for seed in 1..=120 {
        let world = World::seeded(seed);
        world.sign_up("u-ada", "sub-ada", "ada@example.com");
        signs_in(&world, signed_in("s1"));
        world.look(|state| state.cluster.finalizer = jiff::SignedDuration::from_secs(1));
        world.delete_account("u-ada");
        let requests = (0..6).map(|n| execute(&world, requested(&format!("e{}", n % 3))));
        let removal = async {
            // From before the first call to after the last.
            for _ in 0..seed / 3 {
                world.time.others().await;
            }
            runs(&world, offboard(), told("clawctl.1")).await
        };
        let (ends, removed) = world.time.run(join(join_all(requests), removal));
        world.check();
        assert_eq!(removed.error, None, "seed {seed}");
        world.time.pass(5);
        is_bare(&world, &format!("seed {seed}: {ends:?}"));
        assert_eq!(world.announced(RETIRED).len(), 1, "seed {seed}");
    }
}

/// A key can come into being after all keys of its user were deleted: the call was on its way for a
/// minute. Whoever made it takes it back, and also if they die before.
#[test]
fn a_key_that_was_made_during_a_removal_is_taken_back() {
    let deaths = [
        None,
        Some(("bind.key", Moment::After)),
        Some(("bind.revoke", Moment::Before)),
        Some(("bind.revoke", Moment::After)),
    ];
    for death in deaths {
        let world = World::new();
        world.sign_up("u-ada", "sub-ada", "ada@example.com");
        signs_in(&world, signed_in("s1"));
        world.look(|state| state.key_delay = Duration::from_secs(60));
        world.delete_account("u-ada");
        if let Some((point, moment)) = death {
            planned::die_at(point, moment);
        }
        let removal = async {
            world.time.sleep(Duration::from_secs(10)).await;
            let end = runs(&world, offboard(), told("clawctl.1")).await;
            is_bare(&world, "the key is on its way");
            end
        };
        let (request, removed) = world
            .time
            .run(join(execute(&world, requested("e1")), removal));
        world.check();
        assert!(!planned::still_planned(), "{death:?}");
        assert_eq!(removed.error, None, "{death:?}");
        assert_eq!(request.error.as_deref(), Some("ClaimLost"), "{death:?}");
        is_bare(&world, &format!("{death:?}"));
        world.look(|state| assert!(state.bound.is_empty(), "{death:?}"));
    }
    assert_eq!(fault::SANDBOX_BIND_SELDOM, ["bind.revoke"]);
    planned::take_seen();
}

//! What happens to requests, from the event to what is left in the world.

use std::time::Duration;

use carapace_core::{
    UserKey,
    agent::{ANNOUNCEMENT_LEASE, AgentState, HOLD_GRACE},
    ports::Clock,
};
use carapace_test_support::End;
use futures::future::{join, join_all};
use serde_json::{Value, json};

use super::{
    machine::{execute, sandbox_claim},
    world::World,
};
use crate::{
    claim::ClaimError,
    fault::{self, Moment, planned},
};

const READY: &str = "Sandbox Ready";
const FAILED: &str = "Sandbox Failed";

fn user() -> UserKey {
    UserKey::derive("pool", "sub")
}

fn event(id: &str) -> Value {
    with(id, &json!({}))
}

fn with(id: &str, more: &Value) -> Value {
    let mut detail = json!({
        "version": 1, "id": id, "at": "2026-11-24T10:00:00Z", "user_key": user()
    });
    for (field, value) in more.as_object().unwrap() {
        detail[field] = value.clone();
    }
    json!({"detail-type": "Sandbox Requested", "source": "ops", "detail": detail})
}

fn run(world: &World, event: Value) -> End {
    let end = world.time.run(execute(world, event));
    world.check();
    end
}

fn is_ready(world: &World) -> bool {
    matches!(world.agent(&user()), AgentState::Ready(_))
}

#[test]
fn a_request_on_a_warm_pool_takes_three_steps_and_ends_in_one_announcement() {
    let world = World::new();
    let end = run(&world, event("e1"));
    assert_eq!(end.path, ["ClaimSandbox", "BindSandbox", "AnnounceReady"]);
    assert_eq!(end.error, None);
    assert!(is_ready(&world));
    assert_eq!(world.announced(READY), ["e1.ready"]);
    let claim = world.claim(&user()).unwrap();
    world.look(|state| {
        let (bound_to, key) = &state.bound[claim.sandbox.as_ref().unwrap()];
        assert_eq!(bound_to, &user());
        assert_eq!(
            state.keys[key.expose()],
            user(),
            "the key is known to the gateway"
        );
    });
}

/// I2, I4: whatever the order in which their calls interleave.
#[test]
fn twenty_twins_make_one_claim_and_one_announcement() {
    for seed in 1..=60 {
        let world = World::seeded(seed);
        let twins = (0..20).map(|_| execute(&world, event("e1")));
        let ends = world.time.run(join_all(twins));
        world.check();
        assert!(
            ends.iter().all(|end| end.error.is_none()),
            "seed {seed}: {ends:?}"
        );
        assert_eq!(world.announced(READY), ["e1.ready"], "seed {seed}");
        assert_eq!(world.announced(FAILED), [""; 0], "seed {seed}");
        world.look(|state| {
            assert_eq!(state.cluster.created, 1, "seed {seed}");
            assert_eq!(state.bound.len(), 1, "seed {seed}");
            assert_eq!(state.outcomes.len(), 1, "seed {seed}");
        });
        assert!(is_ready(&world), "seed {seed}");
    }
}

/// I1, I2: two requests for one user, each delivered several times, at once.
#[test]
fn different_requests_at_once_share_the_sandbox_and_each_gets_its_answer() {
    for seed in 1..=60 {
        let world = World::seeded(seed);
        let events = ["e1", "e2", "e1", "e3", "e2", "e1"];
        let ends = world
            .time
            .run(join_all(events.map(|id| execute(&world, event(id)))));
        world.check();
        assert!(
            ends.iter().all(|end| end.error.is_none()),
            "seed {seed}: {ends:?}"
        );
        let mut announced = world.announced(READY);
        announced.sort();
        assert_eq!(
            announced,
            ["e1.ready", "e2.ready", "e3.ready"],
            "seed {seed}"
        );
        world.look(|state| assert_eq!(state.cluster.created, 1, "seed {seed}"));
    }
}

/// Twins of which some come too late to be ready in time must agree with those that do.
#[test]
fn twins_that_run_out_of_time_and_twins_that_do_not_agree_on_one_outcome() {
    for seed in 1..=60 {
        let world = World::seeded(seed);
        world.look(|state| state.agentd_failures = 3);
        let late = with("e1", &json!({"ready_within_seconds": 5}));
        let ends = world
            .time
            .run(join_all((0..8).map(|_| execute(&world, late.clone()))));
        world.check();
        let (ready, failed) = (world.announced(READY).len(), world.announced(FAILED).len());
        assert_eq!(ready + failed, 1, "I1, seed {seed}: {ends:?}");
        assert_eq!(is_ready(&world), ready == 1, "seed {seed}");
        assert_eq!(world.claim(&user()).is_some(), ready == 1, "seed {seed}");
    }
}

/// What is left of a run, apart from times.
fn left(world: &World) -> String {
    let agent = world.agent(&user());
    let claim = world
        .claim(&user())
        .map(|claim| (claim.uid, claim.sandbox, claim.event));
    let agent = match agent {
        AgentState::Ready(held) => format!("Ready {:?} {:?}", held.event, held.assigned),
        AgentState::Failed { event, reason } => format!("Failed {event} {reason}"),
        other => format!("{other:?}"),
    };
    world.look(|state| {
        let outcomes: Vec<String> = state
            .outcomes
            .values()
            .map(|outcome| {
                let pending = outcome.publication.pending_until.is_some();
                format!(
                    "{} {} pending {pending}",
                    outcome.event,
                    outcome.announcement.id()
                )
            })
            .collect();
        format!("{agent} {claim:?} {outcomes:?} {:?}", state.bound)
    })
}

/// I1, I4: kills the functions at every side effect of a run, before and after, and lets the
/// machine carry on. Nothing may be left that would not be left without the death, and nothing may
/// be announced but once, or the same once more where death came between putting and noting it.
fn survives_every_death(request: &Value, detail_type: &str) -> Vec<&'static str> {
    let undisturbed = World::new();
    planned::take_seen();
    run(&undisturbed, request.clone());
    let seen = planned::take_seen();
    assert!(seen.len() > 4, "{seen:?}");
    for (point, moment) in &seen {
        let world = World::new();
        planned::die_at(point, *moment);
        let end = run(&world, request.clone());
        let death = format!("{point} {moment:?}: {end:?}");
        assert!(!planned::still_planned(), "never came by {death}");
        assert_eq!(left(&world), left(&undisturbed), "{death}");
        let noted = [
            ("announce.put", Moment::After),
            ("announce.clear", Moment::Before),
        ];
        let copies = if noted.contains(&(*point, *moment)) {
            2
        } else {
            1
        };
        let announced = world.announced(detail_type);
        assert_eq!(announced.len(), copies, "{death}");
        assert!(announced.iter().all(|id| *id == announced[0]), "{death}");
        assert_eq!(world.look(|state| state.bus.len()), copies, "{death}");
    }
    planned::take_seen();
    seen.into_iter().map(|(point, _)| point).collect()
}

#[test]
fn a_request_survives_a_death_at_every_side_effect_and_the_list_of_them_is_complete() {
    let mut seen = survives_every_death(&event("e1"), READY);
    seen.extend(survives_every_death(
        &with("e1", &json!({"pool": "no-such-pool"})),
        FAILED,
    ));
    seen.sort_unstable();
    seen.dedup();
    let lists = [
        fault::SANDBOX_CLAIM,
        fault::SANDBOX_BIND,
        fault::SANDBOX_ANNOUNCE,
    ];
    let mut listed = lists.concat();
    listed.sort_unstable();
    assert_eq!(seen, listed);
}

#[test]
fn an_empty_pool_is_waited_for() {
    let world = World::without_stock();
    world.stock("agents-9", 47);
    let end = run(&world, event("e1"));
    assert_eq!(end.error, None);
    assert_eq!(
        world.claim(&user()).unwrap().sandbox.unwrap().as_str(),
        "agents-9"
    );
    assert_eq!(world.announced(READY), ["e1.ready"]);
}

#[test]
fn a_request_that_is_not_served_in_time_fails_and_leaves_no_claim() {
    let world = World::without_stock();
    let started_at = world.time.now();
    let end = run(&world, with("e1", &json!({"ready_within_seconds": 30})));
    assert_eq!(end.error.as_deref(), Some("ReadyDeadlineExceeded"));
    assert_eq!(end.state, "SandboxFailed");
    assert_eq!(world.announced(FAILED), ["e1.failed"]);
    assert_eq!(world.claim(&user()), None);
    assert!(matches!(world.agent(&user()), AgentState::Failed { .. }));
    let took = world.time.now().duration_since(started_at).as_secs();
    assert!((30..40).contains(&took), "{took}");
}

#[test]
fn a_pool_that_does_not_exist_is_reported_after_seconds() {
    let world = World::new();
    let started_at = world.time.now();
    let end = run(&world, with("e1", &json!({"pool": "no-such-pool"})));
    assert_eq!(end.error.as_deref(), Some("PoolNotFound"));
    assert_eq!(world.announced(FAILED), ["e1.failed"]);
    assert_eq!(world.claim(&user()), None);
    let took = world.time.now().duration_since(started_at).as_secs();
    assert!((5..8).contains(&took), "{took}");
}

/// I3
#[test]
fn a_sandbox_that_is_bound_to_another_is_not_used_and_given_back() {
    let world = World::new();
    world.bind_to_somebody_else("agents-1");
    let end = run(&world, event("e1"));
    assert_eq!(end.error.as_deref(), Some("SandboxBoundToAnother"));
    assert_eq!(world.claim(&user()), None);
    assert_eq!(
        (world.announced(READY).len(), world.announced(FAILED).len()),
        (0, 1)
    );
    // The next request gets another sandbox.
    assert_eq!(run(&world, event("e2")).error, None);
}

#[test]
fn a_daemon_that_takes_a_while_is_called_again() {
    let world = World::new();
    world.look(|state| state.agentd_failures = 4);
    assert_eq!(run(&world, event("e1")).error, None);
    assert!(is_ready(&world));
}

#[test]
fn a_daemon_that_never_answers_ends_in_an_announced_failure() {
    let world = World::new();
    world.look(|state| state.agentd_failures = 100);
    let end = run(&world, event("e1"));
    assert_eq!(end.error.as_deref(), Some("AgentdUnreachable"));
    assert_eq!(world.announced(FAILED), ["e1.failed"]);
    assert_eq!(world.claim(&user()), None);
}

/// I6: what can't be read creates nothing, and goes to the queue as it came.
#[test]
fn an_event_that_cannot_be_read_goes_to_the_queue_as_it_came() {
    let world = World::new();
    for broken in [
        with("e1", &json!({"version": 2})),
        with("e 1", &json!({})),
        with("e1", &json!({"user_key": "../../etc"})),
        json!({"detail-type": "Sandbox Requested"}),
        json!({"detail-type": "Sandbox Ready", "detail": {}}),
    ] {
        let end = run(&world, broken.clone());
        assert_eq!(end.error.as_deref(), Some("EventRejected"));
        assert_eq!(
            (end.state.as_str(), end.dead_letters),
            ("EventDeadLettered", vec![broken])
        );
    }
    world.look(|state| assert_eq!((state.cluster.created, state.outcomes.len()), (0, 0)));
}

/// I4: now and in a month, and also when the sandbox is long gone.
#[test]
fn a_copy_of_an_answered_event_changes_nothing() {
    let world = World::new();
    run(&world, event("e1"));
    world.lose_claim(&user());
    world.time.pass(30 * 24 * 3600);
    let before = left(&world);
    let end = run(&world, event("e1"));
    assert_eq!((end.state.as_str(), end.error), ("AlreadyAnswered", None));
    assert_eq!(left(&world), before);
    assert_eq!(world.announced(READY).len(), 1);
}

#[test]
fn a_request_for_an_agent_that_is_ready_uses_what_is_there() {
    let world = World::new();
    run(&world, event("e1"));
    let end = run(&world, event("e2"));
    assert_eq!(end.path, ["ClaimSandbox", "BindSandbox", "AnnounceReady"]);
    assert_eq!(world.announced(READY), ["e1.ready", "e2.ready"]);
    world.look(|state| assert_eq!((state.cluster.created, state.bound.len()), (1, 1)));
}

#[test]
fn a_request_that_finds_the_claim_gone_makes_another() {
    let world = World::new();
    run(&world, event("e1"));
    world.lose_claim(&user());
    assert_eq!(run(&world, event("e2")).error, None);
    assert!(is_ready(&world));
    world.look(|state| assert_eq!(state.cluster.created, 2));
    assert_eq!(
        world.claim(&user()).unwrap().sandbox.unwrap().as_str(),
        "agents-2",
        "I3"
    );
}

/// One announcement for the new event, and one sandbox, which is recorded and the user's.
fn has_moved_to(world: &World, sandbox: &str, why: &str) {
    assert_eq!(world.announced(READY), ["e1.ready", "e2.ready"], "{why}");
    assert_eq!(world.announced(FAILED), [""; 0], "{why}");
    let AgentState::Ready(held) = world.agent(&user()) else {
        panic!("{why}: {:?}", world.agent(&user()));
    };
    let claim = world.claim(&user()).unwrap();
    assert_eq!(held.event.as_str(), "e2", "{why}");
    assert_eq!(held.assigned.sandbox.as_str(), sandbox, "{why}");
    assert_eq!(Some(held.assigned.sandbox), claim.sandbox, "{why}");
    assert_eq!(held.assigned.uid, claim.uid, "{why}");
    world.look(|state| {
        let (bound_to, _) = &state.bound[claim.sandbox.as_ref().unwrap()];
        assert_eq!(bound_to, &user(), "{why}");
    });
}

#[test]
fn a_request_that_finds_the_pod_dead_gets_another_sandbox() {
    let world = World::new();
    run(&world, event("e1"));
    world.fail_pod(&user());
    let end = run(&world, event("e2"));
    assert_eq!(end.path, ["ClaimSandbox", "BindSandbox", "AnnounceReady"]);
    has_moved_to(&world, "agents-2", "undisturbed");
    world.look(|state| assert_eq!(state.cluster.created, 2));
}

#[test]
fn a_dead_pod_is_replaced_also_by_a_function_that_dies_doing_so() {
    for moment in [Moment::Before, Moment::After] {
        let world = World::new();
        run(&world, event("e1"));
        world.fail_pod(&user());
        planned::die_at("release.delete", moment);
        let end = run(&world, event("e2"));
        assert!(!planned::still_planned(), "{moment:?}: {end:?}");
        has_moved_to(&world, "agents-2", &format!("{moment:?}: {end:?}"));
        world.look(|state| assert_eq!(state.cluster.created, 2));
    }
}

#[test]
fn several_requests_that_find_the_pod_dead_share_the_new_sandbox() {
    for seed in 1..=60 {
        let world = World::seeded(seed);
        run(&world, event("e1"));
        world.fail_pod(&user());
        let events = ["e2", "e3", "e2", "e3"];
        let ends = world
            .time
            .run(join_all(events.map(|id| execute(&world, event(id)))));
        world.check();
        let all_fine = ends.iter().all(|end| end.error.is_none());
        assert!(all_fine, "seed {seed}: {ends:?}");
        let mut announced = world.announced(READY);
        announced.sort();
        let expected = ["e1.ready", "e2.ready", "e3.ready"];
        assert_eq!(announced, expected, "seed {seed}");
        world.look(|state| assert_eq!(state.cluster.created, 2, "seed {seed}"));
    }
}

/// A pool that is missing for a while says nothing about the sandboxes that came from it.
#[test]
fn a_sandbox_whose_pool_is_missing_is_not_thrown_away() {
    let world = World::new();
    run(&world, event("e1"));
    world.miss_pool(&user());
    world.time.pass(60);
    let end = run(&world, event("e2"));
    assert_eq!(end.error.as_deref(), Some("PoolNotFound"));
    assert!(is_ready(&world) && world.claim(&user()).is_some());
}

#[test]
fn a_claim_that_has_got_another_sandbox_is_recorded_and_bound_anew() {
    for pool in ["agents", "another-pool"] {
        let world = World::new();
        run(&world, event("e1"));
        let claim = world.claim(&user()).unwrap();
        world.replace_sandbox(&user(), "agents-7");
        let end = run(&world, with("e2", &json!({ "pool": pool })));
        assert_eq!(end.path, ["ClaimSandbox", "BindSandbox", "AnnounceReady"]);
        has_moved_to(&world, "agents-7", pool);
        assert_eq!(world.claim(&user()).unwrap().uid, claim.uid);
        assert_eq!(world.pool_in_spec(&user()).as_str(), "agents");
    }
}

/// What the gateway's master key is rotated for must not be the end of agents that are at work.
#[test]
fn a_request_after_the_master_key_was_rotated_gives_the_sandbox_its_new_key() {
    let world = World::new();
    run(&world, event("e1"));
    let sandbox = world.claim(&user()).unwrap().sandbox.unwrap();
    let before = world.look(|state| state.bound[&sandbox].clone());
    world.look(|state| state.master_key = "sk-another-master-key");
    assert_eq!(run(&world, event("e2")).error, None);
    let after = world.look(|state| state.bound[&sandbox].clone());
    assert_eq!(after.0, before.0);
    assert_ne!(after.1, before.1);
    world.look(|state| assert_eq!(state.cluster.created, 1));
}

#[test]
fn a_claim_on_its_way_out_is_waited_for_and_made_again() {
    let world = World::new();
    world.look(|state| state.cluster.finalizer = jiff::SignedDuration::from_secs(12));
    world.bind_to_somebody_else("agents-1");
    run(&world, event("e1"));
    assert!(world.claim(&user()).unwrap().terminating);
    assert_eq!(run(&world, event("e2")).error, None);
    world.look(|state| assert_eq!(state.cluster.created, 2));
}

/// One request starts a second after another.
fn run_after(world: &World, first: Value, second: Value) -> (End, End) {
    let later = async {
        world.time.sleep(Duration::from_secs(1)).await;
        execute(world, second).await
    };
    let ends = world.time.run(join(execute(world, first), later));
    world.check();
    ends
}

#[test]
fn the_failure_of_a_second_request_leaves_the_claim_of_the_first_alone() {
    let world = World::without_stock();
    world.stock("agents-9", 60);
    let short = with("e2", &json!({"ready_within_seconds": 5}));
    let (first, second) = run_after(&world, event("e1"), short);
    assert_eq!(second.error.as_deref(), Some("ReadyDeadlineExceeded"));
    assert_eq!(first.error, None);
    assert_eq!(world.announced(FAILED), ["e2.failed"]);
    assert_eq!(world.announced(READY), ["e1.ready"]);
    assert!(is_ready(&world));
    world.look(|state| assert_eq!(state.cluster.created, 1));
}

#[test]
fn a_second_request_carries_on_by_itself_when_the_attempt_it_waited_for_fails() {
    let world = World::without_stock();
    world.stock("agents-9", 60);
    let short = with("e1", &json!({"ready_within_seconds": 5}));
    let (first, second) = run_after(&world, short, event("e2"));
    assert_eq!(first.error.as_deref(), Some("ReadyDeadlineExceeded"));
    assert_eq!(second.error, None);
    assert_eq!(world.announced(FAILED), ["e1.failed"]);
    assert_eq!(world.announced(READY), ["e2.ready"]);
    world.look(|state| assert_eq!(state.cluster.created, 2));
}

/// An execution that is stopped for good must not keep the user from ever having an agent.
#[test]
fn an_attempt_that_nobody_carries_on_is_taken_over() {
    let world = World::without_stock();
    let started_at = world.time.now();
    let abandoned = world
        .time
        .run(sandbox_claim(&world).claim(&event("e1"), started_at));
    assert!(abandoned.is_err());
    world.stock("agents-9", 0);
    world.time.pass(600 + HOLD_GRACE.as_secs());
    assert_eq!(run(&world, event("e2")).error, None);
    let released = world
        .time
        .run(sandbox_claim(&world).release(&event("e1")))
        .unwrap();
    assert!(!released.released, "only its owner");
    assert!(world.claim(&user()).is_some());
    assert_eq!(world.announced(READY), ["e2.ready"]);
}

/// A function can be frozen between any two of its instructions, and wake when the user's claim has
/// had another owner for long.
#[test]
fn an_owner_that_was_frozen_past_its_deadline_leaves_the_claim_of_the_next_alone() {
    let world = World::new();
    let started_at = world.time.now();
    let hold = 600 + HOLD_GRACE.as_secs();
    world.look(|state| state.freeze = Some(jiff::SignedDuration::from_secs(hold + 60)));
    let (step, first) = (sandbox_claim(&world), event("e1"));
    let next = async {
        let later = Duration::from_secs(hold.unsigned_abs() + 1);
        world.time.sleep(later).await;
        let end = execute(&world, event("e2")).await;
        (end, world.time.now())
    };
    let (late, (end, ended_at)) = world.time.run(join(step.claim(&first, started_at), next));
    world.check();
    assert_eq!(end.error, None);
    assert!(world.time.now() > ended_at, "the first wakes after that");
    let late = late.unwrap_err();
    assert!(
        matches!(late, ClaimError::ReadyDeadlineExceeded { .. }),
        "{late}"
    );
    let owner = world.claim(&user()).unwrap().event.unwrap();
    assert_eq!(owner.as_str(), "e2");
}

#[test]
fn a_bus_that_fails_for_a_while_is_tried_again_under_the_same_lease_rules() {
    let world = World::new();
    world.look(|state| state.bus_failures = 1);
    let end = run(&world, event("e1"));
    assert_eq!(end.error, None);
    assert_eq!(world.announced(READY), ["e1.ready"]);
}

/// I7: the queue gets the event when the retries have run out; put back, it is announced.
#[test]
fn an_outcome_that_could_not_be_announced_is_announced_when_its_event_comes_back() {
    let world = World::new();
    world.look(|state| state.bus_failures = 1000);
    let end = run(&world, event("e1"));
    assert_eq!(end.state, "EventDeadLettered");
    assert_eq!(end.dead_letters, [event("e1")]);
    assert!(is_ready(&world), "what was recorded stands");
    world.look(|state| state.bus_failures = 0);
    world.time.pass(ANNOUNCEMENT_LEASE.as_secs());
    let end = run(&world, end.dead_letters[0].clone());
    assert_eq!(
        (end.path.last().unwrap().as_str(), end.error),
        ("AnnounceRecorded", None)
    );
    assert_eq!(world.announced(READY), ["e1.ready"]);
    assert_eq!(run(&world, event("e1")).state, "AlreadyAnswered");
}

/// I8
#[test]
fn no_secret_leaves_a_step() {
    let world = World::new();
    let started_at = world.time.now();
    let claimed = world
        .time
        .run(sandbox_claim(&world).claim(&event("e1"), started_at))
        .unwrap();
    let answer = serde_json::to_value(&claimed).unwrap();
    insta::assert_json_snapshot!(answer);
    run(&world, event("e1"));
    world.look(|state| {
        let history: String = state
            .history
            .values()
            .flatten()
            .map(|entry| entry.fact.clone())
            .collect();
        for key in state.keys.keys() {
            assert!(!history.contains(key) && !answer.to_string().contains(key));
        }
    });
}

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A table of one agent, and what is on the bus.
#[derive(Debug, Clone)]
struct World {
    agent: AgentRecord,
    outcomes: BTreeMap<EventId, Outcome>,
    history: Vec<history::Entry>,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        Self {
            agent: AgentRecord::absent(UserKey::derive("pool", "sub")),
            outcomes: BTreeMap::new(),
            history: Vec::new(),
            now: Timestamp::from_second(1_000_000).unwrap(),
        }
    }

    fn known(&self, event: &EventId) -> Known {
        Known {
            agent: self.agent.clone(),
            outcome: self.outcomes.get(event).cloned(),
        }
    }

    fn save(&mut self, change: Change) {
        if let Some(AgentChange {
            read,
            record,
            entry,
        }) = change.agent
        {
            assert_eq!(read, self.agent.version);
            self.agent = record;
            self.history.push(entry);
        }
        if let Some(OutcomeChange { read, outcome }) = change.outcome {
            let before = self.outcomes.insert(outcome.event.clone(), outcome);
            assert_eq!(read, before.map(|before| before.publication));
        }
    }

    fn does<I: Input>(&mut self, input: &I) -> I::Act {
        let decision = decide(&self.known(input.event()), input, self.now);
        if let Some(change) = decision.change {
            self.save(change);
        }
        decision.act
    }

    fn request(&mut self, event: &str) -> RequestAct {
        let request = request(event, self.now);
        self.does(&request)
    }

    fn ready(&mut self, event: &str) -> AnnounceAct {
        self.request(event);
        self.does(&Assign {
            event: id(event),
            assigned: assigned('0'),
        });
        self.does(&announce(event, End::Ready(assigned('0'))))
    }

    fn pass(&mut self, time: SignedDuration) {
        self.now += time;
    }
}

fn id(event: &str) -> EventId {
    EventId::parse(event).unwrap()
}

fn assigned(last: char) -> Assigned {
    Assigned {
        uid: ClaimUid::parse(format!("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6{last}")).unwrap(),
        sandbox: SandboxName::parse(format!("agents-{last}")).unwrap(),
    }
}

fn request(event: &str, now: Timestamp) -> Request {
    Request {
        event: id(event),
        pool: PoolName::parse("agents").unwrap(),
        deadline: now + SignedDuration::from_secs(600),
        gone: None,
    }
}

fn announce(event: &str, end: End) -> Announce {
    Announce {
        event: id(event),
        correlation_id: None,
        end,
    }
}

fn failed() -> End {
    End::Failed {
        reason: Reason::parse("ReadyDeadlineExceeded").unwrap(),
        message: "late".into(),
    }
}

fn allowance() -> Allowance {
    Allowance {
        budget_usd: 20,
        budget_days: 30,
        requests_per_minute: 60,
        tokens_per_minute: 200_000,
    }
}

fn onboard(event: &str) -> Onboard {
    Onboard {
        event: id(event),
        allowance: allowance(),
    }
}

fn retire(event: &str) -> Retire {
    Retire {
        event: id(event),
        reason: Reason::parse("UserDeleted").unwrap(),
    }
}

fn published(event: &str, attempt: u32) -> Published {
    Published {
        event: id(event),
        attempt: NonZeroU32::new(attempt).unwrap(),
    }
}

#[test]
fn the_first_request_claims_and_its_twin_joins_without_a_write() {
    let mut world = World::new();
    let claim = RequestAct::Claim {
        pool: PoolName::parse("agents").unwrap(),
    };
    assert_eq!(world.request("e1"), claim);
    let after = world.agent.clone();
    assert_eq!(world.request("e1"), claim);
    assert_eq!(world.agent, after, "I4: a twin changes nothing");
}

#[test]
fn a_second_request_waits_for_the_attempt_of_the_first() {
    let mut world = World::new();
    world.request("e1");
    assert_eq!(world.request("e2"), RequestAct::Wait { owner: id("e1") });
    assert!(matches!(&world.agent.state, AgentState::Claiming(a) if a.event == id("e1")));
}

#[test]
fn a_second_request_takes_over_when_the_first_ones_hold_has_passed() {
    let mut world = World::new();
    world.request("e1");
    world.pass(SignedDuration::from_secs(600) + HOLD_GRACE);
    assert!(matches!(world.request("e2"), RequestAct::Claim { .. }));
    assert_eq!(
        world.does(&Release { event: id("e1") }),
        ReleaseAct::Nothing,
        "only its owner"
    );
    assert_eq!(
        world.does(&Bind {
            event: id("e1"),
            uid: assigned('0').uid
        }),
        BindAct::Lost,
        "I3: the first may not bind what is the second's by now"
    );
}

#[test]
fn an_owner_that_comes_back_after_its_hold_has_passed_holds_anew() {
    let mut world = World::new();
    world.request("e1");
    world.pass(SignedDuration::from_secs(600) + HOLD_GRACE);
    assert!(matches!(world.request("e1"), RequestAct::Claim { .. }));
    assert_eq!(world.request("e2"), RequestAct::Wait { owner: id("e1") });
}

#[test]
fn a_second_request_while_ready_uses_the_same_sandbox_and_gets_its_own_answer() {
    let mut world = World::new();
    world.ready("e1");
    let RequestAct::Use(held) = world.request("e2") else {
        panic!("{:?}", world.agent)
    };
    assert_eq!(held.assigned, assigned('0'), "I2: one claim");
    let AnnounceAct::Publish {
        announcement: Announcement::Ready(ready),
        ..
    } = world.does(&announce("e2", End::Ready(assigned('0'))))
    else {
        panic!("{world:?}");
    };
    assert_eq!(
        (ready.cause, ready.id),
        (id("e2"), id("e2.ready")),
        "I1: its own outcome"
    );
    assert!(matches!(&world.agent.state, AgentState::Ready(held) if held.event == id("e1")));
}

#[test]
fn a_request_that_finds_the_claim_gone_claims_anew() {
    let mut world = World::new();
    world.ready("e1");
    let gone = Some(assigned('0'));
    let now = world.now;
    let act = world.does(&Request {
        gone: gone.clone(),
        ..request("e2", now)
    });
    assert!(matches!(act, RequestAct::Claim { .. }));
    // The event that made the agent ready has had its answer: a late copy starts nothing.
    world.does(&published("e1", 1));
    let act = world.does(&Request {
        gone,
        ..request("e1", now)
    });
    assert_eq!(act, RequestAct::Answered, "I4");
}

#[test]
fn a_claim_found_gone_that_is_not_the_present_one_means_nothing() {
    let mut world = World::new();
    world.ready("e1");
    let now = world.now;
    // Another claim, and the same claim while it had another sandbox.
    let moved = Assigned {
        sandbox: assigned('9').sandbox,
        ..assigned('0')
    };
    for gone in [assigned('9'), moved] {
        let act = world.does(&Request {
            gone: Some(gone),
            ..request("e2", now)
        });
        assert!(matches!(act, RequestAct::Use(_)));
    }
}

#[test]
fn nothing_is_announced_ready_once_its_release_has_begun() {
    let mut world = World::new();
    world.request("e1");
    world.does(&Assign {
        event: id("e1"),
        assigned: assigned('0'),
    });
    assert_eq!(world.does(&Release { event: id("e1") }), ReleaseAct::Delete);
    assert_eq!(
        world.does(&Release { event: id("e1") }),
        ReleaseAct::Delete,
        "repeatable"
    );
    let ready = announce("e1", End::Ready(assigned('0')));
    assert_eq!(world.does(&ready), AnnounceAct::Lost);
    assert_eq!(world.request("e1"), RequestAct::Wait { owner: id("e1") });
    assert!(matches!(
        world.does(&announce("e1", failed())),
        AnnounceAct::Publish { .. }
    ));
    assert!(matches!(&world.agent.state, AgentState::Failed { .. }));
}

#[test]
fn nothing_is_released_once_it_is_ready() {
    let mut world = World::new();
    world.ready("e1");
    assert_eq!(
        world.does(&Release { event: id("e1") }),
        ReleaseAct::Nothing
    );
    // A twin that gave up in the meantime reports what was recorded, not what it thinks.
    let late = world.does(&announce("e1", failed()));
    assert!(
        matches!(late, AnnounceAct::InProgress { .. }),
        "I1: {late:?}"
    );
    world.does(&published("e1", 1));
    assert_eq!(world.does(&announce("e1", failed())), AnnounceAct::Done);
}

#[test]
fn a_failure_is_not_announced_while_its_claim_stands() {
    let mut world = World::new();
    world.request("e1");
    assert_eq!(
        world.does(&announce("e1", failed())),
        AnnounceAct::NotReleased
    );
    assert!(world.outcomes.is_empty());
}

#[test]
fn the_failure_of_one_request_leaves_the_attempt_of_another_alone() {
    let mut world = World::new();
    world.request("e1");
    assert_eq!(
        world.does(&Release { event: id("e2") }),
        ReleaseAct::Nothing
    );
    assert!(matches!(
        world.does(&announce("e2", failed())),
        AnnounceAct::Publish { .. }
    ));
    assert!(matches!(&world.agent.state, AgentState::Claiming(a) if a.event == id("e1")));
}

#[test]
fn after_a_failure_a_new_request_starts_anew_and_the_failed_one_does_not() {
    let mut world = World::new();
    world.request("e1");
    world.does(&Release { event: id("e1") });
    world.does(&announce("e1", failed()));
    assert_eq!(world.request("e1"), RequestAct::Unannounced);
    world.does(&published("e1", 1));
    assert_eq!(world.request("e1"), RequestAct::Answered, "I4");
    assert!(matches!(world.request("e2"), RequestAct::Claim { .. }));
}

#[test]
fn an_announcement_is_taken_over_only_after_its_lease_and_stays_the_same() {
    let mut world = World::new();
    let AnnounceAct::Publish {
        announcement,
        attempt,
    } = world.ready("e1")
    else {
        panic!()
    };
    let twin = announce("e1", End::Ready(assigned('0')));
    assert!(matches!(world.does(&twin), AnnounceAct::InProgress { .. }));
    world.pass(ANNOUNCEMENT_LEASE);
    let AnnounceAct::Publish {
        announcement: again,
        attempt: second,
    } = world.does(&announce("e1", End::Recorded))
    else {
        panic!("{world:?}");
    };
    assert_eq!(again, announcement, "the same event, to the last byte");
    assert_eq!((attempt.get(), second.get()), (1, 2));
    // The first comes back to life: its report doesn't end the second's lease.
    world.does(&published("e1", 1));
    assert!(matches!(world.does(&twin), AnnounceAct::InProgress { .. }));
    world.does(&published("e1", 2));
    assert_eq!(world.does(&twin), AnnounceAct::Done);
}

#[test]
fn without_a_record_there_is_nothing_to_announce_again() {
    let mut world = World::new();
    assert_eq!(
        world.does(&announce("e1", End::Recorded)),
        AnnounceAct::Lost
    );
}

#[test]
fn the_first_sign_in_onboards_and_the_next_changes_nothing() {
    let mut world = World::new();
    assert_eq!(world.does(&onboard("s1")), OnboardAct::Onboarded);
    assert_eq!(world.agent.state, AgentState::Absent);
    assert_eq!(world.agent.allowance, Some(allowance()));
    let after = world.agent.clone();
    for event in ["s1", "s2"] {
        assert_eq!(world.does(&onboard(event)), OnboardAct::Known);
    }
    assert_eq!(world.agent, after, "I4");
}

#[test]
fn an_agent_that_was_asked_for_before_its_user_signed_in_goes_on_with_an_allowance() {
    let mut world = World::new();
    world.ready("e1");
    let bind = Bind {
        event: id("e1"),
        uid: assigned('0').uid,
    };
    assert_eq!(world.does(&bind), BindAct::Proceed(None));
    let before = world.agent.state.clone();
    assert_eq!(world.does(&onboard("s1")), OnboardAct::Onboarded);
    assert_eq!(world.agent.state, before);
    assert_eq!(world.does(&bind), BindAct::Proceed(Some(allowance())));
}

#[test]
fn whatever_an_agent_is_at_it_is_retired_and_nothing_is_begun_for_it_then() {
    let begun: [fn(&mut World); 5] = [
        |_| {},
        |world| {
            world.request("e1");
        },
        |world| {
            world.ready("e1");
        },
        |world| {
            world.request("e1");
            world.does(&Release { event: id("e1") });
        },
        |world| {
            world.request("e1");
            world.does(&Release { event: id("e1") });
            world.does(&announce("e1", failed()));
        },
    ];
    for begin in begun {
        let mut world = World::new();
        world.does(&onboard("s1"));
        begin(&mut world);
        assert_eq!(world.does(&retire("r1")), RetireAct::Retire);
        for _ in 0..2 {
            assert!(world.agent.state.is_over());
            assert_eq!(world.agent.allowance, None);
            assert_eq!(world.request("e2"), RequestAct::Retired);
            let assign = Assign {
                event: id("e1"),
                assigned: assigned('0'),
            };
            assert_eq!(world.does(&assign), HoldAct::Lost);
            let bind = Bind {
                event: id("e1"),
                uid: assigned('0').uid,
            };
            assert_eq!(world.does(&bind), BindAct::Lost, "I3");
            // A claim that this event made too late must not stay.
            assert_eq!(world.does(&Release { event: id("e1") }), ReleaseAct::Delete);
            world.does(&announce("r1", End::Retired));
        }
        assert!(matches!(world.agent.state, AgentState::Retired(_)));
        // The request that was under way, or came later, still gets its answer.
        let answer = world.does(&announce("e2", failed()));
        assert!(matches!(answer, AnnounceAct::Publish { .. }), "I1");
        assert!(matches!(world.agent.state, AgentState::Retired(_)));
    }
}

#[test]
fn a_retirement_is_announced_once_whoever_joins_in() {
    let mut world = World::new();
    world.does(&onboard("s1"));
    assert_eq!(
        world.does(&announce("r1", End::Retired)),
        AnnounceAct::Lost,
        "not before it is begun"
    );
    world.does(&retire("r1"));
    assert!(world.does(&StillRetiring { event: id("r2") }));
    assert_eq!(
        world.does(&retire("r2")),
        RetireAct::Retire,
        "r1 may be dead"
    );
    assert_eq!(world.does(&onboard("s2")), OnboardAct::StillRetiring);
    let AnnounceAct::Publish { announcement, .. } = world.does(&announce("r2", End::Retired))
    else {
        panic!("{world:?}");
    };
    assert!(!world.does(&StillRetiring { event: id("r1") }));
    assert_eq!(world.does(&announce("r1", End::Retired)), AnnounceAct::Done);
    assert_eq!(world.does(&retire("r1")), RetireAct::Purge);
    assert_eq!(world.does(&retire("r2")), RetireAct::Announce, "I4");
    assert!(matches!(
        world.does(&announce("r2", End::Retired)),
        AnnounceAct::InProgress { .. }
    ));
    insta::assert_json_snapshot!("retired", announcement);
}

#[test]
fn whoever_signs_in_again_begins_anew_and_a_copy_of_their_removal_is_none() {
    let mut world = World::new();
    world.ready("e1");
    world.does(&retire("r1"));
    world.does(&announce("r1", End::Retired));
    assert_eq!(world.does(&onboard("s2")), OnboardAct::Onboarded);
    assert_eq!(world.agent.state, AgentState::Absent);
    assert_eq!(world.agent.allowance, Some(allowance()));
    let after = world.agent.clone();
    assert_eq!(world.does(&retire("r1")), RetireAct::Announce);
    assert_eq!(world.agent, after, "I4");
    assert!(matches!(world.request("e2"), RequestAct::Claim { .. }));
}

#[test]
fn announcements_on_the_wire() {
    let mut world = World::new();
    let AnnounceAct::Publish {
        announcement: Announcement::Ready(ready),
        ..
    } = world.ready("e1")
    else {
        panic!("{world:?}");
    };
    insta::assert_json_snapshot!("ready", ready);
    let mut world = World::new();
    let with_correlation = Announce {
        correlation_id: Some(CorrelationId::parse("story-1").unwrap()),
        ..announce("e1", failed())
    };
    let AnnounceAct::Publish {
        announcement: Announcement::Failed(failed),
        ..
    } = world.does(&with_correlation)
    else {
        panic!("{world:?}");
    };
    insta::assert_json_snapshot!("failed", failed);
}

/// One thing that any invocation may do at any time.
#[derive(Debug, Clone)]
enum Step {
    Request { gone: bool },
    Assign,
    Bind,
    Release,
    AnnounceReady,
    AnnounceFailed,
    AnnounceRecorded,
    Published,
    Onboard,
    Retire,
    AnnounceRetired,
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<(Step, usize, usize)>> {
    let step = prop_oneof![
        4 => any::<bool>().prop_map(|gone| Step::Request { gone }),
        3 => Just(Step::Assign),
        1 => Just(Step::Bind),
        1 => Just(Step::Release),
        3 => Just(Step::AnnounceReady),
        2 => Just(Step::AnnounceFailed),
        1 => Just(Step::AnnounceRecorded),
        2 => Just(Step::Published),
        1 => Just(Step::Onboard),
        1 => Just(Step::Retire),
        1 => Just(Step::AnnounceRetired),
        2 => (0_i64..2000).prop_map(Step::Wait),
    ];
    prop::collection::vec((step, 0..3_usize, 0..2_usize), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any order of any steps of three events, as twins, retries and strays make it.
    #[test]
    fn no_order_of_steps_breaks_an_invariant(steps in steps()) {
        let events = ["e1", "e2", "e3"];
        let mut world = World::new();
        for (step, event, claim) in steps {
            let before = world.clone();
            let event = events[event];
            let assigned = assigned(['0', '1'][claim]);
            let now = world.now;
            match step.clone() {
                Step::Request { gone } => {
                    let gone = gone.then(|| assigned.clone());
                    world.does(&Request { gone, ..request(event, now) });
                }
                Step::Assign => { world.does(&Assign { event: id(event), assigned }); }
                Step::Bind => { world.does(&Bind { event: id(event), uid: assigned.uid }); }
                Step::Release => { world.does(&Release { event: id(event) }); }
                Step::AnnounceReady => { world.does(&announce(event, End::Ready(assigned))); }
                Step::AnnounceFailed => { world.does(&announce(event, failed())); }
                Step::AnnounceRecorded => { world.does(&announce(event, End::Recorded)); }
                Step::Published => {
                    let attempt = world.outcomes.get(&id(event)).map(|o| o.publication.attempt);
                    world.does(&published(event, attempt.map_or(1, NonZeroU32::get)));
                }
                Step::Onboard => { world.does(&onboard(event)); }
                Step::Retire => { world.does(&retire(event)); }
                Step::AnnounceRetired => { world.does(&announce(event, End::Retired)); }
                Step::Wait(seconds) => world.pass(SignedDuration::from_secs(seconds)),
            }
            check(&before, &step, &id(event), &world)?;
        }
        let user = &world.agent.user;
        prop_assert_eq!(history::verify(user, &world.history, world.agent.head), Ok(()));
    }
}

fn check(before: &World, step: &Step, event: &EventId, after: &World) -> Result<(), TestCaseError> {
    // I1: an outcome, once recorded, is the outcome, and once announced it stays so.
    for (event, outcome) in &before.outcomes {
        let now = &after.outcomes[event];
        prop_assert_eq!(&now.announcement, &outcome.announcement);
        prop_assert!(outcome.publication.pending_until.is_some() || now == outcome);
    }
    // I4: an event that has its outcome never touches the agent again. A sign-in has none: that it was
    // served shows in the record.
    if before.outcomes.contains_key(event) && !matches!(step, Step::Onboard) {
        prop_assert_eq!(&before.agent, &after.agent, "{:?} of {} again", step, event);
    }
    match (&before.agent.state, &after.agent.state) {
        // What is over stays so, until its user signs in again.
        (AgentState::Retiring(_), next) => prop_assert!(next.is_over(), "{:?}", next),
        (AgentState::Retired(old), AgentState::Retired(new)) => prop_assert_eq!(old, new),
        (AgentState::Retired(_), next) => {
            prop_assert!(matches!(step, Step::Onboard));
            prop_assert_eq!(next, &AgentState::Absent);
        }
        (_, AgentState::Retiring(_)) => prop_assert!(matches!(step, Step::Retire)),
        (from, AgentState::Retired(_)) => prop_assert!(false, "{:?}", from),
        // Ready is only left by another event that has found the claim gone.
        (AgentState::Ready(held), AgentState::Ready(still)) => prop_assert_eq!(held, still),
        (AgentState::Ready(held), next) => {
            prop_assert!(
                matches!(step, Step::Request { gone: true }),
                "{:?} to {:?}",
                step,
                next
            );
            prop_assert_ne!(&held.event, event);
        }
        // A failure is only recorded for an attempt whose release has begun.
        (AgentState::Failed { .. }, AgentState::Failed { .. }) => {}
        (AgentState::Releasing(attempt), AgentState::Failed { event, .. }) => {
            prop_assert_eq!(&attempt.event, event);
        }
        (from, AgentState::Failed { .. }) => prop_assert!(false, "{:?}", from),
        // An attempt is only taken from its owner when its hold has passed.
        (AgentState::Claiming(old), AgentState::Claiming(new)) if old.event != new.event => {
            prop_assert!(after.now >= old.until);
        }
        _ => {}
    }
    // Ready means that the outcome of the event that made it so says ready.
    if let AgentState::Ready(held) = &after.agent.state {
        let outcome = after
            .outcomes
            .get(&held.event)
            .map(|outcome| &outcome.announcement);
        prop_assert!(matches!(outcome, Some(Announcement::Ready(_))));
    }
    Ok(())
}

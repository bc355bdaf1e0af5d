//! What happens to messages, from the event to what stands in the thread.

use std::time::Duration;

use carapace_core::{
    EventId, SlackUserId, UserKey,
    agentd::ErrorName,
    conversation::{TurnOutcome, words},
    ports::{Clock, SlackTrouble, StoredReply, Trouble, TurnTrouble},
};
use carapace_test_support::End;
use futures::future::{join, join_all};
use jiff::SignedDuration;
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};

use super::{
    daemon::{answer, refusal},
    machine::execute,
    workspace::Mishap,
    world::{MEMBER, World, account, policy, user},
};
use crate::{
    fault::{self, Moment, planned},
    wire::{Held, Turned},
};

const THREAD: &str = "1763999999.000001";

/// A message of the thread.
fn event(id: &str, text: &str) -> Value {
    json!({"source": "carapace.slack", "detail-type": "Slack Message Received", "detail": {
        "version": 1, "id": format!("slack.{id}"), "at": "2026-11-24T10:00:00Z",
        "team_id": "T0CARAPACE", "user_id": MEMBER, "channel_id": "C1", "thread_ts": THREAD,
        "ts": THREAD, "text": text
    }})
}

/// The end of an execution, as AWS tells it.
fn ended(execution: &str, input: Option<&Value>) -> Value {
    json!({
        "source": "aws.states", "detail-type": "Step Functions Execution Status Change",
        "detail": {
            "executionArn": format!("arn:aws:states:eu-central-1:1:execution:conversation:{execution}"),
            "status": "ABORTED", "input": input.map(Value::to_string)
        }
    })
}

fn run(world: &World, id: &str, text: &str) -> End {
    let name = format!("x-{id}");
    let end = world.time.run(execute(world, &name, event(id, text)));
    world.check();
    end
}

fn replies(world: &World) -> Vec<String> {
    world.replies(THREAD)
}

fn ran(world: &World) -> Vec<String> {
    world.look(|state| {
        state
            .daemon
            .ran
            .iter()
            .map(|(id, _)| id.to_string())
            .collect()
    })
}

#[test]
fn a_message_to_an_agent_that_is_awake_is_answered_in_two_steps() {
    let world = World::new();
    let end = run(&world, "Ev1", "hello");
    assert_eq!(
        end.path,
        [
            "AcceptMessage",
            "RouteMessage",
            "RunTurns",
            "RouteTurns",
            "ConversationIdle"
        ]
    );
    assert_eq!(replies(&world), ["You said: hello"]);
    assert_eq!(world.outcomes(), [Some(TurnOutcome::Answered)]);
    assert_eq!(ran(&world), ["slack.Ev1"]);
    world.look(|state| assert_eq!(state.slack.statuses, ["is thinking…"]));
}

#[test]
fn an_agent_that_sleeps_is_woken_first() {
    let world = World::asleep();
    let end = run(&world, "Ev1", "hello");
    assert_eq!(end.times("WakeAgent"), 1);
    assert_eq!(replies(&world), ["You said: hello"]);
}

/// The thread shows a reply as it grows, and Slack is not called more often than it takes.
#[test]
fn a_reply_grows_as_the_agent_speaks() {
    let world = World::new();
    run(&world, "Ev1", "SLOW 20");
    assert_eq!(replies(&world), [answer("SLOW 20")]);
    world.look(|state| {
        let spoken = state.slack.calls.iter();
        let spoken: Vec<_> = spoken
            .filter(|(method, _)| ["chat.appendStream", "chat.stopStream"].contains(method))
            .map(|(_, at)| *at)
            .collect();
        assert!(spoken.len() > 5, "{spoken:?}");
        let pace = SignedDuration::from_millis(700);
        for pair in spoken.windows(2) {
            assert!(pair[1].duration_since(pair[0]) >= pace, "{spoken:?}");
        }
        assert_eq!(state.slack.posts[0].edits, 0);
    });
}

/// I4
#[test]
fn a_message_that_is_delivered_again_is_answered_once() {
    let world = World::new();
    run(&world, "Ev1", "hello");
    world.time.pass(40 * 24 * 3600);
    let end = world
        .time
        .run(execute(&world, "x-again", event("Ev1", "hello")));
    assert_eq!(end.state, "LeftToAnother");
    assert_eq!(replies(&world), ["You said: hello"]);
}

/// I1, I4: whatever the order in which their calls interleave.
#[test]
fn messages_that_come_at_once_and_twice_are_answered_once_each_and_in_order() {
    for seed in 1..=40 {
        let world = World::seeded(seed);
        let ids = ["Ev1", "Ev2", "Ev1", "Ev3", "Ev2", "Ev4"];
        let names: Vec<String> = (0..ids.len()).map(|n| format!("x-{n}")).collect();
        let executions = ids.iter().zip(&names);
        let executions = executions.map(|(id, name)| execute(&world, name, event(id, id)));
        let ends = world.time.run(join_all(executions));
        world.check();
        assert!(
            ends.iter().all(|end| end.error.is_none()),
            "seed {seed}: {ends:?}"
        );
        let mut order = ran(&world);
        let said: Vec<String> = order
            .iter()
            .map(|id| format!("You said: {}", &id[6..]))
            .collect();
        assert_eq!(replies(&world), said, "seed {seed}");
        order.sort();
        assert_eq!(
            order,
            ["slack.Ev1", "slack.Ev2", "slack.Ev3", "slack.Ev4"],
            "seed {seed}"
        );
    }
}

/// I1: a platform that is slow is slow for the one and slower for the other.
#[test]
fn a_message_overtaken_on_a_slow_way_is_answered_first_all_the_same() {
    let world = World::new();
    run(&world, "Ev1", "hello");
    let written = |id: &str, ts: &str| {
        let mut event = event(id, id);
        event["detail"]["ts"] = json!(ts);
        event["detail"]["at"] = json!(world.time.now().to_string());
        event
    };
    let (two, three) = (
        written("Ev2", "1764000001.000001"),
        written("Ev3", "1764000002.000001"),
    );
    let after = async |millis: u64, name: &str, event: Value| {
        world.time.sleep(Duration::from_millis(millis)).await;
        execute(&world, name, event).await
    };
    let (two, three) = (after(2_600, "x-2", two), after(1_500, "x-3", three));
    let (two, three) = world.time.run(join(two, three));
    world.check();
    assert_eq!((two.error, three.error), (None, None));
    assert_eq!(ran(&world), ["slack.Ev1", "slack.Ev2", "slack.Ev3"]);
}

#[test]
fn a_message_that_comes_while_the_agent_answers_is_answered_by_the_same_execution() {
    let world = World::new();
    let later = async {
        world.time.sleep(Duration::from_secs(2)).await;
        execute(&world, "x-2", event("Ev2", "two")).await
    };
    let first = execute(&world, "x-1", event("Ev1", "SLOW 30"));
    let (first, second) = world.time.run(join(first, later));
    world.check();
    assert_eq!(
        second.path,
        ["AcceptMessage", "RouteMessage", "LeftToAnother"]
    );
    assert_eq!(first.state, "ConversationIdle");
    assert_eq!(replies(&world), [answer("SLOW 30"), answer("two")]);
}

#[test]
fn a_turn_that_outlasts_an_invocation_shows_no_seam() {
    let world = World::new();
    world.look(|state| state.slice = Duration::from_secs(8));
    let end = run(&world, "Ev1", "SLOW 200");
    assert!(end.times("RunTurns") > 5, "{end:?}");
    assert_eq!(replies(&world), [answer("SLOW 200")]);
    assert_eq!(ran(&world).len(), 1);
    world.look(|state| assert_eq!(state.slack.posts[0].edits, 0));
}

#[test]
fn a_turn_of_half_an_hour_keeps_the_conversation() {
    let world = World::new();
    world.look(|state| state.slice = Duration::from_secs(240));
    let end = run(&world, "Ev1", "SLOW 7200");
    assert_eq!(end.state, "ConversationIdle");
    let said: String = replies(&world).concat();
    let letters = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(letters(&said), letters(&answer("SLOW 7200")));
}

#[test]
fn an_answer_that_is_too_long_for_a_message_takes_several() {
    let world = World::new();
    run(&world, "Ev1", "LONG 900");
    let replies = replies(&world);
    assert!(replies.len() > 2, "{}", replies.len());
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let said: Vec<String> = replies.iter().flat_map(|reply| lines(reply)).collect();
    assert_eq!(said, lines(&answer("LONG 900")));
}

#[test]
fn what_the_agent_takes_back_does_not_stay() {
    let world = World::new();
    run(&world, "Ev1", "BACK");
    assert_eq!(replies(&world), [answer("BACK")]);
}

/// Whoever begins the turn again is told it from its beginning, which is no news for the thread; and
/// a Slack that takes all of a slice for one call does not keep the next from going on.
#[test]
fn what_the_agent_took_back_does_not_come_back_with_the_next_invocation() {
    for text in ["BACK", "SLOW 12"] {
        let world = World::new();
        world.look(|state| {
            state.slice = Duration::from_secs(4);
            state.slack.latency = Duration::from_secs(4);
        });
        run(&world, "Ev1", text);
        assert_eq!(replies(&world), [answer(text)]);
        world.look(|state| assert!(state.slack.posts[0].edits < 3, "{text}"));
    }
}

#[test]
fn where_nothing_can_be_streamed_the_reply_is_posted_and_replaced() {
    let world = World::new();
    world.look(|state| state.slack.streamable = false);
    run(&world, "Ev1", "SLOW 12");
    assert_eq!(replies(&world), [answer("SLOW 12")]);
}

#[test]
fn an_agent_that_fails_is_said_so_and_the_next_message_is_answered() {
    let world = World::new();
    run(&world, "Ev1", "MODEL");
    run(&world, "Ev2", "HALF");
    run(&world, "Ev3", "MUTE");
    run(&world, "Ev4", "hello");
    let why = words(ErrorName::ModelUnavailable);
    let half = format!("half of it\n\n{why}");
    let expected = [why, &half, "(The agent gave no answer.)", "You said: hello"];
    assert_eq!(replies(&world), expected);
    let outcomes = world.outcomes();
    assert!(
        matches!(&outcomes[0], Some(TurnOutcome::Failed(name)) if name.as_str() == "ModelUnavailable")
    );
    assert_eq!(outcomes[3], Some(TurnOutcome::Answered));
}

/// What is left of a run.
fn left(world: &World) -> (Vec<String>, Vec<Option<TurnOutcome>>, Vec<String>, usize) {
    let links = world.look(|state| state.links.len());
    (replies(world), world.outcomes(), ran(world), links)
}

/// A conversation of three messages, of which two come while the first is answered.
fn conversation(world: &World) -> Vec<End> {
    let later = |id: &'static str, seconds| async move {
        world.time.sleep(Duration::from_secs(seconds)).await;
        execute(world, &format!("x-{id}"), event(id, id)).await
    };
    let first = execute(world, "x-1", event("Ev1", "SLOW 20"));
    let all = async {
        let others = join(later("Ev2", 2), later("Ev3", 4));
        let (first, (second, third)) = Box::pin(join(first, others)).await;
        vec![first, second, third]
    };
    let ends = world.time.run(all);
    world.check();
    ends
}

/// I1, I4: kills the functions at every side effect of a run, before and after, the first time and
/// every other time that they come by, and lets the machine carry on. Nothing may be left that would
/// not be left without the death.
fn survives_every_death(scene: fn(&World) -> Vec<End>, make: fn() -> World) -> Vec<&'static str> {
    let undisturbed = make();
    planned::take_seen();
    scene(&undisturbed);
    let seen = planned::take_seen();
    let mut points = seen.clone();
    points.sort_by_key(|(point, moment)| (*point, *moment == Moment::After));
    points.dedup();
    for (point, moment) in points {
        let times = seen.iter().filter(|seen| **seen == (point, moment)).count();
        for n in 1..=times {
            let world = make();
            planned::die_at_nth(point, moment, u32::try_from(n).unwrap());
            let ends = scene(&world);
            assert!(
                !planned::still_planned(),
                "never came by {point} {moment:?} {n}"
            );
            assert_eq!(
                left(&world),
                left(&undisturbed),
                "{point} {moment:?} {n}: {ends:#?}"
            );
            let failed = ends.iter().find(|end| end.error.is_some());
            assert_eq!(failed, None, "{point} {moment:?} {n}");
        }
    }
    planned::take_seen();
    seen.into_iter().map(|(point, _)| point).collect()
}

#[test]
fn a_conversation_survives_a_death_at_every_side_effect() {
    let mut seen = survives_every_death(conversation, World::new);
    seen.sort_unstable();
    seen.dedup();
    let mut listed = [fault::CONVERSATION_ACCEPT, fault::CONVERSATION_TURN].concat();
    listed.sort_unstable();
    assert_eq!(seen, listed);
}

#[test]
fn an_abandoned_message_survives_a_death_at_every_side_effect() {
    fn make() -> World {
        let world = World::asleep();
        world.look(|state| state.cannot_wake = true);
        world
    }
    let seen = survives_every_death(conversation, make);
    assert!(seen.contains(&"abandon.finish"), "{seen:?}");
}

#[test]
fn a_conversation_in_which_nothing_streams_survives_a_death_at_every_side_effect() {
    fn make() -> World {
        let world = World::new();
        world.look(|state| state.slack.streamable = false);
        world
    }
    // A message whose opener died shows that it is one; with a stream it shows nothing.
    fn scene(world: &World) -> Vec<End> {
        let ends = conversation(world);
        world.look(|state| state.slack.posts.retain(|post| post.text.trim() != "…"));
        ends
    }
    let seen = survives_every_death(scene, make);
    for point in ["turn.post", "turn.update"] {
        assert!(seen.contains(&point), "{seen:?}");
    }
}

#[test]
fn the_points_that_few_messages_come_by_are_known() {
    let world = World::new();
    world.look(|state| state.slice = Duration::from_secs(60));
    planned::take_seen();
    run(&world, "Ev1", "SLOW 400");
    let mut seen = planned::take_seen();
    let world = World::asleep();
    world.look(|state| {
        state.cannot_wake = true;
        state.slack.streamable = false;
    });
    run(&world, "Ev1", "hello");
    seen.extend(planned::take_seen());
    for point in fault::CONVERSATION_TURN_SELDOM {
        assert!(seen.iter().any(|(seen, _)| seen == point), "{point}");
    }
}

/// I1, I7: it is told, kept, and can be put back on the bus.
#[test]
fn a_message_whose_agent_cannot_wake_is_told_and_kept_and_answered_when_it_comes_back() {
    let world = World::asleep();
    world.look(|state| state.cannot_wake = true);
    let end = run(&world, "Ev1", "hello");
    assert_eq!(end.dead_letters.len(), 1);
    assert!(
        replies(&world)[0].contains("could not be started"),
        "{:?}",
        replies(&world)
    );
    assert!(matches!(
        &world.outcomes()[0],
        Some(TurnOutcome::Abandoned(_))
    ));

    world.look(|state| state.cannot_wake = false);
    let again = end.dead_letters[0].clone();
    assert_eq!(again["detail"], event("Ev1", "hello")["detail"]);
    let end = world.time.run(execute(&world, "x-again", again.clone()));
    assert_eq!(end.state, "ConversationIdle");
    assert_eq!(replies(&world)[1..], ["You said: hello"]);
    let end = world.time.run(execute(&world, "x-and-again", again));
    assert_eq!(end.state, "LeftToAnother");
    assert_eq!(replies(&world).len(), 2);
}

#[test]
fn messages_behind_one_that_is_given_up_are_given_up_one_by_one_if_the_agent_does_not_wake() {
    let world = World::asleep();
    world.look(|state| state.cannot_wake = true);
    let ends = conversation(&world);
    let kept: Vec<String> = ends
        .iter()
        .flat_map(|end| &end.dead_letters)
        .map(|event| event["detail"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kept, ["slack.Ev1", "slack.Ev2", "slack.Ev3"]);
}

/// I1: an execution that is stopped is followed by another.
#[test]
fn what_an_execution_leaves_behind_that_is_stopped_is_served_by_another() {
    for seconds in [1, 3, 5, 9] {
        let world = World::new();
        let stopped = async {
            let stop = world.time.sleep(Duration::from_secs(seconds));
            let first = execute(&world, "x-1", event("Ev1", "SLOW 20"));
            let first = std::pin::pin!(first);
            futures::future::select(first, std::pin::pin!(stop)).await;
        };
        let second = async {
            world.time.sleep(Duration::from_millis(500)).await;
            execute(&world, "x-2", event("Ev2", "two")).await
        };
        world.time.run(join(stopped, second));
        let input = event("Ev1", "SLOW 20");
        let told = ended("x-1", Some(&input));
        world.time.run(execute(&world, "x-3", told.clone()));
        world.check();
        assert_eq!(
            replies(&world),
            [answer("SLOW 20"), answer("two")],
            "{seconds}"
        );
        assert_eq!(ran(&world).len(), 2);
        // I4
        let end = world.time.run(execute(&world, "x-4", told));
        assert_eq!(end.state, "LeftToAnother");
    }
}

#[test]
fn the_message_of_an_execution_that_was_stopped_before_it_accepted_it_is_accepted() {
    let world = World::new();
    let input = event("Ev1", "hello");
    let end = world
        .time
        .run(execute(&world, "x-2", ended("x-1", Some(&input))));
    assert_eq!(end.state, "ConversationIdle");
    assert_eq!(replies(&world), ["You said: hello"]);
    // The follower of one that was stopped may be stopped as well.
    let other = event("Ev2", "two");
    let again = ended("x-4", Some(&ended("x-3", Some(&other))));
    world.time.run(execute(&world, "x-5", again));
    assert_eq!(replies(&world)[1..], ["You said: two"]);
    let end = world.time.run(execute(&world, "x-6", ended("x-9", None)));
    assert_eq!(end.state, "LeftToAnother");
}

/// A function that was given up runs on beside the one that took its place.
#[test]
fn two_runs_of_one_execution_say_everything_once() {
    for seed in 1..=60 {
        let world = World::seeded(seed);
        world.look(|state| state.slack.latency = Duration::from_millis(300 * (seed % 5)));
        world.time.run(async {
            let payload = json!({"event": event("Ev1", "SLOW 40"), "execution": "x-1"});
            world.accept().handle(payload).await.unwrap();
        });
        let held = || Held {
            user_key: user(),
            conversation: carapace_core::event::SlackMessageReceived::from_event(&event(
                "Ev1", "a",
            ))
            .unwrap()
            .conversation(),
            execution: "x-1".parse().unwrap(),
        };
        let runs = async {
            let (one, two) = (world.turn(), world.turn());
            let late = async {
                world
                    .time
                    .sleep(Duration::from_millis(700 * seed % 6000))
                    .await;
                two.run(held()).await
            };
            join(one.run(held()), late).await
        };
        let (one, two) = world.time.run(runs);
        let ended = |end: &Result<Turned, _>| *end == Ok(Turned::Idle);
        assert!(ended(&one) || ended(&two), "seed {seed}: {one:?} {two:?}");
        world.check();
        assert_eq!(replies(&world), [answer("SLOW 40")], "seed {seed}");
        assert_eq!(ran(&world).len(), 1, "seed {seed}");
    }
}

/// I3 of conversations: whoever has lost one touches it no more.
#[test]
fn a_run_that_has_lost_the_conversation_stops() {
    let world = World::new();
    world.time.run(async {
        let payload = json!({"event": event("Ev1", "SLOW 200"), "execution": "x-1"});
        world.accept().handle(payload).await.unwrap();
    });
    let lost = async {
        world.time.sleep(Duration::from_secs(10)).await;
        let payload = json!({"event": ended("x-1", None), "execution": "x-2"});
        world.accept().handle(payload).await.unwrap()
    };
    let payload = |execution: &str| {
        let message = carapace_core::event::SlackMessageReceived::from_event(&event("Ev1", "a"));
        json!({
            "action": "run", "user_key": user(), "execution": execution,
            "conversation": message.unwrap().conversation()
        })
    };
    let first = world.turn();
    let (first, taken) = world.time.run(join(first.handle(payload("x-1")), lost));
    assert_eq!(first.unwrap_err().error_type, "LeaseLost");
    assert_eq!(taken["outcome"], "run");
    assert_eq!(world.holder().unwrap().as_str(), "x-2");
    world.time.run(async {
        while world.turn().handle(payload("x-2")).await.unwrap()["outcome"] != "idle" {}
    });
    world.check();
    assert_eq!(replies(&world), [answer("SLOW 200")]);
}

#[test]
fn a_slack_that_limits_our_rate_gets_the_whole_reply() {
    for (method, slice) in [
        ("chat.startStream", 60),
        ("chat.appendStream", 60),
        ("chat.stopStream", 8),
    ] {
        let world = World::new();
        world.look(|state| {
            state.slice = Duration::from_secs(slice);
            let limited = Mishap::Refused(SlackTrouble::RateLimited(Duration::from_secs(3)));
            state.slack.mishaps.insert(method, vec![limited; 4]);
        });
        let end = run(&world, "Ev1", "SLOW 12");
        assert_eq!(end.state, "ConversationIdle", "{method}");
        assert_eq!(replies(&world), [answer("SLOW 12")], "{method}");
        world.look(|state| assert_eq!(state.slack.posts[0].edits, 0, "{method}"));
    }
}

#[test]
fn a_slack_that_fails_whether_or_not_it_did_its_part_shows_everything_once() {
    let unavailable = || Mishap::Refused(SlackTrouble::Unavailable("internal_error".into()));
    for method in [
        "chat.startStream",
        "chat.appendStream",
        "chat.stopStream",
        "chat.update",
    ] {
        for mishaps in [vec![unavailable(); 3], vec![Mishap::Unheard; 2]] {
            let world = World::new();
            world.look(|state| {
                let unheard = vec![Mishap::Unheard];
                state.slack.mishaps.insert("chat.appendStream", unheard);
                state.slack.mishaps.insert(method, mishaps.clone());
            });
            let end = run(&world, "Ev1", "SLOW 12");
            assert_eq!(end.state, "ConversationIdle", "{method} {mishaps:?}");
            assert_eq!(replies(&world), [answer("SLOW 12")], "{method} {mishaps:?}");
        }
    }
}

#[test]
fn a_thread_that_is_gone_ends_the_message_and_not_the_conversation() {
    let world = World::new();
    world.look(|state| {
        let gone = Mishap::Refused(SlackTrouble::Undeliverable("channel_not_found".into()));
        state.slack.mishaps.insert("chat.startStream", vec![gone]);
    });
    run(&world, "Ev1", "hello");
    run(&world, "Ev2", "two");
    assert_eq!(replies(&world), ["You said: two"]);
    assert!(
        matches!(&world.outcomes()[0], Some(TurnOutcome::Failed(why)) if why.as_str() == "Undeliverable")
    );
}

#[test]
fn a_token_that_slack_does_not_take_ends_in_the_dead_letter_queue() {
    let world = World::new();
    world.look(|state| {
        let rejected = || Mishap::Refused(SlackTrouble::TokenRejected("invalid_auth".into()));
        state
            .slack
            .mishaps
            .insert("chat.startStream", vec![rejected(); 2]);
    });
    let end = run(&world, "Ev1", "hello");
    assert_eq!(end.dead_letters.len(), 1);
    assert!(
        matches!(&world.outcomes()[0], Some(TurnOutcome::Abandoned(why)) if why.as_str() == "SlackTokenRejected")
    );
    // The one behind it is served all the same.
    run(&world, "Ev2", "two");
    assert_eq!(replies(&world), ["You said: two"]);
}

#[test]
fn a_line_that_breaks_is_taken_up_where_it_was() {
    let world = World::new();
    world.look(|state| state.daemon.breaks = vec![1, 3, 7, 7, 20]);
    run(&world, "Ev1", "SLOW 40");
    assert_eq!(replies(&world), [answer("SLOW 40")]);
    assert_eq!(ran(&world).len(), 1);
    world.look(|state| assert_eq!(state.slack.posts[0].edits, 0));
}

/// Events that were told before are no sign of life: what breaks the line may be the next one.
#[test]
fn a_line_that_always_breaks_at_the_same_event_is_given_up() {
    for told in [1, 7] {
        let world = World::new();
        world.look(|state| state.daemon.always_breaks = Some(told));
        let begun = world.time.now();
        let end = run(&world, "Ev1", "SLOW 40");
        let took = world.time.now().duration_since(begun);
        assert!(took < SignedDuration::from_mins(1), "{told}: {took}");
        assert_eq!(end.times("WakeAgent"), 3, "{told}");
        assert_eq!(end.dead_letters.len(), 1, "{told}");
    }
}

#[test]
fn a_daemon_that_is_away_for_a_moment_is_waited_for_and_one_that_stays_away_is_replaced() {
    let world = World::new();
    world.look_at(|state, now| {
        state.daemon.away_until = Some(now + SignedDuration::from_secs(4));
    });
    let end = run(&world, "Ev1", "hello");
    assert_eq!((end.times("WakeAgent"), replies(&world).len()), (0, 1));
    world.look_at(|state, now| {
        state.daemon.away_until = Some(now + SignedDuration::from_secs(11));
    });
    let end = run(&world, "Ev2", "two");
    assert_eq!(end.times("WakeAgent"), 1);
    assert_eq!(replies(&world)[1..], ["You said: two"]);
}

#[test]
fn an_agent_that_falls_asleep_again_and_again_is_given_up_after_three_wakes() {
    let world = World::new();
    world.look_at(|state, now| {
        state.slice = Duration::from_secs(8);
        state.daemon.away_until = Some(now + SignedDuration::from_secs(36000));
    });
    let end = run(&world, "Ev1", "hello");
    assert_eq!(end.times("WakeAgent"), 3);
    assert_eq!(end.dead_letters.len(), 1);
    assert!(replies(&world)[0].contains("could not be started"));
}

#[test]
fn a_sandbox_that_is_gone_is_replaced_under_a_message() {
    let world = World::new();
    run(&world, "Ev1", "hello");
    world.lose_claim();
    let end = run(&world, "Ev2", "are you there?");
    assert_eq!(end.times("WakeAgent"), 1);
    assert_eq!(replies(&world)[1..], ["You said: are you there?"]);
}

#[test]
fn an_agent_with_too_much_to_do_is_waited_for() {
    for error in [
        ErrorName::TooManyTurns,
        ErrorName::NotReady,
        ErrorName::TurnInProgress,
    ] {
        let world = World::new();
        world.look(|state| {
            state.slice = Duration::from_secs(8);
            state.daemon.refusals = vec![refusal(error); 9];
        });
        let end = run(&world, "Ev1", "hello");
        assert_eq!(end.times("WakeAgent"), 0);
        assert!(end.times("RunTurns") > 1, "{end:?}");
        assert_eq!(replies(&world), ["You said: hello"]);
    }
}

/// A turn ends by itself, unless what runs in the sandbox is broken: nothing else there is believed
/// for ever either.
#[test]
fn an_agent_that_has_too_much_to_do_for_ever_is_given_up() {
    let world = World::new();
    let busy = refusal(ErrorName::TurnInProgress);
    world.look(|state| state.daemon.refusals = vec![busy; 10_000]);
    let end = run(&world, "Ev1", "hello");
    assert_eq!(end.dead_letters.len(), 1);
    assert!(
        matches!(&world.outcomes()[0], Some(TurnOutcome::Abandoned(why)) if why.as_str() == "TurnTooLong")
    );
    assert_eq!(end.state, "ConversationIdle");
}

#[test]
fn what_agentd_will_never_do_is_said_and_what_is_our_fault_is_kept() {
    let world = World::new();
    world.look(|state| state.daemon.refusals = vec![refusal(ErrorName::BodyTooLarge)]);
    run(&world, "Ev1", "hello");
    assert_eq!(replies(&world), [words(ErrorName::BodyTooLarge)]);
    world.look(|state| state.daemon.refusals = vec![refusal(ErrorName::InvalidToken)]);
    let end = run(&world, "Ev2", "hello");
    assert_eq!(end.dead_letters.len(), 1);
}

/// Nothing tells a refused write because of another that came to nothing from one that was overtaken.
#[test]
fn writes_that_get_in_each_others_way_are_tried_again() {
    for conflicts in 1..6 {
        let world = World::new();
        world.look(|state| state.conflicts = conflicts);
        run(&world, "Ev1", "SLOW 12");
        assert_eq!(replies(&world), [answer("SLOW 12")]);
    }
}

#[test]
fn who_somebody_is_is_asked_once_an_hour() {
    let world = World::new();
    run(&world, "Ev1", "one");
    run(&world, "Ev2", "two");
    world.look(|state| assert_eq!(state.asked, 1));
    world.time.pass(3601);
    run(&world, "Ev3", "three");
    world.look(|state| assert_eq!(state.asked, 2));
}

fn accept(world: &World, id: &str) -> Result<Value, Diagnostic> {
    let payload = json!({"event": event(id, "hello"), "execution": format!("x-{id}")});
    world
        .time
        .run(async { world.accept().handle(payload).await })
}

/// The address that Slack tells of the member.
fn slack_says(world: &World, email: &str) {
    world.look(|state| {
        let member = SlackUserId::parse(MEMBER).unwrap();
        let profile = state.slack.members.get_mut(&member).unwrap();
        profile.email = Some(email.to_owned());
    });
}

/// I6
#[test]
fn one_mailbox_is_one_user_however_slack_and_cognito_write_it() {
    for (slack, cognito) in [
        ("ada@example.com", "ada+claw@example.com"),
        ("ada+slack@example.com", "ada@example.com"),
        ("Ada+1@Example.com", "ADA+2@example.com"),
    ] {
        let world = World::new();
        world.sign_up(cognito, "u-2", account("sub-2", cognito));
        slack_says(&world, slack);
        let key = UserKey::derive("eu-central-1_Pool", "sub-2");
        let answer = accept(&world, "Ev1").unwrap();
        assert_eq!(answer["user_key"], key.as_str(), "{slack} {cognito}");
    }
}

/// I6: `+` may be a character like any other, and then the other mailbox is another person's.
#[test]
fn nobody_gets_the_agent_of_another_by_a_tag() {
    for (tags, slack, reason) in [
        ("distinct", "ada+x@example.com", "NotSignedUp"),
        ("refused", "ada+x@example.com", "AddressNotAccepted"),
    ] {
        let world = World::new();
        world.look(|state| state.policy = Ok(policy(tags)));
        slack_says(&world, slack);
        assert_eq!(accept(&world, "Ev1").unwrap()["reason"], reason, "{tags}");
    }
    // What was entered while tags were left out is no proof any more.
    let world = World::new();
    world.sign_up(
        "ada@example.com",
        "u-2",
        account("sub-2", "ada+x@example.com"),
    );
    world.look(|state| state.policy = Ok(policy("distinct")));
    assert_eq!(accept(&world, "Ev1").unwrap()["reason"], "Ambiguous");
}

/// I6
#[test]
fn whoever_is_locked_or_deleted_or_blocked_has_no_agent_after_an_hour() {
    type Change = fn(&World);
    let changes: [(&str, Change); 4] = [
        ("Disabled", |world| {
            world.look(|state| state.accounts.get_mut("ada").unwrap().enabled = false);
        }),
        ("NotSignedUp", |world| {
            world.look(|state| state.accounts.clear());
        }),
        // They signed up again: somebody new, as far as agents go.
        ("NotConfirmed", |world| {
            let mut again = account("sub-3", "ada@example.com");
            again.confirmed = false;
            world.sign_up("ada@example.com", "u-3", again);
        }),
        ("Guest", |world| {
            world.look(|state| {
                let member = SlackUserId::parse(MEMBER).unwrap();
                state.slack.members.get_mut(&member).unwrap().is_restricted = true;
            });
        }),
    ];
    for (reason, change) in changes {
        let world = World::new();
        run(&world, "Ev1", "one");
        change(&world);
        world.time.pass(3601);
        assert_eq!(accept(&world, "Ev2").unwrap()["reason"], reason);
    }
    let world = World::new();
    world.sign_up(
        "mallory@example.com",
        "u-2",
        account("sub-2", "mallory@example.com"),
    );
    slack_says(&world, "eve+x@example.com");
    assert_eq!(accept(&world, "Ev1").unwrap()["reason"], "Disabled");
}

/// I6: at once, not when the link has expired; and in the words that fit.
#[test]
fn whose_agent_was_removed_is_told_why_with_their_next_message() {
    type Change = fn(&World);
    let changes: [(&str, Change); 3] = [
        ("Disabled", |world| {
            world.look(|state| state.accounts.get_mut("ada").unwrap().enabled = false);
        }),
        ("NotSignedUp", |world| {
            world.look(|state| state.accounts.clear());
        }),
        // Enabled again, and not signed in since.
        ("Removed", |_| {}),
    ];
    for (reason, change) in changes {
        let world = World::new();
        run(&world, "Ev1", "one");
        change(&world);
        world.retire();
        let links = world.look(|state| state.links.clone());
        let answer = accept(&world, "Ev2").unwrap();
        assert_eq!(
            (&answer["outcome"], &answer["reason"]),
            (&json!("not_linked"), &json!(reason))
        );
        assert_eq!(answer["event_id"], "slack.Ev2");
        assert_eq!(accept(&world, "Ev1").unwrap()["outcome"], "duplicate", "I4");
        assert_eq!(world.outcomes().len(), 1, "nothing is put into the inbox");
        world.look(|state| assert_eq!(state.links, links, "nothing is kept of them anew"));
    }
}

/// Deleted and signed up again: another user, whatever the link of an hour ago says.
#[test]
fn who_has_signed_up_again_after_a_removal_is_served_as_who_they_are_now() {
    let world = World::new();
    run(&world, "Ev1", "one");
    world.retire();
    world.sign_up(
        "ada@example.com",
        "u-2",
        account("sub-2", "ada@example.com"),
    );
    let answer = accept(&world, "Ev2").unwrap();
    let key = UserKey::derive("eu-central-1_Pool", "sub-2");
    assert_eq!(answer["outcome"], "run");
    assert_eq!(answer["user_key"], key.as_str());
}

/// The removal may come between any two calls of a step.
#[test]
fn a_message_that_races_with_a_removal_is_in_the_inbox_before_it_or_not_at_all() {
    let (mut before, mut not_at_all) = (0, 0);
    for seed in 1..=160 {
        let world = World::seeded(seed);
        let payload = json!({"event": event("Ev1", "hello"), "execution": "x-1"});
        let removal = async {
            for _ in 0..seed / 2 {
                world.others().await;
            }
            let put = world.outcomes().len();
            world.look(|state| state.accounts.get_mut("ada").unwrap().enabled = false);
            world.retire();
            put
        };
        let step = world.accept();
        let (answer, put) = world.time.run(join(step.handle(payload), removal));
        assert_eq!(world.outcomes().len(), put, "seed {seed}: {answer:?}");
        if put == 0 {
            let answer = answer.unwrap();
            assert_eq!(answer["outcome"], "not_linked", "seed {seed}");
            not_at_all += 1;
        } else {
            before += 1;
        }
    }
    assert!(before > 0 && not_at_all > 0, "{before} {not_at_all}");
}

#[test]
fn what_is_left_behind_of_somebody_who_was_removed_meanwhile_is_not_served() {
    let world = World::new();
    accept(&world, "Ev1").unwrap();
    world.retire();
    let payload = json!({"event": ended("x-Ev1", None), "execution": "x-2"});
    let answer = world
        .time
        .run(async { world.accept().handle(payload).await })
        .unwrap();
    assert_eq!(answer["reason"], "Removed");
    assert_eq!(answer["event_id"], "slack.Ev1");
}

/// I4: who had an agent then has an answer, and who had none was told so.
#[test]
fn a_message_that_comes_back_is_not_answered_anew_because_its_author_has_come_or_gone() {
    let world = World::new();
    run(&world, "Ev1", "one");
    world.look(|state| state.accounts.clear());
    world.time.pass(3601);
    assert_eq!(accept(&world, "Ev1").unwrap()["outcome"], "duplicate");
    assert_eq!(accept(&world, "Ev2").unwrap()["outcome"], "not_linked");

    let world = World::new();
    world.look(|state| {
        let told = StoredReply {
            done: true,
            ..StoredReply::default()
        };
        let event = EventId::parse("slack.Ev1").unwrap();
        state.told.insert(event, told);
    });
    assert_eq!(accept(&world, "Ev1").unwrap()["outcome"], "duplicate");
    assert_eq!(accept(&world, "Ev2").unwrap()["outcome"], "run");
}

/// I6: who somebody is can't be said without the policy, so it isn't.
#[test]
fn nobody_is_linked_while_the_policy_cannot_be_read() {
    let world = World::new();
    world.look(|state| {
        state.policy = Err(Trouble::Refused {
            service: "Systems Manager",
            why: "it is no policy".to_owned(),
        });
    });
    assert_eq!(accept(&world, "Ev1").unwrap_err().error_type, "Refused");
    world.look(|state| assert!(state.links.is_empty() && state.asked == 0));
}

/// I6
#[test]
fn whoever_is_not_plainly_one_of_our_users_gets_no_agent() {
    let not_linked = |world: &World, reason: &str| {
        let answer = accept(world, "Ev1").unwrap();
        assert_eq!(
            (&answer["outcome"], &answer["reason"]),
            (&json!("not_linked"), &json!(reason))
        );
        assert_eq!(answer["event_id"], "slack.Ev1");
        assert_eq!(world.outcomes(), []);
        world.look(|state| assert!(state.links.is_empty()));
    };
    let world = World::new();
    world.look(|state| state.accounts.clear());
    not_linked(&world, "NotSignedUp");

    let world = World::new();
    world.look(|state| {
        state
            .accounts
            .insert("ada".into(), account("sub-eve", "eve@example.net"));
    });
    not_linked(&world, "Ambiguous");

    let world = World::new();
    world.look(|state| {
        let member = SlackUserId::parse(MEMBER).unwrap();
        state.slack.members.get_mut(&member).unwrap().is_restricted = true;
    });
    not_linked(&world, "Guest");

    let world = World::new();
    let mut foreign = event("Ev1", "hello");
    foreign["detail"]["team_id"] = json!("T0OTHER");
    let payload = json!({"event": foreign, "execution": "x-1"});
    let answer = world
        .time
        .run(async { world.accept().handle(payload).await });
    assert_eq!(answer.unwrap()["reason"], "OtherWorkspace");
}

#[test]
fn an_event_that_cannot_be_read_goes_to_the_queue_as_it_came() {
    let world = World::new();
    let mut other = event("Ev1", "hello");
    other["detail"]["version"] = json!(2);
    let broken = ended("x-1", Some(&json!({"detail-type": "Other"})));
    // What it was started with was too long to be told: a message may be lost with it.
    let mut cut = ended("x-1", None);
    cut["detail"]["inputDetails"] = json!({"included": false});
    let unnamed = ended("no name", None);
    for event in [other, broken, cut, unnamed, json!({"detail": {}})] {
        let end = world.time.run(execute(&world, "x-2", event.clone()));
        assert_eq!(end.error.as_deref(), Some("EventRejected"));
        assert_eq!(end.dead_letters, [event]);
    }
}

#[test]
fn a_directory_or_a_slack_that_is_slow_to_answer_is_asked_again() {
    let world = World::new();
    world.look(|state| {
        let limited = Mishap::Refused(SlackTrouble::RateLimited(Duration::from_secs(30)));
        state.slack.mishaps.insert("users.info", vec![limited; 2]);
    });
    let end = run(&world, "Ev1", "hello");
    assert_eq!(end.state, "ConversationIdle");
    assert_eq!(replies(&world), ["You said: hello"]);
}

#[test]
fn answers_on_the_wire() {
    let world = World::new();
    let accepted = world.time.run(async {
        let payload = json!({"event": event("Ev1", "hello"), "execution": "x-1"});
        world.accept().handle(payload).await.unwrap()
    });
    let mut payload = json!({
        "action": "abandon", "user_key": accepted["user_key"], "execution": "x-1",
        "conversation": accepted["conversation"], "reason": "AgentNotWoken", "message": ""
    });
    let turn = world.turn();
    let abandoned = world.time.run(turn.handle(payload.clone())).unwrap();
    payload["action"] = json!("run");
    let idle = world.time.run(turn.handle(payload)).unwrap();
    insta::assert_json_snapshot!([accepted, abandoned, idle]);
    let trouble = TurnTrouble::Unreachable("gone".into());
    assert!(trouble.to_string().contains("gone"));
}

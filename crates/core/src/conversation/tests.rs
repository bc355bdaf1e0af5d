use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{ChannelId, MessageTs, SlackUserId, TeamId};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn holder(name: &str) -> Holder {
    Holder::parse(name).unwrap()
}

fn message(number: usize) -> SlackMessageReceived {
    SlackMessageReceived {
        version: 1,
        id: EventId::parse(format!("slack.Ev{number}")).unwrap(),
        at: at(0),
        correlation_id: None,
        team_id: TeamId::parse("T0CARAPACE").unwrap(),
        user_id: SlackUserId::parse("U0ADA").unwrap(),
        channel_id: ChannelId::parse("C0GENERAL").unwrap(),
        thread_ts: MessageTs::parse("1700000000.000001").unwrap(),
        ts: MessageTs::parse(format!("1700000000.{number:06}")).unwrap(),
        text: format!("message {number}"),
    }
}

fn key() -> ConversationKey {
    ConversationKey {
        user: UserKey::derive("pool", "ada"),
        id: message(1).conversation(),
    }
}

fn lease(last: u64, done: u64, held: Option<(&str, i64)>) -> Lease {
    let waiting = (done + 1..=last).map(|seq| Waiting {
        seq,
        ts: MessageTs::parse(format!("1700000000.{seq:06}")).unwrap(),
    });
    Lease {
        version: Version(7),
        last,
        waiting: waiting.collect(),
        done,
        held: held.map(|(name, until)| Hold {
            holder: holder(name),
            until: at(until),
        }),
        ..Lease::absent(key())
    }
}

fn queued(seq: u64) -> Queued {
    Queued {
        key: key(),
        seq,
        version: Version(3),
        message: message(1),
        arrived_at: at(0),
        reply: Reply::default(),
        outcome: None,
    }
}

fn until(change: &LeaseChange) -> Option<(&str, i64)> {
    let held = change.lease.held.as_ref()?;
    Some((
        held.holder.as_str(),
        held.until.as_second() - at(0).as_second(),
    ))
}

#[test]
fn the_first_message_takes_the_lease_and_its_number() {
    let accepted = accept(
        &Lease::absent(key()),
        None,
        &message(1),
        &holder("a"),
        false,
        at(0),
    );
    assert_eq!(accepted.act, AcceptAct::Run);
    let change = accepted.change.unwrap();
    assert_eq!(
        (change.read, change.lease.version),
        (Version(0), Version(1))
    );
    assert_eq!((change.lease.last, change.lease.done), (1, 0));
    assert_eq!(until(&change), Some(("a", 90)));
    assert_eq!(change.holder, Some(holder("a")));
    assert_eq!(change.once, Some(message(1).id));
    assert_eq!(
        change.append.map(|queued| (queued.seq, queued.version)),
        Some((1, Version(1)))
    );
}

#[test]
fn a_message_that_finds_the_inbox_served_waits() {
    let served = lease(3, 2, Some(("a", 60)));
    let accepted = accept(&served, None, &message(1), &holder("b"), true, at(0));
    assert_eq!(accepted.act, AcceptAct::Queued);
    let change = accepted.change.unwrap();
    assert_eq!((change.lease.last, until(&change)), (4, Some(("a", 60))));
    assert_eq!((change.holder, change.read), (None, Version(7)));
}

#[test]
fn a_lease_that_ran_out_is_taken_and_waking_gets_the_time_it_needs() {
    let silent = lease(3, 2, Some(("a", 60)));
    let accepted = accept(&silent, None, &message(1), &holder("b"), true, at(60));
    assert_eq!(accepted.act, AcceptAct::Run);
    assert_eq!(until(&accepted.change.unwrap()), Some(("b", 60 + 1200)));
}

#[test]
fn a_duplicate_heals_what_is_stranded_and_changes_nothing_else() {
    let judged = |lease: &Lease, by: &str| {
        let accepted = accept(lease, Some(2), &message(1), &holder(by), false, at(60));
        assert!(
            accepted
                .change
                .iter()
                .all(|change| change.append.is_none() && change.once.is_none())
        );
        assert_eq!(accepted.change.is_some(), accepted.act == AcceptAct::Run);
        accepted.act
    };
    assert_eq!(judged(&lease(2, 2, None), "b"), AcceptAct::Duplicate);
    assert_eq!(
        judged(&lease(2, 1, Some(("a", 61))), "b"),
        AcceptAct::Duplicate
    );
    assert_eq!(judged(&lease(2, 1, Some(("a", 61))), "a"), AcceptAct::Run);
    assert_eq!(
        judged(&lease(2, 2, Some(("a", 60))), "b"),
        AcceptAct::Duplicate
    );
    assert_eq!(judged(&lease(2, 1, Some(("a", 60))), "b"), AcceptAct::Run);
    assert_eq!(judged(&lease(2, 1, None), "b"), AcceptAct::Run);
}

#[test]
fn what_a_dead_holder_left_is_taken_over_at_once_and_only_that() {
    let judged = |lease: &Lease| {
        let accepted = take_over(lease, &holder("dead"), &holder("b"), false, at(0));
        let held = accepted
            .change
            .map(|change| until(&change).map(|(by, _)| by.to_owned()));
        (accepted.act, held)
    };
    let run = || (AcceptAct::Run, Some(Some("b".to_owned())));
    assert_eq!(judged(&lease(2, 1, Some(("dead", 900)))), run());
    assert_eq!(judged(&lease(2, 1, Some(("b", 900)))), run());
    assert_eq!(judged(&lease(2, 1, None)), run());
    assert_eq!(
        judged(&lease(2, 1, Some(("a", 900)))),
        (AcceptAct::Duplicate, None)
    );
    assert_eq!(judged(&lease(2, 2, None)), (AcceptAct::Duplicate, None));
    // Given back in its name, so that the next message doesn't wait for the dead.
    assert_eq!(
        judged(&lease(2, 2, Some(("dead", 900)))),
        (AcceptAct::Duplicate, Some(None))
    );
}

#[test]
fn a_lease_is_renewed_when_it_is_no_longer_young() {
    let renewed = |until_second: i64| {
        let held = lease(1, 0, Some(("a", until_second)));
        let change = renew(&held, &holder("a"), at(0)).unwrap();
        change.map(|change| until(&change).unwrap().1)
    };
    assert_eq!(renewed(90), None);
    assert_eq!(renewed(71), None);
    assert_eq!(renewed(70), Some(90));
    // Nobody has taken it although it ran out.
    assert_eq!(renewed(-10), Some(90));
    // The time that waking was given ends with waking.
    assert_eq!(renewed(1200), Some(90));
}

#[test]
fn waiting_for_the_agent_gives_the_holder_more_time() {
    let held = lease(1, 0, Some(("a", 30)));
    let change = await_agent(&held, &holder("a"), at(0)).unwrap();
    assert_eq!(until(&change), Some(("a", 1200)));
}

#[test]
fn who_does_not_hold_the_lease_can_do_nothing() {
    for held in [None, Some(("b", 60))] {
        let lease = lease(1, 0, held);
        let a = holder("a");
        assert_eq!(renew(&lease, &a, at(0)), Err(LeaseLost));
        assert_eq!(await_agent(&lease, &a, at(0)), Err(LeaseLost));
        assert_eq!(close(&lease, &a, at(0)), Err(LeaseLost));
        let finished = finish(&lease, &a, &queued(1), TurnOutcome::Answered, at(0));
        assert_eq!(finished, Err(LeaseLost));
    }
}

#[test]
fn only_the_message_whose_turn_it_is_comes_to_its_end_and_only_once() {
    let lease = lease(3, 1, Some(("a", 60)));
    let finished =
        |queued: &Queued| finish(&lease, &holder("a"), queued, TurnOutcome::Answered, at(0));
    let (change, message) = finished(&queued(2)).unwrap();
    assert_eq!((change.lease.done, until(&change)), (2, Some(("a", 90))));
    assert_eq!(
        (message.read, message.queued.version),
        (Version(3), Version(4))
    );
    assert_eq!(message.queued.outcome, Some(TurnOutcome::Answered));
    for seq in [0, 1, 4] {
        assert_eq!(finished(&queued(seq)), Err(LeaseLost), "{seq}");
    }
    let ended = Queued {
        outcome: Some(TurnOutcome::Failed(Reason::of_error("TurnLost"))),
        ..queued(2)
    };
    assert_eq!(finished(&ended), Err(LeaseLost));
}

/// Webhooks overtake each other.
#[test]
fn the_message_that_was_written_first_is_next_and_one_that_was_begun_before_it() {
    let mut inbox = lease(3, 1, Some(("a", 60)));
    let a = holder("a");
    inbox.waiting.swap(0, 1);
    assert_eq!(inbox.next(), Some(2));
    inbox.waiting[0].ts = MessageTs::parse("999999999.999999").unwrap();
    assert_eq!(inbox.next(), Some(3), "a shorter number is a smaller one");
    assert_eq!(begin(&inbox, &a, 2, at(0)), Err(LeaseLost));
    let begun = begin(&inbox, &a, 3, at(0)).unwrap().unwrap().lease;
    assert_eq!(begin(&begun, &a, 3, at(0)), Ok(None));
    let mut late = message(1);
    late.ts = MessageTs::parse("1.000000").unwrap();
    let accepted = accept(&begun, None, &late, &holder("b"), false, at(0));
    let mut inbox = accepted.change.unwrap().lease;
    assert_eq!(inbox.next(), Some(3), "it has been begun");
    let (ended, _) = finish(&inbox, &a, &queued(3), TurnOutcome::Answered, at(0)).unwrap();
    inbox = ended.lease;
    assert_eq!((inbox.next(), inbox.done), (Some(4), 3));
}

#[test]
fn a_message_waits_for_earlier_ones_only_where_there_may_be_some() {
    let mut first = queued(1);
    first.message.ts = first.message.thread_ts.clone();
    assert_eq!(first.settles(), SignedDuration::ZERO);
    let mut reply = queued(1);
    reply.message.ts = MessageTs::parse("1700000000.000009").unwrap();
    assert_eq!(reply.settles(), SETTLE_FIRST);
    reply.seq = 2;
    assert_eq!(reply.settles(), SETTLE);
}

/// Where one message was slow to arrive, an earlier one may be slower.
#[test]
fn a_message_whose_way_was_slow_waits_in_the_inbox_for_as_long() {
    let mut reply = queued(2);
    reply.message.ts = MessageTs::parse("1700000000.000009").unwrap();
    let after = |arrived: i64| {
        reply.arrived_at = at(arrived);
        reply.settles().as_secs()
    };
    assert_eq!([-5, 0, 2, 5, 6, 86_400].map(after), [1, 1, 4, 10, 10, 10]);
}

#[test]
fn the_lease_is_given_back_only_when_nothing_waits() {
    let empty = close(&lease(2, 2, Some(("a", 60))), &holder("a"), at(0));
    assert!(matches!(empty, Ok(CloseAct::Close(change)) if change.lease.held.is_none()));
    let waiting = close(&lease(2, 1, Some(("a", 60))), &holder("a"), at(0));
    assert_eq!(waiting, Ok(CloseAct::NotEmpty));
}

/// The table, as strict as it is.
#[derive(Debug)]
struct Table {
    lease: Lease,
    once: BTreeMap<EventId, u64>,
    messages: BTreeMap<u64, Queued>,
}

impl Table {
    fn save(&mut self, change: &LeaseChange, queued: Option<&QueuedChange>) -> bool {
        let once = change
            .once
            .as_ref()
            .map(|event| self.once.get(event).copied());
        let appended = change.append.as_ref();
        let as_read = self.lease.version == change.read
            && once.is_none_or(|seq| seq == change.once_read)
            && appended.is_none_or(|new| !self.messages.contains_key(&new.seq))
            && queued.is_none_or(|new| self.messages[&new.queued.seq].version == new.read);
        if !as_read {
            return false;
        }
        assert_eq!(change.lease.version, Version(change.read.0 + 1));
        self.lease = change.lease.clone();
        if let Some(new) = appended {
            self.once
                .extend(change.once.clone().map(|event| (event, new.seq)));
            self.messages.insert(new.seq, new.clone());
        }
        if let Some(new) = queued {
            self.messages.insert(new.queued.seq, new.queued.clone());
        }
        true
    }

    /// Or never, if the message was given up.
    fn has_answered_once(&self, event: &EventId, answered: &[EventId]) {
        let message = &self.messages[&self.once[event]];
        let abandoned = matches!(message.outcome, Some(TurnOutcome::Abandoned(_)));
        let times = answered.iter().filter(|answer| *answer == event).count();
        assert_eq!(times, usize::from(!abandoned), "{event}");
    }
}

/// Something that some execution does, perhaps on what it read a while ago.
#[derive(Debug, Clone)]
enum Deed {
    Read,
    Accept { message: usize, wake: bool },
    TakeOver { dead: usize },
    Renew,
    Begin,
    Finish { abandon: bool },
    Close,
    Wait { seconds: i64 },
}

fn deeds() -> impl Strategy<Value = Vec<(usize, Deed)>> {
    let deed = prop_oneof![
        4 => Just(Deed::Read),
        4 => (1..9_usize, any::<bool>()).prop_map(|(message, wake)| Deed::Accept { message, wake }),
        1 => (0..4_usize).prop_map(|dead| Deed::TakeOver { dead }),
        2 => Just(Deed::Renew),
        2 => Just(Deed::Begin),
        4 => (0..6).prop_map(|n| Deed::Finish { abandon: n == 0 }),
        3 => Just(Deed::Close),
        2 => (1..120_i64).prop_map(|seconds| Deed::Wait { seconds }),
    ];
    proptest::collection::vec((0..4_usize, deed), 0..120)
}

/// What one execution has read.
#[derive(Clone)]
struct Sight {
    lease: Lease,
    once: BTreeMap<EventId, u64>,
    messages: BTreeMap<u64, Queued>,
}

impl Sight {
    fn of(table: &Table) -> Self {
        Self {
            lease: table.lease.clone(),
            once: table.once.clone(),
            messages: table.messages.clone(),
        }
    }

    fn accept(
        &self,
        message: &SlackMessageReceived,
        by: &Holder,
        wake: bool,
        now: Timestamp,
    ) -> Accepted {
        let once_read = self.once.get(&message.id).copied();
        let abandoned = |seq: &u64| {
            let outcome = self
                .messages
                .get(seq)
                .and_then(|queued| queued.outcome.as_ref());
            matches!(outcome, Some(TurnOutcome::Abandoned(_)))
        };
        let seen = once_read.filter(|seq| !abandoned(seq));
        let mut accepted = accept(&self.lease, seen, message, by, wake, now);
        if let Some(change) = accepted
            .change
            .as_mut()
            .filter(|change| change.once.is_some())
        {
            change.once_read = once_read;
        }
        accepted
    }
}

fn serve(deeds: Vec<(usize, Deed)>) {
    let names = ["a", "b", "c", "d"].map(holder);
    let mut table = Table {
        lease: Lease::absent(key()),
        once: BTreeMap::new(),
        messages: BTreeMap::new(),
    };
    let mut sights = vec![Sight::of(&table); names.len()];
    let mut now = at(0);
    let mut answered: Vec<EventId> = Vec::new();
    let mut brought: Vec<EventId> = Vec::new();
    for (who, deed) in deeds {
        let by = &names[who];
        let sight = sights[who].clone();
        let before = table.lease.clone();
        let saved = match &deed {
            Deed::Read => {
                sights[who] = Sight::of(&table);
                continue;
            }
            Deed::Wait { seconds } => {
                now += SignedDuration::from_secs(*seconds);
                continue;
            }
            Deed::Accept {
                message: number,
                wake,
            } => {
                let message = message(*number);
                let accepted = sight.accept(&message, by, *wake, now);
                let saved = accepted
                    .change
                    .is_none_or(|change| table.save(&change, None));
                if saved {
                    assert!(
                        table.once.contains_key(&message.id),
                        "{message:?} is nowhere"
                    );
                    brought.push(message.id);
                }
                saved
            }
            Deed::TakeOver { dead } => {
                let accepted = take_over(&sight.lease, &names[*dead], by, false, now);
                accepted
                    .change
                    .is_some_and(|change| table.save(&change, None))
            }
            Deed::Renew => match renew(&sight.lease, by, now) {
                Ok(Some(change)) => table.save(&change, None),
                _ => false,
            },
            Deed::Finish { abandon } => {
                let Some(queued) = sight.lease.next().and_then(|seq| sight.messages.get(&seq))
                else {
                    continue;
                };
                let outcome = match abandon {
                    true => TurnOutcome::Abandoned(Reason::of_error("Unavailable")),
                    false => TurnOutcome::Answered,
                };
                match finish(&sight.lease, by, queued, outcome, now) {
                    Ok((change, message)) if table.save(&change, Some(&message)) => {
                        let written_first = before.waiting.iter().min_by_key(|w| w.ts.order());
                        let due = before.begun.or(written_first.map(|w| w.seq));
                        assert_eq!(due, Some(queued.seq), "out of order");
                        if !abandon {
                            answered.push(queued.message.id.clone());
                        }
                        true
                    }
                    _ => false,
                }
            }
            Deed::Begin => match sight
                .lease
                .next()
                .map(|seq| begin(&sight.lease, by, seq, now))
            {
                Some(Ok(Some(change))) => table.save(&change, None),
                _ => false,
            },
            Deed::Close => match close(&sight.lease, by, now) {
                Ok(CloseAct::Close(change)) => table.save(&change, None),
                _ => false,
            },
        };
        if !saved {
            continue;
        }
        // A live holder is replaced only if it was declared dead.
        let live = before
            .held
            .filter(|held| held.until > now)
            .map(|held| held.holder);
        let after = table.lease.held.as_ref().map(|held| &held.holder);
        if let Some(live) = live.filter(|live| live != by) {
            let declared = matches!(deed, Deed::TakeOver { dead } if names[dead] == live);
            assert!(declared || after == Some(&live), "{deed:?} replaced {live}");
        }
        assert!(before.last <= table.lease.last);
        let unfinished = table.messages.values().filter(|m| m.outcome.is_none());
        let unfinished: BTreeSet<u64> = unfinished.map(|queued| queued.seq).collect();
        let waiting: BTreeSet<u64> = table.lease.waiting.iter().map(|w| w.seq).collect();
        assert_eq!(unfinished, waiting);
        // Nothing waits for nobody.
        assert!(table.lease.next().is_none() || table.lease.held.is_some());
    }
    // Everybody dies, and much later somebody brings one more message, which is an old one.
    now += SignedDuration::from_hours(1);
    let last = holder("last");
    let number = brought.len() % 8 + 1;
    brought.push(message(number).id);
    let accepted = Sight::of(&table).accept(&message(number), &last, false, now);
    assert!(
        accepted
            .change
            .is_none_or(|change| table.save(&change, None))
    );
    if accepted.act == AcceptAct::Run {
        while let CloseAct::NotEmpty = close(&table.lease, &last, now).unwrap() {
            let queued = table.messages[&table.lease.next().unwrap()].clone();
            let (change, message) =
                finish(&table.lease, &last, &queued, TurnOutcome::Answered, now).unwrap();
            assert!(table.save(&change, Some(&message)));
            answered.push(queued.message.id);
        }
    }
    assert_eq!(table.lease.next(), None, "somebody is still waiting");
    for event in brought {
        table.has_answered_once(&event, &answered);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_message_is_answered_once_and_in_order_whoever_serves(deeds in deeds()) {
        serve(deeds);
    }
}

#[test]
fn what_the_user_reads_says_something_and_names_nothing_of_ours() {
    for name in [
        "InvalidToken",
        "NotAllowed",
        "WrongUser",
        "BoundToAnother",
        "BindingUnreadable",
        "BindingNotStored",
        "KeysUnavailable",
        "NotBound",
        "NotReady",
        "GatewayUnreachable",
        "TurnInProgress",
        "TurnMismatch",
        "TurnNotFound",
        "TooManyTurns",
        "TurnCancelled",
        "TurnTimedOut",
        "TurnLost",
        "AgentFailed",
        "AgentUnavailable",
        "ModelKeyRejected",
        "ModelRateLimited",
        "ModelBudgetExceeded",
        "ModelUnavailable",
        "MalformedRequest",
        "RequestTimeout",
        "BodyTooLarge",
        "NotFound",
        "MethodNotAllowed",
        "FromTomorrow",
    ] {
        let error: ErrorName = serde_json::from_value(name.into()).unwrap();
        let words = words(error);
        assert!(
            (10..200).contains(&words.len()) && words.ends_with('.'),
            "{words}"
        );
        assert!(
            !words.contains(name) && !words.contains("agentd") && !words.contains("  "),
            "{words}"
        );
    }
}

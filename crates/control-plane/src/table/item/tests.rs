use std::collections::BTreeMap;

use carapace_core::{
    ClaimUid, PoolName, Reason, SandboxName,
    agent::{Announce, AnnounceAct, End, Known, decide},
    history::{self, Fact},
};

use super::*;

fn user() -> UserKey {
    UserKey::derive("pool", "sub")
}

fn event() -> EventId {
    EventId::parse("req-1").unwrap()
}

fn at() -> Timestamp {
    "2026-11-24T10:00:00.123456789Z".parse().unwrap()
}

fn assigned() -> Assigned {
    Assigned {
        uid: ClaimUid::parse("4f5e1a1c-0c8b-4e3a-9c6d-1b2a3c4d5e6f").unwrap(),
        sandbox: SandboxName::parse("agents-x7k2p").unwrap(),
    }
}

fn attempt(assigned: Option<Assigned>) -> Attempt {
    Attempt {
        event: event(),
        pool: PoolName::parse("agents").unwrap(),
        until: at(),
        assigned,
    }
}

fn record(state: AgentState) -> AgentRecord {
    let fact = Fact::ReleaseStarted { event: event() };
    AgentRecord {
        user: user(),
        version: Version(7),
        allowance: (!state.is_over()).then(allowance),
        state,
        updated_at: at(),
        head: Some(history::append(&user(), None, &fact, at()).head()),
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

fn retirement() -> Retirement {
    Retirement {
        event: event(),
        reason: Reason::parse("UserDeleted").unwrap(),
    }
}

fn states() -> Vec<AgentState> {
    vec![
        AgentState::Absent,
        AgentState::Claiming(attempt(None)),
        AgentState::Claiming(attempt(Some(assigned()))),
        AgentState::Releasing(attempt(None)),
        AgentState::Releasing(attempt(Some(assigned()))),
        AgentState::Ready(Held {
            event: event(),
            pool: PoolName::parse("agents").unwrap(),
            assigned: assigned(),
        }),
        AgentState::Failed {
            event: event(),
            reason: Reason::parse("PoolNotFound").unwrap(),
        },
        AgentState::Retiring(retirement()),
        AgentState::Retired(retirement()),
    ]
}

fn an_outcome(end: End) -> Outcome {
    let state = match end {
        End::Ready(_) => AgentState::Claiming(attempt(Some(assigned()))),
        End::Retired => AgentState::Retiring(retirement()),
        _ => AgentState::Releasing(attempt(None)),
    };
    let known = Known {
        agent: record(state),
        outcome: None,
    };
    let announce = Announce {
        event: event(),
        correlation_id: None,
        end,
    };
    let decision = decide(&known, &announce, at());
    assert!(matches!(decision.act, AnnounceAct::Publish { .. }));
    decision.change.unwrap().outcome.unwrap().outcome
}

/// The item's attributes, in order.
pub(in super::super) fn shown(item: &Item) -> BTreeMap<&str, String> {
    item.iter()
        .map(|(name, value)| (name.as_str(), format!("{value:?}")))
        .collect()
}

#[test]
fn records_on_the_wire() {
    let records: Vec<Item> = states()
        .into_iter()
        .map(|state| agent(&record(state)))
        .collect();
    insta::assert_json_snapshot!(records.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn every_record_comes_back_as_it_was() {
    for state in states() {
        let record = record(state);
        assert_eq!(read_agent(&user(), &agent(&record)).unwrap(), record);
    }
    let first = AgentRecord {
        head: None,
        allowance: None,
        ..record(AgentState::Absent)
    };
    assert_eq!(read_agent(&user(), &agent(&first)).unwrap(), first);
}

#[test]
fn outcomes_and_history_on_the_wire() {
    let failed = End::Failed {
        reason: Reason::parse("PoolNotFound").unwrap(),
        message: "no such pool".into(),
    };
    let ready = outcome(&an_outcome(End::Ready(assigned())), at()).unwrap();
    let failed = outcome(&an_outcome(failed), at()).unwrap();
    let retired = outcome(&an_outcome(End::Retired), at()).unwrap();
    let fact = Fact::ReleaseStarted { event: event() };
    let entry = entry(&user(), &history::append(&user(), None, &fact, at()));
    insta::assert_json_snapshot!([&ready, &failed, &retired, &entry].map(shown));
}

#[test]
fn every_outcome_comes_back_as_it_was() {
    for end in [End::Ready(assigned()), End::Retired] {
        let mut written = an_outcome(end);
        for pending_until in [Some(at()), None] {
            written.publication.pending_until = pending_until;
            let item = outcome(&written, at()).unwrap();
            assert_eq!(read_outcome(&user(), &event(), &item).unwrap(), written);
        }
    }
}

/// I3: the second user must not be told of the first one's sandbox.
#[test]
fn an_event_id_that_was_used_for_another_user_is_refused() {
    let item = outcome(&an_outcome(End::Ready(assigned())), at()).unwrap();
    let other = UserKey::derive("pool", "another");
    let refused = read_outcome(&other, &event(), &item).unwrap_err();
    assert!(refused.to_string().contains("another user"), "{refused}");
}

#[test]
fn a_record_of_a_newer_version_is_refused_and_not_guessed_at() {
    for (name, value) in [
        ("state", AttributeValue::S("Suspended".into())),
        ("version", AttributeValue::S("7".into())),
        ("updated_at", AttributeValue::N("0".into())),
        ("pool", AttributeValue::S("Not A Pool".into())),
        ("history_hash", AttributeValue::S("00".into())),
    ] {
        let mut item = agent(&record(AgentState::Claiming(attempt(None))));
        item.insert(name.into(), value);
        let refused = read_agent(&user(), &item).unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
    }
}

/// I6
#[test]
fn a_part_of_an_allowance_or_one_out_of_its_bounds_is_none_that_counts() {
    for name in ["budget_days", "requests_per_minute", "tokens_per_minute"] {
        for value in [None, Some(0), Some(u64::from(u32::MAX) + 1)] {
            let mut item = agent(&record(AgentState::Absent));
            item.remove(name);
            if let Some(value) = value {
                item.insert(name.into(), AttributeValue::N(value.to_string()));
            }
            assert!(read_agent(&user(), &item).is_err(), "{name} {value:?}");
        }
    }
}

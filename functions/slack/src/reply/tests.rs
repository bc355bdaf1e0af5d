//! A user is told once, whatever dies, on a Slack and a table that remember.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    time::Duration,
};

use carapace_control_plane::lambda::{INPUT_REJECTED, Named};
use carapace_core::{
    ChannelId, MessageTs, SlackUserId, TeamId,
    slack::profile::{NotLinked, SlackProfile},
};
use futures::FutureExt;
use serde_json::json;

use super::*;
use crate::fault::{SLACK_REPLY, planned};

/// A workspace with one channel, and the table.
#[derive(Default)]
struct State {
    messages: RefCell<Vec<Message>>,
    statuses: RefCell<Vec<String>>,
    replies: RefCell<BTreeMap<EventId, StoredReply>>,
    /// How many calls Slack has had.
    calls: Cell<u32>,
    /// What goes wrong with Slack, and at which call.
    trouble: RefCell<Option<(u32, Wrong)>>,
    /// Whether messages can't be streamed here.
    no_streams: Cell<bool>,
    /// Somebody else saves the reply just before its so manieth save.
    overtaken_at: Cell<Option<u32>>,
    saves: Cell<u32>,
}

#[derive(Debug, Clone)]
enum Wrong {
    /// The call is not made.
    Before(SlackTrouble),
    /// It is, and its answer is lost.
    After(SlackTrouble),
    /// Slack has closed all streams by then.
    Expired,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    ts: MessageTs,
    text: String,
    streaming: bool,
}

#[derive(Clone, Copy)]
struct World<'a>(&'a State);

impl State {
    /// What can be read in the thread.
    fn shown(&self) -> Vec<String> {
        let messages = self.messages.borrow();
        let shown = messages.iter().filter(|message| !is_empty(message));
        shown.map(|message| message.text.clone()).collect()
    }

    async fn tell(&self, payload: Value) -> Result<Value, Diagnostic> {
        let step = ReplyToUser {
            replies: World(self),
            slack: World(self),
            sign_up_url: "https://sign-up.example.com/".parse().unwrap(),
        };
        step.handle(payload).await
    }

    /// As the state machine does it: again, after whatever went wrong.
    async fn tell_at_last(&self, payload: &Value) -> Value {
        for _ in 0..10 {
            let try_once = AssertUnwindSafe(self.tell(payload.clone())).catch_unwind();
            match try_once.await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => {
                    let retried = ["Unavailable", "RateLimited"];
                    assert!(retried.contains(&error.error_type.as_str()), "{error:?}");
                }
                Err(panic) => {
                    panic.downcast::<planned::Death>().expect("a planned death");
                }
            }
        }
        panic!("it does not end: {:?}", self.messages.borrow());
    }
}

fn is_empty(message: &Message) -> bool {
    message.text.is_empty() || message.text == PLACEHOLDER
}

impl World<'_> {
    fn call<T>(
        self,
        effect: impl FnOnce(&mut Vec<Message>) -> Result<T, SlackTrouble>,
    ) -> Result<T, SlackTrouble> {
        let call = self.0.calls.get() + 1;
        self.0.calls.set(call);
        let planned = self.0.trouble.borrow().clone();
        let wrong = planned
            .filter(|(at, _)| *at == call)
            .map(|(_, wrong)| wrong);
        let mut messages = self.0.messages.borrow_mut();
        match wrong {
            Some(Wrong::Before(trouble)) => Err(trouble),
            Some(Wrong::After(trouble)) => {
                effect(&mut messages)?;
                Err(trouble)
            }
            Some(Wrong::Expired) => {
                for message in messages.iter_mut() {
                    message.streaming = false;
                }
                effect(&mut messages)
            }
            None => effect(&mut messages),
        }
    }
}

fn add(messages: &mut Vec<Message>, text: &str, streaming: bool) -> MessageTs {
    let ts = MessageTs::parse(format!("1764036001.{:06}", messages.len())).unwrap();
    messages.push(Message {
        ts: ts.clone(),
        text: text.to_owned(),
        streaming,
    });
    ts
}

fn find<'a>(messages: &'a mut [Message], ts: &MessageTs) -> &'a mut Message {
    let mut all = messages.iter_mut();
    all.find(|message| message.ts == *ts).unwrap()
}

impl Slack for World<'_> {
    async fn start_stream(&self, _: &Place) -> Result<MessageTs, SlackTrouble> {
        let no_streams = self.0.no_streams.get();
        self.call(|messages| match no_streams {
            true => Err(SlackTrouble::NotStreamable),
            false => Ok(add(messages, "", true)),
        })
    }

    async fn append_stream(
        &self,
        _: &ChannelId,
        ts: &MessageTs,
        text: &str,
    ) -> Result<(), SlackTrouble> {
        self.call(|messages| {
            let message = find(messages, ts);
            if !message.streaming {
                return Err(SlackTrouble::NotStreaming);
            }
            message.text += text;
            Ok(())
        })
    }

    async fn stop_stream(
        &self,
        _: &ChannelId,
        ts: &MessageTs,
        text: Option<&str>,
    ) -> Result<(), SlackTrouble> {
        self.call(|messages| {
            let message = find(messages, ts);
            if !message.streaming {
                return Err(SlackTrouble::NotStreaming);
            }
            message.text += text.unwrap_or_default();
            message.streaming = false;
            Ok(())
        })
    }

    async fn post_message(&self, _: &Place, text: &str) -> Result<MessageTs, SlackTrouble> {
        self.call(|messages| Ok(add(messages, text, false)))
    }

    async fn update(&self, _: &ChannelId, ts: &MessageTs, text: &str) -> Result<(), SlackTrouble> {
        self.call(|messages| {
            let message = find(messages, ts);
            if message.streaming {
                return Err(SlackTrouble::Refused("streaming_state_conflict".into()));
            }
            text.clone_into(&mut message.text);
            Ok(())
        })
    }

    async fn set_status(&self, _: &Place, status: &str) -> Result<(), SlackTrouble> {
        self.call(|_| {
            self.0.statuses.borrow_mut().push(status.to_owned());
            Ok(())
        })
    }

    async fn user(&self, _: &SlackUserId) -> Result<SlackProfile, SlackTrouble> {
        unreachable!("who they are is known by now")
    }

    async fn team(&self) -> Result<TeamId, SlackTrouble> {
        unreachable!("who they are is known by now")
    }
}

impl Replies for World<'_> {
    async fn reply(&self, event: &EventId) -> Result<StoredReply, Trouble> {
        let replies = self.0.replies.borrow();
        Ok(replies.get(event).cloned().unwrap_or_default())
    }

    async fn save_reply(&self, event: &EventId, stored: &StoredReply) -> Result<Saved, Trouble> {
        self.0.saves.set(self.0.saves.get() + 1);
        let mut replies = self.0.replies.borrow_mut();
        if self.0.overtaken_at.get() == Some(self.0.saves.get()) {
            replies.entry(event.clone()).or_default().version.0 += 1;
        }
        let before = replies.get(event).map_or(0, |stored| stored.version.0);
        if stored.version.0 != before + 1 {
            return Ok(Saved::Overtaken);
        }
        replies.insert(event.clone(), stored.clone());
        Ok(Saved::Yes)
    }
}

fn place() -> Place {
    Place {
        team_id: TeamId::parse("T0CARAPACE").unwrap(),
        channel_id: ChannelId::parse("C0GENERAL").unwrap(),
        thread_ts: MessageTs::parse("1764036000.000100").unwrap(),
        user_id: SlackUserId::parse("U0EVE").unwrap(),
    }
}

fn not_linked(event: &str) -> Value {
    json!({
        "kind": "not_linked", "reason": "NotSignedUp", "event_id": event, "place": place(),
    })
}

fn waking() -> Value {
    json!({ "kind": "waking", "place": place() })
}

fn told(told: bool) -> Value {
    json!({ "told": told })
}

fn sign_up() -> String {
    NotLinked::NotSignedUp.text("https://sign-up.example.com/")
}

#[tokio::test]
async fn whoever_has_no_agent_is_told_so_in_the_thread() {
    let state = State::default();
    assert_eq!(state.tell(not_linked("slack.Ev1")).await, Ok(told(true)));
    assert_eq!(state.shown(), [sign_up()]);
    assert!(
        state
            .messages
            .borrow()
            .iter()
            .all(|message| !message.streaming)
    );
    assert_eq!(state.calls.get(), 2, "opened, and closed with the text");
}

/// I4.
#[tokio::test]
async fn the_same_message_again_changes_nothing() {
    let state = State::default();
    for _ in 0..3 {
        assert_eq!(state.tell(not_linked("slack.Ev1")).await, Ok(told(true)));
    }
    assert_eq!((state.shown(), state.calls.get()), (vec![sign_up()], 2));
    assert_eq!(state.tell(not_linked("slack.Ev2")).await, Ok(told(true)));
    assert_eq!(
        state.shown(),
        [sign_up(), sign_up()],
        "another message is answered"
    );
}

/// I1, I4: dead at every point, each time that it is passed, before and after it.
#[tokio::test]
async fn whatever_the_function_dies_of_the_text_is_there_once() {
    let state = State::default();
    planned::take_seen();
    state.tell(not_linked("slack.Ev1")).await.unwrap();
    let seen = planned::take_seen();
    for point in SLACK_REPLY {
        assert!(seen.iter().any(|(name, _)| name == point), "{point}");
    }
    let mut deaths = 0;
    for point in SLACK_REPLY.iter().copied() {
        for moment in [Moment::Before, Moment::After] {
            let times = seen.iter().filter(|seen| **seen == (point, moment)).count();
            assert!(times > 0, "{point} {moment:?}");
            for nth in 1..=u32::try_from(times).unwrap() {
                let state = State::default();
                planned::die_at_nth(point, moment, nth);
                let answer = state.tell_at_last(&not_linked("slack.Ev1")).await;
                assert!(!planned::still_planned(), "{point} {moment:?} {nth}");
                assert_eq!(answer, told(true));
                assert_eq!(state.shown(), [sign_up()], "{point} {moment:?} {nth}");
                let messages = state.messages.borrow();
                let of_text = messages.iter().find(|message| !is_empty(message)).unwrap();
                assert!(!of_text.streaming, "{messages:?}");
                deaths += 1;
            }
        }
    }
    assert!(deaths >= 10, "{deaths}");
}

/// Two deaths in one story.
#[tokio::test]
async fn whoever_takes_over_may_die_too() {
    for first in SLACK_REPLY.iter().copied() {
        for second in SLACK_REPLY.iter().copied() {
            for moment in [Moment::Before, Moment::After] {
                for nth in 1..=3 {
                    let state = State::default();
                    planned::die_at(first, Moment::After);
                    let died = AssertUnwindSafe(state.tell(not_linked("slack.Ev1")));
                    assert!(died.catch_unwind().await.is_err());
                    planned::die_at_nth(second, moment, nth);
                    state.tell_at_last(&not_linked("slack.Ev1")).await;
                    // Not every run passes every point so often.
                    planned::die_at_nth("none", moment, u32::MAX);
                    assert_eq!(
                        state.shown(),
                        [sign_up()],
                        "{first} {second} {moment:?} {nth}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn whatever_becomes_of_a_call_to_slack_the_text_is_there_once() {
    let unavailable = || SlackTrouble::Unavailable("HTTP 503".into());
    let limited = || SlackTrouble::RateLimited(Duration::from_secs(1));
    for no_streams in [false, true] {
        for call in 1..=4 {
            for wrong in [
                Wrong::Before(unavailable()),
                Wrong::After(unavailable()),
                Wrong::Before(limited()),
                Wrong::Expired,
            ] {
                let state = State::default();
                state.no_streams.set(no_streams);
                *state.trouble.borrow_mut() = Some((call, wrong.clone()));
                let answer = state.tell_at_last(&not_linked("slack.Ev1")).await;
                assert_eq!(answer, told(true));
                assert_eq!(state.shown(), [sign_up()], "{call} {wrong:?} {no_streams}");
            }
        }
    }
}

#[tokio::test]
async fn where_nothing_can_be_streamed_it_is_posted() {
    let state = State::default();
    state.no_streams.set(true);
    assert_eq!(state.tell(not_linked("slack.Ev1")).await, Ok(told(true)));
    assert_eq!(state.shown(), [sign_up()]);
}

#[tokio::test]
async fn of_two_who_tell_the_same_one_waits() {
    for save in 1..=3 {
        let state = State::default();
        state.overtaken_at.set(Some(save));
        let error = state.tell(not_linked("slack.Ev1")).await.unwrap_err();
        assert_eq!(error.error_type, "Unavailable");
        state.tell_at_last(&not_linked("slack.Ev1")).await;
        assert_eq!(state.shown(), [sign_up()], "{save}");
    }
}

#[tokio::test]
async fn a_channel_that_is_gone_is_no_error() {
    let gone = Wrong::Before(SlackTrouble::Undeliverable("channel_not_found".into()));
    for (payload, call) in [
        (not_linked("slack.Ev1"), 1),
        (not_linked("slack.Ev1"), 2),
        (waking(), 1),
    ] {
        let state = State::default();
        *state.trouble.borrow_mut() = Some((call, gone.clone()));
        assert_eq!(state.tell(payload).await, Ok(told(false)));
        assert_eq!(state.shown(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn that_the_agent_wakes_up_is_a_status() {
    let state = State::default();
    for _ in 0..2 {
        assert_eq!(state.tell(waking()).await, Ok(told(true)));
    }
    assert_eq!(*state.statuses.borrow(), [WAKING, WAKING]);
    assert_eq!(*state.messages.borrow(), []);
}

#[tokio::test]
async fn what_slack_says_has_a_name_that_the_state_machine_knows() {
    let refused = |why: &str| Trouble::Refused {
        service: "Secrets Manager",
        why: why.into(),
    };
    for (trouble, name) in [
        (
            SlackTrouble::RateLimited(Duration::from_secs(9)),
            "RateLimited",
        ),
        (SlackTrouble::Unavailable("HTTP 500".into()), "Unavailable"),
        (
            SlackTrouble::TokenRejected("invalid_auth".into()),
            "SlackTokenRejected",
        ),
        (SlackTrouble::Refused("no_text".into()), "Refused"),
        (SlackTrouble::Trouble(refused("no such secret")), "Refused"),
    ] {
        for payload in [not_linked("slack.Ev1"), waking()] {
            let state = State::default();
            *state.trouble.borrow_mut() = Some((1, Wrong::Before(trouble.clone())));
            let error = state.tell(payload).await.unwrap_err();
            assert_eq!(error.error_type, name, "{trouble}");
        }
    }
    assert_eq!(
        ReplyError::NAMES,
        [
            "RateLimited",
            "Unavailable",
            "Refused",
            "SlackTokenRejected"
        ]
    );
}

#[tokio::test]
async fn what_the_state_machine_does_not_send_is_rejected() {
    let without = |field: &str| {
        let mut payload = not_linked("slack.Ev1");
        payload.as_object_mut().unwrap().remove(field);
        payload
    };
    let mut unknown = not_linked("slack.Ev1");
    unknown["reason"] = "Whatever".into();
    for payload in [
        Value::Null,
        json!({}),
        json!({ "kind": "other", "place": place() }),
        json!({ "kind": "waking" }),
        without("reason"),
        without("event_id"),
        without("place"),
        unknown,
    ] {
        let state = State::default();
        let error = state.tell(payload).await.unwrap_err();
        assert_eq!(error.error_type, INPUT_REJECTED);
        assert_eq!(state.calls.get(), 0);
    }
}

//! The book of turns: which are under way, what has come of each, and what a reader still has to be
//! told. It waits for nothing and knows no clock, so that its rules can be read and tried one by one.
//!
//! - One turn at a time per conversation; conversations side by side, up to a limit.
//! - A turn's id is taken once. Asked for again, it is told again.
//! - A turn ends once; whatever is heard of it later changes nothing.
//! - Memory is bounded: in events and in bytes for each turn, in turns and in bytes for those that
//!   have ended.

use std::collections::{HashMap, VecDeque};

use carapace_core::agentd::{ActivityPhase, ErrorBody, ErrorName, TurnEvent};
use carapace_core::{ConversationId, TurnId};

use crate::model_error;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Turns under way at the same time.
    pub(crate) running: usize,
    /// Events of one turn; earlier ones are told summed up.
    pub(crate) events: usize,
    /// Bytes of one turn's text; the rest isn't told.
    pub(crate) text: usize,
    /// Turns that have ended.
    pub(crate) ended: usize,
    /// Bytes of all turns that have ended.
    pub(crate) ended_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running: 8,
            events: 4096,
            text: 512 * 1024,
            ended: 64,
            ended_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Tells one text from another without keeping it.
pub(crate) type Fingerprint = [u8; 32];

/// What it means that a turn is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It has to be run.
    New,
    /// It is running or has ended: what came of it is told.
    Known,
}

/// What the agent lets be known about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// All of one message so far. A run that uses tools has several messages.
    Said {
        message: Option<String>,
        text: String,
    },
    /// What it has said of one message counts no more: the model's answer broke off, and it asks again.
    TakenBack {
        message: Option<String>,
    },
    Tool {
        name: String,
        phase: ActivityPhase,
    },
    /// The run is over for OpenClaw; the word to the user should follow.
    Settled,
    /// The word to the user.
    Answered(String),
    Aborted,
    Failed(Fault),
}

/// Why a run failed, as OpenClaw tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A model call failed, for this reason, if OpenClaw is sure of one.
    Model(Option<ErrorName>),
    /// Something else.
    Other,
}

/// What a reader is told next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) events: Vec<(u64, TurnEvent)>,
    /// Nothing will follow.
    pub(crate) ended: bool,
}

/// Why a turn ends without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending(pub(crate) ErrorName);

impl Ending {
    /// For the user, who knows neither OpenClaw nor sandboxes.
    fn message(self) -> &'static str {
        match self.0 {
            ErrorName::TurnInProgress => {
                "The agent is still busy with an earlier message of this conversation. \
                 Send yours again when it has answered."
            }
            ErrorName::TurnCancelled => "The message was cancelled.",
            ErrorName::TurnTimedOut => {
                "The agent took too long and was stopped. Ask for less at once."
            }
            ErrorName::TurnLost => {
                "The agent restarted in the middle of this message. It may have done a part of what \
                 was asked, or may still do it. Look at what is there before you ask again."
            }
            ErrorName::AgentUnavailable => {
                "The agent can't be reached at the moment. Try again in a minute."
            }
            ErrorName::ModelKeyRejected => {
                "The model refused this agent's key. It gets a new one when it is started again; \
                 if this goes on, tell your administrator."
            }
            ErrorName::ModelRateLimited => {
                "The model is asked too often at the moment. Try again in a few minutes."
            }
            ErrorName::ModelBudgetExceeded => {
                "Your budget for the model is used up. Your administrator can raise it."
            }
            ErrorName::ModelUnavailable => {
                "The model can't be reached at the moment. Try again in a few minutes."
            }
            _ => "The agent could not finish its answer. Try again.",
        }
    }
}

/// An event without its text: that is kept once, in [`Turn::said`].
#[derive(Debug)]
enum Entry {
    /// A part of what was said, from byte to byte.
    Delta {
        from: usize,
        to: usize,
    },
    /// All of it, replaced.
    Text,
    Activity {
        tool: String,
        phase: ActivityPhase,
    },
}

#[derive(Debug)]
struct Turn {
    conversation: ConversationId,
    fingerprint: Fingerprint,
    entries: VecDeque<(u64, Entry)>,
    next: u64,
    said: String,
    /// Where in `said` the message under way begins, and OpenClaw's id of it.
    message: (usize, Option<String>),
    settled: bool,
    /// The last error of the model's gateway since the turn began, in whatever turn's call.
    model_error: Option<ErrorName>,
    /// How it is to end once the agent has stopped.
    stopping: Option<Ending>,
    end: Option<TurnEvent>,
}

/// All turns that are known here.
#[derive(Debug, Default)]
pub(crate) struct Book {
    limits: Limits,
    turns: HashMap<TurnId, Turn>,
    /// Runs of OpenClaw and the turn that each belongs to.
    runs: HashMap<String, TurnId>,
    ended: VecDeque<TurnId>,
}

impl Book {
    #[cfg(test)]
    fn with(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes a turn on, or says why not.
    pub(crate) fn admit(
        &mut self,
        id: &TurnId,
        conversation: &ConversationId,
        fingerprint: Fingerprint,
    ) -> Result<Admission, ErrorName> {
        if let Some(turn) = self.turns.get(id) {
            let same = turn.conversation == *conversation && turn.fingerprint == fingerprint;
            return if same {
                Ok(Admission::Known)
            } else {
                Err(ErrorName::TurnMismatch)
            };
        }
        let running = || self.turns.values().filter(|turn| turn.end.is_none());
        if running().any(|turn| turn.conversation == *conversation) {
            return Err(ErrorName::TurnInProgress);
        }
        if running().count() >= self.limits.running {
            return Err(ErrorName::TooManyTurns);
        }
        let turn = Turn {
            conversation: conversation.clone(),
            fingerprint,
            entries: VecDeque::new(),
            next: 1,
            said: String::new(),
            message: (0, None),
            settled: false,
            model_error: None,
            stopping: None,
            end: None,
        };
        self.turns.insert(id.clone(), turn);
        self.runs.insert(id.as_str().to_owned(), id.clone());
        Ok(Admission::New)
    }

    /// Another run of OpenClaw continues the turn: after a restart it takes up what was interrupted
    /// under a name of its own. Says whether that is news.
    pub(crate) fn adopt(&mut self, id: &TurnId, run: &str) -> bool {
        self.is_running(id) && self.runs.insert(run.to_owned(), id.clone()).is_none()
    }

    /// Notes what was heard of a run; whether anybody's turn is concerned.
    pub(crate) fn heard(&mut self, run: &str, heard: Heard) -> bool {
        let Some(id) = self.runs.get(run).cloned() else {
            return false;
        };
        match heard {
            Heard::Said { message, text } => self.said(&id, message, &text),
            Heard::TakenBack { message } => self.take_back(&id, message.as_deref()),
            Heard::Tool { name, phase } => {
                let events = self.limits.events;
                if let Some(turn) = self.running(&id) {
                    turn.settled = false;
                    turn.push(Entry::Activity { tool: name, phase }, events);
                }
            }
            Heard::Settled => {
                if let Some(turn) = self.running(&id) {
                    turn.settled = true;
                }
            }
            Heard::Answered(text) => self.answer(&id, &text),
            Heard::Aborted => self.aborted(&id),
            Heard::Failed(fault) => {
                let ending = self.ending(&id, fault);
                self.fail(&id, ending);
            }
        }
        true
    }

    /// Notes all that a message says so far. What was heard before isn't told again, so that it does
    /// no harm to hear it twice: after a reconnection OpenClaw tells all of it.
    pub(crate) fn said(&mut self, id: &TurnId, message: Option<String>, text: &str) {
        let Limits {
            events, text: most, ..
        } = self.limits;
        let Some(turn) = self.running(id) else { return };
        turn.settled = false;
        if message.is_some() && turn.message.1.is_some() && turn.message.1 != message {
            turn.message.0 = turn.said.len();
        }
        if message.is_some() {
            turn.message.1 = message;
        }
        let begin = turn.message.0;
        let before = turn.said.get(begin..).unwrap_or_default();
        let gap = if begin > 0 { "\n\n" } else { "" };
        let text = format!("{gap}{text}");
        if before.starts_with(&text) {
            return;
        }
        if let Some(more) = text.strip_prefix(before) {
            let from = turn.said.len();
            turn.said.push_str(more);
            cut(&mut turn.said, most);
            let to = turn.said.len();
            if to > from {
                turn.push(Entry::Delta { from, to }, events);
            }
            return;
        }
        turn.said.truncate(begin);
        turn.said.push_str(&text);
        cut(&mut turn.said, most);
        // The deltas before point into a text that is no more.
        turn.entries
            .retain(|(_, entry)| matches!(entry, Entry::Activity { .. }));
        turn.push(Entry::Text, events);
    }

    /// Takes back what was said of the message under way. Another one's end stays: it was whole.
    fn take_back(&mut self, id: &TurnId, message: Option<&str>) {
        let events = self.limits.events;
        let Some(turn) = self.running(id) else { return };
        let (begin, current) = &turn.message;
        if current.as_deref() != message || *begin >= turn.said.len() {
            return;
        }
        turn.said.truncate(*begin);
        turn.message.1 = None;
        turn.settled = false;
        turn.entries
            .retain(|(_, entry)| matches!(entry, Entry::Activity { .. }));
        turn.push(Entry::Text, events);
    }

    /// Notes that the model's gateway answered a call with an error. The call doesn't say whose it
    /// is, so it may have been for any of the turns under way, and is noted for all.
    pub(crate) fn model_failed(&mut self, name: ErrorName) {
        let is_lasting = |known: ErrorName| {
            matches!(
                known,
                ErrorName::ModelKeyRejected | ErrorName::ModelBudgetExceeded
            )
        };
        for turn in self.turns.values_mut().filter(|turn| turn.end.is_none()) {
            // What is wrong with the key stays wrong, whatever happens to the next call.
            if !turn.model_error.is_some_and(is_lasting) {
                turn.model_error = Some(name);
            }
        }
    }

    /// How a turn ends whose run failed.
    pub(crate) fn ending(&self, id: &TurnId, fault: Fault) -> Ending {
        let answered = self.turns.get(id).and_then(|turn| turn.model_error);
        let name = match fault {
            Fault::Model(reason) => model_error::of_turn(reason, answered),
            Fault::Other => None,
        };
        Ending(name.unwrap_or(ErrorName::AgentFailed))
    }

    /// Ends the turn well.
    pub(crate) fn answer(&mut self, id: &TurnId, text: &str) {
        let most = self.limits.text;
        let Some(turn) = self.running(id) else { return };
        let mut text = if text.is_empty() {
            turn.said.clone()
        } else {
            text.to_owned()
        };
        cut(&mut text, most);
        self.end(id, TurnEvent::Done { text });
    }

    /// Ends the turn without an answer.
    pub(crate) fn fail(&mut self, id: &TurnId, ending: Ending) {
        let error = ErrorBody {
            error: ending.0,
            message: ending.message().to_owned(),
        };
        self.end(id, TurnEvent::Error(error));
    }

    /// The agent has stopped: the turn ends as was wanted by whoever stopped it.
    pub(crate) fn aborted(&mut self, id: &TurnId) {
        let wanted = self.wanted_ending(id);
        self.fail(id, wanted.unwrap_or(Ending(ErrorName::TurnCancelled)));
    }

    /// How a turn that is stopping is to end.
    pub(crate) fn wanted_ending(&self, id: &TurnId) -> Option<Ending> {
        self.turns.get(id)?.stopping
    }

    /// Wants the end of a turn; the first reason counts. `None`: there is no such turn; otherwise
    /// whether it is under way.
    pub(crate) fn stop(&mut self, id: &TurnId, ending: Ending) -> Option<bool> {
        let turn = self.turns.get_mut(id)?;
        turn.stopping.get_or_insert(ending);
        Some(turn.end.is_none())
    }

    pub(crate) fn is_stopping(&self, id: &TurnId) -> bool {
        self.wanted_ending(id).is_some()
    }

    /// Whether OpenClaw is done with the turn without having said how it ended.
    pub(crate) fn is_settled(&self, id: &TurnId) -> bool {
        self.turns.get(id).is_some_and(|turn| turn.settled)
    }

    pub(crate) fn is_running(&self, id: &TurnId) -> bool {
        self.turns.get(id).is_some_and(|turn| turn.end.is_none())
    }

    /// The events behind event `from`; `None` if there is no such turn.
    pub(crate) fn after(&self, id: &TurnId, from: u64) -> Option<Replay> {
        let turn = self.turns.get(id)?;
        let mut events = Vec::new();
        let oldest = turn
            .entries
            .front()
            .map_or(turn.next, |(number, _)| *number);
        // A gap before what is kept: what was said until then is told at once, under the number of
        // the last event that it sums up.
        if from + 1 < oldest {
            let until = turn.entries.iter().find_map(|(_, entry)| match entry {
                Entry::Delta { from, .. } => Some(*from),
                Entry::Text => Some(0),
                Entry::Activity { .. } => None,
            });
            let text = turn.said.get(..until.unwrap_or(turn.said.len()));
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                let text = text.to_owned();
                events.push((oldest - 1, TurnEvent::Text { text }));
            }
        }
        for (number, entry) in turn.entries.iter().filter(|(number, _)| *number > from) {
            events.push((*number, turn.event(entry)));
        }
        if let Some(end) = turn.end.as_ref().filter(|_| turn.next > from) {
            events.push((turn.next, end.clone()));
        }
        Some(Replay {
            events,
            ended: turn.end.is_some(),
        })
    }

    fn running(&mut self, id: &TurnId) -> Option<&mut Turn> {
        self.turns.get_mut(id).filter(|turn| turn.end.is_none())
    }

    fn end(&mut self, id: &TurnId, end: TurnEvent) {
        let Some(turn) = self.running(id) else { return };
        turn.end = Some(end);
        self.runs.retain(|_, turn| turn != id);
        self.ended.push_back(id.clone());
        self.forget();
    }

    /// The oldest go first; the one that has just ended stays, however long it is.
    fn forget(&mut self) {
        let bytes = |book: &Self| -> usize {
            let turns = book.ended.iter().filter_map(|id| book.turns.get(id));
            turns.map(Turn::bytes).sum()
        };
        while self.ended.len() > 1
            && (self.ended.len() > self.limits.ended || bytes(self) > self.limits.ended_bytes)
        {
            if let Some(oldest) = self.ended.pop_front() {
                self.turns.remove(&oldest);
            }
        }
    }
}

impl Turn {
    fn push(&mut self, entry: Entry, most: usize) {
        self.entries.push_back((self.next, entry));
        self.next += 1;
        while self.entries.len() > most {
            self.entries.pop_front();
        }
    }

    fn event(&self, entry: &Entry) -> TurnEvent {
        let text = |from: usize, to: usize| self.said.get(from..to).unwrap_or_default().to_owned();
        match entry {
            Entry::Delta { from, to } => TurnEvent::Delta {
                text: text(*from, *to),
            },
            Entry::Text => {
                // Up to the delta that follows, so that nothing is told twice.
                let following = self.entries.iter().find_map(|(_, entry)| match entry {
                    Entry::Delta { from, .. } => Some(*from),
                    _ => None,
                });
                TurnEvent::Text {
                    text: text(0, following.unwrap_or(self.said.len())),
                }
            }
            Entry::Activity { tool, phase } => TurnEvent::Activity {
                tool: tool.clone(),
                phase: *phase,
            },
        }
    }

    fn bytes(&self) -> usize {
        let end = match &self.end {
            Some(TurnEvent::Done { text }) => text.len(),
            _ => 0,
        };
        self.said.len() + end + self.entries.len() * size_of::<(u64, Entry)>()
    }
}

/// Shortens a text to at most `most` bytes, never within a character.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Fingerprint = [1; 32];

    fn turn(id: &str) -> TurnId {
        TurnId::parse(id).unwrap()
    }

    fn conversation(id: &str) -> ConversationId {
        ConversationId::parse(id).unwrap()
    }

    fn said(message: &str, text: &str) -> Heard {
        Heard::Said {
            message: Some(message.to_owned()),
            text: text.to_owned(),
        }
    }

    fn tool(name: &str) -> Heard {
        Heard::Tool {
            name: name.to_owned(),
            phase: ActivityPhase::Start,
        }
    }

    /// A book with one turn, `t`, under way.
    fn book() -> Book {
        let mut book = Book::default();
        let admitted = book.admit(&turn("t"), &conversation("c"), HELLO);
        assert_eq!(admitted, Ok(Admission::New));
        book
    }

    /// What a reader holds who reads behind event `from`: all text, and how it ended.
    fn read(book: &Book, id: &str, from: u64, mut held: String) -> (String, Vec<String>) {
        let mut rest = Vec::new();
        let mut last = from;
        for (number, event) in book.after(&turn(id), from).unwrap().events {
            assert!(number > last || last == 0, "numbers grow: {number}");
            last = number;
            match event {
                TurnEvent::Delta { text } => held.push_str(&text),
                TurnEvent::Text { text } => held = text,
                TurnEvent::Activity { tool, .. } => rest.push(tool),
                TurnEvent::Done { text } => rest.push(format!("done {text}")),
                TurnEvent::Error(body) => rest.push(format!("{:?}", body.error)),
            }
        }
        (held, rest)
    }

    #[test]
    fn a_turn_is_taken_once_and_known_ever_after() {
        let mut book = book();
        let again = |book: &mut Book| book.admit(&turn("t"), &conversation("c"), HELLO);
        assert_eq!(again(&mut book), Ok(Admission::Known));
        book.answer(&turn("t"), "hi");
        assert_eq!(again(&mut book), Ok(Admission::Known));
        for (c, text) in [("c", [2; 32]), ("d", HELLO)] {
            let other = book.admit(&turn("t"), &conversation(c), text);
            assert_eq!(other, Err(ErrorName::TurnMismatch));
        }
    }

    #[test]
    fn a_conversation_has_one_turn_at_a_time_and_conversations_go_side_by_side() {
        let mut book = book();
        let c = conversation("c");
        assert_eq!(
            book.admit(&turn("u"), &c, HELLO),
            Err(ErrorName::TurnInProgress)
        );
        assert_eq!(
            book.admit(&turn("v"), &conversation("d"), HELLO),
            Ok(Admission::New)
        );
        book.fail(&turn("t"), Ending(ErrorName::TurnLost));
        assert_eq!(book.admit(&turn("u"), &c, HELLO), Ok(Admission::New));
    }

    #[test]
    fn there_are_only_so_many_turns_at_the_same_time() {
        let mut book = Book::with(Limits {
            running: 1,
            ..Limits::default()
        });
        book.admit(&turn("t"), &conversation("c"), HELLO).unwrap();
        let second = book.admit(&turn("u"), &conversation("d"), HELLO);
        assert_eq!(second, Err(ErrorName::TooManyTurns));
    }

    #[test]
    fn a_reader_who_attaches_anywhere_holds_the_same_in_the_end() {
        let mut book = book();
        for text in ["He", "Hello", "Hello, ", "Hello, you"] {
            book.heard("t", said("1", text));
        }
        book.heard("t", tool("exec"));
        book.heard("t", said("2", "Done."));
        book.heard("t", Heard::Answered("Done.".into()));
        let whole = "Hello, you\n\nDone.";
        let events = book.after(&turn("t"), 0).unwrap().events;
        assert_eq!(events.len(), 7);
        let mut held = String::new();
        for (number, event) in &events {
            let rest = read(&book, "t", number - 1, held.clone());
            assert_eq!(rest.0, whole, "behind {}", number - 1);
            assert_eq!(rest.1.last().unwrap(), "done Done.");
            if let TurnEvent::Delta { text } = event {
                held.push_str(text);
            }
        }
        let replay = book.after(&turn("t"), 7).unwrap();
        assert_eq!((replay.events.len(), replay.ended), (0, true));
    }

    #[test]
    fn what_is_heard_twice_is_told_once() {
        let mut book = book();
        for text in ["one ", "one two ", "one ", "one two "] {
            book.heard("t", said("1", text));
        }
        // As a history says it: without the message's name.
        book.said(&turn("t"), None, "one two three");
        book.heard("t", said("1", "one two three"));
        assert_eq!(read(&book, "t", 0, String::new()).0, "one two three");
        assert_eq!(book.after(&turn("t"), 0).unwrap().events.len(), 3);
    }

    #[test]
    fn what_the_agent_takes_back_is_replaced() {
        let mut book = book();
        book.heard("t", said("1", "I thi"));
        let held = read(&book, "t", 0, String::new()).0;
        book.heard("t", said("1", "No."));
        book.heard("t", said("1", "No. Yes."));
        assert_eq!(read(&book, "t", 1, held).0, "No. Yes.");
        assert_eq!(read(&book, "t", 0, String::new()).0, "No. Yes.");
        assert_eq!(read(&book, "t", 2, "No.".to_owned()).0, "No. Yes.");
    }

    #[test]
    fn a_reader_far_behind_is_told_what_is_no_longer_kept_at_once() {
        let mut book = Book::with(Limits {
            events: 3,
            ..Limits::default()
        });
        book.admit(&turn("t"), &conversation("c"), HELLO).unwrap();
        for length in 1..=9 {
            book.heard("t", said("1", &"123456789"[..length]));
        }
        let replay = book.after(&turn("t"), 0).unwrap();
        assert_eq!(replay.events.len(), 4);
        assert_eq!(
            replay.events[0].1,
            TurnEvent::Text {
                text: "123456".into()
            }
        );
        assert_eq!(replay.events[0].0, 6);
        for from in 0..=9 {
            let held = "123456789"[..from].to_owned();
            assert_eq!(read(&book, "t", from as u64, held).0, "123456789", "{from}");
        }
    }

    #[test]
    fn a_turn_ends_once() {
        let mut book = book();
        book.heard("t", Heard::Answered("yes".into()));
        book.heard("t", Heard::Failed(Fault::Other));
        book.heard("t", said("1", "more"));
        book.fail(&turn("t"), Ending(ErrorName::TurnTimedOut));
        let (held, rest) = read(&book, "t", 0, String::new());
        assert_eq!((held.as_str(), rest), ("", vec!["done yes".to_owned()]));
    }

    #[test]
    fn an_answer_that_broke_off_is_taken_back_and_told_again_once() {
        let mut book = book();
        book.heard("t", said("1", "whole"));
        book.heard("t", said("2", "bro"));
        let (held, _) = read(&book, "t", 0, String::new());
        assert_eq!(held, "whole\n\nbro");
        let taken_back = Heard::TakenBack {
            message: Some("2".to_owned()),
        };
        book.heard("t", taken_back.clone());
        book.heard("t", taken_back);
        assert_eq!(read(&book, "t", 2, held.clone()).0, "whole");
        book.heard("t", said("3", "broken"));
        book.heard("t", Heard::Answered("broken".into()));
        for (from, held) in [(0, String::new()), (2, held)] {
            assert_eq!(read(&book, "t", from, held).0, "whole\n\nbroken");
        }
    }

    #[test]
    fn a_failed_model_call_counts_for_the_turns_under_way_and_only_if_it_is_why_they_fail() {
        let limited = Fault::Model(Some(ErrorName::ModelRateLimited));
        let mut book = book();
        book.model_failed(ErrorName::ModelBudgetExceeded);
        book.model_failed(ErrorName::ModelUnavailable);
        book.admit(&turn("u"), &conversation("d"), HELLO).unwrap();
        for (id, fault, ends) in [
            ("t", Fault::Other, ErrorName::AgentFailed),
            ("t", Fault::Model(None), ErrorName::ModelBudgetExceeded),
            ("t", limited, ErrorName::ModelBudgetExceeded),
            ("u", limited, ErrorName::ModelRateLimited),
            ("u", Fault::Model(None), ErrorName::AgentFailed),
        ] {
            assert_eq!(
                book.ending(&turn(id), fault),
                Ending(ends),
                "{id} {fault:?}"
            );
        }
        book.heard("u", Heard::Failed(limited));
        assert_eq!(read(&book, "u", 0, String::new()).1, ["ModelRateLimited"]);
    }

    #[test]
    fn a_run_that_continues_another_speaks_for_its_turn_and_strangers_do_not() {
        let mut book = book();
        assert!(!book.heard("r", said("1", "stray")));
        assert!(book.adopt(&turn("t"), "r"));
        assert!(!book.adopt(&turn("t"), "r"));
        assert!(book.heard("r", said("1", "resumed")));
        book.heard("r", Heard::Answered(String::new()));
        assert!(!book.heard("r", said("1", "late")));
        let (held, rest) = read(&book, "t", 0, String::new());
        assert_eq!(
            (held.as_str(), rest),
            ("resumed", vec!["done resumed".to_owned()])
        );
    }

    #[test]
    fn a_turn_that_was_stopped_ends_for_the_reason_it_was_stopped_for() {
        for (wanted, ends) in [
            (None, "TurnCancelled"),
            (Some(ErrorName::TurnCancelled), "TurnCancelled"),
            (Some(ErrorName::TurnTimedOut), "TurnTimedOut"),
        ] {
            let mut book = book();
            if let Some(name) = wanted {
                assert_eq!(book.stop(&turn("t"), Ending(name)), Some(true));
                book.stop(&turn("t"), Ending(ErrorName::AgentFailed));
            }
            assert_eq!(book.is_stopping(&turn("t")), wanted.is_some());
            book.heard("t", Heard::Aborted);
            assert_eq!(read(&book, "t", 0, String::new()).1, [ends]);
            let again = book.stop(&turn("t"), Ending(ErrorName::TurnCancelled));
            assert_eq!(again, Some(false));
        }
        let unknown = book().stop(&turn("x"), Ending(ErrorName::TurnCancelled));
        assert_eq!(unknown, None);
    }

    #[test]
    fn an_agent_that_goes_on_is_not_settled() {
        let mut book = book();
        book.heard("t", Heard::Settled);
        assert!(book.is_settled(&turn("t")));
        book.heard("t", tool("exec"));
        assert!(!book.is_settled(&turn("t")));
    }

    #[test]
    fn what_has_ended_is_forgotten_oldest_first() {
        let limits = Limits {
            ended: 3,
            ended_bytes: 100,
            ..Limits::default()
        };
        let mut book = Book::with(limits);
        let mut run = |id: &str, text: &str| {
            book.admit(&turn(id), &conversation("c"), HELLO).unwrap();
            book.answer(&turn(id), text);
            let known = ["a", "b", "c", "d", "e"]
                .into_iter()
                .filter(|id| book.after(&turn(id), 0).is_some());
            known.collect::<String>()
        };
        assert_eq!(run("a", "1"), "a");
        assert_eq!(run("b", "1"), "ab");
        assert_eq!(run("c", "1"), "abc");
        assert_eq!(run("d", "1"), "bcd");
        assert_eq!(run("e", &"x".repeat(200)), "e");
    }

    #[test]
    fn an_endless_text_is_cut_between_characters() {
        let mut book = Book::with(Limits {
            text: 4,
            ..Limits::default()
        });
        book.admit(&turn("t"), &conversation("c"), HELLO).unwrap();
        book.heard("t", said("1", "aééé"));
        book.heard("t", said("1", "aéééé"));
        book.heard("t", Heard::Answered("aéééé".into()));
        let (held, rest) = read(&book, "t", 0, String::new());
        assert_eq!((held.as_str(), rest), ("aé", vec!["done aé".to_owned()]));
    }

    #[test]
    fn every_ending_says_something_to_the_user() {
        for name in [
            ErrorName::TurnInProgress,
            ErrorName::TurnCancelled,
            ErrorName::TurnTimedOut,
            ErrorName::TurnLost,
            ErrorName::AgentUnavailable,
            ErrorName::AgentFailed,
            ErrorName::ModelKeyRejected,
            ErrorName::ModelRateLimited,
            ErrorName::ModelBudgetExceeded,
            ErrorName::ModelUnavailable,
        ] {
            let message = Ending(name).message();
            for word in [
                "OpenClaw",
                "LiteLLM",
                "Bedrock",
                "sandbox",
                "run ",
                "WebSocket",
            ] {
                assert!(!message.contains(word), "{message}");
            }
        }
    }
}

//! How a reply comes into a thread, once, whatever breaks on the way.
//!
//! A reply grows while the agent speaks, and the thread shows it as it grows: in a message that
//! Slack calls a stream (`chat.startStream`, `chat.appendStream`, `chat.stopStream`). Appending is
//! the one thing that can't be repeated, since Slack would show the piece twice. So what is about to
//! be said is stored before each call and what was said after it, and whoever finds a call that was
//! begun and not concluded makes no guess: the message is closed and then replaced as a whole
//! (`chat.update`), which may be done any number of times.
//!
//! For the same reason a message is opened empty. If its name is lost because the opener died, an
//! empty message is left behind, and never half an answer beside a whole one.
//!
//! Offsets tell how much of the text has been said, a digest tells whether the text still begins
//! with that: an agent may take back what it said, and then the messages concerned are replaced.

use serde::{Deserialize, Serialize};

use crate::MessageTs;

/// How much one message holds, in bytes of UTF-8. Slack documents 12,000 characters for each call; of
/// a streamed message as a whole it was seen to refuse what went beyond 10,600 bytes or so.
const PART_BYTES: usize = 10_000;

/// What a message shows that has nothing to show, yet or any more: Slack takes none without text.
/// No part begins with a space, so this can't be taken for one.
pub const PLACEHOLDER: &str = " …";

/// The digest of nothing.
const NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

/// What has been posted of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reply {
    /// The messages, in order.
    pub parts: Vec<Part>,
}

/// A message that shows a part of the reply. The numbers are offsets into the reply's text, in
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The message.
    pub ts: MessageTs,
    /// Where the part begins.
    pub from: usize,
    /// How far it has been said; for certain, if there is a digest.
    pub said: usize,
    /// How far it will be said by the call that is, or was, under way; the same as `said` if none
    /// is.
    pub saying: usize,
    /// How more can be said.
    pub mode: Mode,
    /// The digest of what has been said, from `from` to `said`; `None` if what the message shows
    /// isn't known.
    pub digest: Option<u64>,
}

/// How more can be said in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// It is open: by appending to it.
    Stream,
    /// By replacing all of its text.
    Update,
    /// It is closed, and needs nothing more unless its text is taken back.
    Closed,
}

/// A call that brings the thread nearer to showing the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Open a message, as a stream, empty. If none can be opened, post one with [`PLACEHOLDER`].
    Open,
    /// Append to an open message.
    Append {
        /// The index of the part.
        part: usize,
        /// What to append.
        text: String,
        /// How far the reply will be said then.
        to: usize,
    },
    /// Close a message that is, or may be, open.
    Close {
        /// The index of the part.
        part: usize,
        /// What to append first.
        text: Option<String>,
        /// How far the reply will be said then.
        to: usize,
    },
    /// Replace a message's text.
    Update {
        /// The index of the part.
        part: usize,
        /// Its whole text.
        text: String,
        /// How far the reply will be said then.
        to: usize,
        /// Whether this part will not become longer.
        last: bool,
    },
}

/// The next call, so that the thread comes to show `text`. `whole`: the text has come to its end.
/// `None`: there is nothing to do now, and if the text is whole, nothing ever.
pub fn next(reply: &Reply, text: &str, whole: bool) -> Option<Step> {
    Layout {
        text,
        whole,
        most: PART_BYTES,
    }
    .next(reply)
}

impl Reply {
    /// How far the text has been said, which is where a new part begins.
    pub fn said(&self) -> usize {
        self.parts.last().map_or(0, |part| part.said)
    }

    /// Whether a call was begun of which nobody has said what became of it.
    pub fn is_under_way(&self) -> bool {
        let unknown = |part: &Part| part.is_uncertain() || part.digest.is_none();
        self.parts.iter().any(unknown)
    }

    /// The call is about to be made. To be stored before it is.
    pub fn begin(&mut self, step: &Step) {
        let Some((part, text, to)) = self.spoken(step) else {
            return;
        };
        match step {
            // Whether or not it happens, the message no longer certainly shows what it did.
            Step::Update { .. } => {
                part.mode = Mode::Update;
                part.digest = None;
            }
            _ => part.settle(text, to),
        }
        part.saying = to;
    }

    /// A message was opened, as a stream or, if it had to be posted, for updates.
    pub fn opened(&mut self, ts: MessageTs, mode: Mode, from: usize) {
        self.parts.push(Part {
            ts,
            from,
            said: from,
            saying: from,
            mode,
            digest: Some(NOTHING),
        });
    }

    /// The call was made. To be stored before, or together with, the next.
    pub fn succeeded(&mut self, step: &Step) {
        if let Step::Close {
            part, text: None, ..
        } = step
        {
            if let Some(part) = self.parts.get_mut(*part) {
                part.doubt();
                part.mode = Mode::Closed;
            }
            return;
        }
        let Some((part, text, to)) = self.spoken(step) else {
            return;
        };
        match step {
            Step::Update { last, .. } => {
                let shown = if text == PLACEHOLDER { "" } else { text };
                part.from = to.saturating_sub(shown.len());
                part.digest = Some(digest(NOTHING, shown));
                part.mode = if *last { Mode::Closed } else { Mode::Update };
            }
            Step::Close { .. } => {
                part.settle(text, to);
                part.digest = part.digest.map(|before| digest(before, text));
                part.mode = Mode::Closed;
            }
            Step::Open | Step::Append { .. } => {
                part.settle(text, to);
                part.digest = part.digest.map(|before| digest(before, text));
            }
        }
        part.said = to;
        part.saying = to;
    }

    /// Slack did nothing, for certain: it limits the rate, for one.
    pub fn refused(&mut self, step: &Step) {
        if let Some((part, ..)) = self.spoken(step) {
            part.saying = part.said;
        }
    }

    /// The message is no longer open, which was found out by appending to it or by closing it.
    pub fn not_streaming(&mut self, part: usize) {
        if let Some(part) = self.parts.get_mut(part) {
            part.doubt();
            part.mode = Mode::Update;
        }
    }

    /// To be called when it has been loaded, and when a call failed without saying whether it was
    /// carried out: what may or may not be said is to be replaced.
    pub fn resume(&mut self) {
        for part in &mut self.parts {
            if part.is_uncertain() {
                part.mode = Mode::Update;
            }
        }
    }

    /// The part that a call says something in, what it says, and how far.
    fn spoken<'a>(&mut self, step: &'a Step) -> Option<(&mut Part, &'a str, usize)> {
        let (part, text, to) = match step {
            Step::Open | Step::Close { text: None, .. } => return None,
            Step::Append { part, text, to }
            | Step::Close {
                part,
                text: Some(text),
                to,
            }
            | Step::Update { part, text, to, .. } => (part, text, to),
        };
        Some((self.parts.get_mut(*part)?, text, *to))
    }
}

impl Part {
    fn is_empty(&self) -> bool {
        self.said == self.from
    }

    /// Whether it shows something, or is about to.
    fn is_taken(&self) -> bool {
        !self.is_empty() || self.is_uncertain() || self.mode == Mode::Stream
    }

    fn is_uncertain(&self) -> bool {
        self.saying != self.said
    }

    /// The first text of a part says where the part begins.
    fn settle(&mut self, text: &str, to: usize) {
        if self.is_empty() {
            self.from = to.saturating_sub(text.len());
            self.said = self.from;
        }
    }

    /// If a call was under way, it stays unknown whether it was carried out.
    fn doubt(&mut self) {
        if self.is_uncertain() {
            self.said = self.said.max(self.saying);
            self.saying = self.said;
            self.digest = None;
        }
    }

    /// Whether it shows what the text has at its place. A part without text has no place.
    fn shows(&self, text: &str, start: usize) -> bool {
        if self.is_empty() {
            return self.digest == Some(NOTHING);
        }
        let there = text.get(self.from..self.said);
        self.from == start && there.is_some_and(|there| self.digest == Some(digest(NOTHING, there)))
    }

    fn stop(&self, part: usize) -> Step {
        Step::Close {
            part,
            text: None,
            to: self.said,
        }
    }
}

/// A text and how it is laid out in messages.
struct Layout<'a> {
    text: &'a str,
    whole: bool,
    most: usize,
}

impl Layout<'_> {
    fn next(&self, reply: &Reply) -> Option<Step> {
        let mut from = 0;
        for (index, part) in reply.parts.iter().enumerate() {
            let start = self.start(from);
            if part.is_uncertain() {
                // It may be open, and an open message can't be replaced.
                return Some(part.stop(index));
            }
            if !part.shows(self.text, start) {
                // Whoever follows a turn is told its text from the beginning, and may not have come
                // as far yet as the one before.
                let behind = !self.whole && self.text.len() < part.said;
                return match part.mode {
                    _ if behind => None,
                    Mode::Stream => Some(part.stop(index)),
                    Mode::Update | Mode::Closed => Some(self.replace(index, start)),
                };
            }
            let said = if part.is_empty() { start } else { part.said };
            match part.mode {
                Mode::Stream => return self.go_on(part, index, said, self.end(start, said)),
                Mode::Closed if !part.is_empty() => {}
                // What follows was cut off here.
                _ if reply.parts[index + 1..].iter().any(Part::is_taken) => {}
                Mode::Update | Mode::Closed => {
                    if !is_blank(&self.text[said..self.end(start, said)]) {
                        return Some(self.replace(index, start));
                    }
                }
            }
            if !part.is_empty() {
                from = part.said;
            }
        }
        (self.start(from) < self.text.len()).then_some(Step::Open)
    }

    /// The next call for a message that is open.
    fn go_on(&self, part: &Part, index: usize, said: usize, end: usize) -> Option<Step> {
        let more = &self.text[said..end];
        let last = self.whole || end < self.text.len();
        match (is_blank(more), last) {
            (true, true) => Some(part.stop(index)),
            (true, false) => None,
            (false, true) => Some(Step::Close {
                part: index,
                text: Some(more.to_owned()),
                to: end,
            }),
            (false, false) => Some(Step::Append {
                part: index,
                text: more.to_owned(),
                to: end,
            }),
        }
    }

    fn replace(&self, part: usize, start: usize) -> Step {
        let end = self.end(start, start);
        let text = match &self.text[start..end] {
            "" => PLACEHOLDER,
            text => text,
        };
        Step::Update {
            part,
            text: text.to_owned(),
            to: end,
            last: self.whole || end < self.text.len(),
        }
    }

    /// Where a part begins that follows what ends at `from`: behind the space between them.
    fn start(&self, from: usize) -> usize {
        let rest = self.text[from..].trim_start();
        self.text.len() - rest.len()
    }

    /// Where the part ends that begins at `start` and has been said up to `said`: at the end of the
    /// text, if that fits in; or else where a line ends or at least a word does.
    fn end(&self, start: usize, said: usize) -> usize {
        let Some(limit) = fitting(&self.text[start..], self.most) else {
            return self.text.len();
        };
        let half = fitting(&self.text[start..], self.most / 2).unwrap_or(limit);
        let (limit, low) = (start + limit, said.max(start + half));
        if low >= limit {
            return low;
        }
        let window = &self.text[low..limit];
        let line = window.rfind('\n').map(|at| at + 1);
        let word = || window.trim_end_matches(|c: char| !c.is_whitespace()).len();
        match line.unwrap_or_else(word) {
            0 => limit,
            cut => low + cut,
        }
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// How much of the text is not more than `most` bytes; `None`: all of it.
fn fitting(text: &str, most: usize) -> Option<usize> {
    (text.len() > most).then(|| text.floor_char_boundary(most))
}

/// FNV-1a, which can be carried on: what is appended needs only the digest of what was there.
fn digest(before: u64, more: &str) -> u64 {
    more.bytes().fold(before, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;

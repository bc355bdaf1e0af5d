//! Draws which way an execution went through its machine, for a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use jiff::Timestamp;

use crate::history::{HistoryEvent, Meaning};
use crate::machine::{Branch, Kind, Machine, State, error_ways};

/// Draws a machine with the way that an execution took.
///
/// Every state of the machine is in the drawing; those that were visited have a tick or a cross, the
/// milliseconds that they took and how often they were tried again. What was not visited is dim. States
/// inside of a `Map` or `Parallel` are summed up, and indented below the state that holds them.
///
/// `color` asks for ANSI escape sequences: not for a pipe, a file, or where `NO_COLOR` is set.
pub fn draw_execution(machine: &Machine, events: &[HistoryEvent], color: bool) -> String {
    let record = Record::of(events);
    let mut drawing = Drawing {
        text: String::new(),
        color,
        record: &record,
        width: 0,
    };
    machine
        .root
        .visit(&mut |state| drawing.width = drawing.width.max(state.name.chars().count()));
    drawing.heading(machine);
    drawing.branch(&machine.root, 1);
    drawing.text
}

/// What an execution did, state by state.
#[derive(Debug, Default)]
struct Record<'a> {
    visits: BTreeMap<&'a str, Visit<'a>>,
    /// Between states: which way was taken.
    steps: BTreeSet<(&'a str, &'a str)>,
    end: Option<End<'a>>,
    milliseconds: i128,
}

#[derive(Debug, Default)]
struct Visit<'a> {
    times: usize,
    milliseconds: i128,
    attempts: usize,
    /// The errors of its attempts, with how often each occurred.
    errors: BTreeMap<&'a str, usize>,
    last_failed: bool,
    at_work: bool,
}

#[derive(Clone, Copy, Debug)]
enum End<'a> {
    Well,
    Badly { error: &'a str, cause: &'a str },
}

impl<'a> Record<'a> {
    fn of(events: &'a [HistoryEvent]) -> Self {
        let mut record = Self::default();
        let mut entered: BTreeMap<&str, Timestamp> = BTreeMap::new();
        // The states that were entered and not left, innermost last. In a Map or Parallel, branches run
        // at the same time and their events mix; an attempt then counts for the state entered last.
        let mut open: Vec<&str> = Vec::new();
        let mut left = None;
        for event in events {
            match event.meaning() {
                Meaning::Entered(name) => {
                    if let Some(from) = left.take() {
                        record.steps.insert((from, name));
                    }
                    entered.insert(name, event.timestamp);
                    open.push(name);
                    let visit = record.visits.entry(name).or_default();
                    visit.times += 1;
                    visit.last_failed = false;
                }
                Meaning::Exited(name) => {
                    record.leave(name, entered.remove(name), event.timestamp);
                    open.retain(|state| *state != name);
                    left = Some(name);
                }
                Meaning::Attempted => {
                    if let Some(visit) = open.last().and_then(|name| record.visits.get_mut(name)) {
                        visit.attempts += 1;
                        visit.last_failed = false;
                    }
                }
                Meaning::AttemptFailed(error) => {
                    if let Some(visit) = open.last().and_then(|name| record.visits.get_mut(name)) {
                        *visit.errors.entry(error).or_default() += 1;
                        visit.last_failed = true;
                    }
                }
                Meaning::Succeeded => record.end = Some(End::Well),
                Meaning::Failed(error, cause) => {
                    record.end = Some(End::Badly { error, cause });
                    for name in open.drain(..) {
                        record.leave(name, entered.remove(name), event.timestamp);
                        if let Some(visit) = record.visits.get_mut(name) {
                            visit.last_failed = true;
                        }
                    }
                }
                Meaning::Other => {}
            }
        }
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            record.milliseconds = milliseconds(first.timestamp, last.timestamp);
            for name in open {
                record.leave(name, entered.remove(name), last.timestamp);
                if let Some(visit) = record.visits.get_mut(name) {
                    visit.at_work = true;
                }
            }
        }
        record
    }

    fn leave(&mut self, name: &str, entered: Option<Timestamp>, now: Timestamp) {
        if let (Some(visit), Some(entered)) = (self.visits.get_mut(name), entered) {
            visit.milliseconds += milliseconds(entered, now);
        }
    }
}

fn milliseconds(from: Timestamp, to: Timestamp) -> i128 {
    to.duration_since(from).as_millis()
}

#[derive(Clone, Copy)]
enum Ink {
    Bold,
    Dim,
    Good,
    Bad,
    Warning,
}

struct Drawing<'a> {
    text: String,
    /// Whether ANSI escape sequences are welcome.
    color: bool,
    record: &'a Record<'a>,
    /// The length of the longest name.
    width: usize,
}

impl Drawing<'_> {
    fn heading(&mut self, machine: &Machine) {
        let (ink, outcome) = match self.record.end {
            Some(End::Well) => (Ink::Good, "succeeded".to_owned()),
            Some(End::Badly { error, .. }) => (Ink::Bad, format!("failed: {error}")),
            None => (Ink::Warning, "still running".to_owned()),
        };
        let name = self.paint(Ink::Bold, &machine.name);
        let outcome = self.paint(ink, &outcome);
        let time = self.paint(Ink::Dim, &format!("{} ms", self.record.milliseconds));
        self.line(0, &format!("{name}  {outcome}  {time}"));
        if let Some(End::Badly { cause, .. }) = self.record.end
            && !cause.is_empty()
        {
            let cause = self.paint(Ink::Dim, &first_line(cause));
            self.line(1, &cause);
        }
        self.text.push('\n');
    }

    fn branch(&mut self, branch: &Branch, depth: usize) {
        let order = drawing_order(branch);
        for (index, state) in order.iter().enumerate() {
            let following = order.get(index + 1).map(|state| state.name.as_str());
            self.state(state, following, depth);
        }
    }

    fn state(&mut self, state: &State, following: Option<&str>, depth: usize) {
        let visit = self.record.visits.get(state.name.as_str());
        let (mark, ink) = match visit {
            None => ("·", Ink::Dim),
            Some(visit) if visit.at_work => ("●", Ink::Warning),
            Some(visit) if visit.last_failed || state.kind == Kind::Fail => ("✗", Ink::Bad),
            Some(_) => ("✓", Ink::Good),
        };
        let mark = self.paint(ink, mark);
        let name = format!("{:width$}", state.name, width = self.width);
        let name = self.paint(if visit.is_some() { Ink::Bold } else { Ink::Dim }, &name);
        let details = visit.map(|visit| self.details(visit)).unwrap_or_default();
        self.line(depth, format!("{mark} {name}{details}").trim_end());
        for inner in state.branches() {
            self.branch(inner, depth + 1);
        }
        self.ways_out(state, following, depth);
    }

    fn details(&self, visit: &Visit<'_>) -> String {
        let mut details = format!("  {:>6} ms", visit.milliseconds);
        if visit.times > 1 {
            let _ = write!(details, "  {} times", visit.times);
        }
        let retries = visit.attempts.saturating_sub(visit.times);
        let errors: Vec<_> = visit
            .errors
            .iter()
            .map(|(error, times)| {
                if *times > 1 {
                    format!("{error} ×{times}")
                } else {
                    (*error).to_owned()
                }
            })
            .collect();
        let errors = errors.join(", ");
        let trouble = match retries {
            0 => errors,
            1 => format!("1 retry ({errors})"),
            _ => format!("{retries} retries ({errors})"),
        };
        if !trouble.is_empty() {
            details.push_str("  ");
            details.push_str(&self.paint(Ink::Warning, &trouble));
        }
        details
    }

    /// The ways that lead on: to the state drawn next as a line, to the others with their goal. Those
    /// that were taken are heavy, those for errors broken.
    fn ways_out(&mut self, state: &State, following: Option<&str>, depth: usize) {
        let visit = self.record.visits.get(state.name.as_str());
        let failed = visit.is_some_and(|visit| visit.last_failed);
        for (errors, to) in error_ways(state) {
            let open = format!("╎╌ {errors} ╌▸ {to}");
            // Where an error leads to the same state as a success does, only its end tells them apart.
            let routes = &mut state.routes.iter();
            if !failed && routes.any(|route| route.to.as_deref() == Some(to)) {
                self.line(depth, &self.paint(Ink::Dim, &open));
            } else {
                self.way(state, to, &format!("┣━ {errors} ━▸ {to}"), &open, depth);
            }
        }
        let mut line = false;
        for route in &state.routes {
            let Some(to) = route.to.as_deref() else {
                continue;
            };
            let otherwise = (state.kind == Kind::Choice).then_some("otherwise");
            match route.condition.as_deref().or(otherwise).map(first_line) {
                Some(condition) => {
                    let taken = format!("┣━ {condition} ━▸ {to}");
                    self.way(state, to, &taken, &format!("├─ {condition} ─▸ {to}"), depth);
                }
                None if Some(to) == following => {
                    line = true;
                    self.way(state, to, "┃", "│", depth);
                }
                None => self.way(state, to, &format!("┗━▸ {to}"), &format!("╰─▸ {to}"), depth),
            }
        }
        if !line && following.is_some() {
            self.text.push('\n');
        }
    }

    fn way(&mut self, from: &State, to: &str, taken: &str, not_taken: &str, depth: usize) {
        let way = if self.record.steps.contains(&(from.name.as_str(), to)) {
            taken.to_owned()
        } else {
            self.paint(Ink::Dim, not_taken)
        };
        self.line(depth, &way);
    }

    fn line(&mut self, depth: usize, content: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{content}", "", indent = depth * 2);
    }

    fn paint(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Bad => 31,
            Ink::Good => 32,
            Ink::Warning => 33,
        };
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Each state once, before those that it leads to, and what only errors lead to last.
fn drawing_order(branch: &Branch) -> Vec<&State> {
    let mut order: Vec<&State> = Vec::new();
    let mut main = vec![branch.start_at.as_str()];
    let mut detours: Vec<&str> = Vec::new();
    loop {
        let drawn = |name: &str| order.iter().any(|state| state.name == name);
        main.retain(|name| !drawn(name));
        detours.retain(|name| !drawn(name));
        let pending = if main.is_empty() {
            &mut detours
        } else {
            &mut main
        };
        if pending.is_empty() {
            return order;
        }
        // In a loop every state leads to every other; then the first is as good as any.
        let first = pending.iter().position(|name| {
            let mut others = pending.iter().filter(|other| *other != name);
            others.all(|other| !leads(branch, other, name))
        });
        let name = pending.remove(first.unwrap_or_default());
        let Some(state) = branch.state(name) else {
            continue;
        };
        order.push(state);
        main.extend(state.routes.iter().filter_map(|route| route.to.as_deref()));
        detours.extend(state.catch.iter().map(|catcher| catcher.next.as_str()));
    }
}

/// Whether some way leads from one state to another.
fn leads(branch: &Branch, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut pending = vec![from];
    while let Some(name) = pending.pop() {
        let Some(state) = branch.state(name).filter(|_| seen.insert(name)) else {
            continue;
        };
        let routes = state.routes.iter().filter_map(|route| route.to.as_deref());
        for next in routes.chain(state.catch.iter().map(|catcher| catcher.next.as_str())) {
            if next == to {
                return true;
            }
            pending.push(next);
        }
    }
    false
}

fn first_line(text: &str) -> String {
    const LONGEST: usize = 100;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    line.chars().take(LONGEST - 1).chain(['…']).collect()
}

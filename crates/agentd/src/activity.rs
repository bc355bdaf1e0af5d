//! Whether the agent works, and since when.
//!
//! A run of OpenClaw counts from its lifecycle's start to its end, however silent it is: a long
//! tool says nothing in between. A model call counts too, while it is under way, so that work is
//! seen even while the line to OpenClaw is down. The warming turn is nobody's work.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use carapace_core::agentd::TokenCount;
use jiff::Timestamp;

/// What has happened so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// A run or a call is under way.
    pub busy: bool,
    /// The last beginning or end of one.
    pub last: Option<Timestamp>,
    /// The first since the start: no snapshot is ever taken here, so everything since is unsaved.
    pub dirty_since: Option<Timestamp>,
    /// Used so far.
    pub tokens: TokenCount,
}

#[derive(Debug, Default)]
struct Inner {
    runs: HashSet<String>,
    calls: usize,
    last: Option<Timestamp>,
    dirty_since: Option<Timestamp>,
    tokens: TokenCount,
}

/// Follows runs and calls.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Mutex<Inner>>);

impl Activity {
    /// A restart beside a user's agent: what happened before is forgotten, and must count as unsaved
    /// rather than as never done.
    pub fn resumed(&self, now: Timestamp) {
        self.lock().touch(now);
    }

    /// A run has started.
    pub fn run_started(&self, run: &str, now: Timestamp) {
        let mut inner = self.lock();
        inner.runs.insert(run.to_owned());
        inner.touch(now);
    }

    /// A run has ended, well or not.
    pub fn run_ended(&self, run: &str, now: Timestamp) {
        let mut inner = self.lock();
        if inner.runs.remove(run) {
            inner.touch(now);
        }
    }

    /// The line to OpenClaw is gone, and with it the ends of the runs that were seen to start.
    pub fn forget_runs(&self, now: Timestamp) {
        let mut inner = self.lock();
        if !inner.runs.is_empty() {
            inner.runs.clear();
            inner.touch(now);
        }
    }

    /// A model call begins, or a turn that OpenClaw may not have heard of yet; it lasts until the
    /// guard is dropped.
    pub fn call(&self) -> Call {
        let mut inner = self.lock();
        inner.calls += 1;
        inner.touch(Timestamp::now());
        drop(inner);
        Call(self.clone())
    }

    /// A model call has used this much.
    pub fn used(&self, tokens: TokenCount) {
        let mut inner = self.lock();
        let total = &mut inner.tokens;
        total.prompt = total.prompt.saturating_add(tokens.prompt);
        total.completion = total.completion.saturating_add(tokens.completion);
    }

    /// What has happened so far.
    pub fn summary(&self) -> Summary {
        let inner = self.lock();
        Summary {
            busy: !inner.runs.is_empty() || inner.calls > 0,
            last: inner.last,
            dirty_since: inner.dirty_since,
            tokens: inner.tokens,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touch(&mut self, now: Timestamp) {
        self.last = Some(now);
        self.dirty_since.get_or_insert(now);
    }
}

/// A model call or a turn that is under way.
#[derive(Debug)]
pub struct Call(Activity);

impl Drop for Call {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.calls -= 1;
        inner.touch(Timestamp::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_run_is_busy_from_start_to_end_however_silent() {
        let activity = Activity::default();
        assert_eq!(activity.summary(), Summary::default());
        activity.run_started("one", at(10));
        activity.run_started("two", at(20));
        activity.run_ended("one", at(30));
        assert!(activity.summary().busy);
        activity.run_ended("two", at(40));
        activity.run_ended("two", at(50));
        let summary = activity.summary();
        assert!(!summary.busy);
        assert_eq!(
            (summary.last, summary.dirty_since),
            (Some(at(40)), Some(at(10)))
        );
    }

    #[test]
    fn a_call_is_busy_until_its_guard_goes() {
        let activity = Activity::default();
        let (first, second) = (activity.call(), activity.call());
        drop(first);
        assert!(activity.summary().busy);
        drop(second);
        assert!(!activity.summary().busy);
        assert!(activity.summary().last.is_some());
    }

    #[test]
    fn runs_whose_end_was_missed_do_not_stay_for_ever() {
        let activity = Activity::default();
        activity.run_started("one", at(10));
        activity.forget_runs(at(20));
        let summary = activity.summary();
        assert!(!summary.busy);
        assert_eq!(summary.last, Some(at(20)));
    }
}

//! Places where a test can kill a function: before and after each of its side effects.
//!
//! That every step may be repeated is a claim about the moments in which nothing is certain: the
//! call went out and the answer never came. Those moments last microseconds, so a test that wants
//! to know has to make them. With the feature `fault-injection` a function that comes by one of
//! its points looks for the file `$CARAPACE_FAULT_DIR/<user key>/<point>.<before|after>`; if it can
//! remove that file, it dies on the spot, without an answer, as if its machine had been switched
//! off.

use carapace_core::UserKey;

#[cfg(all(feature = "fault-injection", not(debug_assertions)))]
compile_error!("fault-injection is for tests: a function that is deployed must not have it");

/// The points of `sandbox-claim`, in the order of a run that creates and then releases a claim.
pub const SANDBOX_CLAIM: &[&str] = &[
    CLAIM_RECORD,
    CLAIM_APPLY,
    CLAIM_BOUND_RECORD,
    RELEASE_RECORD,
    RELEASE_DELETE,
];
/// The points of `sandbox-bind`.
pub const SANDBOX_BIND: &[&str] = &[BIND_KEY, BIND_AGENTD];
/// The points of `sandbox-announce`.
pub const SANDBOX_ANNOUNCE: &[&str] = &[ANNOUNCE_RECORD, ANNOUNCE_PUT, ANNOUNCE_CLEAR];

pub(crate) const CLAIM_RECORD: &str = "claim.record";
pub(crate) const CLAIM_APPLY: &str = "claim.apply";
pub(crate) const CLAIM_BOUND_RECORD: &str = "claim.bound-record";
pub(crate) const RELEASE_RECORD: &str = "release.record";
pub(crate) const RELEASE_DELETE: &str = "release.delete";
pub(crate) const BIND_KEY: &str = "bind.key";
pub(crate) const BIND_AGENTD: &str = "bind.agentd";
pub(crate) const ANNOUNCE_RECORD: &str = "announce.record";
pub(crate) const ANNOUNCE_PUT: &str = "announce.put";
pub(crate) const ANNOUNCE_CLEAR: &str = "announce.clear";

/// Which side of a side effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It has not happened.
    Before,
    /// It has happened, and nobody knows.
    After,
}

impl Moment {
    /// How the moment is written in the name of a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// A deployed function comes by here and nothing happens.
#[cfg(not(any(test, feature = "fault-injection")))]
#[inline]
pub(crate) fn point(_user: &UserKey, _point: &'static str, _moment: Moment) {}

#[cfg(all(feature = "fault-injection", not(test)))]
pub(crate) fn point(user: &UserKey, point: &'static str, moment: Moment) {
    let Some(folder) = std::env::var_os("CARAPACE_FAULT_DIR") else {
        return;
    };
    let file = format!("{point}.{}", moment.name());
    let file = std::path::Path::new(&folder).join(user.as_str()).join(file);
    // Removing is what decides, so that of several runs exactly one dies.
    if std::fs::remove_file(&file).is_ok() {
        tracing::warn!(user_key = %user, point, moment = moment.name(), "dies here, as a test wants");
        std::process::abort();
    }
}

#[cfg(test)]
pub(crate) use self::planned::point;

/// In unit tests death is an unwinding that the test catches.
#[cfg(test)]
pub(crate) mod planned {
    use std::cell::RefCell;

    use super::{Moment, UserKey};

    thread_local! {
        static PLAN: RefCell<Option<(&'static str, Moment)>> = const { RefCell::new(None) };
        static SEEN: RefCell<Vec<(&'static str, Moment)>> = const { RefCell::new(Vec::new()) };
    }

    /// What a function dies of.
    #[derive(Debug)]
    pub(crate) struct Death;

    pub(crate) fn die_at(point: &'static str, moment: Moment) {
        PLAN.set(Some((point, moment)));
    }

    /// Whether the planned death has not come yet.
    pub(crate) fn still_planned() -> bool {
        PLAN.with_borrow(Option::is_some)
    }

    /// The points that were passed on this thread since the last time.
    pub(crate) fn take_seen() -> Vec<(&'static str, Moment)> {
        SEEN.take()
    }

    pub(crate) fn point(_user: &UserKey, point: &'static str, moment: Moment) {
        SEEN.with_borrow_mut(|seen| seen.push((point, moment)));
        let now = PLAN.with_borrow(|plan| *plan == Some((point, moment)));
        if now {
            PLAN.set(None);
            std::panic::resume_unwind(Box::new(Death));
        }
    }
}

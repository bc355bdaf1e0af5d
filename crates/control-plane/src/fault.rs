//! Places where a test can kill a function: before and after each of its side effects.
//!
//! That every step may be repeated is a claim about the moments in which nothing is certain: the
//! call went out and the answer never came. Those moments last microseconds, so a test that wants
//! to know has to make them. With the feature `fault-injection` a function that comes by one of
//! its points looks for the file `$CARAPACE_FAULT_DIR/<key>/<point>.<before|after>`; if it can
//! remove that file, it dies on the spot, without an answer, as if its machine had been switched
//! off. The key says whom the invocation is about, so that scenarios can run side by side.
//!
//! A function's unit tests have no process to spare: with the feature `planned-deaths` they plan a
//! death in [`planned`], which unwinds, and call [`planned::point`] in place of [`point`].

#[cfg(all(feature = "fault-injection", not(debug_assertions)))]
compile_error!("fault-injection is for tests: a function that is deployed must not have it");

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
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn point(_key: &str, _point: &'static str, _moment: Moment) {}

/// Dies here, if a test wants that. The key is a name of ours or of Slack's, and no path.
#[cfg(feature = "fault-injection")]
pub fn point(key: &str, point: &'static str, moment: Moment) {
    let Some(folder) = std::env::var_os("CARAPACE_FAULT_DIR") else {
        return;
    };
    let file = format!("{point}.{}", moment.name());
    let file = std::path::Path::new(&folder).join(key).join(file);
    // Removing is what decides, so that of several runs exactly one dies.
    if std::fs::remove_file(&file).is_ok() {
        tracing::warn!(
            key,
            point,
            moment = moment.name(),
            "dies here, as a test wants"
        );
        std::process::abort();
    }
}

/// In unit tests death is an unwinding that the test catches.
#[cfg(feature = "planned-deaths")]
pub mod planned {
    use std::cell::{Cell, RefCell};

    use super::Moment;

    thread_local! {
        static PLAN: Cell<Option<(&'static str, Moment, u32)>> = const { Cell::new(None) };
        static SEEN: RefCell<Vec<(&'static str, Moment)>> = const { RefCell::new(Vec::new()) };
    }

    /// What a function dies of.
    #[derive(Debug)]
    pub struct Death;

    /// Plans a death for the next time that this thread comes by a point.
    pub fn die_at(point: &'static str, moment: Moment) {
        die_at_nth(point, moment, 1);
    }

    /// Plans a death for the `n`th time, counted from one.
    pub fn die_at_nth(point: &'static str, moment: Moment, n: u32) {
        PLAN.set(Some((point, moment, n)));
    }

    /// Whether the planned death has not come yet.
    pub fn still_planned() -> bool {
        PLAN.get().is_some()
    }

    /// The points that were passed on this thread since the last time.
    pub fn take_seen() -> Vec<(&'static str, Moment)> {
        SEEN.take()
    }

    /// What a function comes by in place of [`super::point`].
    pub fn point(_key: &str, point: &'static str, moment: Moment) {
        SEEN.with_borrow_mut(|seen| seen.push((point, moment)));
        match PLAN.get() {
            Some((planned, when, n)) if (planned, when) == (point, moment) => {
                if n > 1 {
                    PLAN.set(Some((planned, when, n - 1)));
                    return;
                }
                PLAN.set(None);
                std::panic::resume_unwind(Box::new(Death));
            }
            _ => {}
        }
    }
}

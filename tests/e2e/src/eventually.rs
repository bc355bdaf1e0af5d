//! Waiting for a condition.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at again. Short, since most of them hold within milliseconds.
const INTERVAL: Duration = Duration::from_millis(50);

/// Waits until `look` returns what `holds` accepts, and returns it.
///
/// A `look` that fails counts as not holding yet: while a stack settles, errors are expected. The
/// last thing seen, value or error, is in the message when `within` has passed.
pub fn eventually<T: Debug>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T>,
    holds: impl Fn(&T) -> bool,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let looking = Instant::now();
        let seen = look();
        if let Ok(value) = &seen
            && holds(value)
        {
            return seen;
        }
        if started.elapsed() >= within {
            match seen {
                Ok(value) => bail!("{what}: not within {within:?}; last seen: {value:#?}"),
                Err(error) => bail!("{what}: not within {within:?}; last error: {error:#}"),
            }
        }
        // To start a `kubectl` takes a processor longer than this: what is waited for needs it more.
        thread::sleep(INTERVAL.max(looking.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_later_is_waited_for() {
        let mut looks = 0;
        let seen = eventually(
            "three looks",
            Duration::from_secs(5),
            || {
                looks += 1;
                Ok(looks)
            },
            |n| *n == 3,
        );
        assert_eq!(seen.unwrap(), 3);
    }

    #[test]
    fn what_was_last_seen_is_in_the_message() {
        let error = eventually("a miracle", Duration::ZERO, || Ok("nothing"), |_| false);
        assert!(error.unwrap_err().to_string().contains("nothing"));
    }
}

//! Counting what test runners say they ran.

use std::fmt;
use std::ops::AddAssign;

use anyhow::{Result, bail};

/// How many checks passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Checks that passed.
    pub passed: u32,
    /// Checks that failed.
    pub failed: u32,
}

impl Count {
    /// One check that passed.
    pub(super) const ONE: Self = Self {
        passed: 1,
        failed: 0,
    };
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// The last line of `cargo xtask test`, in the words that tools look for.
impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// What the last line of a whole `cargo xtask test` says.
pub(super) fn total(output: &str) -> Result<Count> {
    let last = output.trim_end().lines().next_back().unwrap_or_default();
    let count = Count {
        passed: before(last, "passed"),
        failed: before(last, "failed"),
    };
    if count.to_string() != last {
        bail!("it ended without saying how many checks passed; its last line is `{last}`");
    }
    Ok(count)
}

/// The runners whose closing lines are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runner {
    /// `cargo test` and libtest-mimic: a line per test binary.
    Cargo,
    /// pytest: one line at the end.
    Pytest,
    /// vitest: a line `Tests  3 passed (3)`.
    Vitest,
}

impl Runner {
    /// Adds up the closing lines in what the runner printed. A runner that ran no test is an
    /// error: it would pass for ever.
    pub(super) fn count(self, output: &str) -> Result<Count> {
        let mut total = Count::default();
        for line in output.lines().map(plain).filter(|line| self.closes(line)) {
            total += Count {
                passed: before(&line, "passed"),
                failed: before(&line, "failed"),
            };
        }
        if total == Count::default() {
            bail!("the test runner ran no test");
        }
        Ok(total)
    }

    fn closes(self, line: &str) -> bool {
        match self {
            Self::Cargo => line.starts_with("test result:"),
            Self::Pytest => {
                line.contains(" in ") && (line.contains("passed") || line.contains("failed"))
            }
            Self::Vitest => line.trim_start().starts_with("Tests "),
        }
    }
}

/// The number before a word: 3 in `ok. 3 passed; 0 failed`.
fn before(line: &str, word: &str) -> u32 {
    let words: Vec<&str> = line
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .collect();
    words
        .windows(2)
        .find(|pair| pair[1] == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

/// The line without terminal colours.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_binary_of_cargo_counts() {
        let output = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                      test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(
            Runner::Cargo.count(output).unwrap(),
            Count {
                passed: 4,
                failed: 2
            }
        );
    }

    #[test]
    fn pytest_and_vitest_close_with_one_line() {
        let pytest = "===== 1 failed, 12 passed in 3.20s =====";
        assert_eq!(
            Runner::Pytest.count(pytest).unwrap(),
            Count {
                passed: 12,
                failed: 1
            }
        );
        let vitest =
            "\u{1b}[2m      Tests \u{1b}[22m \u{1b}[1m\u{1b}[32m9 passed\u{1b}[39m\u{1b}[22m (9)";
        assert_eq!(
            Runner::Vitest.count(vitest).unwrap(),
            Count {
                passed: 9,
                failed: 0
            }
        );
    }

    #[test]
    fn a_runner_that_ran_nothing_is_an_error() {
        assert!(
            Runner::Cargo
                .count("test result: ok. 0 passed; 0 failed")
                .is_err()
        );
    }

    #[test]
    fn the_last_line_is_read_as_it_is_written() {
        let count = Count {
            passed: 12,
            failed: 3,
        };
        assert_eq!(total(&format!("all of it\n\n{count}\n")).unwrap(), count);
        for said in [
            "",
            "12 passed, 3 failed\nerror: 3 check(s) failed",
            "12 passed",
        ] {
            assert!(total(said).is_err(), "{said:?}");
        }
    }
}

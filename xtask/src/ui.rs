//! What a person sees: headings, labelled values, and a line per step that says what, how far
//! and how long. Colour and movement only on a terminal, and never with `NO_COLOR`.

use std::fmt::{Display, Write};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Prints a line. A reader that went away, such as `head`, has seen enough: that is no error.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// The terminal, or what stands in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    color: bool,
    moving: bool,
}

impl Ui {
    /// Looks at the environment once.
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let moving = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        Self { color, moving }
    }

    /// The same, with colours as another process decided.
    pub(crate) fn with_color(self, color: bool) -> Self {
        Self { color, ..self }
    }

    /// Whether colours may be used.
    pub(crate) fn color(self) -> bool {
        self.color
    }

    /// A heading, with a blank line around it.
    pub(crate) fn heading(self, text: &str) {
        say!("\n{}\n", self.paint("1", text));
    }

    /// An indented `Label: value`.
    pub(crate) fn row(self, label: &str, value: impl Display) {
        say!("  {} {value}", self.paint("2", &format!("{label}:")));
    }

    /// An indented line that something was found to hold.
    pub(crate) fn holds(self, text: &str) {
        say!("  {} {text}", self.paint("32", "✓"));
    }

    /// An indented line that something does not hold.
    pub(crate) fn fails(self, text: &str) {
        say!("  {} {text}", self.paint("31", "✗"));
    }

    /// A remark.
    pub(crate) fn note(self, text: &str) {
        say!("  {}", self.paint("2", text));
    }

    /// Begins a step; it ends with [`Step::done`]. Where nothing can move, a step that takes a
    /// while says so when it begins.
    pub(crate) fn step(self, what: &str, estimate: Option<Duration>) -> Step {
        let estimate = estimate.filter(|estimate| *estimate >= Duration::from_secs(2));
        let bar = self.moving.then(|| moving_bar(what, estimate));
        if let (None, Some(estimate)) = (&bar, estimate) {
            say!("  … {what} (about {})", human(estimate));
        }
        Step {
            ui: self,
            what: what.to_owned(),
            bar,
            started: Instant::now(),
            ended: false,
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// How wide a bar is, in characters.
const BAR: u32 = 24;

/// A spinner, or, when the time it will take is known about, a bar that fills with time.
fn moving_bar(what: &str, estimate: Option<Duration>) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let template = match estimate {
        Some(_) => "  {spinner} {msg} {filled} {elapsed} of about {estimate}",
        None => "  {spinner} {msg} {elapsed:.dim}",
    };
    // The templates are constants; a wrong one would only lose the bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        let estimate = estimate.unwrap_or(Duration::MAX);
        bar.set_style(
            style
                .with_key(
                    "filled",
                    move |state: &ProgressState, out: &mut dyn Write| {
                        // It is an estimate: only the end fills the bar.
                        let one = estimate / BAR;
                        let filled = (1..BAR).take_while(|n| one * *n < state.elapsed()).count();
                        let _ = write!(
                            out,
                            "{}{}",
                            "━".repeat(filled),
                            "─".repeat(BAR as usize - filled)
                        );
                    },
                )
                .with_key("estimate", move |_: &ProgressState, out: &mut dyn Write| {
                    let _ = write!(out, "{}", human(estimate));
                }),
        );
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A step under way. Dropped without [`Step::done`] (an error passed it), it leaves its name and
/// a cross behind.
#[derive(Debug)]
pub(crate) struct Step {
    ui: Ui,
    what: String,
    bar: Option<ProgressBar>,
    started: Instant,
    ended: bool,
}

impl Step {
    /// Says what the step is at.
    pub(crate) fn at(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.what));
        }
    }

    /// Ends a step that was too short to leave a line behind.
    pub(crate) fn quiet(mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.ended = true;
    }

    /// Ends the step with a tick, what came of it, and how long it took.
    pub(crate) fn done(mut self, result: &str) -> Duration {
        let took = self.started.elapsed();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.ended = true;
        let dim = self.ui.paint("2", &human(took));
        self.ui.holds(&format!("{result} {dim}"));
        took
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !self.ended {
            self.ui.fails(&self.what);
        }
    }
}

/// A duration as a person would say it: `840 ms`, `12.3 s`, `4 min 10 s`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 60 {
        format!("{} min {} s", seconds / 60, seconds % 60)
    } else if seconds >= 1 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_a_person_would_say_them() {
        assert_eq!(human(Duration::from_millis(840)), "840 ms");
        assert_eq!(human(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(human(Duration::from_secs(250)), "4 min 10 s");
    }
}

//! What a long piece of work tells the one who waits for it.

use std::time::{Duration, Instant};

/// One sign of life. Steps may overlap: parts of a stack start side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step has begun.
    Started {
        /// What is being done, as a person would say it.
        step: String,
        /// Which step this is, from 1.
        number: usize,
        /// How many steps there are in this piece of work.
        of: usize,
        /// How long it took on the machine where it was measured (2 cores, nothing cached).
        estimate: Option<Duration>,
    },
    /// A step is done.
    Finished {
        /// The same text as in [`Progress::Started`].
        step: String,
        /// How long it took.
        took: Duration,
    },
    /// Something the waiting person should know, such as what is being waited for.
    Note(String),
}

/// Where progress goes.
pub type Listener<'a> = dyn FnMut(Progress) + 'a;

/// Counts the steps of one piece of work.
pub(crate) struct Steps<'a, 'l> {
    listener: &'a mut Listener<'l>,
    number: usize,
    of: usize,
}

impl<'a, 'l> Steps<'a, 'l> {
    pub(crate) fn new(of: usize, listener: &'a mut Listener<'l>) -> Self {
        Self {
            listener,
            number: 0,
            of,
        }
    }

    pub(crate) fn run<T, E>(
        &mut self,
        step: &str,
        estimate: Option<Duration>,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.number += 1;
        (self.listener)(Progress::Started {
            step: step.to_owned(),
            number: self.number,
            of: self.of,
            estimate,
        });
        let begun = Instant::now();
        let done = work()?;
        (self.listener)(Progress::Finished {
            step: step.to_owned(),
            took: begun.elapsed(),
        });
        Ok(done)
    }

    pub(crate) fn note(&mut self, text: &str) {
        (self.listener)(Progress::Note(text.to_owned()));
    }
}

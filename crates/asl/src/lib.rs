//! State machines in the [Amazon States Language](https://states-language.net), JSONata only.
//!
//! Step Functions checks a definition when it is created, a local stand-in often not at all, and most
//! of what can be wrong with one shows at neither time: a variable that no state assigns, a `Catch`
//! behind another that takes everything, a state that forgot its timeout and waits for a year. This
//! crate refuses all of that before anything is deployed, so a [`Machine`] that exists is one that
//! runs, and draws what it read:
//!
//! - [`parse`] makes a [`Machine`] of a file's text, or says everything that is wrong with it,
//!   and [`parse_directory`] does so for a project;
//! - [`mermaid`] draws a machine for the documentation, and [`replace_block`] puts the drawing there;
//! - [`draw_execution`] draws in a terminal which way an execution went, from its [`History`].
//!
//! House rules are checked along with the language's own: every state and machine has a `Comment` that
//! says why it exists, states are named `VerbNoun`, the machine and every `Task` end in bounded time.

#![allow(
    clippy::doc_markdown,
    reason = "JSONata and JSONPath are names, not code"
)]

pub use check::parse;
pub use directory::{DirectoryError, parse_directory};
pub use document::{MissingBlock, replace_block};
pub use execution::draw_execution;
pub use finding::{Finding, Rejected};
pub use history::{History, HistoryEvent};
pub use machine::{Branch, Catcher, Kind, Machine, Retrier, Route, State, Substitution};
pub use mermaid::mermaid;

mod check;
mod directory;
mod document;
mod execution;
mod expression;
mod finding;
mod flow;
mod history;
mod json;
mod machine;
mod mermaid;
mod read;

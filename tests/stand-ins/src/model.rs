//! A model that follows a script: what it says, and how it fails, is written in what it is asked.
//!
//! It repeats the user's last message. Words in that message ask for more, and any may go with any
//! other:
//! - `MODEL 401`, `403`, `429`, `500`, `503`: the call is refused that way.
//! - `MODEL BUDGET`: the key's budget is used up. `MODEL LIMIT`: it calls more often than it may, and is
//!   told when to try again. Only a gateway knows keys; a model ignores both, as it does `401`.
//! - `MODEL HANG`: nothing is ever answered.
//! - `MODEL CUT`: the answer breaks off after two words. `MODEL MIDWAY`: it ends there, too, by an
//!   error that says that the model is asked too often.
//!
//! And if the caller brings tools, as an agent does whose turns aren't scripted themselves:
//! - `SLOW n` says n words first, a quarter of a second apart.
//! - `RECALL` repeats at the end what the user said before.
//! - `TOOL command` runs a command, to the end of the line, and repeats what came of it.

use std::time::Duration;

/// Between two words of a slow answer.
pub(crate) const SLOW: Duration = Duration::from_millis(250);
/// What a refusal says about when to try again.
pub(crate) const RETRY_AFTER: &str = "1";
/// How much of an answer that breaks off is said.
const BROKEN_OFF_AFTER: usize = 2;
/// OpenClaw puts such a message behind the user's own.
const INTERNAL_CONTEXT: &str = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>";
/// And this behind the user's words.
const RUNTIME: &str = "\n\nRuntime: agent=";
/// A tool may say more than is worth repeating.
const MOST_REPEATED: usize = 2000;

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Tool,
    Other,
}

/// Something that was said before.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) role: Role,
    pub(crate) text: String,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// By this status, before anything is said.
    Status(u16),
    /// The key's budget is used up.
    Budget,
    /// The key calls more often than it may.
    Limit,
    /// It isn't answered.
    Hang,
    /// The answer breaks off.
    Cut,
    /// The answer breaks off, and says that the model is asked too often.
    Midway,
}

impl Fault {
    /// Reads the word behind `MODEL`.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "BUDGET" => Some(Self::Budget),
            "LIMIT" => Some(Self::Limit),
            "HANG" => Some(Self::Hang),
            "CUT" => Some(Self::Cut),
            "MIDWAY" => Some(Self::Midway),
            "401" | "403" | "429" | "500" | "503" => word.parse().ok().map(Self::Status),
            _ => None,
        }
    }

    /// Whether something is said before it.
    pub(crate) fn is_midway(self) -> bool {
        matches!(self, Self::Cut | Self::Midway)
    }
}

/// What one call is answered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    /// What is said, piece by piece, spaces included.
    pub(crate) words: Vec<String>,
    /// So many of them come slowly.
    pub(crate) slow: usize,
    /// A command to run instead of an answer.
    pub(crate) command: Option<String>,
    pub(crate) fault: Option<Fault>,
}

impl Script {
    /// The script of a call with these messages, from a caller that brings tools or doesn't.
    pub(crate) fn of(messages: &[Said], has_tools: bool) -> Self {
        let users =
            |said: &&Said| said.role == Role::User && !said.text.starts_with(INTERNAL_CONTEXT);
        let last = messages.iter().rposition(|said| users(&said));
        let (before, rest) = messages.split_at(last.unwrap_or(messages.len()));
        let asked = rest
            .first()
            .map(|said| words_of(&said.text))
            .unwrap_or_default();
        let tool = rest.iter().rfind(|said| said.role == Role::Tool);
        let mut script = Self {
            words: Vec::new(),
            slow: 0,
            command: None,
            fault: behind(asked, "MODEL").and_then(Fault::parse),
        };
        let mut answer = format!("You said: {asked}");
        if has_tools {
            let count = behind(asked, "SLOW").and_then(|count| count.parse().ok());
            if let (Some(count), None) = (count, tool) {
                script
                    .words
                    .extend((0..count).map(|number| format!("w{number} ")));
                script.slow = count;
            }
            match (tool, asked.split_once("TOOL ")) {
                (Some(tool), _) => {
                    let end = tool.text.floor_char_boundary(MOST_REPEATED);
                    answer.push_str(" The tool said: ");
                    answer.push_str(tool.text[..end].trim());
                }
                (None, Some((_, command))) => {
                    let command = command.lines().next().unwrap_or_default();
                    script.command = Some(command.to_owned());
                }
                (None, None) => {}
            }
            if asked.split_whitespace().any(|word| word == "RECALL") {
                let before: Vec<&str> = before
                    .iter()
                    .filter(users)
                    .map(|said| words_of(&said.text))
                    .collect();
                answer.push_str(" Before, you said: ");
                answer.push_str(&before.join("; "));
            }
        }
        script
            .words
            .extend(answer.split_inclusive(' ').map(str::to_owned));
        if let Some(fault) = script.fault {
            script.fail(fault);
        }
        script
    }

    /// Lets the call fail.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
        if fault.is_midway() {
            self.command = None;
            self.slow = BROKEN_OFF_AFTER;
            self.words.truncate(BROKEN_OFF_AFTER);
        }
    }
}

/// What the user said, without what OpenClaw puts around it: the time in front, and what it knows of
/// its own runtime behind.
fn words_of(text: &str) -> &str {
    let text = text.split_once(RUNTIME).map_or(text, |(before, _)| before);
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((time, rest)) if time.ends_with("UTC") => rest,
        _ => text,
    }
}

/// The word behind another one.
fn behind<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let mut words = text.split_whitespace();
    words.find(|found| *found == word)?;
    words.next()
}

/// About as many tokens as a text has.
pub(crate) fn tokens(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(role: Role, text: &str) -> Said {
        Said {
            role,
            text: text.to_owned(),
        }
    }

    fn user(text: &str) -> Said {
        said(Role::User, text)
    }

    #[test]
    fn an_answer_repeats_what_the_user_said_last_and_not_what_openclaw_adds() {
        let messages = [
            user("before"),
            said(Role::Other, "an answer"),
            user("[Wed 2026-11-25 01:57 UTC] RECALL [this]\n\nRuntime: agent=main | session=x"),
            user("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nConversation data"),
        ];
        let script = Script::of(&messages, false);
        assert_eq!(script.words.concat(), "You said: RECALL [this]");
        let script = Script::of(&messages, true);
        assert_eq!(
            script.words.concat(),
            "You said: RECALL [this] Before, you said: before"
        );
    }

    #[test]
    fn a_tool_is_asked_for_once_and_its_result_repeated() {
        let asked = user("SLOW 2 TOOL cat file\nplease");
        let script = Script::of(std::slice::from_ref(&asked), true);
        assert_eq!(script.command.as_deref(), Some("cat file"));
        assert_eq!(script.slow, 2);
        let messages = [asked, said(Role::Other, ""), said(Role::Tool, "42\n")];
        let script = Script::of(&messages, true);
        assert_eq!((script.command, script.slow), (None, 0));
        assert!(script.words.concat().ends_with("The tool said: 42"));
    }

    #[test]
    fn only_words_that_are_known_make_a_call_fail() {
        for (text, fault) in [
            ("MODEL 429", Some(Fault::Status(429))),
            ("so MODEL BUDGET it", Some(Fault::Budget)),
            ("MODEL CUT", Some(Fault::Cut)),
            ("MODEL 200", None),
            ("MODEL", None),
            ("model 429", None),
        ] {
            assert_eq!(Script::of(&[user(text)], false).fault, fault, "{text}");
        }
        assert_eq!(Script::of(&[user("MODEL CUT")], false).words.len(), 2);
        assert_eq!(Script::of(&[], true).words.concat(), "You said: ");
    }
}

//! Server-sent events, as `agentd` tells what comes of a turn.

use carapace_core::agentd::TurnEvent;
use serde_json::{Value, json};

/// The names of the events that are known here. A newer `agentd` may tell of more.
const KNOWN: &[&str] = &["delta", "text", "activity", "done", "error"];

/// Puts lines together to events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    id: Option<u64>,
    event: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// Takes the next line, and gives the event that it ends, if it ends one. An event that isn't
    /// what its name says is an error: to leave it out would be to leave out a part of the answer.
    pub(super) fn line(&mut self, line: &str) -> Result<Option<(u64, TurnEvent)>, String> {
        if line.is_empty() {
            return self.end();
        }
        // A keep-alive is a comment: it has no name.
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.id = Some(value.parse().map_err(|_| "an event has an odd id")?),
            "event" => self.event = Some(value.to_owned()),
            "data" => match &mut self.data {
                None => self.data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            _ => {}
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<Option<(u64, TurnEvent)>, String> {
        // The id stays, as the standard has it; ours come with each event.
        let (Some(event), Some(data)) = (self.event.take(), self.data.take()) else {
            return Ok(None);
        };
        if !KNOWN.contains(&event.as_str()) {
            return Ok(None);
        }
        let number = self.id.ok_or("an event has no id")?;
        let odd = |_| format!("the event {event} is not what its name says");
        let data: Value = serde_json::from_str(&data).map_err(odd)?;
        let event = serde_json::from_value(json!({ "event": event, "data": data }));
        event.map(|event| Some((number, event))).map_err(odd)
    }
}

#[cfg(test)]
mod tests {
    use carapace_core::agentd::{ActivityPhase, ErrorBody, ErrorName};

    use super::*;

    fn parsed(text: &str) -> Result<Vec<(u64, TurnEvent)>, String> {
        let mut parser = Parser::default();
        let events = text
            .lines()
            .filter_map(|line| parser.line(line).transpose());
        events.collect()
    }

    #[test]
    fn every_event_is_read_with_its_number() {
        let text = "id: 1\nevent: delta\ndata: {\"text\":\"a: b\\n\"}\n\n\
            : keep-alive\n\n\
            event:activity\ndata:{\"tool\":\"exec\",\"phase\":\"start\"}\nid:2\n\n\
            id: 3\nevent: text\ndata: {\"text\":\ndata: \"c\"}\n\n\
            id: 4\nevent: error\ndata: {\"error\":\"TurnLost\",\"message\":\"m\"}\n\n\
            id: 5\nevent: done\ndata: {\"text\":\"\"}\n\n";
        let expected = vec![
            (
                1,
                TurnEvent::Delta {
                    text: "a: b\n".into(),
                },
            ),
            (
                2,
                TurnEvent::Activity {
                    tool: "exec".into(),
                    phase: ActivityPhase::Start,
                },
            ),
            (3, TurnEvent::Text { text: "c".into() }),
            (
                4,
                TurnEvent::Error(ErrorBody {
                    error: ErrorName::TurnLost,
                    message: "m".into(),
                }),
            ),
            (
                5,
                TurnEvent::Done {
                    text: String::new(),
                },
            ),
        ];
        assert_eq!(parsed(text).unwrap(), expected);
    }

    #[test]
    fn an_event_that_is_not_known_yet_is_passed_over() {
        let text = "id: 1\nevent: thought\ndata: 7\n\nretry: 5\nwhat\n\nid: 2\nevent: done\ndata: {\"text\":\"a\"}\n\n";
        assert_eq!(parsed(text).unwrap().len(), 1);
    }

    #[test]
    fn an_event_that_broke_off_is_none() {
        assert_eq!(
            parsed("id: 1\nevent: delta\ndata: {\"text\":\"a\"}").unwrap(),
            []
        );
    }

    #[test]
    fn an_event_that_is_not_what_its_name_says_is_an_error() {
        for text in [
            "id: 1\nevent: delta\ndata: {\"text\":\n\n",
            "id: 1\nevent: delta\ndata: {}\n\n",
            "id: x\nevent: delta\ndata: {\"text\":\"a\"}\n\n",
            "event: delta\ndata: {\"text\":\"a\"}\n\n",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}

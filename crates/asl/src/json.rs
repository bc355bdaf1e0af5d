//! JSON with what `serde_json` does not keep: the order of members, duplicates, and lines.
//!
//! The order of the states is the author's, and drawings follow it; the lines make a finding something
//! that an editor can jump to.

use serde_json::Number;

/// A value and the line on which it starts.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) value: Json,
}

#[derive(Clone, Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<Member>),
}

/// A member of an object; `line` is the one of its name.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&[Member]> {
        match &self.value {
            Json::Object(members) => Some(members),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Node]> {
        match &self.value {
            Json::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The value in words, for a message.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Json::Null => "null".to_owned(),
            Json::Bool(value) => value.to_string(),
            Json::Number(value) => value.to_string(),
            Json::Text(value) => format!("{value:?}"),
            Json::Array(_) => "an array".to_owned(),
            Json::Object(_) => "an object".to_owned(),
        }
    }
}

/// Reads a JSON text.
pub(crate) fn read(source: &str) -> Result<Node, serde_json::Error> {
    // serde_json decides what is JSON and words the errors; the scanner below only adds places, and
    // may take its input to be well-formed.
    serde_json::from_str::<serde::de::IgnoredAny>(source)?;
    Scanner {
        rest: source,
        line: 1,
    }
    .node()
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
}

impl Scanner<'_> {
    fn node(&mut self) -> Result<Node, serde_json::Error> {
        self.skip_blanks();
        let line = self.line;
        let value = match self.rest.as_bytes().first() {
            Some(b'{') => Json::Object(self.members()?),
            Some(b'[') => Json::Array(self.items()?),
            Some(b'"') => Json::Text(self.text()?),
            _ => self.literal()?,
        };
        Ok(Node { line, value })
    }

    fn members(&mut self) -> Result<Vec<Member>, serde_json::Error> {
        let mut members = Vec::new();
        self.take(1);
        loop {
            self.skip_blanks();
            if self.closes() {
                return Ok(members);
            }
            let line = self.line;
            let name = self.text()?;
            self.skip_blanks();
            self.take(1);
            members.push(Member {
                line,
                name,
                node: self.node()?,
            });
        }
    }

    fn items(&mut self) -> Result<Vec<Node>, serde_json::Error> {
        let mut items = Vec::new();
        self.take(1);
        loop {
            self.skip_blanks();
            if self.closes() {
                return Ok(items);
            }
            items.push(self.node()?);
        }
    }

    /// Takes a comma, or the end of the container and says so.
    fn closes(&mut self) -> bool {
        let first = self.rest.as_bytes().first().copied();
        if first == Some(b',') {
            self.take(1);
            self.skip_blanks();
            return false;
        }
        let closes = matches!(first, Some(b'}' | b']') | None);
        self.take(usize::from(closes));
        closes
    }

    fn text(&mut self) -> Result<String, serde_json::Error> {
        let mut escaped = false;
        let inner = self.rest.get(1..).unwrap_or_default();
        let length = inner.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let token = self.take(length.map_or(self.rest.len(), |length| length + 2));
        serde_json::from_str(token)
    }

    fn literal(&mut self) -> Result<Json, serde_json::Error> {
        let ends = |character: char| character.is_whitespace() || ",]}".contains(character);
        let token = self.take(self.rest.find(ends).unwrap_or(self.rest.len()));
        Ok(match token {
            "null" => Json::Null,
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            number => Json::Number(serde_json::from_str(number)?),
        })
    }

    fn skip_blanks(&mut self) {
        let blank = self.rest.len() - self.rest.trim_start().len();
        let skipped = self.take(blank);
        self.line += skipped.matches('\n').count();
    }

    fn take(&mut self, length: usize) -> &str {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_duplicates_and_lines_survive() {
        let node =
            read("{\n  \"b\": [1, {\"x\": null}],\n\n  \"a\\\"\": \"}\\n\",\n  \"b\": -1.5e3\n}\n")
                .expect("JSON");
        let members = node.as_object().expect("an object");
        let places: Vec<_> = members
            .iter()
            .map(|member| (member.name.as_str(), member.line))
            .collect();
        assert_eq!(places, [("b", 2), ("a\"", 4), ("b", 5)]);
        assert_eq!(members[1].node.as_text(), Some("}\n"));
        assert_eq!(members[2].node.describe(), "-1500.0");
        assert_eq!(members[0].node.as_array().expect("an array")[1].line, 2);
    }

    #[test]
    fn empty_containers_end() {
        let node = read("[{}, [], [ ] , { } ]").expect("JSON");
        assert_eq!(node.as_array().map(<[Node]>::len), Some(4));
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        assert_eq!(
            read("{\n\"a\": tru}")
                .map(|_| ())
                .expect_err("refused")
                .line(),
            2
        );
        assert!(read("{} {}").is_err());
    }
}

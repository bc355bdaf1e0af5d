//! Reading `usage` off an answer while it passes by, and whether it came to an end.
//!
//! The bytes go on untouched and at once; this only looks at them. What can't be read isn't counted.

use carapace_core::agentd::{ErrorName, TokenCount};
use serde::Deserialize;

use crate::model_error;

/// A line of a stream that is longer than this is passed over; the last one, with the usage, is short.
const MAX_LINE: usize = 256 * 1024;
/// An answer that is no stream has its usage somewhere inside; a longer one goes uncounted.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

#[derive(Deserialize)]
struct Answer {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Looks at one answer.
#[derive(Debug)]
pub(crate) struct Meter {
    is_stream: bool,
    pending: Vec<u8>,
    too_long: bool,
    tokens: TokenCount,
    /// The stream has said that it is done, or why it is not.
    has_ended: bool,
    error: Option<ErrorName>,
}

impl Meter {
    pub(crate) fn new(is_stream: bool) -> Self {
        Self {
            is_stream,
            pending: Vec::new(),
            too_long: false,
            tokens: TokenCount::default(),
            has_ended: false,
            error: None,
        }
    }

    pub(crate) fn see(&mut self, bytes: &[u8]) {
        if !self.is_stream {
            self.keep(bytes, MAX_ANSWER);
            return;
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.keep(&rest[..end], MAX_LINE);
            self.take_line();
            rest = &rest[end + 1..];
        }
        self.keep(rest, MAX_LINE);
    }

    /// The error that the stream has told since this was last asked.
    pub(crate) fn error(&mut self) -> Option<ErrorName> {
        self.error.take()
    }

    /// Whether it is a stream that lacks its end.
    pub(crate) fn is_unfinished(&mut self) -> bool {
        if self.is_stream {
            self.take_line();
        }
        self.is_stream && !self.has_ended
    }

    /// What the answer used, as far as it was seen.
    pub(crate) fn finish(&mut self) -> TokenCount {
        if self.is_stream {
            self.take_line();
        } else if !self.too_long {
            let answer = std::mem::take(&mut self.pending);
            self.count(&answer);
        }
        self.tokens
    }

    fn keep(&mut self, bytes: &[u8], limit: usize) {
        if self.pending.len() + bytes.len() > limit {
            self.too_long = true;
            self.pending = Vec::new();
        } else if !self.too_long {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn take_line(&mut self) {
        let line = std::mem::take(&mut self.pending);
        let too_long = std::mem::take(&mut self.too_long);
        if let (false, Some(json)) = (too_long, line.strip_prefix(b"data:")) {
            let json = json.trim_ascii();
            self.count(json);
            self.error = self.error.or(model_error::of_event(json));
            self.has_ended = self.has_ended || json == b"[DONE]" || self.error.is_some();
        }
    }

    /// Usage is a running total: the last one said is the one that counts.
    fn count(&mut self, json: &[u8]) {
        if let Ok(Answer { usage: Some(usage) }) = serde_json::from_slice(json) {
            let Usage {
                prompt_tokens,
                completion_tokens,
            } = usage;
            self.tokens = TokenCount {
                prompt: prompt_tokens,
                completion: completion_tokens,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"usage: 7\"}}]}\r\n\r\n\
                          : a comment\n\n\
                          data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\n\
                          data: [DONE]\n\n";

    fn count(is_stream: bool, pieces: impl IntoIterator<Item = Vec<u8>>) -> TokenCount {
        let mut meter = Meter::new(is_stream);
        for piece in pieces {
            meter.see(&piece);
        }
        meter.finish()
    }

    #[test]
    fn a_stream_is_counted_wherever_it_is_cut() {
        let expected = TokenCount {
            prompt: 10,
            completion: 5,
        };
        for size in 1..STREAM.len() {
            let pieces = STREAM.as_bytes().chunks(size).map(<[u8]>::to_vec);
            assert_eq!(count(true, pieces), expected, "in pieces of {size}");
        }
        let unterminated = STREAM.split("\n\ndata: [DONE]").next().unwrap();
        assert_eq!(count(true, [unterminated.as_bytes().to_vec()]), expected);
    }

    #[test]
    fn an_answer_in_one_piece_is_counted() {
        let answer =
            br#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#.to_vec();
        let pieces = answer.chunks(7).map(<[u8]>::to_vec);
        assert_eq!(
            count(false, pieces),
            TokenCount {
                prompt: 3,
                completion: 4
            }
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_counted() {
        for answer in [
            "",
            "{",
            "[]",
            r#"{"usage":null}"#,
            r#"{"usage":{"prompt_tokens":-1}}"#,
        ] {
            assert_eq!(
                count(false, [answer.into()]),
                TokenCount::default(),
                "{answer}"
            );
            let line = format!("data: {answer}\n\n");
            assert_eq!(
                count(true, [line.into()]),
                TokenCount::default(),
                "{answer}"
            );
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory_and_hides_nothing_after_it() {
        let mut meter = Meter::new(true);
        meter.see(b"data: {\"usage\":");
        for _ in 0..40 {
            meter.see(&[b'x'; 10_000]);
            assert!(meter.pending.len() <= MAX_LINE);
        }
        meter.see(b"\ndata: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n");
        assert_eq!(
            meter.finish(),
            TokenCount {
                prompt: 1,
                completion: 2
            }
        );
    }

    #[test]
    fn a_stream_that_does_not_come_to_its_end_is_told_from_one_that_does() {
        let error = "data: {\"error\":{\"message\":\"slow\",\"code\":\"429\"}}";
        for (is_stream, text, unfinished, name) in [
            (true, STREAM, false, None),
            (true, "data: [DONE]", false, None),
            (true, "data: {\"choices\":[]}\n\n", true, None),
            (true, "", true, None),
            (true, error, false, Some(ErrorName::ModelRateLimited)),
            (false, "{\"choices\":[]}", false, None),
        ] {
            let mut meter = Meter::new(is_stream);
            meter.see(text.as_bytes());
            assert_eq!(meter.is_unfinished(), unfinished, "{text}");
            assert_eq!(meter.error(), name, "{text}");
        }
    }
}

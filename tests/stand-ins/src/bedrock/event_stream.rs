//! AWS's event-stream encoding (`application/vnd.amazon.eventstream`): messages of headers and a
//! payload, framed by their lengths and two checksums. The reader it is checked against is botocore's,
//! which LiteLLM uses, in `tests/litellm_bedrock.rs`.

use serde_json::Value;

/// The type of a header whose value is a text.
const TEXT: u8 = 7;
/// Two lengths and their checksum in front, and a checksum behind.
const FRAME: usize = 16;

/// An event of a stream.
pub(crate) fn event(name: &str, payload: &Value) -> Vec<u8> {
    message(
        &[
            (":event-type", name),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ],
        payload.to_string().as_bytes(),
    )
}

/// An error that ends a stream.
pub(crate) fn exception(name: &str, payload: &Value) -> Vec<u8> {
    message(
        &[
            (":exception-type", name),
            (":content-type", "application/json"),
            (":message-type", "exception"),
        ],
        payload.to_string().as_bytes(),
    )
}

fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.extend(u8::try_from(name.len()).unwrap_or(u8::MAX).to_be_bytes());
        block.extend(name.as_bytes());
        block.push(TEXT);
        block.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        block.extend(value.as_bytes());
    }
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = Vec::new();
    message.extend(length(FRAME + block.len() + payload.len()));
    message.extend(length(block.len()));
    message.extend(crc32(&message).to_be_bytes());
    message.extend(block);
    message.extend(payload);
    message.extend(crc32(&message).to_be_bytes());
    message
}

/// CRC-32 as in gzip, bit by bit: messages are short.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_message_says_how_long_it_and_its_headers_are() {
        let message = message(&[("a", "bc")], b"{}");
        assert_eq!(message.len(), FRAME + 7 + 2);
        assert_eq!(message[..8], [0, 0, 0, 25, 0, 0, 0, 7]);
        assert_eq!(message[12..20], *b"\x01a\x07\x00\x02bc{");
    }
}

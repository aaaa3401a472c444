//! Tokens in, whole characters out.

use super::Tokenizer;

/// Turns the tokens of one sequence into text, never emitting half a character.
///
/// However the tokens come, the joined output equals the lossy UTF-8 decoding of all their bytes.
#[derive(Clone, Debug)]
pub struct TextStream {
    /// Bytes of a character that is not complete yet: at most three.
    pending: Vec<u8>,
    strip_space: bool,
}

impl TextStream {
    pub(super) fn new(strip_space: bool) -> Self {
        Self {
            pending: Vec::new(),
            strip_space,
        }
    }

    /// The text that this token completes; often empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> String {
        let mut piece = tokenizer.piece(token);
        if !piece.is_empty() && std::mem::take(&mut self.strip_space) {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.push_bytes(piece)
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut consumed = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            consumed += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let at_end = consumed + invalid.len() == self.pending.len();
            if at_end && is_incomplete(invalid) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            consumed += invalid.len();
        }
        self.pending.drain(..consumed);
        text
    }

    /// The end: a character that was never completed becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if std::mem::take(&mut self.pending).is_empty() {
            String::new()
        } else {
            char::REPLACEMENT_CHARACTER.to_string()
        }
    }
}

/// Whether more bytes could still make a character of these.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_text_gives_the_same_characters() {
        let bytes = "aé🦙▁\u{fdd0}"
            .as_bytes()
            .iter()
            .copied()
            .chain([0xff, b'x', 0xf0, 0x9f])
            .collect::<Vec<_>>();
        for cut in 0..=bytes.len() {
            for cut2 in cut..=bytes.len() {
                let mut stream = TextStream::new(false);
                let parts = [&bytes[..cut], &bytes[cut..cut2], &bytes[cut2..]];
                let mut text: String = parts.iter().map(|part| stream.push_bytes(part)).collect();
                text.push_str(&stream.finish());
                assert_eq!(text, String::from_utf8_lossy(&bytes));
            }
        }
    }
}

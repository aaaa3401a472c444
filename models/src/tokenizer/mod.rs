//! Text to tokens and back.
//!
//! Splitting is done by the crate `tokenizers`, set up either by a `tokenizer.json` or from GGUF metadata
//! ([`gguf`]). It is always blind to special tokens: a user who writes `<|im_end|>` has written ten letters.
//! Special tokens are recognised only by [`Tokenizer::encode_template`], and there not in what [`guard`] has touched.
//!
//! Going back is done here, from a table of each token's bytes, because streaming needs bytes: a token may end in the
//! middle of a character.

mod gguf;
mod json;
mod stream;

use std::path::Path;

use crate::error::{ModelError, Problem, RequestError};
use crate::format;

pub use stream::TextStream;

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// By token id: the bytes it stands for, none for special tokens.
    pieces: Vec<Box<[u8]>>,
    /// Texts of the special tokens and their ids, longest first, so that the first match is the longest.
    special: Vec<(String, u32)>,
    /// SentencePiece style: a text begins with a space of its own, which is taken off again.
    leading_space: bool,
    bos: Option<u32>,
    adds_bos: bool,
    eos: Option<u32>,
    ends: Vec<u32>,
    longest_piece_bytes: usize,
}

/// What the builders find out about a tokenizer, in one place so that both make the same kind of thing.
struct Parts {
    inner: tokenizers::Tokenizer,
    pieces: Vec<Box<[u8]>>,
    special: Vec<(String, u32)>,
    leading_space: bool,
    bos: Option<u32>,
    adds_bos: bool,
    eos: Option<u32>,
    ends: Vec<u32>,
}

/// The library notes the first ten thousand words that each thread has seen, up to 8 kB for each, and lets go of none: up to 80 MB
/// that stand in nobody's account. A text that is not split into words beforehand (SentencePiece's) is one word, so
/// that nothing is gained for them. For others it saves half a microsecond a token, of a prompt that is computed for seconds.
const NO_CACHE: usize = 0;

impl Tokenizer {
    /// Loads only the tokenizer of a model: from a `.gguf` file, which may be without tensors, or from a
    /// `tokenizer.json`, beside which `tokenizer_config.json`, `config.json` and `generation_config.json` are read if
    /// they are there.
    ///
    /// # Errors
    /// A [`ModelError`] naming the file.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let file = format::map(path)?;
        if format::is_gguf(&file) {
            let gguf = format::gguf::Gguf::parse(&file).map_err(|problem| ModelError::new(path, problem))?;
            Self::from_gguf(&gguf).map_err(|problem| ModelError::new(path, problem))
        } else {
            Self::from_json(path)
        }
    }

    pub(crate) fn from_gguf(gguf: &format::gguf::Gguf<'_>) -> Result<Self, Problem> {
        gguf::build(gguf).map(Self::new)
    }

    pub(crate) fn from_json(path: &Path) -> Result<Self, ModelError> {
        json::build(path).map(Self::new)
    }

    fn new(parts: Parts) -> Self {
        let Parts {
            mut inner,
            pieces,
            mut special,
            leading_space,
            bos,
            adds_bos,
            eos,
            mut ends,
        } = parts;
        inner.set_encode_special_tokens(true);
        special.retain(|(text, _)| !text.is_empty());
        special.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        // Chat models end a turn with a token of their own, which many files forget to name as an end token.
        let turn_ends = special
            .iter()
            .filter(|(text, _)| TURN_ENDS.contains(&text.as_str()));
        ends.extend(turn_ends.map(|(_, id)| *id));
        ends.extend(eos);
        ends.sort_unstable();
        ends.dedup();
        let longest_piece_bytes = pieces
            .iter()
            .map(|piece| piece.len())
            .chain(special.iter().map(|(text, _)| text.len()))
            .max();
        let longest_piece_bytes = longest_piece_bytes.unwrap_or(1).max(1);
        Self {
            inner,
            pieces,
            special,
            leading_space,
            bos,
            adds_bos,
            eos,
            ends,
            longest_piece_bytes,
        }
    }

    /// Ids run from 0 to below this.
    pub fn vocabulary_size(&self) -> usize {
        self.pieces.len()
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether generation ends at this token.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// The tokens at which generation ends.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The special token of this text.
    pub(crate) fn special_id(&self, text: &str) -> Option<u32> {
        self.special
            .iter()
            .find(|(known, _)| known == text)
            .map(|(_, id)| *id)
    }

    pub(crate) fn special_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.special.iter().map(|(_, id)| *id)
    }

    /// The text of a special token.
    pub(crate) fn special_text(&self, token: u32) -> Option<&str> {
        let found = self.special.iter().find(|(_, id)| *id == token);
        found.map(|(text, _)| text.as_str())
    }

    /// A token's text by itself: of special tokens their name, and U+FFFD for what is no whole character.
    pub(crate) fn text_of(&self, token: u32) -> String {
        match self.special_text(token) {
            Some(text) => text.to_owned(),
            None => String::from_utf8_lossy(self.piece(token)).into_owned(),
        }
    }

    /// Whether any token begins with a space.
    pub(crate) fn has_leading_spaces(&self) -> bool {
        self.pieces.iter().any(|piece| piece.starts_with(b" "))
    }

    /// The texts of the beginning and end tokens, for templates; empty where there is none.
    pub(crate) fn bos_and_eos_texts(&self) -> [&str; 2] {
        [self.bos, self.eos].map(|token| {
            token
                .and_then(|token| self.special_text(token))
                .unwrap_or_default()
        })
    }

    /// At least how many tokens a text of so many bytes gives; cheap, to refuse what cannot fit before splitting it.
    pub(crate) fn fewest_tokens(&self, bytes: usize) -> usize {
        bytes / self.longest_piece_bytes
    }

    /// Splits a text; no special token is recognised or added.
    ///
    /// # Errors
    /// [`RequestError::Tokenizer`] where the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RequestError> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(RequestError::Tokenizer {
                message: error.to_string(),
            }),
        }
    }

    /// Splits a text that goes on behind these tokens: where a text begins with a space of its own, this one does not.
    pub(crate) fn encode_behind(&self, before: &[u32], text: &str) -> Result<Vec<u32>, RequestError> {
        if !self.leading_space || self.strips_space_after(before) {
            return self.encode(text);
        }
        // A line break takes the space, and joins nothing.
        let tokens = self.encode(&format!("\n{text}"))?;
        let mut front = Vec::new();
        let rest = tokens.iter().position(|&token| {
            front.extend_from_slice(self.piece(token));
            front.len() >= 2
        });
        match rest.and_then(|last| tokens.get(last + 1..)) {
            Some(rest) if front == b" \n" => Ok(rest.to_vec()),
            // It did, in this tokenizer; a space too many does less harm than a word too few.
            _ => self.encode(text),
        }
    }

    /// Splits a text and puts the beginning token before it, where the model wants one.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, RequestError> {
        let mut tokens: Vec<u32> = self.bos.filter(|_| self.adds_bos).into_iter().collect();
        tokens.extend(self.encode(text)?);
        Ok(tokens)
    }

    /// Splits what a chat template made: special tokens are recognised but for those that `guard` has made
    /// unrecognisable. The beginning token is added where the model wants one and the template wrote none.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_template(&self, rendered: &str) -> Result<Vec<u32>, RequestError> {
        let mut tokens = Vec::new();
        let mut plain_start = 0;
        let mut position = 0;
        while position < rendered.len() {
            let rest = &rendered[position..];
            if let Some((text, id)) = self
                .special
                .iter()
                .find(|(text, _)| rest.starts_with(text.as_str()))
            {
                self.encode_guarded(&rendered[plain_start..position], &mut tokens)?;
                tokens.push(*id);
                position += text.len();
                plain_start = position;
            } else {
                position += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        self.encode_guarded(&rendered[plain_start..], &mut tokens)?;
        if let Some(bos) = self
            .bos
            .filter(|&bos| self.adds_bos && tokens.first() != Some(&bos))
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    fn encode_guarded(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), RequestError> {
        if !text.is_empty() {
            tokens.extend(self.encode(&text.replace(GUARD, ""))?);
        }
        Ok(())
    }

    /// Makes special tokens in a user's text unrecognisable to [`encode_template`](Self::encode_template), which
    /// takes the marks out again.
    pub(crate) fn guard(&self, text: &str) -> String {
        let mut guarded = text.replace(GUARD, "");
        for (special, _) in &self.special {
            if guarded.contains(special.as_str()) {
                let first = special.chars().next().map_or(0, char::len_utf8);
                let marked = format!("{}{GUARD}{}", &special[..first], &special[first..]);
                guarded = guarded.replace(special.as_str(), &marked);
            }
        }
        guarded
    }

    /// The text of these tokens as a text of its own: no leading space, no special tokens; what is not UTF-8 becomes
    /// U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut stream = self.stream(&[]);
        let mut text = String::new();
        for &token in tokens {
            text.push_str(&stream.push(self, token));
        }
        text.push_str(&stream.finish());
        text
    }

    /// A stream for tokens that follow these ones.
    pub fn stream(&self, before: &[u32]) -> TextStream {
        TextStream::new(self.strips_space_after(before))
    }

    /// Whether a space at the beginning of the text that follows these tokens is taken off.
    pub(crate) fn strips_space_after(&self, before: &[u32]) -> bool {
        // After a special token a new text begins, so SentencePiece's leading space is not part of it.
        let begins = before
            .last()
            .is_none_or(|&token| self.special_text(token).is_some());
        self.leading_space && begins
    }

    pub(crate) fn piece(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], |piece| piece)
    }
}

/// A noncharacter: Unicode reserves it for a program's own use, never for text.
const GUARD: char = '\u{fdd0}';

/// Tokens by which known chat models end their turn.
const TURN_ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "</s>",
    "<|end_of_text|>",
];

/// The bytes that a SentencePiece piece stands for: `▁` is a space, `<0x41>` is the byte 0x41.
fn sentence_piece_bytes(piece: &str) -> Box<[u8]> {
    match fallback_byte(piece) {
        Some(byte) => Box::new([byte]),
        None => piece.replace('▁', " ").into_bytes().into(),
    }
}

fn fallback_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The bytes that a byte-level piece stands for: GPT-2 writes each byte as a printable character. A character outside
/// that alphabet stands for itself, as in pieces that were added by hand.
fn byte_level_bytes(piece: &str) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(piece.len());
    for character in piece.chars() {
        match byte_of_character(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes.into()
}

/// The inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the 68 other bytes follow from
/// U+0100 on, in order.
fn byte_of_character(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut bytes: Vec<u8> = (0..0x144)
            .filter_map(|code| byte_of_character(char::from_u32(code)?))
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        for (character, byte) in [('Ġ', b' '), ('Ċ', b'\n'), ('ĉ', b'\t'), ('Ń', 0xad)] {
            assert_eq!(byte_of_character(character), Some(byte));
        }
    }

    #[test]
    fn fallback_bytes_are_exact() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        for other in ["<0xA>", "<0x0A", "<0xGG>", "<0x+1>", "▁"] {
            assert_eq!(fallback_byte(other), None, "{other}");
        }
    }
}

//! The two checksums that a hub gives: SHA-256 of a large file, and git's own of a small one, which is the SHA-1 of its
//! length and content.

use std::fmt;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// What a file's content must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Sha256([u8; 32]),
    GitBlob([u8; 20]),
}

impl Checksum {
    /// Tells which it is by its length. Storage that is not git's gives other tags, which say nothing here.
    pub(crate) fn from_hex(text: &str) -> Option<Checksum> {
        let digits = text.as_bytes();
        match digits.len() {
            64 => Some(Checksum::Sha256(bytes(digits)?)),
            40 => Some(Checksum::GitBlob(bytes(digits)?)),
            _ => None,
        }
    }

    /// From an HTTP entity tag: quoted, perhaps weak.
    pub(crate) fn from_tag(tag: &str) -> Option<Checksum> {
        Checksum::from_hex(tag.trim().trim_start_matches("W/").trim_matches('"'))
    }
}

fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (pairs, _) = digits.as_chunks::<2>();
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = match self {
            Checksum::Sha256(bytes) => ("sha256", &bytes[..]),
            Checksum::GitBlob(bytes) => ("git", &bytes[..]),
        };
        write!(f, "{kind}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Takes a file in, piece by piece.
pub(crate) struct Hasher {
    expected: Checksum,
    context: Context,
}

impl Hasher {
    pub(crate) fn new(expected: Checksum, file_bytes: u64) -> Hasher {
        let context = match expected {
            Checksum::Sha256(_) => Context::new(&SHA256),
            Checksum::GitBlob(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {file_bytes}\0").as_bytes());
                context
            }
        };
        Hasher { expected, context }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// Whether it was the file.
    pub(crate) fn matches(self) -> bool {
        let found = self.context.finish();
        match self.expected {
            Checksum::Sha256(expected) => found.as_ref() == expected,
            Checksum::GitBlob(expected) => found.as_ref() == expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_it(checksum: &str, content: &[u8]) -> bool {
        let mut hasher = Hasher::new(Checksum::from_hex(checksum).unwrap(), content.len() as u64);
        for piece in content.chunks(3) {
            hasher.update(piece);
        }
        hasher.matches()
    }

    #[test]
    fn both_kinds_know_their_content_from_any_other() {
        // `printf hello | sha256sum`, and `printf hello | git hash-object --stdin`.
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        for checksum in [sha256, git] {
            assert!(is_it(checksum, b"hello"));
            assert!(!is_it(checksum, b"hellp"));
            assert!(!is_it(checksum, b""));
        }
        let tag = Checksum::from_tag(&format!("W/\"{sha256}\"")).unwrap();
        assert_eq!(tag.to_string(), format!("sha256:{sha256}"));
    }

    #[test]
    fn what_is_no_checksum_is_none() {
        for tag in [
            "",
            "\"\"",
            "\"5d41402abc4b2a76b9719d911017c592\"",
            "\"zz\"",
            "é",
            &"g".repeat(64),
            &"é".repeat(20),
        ] {
            assert_eq!(Checksum::from_tag(tag), None, "{tag}");
        }
    }
}

//! The token by which a hub knows its user.

use std::fmt;
use std::fs;
use std::path::Path;

use super::HubError;

/// It is sent to the hub and shown to nobody.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Where the first is found: the file that the settings name, `HF_TOKEN`, the place where the hub's own programs keep
    /// what `hf auth login` was given.
    pub(crate) fn find(file: Option<&Path>) -> Result<Option<Token>, HubError> {
        if let Some(path) = file {
            let text = fs::read_to_string(path).map_err(|error| HubError::TokenFile {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
            let token = Token::new(&text).ok_or_else(|| HubError::TokenFile {
                path: path.to_owned(),
                reason: "it does not hold one word of printable characters".to_owned(),
            })?;
            return Ok(Some(token));
        }
        if let Some(text) = std::env::var("HF_TOKEN")
            .ok()
            .filter(|text| !text.trim().is_empty())
        {
            return match Token::new(&text) {
                Some(token) => Ok(Some(token)),
                None => Err(HubError::TokenVariable),
            };
        }
        Ok(super::cache::of_the_hub().and_then(|cache| Token::new(&cache.token()?)))
    }

    fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        // Anything else could not stand in a header.
        let is_word =
            !text.is_empty() && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_word.then(|| Token(text.to_owned()))
    }

    /// The value of the header `Authorization`.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_file_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "hf_secret\n").unwrap();
        let token = Token::find(Some(&path)).unwrap().unwrap();
        assert_eq!(token.bearer(), "Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        for spoilt in ["", "two words", "line\r\nX-Evil: 1"] {
            fs::write(&path, spoilt).unwrap();
            let refused = Token::find(Some(&path)).unwrap_err().to_string();
            assert!(refused.contains("hub.token_file"), "{refused}");
        }
    }
}

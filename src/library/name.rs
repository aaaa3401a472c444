//! Names of models: `OWNER/NAME` and `OWNER/NAME:QUANT` for what came from the hub, one word for what was imported.
//!
//! A name becomes a folder's name by writing `--` for its `/` and `:`, which no part may have inside: so that no two names
//! share a folder, and none leads out of the one that holds them all.

use std::fmt;
use std::str::FromStr;

/// A checked name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelName {
    /// The owner on the hub; none for an imported model.
    pub owner: Option<String>,
    /// The repository, or the name it was imported under.
    pub name: String,
    /// Which of the repository's files: `Q4_K_M`.
    pub quant: Option<String>,
}

/// It is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a model's name; write OWNER/NAME or OWNER/NAME:QUANT as on the hub, of letters, digits, '.', '_' and \
     single '-', each part up to 96 long and beginning with a letter or digit"
)]
pub struct NotAName {
    /// What was written.
    pub text: String,
}

/// As on the hub.
const MOST_BYTES: usize = 96;

impl ModelName {
    /// What all files of the repository's are pulled as.
    pub fn whole(&self) -> ModelName {
        ModelName {
            quant: None,
            ..self.clone()
        }
    }

    /// The repository on the hub, where it is from there.
    pub fn repository(&self) -> Option<String> {
        Some(format!("{}/{}", self.owner.as_ref()?, self.name))
    }

    /// The name of its folder.
    pub fn folder(&self) -> String {
        let parts = [self.owner.as_deref(), Some(&self.name), self.quant.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("--")
    }

    /// The name that has this folder.
    pub fn of_folder(folder: &str) -> Option<ModelName> {
        let parts: Vec<&str> = folder.split("--").collect();
        let text = match parts.as_slice() {
            [name] => (*name).to_owned(),
            [owner, name] => format!("{owner}/{name}"),
            [owner, name, quant] => format!("{owner}/{name}:{quant}"),
            _ => return None,
        };
        text.parse().ok()
    }
}

/// Whether something may be a part of a name, and so of a path.
pub fn is_plain(part: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=MOST_BYTES).contains(&part.len())
        && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !part.ends_with(['.', '-'])
        && part.chars().all(is_allowed)
        && !part.contains("--")
        && !part.contains("..")
}

impl FromStr for ModelName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<ModelName, NotAName> {
        let (path, quant) = match text.split_once(':') {
            Some((path, quant)) => (path, Some(quant)),
            None => (text, None),
        };
        let (owner, name) = match path.split_once('/') {
            Some((owner, name)) => (Some(owner), name),
            None => (None, path),
        };
        let parts = [owner, Some(name), quant];
        // A quantisation without an owner would be a folder like that of a repository.
        if !parts.into_iter().flatten().all(is_plain) || (owner.is_none() && quant.is_some()) {
            return Err(NotAName {
                text: text.chars().take(200).collect(),
            });
        }
        Ok(ModelName {
            owner: owner.map(str::to_owned),
            name: name.to_owned(),
            quant: quant.map(str::to_owned),
        })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(owner) = &self.owner {
            write!(f, "{owner}/")?;
        }
        f.write_str(&self.name)?;
        match &self.quant {
            Some(quant) => write!(f, ":{quant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_and_written_alike_and_have_a_folder_each() {
        let names = [
            "Qwen/Qwen2.5-3B-Instruct-GGUF:Q4_K_M",
            "Qwen/Qwen3-4B",
            "stories",
            "a/b:c",
            "a/b",
        ];
        let mut folders: Vec<String> = names
            .iter()
            .map(|text| {
                let name: ModelName = text.parse().unwrap();
                assert_eq!(name.to_string(), *text);
                name.folder()
            })
            .collect();
        assert_eq!(folders[0], "Qwen--Qwen2.5-3B-Instruct-GGUF--Q4_K_M");
        folders.dedup();
        assert_eq!(folders.len(), names.len());
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_name() {
        for text in [
            "",
            "/",
            "..",
            ".",
            "../x",
            "a/..",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a/b/c",
            "a\\b",
            "a b",
            "a/b:",
            ":q",
            "a/b:../c",
            "a/b:c:d",
            ".hidden",
            "-rf",
            "a/b--c",
            "a--b",
            "x:Q4_0",
            "a/b\0",
            "ä/b",
            "a/b.",
            "~",
            "a/~b",
        ] {
            assert!(text.parse::<ModelName>().is_err(), "{text:?}");
        }
        assert!(format!("a/{}", "b".repeat(97)).parse::<ModelName>().is_err());
    }

    proptest! {
        #[test]
        fn no_name_has_a_folder_that_is_not_one_plain_word(text in ".{0,40}") {
            if let Ok(name) = text.parse::<ModelName>() {
                let folder = name.folder();
                prop_assert_eq!(ModelName::of_folder(&folder), Some(name));
                let path = std::path::Path::new(&folder);
                prop_assert_eq!(path.file_name(), Some(path.as_os_str()));
                prop_assert!(!folder.starts_with('.'));
            }
        }
    }
}

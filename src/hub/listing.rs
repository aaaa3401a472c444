//! What a repository has.

use std::collections::HashMap;
use std::io::Read;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::Response;

use super::{Checksum, Hub, HubError, MAX_ANSWER_BYTES};
use crate::library::is_file_name;

/// A repository's files, as far as their names may be used here.
#[derive(Debug, PartialEq)]
pub(crate) struct Listing {
    /// What they are the state of.
    pub(crate) commit: String,
    pub(crate) files: Vec<RemoteFile>,
    /// What the hub says of the model, if it looked into it.
    pub(crate) architecture: Option<String>,
    /// Files whose names could lead somewhere else.
    pub(crate) left_out: usize,
}

/// One file of a repository.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RemoteFile {
    /// Plain names with `/` between them.
    pub(crate) path: String,
    pub(crate) bytes: Option<u64>,
    pub(crate) checksum: Option<Checksum>,
}

impl RemoteFile {
    /// Without the folders.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    fn knows_all(&self) -> bool {
        self.bytes.is_some() && self.checksum.is_some()
    }
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default)]
    gguf: Option<Described>,
    #[serde(default)]
    config: Option<Described>,
}

/// What the hub found in a GGUF file's or in a configuration's beginning.
#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default, rename = "blobId")]
    blob: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// A line of the tree.
#[derive(Deserialize)]
struct Leaf {
    path: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// A large file, of which git itself has only a pointer.
#[derive(Deserialize)]
struct Lfs {
    #[serde(default, alias = "oid")]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl Hub {
    /// What a repository has, with lengths and checksums as far as the hub gives them.
    pub(crate) fn listing(&self, repository: &str) -> Result<Listing, HubError> {
        let base = format!("{}/api/models/{repository}", self.endpoint());
        let info: Info = match self.answer(repository, &format!("{base}?blobs=true")) {
            // Some mirrors know a repository only by its revision.
            Err(HubError::NotFound { url, repository }) => self
                .answer(&repository, &format!("{base}/revision/main?blobs=true"))
                .map_err(|error| match error {
                    HubError::NotFound { repository, .. } => HubError::NotFound { url, repository },
                    other => other,
                })?,
            other => other?,
        };
        let described =
            |found: Option<Described>| found.and_then(|found| found.architecture.or(found.model_type));
        let architecture = described(info.gguf).or_else(|| described(info.config));
        let named = info.siblings.len();
        let mut files: Vec<RemoteFile> = info.siblings.into_iter().filter_map(Sibling::checked).collect();
        let left_out = named - files.len();
        if !files.iter().all(RemoteFile::knows_all) {
            self.complete(repository, &base, &mut files)?;
        }
        Ok(Listing {
            commit: info.sha.filter(|sha| is_file_name(sha)).unwrap_or_default(),
            files,
            architecture,
            left_out,
        })
    }

    /// Takes from the tree what the list did not say.
    fn complete(&self, repository: &str, base: &str, files: &mut [RemoteFile]) -> Result<(), HubError> {
        let tree: Vec<Leaf> = match self.answer(repository, &format!("{base}/tree/main?recursive=true")) {
            Ok(tree) => tree,
            // The files' own headers may still tell.
            Err(HubError::NotFound { .. }) => return Ok(()),
            Err(other) => return Err(other),
        };
        let leaves = tree
            .into_iter()
            .filter(|leaf| leaf.kind.as_deref() != Some("directory"));
        let mut leaves: HashMap<String, Leaf> = leaves.map(|leaf| (leaf.path.clone(), leaf)).collect();
        for file in files {
            if let Some(leaf) = leaves.remove(&file.path) {
                let (bytes, checksum) = facts(leaf.size, leaf.oid, leaf.lfs);
                file.bytes = file.bytes.or(bytes);
                file.checksum = file.checksum.or(checksum);
            }
        }
        Ok(())
    }

    /// What the headers of a file say, where the lists were silent.
    pub(crate) fn complete_by_headers(
        &self,
        repository: &str,
        file: &mut RemoteFile,
    ) -> Result<(), HubError> {
        if file.knows_all() {
            return Ok(());
        }
        let mut url = self.file_url(repository, &file.path);
        // What the hub says of a large file stands beside the address that it gives for it; only a repository that has another
        // name now is followed.
        for _ in 0..5 {
            let answer = self.get(&url, Some(0), 0)?;
            let header = |name: &str| answer.headers().get(name)?.to_str().ok();
            let elsewhere =
                header("location").filter(|place| place.starts_with('/') && !place.starts_with("//"));
            let is_linked = header("x-linked-etag").is_some();
            if let Some(place) = elsewhere.filter(|_| answer.status().is_redirection() && !is_linked) {
                let host = self.endpoint.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
                url = format!("{host}{place}");
                continue;
            }
            if !answer.status().is_redirection() && !answer.status().is_success() {
                return Err(self.refusal(repository, &url, answer));
            }
            let whole = || header("content-range")?.rsplit('/').next()?.parse().ok();
            let length = || {
                header("content-length")
                    .filter(|_| answer.status() == 200)?
                    .parse()
                    .ok()
            };
            let linked = header("x-linked-size").and_then(|size| size.parse().ok());
            file.bytes = file.bytes.or(linked).or_else(whole).or_else(length);
            let tag = header("x-linked-etag").or_else(|| header("etag"));
            file.checksum = file.checksum.or_else(|| Checksum::from_tag(tag?));
            return Ok(());
        }
        Ok(())
    }

    fn answer<T: DeserializeOwned>(&self, repository: &str, url: &str) -> Result<T, HubError> {
        let answer = self.patiently(url)?;
        if !answer.status().is_success() {
            return Err(self.refusal(repository, url, answer));
        }
        let mut text = Vec::new();
        let read = answer
            .into_body()
            .into_with_config()
            .limit(MAX_ANSWER_BYTES)
            .reader()
            .read_to_end(&mut text);
        read.map_err(|error| HubError::Transport {
            url: url.to_owned(),
            reason: error.to_string(),
        })?;
        serde_json::from_slice(&text).map_err(|error| HubError::Answer {
            url: url.to_owned(),
            what: error.to_string(),
        })
    }

    /// A hub that has too much to do is asked again.
    fn patiently(&self, url: &str) -> Result<Response<Body>, HubError> {
        for pause in super::download::PAUSES {
            let answer = self.get(url, None, 10)?;
            if !super::download::is_for_a_while(answer.status().as_u16()) {
                return Ok(answer);
            }
            std::thread::sleep(super::download::pause_of(&answer).unwrap_or(pause));
        }
        self.get(url, None, 10)
    }
}

impl Sibling {
    fn checked(self) -> Option<RemoteFile> {
        let is_safe = self.rfilename.len() <= 1024 && self.rfilename.split('/').all(is_file_or_hidden_name);
        let (bytes, checksum) = facts(self.size, self.blob, self.lfs);
        is_safe.then_some(RemoteFile {
            path: self.rfilename,
            bytes,
            checksum,
        })
    }
}

/// `.gitattributes` is in every repository and harms nobody: it is never asked for.
fn is_file_or_hidden_name(part: &str) -> bool {
    is_file_name(part.strip_prefix('.').unwrap_or(part))
}

fn facts(size: Option<u64>, oid: Option<String>, lfs: Option<Lfs>) -> (Option<u64>, Option<Checksum>) {
    match lfs {
        Some(lfs) => {
            let checksum = lfs
                .sha256
                .and_then(|text| Checksum::from_hex(text.trim_start_matches("sha256:")));
            (lfs.size.or(size), checksum)
        }
        None => (size, oid.and_then(|text| Checksum::from_hex(&text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sibling(name: &str) -> Sibling {
        serde_json::from_value(serde_json::json!({"rfilename": name, "size": 3})).unwrap()
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_left_out() {
        for name in [
            "model.gguf",
            "Q4_K_M/model-Q4_K_M.gguf",
            ".gitattributes",
            "a+b_c-d.json",
        ] {
            assert!(sibling(name).checked().is_some(), "{name}");
        }
        for name in [
            "../model.gguf",
            "/etc/passwd",
            "a/../../b.gguf",
            "a//b",
            "..",
            ".",
            "",
            "a\\..\\b",
            "C:\\x.gguf",
            "a\0.gguf",
            "a b.gguf",
            "naïve.gguf",
            "a/./b",
            "x\n.gguf",
            "~/.ssh/id",
            "a?b.gguf",
            "a%2e%2e.gguf",
            "...",
            "a/",
        ] {
            assert!(sibling(name).checked().is_none(), "{name:?}");
        }
    }

    #[test]
    fn a_large_file_has_the_checksum_of_its_content_and_not_of_its_pointer() {
        let (sha, git) = ("ab".repeat(32), "cd".repeat(20));
        let leaf: Leaf = serde_json::from_value(serde_json::json!({
            "type": "file", "path": "model.gguf", "oid": git, "size": 9, "lfs": {"oid": sha, "size": 9, "pointerSize": 135}
        }))
        .unwrap();
        let (bytes, checksum) = facts(leaf.size, leaf.oid, leaf.lfs);
        assert_eq!((bytes, checksum), (Some(9), Checksum::from_hex(&sha)));
    }
}

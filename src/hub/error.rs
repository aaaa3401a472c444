//! What can go wrong with the hub.

use std::io;
use std::path::PathBuf;

use models::Problem;

/// Why a model was not pulled, and what to try.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error(
        "{endpoint:?} is not the address of a hub; write hub.endpoint (or HF_ENDPOINT) as in \"https://huggingface.co\""
    )]
    Endpoint { endpoint: String },
    #[error(
        "{endpoint} is plain http on another machine, and the token would be shown to the network; use https, or take the \
         token away (hub.token_file, HF_TOKEN)"
    )]
    TokenInPlainText { endpoint: String },
    #[error("the token of the hub cannot be used: {}: {reason}; mend hub.token_file", path.display())]
    TokenFile { path: PathBuf, reason: String },
    #[error("HF_TOKEN does not hold one word of printable characters; set it to the token alone")]
    TokenVariable,
    #[error(
        "{url} could not be asked: {reason}; look whether the network is there, or name a mirror by hub.endpoint"
    )]
    Transport { url: String, reason: String },
    #[error("the hub has no {repository} at {url}; look at the spelling, capital letters included")]
    NotFound { url: String, repository: String },
    #[error(
        "the hub does not show {repository} to {}: it is private, or there is no such repository; look at the spelling{}",
        if *has_token { "this token" } else { "strangers" },
        if *has_token { "" } else { ", or give a token by hub.token_file or HF_TOKEN" }
    )]
    Unauthorized { repository: String, has_token: bool },
    #[error(
        "the model is given only to those who accepted its terms: accept them at {page}{}, and try again",
        if *has_token { " as the user of your token" } else { ", give a token by hub.token_file or HF_TOKEN" }
    )]
    Gated { page: String, has_token: bool },
    #[error(
        "{url} was answered by status {status}{message}; try again later, or name a mirror by hub.endpoint"
    )]
    Status {
        url: String,
        status: u16,
        message: String,
    },
    #[error("{url} was answered by what no hub says: {what}; look at hub.endpoint")]
    Answer { url: String, what: String },
    #[error("{0}")]
    NothingToRun(String),
    #[error(
        "the hub gave no checksum for {file}, and weights that cannot be checked are not taken; name another mirror by \
         hub.endpoint"
    )]
    NoChecksum { file: String },
    #[error(
        "{file} came with another content than the hub says ({checksum}), and was thrown away: it was damaged on the way, or \
         changed just now; try again"
    )]
    WrongChecksum { file: String, checksum: String },
    #[error("{file} has another length than the hub says ({bytes} bytes), and was thrown away; try again")]
    WrongLength { file: String, bytes: u64 },
    #[error(
        "the connection broke at {done} of {bytes} bytes of {file} ({reason}); the same command goes on from there"
    )]
    Broken {
        file: String,
        done: u64,
        bytes: u64,
        reason: String,
    },
    #[error("{file} says what it is, and {problem}")]
    CannotRun { file: String, problem: Problem },
    #[error("{}: {source}; the models folder must be writable, with room on its disk", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl HubError {
    /// Whether the invocation or the configuration must change: exit code 2.
    pub(crate) fn is_misconfiguration(&self) -> bool {
        matches!(
            self,
            Self::Endpoint { .. }
                | Self::TokenInPlainText { .. }
                | Self::TokenFile { .. }
                | Self::TokenVariable
        )
    }
}

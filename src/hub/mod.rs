//! The Hugging Face hub, or a mirror of it: what a repository has, and its files.
//!
//! The crate hf-hub serves for what it is safe for: where the hub's own programs keep a token and files (`cache.rs`). Its
//! downloads are not used. Version 1.0 cannot be built without a second cryptographic library (aws-lc) and brings 150
//! crates. The line before it names files by what the server says, `..` included, checks no checksum, appends to a
//! partial file whatever the server sends, waits for ever, and panics at headers that it does not expect. So
//! requests are made here, with the client that hf-hub has under it (ureq, with rustls on ring).

mod cache;
mod checksum;
mod choose;
mod download;
mod error;
mod listing;
mod token;

use std::sync::Arc;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

pub(crate) use cache::copy_of;
pub(crate) use checksum::Checksum;
pub(crate) use choose::{Choice, INDEX, SMALL_FILES, WEIGHTS, Weights, all_parts, choose, weights_of_index};
pub(crate) use download::{Download, is_the_file};
pub(crate) use error::HubError;
pub(crate) use listing::{Listing, RemoteFile};
pub(crate) use token::Token;

use crate::settings;

/// Where models come from unless somebody says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Answers of the hub about a repository are no longer than this; the largest repositories have some thousand files.
const MAX_ANSWER_BYTES: u64 = 32 << 20;

/// A hub, and as whom it is asked.
#[derive(Debug)]
pub(crate) struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

impl Hub {
    /// The one that the settings or `HF_ENDPOINT` name. Asks nobody yet.
    pub(crate) fn of(settings: &settings::Hub) -> Result<Hub, HubError> {
        let variable = || {
            std::env::var("HF_ENDPOINT")
                .ok()
                .filter(|text| !text.trim().is_empty())
        };
        let endpoint = settings.endpoint.clone().or_else(variable);
        let endpoint = endpoint
            .as_deref()
            .unwrap_or(ENDPOINT)
            .trim()
            .trim_end_matches('/')
            .to_owned();
        let token = Token::find(settings.token_file.as_deref())?;
        let (is_secure, is_here) = kind_of(&endpoint).ok_or_else(|| HubError::Endpoint {
            endpoint: endpoint.clone(),
        })?;
        if token.is_some() && !is_secure && !is_here {
            return Err(HubError::TokenInPlainText { endpoint });
        }
        Ok(Hub {
            agent: agent(is_secure, is_here),
            endpoint,
            token,
        })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where a file is fetched.
    fn file_url(&self, repository: &str, path: &str) -> String {
        format!("{}/{repository}/resolve/main/{path}", self.endpoint)
    }

    /// An answer whatever its status, from this byte on. Where it is elsewhere, that is followed, and the token stays here.
    fn get(&self, url: &str, from: Option<u64>, redirects: u32) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.bearer());
        }
        if let Some(from) = from {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let request = request.config().max_redirects(redirects).build();
        request.call().map_err(|error| HubError::Transport {
            url: url.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Why the hub did not give what was asked.
    fn refusal(&self, repository: &str, url: &str, answer: Response<Body>) -> HubError {
        let status = answer.status().as_u16();
        let header = |name: &str| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            Some(value.chars().take(300).collect::<String>())
        };
        let (code, message) = (header("x-error-code"), header("x-error-message"));
        let repository = repository.to_owned();
        match (status, code.as_deref()) {
            (401 | 403, Some("GatedRepo")) => HubError::Gated {
                page: format!("{}/{repository}", self.endpoint),
                has_token: self.token.is_some(),
            },
            (401, _) => HubError::Unauthorized {
                repository,
                has_token: self.token.is_some(),
            },
            (403, _) => HubError::Gated {
                page: format!("{}/{repository}", self.endpoint),
                has_token: self.token.is_some(),
            },
            (404, _) => HubError::NotFound {
                url: url.to_owned(),
                repository,
            },
            _ => HubError::Status {
                url: url.to_owned(),
                status,
                message: message.map(|text| format!(" ({text})")).unwrap_or_default(),
            },
        }
    }
}

fn agent(is_secure: bool, is_here: bool) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .https_only(is_secure)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .user_agent(concat!("clawdbot/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)));
    if is_here {
        config = config.proxy(None);
    }
    // Also a mirror in plain text may lead to files that are elsewhere, by TLS.
    let authorities = rustls_native_certs::load_native_certs().certs;
    let authorities: Vec<_> = authorities
        .iter()
        .map(|authority| Certificate::from_der(authority).to_owned())
        .collect();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::Specific(Arc::new(authorities)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    config.tls_config(tls).build().into()
}

/// Whether an endpoint is secure, and whether it is on this machine; none for what is no endpoint.
fn kind_of(endpoint: &str) -> Option<(bool, bool)> {
    let (is_secure, rest) = match endpoint.split_once("://")? {
        ("https", rest) => (true, rest),
        ("http", rest) => (false, rest),
        _ => return None,
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match authority.strip_prefix('[') {
        Some(ipv6) => ipv6.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    let is_address =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/' | '[' | ']');
    if host.is_empty() || !authority.chars().chain(path.chars()).all(is_address) {
        return None;
    }
    let is_here = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    Some((is_secure, is_here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_by_http_with_nothing_odd_in_it() {
        for (endpoint, kind) in [
            ("https://huggingface.co", Some((true, false))),
            ("https://hf-mirror.com/hub", Some((true, false))),
            ("http://127.0.0.1:8000", Some((false, true))),
            ("http://[::1]:8000", Some((false, true))),
            ("http://localhost:1", Some((false, true))),
            ("http://mirror.local", Some((false, false))),
            ("http://127.0.0.1.evil.org", Some((false, false))),
            ("ftp://huggingface.co", None),
            ("huggingface.co", None),
            ("https://", None),
            ("https://user:password@host", None),
            ("https://host/?query", None),
            ("https://host name", None),
        ] {
            assert_eq!(kind_of(endpoint), kind, "{endpoint}");
        }
    }

    #[test]
    fn a_token_goes_to_no_other_machine_in_plain_text() {
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.path().join("token");
        std::fs::write(&token_file, "hf_secret").unwrap();
        let hub = |endpoint: &str| {
            Hub::of(&settings::Hub {
                endpoint: Some(endpoint.to_owned()),
                token_file: Some(token_file.clone()),
            })
        };
        assert!(matches!(
            hub("http://mirror.local"),
            Err(HubError::TokenInPlainText { .. })
        ));
        let here = hub("http://127.0.0.1:8000/").unwrap();
        assert_eq!(
            here.file_url("a/b", "c/d.gguf"),
            "http://127.0.0.1:8000/a/b/resolve/main/c/d.gguf"
        );
        assert!(!format!("{here:?}").contains("secret"));
    }
}

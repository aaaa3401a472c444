//! What a connection that this daemon opens needs from outside: whom it trusts, and the password that it shows, which
//! stands in a file or a variable and nowhere else.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert};

use crate::settings::PasswordSource;

/// Why a connection cannot be opened at all.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// A file that a setting names.
    #[error("{setting} = {}: it cannot be read: {source}; correct the path, or who may read the file", path.display())]
    Unreadable {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file has something else in it, or nothing.
    #[error("{setting} = {}: there is no {wanted} in it that can be used; it must be a PEM file", path.display())]
    NotPem {
        /// The setting.
        setting: &'static str,
        /// What should be in it.
        wanted: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Nobody could be trusted.
    #[error(
        "this system trusts no certificate authority that could be found; set {0} to the PEM file of the one that \
         signed the server's certificate"
    )]
    NoAuthorities(&'static str),
    /// The password's variable is missing or empty.
    #[error("{setting} = {name}: there is no such environment variable with a text in it; set it")]
    NoVariable {
        /// The setting.
        setting: &'static str,
        /// The variable.
        name: String,
    },
    /// The password's file is empty.
    #[error("{setting} = {}: its first line is empty; write the password there", path.display())]
    NoPassword {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A fault of ours: TLS could not be set up.
    #[error("TLS could not be set up: {0}. This is a fault of the program; please report it")]
    Tls(rustls::Error),
}

/// The settings that say where a password is.
#[derive(Clone, Copy)]
pub(crate) struct PasswordSettings {
    pub(crate) file: &'static str,
    pub(crate) variable: &'static str,
}

/// Reads a password.
pub(crate) fn password(source: &PasswordSource, settings: PasswordSettings) -> Result<String, OutboundError> {
    match source {
        PasswordSource::Variable(name) => env::var(name)
            .ok()
            .filter(|password| !password.is_empty())
            .ok_or_else(|| OutboundError::NoVariable {
                setting: settings.variable,
                name: name.clone(),
            }),
        PasswordSource::File(path) => {
            let text = read(settings.file, path)?;
            let text = String::from_utf8_lossy(&text);
            match text.lines().next() {
                Some(password) if !password.is_empty() => Ok(password.to_owned()),
                _ => Err(OutboundError::NoPassword {
                    setting: settings.file,
                    path: path.clone(),
                }),
            }
        }
    }
}

/// TLS that trusts the authorities in a file, or those of the system.
pub(crate) fn tls(
    setting: &'static str,
    authorities_file: Option<&Path>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, OutboundError> {
    // ring by name: nothing depends on what else in this process may have chosen a provider.
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(OutboundError::Tls)?
            .with_root_certificates(authorities(setting, authorities_file)?),
    )
}

fn authorities(setting: &'static str, file: Option<&Path>) -> Result<RootCertStore, OutboundError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            let found = certificates(setting, path)?;
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(not_pem(setting, path));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(OutboundError::NoAuthorities(setting));
            }
        }
    }
    Ok(roots)
}

/// The certificates in a file, of which there must be one.
pub(crate) fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, OutboundError> {
    let text = read(setting, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(not_pem(setting, path)),
    }
}

fn not_pem(setting: &'static str, path: &Path) -> OutboundError {
    OutboundError::NotPem {
        setting,
        wanted: "certificate",
        path: path.to_path_buf(),
    }
}

/// Reads a file that a setting names.
pub(crate) fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, OutboundError> {
    fs::read(path).map_err(|source| OutboundError::Unreadable {
        setting,
        path: path.to_path_buf(),
        source,
    })
}

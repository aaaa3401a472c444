//! What the link to an external broker needs from outside: its settings in the actor's words, the
//! certificates it trusts and shows, and the password, which stands in a file or a variable and
//! nowhere else.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actors::external_broker::ExternalBrokerConfig;
use actors::policy::backoff::BackoffConfig;
use rumqttc::{TlsConfiguration, Transport};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::settings::{Broker, BrokerAddress, BrokerMode, PasswordSource, Settings};

/// Why the external broker cannot be spoken to at all.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
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
        "this system trusts no certificate authority that could be found; set broker.ca_certificate to the PEM file \
         of the one that signed the broker's certificate"
    )]
    NoAuthorities,
    /// The password's variable is missing or empty.
    #[error(
        "broker.password_variable = {0}: there is no such environment variable with a text in it; set it"
    )]
    NoVariable(String),
    /// The password's file is empty.
    #[error("broker.password_file = {}: its first line is empty; write the password there", .0.display())]
    NoPassword(PathBuf),
    /// Certificate and key do not fit, or TLS cannot use them.
    #[error(
        "broker.client_certificate: it cannot be used with its key: {0}; name two files that belong together"
    )]
    ClientCertificate(rustls::Error),
    /// A fault of ours: TLS could not be set up.
    #[error("TLS could not be set up: {0}. This is a fault of the program; please report it")]
    Tls(rustls::Error),
}

/// What the link is to be, if there is to be one.
pub fn link_config(
    settings: &Settings,
    backoff: BackoffConfig,
) -> Result<Option<ExternalBrokerConfig>, BrokerError> {
    let broker = &settings.broker;
    let Some(address) = broker
        .address
        .as_ref()
        .filter(|_| broker.mode == BrokerMode::External)
    else {
        return Ok(None);
    };
    let password = broker.password.as_ref().map(read_password).transpose()?;
    let credentials = broker
        .username
        .clone()
        .map(|name| (name, password.unwrap_or_default()));
    Ok(Some(ExternalBrokerConfig {
        host: address.host.clone(),
        port: address.port,
        transport: transport(broker, address)?,
        client_id: broker.client_id.clone(),
        credentials,
        keep_alive: broker.keep_alive,
        session_expiry_s: broker.session_expiry_s,
        receive_maximum: broker.receive_maximum,
        max_packet_bytes: u32::try_from(settings.mqtt.max_packet_bytes).unwrap_or(u32::MAX),
        max_queued_messages: broker.max_queued_messages,
        max_queued_bytes: broker.max_queued_bytes,
        share_group: broker.share_group.clone(),
        backoff,
    }))
}

fn read_password(source: &PasswordSource) -> Result<String, BrokerError> {
    match source {
        PasswordSource::Variable(name) => env::var(name)
            .ok()
            .filter(|password| !password.is_empty())
            .ok_or_else(|| BrokerError::NoVariable(name.clone())),
        PasswordSource::File(path) => {
            let text = read("broker.password_file", path)?;
            let text = String::from_utf8_lossy(&text);
            match text.lines().next() {
                Some(password) if !password.is_empty() => Ok(password.to_owned()),
                _ => Err(BrokerError::NoPassword(path.clone())),
            }
        }
    }
}

fn transport(broker: &Broker, address: &BrokerAddress) -> Result<Transport, BrokerError> {
    if !address.tls {
        return Ok(Transport::tcp());
    }
    // ring by name: nothing depends on what else in this process may have chosen a provider.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(BrokerError::Tls)?
        .with_root_certificates(authorities(broker.ca_certificate.as_deref())?);
    let config = match &broker.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates("broker.client_certificate", certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&read("broker.client_key", key)?).map_err(|_| {
                BrokerError::NotPem {
                    setting: "broker.client_key",
                    wanted: "private key",
                    path: key.clone(),
                }
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(BrokerError::ClientCertificate)?
        }
    };
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(
        config,
    ))))
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, BrokerError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            let setting = "broker.ca_certificate";
            let found = certificates(setting, path)?;
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(not_pem(setting, path));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(BrokerError::NoAuthorities);
            }
        }
    }
    Ok(roots)
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let text = read(setting, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(not_pem(setting, path)),
    }
}

fn not_pem(setting: &'static str, path: &Path) -> BrokerError {
    BrokerError::NotPem {
        setting,
        wanted: "certificate",
        path: path.to_path_buf(),
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, BrokerError> {
    fs::read(path).map_err(|source| BrokerError::Unreadable {
        setting,
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;

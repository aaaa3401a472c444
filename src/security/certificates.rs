//! The certificate and key of the TLS listeners: read, checked and made ready to use.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ServerConfig};

use crate::settings::CertificateFiles;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is missing or not ours to read.
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
    #[error(
        "mqtt.tls_certificate = {}: there is no certificate in it; it must be a PEM file with \
         -----BEGIN CERTIFICATE-----",
        .0.display()
    )]
    NoCertificate(PathBuf),
    /// The file has something else in it, or a key with a passphrase.
    #[error(
        "mqtt.tls_key = {}: there is no private key in it that can be used; it must be a PEM file with a key in \
         PKCS#8, PKCS#1 or SEC1, without a passphrase (`openssl pkey -in FILE -out NEW` takes it away)",
        .0.display()
    )]
    NoKey(PathBuf),
    /// Others could pretend to be this hub.
    #[error(
        "mqtt.tls_key = {}: the key can be read by other users (mode {mode:03o}); run: chmod 600 '{}' – and get a new \
         key and certificate instead if somebody may have read it",
        path.display(), path.display()
    )]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Two files of different pairs.
    #[error(
        "mqtt.tls_key = {}: it is not the key of the certificate in {}; name the two files that belong together",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Well-formed, but of a kind that TLS cannot use.
    #[error(
        "mqtt.tls_certificate = {}: it cannot be used with its key: {source}; use an RSA, ECDSA or Ed25519 \
         certificate",
        path.display()
    )]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What TLS says.
        source: rustls::Error,
    },
}

/// Reads certificate and key and checks that they belong together. TLS 1.2 and 1.3, and ring below
/// them by name: nothing depends on what else in this process may have chosen a provider.
pub fn load(files: &CertificateFiles) -> Result<Arc<ServerConfig>, CertificateError> {
    let chain = read_chain(&files.certificate)?;
    let key = read_key(&files.key)?;
    let unusable = |source| CertificateError::Unusable {
        path: files.certificate.clone(),
        source,
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificateError::Mismatch {
                key: files.key.clone(),
                certificate: files.certificate.clone(),
            },
            other => unusable(other),
        })?;
    Ok(Arc::new(config))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = fs::read(path).map_err(|source| CertificateError::Unreadable {
        setting: "mqtt.tls_certificate",
        path: path.to_path_buf(),
        source,
    })?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(CertificateError::NoCertificate(path.to_path_buf())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable {
        setting: "mqtt.tls_key",
        path: path.to_path_buf(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    // Asked of the open file, so that it cannot be exchanged between the question and the reading.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CertificateError::TooOpen {
            path: path.to_path_buf(),
            mode,
        });
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(unreadable)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| CertificateError::NoKey(path.to_path_buf()))
}

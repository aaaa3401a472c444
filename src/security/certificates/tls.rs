//! From files to what the TLS listeners need: TLS 1.2 and 1.3, and ring below them by name: nothing depends
//! on what else in this process may have chosen a provider.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use topics::device::{DeviceId, DeviceIdError};

use super::CertificateError;
use super::files::{read_chain, read_key};
use super::x509::Facts;
use crate::settings::{CertificateFiles, ClientCertificates};

/// What the doors show: whatever is the newest when a connection comes. Everything of a listener is replaced
/// together, sessions that clients could resume as well: a client that comes again sees the new certificate, and is
/// judged by the new authority.
#[derive(Clone)]
pub struct ServerTls(Arc<ArcSwap<ServerConfig>>);

/// A certificate ready to be shown.
pub struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// What stands in it.
    pub facts: Facts,
}

impl ServerTls {
    pub(super) fn new(loaded: &Loaded) -> ServerTls {
        ServerTls(Arc::new(ArcSwap::new(loaded.config.clone())))
    }

    pub(super) fn show(&self, loaded: &Loaded) {
        self.0.store(loaded.config.clone());
    }

    /// For one connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

/// Reads certificate and key and checks that they belong together, and the authority of clients, if any.
pub fn load(files: &CertificateFiles) -> Result<Loaded, CertificateError> {
    let chain = read_chain(&files.certificate)?;
    let key = read_key(&files.key)?;
    let unusable = |source| CertificateError::Unusable {
        file: files.certificate.clone().into(),
        source,
    };
    let facts = match chain.first().map(|own| Facts::read(own)) {
        Some(Ok(facts)) => facts,
        _ => return Err(CertificateError::NoCertificate(files.certificate.clone().into())),
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(unusable)?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(client_verifier(clients)?),
    };
    let config = builder
        .with_single_cert(chain, key.handed_on())
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificateError::Mismatch {
                key: files.key.clone().into(),
                certificate: files.certificate.clone().into(),
            },
            other => unusable(other),
        })?;
    Ok(Loaded {
        config: Arc::new(config),
        facts,
    })
}

fn client_verifier(clients: &ClientCertificates) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let no_authority = |why: String| CertificateError::NoAuthority {
        file: clients.authority.clone().into(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for authority in read_chain(&clients.authority)? {
        if !Facts::read(&authority).is_ok_and(|facts| facts.is_authority) {
            return Err(no_authority(
                "it may not sign others (basicConstraints)".to_owned(),
            ));
        }
        roots
            .add(authority)
            .map_err(|error| no_authority(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
    let builder = if clients.required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder.build().map_err(|error| no_authority(error.to_string()))
}

/// The device that a certificate, which TLS has verified, was made out to.
pub fn device_of(certificate: &CertificateDer<'_>) -> Result<DeviceId, NoDevice> {
    let facts = Facts::read(certificate).map_err(|_| NoDevice::NotX509)?;
    match facts.common_names.as_slice() {
        [name] => Ok(DeviceId::parse(ByteString::from(name.as_str()))?),
        names => Err(NoDevice::CommonNames(names.len())),
    }
}

/// Why a client's certificate says nothing of a device.
#[derive(Debug, thiserror::Error)]
pub enum NoDevice {
    /// Of a form that is not read here.
    #[error("the client's certificate cannot be read")]
    NotX509,
    /// It could be anybody's.
    #[error("the subject of the client's certificate has {0} common names; it must have one, the device id")]
    CommonNames(usize),
    /// A name that no device can have.
    #[error("the common name of the client's certificate is no device id: {0}")]
    NotADevice(#[from] DeviceIdError),
}

/// Ours, and no other that this process may have.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Whether a private key in PKCS#8 is that of a certificate.
pub(super) fn is_key_of(pkcs8: &[u8], certificate: &CertificateDer<'static>) -> bool {
    let key = PrivatePkcs8KeyDer::from(pkcs8.to_vec());
    CertifiedKey::from_der(vec![certificate.clone()], key.into(), &provider()).is_ok()
}

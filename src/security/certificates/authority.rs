//! The private authority of this house, and what it signs: the server's certificate.
//!
//! ring signs, as it does everything else about TLS here, but makes no RSA keys; the crate `rsa` makes
//! them, and is used for nothing else.

use std::time::{Duration, SystemTime};

use der::pem::{LineEnding, encode_string};
use der::zeroize::Zeroizing;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rsa::pkcs8::EncodePrivateKey;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;

use super::names::{MAX_NAMES, Name};
use super::tls;
use super::x509::Facts;
use crate::security::random;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Every device has to be given the authority by hand, and so it outlives most of them. Its key never
/// leaves this machine, and signs nothing but what this machine shows.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Apple's systems take 825 days at most, and renewing costs nobody anything.
pub(super) const SERVER_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A device whose clock is behind by less than this believes a new certificate.
const CLOCK_ALLOWANCE: Duration = DAY;

/// A clock before 2025 was never set; what is made by it would hold for the wrong years.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);

const KEY_BITS: usize = 2048;

/// Longest common name [RFC 5280 A.1: ub-common-name], in characters; ours are ASCII.
const MAX_COMMON_NAME: usize = 64;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The system has no random numbers.
    #[error("the system gave no random numbers for a key; try again when it has finished starting")]
    NoRandomness,
    /// It would hold for the wrong years.
    #[error("this machine's clock says {0}, which cannot be; set it, and try again")]
    Clock(String),
    /// A certificate has room for so many.
    #[error("there are {0} names and addresses, and a certificate is for {MAX_NAMES} at most; name fewer")]
    TooManyNames(usize),
    /// The key is not the certificate's, or of another kind.
    #[error(
        "the authority's key does not belong to its certificate, or is no RSA key as `clawdbot certs init` makes it"
    )]
    WrongKey,
    /// What was made would not be believed.
    #[error("a certificate that it signs now would not be believed: {0}")]
    Unbelievable(rustls::Error),
    /// A fault of ours.
    #[error("a certificate could not be made: {0}. This is a fault of the program; please report it")]
    Fault(String),
}

/// The authority, able to sign.
pub(super) struct Authority {
    signer: Signer,
    certificate: CertificateDer<'static>,
    common_name: String,
}

/// What was made, as it is written to files.
pub(super) struct Issued {
    /// The certificate, and those up to its root.
    pub(super) chain_pem: String,
    /// Its key.
    pub(super) key_pem: Zeroizing<String>,
}

impl Authority {
    /// Makes one, named after a machine.
    pub(super) fn create(host: &str, now: SystemTime) -> Result<(Authority, Issued), AuthorityError> {
        check_clock(now)?;
        // Two with the same name are hard to tell apart on a device that was given both.
        let tag = random::hex::<4>().ok_or(AuthorityError::NoRandomness)?;
        let mut common_name = format!("Clawdbot {tag} on {host}");
        common_name.truncate(MAX_COMMON_NAME);
        let key = new_key()?;
        let signer = Signer::read(key.der.as_bytes())?;

        let mut params = params(&common_name, now - CLOCK_ALLOWANCE, now + AUTHORITY_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&signer).map_err(fault)?;
        let certificate: CertificateDer<'static> = certificate.into();
        let issued = Issued {
            chain_pem: pem(&certificate)?,
            key_pem: key.pem,
        };
        let authority = Authority {
            signer,
            certificate,
            common_name,
        };
        Ok((authority, issued))
    }

    /// One that was made before. The key is PKCS#8.
    pub(super) fn open(
        certificate: CertificateDer<'static>,
        key: &[u8],
    ) -> Result<Authority, AuthorityError> {
        let common_name = Facts::read(&certificate).map_err(fault)?.subject().to_owned();
        let authority = Authority {
            signer: Signer::read(key)?,
            certificate,
            common_name,
        };
        if !tls::is_key_of(key, &authority.certificate) {
            return Err(AuthorityError::WrongKey);
        }
        Ok(authority)
    }

    /// Makes a key and a certificate for a server of these names, and looks at it as a client would.
    pub(super) fn issue(
        &self,
        main_name: &str,
        names: &[Name],
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        check_clock(now)?;
        if names.len() > MAX_NAMES {
            return Err(AuthorityError::TooManyNames(names.len()));
        }
        let own = Facts::read(&self.certificate).map_err(fault)?.validity;
        let key = new_key()?;
        let mut common_name = main_name.to_owned();
        common_name.truncate(MAX_COMMON_NAME);
        let mut params = params(
            &common_name,
            (now - CLOCK_ALLOWANCE).max(own.not_before),
            (now + SERVER_LIFE).min(own.not_after),
        )?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = names.iter().map(alternative_name).collect::<Result<_, _>>()?;

        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = distinguished_name(&self.common_name);
        let issuer = Issuer::new(issuer, &self.signer);
        let certificate = params
            .signed_by(&Signer::read(key.der.as_bytes())?, &issuer)
            .map_err(fault)?;
        self.check(certificate.der(), names, now)?;
        Ok(Issued {
            chain_pem: pem(certificate.der())? + &pem(&self.certificate)?,
            key_pem: key.pem,
        })
    }

    /// Whoever has been given the authority must believe what it signs, or nothing is replaced by it.
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        names: &[Name],
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.certificate.clone())
            .map_err(AuthorityError::Unbelievable)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), tls::provider())
            .build()
            .map_err(fault)?;
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).map_err(fault)?;
        for name in names {
            let asked = match name {
                Name::Address(address) => ServerName::from(*address),
                Name::Dns(name) => ServerName::try_from(name.replace('*', "any")).map_err(fault)?,
            };
            verifier
                .verify_server_cert(
                    certificate,
                    &[],
                    &asked,
                    &[],
                    UnixTime::since_unix_epoch(since_1970),
                )
                .map_err(AuthorityError::Unbelievable)?;
        }
        Ok(())
    }
}

fn check_clock(now: SystemTime) -> Result<(), AuthorityError> {
    if now < SystemTime::UNIX_EPOCH + EARLIEST {
        return Err(AuthorityError::Clock(super::x509::utc(now)));
    }
    Ok(())
}

/// What both kinds of certificates have in common.
fn params(
    common_name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| AuthorityError::NoRandomness)?;
    // A positive number of the full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = distinguished_name(common_name);
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    Ok(params)
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn alternative_name(name: &Name) -> Result<SanType, AuthorityError> {
    Ok(match name {
        Name::Dns(name) => SanType::DnsName(name.as_str().try_into().map_err(fault)?),
        Name::Address(address) => SanType::IpAddress(*address),
    })
}

fn date(time: SystemTime) -> Result<OffsetDateTime, AuthorityError> {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).map_err(fault)?;
    let seconds = i64::try_from(since_1970.as_secs()).map_err(fault)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(fault)
}

fn pem(certificate: &CertificateDer<'_>) -> Result<String, AuthorityError> {
    encode_string("CERTIFICATE", LineEnding::LF, certificate).map_err(fault)
}

fn fault(error: impl ToString) -> AuthorityError {
    AuthorityError::Fault(error.to_string())
}

/// A new key, which wipes itself from memory.
struct NewKey {
    der: rsa::pkcs8::SecretDocument,
    pem: Zeroizing<String>,
}

fn new_key() -> Result<NewKey, AuthorityError> {
    let key =
        rsa::PrivateKey::new(&mut RandomNumbers(SystemRandom::new()), KEY_BITS).map_err(
            |error| match error {
                rsa::Error::Rng => AuthorityError::NoRandomness,
                other => fault(other),
            },
        )?;
    let der = key.to_pkcs8_der().map_err(fault)?;
    let pem = der.to_pem("PRIVATE KEY", LineEnding::LF).map_err(fault)?;
    Ok(NewKey { der, pem })
}

/// ring's random numbers, which are the system's, as `rsa` wants them.
struct RandomNumbers(SystemRandom);

#[derive(Debug, thiserror::Error)]
#[error("no random numbers")]
struct NoNumbers;

impl TryRng for RandomNumbers {
    type Error = NoNumbers;

    fn try_next_u32(&mut self) -> Result<u32, NoNumbers> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, NoNumbers> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), NoNumbers> {
        self.0.fill(bytes).map_err(|_| NoNumbers)
    }
}

impl TryCryptoRng for RandomNumbers {}

/// A key in ring's hands.
struct Signer {
    key: RsaKeyPair,
    public: Vec<u8>,
}

impl Signer {
    fn read(pkcs8: &[u8]) -> Result<Signer, AuthorityError> {
        let key = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| AuthorityError::WrongKey)?;
        let public = key.public_key().as_ref().to_vec();
        Ok(Signer { key, public })
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature)
    }
}

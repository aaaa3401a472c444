//! Why TLS cannot be offered.

use std::io;

use crate::settings::NamedFile;

/// Why TLS cannot be offered with these files. Each begins with the file and the place where it was named.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is missing or not ours to read.
    #[error("{file}: it cannot be read: {source}; correct the path, or who may read the file")]
    Unreadable {
        /// The file.
        file: Box<NamedFile>,
        /// The system's answer.
        source: io::Error,
    },
    /// The file has something else in it, or nothing.
    #[error("{0}: there is no certificate in it; it must be a PEM file with -----BEGIN CERTIFICATE-----")]
    NoCertificate(Box<NamedFile>),
    /// One of those in the file is damaged.
    #[error(
        "{file}: the certificate that begins in its line {line} is damaged; copy the file again, or get the \
         certificate anew"
    )]
    Damaged {
        /// The file.
        file: Box<NamedFile>,
        /// The line of its BEGIN.
        line: usize,
    },
    /// The file has something else in it, or a key with a passphrase.
    #[error(
        "{0}: there is no private key in it that can be used; it must be a PEM file with a key in PKCS#8, PKCS#1 or \
         SEC1, without a passphrase (`openssl pkey -in FILE -out NEW` takes it away)"
    )]
    NoKey(Box<NamedFile>),
    /// Others could pretend to be this hub.
    #[error(
        "{file}: the key can be read by other users (mode {mode:03o}); run: chmod 600 '{}' – and get a new key and \
         certificate instead if somebody may have read it",
        file.path.display()
    )]
    TooOpen {
        /// The key file.
        file: Box<NamedFile>,
        /// Its permission bits.
        mode: u32,
    },
    /// Two files of different pairs.
    #[error(
        "{key}: it is not the key of the certificate in {}; name the two files that belong together",
        certificate.path.display()
    )]
    Mismatch {
        /// The key file.
        key: Box<NamedFile>,
        /// The certificate's file.
        certificate: Box<NamedFile>,
    },
    /// Well-formed, but of a kind that TLS cannot use.
    #[error("{file}: it cannot be used with its key: {source}; use an RSA, ECDSA or Ed25519 certificate")]
    Unusable {
        /// The certificate's file.
        file: Box<NamedFile>,
        /// What TLS says.
        source: rustls::Error,
    },
    /// Nobody could be told apart by it.
    #[error(
        "{file}: it is of no authority that could sign clients' certificates: {why}; give the authority's own \
         certificate"
    )]
    NoAuthority {
        /// The authority's file.
        file: Box<NamedFile>,
        /// What TLS says.
        why: String,
    },
}

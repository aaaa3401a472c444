//! Certificates: those of the TLS listeners, whether configured or made here, and those of clients.
//!
//! [`OwnCertificates`] makes a private authority and what it signs; [`tls`] turns files into what TLS needs;
//! [`WatchedCertificate`] follows the files while the daemon runs.

mod authority;
mod error;
mod files;
mod names;
mod own;
pub mod tls;
mod watched;
mod x509;

pub use authority::AuthorityError;
pub use error::CertificateError;
pub use names::{BadName, Machine, Name};
pub use own::{OwnCertificates, OwnError};
pub use tls::{ServerTls, load};
pub use watched::{WatchError, WatchedCertificate};
pub use x509::{Facts, fingerprint, utc};

#[cfg(test)]
mod tests;

//! Certificates and keys out of PEM files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use der::zeroize::{Zeroize, Zeroizing};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::CertificateError;
use super::x509::Facts;
use crate::settings::NamedFile;

/// The certificates in a file, each of which can be read, in their order.
pub(super) fn read_chain(file: &NamedFile) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = fs::read(&file.path).map_err(|source| CertificateError::Unreadable {
        file: file.clone().into(),
        source,
    })?;
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        match certificate {
            Ok(certificate) if Facts::read(&certificate).is_ok() => chain.push(certificate),
            _ => {
                return Err(CertificateError::Damaged {
                    file: file.clone().into(),
                    line: line_of_certificate(&text, chain.len()),
                });
            }
        }
    }
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate(file.clone().into()));
    }
    Ok(chain)
}

/// Counted from 1, as editors do.
fn line_of_certificate(text: &[u8], number: usize) -> usize {
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let begins = lines.filter(|(_, line)| line.starts_with(b"-----BEGIN CERTIFICATE"));
    begins.map(|(at, _)| at + 1).nth(number).unwrap_or(1)
}

/// A key out of a file that only its owner can read.
pub(super) fn read_key(file: &NamedFile) -> Result<SecretKey, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable {
        file: file.clone().into(),
        source,
    };
    let mut open = File::open(&file.path).map_err(unreadable)?;
    // Asked of the open file, so that it cannot be exchanged between the question and the reading.
    let metadata = open.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CertificateError::TooOpen {
            file: file.clone().into(),
            mode,
        });
    }
    // As long as the file, so that no shorter copy of it is left behind in memory.
    let length = usize::try_from(metadata.len())
        .unwrap_or_default()
        .min(MAX_KEY_BYTES);
    let mut text = Zeroizing::new(Vec::with_capacity(length + 1));
    (&mut open)
        .take(MAX_KEY_BYTES as u64)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(SecretKey(key)),
        Err(_) => Err(CertificateError::NoKey(file.clone().into())),
    }
}

/// A thousand times the usual: what is larger is another file.
const MAX_KEY_BYTES: usize = 1 << 20;

/// A private key that wipes itself from memory. (Copies in the hands of ring do not.)
pub(super) struct SecretKey(PrivateKeyDer<'static>);

impl SecretKey {
    /// For those who keep it themselves.
    pub(super) fn handed_on(&self) -> PrivateKeyDer<'static> {
        self.0.clone_key()
    }

    /// Its bytes, in whatever form they are.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.secret_der()
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// By what a file is known to have changed: its identity, its times, its length, and who may read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Result<[i64; 7], io::ErrorKind>);

impl Stamp {
    /// Of a file as it is now.
    pub(super) fn of(path: &Path) -> Stamp {
        let read = |metadata: fs::Metadata| {
            let unsigned = [metadata.dev(), metadata.ino(), metadata.size()].map(u64::cast_signed);
            let [dev, ino, size] = unsigned;
            let (mtime, ctime) = (metadata.mtime(), metadata.ctime());
            [
                dev,
                ino,
                size,
                mtime,
                metadata.mtime_nsec(),
                ctime,
                metadata.ctime_nsec(),
            ]
        };
        Stamp(fs::metadata(path).map(read).map_err(|error| error.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_damaged_certificate_is_found() {
        let text = b"# a note\n-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n";
        assert_eq!(line_of_certificate(text, 0), 2);
        assert_eq!(line_of_certificate(text, 1), 5);
    }

    #[test]
    fn a_file_is_known_to_have_changed_when_it_is_written_replaced_opened_to_others_or_gone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let mut stamps = vec![Stamp::of(&path)];
        let mut changed = |what: &str| {
            let stamp = Stamp::of(&path);
            assert_eq!(stamp, Stamp::of(&path), "{what}");
            assert!(!stamps.contains(&stamp), "{what}");
            stamps.push(stamp);
        };
        fs::write(&path, "a").unwrap();
        changed("made");
        fs::write(&path, "bc").unwrap();
        changed("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        changed("opened to others");
        let other = temp.path().join("other");
        fs::write(&other, "bc").unwrap();
        fs::rename(&other, &path).unwrap();
        changed("replaced");
    }
}

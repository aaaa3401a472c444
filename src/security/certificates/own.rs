//! The certificates that this program makes for itself, and the directory they live in.
//!
//! Every file is written whole beside its name and then put there, so that nobody ever reads half of one. The
//! server's certificate and key are two files: the new key waits as `server-key.next.pem`, the certificate
//! takes its place, and the key follows; whoever finds the two apart ([`OwnCertificates::settle`]) does the last step.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use actors::policy::expiry::Validity;
use rustls::pki_types::CertificateDer;

use super::CertificateError;
use super::authority::{Authority, AuthorityError, Issued, SERVER_LIFE};
use super::files::{read_chain, read_key};
use super::names::{Machine, Name, unique};
use super::tls;
use super::x509::Facts;
use crate::security::data_dir::{self, DataDirError};
use crate::security::random;
use crate::settings::{CertificateFiles, NamedFile};

/// A renewal that would add less than this is none.
const WORTHWHILE: Duration = Duration::from_secs(24 * 3600);

/// A directory with an authority and what it signed, or for one.
#[derive(Clone, Debug)]
pub struct OwnCertificates {
    directory: PathBuf,
}

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// They are there, and devices may have been given them.
    #[error(
        "there are certificates in {} already; `clawdbot certs renew` makes a new server certificate, and --force \
         begins anew with another authority, which every device must then be given",
        .0.display()
    )]
    Exists(PathBuf),
    /// There is nothing to renew.
    #[error("there are no certificates in {}; `clawdbot certs init` makes them", .0.display())]
    Missing(PathBuf),
    /// The directory.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// A file in it.
    #[error("{0}; `clawdbot certs init --force` begins anew")]
    File(#[from] CertificateError),
    /// The authority cannot or will not sign.
    #[error("{}: {error}", directory.display())]
    Authority {
        /// Where.
        directory: PathBuf,
        /// Why.
        error: AuthorityError,
    },
    /// The system refused.
    #[error("{action} {} failed: {source}; check who owns the directory and that its disk has room", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl OwnCertificates {
    /// Those in a directory, which need not exist.
    pub fn at(directory: &Path) -> OwnCertificates {
        OwnCertificates {
            directory: directory.to_path_buf(),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What devices are given.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// What signs.
    pub fn authority_key(&self) -> PathBuf {
        self.directory.join("ca-key.pem")
    }

    /// What clients are shown: the server's certificate and the authority's.
    pub fn server(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// The server's key.
    pub fn server_key(&self) -> PathBuf {
        self.directory.join("server-key.pem")
    }

    fn next_server_key(&self) -> PathBuf {
        self.directory.join("server-key.next.pem")
    }

    /// Whether there is something to show.
    pub fn exist(&self) -> bool {
        self.server().exists()
    }

    /// The pair for the listeners.
    pub fn files(&self) -> CertificateFiles {
        CertificateFiles {
            certificate: NamedFile::unnamed(self.server()),
            key: NamedFile::unnamed(self.server_key()),
            clients: None,
            own: Some(self.directory.clone()),
        }
    }

    /// Makes an authority and a server certificate for this machine and further names.
    pub fn create(
        &self,
        machine: &Machine,
        further: &[Name],
        force: bool,
        now: SystemTime,
    ) -> Result<(), OwnError> {
        create_private(&self.directory)?;
        let _lock = self.lock()?;
        if !force && (self.exist() || self.authority().exists() || self.authority_key().exists()) {
            return Err(OwnError::Exists(self.directory.clone()));
        }
        let refused = |error| self.refused(error);
        let (authority, issued) = Authority::create(&machine.main_name(), now).map_err(refused)?;
        let names = unique(machine.names().into_iter().chain(further.iter().cloned()));
        let server = authority
            .issue(&machine.main_name(), &names, now)
            .map_err(refused)?;
        self.put(&self.authority_key(), issued.key_pem.as_bytes(), PRIVATE)?;
        self.put(&self.authority(), issued.chain_pem.as_bytes(), PUBLIC)?;
        self.put_server(&server)
    }

    /// Makes another server certificate, for the names of the one before, those that this machine has now, and
    /// further ones.
    pub fn renew(&self, machine: &Machine, further: &[Name], now: SystemTime) -> Result<(), OwnError> {
        self.check_directory()?;
        let _lock = self.lock()?;
        let authority = self.open_authority()?;
        let before = self.server_facts().map(|facts| facts.names).unwrap_or_default();
        // What stands in a certificate of ours is a name; what does not was put there by another hand.
        let before = before.iter().filter_map(|name| name.parse().ok());
        let names = unique(
            machine
                .names()
                .into_iter()
                .chain(before)
                .chain(further.iter().cloned()),
        );
        let server = authority
            .issue(&machine.main_name(), &names, now)
            .map_err(|error| self.refused(error))?;
        self.put_server(&server)
    }

    /// Whether renewing would make the one that is shown last longer: it would not without the authority's
    /// key, and not beyond the authority's own end. One that begins in the future, by a clock that was wrong when
    /// it was made, is worth it in any case.
    pub fn is_renewable(&self, shown: &Validity, now: SystemTime) -> bool {
        let Ok(authority) = self.authority_facts() else {
            return false;
        };
        let end = authority.validity.not_after.min(now + SERVER_LIFE);
        self.authority_key().exists() && (shown.not_before > now || end > shown.not_after + WORTHWHILE)
    }

    /// What stands in the authority's certificate.
    pub fn authority_facts(&self) -> Result<Facts, CertificateError> {
        facts_of(&self.authority())
    }

    /// What stands in the server's certificate.
    pub fn server_facts(&self) -> Result<Facts, CertificateError> {
        facts_of(&self.server())
    }

    /// The authority's certificate, in the form that is hashed for a fingerprint.
    pub fn authority_certificate(&self) -> Result<CertificateDer<'static>, CertificateError> {
        first_of(&self.authority())
    }

    /// Refuses a directory in which others could put something of theirs.
    pub fn check_directory(&self) -> Result<(), OwnError> {
        match data_dir::check(&self.directory, 0o022, "written to", "go-w") {
            Err(DataDirError::Missing(path)) => Err(OwnError::Missing(path)),
            other => Ok(other?),
        }
    }

    /// Does the last step of a renewal that ended before it.
    pub fn settle(&self) -> Result<(), OwnError> {
        let next = NamedFile::unnamed(self.next_server_key());
        if !next.path.exists() {
            return Ok(());
        }
        // A key that belongs to nothing was made for a certificate that never came.
        let belongs = first_of(&self.server())
            .and_then(|server| Ok(tls::is_key_of(read_key(&next)?.bytes(), &server)))
            .unwrap_or(false);
        if belongs { self.follow() } else { Ok(()) }
    }

    fn open_authority(&self) -> Result<Authority, OwnError> {
        if !self.authority().exists() {
            return Err(OwnError::Missing(self.directory.clone()));
        }
        let certificate = self.authority_certificate()?;
        let key = read_key(&NamedFile::unnamed(self.authority_key()))?;
        Authority::open(certificate, key.bytes()).map_err(|error| self.refused(error))
    }

    fn refused(&self, error: AuthorityError) -> OwnError {
        OwnError::Authority {
            directory: self.directory.clone(),
            error,
        }
    }

    fn put_server(&self, server: &Issued) -> Result<(), OwnError> {
        self.put(&self.next_server_key(), server.key_pem.as_bytes(), PRIVATE)?;
        self.put(&self.server(), server.chain_pem.as_bytes(), PUBLIC)?;
        self.follow()
    }

    /// The key follows its certificate.
    fn follow(&self) -> Result<(), OwnError> {
        match fs::rename(self.next_server_key(), self.server_key()) {
            // A daemon that watches may have been quicker.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("writing", &self.server_key(), error))
            }
            _ => self.sync_directory(),
        }
    }

    /// Puts a whole file in its place. After a power cut it is there, or the one before.
    fn put(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), OwnError> {
        let suffix = random::hex::<8>().ok_or_else(|| self.refused(AuthorityError::NoRandomness))?;
        let draft = path.with_extension(format!("{suffix}.tmp"));
        let written = write(&draft, content, mode).and_then(|()| fs::rename(&draft, path));
        if let Err(source) = written {
            // Best effort: what cannot be removed could not be written either.
            let _ = fs::remove_file(&draft);
            return Err(io_error("writing", path, source));
        }
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<(), OwnError> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| io_error("writing to", &self.directory, source))
    }

    /// One at a time: a daemon and a command may want to renew together.
    pub(crate) fn lock(&self) -> Result<File, OwnError> {
        File::open(&self.directory)
            .and_then(|directory| directory.lock().map(|()| directory))
            .map_err(|source| io_error("locking", &self.directory, source))
    }
}

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

fn facts_of(path: &Path) -> Result<Facts, CertificateError> {
    let certificate = first_of(path)?;
    Facts::read(&certificate)
        .map_err(|_| CertificateError::NoCertificate(NamedFile::unnamed(path.to_path_buf()).into()))
}

fn first_of(path: &Path) -> Result<CertificateDer<'static>, CertificateError> {
    let file = NamedFile::unnamed(path.to_path_buf());
    let first = read_chain(&file)?.into_iter().next();
    first.ok_or_else(|| CertificateError::NoCertificate(file.into()))
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // The umask may have taken bits away, of which a device's administrator wants some.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

fn create_private(directory: &Path) -> Result<(), OwnError> {
    if directory.exists() {
        return Ok(data_dir::check(directory, 0o022, "written to", "go-w")?);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o700)))
        .map_err(|source| io_error("creating the directory", directory, source))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> OwnError {
    OwnError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

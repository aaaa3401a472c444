//! The certificate of the listeners while the daemon runs: looked at again when its files change, renewed
//! where it is ours. [`CertificateKeeper`](actors::certificate_keeper::CertificateKeeper) says when.

use std::time::SystemTime;

use actors::certificate_keeper::{Refreshed, ServerCertificate};
use actors::policy::expiry::Validity;

use super::files::Stamp;
use super::names::Machine;
use super::tls::{self, Loaded, ServerTls};
use super::x509::Facts;
use super::{CertificateError, OwnCertificates, OwnError};
use crate::settings::CertificateFiles;

/// See the module.
pub struct WatchedCertificate {
    files: CertificateFiles,
    shown: ServerTls,
    facts: Facts,
    /// As the files were at the last look.
    seen: Vec<Stamp>,
    /// As they were when they were last read, whatever came of it.
    judged: Vec<Stamp>,
}

/// Why the listeners have no certificate.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// One that was configured, or ours.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The directory of ours.
    #[error(transparent)]
    Own(#[from] OwnError),
}

impl WatchedCertificate {
    /// Reads it for the first time.
    pub fn open(files: CertificateFiles) -> Result<WatchedCertificate, WatchError> {
        if let Some(own) = own(&files) {
            own.check_directory()?;
        }
        // Taken before they are read: what changes meanwhile is read once more.
        let stamps = stamps(&files);
        let loaded = read(&files)?;
        Ok(WatchedCertificate {
            shown: ServerTls::new(&loaded),
            facts: loaded.facts,
            seen: stamps.clone(),
            judged: stamps,
            files,
        })
    }

    /// What the doors show.
    pub fn server_tls(&self) -> ServerTls {
        self.shown.clone()
    }

    /// The files.
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }

    fn show(&mut self, stamps: Vec<Stamp>, loaded: Loaded) {
        self.shown.show(&loaded);
        self.facts = loaded.facts;
        self.seen.clone_from(&stamps);
        self.judged = stamps;
    }
}

impl ServerCertificate for WatchedCertificate {
    /// Two looks must find the same, or a certificate might be read whose key is still on its way.
    fn refresh(&mut self) -> Refreshed {
        let now = stamps(&self.files);
        let settled = now == self.seen;
        self.seen.clone_from(&now);
        if !settled || now == self.judged {
            return Refreshed::Unchanged;
        }
        self.judged.clone_from(&now);
        match read(&self.files) {
            Ok(loaded) => {
                self.show(now, loaded);
                Refreshed::Replaced
            }
            Err(error) => Refreshed::Refused(error.to_string()),
        }
    }

    fn validity(&self) -> Validity {
        self.facts.validity
    }

    fn is_renewable(&self, now: SystemTime) -> bool {
        own(&self.files).is_some_and(|own| own.is_renewable(&self.facts.validity, now))
    }

    fn renew(&mut self, now: SystemTime) -> Result<(), String> {
        let Some(own) = own(&self.files) else {
            return Err("it is not ours".to_owned());
        };
        own.renew(&Machine::here(), &[], now)
            .map_err(|error| error.to_string())?;
        let stamps = stamps(&self.files);
        let loaded = read(&self.files).map_err(|error| error.to_string())?;
        self.show(stamps, loaded);
        Ok(())
    }

    fn place(&self) -> String {
        self.files.certificate.path.display().to_string()
    }

    fn remedy(&self) -> &'static str {
        if self.files.own.is_some() {
            "`clawdbot certs renew` makes a new one and says what stands in its way"
        } else {
            "put a new one and its key in the place of the old; they are read at once"
        }
    }
}

fn own(files: &CertificateFiles) -> Option<OwnCertificates> {
    files.own.as_deref().map(OwnCertificates::at)
}

fn stamps(files: &CertificateFiles) -> Vec<Stamp> {
    files.all().map(|file| Stamp::of(&file.path)).collect()
}

fn read(files: &CertificateFiles) -> Result<Loaded, WatchError> {
    if let Some(own) = own(files) {
        own.settle()?;
    }
    Ok(tls::load(files)?)
}

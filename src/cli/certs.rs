//! `clawdbot certs`: makes, renews and shows the certificates with which this hub offers TLS.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};

use super::{Failure, GlobalFlags, With, say};
use crate::kept_certificate::lasts;
use crate::security::certificates::{Facts, Machine, Name, OwnCertificates, OwnError, fingerprint};
use crate::security::{DataDir, certificates};
use crate::settings::{CertificateFiles, Settings};

#[derive(Debug, Args)]
pub(super) struct CertsFlags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a private authority and a server certificate, for this machine's names and addresses
    Init(With<InitFlags>),
    /// Make another server certificate by the same authority; a running daemon shows it at once
    Renew(With<RenewFlags>),
    /// Say what stands in the certificates
    Show(With<ShowFlags>),
}

#[derive(Debug, Args)]
struct Place {
    /// Directory of the certificates [default: certs in the data directory, where the daemon finds them]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct InitFlags {
    #[command(flatten)]
    place: Place,
    /// A further name or address that clients use; may be repeated
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<Name>,
    /// Replace what is there, the authority too: every device must be given the new one
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct RenewFlags {
    #[command(flatten)]
    place: Place,
    /// A further name or address that clients use; may be repeated
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<Name>,
}

#[derive(Debug, Args)]
struct ShowFlags {
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(global: GlobalFlags, flags: CertsFlags) -> Result<(), Failure> {
    let now = SystemTime::now();
    match flags.action {
        Action::Init(With { global: inner, flags }) => {
            let own = flags.place.prepared(&global.then(inner))?;
            own.create(&Machine::here(), &flags.names, flags.force, now)?;
            show_own(&own, now)?;
            say(format!(
                "\nGive each device {} as its CA file, and keep ca-key.pem where it is.",
                own.authority().display()
            ))
        }
        Action::Renew(With { global: inner, flags }) => {
            let own = flags.place.found(&global.then(inner).settings(Vec::new())?);
            own.renew(&Machine::here(), &flags.names, now)?;
            show_own(&own, now)
        }
        Action::Show(With { global: inner, flags }) => {
            let settings = global.then(inner).settings(Vec::new())?;
            match (&flags.place.dir, &settings.mqtt.certificate) {
                (None, Some(configured)) if configured.own.is_none() => show_configured(configured, now),
                _ => show_own(&flags.place.found(&settings), now),
            }
        }
    }
}

impl Place {
    fn found(&self, settings: &Settings) -> OwnCertificates {
        match &self.dir {
            Some(directory) => OwnCertificates::at(directory),
            None => DataDir::certificates_in(&settings.data_dir),
        }
    }

    /// The data directory may be wanted before the first start.
    fn prepared(&self, global: &GlobalFlags) -> Result<OwnCertificates, Failure> {
        let settings = global.settings(Vec::new())?;
        if self.dir.is_none() {
            DataDir::prepare(&settings.data_dir).map_err(Failure::misconfigured)?;
        }
        Ok(self.found(&settings))
    }
}

fn show_own(own: &OwnCertificates, now: SystemTime) -> Result<(), Failure> {
    own.check_directory()?;
    let authority = own.authority_certificate().map_err(OwnError::File)?;
    let facts = own.authority_facts().map_err(OwnError::File)?;
    show("authority", &own.authority(), &facts, now)?;
    say(format!("  SHA-256   {}", fingerprint(&authority)))?;
    let server = own.server_facts().map_err(OwnError::File)?;
    show("server", &own.server(), &server, now)?;
    say(format!("  names     {}", server.names.join(", ")))?;
    let missing: Vec<String> = Machine::here()
        .names()
        .iter()
        .map(Name::to_string)
        .filter(|name| !server.names.contains(name))
        .collect();
    if !missing.is_empty() {
        say(format!(
            "  missing   {} (`clawdbot certs renew` adds them)",
            missing.join(", ")
        ))?;
    }
    Ok(())
}

fn show_configured(files: &CertificateFiles, now: SystemTime) -> Result<(), Failure> {
    let facts = certificates::load(files).map_err(Failure::misconfigured)?.facts;
    show("server", &files.certificate.path, &facts, now)?;
    say(format!("  names     {}", facts.names.join(", ")))
}

fn show(what: &str, path: &Path, facts: &Facts, now: SystemTime) -> Result<(), Failure> {
    say(format!("{what}: {}", path.display()))?;
    say(format!("  subject   {}", facts.subject()))?;
    say(format!("  validity  {}", lasts(&facts.validity, now)))
}

impl From<OwnError> for Failure {
    fn from(error: OwnError) -> Failure {
        match error {
            OwnError::Io { .. } => Failure::at_run_time(error),
            _ => Failure::misconfigured(error),
        }
    }
}

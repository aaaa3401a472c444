//! How old keys are, where they are, and how long certificates last.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use actors::policy::expiry::{Standing, Validity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{Subject, unless, where_so};
use crate::cli::report::{Examined, Finding};
use crate::kept_certificate::lasts;
use crate::security::certificates::{self, Facts, OwnCertificates};
use crate::security::{DataDir, MasterKeyPlace};
use crate::settings::{CertificateFiles, Settings, StoreMode};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A key that anybody could have copied is worth less each year; exchanging it costs nobody anything.
const OLD_KEY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time enough for whoever gets a certificate from elsewhere.
const ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// Every device has to be given another authority by hand.
const AUTHORITY_ENDS_SOON: Duration = Duration::from_secs(180 * 24 * 3600);
/// Fewer, and neither clients nor this program take them.
const LEAST_RSA_BITS: usize = 2048;

pub(super) fn signing_key(subject: &Subject) -> Examined {
    let key = subject.dir.as_ref().map(DataDir::token_signing_key);
    let Some((path, age)) = key.and_then(|path| age(path, subject.now)) else {
        return Ok("it is made at the first start".to_owned());
    };
    let days = age.as_secs() / DAY.as_secs();
    where_so(
        age > OLD_KEY,
        || {
            let message = format!("the key that signs tokens is {days} days old");
            Finding::warning(message, "clawdbot keys rotate").about(path.display())
        },
        &format!("the key that signs tokens is {days} days old"),
    )
}

pub(super) fn master_key(subject: &Subject) -> Examined {
    if subject.settings.store.mode == StoreMode::None {
        return Ok("nothing is kept that it would open".to_owned());
    }
    let place = subject.dir.as_ref();
    let place = place.map(|dir| MasterKeyPlace::of(dir, subject.settings.store.master_key.as_ref()));
    let Some(MasterKeyPlace::Own(path) | MasterKeyPlace::File(path)) = place else {
        return Ok("not known: it is in no file".to_owned());
    };
    let Some((path, age)) = age(path, subject.now) else {
        return Ok("it is made at the first start".to_owned());
    };
    let days = age.as_secs() / DAY.as_secs();
    where_so(
        age > OLD_KEY,
        || {
            let message = format!("the key that opens the store is {days} days old");
            let hint =
                "clawdbot keys rotate --master; backups that were made before need the key of their time";
            Finding::info(message, hint).about(path.display())
        },
        &format!("the key that opens the store is {days} days old"),
    )
}

/// How long ago a file was written last, which keys are once.
fn age(path: PathBuf, now: SystemTime) -> Option<(PathBuf, Duration)> {
    let written = fs::metadata(&path).ok()?.modified().ok()?;
    Some((path, now.duration_since(written).unwrap_or_default()))
}

pub(super) fn master_key_place(subject: &Subject) -> Examined {
    let store = &subject.settings.store;
    let is_beside = store.mode == StoreMode::Embedded && store.master_key.is_none();
    where_so(
        is_beside,
        || {
            let message = "the key that opens the store lies beside it: whoever takes the disk, or a copy of the whole data \
                directory, has both";
            let hint = if cfg!(target_os = "macos") {
                "FileVault protects both; or move the key into the System keychain (store.master_key_keychain)"
            } else {
                "an encrypted disk protects both; or move the key to another disk (store.master_key_file)"
            };
            Finding::info(message, hint).about("store.master_key_file")
        },
        "the store's key is not beside the store",
    )
}

pub(super) fn certificate(subject: &Subject) -> Examined {
    let Some(files) = &subject.settings.mqtt.certificate else {
        return Ok("there is none; `clawdbot certs init` makes one, for devices on the network".to_owned());
    };
    let (path, renew) = (files.certificate.path.display(), renewed_by(files));
    let facts = match certificates::load(files) {
        Ok(tls) => tls.facts,
        Err(error) => return Err(vec![Finding::misconfigured(error.to_string(), renew).about(path)]),
    };
    let told = lasts(&facts.validity, subject.now);
    let finding = match facts.validity.standing(subject.now) {
        Standing::Valid(left) if left >= warned_before(files, &subject.settings) => None,
        Standing::Valid(_) => Some(Finding::warning(told.clone(), renew)),
        _ => Some(Finding::error(told.clone(), renew)),
    };
    unless(
        finding
            .into_iter()
            .map(|finding| finding.about(path.to_string()))
            .collect(),
        told,
    )
}

fn renewed_by(files: &CertificateFiles) -> &'static str {
    match files.own {
        Some(_) => "clawdbot certs renew",
        None => "have it renewed by who issued it; the daemon takes the new files up by itself",
    }
}

/// The daemon renews ours by itself: one that lasts less than that shows that it could not, or does not run.
fn warned_before(files: &CertificateFiles, settings: &Settings) -> Duration {
    match files.own {
        Some(_) => settings.mqtt.tls_renew_before.saturating_sub(DAY),
        None => ENDS_SOON,
    }
}

/// What `--fix` renews.
pub(super) fn ending_certificate(subject: &Subject) -> Option<OwnCertificates> {
    let files = subject.settings.mqtt.certificate.as_ref()?;
    let own = OwnCertificates::at(files.own.as_deref()?);
    let validity = own.server_facts().ok()?.validity;
    let lasts = matches!(validity.standing(subject.now), Standing::Valid(left) if left >= warned_before(files, &subject.settings));
    (!lasts && own.is_renewable(&validity, subject.now)).then_some(own)
}

pub(super) fn authority(subject: &Subject) -> Examined {
    let own = subject
        .settings
        .mqtt
        .certificate
        .as_ref()
        .and_then(|files| files.own.as_ref());
    let Some(own) = own.map(|directory| OwnCertificates::at(directory)) else {
        return Ok("there is none of our own".to_owned());
    };
    let hint = "clawdbot certs init --force; then every device must be given the new authority";
    match own.authority_facts() {
        Ok(facts) => ending(
            &own.authority(),
            &facts.validity,
            AUTHORITY_ENDS_SOON,
            hint,
            subject.now,
        ),
        Err(error) => {
            let finding = Finding::warning(error.to_string(), hint);
            Err(vec![finding.about(own.authority().display())])
        }
    }
}

pub(super) fn others(subject: &Subject) -> Examined {
    let settings = &subject.settings;
    let clients = settings
        .mqtt
        .certificate
        .as_ref()
        .and_then(|files| files.clients.as_ref());
    let postgres = settings.store.postgres.as_ref();
    let broker = &settings.broker;
    let named = [
        (
            "mqtt.tls_client_ca",
            clients.map(|clients| clients.authority.path.as_path()),
        ),
        ("broker.ca_certificate", broker.ca_certificate.as_deref()),
        (
            "broker.client_certificate",
            broker
                .client_certificate
                .as_ref()
                .map(|(certificate, _)| certificate.as_path()),
        ),
        (
            "store.postgres_ca_certificate",
            postgres.and_then(|server| server.ca_certificate.as_deref()),
        ),
    ];
    let mut findings = Vec::new();
    for (setting, path) in named {
        // What cannot be read is said by `clawdbot check`.
        let Some((path, facts)) = path.and_then(|path| Some((path, first_of(path)?))) else {
            continue;
        };
        let hint = format!("put another in the place of what {setting} names");
        let found = ending(path, &facts.validity, ENDS_SOON, &hint, subject.now);
        findings.extend(found.err().unwrap_or_default());
    }
    unless(findings, "no other certificate that a setting names ends soon")
}

fn ending(path: &Path, validity: &Validity, soon: Duration, hint: &str, now: SystemTime) -> Examined {
    let told = lasts(validity, now);
    let finding = match validity.standing(now) {
        Standing::Valid(left) if left >= soon => None,
        Standing::Valid(_) => Some(Finding::warning(format!("it ends soon: {told}"), hint)),
        _ => Some(Finding::error(told.clone(), hint)),
    };
    unless(
        finding
            .into_iter()
            .map(|finding| finding.about(path.display()))
            .collect(),
        told,
    )
}

fn first_of(path: &Path) -> Option<Facts> {
    let certificate = CertificateDer::from_pem_file(path).ok()?;
    Facts::read(&certificate).ok()
}

pub(super) fn size(subject: &Subject) -> Examined {
    let Some(files) = &subject.settings.mqtt.certificate else {
        return Ok("there is no certificate".to_owned());
    };
    let own = files
        .own
        .as_ref()
        .map(|directory| OwnCertificates::at(directory).authority());
    let mut findings = Vec::new();
    let mut told = Vec::new();
    for path in [Some(files.certificate.path.clone()), own].into_iter().flatten() {
        match first_of(&path).and_then(|facts| facts.rsa_bits) {
            Some(bits) if bits < LEAST_RSA_BITS => {
                let message =
                    format!("its RSA key has {bits} bits, and clients refuse fewer than {LEAST_RSA_BITS}");
                let hint = match files.own {
                    Some(_) => {
                        "clawdbot certs init --force; then every device must be given the new authority"
                    }
                    None => "have it made anew, with a key of 2048 bits or more, or of an elliptic curve",
                };
                findings.push(Finding::misconfigured(message, hint).about(path.display()));
            }
            Some(bits) => told.push(format!("RSA with {bits} bits")),
            None => told.push("no RSA key".to_owned()),
        }
    }
    unless(findings, told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Severity;
    use crate::security::certificates::Machine;
    use crate::settings::{MasterKeySource, NamedFile};

    fn made(days_ago: u64) -> (tempfile::TempDir, Subject) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(temp.path()).unwrap();
        let own = dir.certificates();
        let then = SystemTime::now() - u32::try_from(days_ago).unwrap() * DAY;
        own.create(&Machine::here(), &[], false, then).unwrap();
        let mut subject = Subject::for_tests(temp.path());
        subject.settings.mqtt.certificate = Some(own.files());
        (temp, subject)
    }

    fn severity(examined: &Examined) -> Option<Severity> {
        examined.as_ref().err().map(|findings| findings[0].severity)
    }

    #[test]
    fn a_certificate_that_should_have_been_renewed_is_named_and_one_that_ended_is_an_error() {
        for (days_ago, expected) in [
            (0, None),
            // Thirty days before its end the daemon renews it; one more, and something is wrong.
            (334, None),
            (337, Some(Severity::Warning)),
            (370, Some(Severity::Error)),
        ] {
            let (_temp, subject) = made(days_ago);
            let found = certificate(&subject);
            assert_eq!(severity(&found), expected, "{found:?}");
            assert_eq!(ending_certificate(&subject).is_some(), expected.is_some());
            assert_eq!(severity(&authority(&subject)), None);
        }
    }

    #[test]
    fn an_authority_that_ends_within_half_a_year_is_named() {
        let (_temp, mut subject) = made(0);
        subject.now += 3500 * DAY;
        assert_eq!(severity(&authority(&subject)), Some(Severity::Warning));
        subject.now += 200 * DAY;
        assert_eq!(severity(&authority(&subject)), Some(Severity::Error));
    }

    #[test]
    fn a_certificate_of_somebody_elses_is_named_for_thirty_days() {
        let (temp, mut subject) = made(340);
        let own = subject.settings.mqtt.certificate.clone().unwrap();
        subject.settings.mqtt.certificate = Some(CertificateFiles {
            own: None,
            ..own.clone()
        });
        let found = certificate(&subject).unwrap_err();
        assert!(found[0].fix_hint.contains("who issued it"), "{found:?}");
        assert!(ending_certificate(&subject).is_none());
        subject.settings.broker.ca_certificate = Some(own.certificate.path);
        assert_eq!(others(&subject).unwrap_err().len(), 1);
        subject.settings.mqtt.certificate = Some(CertificateFiles {
            certificate: NamedFile::unnamed(temp.path().join("nothing")),
            own: None,
            ..own
        });
        assert_eq!(severity(&certificate(&subject)), Some(Severity::Error));
    }

    #[test]
    fn the_size_of_our_keys_is_told() {
        let (_temp, subject) = made(0);
        assert_eq!(size(&subject).unwrap(), "RSA with 2048 bits, RSA with 2048 bits");
    }

    #[test]
    fn a_key_that_is_a_year_old_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(temp.path()).unwrap();
        let mut subject = Subject::for_tests(temp.path());
        assert!(signing_key(&subject).is_ok() && master_key(&subject).is_ok());
        fs::write(dir.token_signing_key(), [0; 32]).unwrap();
        fs::write(dir.master_key(), [0; 32]).unwrap();
        subject.now += 364 * DAY;
        assert!(signing_key(&subject).is_ok() && master_key(&subject).is_ok());
        subject.now += 2 * DAY;
        assert_eq!(
            signing_key(&subject).unwrap_err()[0].fix_hint,
            "clawdbot keys rotate"
        );
        assert_eq!(severity(&master_key(&subject)), Some(Severity::Info));
    }

    #[test]
    fn a_master_key_beside_its_store_is_told() {
        let mut subject = Subject::for_tests(Path::new("/nowhere"));
        assert_eq!(severity(&master_key_place(&subject)), Some(Severity::Info));
        subject.settings.store.master_key = Some(MasterKeySource::Variable("KEY".to_owned()));
        assert!(master_key_place(&subject).is_ok());
    }
}

//! What is made here is what was meant, by our own reading of it and by rustls'; `tests/certificates.rs` asks
//! OpenSSL.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use actors::certificate_keeper::{Refreshed, ServerCertificate};
use actors::policy::expiry::Validity;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::settings::NamedFile;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn machine() -> Machine {
    Machine {
        host_name: "Hub".to_owned(),
        local_host_name: None,
        addresses: vec!["192.168.1.2".parse().unwrap()],
    }
}

/// Copies of one set, since making keys takes a while.
fn made() -> (TempDir, OwnCertificates) {
    static ONCE: OnceLock<TempDir> = OnceLock::new();
    let original = ONCE.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        let own = OwnCertificates::at(&temp.path().join("certs"));
        let further = ["extra.example.org".parse().unwrap()];
        own.create(&machine(), &further, false, SystemTime::now())
            .unwrap();
        temp
    });
    let temp = tempfile::tempdir().unwrap();
    for file in fs::read_dir(original.path().join("certs")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), temp.path().join(file.file_name())).unwrap();
    }
    let own = OwnCertificates::at(temp.path());
    (temp, own)
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn since(begin: SystemTime, end: SystemTime) -> Duration {
    end.duration_since(begin).unwrap()
}

#[test]
fn an_authority_and_a_server_certificate_are_made_whole_and_for_their_owner() {
    let temp = tempfile::tempdir().unwrap();
    let own = OwnCertificates::at(&temp.path().join("a/certs"));
    own.create(&machine(), &[], false, SystemTime::now()).unwrap();
    assert_eq!(mode_of(own.directory()), 0o700);
    assert_eq!(mode_of(&own.authority_key()), 0o600);
    assert_eq!(mode_of(&own.server_key()), 0o600);
    assert_eq!(
        fs::read_dir(own.directory()).unwrap().count(),
        4,
        "a draft was left"
    );
    load(&own.files()).unwrap();

    let (authority, server) = (own.authority_facts().unwrap(), own.server_facts().unwrap());
    assert!(authority.is_authority && !server.is_authority);
    assert!(authority.subject().ends_with(" on hub"), "{authority:?}");
    assert_eq!(server.common_names, ["hub"]);
    let (now, a_while) = (SystemTime::now(), Duration::from_secs(600));
    for (facts, life) in [(&authority, 3650 * DAY), (&server, 365 * DAY)] {
        let Validity {
            not_before,
            not_after,
        } = facts.validity;
        assert!(since(not_before, now) >= DAY && since(not_before, now) < DAY + a_while);
        assert!(since(now, not_after) <= life && since(now, not_after) > life - a_while);
    }
    let chain = fs::read_to_string(own.server()).unwrap();
    assert!(chain.ends_with(&fs::read_to_string(own.authority()).unwrap()));
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
}

#[test]
fn what_is_there_is_replaced_only_by_force_and_then_by_another_authority() {
    let (_temp, own) = made();
    let before = fs::read(own.authority()).unwrap();
    let again = own.create(&machine(), &[], false, SystemTime::now());
    assert!(matches!(again, Err(OwnError::Exists(_))));
    assert_eq!(fs::read(own.authority()).unwrap(), before);
    own.create(&machine(), &[], true, SystemTime::now()).unwrap();
    assert_ne!(fs::read(own.authority()).unwrap(), before);
    load(&own.files()).unwrap();
}

#[test]
fn a_renewal_keeps_the_authority_and_the_names_and_takes_up_new_ones() {
    let (_temp, own) = made();
    let (authority, key) = (
        fs::read(own.authority()).unwrap(),
        fs::read(own.server_key()).unwrap(),
    );
    let mut machine = machine();
    machine.addresses = vec!["10.0.0.7".parse().unwrap()];
    let later = SystemTime::now() + 340 * DAY;
    own.renew(&machine, &["more.local".parse().unwrap()], later)
        .unwrap();
    assert_eq!(fs::read(own.authority()).unwrap(), authority);
    assert_ne!(fs::read(own.server_key()).unwrap(), key, "a new key");
    let facts = own.server_facts().unwrap();
    for name in [
        "hub.local",
        "10.0.0.7",
        "192.168.1.2",
        "extra.example.org",
        "more.local",
        "::1",
    ] {
        assert!(
            facts.names.iter().any(|found| found == name),
            "{name} in {facts:?}"
        );
    }
    assert_eq!(
        since(later, facts.validity.not_after).as_secs() / DAY.as_secs(),
        364
    );
    load(&own.files()).unwrap();
    assert_eq!(mode_of(&own.server_key()), 0o600);
}

#[test]
fn the_authority_signs_nothing_beyond_its_own_end_or_by_a_clock_that_was_never_set() {
    let (_temp, own) = made();
    let end = own.authority_facts().unwrap().validity.not_after;
    own.renew(&machine(), &[], end - 100 * DAY).unwrap();
    let shown = own.server_facts().unwrap().validity;
    assert_eq!(shown.not_after, end);
    assert!(!own.is_renewable(&shown, end - 20 * DAY));

    for (now, words) in [
        (end + DAY, "not be believed"),
        (SystemTime::now() - 300 * DAY, "not be believed"),
        (SystemTime::UNIX_EPOCH + DAY, "1970-01-02"),
    ] {
        let before = fs::read(own.server()).unwrap();
        let refusal = own.renew(&machine(), &[], now).unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal}");
        assert_eq!(fs::read(own.server()).unwrap(), before, "what is there stays");
    }
}

#[test]
fn only_what_would_last_longer_is_renewable() {
    let (_temp, own) = made();
    let (shown, now) = (own.server_facts().unwrap().validity, SystemTime::now());
    assert!(!own.is_renewable(&shown, now));
    assert!(own.is_renewable(&shown, now + 340 * DAY));
    // Made by a clock that was years ahead.
    let ahead = Validity {
        not_before: now + 700 * DAY,
        not_after: now + 1065 * DAY,
    };
    assert!(own.is_renewable(&ahead, now));
    fs::remove_file(own.authority_key()).unwrap();
    assert!(!own.is_renewable(&shown, now + 340 * DAY));
}

#[test]
fn a_key_of_another_authority_signs_nothing() {
    let ((_temp, own), (_other_temp, other)) = (made(), made());
    other.create(&machine(), &[], true, SystemTime::now()).unwrap();
    fs::copy(other.authority_key(), own.authority_key()).unwrap();
    let refusal = own
        .renew(&machine(), &[], SystemTime::now())
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("does not belong to its certificate"),
        "{refusal}"
    );
}

#[test]
fn a_renewal_that_ended_before_its_last_step_is_finished() {
    let ((_temp, own), (_newer_temp, newer)) = (made(), made());
    newer.renew(&machine(), &[], SystemTime::now()).unwrap();
    let next = own.directory().join("server-key.next.pem");
    // The key was written, and the certificate not yet.
    fs::copy(newer.server_key(), &next).unwrap();
    own.settle().unwrap();
    load(&own.files()).unwrap();
    // The certificate was, and its key had not followed.
    fs::copy(newer.server(), own.server()).unwrap();
    assert!(load(&own.files()).is_err());
    own.settle().unwrap();
    load(&own.files()).unwrap();
    assert!(!next.exists());
}

#[test]
fn names_and_clocks_that_make_no_certificate_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let own = OwnCertificates::at(temp.path());
    let many: Vec<Name> = (0..100).map(|n| format!("n{n}.local").parse().unwrap()).collect();
    let refusal = own
        .create(&machine(), &many, false, SystemTime::now())
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("100 at most"), "{refusal}");
    assert!(
        !own.exist() && !own.authority().exists(),
        "nothing is left half made"
    );
    let refusal = own
        .create(&machine(), &[], false, SystemTime::UNIX_EPOCH)
        .unwrap_err();
    assert!(refusal.to_string().contains("clock"), "{refusal}");
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let (temp, own) = made();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o777)).unwrap();
    for refusal in [
        own.renew(&machine(), &[], SystemTime::now())
            .unwrap_err()
            .to_string(),
        own.create(&machine(), &[], true, SystemTime::now())
            .unwrap_err()
            .to_string(),
    ] {
        assert!(refusal.contains("chmod go-w"), "{refusal}");
    }
}

#[test]
fn changed_files_are_shown_once_they_have_settled_and_broken_ones_never() {
    let ((_temp, own), (_newer_temp, newer)) = (made(), made());
    newer
        .renew(&machine(), &["new.local".parse().unwrap()], SystemTime::now())
        .unwrap();
    let files = crate::settings::CertificateFiles {
        certificate: NamedFile::unnamed(own.server()),
        key: NamedFile::unnamed(own.server_key()),
        clients: None,
        own: None,
    };
    let mut watched = WatchedCertificate::open(files).unwrap();
    assert_eq!(watched.refresh(), Refreshed::Unchanged);

    fs::copy(newer.server(), own.server()).unwrap();
    assert_eq!(
        watched.refresh(),
        Refreshed::Unchanged,
        "its key may be on the way"
    );
    let Refreshed::Refused(why) = watched.refresh() else {
        panic!("a certificate without its key is shown");
    };
    assert!(why.contains("not the key of the certificate"), "{why}");
    assert_eq!(watched.refresh(), Refreshed::Unchanged, "said once");

    fs::copy(newer.server_key(), own.server_key()).unwrap();
    assert_eq!(watched.refresh(), Refreshed::Unchanged);
    assert_eq!(watched.refresh(), Refreshed::Replaced);
    assert_eq!(watched.refresh(), Refreshed::Unchanged);
    assert_eq!(watched.validity(), newer.server_facts().unwrap().validity);

    fs::set_permissions(own.server_key(), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(watched.refresh(), Refreshed::Unchanged);
    assert!(matches!(watched.refresh(), Refreshed::Refused(why) if why.contains("chmod 600")));
}

#[test]
fn ours_is_renewed_in_its_place_and_not_read_once_more() {
    let (_temp, own) = made();
    let mut watched = WatchedCertificate::open(own.files()).unwrap();
    let (before, later) = (watched.validity(), SystemTime::now() + 340 * DAY);
    assert!(watched.is_renewable(later));
    watched.renew(later).unwrap();
    assert!(watched.validity().not_after > before.not_after + 300 * DAY);
    assert_eq!(watched.validity(), own.server_facts().unwrap().validity);
    assert_eq!(
        [watched.refresh(), watched.refresh()],
        [Refreshed::Unchanged, Refreshed::Unchanged]
    );
}

#[test]
fn a_damaged_certificate_is_refused_with_its_line() {
    let (temp, own) = made();
    let good = fs::read_to_string(own.server()).unwrap();
    let mut lines: Vec<&str> = good.lines().collect();
    // That of the second one, the authority's.
    let begin = lines
        .iter()
        .rposition(|line| line.starts_with("-----BEGIN"))
        .unwrap();
    assert!(begin > 0);
    lines.remove(begin + 3);
    let path = temp.path().join("damaged.pem");
    fs::write(&path, lines.join("\n")).unwrap();
    let refusal = load(&crate::settings::CertificateFiles {
        certificate: NamedFile {
            path,
            named_by: Some(("mqtt.tls_certificate", crate::settings::Origin::Flag("--set"))),
        },
        ..own.files()
    });
    let refusal = refusal.err().unwrap().to_string();
    for words in [
        "flag --set: mqtt.tls_certificate = ",
        &format!("begins in its line {} ", begin + 1),
    ] {
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn a_fingerprint_and_a_time_look_as_tools_show_them() {
    assert!(fingerprint(b"").starts_with("E3:B0:C4:42:98:FC:1C:14:"));
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_314_509);
    assert_eq!(utc(time), "2026-11-22T02:28:29Z");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_of_certificates_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Facts::read(&bytes);
    }

    #[test]
    fn a_certificate_with_bytes_changed_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        static CERTIFICATE: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = CERTIFICATE
            .get_or_init(|| made().1.authority_certificate().unwrap().to_vec())
            .clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Facts::read(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Facts::read(&bytes).is_err());
    }
}

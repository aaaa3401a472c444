//! What `--fix` does: nothing that could take away what somebody wants, and each thing is said.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use platform::files;

use super::tree::{Entry, Kind};
use super::{Subject, keys, quoted, unless};
use crate::cli::report::{Examined, Finding, Mended, Outcome};
use crate::security::certificates::{Machine, OwnCertificates};

const ROOT: u32 = 0;

enum Step<'s> {
    Owner(&'s Entry, u32, u32),
    Mode(&'s Entry),
    Renew(OwnCertificates),
}

/// Mends what can be, or only says what would be done.
pub(super) fn mend(subject: &Subject, dry_run: bool) -> Vec<Mended> {
    let steps = steps(subject, files::effective_user());
    let mend = |step: &Step<'_>| {
        let done = if dry_run { Ok(()) } else { step.carry_out(subject) };
        Mended {
            action: step.action(subject),
            outcome: match (&done, dry_run) {
                (Ok(()), false) => Outcome::Done,
                (Ok(()), true) => Outcome::WouldBeDone,
                (Err(_), _) => Outcome::Failed,
            },
            trouble: done.err(),
        }
    };
    steps.iter().map(mend).collect()
}

/// What came of it, as a finding where something failed.
pub(super) fn judge(mended: &[Mended]) -> Examined {
    let failed = mended.iter().filter(|mended| mended.outcome == Outcome::Failed);
    let failed = failed.map(|mended| {
        let trouble = mended.trouble.as_deref().unwrap_or_default();
        let hint = "do it by hand, as the user who runs clawdbot or as root";
        Finding::error(format!("{} failed: {trouble}", mended.action), hint)
    });
    let line = match mended.len() {
        0 => "there was nothing that can be mended safely".to_owned(),
        count => format!("{count} things, listed above"),
    };
    unless(failed.collect(), line)
}

/// Owners first: whose a file is decides who may set its mode.
fn steps(subject: &Subject, me: u32) -> Vec<Step<'_>> {
    let tree = &subject.tree;
    let Some((user, group)) = tree.owner() else {
        return Vec::new();
    };
    // What others than its owner and root cannot change, and sockets, which the daemon makes anew, keep their findings.
    let mine = |entry: &&Entry| entry.kind != Kind::Other && (me == ROOT || me == entry.user);
    let entries = || tree.entries.iter().filter(mine);
    let mut steps = Vec::new();
    if me == ROOT {
        let foreign = entries().filter(|entry| entry.user != user);
        steps.extend(foreign.map(|entry| Step::Owner(entry, user, group)));
    }
    steps.extend(entries().filter(|entry| entry.excess() != 0).map(Step::Mode));
    // What is made belongs to who makes it, and the daemon could not read it where that is another user.
    let own = keys::ending_certificate(subject);
    let own = own.filter(|own| fs::metadata(own.directory()).is_ok_and(|metadata| metadata.uid() == me));
    steps.extend(own.map(Step::Renew));
    steps
}

impl Step<'_> {
    /// The command that does the same.
    fn action(&self, subject: &Subject) -> String {
        let path = |entry: &Entry| quoted(&subject.tree.path(entry));
        match self {
            Step::Owner(entry, user, group) => format!("chown {user}:{group} {}", path(entry)),
            Step::Mode(entry) => format!(
                "chmod {:03o} {} (it was {:03o})",
                entry.right_mode(),
                path(entry),
                entry.mode
            ),
            Step::Renew(_) => "clawdbot certs renew".to_owned(),
        }
    }

    fn carry_out(&self, subject: &Subject) -> Result<(), String> {
        let root: &Path = &subject.tree.root;
        match self {
            Step::Owner(entry, user, group) => {
                files::set_owner(root, &entry.below, *user, *group).map_err(|error| error.to_string())
            }
            Step::Mode(entry) => {
                files::set_mode(root, &entry.below, entry.right_mode()).map_err(|error| error.to_string())
            }
            Step::Renew(own) => own
                .renew(&Machine::here(), &[], subject.now)
                .map_err(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::security::DataDir;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn open_store() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(&temp.path().join("data")).unwrap();
        fs::write(dir.store(), "").unwrap();
        fs::set_permissions(dir.store(), Permissions::from_mode(0o644)).unwrap();
        (temp, dir)
    }

    #[test]
    fn a_dry_run_says_what_it_would_do_and_does_nothing() {
        let (_temp, dir) = open_store();
        let subject = Subject::for_tests(dir.root());
        let told = mend(&subject, true);
        let expected = format!("chmod 600 '{}' (it was 644)", dir.store().display());
        assert_eq!((told.len(), told[0].action.as_str()), (1, expected.as_str()));
        assert_eq!(told[0].outcome, Outcome::WouldBeDone);
        assert_eq!(mode(&dir.store()), 0o644);

        let told = mend(&subject, false);
        assert_eq!(told[0].outcome, Outcome::Done);
        assert_eq!(mode(&dir.store()), 0o600);
        assert!(mend(&Subject::for_tests(dir.root()), false).is_empty());
    }

    #[test]
    fn what_fails_is_an_error() {
        let (_temp, dir) = open_store();
        let subject = Subject::for_tests(dir.root());
        fs::hard_link(dir.store(), dir.root().join("second")).unwrap();
        let told = mend(&subject, false);
        assert_eq!(told[0].outcome, Outcome::Failed);
        let found = judge(&told).unwrap_err();
        assert!(found[0].message.contains("another name"), "{found:?}");
        assert_eq!(mode(&dir.store()), 0o644);
    }

    #[test]
    fn only_root_and_the_owner_change_anything_and_only_root_the_owner() {
        let (_temp, dir) = open_store();
        let mut subject = Subject::for_tests(dir.root());
        let owner = subject.tree.owner().unwrap().0;
        assert_eq!(steps(&subject, owner).len(), 1);
        assert!(steps(&subject, owner + 1).is_empty());
        for entry in subject.tree.entries.iter_mut().filter(|entry| !entry.is_root()) {
            entry.user = owner + 2;
        }
        // The directory of the keys and the store, and the store's mode.
        assert_eq!(steps(&subject, ROOT).len(), 3);
        assert!(matches!(steps(&subject, ROOT)[0], Step::Owner(..)));
    }

    #[test]
    fn a_certificate_of_ours_that_ends_soon_is_renewed() {
        let (_temp, dir) = open_store();
        let own = dir.certificates();
        let long_ago = SystemTime::now() - Duration::from_secs(360 * 24 * 3600);
        own.create(&Machine::here(), &[], false, long_ago).unwrap();
        let look = || {
            let mut subject = Subject::for_tests(dir.root());
            subject.settings.mqtt.certificate = Some(own.files());
            subject
        };
        let before = own.server_facts().unwrap().validity.not_after;
        let told = mend(&look(), false);
        assert!(
            told.iter().any(|mended| mended.action == "clawdbot certs renew"),
            "{told:?}"
        );
        assert!(
            told.iter().all(|mended| mended.outcome == Outcome::Done),
            "{told:?}"
        );
        assert!(own.server_facts().unwrap().validity.not_after > before);
        assert!(mend(&look(), false).is_empty());
    }
}

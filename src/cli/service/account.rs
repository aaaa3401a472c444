//! The user that the service has, and what is that user's alone.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::Failure;
use super::call::Call;
use super::machine::Machine;
use crate::service::Manager;

/// Numbers of users of the system on macOS, above those that Apple gives out.
const NUMBERS: std::ops::RangeInclusive<i64> = 400..=499;
/// As long as Linux takes them.
const LONGEST_NAME: usize = 32;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) user: String,
    pub(super) group: String,
    /// None where there is none yet, or nobody was asked.
    pub(super) number: Option<u32>,
}

impl Account {
    /// Looks it up, where commands are run.
    pub(super) fn find(machine: &Machine, user: &str) -> Result<Account, Failure> {
        check_name(user)?;
        let mut account = Account {
            user: user.to_owned(),
            group: user.to_owned(),
            number: None,
        };
        if machine.runs
            && let Some(number) = Call::new("id", ["-u", user]).ask()?
        {
            account.number = Some(number.parse().map_err(|_| {
                Failure::AtRunTime(format!(
                    "`id -u {user}` said {number:?}, which is no number; run it by hand"
                ))
            })?);
            if let Some(group) = Call::new("id", ["-gn", user]).ask()? {
                account.group = group;
            }
        }
        Ok(account)
    }

    /// Makes it, where commands are run, and looks it up again.
    pub(super) fn make(&self, machine: &Machine, home: &Path) -> Result<Account, Failure> {
        let number = match machine.manager {
            Manager::Launchd if machine.runs => free_number()?.to_string(),
            _ => String::new(),
        };
        for call in self.calls(machine.manager, home, &number) {
            machine.run(&call)?;
        }
        Account::find(machine, &self.user)
    }

    /// What makes it. macOS wants to be given its number.
    pub(super) fn calls(&self, manager: Manager, home: &Path, number: &str) -> Vec<Call> {
        let home = home.display().to_string();
        match manager {
            Manager::Systemd => {
                let mut words = [
                    "--system",
                    "--user-group",
                    "--no-create-home",
                    "--shell",
                    "/usr/sbin/nologin",
                ]
                .map(str::to_owned)
                .to_vec();
                words.extend(["--home-dir".to_owned(), home, self.user.clone()]);
                vec![Call::new("useradd", words)]
            }
            Manager::Launchd => {
                let (user, group) = (format!("/Users/{}", self.user), format!("/Groups/{}", self.group));
                let create = |record: &str, key: &str, value: &str| {
                    let words = [".", "-create", record, key, value].into_iter();
                    Call::new("dscl", words.filter(|word| !word.is_empty()))
                };
                vec![
                    create(&group, "", ""),
                    create(&group, "PrimaryGroupID", number),
                    create(&group, "Password", "*"),
                    create(&user, "", ""),
                    create(&user, "UniqueID", number),
                    create(&user, "PrimaryGroupID", number),
                    create(&user, "NFSHomeDirectory", &home),
                    create(&user, "UserShell", "/usr/bin/false"),
                    create(&user, "RealName", "Clawdbot"),
                    create(&user, "Password", "*"),
                    create(&user, "IsHidden", "1"),
                ]
            }
        }
    }

    /// What makes a directory this user's alone, the directories above it included.
    pub(super) fn call_for_directory(&self, directory: &Path) -> Call {
        let directory = directory.display().to_string();
        let (user, group) = (self.user.as_str(), self.group.as_str());
        Call::new(
            "install",
            ["-d", "-m", "700", "-o", user, "-g", group, &directory],
        )
    }

    /// Has a directory be there for this user alone, with all that is in it. Whether something was done.
    pub(super) fn take(&self, machine: &Machine, directory: &Path) -> Result<bool, Failure> {
        if !machine.runs {
            return Ok(false);
        }
        let directory = machine.at(directory);
        let failed = |error| {
            Failure::AtRunTime(format!(
                "looking into {} failed: {error}; look whether it is a directory, and its disk is well",
                directory.display()
            ))
        };
        let is_there = is_private_to(&directory, self.number).map_err(failed)?;
        if !is_there {
            machine.run(&self.call_for_directory(&directory))?;
        }
        let has_others = match self.number {
            Some(number) => has_files_of_others(&directory, number).map_err(failed)?,
            None => false,
        };
        if has_others {
            // What root made there before, such as certificates. Links are given away and not followed: what they lead to is
            // not the service's.
            let owner = format!("{}:{}", self.user, self.group);
            let directory = directory.display().to_string();
            machine.run(&Call::new("chown", ["-R", "-h", &owner, &directory]))?;
        }
        Ok(!is_there || has_others)
    }
}

fn check_name(user: &str) -> Result<(), Failure> {
    let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let begins = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if begins && user.len() <= LONGEST_NAME && user.chars().all(is_fine) {
        return Ok(());
    }
    Err(Failure::Misconfigured(format!(
        "--user {user:?} is no name for a user: small letters, digits, _ and -, 32 at most, the first a letter or _"
    )))
}

fn is_private_to(directory: &Path, number: Option<u32>) -> io::Result<bool> {
    match fs::metadata(directory) {
        Ok(metadata) => Ok(metadata.is_dir()
            && metadata.permissions().mode() & 0o777 == 0o700
            && number.is_none_or(|number| metadata.uid() == number)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn has_files_of_others(directory: &Path, number: u32) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Not that of what a link leads to.
        let metadata = entry.metadata()?;
        if metadata.uid() != number || (metadata.is_dir() && has_files_of_others(&entry.path(), number)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One that no user and no group has.
fn free_number() -> Result<i64, Failure> {
    let mut taken = String::new();
    for (records, key) in [("/Users", "UniqueID"), ("/Groups", "PrimaryGroupID")] {
        let listed = Call::new("dscl", [".", "-list", records, key]).ask()?;
        taken += &listed.unwrap_or_default();
        taken.push('\n');
    }
    first_free(&taken).ok_or_else(|| {
        Failure::AtRunTime(format!(
            "all numbers of users from {} to {} are taken; make a user by hand and name it with --user",
            NUMBERS.start(),
            NUMBERS.end()
        ))
    })
}

/// Of lines with a name and a number.
fn first_free(taken: &str) -> Option<i64> {
    let taken: Vec<i64> = taken
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
        .collect();
    NUMBERS.into_iter().find(|number| !taken.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_system_takes_are_taken() {
        for name in ["clawdbot", "_clawdbot", "hub-2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "-x",
            "2x",
            "Hub",
            "a b",
            "a\nb",
            "a:b",
            "root;",
            &"x".repeat(33),
        ] {
            assert!(
                matches!(check_name(name), Err(Failure::Misconfigured(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn the_number_is_one_that_neither_a_user_nor_a_group_has() {
        assert_eq!(first_free(""), Some(400));
        assert_eq!(
            first_free("_x   400\nnobody   -2\n_y 402\n\n_g   401\nanna 501"),
            Some(403)
        );
        let all: String = (400..=499)
            .map(|number| format!("_{number} {number}\n"))
            .collect();
        assert_eq!(first_free(&all), None);
    }

    #[test]
    fn the_commands_make_a_user_who_cannot_log_in() {
        let account = Account {
            user: "_clawdbot".to_owned(),
            group: "_clawdbot".to_owned(),
            number: None,
        };
        let shown = |manager| -> Vec<String> {
            let calls = account.calls(manager, Path::new("/data"), "401");
            calls.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            shown(Manager::Systemd),
            [
                "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin --home-dir /data _clawdbot"
            ]
        );
        let made = shown(Manager::Launchd);
        assert_eq!(made.first().unwrap(), "dscl . -create /Groups/_clawdbot");
        for line in [
            "dscl . -create /Users/_clawdbot UniqueID 401",
            "dscl . -create /Users/_clawdbot UserShell /usr/bin/false",
            "dscl . -create /Users/_clawdbot Password '*'",
        ] {
            assert!(made.iter().any(|made| made == line), "{line} in {made:#?}");
        }
    }

    #[test]
    fn files_of_others_are_found_however_deep() {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let own = fs::metadata(temp.path()).unwrap().uid();
        fs::create_dir_all(temp.path().join("a/b")).unwrap();
        fs::write(temp.path().join("a/b/c"), "").unwrap();
        assert!(!has_files_of_others(temp.path(), own).unwrap());
        assert!(has_files_of_others(temp.path(), own + 1).unwrap());
        assert!(is_private_to(temp.path(), Some(own)).unwrap());
        assert!(!is_private_to(temp.path(), Some(own + 1)).unwrap());
        assert!(!is_private_to(&temp.path().join("none"), Some(own)).unwrap());
    }
}

//! What the hub stands on: whose processes they are, the firewall, the disk, the clock. The programs of macOS are asked by
//! their documented forms; their answers were never seen here.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::programs::Programs;
use super::{Subject, mount, reach, there, where_so};
use crate::cli::report::{Checked, Examined, Finding};

const ROOT: u32 = 0;

pub(super) fn root(subject: &Subject) -> Examined {
    // Who runs it now, else who will: whose the data directory is, or who asks.
    let process = subject
        .pid()
        .and_then(|pid| owner_of_process(&subject.programs, pid));
    let owner = process.or_else(|| subject.tree.owner().map(|(user, _)| user));
    let owner = owner.unwrap_or_else(platform::files::effective_user);
    where_so(
        owner == ROOT,
        || {
            let message = "clawdbot runs as root, or will: whoever breaks into it has the machine";
            let hint = "give it a user of its own: `clawdbot service install` does, or `sudo -u clawdbot clawdbot serve`";
            Finding::error(message, hint)
        },
        &format!("it runs as user {owner}"),
    )
}

fn owner_of_process(programs: &Programs, pid: u32) -> Option<u32> {
    if cfg!(target_os = "linux") {
        return std::fs::metadata(format!("/proc/{pid}"))
            .ok()
            .map(|metadata| metadata.uid());
    }
    let said = programs.ask("ps", &["-o", "uid=", "-p", &pid.to_string()])?;
    said.text.trim().parse().ok()
}

fn one(checked: Checked) -> Examined {
    checked.map_err(|finding| vec![finding])
}

pub(super) fn firewall(subject: &Subject) -> Examined {
    let is_open = reach::is_open_to_anybody(&subject.settings);
    one(if cfg!(target_os = "macos") {
        let program = std::env::current_exe().unwrap_or_default();
        firewall_of_macos(&subject.programs, &program)
    } else {
        firewall_of_linux(
            &subject.programs,
            platform::files::effective_user() == ROOT,
            is_open,
        )
    })
}

/// Whether the application firewall is on, and lets this program's listeners be reached.
fn firewall_of_macos(programs: &Programs, program: &Path) -> Checked {
    const PROGRAM: &str = "/usr/libexec/ApplicationFirewall/socketfilterfw";
    let path = program.display().to_string();
    let state = programs.ask("socketfilterfw", &["--getglobalstate"]);
    let state = state.map(|said| said.text.to_lowercase()).unwrap_or_default();
    if state.contains("disabled") {
        let hint = format!(
            "sudo {PROGRAM} --setglobalstate on && sudo {PROGRAM} --add '{path}' && sudo {PROGRAM} --unblockapp '{path}'"
        );
        return Err(Finding::warning("the application firewall is off", hint));
    }
    if !state.contains("enabled") {
        let message = "whether the application firewall is on is not known";
        return Err(Finding::info(message, format!("{PROGRAM} --getglobalstate")));
    }
    let app = programs.ask("socketfilterfw", &["--getappblocked", &path]);
    if app.is_some_and(|said| said.text.to_lowercase().contains("blocked")) {
        let message = format!("the application firewall is on, and keeps devices from {path}");
        let hint = format!("sudo {PROGRAM} --unblockapp '{path}'");
        return Err(Finding::warning(message, hint));
    }
    Ok("the application firewall is on".to_owned())
}

/// Rules may be anywhere; whether there are any for what comes in is asked of what usually makes them.
fn firewall_of_linux(programs: &Programs, is_root: bool, is_open: bool) -> Checked {
    if !is_root {
        let message = "whether a firewall is on is not known: only root may ask";
        return Err(Finding::info(message, "sudo nft list ruleset"));
    }
    let said = |program: &str, arguments: &[&str]| {
        programs
            .ask(program, arguments)
            .map(|said| said.text)
            .unwrap_or_default()
    };
    if said("nft", &["list", "ruleset"]).contains("hook input") {
        return Ok("nftables has rules for what comes in".to_owned());
    }
    if said("ufw", &["status"]).contains("Status: active") {
        return Ok("ufw is on".to_owned());
    }
    for program in ["iptables", "iptables-legacy"] {
        // The policy is the first line; without rules and with ACCEPT it is all there is.
        let rules = said(program, &["-S", "INPUT"]);
        if rules.lines().count() > 1 || rules.contains("-P INPUT DROP") {
            return Ok("iptables has rules for what comes in".to_owned());
        }
    }
    let hint = "config/deploy/nftables.conf lets the hub's ports be reached from private networks only: sudo nft -f it";
    let message = "there are no firewall rules for what comes in";
    Err(if is_open {
        Finding::warning(message, hint)
    } else {
        Finding::info(message, hint)
    })
}

pub(super) fn disk_encryption(subject: &Subject) -> Examined {
    let path = there(&subject.settings.data_dir);
    let (is_encrypted, hint) = if cfg!(target_os = "macos") {
        (
            file_vault(&subject.programs),
            "sudo fdesetup enable; after each start somebody must then log in before it runs",
        )
    } else {
        let mount = mount::of(&subject.programs, &path);
        let is_encrypted = mount.and_then(|mount| mount::is_encrypted(Path::new("/sys"), &mount));
        (
            is_encrypted,
            "LUKS encrypts a disk, best when the system is installed (cryptsetup)",
        )
    };
    one(match is_encrypted {
        Some(true) => Ok("the disk is encrypted".to_owned()),
        Some(false) => {
            let message = "the disk is not encrypted: whoever takes it away reads keys and store";
            Err(Finding::info(message, hint).about(path.display()))
        }
        None => {
            let message = "whether the disk is encrypted is not known";
            let how = if cfg!(target_os = "macos") {
                "fdesetup status"
            } else {
                "lsblk -o NAME,TYPE,MOUNTPOINT"
            };
            Err(Finding::info(message, how).about(path.display()))
        }
    })
}

fn file_vault(programs: &Programs) -> Option<bool> {
    let said = programs.ask("fdesetup", &["status"])?.text;
    match (
        said.contains("FileVault is On"),
        said.contains("FileVault is Off"),
    ) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

pub(super) fn clock(subject: &Subject) -> Examined {
    let programs = &subject.programs;
    let (is_kept, hint) = if cfg!(target_os = "macos") {
        (
            clock_of_macos(programs),
            "sudo systemsetup -setusingnetworktime on",
        )
    } else {
        (
            clock_of_linux(programs),
            "sudo timedatectl set-ntp true, or install chrony",
        )
    };
    one(match is_kept {
        Some(true) => Ok("it is kept by the network".to_owned()),
        Some(false) => {
            let message = "nothing keeps it right: tokens and certificates hold for a time";
            Err(Finding::warning(message, hint))
        }
        None => Err(Finding::info(
            "whether it is kept by the network is not known",
            hint,
        )),
    })
}

/// Only root is told.
fn clock_of_macos(programs: &Programs) -> Option<bool> {
    let said = programs.ask("systemsetup", &["-getusingnetworktime"])?.text;
    match (
        said.contains("Network Time: On"),
        said.contains("Network Time: Off"),
    ) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

fn clock_of_linux(programs: &Programs) -> Option<bool> {
    // Without systemd running, timedatectl says nothing; chrony may keep the clock in both cases.
    let chrony = programs
        .ask("chronyc", &["-n", "tracking"])
        .filter(|said| said.is_success);
    if chrony.is_some_and(|said| {
        said.text
            .lines()
            .any(|line| line.starts_with("Leap status") && line.ends_with("Normal"))
    }) {
        return Some(true);
    }
    let said = programs.ask("timedatectl", &["show", "-p", "NTPSynchronized", "--value"])?;
    match said.text.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::audit::programs::tests::stand_ins;
    use crate::cli::report::Severity;

    fn severity(checked: Checked) -> Option<Severity> {
        checked.err().map(|finding| finding.severity)
    }

    #[test]
    fn the_application_firewall_of_macos_is_asked_whether_it_is_on_and_lets_us_through() {
        let answered = |state: &str, app: &str| {
            let script = format!("case $1 in --getglobalstate) echo '{state}';; *) echo \"$2 {app}\";; esac");
            let (_temp, programs) = stand_ins(&[("socketfilterfw", &script)]);
            firewall_of_macos(&programs, Path::new("/usr/local/bin/clawdbot"))
        };
        let on = "Firewall is enabled. (State = 1)";
        assert_eq!(severity(answered(on, "is permitted")), None);
        assert_eq!(severity(answered(on, "is BLOCKED")), Some(Severity::Warning));
        let off = answered("Firewall is disabled. (State = 0)", "").unwrap_err();
        assert_eq!(off.severity, Severity::Warning);
        assert!(
            off.fix_hint.contains("--unblockapp '/usr/local/bin/clawdbot'"),
            "{off:?}"
        );
        assert_eq!(severity(answered("", "")), Some(Severity::Info));
    }

    #[test]
    fn file_vault_and_the_clock_of_macos_are_on_off_or_unknown() {
        let (_temp, on) = stand_ins(&[
            ("fdesetup", "echo FileVault is On."),
            ("systemsetup", "echo Network Time: On"),
        ]);
        assert_eq!((file_vault(&on), clock_of_macos(&on)), (Some(true), Some(true)));
        let (_temp, off) = stand_ins(&[
            ("fdesetup", "echo FileVault is Off."),
            ("systemsetup", "echo Network Time: Off"),
        ]);
        assert_eq!(
            (file_vault(&off), clock_of_macos(&off)),
            (Some(false), Some(false))
        );
        let (_temp, refused) = stand_ins(&[("systemsetup", "echo You need administrator access")]);
        assert_eq!((file_vault(&refused), clock_of_macos(&refused)), (None, None));
    }

    #[test]
    fn any_of_the_usual_firewalls_of_linux_is_one_and_none_is_told_as_badly_as_it_is() {
        let asked = |programs: &[(&str, &str)], is_open| {
            let (_temp, programs) = stand_ins(programs);
            severity(firewall_of_linux(&programs, true, is_open))
        };
        assert_eq!(
            asked(&[("nft", "echo 'type filter hook input priority filter;'")], true),
            None
        );
        assert_eq!(asked(&[("ufw", "echo Status: active")], true), None);
        assert_eq!(asked(&[("iptables", "echo -P INPUT DROP")], true), None);
        let nothing = [
            ("nft", "true"),
            ("ufw", "echo Status: inactive"),
            ("iptables", "echo -P INPUT ACCEPT"),
        ];
        assert_eq!(asked(&nothing, false), Some(Severity::Info));
        assert_eq!(asked(&[], true), Some(Severity::Warning));
        let unknown = firewall_of_linux(&Programs::at(Vec::new()), false, true);
        assert!(unknown.unwrap_err().message.contains("not known"));
    }

    #[test]
    fn the_clock_of_linux_is_kept_by_either_program_or_it_is_not_known() {
        let asked = |programs: &[(&str, &str)]| {
            let (_temp, programs) = stand_ins(programs);
            clock_of_linux(&programs)
        };
        assert_eq!(asked(&[("timedatectl", "echo yes")]), Some(true));
        assert_eq!(asked(&[("timedatectl", "echo no")]), Some(false));
        let chrony = ("chronyc", "echo 'Leap status     : Normal'");
        assert_eq!(asked(&[("timedatectl", "echo no"), chrony]), Some(true));
        assert_eq!(asked(&[("timedatectl", "exit 1")]), None);
        assert_eq!(asked(&[]), None);
    }

    #[test]
    fn a_data_directory_of_root_means_that_root_runs_it() {
        let temp = tempfile::tempdir().unwrap();
        let mut subject = Subject::for_tests(temp.path());
        subject.tree.entries[0].user = 1000;
        assert!(root(&subject).is_ok());
        subject.tree.entries[0].user = ROOT;
        assert_eq!(root(&subject).unwrap_err()[0].severity, Severity::Error);
    }
}

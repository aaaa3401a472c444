//! What systemd and launchd are told and asked.

use std::thread;
use std::time::{Duration, Instant};

use super::Failure;
use super::call::Call;
use super::machine::Machine;
use crate::service::{LABEL, Manager, UNIT};

/// How often launchd is asked whether a daemon has gone.
const LOOK: Duration = Duration::from_millis(200);

/// The commands that start the service where it was never installed.
pub(super) fn calls_to_start(manager: Manager, starts: bool) -> Vec<Call> {
    let mut calls = match manager {
        Manager::Systemd => vec![systemctl(["daemon-reload"]), systemctl(["enable", UNIT])],
        Manager::Launchd => vec![launchctl(["enable", &target()])],
    };
    if starts {
        calls.push(match manager {
            Manager::Systemd => systemctl(["restart", UNIT]),
            Manager::Launchd => bootstrap(),
        });
    }
    calls
}

/// Has the service run as its file says, now (if it is to) and after each start of the machine. What was done, in words.
pub(super) fn bring_up(
    machine: &Machine,
    has_changed: bool,
    starts: bool,
    stops_within: Duration,
) -> Result<&'static str, Failure> {
    let was_running = match machine.manager {
        Manager::Systemd => {
            // Whatever became of the last time.
            systemctl(["daemon-reload"]).run()?;
            systemctl(["enable", "--quiet", UNIT]).run()?;
            systemctl(["is-active", "--quiet", UNIT]).ask()?.is_some()
        }
        Manager::Launchd => {
            launchctl(["enable", &target()]).run()?;
            let known = launchctl(["print", &target()]).ask()?;
            known.is_some_and(|text| State::of_launchctl(&text).is_running)
        }
    };
    if !starts {
        return Ok(match was_running {
            true => "it runs on as it was, and has what changed at its next start",
            false => "it is started with the machine; now, it is not",
        });
    }
    if was_running && !has_changed {
        return Ok("it runs already, as it is to");
    }
    match machine.manager {
        // Waits until the daemon says that it is ready.
        Manager::Systemd => systemctl(["restart", UNIT]).run().map_err(with_journal)?,
        Manager::Launchd => {
            let is_known = launchctl(["print", &target()]).ask()?.is_some();
            if is_known && has_changed {
                unload(stops_within)?;
            }
            if is_known && !has_changed {
                launchctl(["kickstart", &target()]).run()?;
            } else {
                bootstrap().run()?;
            }
        }
    }
    Ok(match was_running {
        true => "started again, as something changed",
        false => "started",
    })
}

/// Stops the service, and has it started no more.
pub(super) fn take_down(machine: &Machine, stops_within: Duration) -> Result<(), Failure> {
    match machine.manager {
        Manager::Systemd => systemctl(["disable", "--now", "--quiet", UNIT]).run(),
        Manager::Launchd if launchctl(["print", &target()]).ask()?.is_some() => unload(stops_within),
        Manager::Launchd => Ok(()),
    }
}

/// After the file is gone.
pub(super) fn forget(machine: &Machine) -> Result<(), Failure> {
    if machine.manager == Manager::Systemd {
        systemctl(["daemon-reload"]).run()?;
        // There is nothing to reset unless it had failed.
        systemctl(["reset-failed", UNIT]).ask()?;
    }
    Ok(())
}

/// `bootout` comes back before the daemon has gone, and `bootstrap` fails until it has.
fn unload(stops_within: Duration) -> Result<(), Failure> {
    launchctl(["bootout", &target()]).run()?;
    let deadline = Instant::now() + stops_within + Duration::from_secs(5);
    while launchctl(["print", &target()]).ask()?.is_some() {
        if Instant::now() > deadline {
            return Err(Failure::AtRunTime(format!(
                "launchd has not let go of {LABEL} within {} s; wait for the daemon to end and run the same again",
                stops_within.as_secs() + 5
            )));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn with_journal(failure: Failure) -> Failure {
    match failure {
        Failure::AtRunTime(message) => Failure::AtRunTime(format!(
            "{message} (what it said last: journalctl -u {UNIT} -n 50)"
        )),
        other => other,
    }
}

/// How the service is, as its manager says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) is_enabled: bool,
    pub(super) is_running: bool,
    /// In the manager's own word.
    pub(super) state: String,
    pub(super) pid: Option<u32>,
    /// How often it was started again by itself.
    pub(super) restarts: Option<u64>,
    /// Since when it is so, in the manager's words, where it says.
    pub(super) since: Option<String>,
}

impl State {
    /// Asks.
    pub(super) fn ask(manager: Manager) -> Result<State, Failure> {
        match manager {
            Manager::Systemd => {
                let names = "UnitFileState,ActiveState,SubState,MainPID,NRestarts,StateChangeTimestamp";
                let text = systemctl(["show", UNIT, "--property", names]).ask()?;
                Ok(State::of_systemctl(&text.unwrap_or_default()))
            }
            Manager::Launchd => {
                let text = launchctl(["print", &target()]).ask()?;
                let disabled = launchctl(["print-disabled", "system"]).ask()?.unwrap_or_default();
                let state = text.map(|text| State::of_launchctl(&text)).unwrap_or_default();
                Ok(State {
                    // What stands in its folder is enabled, unless it is in this list.
                    is_enabled: !is_disabled(&disabled),
                    ..state
                })
            }
        }
    }

    fn of_systemctl(text: &str) -> State {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(key, _)| *key == name)?.1.trim();
            (!found.is_empty()).then(|| found.to_owned())
        };
        let active = value("ActiveState").unwrap_or_default();
        State {
            is_enabled: value("UnitFileState").is_some_and(|state| state.starts_with("enabled")),
            is_running: active == "active",
            state: match value("SubState") {
                Some(sub) => format!("{active} ({sub})"),
                None => active,
            },
            pid: value("MainPID")
                .and_then(|pid| pid.parse().ok())
                .filter(|pid| *pid != 0),
            restarts: value("NRestarts").and_then(|restarts| restarts.parse().ok()),
            since: value("StateChangeTimestamp"),
        }
    }

    /// Of its outermost level: there are states of other things further in.
    fn of_launchctl(text: &str) -> State {
        let value = |name: &str| {
            let mut pairs = text.lines().filter_map(|line| {
                let line = line.strip_prefix('\t')?;
                (!line.starts_with('\t')).then_some(line)?.split_once(" = ")
            });
            Some(pairs.find(|(key, _)| *key == name)?.1.trim().to_owned())
        };
        let state = value("state").unwrap_or_default();
        let runs: Option<u64> = value("runs").and_then(|runs| runs.parse().ok());
        State {
            is_enabled: false,
            is_running: state == "running",
            state,
            pid: value("pid").and_then(|pid| pid.parse().ok()),
            restarts: runs.map(|runs| runs.saturating_sub(1)),
            since: None,
        }
    }
}

fn is_disabled(list: &str) -> bool {
    let name = format!("\"{LABEL}\" => ");
    let mut said = list.lines().filter_map(|line| line.trim().strip_prefix(&name));
    // Older versions say `true`.
    said.any(|said| matches!(said, "disabled" | "true"))
}

fn systemctl<const N: usize>(words: [&str; N]) -> Call {
    Call::new("systemctl", words)
}

fn launchctl<const N: usize>(words: [&str; N]) -> Call {
    Call::new("launchctl", words)
}

fn bootstrap() -> Call {
    let file = Manager::Launchd.file().display().to_string();
    launchctl(["bootstrap", "system", &file])
}

fn target() -> String {
    format!("system/{LABEL}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_shows_is_understood() {
        let text = "MainPID=812\nNRestarts=2\nActiveState=active\nSubState=running\nUnitFileState=enabled\n\
                    StateChangeTimestamp=Sat 2026-11-28 08:00:01 UTC";
        let expected = State {
            is_enabled: true,
            is_running: true,
            state: "active (running)".to_owned(),
            pid: Some(812),
            restarts: Some(2),
            since: Some("Sat 2026-11-28 08:00:01 UTC".to_owned()),
        };
        assert_eq!(State::of_systemctl(text), expected);
        let dead = "MainPID=0\nNRestarts=0\nActiveState=inactive\nSubState=dead\nUnitFileState=\nStateChangeTimestamp=";
        let expected = State {
            state: "inactive (dead)".to_owned(),
            restarts: Some(0),
            ..State::default()
        };
        assert_eq!(State::of_systemctl(dead), expected);
        assert_eq!(State::of_systemctl(""), State::default());
    }

    /// As macOS 14 prints it, shortened; not run on macOS.
    #[test]
    fn what_launchctl_prints_is_understood() {
        let text = "system/local.clawdbot = {\n\tactive count = 1\n\tpath = /Library/LaunchDaemons/local.clawdbot.plist\n\
                    \ttype = LaunchDaemon\n\tstate = running\n\n\tprogram = /usr/local/bin/clawdbot\n\truns = 3\n\tpid = 812\n\
                    \tlast exit code = 1\n\n\tresource coalition = {\n\t\tstate = active\n\t\tpid = 1\n\t}\n}";
        let state = State::of_launchctl(text);
        assert!(state.is_running);
        assert_eq!((state.pid, state.restarts), (Some(812), Some(2)));
        let waits = State::of_launchctl("system/local.clawdbot = {\n\tstate = not running\n\truns = 0\n}");
        assert!(!waits.is_running);
        assert_eq!((waits.pid, waits.restarts), (None, Some(0)));
    }

    #[test]
    fn a_service_that_was_disabled_is_known() {
        let list = |said: &str| {
            format!("disabled services = {{\n\t\t\"com.x\" => enabled\n\t\t\"{LABEL}\" => {said}\n\t}}")
        };
        assert!(is_disabled(&list("disabled")) && is_disabled(&list("true")));
        assert!(!is_disabled(&list("enabled")) && !is_disabled(&list("false")) && !is_disabled(""));
    }
}

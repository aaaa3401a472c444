//! `clawdbot service uninstall`: takes the service back. What it kept is its owner's.

use clap::Args;

use super::machine::Machine;
use super::{Failure, Place, manage, say};
use crate::service::{LABEL, Manager, UNIT};

/// The longest that a daemon may have been granted to end, with launchd's usual setting.
const STOPS_WITHIN: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct UninstallFlags {
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(flags: &UninstallFlags) -> Result<(), Failure> {
    let machine = Machine::of(&flags.place);
    machine.check_permission()?;
    let file = machine.at(machine.manager.file());
    let Some(text) = machine.installed()? else {
        let name = match machine.manager {
            Manager::Systemd => UNIT,
            Manager::Launchd => LABEL,
        };
        return say(format!("{name} is not installed: there is no {}", file.display()));
    };
    if machine.runs {
        manage::take_down(&machine, STOPS_WITHIN)?;
        say("service: stopped, and started no more")?;
    }
    machine.remove()?;
    say(format!("file: {} removed", file.display()))?;
    if machine.runs {
        manage::forget(&machine)?;
    }
    if let Some(data_dir) = machine.manager.data_dir_in(&text) {
        say(format!(
            "data: all of it stays in {}, with its keys; remove that yourself if nobody wants it any more",
            data_dir.display()
        ))?;
    }
    match machine.manager.user_in(&text) {
        Some(user) => say(format!("user: {user} stays, as the data is that user's")),
        None => Ok(()),
    }
}

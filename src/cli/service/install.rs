//! `clawdbot service install`: does what is missing, and says what that was.

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::check;
use super::account::Account;
use super::call::Call;
use super::machine::Machine;
use super::{Failure, GlobalFlags, Place, manage, no_settings, places, say};
use crate::service::{Manager, Service};
use crate::settings::{self, Settings, Sources};

/// Where the program is looked for below another root.
const USUAL_PROGRAM: &str = "/usr/local/bin/clawdbot";

#[derive(Debug, Args)]
pub(super) struct InstallFlags {
    /// Print the file and the commands, and change nothing
    #[arg(long)]
    print: bool,
    /// Have it start with the machine, but not now
    #[arg(long)]
    no_start: bool,
    /// The user that runs it, made where it is missing [default: clawdbot, on macOS _clawdbot]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The binary that is run [default: this one, with --root /usr/local/bin/clawdbot]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(global: &GlobalFlags, flags: &InstallFlags) -> Result<(), Failure> {
    no_settings(global)?;
    let machine = Machine::of(&flags.place);
    // What is not said anew stays as it was installed.
    let before = machine.installed()?.unwrap_or_default();
    let user = flags.user.clone().or_else(|| machine.manager.user_in(&before));
    let account = Account::find(&machine, user.as_deref().unwrap_or(machine.manager.user()))?;
    let (service, settings) = described(global, flags, &machine, &account, &before)?;
    if flags.print {
        return print(&machine, &service, &account, !flags.no_start);
    }
    machine.check_permission()?;
    places::check_program(machine.root(), &service.program).map_err(Failure::Misconfigured)?;
    places::check_data_dir(&machine.at(&service.data_dir)).map_err(Failure::Misconfigured)?;
    check_settings(&machine, &service, &settings)?;

    let account = match account.number {
        Some(_) => account,
        None if !machine.runs => account,
        None => {
            let made = account.make(&machine, &service.data_dir)?;
            say(format!("user: {} made", made.user))?;
            made
        }
    };
    // The group of a user that was there already may have another name than the user.
    let service = Service {
        group: account.group.clone(),
        ..service
    };
    for directory in directories(machine.manager, &service) {
        if account.take(&machine, directory)? {
            say(format!(
                "directory: {} is {}'s alone",
                directory.display(),
                account.user
            ))?;
        }
    }
    let text = machine.manager.describe(&service);
    let has_changed = machine.installed()?.as_deref() != Some(text.as_str());
    let file = machine.at(machine.manager.file());
    if has_changed {
        machine.write(&text)?;
        say(format!("file: {} written", file.display()))?;
    } else {
        say(format!("file: {} is as it is to be", file.display()))?;
    }
    if machine.runs {
        let done = manage::bring_up(&machine, has_changed, !flags.no_start, service.stops_within)?;
        say(format!("service: {done}"))?;
    }
    Ok(())
}

/// The service as it is to be, and the settings that it would see.
fn described(
    global: &GlobalFlags,
    flags: &InstallFlags,
    machine: &Machine,
    account: &Account,
    before: &str,
) -> Result<(Service, Settings), Failure> {
    let data_dir = match &global.data_dir {
        Some(named) => absolute("--data-dir", Path::new(named))?,
        None => machine
            .manager
            .data_dir_in(before)
            .unwrap_or(machine.manager.data_dir().to_path_buf()),
    };
    let config = match &global.config {
        Some(named) => Some(absolute("--config", named)?),
        // One for another data directory is not taken over.
        None if global.data_dir.is_some() => None,
        None => machine.manager.config_in(before),
    };
    let program = match &flags.program {
        Some(program) => absolute("--program", program)?,
        None if machine.is_elsewhere() => PathBuf::from(USUAL_PROGRAM),
        None => std::env::current_exe().map_err(|error| {
            Failure::AtRunTime(format!(
                "the program's own file cannot be found: {error}; name it with --program"
            ))
        })?,
    };
    let settings = settings_of(machine, &data_dir, config.as_deref())?;
    let mut service = Service::of(&settings, program, data_dir, &account.user, &account.group);
    service.config = config;
    Ok((service, settings))
}

/// A path that can stand in a file of the system, whatever that makes of special characters.
fn absolute(flag: &str, path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| {
        Failure::Misconfigured(format!("{flag} {}: {error}; name it in full", path.display()))
    })?;
    let is_fine = |text: &str| !text.contains(char::is_control);
    match absolute.to_str().is_some_and(is_fine) {
        true => Ok(absolute),
        false => Err(Failure::Misconfigured(format!(
            "{flag} {path:?} has characters that no file of services can have; choose another place"
        ))),
    }
}

/// The settings as the service sees them.
fn settings_of(machine: &Machine, data_dir: &Path, config: Option<&Path>) -> Result<Settings, Failure> {
    let here = machine.at(&data_dir.join("clawdbot.toml"));
    let config_file = match config {
        Some(path) => Some(machine.at(path)),
        None if here.exists() => Some(here),
        // Below another root, what this machine has at the same place does not count.
        None if machine.is_elsewhere() => Some(PathBuf::from("/dev/null")),
        None => None,
    };
    Ok(settings::load(&Sources::of_service(data_dir, config_file))?)
}

fn check_settings(machine: &Machine, service: &Service, settings: &Settings) -> Result<(), Failure> {
    if places::is_private(&service.data_dir) {
        return Err(Failure::Misconfigured(format!(
            "data_dir = {} lies in somebody's home directory, of which the service sees nothing; leave --data-dir out for {}, or \
             name another place",
            service.data_dir.display(),
            machine.manager.data_dir().display()
        )));
    }
    let config = service.config.iter().map(|path| ("--config", path.clone()));
    let named = places::named_in(settings).into_iter().chain(config);
    let private = named.filter(|(_, path)| places::is_private(path));
    let mut faults: Vec<String> = private
        .map(|(setting, path)| {
            format!(
                "{setting} = {} lies in somebody's home directory, of which the service sees nothing; put it below {}",
                path.display(),
                service.data_dir.display()
            )
        })
        .collect();
    if !machine.is_elsewhere() {
        faults.extend(check::look(settings).filter_map(Result::err));
    }
    if !faults.is_empty() {
        return Err(Failure::Misconfigured(faults.join("\nclawdbot: ")));
    }
    for variable in places::variables_in(settings) {
        eprintln!(
            "clawdbot: the settings take a secret from the variable {variable}, which the service is not given by itself; a file that \
             only {} may read is the simpler place",
            service.user
        );
    }
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut unheard: Vec<String> = variables.filter(|name| name.starts_with("CLAWDBOT__")).collect();
    unheard.sort();
    if !unheard.is_empty() {
        eprintln!(
            "clawdbot: the service does not see the variables of this shell ({}); what they set belongs into {}",
            unheard.join(", "),
            service.data_dir.join("clawdbot.toml").display()
        );
    }
    Ok(())
}

/// What must be the user's alone before the first start.
fn directories(manager: Manager, service: &Service) -> Vec<&Path> {
    let logs = match manager {
        Manager::Systemd => None,
        Manager::Launchd => Some(service.log_directory.as_path()),
    };
    std::iter::once(service.data_dir.as_path()).chain(logs).collect()
}

fn print(machine: &Machine, service: &Service, account: &Account, starts: bool) -> Result<(), Failure> {
    let manager = machine.manager;
    say(format!("# {}", manager.file().display()))?;
    say(manager.describe(service).trim_end())?;
    say("\n# What is run, as root, where nothing is there yet:")?;
    let user = match account.number {
        Some(_) => Vec::new(),
        None => account.calls(manager, &service.data_dir, "A_FREE_NUMBER"),
    };
    let directories = directories(manager, service);
    let directories = directories
        .iter()
        .map(|directory| account.call_for_directory(directory));
    let calls: Vec<Call> = user
        .into_iter()
        .chain(directories)
        .chain(manage::calls_to_start(manager, starts))
        .collect();
    calls.iter().try_for_each(say)
}

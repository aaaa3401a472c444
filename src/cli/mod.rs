//! The command line: a file per subcommand, and what they share. Answers go to stdout, everything
//! else to stderr, so that answers can be piped.

mod ask;
mod audit;
mod backup;
mod bar;
mod bench;
mod certs;
mod check;
mod completions;
mod device;
mod doctor;
mod eval;
mod form;
mod generate;
mod keys;
mod keys_master;
mod man;
mod model;
mod pack;
mod report;
mod serve;
mod service;
mod status;
mod store;
mod token;
mod top;
mod topics;
mod worker;

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::admin::{self, AdminRequest};
use crate::application::{ApplicationError, Hub};
use crate::security::{DataDir, DataDirError};
use crate::settings::{self, Flag, Settings, SettingsError, Sources};

/// A private assistant hub: devices ask over MQTT, a model on this machine answers.
#[derive(Debug, Parser)]
#[command(name = "clawdbot", version, about, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    // A bare `clawdbot --model FILE` serves, so the flags of `serve` stand here too.
    #[command(flatten)]
    serve: serve::ServeFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Without a command, clawdbot serves.

Every setting can also be given as an environment variable (CLAWDBOT__MQTT__TCP=127.0.0.1:18830) or in a
file; `clawdbot check --defaults` lists all of them with their explanation.

Exit codes: 0 fine, 1 a failure at run time, 2 a wrong invocation or configuration.";

#[derive(Debug, Args)]
struct GlobalFlags {
    /// Settings file [default: clawdbot.toml in the data directory, or in the platform's configuration directory]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Directory with the keys and the status socket (setting data_dir)
    // Text, because settings are text: clap refuses a path that is not UTF-8 with a message.
    #[arg(long, value_name = "PATH")]
    data_dir: Option<String>,
    /// Any setting, stronger than file and environment; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = parse_assignment)]
    assignments: Vec<(String, String)>,
}

/// A command's own flags, and the global ones again: clap's own global arguments would let those
/// behind the command replace those before it, and a `--set` be lost without a word.
#[derive(Debug, Args)]
struct With<F: Args> {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(flatten)]
    flags: F,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: MQTT in, the model's words out
    Serve(With<serve::ServeFlags>),
    /// Ask a running daemon something and print the answer as it comes
    Ask(Box<With<ask::AskFlags>>),
    /// Have the model answer here, without a daemon, and print its words as they come
    Generate(Box<With<generate::GenerateFlags>>),
    /// Measure how fast this machine runs a model, at each precision, and what its memory would allow
    Bench(With<bench::BenchFlags>),
    /// Show how well a model understands commands, on sentences with what they mean
    Eval(With<eval::EvalFlags>),
    /// Fetch models from the Hugging Face hub, list, show, remove, import and pack them
    Model(With<model::ModelFlags>),
    /// Pair devices with this hub, list, revoke and rename them
    Device(With<device::DeviceFlags>),
    /// Print a token with which a device can connect
    Token(With<token::TokenFlags>),
    /// Exchange keys for new ones
    Keys(With<keys::KeysFlags>),
    /// Say how a running daemon is doing
    Status(With<status::StatusFlags>),
    /// Show what runs, how fast, with how much memory, and how full mailboxes are
    Top(With<top::TopFlags>),
    /// List every bound topic with its actor and its mailbox
    Topics(With<topics::TopicsFlags>),
    /// Make, renew or show the certificates with which devices connect by TLS
    Certs(With<certs::CertsFlags>),
    /// Look after what outlives the daemon
    Store(With<store::StoreFlags>),
    /// Have the system run the daemon, from its start on and again when it falls
    Service(With<service::ServiceFlags>),
    /// Make a sealed copy of everything that another machine needs to go on, read it, and restore it
    Backup(With<backup::BackupFlags>),
    /// Check the configuration, the data directory, the certificate and the model file
    Check(With<check::CheckFlags>),
    /// Try everything that could keep it from working, with a running daemon or without, and say what to do
    Doctor(With<doctor::DoctorFlags>),
    /// Say what this machine shows to others and how its files, keys and settings are kept, and mend what is safe
    Audit(With<audit::AuditFlags>),
    /// Print a script by which a shell completes commands and flags
    Completions(completions::CompletionsFlags),
    /// Print the manual page, or write those of all commands into a directory
    Man(man::ManFlags),
    /// The process in which the model runs; started by the daemon only
    #[command(hide = true)]
    InferenceWorker(worker::WorkerFlags),
    /// The process that packs weights beside the daemon's work; started by the daemon only
    #[command(hide = true)]
    PackWeights(pack::PackFlags),
}

/// How a command failed, which decides the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong while it ran: exit code 1.
    AtRunTime(String),
    /// It cannot work as it was invoked or configured: exit code 2.
    Misconfigured(String),
    /// The user ended it: exit code 130, as shells have it for Ctrl-C.
    Interrupted,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    main_with(|_| async { Ok(()) })
}

/// As [`main`], and `clawdbot serve` runs with actors of one's own. See [`crate::application`].
pub fn main_with<F>(application: impl FnOnce(Hub) -> F) -> ExitCode
where
    F: Future<Output = Result<(), ApplicationError>>,
{
    run(std::env::args_os(), application)
}

fn run<F>(arguments: impl IntoIterator<Item = OsString>, application: impl FnOnce(Hub) -> F) -> ExitCode
where
    F: Future<Output = Result<(), ApplicationError>>,
{
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: clap knows which goes where, and its code is 0 or 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = dispatch(cli, application);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Failure::AtRunTime(message) | Failure::Misconfigured(message) = &failure {
                eprintln!("clawdbot: {message}");
            }
            failure.exit_code()
        }
    }
}

fn dispatch<F>(cli: Cli, application: impl FnOnce(Hub) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), ApplicationError>>,
{
    let Cli {
        global,
        serve,
        command,
    } = cli;
    match command {
        None => serve::run(&global, &[serve], application),
        Some(Command::Serve(inner)) => {
            serve::run(&global.then(inner.global), &[serve, inner.flags], application)
        }
        Some(Command::InferenceWorker(flags)) => worker::run(flags),
        Some(Command::PackWeights(flags)) => pack::run(flags),
        Some(_) if serve.is_given() => Err(Failure::Misconfigured(
            "--model belongs to `clawdbot serve` and `clawdbot check`; write it behind that command"
                .to_owned(),
        )),
        Some(Command::Ask(inner)) => ask::run(&global.then(inner.global), inner.flags),
        Some(Command::Generate(inner)) => generate::run(&global.then(inner.global), inner.flags),
        Some(Command::Eval(inner)) => eval::run(&global.then(inner.global), inner.flags),
        Some(Command::Bench(inner)) => bench::run(&global.then(inner.global), inner.flags),
        Some(Command::Model(inner)) => model::run(global.then(inner.global), inner.flags),
        Some(Command::Device(inner)) => device::run(global.then(inner.global), inner.flags),
        Some(Command::Token(inner)) => token::run(&global.then(inner.global), inner.flags),
        Some(Command::Keys(inner)) => keys::run(global.then(inner.global), inner.flags),
        Some(Command::Status(inner)) => status::run(&global.then(inner.global), inner.flags),
        Some(Command::Top(inner)) => top::run(&global.then(inner.global), inner.flags),
        Some(Command::Topics(inner)) => topics::run(&global.then(inner.global), inner.flags),
        Some(Command::Certs(inner)) => certs::run(global.then(inner.global), inner.flags),
        Some(Command::Store(inner)) => store::run(global.then(inner.global), inner.flags),
        Some(Command::Service(inner)) => service::run(global.then(inner.global), inner.flags),
        Some(Command::Backup(inner)) => backup::run(global.then(inner.global), inner.flags),
        Some(Command::Check(inner)) => check::run(&global.then(inner.global), inner.flags),
        Some(Command::Doctor(inner)) => doctor::run(&global.then(inner.global), inner.flags),
        Some(Command::Audit(inner)) => audit::run(&global.then(inner.global), &inner.flags),
        Some(Command::Completions(flags)) => completions::run(flags),
        Some(Command::Man(flags)) => man::run(flags),
    }
}

impl GlobalFlags {
    /// These, and those behind the command, which are stronger.
    fn then(mut self, inner: GlobalFlags) -> GlobalFlags {
        self.assignments.extend(inner.assignments);
        GlobalFlags {
            config: inner.config.or(self.config),
            data_dir: inner.data_dir.or(self.data_dir),
            assignments: self.assignments,
        }
    }

    /// The settings as these flags, further flags of the command, and the other sources give them.
    fn settings(&self, further: Vec<Flag>) -> Result<Settings, SettingsError> {
        settings::load(&self.sources(further))
    }

    /// Where they come from.
    fn sources(&self, further: Vec<Flag>) -> Sources {
        let data_dir = self.data_dir.iter().map(|path| Flag {
            name: "--data-dir",
            key: "data_dir".to_owned(),
            value: path.clone(),
        });
        let assignments = self.assignments.iter().map(|(key, value)| Flag {
            name: "--set",
            key: key.clone(),
            value: value.clone(),
        });
        // A flag with its own name is more deliberate than `--set`.
        let flags = assignments.chain(data_dir).chain(further).collect();
        Sources::of_process(self.config.clone(), flags)
    }
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write it as SECTION.KEY=VALUE, for example log.level=debug")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Prints a line of the answer. `println!` would panic when the reader has gone, as `head` does.
fn say(line: impl Display) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::AtRunTime(format!(
            "standard output cannot be written to: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Asks the daemon on the data directory of these flags one thing.
fn ask_daemon(global: &GlobalFlags, request: &AdminRequest) -> Result<Value, Failure> {
    let settings = global.settings(Vec::new())?;
    let dir = DataDir::open(&settings.data_dir).map_err(|error| match error {
        // No directory means that no daemon ever ran on it, which is no fault of the configuration.
        DataDirError::Missing(_) => Failure::at_run_time(error),
        _ => Failure::misconfigured(error),
    })?;
    block_on(async { admin::ask(&dir, request).await.map_err(Failure::at_run_time) })
}

/// A runtime for the commands that talk to a daemon: one thread is enough for one conversation.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::AtRunTime(format!("no asynchronous runtime could be started: {error}")))?
        .block_on(future)
}

impl Failure {
    pub(crate) fn at_run_time(error: impl Error) -> Failure {
        Failure::AtRunTime(error.to_string())
    }

    pub(crate) fn misconfigured(error: impl Error) -> Failure {
        Failure::Misconfigured(error.to_string())
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Failure::AtRunTime(_) => ExitCode::from(1),
            Failure::Misconfigured(_) => ExitCode::from(2),
            Failure::Interrupted => ExitCode::from(130),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Failure {
        Failure::misconfigured(error)
    }
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;

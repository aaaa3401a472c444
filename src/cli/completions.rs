//! `clawdbot completions SHELL`: a script on stdout by which a shell completes commands and flags.

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};

use super::{Cli, Failure, say};

#[derive(Debug, Args)]
pub(super) struct CompletionsFlags {
    /// The shell that is to complete
    shell: Completed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Completed {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(flags: CompletionsFlags) -> Result<(), Failure> {
    say(script(flags.shell).trim_end())
}

fn script(shell: Completed) -> String {
    let shell = match shell {
        Completed::Bash => Shell::Bash,
        Completed::Zsh => Shell::Zsh,
        Completed::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut offered(), "clawdbot", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The command line without its hidden commands, which the scripts would offer.
fn offered() -> Command {
    let whole = Cli::command();
    Command::new("clawdbot")
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments().cloned())
        .subcommands(
            whole
                .get_subcommands()
                .filter(|command| !command.is_hide_set())
                .cloned(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_is_offered_every_command_and_flag_but_no_hidden_command() {
        for shell in Completed::value_variants() {
            let script = script(*shell);
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                assert_eq!(script.contains(name), !command.is_hide_set(), "{shell:?}: {name}");
            }
            for flag in ["data-dir", "no-qr", "version"] {
                assert!(script.contains(flag), "{shell:?}: {flag}");
            }
        }
    }
}

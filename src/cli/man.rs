//! `clawdbot man`: the manual page, or those of all commands into a directory.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use super::{Cli, Failure, say};

#[derive(Debug, Args)]
pub(super) struct ManFlags {
    /// Where clawdbot.1 and a page for each command are written; without it, the first goes to stdout
    directory: Option<PathBuf>,
}

pub(super) fn run(flags: ManFlags) -> Result<(), Failure> {
    let Some(directory) = flags.directory else {
        let mut page = Vec::new();
        Man::new(Cli::command())
            .render(&mut page)
            .map_err(Failure::at_run_time)?;
        return say(String::from_utf8_lossy(&page).trim_end());
    };
    let written: io::Result<()> =
        fs::create_dir_all(&directory).and_then(|()| clap_mangen::generate_to(Cli::command(), &directory));
    written.map_err(|error| {
        Failure::AtRunTime(format!(
            "manual pages cannot be written into {}: {error}; name a directory that you may write to",
            directory.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_but_the_hidden_ones_and_the_same_bytes_each_time() {
        let temp = tempfile::tempdir().unwrap();
        let pages = || {
            let directory = temp.path().join("man");
            run(ManFlags {
                directory: Some(directory.clone()),
            })
            .unwrap();
            let page = |name: &str| fs::read_to_string(directory.join(name));
            let whole = page("clawdbot.1").unwrap();
            for command in Cli::command().get_subcommands() {
                let name = format!("clawdbot-{}.1", command.get_name());
                assert_eq!(page(&name).is_ok(), !command.is_hide_set(), "{name}");
            }
            assert!(page("clawdbot-device-pair.1").is_ok());
            assert!(!whole.contains("inference"), "{whole}");
            whole
        };
        assert_eq!(pages(), pages());
    }

    #[test]
    fn a_directory_that_cannot_be_is_a_failure_that_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        let Err(Failure::AtRunTime(message)) = run(ManFlags {
            directory: Some(file.clone()),
        }) else {
            panic!("it was written")
        };
        assert!(message.contains(file.to_str().unwrap()), "{message}");
    }
}

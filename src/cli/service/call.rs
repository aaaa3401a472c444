//! A command of the system, as it is run and as a person would type it.

use std::fmt;
use std::io;
use std::process::{Command, Output, Stdio};

use super::Failure;

/// Looked for in `PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    program: &'static str,
    arguments: Vec<String>,
}

impl Call {
    pub(super) fn new<A: Into<String>>(
        program: &'static str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            program,
            arguments: arguments.into_iter().map(Into::into).collect(),
        }
    }

    /// Runs it, and has it succeed.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let output = self.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = match said.trim() {
            "" => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            said => said.to_owned(),
        };
        Err(Failure::AtRunTime(format!(
            "`{self}` failed ({}): {said}; mend that and run the same again, which does only what is missing",
            output.status
        )))
    }

    /// Runs it, and gives what it said where it succeeded.
    pub(super) fn ask(&self) -> Result<Option<String>, Failure> {
        let output = self.output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(output.status.success().then_some(said))
    }

    fn output(&self) -> Result<Output, Failure> {
        let run = Command::new(self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .output();
        run.map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => {
                    "it is no program in PATH; install it, or do by hand what it would do"
                }
                _ => "run it by hand to see why",
            };
            Failure::AtRunTime(format!("`{self}` could not be started: {error}; {hint}"))
        })
    }
}

/// As a shell takes it.
impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.program)?;
        for argument in &self.arguments {
            write!(formatter, " {}", shown(argument))?;
        }
        Ok(())
    }
}

/// A word as a shell takes it.
pub(super) fn shown(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_as_a_shell_takes_it() {
        let call = Call::new(
            "dscl",
            [".", "-create", "/Groups/_x", "Password", "*", "it's", ""],
        );
        assert_eq!(
            call.to_string(),
            r"dscl . -create /Groups/_x Password '*' 'it'\''s' ''"
        );
    }

    #[test]
    fn what_failed_says_so_with_its_own_words() {
        let call = Call::new("sh", ["-c", "echo no disk >&2; exit 3"]);
        let Err(Failure::AtRunTime(message)) = call.run() else {
            panic!("it ran");
        };
        assert!(message.contains("no disk") && message.contains('3'), "{message}");
        assert_eq!(call.ask().unwrap(), None);
        assert_eq!(Call::new("echo", ["yes"]).ask().unwrap().as_deref(), Some("yes"));
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let Err(Failure::AtRunTime(message)) = Call::new("no-such-program", ["x"]).run() else {
            panic!("it ran");
        };
        assert!(
            message.contains("`no-such-program x` could not be started"),
            "{message}"
        );
    }
}

//! What was found, for people and for programs: the form in which `doctor` and `audit` answer.

use serde::Serialize;

use super::{Failure, say};
use crate::settings::{Settings, SettingsError};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Worth knowing.
    Info,
    /// It works, and will not for ever.
    Warning,
    /// It does not work.
    Error,
}

/// Whose fault it is, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody's: nothing is wrong.
    None,
    /// The machine's or the daemon's: exit code 1.
    AtRunTime,
    /// The configuration's: exit code 2.
    Configuration,
}

/// Something that is not as it should be.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Which check found it.
    pub(super) check_id: &'static str,
    pub(super) severity: Severity,
    /// What is so.
    pub(super) message: String,
    /// The file, setting or address that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// What to try.
    pub(super) fix_hint: String,
    #[serde(skip)]
    pub(super) fault: Fault,
}

impl Finding {
    pub(super) fn error(message: impl Into<String>, fix_hint: impl Into<String>) -> Self {
        Self::new(Severity::Error, Fault::AtRunTime, message.into(), fix_hint.into())
    }

    pub(super) fn misconfigured(message: impl Into<String>, fix_hint: impl Into<String>) -> Self {
        Self::new(
            Severity::Error,
            Fault::Configuration,
            message.into(),
            fix_hint.into(),
        )
    }

    pub(super) fn warning(message: impl Into<String>, fix_hint: impl Into<String>) -> Self {
        Self::new(Severity::Warning, Fault::None, message.into(), fix_hint.into())
    }

    pub(super) fn info(message: impl Into<String>, fix_hint: impl Into<String>) -> Self {
        Self::new(Severity::Info, Fault::None, message.into(), fix_hint.into())
    }

    fn new(severity: Severity, fault: Fault, message: String, fix_hint: String) -> Self {
        Self {
            check_id: "",
            severity,
            message,
            path: None,
            fix_hint,
            fault,
        }
    }

    pub(super) fn about(mut self, path: impl ToString) -> Self {
        self.path = Some(path.to_string());
        self
    }
}

/// What a check comes to: a line for people where all is well, and what is not.
pub(super) type Checked = Result<String, Finding>;

/// The same of a check that looks at several things.
pub(super) type Examined = Result<String, Vec<Finding>>;

/// Something that was mended, or would be.
#[derive(Debug, Serialize)]
pub(super) struct Mended {
    /// The command that does the same by hand.
    pub(super) action: String,
    pub(super) outcome: Outcome,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Done,
    /// Only asked about.
    WouldBeDone,
    Failed,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Of each check its name, and what is well.
    pub(super) lines: Vec<(&'static str, Option<String>)>,
    pub(super) findings: Vec<Finding>,
    /// What was mended before the checks; none where that was not asked for.
    pub(super) mended: Option<Vec<Mended>>,
}

/// As `../shared/CONVENTIONS.md` has it.
#[derive(Serialize)]
struct Written<'r> {
    ok: bool,
    checks_run: usize,
    findings: &'r [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    mended: Option<&'r [Mended]>,
}

impl Report {
    /// A check was made.
    pub(super) fn note(&mut self, check: &'static str, checked: Checked) {
        self.note_all(check, checked.map_err(|finding| vec![finding]));
    }

    /// A check was made of several things.
    pub(super) fn note_all(&mut self, check: &'static str, examined: Examined) {
        let line = match examined {
            Ok(line) => Some(line),
            Err(findings) => {
                self.findings.extend(findings.into_iter().map(|finding| Finding {
                    check_id: check,
                    ..finding
                }));
                None
            }
        };
        self.lines.push((check, line));
    }

    /// Whether nothing keeps it from working.
    pub(super) fn is_ok(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.severity < Severity::Error)
    }

    /// The worst fault: a configuration that must change comes first, since nothing else helps then.
    pub(super) fn fault(&self) -> Fault {
        let has = |fault| self.findings.iter().any(|finding| finding.fault == fault);
        match (has(Fault::Configuration), has(Fault::AtRunTime)) {
            (true, _) => Fault::Configuration,
            (false, true) => Fault::AtRunTime,
            (false, false) => Fault::None,
        }
    }

    /// For programs.
    /// The settings are there, with what there is to notice about them.
    pub(super) fn note_settings(&mut self, settings: &Settings) {
        let mut found = "they can be read".to_owned();
        for notice in &settings.former {
            found += &format!("; {notice}");
        }
        self.note("settings", Ok(found));
    }

    /// They are not.
    pub(super) fn note_wrong_settings(&mut self, error: &SettingsError) {
        let hint = "mend what is named; `clawdbot check --defaults` explains every setting";
        self.note("settings", Err(Finding::misconfigured(error.to_string(), hint)));
    }

    /// Says all of it, for people or as JSON; what is wrong decides how the command ends.
    pub(super) fn conclude(&self, as_json: bool, in_words: &str) -> Result<(), Failure> {
        say(if as_json {
            self.json().map_err(Failure::at_run_time)?
        } else {
            self.text()
        })?;
        match self.fault() {
            Fault::None => Ok(()),
            Fault::AtRunTime => Err(Failure::AtRunTime(in_words.to_owned())),
            Fault::Configuration => Err(Failure::Misconfigured(in_words.to_owned())),
        }
    }

    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&Written {
            ok: self.is_ok(),
            checks_run: self.lines.len(),
            findings: &self.findings,
            mended: self.mended.as_deref(),
        })
    }

    /// For people: a line a check, what to try beneath what is not well.
    pub(super) fn text(&self) -> String {
        let mut text: String = self.mended.iter().flatten().map(Mended::line).collect();
        for (check, line) in &self.lines {
            if let Some(line) = line {
                text += &format!("ok       {check}: {line}\n");
            }
            for finding in self.findings.iter().filter(|finding| finding.check_id == *check) {
                let word = match finding.severity {
                    Severity::Info => "note    ",
                    Severity::Warning => "WARNING ",
                    Severity::Error => "ERROR   ",
                };
                let path = finding.path.as_deref();
                let path = path.map(|path| format!("{path}: ")).unwrap_or_default();
                text += &format!(
                    "{word} {check}: {path}{}\n         → {}\n",
                    finding.message, finding.fix_hint
                );
            }
        }
        let count = |severity| {
            let found = self.findings.iter();
            found.filter(|finding| finding.severity == severity).count()
        };
        text + &format!(
            "{} checks, {} errors, {} warnings",
            self.lines.len(),
            count(Severity::Error),
            count(Severity::Warning)
        )
    }
}

impl Mended {
    fn line(&self) -> String {
        let word = match self.outcome {
            Outcome::Done => "mended   ",
            Outcome::WouldBeDone => "would do ",
            Outcome::Failed => "FAILED   ",
        };
        let trouble = self.trouble.as_deref();
        let trouble = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        format!("{word}{}{trouble}\n", self.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_of_several_things_counts_once_and_what_was_mended_comes_first() {
        let mut report = Report::default();
        let two = ["a", "b"].map(|path| Finding::warning("it is open", "close it").about(path));
        report.note_all("files", Err(two.into()));
        assert!(!report.json().unwrap().contains("mended"), "nobody asked for it");
        report.mended = Some(vec![Mended {
            action: "chmod 600 'c'".to_owned(),
            outcome: Outcome::Failed,
            trouble: Some("no such file".to_owned()),
        }]);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!((&json["checks_run"], &json["ok"]), (&1.into(), &true.into()));
        assert_eq!(json["findings"][1]["path"], "b");
        let expected =
            serde_json::json!([{"action": "chmod 600 'c'", "outcome": "failed", "trouble": "no such file"}]);
        assert_eq!(json["mended"], expected);
        let text = report.text();
        assert!(
            text.starts_with("FAILED   chmod 600 'c': no such file\n"),
            "{text}"
        );
        assert!(text.ends_with("1 checks, 0 errors, 2 warnings"), "{text}");
    }

    #[test]
    fn a_report_is_ok_with_warnings_and_its_worst_fault_decides() {
        let mut report = Report::default();
        report.note("disk", Ok("quick".to_owned()));
        assert_eq!((report.is_ok(), report.fault()), (true, Fault::None));
        report.note(
            "memory",
            Err(Finding::warning("little is free", "stop something")),
        );
        assert_eq!((report.is_ok(), report.fault()), (true, Fault::None));
        report.note(
            "ask",
            Err(Finding::error("no answer", "look at the log").about("127.0.0.1:1")),
        );
        assert_eq!((report.is_ok(), report.fault()), (false, Fault::AtRunTime));
        let misconfigured = Finding::misconfigured("it is taken", "set another");
        report.note("ports", Err(misconfigured.about("mqtt.tcp")));
        assert_eq!(report.fault(), Fault::Configuration);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["checks_run"], 4);
        assert_eq!(json["ok"], false);
        let expected = serde_json::json!({"check_id": "ports", "severity": "error", "message": "it is taken", "path": "mqtt.tcp",
            "fix_hint": "set another"});
        assert_eq!(json["findings"][2], expected);
        let text = report.text();
        for line in [
            "ok       disk: quick\n",
            "WARNING  memory: little is free\n         → stop something\n",
            "ERROR    ports: mqtt.tcp: it is taken\n",
            "4 checks, 2 errors, 1 warnings",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}

//! Mosquitto's scripted broker tests, unchanged, against the real daemon. They are not part of this
//! project: `tests/run` fetches Mosquitto's source, and `tests/clients/mosq_test.py` takes the place of
//! the scripts' own helper. The 1,826 sequences that belong to the same tests are in `conformance`.

mod differences;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use tempfile::TempDir;

use crate::support::process::{self, Finished};
use crate::support::{foreign, free_port, say};
use differences::{DIFFERENCES, NOT_ABOUT_US};

/// The scripts that must be about us, so that a change to how they are run loses none unseen.
const TRIED: usize = 80;

/// Scripts sleep more than they work.
const LANES: usize = 8;

/// Some measure how long a will or a message takes, and this machine may be busy. What is wrong is wrong
/// every time.
const ATTEMPTS: usize = 3;

/// Exit code of a script that is about an option of Mosquitto's.
const NOT_OURS: i32 = 77;

enum Verdict {
    Passed,
    NotOurs(String),
    Failed(String),
}

#[test]
fn mosquittos_scripts_pass_but_for_the_listed_differences() {
    let Some(source) = foreign::mosquitto_source() else {
        return;
    };
    let folder = prepare(&source);
    let mut verdicts = run_all(folder.path());
    verdicts.sort_by(|one, other| one.0.cmp(&other.0));

    let (mut passed, mut not_ours, mut failed, mut report) = (0, 0, Vec::new(), String::new());
    for (script, verdict) in &verdicts {
        match verdict {
            Verdict::Passed => passed += 1,
            Verdict::NotOurs(option) => {
                not_ours += 1;
                report += &format!("    {script} is about {option}\n");
            }
            Verdict::Failed(why) => {
                failed.push(script.as_str());
                report += &format!("    {script} fails: {why}\n");
            }
        }
    }
    let tried = passed + failed.len();
    say(&format!(
        "Mosquitto's broker scripts: {tried} apply, {passed} pass, {} differ as listed; \
         {not_ours} more are about options of Mosquitto's",
        failed.len()
    ));
    let mut listed: Vec<&str> = DIFFERENCES.iter().map(|(script, _)| *script).collect();
    listed.sort_unstable();
    assert_eq!(
        failed, listed,
        "the failing scripts are not the listed ones\n{report}"
    );
    assert!(tried >= TRIED, "only {tried} scripts are about us\n{report}");
}

/// A copy of the tests in which our helper stands in the place of theirs.
fn prepare(source: &Path) -> TempDir {
    let folder = TempDir::with_prefix("mosquitto-scripts-").expect("a temporary directory");
    for part in ["", "broker"] {
        let to = folder.path().join(part);
        fs::create_dir_all(&to).expect("a directory");
        for from in entries(&source.join("test").join(part)) {
            if from.is_file() {
                fs::copy(&from, to.join(from.file_name().expect("a name"))).expect("a copy");
            }
        }
    }
    let helper = folder.path().join("mosq_test.py");
    fs::rename(&helper, folder.path().join("mosquittos_mosq_test.py")).expect("their helper");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mosq_test.py");
    fs::copy(ours, helper).expect("our helper");
    folder
}

fn run_all(folder: &Path) -> Vec<(String, Verdict)> {
    let mut scripts: Vec<String> = entries(&folder.join("broker"))
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".py"))
        .filter(|script| script.starts_with(|first: char| first.is_ascii_digit()))
        .filter(|script| !NOT_ABOUT_US.iter().any(|(part, _)| script.contains(part)))
        .map(str::to_owned)
        .collect();
    scripts.sort_unstable();
    let scripts = Mutex::new(scripts);
    let verdicts = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let script = scripts.lock().expect("no lane panicked").pop();
                    let Some(script) = script else { break };
                    let verdict = run(folder, &script);
                    verdicts.lock().expect("no lane panicked").push((script, verdict));
                }
            });
        }
    });
    verdicts.into_inner().expect("no lane panicked")
}

fn run(folder: &Path, script: &str) -> Verdict {
    let is_listed = DIFFERENCES.iter().any(|(listed, _)| *listed == script);
    let attempts = if is_listed { 1 } else { ATTEMPTS };
    let mut verdict = run_once(folder, script);
    for _ in 1..attempts {
        if let Verdict::Failed(why) = &verdict {
            say(&format!("{script} failed and is tried again: {why}"));
            verdict = run_once(folder, script);
        }
    }
    verdict
}

fn run_once(folder: &Path, script: &str) -> Verdict {
    let broker = folder.join("broker");
    let finished = process::finish(
        Command::new("python3")
            .arg(broker.join(format!("{script}.py")))
            // None of those that are about us needs more than one.
            .arg(free_port().to_string())
            .current_dir(&broker)
            .env("CLAWDBOT_BINARY", env!("CARGO_BIN_EXE_clawdbot"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null()),
    );
    let last_line = || {
        finished
            .stdout
            .trim()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned()
    };
    match finished.status.code() {
        Some(0) => Verdict::Passed,
        Some(NOT_OURS) => Verdict::NotOurs(last_line()),
        _ => Verdict::Failed(told(&finished)),
    }
}

/// What a script said of its failure, in one line.
fn told(finished: &Finished) -> String {
    let lines: Vec<&str> = finished.stdout.lines().chain(finished.stderr.lines()).collect();
    let told = lines[lines.len().saturating_sub(4)..].join(" | ");
    if told.trim().is_empty() {
        format!("{}", finished.status)
    } else {
        told
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect()
}

//! What a release brings beside the program: completions, manual pages, and the archive with its checksum.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::daemon::Home;
use crate::support::process::{self, Finished};

#[test]
fn bash_takes_its_completions_and_completes_by_them() {
    let home = Home::new();
    let script = process::finish(&mut home.command(&["completions", "bash"]));
    script.assert_code(0);
    let asked = format!(
        "{}\nCOMP_WORDS=(clawdbot device pa)\nCOMP_CWORD=2\n_clawdbot clawdbot pa device\necho \"${{COMPREPLY[@]}}\"\n",
        script.stdout
    );
    let completed = process::finish_with_input(&mut home.command_of("bash".as_ref(), &["-u"]), &asked);
    completed.assert_code(0);
    assert_eq!(completed.stdout, "pair\n", "{completed:#?}");
}

#[test]
fn a_shell_that_is_not_known_is_a_wrong_invocation() {
    let finished = process::finish(&mut Home::new().command(&["completions", "tcsh"]));
    finished.assert_code(2).assert_says(&["bash, zsh, fish"]);
}

#[test]
fn the_manual_page_goes_to_stdout_where_no_directory_is_named() {
    let finished = process::finish(&mut Home::new().command(&["man"]));
    finished.assert_code(0);
    assert!(finished.stdout.contains(".TH clawdbot 1"), "{}", finished.stdout);
}

/// Runs the script on a program that calls ours: the archive of one with a test's debug information takes long.
fn release(home: &Home, program: &str, out: &Path) -> Finished {
    let called = home.path().join("called");
    // By a process of its own: a file that a thread of ours has open, or a fork of another test's, cannot be run.
    let mut writer = Command::new("sh");
    writer
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(&called);
    process::finish_with_input(&mut writer, program).assert_code(0);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("config/deploy/release.sh"));
    command
        .env("BINARY", &called)
        .env("OUT", out)
        .env("TRIPLE", "test-machine")
        .env("SOURCE_DATE_EPOCH", "1800000000");
    process::finish(&mut command)
}

#[test]
fn a_release_is_an_archive_with_its_checksum_and_the_same_bytes_each_time() {
    let home = Home::new();
    let name = format!("clawdbot-{}-test-machine", env!("CARGO_PKG_VERSION"));
    let program = format!("#!/bin/sh\nexec '{}' \"$@\"\n", env!("CARGO_BIN_EXE_clawdbot"));
    let archives = ["first", "second"].map(|out| {
        let out = home.path().join(out);
        release(&home, &program, &out).assert_code(0);
        out.join(format!("{name}.tar.gz"))
    });
    let [first, second] = archives
        .each_ref()
        .map(|path| fs::read(path).expect("an archive"));
    assert!(first == second, "the archives differ");

    let [archive, _] = &archives;
    let told = fs::read_to_string(archive.with_extension("gz.sha256")).expect("a checksum");
    let sum = told.split("  ").next().expect("a sum");
    assert_eq!(told, format!("{sum}  {name}.tar.gz\n"));
    let digest = ring::digest::digest(&ring::digest::SHA256, &first);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, hex);

    let unpacked: [&OsStr; 4] = [
        "-xzf".as_ref(),
        archive.as_ref(),
        "-C".as_ref(),
        home.path().as_ref(),
    ];
    process::finish(Command::new("tar").args(unpacked)).assert_code(0);
    let root = home.path().join(&name);
    for file in [
        "README.md",
        "CHANGELOG.md",
        "LICENSES/LICENSE-MIT",
        "LICENSES/LICENSE-APACHE",
        "LICENSES/THIRD-PARTY.txt",
        "completions/clawdbot.bash",
        "completions/_clawdbot",
        "completions/clawdbot.fish",
        "config/default.toml",
        "man/man1/clawdbot.1",
        "man/man1/clawdbot-device-pair.1",
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(!text.is_empty(), "{file}");
    }
    let licences = fs::read_to_string(root.join("LICENSES/THIRD-PARTY.txt")).expect("licences");
    assert!(licences.contains("\ntokio ") && licences.contains("Permission is hereby granted"));
    let mode = fs::metadata(root.join("clawdbot"))
        .expect("the program")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn a_program_of_another_version_is_not_released() {
    let home = Home::new();
    let out = home.path().join("out");
    let finished = release(&home, "#!/bin/sh\necho clawdbot 0.0.9\n", &out);
    finished
        .assert_code(2)
        .assert_says(&["clawdbot 0.0.9", "and not"]);
    assert!(!out.exists());
}

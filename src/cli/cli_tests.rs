//! What the command line takes, and what it answers with its exit code.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

fn exit_code(line: &str) -> String {
    format!(
        "{:?}",
        run(line.split(' ').map(OsString::from), |_| async { Ok(()) })
    )
}

fn code(number: u8) -> String {
    format!("{:?}", ExitCode::from(number))
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn flags_of_serve_work_with_and_without_its_name_and_global_flags_on_both_sides() {
    for line in [
        "clawdbot --data-dir /d --model /m",
        "clawdbot serve --model /m --data-dir /d",
        "clawdbot --data-dir /d serve --model /m",
        "clawdbot --model /m serve --data-dir /d",
    ] {
        let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let (global, serve) = match cli.command {
            Some(Command::Serve(inner)) if inner.flags.is_given() => {
                (cli.global.then(inner.global), inner.flags)
            }
            Some(Command::Serve(inner)) => (cli.global.then(inner.global), cli.serve),
            _ => (cli.global, cli.serve),
        };
        assert_eq!(serve.settings().unwrap().value, "/m", "{line}");
        assert_eq!(global.data_dir.as_deref(), Some("/d"), "{line}");
    }
}

#[test]
fn assignments_may_be_repeated_stand_on_both_sides_and_contain_an_equals_sign() {
    let cli = parse("clawdbot --set log.level=a=debug status --set mqtt.tcp=x --set mqtt.tcp=y").unwrap();
    let Some(Command::Status(inner)) = cli.command else {
        panic!("another command")
    };
    let assignments = cli.global.then(inner.global).assignments;
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        assignments,
        [
            pair("log.level", "a=debug"),
            pair("mqtt.tcp", "x"),
            pair("mqtt.tcp", "y")
        ]
    );
}

#[test]
fn help_and_version_are_fine_and_a_wrong_invocation_is_2() {
    assert_eq!(exit_code("clawdbot --version"), code(0));
    assert_eq!(exit_code("clawdbot --help"), code(0));
    for line in [
        "clawdbot --no-such-flag",
        "clawdbot dance",
        "clawdbot token",
        "clawdbot serve --set x",
    ] {
        assert_eq!(exit_code(line), code(2), "{line}");
    }
}

#[test]
fn a_wrong_configuration_is_2_and_a_daemon_that_does_not_run_is_1() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().display();
    assert_eq!(
        exit_code(&format!("clawdbot check --data-dir {dir} --set mqtt.tcp=nowhere")),
        code(2)
    );
    assert_eq!(
        exit_code(&format!("clawdbot check --data-dir {dir} --model /no/such.gguf")),
        code(2)
    );
    assert_eq!(exit_code(&format!("clawdbot check --data-dir {dir}")), code(0));
    assert_eq!(exit_code(&format!("clawdbot status --data-dir {dir}")), code(1));
    assert_eq!(
        exit_code(&format!("clawdbot status --data-dir {dir}/missing")),
        code(1)
    );
}

#[test]
fn asking_without_a_daemon_is_1_and_with_a_bad_address_2() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().display();
    assert_eq!(
        exit_code(&format!("clawdbot ask hello --data-dir {dir}")),
        code(1),
        "no key yet"
    );
    assert_eq!(exit_code(&format!("clawdbot token a --data-dir {dir}")), code(0));
    // Port 1 on loopback: nobody listens there.
    assert_eq!(
        exit_code(&format!(
            "clawdbot ask hello --data-dir {dir} --connect 127.0.0.1:1"
        )),
        code(1)
    );
    assert_eq!(
        exit_code(&format!("clawdbot ask hello --data-dir {dir} --connect nowhere")),
        code(2)
    );
}

#[test]
fn a_name_that_cannot_stand_in_a_topic_gets_no_token() {
    let temp = tempfile::tempdir().unwrap();
    for device in ["a/b", "+", "#", "bridge", "$SYS"] {
        assert_eq!(
            exit_code(&format!(
                "clawdbot token {device} --data-dir {}",
                temp.path().display()
            )),
            code(2)
        );
    }
}

#[test]
fn model_before_a_command_that_has_no_use_for_it_is_2() {
    assert_eq!(exit_code("clawdbot --model /m status"), code(2));
}

//! Where the log goes.

use super::*;

#[test]
fn a_log_file_is_in_the_data_directory_unless_its_path_says_more() {
    let setup = setup();
    assert_eq!(setup.settings().log.file, None);
    let data = setup.temp.path().join("data");
    let place = setup
        .flag("--set", "log.file", "log/clawdbot.log")
        .settings()
        .log
        .file;
    let expected = LogPlace {
        path: data.join("log/clawdbot.log"),
        max_bytes: 10 << 20,
        keep: 5,
    };
    assert_eq!(place, Some(expected));
    let place = super::setup()
        .file("[log]\nfile = \"/var/log/clawdbot.log\"\nmax_mib = 1\nkeep = 0\n")
        .settings()
        .log
        .file;
    let expected = LogPlace {
        path: "/var/log/clawdbot.log".into(),
        max_bytes: 1 << 20,
        keep: 0,
    };
    assert_eq!(place, Some(expected));
}

//! Settings files of former versions.

use super::super::former::{FORMER, Fate};
use super::*;

const RENAMED: &[(&str, Fate)] = &[
    ("log.verbosity", Fate::Renamed("log.level")),
    ("old.limit", Fate::Renamed("scheduler.max_queued")),
];

#[test]
fn a_whole_file_of_a_former_version_is_taken_with_a_notice_of_what_is_gone() {
    let setup = setup().file(include_str!("former_default.toml"));
    let settings = setup.settings();
    let [notice] = settings.former.as_slice() else {
        panic!("{:?}", settings.former)
    };
    assert_says(
        notice,
        &[
            "my.toml:",
            "memory.warn_below_free_percent does nothing any more",
            "memory.keep_free_percent",
            "take it out",
        ],
    );
    assert_eq!(settings.memory.keep_free_percent, 20);
}

#[test]
fn there_is_nothing_to_notice_about_todays_defaults() {
    assert_eq!(setup().file(DEFAULT_TOML).settings().former, Vec::<String>::new());
}

#[test]
fn no_former_name_is_in_use_and_what_took_its_place_is() {
    let mut problems = Vec::new();
    let (layers, _) = Sources::default().layers(&mut problems);
    let exists = |key: &str| layers[0].entries.iter().any(|entry| entry.key == key);
    for (name, fate) in FORMER {
        assert!(!exists(name), "{name}");
        if let Fate::Renamed(new) = fate {
            assert!(exists(new), "{new}");
        }
    }
}

#[test]
fn a_renamed_setting_is_taken_over_from_each_source_in_its_strength() {
    let setup = setup()
        .file("[log]\nverbosity = \"warn\"\n[old]\nlimit = 5\n")
        .variable("CLAWDBOT__LOG__VERBOSITY", "debug")
        .flag("--set", "old.limit", "6");
    let settings = load_with(&setup.sources, RENAMED).unwrap();
    assert_eq!(settings.log.level, "debug");
    assert_eq!(settings.scheduler.max_queued, 6);
    let notices = settings.former.join("\n");
    assert_says(
        &notices,
        &[
            &format!("{}log.verbosity is called log.level", setup.at_line(2)),
            &format!("{}old.limit is called scheduler.max_queued", setup.at_line(4)),
            "environment variable CLAWDBOT__LOG__VERBOSITY: CLAWDBOT__LOG__VERBOSITY is called CLAWDBOT__LOG__LEVEL",
            "flag --set: old.limit is called scheduler.max_queued",
        ],
    );
}

#[test]
fn where_both_names_are_set_in_one_source_the_new_one_counts() {
    for text in [
        "[log]\nverbosity = \"warn\"\nlevel = \"debug\"\n",
        "[log]\nlevel = \"debug\"\nverbosity = \"warn\"\n",
    ] {
        let settings = load_with(&setup().file(text).sources, RENAMED).unwrap();
        assert_eq!(settings.log.level, "debug");
        assert_says(
            &settings.former.join("\n"),
            &["which is set as well and counts; take log.verbosity out"],
        );
    }
}

#[test]
fn what_a_renamed_setting_says_is_checked_and_refused_at_its_own_line() {
    let setup = setup().file("[old]\nlimit = 0\n");
    let error = load_with(&setup.sources, RENAMED).unwrap_err().to_string();
    assert_says(
        &error,
        &[&setup.at_line(2), "scheduler.max_queued = 0: out of range"],
    );
}

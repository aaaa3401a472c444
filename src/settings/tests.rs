//! Precedence, and every refusal with the place it names.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

mod access;
mod backup;
mod broker;
mod former;
mod listeners;
mod log;
mod model;
mod telemetry;

struct Setup {
    temp: tempfile::TempDir,
    sources: Sources,
}

/// Sources on an empty machine: nothing but a home.
fn setup() -> Setup {
    let temp = tempfile::tempdir().unwrap();
    let sources = Sources {
        platform_data_dir: Some(temp.path().join("data")),
        ..Sources::default()
    };
    Setup { temp, sources }
}

impl Setup {
    fn file(mut self, text: &str) -> Setup {
        fs::write(self.path(), text).unwrap();
        self.sources.config_file = Some(self.path());
        self
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("my.toml")
    }

    fn variable(mut self, name: &str, value: &str) -> Setup {
        self.sources.environment.insert(name.to_owned(), value.into());
        self
    }

    fn flag(mut self, name: &'static str, key: &str, value: &str) -> Setup {
        self.sources.flags.push(Flag {
            name,
            key: key.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    fn settings(&self) -> Settings {
        load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    fn message(&self) -> String {
        match load(&self.sources) {
            Ok(_) => panic!("the settings were taken"),
            Err(error) => error.to_string(),
        }
    }

    fn at_line(&self, line: usize) -> String {
        format!("{}:{line}: ", self.path().display())
    }
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn the_defaults_are_those_that_tests_use_but_for_places() {
    let setup = setup();
    let mut defaults = setup.settings();
    assert_eq!(defaults.data_dir, setup.temp.path().join("data"));
    assert_eq!(defaults.mqtt.tcp.to_string(), "127.0.0.1:1883");
    assert_eq!(
        defaults
            .mqtt
            .websocket
            .map(|address| address.to_string())
            .as_deref(),
        Some("127.0.0.1:8083")
    );
    assert_eq!(defaults.metrics.listen.to_string(), "127.0.0.1:9464");
    let embedded = crate::library::Library::of(&defaults.data_dir).embedded();
    assert_eq!(defaults.model.path.take(), Some(embedded));
    let tests = Settings::default_for_tests(setup.temp.path());
    defaults.data_dir.clone_from(&tests.data_dir);
    defaults.mqtt.tcp = tests.mqtt.tcp;
    defaults.mqtt.websocket = tests.mqtt.websocket;
    defaults.metrics.listen = tests.metrics.listen;
    assert_eq!(format!("{defaults:?}"), format!("{tests:?}"));
}

#[test]
fn the_default_file_has_the_same_keys_as_the_raw_settings() {
    // A key too many is refused by deny_unknown_fields, a key too few is a missing field.
    let source = config::File::from_str(DEFAULT_TOML, config::FileFormat::Toml);
    let config = Config::builder().add_source(source).build().unwrap();
    config.try_deserialize::<RawSettings>().unwrap();
}

#[test]
fn every_default_is_explained_by_a_comment_that_names_it() {
    let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with('#') || !line.contains(" = ") {
            continue;
        }
        let comment: Vec<&str> = lines[..index]
            .iter()
            .rev()
            .take_while(|line| line.starts_with('#'))
            .copied()
            .collect();
        assert!(
            comment.iter().any(|line| line.contains("Default: ")),
            "{line} has no comment with its default"
        );
    }
}

#[test]
fn flags_beat_variables_beat_the_file_beat_the_defaults() {
    let setup = setup()
        .file("[mqtt]\ntcp = \"127.0.0.1:2\"\n[log]\nlevel = \"warn\"\n[auth]\ntoken_lifetime_s = 60\n");
    let setup = setup
        .variable("CLAWDBOT__MQTT__TCP", "127.0.0.1:3")
        .variable("CLAWDBOT__LOG__LEVEL", "debug")
        .flag("--set", "mqtt.tcp", "127.0.0.1:4");
    let settings = setup.settings();
    assert_eq!(settings.mqtt.tcp.port(), 4);
    assert_eq!(settings.log.level, "debug");
    assert_eq!(settings.auth.token_lifetime.as_secs(), 60);
    assert_eq!(settings.scheduler.max_queued, 1024);
}

#[test]
fn the_last_of_several_flags_counts() {
    let setup = setup()
        .flag("--set", "model.path", "/a")
        .flag("--model", "model.path", "/b");
    assert_eq!(setup.settings().model.path.as_deref(), Some(Path::new("/b")));
}

#[test]
fn variables_reach_every_kind_of_value() {
    let setup = setup()
        .variable("CLAWDBOT__MQTT__MAX_CONNECTIONS", "12")
        .variable("CLAWDBOT__SUPERVISOR__RANDOM_FACTOR", "0.5")
        .variable("CLAWDBOT__METRICS__ALLOW_BEYOND_LOOPBACK", "true")
        .variable("CLAWDBOT__LOG__FORMAT", "json")
        .variable("CLAWDBOT__DATA_DIR", "/0123")
        .variable("CLAWDBOT__MODEL__PATH", "")
        .variable("CLAWDBOT_OTHER", "not ours")
        .variable("PATH", "/bin");
    let settings = setup.settings();
    assert_eq!(settings.mqtt.max_connections, 12);
    assert_eq!(settings.supervisor.random_factor, 0.5);
    assert!(settings.metrics.allow_beyond_loopback);
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.data_dir, Path::new("/0123"));
}

#[test]
fn a_file_is_found_in_the_data_directory_then_in_the_configuration_directory() {
    let mut setup = setup();
    let (data, config) = (setup.temp.path().join("data"), setup.temp.path().join("config"));
    setup.sources.platform_config_dir = Some(config.clone());
    assert_eq!(setup.settings().scheduler.max_queued, 1024);
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("clawdbot.toml"), "scheduler.max_queued = 5").unwrap();
    assert_eq!(setup.settings().scheduler.max_queued, 5);
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("clawdbot.toml"), "scheduler.max_queued = 6").unwrap();
    assert_eq!(setup.settings().scheduler.max_queued, 6);
    let elsewhere = setup.temp.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::write(elsewhere.join("clawdbot.toml"), "scheduler.max_queued = 7").unwrap();
    let setup = setup.variable("CLAWDBOT__DATA_DIR", elsewhere.to_str().unwrap());
    assert_eq!(setup.settings().scheduler.max_queued, 7);
}

#[test]
fn a_relative_data_directory_becomes_absolute() {
    assert!(
        setup()
            .flag("--data-dir", "data_dir", "here")
            .settings()
            .data_dir
            .is_absolute()
    );
}

#[test]
fn a_machine_without_a_home_needs_a_data_directory() {
    let message = Setup {
        sources: Sources::default(),
        ..setup()
    }
    .message();
    assert_says(&message, &["data_dir", "no home directory", "--data-dir"]);
}

#[test]
fn a_named_file_that_does_not_exist_is_a_fault() {
    let mut setup = setup();
    setup.sources.config_file = Some("/no/such.toml".into());
    assert_says(
        &setup.message(),
        &["/no/such.toml", "cannot be read", "correct the path"],
    );
}

#[test]
fn a_syntax_error_names_its_line() {
    let setup = setup().file("# mine\n[mqtt]\ntcp = 127.0.0.1:1883\n");
    assert_says(&setup.message(), &[&setup.at_line(3), "not TOML"]);
    let setup = setup.file("[log]\nlevel = \"a\"\nlevel = \"b\"\n");
    assert_says(&setup.message(), &[&setup.at_line(3), "duplicate key"]);
    let setup = setup.file("[log]\n\n[log\n");
    assert_says(&setup.message(), &[&setup.at_line(3)]);
}

#[test]
fn an_unknown_key_names_its_place_and_what_was_probably_meant() {
    let setup = setup().file("data_dri = \"/x\"\n[mqtt]\nmax_conections = 5\nport = 1883\n");
    let message = setup.message();
    assert_says(
        &message,
        &["3 faults", &setup.at_line(1), "did you mean data_dir?"],
    );
    assert_says(
        &message,
        &[&setup.at_line(3), "did you mean mqtt.max_connections?"],
    );
    assert_says(
        &message,
        &[
            &setup.at_line(4),
            "mqtt.port = 1883: there is no such setting; `clawdbot check",
        ],
    );
}

#[test]
fn a_setting_in_the_wrong_section_is_recognised() {
    let setup = setup().file("[log]\ntcp = \"127.0.0.1:1\"\n");
    assert_says(&setup.message(), &[&setup.at_line(2), "did you mean mqtt.tcp?"]);
}

#[test]
fn an_unknown_variable_is_answered_with_a_variable() {
    let message = setup().variable("CLAWDBOT__MQTT__TPC", "127.0.0.1:1").message();
    assert_says(
        &message,
        &[
            "environment variable CLAWDBOT__MQTT__TPC",
            "did you mean CLAWDBOT__MQTT__TCP?",
        ],
    );
}

#[test]
fn an_unknown_flag_setting_names_the_flag() {
    assert_says(
        &setup().flag("--set", "mqtt.tpc", "x").message(),
        &["flag --set: ", "did you mean mqtt.tcp?"],
    );
}

#[test]
fn a_section_given_as_a_value_is_a_fault_and_so_is_a_value_given_as_a_section() {
    let setup = setup().file("mqtt = 5\n[data_dir]\npath = \"x\"\n");
    assert_says(
        &setup.message(),
        &[
            &setup.at_line(1),
            "mqtt is a section",
            &setup.at_line(3),
            "data_dir.path",
        ],
    );
    let setup = setup.file("[mqtt]\ntcp = { address = \"x\" }\nmax_connections = [1]\n");
    assert_says(
        &setup.message(),
        &[
            "mqtt.tcp = a table: the wrong type",
            "mqtt.max_connections = a list",
        ],
    );
}

#[test]
fn values_of_the_wrong_type_are_all_told_with_place_and_remedy() {
    let setup = setup().file(
        "[mqtt]\ntcp = 1883\nmax_connections = \"many\"\nmax_packet_bytes = 1.5\nreceive_maximum = true\n\
         allow_plaintext_beyond_loopback = 1\nmax_queued_messages = -1\nmax_queued_bytes = 99999999999999999999\n",
    );
    let message = setup.message();
    for line in 2..=8 {
        assert_says(&message, &[&setup.at_line(line)]);
    }
    assert_says(
        &message,
        &["mqtt.tcp = 1883: the wrong type; write text in quotes"],
    );
    assert_says(
        &message,
        &["mqtt.max_connections = \"many\": the wrong type; write a whole number"],
    );
    assert_says(
        &message,
        &["allow_plaintext_beyond_loopback = 1: the wrong type; write true or false"],
    );
}

#[test]
fn a_variable_of_the_wrong_type_is_told_too() {
    let message = setup()
        .variable("CLAWDBOT__SCHEDULER__MAX_QUEUED", "1e3")
        .message();
    assert_says(
        &message,
        &[
            "environment variable CLAWDBOT__SCHEDULER__MAX_QUEUED",
            "\"1e3\"",
            "a whole number",
        ],
    );
}

#[test]
fn every_number_has_a_range_that_is_told() {
    let outside = [
        ("mqtt.max_connections", "0", "1 to 1000000"),
        ("mqtt.max_connections_per_address", "0", "1 to 1000000"),
        ("mqtt.max_packet_bytes", "268435461", "1024 to 268435460"),
        ("mqtt.connect_timeout_s", "0", "1 to 3600"),
        ("mqtt.max_keep_alive_s", "65536", "0 to 65535"),
        ("mqtt.receive_maximum", "0", "1 to 65535"),
        ("mqtt.max_queued_messages", "0", "1 to 1000000"),
        ("mqtt.max_queued_bytes", "1", "1024 to 1073741824"),
        ("mqtt.max_session_expiry_s", "4294967296", "0 to 4294967295"),
        ("mqtt.max_retained_messages", "0", "1 to 1000000"),
        ("mqtt.max_retained_bytes", "1", "1024 to 1073741824"),
        ("mqtt.max_subscriptions", "0", "1 to 1000000"),
        ("mqtt.max_messages_per_s", "1000001", "0 to 1000000"),
        ("mqtt.max_bytes_per_s", "1099511627777", "0 to 1099511627776"),
        ("mqtt.max_topic_levels", "201", "1 to 200"),
        ("mqtt.max_topic_bytes", "0", "1 to 65535"),
        ("mqtt.max_inflight", "0", "1 to 65535"),
        ("flapping.max_disconnects", "1000001", "0 to 1000000"),
        ("flapping.window_s", "0", "1 to 86400"),
        ("flapping.ban_s", "86401", "1 to 86400"),
        ("auth.token_lifetime_s", "0", "1 to 86400"),
        ("auth.token_lifetime_s", "86401", "1 to 86400"),
        ("auth.max_devices", "0", "1 to 1000000"),
        ("model.max_sequences", "0", "1 to 1024"),
        ("model.cache_mib", "1000001", "0 to 1000000"),
        ("model.load_timeout_s", "0", "1 to 86400"),
        ("conversation.max_prompt_bytes", "0", "1 to 268435460"),
        ("conversation.max_queued", "1000001", "0 to 1000000"),
        ("conversation.default_max_tokens", "0", "1 to 1000000"),
        ("conversation.max_tokens_limit", "0", "1 to 1000000"),
        ("conversation.undeliverable_grace_s", "86401", "0 to 86400"),
        ("conversation.idle_s", "0", "1 to 86400"),
        ("conversation.history_tokens", "1000001", "0 to 1000000"),
        ("conversation.retention_days", "0", "1 to 36500"),
        ("scheduler.max_queued", "0", "1 to 1000000"),
        ("supervisor.min_backoff_ms", "0", "1 to 86400000"),
        ("supervisor.max_backoff_ms", "0", "1 to 86400000"),
        ("supervisor.random_factor", "1.01", "0.0 to 1.0"),
        ("supervisor.random_factor", "NaN", "0.0 to 1.0"),
        ("supervisor.reset_backoff_after_s", "0", "1 to 86400"),
        ("supervisor.heartbeat_interval_s", "0", "1 to 3600"),
        ("supervisor.heartbeat_timeout_s", "0", "1 to 3600"),
        ("supervisor.intensity", "1001", "0 to 1000"),
        ("supervisor.period_s", "0", "1 to 86400"),
        ("supervisor.step_up_after_s", "0", "1 to 86400"),
        ("scheduler.max_queued_background", "0", "1 to 1000000"),
        ("scheduler.background_after_s", "0", "1 to 86400"),
        ("scheduler.oldest_first_after_s", "0", "1 to 86400"),
        ("memory.keep_free_percent", "100", "0 to 99"),
        ("memory.recovery_margin_percent", "91", "0 to 90"),
        ("memory.dwell_s", "0", "1 to 86400"),
        ("memory.interval_s", "0", "1 to 3600"),
        ("log.max_mib", "0", "1 to 1000000"),
        ("log.keep", "1001", "0 to 1000"),
        ("shutdown.timeout_s", "0", "1 to 3600"),
    ];
    for (key, value, range) in outside {
        let message = setup().flag("--set", key, value).message();
        assert_says(
            &message,
            &[&format!(
                "flag --set: {key} = {value}: out of range; choose from {range}"
            )],
        );
    }
}

#[test]
fn choices_and_filters_are_checked() {
    for (key, value, remedy) in [
        ("auth.mode", "password", "write \"token\" or \"none\""),
        ("model.kv_precision", "int4", "write \"f16\" or \"int8\""),
        (
            "store.mode",
            "cloud",
            "write \"embedded\" or \"postgres\" or \"none\"",
        ),
        ("log.format", "xml", "write \"pretty\" or \"json\""),
        ("log.level", "info,clawdbot=loud", "write for example \"info\""),
        ("log.level", "", "write for example \"info\""),
        ("mqtt.tcp", "localhost", "write for example \"127.0.0.1:1883\""),
        ("metrics.listen", "127.0.0.1", "write for example"),
    ] {
        assert_says(
            &setup().flag("--set", key, value).message(),
            &[key, &format!("{value:?}"), remedy],
        );
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (key, value, other) in [
        ("metrics.listen", "127.0.0.1:1883", "mqtt.tcp"),
        ("mqtt.websocket", "127.0.0.1:1883", "mqtt.tcp"),
        (
            "conversation.default_max_tokens",
            "4097",
            "conversation.max_tokens_limit = 4096",
        ),
        (
            "supervisor.min_backoff_ms",
            "30001",
            "supervisor.max_backoff_ms = 30000",
        ),
        (
            "supervisor.heartbeat_interval_s",
            "30",
            "supervisor.heartbeat_timeout_s = 30",
        ),
    ] {
        assert_says(
            &setup().flag("--set", key, value).message(),
            &[&format!("flag --set: {key} = {value}"), other],
        );
    }
}

#[test]
fn faults_of_all_sources_come_out_together() {
    let setup = setup()
        .file("[log]\nlevel = \"=\"\n")
        .variable("CLAWDBOT__AUTH__MODE", "no")
        .flag("--set", "a.b", "c");
    let message = setup.message();
    assert_says(
        &message,
        &[
            "3 faults",
            &setup.at_line(2),
            "variable CLAWDBOT__AUTH__MODE",
            "flag --set: a.b = c",
        ],
    );
}

#[test]
fn a_variable_that_is_not_text_is_a_fault() {
    use std::os::unix::ffi::OsStringExt;
    let mut setup = setup();
    let value = std::ffi::OsString::from_vec(vec![0xff]);
    setup
        .sources
        .environment
        .insert("CLAWDBOT__DATA_DIR".to_owned(), value);
    assert_says(
        &setup.message(),
        &["environment variable CLAWDBOT__DATA_DIR", "not UTF-8"],
    );
}

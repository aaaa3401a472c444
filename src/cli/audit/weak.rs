//! Settings that show more, keep less or bound less than is good for a machine that nobody watches.

use std::net::IpAddr;

use super::{Subject, where_so};
use crate::cli::report::{Examined, Finding};
use crate::settings::StoreMode;

pub(super) fn log_level(subject: &Subject) -> Examined {
    let level = &subject.settings.log.level;
    where_so(
        is_talkative(level),
        || {
            let message = format!(
                "log.level = {level:?}: such lines may name topics and peers, and fill a disk in a year"
            );
            Finding::warning(message, "log.level = \"info\"").about("log.level")
        },
        level,
    )
}

/// In `info,clawdbot=debug` each part has its own.
fn is_talkative(level: &str) -> bool {
    let mut levels = level
        .split(',')
        .map(|part| part.rsplit('=').next().unwrap_or(part).trim());
    levels.any(|level| level.eq_ignore_ascii_case("debug") || level.eq_ignore_ascii_case("trace"))
}

pub(super) fn content(subject: &Subject) -> Examined {
    where_so(
        subject.settings.telemetry.capture_content,
        || {
            let message = "whoever reads the traces reads what people said";
            Finding::warning(message, "telemetry.capture_content = false").about("telemetry.capture_content")
        },
        "no words of anybody's are part of traces",
    )
}

pub(super) fn telemetry(subject: &Subject) -> Examined {
    let beyond = subject
        .settings
        .telemetry
        .collector
        .as_ref()
        .filter(|collector| !collector.is_here());
    where_so(
        beyond.is_some(),
        || {
            let host = beyond
                .map(|collector| host_of(&collector.endpoint))
                .unwrap_or_default();
            let message = format!("metrics, log and traces go to {host} in plain text");
            let hint = "run a collector on this machine that passes them on by TLS: config/opentelemetry/collector.yaml";
            Finding::warning(message, hint).about("telemetry.otlp_endpoint")
        },
        "nothing is sent beyond this machine",
    )
}

pub(super) fn hub(subject: &Subject) -> Examined {
    let endpoint = subject.settings.hub.endpoint.as_deref().unwrap_or_default();
    let host = host_of(endpoint);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    where_so(
        endpoint.starts_with("http://") && !is_here,
        || {
            let message =
                format!("models come from {host} in plain text: whoever is on the way can exchange them");
            Finding::warning(message, "hub.endpoint = \"https://…\", or empty").about("hub.endpoint")
        },
        "models come encrypted",
    )
}

/// Nothing else of an address is shown, since a password may stand before the host.
fn host_of(address: &str) -> &str {
    let authority = address.split("://").nth(1).unwrap_or_default();
    let authority = authority.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

pub(super) fn store(subject: &Subject) -> Examined {
    where_so(
        subject.settings.store.mode == StoreMode::None,
        || {
            let message =
                "nothing outlives the daemon: a device that was revoked may come back after a restart";
            Finding::warning(message, "store.mode = \"embedded\"").about("store.mode")
        },
        "pairings and revocations outlive the daemon",
    )
}

pub(super) fn store_checks(subject: &Subject) -> Examined {
    let store = &subject.settings.store;
    where_so(
        store.mode != StoreMode::None && store.check_interval.is_zero(),
        || {
            let message = "what is kept is never checked: damage is found when it is needed";
            Finding::warning(message, "store.check_interval_s = 86400").about("store.check_interval_s")
        },
        "what is kept is checked now and then",
    )
}

pub(super) fn memory(subject: &Subject) -> Examined {
    where_so(
        subject.settings.memory.keep_free_percent == 0,
        || {
            let message = "nothing is given up when memory runs short: the system ends processes instead";
            Finding::warning(message, "memory.keep_free_percent = 20").about("memory.keep_free_percent")
        },
        "something is given up before memory runs out",
    )
}

pub(super) fn connections(subject: &Subject) -> Examined {
    let mqtt = &subject.settings.mqtt;
    where_so(
        mqtt.max_connections_per_address >= mqtt.max_connections,
        || {
            let message = format!(
                "one address may have all {} connections, and keep everybody else out",
                mqtt.max_connections
            );
            let hint = format!(
                "mqtt.max_connections_per_address = {}",
                (mqtt.max_connections / 10).max(1)
            );
            Finding::warning(message, hint).about("mqtt.max_connections_per_address")
        },
        "one address cannot take all connections",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::settings::{Collector, OtlpProtocol};

    #[test]
    fn levels_that_tell_too_much_are_found_in_each_part() {
        for (level, expected) in [
            ("info", false),
            ("warn,clawdbot=info", false),
            ("debug", true),
            ("info,actors=TRACE", true),
            ("info,clawdbot::net[peer]=debug", true),
            ("info,debugger=warn", false),
        ] {
            assert_eq!(is_talkative(level), expected, "{level}");
        }
    }

    #[test]
    fn of_an_address_only_the_host_is_shown() {
        for (address, host) in [
            ("http://me:secret@hub.example:80/x", "hub.example"),
            ("http://[::1]:4318", "::1"),
            ("http://hub.example", "hub.example"),
            ("", ""),
        ] {
            assert_eq!(host_of(address), host);
        }
    }

    #[test]
    fn each_weak_setting_is_named_with_the_value_that_is_better() {
        let mut subject = Subject::for_tests(Path::new("/nowhere"));
        let checks = [
            log_level,
            content,
            telemetry,
            hub,
            store_checks,
            memory,
            connections,
        ];
        for check in checks.iter().chain([&(store as fn(&Subject) -> Examined)]) {
            assert!(check(&subject).is_ok());
        }
        let settings = &mut subject.settings;
        settings.log.level = "debug".to_owned();
        settings.telemetry.capture_content = true;
        settings.telemetry.collector = Some(Collector {
            endpoint: "http://collector.example:4318".to_owned(),
            protocol: OtlpProtocol::HttpProtobuf,
        });
        settings.hub.endpoint = Some("http://mirror.example".to_owned());
        settings.store.check_interval = Duration::ZERO;
        settings.memory.keep_free_percent = 0;
        settings.mqtt.max_connections_per_address = settings.mqtt.max_connections;
        for check in checks {
            let found = check(&subject).unwrap_err();
            assert!(
                found[0].path.as_ref().is_some_and(|path| path.contains('.')),
                "{found:?}"
            );
        }
        subject.settings.store.mode = StoreMode::None;
        assert!(store(&subject).is_err());
        assert!(store_checks(&subject).is_ok(), "nothing is kept");
        subject.settings.hub.endpoint = Some("http://127.0.0.1:8000".to_owned());
        assert!(hub(&subject).is_ok());
    }
}

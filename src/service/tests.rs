//! Both descriptions, key by key.

use super::*;
use crate::settings::{Flag, Sources, load};

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let flag = |(key, value): &(&str, &str)| Flag {
        name: "--set",
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let flags = pairs
        .iter()
        .map(flag)
        .chain([flag(&("data_dir", "/d"))])
        .collect();
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    load(&sources).unwrap()
}

fn service(manager: Manager) -> Service {
    Service::of(
        &settings(&[("shutdown.timeout_s", "20"), ("mqtt.max_connections", "3000")]),
        PathBuf::from("/usr/local/bin/clawdbot"),
        manager.data_dir().to_path_buf(),
        manager.user(),
        manager.user(),
    )
}

fn values<'a>(unit: &'a str, directive: &str) -> Vec<&'a str> {
    let of_line = |line: &'a str| line.strip_prefix(directive)?.strip_prefix('=');
    unit.lines().filter_map(of_line).collect()
}

#[test]
fn the_unit_says_each_thing_once() {
    let unit = Manager::Systemd.describe(&service(Manager::Systemd));
    let expected = [
        ("StartLimitIntervalSec", "0"),
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        (
            "ExecStart",
            r#""/usr/local/bin/clawdbot" "serve" "--data-dir" "/var/lib/clawdbot""#,
        ),
        ("User", "clawdbot"),
        ("Group", "clawdbot"),
        ("WorkingDirectory", "/var/lib/clawdbot"),
        ("StateDirectory", "clawdbot"),
        ("StateDirectoryMode", "0700"),
        ("RuntimeDirectory", "clawdbot"),
        ("RuntimeDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("Restart", "on-failure"),
        ("RestartSec", "5"),
        ("RestartPreventExitStatus", "2"),
        ("WatchdogSec", "30"),
        ("TimeoutStartSec", "300"),
        ("TimeoutStopSec", "35"),
        ("KillMode", "mixed"),
        ("LimitNOFILE", "4024"),
        ("LimitCORE", "0"),
        ("MemoryHigh", "90%"),
        ("OOMPolicy", "continue"),
        ("OOMScoreAdjust", "-200"),
        ("StandardOutput", "journal"),
        ("StandardError", "journal"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX AF_NETLINK"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallErrorNumber", "EPERM"),
        ("WantedBy", "multi-user.target"),
    ];
    for (directive, value) in expected {
        assert_eq!(values(&unit, directive), [value], "{directive} in\n{unit}");
    }
    assert_eq!(
        values(&unit, "SystemCallFilter"),
        ["@system-service", "~@privileged", "mincore"]
    );
    assert_eq!(values(&unit, "ReadWritePaths"), [""; 0]);
}

#[test]
fn the_property_list_says_each_thing_once() {
    let list = Manager::Launchd.describe(&service(Manager::Launchd));
    let squeezed: String = list.split_whitespace().collect();
    let expected = [
        ("Label", "<string>local.clawdbot</string>"),
        (
            "ProgramArguments",
            "<array><string>/usr/local/bin/clawdbot</string><string>serve</string><string>--data-dir</string>\
             <string>/usr/local/var/clawdbot</string></array>",
        ),
        ("UserName", "<string>_clawdbot</string>"),
        ("GroupName", "<string>_clawdbot</string>"),
        ("WorkingDirectory", "<string>/usr/local/var/clawdbot</string>"),
        (
            "CLAWDBOT__LOG__FILE",
            "<string>/usr/local/var/log/clawdbot/clawdbot.log</string>",
        ),
        (
            "StandardOutPath",
            "<string>/usr/local/var/log/clawdbot/stderr.log</string>",
        ),
        (
            "StandardErrorPath",
            "<string>/usr/local/var/log/clawdbot/stderr.log</string>",
        ),
        ("RunAtLoad", "<true/>"),
        ("KeepAlive", "<dict><key>SuccessfulExit</key><false/></dict>"),
        ("ThrottleInterval", "<integer>10</integer>"),
        ("ExitTimeOut", "<integer>35</integer>"),
        ("AbandonProcessGroup", "<false/>"),
        ("ProcessType", "<string>Interactive</string>"),
        ("Umask", "<integer>63</integer>"),
    ];
    for (key, value) in expected {
        let both = format!("<key>{key}</key>{value}");
        assert_eq!(squeezed.matches(&both).count(), 1, "{both} in\n{list}");
    }
    let limits =
        "<dict><key>NumberOfFiles</key><integer>4024</integer><key>Core</key><integer>0</integer></dict>";
    for key in ["SoftResourceLimits", "HardResourceLimits"] {
        assert!(squeezed.contains(&format!("<key>{key}</key>{limits}")), "{list}");
    }
}

#[test]
fn settings_elsewhere_are_named_and_so_are_directories_that_are_written_to() {
    let settings = settings(&[
        ("mqtt.unix", "/srv/sockets/mqtt"),
        ("backup.directory", "/mnt/a disk"),
        ("log.file", "/srv/log/clawdbot.log"),
    ]);
    let [program, data_dir] = ["/usr/bin/clawdbot", "/srv/my data"].map(PathBuf::from);
    let mut service = Service::of(&settings, program, data_dir, "hub", "people");
    service.config = Some(PathBuf::from("/etc/50%/$HOME.toml"));
    let unit = Manager::Systemd.describe(&service);
    let command =
        r#""/usr/bin/clawdbot" "serve" "--data-dir" "/srv/my data" "--config" "/etc/50%%/$$HOME.toml""#;
    assert_eq!(values(&unit, "ExecStart"), [command]);
    assert_eq!(values(&unit, "StateDirectory"), [""; 0]);
    assert_eq!(
        values(&unit, "ReadWritePaths"),
        [r#""/srv/my data" "-/srv/sockets" "-/srv/log" "-/mnt/a disk""#]
    );
    assert_eq!(values(&unit, "WorkingDirectory"), ["/srv/my data"]);
    assert_eq!(
        (values(&unit, "User"), values(&unit, "Group")),
        (vec!["hub"], vec!["people"])
    );
}

#[test]
fn a_socket_where_the_daemon_may_write_anyway_needs_nothing() {
    for socket in ["/run/clawdbot/mqtt", "/var/lib/clawdbot/mqtt"] {
        let settings = settings(&[("mqtt.unix", socket)]);
        let data_dir = Manager::Systemd.data_dir().to_path_buf();
        let service = Service::of(&settings, PathBuf::from("/p"), data_dir, "u", "g");
        assert!(service.writable.is_empty(), "{socket}");
    }
}

#[test]
fn what_was_written_is_read_again() {
    for manager in [Manager::Systemd, Manager::Launchd] {
        let mut service = service(manager);
        service.data_dir = PathBuf::from("/srv/a & b <100%>");
        service.config = Some(PathBuf::from("/etc/50%/$HOME \"it\" & \\.toml"));
        let text = manager.describe(&service);
        assert_eq!(manager.data_dir_in(&text), Some(service.data_dir), "{text}");
        assert_eq!(manager.config_in(&text), service.config, "{text}");
        assert_eq!(manager.config_in("something else"), None);
        assert_eq!(manager.user_in(&text).as_deref(), Some(manager.user()));
        assert_eq!(manager.data_dir_in("something else"), None);
    }
}

//! The daemon as a service: what is written and run to make it one, and what it says to whoever watches over it. Nothing here
//! touches the system: files go below a directory of the test's, and what `PATH` leads to are stand-ins that write down how
//! they were called.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getuid};
use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::daemon::{Daemon, Home};
use crate::support::foreign::python_with_plistlib;
use crate::support::process::{Finished, finish, finish_with_input};

const UNIT: &str = "etc/systemd/system/clawdbot.service";
const LIST: &str = "Library/LaunchDaemons/local.clawdbot.plist";

/// A system in a directory.
struct System {
    home: Home,
    manager: &'static str,
}

impl System {
    fn of(manager: &'static str) -> System {
        let system = System {
            home: Home::new(),
            manager,
        };
        system.put("root/usr/local/bin/clawdbot", "", 0o755);
        for folder in ["root/usr", "root/usr/local", "root/usr/local/bin"] {
            let path = system.home.path().join(folder);
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("permissions");
        }
        let own = getuid().as_raw();
        for (name, script) in [
            ("id", format!("[ -e \"$at/user\" ] || exit 1; case $1 in -u) echo {own};; *) echo people;; esac")),
            ("useradd", "touch \"$at/user\"".to_owned()),
            (
                "dscl",
                "case $2 in -list) printf '_x 400\\n';; esac; case $* in *IsHidden*) touch \"$at/user\";; esac".to_owned(),
            ),
            (
                "install",
                "for last; do :; done; mkdir -p \"$last\"; chmod 700 \"$last\"".to_owned(),
            ),
            ("chown", String::new()),
            (
                "systemctl",
                "case $1 in is-active) [ -e \"$at/runs\" ];; restart) touch \"$at/runs\";; disable) rm -f \"$at/runs\";; \
                 show) if [ -e \"$at/runs\" ]; then printf 'UnitFileState=enabled\\nActiveState=active\\nSubState=running\\n\
                 MainPID=7\\nNRestarts=3\\nStateChangeTimestamp=today\\n'; else printf 'ActiveState=inactive\\n'; fi;; esac"
                    .to_owned(),
            ),
            (
                "launchctl",
                "case $1 in print) [ -e \"$at/runs\" ] || exit 113; printf 'x = {\\n\\tstate = running\\n\\tpid = 7\\n\
                 \\truns = 4\\n}\\n';; bootstrap) touch \"$at/runs\";; bootout) rm -f \"$at/runs\";; esac"
                    .to_owned(),
            ),
        ] {
            // What is only asked is not written down: what counts is what was changed.
            let script = format!(
                "#!/bin/sh\nat='{at}'\ncase \"{name} $1 $2\" in id*|*is-active*|*show*|*print*|*-list*) ;; *) echo \"{name} $*\" \
                 >> \"$at/called\";; esac\n{script}\n",
                at = system.home.path().display()
            );
            system.put(&format!("bin/{name}"), &script, 0o755);
        }
        system
    }

    fn put(&self, path: &str, text: &str, mode: u32) {
        let path = self.home.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("permissions");
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    fn read(&self, path: &str) -> String {
        let path = self.root().join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(&["service"]);
        command
            .args(arguments)
            .args(["--manager", self.manager, "--root"]);
        command.arg(self.root());
        command
    }

    /// With the stand-ins.
    fn runs(&self, arguments: &[&str]) -> Finished {
        let path = std::env::var("PATH").expect("a PATH");
        let bin = self.home.path().join("bin");
        let mut command = self.command(arguments);
        finish(
            command
                .arg("--with-commands")
                .env("PATH", format!("{}:{path}", bin.display())),
        )
    }

    /// How the stand-ins were called since this was asked last.
    fn called(&self) -> Vec<String> {
        let path = self.home.path().join("called");
        let lines = fs::read_to_string(&path).unwrap_or_default();
        let _nothing_was = fs::remove_file(&path);
        lines.lines().map(str::to_owned).collect()
    }
}

fn has(unit: &str, line: &str) -> bool {
    unit.lines().any(|found| found == line)
}

#[test]
fn a_package_gets_the_unit_and_no_command_is_run() {
    let system = System::of("systemd");
    let finished = finish(&mut system.command(&["install"]));
    finished.assert_code(0);
    let unit = system.read(UNIT);
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        r#"ExecStart="/usr/local/bin/clawdbot" "serve" "--data-dir" "/var/lib/clawdbot""#,
        "User=clawdbot",
        "StateDirectory=clawdbot",
        "Restart=on-failure",
        "WatchdogSec=30",
        "TimeoutStopSec=25",
        "KillMode=mixed",
        "LimitNOFILE=11024",
        "MemoryHigh=90%",
        "OOMPolicy=continue",
        "UMask=0077",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=@system-service",
        "WantedBy=multi-user.target",
    ] {
        assert!(has(&unit, line), "{line} is missing in\n{unit}");
    }
    let mode = fs::metadata(system.root().join(UNIT))
        .expect("the unit")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_eq!(system.called(), [""; 0]);
    finished.assert_says(&[
        "CLAWDBOT__MQTT__TCP",
        "does not see",
        "/var/lib/clawdbot/clawdbot.toml",
    ]);

    // Nothing but what is removed again.
    finish(&mut system.command(&["uninstall"])).assert_code(0);
    assert!(!system.root().join(UNIT).exists());
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let Some(mut analyze) = crate::support::foreign::systemd_analyze() else {
        return;
    };
    let system = System::of("systemd");
    // It looks for the program where the unit says.
    let program = fs::canonicalize("/bin/true").expect("a program");
    let copy = format!("root{}", program.display());
    system.put(&copy, "", 0o755);
    let program = program.to_str().expect("a path of text");
    let written = finish(&mut system.command(&["install", "--program", program]));
    written.assert_code(0);
    let verified = finish(analyze.args(["verify", "--man=no"]).arg(system.root().join(UNIT)));
    verified.assert_code(0);
    // It looks at what the unit waits for as well, which is not ours.
    assert!(!verified.stderr.contains("clawdbot"), "{verified:#?}");
}

#[test]
fn the_property_list_is_one_and_has_each_key() {
    let Some(python) = python_with_plistlib() else {
        return;
    };
    let system = System::of("launchd");
    finish(&mut system.command(&["install", "--data-dir", "/usr/local/var/a & b"])).assert_code(0);
    let script = "import json, plistlib, sys; print(json.dumps(plistlib.loads(sys.stdin.buffer.read())))";
    let mut command = Command::new(python);
    let read = finish_with_input(command.args(["-c", script]), &system.read(LIST));
    read.assert_code(0);
    let list: Value = serde_json::from_str(&read.stdout).expect("JSON");
    let limits = serde_json::json!({"NumberOfFiles": 11024, "Core": 0});
    let log = "/usr/local/var/log/clawdbot/clawdbot.log";
    let errors = "/usr/local/var/log/clawdbot/stderr.log";
    let expected = serde_json::json!({
        "Label": "local.clawdbot",
        "ProgramArguments": ["/usr/local/bin/clawdbot", "serve", "--data-dir", "/usr/local/var/a & b"],
        "UserName": "_clawdbot",
        "GroupName": "_clawdbot",
        "WorkingDirectory": "/usr/local/var/a & b",
        "EnvironmentVariables": {"CLAWDBOT__LOG__FILE": log},
        "StandardOutPath": errors,
        "StandardErrorPath": errors,
        "RunAtLoad": true,
        "KeepAlive": {"SuccessfulExit": false},
        "ThrottleInterval": 10,
        "ExitTimeOut": 25,
        "AbandonProcessGroup": false,
        "ProcessType": "Interactive",
        "Umask": 0o077,
        "SoftResourceLimits": limits,
        "HardResourceLimits": limits,
    });
    assert_eq!(list, expected, "{list:#}");
}

#[test]
fn an_installation_does_what_is_missing_and_the_next_one_nothing() {
    let system = System::of("systemd");
    let first = system.runs(&["install"]);
    first.assert_code(0);
    assert!(first.stdout.contains("service: started"), "{first:#?}");
    let data_dir = system.root().join("var/lib/clawdbot");
    let made = format!("install -d -m 700 -o clawdbot -g people {}", data_dir.display());
    assert_eq!(
        system.called(),
        [
            "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin --home-dir /var/lib/clawdbot clawdbot",
            &made,
            "systemctl daemon-reload",
            "systemctl enable --quiet clawdbot.service",
            "systemctl restart clawdbot.service",
        ]
    );
    assert!(has(&system.read(UNIT), "Group=people"));

    let again = system.runs(&["install"]);
    again.assert_code(0);
    assert!(again.stdout.contains("runs already"), "{again:#?}");
    assert_eq!(
        system.called(),
        [
            "systemctl daemon-reload",
            "systemctl enable --quiet clawdbot.service"
        ]
    );

    // Something to change: it is written, and the daemon started again.
    fs::write(data_dir.join("clawdbot.toml"), "shutdown.timeout_s = 40\n").expect("written");
    let changed = system.runs(&["install"]);
    changed.assert_code(0);
    assert!(changed.stdout.contains("started again"), "{changed:#?}");
    assert!(has(&system.read(UNIT), "TimeoutStopSec=55"));
    assert_eq!(
        system.called().last().expect("a call"),
        "systemctl restart clawdbot.service"
    );
}

#[test]
fn without_a_start_it_waits_for_the_machines() {
    let system = System::of("systemd");
    let finished = system.runs(&["install", "--no-start"]);
    finished.assert_code(0);
    let called = system.called();
    assert!(
        called.iter().any(|line| line.starts_with("systemctl enable")),
        "{called:?}"
    );
    assert!(
        !called.iter().any(|line| line.starts_with("systemctl restart")),
        "{called:?}"
    );
    let status = system.runs(&["status"]);
    status
        .assert_code(1)
        .assert_says(&["does not run", "service install"]);
}

#[test]
fn on_macos_launchd_is_told_and_the_user_has_a_free_number() {
    let system = System::of("launchd");
    system.runs(&["install"]).assert_code(0);
    let called = system.called();
    for line in [
        "dscl . -create /Groups/_clawdbot PrimaryGroupID 401",
        "dscl . -create /Users/_clawdbot UniqueID 401",
        "launchctl enable system/local.clawdbot",
        "launchctl bootstrap system /Library/LaunchDaemons/local.clawdbot.plist",
    ] {
        assert!(
            called.iter().any(|called| called == line),
            "{line} in {called:#?}"
        );
    }
    for directory in ["usr/local/var/clawdbot", "usr/local/var/log/clawdbot"] {
        let mode = fs::metadata(system.root().join(directory))
            .expect("made")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{directory}");
    }
    system.runs(&["install"]).assert_code(0);
    assert_eq!(system.called(), ["launchctl enable system/local.clawdbot"]);

    let config = system.root().join("usr/local/var/clawdbot/clawdbot.toml");
    fs::write(config, "shutdown.timeout_s = 40\n").expect("written");
    system.runs(&["install"]).assert_code(0);
    assert_eq!(
        system.called(),
        [
            "launchctl enable system/local.clawdbot",
            "launchctl bootout system/local.clawdbot",
            "launchctl bootstrap system /Library/LaunchDaemons/local.clawdbot.plist",
        ]
    );
    system.runs(&["uninstall"]).assert_code(0);
    assert_eq!(system.called(), ["launchctl bootout system/local.clawdbot"]);
    assert!(!system.root().join(LIST).exists());
}

#[test]
fn an_uninstallation_leaves_the_data_and_says_where_and_the_next_one_finds_nothing() {
    let system = System::of("systemd");
    system.runs(&["install", "--data-dir", "/srv/hub"]).assert_code(0);
    system.called();
    let finished = system.runs(&["uninstall"]);
    finished.assert_code(0);
    assert!(finished.stdout.contains("stays in /srv/hub"), "{finished:#?}");
    assert!(system.root().join("srv/hub").is_dir());
    assert!(!system.root().join(UNIT).exists());
    assert_eq!(
        system.called(),
        [
            "systemctl disable --now --quiet clawdbot.service",
            "systemctl daemon-reload",
            "systemctl reset-failed clawdbot.service",
        ]
    );
    let again = system.runs(&["uninstall"]);
    again.assert_code(0);
    assert!(again.stdout.contains("not installed"), "{again:#?}");
    assert_eq!(system.called(), [""; 0]);
}

#[test]
fn the_status_is_told_for_people_and_programs() {
    let system = System::of("systemd");
    let before = system.runs(&["status", "--json"]);
    before.assert_code(1).assert_says(&["not installed"]);
    let report: Value = serde_json::from_str(&before.stdout).expect("JSON");
    assert_eq!(
        (&report["installed"], &report["running"]),
        (&false.into(), &false.into())
    );

    system.runs(&["install"]).assert_code(0);
    let finished = system.runs(&["status", "--json"]);
    finished.assert_code(0);
    let report: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    for (name, value) in [
        ("installed", Value::from(true)),
        ("enabled", true.into()),
        ("running", true.into()),
        ("pid", 7.into()),
        ("restarts", 3.into()),
        ("since", "today".into()),
        ("data_dir", "/var/lib/clawdbot".into()),
        ("daemon", Value::Null),
    ] {
        assert_eq!(report[name], value, "{name} in {report:#}");
    }
    let people = system.runs(&["status"]);
    people.assert_code(0);
    assert!(
        people
            .stdout
            .contains("active (running), process 7, since today, restarts: 3"),
        "{people:#?}"
    );
}

#[test]
fn the_status_has_the_daemons_own_word() {
    let daemon = Daemon::launch().start();
    let system = System::of("systemd");
    system.runs(&["install", "--data-dir", "/data"]).assert_code(0);
    // Its data directory in the place where the service has it.
    let data_dir = system.root().join("data");
    fs::remove_dir(&data_dir).expect("an empty directory");
    std::os::unix::fs::symlink(daemon.home().data_dir(), &data_dir).expect("a link");
    let finished = system.runs(&["status", "--json"]);
    finished.assert_code(0);
    let report: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!(report["daemon"]["pid"], daemon.pid(), "{report:#}");
}

#[test]
fn what_it_would_do_is_printed_and_nothing_is_done() {
    for (manager, lines) in [
        (
            "systemd",
            [
                "# /etc/systemd/system/clawdbot.service",
                "Type=notify",
                "install -d -m 700 -o hub -g hub /var/lib/clawdbot",
                "systemctl restart clawdbot.service",
            ],
        ),
        (
            "launchd",
            [
                "# /Library/LaunchDaemons/local.clawdbot.plist",
                "dscl . -create /Users/hub UniqueID A_FREE_NUMBER",
                "install -d -m 700 -o hub -g hub /usr/local/var/log/clawdbot",
                "launchctl bootstrap system /Library/LaunchDaemons/local.clawdbot.plist",
            ],
        ),
    ] {
        let system = System::of(manager);
        let finished = system.runs(&["install", "--print", "--user", "hub"]);
        finished.assert_code(0);
        for line in lines {
            assert!(has(&finished.stdout, line), "{line} is missing in {finished:#?}");
        }
        assert_eq!(system.called(), [""; 0]);
        assert!(!system.root().join(UNIT).exists() && !system.root().join(LIST).exists());
    }
}

#[test]
fn what_would_not_run_is_refused_before_anything_is_changed() {
    let system = System::of("systemd");
    let refused = |arguments: &[&str], says: &[&str]| {
        let finished = system.runs(&[&["install"], arguments].concat());
        finished.assert_code(2).assert_says(says);
        assert_eq!(system.called(), [""; 0], "{arguments:?}");
        assert!(!system.root().join(UNIT).exists(), "{arguments:?}");
    };
    refused(
        &["--program", "/src/target/release/clawdbot"],
        &["the next build", "sudo install -m 755"],
    );
    refused(&["--program", "/opt/none"], &["/opt/none", "No such file"]);
    refused(
        &["--set", "mqtt.tcp=127.0.0.1:1"],
        &["--set mqtt.tcp", "clawdbot.toml"],
    );
    refused(&["--user", "A B"], &["--user", "small letters"]);
    refused(&["--data-dir", "/home/anna/hub"], &["data_dir", "home directory"]);
    system.put("root/etc/hub.toml", "[mqtt]\ntcp = \"nowhere\"\n", 0o644);
    refused(&["--config", "/etc/hub.toml"], &["hub.toml:2", "mqtt.tcp"]);
    system.put(
        "root/etc/hub.toml",
        "[model]\npath = \"/home/anna/m.gguf\"\n",
        0o644,
    );
    refused(&["--config", "/etc/hub.toml"], &["model.path", "home directory"]);
}

#[test]
fn a_command_that_fails_is_named_with_what_it_said_and_the_next_try_goes_on() {
    let system = System::of("systemd");
    let path = system.home.path().join("bin/systemctl");
    let script = fs::read_to_string(&path).expect("a stand-in");
    system.put(
        "bin/systemctl",
        "#!/bin/sh\necho no bus here >&2; exit 1\n",
        0o755,
    );
    let failed = system.runs(&["install"]);
    failed
        .assert_code(1)
        .assert_says(&["`systemctl daemon-reload`", "no bus here"]);
    system.put("bin/systemctl", &script, 0o755);
    system.called();
    system.runs(&["install"]).assert_code(0);
    let called = system.called();
    assert_eq!(
        called.last().expect("a call"),
        "systemctl restart clawdbot.service"
    );
    assert!(
        !called.iter().any(|line| line.starts_with("useradd")),
        "{called:?}"
    );
}

/// What systemd hears until `is_enough`.
fn heard(socket: &UnixDatagram, is_enough: impl Fn(&[String]) -> bool) -> Vec<String> {
    let (mut lines, mut bytes) = (Vec::new(), [0; 4096]);
    let deadline = Instant::now() + PATIENCE;
    while !is_enough(&lines) {
        assert!(Instant::now() < deadline, "heard {lines:?} so far");
        if let Ok(read) = socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
            lines.extend(text.lines().map(str::to_owned));
        }
    }
    lines
}

fn socket_at(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("a socket");
    let wait = Some(Duration::from_millis(100));
    socket.set_read_timeout(wait).expect("a time");
    socket
}

#[test]
fn systemd_hears_when_it_is_ready_that_it_lives_and_that_it_stops() {
    let launch = Daemon::launch();
    let path = launch.home().path().join("notify");
    let socket = socket_at(&path);
    let mut daemon = launch
        .variable("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .variable("WATCHDOG_USEC", "600000")
        .start();
    let count = |lines: &[String], line: &str| lines.iter().filter(|found| *found == line).count();
    let lines = heard(&socket, |lines| {
        count(lines, "WATCHDOG=1") >= 3 && count(lines, "STATUS=ready, without a model") == 1
    });
    assert_eq!(lines.first().map(String::as_str), Some("READY=1"), "{lines:?}");
    assert_eq!(count(&lines, "READY=1"), 1, "{lines:?}");
    daemon.signal(Signal::TERM);
    let lines = heard(&socket, |lines| count(lines, "STOPPING=1") == 1);
    assert_eq!(count(&lines, "READY=1"), 0, "{lines:?}");
    assert_eq!(daemon.exit(PATIENCE).expect("it exits").code(), Some(0));
}

#[test]
fn without_a_watchdog_systemd_hears_the_rest() {
    let launch = Daemon::launch();
    let path = launch.home().path().join("notify");
    let socket = socket_at(&path);
    let mut daemon = launch
        .variable("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .start();
    heard(&socket, |lines| lines.iter().any(|line| line == "READY=1"));
    daemon.signal(Signal::TERM);
    let lines = heard(&socket, |lines| lines.iter().any(|line| line == "STOPPING=1"));
    assert!(!lines.iter().any(|line| line == "WATCHDOG=1"), "{lines:?}");
    assert_eq!(daemon.exit(PATIENCE).expect("it exits").code(), Some(0));
}

#[test]
fn systemd_is_asked_for_patience_while_the_store_of_a_killed_daemon_is_looked_through() {
    let launch = Daemon::launch();
    let path = launch.home().path().join("notify");
    let socket = socket_at(&path);
    let mut killed = launch.clone().start();
    killed.signal(Signal::KILL);
    killed.exit(PATIENCE).expect("it is dead");
    let _daemon = launch
        .variable("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .start();
    let lines = heard(&socket, |lines| lines.iter().any(|line| line == "READY=1"));
    assert_eq!(
        lines.first().map(String::as_str),
        Some("EXTEND_TIMEOUT_USEC=3600000000"),
        "{lines:?}"
    );
}

//! The unit of systemd.

use std::path::{Path, PathBuf};

use super::{Service, UNIT};

/// Made at each start for what others on this machine connect to; a Unix socket of MQTT may be there.
pub(super) const RUNTIME_DIRECTORY: &str = "/run/clawdbot";

/// Directories below this are made by systemd and given to the user.
const STATE_ROOT: &str = "/var/lib";

/// The unit's text.
pub(super) fn unit(service: &Service) -> String {
    let Service { user, group, .. } = service;
    format!(
        "\
# Written by `clawdbot service install`, which writes it anew. What you want otherwise:
# `systemctl edit {UNIT}`.

[Unit]
Description=Clawdbot, a private assistant hub
Wants=network-online.target
After=network-online.target
# Nobody is there who would start it by hand: it is tried for as long as the machine runs.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
User={user}
Group={group}
WorkingDirectory={data_dir}
{writable}RuntimeDirectory=clawdbot
RuntimeDirectoryMode=0700
UMask=0077

# Started again when it fell, hung or was killed. Not with a wrong configuration (exit code 2): that stays wrong.
Restart=on-failure
RestartSec={restart}
RestartPreventExitStatus=2
WatchdogSec={watchdog}
# While it looks through a large store after a power cut, the daemon asks for more.
TimeoutStartSec=300
TimeoutStopSec={stop}
# The daemon tells its inference process itself; whoever is left in the end is killed.
KillMode=mixed

LimitNOFILE={open_files}
# A core file would have keys and conversations in it.
LimitCORE=0
MemoryHigh={memory}%
# The inference process offers itself first where memory ends. The daemon goes on then, and starts another.
OOMPolicy=continue
OOMScoreAdjust=-200

StandardOutput=journal
StandardError=journal
SyslogIdentifier=clawdbot

CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
# Netlink is how the addresses of this machine are listed, for its certificate.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
# In no group of systemd's: how the memory governor sees which pages of a model's weights are in memory.
SystemCallFilter=mincore
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
",
        command = command(service),
        data_dir = literal(&service.data_dir.display().to_string()),
        writable = writable(service),
        restart = service.restart_after.as_secs(),
        watchdog = service.watchdog.as_secs(),
        stop = service.stops_within.as_secs(),
        open_files = service.open_files,
        memory = service.memory_high_percent,
    )
}

fn command(service: &Service) -> String {
    // In a command a dollar begins a variable as well.
    let words = service.command().into_iter();
    let words: Vec<_> = words.map(|word| quoted(&word.replace('$', "$$"))).collect();
    words.join(" ")
}

fn writable(service: &Service) -> String {
    let mut lines = String::new();
    // A disk for backups that is not there keeps nobody from starting.
    let others = service.writable.iter().map(|path| format!("-{}", path.display()));
    let mut paths: Vec<String> = others.collect();
    match state_directory(&service.data_dir) {
        Some(name) => lines += &format!("StateDirectory={name}\nStateDirectoryMode=0700\n"),
        None => paths.insert(0, service.data_dir.display().to_string()),
    }
    if !paths.is_empty() {
        let paths: Vec<_> = paths.iter().map(|path| quoted(path)).collect();
        lines += &format!("ReadWritePaths={}\n", paths.join(" "));
    }
    lines
}

/// The name below [`STATE_ROOT`], where it is one that needs no quotation marks.
fn state_directory(data_dir: &Path) -> Option<&str> {
    let name = data_dir.strip_prefix(STATE_ROOT).ok()?.to_str()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!name.is_empty() && name.chars().all(is_plain)).then_some(name)
}

/// One word of a list, whatever is in it.
fn quoted(word: &str) -> String {
    let word = literal(word).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{word}\"")
}

/// A percent sign begins a word of systemd's own.
fn literal(text: &str) -> String {
    text.replace('%', "%%")
}

pub(super) fn data_dir_in(unit: &str) -> Option<PathBuf> {
    value_in(unit, "WorkingDirectory=").map(|path| PathBuf::from(path.replace("%%", "%")))
}

pub(super) fn user_in(unit: &str) -> Option<String> {
    value_in(unit, "User=").map(str::to_owned)
}

/// The word behind `--config`, as [`command`] writes it.
pub(super) fn config_in(unit: &str) -> Option<PathBuf> {
    let (_, behind) = value_in(unit, "ExecStart=")?.split_once(" \"--config\" \"")?;
    let (mut word, mut characters) = (String::new(), behind.chars());
    loop {
        match characters.next()? {
            '"' => return Some(PathBuf::from(word)),
            '\\' => word.push(characters.next()?),
            doubled @ ('%' | '$') => {
                characters.next();
                word.push(doubled);
            }
            other => word.push(other),
        }
    }
}

fn value_in<'a>(unit: &'a str, directive: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(directive))
}

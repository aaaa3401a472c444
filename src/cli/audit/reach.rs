//! Who can reach the hub's doors, and who can read along on the way.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Subject, quoted, sockets, unless, where_so};
use crate::cli::report::{Examined, Finding};
use crate::net::peers::Reach;
use crate::settings::{BrokerMode, Settings};

/// A port that a daemon with these settings opens.
#[derive(Clone, Debug)]
struct Door {
    setting: &'static str,
    address: SocketAddr,
    is_encrypted: bool,
    /// From where it is answered, whoever may knock.
    answers: Reach,
}

/// From where a door can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whence {
    ThisMachine,
    PrivateNetworks,
    Anywhere,
}

impl Door {
    fn all(settings: &Settings) -> Vec<Door> {
        let mqtt = if settings.mqtt.allow_beyond_private_network {
            Reach::Everybody
        } else {
            Reach::PrivateNetworks
        };
        let door = |(setting, address)| Door {
            setting,
            address,
            is_encrypted: ["mqtt.tls", "mqtt.secure_websocket"].contains(&setting),
            // The page of metrics asks nobody where they come from.
            answers: if setting == "metrics.listen" {
                Reach::Everybody
            } else {
                mqtt
            },
        };
        settings.opened().into_iter().map(door).collect()
    }

    /// At which of this machine's addresses it is there.
    fn reached_at(&self, machine: &[IpAddr]) -> Vec<IpAddr> {
        let ip = self.address.ip();
        if !ip.is_unspecified() {
            return vec![ip];
        }
        // A socket on [::] takes IPv4 as well.
        let is_there = |address: &&IpAddr| ip.is_ipv6() || address.is_ipv4();
        machine.iter().filter(is_there).copied().collect()
    }

    fn whence(&self) -> Whence {
        if self.address.ip().is_loopback() {
            Whence::ThisMachine
        } else if self.answers == Reach::PrivateNetworks {
            Whence::PrivateNetworks
        } else {
            Whence::Anywhere
        }
    }

    fn words(&self, machine: &[IpAddr]) -> String {
        let at: Vec<String> = self
            .reached_at(machine)
            .iter()
            .filter(|ip| !ip.is_loopback())
            .map(IpAddr::to_string)
            .collect();
        let at = if at.is_empty() {
            "no address but its own yet".to_owned()
        } else {
            at.join(", ")
        };
        let from = match self.whence() {
            Whence::ThisMachine => "this machine only",
            Whence::PrivateNetworks => "private networks only: others are turned away",
            Whence::Anywhere => "anywhere",
        };
        let how = if self.is_encrypted {
            "encrypted (TLS)"
        } else {
            "in plain text"
        };
        format!("{} is reached at {at}, from {from}, {how}", self.address)
    }
}

/// The addresses of this machine.
fn here() -> Vec<IpAddr> {
    platform::network::addresses().unwrap_or_default()
}

/// Whether the worst of the doors is answered to anybody who finds it.
pub(super) fn is_open_to_anybody(settings: &Settings) -> bool {
    Door::all(settings)
        .iter()
        .any(|door| door.whence() == Whence::Anywhere)
}

pub(super) fn reach(subject: &Subject) -> Examined {
    reach_of(&Door::all(&subject.settings), &here())
}

fn reach_of(doors: &[Door], machine: &[IpAddr]) -> Examined {
    let (inner, outer): (Vec<&Door>, Vec<&Door>) = doors
        .iter()
        .partition(|door| door.whence() == Whence::ThisMachine);
    let findings = outer.into_iter().map(|door| {
        let hint = format!(
            "where no device needs it: {} = \"{}:{}\"",
            door.setting,
            if door.address.is_ipv4() {
                "127.0.0.1"
            } else {
                "[::1]"
            },
            door.address.port()
        );
        Finding::info(door.words(machine), hint).about(door.setting)
    });
    let inner: Vec<String> = inner
        .iter()
        .map(|door| format!("{} ({})", door.address, door.setting))
        .collect();
    unless(
        findings.collect(),
        format!("from this machine only: {}", inner.join(", ")),
    )
}

pub(super) fn public_address(subject: &Subject) -> Examined {
    public_doors(&Door::all(&subject.settings), &here())
}

fn public_doors(doors: &[Door], machine: &[IpAddr]) -> Examined {
    let mut findings = Vec::new();
    for door in doors {
        let public = door.reached_at(machine).into_iter().find(|ip| is_public(*ip));
        let Some(public) = public else { continue };
        let private = machine.iter().find(|ip| {
            !ip.is_loopback()
                && ip.is_ipv4() == door.address.is_ipv4()
                && Reach::PrivateNetworks.includes(**ip)
        });
        let private = private.copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let beyond = match door.answers {
            Reach::Everybody => "whoever connects from the internet is answered",
            Reach::PrivateNetworks => "the daemon turns strangers away, but they reach the port",
        };
        let message = format!(
            "{} listens at the public address {public}: {beyond}",
            door.address
        );
        let hint = format!(
            "{} = \"{}\", or a firewall as in config/deploy/nftables.conf",
            door.setting,
            SocketAddr::new(private, door.address.port())
        );
        findings.push(Finding::warning(message, hint).about(door.setting));
    }
    unless(findings, "no port is open at a public address of this machine")
}

/// One that is routed through the internet. 100.64/10 is carriers' own, and of overlay networks as Tailscale's.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            !(is_shared
                || ip.is_unspecified()
                || ip.is_multicast()
                || Reach::PrivateNetworks.includes(ip.into()))
        }
        // 2000::/3 is all that is given out.
        IpAddr::V6(ip) => ip
            .segments()
            .first()
            .is_some_and(|first| first & 0xe000 == 0x2000),
    }
}

pub(super) fn plaintext_allowed(subject: &Subject) -> Examined {
    let settings = &subject.settings;
    let open = Door::all(settings).into_iter().filter(|door| {
        !door.is_encrypted && door.setting != "metrics.listen" && !door.address.ip().is_loopback()
    });
    let open: Vec<String> = open
        .map(|door| format!("{} = {}", door.setting, door.address))
        .collect();
    let used = if open.is_empty() {
        "nothing makes use of it".to_owned()
    } else {
        format!(
            "whoever is on the way reads tokens and prompts ({})",
            open.join(", ")
        )
    };
    let mut findings = Vec::new();
    if settings.mqtt.allow_plaintext_beyond_loopback {
        let hint = "`clawdbot certs init`, let devices use mqtt.tls, and set mqtt.allow_plaintext_beyond_loopback = false";
        let message = format!("plain text beyond this machine is allowed; {used}");
        findings.push(Finding::warning(message, hint).about("mqtt.allow_plaintext_beyond_loopback"));
    }
    let broker = &settings.broker;
    if broker.allow_plaintext_beyond_loopback {
        let used = match (&broker.address, broker.mode) {
            (Some(address), BrokerMode::External) if !address.tls => {
                format!("it is spoken to {}", address.url())
            }
            _ => "nothing makes use of it".to_owned(),
        };
        let message = format!("plain text to an external broker is allowed; {used}");
        let hint = "broker.allow_plaintext_beyond_loopback = false, and an address that begins with mqtts://";
        findings.push(Finding::warning(message, hint).about("broker.allow_plaintext_beyond_loopback"));
    }
    unless(findings, "nothing secret leaves this machine unencrypted")
}

pub(super) fn strangers_allowed(subject: &Subject) -> Examined {
    where_so(
        subject.settings.mqtt.allow_beyond_private_network,
        || {
            let message = "whoever reaches a listener is answered, from wherever";
            let hint = "mqtt.allow_beyond_private_network = false; a VPN brings devices in from outside";
            Finding::warning(message, hint).about("mqtt.allow_beyond_private_network")
        },
        "peers beyond private networks are turned away",
    )
}

pub(super) fn metrics_allowed(subject: &Subject) -> Examined {
    let metrics = &subject.settings.metrics;
    where_so(
        metrics.allow_beyond_loopback,
        || {
            let used = if metrics.listen.ip().is_loopback() {
                "nothing makes use of it".to_owned()
            } else {
                format!(
                    "whoever reaches {} reads them, unasked and in plain text",
                    metrics.listen
                )
            };
            let message = format!("metrics beyond this machine are allowed; {used}");
            let hint = "metrics.allow_beyond_loopback = false, metrics.listen on 127.0.0.1, and a Prometheus on this machine or an SSH \
                tunnel";
            Finding::warning(message, hint).about("metrics.allow_beyond_loopback")
        },
        "metrics are read on this machine only",
    )
}

pub(super) fn broker_link(subject: &Subject) -> Examined {
    let broker = &subject.settings.broker;
    match &broker.address {
        Some(address) if broker.mode == BrokerMode::External => {
            let how = if address.tls { "by TLS" } else { "in plain text" };
            let message = format!(
                "all messages go to {}, {how}; who may read them there is that broker's to say",
                address.url()
            );
            let hint = "set its rules as in config/external-broker/README.md";
            Err(vec![Finding::info(message, hint).about("broker.address")])
        }
        _ => Ok("the broker is in this program".to_owned()),
    }
}

pub(super) fn unix_socket(subject: &Subject) -> Examined {
    let Some(path) = &subject.settings.mqtt.unix else {
        return Ok("there is none for MQTT".to_owned());
    };
    let mode = |path: &Path| fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777);
    let mut findings = Vec::new();
    if let Ok(mode) = mode(path)
        && mode & 0o077 != 0
    {
        let message = format!("other users may connect to it (mode {:03o})", mode & 0o777);
        findings.push(Finding::warning(message, format!("chmod 600 {}", quoted(path))).about(path.display()));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if let Ok(mode) = mode(directory)
        && mode & 0o002 != 0
        && mode & 0o1000 == 0
    {
        let message = "everybody may put a socket of their own in its place";
        let hint = format!("chmod o-w {}", quoted(directory));
        findings.push(Finding::warning(message, hint).about(directory.display()));
    }
    unless(findings, format!("{} is for its owner alone", path.display()))
}

pub(super) fn forgotten(subject: &Subject) -> Examined {
    let Some(pid) = subject.pid() else {
        return Ok("no daemon answers that could listen".to_owned());
    };
    if !cfg!(target_os = "linux") {
        return Ok(format!(
            "not known here; `lsof -nP -iTCP -sTCP:LISTEN -a -p {pid}` lists what it listens on"
        ));
    }
    match sockets::listening(Path::new("/proc"), pid) {
        Ok(found) => unnamed(&found, &subject.settings),
        Err(error) => {
            let message = format!("what process {pid} listens on cannot be seen: {error}");
            let hint = "run the audit as the user who runs clawdbot, or as root";
            Err(vec![Finding::info(message, hint)])
        }
    }
}

/// What is listened on although no setting says so.
fn unnamed(found: &[SocketAddr], settings: &Settings) -> Examined {
    let named = settings.opened();
    let is_named = |address: &SocketAddr| {
        let mut named = named.iter().map(|(_, named)| named);
        named.any(|named| named == address || (named.port() == 0 && named.ip() == address.ip()))
    };
    let findings = found.iter().filter(|address| !is_named(address)).map(|address| {
        let message = format!(
            "the daemon listens on {address}, and no setting says so: it was started with others, or an application opened it"
        );
        Finding::warning(message, "restart the daemon with the settings that are to hold").about(address)
    });
    unless(
        findings.collect(),
        format!("its {} ports are those of the settings", found.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Severity;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn door(setting: &'static str, address: &str, answers: Reach) -> Door {
        Door {
            setting,
            address: address.parse().unwrap(),
            is_encrypted: setting == "mqtt.tls",
            answers,
        }
    }

    #[test]
    fn a_door_is_reached_at_the_addresses_of_its_kind_and_from_where_it_answers() {
        let machine = addresses(&["127.0.0.1", "192.168.1.5", "::1", "fd00::5"]);
        let private = Reach::PrivateNetworks;
        let everywhere = door("mqtt.tls", "0.0.0.0:8883", private);
        assert_eq!(
            everywhere.reached_at(&machine),
            addresses(&["127.0.0.1", "192.168.1.5"])
        );
        assert_eq!(everywhere.whence(), Whence::PrivateNetworks);
        let both = door("mqtt.tls", "[::]:8883", Reach::Everybody);
        assert_eq!(
            (both.reached_at(&machine).len(), both.whence()),
            (4, Whence::Anywhere)
        );
        let inner = door("mqtt.tcp", "127.0.0.1:1883", Reach::Everybody);
        assert_eq!(inner.whence(), Whence::ThisMachine);

        let found = reach_of(&[inner.clone(), everywhere], &machine).unwrap_err();
        assert_eq!((found.len(), found[0].severity), (1, Severity::Info));
        assert_eq!(found[0].path.as_deref(), Some("mqtt.tls"));
        for word in ["192.168.1.5", "private networks only", "TLS"] {
            assert!(found[0].message.contains(word), "{found:?}");
        }
        assert!(reach_of(&[inner], &machine).unwrap().contains("mqtt.tcp"));
    }

    #[test]
    fn a_port_at_a_public_address_is_named_with_the_private_one_to_take() {
        let machine = addresses(&["127.0.0.1", "192.168.1.5", "8.8.4.4"]);
        let open = door("mqtt.tls", "0.0.0.0:8883", Reach::PrivateNetworks);
        let found = public_doors(std::slice::from_ref(&open), &machine).unwrap_err();
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(found[0].message.contains("8.8.4.4"), "{found:?}");
        assert!(
            found[0].fix_hint.starts_with("mqtt.tls = \"192.168.1.5:8883\""),
            "{found:?}"
        );
        assert!(public_doors(&[open], &machine[..2]).is_ok());
        let inner = door("mqtt.tls", "192.168.1.5:8883", Reach::PrivateNetworks);
        assert!(public_doors(&[inner], &machine).is_ok());
    }

    #[test]
    fn public_addresses_are_told_from_private_ones() {
        for (address, expected) in [
            ("8.8.8.8", true),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("169.254.1.1", false),
            ("2001:db8::1", true),
            ("fe80::1", false),
            ("fd00::1", false),
            ("::1", false),
            ("::ffff:8.8.8.8", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn each_switch_that_allows_more_is_named_used_or_not() {
        let mut subject = Subject::for_tests(Path::new("/nowhere"));
        for check in [plaintext_allowed, strangers_allowed, metrics_allowed] {
            assert!(check(&subject).is_ok());
        }
        let settings = &mut subject.settings;
        settings.mqtt.allow_plaintext_beyond_loopback = true;
        settings.broker.allow_plaintext_beyond_loopback = true;
        settings.mqtt.allow_beyond_private_network = true;
        settings.metrics.allow_beyond_loopback = true;
        let count = |check: fn(&Subject) -> Examined| check(&subject).unwrap_err().len();
        assert_eq!(
            [plaintext_allowed, strangers_allowed, metrics_allowed].map(count),
            [2, 1, 1]
        );
        let found = plaintext_allowed(&subject).unwrap_err();
        assert!(found[0].message.contains("nothing makes use of it"), "{found:?}");
        subject.settings.mqtt.tcp = "0.0.0.0:1883".parse().unwrap();
        let found = plaintext_allowed(&subject).unwrap_err();
        assert!(found[0].message.contains("mqtt.tcp = 0.0.0.0:1883"), "{found:?}");
    }

    #[test]
    fn a_listener_that_no_setting_names_is_forgotten() {
        let mut settings = Settings::default_for_tests(Path::new("/nowhere"));
        settings.mqtt.tcp = "127.0.0.1:1883".parse().unwrap();
        settings.mqtt.websocket = None;
        let port_of_the_system = "127.0.0.1:40000".parse().unwrap();
        assert!(unnamed(&[settings.mqtt.tcp, port_of_the_system], &settings).is_ok());
        let forgotten: SocketAddr = "0.0.0.0:1884".parse().unwrap();
        let found = unnamed(&[settings.mqtt.tcp, forgotten], &settings).unwrap_err();
        assert_eq!((found.len(), found[0].path.as_deref()), (1, Some("0.0.0.0:1884")));
    }
}

//! The names and addresses that a server certificate is for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rustls::pki_types::DnsName;

/// What a client may connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A host name, in lower case.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

/// Not a name that a certificate can be for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a host name nor an IP address; write for example hub.local or 192.168.1.2 (and a name beyond \
     ASCII in its xn-- form)"
)]
pub struct BadName(String);

/// More make a certificate that some clients have no room for.
pub(super) const MAX_NAMES: usize = 100;

/// How this machine is called and where it is, as its network sees it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Host name, with or without a domain.
    pub host_name: String,
    /// What it announces itself as by mDNS, without `.local`, where that is another name.
    pub local_host_name: Option<String>,
    /// The addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
}

impl Machine {
    /// The one that this runs on. Addresses that the system does not tell are left out: names do without.
    pub fn here() -> Machine {
        Machine {
            host_name: platform::network::host_name(),
            local_host_name: platform::network::local_host_name(),
            addresses: platform::network::addresses().unwrap_or_default(),
        }
    }

    /// The name that a certificate is made out to.
    pub fn main_name(&self) -> String {
        let name = self.host_name.trim_end_matches('.').to_ascii_lowercase();
        match name.parse() {
            Ok(Name::Dns(name)) => name,
            _ => "localhost".to_owned(),
        }
    }

    /// All that clients in its network can reach it by: the host name, its first part alone and with
    /// `.local`, localhost, the loopback addresses, and those of private networks. Link-local addresses
    /// are nobody's to type, and public ones are for whoever names them.
    pub fn names(&self) -> Vec<Name> {
        let host = self.main_name();
        let mut texts = vec![host.clone()];
        for first in [host.split('.').next(), self.local_host_name.as_deref()]
            .into_iter()
            .flatten()
            .filter(|name| *name != "localhost")
        {
            texts.extend([first.to_owned(), format!("{first}.local")]);
        }
        texts.push("localhost".to_owned());
        let mut names: Vec<Name> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        names.extend([
            Name::Address(Ipv4Addr::LOCALHOST.into()),
            Name::Address(Ipv6Addr::LOCALHOST.into()),
        ]);
        let private = self
            .addresses
            .iter()
            .filter(|address| is_of_a_private_network(**address));
        names.extend(private.map(|address| Name::Address(*address)));
        unique(names)
    }
}

/// Each once, in the order of their first appearance.
pub(super) fn unique(names: impl IntoIterator<Item = Name>) -> Vec<Name> {
    let mut once = Vec::new();
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

fn is_of_a_private_network(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        if let Ok(address) = text.parse() {
            return Ok(Name::Address(address));
        }
        let name = text.to_ascii_lowercase();
        // One for all names right below another is a certificate's own form.
        match DnsName::try_from(name.strip_prefix("*.").unwrap_or(&name)) {
            Ok(_) => Ok(Name::Dns(name)),
            Err(_) => Err(BadName(text.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Dns(name) => formatter.write_str(name),
            Name::Address(address) => write!(formatter, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(host_name: &str, local: Option<&str>, addresses: &[&str]) -> Vec<String> {
        let machine = Machine {
            host_name: host_name.to_owned(),
            local_host_name: local.map(str::to_owned),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        machine.names().iter().map(Name::to_string).collect()
    }

    #[test]
    fn a_machine_is_known_by_its_name_its_local_name_and_its_private_addresses() {
        let names = machine(
            "Hub",
            None,
            &[
                "127.0.0.1",
                "192.168.1.2",
                "172.17.0.1",
                "8.8.8.8",
                "169.254.1.1",
                "::1",
                "fe80::1",
                "fd00::2",
                "2001:db8::1",
            ],
        );
        let expected = [
            "hub",
            "hub.local",
            "localhost",
            "127.0.0.1",
            "::1",
            "192.168.1.2",
            "172.17.0.1",
            "fd00::2",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_name_with_a_domain_is_there_whole_and_by_its_first_part() {
        let with = |names: &[&'static str]| [names, &["localhost", "127.0.0.1", "::1"]].concat();
        assert_eq!(
            machine("hub.example.org.", None, &[]),
            with(&["hub.example.org", "hub", "hub.local"])
        );
        assert_eq!(
            machine("Mac-mini.local", None, &[]),
            with(&["mac-mini.local", "mac-mini"])
        );
        assert_eq!(
            machine("mini", Some("Annas-Mac-mini"), &[]),
            with(&["mini", "mini.local", "annas-mac-mini", "annas-mac-mini.local"])
        );
    }

    #[test]
    fn a_host_name_that_no_certificate_can_be_for_is_left_out() {
        for name in ["", "my hub", "hüb", "localhost", "192.168.1.2"] {
            assert_eq!(
                machine(name, None, &[]),
                ["localhost", "127.0.0.1", "::1"],
                "{name:?}"
            );
        }
    }

    #[test]
    fn names_are_told_from_what_is_none() {
        for (text, read) in [
            ("Hub.Local", "hub.local"),
            ("*.home.arpa", "*.home.arpa"),
            ("xn--hb-xka", "xn--hb-xka"),
            ("10.0.0.1", "10.0.0.1"),
            ("FD00:0::1", "fd00::1"),
        ] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), read);
        }
        for text in [
            "",
            "a b",
            "hüb",
            "*",
            "*.",
            "a.*.b",
            "http://hub",
            "hub:8883",
            "10.0.0.0/8",
        ] {
            let refusal = text.parse::<Name>().unwrap_err().to_string();
            assert!(refusal.contains(&format!("{text:?}")), "{refusal}");
        }
    }
}

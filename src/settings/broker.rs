//! The section `[broker]`: whose broker carries the messages, and what an external one needs.

use std::net::IpAddr;
use std::path::PathBuf;

use super::check::{Checker, GIB, MILLION};
use super::raw::{Given, RawBroker};
use super::{Broker, BrokerAddress, BrokerMode, PasswordSource};

/// Longer than any broker's own bound for client ids and group names.
const MAX_NAME_BYTES: usize = 128;

impl Checker<'_> {
    pub(super) fn broker(&mut self, raw: RawBroker) -> Broker {
        let mode = self.choice(
            "broker.mode",
            raw.mode,
            &[
                ("embedded", BrokerMode::Embedded),
                ("external", BrokerMode::External),
            ],
            BrokerMode::Embedded,
        );
        let certificate = self.optional_path("broker.client_certificate", raw.client_certificate);
        let key = self.optional_path("broker.client_key", raw.client_key);
        Broker {
            mode,
            address: self.broker_address(raw.address),
            allow_plaintext_beyond_loopback: self.plain(
                "broker.allow_plaintext_beyond_loopback",
                raw.allow_plaintext_beyond_loopback,
            ),
            client_id: self.one_level("broker.client_id", raw.client_id),
            share_group: self.one_level("broker.share_group", raw.share_group),
            username: self.optional("broker.username", raw.username),
            password: self.password(
                ["broker.password_file", "broker.password_variable"],
                raw.password_file,
                raw.password_variable,
            ),
            ca_certificate: self.optional_path("broker.ca_certificate", raw.ca_certificate),
            client_certificate: match (certificate, key) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                (certificate, key) => {
                    let (set, missing, path) = match certificate {
                        Some(path) => ("broker.client_certificate", "broker.client_key", Some(path)),
                        None => ("broker.client_key", "broker.client_certificate", key),
                    };
                    let path = path.unwrap_or_default();
                    self.refuse(
                        set,
                        format!("{path:?}"),
                        &format!("a certificate and its key go together; set {missing} too"),
                    );
                    None
                }
            },
            // rumqttc takes no less than 5 seconds.
            keep_alive: self.seconds("broker.keep_alive_s", raw.keep_alive_s, 5..=65_535),
            session_expiry_s: self.number(
                "broker.session_expiry_s",
                raw.session_expiry_s,
                1..=u64::from(u32::MAX),
            ),
            receive_maximum: self.number("broker.receive_maximum", raw.receive_maximum, 1..=1000),
            max_queued_messages: self.number(
                "broker.max_queued_messages",
                raw.max_queued_messages,
                1..=MILLION,
            ),
            max_queued_bytes: self.number("broker.max_queued_bytes", raw.max_queued_bytes, 1024..=GIB),
        }
    }

    /// What an external broker cannot do without, and what cannot go together.
    pub(super) fn broker_agreement(&mut self, broker: &Broker) {
        if broker.mode == BrokerMode::Embedded {
            return;
        }
        if broker.client_id.is_empty() {
            let reason = "an external broker keeps our session under a name; give each daemon its own, for example \
                          \"clawdbot-1\"";
            self.refuse("broker.client_id", "\"\"", reason);
        }
        if broker.share_group.is_empty() {
            let reason =
                "daemons share requests as a group; give all of them the same name, for example \"clawdbot\"";
            self.refuse("broker.share_group", "\"\"", reason);
        }
        if broker.password.is_some() && broker.username.is_none() {
            let reason = "there is a password for it, but no name; set broker.username";
            self.refuse("broker.username", "\"\"", reason);
        }
        let Some(address) = &broker.address else {
            let reason =
                "an external broker needs an address; write for example \"mqtts://broker.example:8883\"";
            return self.refuse("broker.address", "\"\"", reason);
        };
        let written = format!("\"{}\"", address.url());
        if address.tls && address.host.starts_with('[') {
            let reason = "with TLS the broker needs a name or an IPv4 address that its certificate tells";
            self.refuse("broker.address", &written, reason);
        }
        if address.tls {
            return;
        }
        if !address.is_loopback() && !broker.allow_plaintext_beyond_loopback {
            self.refuse(
                "broker.address",
                &written,
                "plain TCP beyond loopback shows the password and prompts to the network; use mqtts://, or set \
                 broker.allow_plaintext_beyond_loopback = true if that network is yours alone",
            );
        }
        let files = [
            ("broker.ca_certificate", broker.ca_certificate.as_ref()),
            (
                "broker.client_certificate",
                broker
                    .client_certificate
                    .as_ref()
                    .map(|(certificate, _)| certificate),
            ),
        ];
        for (key, path) in files {
            if let Some(path) = path {
                let reason = "certificates are for TLS, and broker.address begins with mqtt://; use mqtts://";
                self.refuse(key, format!("{path:?}"), reason);
            }
        }
    }

    fn broker_address(&mut self, given: Given<String>) -> Option<BrokerAddress> {
        let text = self.text("broker.address", given);
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        let parsed = BrokerAddress::parse(text);
        if parsed.is_none() {
            let reason = "not a broker's address; write for example \"mqtts://broker.example:8883\" or \
                          \"mqtt://127.0.0.1:1883\"";
            self.refuse("broker.address", format!("{text:?}"), reason);
        }
        parsed
    }

    /// A password has one source.
    pub(super) fn password(
        &mut self,
        [file_key, variable_key]: [&str; 2],
        file: Given<String>,
        variable: Given<String>,
    ) -> Option<PasswordSource> {
        let file = self.optional_path(file_key, file);
        let variable = self.optional(variable_key, variable);
        match (file, variable) {
            (Some(file), None) => Some(PasswordSource::File(file)),
            (None, Some(variable)) => Some(PasswordSource::Variable(variable)),
            (None, None) => None,
            (Some(_), Some(variable)) => {
                let reason =
                    format!("there is {file_key} too; a password has one source, so empty one of them");
                self.refuse(variable_key, format!("{variable:?}"), &reason);
                None
            }
        }
    }

    /// A name that is a topic level, or empty.
    fn one_level(&mut self, key: &str, given: Given<String>) -> String {
        let text = self.text(key, given);
        let forbidden = |c: char| matches!(c, '+' | '#' | '/' | '$') || c.is_control();
        if text.len() > MAX_NAME_BYTES || text.chars().any(forbidden) {
            let reason =
                format!("no name that fits into a topic; use at most {MAX_NAME_BYTES} bytes without + # / $");
            self.refuse(key, format!("{text:?}"), &reason);
        }
        text
    }

    pub(super) fn optional(&mut self, key: &str, given: Given<String>) -> Option<String> {
        Some(self.text(key, given)).filter(|text| !text.is_empty())
    }

    pub(super) fn optional_path(&mut self, key: &str, given: Given<String>) -> Option<PathBuf> {
        self.optional(key, given).map(PathBuf::from)
    }
}

impl BrokerAddress {
    fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = match text.split_once("://")? {
            ("mqtts", rest) => (true, rest),
            ("mqtt", rest) => (false, rest),
            _ => return None,
        };
        let standard = if tls { 8883 } else { 1883 };
        let (host, port) = match rest.rsplit_once(':') {
            // The last colon of an IPv6 address in brackets is not a port's.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port != 0)?)
            }
            _ => (rest, standard),
        };
        let plain_name = host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match ipv6 {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => plain_name && !host.is_empty(),
        };
        is_host.then(|| Self {
            tls,
            host: host.to_owned(),
            port,
        })
    }

    /// As it is written in the settings.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    fn is_loopback(&self) -> bool {
        let ip = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

//! The section `[mqtt]`: the doors, and the bounds that keep one client from harming the others.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::check::{Checker, DAY_S, GIB, MILLION, MQTT_MAX_PACKET_BYTES};
use super::raw::{Given, RawMqtt};
use super::{CertificateFiles, ClientCertificates, Mqtt, NamedFile, Origin};
use crate::security::DataDir;

const CLIENT_CA: &str = "mqtt.tls_client_ca";

impl Checker<'_> {
    pub(super) fn mqtt(&mut self, raw: RawMqtt, data_dir: &Path) -> Mqtt {
        let clients = self.clients(raw.tls_client_ca, raw.tls_require_client_certificate);
        let certificate = self.certificate(raw.tls_certificate, raw.tls_key, clients, data_dir);
        let tls = self.optional_address("mqtt.tls", raw.tls);
        let secure_websocket = self.optional_address("mqtt.secure_websocket", raw.secure_websocket);
        Mqtt {
            tcp: self.address("mqtt.tcp", raw.tcp),
            websocket: self.optional_address("mqtt.websocket", raw.websocket),
            websocket_by_default: self.is_default("mqtt.websocket"),
            unix: self.optional_path("mqtt.unix", raw.unix),
            tls: tls.filter(|_| certificate.is_some()),
            secure_websocket: secure_websocket.filter(|_| certificate.is_some()),
            certificate,
            tls_check_interval: self.seconds("mqtt.tls_check_interval_s", raw.tls_check_interval_s, 1..=3600),
            tls_renew_before: self.days("mqtt.tls_renew_before_days", raw.tls_renew_before_days, 1..=180),
            allow_plaintext_beyond_loopback: self.plain(
                "mqtt.allow_plaintext_beyond_loopback",
                raw.allow_plaintext_beyond_loopback,
            ),
            allow_beyond_private_network: self.plain(
                "mqtt.allow_beyond_private_network",
                raw.allow_beyond_private_network,
            ),
            max_connections: self.number("mqtt.max_connections", raw.max_connections, 1..=MILLION),
            max_connections_per_address: self.number(
                "mqtt.max_connections_per_address",
                raw.max_connections_per_address,
                1..=MILLION,
            ),
            max_packet_bytes: self.number(
                "mqtt.max_packet_bytes",
                raw.max_packet_bytes,
                1024..=MQTT_MAX_PACKET_BYTES,
            ),
            connect_timeout: self.seconds("mqtt.connect_timeout_s", raw.connect_timeout_s, 1..=3600),
            max_keep_alive_s: self.number("mqtt.max_keep_alive_s", raw.max_keep_alive_s, 0..=65_535),
            receive_maximum: self.number("mqtt.receive_maximum", raw.receive_maximum, 1..=65_535),
            max_queued_messages: self.number(
                "mqtt.max_queued_messages",
                raw.max_queued_messages,
                1..=MILLION,
            ),
            max_queued_bytes: self.number("mqtt.max_queued_bytes", raw.max_queued_bytes, 1024..=GIB),
            max_session_expiry_s: self.number(
                "mqtt.max_session_expiry_s",
                raw.max_session_expiry_s,
                0..=u64::from(u32::MAX),
            ),
            max_retained_messages: self.number(
                "mqtt.max_retained_messages",
                raw.max_retained_messages,
                1..=MILLION,
            ),
            max_retained_bytes: self.number("mqtt.max_retained_bytes", raw.max_retained_bytes, 1024..=GIB),
            max_subscriptions: self.number("mqtt.max_subscriptions", raw.max_subscriptions, 1..=MILLION),
            max_messages_per_s: self.number("mqtt.max_messages_per_s", raw.max_messages_per_s, 0..=MILLION),
            max_bytes_per_s: self.number("mqtt.max_bytes_per_s", raw.max_bytes_per_s, 0..=1024 * GIB),
            max_topic_levels: self.number("mqtt.max_topic_levels", raw.max_topic_levels, 1..=200),
            max_topic_bytes: self.number("mqtt.max_topic_bytes", raw.max_topic_bytes, 1..=65_535),
            max_inflight: self.number("mqtt.max_inflight", raw.max_inflight, 1..=65_535),
            session_threads: self.number("mqtt.session_threads", raw.session_threads, 0..=1024),
            sys_interval: Some(self.seconds("mqtt.sys_interval_s", raw.sys_interval_s, 0..=DAY_S))
                .filter(|interval| !interval.is_zero()),
        }
    }

    /// Nothing where the setting is empty.
    fn optional_address(&mut self, key: &str, given: Given<String>) -> Option<SocketAddr> {
        match given {
            Given::Right(text) if text.trim().is_empty() => None,
            given => Some(self.address(key, given)),
        }
    }

    /// What was configured, else what `clawdbot certs init` made in the data directory.
    fn certificate(
        &mut self,
        certificate: Given<String>,
        key: Given<String>,
        clients: Option<ClientCertificates>,
        data_dir: &Path,
    ) -> Option<CertificateFiles> {
        const CERTIFICATE: &str = "mqtt.tls_certificate";
        const KEY: &str = "mqtt.tls_key";
        let certificate = self.named_file(CERTIFICATE, certificate);
        let files = match (certificate, self.named_file(KEY, key)) {
            (Some(certificate), Some(key)) => Some(CertificateFiles {
                certificate,
                key,
                clients: None,
                own: None,
            }),
            (None, None) => {
                let own = DataDir::certificates_in(data_dir);
                own.exist().then(|| own.files())
            }
            (Some(_), None) => {
                self.refuse(KEY, "\"\"", &format!("{CERTIFICATE} is set without it; set both"));
                None
            }
            (None, Some(_)) => {
                self.refuse(CERTIFICATE, "\"\"", &format!("{KEY} is set without it; set both"));
                None
            }
        };
        if let (None, Some(clients), true) = (&files, &clients, self.problems.is_empty()) {
            self.refuse(
                CLIENT_CA,
                clients.authority.path.display(),
                "clients show certificates over TLS only, and this hub has none of its own to offer TLS with; make one \
                 by `clawdbot certs init`, or set mqtt.tls_certificate and mqtt.tls_key",
            );
        }
        files.map(|files| CertificateFiles { clients, ..files })
    }

    fn clients(&mut self, authority: Given<String>, required: Given<bool>) -> Option<ClientCertificates> {
        const REQUIRED: &str = "mqtt.tls_require_client_certificate";
        let authority = self.named_file(CLIENT_CA, authority);
        let required = self.plain(REQUIRED, required);
        if authority.is_none() && required {
            let reason = format!(
                "nobody could show one, since no authority is named; set {CLIENT_CA} to the PEM file of the one that \
                 signs them"
            );
            self.refuse(REQUIRED, required, &reason);
        }
        Some(ClientCertificates {
            authority: authority?,
            required,
        })
    }

    fn named_file(&mut self, key: &'static str, given: Given<String>) -> Option<NamedFile> {
        let path = self.optional_path(key, given)?;
        let origin = self.origins.get(key).cloned().unwrap_or(Origin::Default);
        Some(NamedFile {
            path,
            named_by: Some((key, origin)),
        })
    }

    fn days(&mut self, key: &str, given: Given<u64>, range: RangeInclusive<u64>) -> Duration {
        let days: u64 = self.number(key, given, range);
        Duration::from_secs(days * DAY_S)
    }

    fn is_default(&self, key: &str) -> bool {
        matches!(self.origins.get(key), None | Some(Origin::Default))
    }
}

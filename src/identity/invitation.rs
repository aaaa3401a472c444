//! What a device must know to be paired, beside its code: where the hub is, and by what authority it is known.

use std::net::SocketAddr;

use ring::digest;
use serde::Serialize;

use crate::security::certificates::{Machine, Name, OwnCertificates};

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Invitation {
    /// A name of this machine in its network.
    host: String,
    /// An address of it, for devices that look up no names.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Where MQTT is spoken.
    port: u16,
    /// Whether that is by TLS.
    tls: bool,
    /// SHA-256 of the authority's certificate in DER, where it is ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
}

impl Invitation {
    /// To the door of TLS, by the certificates of this machine's own authority where there are such.
    pub(crate) fn to_tls(door: SocketAddr, own: Option<&OwnCertificates>) -> Invitation {
        let names = Machine::here().names();
        let text = |wanted: fn(&Name) -> bool| names.iter().find(|name| wanted(name)).map(Name::to_string);
        let local = text(|name| matches!(name, Name::Dns(name) if name.ends_with(".local")));
        let any = text(|name| matches!(name, Name::Dns(_)));
        let address = text(|name| matches!(name, Name::Address(address) if !address.is_loopback()));
        Invitation {
            host: local.or(any).unwrap_or_else(|| "localhost".to_owned()),
            address,
            port: door.port(),
            tls: true,
            ca: own
                .and_then(|own| own.authority_certificate().ok())
                .map(|authority| sha256(&authority)),
        }
    }

    /// To the door of plain text, which is there for this machine.
    pub(crate) fn to_plain_text(door: SocketAddr) -> Invitation {
        Invitation {
            host: door.ip().to_string(),
            address: None,
            port: door.port(),
            tls: false,
            ca: None,
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

//! What the link to an external broker needs from outside: its settings in the actor's words, the
//! certificates it trusts and shows, and its password.

use std::sync::Arc;

use actors::external_broker::ExternalBrokerConfig;
use actors::policy::backoff::BackoffConfig;
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::outbound::{self, OutboundError, PasswordSettings};
use crate::settings::{Broker, BrokerAddress, BrokerMode, Settings};

const PASSWORD: PasswordSettings = PasswordSettings {
    file: "broker.password_file",
    variable: "broker.password_variable",
};

/// Why the external broker cannot be spoken to at all.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A file, a variable or TLS.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// Certificate and key do not fit, or TLS cannot use them.
    #[error(
        "broker.client_certificate: it cannot be used with its key: {0}; name two files that belong together"
    )]
    ClientCertificate(rustls::Error),
}

/// What the link is to be, if there is to be one.
pub fn link_config(
    settings: &Settings,
    backoff: BackoffConfig,
) -> Result<Option<ExternalBrokerConfig>, BrokerError> {
    let broker = &settings.broker;
    let Some(address) = broker
        .address
        .as_ref()
        .filter(|_| broker.mode == BrokerMode::External)
    else {
        return Ok(None);
    };
    let password = broker
        .password
        .as_ref()
        .map(|source| outbound::password(source, PASSWORD))
        .transpose()?;
    let credentials = broker
        .username
        .clone()
        .map(|name| (name, password.unwrap_or_default()));
    Ok(Some(ExternalBrokerConfig {
        host: address.host.clone(),
        port: address.port,
        transport: transport(broker, address)?,
        client_id: broker.client_id.clone(),
        credentials,
        keep_alive: broker.keep_alive,
        session_expiry_s: broker.session_expiry_s,
        receive_maximum: broker.receive_maximum,
        max_packet_bytes: u32::try_from(settings.mqtt.max_packet_bytes).unwrap_or(u32::MAX),
        max_queued_messages: broker.max_queued_messages,
        max_queued_bytes: broker.max_queued_bytes,
        share_group: broker.share_group.clone(),
        backoff,
    }))
}

fn transport(broker: &Broker, address: &BrokerAddress) -> Result<Transport, BrokerError> {
    if !address.tls {
        return Ok(Transport::tcp());
    }
    let builder = outbound::tls("broker.ca_certificate", broker.ca_certificate.as_deref())?;
    let config = match &broker.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = outbound::certificates("broker.client_certificate", certificate)?;
            let key =
                PrivateKeyDer::from_pem_slice(&outbound::read("broker.client_key", key)?).map_err(|_| {
                    OutboundError::NotPem {
                        setting: "broker.client_key",
                        wanted: "private key",
                        path: key.clone(),
                    }
                })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(BrokerError::ClientCertificate)?
        }
    };
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(
        config,
    ))))
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;

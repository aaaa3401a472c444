//! What the broker thinks of us and of our messages, in words that say what to try.

use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, DisconnectReasonCode, PubAck, PubAckReason};
use rumqttc::v5::{ConnectionError, StateError};

use super::ExternalBrokerConfig;
use super::connection::{CONNECT_TIMEOUT_S, WINDOW};

/// What CONNACK allows.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    pub(super) window: usize,
    pub(super) max_packet_bytes: usize,
    pub(super) retain: bool,
}

impl Allowed {
    /// From CONNACK, or why the broker is of no use to us.
    pub(super) fn by(ack: &ConnAck) -> Result<Self, String> {
        let properties = ack.properties.as_ref();
        if properties.and_then(|p| p.max_qos) == Some(0) {
            return Err(
                "the broker takes QoS 0 only, by which requests could be lost; allow QoS 1 there".into(),
            );
        }
        if properties.and_then(|p| p.shared_subscription_available) == Some(0) {
            return Err("the broker has no shared subscriptions; allow them there, or use another".into());
        }
        let window = properties
            .and_then(|p| p.receive_max)
            .unwrap_or(WINDOW)
            .min(WINDOW);
        Ok(Self {
            window: usize::from(window),
            max_packet_bytes: properties
                .and_then(|p| p.max_packet_size)
                .map_or(usize::MAX, |bytes| bytes as usize),
            retain: properties.and_then(|p| p.retain_available) != Some(0),
        })
    }
}

/// The broker's word on a message of ours, where it did not take it.
pub(super) fn refusal(ack: &PubAck) -> Option<String> {
    match ack.reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        reason => Some(format!("{reason:?}")),
    }
}

/// Why a connection could not be made or ended: what happened and what to try.
pub(super) fn explain(error: &ConnectionError, config: &ExternalBrokerConfig) -> String {
    let place = format!("{}:{}", config.host, config.port);
    match error {
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized),
        ) => format!(
            "the broker at {place} does not let us in ({code:?}); check broker.username and its password"
        ),
        ConnectionError::ConnectionRefused(code) => format!("the broker at {place} refused us: {code:?}"),
        ConnectionError::Tls(error) => format!(
            "no TLS connection to {place} that could be trusted: {error}; check broker.ca_certificate, and \
             that the broker's certificate is made out to {}",
            config.host
        ),
        ConnectionError::Io(error) => format!("the broker at {place} cannot be reached: {error}"),
        ConnectionError::Timeout(_) => {
            format!("the broker at {place} did not answer within {CONNECT_TIMEOUT_S} s")
        }
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => format!(
            "another client of {place} took our client id {}; give each daemon its own broker.client_id",
            config.client_id
        ),
        // rumqttc 0.25 takes a DISCONNECT with a reason and without properties for this, too.
        ConnectionError::MqttState(StateError::ConnectionAborted) => format!(
            "the broker at {place} closed the connection; if it does so again and again, see whether another \
             daemon has our broker.client_id, {}",
            config.client_id
        ),
        other => format!("the connection to {place} failed: {other}"),
    }
}

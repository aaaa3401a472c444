//! The conversation with the broker: connect, subscribe, ask, read until the end.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Packet, PubAck, PubAckReason, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use serde_json::json;
use tokio::signal::ctrl_c;
use tokio::time::timeout;

use super::answer::{Answer, Step};
use crate::cli::Failure;

/// Time for the TCP connection and the broker's first answer, in seconds.
const CONNECT_TIMEOUT_S: u64 = 10;
/// How often the connection is probed while the model thinks; a dead daemon is noticed that soon.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Time for the last words: a cancel, a DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(2);
/// Largest item taken.
const MAX_PACKET_BYTES: u32 = 1 << 20;
/// Requests to the event loop that wait; never more than subscribe, publish, cancel, disconnect.
const REQUESTS: usize = 4;

/// One question and everything needed to ask it.
pub(super) struct Conversation {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) device: String,
    pub(super) token: Option<String>,
    /// The request as JSON.
    pub(super) request: String,
    /// Names this conversation: client id, reply topic and correlation data are made of it.
    pub(super) unique: String,
    pub(super) json: bool,
}

impl Conversation {
    /// Asks, and writes the answer to `out` as it comes.
    pub(super) async fn hold(&self, out: impl io::Write) -> Result<(), Failure> {
        let (client, mut events) = AsyncClient::new(self.options(), REQUESTS);
        let mut answer = Answer::new(out, self.json);
        let outcome = tokio::select! {
            outcome = self.converse(&client, &mut events, &mut answer) => outcome,
            _ = ctrl_c() => {
                self.cancel(&client, &mut events).await;
                Err(Failure::Interrupted)
            }
        };
        answer.close();
        if outcome.is_ok() {
            leave(&client, &mut events).await;
        }
        outcome
    }

    async fn converse<W: io::Write>(
        &self,
        client: &AsyncClient,
        events: &mut EventLoop,
        answer: &mut Answer<W>,
    ) -> Result<(), Failure> {
        loop {
            let event = match events.poll().await {
                Ok(event) => event,
                Err(error) => {
                    return match finish_from_buffer(events, answer)? {
                        Step::Finished => Ok(()),
                        Step::Continues => Err(self.explain(error)),
                    };
                }
            };
            match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    // Asked only when the answer can be received: an answer may be quicker than a SUBACK.
                    client
                        .subscribe(self.reply_topic(), QoS::AtLeastOnce)
                        .await
                        .map_err(closed)?;
                }
                Event::Incoming(Packet::SubAck(ack)) => match ack.return_codes.first() {
                    Some(SubscribeReasonCode::Success(_)) => self.ask(client).await?,
                    _ => return Err(self.forbidden("subscribe to", &self.reply_topic())),
                },
                Event::Incoming(Packet::PubAck(ack)) => self.check_accepted(&ack)?,
                Event::Incoming(Packet::Publish(item)) => {
                    let step = answer.take(&item.payload)?;
                    if step == Step::Finished {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }

    async fn ask(&self, client: &AsyncClient) -> Result<(), Failure> {
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some("application/json".to_owned()),
            response_topic: Some(self.reply_topic()),
            correlation_data: Some(Bytes::from(self.unique.clone())),
            ..PublishProperties::default()
        };
        client
            .publish_with_properties(
                self.topic("command"),
                QoS::AtLeastOnce,
                false,
                self.request.clone(),
                properties,
            )
            .await
            .map_err(closed)
    }

    fn check_accepted(&self, ack: &PubAck) -> Result<(), Failure> {
        match ack.reason {
            // The command's owner is no subscriber, so that nobody subscribed says nothing.
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
            PubAckReason::NotAuthorized => Err(self.forbidden("publish to", &self.topic("command"))),
            PubAckReason::QuotaExceeded => Err(Failure::AtRunTime(
                "the daemon has too much to do to take the request; ask again later".to_owned(),
            )),
            other => Err(Failure::AtRunTime(format!(
                "the daemon did not take the request: {other:?}"
            ))),
        }
    }

    /// Tells the daemon that nobody waits any more, so that the model is free for others.
    async fn cancel(&self, client: &AsyncClient, events: &mut EventLoop) {
        let payload = json!({ "id": self.unique }).to_string();
        let sent = async {
            client
                .publish(self.topic("cancel"), QoS::AtLeastOnce, false, payload)
                .await
                .ok()?;
            let mut cancel_id = None;
            loop {
                match events.poll().await.ok()? {
                    Event::Outgoing(Outgoing::Publish(id)) => cancel_id = Some(id),
                    Event::Incoming(Packet::PubAck(ack)) if Some(ack.pkid) == cancel_id => break,
                    _ => {}
                }
            }
            Some(())
        };
        // Best effort: an answer that nobody can receive ends by itself after the grace time.
        let _ = timeout(FAREWELL, sent).await;
    }

    fn options(&self) -> MqttOptions {
        let mut options = MqttOptions::new(format!("cli-{}", self.unique), self.host.clone(), self.port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_start(true);
        options.set_connection_timeout(CONNECT_TIMEOUT_S);
        options.set_max_packet_size(Some(MAX_PACKET_BYTES));
        if let Some(token) = &self.token {
            options.set_credentials(self.device.clone(), token.clone());
        }
        options
    }

    fn topic(&self, last: &str) -> String {
        format!("clawdbot/{}/{last}", self.device)
    }

    fn reply_topic(&self) -> String {
        format!("{}/{}", self.topic("reply"), self.unique)
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn forbidden(&self, action: &str, topic: &str) -> Failure {
        Failure::AtRunTime(format!(
            "the daemon at {} does not let this token {action} {topic}; use a token for the device {:?}",
            self.address(),
            self.device
        ))
    }

    /// Errors of the library, in words that say what to try.
    fn explain(&self, error: ConnectionError) -> Failure {
        let address = self.address();
        Failure::AtRunTime(match error {
            ConnectionError::Io(error) => format!(
                "no daemon answers at {address} ({error}); start one with `clawdbot serve`, or name its address with \
                 --connect HOST:PORT"
            ),
            ConnectionError::Timeout(_) => format!(
                "what listens at {address} did not answer like an MQTT broker within {CONNECT_TIMEOUT_S} s; name the \
                 daemon's address with --connect HOST:PORT"
            ),
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
            ) => format!(
                "the daemon at {address} refused the token: it has expired, was signed with another daemon's key, or is \
                 not for the device {:?}; name the daemon's own data directory with --data-dir, or give a fresh token \
                 with --token",
                self.device
            ),
            ConnectionError::ConnectionRefused(code) => {
                format!("the daemon at {address} refused the connection: {code:?}; its log says more")
            }
            ConnectionError::MqttState(StateError::OutgoingPacketTooLarge { max, .. }) => {
                format!("the question is longer than the {max} bytes that the daemon takes; shorten it")
            }
            ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code,
                reason_string,
            }) => format!(
                "the daemon at {address} ended the connection: {}",
                reason_string.unwrap_or_else(|| format!("{reason_code:?}"))
            ),
            other => format!(
                "the connection to {address} broke off: {other}; the daemon's log may say why, ask again"
            ),
        })
    }
}

/// When the end of the connection arrives together with items, rumqttc reports the end and leaves
/// the items in its buffer: a daemon that stops right after the last word has still said it.
fn finish_from_buffer<W: io::Write>(events: &mut EventLoop, answer: &mut Answer<W>) -> Result<Step, Failure> {
    while let Some(event) = events.state.events.pop_front() {
        if let Event::Incoming(Packet::Publish(item)) = event {
            let step = answer.take(&item.payload)?;
            if step == Step::Finished {
                return Ok(step);
            }
        }
    }
    Ok(Step::Continues)
}

/// Says goodbye, so that the daemon does not take the closed connection for a lost one.
async fn leave(client: &AsyncClient, events: &mut EventLoop) {
    let farewell = async {
        client.disconnect().await.ok()?;
        while !matches!(events.poll().await.ok()?, Event::Outgoing(Outgoing::Disconnect)) {}
        Some(())
    };
    let _ = timeout(FAREWELL, farewell).await;
}

fn closed(_: rumqttc::v5::ClientError) -> Failure {
    // The event loop lives as long as this conversation, so its channel cannot be closed.
    Failure::AtRunTime("the connection was closed; ask again".to_owned())
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;

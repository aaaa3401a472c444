//! One connection to the external broker: rumqttc's event loop, and what was handed to it and is not
//! acknowledged yet. Each connection has a new event loop and no state of rumqttc's outlives it: its
//! list of what to send again ignores the inflight window, and forgets all when the broker forgot
//! the session.

use std::collections::VecDeque;
use std::mem;

use actix::prelude::*;
use actix_rt::task::JoinHandle;
use rumqttc::Outgoing as Sent;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Packet, Publish, RetainForwardRule};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use topics::filter::TopicFilter;

use super::uplink::Outgoing;
use super::verdict::Allowed;
use super::{ExternalBroker, ExternalBrokerConfig, wire};
use crate::served::Audience;

/// Our messages that the broker may have unacknowledged, where it takes as many.
pub(super) const WINDOW: u16 = 64;

/// How long the broker may take from the first packet of TCP to CONNACK.
pub(super) const CONNECT_TIMEOUT_S: u64 = 10;

/// Room for what is handed over beside messages and acknowledgements.
const OTHER_REQUESTS: usize = 8;

/// Something happened on a connection.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct FromBroker {
    pub(super) connection: u64,
    pub(super) what: Happened,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every one is an event, and the other ends the connection"
)]
pub(super) enum Happened {
    Event(Event),
    Lost(ConnectionError),
}

/// See the module.
pub(super) struct Connection {
    pub(super) number: u64,
    client: AsyncClient,
    pump: JoinHandle<()>,
    /// CONNACK came, with what it allows.
    pub(super) allowed: Option<Allowed>,
    in_flight: VecDeque<InFlight>,
    acknowledgements: VecDeque<u16>,
}

struct InFlight {
    /// 0 until it is on its way.
    packet_id: u16,
    outgoing: Outgoing,
}

impl Connection {
    pub(super) fn open(config: &ExternalBrokerConfig, number: u64, link: Addr<ExternalBroker>) -> Self {
        let requests = usize::from(WINDOW) + usize::from(config.receive_maximum) + OTHER_REQUESTS;
        let (client, event_loop) = AsyncClient::new(options(config), requests);
        Self {
            number,
            client,
            pump: actix_rt::spawn(pump(event_loop, number, link)),
            allowed: None,
            in_flight: VecDeque::new(),
            acknowledgements: VecDeque::new(),
        }
    }

    /// Asks for what is bound; false where it could not be handed over.
    pub(super) fn subscribe(&self, filters: &[(TopicFilter, Audience)]) -> bool {
        let filters = filters.iter().map(|(filter, audience)| {
            let qos = match audience {
                Audience::OneDaemon => QoS::AtLeastOnce,
                Audience::EveryDaemon => QoS::AtMostOnce,
            };
            let mut filter = Filter::new(filter.as_str(), qos);
            // What was retained is nobody's request of today.
            filter.retain_forward_rule = RetainForwardRule::Never;
            filter
        });
        self.client.try_subscribe_many(filters).is_ok()
    }

    /// Wants no more of what an actor had that has stopped; false where it could not be handed over.
    pub(super) fn unsubscribe(&self, filter: &TopicFilter) -> bool {
        self.client.try_unsubscribe(filter.as_str()).is_ok()
    }

    /// How many messages the broker takes now.
    pub(super) fn room(&self) -> usize {
        self.allowed
            .map_or(0, |allowed| allowed.window.saturating_sub(self.in_flight.len()))
    }

    /// Hands a message over; gives it back where rumqttc's channel is full for the moment.
    pub(super) fn send(&mut self, publish: Publish, outgoing: Outgoing) -> Result<(), Outgoing> {
        let (qos, retain) = (publish.qos, publish.retain);
        let topic = outgoing.message.topic.as_str();
        let sent = match publish.properties {
            Some(properties) => {
                self.client
                    .try_publish_with_properties(topic, qos, retain, publish.payload, properties)
            }
            None => self.client.try_publish(topic, qos, retain, publish.payload),
        };
        if sent.is_err() {
            return Err(outgoing);
        }
        if qos == QoS::AtMostOnce {
            // Nobody will say that it came; handed over is all there is.
            if let Some(receipt) = outgoing.receipt {
                receipt.done();
            }
        } else {
            self.in_flight.push_back(InFlight {
                packet_id: 0,
                outgoing,
            });
        }
        Ok(())
    }

    /// rumqttc sent something. A message gets its packet identifier then, and messages are sent in order.
    pub(super) fn sent(&mut self, what: &Sent) {
        let packet_id = match what {
            // One that had to wait for its identifier to be free is told of twice.
            Sent::Publish(id) if self.in_flight.iter().all(|sent| sent.packet_id != *id) => *id,
            Sent::AwaitAck(id) => *id,
            _ => return,
        };
        if packet_id != 0
            && let Some(next) = self.in_flight.iter_mut().find(|sent| sent.packet_id == 0)
        {
            next.packet_id = packet_id;
        }
    }

    /// The broker has one of our messages.
    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Option<Outgoing> {
        let at = self
            .in_flight
            .iter()
            .position(|sent| sent.packet_id == packet_id)?;
        self.in_flight.remove(at).map(|sent| sent.outgoing)
    }

    /// Acknowledges one of the broker's messages.
    pub(super) fn acknowledge(&mut self, packet_id: u16) {
        self.acknowledgements.push_back(packet_id);
    }

    pub(super) fn flush_acknowledgements(&mut self) {
        while let Some(packet_id) = self.acknowledgements.front() {
            if self.client.try_ack(&wire::to_acknowledge(*packet_id)).is_err() {
                break;
            }
            self.acknowledgements.pop_front();
        }
    }

    /// The numbers of our messages that the broker does not have for certain.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = u64> {
        self.in_flight.iter().map(|sent| sent.outgoing.number)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.acknowledgements.is_empty()
    }

    /// Says goodbye, after which the broker closes.
    pub(super) fn say_goodbye(&self) -> bool {
        self.client.try_disconnect().is_ok()
    }

    /// Ends it and gives back what must be sent again, oldest first.
    pub(super) fn close(self) -> impl DoubleEndedIterator<Item = Outgoing> {
        self.pump.abort();
        self.in_flight.into_iter().map(|sent| sent.outgoing)
    }
}

/// Where the daemon says whether it is there.
pub(super) fn presence_topic(client_id: &str) -> String {
    format!("clawdbot/bridge/state/{client_id}")
}

fn options(config: &ExternalBrokerConfig) -> MqttOptions {
    let mut options = MqttOptions::new(&config.client_id, &config.host, config.port);
    options
        .set_transport(config.transport.clone())
        .set_keep_alive(config.keep_alive)
        // What is not acknowledged comes again: that is the whole point.
        .set_clean_start(false)
        .set_manual_acks(true)
        .set_session_expiry_interval(Some(config.session_expiry_s))
        .set_receive_maximum(Some(config.receive_maximum))
        .set_max_packet_size(Some(config.max_packet_bytes))
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_connection_timeout(CONNECT_TIMEOUT_S)
        .set_last_will(LastWill::new(
            presence_topic(&config.client_id),
            "offline",
            QoS::AtLeastOnce,
            true,
            None,
        ));
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    if let Some((username, password)) = &config.credentials {
        options.set_credentials(username, password);
    }
    options
}

/// Drives the event loop to the end of its connection. Polling is never cut off halfway, which could
/// lose a packet; each event is handled before the next, so the broker waits for us and no queue grows.
async fn pump(mut event_loop: EventLoop, connection: u64, link: Addr<ExternalBroker>) {
    let tell = |what| link.send(FromBroker { connection, what });
    let end = loop {
        match event_loop.poll().await {
            // The actor is gone, and the daemon with it.
            Ok(event) => {
                if tell(Happened::Event(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => break error,
        }
    };
    // Where the end comes together with packets, rumqttc leaves these in its buffer. What the broker
    // acknowledged need not be sent again; what it published it will bring again.
    for event in mem::take(&mut event_loop.state.events) {
        let counts = match event {
            Event::Incoming(Packet::PubAck(_)) | Event::Outgoing(_) => tell(Happened::Event(event)).await,
            Event::Incoming(_) => continue,
        };
        if counts.is_err() {
            return;
        }
    }
    // As above.
    let _ = tell(Happened::Lost(end)).await;
}

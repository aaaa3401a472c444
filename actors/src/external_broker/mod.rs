//! The actor that takes the embedded broker's place where there is an external one: it brings the
//! requests that others publish there to the actors that own their topics, and what these publish to
//! the broker.
//!
//! A request (QoS 1) is acknowledged when the broker has acknowledged the last item of its answer: see
//! [`Receipt`]. Several daemons share the requests by a shared subscription. The broker decides who may
//! publish to a device's topics; that an answer goes to no other device's is still seen to here.

mod connection;
mod gauge;
mod receipt;
mod requests;
mod uplink;
mod wire;

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytestring::ByteString;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAck, Publish, SubAck, SubscribeReasonCode};
use tokio::sync::oneshot;
use topics::access::AccessRules;
use topics::device::DeviceId;
use topics::filter::TopicFilter;
use topics::message::Message as AppMessage;
use topics::name::TopicName;
use topics::packet::QoS;

use crate::policy::backoff::{Backoff, BackoffConfig};
use crate::switchboard::{Publisher, Routed, Switchboard};
use crate::topic_router::RouteRequest;

use connection::{Allowed, Connection, FromBroker, Happened, explain, presence_topic, refusal};
pub use gauge::LinkGauge;
pub use receipt::{Answering, Receipt};
use receipt::{Bell, Rung};
use requests::Requests;
use uplink::Outgoing;
pub(crate) use uplink::Uplink;

/// One event of the connection, one ring of the bell, and one stop at a time.
const MAILBOX: usize = 16;

/// From the settings.
#[derive(Clone)]
pub struct ExternalBrokerConfig {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TCP, or TLS with all that it needs.
    pub transport: rumqttc::Transport,
    /// Under which the broker keeps our session.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// Silence after which a ping is sent, 5 seconds at least.
    pub keep_alive: Duration,
    /// How long the broker keeps the session, and requests for it, while we are away.
    pub session_expiry_s: u32,
    /// Requests that the broker may have with us unacknowledged.
    pub receive_maximum: u16,
    /// The largest packet that we take.
    pub max_packet_bytes: u32,
    /// Messages that wait for the broker.
    pub max_queued_messages: usize,
    /// Bytes that wait for the broker.
    pub max_queued_bytes: usize,
    /// What is asked of the broker.
    pub serve: Vec<Served>,
    /// Waits between connections.
    pub backoff: BackoffConfig,
}

/// A subscription of the daemon's.
#[derive(Clone, Debug)]
pub struct Served {
    /// What to; shared or not.
    pub filter: TopicFilter,
    /// Whether its messages are requests, to be acknowledged when they are answered.
    pub acknowledged: bool,
}

/// See the module.
pub struct ExternalBroker {
    config: ExternalBrokerConfig,
    switchboard: Switchboard,
    gauge: Arc<LinkGauge>,
    bell: Arc<Bell>,
    uplink: Arc<Uplink>,
    backoff: Backoff,
    connection: Option<Connection>,
    connections: u64,
    requests: Requests,
    /// Taken from the uplink, sent, and not acknowledged when a connection was lost.
    again: VecDeque<Outgoing>,
    stopping: Stopping,
}

enum Stopping {
    No,
    /// What is in work is finished first.
    Finishing(Vec<oneshot::Sender<()>>),
    /// We said that we are going; the broker still has to take it.
    Leaving(Vec<oneshot::Sender<()>>),
    Left,
}

impl ExternalBroker {
    /// Starts it, and makes the switchboard send it what the daemon publishes.
    pub fn launch(
        config: ExternalBrokerConfig,
        switchboard: Switchboard,
        gauge: Arc<LinkGauge>,
    ) -> Addr<Self> {
        let mut ctx = Context::new();
        ctx.set_mailbox_capacity(MAILBOX);
        let bell = Bell::new(ctx.address().recipient());
        let uplink = Arc::new(Uplink::new(
            config.max_queued_messages,
            config.max_queued_bytes,
            bell.clone(),
            gauge.clone(),
        ));
        switchboard.set_uplink(uplink.clone());
        gauge.down("not connected yet".into());
        ctx.run(Self {
            backoff: Backoff::new(config.backoff),
            config,
            switchboard,
            gauge,
            bell,
            uplink,
            connection: None,
            connections: 0,
            requests: Requests::default(),
            again: VecDeque::new(),
            stopping: Stopping::No,
        })
    }

    fn connect(&mut self, ctx: &mut Context<Self>) {
        if matches!(self.stopping, Stopping::No) {
            self.connections += 1;
            self.connection = Some(Connection::open(&self.config, self.connections, ctx.address()));
        }
    }

    /// Ends the connection and makes another after a wait.
    fn lost(&mut self, why: String, ctx: &mut Context<Self>) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        for outgoing in connection.close().rev() {
            self.again.push_front(outgoing);
        }
        self.requests.connection_lost();
        if !matches!(self.stopping, Stopping::No) {
            self.gauge.down("stopped".into());
            return self.left();
        }
        let wait = self.backoff.failed(Instant::now(), random());
        tracing::warn!(
            reason = why,
            failures = self.backoff.failures(),
            wait_ms = wait.as_millis() as u64,
            "no connection to the broker; it is tried again after a wait"
        );
        self.gauge.lost(why);
        ctx.run_later(wait, Self::connect);
    }
}

impl Actor for ExternalBroker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.connect(ctx);
    }
}

impl Handler<FromBroker> for ExternalBroker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, msg: FromBroker, ctx: &mut Self::Context) -> Self::Result {
        let mut first = None;
        if self
            .connection
            .as_ref()
            .is_some_and(|c| c.number == msg.connection)
        {
            match msg.what {
                Happened::Lost(error) => self.lost(explain(&error, &self.config), ctx),
                Happened::Event(Event::Incoming(packet)) => match packet {
                    Packet::ConnAck(ack) => self.admitted(&ack, ctx),
                    Packet::SubAck(ack) => self.subscribed(&ack, ctx),
                    Packet::Publish(publish) => first = self.received(publish),
                    Packet::PubAck(ack) => self.taken(&ack),
                    _ => {}
                },
                Happened::Event(Event::Outgoing(sent)) => {
                    if let Some(connection) = &mut self.connection {
                        connection.sent(&sent);
                    }
                }
            }
            self.flush(ctx);
        }
        let router = self.switchboard.router().clone();
        Box::pin(async move {
            if let Some(first) = first {
                // A request that the router does not take drops its receipt, and comes again.
                let _ = router.send(first).await;
            }
        })
    }
}

impl Handler<Rung> for ExternalBroker {
    type Result = ();

    fn handle(&mut self, _: Rung, ctx: &mut Self::Context) {
        self.flush(ctx);
    }
}

/// Finish what is in work, take nothing new, and say goodbye. Answered when the broker has all that was
/// published, or cannot be reached.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopLink;

impl Handler<StopLink> for ExternalBroker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopLink, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = oneshot::channel();
        match &mut self.stopping {
            Stopping::Finishing(waiting) | Stopping::Leaving(waiting) => waiting.push(sender),
            Stopping::No => self.stopping = Stopping::Finishing(vec![sender]),
            Stopping::Left => return Box::pin(async {}),
        }
        if self.gauge.is_connected() {
            self.flush(ctx);
        } else {
            if let Some(connection) = self.connection.take() {
                drop(connection.close());
            }
            self.left();
        }
        Box::pin(async move {
            // A link that is gone has stopped.
            let _ = receiver.await;
        })
    }
}

impl ExternalBroker {
    fn admitted(&mut self, ack: &ConnAck, ctx: &mut Context<Self>) {
        if !ack.session_present {
            self.requests.session_lost();
        }
        let allowed = match Allowed::by(ack) {
            Ok(allowed) => allowed,
            Err(why) => return self.lost(why, ctx),
        };
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.allowed = Some(allowed);
        if !connection.subscribe(&self.config) {
            return self.lost("the subscriptions could not be asked for".into(), ctx);
        }
        let expiry = ack.properties.as_ref().and_then(|p| p.session_expiry_interval);
        if let Some(granted) = expiry.filter(|granted| *granted < self.config.session_expiry_s) {
            tracing::warn!(
                granted_s = granted,
                "the broker keeps our session for less time than broker.session_expiry_s"
            );
        }
    }

    fn subscribed(&mut self, ack: &SubAck, ctx: &mut Context<Self>) {
        let refused = self
            .config
            .serve
            .iter()
            .zip(&ack.return_codes)
            .find(|(_, code)| !matches!(code, SubscribeReasonCode::Success(_)));
        if let Some((served, code)) = refused {
            let why = format!(
                "the broker does not let us subscribe to {} ({code:?}); allow it to this user",
                served.filter
            );
            return self.lost(why, ctx);
        }
        self.backoff.started(Instant::now());
        self.gauge.up();
        tracing::info!(
            host = self.config.host,
            port = self.config.port,
            client_id = self.config.client_id,
            "connected to the broker"
        );
        self.say("online");
    }

    /// A message came. Gives back what the router has to see to before the next one.
    fn received(&mut self, publish: Publish) -> Option<RouteRequest> {
        let (packet_id, dup) = (publish.pkid, publish.dup);
        self.gauge.messages_received.add(1);
        if !matches!(self.stopping, Stopping::No) {
            // Not acknowledged: it is there when we are back.
            return None;
        }
        let usable = wire::message_of(publish, Instant::now()).and_then(|message| {
            let from = publisher(&message.topic)?;
            Some((Arc::new(message), from))
        });
        let Some((message, from)) = usable else {
            // Nobody could be answered. It is taken off the broker's hands, or it would come for ever.
            self.gauge.dropped_unusable.add(1);
            if let Some(connection) = self.connection.as_mut().filter(|_| packet_id != 0) {
                connection.acknowledge(packet_id);
            }
            return None;
        };
        let receipt = if packet_id == 0 {
            None
        } else {
            let key = self.requests.received(packet_id, dup, &message)?;
            self.gauge.requests_received.add(1);
            Some(Receipt::new(key, self.bell.clone()))
        };
        match self.switchboard.route_request(&message, &from, receipt.clone()) {
            Routed::First => {
                return Some(RouteRequest {
                    message,
                    from,
                    receipt,
                });
            }
            Routed::To(0) => {
                self.gauge.dropped_unusable.add(1);
                tracing::debug!(topic = %message.topic, "a message from the broker that no actor wants");
                if let Some(receipt) = receipt {
                    receipt.done();
                }
            }
            // A full mailbox dropped its receipt: the request comes again.
            Routed::To(_) | Routed::Full => {}
        }
        None
    }

    /// The broker has a message of ours, or will not have it.
    fn taken(&mut self, ack: &PubAck) {
        let sent = self.connection.as_mut().and_then(|c| c.acknowledged(ack.pkid));
        let Some(sent) = sent else { return };
        if let Some(refusal) = refusal(ack) {
            self.gauge.rejected.add(1);
            tracing::warn!(
                topic = %sent.message.topic, reason = refusal,
                "the broker did not take a message; allow this user to publish to clawdbot/#"
            );
        }
        // Refused or not: asked once more it would end the same way.
        if let Some(receipt) = sent.receipt {
            receipt.done();
        }
    }

    /// Does all that can be done now.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        for ended in self.bell.answer() {
            self.requests.ended(ended.key, ended.answered);
        }
        if let Some(connection) = self.connection.as_mut().filter(|c| c.allowed.is_some()) {
            while let Some(packet_id) = self.requests.acknowledge() {
                connection.acknowledge(packet_id);
            }
            connection.flush_acknowledgements();
        }
        self.send_out();
        self.gauge
            .queued
            .store(self.uplink.len() + self.again.len(), Relaxed);
        self.gauge
            .unacknowledged
            .store(self.requests.unacknowledged(), Relaxed);
        if self.is_idle() {
            self.idle(ctx);
        }
    }

    fn send_out(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let Some(allowed) = connection.allowed else { return };
        while connection.room() > 0 {
            let Some(outgoing) = self.again.pop_front().or_else(|| self.uplink.pop()) else {
                break;
            };
            let Some(mut publish) = wire::publish_of(&outgoing.message, Instant::now()) else {
                self.gauge.dropped_expired.add(1);
                settle(outgoing);
                continue;
            };
            publish.retain &= allowed.retain;
            // A packet identifier's two bytes are not in it yet.
            if publish.size() + 2 > allowed.max_packet_bytes {
                self.gauge.dropped_too_large.add(1);
                tracing::warn!(topic = %outgoing.message.topic, "a message larger than the broker takes is dropped");
                settle(outgoing);
                continue;
            }
            if let Err(outgoing) = connection.send(publish, outgoing) {
                self.again.push_front(outgoing);
                break;
            }
            self.gauge.messages_sent.add(1);
        }
    }

    /// Connected, with nothing in work and nothing to say.
    fn is_idle(&self) -> bool {
        self.gauge.is_connected()
            && self.connection.as_ref().is_some_and(Connection::is_idle)
            && self.requests.in_work() == 0
            && self.again.is_empty()
            && self.uplink.len() == 0
    }

    fn idle(&mut self, ctx: &mut Context<Self>) {
        match std::mem::replace(&mut self.stopping, Stopping::Left) {
            Stopping::No => {
                self.stopping = Stopping::No;
                if self.requests.given_up() > 0 {
                    // There is no word by which a client gives a message back.
                    let why = "some requests could not be answered whole; the broker brings them again";
                    self.lost(why.into(), ctx);
                }
            }
            Stopping::Finishing(waiting) => {
                self.stopping = Stopping::Leaving(waiting);
                self.say("offline");
                self.send_out();
            }
            Stopping::Leaving(waiting) => {
                let said = self.connection.as_ref().is_some_and(Connection::say_goodbye);
                self.stopping = Stopping::Leaving(waiting);
                if said {
                    // Nothing more is said; the end of the connection is the answer.
                    self.gauge.down("stopped".into());
                } else {
                    self.left();
                }
            }
            Stopping::Left => {}
        }
    }

    fn left(&mut self) {
        let stopping = std::mem::replace(&mut self.stopping, Stopping::Left);
        if let Stopping::Finishing(waiting) | Stopping::Leaving(waiting) = stopping {
            for waiting in waiting {
                // Whoever waited may have given up.
                let _ = waiting.send(());
            }
        }
    }

    /// Says whether the daemon is there: retained, before all else.
    fn say(&mut self, state: &'static str) {
        match TopicName::parse(presence_topic(&self.config.client_id).into()) {
            Ok(topic) => {
                // What it said before and the broker did not take is out of date.
                self.again.retain(|outgoing| outgoing.message.topic != topic);
                self.again.push_front(Outgoing {
                    message: Arc::new(AppMessage::new(topic, state, QoS::AtLeastOnce).retained()),
                    receipt: None,
                });
            }
            Err(error) => tracing::error!(%error, "a client id that makes no topic"),
        }
    }
}

/// There is nothing more to say about its request, if it ended one.
fn settle(outgoing: Outgoing) {
    if let Some(receipt) = outgoing.receipt {
        receipt.done();
    }
}

/// The device whose topic it is: the broker let nobody else publish there. What the device names as
/// its Response Topic must be its own, for the broker does not know on whose behalf we publish. Nothing
/// for `bridge` and whatever else is no device.
fn publisher(topic: &TopicName) -> Option<Arc<Publisher>> {
    let device = DeviceId::parse(topic.levels().nth(1)?.into()).ok()?;
    Some(Arc::new(Publisher {
        client_id: ByteString::from_static("external broker"),
        rules: Arc::new(AccessRules::device_default(&device)),
        device_id: Some(device),
    }))
}

/// In 0..1, from the hasher's keys, which the system seeds.
fn random() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}

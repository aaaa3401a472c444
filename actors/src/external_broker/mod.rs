//! The actor that takes the embedded broker's place where there is an external one: it brings what others
//! publish there to the actors that own the topics, and what these publish to the broker. What is bound is
//! subscribed to, whenever it is bound.
//!
//! A message (QoS 1) is acknowledged when its actor is done with it and the broker has what was published
//! for it, a request when the broker has acknowledged the last item of its answer: see [`Receipt`]. Several
//! daemons share the messages by shared subscriptions. The broker decides who may publish to a device's
//! topics; that an answer goes to no other device's is still seen to here.

mod connection;
mod gauge;
mod held;
mod incoming;
mod outgoing;
mod receipt;
mod requests;
mod subscriptions;
mod uplink;
mod verdict;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::v5::Packet;
use tokio::sync::oneshot;

use crate::outside;
use crate::policy::backoff::{Backoff, BackoffConfig};
use crate::served::ServedFilters;
use crate::switchboard::Switchboard;

use connection::{Connection, FromBroker, Happened};
pub use gauge::LinkGauge;
use held::Held;
pub(crate) use receipt::Handling;
pub use receipt::{Answering, Receipt};
use receipt::{Bell, Rung};
use requests::Requests;
use subscriptions::Subscriptions;
use uplink::Outgoing;
pub(crate) use uplink::Uplink;
use verdict::explain;

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
    /// Under which name the daemons share what the broker brings.
    pub share_group: String,
    /// Waits between connections.
    pub backoff: BackoffConfig,
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
    opened_at: Instant,
    /// What was bound when it was last looked at.
    served: ServedFilters,
    subscriptions: Subscriptions,
    /// A refused subscription will be asked for again.
    asks_again: bool,
    requests: Requests,
    held: Held,
    /// Actors without room will be looked at again.
    looks_again: bool,
    given_up_since: Option<Instant>,
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
    /// Starts it, and makes the switchboard send it what the daemon publishes. That waits until
    /// [`OpenLink`] is said.
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
            subscriptions: Subscriptions::new(&config.share_group),
            config,
            switchboard,
            gauge,
            bell,
            uplink,
            connection: None,
            connections: 0,
            opened_at: outside::now(),
            served: ServedFilters::new(),
            asks_again: false,
            requests: Requests::default(),
            held: Held::default(),
            looks_again: false,
            given_up_since: None,
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
        if connection.allowed.is_some() {
            // An attempt that failed brought nothing, and says nothing about what the next one brings.
            self.requests.connection_lost();
        }
        self.given_up_since = None;
        for outgoing in connection.close().rev() {
            self.again.push_front(outgoing);
        }
        if !matches!(self.stopping, Stopping::No) {
            self.gauge.down("stopped".into());
            return self.left();
        }
        let wait = self.backoff.failed(outside::now(), outside::random_part());
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
}

/// Everything that is bound from the start is bound: connect.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OpenLink;

impl Handler<OpenLink> for ExternalBroker {
    type Result = ();

    fn handle(&mut self, _: OpenLink, ctx: &mut Self::Context) {
        if self.connections == 0 {
            self.opened_at = outside::now();
            self.connect(ctx);
        }
    }
}

impl Handler<FromBroker> for ExternalBroker {
    type Result = ();

    fn handle(&mut self, msg: FromBroker, ctx: &mut Self::Context) {
        let newest = self.connection.as_ref().map(|connection| connection.number);
        if newest != Some(msg.connection) {
            return;
        }
        match msg.what {
            Happened::Lost(error) => self.lost(explain(&error, &self.config), ctx),
            Happened::Event(Event::Incoming(packet)) => match packet {
                Packet::ConnAck(ack) => self.admitted(&ack, ctx),
                Packet::SubAck(ack) => self.subscribed(&ack),
                Packet::UnsubAck(_) => self.subscriptions.unsubscribed(),
                Packet::Publish(publish) => self.received(publish, ctx),
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
        // What no actor had room for stays with the broker.
        self.held = Held::default();
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

//! The actor that takes the embedded broker's place where there is an external one: it brings the
//! requests that others publish there to the actors that own their topics, and what these publish to
//! the broker.
//!
//! A request (QoS 1) is acknowledged when the broker has acknowledged the last item of its answer: see
//! [`Receipt`]. Several daemons share the requests by a shared subscription. The broker decides who may
//! publish to a device's topics; that an answer goes to no other device's is still seen to here.

mod connection;
mod gauge;
mod incoming;
mod outgoing;
mod receipt;
mod requests;
mod uplink;
mod verdict;
mod wire;

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::v5::Packet;
use tokio::sync::oneshot;
use topics::filter::TopicFilter;

use crate::policy::backoff::{Backoff, BackoffConfig};
use crate::switchboard::Switchboard;

use connection::{Connection, FromBroker, Happened};
pub use gauge::LinkGauge;
pub use receipt::{Answering, Receipt};
use receipt::{Bell, Rung};
use requests::Requests;
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

/// In 0..1, from the hasher's keys, which the system seeds.
fn random() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}

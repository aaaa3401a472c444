//! The actor that publishes `$SYS/broker/…`: statistics under the names that Mosquitto uses, so that
//! what reads them there reads them here. Retained, and said again only when they changed.
//!
//! What is not counted is not there, Mosquitto's heap and its message store, and neither are the names that
//! it calls deprecated.

mod load;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use topics::message::Message as AppMessage;
use topics::name::TopicName;
use topics::packet::QoS;

use crate::outside;
use crate::stats::Stats;
use crate::switchboard::{Publisher, Switchboard};
use load::Load;

/// See the module.
pub struct BrokerStatistics {
    switchboard: Switchboard,
    publisher: Arc<Publisher>,
    version: String,
    interval: Duration,
    started_at: Instant,
    last_at: Instant,
    loads: Vec<(&'static str, Load)>,
    most_clients: u64,
    said: HashMap<String, String>,
}

type Count = fn(&Stats) -> u64;

/// What has a load: a rate a minute over the last 1, 5 and 15 minutes.
const LOADS: [(&str, Count); 9] = [
    ("bytes/received", |stats| stats.received_bytes.get()),
    ("bytes/sent", |stats| stats.sent_bytes.get()),
    ("connections", |stats| stats.connects_received.get()),
    ("messages/received", received),
    ("messages/sent", sent),
    ("publish/received", |stats| stats.messages_received.get()),
    ("publish/sent", |stats| stats.messages_sent.get()),
    ("publish/dropped", dropped),
    ("sockets", |stats| stats.connections_accepted.get()),
];

impl BrokerStatistics {
    /// Publishes at once and then at each interval.
    pub fn new(switchboard: Switchboard, version: &str, interval: Duration) -> Self {
        let now = outside::now();
        let stats = switchboard.stats();
        let loads = LOADS.map(|(name, count)| (name, Load::new(count(stats))));
        Self {
            version: format!("clawdbot version {version}"),
            loads: loads.into(),
            most_clients: 0,
            switchboard,
            publisher: Publisher::daemon(),
            interval,
            started_at: now,
            last_at: now,
            said: HashMap::new(),
        }
    }

    fn tell(&mut self) {
        let uptime_s = outside::since(self.started_at).as_secs();
        let stats = self.switchboard.stats();
        let (connected, sessions) = (stats.connections.get(), stats.sessions.get());
        self.most_clients = self.most_clients.max(sessions);
        let shared = self.switchboard.shared_subscriptions_len();
        let unshared = self.switchboard.subscriptions_len().saturating_sub(shared);
        let counted = [
            ("bytes/received", stats.received_bytes.get()),
            ("bytes/sent", stats.sent_bytes.get()),
            ("clients/connected", connected),
            ("clients/disconnected", sessions.saturating_sub(connected)),
            ("clients/expired", stats.sessions_expired.get()),
            ("clients/maximum", self.most_clients),
            ("clients/total", sessions),
            ("messages/received", received(stats)),
            ("messages/sent", sent(stats)),
            ("publish/bytes/received", stats.payload_received_bytes.get()),
            ("publish/bytes/sent", stats.payload_sent_bytes.get()),
            ("publish/messages/received", stats.messages_received.get()),
            ("publish/messages/sent", stats.messages_sent.get()),
            ("publish/messages/dropped", dropped(stats)),
            ("retained messages/count", self.switchboard.retained_len() as u64),
            ("shared_subscriptions/count", shared as u64),
            ("subscriptions/count", unshared as u64),
        ];
        self.say("version", self.version.clone());
        self.say("uptime", format!("{uptime_s} seconds"));
        for (name, value) in counted {
            self.say(name, value.to_string());
        }
    }

    fn tell_loads(&mut self) {
        let now = outside::now();
        let elapsed = now.duration_since(std::mem::replace(&mut self.last_at, now));
        let stats = self.switchboard.stats().clone();
        let mut said = Vec::new();
        for ((name, load), (_, count)) in self.loads.iter_mut().zip(LOADS) {
            for (over, rate) in load.count(count(&stats), elapsed) {
                said.push((format!("load/{name}/{over}"), format!("{rate:.2}")));
            }
        }
        for (name, rate) in said {
            self.say(&name, rate);
        }
    }

    fn say(&mut self, name: &str, value: String) {
        if self.said.get(name) == Some(&value) {
            return;
        }
        let Ok(topic) = TopicName::parse(format!("$SYS/broker/{name}").into()) else {
            return;
        };
        self.said.insert(name.to_owned(), value.clone());
        let message = AppMessage::new(topic, value, QoS::AtMostOnce).retained();
        // Routed, not published: an external broker has statistics of its own.
        self.switchboard.route(&Arc::new(message), &self.publisher);
    }
}

impl Actor for BrokerStatistics {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.tell();
        ctx.run_interval(self.interval, |act, _| {
            act.tell();
            act.tell_loads();
        });
    }
}

/// Packets of every kind.
fn received(stats: &Stats) -> u64 {
    stats.messages_received.get() + stats.other_packets_received.get()
}

fn sent(stats: &Stats) -> u64 {
    stats.messages_sent.get() + stats.other_packets_sent.get()
}

/// Messages that were accepted or refused, and not delivered, for whatever reason.
fn dropped(stats: &Stats) -> u64 {
    let named = stats.all().into_iter();
    named
        .filter(|(name, _)| name.contains(".messages.dropped."))
        .map(|(_, counter)| counter.get())
        .sum()
}

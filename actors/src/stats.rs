//! What the message plane counts, as plain atomics: a publish must not pay for its metrics. The
//! daemon exports them as observable counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Threads count apart, each on a cache line of its own: at a million messages a second, counters that two
/// cores write in turn cost more than all the rest of a message.
const OWN_SHARDS: usize = 8;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

/// A number that only grows, or a gauge that is raised and lowered.
#[derive(Debug, Default)]
pub struct Counter {
    /// Each written by one thread alone, which therefore needs no locked instruction.
    own: [Shard; OWN_SHARDS],
    /// Written by all further threads.
    shared: Shard,
}

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        match self.own_shard() {
            Some(shard) => shard.store(shard.load(Relaxed).wrapping_add(n), Relaxed),
            None => {
                self.shared.0.fetch_add(n, Relaxed);
            }
        }
    }

    /// Takes from it. Another thread's shard may hold what is taken here: only the sum means anything.
    pub fn sub(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.own
            .iter()
            .chain([&self.shared])
            .fold(0, |sum, shard| sum.wrapping_add(shard.0.load(Relaxed)))
    }

    /// None on a thread for which there is no shard of its own.
    fn own_shard(&self) -> Option<&AtomicU64> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Relaxed);
        }
        MINE.with(|mine| self.own.get(*mine)).map(|shard| &shard.0)
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])* $field:ident => $name:literal,)*) => {
        /// The broker's counters.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $field: Counter,)*
        }

        impl Stats {
            /// Each counter with its metric name; names that end in `connections` or `sessions` are gauges.
            pub fn all(&self) -> Vec<(&'static str, &Counter)> {
                vec![$(($name, &self.$field),)*]
            }
        }
    };
}

stats! {
    /// Times the store was written and the disk flushed.
    store_commits => "clawdbot.store.commits",
    /// Changes that were written.
    store_changes => "clawdbot.store.changes",
    /// Times the store could not be written.
    store_failures => "clawdbot.store.failures",
    /// Values in the store that could not be opened and were set aside.
    store_damaged => "clawdbot.store.damaged",
    /// Times everything in the store was looked at.
    store_checks => "clawdbot.store.checks",
    /// Values that these looked at.
    store_checked_values => "clawdbot.store.checked.values",
    /// Connections open now.
    connections => "clawdbot.mqtt.connections",
    /// Sessions now, with and without a connection.
    sessions => "clawdbot.mqtt.sessions",
    /// Connections accepted since the start.
    connections_accepted => "clawdbot.mqtt.connections.accepted",
    /// Connections turned away because `mqtt.max_connections` were open.
    connections_refused => "clawdbot.mqtt.connections.refused",
    /// Connections turned away because `mqtt.max_connections_per_address` were open from there.
    connections_refused_address => "clawdbot.mqtt.connections.refused.address_limit",
    /// Connections turned away because they came from beyond the private networks.
    connections_refused_network => "clawdbot.mqtt.connections.refused.beyond_private_network",
    /// Connections turned away because their client is banned for flapping.
    connections_refused_banned => "clawdbot.mqtt.connections.refused.banned",
    /// Clients banned for flapping.
    clients_banned => "clawdbot.mqtt.clients.banned",
    /// Handshakes of TLS or WebSocket that failed or came too late.
    handshakes_failed => "clawdbot.mqtt.handshakes.failed",
    /// CONNECT packets, also of clients that were not let in.
    connects_received => "clawdbot.mqtt.connects.received",
    /// Sessions that ended because their client did not come back in time.
    sessions_expired => "clawdbot.mqtt.sessions.expired",
    /// Bytes of MQTT from clients. What TLS and WebSocket add to them is not counted.
    received_bytes => "clawdbot.mqtt.received.bytes",
    /// Bytes of MQTT to clients, counted the same way.
    sent_bytes => "clawdbot.mqtt.sent.bytes",
    /// Of these, payloads of PUBLISH packets from clients.
    payload_received_bytes => "clawdbot.mqtt.payload.received.bytes",
    /// Payloads of PUBLISH packets to clients.
    payload_sent_bytes => "clawdbot.mqtt.payload.sent.bytes",
    /// PUBLISH packets from clients.
    messages_received => "clawdbot.mqtt.messages.received",
    /// PUBLISH packets to clients.
    messages_sent => "clawdbot.mqtt.messages.sent",
    /// Packets from clients other than PUBLISH.
    other_packets_received => "clawdbot.mqtt.packets.received.other",
    /// Packets to clients other than PUBLISH.
    other_packets_sent => "clawdbot.mqtt.packets.sent.other",
    /// Publishes of clients that were well-formed and new. Each is routed, without a receiver or rejected.
    messages_accepted => "clawdbot.mqtt.messages.accepted",
    /// Publishes that somebody gets: a session, an actor.
    messages_routed => "clawdbot.mqtt.messages.routed",
    /// Publishes that nobody subscribed to.
    messages_without_receiver => "clawdbot.mqtt.messages.without_receiver",
    /// Publishes that the access rules, a full mailbox or an actor that cannot read them refused.
    messages_rejected => "clawdbot.mqtt.messages.rejected",
    /// Copies of messages made for sessions, one for each receiver. Each is completed, dropped with one of the
    /// reasons below, or waits (`clawdbot.mqtt.deliveries.waiting`).
    deliveries => "clawdbot.mqtt.deliveries",
    /// Copies that are the client's: sent at QoS 0, acknowledged at QoS 1 and 2.
    deliveries_completed => "clawdbot.mqtt.deliveries.completed",
    /// Times that a client published faster than `mqtt.max_messages_per_s` or `max_bytes_per_s` and was paused.
    publishers_paused => "clawdbot.mqtt.publishers.paused",
    /// Messages the client refused with an error in its PUBACK or PUBREC.
    dropped_refused => "clawdbot.mqtt.messages.dropped.refused",
    /// Messages not delivered: the receiver's outbox was full.
    dropped_outbox_full => "clawdbot.mqtt.messages.dropped.outbox_full",
    /// Messages not delivered: the session's queue was full.
    dropped_queue_full => "clawdbot.mqtt.messages.dropped.queue_full",
    /// Messages not delivered: they expired.
    dropped_expired => "clawdbot.mqtt.messages.dropped.expired",
    /// QoS 0 messages not delivered: the client was away.
    dropped_offline => "clawdbot.mqtt.messages.dropped.offline",
    /// Messages not delivered: larger than the client takes.
    dropped_too_large => "clawdbot.mqtt.messages.dropped.too_large",
    /// Messages not delivered: the session they waited in ended.
    dropped_session_ended => "clawdbot.mqtt.messages.dropped.session_ended",
    /// Messages an owner's full mailbox refused.
    dropped_mailbox_full => "clawdbot.mqtt.messages.dropped.mailbox_full",
    /// Messages an owner could not read.
    dropped_malformed => "clawdbot.mqtt.messages.dropped.malformed",
    /// Messages that found their topic's owner stopped.
    dropped_owner_gone => "clawdbot.mqtt.messages.dropped.owner_gone",
    /// Retained messages refused because the store is full.
    retained_refused => "clawdbot.mqtt.retained.refused",
    /// Publishes the access rules refused.
    access_denied_publish => "clawdbot.mqtt.access.denied.publish",
    /// Subscriptions the access rules refused.
    access_denied_subscribe => "clawdbot.mqtt.access.denied.subscribe",
    /// Wills the access rules refused, at CONNECT or when they were to be told.
    access_denied_will => "clawdbot.mqtt.access.denied.will",
    /// Requests whose Response Topic the access rules refused.
    access_denied_response_topic => "clawdbot.mqtt.access.denied.response_topic",
    /// Connections refused for their token.
    authentication_failures => "clawdbot.mqtt.authentication.failures",
    /// Connections ended because the token did that had let them in.
    tokens_ended => "clawdbot.mqtt.connections.token_ended",
    /// Sessions ended because their device was revoked.
    sessions_revoked => "clawdbot.mqtt.sessions.revoked",
    /// Devices that exchanged a code for their secret.
    pairings => "clawdbot.pairing.completed",
    /// Codes that were none.
    pairing_guesses => "clawdbot.pairing.wrong_codes",
    /// Tokens given to devices that showed their secret.
    tokens_issued => "clawdbot.tokens.issued",
    /// Connections ended for breaking the protocol.
    protocol_errors => "clawdbot.mqtt.protocol.errors",
}

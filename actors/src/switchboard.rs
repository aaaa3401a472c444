//! What every session and actor reads to route a message, without asking anybody.
//!
//! The [`TopicRouter`] alone writes the map from topics to mailboxes and publishes a new snapshot
//! of it; a publisher loads the newest and hands its message over. Retained messages live beside
//! the map under a lock of their own: see [`Switchboard::route`] for the order that keeps a
//! subscriber from missing one.

mod mailboxes;
mod retaining;

pub use mailboxes::Mailboxes;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Instant;

use actix::Addr;
use arc_swap::ArcSwap;
use bytestring::ByteString;
use dashmap::DashMap;
use topics::access::AccessRules;
use topics::device::DeviceId;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{QoS, ReasonCode, SubscriptionOptions};
use topics::pattern::{Params, TopicPattern};
use topics::retained::RetainedStore;
use topics::session::{Delivery, SessionConfig};
use topics::shared::SharedSubscriptions;
use topics::subscriptions::SubscriptionTree;

use crate::denials::{Denials, Denied};
use crate::device_session::{DeviceSession, Recheck};
use crate::external_broker::{Answering, Handling, Receipt, Uplink};
use crate::mailbox::{MailboxRef, Overflow, OwnerCounters, Refusal, Slot};
use crate::outbox::{Outbox, Pushed};
use crate::outside;
use crate::route::{LastRoute, Ownership, Receiver};
use crate::served::ServedFilters;
use crate::stats::Stats;
use crate::store::{Acceptance, Place, Store, Ticket};
use crate::topic_router::{RouteFirst, RouteRequest, TopicRouter};

/// A message on its way into the mailbox of an actor that owns its topic.
#[derive(Debug, actix::Message)]
#[rtype(result = "()")]
pub struct Inbound {
    /// The message.
    pub message: Arc<Message>,
    /// When it was handed over.
    pub routed_at: Instant,
    /// The levels in braces of the pattern that bound the topic; empty for a concrete binding.
    pub params: Params,
    /// Who published it.
    pub from: Arc<Publisher>,
    /// Its place in the mailbox, taken up until this is dropped. Free before the receipts below end, for
    /// then whoever waits for room looks again.
    pub slot: Slot,
    /// Owed to the external broker that brought it, where there is one, and paid by the actor.
    pub receipt: Option<Receipt>,
    /// The same for an actor that knows nothing of receipts.
    pub(crate) handling: Option<Handling>,
    /// Its place in the store, where it outlives the daemon.
    pub(crate) acceptance: Option<Arc<Acceptance>>,
}

/// Who publishes: a client, or the daemon itself.
#[derive(Debug)]
pub struct Publisher {
    /// The MQTT client identifier.
    pub client_id: ByteString,
    /// The device it belongs to; None for the daemon itself.
    pub device_id: Option<DeviceId>,
    /// What it may do, for actors that act on its behalf (a Response Topic).
    pub rules: Arc<AccessRules>,
}

impl Publisher {
    /// The daemon, which may do everything.
    pub fn daemon() -> Arc<Self> {
        Arc::new(Self {
            client_id: ByteString::from_static("clawdbot"),
            device_id: None,
            rules: Arc::new(AccessRules::unrestricted()),
        })
    }
}

/// The one owner of a topic, or of all topics of a pattern.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// What kind of actor it is, for people and for the error that a second owner gets.
    pub(crate) actor: &'static str,
    /// Its mailbox.
    pub(crate) mailbox: MailboxRef,
    /// The levels in braces; a pattern's owner gets those of each message.
    pub(crate) params: Params,
    /// Counted by publishers.
    pub(crate) counters: Arc<OwnerCounters>,
    /// Made at its first message: one that has stopped is made again.
    pub(crate) lazy: bool,
}

/// A pattern that somebody owns.
#[derive(Clone, Debug)]
pub(crate) struct PatternRoute {
    pub(crate) pattern: TopicPattern,
    /// What kind of actor it is.
    pub(crate) actor: &'static str,
    /// The one actor of all its topics; none where each set of levels has its own.
    pub(crate) owner: Option<Arc<Owner>>,
    /// How often an actor of this binding took the place of one that had fallen.
    pub(crate) restarts: Arc<AtomicU64>,
}

/// A session as publishers see it.
#[derive(Debug)]
pub struct SessionHandle {
    /// Unique for the life of the process; a client id may come back, this does not.
    pub key: u64,
    /// The MQTT client identifier.
    pub client_id: ByteString,
    /// Where its deliveries go.
    pub outbox: Outbox,
    /// Whether a client is connected: of a shared subscription's members, these come first.
    pub online: AtomicBool,
    /// Messages that its session holds and its client does not have yet; what is in the outbox comes beside.
    pub undelivered: AtomicUsize,
    /// What those of them weigh that were not sent yet.
    pub queued_bytes: AtomicUsize,
    /// Whether it ended; its subscriptions are being removed.
    pub ended: AtomicBool,
    /// Whether it outlives its connection, so that its messages must outlive the daemon.
    pub persistent: AtomicBool,
}

impl SessionHandle {
    /// The handle of a client's session with the bounds of the daemon.
    pub(crate) fn of(client_id: ByteString, config: &SessionConfig) -> Arc<Self> {
        let outbox = Outbox::new(config.max_queued_messages.max(64), config.max_queued_bytes);
        Self::new(client_id, outbox)
    }

    /// A handle with a key of its own.
    pub fn new(client_id: ByteString, outbox: Outbox) -> Arc<Self> {
        static NEXT_KEY: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            key: NEXT_KEY.fetch_add(1, Relaxed),
            client_id,
            outbox,
            online: AtomicBool::new(false),
            undelivered: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            persistent: AtomicBool::new(false),
        })
    }
}

/// One subscription of one session.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Whose.
    pub session: Arc<SessionHandle>,
    /// As granted.
    pub options: SubscriptionOptions,
    /// Sent with each message it matches.
    pub identifier: Option<u32>,
}

/// A snapshot of the map from topics to mailboxes. Cheap to clone: both parts share structure.
#[derive(Clone, Default)]
pub struct Routes {
    /// Counts the snapshots, so that what was looked up in one is known to be out of date.
    pub(crate) generation: u64,
    /// Shared: publishers keep the one of their last topic.
    pub(crate) owners: imbl::HashMap<TopicName, Arc<Owner>>,
    pub(crate) patterns: Arc<Vec<PatternRoute>>,
    pub(crate) subscriptions: SubscriptionTree<u64, Subscriber>,
    pub(crate) shared: SharedSubscriptions<u64, Subscriber>,
    /// What an external broker is asked to bring.
    pub(crate) served: ServedFilters,
}

/// Which actor serves a client id.
#[derive(Clone, Debug)]
pub struct SessionEntry {
    /// The device it was admitted for; no other may take the client id over.
    pub device_id: Option<DeviceId>,
    /// The session.
    pub session: Addr<DeviceSession>,
    /// The same as publishers see it.
    pub handle: Arc<SessionHandle>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// Handed to this many receivers.
    To(usize),
    /// Nobody subscribed but the publisher, who wants nothing of its own (No Local).
    Spared,
    /// Its owner's mailbox is full.
    Full,
    /// Its owner cannot read it.
    Malformed,
    /// Its owner has stopped.
    Gone,
    /// The first message for its topic: the router must make the owner, see [`RouteFirst`].
    First,
}

impl Routed {
    /// What the publisher is told [MQTT5 3.4.2.1].
    pub fn reason(self) -> ReasonCode {
        match self {
            Self::To(0) => ReasonCode::NoMatchingSubscribers,
            // A subscription that matched there was, though it brings nothing.
            Self::To(_) | Self::Spared => ReasonCode::Success,
            Self::Full | Self::First => ReasonCode::QuotaExceeded,
            Self::Malformed => ReasonCode::PayloadFormatInvalid,
            Self::Gone => ReasonCode::ImplementationSpecificError,
        }
    }
}

/// See the module. A handle; clones share everything.
#[derive(Clone)]
pub struct Switchboard(Arc<Inner>);

struct Inner {
    routes: ArcSwap<Routes>,
    /// The newest snapshot's, after it can be loaded.
    generation: AtomicU64,
    retained: RwLock<RetainedStore<Arc<Message>>>,
    sessions: DashMap<ByteString, SessionEntry>,
    devices: DashMap<DeviceId, usize>,
    router: Addr<TopicRouter>,
    stats: Arc<Stats>,
    denials: Denials,
    daemon: Arc<Publisher>,
    /// To the external broker, where there is one.
    uplink: OnceLock<Arc<Uplink>>,
    /// Where retained messages are kept, if anywhere.
    store: OnceLock<Arc<dyn Store>>,
}

/// What is owed for a message to an actor.
enum Owed<'a> {
    /// A receipt.
    Receipt(Receipt),
    /// It is in the store already.
    Kept(Arc<Acceptance>),
    /// Nothing yet; where the store takes it, this says when it has it.
    Nothing(&'a mut Option<Ticket>),
}

/// What a publisher has to mind after a message was routed.
#[derive(Default)]
pub struct Aftermath {
    /// Sessions whose outboxes are so full that the publisher should hold back its next messages.
    pub crowded: Vec<Arc<SessionHandle>>,
    /// What must be on disk before the message is acknowledged.
    pub durable: Option<Ticket>,
}

impl Aftermath {
    pub(crate) fn await_ticket(&mut self, ticket: Option<Ticket>) {
        self.durable = self.durable.max(ticket);
    }
}

impl Switchboard {
    pub(crate) fn new(
        router: Addr<TopicRouter>,
        retained: RetainedStore<Arc<Message>>,
        stats: Arc<Stats>,
    ) -> Self {
        Self(Arc::new(Inner {
            routes: ArcSwap::from_pointee(Routes::default()),
            generation: AtomicU64::new(0),
            retained: RwLock::new(retained),
            sessions: DashMap::new(),
            devices: DashMap::new(),
            router,
            stats,
            denials: Denials::default(),
            daemon: Publisher::daemon(),
            uplink: OnceLock::new(),
            store: OnceLock::new(),
        }))
    }

    /// Hands a message to everybody who should have it.
    ///
    /// A retained message is stored before the snapshot is loaded, and a new subscription is
    /// published before the retained messages are looked up: whichever comes first, the subscriber
    /// gets the message, if need be twice, never not at all.
    pub fn route(&self, message: &Arc<Message>, from: &Arc<Publisher>) -> Routed {
        self.route_gently(
            message,
            from,
            &mut LastRoute::default(),
            &mut Aftermath::default(),
        )
    }

    /// As [`Switchboard::route`], for a publisher that keeps where its last message went: most often the
    /// next one goes there too, and a few of them are then handed over together. Whoever uses it calls
    /// [`Switchboard::hand_over`] when it has no more at the moment.
    pub fn route_gently(
        &self,
        message: &Arc<Message>,
        from: &Arc<Publisher>,
        last: &mut LastRoute,
        after: &mut Aftermath,
    ) -> Routed {
        // What an actor takes has been taken: requests are never retained.
        if message.retain && !self.is_owned(&message.topic) {
            after.await_ticket(self.retain(message));
        }
        let generation = self.0.generation.load(Ordering::Acquire);
        if !last.is_of(&message.topic, generation) {
            self.hand_over_now(last, after);
            let route = self.0.routes.load().find(&message.topic, &from.client_id);
            last.replace(message.topic.clone(), generation, route);
        }
        let Some(route) = last.route() else {
            return Routed::Gone;
        };
        let owned = match self.hand_to_owner(&route.owner, message, from, Owed::Nothing(&mut after.durable)) {
            Ok(owned) => owned,
            Err(refused) => return refused,
        };
        let by_groups = self.hand_to_groups(&route.groups, message, after);
        self.0.stats.deliveries.add(route.groups.len() as u64);
        let (spares_the_publisher, receivers) = (route.spares_the_publisher, route.receivers.len());
        // What is kept is handed in before its publisher's acknowledgement is written.
        let is_kept = self.is_kept(message, &route.receivers);
        let copies = if receivers > 0 && (last.wait(message.clone()) || is_kept) {
            self.hand_over_now(last, after)
        } else {
            receivers
        };
        match owned + by_groups + copies {
            0 if spares_the_publisher => Routed::Spared,
            receivers => Routed::To(receivers),
        }
    }

    /// Hands over what [`Switchboard::route_gently`] has let wait.
    pub fn hand_over(&self, last: &mut LastRoute, after: &mut Aftermath) {
        self.hand_over_now(last, after);
        // Until the next message others may fill what has room now.
        last.handed_over(false);
    }

    /// Returns how many receivers there still were.
    fn hand_over_now(&self, last: &mut LastRoute, after: &mut Aftermath) -> usize {
        let (Some(route), messages) = (last.route(), last.waiting()) else {
            return 0;
        };
        if messages.is_empty() {
            return 0;
        }
        let (mut there, mut dropped, crowded_before) = (0, 0, after.crowded.len());
        for receiver in &route.receivers {
            let store = self.store_of(&receiver.session);
            let (client_id, durable) = (&receiver.session.client_id, &mut after.durable);
            let deliveries = messages.iter().map(|message| {
                let mut delivery = receiver.delivery(message);
                if let Some(store) = store {
                    *durable = (*durable).max(Place::take(store, client_id, &mut delivery));
                }
                delivery
            });
            // None: its session has ended, and its subscriptions are about to.
            let Some(handed) = receiver.session.outbox.push_all(deliveries) else {
                continue;
            };
            there += 1;
            if handed.crowded {
                after.crowded.push(receiver.session.clone());
            }
            if handed.dropped > 0 {
                dropped += handed.dropped;
                tracing::debug!(client_id = %receiver.session.client_id, "outbox full, newest messages dropped");
            }
        }
        self.0.stats.deliveries.add((there * messages.len()) as u64);
        if dropped > 0 {
            self.0.stats.dropped_outbox_full.add(dropped as u64);
        }
        last.handed_over(dropped == 0 && after.crowded.len() == crowded_before);
        there
    }

    /// Puts a delivery into a session's outbox, and into the store where the session outlives its connection. Also
    /// says what must be on disk before it is in safe hands.
    pub(crate) fn push(&self, session: &SessionHandle, mut delivery: Delivery) -> (Pushed, Option<Ticket>) {
        let ticket = self
            .store_of(session)
            .and_then(|store| Place::take(store, &session.client_id, &mut delivery));
        (session.outbox.push(delivery), ticket)
    }

    /// Whether any of these receivers has its messages kept.
    fn is_kept(&self, message: &Message, receivers: &[Receiver]) -> bool {
        message.qos != QoS::AtMostOnce
            && receivers
                .iter()
                .any(|receiver| self.store_of(&receiver.session).is_some())
    }

    fn store_of(&self, session: &SessionHandle) -> Option<&Arc<dyn Store>> {
        self.0.store.get().filter(|_| session.persistent.load(Relaxed))
    }

    /// Publishes a message of the daemon's own. The first message for a topic of its own pattern
    /// goes through the router's mailbox. With an external broker it goes there and nowhere else.
    pub fn publish(&self, message: Message) -> Routed {
        self.publish_answer(message, None)
    }

    /// As [`Switchboard::publish`], and says what the message means for the receipt of the request it
    /// answers.
    pub fn publish_answer(&self, message: Message, answering: Option<Answering>) -> Routed {
        let message = Arc::new(message);
        if let Some(uplink) = self.0.uplink.get() {
            // An actor that owns the topic, here or in another daemon, has it from there as subscribers
            // have: handed over here as well it would be handled twice.
            return if uplink.push(message, answering) {
                Routed::To(1)
            } else {
                Routed::Full
            };
        }
        let routed = self.route(&message, &self.0.daemon);
        if routed == Routed::First {
            let first = RouteFirst {
                message,
                from: self.0.daemon.clone(),
            };
            if self.0.router.try_send(first).is_err() {
                return Routed::Full;
            }
        }
        routed
    }

    /// Hands a message that an external broker brought to the actor that owns its topic, and to nobody
    /// else: subscribers have it from the broker. One with a receipt that would be rejected for want of
    /// room is not counted as rejected: it may wait.
    pub(crate) fn route_request(&self, request: &RouteRequest) -> Routed {
        let RouteRequest {
            message,
            from,
            receipt,
            acceptance,
        } = request;
        let owner = self.0.routes.load().owner(&message.topic);
        let owed = match (receipt, acceptance) {
            (_, Some(acceptance)) => Owed::Kept(acceptance.clone()),
            (Some(receipt), None) => Owed::Receipt(receipt.clone()),
            (None, None) => Owed::Nothing(&mut None),
        };
        self.hand_to_owner(&owner, message, from, owed)
            .map_or_else(|refused| refused, Routed::To)
    }

    /// From now on, what the daemon publishes goes to an external broker. There is one at most.
    pub(crate) fn set_uplink(&self, uplink: Arc<Uplink>) {
        if self.0.uplink.set(uplink).is_err() {
            tracing::error!("a second external broker: it gets nothing");
        }
    }

    /// Whether anybody, connected or with a session that outlives its connection, would receive a
    /// message on this topic. Of an external broker's subscribers nothing is known: it counts as one.
    pub fn has_receiver(&self, topic: &TopicName) -> bool {
        if self.0.uplink.get().is_some() {
            return true;
        }
        let routes = self.0.routes.load();
        let mut found = matches!(routes.owner(topic), Ownership::Actor(..));
        routes
            .subscriptions
            .matches(topic, &mut |_, subscriber: &Subscriber| {
                found |= !subscriber.session.ended.load(Relaxed);
            });
        routes.shared.matches(topic, &mut |_, group| {
            found |= group.iter().any(|member| !member.session.ended.load(Relaxed));
        });
        found
    }

    /// Whether a session that outlives its connection, and so the daemon, would receive a message on this topic.
    pub(crate) fn has_lasting_receiver(&self, topic: &TopicName) -> bool {
        let lasts = |session: &SessionHandle| self.store_of(session).is_some();
        let routes = self.0.routes.load();
        let mut found = false;
        routes
            .subscriptions
            .matches(topic, &mut |_, subscriber: &Subscriber| {
                found |= lasts(&subscriber.session);
            });
        routes.shared.matches(topic, &mut |_, group| {
            found |= group.iter().any(|member| lasts(&member.session));
        });
        found
    }

    /// Whether an actor owns this topic, or would with the first message.
    pub fn is_owned(&self, topic: &TopicName) -> bool {
        !matches!(self.0.routes.load().owner(topic), Ownership::Nobody)
    }

    /// The topic router.
    pub fn router(&self) -> &Addr<TopicRouter> {
        &self.0.router
    }

    /// Counts what the access rules refused a client, and logs it with the rule unless too much was logged of its
    /// device lately.
    pub(crate) fn denied(&self, denied: Denied, from: &Publisher, topic: &str, rule: &dyn fmt::Display) {
        let who = (from.device_id.as_ref(), &*from.client_id);
        self.0.denials.tell(&self.0.stats, denied, who, topic, rule);
    }

    /// What is refused, for the log.
    pub(crate) fn denials(&self) -> &Denials {
        &self.0.denials
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.0.stats
    }

    /// The sessions by client id. Never hold a guard of it over an await.
    pub fn sessions(&self) -> &DashMap<ByteString, SessionEntry> {
        &self.0.sessions
    }

    /// Has every session of a device, or of all of them, look whether it still may be there.
    pub fn recheck(&self, device: Option<&DeviceId>) {
        let sessions: Vec<_> = self
            .0
            .sessions
            .iter()
            .filter(|entry| device.is_none() || entry.device_id.as_ref() == device)
            .map(|entry| entry.session.clone())
            .collect();
        for session in sessions {
            // Past the mailbox's bound: a word an owner says seldom, and that none may miss.
            session.do_send(Recheck);
        }
    }

    /// The newest snapshot.
    pub fn routes(&self) -> Arc<Routes> {
        self.0.routes.load_full()
    }

    /// Copies of messages that sessions hold at the moment and their clients do not have yet.
    pub fn deliveries_waiting(&self) -> usize {
        let waiting =
            |entry: &SessionEntry| entry.handle.outbox.len() + entry.handle.undelivered.load(Relaxed);
        self.0.sessions.iter().map(|entry| waiting(&entry)).sum()
    }

    /// What the messages weigh that wait for clients in outboxes and queues.
    pub fn waiting_bytes(&self) -> u64 {
        let waiting =
            |entry: &SessionEntry| entry.handle.outbox.bytes() + entry.handle.queued_bytes.load(Relaxed);
        self.0.sessions.iter().map(|entry| waiting(&entry) as u64).sum()
    }

    /// Subscriptions at the moment, of all sessions.
    pub fn subscriptions_len(&self) -> usize {
        let routes = self.0.routes.load();
        routes.subscriptions.len() + routes.shared.len()
    }

    /// Of these, the shared ones.
    pub fn shared_subscriptions_len(&self) -> usize {
        self.0.routes.load().shared.len()
    }

    pub(crate) fn publish_snapshot(&self, routes: &Routes) {
        let mut newest = routes.clone();
        let before = self.0.routes.load_full();
        newest.generation = before.generation + 1;
        let generation = newest.generation;
        self.0.routes.store(Arc::new(newest));
        self.0.generation.store(generation, Ordering::Release);
        if let Some(uplink) = self.0.uplink.get()
            && !before.served.ptr_eq(&routes.served)
        {
            uplink.ring();
        }
    }

    /// Devices that are connected, each with the number of its clients. Never hold a guard of it over an await.
    pub fn devices(&self) -> &DashMap<DeviceId, usize> {
        &self.0.devices
    }

    /// Where what is kept is kept.
    pub(crate) fn store(&self) -> Option<&Arc<dyn Store>> {
        self.0.store.get()
    }

    /// Hands a message to the owner of its topic, if there is one; says to how many it went.
    fn hand_to_owner(
        &self,
        owner: &Ownership,
        message: &Arc<Message>,
        from: &Arc<Publisher>,
        owed: Owed<'_>,
    ) -> Result<usize, Routed> {
        let (owner, params) = match owner {
            Ownership::Nobody => return Ok(0),
            Ownership::Unmade => return Err(Routed::First),
            Ownership::Actor(owner, params) => (owner, params),
        };
        let (counters, stats) = (&owner.counters, &self.0.stats);
        let mailbox = owner.mailbox.mailbox();
        let (receipt, acceptance) = match owed {
            Owed::Receipt(receipt) => (Some(receipt), None),
            Owed::Kept(acceptance) => (None, Some(acceptance)),
            Owed::Nothing(durable) => {
                let store = self
                    .0
                    .store
                    .get()
                    .filter(|_| mailbox.durability.covers(message.qos));
                let taken = store.and_then(|store| Acceptance::take(store, message, from));
                (
                    None,
                    taken.map(|(acceptance, ticket)| {
                        *durable = (*durable).max(Some(ticket));
                        acceptance
                    }),
                )
            }
        };
        let may_wait = receipt.is_some() && mailbox.overflow == Overflow::Reject;
        let put = owner.mailbox.put(counters, |slot| Inbound {
            routed_at: outside::now(),
            message: message.clone(),
            params: params.clone(),
            from: from.clone(),
            slot,
            receipt,
            handling: None,
            acceptance,
        });
        match put {
            Ok(()) => Ok(1),
            Err(Refusal::Full) if may_wait => Err(Routed::Full),
            Err(Refusal::Full) => {
                counters.rejected.fetch_add(1, Relaxed);
                stats.dropped_mailbox_full.add(1);
                match owner.mailbox.mailbox().overflow {
                    Overflow::Reject => Err(Routed::Full),
                    Overflow::DropNewest => Ok(0),
                }
            }
            Err(Refusal::Retired) => Err(Routed::First),
            Err(Refusal::Gone) if owner.lazy => Err(Routed::First),
            Err(Refusal::Gone) => {
                counters.gone.fetch_add(1, Relaxed);
                stats.dropped_owner_gone.add(1);
                Err(Routed::Gone)
            }
            Err(Refusal::Malformed(error)) => {
                let before = counters.malformed.fetch_add(1, Relaxed);
                stats.dropped_malformed.add(1);
                // A device that sends nothing else must not fill the log.
                if (before + 1).is_power_of_two() {
                    tracing::info!(topic = %message.topic, client_id = %from.client_id, actor = owner.actor, error,
                        malformed = before + 1, "a payload that its topic's owner cannot read");
                }
                Err(Routed::Malformed)
            }
        }
    }
}

//! The actor that owns the map from topics to mailboxes. It alone writes it and publishes a
//! snapshot after each change; nobody asks it on the way of a message but for the first one to a
//! topic whose owner is made lazily.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use actix::fut::wrap_future;
use actix::prelude::*;
use tokio::sync::oneshot;
use topics::filter::TopicFilter;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::ReasonCode;
use topics::pattern::{Params, PatternError, TopicPattern};
use topics::retained::{RetainedBounds, RetainedStore};
use topics::session::Wanted;

use crate::external_broker::Receipt;
use crate::mailbox::{Entrance, Mailbox, MailboxRef, OwnerCounters};
use crate::outside;
use crate::served::Audience;
use crate::stats::Stats;
use crate::store::Acceptance;
use crate::switchboard::{
    Owner, PatternRoute, Publisher, Routed, Routes, SessionHandle, Subscriber, Switchboard,
};

/// Requests to the router wait for room in its mailbox; nothing sent to it is dropped.
const MAILBOX: usize = 4096;

/// How often what is over is looked for: expired retained messages, owners that have stopped, and, where
/// their idle time is longer than this, actors that may go.
const SWEEP: Duration = Duration::from_secs(10);

/// See the module.
pub struct TopicRouter {
    pub(crate) routes: Routes,
    switchboard: Switchboard,
    pub(crate) patterns: Vec<PatternBinding>,
    /// Actors made lazily, with all the topics they own.
    pub(crate) lazy: Vec<LazyOwner>,
}

impl TopicRouter {
    /// Starts the router on this arbiter and gives the handle by which everybody routes.
    pub fn launch(retained: RetainedBounds, stats: Arc<Stats>) -> Switchboard {
        let mut ctx = Context::new();
        ctx.set_mailbox_capacity(MAILBOX);
        let switchboard = Switchboard::new(ctx.address(), RetainedStore::new(retained), stats);
        ctx.run(Self {
            routes: Routes::default(),
            switchboard: switchboard.clone(),
            patterns: Vec::new(),
            lazy: Vec::new(),
        });
        switchboard
    }

    pub(crate) fn publish(&self) {
        self.switchboard.publish_snapshot(&self.routes);
    }
}

impl Actor for TopicRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(SWEEP, |act, _| {
            act.switchboard.expire_retained(outside::now());
            act.look_for_stopped();
        });
    }
}

/// Adds subscriptions of one session and sends the retained messages they match. Answers with a
/// reason code for each.
#[derive(Message)]
#[rtype(result = "Vec<ReasonCode>")]
pub struct Subscribe {
    /// Whose.
    pub session: Arc<SessionHandle>,
    /// What was asked for; what access rules refused is an `Err` already.
    pub wanted: Vec<Wanted>,
}

impl Handler<Subscribe> for TopicRouter {
    type Result = MessageResult<Subscribe>;

    fn handle(&mut self, msg: Subscribe, _: &mut Self::Context) -> Self::Result {
        let mut added = Vec::new();
        let reasons = msg
            .wanted
            .into_iter()
            .map(|wanted| match wanted.filter {
                Err(reason) => reason,
                Ok(filter) => {
                    let subscriber = Subscriber {
                        session: msg.session.clone(),
                        options: wanted.options,
                        identifier: wanted.identifier,
                    };
                    if filter.share_group().is_some() {
                        // Retained messages are not sent to the members of a group [MQTT5 4.8.2].
                        self.routes.shared.insert(&filter, msg.session.key, subscriber);
                    } else {
                        self.routes
                            .subscriptions
                            .insert(&filter, msg.session.key, subscriber.clone());
                        added.push((filter, subscriber, wanted.existed));
                    }
                    granted(wanted.options.qos)
                }
            })
            .collect();
        self.publish();
        for (filter, subscriber, existed) in &added {
            self.switchboard.send_retained(filter, subscriber, *existed);
        }
        MessageResult(reasons)
    }
}

/// Removes subscriptions of one session.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    /// Whose.
    pub session: Arc<SessionHandle>,
    /// Which.
    pub filters: Vec<TopicFilter>,
}

impl Handler<Unsubscribe> for TopicRouter {
    type Result = ();

    fn handle(&mut self, msg: Unsubscribe, _: &mut Self::Context) {
        for filter in &msg.filters {
            if filter.share_group().is_some() {
                self.routes.shared.remove(filter, &msg.session.key);
            } else {
                self.routes.subscriptions.remove(filter, &msg.session.key);
            }
        }
        self.publish();
    }
}

/// Gives a topic, or every topic of a pattern, its single owner.
#[derive(Message)]
#[rtype(result = "Result<(), BindError>")]
pub struct Bind {
    /// The topic, or the pattern with levels in braces.
    pub pattern: TopicPattern,
    /// What kind of actor owns it.
    pub actor: &'static str,
    /// How many messages it may hold.
    pub mailbox: Mailbox,
    /// The way into it.
    pub entrance: Arc<dyn Entrance>,
}

/// Why a topic was not bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Somebody owns it already.
    #[error(
        "{topic} already belongs to {owner}; a topic has one owner: subscribe to it, or bind another topic"
    )]
    Taken {
        /// The topic or pattern.
        topic: String,
        /// The actor that owns it.
        owner: &'static str,
    },
    /// An actor that serves several patterns is known by the levels in braces, so they must agree.
    #[error(
        "{pattern} names other levels than the first pattern of {actor}; give all patterns of one binding the same names"
    )]
    Levels {
        /// The pattern that differs.
        pattern: String,
        /// The actor to be bound.
        actor: &'static str,
    },
    /// What the actor reads has no field for a level.
    #[error(
        "{pattern} names the level {{{name}}}, but {kind}; give the type a field of that name, rename the level, \
         or bind the bytes"
    )]
    Field {
        /// The pattern.
        pattern: String,
        /// The level.
        name: String,
        /// The type, and what it is or has instead.
        kind: String,
    },
    /// A pattern that is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A mailbox without room.
    #[error("the mailbox of {actor} has a bound of 0 and would take nothing; 16 is a good beginning")]
    NoRoom {
        /// The actor to be bound.
        actor: &'static str,
    },
    /// There is no router any more.
    #[error("the daemon is stopping; bind when it starts")]
    Stopped,
}

impl Handler<Bind> for TopicRouter {
    type Result = Result<(), BindError>;

    fn handle(&mut self, msg: Bind, _: &mut Self::Context) -> Self::Result {
        self.check_free(&msg.pattern, msg.actor, msg.mailbox)?;
        let owner = Owner {
            actor: msg.actor,
            mailbox: MailboxRef::new(msg.entrance, msg.mailbox),
            params: Params::default(),
            counters: Arc::default(),
            lazy: false,
        };
        self.routes.serve(&msg.pattern, Audience::OneDaemon);
        match concrete(&msg.pattern) {
            Some(topic) => {
                self.routes.owners.insert(topic, Arc::new(owner));
            }
            None => {
                self.forget_stopped(&msg.pattern);
                Arc::make_mut(&mut self.routes.patterns).push(PatternRoute {
                    pattern: msg.pattern,
                    actor: msg.actor,
                    owner: Some(Arc::new(owner)),
                    restarts: Arc::default(),
                });
            }
        }
        self.publish();
        Ok(())
    }
}

impl TopicRouter {
    /// Whether nobody that lives owns any topic of the pattern.
    fn check_free(
        &self,
        pattern: &TopicPattern,
        actor: &'static str,
        mailbox: Mailbox,
    ) -> Result<(), BindError> {
        if mailbox.bound == 0 {
            return Err(BindError::NoRoom { actor });
        }
        let topic = concrete(pattern);
        let shares = |route: &&PatternRoute| match &topic {
            Some(topic) => route.pattern.capture(topic).is_some(),
            None => route.pattern.filter().overlaps(pattern.filter()),
        };
        let lives = |route: &&PatternRoute| route.owner.as_ref().is_none_or(|owner| owner.mailbox.is_open());
        let by_pattern = self.routes.patterns.iter().filter(shares).find(lives);
        let mut concrete = match &topic {
            Some(topic) => self.routes.owners.get(topic).filter(|o| o.mailbox.is_open()),
            None => None,
        };
        if topic.is_none() {
            let mut owners = self.routes.owners.iter();
            concrete = owners
                .find(|(topic, owner)| owner.mailbox.is_open() && pattern.capture(topic).is_some())
                .map(|(_, owner)| owner);
        }
        match by_pattern.map(|route| route.actor).or(concrete.map(|o| o.actor)) {
            None => Ok(()),
            Some(owner) => Err(BindError::Taken {
                topic: pattern.to_string(),
                owner,
            }),
        }
    }

    /// Takes away what is left of owners under a free pattern: they have stopped, or it would not be free.
    fn forget_stopped(&mut self, pattern: &TopicPattern) {
        let patterns = Arc::make_mut(&mut self.routes.patterns);
        patterns.retain(|route| !route.pattern.filter().overlaps(pattern.filter()));
        self.routes
            .owners
            .retain(|topic, _| pattern.capture(topic).is_none());
    }
}

/// The one topic of a pattern that names no levels.
fn concrete(pattern: &TopicPattern) -> Option<TopicName> {
    let has_levels = pattern.names().next().is_some();
    (!has_levels)
        .then(|| pattern.expand(&Params::default()).ok())
        .flatten()
}

/// Makes one actor for each distinct set of the levels in braces, when the first message comes.
#[derive(Message)]
#[rtype(result = "Result<(), BindError>")]
pub struct BindEach {
    /// What kind of actor is made.
    pub actor: &'static str,
    /// The patterns it owns, and which daemons get their messages; all of them name the same levels.
    pub patterns: Vec<(TopicPattern, Audience)>,
    /// How many messages each may hold.
    pub mailbox: Mailbox,
    /// After how long without a message an actor may be let go.
    pub idle: Duration,
    /// Makes the actor, on the router's arbiter.
    pub factory: Box<dyn Fn(&Params) -> LazyActor + Send>,
}

/// An actor made by a factory.
pub struct LazyActor {
    /// The way into it.
    pub entrance: Arc<dyn Entrance>,
    /// How it is let go.
    pub retire: Retirement,
}

/// How an actor that got no message for a while is let go.
pub enum Retirement {
    /// It is asked, because it may have work that no message shows.
    Ask(Recipient<Retire>),
    /// It goes when it holds no message; this is dropped then.
    WhenEmpty(oneshot::Sender<()>),
}

/// Asks an actor that got no message for a while whether it has anything left to do. One that says
/// true is unbound; a message that still reaches it must be handed to [`RouteFirst`].
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Retire;

pub(crate) struct PatternBinding {
    pub(crate) actor: &'static str,
    pub(crate) patterns: Vec<TopicPattern>,
    pub(crate) mailbox: Mailbox,
    /// For each pattern, those of actors that were let go.
    pub(crate) past: Vec<Arc<OwnerCounters>>,
    idle: Duration,
    factory: Box<dyn Fn(&Params) -> LazyActor + Send>,
    restarts: Arc<AtomicU64>,
}

impl PatternBinding {
    fn capture(&self, topic: &TopicName) -> Option<Params> {
        self.patterns.iter().find_map(|pattern| pattern.capture(topic))
    }
}

pub(crate) struct LazyOwner {
    /// Which of the bindings made it.
    pub(crate) binding: usize,
    pub(crate) mailbox: MailboxRef,
    /// For each pattern of the binding.
    pub(crate) counters: Vec<Arc<OwnerCounters>>,
    topics: Vec<TopicName>,
    retire: Retirement,
    idle: Duration,
    messages_at_last_sweep: u64,
    last_active: Instant,
}

impl LazyOwner {
    /// Whether it got no message for its time.
    fn is_idle(&mut self, now: Instant) -> bool {
        let messages = self.counters.iter().map(|c| c.messages_in.load(Relaxed)).sum();
        if std::mem::replace(&mut self.messages_at_last_sweep, messages) != messages {
            self.last_active = now;
        }
        now.duration_since(self.last_active) >= self.idle
    }

    /// Publishers may hold on to an owner's counters for long; what they say is kept here.
    fn add_to_past(&self, patterns: &[PatternBinding]) {
        let Some(binding) = patterns.get(self.binding) else {
            return;
        };
        for (past, counters) in binding.past.iter().zip(&self.counters) {
            past.add(counters);
        }
    }
}

impl Handler<BindEach> for TopicRouter {
    type Result = Result<(), BindError>;

    fn handle(&mut self, msg: BindEach, ctx: &mut Self::Context) -> Self::Result {
        let BindEach {
            actor,
            patterns,
            mailbox,
            idle,
            factory,
        } = msg;
        let (patterns, audiences): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
        for pattern in &patterns {
            self.check_free(pattern, actor, mailbox)?;
            let first = patterns.first().map(|p| p.names().collect::<Vec<_>>());
            if first != Some(pattern.names().collect()) {
                return Err(BindError::Levels {
                    pattern: pattern.to_string(),
                    actor,
                });
            }
        }
        for (pattern, audience) in patterns.iter().zip(audiences) {
            self.routes.serve(pattern, audience);
            self.forget_stopped(pattern);
        }
        let restarts = Arc::<AtomicU64>::default();
        let routes = Arc::make_mut(&mut self.routes.patterns);
        routes.extend(patterns.iter().map(|pattern| PatternRoute {
            pattern: pattern.clone(),
            actor,
            owner: None,
            restarts: restarts.clone(),
        }));
        self.patterns.push(PatternBinding {
            actor,
            past: patterns.iter().map(|_| Arc::default()).collect(),
            patterns,
            mailbox,
            idle,
            factory,
            restarts,
        });
        ctx.run_interval((idle / 2).clamp(Duration::from_millis(50), SWEEP), |act, ctx| {
            act.sweep(ctx)
        });
        self.publish();
        Ok(())
    }
}

/// Routes a message whose topic's owner may have to be made first. The sender waits for the
/// answer before it sends its next one, so that nothing overtakes the first.
#[derive(Message)]
#[rtype(result = "Routed")]
pub struct RouteFirst {
    /// The message.
    pub message: Arc<Message>,
    /// Who published it.
    pub from: Arc<Publisher>,
}

impl Handler<RouteFirst> for TopicRouter {
    type Result = MessageResult<RouteFirst>;

    fn handle(&mut self, msg: RouteFirst, _: &mut Self::Context) -> Self::Result {
        self.ensure_owner(&msg.message.topic);
        MessageResult(self.switchboard.route(&msg.message, &msg.from))
    }
}

/// Makes the owner of a topic where it is made lazily, for a publisher that then routes its message itself and waits
/// until then.
#[derive(Message)]
#[rtype(result = "()")]
pub struct MakeOwner {
    /// The topic.
    pub topic: TopicName,
}

impl Handler<MakeOwner> for TopicRouter {
    type Result = ();

    fn handle(&mut self, msg: MakeOwner, _: &mut Self::Context) {
        self.ensure_owner(&msg.topic);
    }
}

/// As [`RouteFirst`], for a message that an external broker brought, or that the last daemon left.
#[derive(Clone, Message)]
#[rtype(result = "Routed")]
pub struct RouteRequest {
    /// The message.
    pub message: Arc<Message>,
    /// Who published it.
    pub from: Arc<Publisher>,
    /// Owed to the broker.
    pub receipt: Option<Receipt>,
    /// Its place in the store, where it was kept before.
    pub acceptance: Option<Arc<Acceptance>>,
}

impl Handler<RouteRequest> for TopicRouter {
    type Result = MessageResult<RouteRequest>;

    fn handle(&mut self, msg: RouteRequest, _: &mut Self::Context) -> Self::Result {
        self.ensure_owner(&msg.message.topic);
        MessageResult(self.switchboard.route_request(&msg))
    }
}

impl TopicRouter {
    /// Makes the owner of a topic where it is made lazily and there is none, or it has stopped.
    fn ensure_owner(&mut self, topic: &TopicName) {
        match self.routes.owners.get(topic) {
            Some(owner) if owner.lazy && !owner.mailbox.is_open() => {
                tracing::warn!(actor = owner.actor, %topic, "the owner of a topic had stopped; making another");
                self.unbind_lazy(topic);
                if let Some(binding) = self.make_owner(topic) {
                    binding.restarts.fetch_add(1, Relaxed);
                }
            }
            Some(_) => {}
            None => {
                self.make_owner(topic);
            }
        }
    }

    fn make_owner(&mut self, topic: &TopicName) -> Option<&PatternBinding> {
        let mut bindings = self.patterns.iter().enumerate();
        let (number, binding, params) =
            bindings.find_map(|(number, b)| Some((number, b, b.capture(topic)?)))?;
        // A factory may be an application's: if it panics, the router must not go with it.
        let Ok(made) = catch_unwind(AssertUnwindSafe(|| (binding.factory)(&params))) else {
            tracing::error!(actor = binding.actor, %topic, "the factory of a topic's owner panicked");
            return None;
        };
        let mailbox = MailboxRef::new(made.entrance, binding.mailbox);
        let mut owned = LazyOwner {
            binding: number,
            mailbox: mailbox.clone(),
            counters: binding.past.iter().map(|_| Arc::default()).collect(),
            topics: Vec::new(),
            retire: made.retire,
            idle: binding.idle,
            messages_at_last_sweep: 0,
            last_active: outside::now(),
        };
        for (pattern, counters) in binding.patterns.iter().zip(&owned.counters) {
            let Ok(topic) = pattern.expand(&params) else {
                continue;
            };
            let owner = Owner {
                actor: binding.actor,
                mailbox: mailbox.clone(),
                params: params.clone(),
                counters: counters.clone(),
                lazy: true,
            };
            self.routes.owners.insert(topic.clone(), Arc::new(owner));
            owned.topics.push(topic);
        }
        tracing::debug!(actor = binding.actor, %topic, "made the owner of a topic");
        self.lazy.push(owned);
        self.publish();
        self.patterns.get(number)
    }

    /// Lets every lazily made owner go that was idle for its time, and asks those that want to be asked.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let now = outside::now();
        let before = self.lazy.len();
        let (owners, patterns) = (&mut self.routes.owners, &self.patterns);
        self.lazy.retain_mut(|owner| {
            if !owner.is_idle(now) {
                return true;
            }
            match &owner.retire {
                // Closed, it gives what still comes back to the publisher, who then asks for a new one.
                Retirement::WhenEmpty(_) if owner.mailbox.close_if_empty() || !owner.mailbox.is_open() => {
                    for topic in &owner.topics {
                        owners.remove(topic);
                    }
                    owner.add_to_past(patterns);
                    false
                }
                Retirement::WhenEmpty(_) => true,
                Retirement::Ask(retire) => {
                    let topic = owner.topics.first().cloned();
                    let asked = wrap_future::<_, Self>(retire.send(Retire));
                    ctx.spawn(asked.map(move |answer, act, _| {
                        // A dead actor may go as well.
                        if let Some(topic) = topic.filter(|_| answer.unwrap_or(true)) {
                            act.unbind_lazy(&topic);
                        }
                    }));
                    true
                }
            }
        });
        let gone = before - self.lazy.len();
        if gone > 0 {
            tracing::debug!(gone, "let idle owners of topics go");
            self.publish();
        }
    }

    fn unbind_lazy(&mut self, topic: &TopicName) {
        let Some(at) = self.lazy.iter().position(|o| o.topics.contains(topic)) else {
            return;
        };
        let gone = self.lazy.swap_remove(at);
        gone.add_to_past(&self.patterns);
        for topic in gone.topics {
            self.routes.owners.remove(&topic);
        }
        tracing::debug!(%topic, "let the idle owner of a topic go");
        self.publish();
    }
}

fn granted(qos: topics::packet::QoS) -> ReasonCode {
    use topics::packet::QoS;
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}

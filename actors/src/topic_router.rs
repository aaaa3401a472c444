//! The actor that owns the map from topics to mailboxes. It alone writes it and publishes a
//! snapshot after each change; nobody asks it on the way of a message but for the first one to a
//! topic whose owner is made lazily.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use actix::fut::wrap_future;
use actix::prelude::*;
use topics::filter::TopicFilter;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::ReasonCode;
use topics::pattern::{Params, TopicPattern};
use topics::retained::{RetainedBounds, RetainedStore};
use topics::session::Wanted;

use crate::external_broker::Receipt;
use crate::stats::Stats;
use crate::switchboard::{
    Inbound, Overflow, Owner, OwnerCounters, Publisher, Routed, Routes, SessionHandle, Subscriber,
    Switchboard,
};

/// Requests to the router wait for room in its mailbox; nothing sent to it is dropped.
const MAILBOX: usize = 4096;

/// How often what is over is looked for: expired retained messages, and, where their idle time is
/// longer than this, actors that may go.
const SWEEP: Duration = Duration::from_secs(10);

/// See the module.
pub struct TopicRouter {
    routes: Routes,
    switchboard: Switchboard,
    patterns: Vec<PatternBinding>,
    /// Actors made lazily, with all the topics they own.
    lazy: Vec<LazyOwner>,
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

    fn publish(&self) {
        self.switchboard.publish_snapshot(&self.routes);
    }
}

impl Actor for TopicRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(SWEEP, |act, _| {
            act.switchboard.expire_retained(Instant::now());
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

/// Gives a concrete topic its single owner.
#[derive(Message)]
#[rtype(result = "Result<(), BindError>")]
pub struct Bind {
    /// The topic.
    pub topic: TopicName,
    /// What kind of actor owns it.
    pub actor: &'static str,
    /// Its mailbox.
    pub mailbox: Recipient<Inbound>,
    /// What happens when the mailbox is full.
    pub overflow: Overflow,
}

/// A topic has one owner.
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
}

impl Handler<Bind> for TopicRouter {
    type Result = Result<(), BindError>;

    fn handle(&mut self, msg: Bind, _: &mut Self::Context) -> Self::Result {
        let by_pattern = self
            .patterns
            .iter()
            .find(|b| b.capture(&msg.topic).is_some())
            .map(|b| b.actor);
        let owner = self.routes.owners.get(&msg.topic).map(|o| o.actor).or(by_pattern);
        if let Some(owner) = owner {
            return Err(BindError::Taken {
                topic: msg.topic.to_string(),
                owner,
            });
        }
        let owner = Owner {
            actor: msg.actor,
            mailbox: msg.mailbox,
            overflow: msg.overflow,
            params: Params::default(),
            counters: Arc::default(),
        };
        self.routes.owners.insert(msg.topic, Arc::new(owner));
        self.publish();
        Ok(())
    }
}

/// Makes one actor for each distinct set of the levels in braces, when the first message comes.
#[derive(Message)]
#[rtype(result = "Result<(), BindError>")]
pub struct BindEach {
    /// What kind of actor is made.
    pub actor: &'static str,
    /// The patterns it owns; all of them name the same levels.
    pub patterns: Vec<TopicPattern>,
    /// What happens when its mailbox is full.
    pub overflow: Overflow,
    /// After how long without a message an actor is asked whether it may go.
    pub idle: Duration,
    /// Makes the actor, on the router's arbiter.
    pub factory: Box<dyn Fn(&Params) -> LazyActor + Send>,
}

/// An actor made by a factory: where its messages go, and where it is asked whether it may go.
pub struct LazyActor {
    /// For messages.
    pub mailbox: Recipient<Inbound>,
    /// For [`Retire`].
    pub retire: Recipient<Retire>,
}

/// Asks an actor that got no message for a while whether it has anything left to do. One that says
/// true is unbound; a message that still reaches it must be handed to [`RouteFirst`].
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Retire;

struct PatternBinding {
    actor: &'static str,
    patterns: Vec<TopicPattern>,
    overflow: Overflow,
    idle: Duration,
    factory: Box<dyn Fn(&Params) -> LazyActor + Send>,
}

impl PatternBinding {
    fn capture(&self, topic: &TopicName) -> Option<Params> {
        self.patterns.iter().find_map(|pattern| pattern.capture(topic))
    }
}

struct LazyOwner {
    topics: Vec<TopicName>,
    retire: Recipient<Retire>,
    counters: Arc<OwnerCounters>,
    idle: Duration,
    messages_at_last_sweep: u64,
    last_active: Instant,
}

impl Handler<BindEach> for TopicRouter {
    type Result = Result<(), BindError>;

    fn handle(&mut self, msg: BindEach, ctx: &mut Self::Context) -> Self::Result {
        for pattern in &msg.patterns {
            let other = self
                .patterns
                .iter()
                .find(|b| b.patterns.iter().any(|p| p.filter().overlaps(pattern.filter())))
                .map(|b| b.actor);
            let concrete = self
                .routes
                .owners
                .iter()
                .find(|(t, _)| pattern.capture(t).is_some());
            if let Some(owner) = other.or(concrete.map(|(_, owner)| owner.actor)) {
                return Err(BindError::Taken {
                    topic: pattern.filter().to_string(),
                    owner,
                });
            }
            let first = msg.patterns.first().map(|p| p.names().collect::<Vec<_>>());
            if first != Some(pattern.names().collect()) {
                return Err(BindError::Levels {
                    pattern: pattern.filter().to_string(),
                    actor: msg.actor,
                });
            }
        }
        Arc::make_mut(&mut self.routes.patterns).extend(msg.patterns.iter().cloned());
        let BindEach {
            actor,
            patterns,
            overflow,
            idle,
            factory,
        } = msg;
        self.patterns.push(PatternBinding {
            actor,
            patterns,
            overflow,
            idle,
            factory,
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
        if !self.routes.owners.contains_key(&msg.message.topic) {
            self.make_owner(&msg.message.topic);
        }
        MessageResult(self.switchboard.route(&msg.message, &msg.from))
    }
}

/// As [`RouteFirst`], for a message that an external broker brought.
#[derive(Message)]
#[rtype(result = "Routed")]
pub struct RouteRequest {
    /// The message.
    pub message: Arc<Message>,
    /// Who published it.
    pub from: Arc<Publisher>,
    /// Owed to the broker.
    pub receipt: Option<Receipt>,
}

impl Handler<RouteRequest> for TopicRouter {
    type Result = MessageResult<RouteRequest>;

    fn handle(&mut self, msg: RouteRequest, _: &mut Self::Context) -> Self::Result {
        if !self.routes.owners.contains_key(&msg.message.topic) {
            self.make_owner(&msg.message.topic);
        }
        MessageResult(
            self.switchboard
                .route_request(&msg.message, &msg.from, msg.receipt),
        )
    }
}

impl TopicRouter {
    fn make_owner(&mut self, topic: &TopicName) {
        let found = self.patterns.iter().find_map(|b| Some((b, b.capture(topic)?)));
        let Some((binding, params)) = found else { return };
        let made = (binding.factory)(&params);
        let counters = Arc::<OwnerCounters>::default();
        let topics: Vec<_> = binding
            .patterns
            .iter()
            .filter_map(|p| p.expand(&params).ok())
            .collect();
        for topic in &topics {
            let owner = Owner {
                actor: binding.actor,
                mailbox: made.mailbox.clone(),
                overflow: binding.overflow,
                params: params.clone(),
                counters: counters.clone(),
            };
            self.routes.owners.insert(topic.detached(), Arc::new(owner));
        }
        tracing::debug!(actor = binding.actor, %topic, "made the owner of a topic");
        self.lazy.push(LazyOwner {
            topics,
            retire: made.retire,
            counters,
            idle: binding.idle,
            messages_at_last_sweep: 0,
            last_active: Instant::now(),
        });
        self.publish();
    }

    /// Asks every lazily made owner that was idle for its time whether it may go.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        for owner in &mut self.lazy {
            let messages = owner.counters.messages_in.load(Relaxed);
            if std::mem::replace(&mut owner.messages_at_last_sweep, messages) != messages {
                owner.last_active = now;
            }
            if now.duration_since(owner.last_active) < owner.idle {
                continue;
            }
            let Some(topic) = owner.topics.first().cloned() else {
                continue;
            };
            let asked = wrap_future::<_, Self>(owner.retire.send(Retire));
            ctx.spawn(asked.map(move |answer, act, _| {
                // A dead actor may go as well.
                if answer.unwrap_or(true) {
                    act.unbind_lazy(&topic);
                }
            }));
        }
    }

    fn unbind_lazy(&mut self, topic: &TopicName) {
        let Some(at) = self.lazy.iter().position(|o| o.topics.first() == Some(topic)) else {
            return;
        };
        for topic in self.lazy.swap_remove(at).topics {
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

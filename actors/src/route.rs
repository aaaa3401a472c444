//! Where messages on one topic go: looked up once, kept by the publisher for its next messages.

use std::sync::Arc;

use bytestring::ByteString;
use topics::filter::TopicFilter;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;
use topics::pattern::Params;
use topics::session::Delivery;
use topics::shared::Group;

use crate::switchboard::{Owner, Routes, SessionHandle, Subscriber};

/// What a snapshot says about a topic, for one publisher.
#[derive(Debug)]
pub(crate) struct Route {
    /// Who owns the topic.
    pub(crate) owner: Ownership,
    /// Who gets a copy.
    pub(crate) receivers: Vec<Receiver>,
    /// Of whose members one gets a copy.
    pub(crate) groups: Vec<(Arc<TopicFilter>, Group<u64, Subscriber>)>,
    /// Whether the publisher subscribed to the topic itself, and wants nothing of its own.
    pub(crate) spares_the_publisher: bool,
}

/// Whether an actor owns a topic.
#[derive(Debug)]
pub(crate) enum Ownership {
    /// None.
    Nobody,
    /// One would, that the router has to make first.
    Unmade,
    /// This one, which knows the topic by these levels.
    Actor(Arc<Owner>, Params),
}

/// A session that gets one copy of each message, whichever of its subscriptions match.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) session: Arc<SessionHandle>,
    /// The highest granted.
    max_qos: QoS,
    retain_as_published: bool,
    subscription_identifiers: Vec<u32>,
}

impl Receiver {
    fn new(subscriber: &Subscriber) -> Self {
        Self {
            session: subscriber.session.clone(),
            max_qos: subscriber.options.qos,
            retain_as_published: subscriber.options.retain_as_published,
            subscription_identifiers: subscriber.identifier.into_iter().collect(),
        }
    }

    pub(crate) fn delivery(&self, message: &Arc<Message>) -> Delivery {
        Delivery {
            message: message.clone(),
            qos: message.qos.min(self.max_qos),
            retain: message.retain && self.retain_as_published,
            subscription_identifiers: self.subscription_identifiers.clone(),
            share: None,
            kept: None,
        }
    }
}

impl Routes {
    /// Looks a topic up for a publisher, whose own subscriptions with No Local bring it nothing
    /// [MQTT5 3.8.3.1].
    pub(crate) fn find(&self, topic: &TopicName, publisher: &ByteString) -> Route {
        let mut receivers = Vec::new();
        let mut spares_the_publisher = false;
        self.subscriptions
            .matches(topic, &mut |_, subscriber: &Subscriber| {
                if subscriber.options.no_local && subscriber.session.client_id == *publisher {
                    spares_the_publisher = true;
                } else {
                    receivers.push(Receiver::new(subscriber));
                }
            });
        one_copy_each(&mut receivers);
        let mut groups = Vec::new();
        self.shared.matches(topic, &mut |share, group| {
            groups.push((share.clone(), group.clone()));
        });
        Route {
            owner: self.owner(topic),
            receivers,
            groups,
            spares_the_publisher,
        }
    }

    pub(crate) fn owner(&self, topic: &TopicName) -> Ownership {
        if let Some(owner) = self.owners.get(topic) {
            return Ownership::Actor(owner.clone(), owner.params.clone());
        }
        for route in self.patterns.iter() {
            let Some(params) = route.pattern.capture(topic) else {
                continue;
            };
            return match &route.owner {
                Some(owner) => Ownership::Actor(owner.clone(), params),
                None => Ownership::Unmade,
            };
        }
        Ownership::Nobody
    }
}

/// One copy a session, at the highest QoS of the subscriptions it matched, naming all of their
/// identifiers [MQTT-3.3.4-2], [MQTT-3.3.4-3].
fn one_copy_each(receivers: &mut Vec<Receiver>) {
    receivers.sort_by_key(|receiver| receiver.session.key);
    receivers.dedup_by(|again, kept| {
        let same = again.session.key == kept.session.key;
        if same {
            kept.max_qos = kept.max_qos.max(again.max_qos);
            kept.retain_as_published |= again.retain_as_published;
            kept.subscription_identifiers
                .append(&mut again.subscription_identifiers);
        }
        same
    });
}

/// Messages of one publisher that are handed over to their receivers together. Fewer cost a lock of each outbox
/// more often; more would come to an outbox that has no room for them before anybody is told so.
const TOGETHER: usize = 32;

/// The route of a publisher's last topic, good for as long as no newer snapshot was published, and messages that
/// take it and were not handed over yet.
#[derive(Debug, Default)]
pub struct LastRoute {
    known: Option<Known>,
    waiting: Vec<Arc<Message>>,
    /// Whether all receivers had room when they were looked at last, in the present read.
    all_have_room: bool,
}

#[derive(Debug)]
struct Known {
    topic: TopicName,
    generation: u64,
    route: Route,
}

impl LastRoute {
    /// Whether this is the route of `topic`, and at least as new as `generation`.
    pub(crate) fn is_of(&self, topic: &TopicName, generation: u64) -> bool {
        self.known
            .as_ref()
            .is_some_and(|known| known.generation == generation && known.topic == *topic)
    }

    /// Another route, after all of this one's messages were handed over.
    pub(crate) fn replace(&mut self, topic: TopicName, generation: u64, route: Route) {
        self.all_have_room = false;
        self.known = Some(Known {
            topic,
            generation,
            route,
        });
    }

    pub(crate) fn route(&self) -> Option<&Route> {
        self.known.as_ref().map(|known| &known.route)
    }

    /// A message that takes the route; true where it, and those before it, are to be handed over now. The first of
    /// a read always is: it tells whether there is room for more.
    pub(crate) fn wait(&mut self, message: Arc<Message>) -> bool {
        self.waiting.push(message);
        !self.all_have_room || self.waiting.len() >= TOGETHER
    }

    pub(crate) fn waiting(&self) -> &[Arc<Message>] {
        &self.waiting
    }

    pub(crate) fn handed_over(&mut self, all_have_room: bool) {
        self.waiting.clear();
        self.all_have_room = all_have_room;
    }
}

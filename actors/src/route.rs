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

/// The route of a publisher's last topic, good for as long as no newer snapshot was published.
#[derive(Debug, Default)]
pub struct LastRoute(Option<Known>);

#[derive(Debug)]
struct Known {
    topic: TopicName,
    generation: u64,
    route: Route,
}

impl LastRoute {
    /// The route of `topic`. One that is found now is at least as new as `generation`.
    pub(crate) fn get_or_find(
        &mut self,
        topic: &TopicName,
        generation: u64,
        find: impl FnOnce() -> Route,
    ) -> &Route {
        let known = self
            .0
            .take()
            .filter(|known| known.generation == generation && known.topic == *topic);
        let known = known.unwrap_or_else(|| Known {
            topic: topic.clone(),
            generation,
            route: find(),
        });
        &self.0.insert(known).route
    }
}

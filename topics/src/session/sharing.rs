//! A member of shared subscriptions leaves, and what waits for it goes to another [MQTT5 4.8.2].

use crate::filter::TopicFilter;

use super::Session;
use super::outbound::{Delivery, Leaving};

impl Session {
    /// The connection is gone and the session stays: offers each message that another member of its
    /// share may get now to `take`, in their order. What is not taken waits here as it did.
    pub fn hand_on(&mut self, take: &mut dyn FnMut(&Delivery) -> bool) {
        self.outbound.hand_on(Leaving::Session, take);
    }

    /// The client has left one shared subscription: the same for the messages of it that were not sent
    /// yet.
    pub fn hand_on_share(&mut self, share: &TopicFilter, take: &mut dyn FnMut(&Delivery) -> bool) {
        self.outbound.hand_on(Leaving::Share(share), take);
    }
}

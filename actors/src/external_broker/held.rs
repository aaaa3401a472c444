//! Messages that the broker brought and that no actor takes at the moment: its mailbox is full, or the
//! application has not bound the topic yet. They wait here unacknowledged, and so there are no more of them
//! than the broker may have with us (Receive Maximum).

use std::collections::{HashMap, VecDeque};

use topics::name::TopicName;

use crate::topic_router::RouteRequest;

/// See the module. In the order in which they came.
#[derive(Default)]
pub(super) struct Held {
    waiting: VecDeque<RouteRequest>,
    topics: HashMap<TopicName, usize>,
}

impl Held {
    /// Behind those that wait already.
    pub(super) fn push(&mut self, request: RouteRequest) {
        *self.topics.entry(request.message.topic.clone()).or_default() += 1;
        self.waiting.push_back(request);
    }

    pub(super) fn pop(&mut self) -> Option<RouteRequest> {
        let request = self.waiting.pop_front()?;
        if let Some(count) = self.topics.get_mut(&request.message.topic) {
            *count -= 1;
            if *count == 0 {
                self.topics.remove(&request.message.topic);
            }
        }
        Some(request)
    }

    /// Whether a message to this topic waits, which another one must not overtake.
    pub(super) fn has(&self, topic: &TopicName) -> bool {
        self.topics.contains_key(topic)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

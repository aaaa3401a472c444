//! What an external broker is asked to bring: every bound topic and pattern, as a filter. The router
//! keeps the list with its map; the link takes it from the newest snapshot, and is told of each change.

use actix::prelude::*;
use topics::filter::TopicFilter;
use topics::pattern::TopicPattern;

use crate::switchboard::{PatternRoute, Routes};
use crate::topic_router::TopicRouter;

/// Which daemons get a message of a bound topic, where several serve one external broker. With the
/// embedded broker there is one daemon, and it makes no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// One of them, for the work is shared. A message of QoS 1 is acknowledged to the broker when the
    /// actor is done with it.
    OneDaemon,
    /// Each of them, since it is not known whom it concerns. At QoS 0, so that what waits to be
    /// acknowledged does not hold it up.
    EveryDaemon,
}

/// Filters without a share group, in their order. Shares structure with the snapshot before it.
pub(crate) type ServedFilters = imbl::OrdMap<TopicFilter, Audience>;

impl Routes {
    /// A topic, or a pattern of topics, has an owner now. Whoever had some of them before has stopped.
    pub(crate) fn serve(&mut self, pattern: &TopicPattern, audience: Audience) {
        let mut stopped = self.stopped_patterns();
        if pattern.names().next().is_some() {
            stopped.extend(self.stopped_topics());
        }
        for filter in stopped {
            // Two filters that match one topic would bring its messages twice.
            if filter.overlaps(pattern.filter()) {
                self.served.remove(&filter);
            }
        }
        self.served.insert(pattern.filter().clone(), audience);
    }

    /// Takes out what has lost its owner; says how many these were.
    fn stop_serving(&mut self) -> usize {
        let before = self.served.len();
        for filter in self.stopped_patterns().into_iter().chain(self.stopped_topics()) {
            self.served.remove(&filter);
        }
        before - self.served.len()
    }

    fn stopped_patterns(&self) -> Vec<TopicFilter> {
        let stopped = |route: &&PatternRoute| route.owner.as_ref().is_some_and(|o| !o.mailbox.is_open());
        let routes = self.patterns.iter().filter(stopped);
        routes.map(|route| route.pattern.filter().clone()).collect()
    }

    /// An owner that was made lazily is made again, and its pattern goes on being served.
    fn stopped_topics(&self) -> Vec<TopicFilter> {
        let owners = self.owners.iter();
        owners
            .filter(|(_, owner)| !owner.lazy && !owner.mailbox.is_open())
            .filter_map(|(topic, _)| TopicFilter::try_from(topic).ok())
            .collect()
    }
}

/// Looks for owners that have stopped: the broker need not bring what they would have got.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LookForStopped;

impl Handler<LookForStopped> for TopicRouter {
    type Result = ();

    fn handle(&mut self, _: LookForStopped, _: &mut Self::Context) {
        self.look_for_stopped();
    }
}

impl TopicRouter {
    /// Lets the link know that the broker need not bring what would find its owner stopped.
    pub(crate) fn look_for_stopped(&mut self) {
        let gone = self.routes.stop_serving();
        if gone > 0 {
            tracing::info!(gone, "the owners of topics have stopped");
            self.publish();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;
    use topics::retained::RetainedBounds;

    use super::*;
    use crate::hub::Hub;
    use crate::mailbox::{Mailbox, Overflow};
    use crate::received::Received;
    use crate::stats::Stats;
    use crate::switchboard::Switchboard;

    struct Anybody;

    impl Actor for Anybody {
        type Context = Context<Self>;
    }

    impl Handler<Received<Value>> for Anybody {
        type Result = ();

        fn handle(&mut self, _: Received<Value>, _: &mut Self::Context) {}
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Stop;

    impl Handler<Stop> for Anybody {
        type Result = ();

        fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
            ctx.stop();
        }
    }

    fn board() -> Switchboard {
        let bounds = RetainedBounds {
            max_messages: 1,
            max_bytes: 1,
        };
        TopicRouter::launch(bounds, Arc::<Stats>::default())
    }

    async fn bound(hub: &Hub, pattern: &str) -> Addr<Anybody> {
        let (anybody, mailbox) = (Anybody.start(), Mailbox::new(1, Overflow::Reject));
        hub.bind::<Value, _>(pattern, mailbox, &anybody).await.unwrap();
        anybody
    }

    async fn stop(actor: &Addr<Anybody>) {
        actor.send(Stop).await.unwrap();
        while actor.connected() {
            actix_rt::task::yield_now().await;
        }
    }

    fn served(board: &Switchboard) -> Vec<String> {
        board.routes().served.keys().map(ToString::to_string).collect()
    }

    #[actix::test]
    async fn what_is_bound_is_served_as_long_as_its_owner_lives() {
        let board = board();
        let hub = Hub::new(board.clone());
        let [topic, pattern] = [bound(&hub, "a/b").await, bound(&hub, "c/{x}/d").await];
        let (mailbox, idle) = (
            Mailbox::new(1, Overflow::Reject),
            std::time::Duration::from_secs(1),
        );
        hub.bind_each::<Value, _>("e/{x}", mailbox, idle, |_| Anybody)
            .await
            .unwrap();
        assert_eq!(served(&board), ["a/b", "c/+/d", "e/+"]);
        stop(&topic).await;
        stop(&pattern).await;
        board.router().send(LookForStopped).await.unwrap();
        assert_eq!(served(&board), ["e/+"]);
    }

    #[actix::test]
    async fn what_takes_a_stopped_owners_place_is_not_served_twice() {
        let board = board();
        let hub = Hub::new(board.clone());
        for (before, after, filters) in [
            ("a/{x}", "a/b", &["a/b"][..]),
            ("a/b", "a/{x}", &["a/+"]),
            ("a/{x}", "a/{y}", &["a/+"]),
            ("a/b", "a/b", &["a/b"]),
        ] {
            let first = bound(&hub, before).await;
            stop(&first).await;
            let second = bound(&hub, after).await;
            assert_eq!(served(&board), filters, "{before}, then {after}");
            stop(&second).await;
            board.router().send(LookForStopped).await.unwrap();
            assert!(served(&board).is_empty());
        }
    }

    #[actix::test]
    async fn only_a_change_of_the_list_makes_another_list() {
        let board = board();
        let hub = Hub::new(board.clone());
        let _owner = bound(&hub, "a").await;
        let before = board.routes().served.clone();
        board.router().send(LookForStopped).await.unwrap();
        let (mailbox, second) = (Mailbox::new(1, Overflow::Reject), Anybody.start());
        assert!(hub.bind::<Value, _>("a", mailbox, &second).await.is_err());
        assert!(before.ptr_eq(&board.routes().served));
        let _owner = bound(&hub, "b").await;
        assert!(!before.ptr_eq(&board.routes().served));
    }
}

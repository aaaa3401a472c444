//! Topics as mailboxes: who owns a topic, who makes the owner, in what order messages arrive.

#![allow(clippy::unwrap_used, reason = "a test stops where its fixture fails")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler};
use actors::mailbox::{Durability, Mailbox, Overflow};
use actors::outbox::Outbox;
use actors::route::LastRoute;
use actors::served::Audience;
use actors::stats::Stats;
use actors::switchboard::{Aftermath, Inbound, Publisher, Routed, SessionHandle, Switchboard};
use actors::topic_router::{
    Bind, BindEach, BindError, LazyActor, Retire, Retirement, RouteFirst, Subscribe, TopicRouter, Unsubscribe,
};
use topics::message::Message as AppMessage;
use topics::name::TopicName;
use topics::packet::{QoS, ReasonCode, SubscriptionOptions};
use topics::pattern::TopicPattern;
use topics::retained::RetainedBounds;
use topics::session::Wanted;

/// Writes down what it gets; never busy.
struct Recorder {
    seen: Arc<Mutex<Vec<(String, String)>>>,
    hold: Option<Duration>,
}

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Recorder {
    type Result = ();

    fn handle(&mut self, msg: Inbound, ctx: &mut Self::Context) {
        let device = msg.params.get("device_id").unwrap_or_default().to_owned();
        let payload = String::from_utf8(msg.message.payload.to_vec()).unwrap();
        self.seen.lock().unwrap().push((device, payload));
        if let Some(hold) = self.hold {
            ctx.wait(actix::fut::wrap_future(actix_rt::time::sleep(hold)));
        }
    }
}

impl Handler<Retire> for Recorder {
    type Result = bool;

    fn handle(&mut self, _: Retire, _: &mut Self::Context) -> bool {
        true
    }
}

type Seen = Arc<Mutex<Vec<(String, String)>>>;

fn recorder(hold: Option<Duration>) -> (Addr<Recorder>, Seen) {
    let seen = Seen::default();
    (
        Recorder {
            seen: seen.clone(),
            hold,
        }
        .start(),
        seen,
    )
}

fn board() -> Switchboard {
    TopicRouter::launch(
        RetainedBounds {
            max_messages: 10,
            max_bytes: 10_000,
        },
        Arc::<Stats>::default(),
    )
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(text.into()).unwrap()
}

fn message(name: &str, payload: &str) -> AppMessage {
    AppMessage::new(topic(name), payload.to_owned(), QoS::AtLeastOnce)
}

fn mailbox(bound: usize) -> Mailbox {
    Mailbox {
        durability: Durability::default(),
        bound,
        overflow: Overflow::Reject,
    }
}

fn bind(name: &str, actor: &'static str, bound: usize, recorder: &Addr<Recorder>) -> Bind {
    Bind {
        pattern: TopicPattern::parse(name).unwrap(),
        actor,
        mailbox: mailbox(bound),
        entrance: Arc::new(recorder.clone().recipient::<Inbound>()),
    }
}

fn bind_each(pattern: &str, made: Arc<AtomicUsize>, seen: Seen, idle: Duration) -> BindEach {
    BindEach {
        actor: "Recorder",
        patterns: vec![(TopicPattern::parse(pattern).unwrap(), Audience::OneDaemon)],
        mailbox: mailbox(64),
        idle,
        factory: Box::new(move |_| {
            made.fetch_add(1, SeqCst);
            let actor = Recorder {
                seen: seen.clone(),
                hold: None,
            }
            .start();
            LazyActor {
                entrance: Arc::new(actor.clone().recipient::<Inbound>()),
                retire: Retirement::Ask(actor.recipient()),
            }
        }),
    }
}

fn subscriber(client_id: &str) -> Arc<SessionHandle> {
    SessionHandle::new(client_id.into(), Outbox::new(100, 100_000))
}

fn wanted(filter: &str, qos: QoS) -> Wanted {
    Wanted {
        filter: Ok(filter.parse().unwrap()),
        options: SubscriptionOptions::new(qos),
        identifier: None,
        existed: false,
    }
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..500 {
        if what() {
            return;
        }
        actix_rt::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 5 s");
}

#[actix::test]
async fn a_second_owner_is_an_error_that_names_the_first() {
    let board = board();
    let (first, _) = recorder(None);
    board
        .router()
        .send(bind("home/door", "DoorKeeper", 16, &first))
        .await
        .unwrap()
        .unwrap();
    let error = board
        .router()
        .send(bind("home/door", "Burglar", 16, &first))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error,
        BindError::Taken {
            topic: "home/door".into(),
            owner: "DoorKeeper"
        }
    );
    assert!(error.to_string().contains("DoorKeeper"));

    let (made, seen) = Default::default();
    let each = bind_each("home/{room}", made, seen, Duration::from_secs(60));
    let error = board.router().send(each).await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("DoorKeeper"),
        "a pattern over a bound topic: {error}"
    );
}

#[actix::test]
async fn a_concrete_topic_under_a_bound_pattern_is_taken_too() {
    let board = board();
    let each = bind_each(
        "home/{room}",
        Arc::default(),
        Seen::default(),
        Duration::from_secs(60),
    );
    board.router().send(each).await.unwrap().unwrap();
    let (other, _) = recorder(None);
    let error = board
        .router()
        .send(bind("home/hall", "Other", 16, &other))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("Recorder"), "{error}");
}

#[actix::test]
async fn a_pattern_makes_one_actor_for_each_concrete_topic_at_its_first_message() {
    let board = board();
    let (made, seen) = (Arc::<AtomicUsize>::default(), Seen::default());
    let each = bind_each(
        "clawdbot/{device_id}/telemetry",
        made.clone(),
        seen.clone(),
        Duration::from_secs(60),
    );
    board.router().send(each).await.unwrap().unwrap();
    assert_eq!(made.load(SeqCst), 0);
    for k in 0..50 {
        for device in ["a", "b"] {
            let message = Arc::new(message(&format!("clawdbot/{device}/telemetry"), &k.to_string()));
            let from = Publisher::daemon();
            if board.route(&message, &from) == Routed::First {
                board.router().send(RouteFirst { message, from }).await.unwrap();
            }
        }
    }
    until(|| seen.lock().unwrap().len() == 100).await;
    assert_eq!(made.load(SeqCst), 2);
    for device in ["a", "b"] {
        let seen = seen.lock().unwrap();
        let order: Vec<_> = seen
            .iter()
            .filter(|(d, _)| d == device)
            .map(|(_, p)| p.parse::<u32>().unwrap())
            .collect();
        assert_eq!(order, (0..50).collect::<Vec<_>>(), "in their order");
    }
}

#[actix::test]
async fn an_idle_actor_is_let_go_and_made_again_with_nothing_lost() {
    let board = board();
    let (made, seen) = (Arc::<AtomicUsize>::default(), Seen::default());
    let each = bind_each(
        "d/{device_id}",
        made.clone(),
        seen.clone(),
        Duration::from_millis(100),
    );
    board.router().send(each).await.unwrap().unwrap();
    for round in 1..=3 {
        board.publish(message("d/a", "x"));
        until(|| seen.lock().unwrap().len() == round).await;
        assert_eq!(made.load(SeqCst), round);
        until(|| !board.has_receiver(&topic("d/a"))).await;
    }
}

#[actix::test]
async fn a_full_mailbox_rejects_and_counts() {
    let board = board();
    let (slow, seen) = recorder(Some(Duration::from_millis(200)));
    board
        .router()
        .send(bind("slow", "Slow", 2, &slow))
        .await
        .unwrap()
        .unwrap();
    let outcomes: Vec<_> = (0..20)
        .map(|k| board.publish(message("slow", &k.to_string())))
        .collect();
    let full = outcomes.iter().filter(|o| **o == Routed::Full).count();
    assert!(full > 0, "{outcomes:?}");
    assert_eq!(Routed::Full.reason(), ReasonCode::QuotaExceeded);
    assert_eq!(board.stats().dropped_mailbox_full.get(), full as u64);
    until(|| seen.lock().unwrap().len() == 20 - full).await;
}

#[actix::test]
async fn overlapping_subscriptions_of_one_session_bring_one_copy_at_the_highest_qos() {
    let board = board();
    let session = subscriber("one");
    let wants = vec![wanted("a/#", QoS::AtMostOnce), wanted("a/+", QoS::AtLeastOnce)];
    let granted = board
        .router()
        .send(Subscribe {
            session: session.clone(),
            wanted: wants,
        })
        .await
        .unwrap();
    assert_eq!(granted, [ReasonCode::Success, ReasonCode::GrantedQoS1]);
    assert_eq!(board.publish(message("a/b", "x")), Routed::To(1));
    assert_eq!(board.publish(message("b", "x")), Routed::To(0));
    assert!(board.has_receiver(&topic("a/b")) && !board.has_receiver(&topic("b")));

    let filters = vec!["a/#".parse().unwrap(), "a/+".parse().unwrap()];
    board
        .router()
        .send(Unsubscribe { session, filters })
        .await
        .unwrap();
    assert_eq!(board.publish(message("a/b", "x")), Routed::To(0));
    assert_eq!(board.subscriptions_len(), 0);
}

#[actix::test]
async fn retained_messages_are_bounded_replaced_and_taken_away_by_an_empty_payload() {
    let board = board();
    for k in 0..12 {
        board.publish(message(&format!("r/{k}"), "x").retained());
    }
    assert_eq!(board.retained_len(), 10);
    assert_eq!(board.stats().retained_refused.get(), 2);
    board.publish(message("r/0", "y").retained());
    board.publish(message("r/1", "").retained());
    assert_eq!(board.retained_len(), 9);
}

#[actix::test]
async fn what_an_actor_takes_is_not_retained() {
    let board = board();
    let (owner, seen) = recorder(None);
    board
        .router()
        .send(bind("clawdbot/a/command", "Owner", 16, &owner))
        .await
        .unwrap()
        .unwrap();
    board.publish(message("clawdbot/a/command", "once").retained());
    until(|| seen.lock().unwrap().len() == 1).await;
    assert_eq!(board.retained_len(), 0);
}

#[actix::test]
async fn what_a_full_outbox_drops_is_counted() {
    let board = board();
    let session = SessionHandle::new("slow".into(), Outbox::new(3, 100_000));
    let wants = vec![wanted("t", QoS::AtLeastOnce)];
    board
        .router()
        .send(Subscribe {
            session,
            wanted: wants,
        })
        .await
        .unwrap();
    for _ in 0..5 {
        board.publish(message("t", "x"));
    }
    assert_eq!(board.stats().dropped_outbox_full.get(), 2);
}

#[actix::test]
async fn a_publisher_that_keeps_its_last_route_sees_each_change_of_the_map() {
    let board = board();
    let publisher = Publisher::daemon();
    let mut last = LastRoute::default();
    let mut publish = |topic| {
        let message = Arc::new(message(topic, "x"));
        board.route_gently(&message, &publisher, &mut last, &mut Aftermath::default())
    };
    assert_eq!(publish("a"), Routed::To(0));
    let session = subscriber("late");
    let subscribe = Subscribe {
        session: session.clone(),
        wanted: vec![wanted("a", QoS::AtLeastOnce)],
    };
    board.router().send(subscribe).await.unwrap();
    assert_eq!(publish("a"), Routed::To(1));
    assert_eq!(publish("a"), Routed::To(1));
    assert_eq!(publish("b"), Routed::To(0));
    let (owner, _) = recorder(None);
    board
        .router()
        .send(bind("a", "Owner", 16, &owner))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(publish("a"), Routed::To(2));
    let filters = vec!["a".parse().unwrap()];
    board
        .router()
        .send(Unsubscribe { session, filters })
        .await
        .unwrap();
    assert_eq!(publish("a"), Routed::To(1));
}

#[actix::test]
async fn a_publisher_that_is_spared_its_own_messages_counts_as_subscribed() {
    let board = board();
    let session = subscriber("itself");
    let mut wants = wanted("t", QoS::AtLeastOnce);
    wants.options.no_local = true;
    let subscribe = Subscribe {
        session: session.clone(),
        wanted: vec![wants],
    };
    board.router().send(subscribe).await.unwrap();
    let itself = Arc::new(Publisher {
        client_id: session.client_id.clone(),
        device_id: None,
        rules: Publisher::daemon().rules.clone(),
    });
    let routed = board.route(&Arc::new(message("t", "x")), &itself);
    assert_eq!((routed, routed.reason()), (Routed::Spared, ReasonCode::Success));
    assert_eq!(board.publish(message("t", "x")), Routed::To(1));
}

/// A board where one session is subscribed to two topics.
async fn board_with(outbox: Outbox) -> Switchboard {
    let board = board();
    let subscribe = Subscribe {
        session: SessionHandle::new("subscriber".into(), outbox),
        wanted: vec![wanted("a", QoS::AtLeastOnce), wanted("b", QoS::AtLeastOnce)],
    };
    board.router().send(subscribe).await.unwrap();
    board
}

#[actix::test]
async fn messages_that_go_the_same_way_are_handed_over_together_before_any_that_goes_another() {
    let board = board_with(Outbox::new(1000, 1_000_000)).await;
    let (publisher, mut last) = (Publisher::daemon(), LastRoute::default());
    let mut publish = |topic: &str| {
        let message = Arc::new(message(topic, "x"));
        let routed = board.route_gently(&message, &publisher, &mut last, &mut Aftermath::default());
        assert_eq!(routed, Routed::To(1));
        board.stats().deliveries.get()
    };
    assert_eq!(publish("a"), 1, "the first tells whether there is room");
    assert_eq!([publish("a"), publish("a")], [1, 1]);
    assert_eq!(publish("b"), 4, "what waited, and the first of the new way");
    assert_eq!(publish("b"), 4);
    assert_eq!((0..100).map(|_| publish("b")).max(), Some(100));
    board.hand_over(&mut last, &mut Aftermath::default());
    assert_eq!(board.stats().deliveries.get(), 105);
}

#[actix::test]
async fn a_publisher_hears_of_a_crowded_receiver_while_there_is_still_room() {
    let board = board_with(Outbox::new(100, 100_000)).await;
    let (publisher, mut last, mut after) = (Publisher::daemon(), LastRoute::default(), Aftermath::default());
    let mut published = 0;
    while after.crowded.is_empty() {
        board.route_gently(&Arc::new(message("a", "x")), &publisher, &mut last, &mut after);
        published += 1;
    }
    assert!(published < 100, "{published}");
    board.hand_over(&mut last, &mut after);
    // Others that come to it now are told by their first message.
    after.crowded.clear();
    let (mut another, message) = (LastRoute::default(), Arc::new(message("a", "x")));
    board.route_gently(&message, &publisher, &mut another, &mut after);
    assert_eq!(after.crowded.len(), 1);
    assert_eq!(board.stats().dropped_outbox_full.get(), 0);
    assert_eq!(board.stats().deliveries.get(), published + 1);
}

//! Actors of one's own: what reaches them, what never does, and what is counted of it.

#![allow(clippy::unwrap_used, reason = "a test stops where its fixture fails")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use actors::bound_topics::{BoundTopic, BoundTopics, ListTopics};
use actors::hub::{Hub, PublishError, PublishOptions};
use actors::mailbox::{Mailbox, Overflow};
use actors::outbox::Outbox;
use actors::received::Received;
use actors::stats::Stats;
use actors::switchboard::{Inbound, Publisher, Routed, SessionHandle, Switchboard};
use actors::topic_router::{BindError, RouteFirst, Subscribe, TopicRouter};
use serde::{Deserialize, Serialize};
use topics::access::AccessRules;
use topics::message::Message as AppMessage;
use topics::packet::{PublishProperties, QoS, ReasonCode, SubscriptionOptions};
use topics::retained::RetainedBounds;
use topics::session::Wanted;

const LONG: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Telemetry {
    device_id: String,
    celsius: f64,
}

/// Keeps every message it gets, and so its place in the mailbox, until it is told to let go.
#[derive(Default)]
struct Keeper {
    kept: Vec<Received<Telemetry>>,
    seen: Seen,
    ticks: bool,
}

type Seen = Arc<Mutex<Vec<Telemetry>>>;

impl Actor for Keeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.ticks {
            ctx.run_interval(Duration::from_millis(5), |_, _| {});
        }
    }
}

impl Handler<Received<Telemetry>> for Keeper {
    type Result = ();

    fn handle(&mut self, telemetry: Received<Telemetry>, ctx: &mut Self::Context) {
        self.seen.lock().unwrap().push(telemetry.clone());
        match telemetry.celsius {
            celsius if celsius < -273.15 => ctx.stop(),
            _ => self.kept.push(telemetry),
        }
    }
}

#[derive(actix::Message)]
#[rtype(result = "()")]
struct LetGo;

impl Handler<LetGo> for Keeper {
    type Result = ();

    fn handle(&mut self, _: LetGo, _: &mut Self::Context) {
        self.kept.clear();
    }
}

/// Lets go of each message at once.
struct Reader(Seen);

impl Actor for Reader {
    type Context = Context<Self>;
}

impl Handler<Received<Telemetry>> for Reader {
    type Result = ();

    fn handle(&mut self, telemetry: Received<Telemetry>, _: &mut Self::Context) {
        self.0.lock().unwrap().push(telemetry.into_body());
    }
}

fn mailbox(bound: usize, overflow: Overflow) -> Mailbox {
    Mailbox::new(bound, overflow)
}

fn board() -> Switchboard {
    let bounds = RetainedBounds {
        max_messages: 10,
        max_bytes: 10_000,
    };
    TopicRouter::launch(bounds, Arc::<Stats>::default())
}

fn message(topic: &str, payload: &str) -> AppMessage {
    AppMessage::new(topic.parse().unwrap(), payload.to_owned(), QoS::AtLeastOnce)
}

/// As a client does it: the first message to a lazily made actor goes through the router.
async fn publish(board: &Switchboard, topic: &str, payload: &str) -> Routed {
    let message = Arc::new(message(topic, payload));
    let from = Publisher::daemon();
    match board.route(&message, &from) {
        Routed::First => board.router().send(RouteFirst { message, from }).await.unwrap(),
        routed => routed,
    }
}

async fn topics(board: &Switchboard) -> BoundTopics {
    let ask = ListTopics {
        limit: 100,
        after: None,
    };
    board.router().send(ask).await.unwrap()
}

async fn only_topic(board: &Switchboard) -> BoundTopic {
    let mut all = topics(board).await;
    assert_eq!((all.total, all.topics.len()), (1, 1), "{all:?}");
    all.topics.remove(0)
}

async fn until(what: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if what().await {
            return;
        }
        actix_rt::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 10 s");
}

/// Writes down topic, payload, correlation data and QoS of what it gets.
#[derive(Default)]
struct Sink(Written);

type Written = Arc<Mutex<Vec<(String, String, Option<Vec<u8>>, QoS)>>>;

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Sink {
    type Result = ();

    fn handle(&mut self, inbound: Inbound, _: &mut Self::Context) {
        let message = inbound.message;
        self.0.lock().unwrap().push((
            message.topic.to_string(),
            String::from_utf8(message.payload.to_vec()).unwrap(),
            message.correlation_data().map(|data| data.to_vec()),
            message.qos,
        ));
    }
}

/// An actor that writes down what comes to these topics.
async fn sink(hub: &Hub, patterns: &[&str]) -> Written {
    let written = Written::default();
    let sink = Sink(written.clone()).start();
    for pattern in patterns {
        hub.bind_raw(pattern, mailbox(100, Overflow::Reject), &sink)
            .await
            .unwrap();
    }
    written
}

#[actix::test]
async fn one_actor_owns_every_topic_of_a_pattern_and_gets_the_levels_as_fields() {
    let board = board();
    let seen = Seen::default();
    let reader = Reader(seen.clone()).start();
    let hub = Hub::new(board.clone());
    hub.bind(
        "clawdbot/{device_id}/telemetry",
        mailbox(16, Overflow::Reject),
        &reader,
    )
    .await
    .unwrap();
    for (device, celsius) in [("attic", 30.5), ("cellar", 8.0)] {
        let payload = format!(r#"{{"celsius": {celsius}, "device_id": "forged"}}"#);
        let routed = publish(&board, &format!("clawdbot/{device}/telemetry"), &payload).await;
        assert_eq!(routed, Routed::To(1));
    }
    until(async || seen.lock().unwrap().len() == 2).await;
    let telemetry = |device_id: &str, celsius| Telemetry {
        device_id: device_id.into(),
        celsius,
    };
    assert_eq!(
        *seen.lock().unwrap(),
        [telemetry("attic", 30.5), telemetry("cellar", 8.0)]
    );
    assert_eq!(only_topic(&board).await.actors, 1);
    assert!(board.has_receiver(&"clawdbot/x/telemetry".parse().unwrap()));
}

#[actix::test]
async fn a_payload_that_cannot_be_read_bothers_no_actor_and_its_publisher_is_told() {
    let board = board();
    let seen = Seen::default();
    let reader = Reader(seen.clone()).start();
    Hub::new(board.clone())
        .bind("t/{device_id}", mailbox(16, Overflow::DropNewest), &reader)
        .await
        .unwrap();
    let session = SessionHandle::new("subscriber".into(), Outbox::new(100, 100_000));
    let wanted = vec![Wanted {
        filter: Ok("t/#".parse().unwrap()),
        options: SubscriptionOptions::new(QoS::AtLeastOnce),
        identifier: None,
        existed: false,
    }];
    board.router().send(Subscribe { session, wanted }).await.unwrap();
    for garbage in ["", "{", "[\"x\", 1]", "{\"celsius\": \"warm\"}"] {
        let routed = publish(&board, "t/x", garbage).await;
        assert_eq!(
            routed,
            Routed::Malformed,
            "{garbage}: what is refused goes to nobody"
        );
        assert_eq!(routed.reason(), ReasonCode::PayloadFormatInvalid);
    }
    assert_eq!(publish(&board, "t/x", "{\"celsius\": 1}").await, Routed::To(2));
    until(async || seen.lock().unwrap().len() == 1).await;
    let row = only_topic(&board).await;
    assert_eq!((row.messages_in, row.malformed, row.rejected), (1, 4, 0));
    assert_eq!(board.stats().dropped_malformed.get(), 4);
}

#[actix::test]
async fn the_bound_is_the_one_stated_at_the_binding_and_counts_what_the_actor_holds() {
    let board = board();
    let hub = Hub::new(board.clone());
    for (topic, overflow, routed) in [
        ("reject", Overflow::Reject, Routed::Full),
        ("drop", Overflow::DropNewest, Routed::To(0)),
    ] {
        let keeper = Keeper::default().start();
        hub.bind::<Telemetry, _>(topic, mailbox(40, overflow), &keeper)
            .await
            .unwrap();
        let payload = r#"{"device_id": "x", "celsius": 1}"#;
        for _ in 0..40 {
            assert_eq!(publish(&board, topic, payload).await, Routed::To(1));
        }
        for _ in 0..3 {
            assert_eq!(publish(&board, topic, payload).await, routed);
        }
        keeper.send(LetGo).await.unwrap();
        assert_eq!(publish(&board, topic, payload).await, Routed::To(1));
    }
    let rows = topics(&board).await.topics;
    for (row, name, overflow) in [(&rows[0], "drop", "drop_newest"), (&rows[1], "reject", "reject")] {
        assert_eq!(
            (row.topic.as_str(), row.actor, row.overflow),
            (name, "Keeper", overflow)
        );
        assert_eq!((row.bound, row.messages_in, row.rejected), (40, 41, 3));
        assert_eq!(row.depth, 1);
    }
    assert_eq!(board.stats().dropped_mailbox_full.get(), 6);
}

#[actix::test]
async fn an_idle_actor_is_stopped_only_when_it_holds_nothing_and_its_counts_stay() {
    let board = board();
    let (made, seen) = (Arc::<AtomicUsize>::default(), Seen::default());
    let factory = {
        let (made, seen) = (made.clone(), seen.clone());
        move |levels: &topics::pattern::Params| {
            assert_eq!(levels.get("device_id"), Some("a"));
            made.fetch_add(1, SeqCst);
            Keeper {
                seen: seen.clone(),
                ticks: true,
                ..Keeper::default()
            }
        }
    };
    Hub::new(board.clone())
        .bind_each::<Telemetry, _>(
            "t/{device_id}",
            mailbox(4, Overflow::Reject),
            Duration::from_millis(100),
            factory,
        )
        .await
        .unwrap();
    assert_eq!(only_topic(&board).await.actors, 0);
    assert_eq!(publish(&board, "t/a", r#"{"celsius": 1}"#).await, Routed::To(1));
    until(async || seen.lock().unwrap().len() == 1).await;
    // It holds a message, and so it is not idle, however long it hears nothing.
    actix_rt::time::sleep(Duration::from_millis(400)).await;
    let row = only_topic(&board).await;
    assert_eq!((row.actors, row.depth, row.messages_in), (1, 1, 1));
    assert_eq!(
        publish(&board, "t/a", r#"{"celsius": -300}"#).await,
        Routed::To(1)
    );
    // Stopped by itself, it is made again at the next message.
    until(async || {
        publish(&board, "t/a", "{\"celsius\": 2}").await == Routed::To(1) && made.load(SeqCst) == 2
    })
    .await;
    assert_eq!(publish(&board, "t/a", "garbage").await, Routed::Malformed);
    assert_eq!(only_topic(&board).await.malformed, 1);
}

#[actix::test]
async fn what_comes_while_idle_actors_go_is_never_lost() {
    let board = board();
    let (made, seen) = (Arc::<AtomicUsize>::default(), Seen::default());
    let factory = {
        let (made, seen) = (made.clone(), seen.clone());
        move |_: &topics::pattern::Params| {
            made.fetch_add(1, SeqCst);
            Reader(seen.clone())
        }
    };
    let idle = Duration::from_millis(20);
    Hub::new(board.clone())
        .bind_each::<Telemetry, _>("t/{device_id}", mailbox(4, Overflow::Reject), idle, factory)
        .await
        .unwrap();
    let mut sent = 0;
    while made.load(SeqCst) < 5 {
        assert_eq!(publish(&board, "t/a", r#"{"celsius": 1}"#).await, Routed::To(1));
        sent += 1;
        let pause = if sent % 10 == 0 { 150 } else { 1 };
        actix_rt::time::sleep(Duration::from_millis(pause)).await;
    }
    until(async || seen.lock().unwrap().len() == sent).await;
    until(async || only_topic(&board).await.actors == 0).await;
    assert_eq!(only_topic(&board).await.messages_in, sent as u64);
}

#[actix::test]
async fn the_owner_of_a_topic_that_stopped_is_told_of_and_may_be_replaced() {
    let board = board();
    let hub = Hub::new(board.clone());
    let payload = |celsius: f64| format!(r#"{{"device_id": "x", "celsius": {celsius}}}"#);
    for topic in ["t", "p/{device_id}"] {
        let keeper = Keeper::default().start();
        hub.bind(topic, mailbox(4, Overflow::Reject), &keeper)
            .await
            .unwrap();
        let concrete = topic.replace("{device_id}", "x");
        publish(&board, &concrete, &payload(-300.0)).await;
        until(async || !keeper.connected()).await;
        let routed = publish(&board, &concrete, &payload(1.0)).await;
        assert_eq!(routed, Routed::Gone);
        assert!(routed.reason().is_error());
        let row = topics(&board).await.topics.remove(0);
        assert_eq!((row.actors, row.gone), (0, 1), "{row:?}");
        let seen = Seen::default();
        let reader = Reader(seen.clone()).start();
        hub.bind(topic, mailbox(4, Overflow::Reject), &reader)
            .await
            .unwrap();
        assert_eq!(publish(&board, &concrete, &payload(1.0)).await, Routed::To(1));
        until(async || seen.lock().unwrap().len() == 1).await;
    }
}

#[actix::test]
async fn bindings_that_cannot_work_are_refused_with_what_to_change() {
    let board = board();
    let hub = Hub::new(board.clone());
    let reader = Reader(Seen::default()).start();
    let room = mailbox(4, Overflow::Reject);
    let says = |result: Result<(), BindError>, parts: &[&str]| {
        let error = result.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    };
    says(
        hub.bind("clawdbot/{divice_id}/t", room, &reader).await,
        &["divice_id", "Telemetry", "device_id, celsius"],
    );
    says(
        hub.bind("t", mailbox(0, Overflow::Reject), &reader).await,
        &["Reader", "bound of 0"],
    );
    says(
        hub.bind("a/+/b", room, &reader).await,
        &["wildcard", "name the level"],
    );
    hub.bind("a/{device_id}", room, &reader).await.unwrap();
    for taken in ["a/{device_id}", "a/b"] {
        says(hub.bind(taken, room, &reader).await, &[taken, "Reader"]);
    }
    says(
        hub.bind_each::<Telemetry, _>("{device_id}/b", room, LONG, |_| Reader(Seen::default()))
            .await,
        &["{device_id}/b", "Reader"],
    );
    assert_eq!(topics(&board).await.total, 1);
}

#[actix::test]
async fn a_factory_that_panics_takes_nobody_along() {
    let board = board();
    Hub::new(board.clone())
        .bind_each::<Telemetry, _>("t/{device_id}", mailbox(4, Overflow::Reject), LONG, |levels| {
            assert_ne!(levels.get("device_id"), Some("bad"));
            Reader(Seen::default())
        })
        .await
        .unwrap();
    assert!(
        publish(&board, "t/bad", r#"{"celsius": 1}"#)
            .await
            .reason()
            .is_error()
    );
    assert_eq!(
        publish(&board, "t/good", r#"{"celsius": 1}"#).await,
        Routed::To(1)
    );
}

#[actix::test]
async fn a_published_value_fills_the_levels_and_the_payload() {
    let board = board();
    let hub = Hub::new(board.clone());
    let written = sink(&hub, &["clawdbot/{device_id}/telemetry", "plain", "whole"]).await;
    let value = Telemetry {
        device_id: "attic".into(),
        celsius: 21.0,
    };
    hub.publish("clawdbot/{device_id}/telemetry", &value).unwrap();
    hub.publish("plain", &value.celsius).unwrap();
    let options = PublishOptions {
        qos: QoS::AtMostOnce,
        retain: true,
        ..PublishOptions::default()
    };
    hub.publish_with("whole", &value, options.clone()).unwrap();
    hub.publish_with("kept", &value, options).unwrap();
    until(async || written.lock().unwrap().len() == 3).await;
    let row = |topic: &str, payload: &str, qos| (topic.to_owned(), payload.to_owned(), None, qos);
    assert_eq!(
        *written.lock().unwrap(),
        [
            row(
                "clawdbot/attic/telemetry",
                r#"{"celsius":21.0}"#,
                QoS::AtLeastOnce
            ),
            row("plain", "21.0", QoS::AtLeastOnce),
            row(
                "whole",
                r#"{"device_id":"attic","celsius":21.0}"#,
                QoS::AtMostOnce
            ),
        ]
    );
    assert_eq!(board.retained_len(), 1);
    let error = hub.publish("x/{room}", &value).unwrap_err();
    assert!(error.to_string().contains("`room`"), "{error}");
    assert!(matches!(hub.publish("x/+", &value), Err(PublishError::Topic(_))));
    let wild = Telemetry {
        device_id: "a/b".into(),
        celsius: 1.0,
    };
    assert!(matches!(
        hub.publish("x/{device_id}", &wild),
        Err(PublishError::Level(_))
    ));
}

#[actix::test]
async fn an_actor_that_publishes_is_told_when_the_owner_refuses() {
    let board = board();
    let hub = Hub::new(board.clone());
    let keeper = Keeper::default().start();
    hub.bind("t", mailbox(1, Overflow::Reject), &keeper)
        .await
        .unwrap();
    let value = Telemetry {
        device_id: "x".into(),
        celsius: 1.0,
    };
    hub.publish("t", &value).unwrap();
    let error = hub.publish("t", &value).unwrap_err().to_string();
    assert!(error.contains("Quota exceeded"), "{error}");
    keeper.send(LetGo).await.unwrap();
    let error = hub.publish("t", &1).unwrap_err().to_string();
    assert!(error.contains("Payload format invalid"), "{error}");
}

/// Answers what it is asked, with whatever came of it.
struct Answering(Arc<Mutex<Vec<String>>>);

impl Actor for Answering {
    type Context = Context<Self>;
}

impl Handler<Received<u32>> for Answering {
    type Result = ();

    fn handle(&mut self, number: Received<u32>, _: &mut Self::Context) {
        let outcome = match number.reply(&(*number + 1)) {
            Ok(()) => "answered".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(number.publisher().client_id, "asker");
        assert_eq!(number.topic().as_str(), "ask");
        self.0.lock().unwrap().push(outcome);
    }
}

#[actix::test]
async fn a_reply_goes_where_the_publisher_may_write_and_into_no_mailbox() {
    let board = board();
    let hub = Hub::new(board.clone());
    let outcomes = Arc::<Mutex<Vec<String>>>::default();
    let answering = Answering(outcomes.clone()).start();
    hub.bind("ask", mailbox(4, Overflow::Reject), &answering)
        .await
        .unwrap();
    let written = sink(&hub, &["clawdbot/me/owned"]).await;
    let from = Arc::new(Publisher {
        client_id: "asker".into(),
        device_id: None,
        rules: Arc::new(AccessRules::device_default(&"me".parse().unwrap())),
    });
    for response_topic in [
        Some("clawdbot/me/answer"),
        Some("clawdbot/you/answer"),
        Some("clawdbot/me/owned"),
        None,
    ] {
        let mut message = message("ask", "41");
        message.properties = Some(Box::new(PublishProperties {
            response_topic: response_topic.map(Into::into),
            correlation_data: Some("7".into()),
            ..PublishProperties::default()
        }));
        board.route(&Arc::new(message), &from);
    }
    until(async || outcomes.lock().unwrap().len() == 4).await;
    let outcomes = outcomes.lock().unwrap().clone();
    assert_eq!(outcomes[0], "answered");
    assert!(outcomes[1].contains("clawdbot/you/answer"), "{outcomes:?}");
    assert!(outcomes[2].contains("not the publisher's to use"), "{outcomes:?}");
    assert!(outcomes[3].contains("no Response Topic"), "{outcomes:?}");
    assert!(written.lock().unwrap().is_empty());
}

#[actix::test]
async fn thousands_of_topics_are_listed_by_the_page_and_a_thousand_actors_in_one_row() {
    let board = board();
    let hub = Hub::new(board.clone());
    let written = Written::default();
    let raw = Sink(written.clone()).start();
    let room = mailbox(4, Overflow::Reject);
    for k in 0..2500 {
        hub.bind_raw(&format!("many/{k}"), room, &raw).await.unwrap();
    }
    hub.bind_each::<Telemetry, _>("each/{device_id}", room, LONG, |_| Reader(Seen::default()))
        .await
        .unwrap();
    for k in 0..1000 {
        publish(&board, &format!("each/{k}"), r#"{"celsius": 1}"#).await;
    }
    publish(&board, "many/7", "12345").await;
    let mut names = Vec::new();
    let (mut after, mut pages) = (None, 0);
    loop {
        let ask = ListTopics {
            limit: 5000,
            after: after.take(),
        };
        let page = board.router().send(ask).await.unwrap();
        assert_eq!(page.total, 2501);
        assert!(page.topics.len() <= 1000);
        pages += 1;
        names.extend(
            page.topics
                .into_iter()
                .map(|row| (row.topic, row.actors, row.messages_in)),
        );
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!((pages, names.len()), (3, 2501));
    assert!(names.is_sorted());
    assert_eq!(names[0], ("each/{device_id}".to_owned(), 1000, 1000));
    assert!(names.contains(&("many/7".to_owned(), 1, 1)));
    until(async || written.lock().unwrap().len() == 1).await;
}

//! What it costs to find a topic's subscribers: exactly one among 10,000, through wildcards, and 50 of one
//! topic. This is paid once a message, by the publishing session, on a snapshot of the tree. And what it costs to
//! judge a publication by the access rules, with few and many of them, anew and as a session keeps its judgements.

#![allow(
    clippy::expect_used,
    reason = "a bench that cannot make its fixture should stop at once"
)]

use std::hint::black_box;

use bytestring::ByteString;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use topics::access::{AccessPolicy, AccessRules, AclEntry, Action, Judgements, Permission, Substitutions};
use topics::filter::TopicFilter;
use topics::name::TopicName;
use topics::subscriptions::SubscriptionTree;

const DEVICES: u32 = 10_000;

type Tree = SubscriptionTree<u32, u8>;

fn filter(text: String) -> TopicFilter {
    TopicFilter::parse(ByteString::from(text)).expect("a filter")
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(ByteString::from(text)).expect("a topic")
}

fn subscribers(tree: &Tree, topic: &TopicName) -> usize {
    let mut found = 0;
    tree.matches(topic, &mut |key, value| {
        black_box((key, value));
        found += 1;
    });
    found
}

/// One subscription a device, as `clawdbot/{device_id}/reply`.
fn exact_tree() -> Tree {
    let mut tree = Tree::new();
    for device in 0..DEVICES {
        tree.insert(&filter(format!("clawdbot/device{device}/reply")), device, 0);
    }
    tree
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("routing");

    let exact = exact_tree();
    let reply = topic("clawdbot/device7777/reply");
    assert_eq!(subscribers(&exact, &reply), 1);
    group.bench_function("exact among 10,000", |b| {
        b.iter(|| subscribers(&exact, black_box(&reply)))
    });
    let nobody = topic("clawdbot/device7777/command");
    assert_eq!(subscribers(&exact, &nobody), 0);
    group.bench_function("nobody among 10,000", |b| {
        b.iter(|| subscribers(&exact, black_box(&nobody)))
    });

    let mut wild = exact_tree();
    for (key, text) in ["clawdbot/+/reply", "clawdbot/#", "+/+/reply", "#"]
        .into_iter()
        .enumerate()
    {
        wild.insert(&filter(text.to_owned()), DEVICES + key as u32, 0);
    }
    assert_eq!(subscribers(&wild, &reply), 5);
    group.bench_function("4 wildcards and 1 exact among 10,000", |b| {
        b.iter(|| subscribers(&wild, black_box(&reply)));
    });

    let mut fan_out = exact_tree();
    for subscriber in 0..50 {
        fan_out.insert(&filter("clawdbot/mobile/event".to_owned()), subscriber, 0);
    }
    let event = topic("clawdbot/mobile/event");
    assert_eq!(subscribers(&fan_out, &event), 50);
    group.throughput(Throughput::Elements(50));
    group.bench_function("fan-out to 50", |b| {
        b.iter(|| subscribers(&fan_out, black_box(&event)))
    });
    group.finish();
}

/// The router's side: a change copies only the way to it.
fn changes(c: &mut Criterion) {
    let tree = exact_tree();
    let filter = filter("clawdbot/device7777/reply".to_owned());
    c.bench_function("routing/subscribe and publish a snapshot among 10,000", |b| {
        b.iter(|| {
            let mut next = tree.clone();
            next.insert(black_box(&filter), DEVICES, 0);
            next
        });
    });
}

/// So many rules of a token, of one room each, and the default one behind them.
fn rules(of_the_token: usize) -> AccessRules {
    let entries: Vec<AclEntry> = (0..of_the_token)
        .map(|room| AclEntry {
            permission: Permission::Allow,
            action: Action::All,
            topic: format!("clawdbot/room{room}/+/status"),
            qos: None,
            retain: None,
        })
        .collect();
    let device_id = "phone".parse().expect("a device id");
    let client = Substitutions {
        client_id: "phone_1",
        username: None,
        device_id: &device_id,
    };
    AccessRules::for_client(&AccessPolicy::default(), &entries, &client).expect("rules")
}

/// A message at QoS 1 that is allowed, as a session judges it.
fn judge(rules: &AccessRules, kept: &mut Judgements, topic: &TopicName) -> bool {
    if kept.know(topic, 1, false) {
        return true;
    }
    let allowed = rules.may_publish(topic, 1, false).is_allowed();
    if allowed {
        kept.remember(rules, topic, 1, false);
    }
    allowed
}

fn access(c: &mut Criterion) {
    let mut group = c.benchmark_group("access");
    for (name, of_the_token) in [
        ("the default rule", 0),
        ("9 rules", 8),
        ("20 rules", 19),
        ("256 rules", 255),
    ] {
        let rules = rules(of_the_token);
        // Under the last rule, after all others were asked.
        let own = topic("clawdbot/phone/lamp/status");
        group.bench_function(format!("{name}, judged anew, the last applies"), |b| {
            b.iter(|| rules.may_publish(black_box(&own), 1, false).is_allowed());
        });
        let topics: Vec<TopicName> = (0..32)
            .map(|number| match of_the_token {
                0 => topic(&format!("clawdbot/phone/lamp{number}/status")),
                rooms => topic(&format!(
                    "clawdbot/room{}/lamp{number}/status",
                    number * 7 % rooms
                )),
            })
            .collect();
        let mut turn = topics.iter().cycle();
        group.bench_function(format!("{name}, judged anew, 32 topics in turn"), |b| {
            b.iter(|| {
                turn.next()
                    .map(|topic| rules.may_publish(topic, 1, false).is_allowed())
            });
        });
        let mut kept = Judgements::default();
        group.bench_function(format!("{name}, kept, 32 topics in turn"), |b| {
            b.iter(|| turn.next().map(|topic| judge(&rules, &mut kept, topic)));
        });
        group.bench_function(format!("{name}, kept, the same topic"), |b| {
            b.iter(|| judge(&rules, &mut kept, black_box(&own)));
        });
    }
    group.finish();
}

criterion_group!(routing, lookups, changes, access);
criterion_main!(routing);

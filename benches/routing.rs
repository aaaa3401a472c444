//! What it costs to find a topic's subscribers: exactly one among 10,000, through wildcards, and 50 of one
//! topic. This is paid once a message, by the publishing session, on a snapshot of the tree.

#![allow(
    clippy::expect_used,
    reason = "a bench that cannot make its fixture should stop at once"
)]

use std::hint::black_box;

use bytestring::ByteString;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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

criterion_group!(routing, lookups, changes);
criterion_main!(routing);

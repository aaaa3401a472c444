//! What becomes of a message that was brought: in which order it is acknowledged, when it is begun again,
//! and when no more.

use topics::name::TopicName;
use topics::packet::QoS;

use super::*;

fn ask(text: &'static str) -> Arc<Message> {
    let topic = TopicName::parse("clawdbot/phone/command".into()).unwrap();
    Arc::new(Message::new(topic, text, QoS::AtLeastOnce))
}

/// A message that is work.
fn work(requests: &mut Requests, packet_id: u16, dup: bool, text: &'static str) -> u64 {
    match requests.received(packet_id, dup, &ask(text)) {
        Arrival::Work(key) => key,
        other => panic!("{other:?} instead of work"),
    }
}

fn done(requests: &mut Requests, key: u64) {
    requests.ended(key, Ending::Paid, 0);
}

fn acknowledged(requests: &mut Requests) -> Vec<u16> {
    std::iter::from_fn(|| requests.acknowledge(0)).collect()
}

#[test]
fn acknowledgements_keep_the_order_of_the_requests() {
    let mut requests = Requests::default();
    let keys: Vec<_> = (1..=3).map(|id| work(&mut requests, id, false, "x")).collect();
    done(&mut requests, keys[1]);
    assert_eq!(acknowledged(&mut requests), [0u16; 0]);
    done(&mut requests, keys[0]);
    assert_eq!(acknowledged(&mut requests), [1, 2]);
    done(&mut requests, keys[2]);
    assert_eq!(acknowledged(&mut requests), [3]);
    assert_eq!(requests.unacknowledged(), 0);
}

#[test]
fn a_message_is_acknowledged_when_the_broker_has_what_was_published_for_it() {
    let mut requests = Requests::default();
    let first = work(&mut requests, 1, false, "x");
    let second = work(&mut requests, 2, false, "y");
    requests.ended(first, Ending::Paid, 7);
    requests.ended(second, Ending::Paid, 9);
    assert_eq!(requests.acknowledge(6), None);
    assert_eq!(requests.acknowledge(7), Some(1));
    assert_eq!(requests.acknowledge(8), None);
    assert_eq!(requests.acknowledge(u64::MAX), Some(2));
}

#[test]
fn what_comes_again_while_it_is_in_work_is_not_begun_twice() {
    let mut requests = Requests::default();
    let slow = work(&mut requests, 1, false, "slow");
    let quick = work(&mut requests, 2, false, "quick");
    done(&mut requests, quick);
    requests.connection_lost();
    assert_eq!(requests.received(1, true, &ask("slow")), Arrival::Known);
    assert_eq!(requests.received(2, true, &ask("quick")), Arrival::Known);
    done(&mut requests, slow);
    assert_eq!(acknowledged(&mut requests), [1, 2]);
}

#[test]
fn what_was_done_while_the_broker_was_away_is_not_begun_again() {
    let mut requests = Requests::default();
    let key = work(&mut requests, 1, false, "x");
    requests.connection_lost();
    done(&mut requests, key);
    assert_eq!(acknowledged(&mut requests), [0u16; 0]);
    assert_eq!(requests.received(1, true, &ask("x")), Arrival::Known);
    assert_eq!(acknowledged(&mut requests), [1]);
}

#[test]
fn the_same_words_asked_anew_are_another_request() {
    let mut requests = Requests::default();
    work(&mut requests, 1, false, "x");
    requests.connection_lost();
    work(&mut requests, 1, false, "x");
    work(&mut requests, 2, true, "x");
    assert_eq!(requests.in_work(), 3, "not a duplicate, and another packet");
}

#[test]
fn two_alike_that_come_again_are_each_known_once() {
    let mut requests = Requests::default();
    work(&mut requests, 1, false, "x");
    requests.connection_lost();
    assert_eq!(requests.received(1, true, &ask("x")), Arrival::Known);
    // A broker would not do it; nothing is lost if one does.
    work(&mut requests, 1, true, "x");
}

#[test]
fn what_was_given_up_is_begun_again_with_the_next_connection() {
    let mut requests = Requests::default();
    let first = work(&mut requests, 1, false, "x");
    requests.ended(first, Ending::Dropped, 0);
    assert_eq!((requests.given_up(), requests.in_work()), (1, 0));
    assert_eq!(acknowledged(&mut requests), [0u16; 0]);
    requests.connection_lost();
    assert_eq!(requests.given_up(), 0, "it has to come again first");
    let second = work(&mut requests, 1, true, "x");
    done(&mut requests, second);
    assert_eq!(acknowledged(&mut requests), [1]);
}

#[test]
fn what_was_given_up_while_the_broker_was_away_is_begun_again_when_it_comes() {
    let mut requests = Requests::default();
    let first = work(&mut requests, 1, false, "x");
    requests.connection_lost();
    requests.ended(first, Ending::Dropped, 0);
    assert_eq!((requests.given_up(), requests.unacknowledged()), (0, 0));
    work(&mut requests, 1, true, "x");
}

#[test]
fn a_message_that_ends_its_actor_again_and_again_is_taken_off_the_brokers_hands() {
    let mut requests = Requests::default();
    let mut dup = false;
    for _ in 0..MAX_FAILURES {
        let key = work(&mut requests, 1, dup, "poison");
        // What only shared its mailbox is innocent, however often.
        let other = work(&mut requests, 2, dup, "innocent");
        requests.ended(key, Ending::Failed, 0);
        requests.ended(other, Ending::Dropped, 0);
        requests.connection_lost();
        dup = true;
    }
    assert_eq!(requests.received(1, true, &ask("poison")), Arrival::Hopeless);
    assert_eq!(acknowledged(&mut requests), [1]);
    work(&mut requests, 2, true, "innocent");
}

#[test]
fn an_answer_to_a_session_that_is_gone_acknowledges_nothing() {
    let mut requests = Requests::default();
    let key = work(&mut requests, 1, false, "x");
    requests.session_lost();
    work(&mut requests, 1, false, "y");
    done(&mut requests, key);
    assert_eq!(acknowledged(&mut requests), [0u16; 0]);
}

#[test]
fn what_the_broker_gave_to_others_is_forgotten_in_the_end() {
    let mut requests = Requests::default();
    let key = work(&mut requests, 1, false, "x");
    requests.connection_lost();
    done(&mut requests, key);
    assert_eq!(requests.unacknowledged(), 0);
    requests.connection_lost();
    assert!(requests.entries.is_empty());
}

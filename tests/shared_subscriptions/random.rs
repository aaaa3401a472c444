//! Members that come, go, are lost and unsubscribe at random, with tiny queues, against the real daemon: in the
//! end every copy of a message is accounted for, and at QoS 2 none came twice, to whichever member.
//!
//!   `SHARES_SEED`  plays this seed alone

use std::collections::BTreeMap;

use crate::support::daemon::Daemon;
use crate::support::random::{self, Random};
use crate::support::raw::{RawClient, packet, text};
use crate::support::wait_for;

const ROUNDS: u64 = 8;
const STEPS: usize = 400;
const MEMBERS: usize = 5;
/// Each message is for one group, or for whoever wants it.
const FILTERS: [&str; 4] = ["$share/g/s/+", "$share/h/z", "$share/g/s/+", "t"];
const TOPICS: [&str; 4] = ["s/a", "s/b", "z", "t"];

/// A burst is more than an outbox holds.
const BURST: usize = 80;

#[test]
fn random_members_leave_every_copy_accounted_for() {
    let first = random::seed("SHARES_SEED");
    let rounds = if random::number("SHARES_SEED").is_some() {
        1
    } else {
        ROUNDS
    };
    for seed in first..first + rounds {
        println!("SHARES_SEED={seed}");
        let daemon = Daemon::launch()
            .set("auth.mode", "none")
            .set("mqtt.session_threads", 2)
            .set("mqtt.max_queued_messages", 10)
            .set("mqtt.max_inflight", 4)
            .start();
        let mut house = House::new(&daemon, seed);
        for _ in 0..STEPS {
            house.step();
        }
        house.settle();
        house.check_received();
    }
}

struct House<'a> {
    daemon: &'a Daemon,
    random: Random,
    members: Vec<Member>,
    publisher: RawClient,
    published: usize,
    /// At which QoS the copies of messages came, in that order: by number, and by member where the copy was for
    /// nobody else.
    received: BTreeMap<(usize, Option<usize>), Vec<u8>>,
}

#[derive(Default)]
struct Member {
    connection: Option<RawClient>,
    /// Received at QoS 2 and not released.
    held: Vec<[u8; 2]>,
}

impl<'a> House<'a> {
    fn new(daemon: &'a Daemon, seed: u64) -> Self {
        Self {
            daemon,
            random: Random::new(seed),
            members: (0..MEMBERS).map(|_| Member::default()).collect(),
            publisher: open(daemon, "publisher", true).0,
            published: 0,
            received: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let at = self.random.below(MEMBERS);
        match self.random.below(16) {
            0..=3 => self.publish(1),
            4 if self.random.one_in(4) => self.publish(BURST),
            5 | 6 => self.connect(at, false),
            7 if self.random.one_in(3) => self.connect(at, true),
            8 => self.say(at, 0x82),
            9 if self.random.one_in(2) => self.say(at, 0xA2),
            10 => self.members[at].connection = None,
            11 => {
                if let Some(mut connection) = self.members[at].connection.take() {
                    connection.send(&[0xE0, 0]);
                }
            }
            12 if self.random.one_in(4) => {
                self.members
                    .iter_mut()
                    .for_each(|member| member.connection = None);
            }
            _ => self.read(at, 6),
        }
    }

    fn publish(&mut self, count: usize) {
        for _ in 0..count {
            let qos = self.random.below(3) as u8;
            let topic = self.random.pick(&TOPICS);
            let id: &[u8] = if qos > 0 { &[0, 9] } else { &[] };
            let payload = self.published.to_string();
            self.published += 1;
            let body = [&text(topic.as_bytes())[..], id, payload.as_bytes()].concat();
            self.publisher.send(&packet(0x30 | qos << 1, &body));
            match qos {
                0 => {}
                1 => assert_eq!(self.publisher.packet().expect("a PUBACK"), [0x40, 2, 0, 9]),
                _ => {
                    assert_eq!(self.publisher.packet().expect("a PUBREC"), [0x50, 2, 0, 9]);
                    self.publisher.send(&[0x62, 2, 0, 9]);
                    assert_eq!(self.publisher.packet().expect("a PUBCOMP"), [0x70, 2, 0, 9]);
                }
            }
        }
    }

    /// Also while it is connected: then it takes its session over.
    fn connect(&mut self, at: usize, clean: bool) {
        let (connection, is_present) = open(self.daemon, &format!("member {at}"), clean);
        if !is_present {
            self.members[at].held.clear();
        }
        self.members[at].connection = Some(connection);
    }

    /// SUBSCRIBE or UNSUBSCRIBE; what comes before the answer, and the answer, are read some other time.
    fn say(&mut self, at: usize, first: u8) {
        let filter = self.random.pick(&FILTERS);
        let qos = [self.random.below(3) as u8];
        let options: &[u8] = if first == 0x82 { &qos } else { &[] };
        let body = [&[0, 3][..], &text(filter.as_bytes()), options].concat();
        if let Some(connection) = &mut self.members[at].connection {
            connection.send(&packet(first, &body));
        }
    }

    /// A member reads all that is there, and leaves one of so many messages without an answer until its next
    /// connection.
    fn read(&mut self, at: usize, unanswered_one_in: usize) {
        let Some(mut connection) = self.members[at].connection.take() else {
            return;
        };
        connection.send(&[0xC0, 0]);
        loop {
            let packet = connection.packet().expect("the daemon stays");
            match packet[0] >> 4 {
                3 => {
                    let answers = unanswered_one_in == 0 || !self.random.one_in(unanswered_one_in);
                    self.hear(at, &packet, answers.then_some(&mut connection));
                }
                6 => {
                    let id = [packet[2], packet[3]];
                    self.members[at].held.retain(|held| *held != id);
                    connection.send(&[0x70, 2, id[0], id[1]]);
                }
                13 => break,
                _ => {}
            }
        }
        self.members[at].connection = Some(connection);
    }

    fn hear(&mut self, at: usize, packet: &[u8], answer_to: Option<&mut RawClient>) {
        let qos = packet[0] >> 1 & 3;
        let (topic, rest) = packet[4..].split_at(usize::from(packet[3]));
        let id_bytes = if qos > 0 { 2 } else { 0 };
        let payload = str::from_utf8(&rest[id_bytes..]).expect("text");
        let number = payload.parse().expect("a number");
        let mut is_new = true;
        if qos > 0 {
            let id = [rest[0], rest[1]];
            if qos == 2 {
                is_new = !self.members[at].held.contains(&id);
                self.members[at].held.extend(is_new.then_some(id));
            }
            if let Some(connection) = answer_to {
                connection.send(&[if qos == 2 { 0x50 } else { 0x40 }, 2, id[0], id[1]]);
            }
        }
        if is_new {
            let receiver = (topic == b"t").then_some(at);
            self.received.entry((number, receiver)).or_default().push(qos);
        }
    }

    /// Everybody comes back and answers everything.
    fn settle(&mut self) {
        for at in 0..MEMBERS {
            self.connect(at, false);
        }
        wait_for("nothing to wait any more", || {
            (0..MEMBERS).for_each(|at| self.read(at, 0));
            (self.daemon.metric("clawdbot_mqtt_deliveries_waiting") == Some(0.0)).then_some(())
        });
    }

    /// What comes once more, to whomever, was sent at QoS 1 before.
    fn check_received(&self) {
        for ((number, receiver), came) in &self.received {
            let (_, before) = came.split_last().expect("it came");
            assert!(
                before.iter().all(|qos| *qos == 1),
                "{number} came at {came:?} to {receiver:?} or the group"
            );
        }
    }
}

/// A client of 3.1.1, and whether its session was there.
fn open(daemon: &Daemon, name: &str, clean: bool) -> (RawClient, bool) {
    let mut client = RawClient::open(daemon.mqtt);
    let body = [
        &text(b"MQTT")[..],
        &[4, u8::from(clean) << 1, 0, 0],
        &text(name.as_bytes()),
    ];
    client.send(&packet(0x10, &body.concat()));
    let connack = client.packet().expect("a CONNACK");
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    (client, connack[2] == 1)
}

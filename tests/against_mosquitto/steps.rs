//! What may happen: random steps of a few clients. A step that its client cannot take at that moment is
//! left out by whoever plays it, so that any part of a list of steps is legal traffic too.

use topics::packet::{ProtocolVersion, QoS, RetainHandling};

use crate::support::random::Random;

/// The clients that come and go, by their place; each speaks one version for as long as it lives.
pub(crate) const CLIENTS: usize = 5;

/// Members of shared subscriptions come after them: they stay connected, and which of them has a message
/// is the broker's choice.
pub(crate) const MEMBERS: usize = 3;

pub(crate) fn version_of(client: usize) -> ProtocolVersion {
    match client {
        1 | 3 => ProtocolVersion::V311,
        _ => ProtocolVersion::V5,
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Connect {
        client: usize,
        how: Connecting,
    },
    /// While the older connection is still there.
    TakeOver {
        client: usize,
        how: Connecting,
    },
    Disconnect {
        client: usize,
        /// [MQTT5 3.14.2.2.2]
        expiry_s: Option<u32>,
        /// Reason 0x04: the will is published although the client says goodbye.
        with_will: bool,
    },
    /// The connection ends without a goodbye.
    Lose {
        client: usize,
    },
    Subscribe {
        client: usize,
        identifier: Option<u32>,
        filters: Vec<Filter>,
    },
    Unsubscribe {
        client: usize,
        filters: Vec<&'static str>,
    },
    Publish {
        client: usize,
        what: Publication,
    },
    /// The first acknowledgement comes, but the client loses its connection before it reads it, and says
    /// all of it again on its next one.
    PublishTwice {
        client: usize,
        what: Publication,
    },
    /// What the client receives it acknowledges no more, or no more to the end.
    FallSilent {
        client: usize,
        silence: Silence,
    },
    /// It acknowledges what it owes, and from now on everything.
    SpeakAgain {
        client: usize,
    },
    Join {
        member: usize,
        group: &'static str,
        filter: &'static str,
    },
    Part {
        member: usize,
        group: &'static str,
        filter: &'static str,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Connecting {
    pub(crate) clean_start: bool,
    /// MQTT 5 only.
    pub(crate) expiry_s: u32,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) will: Option<Publication>,
}

#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) filter: &'static str,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
}

#[derive(Clone, Debug)]
pub(crate) struct Publication {
    /// A will goes to its client's own topic instead.
    pub(crate) topic: &'static str,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) is_empty: bool,
    /// Which properties, as bits.
    pub(crate) properties: usize,
    pub(crate) by_alias: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    Complete,
    /// PUBREC is said, and neither PUBACK nor PUBCOMP.
    AfterReceived,
}

const TOPICS: [&str; 12] = [
    "a", "a/b", "a/b/c", "a/b/d", "a/c", "b", "b/b/c", "/a", "a/", "a//b", "$d/e", "ä/€",
];

const FILTERS: [&str; 20] = [
    "a", "a/b", "a/b/c", "b", "#", "+", "a/#", "a/+", "a/+/c", "+/b/c", "+/b/#", "a/b/#", "+/+", "/+", "a/",
    "a//b", "a/+/+", "$d/#", "$d/+", "ä/+",
];

/// Only members subscribe to these, but for those who want all there is.
pub(crate) const SHARED_TOPICS: [&str; 2] = ["s/1", "s/2"];
const SHARED_FILTERS: [&str; 3] = ["s/+", "s/1", "s/#"];
const GROUPS: [&str; 2] = ["one", "two"];

/// So many steps of a seed.
pub(crate) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    (0..count).map(|_| step(&mut random)).collect()
}

fn step(random: &mut Random) -> Step {
    let client = random.below(CLIENTS);
    match random.below(100) {
        0..=15 => Step::Connect {
            client,
            how: connecting(random),
        },
        16..=18 => Step::TakeOver {
            client,
            how: connecting(random),
        },
        19..=22 => Step::Disconnect {
            client,
            expiry_s: random.one_in(4).then(|| random.pick(&[0, 900])),
            with_will: random.one_in(3),
        },
        23..=26 => Step::Lose { client },
        27..=44 => Step::Subscribe {
            client,
            identifier: random.one_in(2).then(|| 1 + random.below(300) as u32),
            filters: (0..1 + random.below(2)).map(|_| filter(random)).collect(),
        },
        45..=52 => Step::Unsubscribe {
            client,
            filters: (0..1 + random.below(2)).map(|_| random.pick(&FILTERS)).collect(),
        },
        53..=84 => Step::Publish {
            client,
            what: publication(random),
        },
        85..=88 => Step::PublishTwice {
            client,
            what: publication(random),
        },
        89..=91 => Step::FallSilent {
            client,
            silence: random.pick(&[Silence::Complete, Silence::AfterReceived]),
        },
        92..=93 => Step::SpeakAgain { client },
        94..=96 => Step::Join {
            member: random.below(MEMBERS),
            group: random.pick(&GROUPS),
            filter: random.pick(&SHARED_FILTERS),
        },
        97 => Step::Part {
            member: random.below(MEMBERS),
            group: random.pick(&GROUPS),
            filter: random.pick(&SHARED_FILTERS),
        },
        _ => Step::Publish {
            client,
            what: Publication {
                topic: random.pick(&SHARED_TOPICS),
                // A retained message would come to members when they join, and to each of them.
                retain: false,
                ..publication(random)
            },
        },
    }
}

fn qos(random: &mut Random) -> QoS {
    random.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn connecting(random: &mut Random) -> Connecting {
    Connecting {
        clean_start: random.one_in(4),
        expiry_s: random.pick(&[0, 900, 900]),
        receive_maximum: random.one_in(4).then(|| 1 + random.below(3) as u16),
        topic_alias_maximum: random.one_in(2).then(|| 1 + random.below(4) as u16),
        will: random.one_in(2).then(|| publication(random)),
    }
}

fn filter(random: &mut Random) -> Filter {
    Filter {
        filter: random.pick(&FILTERS),
        qos: qos(random),
        no_local: random.one_in(4),
        retain_as_published: random.one_in(3),
        retain_handling: random.pick(&[
            RetainHandling::SendAtSubscribe,
            RetainHandling::SendIfNew,
            RetainHandling::DoNotSend,
        ]),
    }
}

fn publication(random: &mut Random) -> Publication {
    let retain = random.one_in(3);
    Publication {
        topic: random.pick(&TOPICS),
        qos: qos(random),
        retain,
        is_empty: retain && random.one_in(4),
        properties: random.below(64),
        by_alias: random.one_in(3),
    }
}

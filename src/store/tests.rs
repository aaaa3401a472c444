//! What was acknowledged is there after any end: a clean one, a power cut at any instant, a disk that fails.

mod disk;
mod upkeep;

use std::collections::BTreeSet;
use std::path::Path;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use actors::store::{Keeping, SessionRecord, Table};
use bytes::Bytes;
use bytestring::ByteString;
use topics::name::TopicName;
use topics::packet::QoS;
use topics::session::{Delivery, KeptSession, Stage};

use super::*;
use disk::Disk;

fn master() -> Key {
    Key::new([42; KEY_BYTES])
}

fn file(path: &Path) -> StorePlace {
    StorePlace::File(path.to_path_buf())
}

fn message(topic: &str, payload: &str) -> Arc<Message> {
    let topic = TopicName::parse(topic.to_owned().into()).unwrap();
    Arc::new(Message::new(topic, Bytes::from(payload.to_owned()), QoS::AtLeastOnce).retained())
}

fn open(path: &Path) -> (DurableStore, Vec<(String, String)>) {
    let (store, restored) = DurableStore::open(&file(path), master(), Arc::default()).unwrap();
    assert_eq!(restored.damaged, 0);
    (store, words(&restored))
}

fn words(restored: &Restored) -> Vec<(String, String)> {
    let mut words: Vec<_> = restored
        .retained
        .iter()
        .map(|message| {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.topic.to_string(), payload)
        })
        .collect();
    words.sort();
    words
}

fn word(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

fn is_durable(store: &DurableStore, ticket: Ticket) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    store.poll_durable(ticket, &mut cx).is_ready()
}

fn await_durable(store: &DurableStore, ticket: Ticket) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_durable(store, ticket) {
        assert!(Instant::now() < deadline, "{ticket:?} is not on disk");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_last_word_on_each_topic_outlives_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (store, before) = open(&path);
    assert!(before.is_empty());
    store.submit(Change::Retain(message("a", "first"))).unwrap();
    store.submit(Change::Retain(message("a", "second"))).unwrap();
    store.submit(Change::Retain(message("b", "gone"))).unwrap();
    let last = store
        .submit(Change::Forget(message("b", "").topic.clone()))
        .unwrap();
    await_durable(&store, last);
    store.submit(Change::Retain(message("c", "at the end"))).unwrap();
    drop(store);
    let (_store, after) = open(&path);
    assert_eq!(after, [word("a", "second"), word("c", "at the end")]);
}

#[test]
fn a_record_outlives_the_store_until_it_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let record = |name: &str, value: &'static str| Record {
        table: Table::Devices,
        name: name.to_owned().into(),
        value: Bytes::from_static(value.as_bytes()),
    };
    let (store, _) = open(&path);
    store.submit(Change::Put(record("phone", "old"))).unwrap();
    store.submit(Change::Put(record("phone", "new"))).unwrap();
    store.submit(Change::Put(record("lost", "tablet"))).unwrap();
    store
        .submit(Change::Remove(Table::Devices, "lost".into()))
        .unwrap();
    drop(store);
    let (_store, restored) = DurableStore::open(&file(&path), master(), Arc::default()).unwrap();
    assert!(restored.records == [record("phone", "new")]);
}

#[test]
fn the_file_is_its_owners_and_shows_nothing_of_what_is_in_it() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (store, _) = open(&path);
    let ticket = store
        .submit(Change::Retain(message("clawdbot/bedroom/window", "wide open")))
        .unwrap();
    await_durable(&store, ticket);
    drop(store);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let file = std::fs::read(&path).unwrap();
    for secret in ["bedroom", "wide open", "window"] {
        let found = file
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} can be read in the file");
    }
}

#[test]
fn another_master_key_opens_nothing_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (store, _) = open(&path);
    store.submit(Change::Retain(message("a", "kept"))).unwrap();
    drop(store);
    let other = DurableStore::open(&file(&path), Key::new([1; KEY_BYTES]), Arc::default());
    let error = other.err().unwrap().to_string();
    assert!(error.contains("master key"), "{error}");
    assert_eq!(open(&path).1, [word("a", "kept")]);
}

#[test]
fn a_second_daemon_does_not_get_the_store_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (_store, _) = open(&path);
    let second = DurableStore::open(&file(&path), master(), Arc::default());
    let error = second.err().unwrap().to_string();
    assert!(error.contains("stop the daemon"), "{error}");
}

#[test]
fn a_file_that_is_cut_short_or_no_store_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (store, _) = open(&path);
    let ticket = store.submit(Change::Retain(message("a", "kept"))).unwrap();
    await_durable(&store, ticket);
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for length in [1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let opened = DurableStore::open(&file(&path), master(), Arc::default());
        let error = opened.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("backup"), "{length} bytes: {error}");
    }
    std::fs::write(&path, "not a store at all").unwrap();
    assert!(DurableStore::open(&file(&path), master(), Arc::default()).is_err());
}

/// Seeded, so that a failure comes again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

#[test]
fn a_flipped_bit_costs_at_most_what_it_hit_and_never_gives_a_wrong_word() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (store, _) = open(&path);
    let all: Vec<_> = (0..40)
        .map(|n| word(&format!("topic/{n:02}"), &"x".repeat(200)))
        .collect();
    for (topic, payload) in &all {
        store.submit(Change::Retain(message(topic, payload))).unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut chance = Chance(0x00C0_FFEE);
    for _ in 0..60 {
        let mut damaged = whole.clone();
        let (at, bit) = (chance.below(damaged.len()), chance.below(8));
        damaged[at] ^= 1 << bit;
        std::fs::write(&path, &damaged).unwrap();
        // An error is a clear one; what comes is right.
        if let Ok((_store, restored)) = DurableStore::open(&file(&path), master(), Arc::default()) {
            for found in words(&restored) {
                assert!(all.contains(&found), "byte {at}, bit {bit}: {found:?}");
            }
        }
    }
}

/// Opens a store on a simulated disk.
fn open_on(disk: &Disk) -> Result<(DurableStore, Restored), DatabaseError> {
    let disk = disk.clone();
    let open = move || {
        redb::Builder::new()
            .set_check_integrity_on_open(true)
            .create_with_backend(disk.clone())
    };
    DurableStore::open_with(Box::new(open), master(), Arc::default())
}

#[test]
fn a_disk_that_is_full_for_a_while_is_waited_for_and_nothing_is_lost() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    let before = store.submit(Change::Retain(message("a", "before"))).unwrap();
    await_durable(&store, before);
    disk.fail(true);
    let during = store.submit(Change::Retain(message("b", "during"))).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        !is_durable(&store, during),
        "acknowledged by a disk that took nothing"
    );
    disk.fail(false);
    await_durable(&store, during);
    drop(store);
    let (_store, restored) = open_on(&disk).unwrap();
    assert_eq!(words(&restored), [word("a", "before"), word("b", "during")]);
}

#[test]
fn what_does_not_fit_any_more_is_refused() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    disk.fail(true);
    let large = "x".repeat(1024 * 1024);
    let refused = (0..100).find_map(|n| {
        store
            .submit(Change::Retain(message(&format!("t/{n}"), &large)))
            .err()
    });
    assert_eq!(refused, Some(StoreFull));
    disk.fail(false);
    let deadline = Instant::now() + Duration::from_secs(30);
    while store
        .submit(Change::Retain(message("small", "fits again")))
        .is_err()
    {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Every disk that a power cut could leave: all that was written up to some sync, and of what came after it any part.
#[test]
fn what_was_acknowledged_is_there_after_a_power_cut_at_any_instant() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    let mut acknowledged = Vec::new();
    let mut chance = Chance(7);
    for round in 0..12 {
        let mut newest = None;
        for _ in 0..=chance.below(5) {
            let topic = format!("topic/{}", chance.below(6));
            let change = if chance.below(4) == 0 {
                Change::Forget(message(&topic, "").topic.clone())
            } else {
                Change::Retain(message(
                    &topic,
                    &format!("round {round} {}", "x".repeat(chance.below(3000))),
                ))
            };
            newest = Some((store.submit(change.clone()).unwrap(), change));
            acknowledged.push((usize::MAX, change_of(&newest)));
        }
        if let Some((ticket, _)) = newest {
            await_durable(&store, ticket);
        }
        // Whatever the disk had got by now holds all of it.
        let writes = disk.writes();
        for (at, _) in acknowledged.iter_mut().filter(|(at, _)| *at == usize::MAX) {
            *at = writes;
        }
    }
    let total = disk.writes();
    drop(store);
    for cut in 0..=total {
        for tried in 0..3 {
            let left = disk.after_power_cut(cut, |n| match tried {
                0 => false,
                1 => true,
                _ => chance.below(2) == 0 || n == 0,
            });
            let restored = match open_on(&left) {
                Ok((_store, restored)) => restored,
                // Before the first commit there is no store yet.
                Err(error) => {
                    assert!(acknowledged[0].0 > cut, "cut {cut}, try {tried}: {error}");
                    continue;
                }
            };
            assert_eq!(restored.damaged, 0, "cut {cut}, try {tried}");
            let found = words(&restored);
            // Acknowledged changes hold, and of the later ones a beginning.
            let sure = acknowledged.iter().take_while(|(at, _)| *at <= cut).count();
            let possible =
                (sure..=acknowledged.len()).any(|count| state_after(&acknowledged[..count]) == found);
            assert!(
                possible,
                "cut {cut}, try {tried}: {sure} acknowledged, found {found:?}"
            );
        }
    }
}

/// What of sessions is in a store, as text that can be compared.
type Contents = BTreeSet<String>;

fn contents(restored: &Restored) -> Contents {
    let RestoredSessions {
        sessions,
        deliveries,
        received,
    } = &restored.sessions;
    let sessions = sessions.iter().map(|it| format!("session {}", it.client_id));
    let deliveries = deliveries
        .iter()
        .map(|it| format!("message {} {:?}", it.kept.id, it.stage));
    let received = received
        .iter()
        .map(|(client_id, id)| format!("received {client_id} {id}"));
    let accepted = restored.accepted.iter().map(|it| format!("accepted {}", it.id));
    sessions
        .chain(deliveries)
        .chain(received)
        .chain(accepted)
        .collect()
}

fn apply(contents: &mut Contents, change: &Change) {
    let message = |id: u64, stage: Stage| format!("message {id} {stage:?}");
    let any_stage = |contents: &mut Contents, id: u64| {
        let prefix = format!("message {id} ");
        let before = contents.len();
        contents.retain(|it| !it.starts_with(&prefix));
        contents.len() < before
    };
    match change {
        Change::Session(record) => drop(contents.insert(format!("session {}", record.client_id))),
        Change::EndSession(client_id) => drop(contents.remove(&format!("session {client_id}"))),
        Change::Keep(keeping) => drop(contents.insert(message(keeping.id, Stage::Waiting))),
        Change::Stage(id, stage) => {
            if any_stage(contents, *id) {
                contents.insert(message(*id, *stage));
            }
        }
        Change::Done { id, .. } => drop(any_stage(contents, *id)),
        Change::Accept(accepted) => drop(contents.insert(format!("accepted {}", accepted.id))),
        Change::Handled(id) => drop(contents.remove(&format!("accepted {id}"))),
        Change::Received(client_id, id) => drop(contents.insert(format!("received {client_id} {id}"))),
        Change::Released(client_id, id) => drop(contents.remove(&format!("received {client_id} {id}"))),
        _ => unreachable!("this test keeps sessions"),
    }
}

/// Something that may happen to the sessions of three clients.
fn some_change(chance: &mut Chance, store: &DurableStore, kept: &mut Vec<(u64, bool)>) -> Change {
    let client_id = ByteString::from(format!("client {}", chance.below(3)));
    let packet_id = u16::try_from(chance.below(4)).unwrap();
    match chance.below(9) {
        0 => Change::Session(Box::new(SessionRecord {
            client_id,
            device_id: None,
            session: KeptSession {
                expiry_s: u32::MAX,
                ends_at: None,
                subscriptions: Vec::new(),
                will: None,
            },
        })),
        1 => Change::EndSession(client_id),
        2 => Change::Received(client_id, packet_id),
        3 => Change::Released(client_id, packet_id),
        4 => Change::Accept(Box::new(Accepted {
            id: store.next_id(),
            message: message("a/b", "x"),
            client_id,
            device_id: None,
            may_answer: false,
            attempt: 1,
        })),
        5 | 6 if !kept.is_empty() => {
            let at = chance.below(kept.len());
            if chance.below(2) == 0 {
                let (id, staged) = kept.swap_remove(at);
                Change::Done { id, staged }
            } else {
                kept[at].1 = true;
                Change::Stage(kept[at].0, Stage::Sent(packet_id + 1))
            }
        }
        _ => {
            let id = store.next_id();
            kept.push((id, false));
            Change::Keep(Box::new(Keeping {
                id,
                client_id,
                delivery: Delivery {
                    message: message("a/b", &"x".repeat(chance.below(2000))),
                    qos: QoS::ExactlyOnce,
                    retain: false,
                    subscription_identifiers: Vec::new(),
                    share: None,
                    kept: None,
                },
            }))
        }
    }
}

#[test]
fn sessions_and_messages_are_whole_after_a_power_cut_at_any_instant() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    let (mut chance, mut kept) = (Chance(99), Vec::new());
    // Each change with the number of writes after which it was acknowledged.
    let mut changes: Vec<(usize, Change)> = Vec::new();
    for _ in 0..14 {
        let begun = changes.len();
        let mut newest = store.newest();
        {
            let _together = store.together();
            for _ in 0..=chance.below(6) {
                let change = some_change(&mut chance, &store, &mut kept);
                newest = store.submit(change.clone()).unwrap();
                changes.push((0, change));
            }
        }
        await_durable(&store, newest);
        let writes = disk.writes();
        changes[begun..].iter_mut().for_each(|(at, _)| *at = writes);
    }
    let total = disk.writes();
    drop(store);
    // What was handed in together is there together: only states between these groups may be found.
    let mut states = vec![(0, Contents::new())];
    for (at, change) in &changes {
        let mut next = states.last().unwrap().1.clone();
        apply(&mut next, change);
        states.push((*at, next));
    }
    let is_whole =
        |count: usize| count == 0 || count == changes.len() || changes[count - 1].0 != changes[count].0;
    for cut in 0..=total {
        for survives in [false, true] {
            let left = disk.after_power_cut(cut, |_| survives);
            let Ok((_store, restored)) = open_on(&left) else {
                assert!(changes[0].0 > cut, "cut {cut}");
                continue;
            };
            assert_eq!(restored.damaged, 0, "cut {cut}");
            let found = contents(&restored);
            let sure = changes.iter().take_while(|(at, _)| *at <= cut).count();
            let possible = (sure..=changes.len()).any(|count| is_whole(count) && states[count].1 == found);
            assert!(possible, "cut {cut}: {sure} acknowledged, found {found:?}");
        }
    }
}

fn change_of(submitted: &Option<(Ticket, Change)>) -> Change {
    submitted.as_ref().map(|(_, change)| change.clone()).unwrap()
}

fn state_after(changes: &[(usize, Change)]) -> Vec<(String, String)> {
    let mut state = std::collections::BTreeMap::new();
    for (_, change) in changes {
        match change {
            Change::Retain(message) => {
                let payload = String::from_utf8(message.payload.to_vec()).unwrap();
                state.insert(message.topic.to_string(), payload);
            }
            Change::Forget(topic) => {
                state.remove(&topic.to_string());
            }
            _ => unreachable!("this test retains"),
        }
    }
    state.into_iter().collect()
}

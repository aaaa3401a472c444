//! Checks find what is damaged and go on; a file that something has damaged is served as far as it can be read; the
//! master key changes as a whole or not at all.

use std::os::unix::fs::FileExt;

use super::*;
use crate::store::backend::{Batch, PageSize};
use crate::store::integrity::Progress;
use crate::store::redb_file::{Sealed, builder};
use redb::{ReadableDatabase, ReadableTable};

fn check(store: &DurableStore) -> Report {
    store.check(None, &Progress::default()).unwrap().unwrap()
}

fn filled(store: &DurableStore, count: usize) -> Vec<(String, String)> {
    let all: Vec<_> = (0..count)
        .map(|n| word(&format!("topic/{n:03}"), &"x".repeat(200)))
        .collect();
    for (topic, payload) in &all {
        store.submit(Change::Retain(message(topic, payload))).unwrap();
    }
    await_durable(store, store.newest());
    all
}

/// Changes a bit of the first value of a table, behind the back of everybody.
fn damage_first(store: &DurableStore, table: &'static str) {
    let damage = move |database: &SealedDatabase| {
        let one = PageSize { values: 1, bytes: 1 };
        let page = database.read()?.page(table, None, one)?;
        let (name, mut sealed) = page.values.into_iter().next().unwrap();
        *sealed.last_mut().unwrap() ^= 4;
        let mut batch = Batch::default();
        batch.values.insert((table, name), Some(sealed));
        database.commit(&batch)
    };
    store.writer.errand(damage).unwrap();
}

fn session(client_id: &str) -> Change {
    Change::Session(Box::new(SessionRecord {
        client_id: client_id.to_owned().into(),
        device_id: None,
        session: KeptSession {
            expiry_s: u32::MAX,
            ends_at: None,
            subscriptions: Vec::new(),
            will: None,
        },
    }))
}

fn delivery(id: u64, client_id: &str) -> Change {
    Change::Keep(Box::new(Keeping {
        id,
        client_id: client_id.to_owned().into(),
        delivery: Delivery {
            message: message("a", "on its way"),
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_identifiers: Vec::new(),
            share: None,
            kept: None,
        },
    }))
}

#[test]
fn a_sound_store_is_found_sound_and_everything_in_it_is_counted() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    filled(&store, 3000);
    store.submit(session("phone")).unwrap();
    store.submit(delivery(1, "phone")).unwrap();
    store.submit(Change::Stage(1, Stage::Sent(7))).unwrap();
    store.submit(Change::Received("phone".into(), 9)).unwrap();
    await_durable(&store, store.newest());
    let report = check(&store);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.checked_values, 3004);
    assert_eq!((report.values["retained"], report.values["stages"]), (3000, 1));
    assert_eq!(report.orphans.total(), 0);
}

#[test]
fn a_damaged_value_is_named_and_set_aside_while_the_rest_goes_on() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    let all = filled(&store, 20);
    damage_first(&store, "retained");
    let report = check(&store);
    assert_eq!((report.damaged, report.set_aside["retained"]), (1, 1), "{report}");
    assert_eq!(report.findings[0].table, "retained");
    let again = check(&store);
    assert_eq!((again.damaged, again.is_sound()), (0, false), "{again}");
    store.forget_set_aside().unwrap();
    assert!(check(&store).is_sound());
    drop(store);
    let (_store, restored) = open_on(&disk).unwrap();
    let found = words(&restored);
    assert_eq!(found.len(), 19);
    assert!(found.iter().all(|word| all.contains(word)));
}

#[test]
fn what_has_lost_its_other_half_is_counted_and_does_no_harm() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    store.submit(session("phone")).unwrap();
    store.submit(delivery(1, "phone")).unwrap();
    store.submit(delivery(2, "gone")).unwrap();
    store.submit(Change::Stage(3, Stage::Sent(7))).unwrap();
    store.submit(Change::Received("gone".into(), 9)).unwrap();
    await_durable(&store, store.newest());
    let report = check(&store);
    let orphans = (
        report.orphans.deliveries,
        report.orphans.stages,
        report.orphans.received,
    );
    assert_eq!(orphans, (1, 1, 1), "{report}");
    assert!(report.is_sound());
}

#[test]
fn a_check_waits_for_a_disk_that_fails_and_a_stopped_one_ends() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    filled(&store, 20);
    disk.fail(true);
    let ticket = store.submit(Change::Retain(message("b", "during"))).unwrap();
    std::thread::scope(|scope| {
        let checked = scope.spawn(|| check(&store));
        std::thread::sleep(Duration::from_millis(300));
        disk.fail(false);
        assert!(checked.join().unwrap().is_sound());
    });
    await_durable(&store, ticket);
    let progress = Progress::default();
    progress.stop.store(true, Relaxed);
    assert_eq!(store.check(None, &progress).unwrap(), None);
}

#[test]
fn an_errand_for_a_disk_that_takes_nothing_ends_with_the_store() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    filled(&store, 3);
    disk.fail(true);
    store.submit(Change::Retain(message("b", "lost"))).unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| store.forget_set_aside());
        std::thread::sleep(Duration::from_millis(100));
        store.close();
        store.finish();
        assert!(asked.join().unwrap().is_err());
    });
    assert!(store.forget_set_aside().is_err());
}

#[test]
fn a_check_keeps_to_its_budget() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    let large = "x".repeat(100_000);
    for n in 0..8 {
        let large = message(&format!("t/{n}"), &large);
        store.submit(Change::Retain(large)).unwrap();
    }
    await_durable(&store, store.newest());
    let started = Instant::now();
    let report = store
        .check(Some(1_000_000), &Progress::default())
        .unwrap()
        .unwrap();
    assert_eq!(report.checked_values, 8);
    // The last step is not paid for.
    assert!(started.elapsed() > Duration::from_millis(400), "{report}");
}

/// The sealed bytes of one value of a table, as they lie in the file.
fn sealed_value(path: &Path, table: &'static str) -> Vec<u8> {
    let database = redb::ReadOnlyDatabase::open(path).unwrap();
    let values = database
        .begin_read()
        .unwrap()
        .open_table(Sealed::new(table))
        .unwrap();
    let (_, sealed) = values.first().unwrap().unwrap();
    sealed.value().to_vec()
}

fn flip_in_file(path: &Path, needle: &[u8]) {
    let bytes = std::fs::read(path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut flipped = 0;
    for (at, window) in bytes.windows(needle.len()).enumerate() {
        if window == needle {
            file.write_all_at(&[window[20] ^ 1], at as u64 + 20).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0, "it is not in the file");
}

#[test]
fn a_bit_that_flipped_in_a_stopped_file_costs_its_value_and_the_rest_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (store, _) = open(&path);
    let all = filled(&store, 200);
    drop(store);
    flip_in_file(&path, &sealed_value(&path, "retained"));
    let whole = std::fs::read(&path).unwrap();
    let report = StillStore::at(file(&path))
        .check(&master().into(), &Progress::default())
        .unwrap();
    assert_eq!((report.damaged, report.missing), (1, 0), "{report}");
    assert!(report.broken > 0, "{report}");
    assert!(
        whole == std::fs::read(&path).unwrap(),
        "looking at it changed something"
    );
    let (store, restored) = DurableStore::open(&file(&path), master(), Arc::default()).unwrap();
    assert_eq!(restored.damaged, 1);
    let found = words(&restored);
    assert_eq!(found.len(), 199);
    assert!(found.iter().all(|word| all.contains(word)));
    assert!(whole == std::fs::read(path.with_extension("redb.damaged-1")).unwrap());
    assert_eq!(check(&store).set_aside["retained"], 1);
}

#[test]
fn the_master_key_changes_as_a_whole_at_any_power_cut() {
    let disk = Disk::default();
    let (store, _) = open_on(&disk).unwrap();
    let all = filled(&store, 3);
    let before = disk.writes();
    let new = || Key::new([43; KEY_BYTES]);
    store.rewrap(master(), new()).unwrap();
    let after = disk.writes();
    drop(store);
    let mut chance = Chance(11);
    let mut opened = Vec::new();
    for cut in before..=after {
        for tried in 0..3 {
            let left = disk.after_power_cut(cut, |_| match tried {
                0 => false,
                1 => true,
                _ => chance.below(2) == 0,
            });
            let both = || Masters {
                current: master(),
                pending: Some(new()),
            };
            let disk = left.clone();
            let open = move || builder().create_with_backend(disk.clone());
            let (_store, restored) = DurableStore::open_with(Box::new(open), both(), Arc::default()).unwrap();
            assert_eq!(words(&restored), all, "cut {cut}, try {tried}");
            opened.push(restored.opened_by);
        }
    }
    assert_eq!(opened.first(), Some(&OpenedBy::Current));
    assert_eq!(opened.last(), Some(&OpenedBy::Pending));
    // And with its old key alone it is closed.
    assert!(matches!(open_on(&disk), Err(DatabaseError::WrongMasterKey)));
}

#[test]
fn what_the_old_master_key_would_open_is_nowhere_in_the_file_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (store, _) = open(&path);
    filled(&store, 3);
    let wrapped = {
        let reading = store.database.read().unwrap();
        reading.data_key().unwrap().unwrap()
    };
    let is_there = || {
        let file = std::fs::read(&path).unwrap();
        file.windows(wrapped.len()).any(|window| window == wrapped)
    };
    assert!(is_there());
    store.rewrap(master(), Key::new([43; KEY_BYTES])).unwrap();
    assert!(!is_there());
    let new = filled(&store, 30);
    drop(store);
    let (_store, restored) =
        DurableStore::open(&file(&path), Key::new([43; KEY_BYTES]), Arc::default()).unwrap();
    assert_eq!(words(&restored), new);
}

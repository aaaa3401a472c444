//! The master key is found, made, and changed, and a kill between any two steps of a change loses nothing.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use actors::store::{Change, Store, Table};
use bytes::Bytes;

use super::*;

fn dir() -> (tempfile::TempDir, DataDir, MasterKeyPlace) {
    let temp = tempfile::tempdir().unwrap();
    let dir = DataDir::prepare(temp.path()).unwrap();
    let place = MasterKeyPlace::of(&dir, None);
    (temp, dir, place)
}

fn file(dir: &DataDir) -> StorePlace {
    StorePlace::File(dir.store())
}

fn open(dir: &DataDir, place: &MasterKeyPlace) -> Option<(DurableStore, OpenedBy)> {
    let masters = place.load_or_create(&file(dir)).unwrap();
    let (store, restored) = DurableStore::open(&file(dir), masters, Arc::default()).ok()?;
    assert_eq!(restored.records.len(), 1);
    Some((store, restored.opened_by))
}

fn begin(dir: &DataDir, place: &MasterKeyPlace) {
    let masters = place.load_or_create(&file(dir)).unwrap();
    let (store, _) = DurableStore::open(&file(dir), masters, Arc::default()).unwrap();
    let record = actors::store::Record {
        table: Table::Devices,
        name: "phone".into(),
        value: Bytes::from_static(b"kept"),
    };
    store.submit(Change::Put(record)).unwrap();
}

#[test]
fn a_master_key_is_not_made_anew_for_a_store_that_another_one_opens() {
    let (_temp, dir, place) = dir();
    place.load_or_create(&file(&dir)).unwrap();
    fs::write(dir.store(), "a store").unwrap();
    place.load_or_create(&file(&dir)).unwrap();
    fs::remove_file(dir.master_key()).unwrap();
    assert!(matches!(
        place.load_or_create(&file(&dir)),
        Err(KeyError::Lost(_))
    ));
    assert!(!dir.master_key().exists());
}

#[test]
fn the_old_master_key_opens_nothing_after_a_change_and_is_nowhere_in_use() {
    let (_temp, dir, place) = dir();
    begin(&dir, &place);
    let old = fs::read(dir.master_key()).unwrap();
    let (store, _) = open(&dir, &place).unwrap();
    place.rotate(&store).unwrap();
    place.rotate(&store).unwrap();
    drop(store);
    let new = fs::read(dir.master_key()).unwrap();
    assert_ne!(old, new);
    assert_eq!(fs::read_dir(dir.keys()).unwrap().count(), 1);
    fs::write(dir.master_key(), &old).unwrap();
    assert!(open(&dir, &place).is_none());
    fs::write(dir.master_key(), &new).unwrap();
    assert_eq!(open(&dir, &place).unwrap().1, OpenedBy::Current);
}

#[test]
fn a_kill_between_any_two_steps_of_a_change_loses_nothing() {
    // After the new key was written; after the store is opened by it; after it has the old one's name.
    for steps in 1..=3 {
        let (_temp, dir, place) = dir();
        begin(&dir, &place);
        let old = fs::read(dir.master_key()).unwrap();
        let next = next_to(&dir.master_key());
        keys::create(&next).unwrap();
        let new = fs::read(&next).unwrap();
        if steps > 1 {
            let (store, opened_by) = open(&dir, &place).unwrap();
            assert_eq!(opened_by, OpenedBy::Current);
            let masters = place.load().unwrap();
            store.rewrap(masters.current, masters.pending.unwrap()).unwrap();
        }
        if steps > 2 {
            fs::rename(&next, dir.master_key()).unwrap();
        }
        let (store, opened_by) = open(&dir, &place).unwrap();
        assert_eq!(opened_by == OpenedBy::Pending, steps == 2, "{steps}");
        place.settle(opened_by).unwrap();
        assert!(!next.exists());
        let settled = fs::read(dir.master_key()).unwrap();
        assert_eq!(settled, if steps > 1 { &*new } else { &*old }, "{steps}");
        drop(store);
        let (store, opened_by) = open(&dir, &place).unwrap();
        assert_eq!(opened_by, OpenedBy::Current);
        // And it can be changed again.
        place.rotate(&store).unwrap();
        assert_ne!(fs::read(dir.master_key()).unwrap(), settled);
    }
}

#[test]
fn a_change_whose_end_was_not_heard_of_is_finished_by_the_next_one() {
    let (_temp, dir, place) = dir();
    begin(&dir, &place);
    let (store, _) = open(&dir, &place).unwrap();
    keys::create(&next_to(&dir.master_key())).unwrap();
    let masters = place.load().unwrap();
    store.rewrap(masters.current, masters.pending.unwrap()).unwrap();
    place.rotate(&store).unwrap();
    drop(store);
    assert_eq!(open(&dir, &place).unwrap().1, OpenedBy::Current);
}

#[test]
fn a_key_of_ones_own_may_be_text_and_must_be_its_owners() {
    let (temp, dir, _) = dir();
    let path = temp.path().join("my.key");
    let place = MasterKeyPlace::of(&dir, Some(&MasterKeySource::File(path.clone())));
    assert!(matches!(
        place.load_or_create(&file(&dir)),
        Err(KeyError::NotThere(_))
    ));
    fs::write(&path, format!("{}\n", "0f".repeat(KEY_BYTES))).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        place.load_or_create(&file(&dir)),
        Err(KeyError::TooOpen { .. })
    ));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    begin(&dir, &place);
    fs::write(&path, [15; KEY_BYTES]).unwrap();
    assert!(open(&dir, &place).is_some());
    fs::write(&path, "0g".repeat(KEY_BYTES)).unwrap();
    assert!(matches!(place.load(), Err(KeyError::WrongLength { .. })));
}

#[test]
fn a_variable_without_a_key_is_named_and_its_text_is_not() {
    let (_temp, dir, _) = dir();
    let source = MasterKeySource::Variable("PATH".to_owned());
    let place = MasterKeyPlace::of(&dir, Some(&source));
    let message = place.load().err().unwrap().to_string();
    assert!(message.contains("PATH"), "{message}");
    assert!(!message.contains(&std::env::var("PATH").unwrap()), "{message}");
}

//! The embedded database: one file, by redb, which keeps what was committed through a crash or a power cut at any
//! instant; the tests of the store replay both.

pub(super) mod salvage;
mod wipe;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use redb::{
    Database, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    RepairSession, TableDefinition, Value, WriteTransaction,
};

use super::backend::{Backend, Batch, Page, PageSize, Place, Reading, Work, Writing};
use super::database::DatabaseError;
use super::record::tables;
use super::vault::{OPENING_BYTES, Opening};
use crate::service;

pub(super) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
pub(super) const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
pub(super) const OPENINGS: TableDefinition<u32, &[u8; OPENING_BYTES]> = TableDefinition::new("openings");
/// Values that could not be opened, with the name of their table before their own.
pub(super) const DAMAGED: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("damaged");

const DATA_KEY: &str = "data key";
const SCHEMA: &str = "schema";
const REWRAPS: &str = "rewraps";

/// What is read at the start of a page cache of its own, and no more: the rest is the system's.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// How often the log says how far looking through a large file has come.
const SAID_EVERY_S: u64 = 5;

/// A table of sealed values.
pub(super) type Sealed = TableDefinition<'static, &'static Place, &'static [u8]>;

/// Opens the database, at the start and again after the disk failed.
pub(super) type Open = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// See the module.
pub(super) struct RedbFile {
    open: Open,
    /// None where it is on no real disk.
    path: Option<PathBuf>,
    /// None after an error: redb takes nothing more then before it is opened anew. Locked for writing only to take it
    /// away and to put it back, so that readers and the one who writes do not wait for each other.
    database: RwLock<Option<Database>>,
}

impl RedbFile {
    /// Opens a file, and makes a database of an empty one.
    pub(super) fn open(path: &Path) -> Result<RedbFile, DatabaseError> {
        let file = path.to_path_buf();
        let open = move || {
            let (began, told) = (Instant::now(), AtomicU64::new(0));
            let looks = move |session: &mut RepairSession| {
                service::takes_long();
                let times = began.elapsed().as_secs() / SAID_EVERY_S;
                if told.swap(times, Relaxed) < times {
                    let percent = (session.progress() * 100.0).floor();
                    tracing::info!(percent, "the store is looked through before it is used");
                }
            };
            builder().set_repair_callback(looks).create(&file)
        };
        Self::open_with(Box::new(open), Some(path.to_path_buf()))
    }

    pub(super) fn open_with(open: Open, path: Option<PathBuf>) -> Result<RedbFile, DatabaseError> {
        let database = RwLock::new(Some(open()?));
        Ok(RedbFile { open, path, database })
    }

    fn is_closed(&self) -> bool {
        self.database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        if self.is_closed() {
            let opened = (self.open)()?;
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        }
        let outcome = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = database.as_ref().ok_or(DatabaseError::Closed)?;
            (|| {
                let transaction = database.begin_write()?;
                let done = work(&transaction)?;
                transaction.commit()?;
                Ok(done)
            })()
        };
        if outcome.is_err() {
            self.close();
        }
        outcome
    }
}

/// How the file is opened: every page is looked at first, because redb trusts a file that was closed in order.
pub(super) fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

impl Backend for RedbFile {
    fn transact(&self, work: Work<'_>) -> Result<(), DatabaseError> {
        self.write(|transaction| work(&mut Changing(transaction)))
    }

    fn read(&self) -> Result<Box<dyn Reading + '_>, DatabaseError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(DatabaseError::Closed)?;
        Ok(Box::new(Moment(database.begin_read()?)))
    }

    fn wipe(&self, secret: &[u8]) -> Result<(), DatabaseError> {
        // What a commit replaces is still there for the one before it: after two more nobody knows of it.
        for _ in 0..2 {
            self.write(|transaction| {
                let mut numbers = transaction.open_table(NUMBERS)?;
                let before = numbers.get(REWRAPS)?.map_or(0, |count| count.value());
                numbers.insert(REWRAPS, before + 1)?;
                Ok(())
            })?;
        }
        match &self.path {
            Some(path) => Ok(wipe::wipe(path, secret)?),
            None => Ok(()),
        }
    }

    fn cache_bytes(&self) -> u64 {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let stats = database.as_ref().map(ReadableDatabase::cache_stats);
        stats.map_or(0, |stats| stats.used_bytes() as u64)
    }

    fn close(&self) {
        drop(
            self.database
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

struct Changing<'t>(&'t WriteTransaction);

impl Writing for Changing<'_> {
    fn apply(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let Changing(transaction) = self;
        if let Some((number, opening)) = &batch.opening {
            transaction.open_table(OPENINGS)?.insert(number, opening)?;
            for table in tables() {
                transaction.open_table(Sealed::new(table))?;
            }
            transaction.open_table(DAMAGED)?;
        }
        if let Some(schema) = batch.schema {
            transaction.open_table(NUMBERS)?.insert(SCHEMA, schema)?;
        }
        if let Some(data_key) = &batch.data_key {
            transaction.open_table(KEYS)?.insert(DATA_KEY, &**data_key)?;
        }
        if batch.forgets_set_aside {
            transaction.delete_table(DAMAGED)?;
            transaction.open_table(DAMAGED)?;
        }
        if !batch.set_aside.is_empty() {
            let mut aside = transaction.open_table(DAMAGED)?;
            for damaged in &batch.set_aside {
                aside.insert((damaged.table, &damaged.name[..]), &damaged.sealed[..])?;
            }
        }
        let mut open: Option<(&str, redb::Table<'_, &'static Place, &'static [u8]>)> = None;
        for ((table, place), sealed) in &batch.values {
            let mut values = match open.take() {
                Some((name, values)) if name == *table => values,
                // One that is open twice is an error.
                other => {
                    drop(other);
                    transaction.open_table(Sealed::new(table))?
                }
            };
            match sealed {
                Some(sealed) => drop(values.insert(place, &**sealed)?),
                None => drop(values.remove(place)?),
            }
            open = Some((table, values));
        }
        Ok(())
    }
}

/// What was committed at one moment.
pub(super) struct Moment(pub(super) ReadTransaction);

impl Moment {
    /// None where an older program made it, which had no such table.
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Option<ReadOnlyTable<K, V>>, DatabaseError> {
        match self.0.open_table(definition) {
            Ok(table) => Ok(Some(table)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Reading for Moment {
    fn schema(&self) -> Result<Option<u64>, DatabaseError> {
        let Some(numbers) = self.table(NUMBERS)? else {
            return Ok(None);
        };
        Ok(numbers.get(SCHEMA)?.map(|found| found.value()))
    }

    fn data_key(&self) -> Result<Option<Vec<u8>>, DatabaseError> {
        let Some(keys) = self.table(KEYS)? else {
            return Ok(None);
        };
        Ok(keys.get(DATA_KEY)?.map(|key| key.value().to_vec()))
    }

    fn openings(&self) -> Result<Vec<(u32, Opening)>, DatabaseError> {
        let mut openings = Vec::new();
        if let Some(table) = self.table(OPENINGS)? {
            for entry in table.iter()? {
                let (number, opening) = entry?;
                openings.push((number.value(), *opening.value()));
            }
        }
        Ok(openings)
    }

    fn get(&self, table: &'static str, place: &Place) -> Result<Option<Vec<u8>>, DatabaseError> {
        let Some(values) = self.table(Sealed::new(table))? else {
            return Ok(None);
        };
        Ok(values.get(place)?.map(|sealed| sealed.value().to_vec()))
    }

    fn page(&self, table: &'static str, after: Option<Place>, size: PageSize) -> Result<Page, DatabaseError> {
        let mut page = Page::default();
        let Some(values) = self.table(Sealed::new(table))? else {
            page.is_end = true;
            return Ok(page);
        };
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = values.range::<&Place>((from, Bound::Unbounded))?;
        let mut bytes = 0;
        while !size.is_reached(page.values.len(), bytes) {
            let Some(entry) = entries.next() else {
                page.is_end = true;
                break;
            };
            let (place, sealed) = entry?;
            bytes += sealed.value().len();
            page.values.push((*place.value(), sealed.value().to_vec()));
        }
        Ok(page)
    }

    fn len(&self, table: &'static str) -> Result<u64, DatabaseError> {
        Ok(match self.table(Sealed::new(table))? {
            Some(values) => values.len()?,
            None => 0,
        })
    }

    fn set_aside(&self) -> Result<BTreeMap<String, u64>, DatabaseError> {
        let mut counts = BTreeMap::new();
        if let Some(aside) = self.table(DAMAGED)? {
            for entry in aside.iter()? {
                let (name, _) = entry?;
                *counts.entry(name.value().0.to_owned()).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

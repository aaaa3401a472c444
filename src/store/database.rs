//! The tables, and what lies in them: sealed values under names that tell nothing.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use actors::store::{Change, Keeping, RestoredDelivery};
use bytestring::ByteString;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use topics::session::Stage;

use super::Restored;
use super::integrity::Damaged;
use super::record::{
    self, ACCEPTED, DELIVERIES, Moment, RECEIVED, RETAINED, RecordError, SESSIONS, STAGES, Value, tables,
};
use super::vault::{Key, Masters, OPENING_BYTES, OpenedBy, Opening, Vault, VaultError, new_opening};

/// What this program writes. An older one that is met is brought up to date at the opening.
const SCHEMA_VERSION: u64 = 1;

pub(super) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
pub(super) const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
pub(super) const OPENINGS: TableDefinition<u32, &[u8; OPENING_BYTES]> = TableDefinition::new("openings");
/// Values that could not be opened, with the name of their table before their own.
pub(super) const DAMAGED: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("damaged");

const DATA_KEY: &str = "data key";
const SCHEMA: &str = "schema";
const REWRAPS: &str = "rewraps";

/// A table of sealed values.
pub(super) type Sealed = TableDefinition<'static, &'static [u8; 16], &'static [u8]>;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Another daemon has it, the file is broken, or the disk is.
    #[error("it cannot be opened: {0}; stop the daemon that has it open, or put a backup in its place")]
    Open(Box<redb::DatabaseError>),
    /// Its disk has failed, and it is about to be opened anew.
    #[error(
        "it is closed at the moment, because its disk failed; try again when the disk takes something again"
    )]
    Closed,
    /// The disk.
    #[error("it cannot be read or written: {0}; check the disk")]
    Storage(Box<redb::Error>),
    /// The master key is another.
    #[error(
        "its master key is not the one it was made with; put the right one back (keys/master.key, unless \
         store.master_key_file or store.master_key_variable says otherwise), or move the store away to begin a new one"
    )]
    WrongMasterKey,
    /// A newer program wrote it.
    #[error(
        "it was written by a newer Clawdbot (schema {found}, known here: {SCHEMA_VERSION}); use that one"
    )]
    TooNew {
        /// Its version.
        found: u64,
    },
    /// It could be opened, and its keys are not there.
    #[error("it has lost its data key, and with it everything; put a backup in its place")]
    NoDataKey,
    /// Sealing.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A message that cannot be kept.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<std::io::Error> for DatabaseError {
    fn from(error: std::io::Error) -> Self {
        Self::Storage(Box::new(redb::Error::Io(error)))
    }
}

impl From<redb::DatabaseError> for DatabaseError {
    fn from(error: redb::DatabaseError) -> Self {
        Self::Open(Box::new(error))
    }
}

impl DatabaseError {
    /// The file is not as it was written.
    pub(super) fn corrupted(what: &str) -> Self {
        Self::Storage(Box::new(redb::Error::Corrupted(what.to_owned())))
    }

    /// Whether it is the file that is not as it was written, and no other trouble.
    pub(super) fn is_corruption(&self) -> bool {
        match self {
            Self::Open(error) => matches!(
                **error,
                redb::DatabaseError::Storage(redb::StorageError::Corrupted(_))
            ),
            Self::Storage(error) => matches!(**error, redb::Error::Corrupted(_)),
            _ => false,
        }
    }
}

macro_rules! storage_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for DatabaseError {
            fn from(error: $error) -> Self {
                Self::Storage(Box::new(error.into()))
            }
        }
    )*};
}

storage_errors!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::CompactionError
);

/// Opens the database, at the start and again after the disk failed.
pub(super) type Open = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// The database and what is needed to read and write in it. One thread writes; others may read beside it.
pub(super) struct SealedDatabase {
    open: Open,
    /// None after an error: redb takes nothing more then before it is opened anew. Locked for writing only to take it
    /// away and to put it back, so that readers and the one who writes do not wait for each other.
    database: RwLock<Option<Database>>,
    pub(super) vault: Vault,
}

impl SealedDatabase {
    pub(super) fn open(open: Open, masters: &Masters) -> Result<(SealedDatabase, Restored), DatabaseError> {
        let database = open()?;
        let (vault, opened_by) = begin(&database, masters)?;
        let mut restored = read_all(&database, &vault)?;
        restored.opened_by = opened_by;
        let database = SealedDatabase {
            open,
            database: RwLock::new(Some(database)),
            vault,
        };
        Ok((database, restored))
    }

    /// Writes changes in their order, all or none, and returns when they would survive a power cut.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), DatabaseError> {
        self.transact(|transaction| write(transaction, &self.vault, changes))
    }

    /// What is written by `work` is there as a whole when this returns, or not at all. Called by one thread.
    pub(super) fn transact<T>(
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

    /// What was committed last, as long as this lives. Pages that are in it are not used anew before it is dropped, so
    /// that the file grows with the time that one is held.
    pub(super) fn read(&self) -> Result<ReadTransaction, DatabaseError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or(DatabaseError::Closed)?.begin_read()?)
    }

    fn is_closed(&self) -> bool {
        self.database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Gives the file back. Whoever reads in it is told that it is closed.
    pub(super) fn close(&self) {
        drop(
            self.database
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

/// Reads the data key, or makes it, and notes that the store was opened once more.
fn begin(database: &Database, masters: &Masters) -> Result<(Vault, OpenedBy), DatabaseError> {
    let transaction = database.begin_write()?;
    let mut openings: Vec<(u32, Opening)> = Vec::new();
    let number;
    let (data_key, opened_by);
    {
        let mut numbers = transaction.open_table(NUMBERS)?;
        let mut keys = transaction.open_table(KEYS)?;
        let found = numbers.get(SCHEMA)?.map(|version| version.value());
        let wrapped = keys.get(DATA_KEY)?.map(|key| key.value().to_vec());
        (data_key, opened_by) = match (found, wrapped) {
            (None, None) => {
                let key = Key::random()?;
                keys.insert(DATA_KEY, &*masters.current.wrap(&key, DATA_KEY.as_bytes())?)?;
                numbers.insert(SCHEMA, SCHEMA_VERSION)?;
                (key, OpenedBy::Current)
            }
            (found, wrapped) => open_data_key(found, wrapped, masters)?,
        };
        let mut table = transaction.open_table(OPENINGS)?;
        for entry in table.iter()? {
            let (number, opening) = entry?;
            openings.push((number.value(), *opening.value()));
        }
        number = openings.last().map_or(1, |(last, _)| last + 1);
        let opening = new_opening()?;
        table.insert(number, &opening)?;
        openings.push((number, opening));
        for table in tables() {
            transaction.open_table(Sealed::new(table))?;
        }
        transaction.open_table(DAMAGED)?;
    }
    // Before anything is sealed with a key of this opening.
    transaction.commit()?;
    Ok((Vault::new(&data_key, &openings, number)?, opened_by))
}

fn open_data_key(
    schema: Option<u64>,
    wrapped: Option<Vec<u8>>,
    masters: &Masters,
) -> Result<(Key, OpenedBy), DatabaseError> {
    match (schema, wrapped) {
        (Some(found), _) if found > SCHEMA_VERSION => Err(DatabaseError::TooNew { found }),
        (_, Some(wrapped)) => masters
            .unwrap(&wrapped, DATA_KEY.as_bytes())
            .map_err(|_| DatabaseError::WrongMasterKey),
        (_, None) => Err(DatabaseError::NoDataKey),
    }
}

/// A vault that only opens, for a database in which nothing is to be changed.
pub(super) fn reading_vault(
    reading: &ReadTransaction,
    masters: &Masters,
) -> Result<(Vault, OpenedBy), DatabaseError> {
    let schema = reading
        .open_table(NUMBERS)?
        .get(SCHEMA)?
        .map(|found| found.value());
    let wrapped = reading
        .open_table(KEYS)?
        .get(DATA_KEY)?
        .map(|key| key.value().to_vec());
    let (data_key, opened_by) = open_data_key(schema, wrapped, masters)?;
    let mut openings: Vec<(u32, Opening)> = Vec::new();
    for entry in reading.open_table(OPENINGS)?.iter()? {
        let (number, opening) = entry?;
        openings.push((number.value(), *opening.value()));
    }
    let newest = openings.last().map_or(0, |(number, _)| *number);
    Ok((Vault::new(&data_key, &openings, newest)?, opened_by))
}

/// Reads everything. What cannot be opened is set aside, and what is out of date is let go.
fn read_all(database: &Database, vault: &Vault) -> Result<Restored, DatabaseError> {
    let now = Moment::now();
    let (mut restored, mut gathered) = (Restored::default(), Gathered::default());
    let (mut expired, mut damaged) = (Vec::new(), Vec::new());
    let reading = database.begin_read()?;
    for table in tables() {
        for entry in reading.open_table(Sealed::new(table))?.iter()? {
            let (name, sealed) = entry?;
            let name = *name.value();
            let opened = vault
                .open(table, &name, sealed.value())
                .map_err(|error| error.to_string())
                .and_then(|bytes| record::decode(table, bytes, now).map_err(|error| error.to_string()));
            match opened {
                Ok(Some(value)) => gathered.take(value, &mut restored),
                Ok(None) => expired.push((table, name)),
                Err(error) => {
                    tracing::error!(table, error, "a value in the store is damaged and is set aside");
                    let sealed = sealed.value().to_vec();
                    damaged.push(Damaged { table, name, sealed });
                }
            }
        }
    }
    restored.damaged = damaged.len();
    gathered.put_together(&mut restored);
    if !expired.is_empty() || !damaged.is_empty() {
        let transaction = database.begin_write()?;
        set_aside(&transaction, &damaged)?;
        for (table, name) in expired {
            transaction.open_table(Sealed::new(table))?.remove(&name)?;
        }
        transaction.commit()?;
    }
    Ok(restored)
}

/// Moves values that cannot be read out of the way, where they are still as they were found.
pub(super) fn set_aside(transaction: &WriteTransaction, damaged: &[Damaged]) -> Result<(), DatabaseError> {
    let mut aside = transaction.open_table(DAMAGED)?;
    for Damaged { table, name, sealed } in damaged {
        let mut values = transaction.open_table(Sealed::new(table))?;
        let is_same = values.get(name)?.is_some_and(|now| now.value() == &**sealed);
        if is_same {
            aside.insert((*table, &name[..]), &sealed[..])?;
            values.remove(name)?;
        }
    }
    Ok(())
}

/// Seals the data key with another master key, and returns what it was before.
pub(super) fn rewrap(transaction: &WriteTransaction, old: &Key, new: &Key) -> Result<Vec<u8>, DatabaseError> {
    let mut keys = transaction.open_table(KEYS)?;
    let wrapped = keys.get(DATA_KEY)?.map(|key| key.value().to_vec());
    let wrapped = wrapped.ok_or(DatabaseError::NoDataKey)?;
    let data_key = old
        .unwrap(&wrapped, DATA_KEY.as_bytes())
        .map_err(|_| DatabaseError::WrongMasterKey)?;
    keys.insert(DATA_KEY, &*new.wrap(&data_key, DATA_KEY.as_bytes())?)?;
    Ok(wrapped)
}

/// Counts commits after a change of the master key.
pub(super) fn count_rewrap(transaction: &WriteTransaction) -> Result<(), DatabaseError> {
    let mut numbers = transaction.open_table(NUMBERS)?;
    let before = numbers.get(REWRAPS)?.map_or(0, |count| count.value());
    numbers.insert(REWRAPS, before + 1)?;
    Ok(())
}

/// Lets go of what was set aside.
pub(super) fn forget_set_aside(transaction: &WriteTransaction) -> Result<(), DatabaseError> {
    transaction.delete_table(DAMAGED)?;
    transaction.open_table(DAMAGED)?;
    Ok(())
}

/// Messages and their stages, which lie apart.
#[derive(Default)]
struct Gathered {
    messages: Vec<Keeping>,
    stages: HashMap<u64, Stage>,
}

impl Gathered {
    fn take(&mut self, value: Value, restored: &mut Restored) {
        match value {
            Value::Retained(message) => restored.retained.push(message),
            Value::Record(record) => restored.records.push(record),
            Value::Session(session) => restored.sessions.sessions.push(session),
            Value::Received(client_id, packet_id) => restored.sessions.received.push((client_id, packet_id)),
            Value::Delivery(keeping) => self.messages.push(keeping),
            Value::Accepted(accepted) => restored.accepted.push(accepted),
            Value::Stage(id, stage) => {
                self.stages.insert(id, stage);
            }
        }
    }

    fn put_together(mut self, restored: &mut Restored) {
        self.messages.sort_by_key(|kept| kept.id);
        restored.accepted.sort_by_key(|accepted| accepted.id);
        let ids = self.messages.iter().map(|kept| kept.id);
        let ids = ids.chain(restored.accepted.iter().map(|accepted| accepted.id));
        restored.newest_id = ids.chain(self.stages.keys().copied()).max().unwrap_or(0);
        let with_stage = self.messages.into_iter().map(|kept| RestoredDelivery {
            stage: self.stages.get(&kept.id).copied().unwrap_or(Stage::Waiting),
            kept,
        });
        restored.sessions.deliveries = with_stage.collect();
    }
}

fn write(transaction: &WriteTransaction, vault: &Vault, changes: &[Change]) -> Result<(), DatabaseError> {
    let now = Moment::now();
    // What came and went since the last commit was never here.
    let done: HashSet<u64> = changes.iter().filter_map(done_of).collect();
    let mut tables: HashMap<&'static str, SealedTable<'_>> = HashMap::new();
    for change in changes {
        match change {
            Change::Keep(keeping) if done.contains(&keeping.id) => continue,
            Change::Stage(id, _) if done.contains(id) => continue,
            Change::Accept(accepted) if done.contains(&accepted.id) => continue,
            _ => {}
        }
        for Step { table, name, value } in steps_of(change, now).into_iter().flatten() {
            let name = name.in_table(table, vault);
            let open = match tables.entry(table) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(transaction.open_table(Sealed::new(table))?),
            };
            let Some(value) = value else {
                open.remove(&name)?;
                continue;
            };
            let sealed = value
                .map_err(DatabaseError::from)
                .and_then(|value| Ok(vault.seal(table, &name, &value)?));
            match sealed {
                Ok(sealed) => {
                    open.insert(&name, &*sealed)?;
                }
                // Trying again would not help it, and would hold up all others.
                Err(error) => tracing::error!(table, %error, "something is not kept"),
            }
        }
    }
    Ok(())
}

type SealedTable<'t> = redb::Table<'t, &'static [u8; 16], &'static [u8]>;

/// One value written, or taken away.
struct Step {
    table: &'static str,
    name: Name,
    value: Option<Result<Vec<u8>, RecordError>>,
}

/// How a value is found again.
pub(super) enum Name {
    /// By a name that could tell something about a person, and is not shown.
    Hidden(Vec<u8>),
    /// By its number.
    Number(u64),
}

impl Name {
    /// Where the value is in its table.
    pub(super) fn in_table(&self, table: &str, vault: &Vault) -> [u8; 16] {
        match self {
            Name::Hidden(name) => vault.name(table, name),
            Name::Number(id) => u128::from(*id).to_be_bytes(),
        }
    }

    /// Where a value must be that was read.
    pub(super) fn of(value: &Value) -> Name {
        match value {
            Value::Retained(message) => Name::Hidden(message.topic.as_str().as_bytes().to_vec()),
            Value::Session(session) => Name::Hidden(session.client_id.as_bytes().to_vec()),
            Value::Delivery(keeping) => Name::Number(keeping.id),
            Value::Stage(id, _) => Name::Number(*id),
            Value::Received(client_id, packet_id) => Name::received(client_id, *packet_id),
            Value::Accepted(accepted) => Name::Number(accepted.id),
            Value::Record(record) => Name::Hidden(record.name.as_bytes().to_vec()),
        }
    }

    /// Of an identifier that a client used.
    pub(super) fn received(client_id: &ByteString, packet_id: u16) -> Name {
        Name::Hidden([&packet_id.to_be_bytes()[..], client_id.as_bytes()].concat())
    }
}

fn done_of(change: &Change) -> Option<u64> {
    match change {
        Change::Done { id, .. } | Change::Handled(id) => Some(*id),
        _ => None,
    }
}

fn steps_of(change: &Change, now: Moment) -> [Option<Step>; 2] {
    let hidden = |table, name: &[u8], value| Step {
        table,
        name: Name::Hidden(name.to_vec()),
        value,
    };
    let numbered = |table, id, value| Step {
        table,
        name: Name::Number(id),
        value,
    };
    let received = |client_id: &ByteString, packet_id: u16, value| Step {
        table: RECEIVED,
        name: Name::received(client_id, packet_id),
        value,
    };
    let first = match change {
        Change::Retain(message) => hidden(
            RETAINED,
            message.topic.as_str().as_bytes(),
            Some(record::encode_retained(message, now)),
        ),
        Change::Forget(topic) => hidden(RETAINED, topic.as_str().as_bytes(), None),
        Change::Put(record) => hidden(
            record.table.name(),
            record.name.as_bytes(),
            Some(record::encode_record(record)),
        ),
        Change::Remove(table, name) => hidden(table.name(), name.as_bytes(), None),
        Change::Session(session) => hidden(
            SESSIONS,
            session.client_id.as_bytes(),
            Some(record::encode_session(session, now)),
        ),
        Change::EndSession(client_id) => hidden(SESSIONS, client_id.as_bytes(), None),
        Change::Keep(keeping) => numbered(
            DELIVERIES,
            keeping.id,
            Some(record::encode_delivery(keeping, now)),
        ),
        Change::Stage(id, stage) => numbered(STAGES, *id, Some(Ok(record::encode_stage(*id, *stage)))),
        Change::Done { id, staged } => {
            let stage = staged.then(|| numbered(STAGES, *id, None));
            return [Some(numbered(DELIVERIES, *id, None)), stage];
        }
        Change::Accept(accepted) => numbered(
            ACCEPTED,
            accepted.id,
            Some(record::encode_accepted(accepted, now)),
        ),
        Change::Handled(id) => numbered(ACCEPTED, *id, None),
        Change::Received(client_id, packet_id) => received(
            client_id,
            *packet_id,
            Some(record::encode_received(client_id, *packet_id)),
        ),
        Change::Released(client_id, packet_id) => received(client_id, *packet_id, None),
    };
    [Some(first), None]
}

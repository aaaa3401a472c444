//! The tables, and what lies in them: sealed values under names that tell nothing.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use actors::store::{Change, Keeping, RestoredDelivery};
use bytestring::ByteString;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use topics::session::Stage;

use super::Restored;
use super::record::{
    self, ACCEPTED, DELIVERIES, Moment, RECEIVED, RETAINED, RecordError, SESSIONS, STAGES, Value, tables,
};
use super::vault::{Key, OPENING_BYTES, Opening, Vault, VaultError, new_opening};

/// What this program writes. An older one that is met is brought up to date at the opening.
const SCHEMA_VERSION: u64 = 1;

const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
const OPENINGS: TableDefinition<u32, &[u8; OPENING_BYTES]> = TableDefinition::new("openings");
/// Values that could not be opened, with the name of their table before their own.
const DAMAGED: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("damaged");

const DATA_KEY: &str = "data key";
const SCHEMA: &str = "schema";

/// A table of sealed values.
type Sealed = TableDefinition<'static, &'static [u8; 16], &'static [u8]>;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Another daemon has it, the file is broken, or the disk is.
    #[error("it cannot be opened: {0}; stop the daemon that has it open, or put a backup in its place")]
    Open(Box<redb::DatabaseError>),
    /// The disk.
    #[error("it cannot be read or written: {0}; check the disk")]
    Storage(Box<redb::Error>),
    /// The master key is another.
    #[error(
        "its master key is not the one it was made with; put keys/master.key back from a backup, or move the store \
         away to begin a new one"
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

impl From<redb::DatabaseError> for DatabaseError {
    fn from(error: redb::DatabaseError) -> Self {
        Self::Open(Box::new(error))
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
    redb::CommitError
);

/// Opens the database, at the start and again after the disk failed.
pub(super) type Open = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send>;

/// The database and what is needed to read and write in it.
pub(super) struct SealedDatabase {
    open: Open,
    /// None after an error: redb takes nothing more then before it is opened anew.
    database: Option<Database>,
    vault: Vault,
}

impl SealedDatabase {
    pub(super) fn open(open: Open, master: &Key) -> Result<(SealedDatabase, Restored), DatabaseError> {
        let database = open()?;
        let vault = begin(&database, master)?;
        let restored = read_all(&database, &vault)?;
        let database = SealedDatabase {
            open,
            database: Some(database),
            vault,
        };
        Ok((database, restored))
    }

    /// Writes changes in their order, all or none, and returns when they would survive a power cut.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), DatabaseError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        write(&database, &self.vault, changes)?;
        self.database = Some(database);
        Ok(())
    }
}

/// Reads the data key, or makes it, and notes that the store was opened once more.
fn begin(database: &Database, master: &Key) -> Result<Vault, DatabaseError> {
    let transaction = database.begin_write()?;
    let mut openings: Vec<(u32, Opening)> = Vec::new();
    let number;
    let data_key;
    {
        let mut numbers = transaction.open_table(NUMBERS)?;
        let mut keys = transaction.open_table(KEYS)?;
        let found = numbers.get(SCHEMA)?.map(|version| version.value());
        let wrapped = keys.get(DATA_KEY)?.map(|key| key.value().to_vec());
        data_key = match (found, wrapped) {
            (Some(found), _) if found > SCHEMA_VERSION => return Err(DatabaseError::TooNew { found }),
            (_, Some(wrapped)) => master
                .unwrap(&wrapped, DATA_KEY.as_bytes())
                .map_err(|_| DatabaseError::WrongMasterKey)?,
            (Some(_), None) => return Err(DatabaseError::NoDataKey),
            (None, None) => {
                let key = Key::random()?;
                keys.insert(DATA_KEY, &*master.wrap(&key, DATA_KEY.as_bytes())?)?;
                numbers.insert(SCHEMA, SCHEMA_VERSION)?;
                key
            }
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
    Ok(Vault::new(&data_key, &openings, number)?)
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
                    damaged.push((table, name, sealed.value().to_vec()));
                }
            }
        }
    }
    restored.damaged = damaged.len();
    gathered.put_together(&mut restored);
    if !expired.is_empty() || !damaged.is_empty() {
        let transaction = database.begin_write()?;
        {
            let mut aside = transaction.open_table(DAMAGED)?;
            for (table, name, sealed) in damaged {
                aside.insert((table, &name[..]), &sealed[..])?;
                expired.push((table, name));
            }
        }
        for (table, name) in expired {
            transaction.open_table(Sealed::new(table))?.remove(&name)?;
        }
        transaction.commit()?;
    }
    Ok(restored)
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

fn write(database: &Database, vault: &Vault, changes: &[Change]) -> Result<(), DatabaseError> {
    let now = Moment::now();
    // What came and went since the last commit was never here.
    let done: HashSet<u64> = changes.iter().filter_map(done_of).collect();
    let transaction = database.begin_write()?;
    {
        let mut tables: HashMap<&'static str, SealedTable<'_>> = HashMap::new();
        for change in changes {
            match change {
                Change::Keep(keeping) if done.contains(&keeping.id) => continue,
                Change::Stage(id, _) if done.contains(id) => continue,
                Change::Accept(accepted) if done.contains(&accepted.id) => continue,
                _ => {}
            }
            for Step { table, name, value } in steps_of(change, now).into_iter().flatten() {
                let name = match name {
                    Name::Hidden(name) => vault.name(table, &name),
                    Name::Number(id) => u128::from(id).to_be_bytes(),
                };
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
    }
    transaction.commit()?;
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
enum Name {
    /// By a name that could tell something about a person, and is not shown.
    Hidden(Vec<u8>),
    /// By its number.
    Number(u64),
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
    let received = |client_id: &ByteString, packet_id: u16| {
        [&packet_id.to_be_bytes()[..], client_id.as_bytes()].concat()
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
        Change::Received(client_id, packet_id) => hidden(
            RECEIVED,
            &received(client_id, *packet_id),
            Some(record::encode_received(client_id, *packet_id)),
        ),
        Change::Released(client_id, packet_id) => hidden(RECEIVED, &received(client_id, *packet_id), None),
    };
    [Some(first), None]
}

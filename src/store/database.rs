//! What lies in the store: sealed values under names that tell nothing, whatever the database is.

use std::collections::{BTreeMap, HashMap, HashSet};

use actors::store::{Change, Keeping, RestoredDelivery};
use bytestring::ByteString;
use topics::session::Stage;

use super::Restored;
use super::backend::{Backend, Batch, Damaged, Place, Reading, Work, for_each};
use super::record::{
    self, ACCEPTED, DELIVERIES, Moment, RECEIVED, RETAINED, RecordError, SESSIONS, STAGES, Value, tables,
};
use super::vault::{Key, Masters, OpenedBy, Vault, VaultError, new_opening};

/// What this program writes. An older one that is met is brought up to date at the opening.
const SCHEMA_VERSION: u64 = 1;

/// What a sealed data key is bound to.
const DATA_KEY: &[u8] = b"data key";

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
    /// The database server.
    #[cfg(feature = "postgres")]
    #[error("PostgreSQL {0}")]
    Postgres(#[from] super::postgres::PostgresError),
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

impl DatabaseError {
    /// See [`StoreError::may_pass`](super::StoreError::may_pass).
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Closed | Self::Storage(_) => true,
            Self::Open(error) => match &**error {
                // A file that is cut short stays so.
                redb::DatabaseError::Storage(redb::StorageError::Io(error)) => {
                    error.kind() != std::io::ErrorKind::UnexpectedEof
                }
                _ => false,
            },
            #[cfg(feature = "postgres")]
            Self::Postgres(error) => error.may_pass(),
            _ => false,
        }
    }
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

/// A database and what is needed to read and write in it. One thread writes; others may read beside it.
pub(super) struct SealedDatabase {
    backend: Box<dyn Backend>,
    pub(super) vault: Vault,
}

impl SealedDatabase {
    pub(super) fn open(
        backend: Box<dyn Backend>,
        masters: &Masters,
    ) -> Result<(SealedDatabase, Restored), DatabaseError> {
        let (vault, opened_by) = begin(&*backend, masters)?;
        let database = SealedDatabase { backend, vault };
        let mut restored = database.read_all()?;
        restored.opened_by = opened_by;
        Ok((database, restored))
    }

    /// Writes changes in their order, all or none, and returns when they would survive a power cut.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), DatabaseError> {
        self.commit(&self.sealed(changes))
    }

    pub(super) fn commit(&self, batch: &Batch) -> Result<(), DatabaseError> {
        self.backend.transact(&mut |writing| writing.apply(batch))
    }

    pub(super) fn transact(&self, work: Work<'_>) -> Result<(), DatabaseError> {
        self.backend.transact(work)
    }

    /// What was committed last, as long as this lives.
    pub(super) fn read(&self) -> Result<Box<dyn Reading + '_>, DatabaseError> {
        self.backend.read()
    }

    pub(super) fn cache_bytes(&self) -> u64 {
        self.backend.cache_bytes()
    }

    pub(super) fn close(&self) {
        self.backend.close();
    }

    /// Moves values that cannot be read out of the way, where they are still as they were found. As all that follows
    /// only for the thread that writes, because it looks first.
    pub(super) fn set_aside(&self, damaged: Vec<Damaged>) -> Result<(), DatabaseError> {
        let mut batch = Batch::default();
        let reading = self.read()?;
        for value in damaged {
            if reading.get(value.table, &value.name)?.as_ref() == Some(&value.sealed) {
                batch.values.insert((value.table, value.name), None);
                batch.set_aside.push(value);
            }
        }
        drop(reading);
        self.commit(&batch)
    }

    /// Lets go of what was set aside.
    pub(super) fn forget_set_aside(&self) -> Result<(), DatabaseError> {
        self.commit(&Batch {
            forgets_set_aside: true,
            ..Batch::default()
        })
    }

    /// Seals the data key with another master key, and forgets what it was before.
    pub(super) fn rewrap(&self, old: &Key, new: &Key) -> Result<(), DatabaseError> {
        let wrapped = self.read()?.data_key()?.ok_or(DatabaseError::NoDataKey)?;
        let data_key = old
            .unwrap(&wrapped, DATA_KEY)
            .map_err(|_| DatabaseError::WrongMasterKey)?;
        self.commit(&Batch {
            data_key: Some(new.wrap(&data_key, DATA_KEY)?),
            ..Batch::default()
        })?;
        self.backend.wipe(&wrapped)
    }

    /// Reads everything. What cannot be opened is set aside, and what is out of date is let go.
    fn read_all(&self) -> Result<Restored, DatabaseError> {
        let now = Moment::now();
        let (mut restored, mut gathered) = (Restored::default(), Gathered::default());
        let mut batch = Batch::default();
        let reading = self.read()?;
        for table in tables() {
            for_each(&*reading, table, |name, sealed| {
                let opened = self
                    .vault
                    .open(table, &name, &sealed)
                    .map_err(|error| error.to_string())
                    .and_then(|bytes| record::decode(table, bytes, now).map_err(|error| error.to_string()));
                match opened {
                    Ok(Some(value)) => gathered.take(value, &mut restored),
                    Ok(None) => drop(batch.values.insert((table, name), None)),
                    Err(error) => {
                        tracing::error!(table, error, "a value in the store is damaged and is set aside");
                        batch.values.insert((table, name), None);
                        batch.set_aside.push(Damaged { table, name, sealed });
                    }
                }
                Ok(())
            })?;
        }
        drop(reading);
        restored.damaged = batch.set_aside.len();
        gathered.put_together(&mut restored);
        if !batch.values.is_empty() {
            self.commit(&batch)?;
        }
        Ok(restored)
    }

    /// What is to be in the database after these changes.
    fn sealed(&self, changes: &[Change]) -> Batch {
        let now = Moment::now();
        // What came and went since the last commit was never here.
        let done: HashSet<u64> = changes.iter().filter_map(done_of).collect();
        // Of several words on one value the last counts.
        let mut steps = BTreeMap::new();
        for change in changes {
            match change {
                Change::Keep(keeping) if done.contains(&keeping.id) => continue,
                Change::Stage(id, _) if done.contains(id) => continue,
                Change::Accept(accepted) if done.contains(&accepted.id) => continue,
                _ => {}
            }
            for Step { table, name, value } in steps_of(change, now).into_iter().flatten() {
                steps.insert((table, name.in_table(table, &self.vault)), value);
            }
        }
        let mut batch = Batch::default();
        for ((table, name), value) in steps {
            let sealed = value.map(|value| {
                value
                    .map_err(DatabaseError::from)
                    .and_then(|value| Ok(self.vault.seal(table, &name, &value)?))
            });
            match sealed.transpose() {
                Ok(sealed) => drop(batch.values.insert((table, name), sealed)),
                // Trying again would not help it, and would hold up all others.
                Err(error) => tracing::error!(table, %error, "something is not kept"),
            }
        }
        batch
    }
}

/// Reads the data key, or makes it, and notes that the store was opened once more.
fn begin(backend: &dyn Backend, masters: &Masters) -> Result<(Vault, OpenedBy), DatabaseError> {
    let mut batch = Batch::default();
    let reading = backend.read()?;
    let (data_key, opened_by) = match (reading.schema()?, reading.data_key()?) {
        (None, None) => {
            let key = Key::random()?;
            batch.data_key = Some(masters.current.wrap(&key, DATA_KEY)?);
            batch.schema = Some(SCHEMA_VERSION);
            (key, OpenedBy::Current)
        }
        (found, wrapped) => open_data_key(found, wrapped, masters)?,
    };
    let mut openings = reading.openings()?;
    drop(reading);
    let number = openings.last().map_or(1, |(last, _)| last + 1);
    let opening = new_opening()?;
    openings.push((number, opening));
    batch.opening = Some((number, opening));
    // Before anything is sealed with a key of this opening.
    backend.transact(&mut |writing| writing.apply(&batch))?;
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
            .unwrap(&wrapped, DATA_KEY)
            .map_err(|_| DatabaseError::WrongMasterKey),
        (_, None) => Err(DatabaseError::NoDataKey),
    }
}

/// A vault that only opens, for a database in which nothing is to be changed.
pub(super) fn reading_vault(
    reading: &dyn Reading,
    masters: &Masters,
) -> Result<(Vault, OpenedBy), DatabaseError> {
    let (data_key, opened_by) = open_data_key(reading.schema()?, reading.data_key()?, masters)?;
    let openings = reading.openings()?;
    let newest = openings.last().map_or(0, |(number, _)| *number);
    Ok((Vault::new(&data_key, &openings, newest)?, opened_by))
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
    pub(super) fn in_table(&self, table: &str, vault: &Vault) -> Place {
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

//! The connection that writes.

use std::time::{Duration, Instant};

use ::postgres::error::SqlState;
use ::postgres::{Client, Statement, Transaction};

use super::super::backend::{Batch, Work, Writing};
use super::super::database::DatabaseError;
use super::{PostgresError, config};
use crate::settings::PostgresServer;

/// Tables as the first version has them. A later one brings them up to date behind this.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS clawdbot_numbers (name text PRIMARY KEY, value bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS clawdbot_keys (name text PRIMARY KEY, value bytea NOT NULL);
    CREATE TABLE IF NOT EXISTS clawdbot_openings (number bigint PRIMARY KEY, drawn bytea NOT NULL);
    CREATE TABLE IF NOT EXISTS clawdbot_values
        (place text, name bytea, value bytea NOT NULL, PRIMARY KEY (place, name));
    CREATE TABLE IF NOT EXISTS clawdbot_damaged
        (place text, name bytea, value bytea NOT NULL, PRIMARY KEY (place, name));
    -- What is sealed does not get smaller: nobody need try.
    ALTER TABLE clawdbot_values ALTER COLUMN value SET STORAGE EXTERNAL;
    ALTER TABLE clawdbot_damaged ALTER COLUMN value SET STORAGE EXTERNAL;
";

/// Held as long as the connection lives, by one daemon in each database. The numbers are only to be like no other's.
const LOCK: &str = "SELECT pg_try_advisory_lock(1668047223, 1684172660)";

/// How long a server may take to notice that the daemon before this one is gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// How long a server that has only just been started is waited for, as both may be when the machine is.
const STARTING_PATIENCE: Duration = Duration::from_secs(60);

/// Only a server that says so later, when it was asked to, may forget what it has committed.
const NOT_LESS_DURABLE: &str = "
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Of one statement; values beyond that go with the next.
const MAX_STATEMENT_BYTES: usize = 16 << 20;

/// See the module.
pub(super) struct Session {
    client: Client,
    put: Statement,
    remove: Statement,
}

impl Session {
    /// Connects and takes the database. `opening` is the number of ours, 0 where there was none yet.
    pub(super) fn begin(server: &PostgresServer, opening: u32) -> Result<Session, PostgresError> {
        let mut client = connect(server)?;
        client.batch_execute("SET client_min_messages = warning")?;
        take_lock(&mut client)?;
        if opening > 0 {
            let newest: i64 = client
                .query_one("SELECT coalesce(max(number), 0) FROM clawdbot_openings", &[])?
                .try_get(0)?;
            if newest != i64::from(opening) {
                return Err(PostgresError::Taken);
            }
        }
        client.batch_execute(NOT_LESS_DURABLE)?;
        let fsync: String = client
            .query_one("SELECT current_setting('fsync')", &[])?
            .try_get(0)?;
        if fsync != "on" {
            tracing::warn!(
                "PostgreSQL runs with fsync = off: a power cut may cost what was acknowledged; switch it on"
            );
        }
        let mut making = client.transaction()?;
        making.batch_execute(TABLES)?;
        making.commit()?;
        Ok(Session {
            put: client.prepare(
                "INSERT INTO clawdbot_values (place, name, value)
                 SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[])
                 ON CONFLICT (place, name) DO UPDATE SET value = excluded.value",
            )?,
            remove: client.prepare(
                "DELETE FROM clawdbot_values USING unnest($1::text[], $2::bytea[]) AS gone (place, name)
                 WHERE clawdbot_values.place = gone.place AND clawdbot_values.name = gone.name",
            )?,
            client,
        })
    }

    /// Returns the number of the opening that was noted, if one was.
    pub(super) fn transact(&mut self, work: Work<'_>) -> Result<Option<u32>, DatabaseError> {
        let mut changing = Changing {
            transaction: self.client.transaction()?,
            put: &self.put,
            remove: &self.remove,
            opening: None,
        };
        work(&mut changing)?;
        changing.transaction.commit()?;
        Ok(changing.opening)
    }

    /// Writes the table with the data key to another file, and what the old one had is given back.
    pub(super) fn rewrite_keys(&mut self) -> Result<(), DatabaseError> {
        Ok(self.client.batch_execute("VACUUM FULL clawdbot_keys")?)
    }

    pub(super) fn compact(&mut self) -> Result<(u64, u64), DatabaseError> {
        let before = self.bytes()?;
        // Each for itself: together they would be one transaction, which this must not be in.
        self.client.batch_execute("VACUUM FULL clawdbot_values")?;
        self.client.batch_execute("VACUUM FULL clawdbot_damaged")?;
        Ok((before, self.bytes()?))
    }

    fn bytes(&mut self) -> Result<u64, DatabaseError> {
        let query =
            "SELECT pg_total_relation_size('clawdbot_values') + pg_total_relation_size('clawdbot_damaged')";
        let bytes: i64 = self.client.query_one(query, &[])?.try_get(0)?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }
}

fn connect(server: &PostgresServer) -> Result<Client, PostgresError> {
    let deadline = Instant::now() + STARTING_PATIENCE;
    let mut is_told = false;
    loop {
        match config::connect(server) {
            Err(PostgresError::Connect(error))
                if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && Instant::now() < deadline =>
            {
                if !is_told {
                    tracing::info!("PostgreSQL is starting; it is waited for");
                    is_told = true;
                }
                std::thread::sleep(LOOK);
            }
            connected => return connected,
        }
    }
}

fn take_lock(client: &mut Client) -> Result<(), PostgresError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while !client.query_one(LOCK, &[])?.try_get::<_, bool>(0)? {
        if Instant::now() > deadline {
            return Err(PostgresError::InUse);
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

struct Changing<'c> {
    transaction: Transaction<'c>,
    put: &'c Statement,
    remove: &'c Statement,
    opening: Option<u32>,
}

impl Writing for Changing<'_> {
    fn apply(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let transaction = &mut self.transaction;
        if let Some((number, drawn)) = &batch.opening {
            transaction.execute(
                "INSERT INTO clawdbot_openings (number, drawn) VALUES ($1, $2)",
                &[&i64::from(*number), &&drawn[..]],
            )?;
            self.opening = Some(*number);
        }
        if let Some(schema) = batch.schema {
            let schema = i64::try_from(schema).unwrap_or(i64::MAX);
            transaction.execute(
                "INSERT INTO clawdbot_numbers (name, value) VALUES ('schema', $1)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                &[&schema],
            )?;
        }
        if let Some(data_key) = &batch.data_key {
            transaction.execute(
                "INSERT INTO clawdbot_keys (name, value) VALUES ('data key', $1)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                &[data_key],
            )?;
        }
        if batch.forgets_set_aside {
            transaction.execute("DELETE FROM clawdbot_damaged", &[])?;
        }
        for damaged in &batch.set_aside {
            transaction.execute(
                "INSERT INTO clawdbot_damaged (place, name, value) VALUES ($1, $2, $3)
                 ON CONFLICT (place, name) DO UPDATE SET value = excluded.value",
                &[&damaged.table, &&damaged.name[..], &damaged.sealed],
            )?;
        }
        self.put(batch)?;
        self.remove(batch)
    }
}

impl Changing<'_> {
    fn put(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let mut columns = Columns::default();
        for ((table, place), sealed) in &batch.values {
            let Some(sealed) = sealed else { continue };
            columns.tables.push(table);
            columns.names.push(place);
            columns.values.push(sealed);
            columns.bytes += sealed.len();
            if columns.bytes > MAX_STATEMENT_BYTES {
                self.put_columns(std::mem::take(&mut columns))?;
            }
        }
        self.put_columns(columns)
    }

    fn put_columns(&mut self, columns: Columns<'_>) -> Result<(), DatabaseError> {
        if !columns.tables.is_empty() {
            let Columns {
                tables,
                names,
                values,
                ..
            } = columns;
            self.transaction.execute(self.put, &[&tables, &names, &values])?;
        }
        Ok(())
    }

    fn remove(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let gone = batch.values.iter().filter(|(_, sealed)| sealed.is_none());
        let (tables, names): (Vec<&str>, Vec<&[u8]>) =
            gone.map(|((table, place), _)| (*table, &place[..])).unzip();
        if !tables.is_empty() {
            self.transaction.execute(self.remove, &[&tables, &names])?;
        }
        Ok(())
    }
}

/// Values, as a statement takes them.
#[derive(Default)]
struct Columns<'b> {
    tables: Vec<&'b str>,
    names: Vec<&'b [u8]>,
    values: Vec<&'b [u8]>,
    bytes: usize,
}

//! The database on a PostgreSQL server. Its client waits, and so nothing here may be called by a thread that runs
//! tasks: the store's own threads call it. The server's `fsync` and `synchronous_commit` keep what was committed; here it
//! is seen to that only one daemon uses a database, and that a lost connection leaves no half of anything.

mod config;
mod reading;
mod server;

use std::error::Error;
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::postgres::Client;
use ::postgres::error::SqlState;

use super::backend::{Backend, Reading, Work};
use super::database::DatabaseError;
use crate::outbound::OutboundError;
use crate::settings::PostgresServer;
pub(crate) use config::config;
use reading::Moment;
use server::Session;

/// Why the server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// It does not answer, or lets nobody in.
    #[error(
        "cannot be connected to: {}; see whether it runs and its address, database, user and password are right \
         (store.postgres_url)", whole(.0)
    )]
    Connect(::postgres::Error),
    /// It did not do what it was asked.
    #[error("did not do what it was asked: {}; see its log", whole(.0))]
    Query(#[from] ::postgres::Error),
    /// Another daemon has it.
    #[error("has this database in use by another Clawdbot; stop that, or give each a database of its own")]
    InUse,
    /// Another daemon had it meanwhile.
    #[error(
        "has had this database in use by another Clawdbot since; this one writes nothing any more: stop one of them"
    )]
    Taken,
    /// What is in its tables is not ours.
    #[error(
        "has something in the tables that Clawdbot did not write: {0}; give Clawdbot a database of its own"
    )]
    Foreign(&'static str),
    /// The URL.
    #[error("cannot be used with store.postgres_url as it is: {0}")]
    Setting(String),
    /// The password or TLS.
    #[error("cannot be connected to: {0}")]
    Outbound(#[from] OutboundError),
}

impl PostgresError {
    /// Whether the server was away, or is starting. It may let us in later.
    pub(super) fn may_pass(&self) -> bool {
        let error = match self {
            Self::Connect(error) | Self::Query(error) => error,
            Self::InUse => return true,
            _ => return false,
        };
        if let Some(code) = error.code() {
            return *code == SqlState::CANNOT_CONNECT_NOW;
        }
        let mut behind = error.source();
        while let Some(error) = behind {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput);
            }
            behind = error.source();
        }
        false
    }
}

impl From<::postgres::Error> for DatabaseError {
    fn from(error: ::postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// An error with what is behind it, which its own text leaves out.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        // A String takes everything.
        let _ = write!(text, ": {error}");
        behind = error.source();
    }
    text
}

/// See the module.
pub(super) struct Postgres {
    server: PostgresServer,
    /// The connection that writes; None after an error.
    session: Mutex<Option<Session>>,
    /// Connections that read, at rest.
    idle: Mutex<Vec<Client>>,
    /// The number of our opening, 0 before that.
    opening: AtomicU32,
    is_closed: AtomicBool,
}

impl Postgres {
    /// Connects, takes the database for this daemon, and makes the tables where they are not there.
    pub(super) fn open(server: &PostgresServer) -> Result<Postgres, DatabaseError> {
        let opened = Postgres {
            server: server.clone(),
            session: Mutex::new(None),
            idle: Mutex::default(),
            opening: AtomicU32::new(0),
            is_closed: AtomicBool::new(false),
        };
        let session = Session::begin(server, 0)?;
        *opened.session() = Some(session);
        Ok(opened)
    }

    /// Connects, and asks the server which one it is.
    pub(super) fn reach(server: &PostgresServer) -> Result<String, DatabaseError> {
        let mut client = config::connect(server)?;
        let version = client.query_one("SELECT current_setting('server_version')", &[]);
        let version: String = version
            .and_then(|row| row.try_get(0))
            .map_err(PostgresError::from)?;
        Ok(format!("PostgreSQL {version}"))
    }

    /// Has the server give back what it does not need. Returns the bytes of the tables before and after.
    pub(super) fn compact(&self) -> Result<(u64, u64), DatabaseError> {
        match &mut *self.session() {
            Some(session) => session.compact(),
            None => Err(DatabaseError::Closed),
        }
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back a connection that reads, unless it is over.
    fn rest(&self, client: Client) {
        let mut idle = self.idle();
        if !self.is_closed.load(Relaxed) {
            idle.push(client);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Postgres {
    fn transact(&self, work: Work<'_>) -> Result<(), DatabaseError> {
        let mut session = self.session();
        if session.is_none() {
            *session = Some(Session::begin(&self.server, self.opening.load(Relaxed))?);
            // Those that wait are of the time before whatever happened.
            self.idle().clear();
            self.is_closed.store(false, Relaxed);
        }
        let outcome = match &mut *session {
            Some(open) => open.transact(work),
            None => Err(DatabaseError::Closed),
        };
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(opening)) => {
                self.opening.store(opening, Relaxed);
                Ok(())
            }
            Err(error) => {
                // Whether it was committed is not known: what is tried again says the same once more.
                *session = None;
                self.is_closed.store(true, Relaxed);
                Err(error)
            }
        }
    }

    fn read(&self) -> Result<Box<dyn Reading + '_>, DatabaseError> {
        if self.is_closed.load(Relaxed) {
            return Err(DatabaseError::Closed);
        }
        let idle = self.idle().pop();
        let connect = || Moment::begin(config::connect(&self.server)?, self);
        let moment = match idle {
            // The server may have been started again since: then another one is needed.
            Some(client) => Moment::begin(client, self).or_else(|_| connect()),
            None => connect(),
        };
        Ok(Box::new(moment?))
    }

    /// Where the server keeps what is replaced (its tables until they are written anew, its log until that is cut
    /// off, its backups) is its own to say; the tables are ours to have written.
    fn wipe(&self, _secret: &[u8]) -> Result<(), DatabaseError> {
        match &mut *self.session() {
            Some(session) => session.rewrite_keys(),
            None => Err(DatabaseError::Closed),
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Relaxed);
        let open = (self.session().take(), std::mem::take(&mut *self.idle()));
        drop(open);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.close();
    }
}

//! Persistence. The only room that knows diesel; it exports commands, queries and domain types.
//!
//! Commands change something and run in the writer's transactions ([`Store::write`]); queries read and run on the
//! readers ([`Store::read`]). One file for each aggregate.
pub mod agent_keys;
pub mod agents;
pub mod audit;
pub mod chat;
pub mod claims;
pub mod conversations;
pub mod deliveries;
mod dialect;
pub mod gateways;
mod held;
pub mod lease;
pub mod mailbox;
pub mod members;
mod memory;
pub mod messages;
pub mod open;
pub mod parties;
pub mod purge;
mod readers;
pub mod relationships;
pub mod retention;
mod schema;
pub mod search;
pub mod sessions;
pub mod stats;
pub mod track;
pub mod turns;
mod tx;
pub mod upstream;
pub mod users;
pub mod vault;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

pub use dialect::{Db, Pooling, Settings, explain, migrate_all, revert_all};
pub use open::{LOCK_FILE, Location, Opener, ServerLock};
pub use readers::{Place, Readers};
pub use tx::{Command, Probe, Tx};
pub use writer::{
    Lane, WriterHandle, WriterOptions, WriterParts, WriterSeed, WriterStats, queues as writer_queues,
    spawn as spawn_writer,
};

use crate::domain::error::{Error, ErrorCode};

/// Everything that reads or writes the database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: WriterHandle,
    readers: Readers,
    location: Location,
    /// The epoch under which this node writes; 0 while it is not the active one.
    epoch: Arc<AtomicI64>,
    removed: Arc<retention::Removed>,
}

impl Store {
    /// Puts a store together from a running writer and a pool of readers.
    pub fn new(writer: WriterHandle, opener: Opener, readers: u32, epoch: Arc<AtomicI64>) -> Result<Self, Error> {
        let location = opener.location.clone();
        Ok(Self { writer, readers: Readers::open(opener, readers)?, location, epoch, removed: Arc::default() })
    }

    /// Runs a command in the interactive lane. The answer comes after the commit (STO-1); dropping the future does not
    /// stop the command.
    pub async fn write<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        answer(self.writer.submit(Lane::Interactive, command)?).await
    }

    /// Runs a command in the bulk lane, behind everything interactive.
    pub async fn write_bulk<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        answer(self.writer.submit(Lane::Bulk, command)?).await
    }

    /// Queues a command whose answer nobody waits for. The writer logs its failure, and that of a whole batch once.
    pub fn write_later<C: Command>(&self, lane: Lane, command: C) -> Result<(), Error> {
        self.writer.submit_later(lane, command)
    }

    /// Runs a query in a read transaction of its own.
    pub async fn read<T, E>(&self, query: impl FnOnce(&mut Db) -> Result<T, E> + Send + 'static) -> Result<T, Error>
    where
        T: Send + 'static,
        Error: From<E>,
    {
        self.readers.read(query).await
    }

    pub fn writer(&self) -> &WriterHandle {
        &self.writer
    }

    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    pub fn location(&self) -> &Location {
        &self.location
    }

    pub fn epoch(&self) -> &Arc<AtomicI64> {
        &self.epoch
    }

    /// Returns what retention has removed so far.
    pub fn removed(&self) -> &retention::Removed {
        &self.removed
    }

    /// Copies the database to `target` while it runs; refuses a file that exists.
    pub async fn backup(&self, target: PathBuf) -> Result<(), Error> {
        if target.exists() {
            return Err(
                Error::new(ErrorCode::AlreadyExists, format!("`{}` exists already", target.display())).with_status(409)
            );
        }
        let copied = self.read_outside(move |db| dialect::copy_to(db, &target)).await?;
        copied.ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidRequest,
                "this database is PostgreSQL: run `pg_dump --schema=clawbroker --format=custom --file=clawbroker.dump \"$DATABASE_URL\"`",
            )
            .with_status(409)
        })
    }

    /// Asks the database to check itself; returns what it complains of.
    pub async fn integrity_check(&self) -> Result<Vec<String>, Error> {
        self.read_outside(dialect::integrity_check).await
    }

    /// Asks the database what time it is.
    pub async fn database_now_ms(&self) -> Result<i64, Error> {
        self.read_outside(dialect::database_now_ms).await
    }

    /// Runs work on a connection of its own, outside any transaction.
    async fn read_outside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T, diesel::result::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let opener = self.readers.opener().clone();
        actix_rt::task::spawn_blocking(move || {
            let mut db = opener.writable()?;
            work(&mut db).map_err(Error::from)
        })
        .await
        .map_err(|_| Error::internal("database work panicked"))?
    }
}

async fn answer<T>(receiver: tokio::sync::oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    // The thread ends only after it has answered everybody, unless it is torn down: then the outcome is unknown.
    receiver
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorCode::ShuttingDown, "the server is stopping; repeat the call")))
}

/// Takes the locks that keep a second server off the data: in the data directory, and beside an SQLite file if that is
/// elsewhere.
pub fn lock_for_server(data_dir: &Path, location: &Location) -> Result<Vec<ServerLock>, Error> {
    let mut locks = vec![ServerLock::take(data_dir)?];
    let Location::Sqlite(path) = location else { return Ok(locks) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::internal)?;
    let same = |a: &Path, b: &Path| a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    if !same(folder, data_dir) {
        locks.push(ServerLock::take(folder)?);
    }
    Ok(locks)
}

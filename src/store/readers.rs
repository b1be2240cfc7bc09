//! The pool of read-only connections. Reads run on blocking threads; a bounded number waits, for a bounded time.
//!
//! What links read for hundreds of sessions at once after a reconnect goes by a lane of its own, which takes half of the
//! connections, at least one: whoever else reads does not wait behind it.
use std::sync::Arc;
use std::time::Duration;

use r2d2::ManageConnection;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::dialect::{self, Db, Pooling};
use super::open::Opener;
use crate::domain::error::Error;

/// How long a read waits for its turn before it answers `store_busy`.
const WAIT: Duration = Duration::from_secs(5);
/// Reads that run or wait for each connection; beyond it they are refused at once (LIM-1).
const WAITING_PER_CONNECTION_MAX: usize = 64;

/// Makes and checks pooled connections.
struct Manager(Opener);

impl ManageConnection for Manager {
    type Connection = Db;
    type Error = Fault;

    fn connect(&self) -> Result<Db, Fault> {
        self.0.read_only().map_err(Fault)
    }

    fn is_valid(&self, db: &mut Db) -> Result<(), Fault> {
        dialect::database_now_ms(db).map(drop).map_err(|error| Fault(error.into()))
    }

    fn has_broken(&self, db: &mut Db) -> bool {
        use diesel::connection::TransactionManager;
        <Db as diesel::Connection>::TransactionManager::is_broken_transaction_manager(db)
    }
}

/// r2d2 wants an error type of its own.
#[derive(Debug)]
struct Fault(Error);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}

/// A place in the lane of what nobody waits for.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "it counts by being held")] OwnedSemaphorePermit);

fn closed(_: AcquireError) -> Error {
    Error::internal("the readers are closed")
}

/// Read-only connections. Cheap to clone.
#[derive(Clone)]
pub struct Readers {
    pool: r2d2::Pool<Manager>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    background: Arc<Semaphore>,
    background_waiting: Arc<Semaphore>,
    pooling: Pooling,
    opener: Opener,
}

impl Readers {
    /// Opens a pool of at most `size` connections; they are made when they are needed.
    pub(super) fn open(opener: Opener, size: u32) -> Result<Self, Error> {
        let pooling = opener.settings.pooling;
        let pool = r2d2::Pool::builder()
            .max_size(size)
            .min_idle(Some(0))
            .connection_timeout(WAIT)
            // A local file does not go away; asking each time would double the cost of a short read.
            .test_on_check_out(matches!(opener.location, super::open::Location::Postgres(_)))
            .build_unchecked(Manager(opener.clone()));
        let size = size as usize;
        Ok(Self {
            pool,
            turns: Arc::new(Semaphore::new(size)),
            waiting: Arc::new(Semaphore::new(size * WAITING_PER_CONNECTION_MAX)),
            background: Arc::new(Semaphore::new((size / 2).max(1))),
            background_waiting: Arc::new(Semaphore::new(size * WAITING_PER_CONNECTION_MAX)),
            pooling,
            opener,
        })
    }

    /// Runs a query in a read transaction of its own.
    pub async fn read<T, E>(&self, query: impl FnOnce(&mut Db) -> Result<T, E> + Send + 'static) -> Result<T, Error>
    where
        T: Send + 'static,
        Error: From<E>,
    {
        let Ok(_waiting) = self.waiting.clone().try_acquire_owned() else { return Err(Error::store_busy()) };
        let turn = tokio::time::timeout(WAIT, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::store_busy()) };
        self.run(turn, query).await
    }

    /// Waits for a place in the lane of what nobody waits for, as long as it takes. Whoever holds one reads soon or lets
    /// it go.
    pub async fn background_place(&self) -> Result<Place, Error> {
        self.background.clone().acquire_owned().await.map(Place).map_err(closed)
    }

    /// Runs a query that nobody waits for, in that lane. What it is about is held in memory meanwhile, so that the line is
    /// bounded as well.
    pub async fn read_in_background<T, E>(
        &self,
        query: impl FnOnce(&mut Db) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        Error: From<E>,
    {
        let Ok(_waiting) = self.background_waiting.clone().try_acquire_owned() else { return Err(Error::store_busy()) };
        let place = self.background_place().await?;
        let turn = self.turns.clone().acquire_owned().await.map_err(closed)?;
        self.run((turn, place), query).await
    }

    /// Runs a query on a thread that may block. `held` is let go of when the query has ended, also when whoever asked has
    /// gone.
    async fn run<T, E>(
        &self,
        held: impl Send + 'static,
        query: impl FnOnce(&mut Db) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        Error: From<E>,
    {
        let this = self.clone();
        let work = move || {
            let _held = held;
            this.read_blocking(query)
        };
        actix_rt::task::spawn_blocking(work).await.map_err(|_| Error::internal("a query panicked"))?
    }

    /// The same for callers that are on a thread of their own.
    pub fn read_blocking<T, E>(&self, query: impl FnOnce(&mut Db) -> Result<T, E>) -> Result<T, Error>
    where
        Error: From<E>,
    {
        let mut db = self.pool.get()?;
        dialect::begin_read(&mut db, self.pooling)?;
        let result = query(&mut db).map_err(Error::from);
        match &result {
            Ok(_) => dialect::commit(&mut db)?,
            // The first error is the one to report; a connection that cannot roll back is dropped by the pool.
            Err(_) => drop(dialect::rollback(&mut db)),
        }
        result
    }

    pub(super) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Returns how many connections are open and how many of them are idle.
    pub fn state(&self) -> (u32, u32) {
        let state = self.pool.state();
        (state.connections, state.idle_connections)
    }
}

//! The thread that owns the only writing connection.
//!
//! What gathered while the last batch was on its way to the disk is the next batch: no timer waits for it to fill.
//! Interactive commands go before bulk ones, and bulk ones are bounded per batch. A batch runs without savepoints; if
//! a command fails after it has written, the batch is rolled back and repeated with a savepoint for each, so that it
//! fails alone. After the commit events are told first, then everybody is answered: who has an answer finds what it
//! speaks of.
//!
//! Invariants
//! - STO-1: nobody is answered before the commit.
//! - LIM-1: both lanes are bounded; a full one answers `store_busy`.
//! - D5: on PostgreSQL each transaction checks that this node is still the active one.
//! - D12: after an I/O error or a commit of unknown outcome the connection is opened anew; nothing is tried again.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::dialect::{self, Db};
use super::open::Opener;
use super::tx::{Command, Memory, Tx};
use crate::domain::clock::Clock;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Publish;

/// How the writer works; the numbers come from `config/store.rs`.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    pub queue_max: usize,
    pub batch_max: usize,
    pub bulk_queue_max: usize,
    pub bulk_batch_max: usize,
}

/// Counters that anybody may read.
#[derive(Debug, Default)]
pub struct WriterStats {
    pub commits_total: AtomicU64,
    pub commands_total: AtomicU64,
    pub failed_total: AtomicU64,
    pub replays_total: AtomicU64,
    pub refused_total: AtomicU64,
    pub reopened_total: AtomicU64,
    pub batch_max_seen: AtomicU64,
    /// Wall time of the last commit, epoch milliseconds; 0 before the first.
    pub last_commit_at: AtomicI64,
    /// 1 while the database cannot be written to.
    pub broken: AtomicU64,
}

/// Hands commands to the writer's thread. Cheap to clone.
#[derive(Clone)]
pub struct WriterHandle {
    interactive: Sender<Box<dyn Job>>,
    bulk: Sender<Box<dyn Job>>,
    stats: Arc<WriterStats>,
}

/// Which queue a command waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Interactive,
    Bulk,
}

impl WriterHandle {
    /// Queues a command at once and returns its answer, which comes after the commit (STO-1). Dropping the returned
    /// receiver does not cancel the command.
    pub fn submit<C: Command>(&self, lane: Lane, command: C) -> Result<oneshot::Receiver<Result<C::Output, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { command, reply: Some(reply), outcome: None });
        let queue = match lane {
            Lane::Interactive => &self.interactive,
            Lane::Bulk => &self.bulk,
        };
        match queue.try_send(job) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => {
                self.stats.refused_total.fetch_add(1, Ordering::Relaxed);
                Err(Error::store_busy())
            }
            Err(TrySendError::Disconnected(_)) => {
                Err(Error::new(ErrorCode::ShuttingDown, "the server is stopping; try again in a moment"))
            }
        }
    }

    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// Returns how many commands wait in each lane.
    pub fn queued(&self) -> (usize, usize) {
        (self.interactive.len(), self.bulk.len())
    }
}

/// A command of any type, on its way through the writer.
trait Job: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    fn refuse(&mut self, error: Error);
    fn settle(self: Box<Self>);
}

struct Pending<C: Command> {
    command: C,
    reply: Option<oneshot::Sender<Result<C::Output, Error>>>,
    outcome: Option<Result<C::Output, Error>>,
}

impl<C: Command> Job for Pending<C> {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        // A panic must not take the thread with it; it is this command's failure alone.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.command.apply(tx))).unwrap_or_else(|_| {
            // It may have written before it panicked.
            tx.write();
            Err(Error::internal("a store command panicked"))
        });
        let fine = outcome.is_ok();
        self.outcome = Some(outcome);
        fine
    }

    fn refuse(&mut self, error: Error) {
        self.outcome = Some(Err(error));
    }

    fn settle(mut self: Box<Self>) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err(Error::store_busy()));
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone; the change is made all the same.
            let _ = reply.send(outcome);
        }
    }
}

/// Everything the thread needs, so that its supervisor can start it again.
pub struct WriterParts {
    pub opener: Opener,
    pub options: WriterOptions,
    pub clock: Arc<dyn Clock>,
    pub publish: Arc<dyn Publish>,
    /// The epoch under which this node may write; 0 while it is not active. Checked on PostgreSQL.
    pub epoch: Arc<AtomicI64>,
}

/// Starts the thread. It ends when all handles are gone and the queues are empty.
pub fn spawn(parts: WriterParts) -> Result<(WriterHandle, std::thread::JoinHandle<()>), Error> {
    let (interactive, interactive_queue) = bounded(parts.options.queue_max);
    let (bulk, bulk_queue) = bounded(parts.options.bulk_queue_max);
    let stats = Arc::new(WriterStats::default());
    let handle = WriterHandle { interactive, bulk, stats: stats.clone() };
    let db = parts.opener.writable()?;
    let worker = Worker { parts, interactive: interactive_queue, bulk: bulk_queue, stats, db: Some(db), memory: Memory::default() };
    let thread = std::thread::Builder::new().name("store".into()).spawn(move || worker.run()).map_err(Error::internal)?;
    Ok((handle, thread))
}

struct Worker {
    parts: WriterParts,
    interactive: Receiver<Box<dyn Job>>,
    bulk: Receiver<Box<dyn Job>>,
    stats: Arc<WriterStats>,
    /// `None` after a fault, until it could be opened again.
    db: Option<Db>,
    memory: Memory,
}

/// How a batch ended.
enum Ended {
    Committed(Vec<crate::domain::event::Event>),
    /// A command failed after it had written: repeat with savepoints.
    Repeat,
    /// Nothing was written; all get this error's like.
    Failed(Error, Fate),
}

/// What a failure means for the connection.
#[derive(PartialEq, Eq)]
enum Fate {
    Keep,
    Reopen,
}

impl Worker {
    fn run(mut self) {
        while let Some(mut batch) = self.gather() {
            let size = batch.len() as u64;
            self.stats.commands_total.fetch_add(size, Ordering::Relaxed);
            self.stats.batch_max_seen.fetch_max(size, Ordering::Relaxed);
            self.write(&mut batch);
            for job in batch {
                job.settle();
            }
        }
    }

    /// Waits for work and takes all that waits, up to the bounds. `None` when nobody can send any more.
    fn gather(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut batch = Vec::with_capacity(16);
        crossbeam_channel::select_biased! {
            recv(self.interactive) -> job => match job {
                Ok(job) => batch.push(job),
                // The last handle is gone; bulk work that still waits is finished first.
                Err(_) => batch.push(self.bulk.recv().ok()?),
            },
            recv(self.bulk) -> job => match job {
                Ok(job) => batch.push(job),
                Err(_) => batch.push(self.interactive.recv().ok()?),
            },
        }
        while batch.len() < self.parts.options.batch_max
            && let Ok(job) = self.interactive.try_recv()
        {
            batch.push(job);
        }
        let bulk_until = (batch.len() + self.parts.options.bulk_batch_max).min(self.parts.options.batch_max);
        while batch.len() < bulk_until
            && let Ok(job) = self.bulk.try_recv()
        {
            batch.push(job);
        }
        Some(batch)
    }

    fn write(&mut self, batch: &mut [Box<dyn Job>]) {
        let ended = match self.attempt(batch, false) {
            Ended::Repeat => {
                self.stats.replays_total.fetch_add(1, Ordering::Relaxed);
                self.attempt(batch, true)
            }
            ended => ended,
        };
        match ended {
            Ended::Committed(events) => {
                self.stats.commits_total.fetch_add(1, Ordering::Relaxed);
                self.stats.broken.store(0, Ordering::Relaxed);
                self.stats.last_commit_at.store(self.parts.clock.now_ms(), Ordering::Relaxed);
                if !events.is_empty() {
                    self.parts.publish.publish(events);
                }
            }
            Ended::Repeat => debug_assert!(false, "a batch with savepoints is never repeated"),
            Ended::Failed(error, fate) => {
                self.stats.failed_total.fetch_add(1, Ordering::Relaxed);
                log::warn!(commands = batch.len() as u64; "a batch of the store failed: {error}");
                for job in batch.iter_mut() {
                    job.refuse(copy_of(&error));
                }
                if fate == Fate::Reopen {
                    // Dropping the connection rolls back whatever it held.
                    self.db = None;
                    self.memory.clear();
                    self.stats.broken.store(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn attempt(&mut self, batch: &mut [Box<dyn Job>], savepoints: bool) -> Ended {
        let db = match self.db.take() {
            Some(db) => db,
            None => match self.parts.opener.writable() {
                Ok(db) => {
                    self.stats.reopened_total.fetch_add(1, Ordering::Relaxed);
                    db
                }
                Err(error) => return Ended::Failed(error, Fate::Reopen),
            },
        };
        let db = self.db.insert(db);
        let pooling = self.parts.opener.settings.pooling;
        if let Err(error) = dialect::begin_write(db, pooling).map_err(Error::from).and_then(|()| check_epoch(db, &self.parts.epoch)) {
            let fate = if error.code() == ErrorCode::Standby { Fate::Keep } else { Fate::Reopen };
            // The rollback of a transaction that never began fails; the connection is judged by what comes next.
            let _ = dialect::rollback(db);
            return Ended::Failed(error, fate);
        }
        let mut tx = Tx::new(db, &mut self.memory, self.parts.clock.now_ms());
        for job in batch.iter_mut() {
            if savepoints {
                run_alone(&mut tx, job);
            } else if !job.run(&mut tx) && tx.take_dirty() {
                tx.rolled_back();
                return match dialect::rollback(db) {
                    Ok(()) => Ended::Repeat,
                    Err(error) => Ended::Failed(error.into(), Fate::Reopen),
                };
            } else {
                tx.take_dirty();
            }
        }
        if let Err(error) = tx.flush() {
            tx.rolled_back();
            let fate = if dialect::rollback(db).is_ok() { Fate::Keep } else { Fate::Reopen };
            return Ended::Failed(error, fate);
        }
        // The view borrows the connection; its results are kept aside while the commit runs.
        let mark = tx.into_uncommitted();
        match dialect::commit(db) {
            Ok(()) => Ended::Committed(mark.committed(&mut self.memory)),
            Err(error) => {
                let full = dialect::fault(&error) == dialect::Fault::NoSpace;
                let rolled_back = dialect::rollback(db).is_ok();
                // Out of space the database has said that it did not commit; anything else is not known (D12).
                if full {
                    Ended::Failed(error.into(), if rolled_back { Fate::Keep } else { Fate::Reopen })
                } else {
                    log::error!("a commit failed with an unknown outcome, the connection is opened anew: {error}");
                    Ended::Failed(
                        Error::new(
                            ErrorCode::StoreBusy,
                            "the database failed while it stored this; repeat the call with the same key",
                        ),
                        Fate::Reopen,
                    )
                }
            }
        }
    }
}

/// Runs one command between savepoints; its failure leaves the others alone.
fn run_alone(tx: &mut Tx<'_>, job: &mut Box<dyn Job>) {
    let mark = tx.mark();
    if !tx.in_savepoint(|tx| job.run(tx)) {
        tx.back_to(mark);
    }
    tx.take_dirty();
}

/// Refuses to write when another node has taken over (D5).
fn check_epoch(db: &mut Db, epoch: &AtomicI64) -> Result<(), Error> {
    if matches!(db, Db::Sqlite(_)) {
        return Ok(());
    }
    let ours = epoch.load(Ordering::SeqCst);
    // Before it is active a node writes nothing but the lease itself.
    if ours == 0 {
        return Ok(());
    }
    match dialect::epoch_for_share(db)? {
        Some(current) if current == ours => Ok(()),
        _ => Err(Error::new(ErrorCode::Standby, "another node is active on this database now")),
    }
}

/// Makes the error for each caller of a failed batch.
fn copy_of(error: &Error) -> Error {
    let copy = match error.code() {
        ErrorCode::Internal => Error::internal(error.to_string()),
        code => Error::new(code, error.message()),
    };
    match error.retry_after_s() {
        Some(seconds) => copy.with_retry_after_s(seconds),
        None => copy,
    }
}

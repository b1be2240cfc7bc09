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
//! - D12: after an I/O error or a commit of unknown outcome the connection is opened anew and the log
//!   carried over into the file before anything else; nothing is tried again. If it may have been committed, that is told
//!   with the first commit that succeeds again: what was not heard of must be read then. So it is after a thread that fell.
mod job;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use self::job::{Job, Pending, Ran, copy_of};
use super::dialect::{self, Db};
use super::lease::{STANDBY, UNCHECKED};
use super::mailbox::Deaths;
use super::memory::Memory;
use super::open::Opener;
use super::tx::{Command, Tx};
use crate::domain::clock::Clock;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, Publish};

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
    pub opened_total: AtomicU64,
    /// Requests that were one too many in a row, and those that came too fast (RTE-1).
    pub hop_limit_total: AtomicU64,
    pub pair_rate_limited_total: AtomicU64,
    /// Messages to agents that died, by kind.
    pub dead_requests_total: AtomicU64,
    pub dead_replies_total: AtomicU64,
    pub dead_notices_total: AtomicU64,
    pub batch_max_seen: AtomicU64,
    /// Wall time of the last commit, epoch milliseconds; 0 before the first.
    pub last_commit_at: AtomicI64,
    /// 1 while the database cannot be written to.
    pub broken: AtomicU64,
}

impl WriterStats {
    /// Counts what a rule refused.
    fn note_refusal(&self, code: ErrorCode) {
        let total = match code {
            ErrorCode::HopLimit => &self.hop_limit_total,
            ErrorCode::PairRateLimited => &self.pair_rate_limited_total,
            _ => return,
        };
        total.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what died in a transaction that was committed.
    fn note_deaths(&self, deaths: Deaths) {
        self.dead_requests_total.fetch_add(deaths.requests, Ordering::Relaxed);
        self.dead_replies_total.fetch_add(deaths.replies, Ordering::Relaxed);
        self.dead_notices_total.fetch_add(deaths.notices, Ordering::Relaxed);
    }
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
    pub fn submit<C: Command>(
        &self,
        lane: Lane,
        command: C,
    ) -> Result<oneshot::Receiver<Result<C::Output, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(lane, Pending { command, reply: Some(reply), outcome: None, refused: false })?;
        Ok(answer)
    }

    /// Queues a command whose answer nobody waits for; its failure is logged.
    pub fn submit_later<C: Command>(&self, lane: Lane, command: C) -> Result<(), Error> {
        self.enqueue(lane, Pending { command, reply: None, outcome: None, refused: false })
    }

    fn enqueue<C: Command>(&self, lane: Lane, pending: Pending<C>) -> Result<(), Error> {
        let queue = match lane {
            Lane::Interactive => &self.interactive,
            Lane::Bulk => &self.bulk,
        };
        match queue.try_send(Box::new(pending)) {
            Ok(()) => Ok(()),
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

/// Everything the thread needs, so that its supervisor can start it again.
pub struct WriterParts {
    pub opener: Opener,
    pub options: WriterOptions,
    pub clock: Arc<dyn Clock>,
    pub publish: Arc<dyn Publish>,
    /// The epoch under which this node may write, or [`super::lease::STANDBY`]. Checked on PostgreSQL.
    pub epoch: Arc<AtomicI64>,
}

/// Makes the queues and starts the thread.
pub fn spawn(parts: WriterParts) -> Result<(WriterHandle, std::thread::JoinHandle<()>), Error> {
    let (handle, seed) = queues(parts);
    let thread = seed.start()?;
    Ok((handle, thread))
}

/// Starts the writer's thread, again if need be: what waits in the queues outlives the thread.
#[derive(Clone)]
pub struct WriterSeed {
    parts: Arc<WriterParts>,
    interactive: Receiver<Box<dyn Job>>,
    bulk: Receiver<Box<dyn Job>>,
    stats: Arc<WriterStats>,
    /// A thread has been started; the next one takes its place.
    started: Arc<AtomicBool>,
    /// A batch may have been committed of which nobody was told; they are told when the store is well again.
    in_doubt: Arc<AtomicBool>,
}

/// Makes the queues: the handle puts commands in, the seed grows a thread that takes them out.
pub fn queues(parts: WriterParts) -> (WriterHandle, WriterSeed) {
    let (interactive, interactive_queue) = bounded(parts.options.queue_max);
    let (bulk, bulk_queue) = bounded(parts.options.bulk_queue_max);
    let stats = Arc::new(WriterStats::default());
    let handle = WriterHandle { interactive, bulk, stats: stats.clone() };
    let seed = WriterSeed {
        parts: Arc::new(parts),
        interactive: interactive_queue,
        bulk: bulk_queue,
        stats,
        started: Arc::default(),
        in_doubt: Arc::default(),
    };
    (handle, seed)
}

impl WriterSeed {
    /// Starts the thread. It ends when all handles are gone and the queues are empty. One that takes the place of another
    /// takes it that the other had committed something when it fell, and had told nobody.
    pub fn start(&self) -> Result<std::thread::JoinHandle<()>, Error> {
        if self.started.swap(true, Ordering::SeqCst) {
            self.in_doubt.store(true, Ordering::SeqCst);
            self.stats.broken.store(1, Ordering::Relaxed);
        }
        let worker = Worker { seed: self.clone(), db: None, memory: Memory::default() };
        std::thread::Builder::new().name("store".into()).spawn(move || worker.run()).map_err(Error::internal)
    }

    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }
}

struct Worker {
    seed: WriterSeed,
    /// `None` before the first batch and after a fault, until it could be opened.
    db: Option<Db>,
    memory: Memory,
}

/// How a batch ended.
enum Ended {
    Committed(Vec<Event>),
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
    /// It may have been committed all the same: reopen, and say so.
    Doubt,
}

impl Worker {
    fn run(mut self) {
        while let Some(mut batch) = self.gather() {
            let size = batch.len() as u64;
            self.seed.stats.commands_total.fetch_add(size, Ordering::Relaxed);
            self.seed.stats.batch_max_seen.fetch_max(size, Ordering::Relaxed);
            // Read once: what is refused and what is checked must agree.
            let epoch = self.seed.parts.epoch.load(Ordering::SeqCst);
            if epoch == STANDBY {
                batch = refuse_in_standby(batch, &self.seed.stats);
            }
            if !batch.is_empty() {
                self.write(&mut batch, epoch);
            }
            for job in batch {
                job.settle(&self.seed.stats);
            }
        }
    }

    /// Waits for work and takes all that waits, up to the bounds. `None` when nobody can send any more.
    fn gather(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut batch = Vec::with_capacity(16);
        crossbeam_channel::select_biased! {
            recv(self.seed.interactive) -> job => match job {
                Ok(job) => batch.push(job),
                // The last handle is gone; bulk work that still waits is finished first.
                Err(_) => batch.push(self.seed.bulk.recv().ok()?),
            },
            recv(self.seed.bulk) -> job => match job {
                Ok(job) => batch.push(job),
                Err(_) => batch.push(self.seed.interactive.recv().ok()?),
            },
        }
        while batch.len() < self.seed.parts.options.batch_max
            && let Ok(job) = self.seed.interactive.try_recv()
        {
            batch.push(job);
        }
        // One bulk command goes along even in a full batch: else it would wait for as long as the rush lasts.
        let bulk_until = (batch.len() + self.seed.parts.options.bulk_batch_max)
            .min(self.seed.parts.options.batch_max.max(batch.len() + 1));
        while batch.len() < bulk_until
            && let Ok(job) = self.seed.bulk.try_recv()
        {
            batch.push(job);
        }
        Some(batch)
    }

    fn write(&mut self, batch: &mut [Box<dyn Job>], epoch: i64) {
        let ended = match self.attempt(batch, epoch, false) {
            Ended::Repeat => {
                self.seed.stats.replays_total.fetch_add(1, Ordering::Relaxed);
                self.attempt(batch, epoch, true)
            }
            ended => ended,
        };
        match ended {
            Ended::Committed(mut events) => {
                if self.seed.in_doubt.swap(false, Ordering::SeqCst) {
                    events.insert(0, Event::OutcomeUnknown);
                }
                self.seed.stats.commits_total.fetch_add(1, Ordering::Relaxed);
                self.seed.stats.last_commit_at.store(self.seed.parts.clock.now_ms(), Ordering::Relaxed);
                if !events.is_empty() {
                    self.seed.parts.publish.publish(events);
                }
                // Whoever sees it well has heard of a doubt.
                self.seed.stats.broken.store(0, Ordering::Relaxed);
            }
            Ended::Repeat => debug_assert!(false, "a batch with savepoints is never repeated"),
            Ended::Failed(error, fate) => {
                self.seed.stats.failed_total.fetch_add(1, Ordering::Relaxed);
                log::warn!(commands = batch.len() as u64; "a batch of the store failed: {}", error.cause());
                for job in batch.iter_mut() {
                    job.refuse(copy_of(&error));
                }
                if fate != Fate::Keep {
                    // Dropping the connection rolls back whatever it held.
                    self.db = None;
                    self.memory.clear();
                    self.seed.stats.broken.store(1, Ordering::Relaxed);
                }
                if fate == Fate::Doubt {
                    self.seed.in_doubt.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    /// Opens a connection; after a fault only when the disk has been found to keep what it says (D12).
    fn open(&self) -> Result<Db, Error> {
        let mut db = self.seed.parts.opener.writable()?;
        if self.seed.stats.broken.load(Ordering::Relaxed) != 0 {
            dialect::verify(&mut db)?;
        }
        Ok(db)
    }

    fn attempt(&mut self, batch: &mut [Box<dyn Job>], epoch: i64, savepoints: bool) -> Ended {
        let db = match self.db.take() {
            Some(db) => db,
            None => match self.open() {
                Ok(db) => {
                    self.seed.stats.opened_total.fetch_add(1, Ordering::Relaxed);
                    db
                }
                Err(error) => return Ended::Failed(error, Fate::Reopen),
            },
        };
        let db = self.db.insert(db);
        let settings = &self.seed.parts.opener.settings;
        self.memory.enter(epoch);
        if let Err(error) = dialect::begin_write(db, settings) {
            // A lock that is not to be had says nothing about the disk.
            if dialect::fault(&error) != dialect::Fault::Locked {
                return Ended::Failed(error.into(), Fate::Reopen);
            }
            // Whoever holds it writes without us; what is remembered may not be true any more.
            self.memory.clear();
            self.seed.stats.broken.store(1, Ordering::Relaxed);
            return Ended::Failed(error.into(), Fate::Keep);
        }
        if let Err(error) = check_epoch(db, epoch) {
            let rolled_back = dialect::rollback(db).is_ok();
            let keep = rolled_back && error.code() == ErrorCode::Standby;
            return Ended::Failed(error, if keep { Fate::Keep } else { Fate::Reopen });
        }
        let mut tx = Tx::new(db, &mut self.memory, self.seed.parts.clock.now_ms());
        for job in batch.iter_mut() {
            let ran = if savepoints { run_alone(&mut tx, job) } else { job.run(&mut tx) };
            let written = tx.take_dirty();
            match ran {
                Ran::Fine => {}
                // Its savepoint has taken it back, or there is nothing to take back.
                Ran::Refused | Ran::Failed if savepoints => {}
                Ran::Refused if !written => {}
                Ran::Refused | Ran::Failed => {
                    tx.rolled_back();
                    return match dialect::rollback(db) {
                        Ok(()) => Ended::Repeat,
                        Err(error) => Ended::Failed(error.into(), Fate::Reopen),
                    };
                }
                Ran::Lost(error) => {
                    tx.rolled_back();
                    let keep = dialect::rollback(db).is_ok() && error.code() == ErrorCode::StorageFull;
                    return Ended::Failed(error, if keep { Fate::Keep } else { Fate::Reopen });
                }
            }
        }
        if let Err(error) = tx.flush() {
            tx.rolled_back();
            let rolled_back = dialect::rollback(db).is_ok();
            return match Ran::by(&error) {
                // A row that was held back does not fit; its command is found by itself.
                Ran::Failed if rolled_back && !savepoints => Ended::Repeat,
                Ran::Lost(_) if error.code() != ErrorCode::StorageFull => Ended::Failed(error, Fate::Reopen),
                _ => Ended::Failed(error, if rolled_back { Fate::Keep } else { Fate::Reopen }),
            };
        }
        // The view borrows the connection; its results are kept aside while the commit runs.
        let mark = tx.into_uncommitted();
        match dialect::commit(db) {
            Ok(()) => {
                self.seed.stats.note_deaths(mark.deaths());
                Ended::Committed(mark.committed(&mut self.memory))
            }
            Err(error) => {
                self.memory.clear();
                let rolled_back = dialect::rollback(db).is_ok();
                match dialect::fault(&error) {
                    // The database has said that it did not commit; anything else is not known (D12).
                    dialect::Fault::NoSpace if rolled_back => Ended::Failed(error.into(), Fate::Keep),
                    dialect::Fault::NoSpace | dialect::Fault::Damaged => Ended::Failed(error.into(), Fate::Reopen),
                    dialect::Fault::Statement | dialect::Fault::Locked | dialect::Fault::Broken => {
                        log::error!("a commit failed with an unknown outcome, the connection is opened anew: {error}");
                        Ended::Failed(unknown_outcome(), Fate::Doubt)
                    }
                }
            }
        }
    }
}

/// Refuses what only the active node may write, and leaves what asks for the lease (D5).
fn refuse_in_standby(batch: Vec<Box<dyn Job>>, stats: &WriterStats) -> Vec<Box<dyn Job>> {
    let (allowed, refused): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.in_standby());
    for mut job in refused {
        job.refuse(Error::stands_by());
        job.settle(stats);
    }
    allowed
}

/// Runs one command between savepoints; its failure leaves the others alone.
fn run_alone(tx: &mut Tx<'_>, job: &mut Box<dyn Job>) -> Ran {
    let mark = tx.mark();
    let mut ran = None;
    let kept = tx.in_savepoint(|tx| {
        if !matches!(ran.insert(job.run(tx)), Ran::Fine) {
            return false;
        }
        match tx.write_held() {
            Ok(()) => true,
            Err(error) => {
                ran = Some(Ran::by(&error));
                job.fail(error);
                false
            }
        }
    });
    if kept {
        return Ran::Fine;
    }
    tx.back_to(mark);
    match ran {
        Some(ran @ (Ran::Refused | Ran::Failed | Ran::Lost(_))) => ran,
        // The savepoint itself failed: what the command answered is not true.
        Some(Ran::Fine) | None => Ran::Lost(unknown_outcome()),
    }
}

fn unknown_outcome() -> Error {
    Error::new(ErrorCode::StoreBusy, "the database failed while it stored this; repeat the call with the same key")
}

/// Refuses to write when another node has taken over (D5).
fn check_epoch(db: &mut Db, ours: i64) -> Result<(), Error> {
    if matches!(db, Db::Sqlite(_)) {
        return Ok(());
    }
    if matches!(ours, STANDBY | UNCHECKED) {
        return Ok(());
    }
    match dialect::epoch_for_share(db)? {
        Some(current) if current == ours => Ok(()),
        _ => Err(Error::stands_by()),
    }
}

//! Watches over the writer's thread: starts it again if it ended, and empties it at the end.
//!
//! Owner: the supervisor; one a node. The thread itself is in `store::writer`: commands reach it through its queues and
//! never pass through here, so that the hot path has no second hop.
use std::thread::JoinHandle;
use std::time::Duration;

use actix::prelude::*;

use super::messages::{Observe, Report, Stop};
use super::supervisor::{Child, ChildStopped};
use crate::domain::error::Error;
use crate::store::{Store, WriterSeed};

/// How often the thread is looked at.
const LOOK: Duration = Duration::from_millis(500);

pub struct StoreWriter {
    seed: WriterSeed,
    thread: Option<JoinHandle<()>>,
    store: Store,
    parent: Recipient<ChildStopped>,
    restarts_total: u64,
    leaving: bool,
}

impl StoreWriter {
    /// Starts the thread.
    pub fn new(seed: WriterSeed, store: Store, parent: Recipient<ChildStopped>) -> Result<Self, Error> {
        let thread = seed.start()?;
        Ok(Self { seed, thread: Some(thread), store, parent, restarts_total: 0, leaving: false })
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.seed.stats().broken.load(std::sync::atomic::Ordering::Relaxed) == 1 {
            // A write that changes nothing tells whether the database is well again; a full queue will tell as well.
            let _ = self.store.write_later(crate::store::Lane::Interactive, crate::store::Probe);
        }
        if self.leaving || !self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return;
        }
        log::error!("the writer's thread ended and is started again");
        match self.seed.start() {
            Ok(thread) => {
                self.thread = Some(thread);
                self.restarts_total += 1;
            }
            Err(error) => {
                log::error!("the writer's thread could not be started: {error}");
                ctx.stop();
            }
        }
    }
}

impl Actor for StoreWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(LOOK, Self::look);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.parent.do_send(ChildStopped { child: Child::StoreWriter, clean: self.leaving });
    }
}

impl Handler<Observe> for StoreWriter {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _ctx: &mut Self::Context) -> Self::Result {
        use std::sync::atomic::Ordering::Relaxed;
        let stats = self.seed.stats();
        let (interactive, bulk) = self.store.writer().queued();
        MessageResult(Report {
            actor: "store_writer",
            id: String::new(),
            state: serde_json::json!({
                "queued": interactive,
                "queued_bulk": bulk,
                "commands_total": stats.commands_total.load(Relaxed),
                "commits_total": stats.commits_total.load(Relaxed),
                "batches_failed_total": stats.failed_total.load(Relaxed),
                "batches_replayed_total": stats.replays_total.load(Relaxed),
                "commands_refused_total": stats.refused_total.load(Relaxed),
                "connections_opened_total": stats.opened_total.load(Relaxed),
                "batch_max": stats.batch_max_seen.load(Relaxed),
                "restarts_total": self.restarts_total,
                "broken": stats.broken.load(Relaxed) == 1,
            }),
        })
    }
}

impl Handler<Stop> for StoreWriter {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        // The thread ends with its last handle, after it has written everything that waits.
        self.leaving = true;
        ctx.stop();
    }
}

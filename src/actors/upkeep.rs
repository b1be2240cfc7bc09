//! The store's slow work: lines are made searchable, conversations of removed gateways are purged, what is open for
//! removed agents is ended.
//!
//! Owner: the supervisor; one a node. Each step is one command of the bulk lane and bounded in rows, so that it never
//! holds anybody up. It is woken by what was committed, waits a moment so that one step serves many lines, and goes on
//! until nothing is left.
//!
//! Invariants
//! - What a stopped node left over is found in the store and done after the next start.
use std::time::Duration;

use actix::prelude::*;

use super::messages::{Observe, Report, Stop};
use super::supervisor::{Child, ChildStopped};
use crate::domain::error::Error;
use crate::store::agents::{self, EndMailStep};
use crate::store::purge::{self, PurgeStep};
use crate::store::search::{self, IndexLines};
use crate::store::{Db, Store};

/// How long committed lines gather before they are indexed.
const GATHER: Duration = Duration::from_secs(1);
/// Wait after a step that the store refused.
const RETRY: Duration = Duration::from_secs(5);

pub struct Upkeep {
    store: Store,
    parent: Recipient<ChildStopped>,
    /// A step is under way or will begin.
    busy: bool,
    /// Something was committed since the running step began.
    woken: bool,
    steps_total: u64,
    last_error: Option<String>,
    leaving: bool,
}

/// Something was committed that may want slow work.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Wake;

impl Upkeep {
    pub fn new(store: Store, parent: Recipient<ChildStopped>) -> Self {
        Self { store, parent, busy: false, woken: false, steps_total: 0, last_error: None, leaving: false }
    }

    fn step_later(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        self.busy = true;
        ctx.run_later(wait, Self::step);
    }

    fn step(&mut self, ctx: &mut Context<Self>) {
        self.woken = false;
        self.steps_total += 1;
        let store = self.store.clone();
        async move {
            // Side by side, so that one commit serves all.
            let (indexing, purging, ending) = futures_util::try_join!(
                store.write_bulk(IndexLines),
                store.write_bulk(PurgeStep::default()),
                store.write_bulk(EndMailStep),
            )?;
            Ok::<bool, Error>(indexing || purging || ending)
        }
        .into_actor(self)
        .map(|result, this, ctx| match result {
            Ok(more) => {
                this.busy = false;
                this.last_error = None;
                if more {
                    this.step_later(Duration::ZERO, ctx);
                } else if this.woken {
                    this.step_later(GATHER, ctx);
                }
            }
            Err(error) => {
                log::warn!("a step of the upkeep failed: {error}");
                this.last_error = Some(error.to_string());
                this.step_later(RETRY, ctx);
            }
        })
        .spawn(ctx);
    }
}

impl Actor for Upkeep {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.step_later(Duration::ZERO, ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.parent.do_send(ChildStopped { child: Child::Upkeep, clean: self.leaving });
    }
}

impl Handler<Wake> for Upkeep {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.woken = true;
        if !self.busy {
            self.step_later(GATHER, ctx);
        }
    }
}

impl Handler<Observe> for Upkeep {
    type Result = ResponseFuture<Report>;

    fn handle(&mut self, _: Observe, _ctx: &mut Self::Context) -> Self::Result {
        let (store, busy, steps, last_error) =
            (self.store.clone(), self.busy, self.steps_total, self.last_error.clone());
        let counts = |db: &mut Db| Ok::<_, Error>((search::behind(db)?, purge::waiting(db)?, agents::ending(db)?));
        Box::pin(async move {
            // A store that cannot be read shows in the writer's report; here the counts are unknown.
            let counts = store.read(counts).await.ok();
            Report {
                actor: "upkeep",
                id: String::new(),
                state: serde_json::json!({
                    "busy": busy,
                    "steps_total": steps,
                    "conversations_to_index": counts.map(|(behind, ..)| behind),
                    "conversations_to_purge": counts.map(|(_, purge, _)| purge),
                    "removed_agents_to_end": counts.map(|(.., ending)| ending),
                    "last_error": last_error,
                }),
            }
        })
    }
}

impl Handler<Stop> for Upkeep {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.leaving = true;
        ctx.stop();
    }
}

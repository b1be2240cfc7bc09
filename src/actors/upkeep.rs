//! The store's slow work: lines are made searchable, conversations of removed gateways are purged, what is open for
//! removed agents is ended, and what is old enough is removed.
//!
//! Owner: the supervisor; one a node. Each step is one command of the bulk lane and bounded in rows, so that it never
//! holds anybody up. It is woken by what was committed, waits a moment so that one step serves many lines, and goes on
//! until nothing is left; while others write, with pauses, unless it falls behind. What grows old is looked for at the
//! start and once an hour; at the start only if the clock is near what was stored last, so that there is an hour in which
//! to mend a clock that is wrong.
//!
//! Invariants
//! - What a stopped node left over is found in the store and done after the next start.
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use super::messages::{Observe, Report, Stop};
use super::supervisor::{Child, ChildStopped};
use crate::config::RetentionConfig;
use crate::domain::error::Error;
use crate::store::agents::{self, EndMailStep};
use crate::store::purge::{self, PurgeStep};
use crate::store::retention::{ClockIsNear, Kept, RetainStep, Stepped, Walk};
use crate::store::search::{self, IndexLines};
use crate::store::{Db, Store};

/// How long committed lines gather before they are indexed.
const GATHER: Duration = Duration::from_secs(1);
/// How many times as long as a step took the next one waits while others write.
const OTHERS_SHARE: u32 = 4;
/// Pauses in a row; who falls behind for longer goes on without.
const PAUSES_MAX: u32 = 100;
/// Commands of each step, without the one of retention.
const STEPS: usize = 3;
/// Wait after a step that the store refused.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is looked for what has grown old enough: days are counted, so an hour is soon.
const RETAIN: Duration = Duration::from_secs(3_600);
const DAY_MS: i64 = 24 * 3_600 * 1_000;

pub struct Upkeep {
    store: Store,
    retention: RetentionConfig,
    /// What is left of the newest look for what is old enough.
    walks: VecDeque<RetainStep>,
    parent: Recipient<ChildStopped>,
    /// A step is under way or will begin.
    busy: bool,
    /// Something was committed since the running step began.
    woken: bool,
    /// Pauses since nothing was left last.
    pauses: u32,
    steps_total: u64,
    last_error: Option<String>,
    leaving: bool,
}

/// Something was committed that may want slow work.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Wake;

impl Upkeep {
    pub fn new(store: Store, retention: RetentionConfig, parent: Recipient<ChildStopped>) -> Self {
        Self {
            store,
            retention,
            walks: VecDeque::new(),
            parent,
            busy: false,
            woken: false,
            pauses: 0,
            steps_total: 0,
            last_error: None,
            leaving: false,
        }
    }

    /// Looks for what has grown old enough, unless it still does.
    fn retain(&mut self) {
        if self.walks.is_empty() {
            self.walks = walks(&self.retention);
        }
    }

    /// Takes in what a step of retention did.
    fn retained(&mut self, stepped: Stepped) {
        let Some(step) = self.walks.pop_front() else { return };
        self.store.removed().add(step.walk.kept(), stepped.removed);
        if let Some(walk) = stepped.next {
            self.walks.push_front(RetainStep { walk, ..step });
        }
    }

    fn step_later(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        self.busy = true;
        ctx.run_later(wait, Self::step);
    }

    fn step(&mut self, ctx: &mut Context<Self>) {
        self.woken = false;
        self.steps_total += 1;
        let (store, oldest) = (self.store.clone(), self.walks.front().copied());
        let pace = Pace::begin(&store, STEPS as u64 + u64::from(oldest.is_some()));
        async move {
            let retaining = async {
                match oldest {
                    Some(step) => store.write_bulk(step).await.map(Some),
                    None => Ok(None),
                }
            };
            // Side by side, so that one commit serves all.
            let (indexing, purging, ending, retained) = futures_util::join!(
                store.write_bulk(IndexLines),
                store.write_bulk(PurgeStep::default()),
                store.write_bulk(EndMailStep),
                retaining
            );
            let pause = pace.pause(&store);
            ([indexing, purging, ending], retained, pause)
        }
        .into_actor(self)
        .map(|(steps, retained, pause), this, ctx| this.stepped(steps, retained, pause, ctx))
        .spawn(ctx);
    }

    /// Goes on after a step. A kind of work that fails keeps no other from what it has done, nor from what it has to do.
    fn stepped(
        &mut self,
        steps: [Result<bool, Error>; STEPS],
        retained: Result<Option<Stepped>, Error>,
        pause: Duration,
        ctx: &mut Context<Self>,
    ) {
        let (mut more, mut failed) = (false, None);
        match retained {
            Ok(stepped) => {
                stepped.into_iter().for_each(|stepped| self.retained(stepped));
                more = !self.walks.is_empty();
            }
            Err(error) => {
                behind_the_others(&mut self.walks);
                failed = Some(error);
            }
        }
        for step in steps {
            match step {
                Ok(is_more) => more |= is_more,
                Err(error) => failed = Some(error),
            }
        }
        self.busy = false;
        self.last_error = failed.as_ref().map(ToString::to_string);
        if let Some(error) = &failed {
            log::warn!("a step of the upkeep failed: {}", error.cause());
        }
        self.pauses = if more { self.pauses.saturating_add(1) } else { 0 };
        if let Some(wait) = wait(more.then(|| patience(pause, self.pauses)), failed.is_some(), self.woken) {
            self.step_later(wait, ctx);
        }
    }
}

/// Returns how long the next step waits; `None`: there is nothing to be done. `more`: the pause before what is left.
fn wait(more: Option<Duration>, failed: bool, woken: bool) -> Option<Duration> {
    match (more, failed, woken) {
        (Some(pause), _, _) => Some(pause),
        (None, true, _) => Some(RETRY),
        (None, false, true) => Some(GATHER),
        (None, false, false) => None,
    }
}

/// Returns the pause that is made, so many of them in a row: whoever falls behind makes none.
fn patience(pause: Duration, in_a_row: u32) -> Duration {
    if in_a_row > PAUSES_MAX { Duration::ZERO } else { pause }
}

/// When a step began, and how many commands the writer will have run after it if nobody else writes.
struct Pace {
    began: Instant,
    commands: u64,
}

impl Pace {
    /// Begins a step of so many commands.
    fn begin(store: &Store, own: u64) -> Self {
        Self { began: Instant::now(), commands: commands(store) + own }
    }

    /// Returns how long to let others go first.
    fn pause(&self, store: &Store) -> Duration {
        pause(self.began.elapsed(), commands(store) > self.commands)
    }
}

/// Returns how long to let others go first after a step that took so long.
fn pause(took: Duration, others_write: bool) -> Duration {
    if others_write { (took * OTHERS_SHARE).min(GATHER) } else { Duration::ZERO }
}

fn commands(store: &Store) -> u64 {
    store.writer().stats().commands_total.load(Ordering::Relaxed)
}

/// Puts the walk that failed behind the others, so that these go before it is tried again.
fn behind_the_others(walks: &mut VecDeque<RetainStep>) {
    if let Some(failed) = walks.pop_front() {
        walks.push_back(failed);
    }
}

/// Returns the walks that look at everything which is kept for a time only.
fn walks(retention: &RetentionConfig) -> VecDeque<RetainStep> {
    let days = |kept| match kept {
        Kept::Deliveries => retention.deliveries_days,
        Kept::Audit => retention.audit_days,
        Kept::Steps => retention.runs_days,
    };
    Kept::ALL
        .into_iter()
        .filter(|kept| days(*kept) > 0)
        .flat_map(|kept| {
            let keep_ms = i64::from(days(kept)) * DAY_MS;
            Walk::all(kept).into_iter().map(move |walk| RetainStep { walk, keep_ms })
        })
        .collect()
}

impl Actor for Upkeep {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.step_later(Duration::ZERO, ctx);
        let store = self.store.clone();
        async move { store.write_bulk(ClockIsNear).await }
            .into_actor(self)
            .map(|near, this, ctx| match near {
                Ok(Some(true)) => {
                    this.retain();
                    ctx.notify(Wake);
                }
                Ok(Some(false)) => {
                    log::info!("the clock is far from what was stored last; what is old goes in an hour");
                }
                // As on the first start: nothing tells how old anything is, and nothing is in a hurry.
                Ok(None) => {}
                Err(error) => log::warn!("what is old goes in an hour: {}", error.cause()),
            })
            .spawn(ctx);
        ctx.run_interval(RETAIN, |this, ctx| {
            this.retain();
            ctx.notify(Wake);
        });
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
        let removed: serde_json::Map<String, serde_json::Value> =
            Kept::ALL.into_iter().map(|kept| (kept.as_str().to_owned(), store.removed().of(kept).into())).collect();
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
                    "rows_removed": removed,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_fails_keeps_no_other_waiting() {
        let pause = Duration::from_millis(7);
        assert_eq!(wait(Some(pause), true, false), Some(pause));
        assert_eq!(wait(None, true, true), Some(RETRY));
        assert_eq!(wait(None, false, true), Some(GATHER));
        assert_eq!(wait(None, false, false), None);
        let mut left = walks(&RetentionConfig { deliveries_days: 0, audit_days: 1, runs_days: 1 });
        for expected in [[Kept::Audit, Kept::Steps], [Kept::Steps, Kept::Audit], [Kept::Audit, Kept::Steps]] {
            assert_eq!(left.iter().map(|step| step.walk.kept()).collect::<Vec<_>>(), expected);
            behind_the_others(&mut left);
        }
        behind_the_others(&mut VecDeque::new());
    }

    #[test]
    fn others_go_first_unless_too_much_is_left() {
        let took = Duration::from_millis(10);
        assert_eq!((pause(took, true), pause(took, false)), (4 * took, Duration::ZERO));
        assert_eq!(pause(Duration::from_secs(30), true), GATHER, "however long a step took");
        assert_eq!((patience(took, PAUSES_MAX), patience(took, PAUSES_MAX + 1)), (took, Duration::ZERO));
    }

    #[test]
    fn what_is_kept_for_ever_is_not_looked_for() {
        let config = RetentionConfig { deliveries_days: 2, audit_days: 0, runs_days: 1 };
        let found: Vec<(Kept, i64)> = walks(&config).iter().map(|step| (step.walk.kept(), step.keep_ms)).collect();
        let deliveries = (Kept::Deliveries, 2 * DAY_MS);
        assert_eq!(found, [deliveries, deliveries, deliveries, deliveries, (Kept::Steps, DAY_MS)]);
        let never = RetentionConfig { deliveries_days: 0, audit_days: 0, runs_days: 0 };
        assert!(walks(&never).is_empty());
    }
}

//! What is old enough is removed: ended deliveries, rows of the audit log, and what runs did on their way.
//!
//! Each kind is walked by an index that is there for other queries, from its oldest row on; a walk is over at the first
//! page that is too young. It goes in steps of bounded size in the bulk lane, so that other writes get in between.
//!
//! What stays: messages, and with each how its delivery ended, so that a repeated send or report is answered as before
//! (D10); turns, by which the rows of a gateway's log are known to be ours and a session to be somebody's (D1, SEC-2); and
//! the origins of removed steps, so that no row of a gateway's log is taken for news.
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use diesel::prelude::*;

use super::dialect::Db;
use super::schema::{message_origins, steps, turns};
use super::tx::{Command, Tx};
use super::{audit, deliveries};
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::StepId;

/// Rows that one step looks at.
pub const ROWS_MAX: i64 = 500;

/// What is kept for a time only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Deliveries,
    Audit,
    Steps,
}

impl Kept {
    pub const ALL: [Self; 3] = [Self::Deliveries, Self::Audit, Self::Steps];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Audit => "audit",
            Self::Steps => "steps",
        }
    }
}

/// How many rows were removed since the process started.
#[derive(Debug, Default)]
pub struct Removed {
    deliveries: AtomicU64,
    audit: AtomicU64,
    steps: AtomicU64,
}

impl Removed {
    pub fn of(&self, kept: Kept) -> u64 {
        self.counter(kept).load(Relaxed)
    }

    pub fn add(&self, kept: Kept, rows: usize) {
        self.counter(kept).fetch_add(rows as u64, Relaxed);
    }

    fn counter(&self, kept: Kept) -> &AtomicU64 {
        match kept {
            Kept::Deliveries => &self.deliveries,
            Kept::Audit => &self.audit,
            Kept::Steps => &self.steps,
        }
    }
}

/// Where a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Among the deliveries that ended in this state, behind this number.
    Deliveries { state: DeliveryState, after_n: i64 },
    /// What was removed is gone, so that it always begins at the beginning.
    Audit,
    /// Behind this step.
    Steps { after: StepId },
}

impl Walk {
    /// Returns the walks that together see all rows of a kind.
    pub fn all(kept: Kept) -> Vec<Self> {
        match kept {
            Kept::Deliveries => DeliveryState::ALL
                .into_iter()
                .filter(|state| !state.is_open())
                .map(|state| Self::Deliveries { state, after_n: 0 })
                .collect(),
            Kept::Audit => vec![Self::Audit],
            Kept::Steps => vec![Self::Steps { after: StepId::from_bytes([0; 16]) }],
        }
    }

    pub fn kept(self) -> Kept {
        match self {
            Self::Deliveries { .. } => Kept::Deliveries,
            Self::Audit => Kept::Audit,
            Self::Steps { .. } => Kept::Steps,
        }
    }
}

/// Makes the next step of a walk.
#[derive(Clone, Copy, Debug)]
pub struct RetainStep {
    pub walk: Walk,
    /// Rows live so long after what they tell of has ended. Milliseconds.
    pub keep_ms: i64,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stepped {
    pub removed: usize,
    /// Where the walk goes on; `None`: it is over.
    pub next: Option<Walk>,
}

impl Command for RetainStep {
    type Output = Stepped;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Stepped, Error> {
        let before = tx.now_ms().saturating_sub(self.keep_ms);
        match self.walk {
            Walk::Deliveries { state, after_n } => of_deliveries(tx, state, after_n, before),
            Walk::Audit => of_audit(tx, before),
            Walk::Steps { after } => of_steps(tx, after, before),
        }
    }
}

/// How far the clock may be ahead of what was stored last.
const AHEAD_MAX_MS: i64 = 24 * 3_600 * 1_000;

/// Tells whether the clock is about where it was when the newest delivery was made. Far ahead of it the node may have
/// stood still for long, or its clock may be wrong, and then nothing is as old as it looks. `None`: there is no delivery to
/// compare it with.
pub struct ClockIsNear;

impl Command for ClockIsNear {
    type Output = Option<bool>;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Option<bool>, Error> {
        let now_ms = tx.now_ms();
        let newest = deliveries::newest_at(tx.read()?)?;
        Ok(newest.map(|at| now_ms.saturating_sub(at) <= AHEAD_MAX_MS))
    }
}

/// A walk goes on behind a full page unless all of it is too young: rows come in order of their creation, but for what a
/// clock that was set has changed.
fn goes_on(mut ages: impl ExactSizeIterator<Item = i64>, before: i64) -> bool {
    let is_full = ages.len() as i64 >= ROWS_MAX;
    is_full && ages.any(|created_at| created_at < before)
}

fn of_deliveries(tx: &mut Tx<'_>, state: DeliveryState, after_n: i64, before: i64) -> Result<Stepped, Error> {
    let mut page = deliveries::ended_of(tx.read()?, state, after_n, ROWS_MAX)?;
    let next = page
        .last()
        .filter(|_| goes_on(page.iter().map(|row| row.created_at), before))
        .map(|last| Walk::Deliveries { state, after_n: last.n });
    page.retain(|row| row.ended_at.is_some_and(|at| at < before));
    Ok(Stepped { removed: deliveries::remove(tx, &page)?, next })
}

fn of_audit(tx: &mut Tx<'_>, before: i64) -> Result<Stepped, Error> {
    let old = audit::oldest(tx.read()?, before, ROWS_MAX)?;
    let next = (old.len() as i64 >= ROWS_MAX).then_some(Walk::Audit);
    let removed = if old.is_empty() { 0 } else { audit::remove(tx, &old)? };
    Ok(Stepped { removed, next })
}

/// A step of a run: its id, its turn, and when it was made.
type StepRow = (Vec<u8>, Vec<u8>, i64);

/// Reads steps after this one, oldest first.
pub fn steps_after(db: &mut Db, after: StepId, limit: i64) -> Result<Vec<StepRow>, Error> {
    Ok(steps::table
        .filter(steps::id.gt(after.as_bytes().as_slice()))
        .order(steps::id.asc())
        .limit(limit)
        .select((steps::id, steps::turn_id, steps::created_at))
        .load(db)?)
}

/// Returns which of these turns had ended before a time.
pub fn ended_turns(db: &mut Db, ids: &[Vec<u8>], before: i64) -> Result<Vec<Vec<u8>>, Error> {
    Ok(turns::table.filter(turns::id.eq_any(ids).and(turns::ended_at.lt(before))).select(turns::id).load(db)?)
}

fn of_steps(tx: &mut Tx<'_>, after: StepId, before: i64) -> Result<Stepped, Error> {
    let page = steps_after(tx.read()?, after, ROWS_MAX)?;
    let next = match page.last() {
        Some((last, ..)) if goes_on(page.iter().map(|(_, _, created_at)| *created_at), before) => {
            Some(Walk::Steps { after: StepId::try_from(last.as_slice())? })
        }
        _ => None,
    };
    let old: Vec<StepRow> = page.into_iter().filter(|(_, _, created_at)| *created_at < before).collect();
    let mut its_turns: Vec<Vec<u8>> = old.iter().map(|(_, turn, _)| turn.clone()).collect();
    its_turns.sort_unstable();
    its_turns.dedup();
    let ended = if its_turns.is_empty() { Vec::new() } else { ended_turns(tx.read()?, &its_turns, before)? };
    let ids: Vec<Vec<u8>> = old.into_iter().filter(|(_, turn, _)| ended.contains(turn)).map(|(id, ..)| id).collect();
    if ids.is_empty() {
        return Ok(Stepped { removed: 0, next });
    }
    diesel::update(message_origins::table.filter(message_origins::step_id.eq_any(&ids)))
        .set(message_origins::step_id.eq(None::<Vec<u8>>))
        .execute(tx.write()?)?;
    let removed = diesel::delete(steps::table.filter(steps::id.eq_any(&ids))).execute(tx.write()?)?;
    Ok(Stepped { removed, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_over_where_everything_is_too_young() {
        let full = ROWS_MAX as usize;
        assert!(goes_on(vec![1; full].into_iter(), 2));
        assert!(!goes_on(vec![2; full].into_iter(), 2));
        assert!(!goes_on(vec![1; full - 1].into_iter(), 2), "nothing is behind a page that is not full");
        let mut one_old = vec![9; full];
        one_old[0] = 1;
        assert!(goes_on(one_old.into_iter(), 2));
    }

    #[test]
    fn each_end_of_a_delivery_is_walked() {
        let states: Vec<DeliveryState> = Walk::all(Kept::Deliveries)
            .into_iter()
            .filter_map(|walk| match walk {
                Walk::Deliveries { state, after_n: 0 } => Some(state),
                _ => None,
            })
            .collect();
        let ends = [DeliveryState::Completed, DeliveryState::Dead, DeliveryState::Expired, DeliveryState::Cancelled];
        assert_eq!(states, ends);
        for kept in Kept::ALL {
            assert!(Walk::all(kept).iter().all(|walk| walk.kept() == kept));
        }
    }
}

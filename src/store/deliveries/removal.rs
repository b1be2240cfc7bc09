//! Deliveries that are removed for good: their messages stay, and keep how they ended (D10).
use diesel::prelude::*;

use super::ended;
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::DeliveryId;
use crate::store::dialect::{self, Db};
use crate::store::schema::deliveries;
use crate::store::tx::{Command, Tx};

/// An ended delivery, as far as its removal must know it.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = deliveries)]
pub struct Ended {
    pub(in crate::store) id: Vec<u8>,
    pub(in crate::store) n: i64,
    pub(in crate::store) message_id: Vec<u8>,
    pub(in crate::store) state: i32,
    pub(in crate::store) reason: Option<String>,
    pub(in crate::store) created_at: i64,
    pub(in crate::store) ended_at: Option<i64>,
}

/// Reads deliveries that ended in this state, after number `after_n`, in order of acceptance.
pub fn ended_of(db: &mut Db, state: DeliveryState, after_n: i64, limit: i64) -> Result<Vec<Ended>, Error> {
    Ok(deliveries::table
        .filter(ended().and(deliveries::state.eq(state as i32)).and(deliveries::n.gt(after_n)))
        .order(deliveries::n.asc())
        .limit(limit)
        .select(Ended::as_select())
        .load(db)?)
}

/// Reads when the newest delivery was made.
pub(in crate::store) fn newest_at(db: &mut Db) -> Result<Option<i64>, Error> {
    Ok(deliveries::table.order(deliveries::n.desc()).select(deliveries::created_at).first(db).optional()?)
}

/// Removes ended deliveries; each message keeps how its delivery ended. Returns how many there were.
pub(in crate::store) fn remove(tx: &mut Tx<'_>, these: &[Ended]) -> Result<usize, Error> {
    if these.is_empty() {
        return Ok(0);
    }
    let ids: Vec<&[u8]> = these.iter().map(|one| one.id.as_slice()).collect();
    let db = tx.write()?;
    dialect::save_message_ends(db, these)?;
    Ok(diesel::delete(deliveries::table.filter(deliveries::id.eq_any(ids))).execute(db)?)
}

/// Removes dead deliveries for good; their messages stay and keep the end state (D10).
pub struct Purge {
    pub ids: Vec<DeliveryId>,
}

impl Command for Purge {
    type Output = usize;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<usize, Error> {
        let ids: Vec<&[u8]> = self.ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let dead: Vec<Ended> = deliveries::table
            .filter(deliveries::id.eq_any(ids).and(deliveries::state.eq(DeliveryState::Dead as i32)))
            .select(Ended::as_select())
            .load(tx.read()?)?;
        remove(tx, &dead)
    }
}

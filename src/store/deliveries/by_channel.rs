//! Deliveries to people, by the channels that bring them.
use diesel::prelude::*;

use super::events::{Entry, LEASED, NACKED, REDRIVEN};
use super::{Row, Stored, open, readable};
use crate::domain::delivery::{Delivery, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::ChannelId;
use crate::store::channels;
use crate::store::dialect::Db;
use crate::store::schema::deliveries;
use crate::store::tx::Tx;

impl Stored {
    /// Returns when it was handed out for the first time, as far as its history tells.
    pub fn first_leased_at(&self) -> Option<i64> {
        self.events.iter().find(|entry| entry.what == LEASED).map(|entry| entry.at)
    }

    /// Tells whether a channel gave it back though it may have arrived, since it began or an operator let it begin afresh.
    pub fn may_have_arrived(&self) -> bool {
        let is_unknown = |why: &String| why.starts_with(reason::OUTCOME_UNKNOWN);
        let unknown = |entry: &Entry| entry.what == NACKED && entry.reason.as_ref().is_some_and(is_unknown);
        self.delivery.channel_id.is_some()
            && self.events.iter().rev().take_while(|entry| entry.what != REDRIVEN).any(unknown)
    }
}

/// Reads open deliveries that a channel is to bring after number `after_n`, in order of acceptance. What cannot be read is
/// left out, and said in the log. With the number after which the next page begins; `None` at the end.
pub(in crate::store) fn open_by_channel(
    db: &mut Db,
    id: ChannelId,
    after_n: i64,
    limit: i64,
) -> Result<(Vec<Stored>, Option<i64>), Error> {
    let rows: Vec<Row> = deliveries::table
        .filter(deliveries::channel_id.eq(id.as_bytes().as_slice()).and(open()).and(deliveries::n.gt(after_n)))
        .order(deliveries::n.asc())
        .limit(limit)
        .select(Row::as_select())
        .load(db)?;
    let next = rows.last().filter(|_| rows.len() as i64 >= limit).map(|row| row.n);
    Ok((readable(rows), next))
}

/// Refuses a delivery whose channel was removed: nobody would bring it (DLV-2).
pub(super) fn check(tx: &mut Tx<'_>, delivery: &Delivery) -> Result<(), Error> {
    let Some(id) = delivery.channel_id else { return Ok(()) };
    if channels::get(tx.read()?, id)?.is_some() {
        return Ok(());
    }
    let message = format!("the channel that delivery `{}` was for was removed", delivery.id);
    Err(Error::new(ErrorCode::DeliveryEnded, message))
}

/// Counts open deliveries that a channel is to bring.
pub(in crate::store) fn count_open_by_channel(db: &mut Db, id: ChannelId) -> Result<usize, Error> {
    let open: i64 = deliveries::table
        .filter(deliveries::channel_id.eq(id.as_bytes().as_slice()).and(open()))
        .count()
        .get_result(db)?;
    Ok(usize::try_from(open).unwrap_or(0))
}

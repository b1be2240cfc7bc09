//! What time alone moves.
use std::sync::Arc;

use diesel::prelude::*;

use super::{Stored, apply_to, by_ids, open, tell};
use crate::domain::delivery::{Delivery, DeliveryState, Move, backoff_ms, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Topic;
use crate::domain::ids::DeliveryId;
use crate::domain::party::PartyKind;
use crate::store::dialect::Db;
use crate::store::schema::deliveries;
use crate::store::tx::{Command, Tx};

/// Reads what is due first: id and time, soonest first. What cannot be read is left out.
pub fn due(db: &mut Db, limit: i64) -> Result<Vec<(i64, DeliveryId)>, Error> {
    let rows: Vec<(Option<i64>, Vec<u8>)> = deliveries::table
        .filter(open().and(deliveries::due_at.is_not_null()))
        .order((deliveries::due_at.asc(), deliveries::id.asc()))
        .limit(limit)
        .select((deliveries::due_at, deliveries::id))
        .load(db)?;
    let readable = |(at, id): (Option<i64>, Vec<u8>)| {
        let id = DeliveryId::try_from(id.as_slice())
            .inspect_err(|error| log::error!("a delivery that is due cannot be read: {}", error.cause()));
        Some((at.unwrap_or(0), id.ok()?))
    };
    Ok(rows.into_iter().filter_map(readable).collect())
}

/// Moves what time alone moves (DLV-2): leases that are over, ttls that ran out, waits that ended.
pub struct FireDue {
    pub ids: Vec<DeliveryId>,
}

/// What became of deliveries that were due.
#[derive(Debug, Default)]
pub struct Fired {
    /// Those that are now ready to be handed out, each with its conversation's name.
    pub ready: Vec<(Arc<Topic>, Delivery)>,
    /// When each of those that are still open is due next.
    pub due: Vec<(DeliveryId, Option<i64>)>,
}

impl Command for FireDue {
    type Output = Fired;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Fired, Error> {
        let now_ms = tx.now_ms();
        let mut fired = Fired::default();
        let mut movable = Vec::with_capacity(self.ids.len());
        for stored in by_ids(tx.read()?, &self.ids)? {
            // Before it moves: what cannot be read later would take its neighbours back with it (STO-3).
            let Some((kind, topic)) = surroundings(tx, &stored.delivery)? else { continue };
            movable.push((stored, kind, topic));
        }
        // With one query: what is read one by one has the moves before it be written one by one.
        let to_agents = movable.iter().filter(|(_, kind, _)| *kind == Some(PartyKind::Agent));
        let mail: Vec<DeliveryId> = to_agents.map(|(stored, ..)| stored.delivery.id).collect();
        tx.load_mail(&mail)?;
        for (stored, kind, topic) in movable {
            // For an agent the lease was the wait.
            let wait_ms = match kind {
                Some(PartyKind::Agent) => 0,
                _ => backoff_ms(stored.delivery.attempt),
            };
            let retry_at = now_ms + wait_ms;
            let action = match stored.delivery.due_move(now_ms, retry_at) {
                // Nobody knows whether it was too late.
                Some(Move::Expire) if stored.may_have_arrived() => {
                    Some(Move::Fail { attempt: None, reason: reason::OUTCOME_UNKNOWN.to_owned() })
                }
                action => action,
            };
            let delivery = match action {
                Some(action) => apply_to(tx, stored, &action, true)?,
                None => {
                    let delivery = end_wait(tx, stored)?;
                    let waits_no_more = delivery.state == DeliveryState::Pending && !delivery.must_wait(now_ms);
                    if waits_no_more && delivery.channel_id.is_some() {
                        // Links and mailboxes look at the clock; an outbox goes by what it is told.
                        tell(tx, &delivery, Some(DeliveryState::Pending), None)?;
                    }
                    delivery
                }
            };
            if !delivery.state.is_open() {
                continue;
            }
            fired.due.push((delivery.id, delivery.due_at()));
            if delivery.state == DeliveryState::Pending && !delivery.must_wait(now_ms) {
                fired.ready.push((topic, delivery));
            }
        }
        Ok(fired)
    }
}

/// Whom a delivery is for, and where it belongs.
pub(in crate::store) type Surroundings = (Option<PartyKind>, Arc<Topic>);

/// Reads whom a delivery is for and where it belongs. `None`, which is said in the log, where that cannot be read.
pub(in crate::store) fn surroundings(tx: &mut Tx<'_>, delivery: &Delivery) -> Result<Option<Surroundings>, Error> {
    let kind = tx.party(delivery.recipient_id).map(|party| party.map(|party| party.kind));
    match kind.and_then(|kind| Ok((kind, tx.topic(delivery.conversation_id)?))) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_unreadable() || error.code() == ErrorCode::NotFound => {
            log::error!("delivery `{}` cannot be moved and is left as it is: {}", delivery.id, error.cause());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Stores that a wait is over, so that it is not due again but for its ttl.
fn end_wait(tx: &mut Tx<'_>, mut stored: Stored) -> Result<Delivery, Error> {
    let now_ms = tx.now_ms();
    if stored.delivery.state == DeliveryState::Pending && !stored.delivery.must_wait(now_ms) {
        stored.delivery.end_wait(now_ms);
        tx.save_move(&stored, DeliveryState::Pending)?;
    }
    Ok(stored.delivery)
}

//! Conversations removed for good, with everything that hangs on them, in small steps.
//!
//! Whoever wants them gone marks them: from then on nobody finds them. The rows go in steps of bounded size, so that
//! other writes get in between; what a stopped server left over goes after its next start.
use std::sync::Arc;

use diesel::prelude::*;

use super::dialect::Db;
use super::memory::Ends;
use super::schema::{conversations, deliveries, message_origins, messages, participants, steps, turns};
use super::search;
use super::tx::{Command, Tx};
use crate::domain::error::Error;
use crate::domain::event::{Event, Topic};
use crate::domain::ids::{ConversationId, GatewayId};

/// Rows that one step removes.
const ROWS_MAX: i64 = 500;

/// Hides all conversations of a gateway and marks them, then makes the first step: small ones are gone at once.
pub(super) fn of_gateway(tx: &mut Tx<'_>, gateway: &GatewayId) -> Result<(), Error> {
    let now_ms = tx.now_ms();
    let live: Vec<(Vec<u8>, String)> = conversations::table
        .filter(conversations::gateway_id.eq(gateway.as_str()).and(conversations::deleted_at.is_null()))
        .select((conversations::id, conversations::key))
        .load(tx.read()?)?;
    for (id, key) in live {
        let conversation_id = ConversationId::try_from(id.as_slice())?;
        let Ends { first_seq, last_seq } = tx.ends(conversation_id)?;
        tx.forget_deleted(conversation_id);
        let topic = Arc::new(Topic { conversation_id, gateway_id: Some(gateway.clone()), key: key.into() });
        tx.emit(Event::ConversationDeleted { topic, first_seq, last_seq });
    }
    let of_gateway = conversations::table.filter(conversations::gateway_id.eq(gateway.as_str()));
    diesel::update(of_gateway.filter(conversations::deleted_at.is_not_null()))
        .set(conversations::purge.eq(true))
        .execute(tx.write()?)?;
    diesel::update(of_gateway.filter(conversations::deleted_at.is_null()))
        .set((conversations::purge.eq(true), conversations::deleted_at.eq(Some(now_ms))))
        .execute(tx.write()?)?;
    step(tx, Some(gateway))?;
    Ok(())
}

/// Tells whether conversations of a gateway wait for their removal.
pub fn is_under_way(db: &mut Db, gateway: &GatewayId) -> Result<bool, Error> {
    let waiting = conversations::table.filter(conversations::purge.and(conversations::gateway_id.eq(gateway.as_str())));
    Ok(diesel::select(diesel::dsl::exists(waiting)).get_result(db)?)
}

/// Counts the conversations that wait for their removal.
pub fn waiting(db: &mut Db) -> Result<i64, Error> {
    Ok(conversations::table.filter(conversations::purge).count().get_result(db)?)
}

/// Makes the next step. Tells whether more waits.
#[derive(Default)]
pub struct PurgeStep {
    /// Only what is to go of this gateway.
    pub gateway_id: Option<GatewayId>,
}

impl Command for PurgeStep {
    type Output = bool;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        step(tx, self.gateway_id.as_ref())
    }
}

/// Removes at most about [`ROWS_MAX`] rows; tells whether more waits.
fn step(tx: &mut Tx<'_>, of: Option<&GatewayId>) -> Result<bool, Error> {
    let mut room = ROWS_MAX;
    while room > 0 {
        let mut marked = conversations::table.filter(conversations::purge).into_boxed();
        if let Some(gateway) = of {
            marked = marked.filter(conversations::gateway_id.eq(gateway.as_str()));
        }
        let next: Vec<(String, Vec<u8>)> = marked
            .order((conversations::gateway_id, conversations::id))
            .limit(2)
            .select((conversations::gateway_id, conversations::id))
            .load(tx.read()?)?;
        let Some((gateway, id)) = next.first() else { return Ok(false) };
        let is_last = next.get(1).is_none_or(|(other, _)| other != gateway);
        let origins = if is_last { remove_origins(tx, gateway, room)? } else { 0 };
        room -= if origins > 0 { origins } else { remove_some(tx, id, room)? };
    }
    Ok(true)
}

/// Removes what is known of a gateway's rows, before its last conversation goes; also of rows that became neither line
/// nor step.
fn remove_origins(tx: &mut Tx<'_>, gateway: &str, limit: i64) -> Result<i64, Error> {
    let of_gateway = message_origins::table.filter(message_origins::gateway_id.eq(gateway));
    let found: Vec<(String, String)> = of_gateway
        .order((message_origins::upstream_session, message_origins::row_id))
        .limit(limit)
        .select((message_origins::upstream_session, message_origins::row_id))
        .load(tx.read()?)?;
    for of_session in found.chunk_by(|(one, _), (other, _)| one == other) {
        let Some((session, _)) = of_session.first() else { continue };
        let rows: Vec<&str> = of_session.iter().map(|(_, row)| row.as_str()).collect();
        let these = message_origins::upstream_session.eq(session).and(message_origins::row_id.eq_any(rows));
        diesel::delete(of_gateway.filter(these)).execute(tx.write()?)?;
    }
    Ok(found.len() as i64)
}

/// Removes rows of one kind, those first that refer to others; at last the conversation itself. Returns how many.
fn remove_some(tx: &mut Tx<'_>, id: &[u8], limit: i64) -> Result<i64, Error> {
    let its_turns: Vec<Vec<u8>> = turns::table
        .filter(turns::conversation_id.eq(id))
        .order(turns::upstream_run_id)
        .limit(limit)
        .select(turns::id)
        .load(tx.read()?)?;
    if !its_turns.is_empty() {
        let its_steps: Vec<Vec<u8>> =
            steps::table.filter(steps::turn_id.eq_any(&its_turns)).limit(limit).select(steps::id).load(tx.read()?)?;
        if its_steps.is_empty() {
            diesel::delete(turns::table.filter(turns::id.eq_any(&its_turns))).execute(tx.write()?)?;
            return Ok(its_turns.len() as i64);
        }
        diesel::delete(message_origins::table.filter(message_origins::step_id.eq_any(&its_steps)))
            .execute(tx.write()?)?;
        diesel::delete(steps::table.filter(steps::id.eq_any(&its_steps))).execute(tx.write()?)?;
        return Ok(its_steps.len() as i64);
    }
    let lines: Vec<Vec<u8>> = messages::table
        .filter(messages::conversation_id.eq(id))
        .order(messages::seq)
        .limit(limit)
        .select(messages::id)
        .load(tx.read()?)?;
    if !lines.is_empty() {
        diesel::delete(deliveries::table.filter(deliveries::message_id.eq_any(&lines))).execute(tx.write()?)?;
        diesel::delete(message_origins::table.filter(message_origins::message_id.eq_any(&lines)))
            .execute(tx.write()?)?;
        diesel::delete(messages::table.filter(messages::id.eq_any(&lines))).execute(tx.write()?)?;
        return Ok(lines.len() as i64);
    }
    let indexed = search::forget_lines(tx, id, limit)?;
    if indexed > 0 {
        return Ok(indexed);
    }
    let parties =
        diesel::delete(participants::table.filter(participants::conversation_id.eq(id))).execute(tx.write()?)?;
    diesel::delete(conversations::table.find(id)).execute(tx.write()?)?;
    tx.forget_removed(ConversationId::try_from(id)?);
    Ok(parties as i64 + 1)
}

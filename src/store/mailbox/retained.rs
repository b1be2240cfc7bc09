//! Reports on messages whose deliveries retention has removed: what the message kept of its delivery's end, and the reply
//! that it has, give the same answers as before (D10). Only what could still change does not any more.
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::Reported;
use crate::domain::delivery::DeliveryState;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{ConversationId, MessageId, PartyId};
use crate::domain::message::MessageKind;
use crate::store::dialect::Db;
use crate::store::messages;
use crate::store::schema::{messages as table, participants};
use crate::store::tx::Tx;

/// Answers a report of `reporter` on a message without a delivery; `None`: there is nothing that it could be about.
pub(super) fn reported(
    tx: &mut Tx<'_>,
    reporter: PartyId,
    id: MessageId,
    result: &str,
) -> Result<Option<Reported>, Error> {
    let db = tx.read()?;
    let Some(ended) = messages::ended(db, id)? else { return Ok(None) };
    let Some(line) = messages::get(db, id)? else { return Ok(None) };
    // It was sent to the other one of its two; of others it learns nothing (SEC-2).
    let is_recipient = line.sender_id != reporter && takes_part(db, line.conversation_id, reporter)?;
    let Some(kind) = line.kind.filter(|_| is_recipient) else { return Ok(None) };
    if ended.state != DeliveryState::Completed {
        let message = format!("message `{id}` has ended: {}", ended.state.as_str());
        return Err(Error::new(ErrorCode::DeliveryEnded, message));
    }
    if kind == MessageKind::Request && reply_to(db, id)?.as_deref() != Some(result) {
        let message = format!("message `{id}` was completed with another result");
        return Err(Error::new(ErrorCode::ResultConflict, message));
    }
    Ok(Some(Reported { repeated: true, reply: None }))
}

fn takes_part(db: &mut Db, id: ConversationId, party: PartyId) -> Result<bool, Error> {
    let found: i64 =
        participants::table.find((id.as_bytes().as_slice(), party.as_bytes().as_slice())).count().get_result(db)?;
    Ok(found > 0)
}

/// Reads what a request was answered, by the index that lets it have one reply.
fn reply_to(db: &mut Db, id: MessageId) -> Result<Option<String>, Error> {
    Ok(table::table
        .filter(sql::<Bool>("(messages.kind = 2)").and(table::in_reply_to.eq(id.as_bytes().as_slice())))
        .select(table::text)
        .first(db)
        .optional()?)
}

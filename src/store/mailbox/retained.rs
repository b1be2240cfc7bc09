//! Messages whose deliveries retention has removed: what the message kept of its delivery's end, and the reply that it
//! has, give the same answers as before (D10). Only what could still change does not any more.
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::Reported;
use crate::domain::delivery::DeliveryState;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{ConversationId, MessageId, PartyId};
use crate::domain::message::MessageKind;
use crate::domain::party::PartyKind;
use crate::store::dialect::Db;
use crate::store::schema::messages as table;
use crate::store::tx::Tx;
use crate::store::{conversations, messages, parties};

/// Answers a report of `reporter` on a message without a delivery; `None`: there is nothing that it could be about.
pub(super) fn reported(
    tx: &mut Tx<'_>,
    reporter: PartyId,
    id: MessageId,
    result: &str,
) -> Result<Option<Reported>, Error> {
    let db = tx.read()?;
    let Some(kind) = sent_to(db, id, reporter)? else { return Ok(None) };
    let Some(ended) = messages::ended(db, id)? else { return Ok(None) };
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

/// Tells whether a recipient may acknowledge this message: it has it since before.
pub(super) fn is_acknowledged(db: &mut Db, recipient: PartyId, id: MessageId) -> Result<bool, Error> {
    Ok(match sent_to(db, id, recipient)? {
        None | Some(MessageKind::Request) => false,
        Some(MessageKind::Reply | MessageKind::Notice) => {
            messages::ended(db, id)?.is_some_and(|ended| ended.state == DeliveryState::Completed)
        }
    })
}

/// Tells whether a message was sent to this party, an agent, by a delivery that has been removed since.
pub fn was_sent_to(db: &mut Db, id: MessageId, recipient: PartyId) -> Result<bool, Error> {
    Ok(sent_to(db, id, recipient)?.is_some())
}

/// Reads what such a message is; of what others were sent nobody learns anything (SEC-2).
fn sent_to(db: &mut Db, id: MessageId, recipient: PartyId) -> Result<Option<MessageKind>, Error> {
    let found: Option<(Vec<u8>, Option<i32>)> = table::table
        .filter(table::id.eq(id.as_bytes().as_slice()).and(table::end_state.is_not_null()))
        .select((table::conversation_id, table::kind))
        .first(db)
        .optional()?;
    let Some((conversation, Some(code))) = found else { return Ok(None) };
    let kind = MessageKind::from_code(code).ok_or_else(|| Error::corrupt("a message of an unknown kind"))?;
    let key = conversations::topic(db, ConversationId::try_from(conversation.as_slice())?)?.key;
    // The key of their conversation ends with whoever asks and whoever is asked.
    let mut names = key.rsplit('_');
    let (asked, asker) = (names.next(), names.next());
    let named = if kind == MessageKind::Request { asked } else { asker };
    let party = parties::get(db, recipient)?.filter(|party| party.kind == PartyKind::Agent);
    Ok(party.filter(|party| named == Some(party.reference.as_str())).map(|_| kind))
}

/// Reads what a request was answered, by the index that lets it have one reply.
fn reply_to(db: &mut Db, id: MessageId) -> Result<Option<String>, Error> {
    Ok(table::table
        .filter(sql::<Bool>("(messages.kind = 2)").and(table::in_reply_to.eq(id.as_bytes().as_slice())))
        .select(table::text)
        .first(db)
        .optional()?)
}

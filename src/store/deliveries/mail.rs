//! Mail: deliveries with what their moves must know of their messages.
use diesel::prelude::*;

use super::{Row, Stored, open};
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::{DeliveryId, MessageId, PartyId};
use crate::domain::message::{Line, MessageKind};
use crate::store::dialect::Db;
use crate::store::mailbox::was_sent_to;
use crate::store::schema::{deliveries, messages};

/// A delivery, and what its message asks of the recipient.
#[derive(Clone, Debug)]
pub(in crate::store) struct Mail {
    pub(in crate::store) stored: Stored,
    pub(in crate::store) kind: Option<MessageKind>,
    pub(in crate::store) sender_id: PartyId,
    pub(in crate::store) hops: i32,
}

impl Mail {
    /// Of a delivery that was just made.
    pub(in crate::store) fn of(stored: Stored, line: &Line) -> Self {
        Self { stored, kind: line.kind, sender_id: line.sender_id, hops: line.hops }
    }
}

type MailRow = (Row, Option<i32>, Vec<u8>, i32);

fn mail((row, kind, sender_id, hops): MailRow) -> Result<Mail, Error> {
    let kind = kind
        .map(|code| MessageKind::from_code(code).ok_or_else(|| Error::corrupt("a message of an unknown kind")))
        .transpose()?;
    Ok(Mail { stored: Stored::try_from(row)?, kind, sender_id: PartyId::try_from(sender_id.as_slice())?, hops })
}

/// Reads those of these that there are and can be read, in any order.
pub(in crate::store) fn mail_by_ids(db: &mut Db, ids: &[DeliveryId]) -> Result<Vec<Mail>, Error> {
    let rows: Vec<MailRow> = deliveries::table
        .inner_join(messages::table.on(messages::id.eq(deliveries::message_id)))
        .filter(deliveries::id.eq_any(ids.iter().map(|id| id.as_bytes().as_slice())))
        .select((Row::as_select(), messages::kind, messages::sender_id, messages::hops))
        .load(db)?;
    let readable = |row: MailRow| {
        // The others move all the same (STO-3).
        mail(row).inspect_err(|error| log::error!("a delivery cannot be read and is left as it is: {}", error.cause()))
    };
    Ok(rows.into_iter().filter_map(|row| readable(row).ok()).collect())
}

/// Reads the delivery of a message to a recipient, open or not.
pub(in crate::store) fn mail_of(db: &mut Db, message: MessageId, recipient: PartyId) -> Result<Option<Mail>, Error> {
    let row: Option<MailRow> = deliveries::table
        .inner_join(messages::table.on(messages::id.eq(deliveries::message_id)))
        .filter(
            deliveries::message_id
                .eq(message.as_bytes().as_slice())
                .and(deliveries::recipient_id.eq(recipient.as_bytes().as_slice())),
        )
        .select((Row::as_select(), messages::kind, messages::sender_id, messages::hops))
        .first(db)
        .optional()?;
    row.map(mail).transpose()
}

/// Reads the deliveries of these messages to a recipient, open or not, in any order.
pub(in crate::store) fn mail_of_messages(
    db: &mut Db,
    ids: &[MessageId],
    recipient: PartyId,
) -> Result<Vec<Mail>, Error> {
    let rows: Vec<MailRow> = deliveries::table
        .inner_join(messages::table.on(messages::id.eq(deliveries::message_id)))
        .filter(
            deliveries::message_id
                .eq_any(ids.iter().map(|id| id.as_bytes().as_slice()))
                .and(deliveries::recipient_id.eq(recipient.as_bytes().as_slice())),
        )
        .select((Row::as_select(), messages::kind, messages::sender_id, messages::hops))
        .load(db)?;
    rows.into_iter().map(mail).collect()
}

/// Reads the hops of a message that a party wrote or was sent, also where its delivery has been removed since.
pub(in crate::store) fn hops_of(db: &mut Db, message: MessageId, party: PartyId) -> Result<Option<i32>, Error> {
    let found: Option<(Vec<u8>, i32)> = messages::table
        .find(message.as_bytes().as_slice())
        .select((messages::sender_id, messages::hops))
        .first(db)
        .optional()?;
    let Some((sender_id, hops)) = found else { return Ok(None) };
    if sender_id.as_slice() == party.as_bytes().as_slice() {
        return Ok(Some(hops));
    }
    let sent: i64 = deliveries::table
        .filter(
            deliveries::message_id
                .eq(message.as_bytes().as_slice())
                .and(deliveries::recipient_id.eq(party.as_bytes().as_slice())),
        )
        .count()
        .get_result(db)?;
    Ok((sent > 0 || was_sent_to(db, message, party)?).then_some(hops))
}

/// Reads what waits for a recipient under a coalescing key, the oldest first; what is leased does not wait.
pub(in crate::store) fn waiting_by_key(db: &mut Db, id: PartyId, key: &str) -> Result<Vec<Stored>, Error> {
    let rows = deliveries::table
        .filter(deliveries::recipient_id.eq(id.as_bytes().as_slice()).and(open()))
        .filter(deliveries::coalesce_key.eq(key))
        .filter(deliveries::state.eq(DeliveryState::Pending as i32))
        .order(deliveries::n.asc())
        .select(Row::as_select())
        .load(db)?;
    rows.into_iter().map(Stored::try_from).collect()
}

/// Counts the open deliveries of a recipient.
pub(in crate::store) fn count_open_of_recipient(db: &mut Db, id: PartyId) -> Result<usize, Error> {
    let open: i64 = deliveries::table
        .filter(deliveries::recipient_id.eq(id.as_bytes().as_slice()).and(open()))
        .count()
        .get_result(db)?;
    Ok(usize::try_from(open).unwrap_or(0))
}

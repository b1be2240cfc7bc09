//! Which message is which at a provider: what was sent and what came in, each once (decision 10 of the mailbox contract).
use diesel::prelude::*;

use super::dialect::Db;
use super::schema::channel_refs;
use super::tx::Tx;
use crate::domain::error::Error;
use crate::domain::ids::{ChannelId, MessageId};

/// Which way a message went. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Direction {
    Out = 1,
    In = 2,
}

/// What a provider calls a message of ours. A long message has one for each of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRef {
    pub channel_id: ChannelId,
    /// The provider's id of the chat.
    pub chat: String,
    /// The provider's id of the message, unique on its chat.
    pub external_id: String,
    pub message_id: MessageId,
    pub direction: Direction,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = channel_refs)]
struct Row {
    channel_id: Vec<u8>,
    chat: String,
    external_id: String,
    message_id: Vec<u8>,
    direction: i32,
}

impl TryFrom<Row> for ChannelRef {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            channel_id: ChannelId::try_from(row.channel_id.as_slice())?,
            chat: row.chat,
            external_id: row.external_id,
            message_id: MessageId::try_from(row.message_id.as_slice())?,
            direction: if row.direction == Direction::In as i32 { Direction::In } else { Direction::Out },
        })
    }
}

/// Finds the message of a provider's id.
pub fn message(db: &mut Db, channel: ChannelId, chat: &str, external_id: &str) -> Result<Option<MessageId>, Error> {
    let found: Option<Vec<u8>> = channel_refs::table
        .find((channel.as_bytes().as_slice(), chat, external_id))
        .select(channel_refs::message_id)
        .first(db)
        .optional()?;
    found.map(|id| MessageId::try_from(id.as_slice())).transpose()
}

/// Reads the newest messages of a chat, newest first.
pub fn newest(db: &mut Db, channel: ChannelId, chat: &str, limit: i64) -> Result<Vec<MessageId>, Error> {
    let found: Vec<Vec<u8>> = channel_refs::table
        .filter(channel_refs::channel_id.eq(channel.as_bytes().as_slice()).and(channel_refs::chat.eq(chat)))
        .order(channel_refs::created_at.desc())
        .limit(limit)
        .select(channel_refs::message_id)
        .load(db)?;
    found.iter().map(|id| MessageId::try_from(id.as_slice())).collect()
}

/// Reads what providers call a message.
pub fn of_message(db: &mut Db, id: MessageId) -> Result<Vec<ChannelRef>, Error> {
    let rows: Vec<Row> = channel_refs::table
        .filter(channel_refs::message_id.eq(id.as_bytes().as_slice()))
        .order((channel_refs::created_at.asc(), channel_refs::chat.asc(), channel_refs::external_id.asc()))
        .select(Row::as_select())
        .load(db)?;
    rows.into_iter().map(ChannelRef::try_from).collect()
}

/// Notes what a provider calls a message; what is known already stays as it is.
pub(super) fn note(tx: &mut Tx<'_>, new: &ChannelRef) -> Result<(), Error> {
    if message(tx.read()?, new.channel_id, &new.chat, &new.external_id)?.is_some() {
        return Ok(());
    }
    let now_ms = tx.now_ms();
    diesel::insert_into(channel_refs::table)
        .values((
            channel_refs::channel_id.eq(new.channel_id.as_bytes().as_slice()),
            channel_refs::chat.eq(&new.chat),
            channel_refs::external_id.eq(&new.external_id),
            channel_refs::message_id.eq(new.message_id.as_bytes().as_slice()),
            channel_refs::direction.eq(new.direction as i32),
            channel_refs::created_at.eq(now_ms),
        ))
        .execute(tx.write()?)?;
    Ok(())
}

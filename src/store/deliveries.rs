//! Deliveries: every move goes through the state machine of `domain::delivery`, inside a transaction.
mod by_channel;
mod due;
mod events;
mod insert;
mod mail;
mod removal;

use std::sync::Arc;

use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::dialect::Db;
use super::mailbox::Lost;
use super::parties;
use super::schema::{agents, channels, conversations, deliveries};
use super::tx::{Command, Tx};
use crate::domain::delivery::{Applied, Delivery, DeliveryState, Move, Outcome};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{ChannelId, ConversationId, DeliveryId, MessageId, PartyId};
use crate::domain::message::Line;
use crate::domain::party::Party;

pub(super) use self::by_channel::{count_open_by_channel, open_by_channel};
pub(super) use self::due::surroundings;
pub use self::due::{FireDue, Fired, due};
pub use self::events::Entry;
pub use self::insert::DeliveryOptions;
pub(super) use self::insert::{NewDelivery, NewRow, insert};
pub(super) use self::mail::{
    Mail, count_open_of_recipient, hops_of, mail_by_ids, mail_of, mail_of_messages, waiting_by_key,
};
pub use self::removal::{Ended, Purge, ended_of};
pub(super) use self::removal::{newest_at, remove};

/// Hand-outs of a delivery before it is dead, unless its recipient says otherwise.
pub const ATTEMPTS_MAX: i32 = 5;

#[derive(Queryable, Selectable)]
#[diesel(table_name = deliveries)]
struct Row {
    id: Vec<u8>,
    n: i64,
    message_id: Vec<u8>,
    conversation_id: Vec<u8>,
    recipient_id: Vec<u8>,
    channel_id: Option<Vec<u8>>,
    seq: i64,
    state: i32,
    outcome: Option<i32>,
    reason: Option<String>,
    attempt: i32,
    attempts_max: i32,
    priority: i32,
    available_at: i64,
    lease_until: Option<i64>,
    leased_at: Option<i64>,
    expires_at: Option<i64>,
    started: bool,
    result_hash: Option<Vec<u8>>,
    events: String,
    created_at: i64,
    ended_at: Option<i64>,
}

/// A delivery with what only the store and the admin API need of it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub delivery: Delivery,
    /// Its key was seen by the upstream gateway, so it must not be sent again under another (D4).
    pub started: bool,
    pub events: Vec<Entry>,
}

impl TryFrom<Row> for Stored {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let state =
            DeliveryState::from_code(row.state).ok_or_else(|| Error::corrupt("a delivery of an unknown state"))?;
        let outcome = row
            .outcome
            .map(|code| Outcome::from_code(code).ok_or_else(|| Error::corrupt("a delivery of an unknown outcome")))
            .transpose()?;
        let result_hash = row
            .result_hash
            .map(|hash| <[u8; 32]>::try_from(hash).map_err(|_| Error::corrupt("a result digest of a wrong length")))
            .transpose()?;
        Ok(Self {
            delivery: Delivery {
                id: DeliveryId::try_from(row.id.as_slice())?,
                n: row.n,
                message_id: MessageId::try_from(row.message_id.as_slice())?,
                conversation_id: ConversationId::try_from(row.conversation_id.as_slice())?,
                recipient_id: PartyId::try_from(row.recipient_id.as_slice())?,
                channel_id: row.channel_id.map(|id| ChannelId::try_from(id.as_slice())).transpose()?,
                seq: row.seq,
                priority: row.priority,
                state,
                outcome,
                reason: row.reason,
                attempt: row.attempt,
                attempts_max: row.attempts_max,
                available_at: row.available_at,
                lease_until: row.lease_until,
                leased_at: row.leased_at,
                expires_at: row.expires_at,
                result_hash,
                created_at: row.created_at,
                ended_at: row.ended_at,
            },
            started: row.started,
            events: serde_json::from_str(&row.events)
                .map_err(|error| Error::corrupt(format!("history of a delivery: {error}")))?,
        })
    }
}

/// A delivery that has moved, on its way to its table.
pub(super) struct Moved {
    pub(super) delivery: Delivery,
    /// Its history, as stored.
    pub(super) events: String,
}

impl Moved {
    pub(super) fn of(stored: &Stored) -> Result<Self, Error> {
        Ok(Self { delivery: stored.delivery.clone(), events: events::text(&stored.events)? })
    }
}

/// Applies a move and stores the result, with an event for whoever watches. A repeat changes nothing.
pub(super) fn apply(tx: &mut Tx<'_>, id: DeliveryId, action: &Move) -> Result<Delivery, Error> {
    let stored = get(tx.read()?, id)?.ok_or_else(|| Error::not_found("delivery", id))?;
    apply_to(tx, stored, action, true)
}

/// The same for a delivery that was just read; without `announce` the caller tells of it. A request to an agent that ends
/// unhandled begets a notice here, whoever moves it.
pub(super) fn apply_to(tx: &mut Tx<'_>, mut stored: Stored, action: &Move, announce: bool) -> Result<Delivery, Error> {
    let now_ms = tx.now_ms();
    let from = stored.delivery.state;
    if stored.delivery.apply(action, now_ms)? == Applied::Repeated {
        return Ok(stored.delivery);
    }
    events::add_move(&mut stored.events, action, &stored.delivery, now_ms);
    let lost = Lost::of(tx, &stored.delivery, from)?;
    tx.save_move(&stored, from)?;
    if announce {
        tell(tx, &stored.delivery, Some(from), None)?;
    }
    if let Some(lost) = lost {
        lost.tell(tx, &stored.delivery)?;
    }
    Ok(stored.delivery)
}

impl Stored {
    /// Adds to its history that the recipient took the newest hand-out at this time; tells whether that is new.
    pub(super) fn add_sent(&mut self, at: i64) -> bool {
        events::add_sent(&mut self.events, self.delivery.attempt, at)
    }
}

/// Notes that the recipient took the newest hand-out of a delivery, which does not move by it. A repeat changes nothing,
/// and what cannot be read is left as it is.
pub(super) fn note_sent(tx: &mut Tx<'_>, id: DeliveryId, at: i64) -> Result<(), Error> {
    let Some(mut stored) = get_readable(tx.read()?, id)? else { return Ok(()) };
    if stored.add_sent(at) {
        diesel::update(deliveries::table.find(id_of(&stored.delivery)))
            .set(deliveries::events.eq(events::text(&stored.events)?))
            .execute(tx.write()?)?;
    }
    Ok(())
}

/// Notes that the provider could not deliver what it had taken. The delivery has ended and does not move by it. Tells
/// whether that is new.
pub(super) fn note_undelivered(tx: &mut Tx<'_>, mut stored: Stored, why: &str) -> Result<bool, Error> {
    let at = tx.now_ms();
    if !events::add_undelivered(&mut stored.events, why, at) {
        return Ok(false);
    }
    diesel::update(deliveries::table.find(id_of(&stored.delivery)))
        .set(deliveries::events.eq(events::text(&stored.events)?))
        .execute(tx.write()?)?;
    Ok(true)
}

/// Adds an event about a delivery.
pub(super) fn tell(
    tx: &mut Tx<'_>,
    delivery: &Delivery,
    from: Option<DeliveryState>,
    line: Option<Arc<Line>>,
) -> Result<(), Error> {
    let topic = tx.topic(delivery.conversation_id)?;
    tx.emit(Event::Delivery { topic, delivery: Arc::new(delivery.clone()), from, line });
    Ok(())
}

fn id_of(delivery: &Delivery) -> &[u8] {
    delivery.id.as_bytes().as_slice()
}

/// Reads one delivery.
pub fn get(db: &mut Db, id: DeliveryId) -> Result<Option<Stored>, Error> {
    deliveries::table
        .find(id.as_bytes().as_slice())
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Stored::try_from)
        .transpose()
}

/// Reads one delivery for whoever goes on without it: one that cannot be read is left out, and said in the log.
pub(super) fn get_readable(db: &mut Db, id: DeliveryId) -> Result<Option<Stored>, Error> {
    Ok(by_ids(db, &[id])?.pop())
}

/// Reads those of these that there are, in order of acceptance.
fn by_ids(db: &mut Db, ids: &[DeliveryId]) -> Result<Vec<Stored>, Error> {
    let rows = deliveries::table
        .filter(deliveries::id.eq_any(ids.iter().map(|id| id.as_bytes().as_slice())))
        .order(deliveries::n.asc())
        .select(Row::as_select())
        .load(db)?;
    Ok(readable(rows))
}

/// Leaves out what cannot be read, and says so: one damaged row must not hold up its neighbours (STO-3).
fn readable(rows: Vec<Row>) -> Vec<Stored> {
    let stored = |row: Row| {
        let id = DeliveryId::try_from(row.id.as_slice());
        Stored::try_from(row).inspect_err(|error| match id {
            Ok(id) => log::error!("delivery `{id}` cannot be read and is left as it is: {}", error.cause()),
            Err(_) => log::error!("a delivery cannot be read and is left as it is: {}", error.cause()),
        })
    };
    rows.into_iter().filter_map(|row| stored(row).ok()).collect()
}

/// Reads the deliveries of a message, in order of acceptance.
pub fn of_message(db: &mut Db, id: MessageId) -> Result<Vec<Stored>, Error> {
    let rows = deliveries::table
        .filter(deliveries::message_id.eq(id.as_bytes().as_slice()))
        .order(deliveries::n.asc())
        .select(Row::as_select())
        .load(db)?;
    rows.into_iter().map(Stored::try_from).collect()
}

/// The condition of the indexes of open deliveries. With a bound number in it SQLite would plan the query anew each time.
pub(super) fn open() -> SqlLiteral<Bool> {
    diesel::dsl::sql("(deliveries.state < 2)")
}

/// The condition of the index of ended deliveries.
pub(super) fn ended() -> SqlLiteral<Bool> {
    diesel::dsl::sql("(deliveries.state >= 2)")
}

/// Reads open deliveries of a conversation, in order of their messages.
pub fn open_of_conversation(db: &mut Db, id: ConversationId, limit: i64) -> Result<Vec<Stored>, Error> {
    let rows = deliveries::table
        .filter(deliveries::conversation_id.eq(id.as_bytes().as_slice()).and(open()))
        .order(deliveries::seq.asc())
        .limit(limit)
        .select(Row::as_select())
        .load(db)?;
    rows.into_iter().map(Stored::try_from).collect()
}

/// Counts open deliveries of a conversation.
pub(super) fn count_open_of_conversation(db: &mut Db, id: ConversationId) -> Result<usize, Error> {
    let open: i64 = deliveries::table
        .filter(deliveries::conversation_id.eq(id.as_bytes().as_slice()).and(open()))
        .count()
        .get_result(db)?;
    Ok(usize::try_from(open).unwrap_or(0))
}

/// Reads open deliveries of a recipient after number `after_n`, in order of acceptance.
pub fn open_of_recipient(db: &mut Db, id: PartyId, after_n: i64, limit: i64) -> Result<Vec<Stored>, Error> {
    open_rows(db, id, after_n, limit)?.into_iter().map(Stored::try_from).collect()
}

fn open_rows(db: &mut Db, id: PartyId, after_n: i64, limit: i64) -> Result<Vec<Row>, Error> {
    Ok(deliveries::table
        .filter(deliveries::recipient_id.eq(id.as_bytes().as_slice()).and(open()).and(deliveries::n.gt(after_n)))
        .order(deliveries::n.asc())
        .limit(limit)
        .select(Row::as_select())
        .load(db)?)
}

/// The same for whoever works through them: what cannot be read is left out, and said in the log. With the number after
/// which the next page begins; `None` at the end.
pub fn work_of_recipient(
    db: &mut Db,
    id: PartyId,
    after_n: i64,
    limit: i64,
) -> Result<(Vec<Stored>, Option<i64>), Error> {
    let rows = open_rows(db, id, after_n, limit)?;
    let next = rows.last().filter(|_| rows.len() as i64 >= limit).map(|row| row.n);
    Ok((readable(rows), next))
}

/// Counts deliveries by state: the open ones and the dead ones. The others are history.
pub fn counts(db: &mut Db) -> Result<Vec<(DeliveryState, i64)>, Error> {
    DeliveryState::ALL
        .into_iter()
        .filter(|state| state.is_open() || *state == DeliveryState::Dead)
        .map(|state| Ok((state, count(db, &Filter { state: Some(state), ..Filter::default() })?)))
        .collect()
}

/// Which deliveries an operator means.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<DeliveryState>,
    pub recipient: Option<PartyId>,
    pub created_before: Option<i64>,
    /// Only those that [`Redrive`] would not refuse for good: they had not reached their gateway, and their conversation
    /// and their agent are there.
    pub redrivable: bool,
    /// Continue after this number.
    pub after_n: Option<i64>,
}

/// Lists deliveries, newest first.
pub fn list(db: &mut Db, filter: &Filter, limit: i64) -> Result<Vec<(Stored, Party)>, Error> {
    let mut query = matching(filter);
    if let Some(n) = filter.after_n {
        query = query.filter(deliveries::n.lt(n));
    }
    let rows = query.order(deliveries::n.desc()).limit(limit).select(Row::as_select()).load::<Row>(db)?;
    with_recipients(db, rows.into_iter().map(Stored::try_from).collect::<Result<_, _>>()?)
}

/// Counts the deliveries that [`list`] would give on all its pages. Of the ended ones it reads an index only, which
/// holds all that is filtered by: some 100 ms for a million rows.
pub fn count(db: &mut Db, filter: &Filter) -> Result<i64, Error> {
    if filter.state.is_some() {
        return Ok(matching(filter).count().get_result(db)?);
    }
    let open: i64 = matching(filter).filter(open()).count().get_result(db)?;
    let ended: i64 = matching(filter).filter(ended()).count().get_result(db)?;
    Ok(open + ended)
}

/// What a filter lets through, wherever the list goes on.
fn matching(filter: &Filter) -> deliveries::BoxedQuery<'static, <Db as diesel::Connection>::Backend> {
    let mut query = deliveries::table.into_boxed();
    if let Some(state) = filter.state {
        let half = if state.is_open() { open() } else { ended() };
        query = query.filter(half.and(deliveries::state.eq(state as i32)));
    }
    if let Some(recipient) = filter.recipient {
        query = query.filter(deliveries::recipient_id.eq(recipient.as_bytes().to_vec()));
    }
    if let Some(before) = filter.created_before {
        query = query.filter(deliveries::created_at.lt(before));
    }
    if filter.redrivable {
        let live = conversations::table.filter(conversations::deleted_at.is_null()).select(conversations::id);
        query = query.filter(deliveries::started.eq(false).and(deliveries::conversation_id.eq_any(live)));
        let removed = agents::table.filter(agents::deleted_at.is_not_null()).select(agents::party_id);
        query = query.filter(deliveries::recipient_id.ne_all(removed));
        let channels = channels::table.filter(channels::deleted_at.is_null()).select(channels::id.nullable());
        query = query.filter(deliveries::channel_id.is_null().or(deliveries::channel_id.eq_any(channels)));
    }
    query
}

/// Adds the recipient's party to each delivery, with one query for all.
pub fn with_recipients(db: &mut Db, stored: Vec<Stored>) -> Result<Vec<(Stored, Party)>, Error> {
    let mut ids: Vec<PartyId> = stored.iter().map(|s| s.delivery.recipient_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let found = if ids.is_empty() { Vec::new() } else { parties::by_ids(db, &ids)? };
    stored
        .into_iter()
        .map(|s| {
            let party = found
                .iter()
                .find(|party| party.id == s.delivery.recipient_id)
                .ok_or_else(|| Error::corrupt("a delivery without its recipient's party"))?;
            Ok((s, party.clone()))
        })
        .collect()
}

/// An operator starts dead deliveries afresh.
pub struct Redrive {
    pub id: DeliveryId,
}

impl Command for Redrive {
    type Output = Delivery;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Delivery, Error> {
        let stored = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("delivery", self.id))?;
        if stored.delivery.state == DeliveryState::Dead {
            self.check(tx, &stored)?;
        }
        apply_to(tx, stored, &Move::Redrive, true)
    }
}

impl Redrive {
    /// Refuses what stays dead for good.
    fn check(&self, tx: &mut Tx<'_>, stored: &Stored) -> Result<(), Error> {
        if stored.started {
            return Err(Error::new(
                ErrorCode::DeliveryEnded,
                format!(
                    "delivery `{}` had reached its gateway, so sending it again could ask twice; write the message anew",
                    self.id
                ),
            ));
        }
        if super::conversations::get(tx.read()?, stored.delivery.conversation_id)?.is_none() {
            // Nobody would hand it out (DLV-2).
            return Err(Error::new(
                ErrorCode::DeliveryEnded,
                format!("the conversation of delivery `{}` was deleted", self.id),
            ));
        }
        if tx.is_removed(stored.delivery.recipient_id)? {
            return Err(Error::new(
                ErrorCode::DeliveryEnded,
                format!("the agent that delivery `{}` was for was removed", self.id),
            ));
        }
        by_channel::check(tx, &stored.delivery)
    }
}

/// An operator or the sender ends an open delivery.
pub struct Cancel {
    pub id: DeliveryId,
    pub reason: Option<String>,
}

impl Command for Cancel {
    type Output = Delivery;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Delivery, Error> {
        apply(tx, self.id, &Move::Cancel { reason: self.reason.clone() })
    }
}

//! Parties: made with what they stand for.
use diesel::prelude::*;

use super::dialect::Db;
use super::schema::parties;
use super::tx::Tx;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, PartyId};
use crate::domain::party::{Party, PartyKind};

#[derive(Queryable)]
struct Row {
    id: Vec<u8>,
    kind: i32,
    reference: String,
    display_name: String,
    #[expect(dead_code, reason = "the row is read whole")]
    created_at: i64,
}

impl TryFrom<Row> for Party {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let kind = PartyKind::from_code(row.kind).ok_or_else(|| Error::corrupt("a party of an unknown kind"))?;
        Ok(Self {
            id: PartyId::try_from(row.id.as_slice())?,
            kind,
            reference: row.reference,
            display_name: row.display_name,
        })
    }
}

/// Returns the party that stands for `reference`, made if there is none; its name follows `display_name`.
pub(super) fn ensure(tx: &mut Tx<'_>, kind: PartyKind, reference: &str, display_name: &str) -> Result<Party, Error> {
    if let Some(mut party) = find(tx.read()?, kind, reference)? {
        if party.display_name != display_name {
            diesel::update(parties::table.find(party.id.as_bytes().as_slice()))
                .set(parties::display_name.eq(display_name))
                .execute(tx.write()?)?;
            party.display_name = display_name.to_owned();
            tx.forget_party(party.id);
        }
        return Ok(party);
    }
    let party =
        Party { id: PartyId::new(), kind, reference: reference.to_owned(), display_name: display_name.to_owned() };
    let now_ms = tx.now_ms();
    diesel::insert_into(parties::table)
        .values((
            parties::id.eq(party.id.as_bytes().as_slice()),
            parties::kind.eq(kind as i32),
            parties::reference.eq(reference),
            parties::display_name.eq(display_name),
            parties::created_at.eq(now_ms),
        ))
        .execute(tx.write()?)?;
    Ok(party)
}

/// Finds the party that stands for `reference`.
pub fn find(db: &mut Db, kind: PartyKind, reference: &str) -> Result<Option<Party>, Error> {
    parties::table
        .filter(parties::kind.eq(kind as i32).and(parties::reference.eq(reference)))
        .first::<Row>(db)
        .optional()?
        .map(Party::try_from)
        .transpose()
}

/// Reads one party.
pub fn get(db: &mut Db, id: PartyId) -> Result<Option<Party>, Error> {
    Ok(by_ids(db, &[id])?.pop())
}

/// Reads parties by id, in any order.
pub(super) fn by_ids(db: &mut Db, ids: &[PartyId]) -> Result<Vec<Party>, Error> {
    rows_by_ids(db, ids)?.into_iter().map(Party::try_from).collect()
}

/// The same without what cannot be read; whoever misses one says so.
pub(super) fn readable_by_ids(db: &mut Db, ids: &[PartyId]) -> Result<Vec<Party>, Error> {
    Ok(rows_by_ids(db, ids)?.into_iter().filter_map(|row| Party::try_from(row).ok()).collect())
}

fn rows_by_ids(db: &mut Db, ids: &[PartyId]) -> Result<Vec<Row>, Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    Ok(parties::table.filter(parties::id.eq_any(ids)).load::<Row>(db)?)
}

/// Reads who takes part in a conversation, with how far each has read.
pub fn of_conversation(db: &mut Db, id: ConversationId, limit: i64) -> Result<Vec<(Party, i64)>, Error> {
    use super::schema::participants;
    let rows: Vec<(Row, i64)> = participants::table
        .inner_join(parties::table.on(parties::id.eq(participants::party_id)))
        .filter(participants::conversation_id.eq(id.as_bytes().as_slice()))
        .order((participants::joined_at.asc(), participants::party_id.asc()))
        .limit(limit)
        .select((parties::all_columns, participants::read_seq))
        .load(db)?;
    rows.into_iter().map(|(row, read_seq)| Ok((Party::try_from(row)?, read_seq))).collect()
}

/// Returns the party that stands for `reference`; a new one is named like it.
pub(super) fn ensure_named(tx: &mut Tx<'_>, kind: PartyKind, reference: &str) -> Result<Party, Error> {
    match tx.party_of(kind, reference)? {
        Some(party) => Ok(party),
        None => ensure(tx, kind, reference, reference),
    }
}

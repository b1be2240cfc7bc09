//! The ends of logs, and how far parties have read.
use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Nullable};

use super::{ARRAYS_FROM, Bytes};
use crate::domain::ids::{ConversationId, PartyId};
use crate::store::dialect::Db;
use crate::store::dialect::cached::cached;
use crate::store::tx::Changed;

/// Notes how far parties have read by their own lines; whoever is new takes part from now on.
pub(in crate::store) fn note_read(
    db: &mut Db,
    read: &HashMap<(ConversationId, PartyId), i64>,
    now_ms: i64,
) -> QueryResult<()> {
    if let Db::Postgres(conn) = db
        && read.len() >= ARRAYS_FROM
    {
        let arrays = NoteAllRead {
            conversations: read.keys().map(|(conversation, _)| conversation.as_bytes().as_slice()).collect(),
            parties: read.keys().map(|(_, party)| party.as_bytes().as_slice()).collect(),
            seqs: read.values().copied().collect(),
            joined_at: now_ms,
        };
        return arrays.execute(conn).map(drop);
    }
    for ((conversation, party), seq) in read {
        let row =
            NoteRead { conversation: conversation.as_bytes(), party: party.as_bytes(), seq: *seq, joined_at: now_ms };
        row.execute_on(db)?;
    }
    Ok(())
}

cached! {
    for Db,
    struct NoteRead<'a> {
        conversation: Bytes<'a>,
        party: Bytes<'a>,
        seq: i64,
        joined_at: i64,
    }
    "INSERT INTO participants (conversation_id, party_id, read_seq, joined_at) VALUES (" [conversation: Binary]
    ", " [party: Binary]
    ", " [seq: BigInt]
    ", " [joined_at: BigInt]
    ") ON CONFLICT (conversation_id, party_id) DO UPDATE SET read_seq = excluded.read_seq"
}

cached! {
    for Postgres,
    struct NoteAllRead<'a> {
        conversations: Vec<Bytes<'a>>,
        parties: Vec<Bytes<'a>>,
        seqs: Vec<i64>,
        joined_at: i64,
    }
    "INSERT INTO participants (joined_at, conversation_id, party_id, read_seq) SELECT " [joined_at: BigInt]
    ", * FROM unnest(" [conversations: Array<Binary>]
    ", " [parties: Array<Binary>]
    ", " [seqs: Array<BigInt>]
    ") ON CONFLICT (conversation_id, party_id) DO UPDATE SET read_seq = excluded.read_seq"
}

/// Stores the new ends of logs; the time of activity moves with a new line at the end.
pub(in crate::store) fn save_ends(db: &mut Db, changed: &Changed) -> QueryResult<()> {
    if let Db::Postgres(conn) = db
        && changed.len() >= ARRAYS_FROM
    {
        let arrays = SaveAllEnds {
            ids: changed.keys().map(|id| id.as_bytes().as_slice()).collect(),
            first: changed.values().map(|(ends, _)| ends.first_seq).collect(),
            last: changed.values().map(|(ends, _)| ends.last_seq).collect(),
            said_at: changed.values().map(|(_, at)| *at).collect(),
        };
        return arrays.execute(conn).map(drop);
    }
    for (id, (ends, said_at)) in changed {
        SaveEnds { first: ends.first_seq, last: ends.last_seq, said_at: *said_at, id: id.as_bytes() }.execute_on(db)?;
    }
    Ok(())
}

cached! {
    for Db,
    struct SaveEnds<'a> {
        first: i64,
        last: i64,
        said_at: Option<i64>,
        id: Bytes<'a>,
    }
    "UPDATE conversations SET first_seq = " [first: BigInt]
    ", last_seq = " [last: BigInt]
    ", updated_at = coalesce(" [said_at: Nullable<BigInt>]
    ", updated_at) WHERE id = " [id: Binary]
}

cached! {
    for Postgres,
    struct SaveAllEnds<'a> {
        ids: Vec<Bytes<'a>>,
        first: Vec<i64>,
        last: Vec<i64>,
        said_at: Vec<Option<i64>>,
    }
    "UPDATE conversations SET first_seq = new.first, last_seq = new.last, updated_at = coalesce(new.said_at, updated_at) \
     FROM unnest(" [ids: Array<Binary>]
    ", " [first: Array<BigInt>]
    ", " [last: Array<BigInt>]
    ", " [said_at: Array<Nullable<BigInt>>]
    ") AS new (id, first, last, said_at) WHERE conversations.id = new.id"
}

/// Notes how far the index of words has come in some conversations: their first and last lines in it.
pub(in crate::store) fn save_searched(db: &mut Db, reached: &[(Vec<u8>, i64, i64)]) -> QueryResult<()> {
    if let Db::Postgres(conn) = db
        && reached.len() >= ARRAYS_FROM
    {
        let arrays = SaveAllSearched {
            ids: reached.iter().map(|(id, ..)| id.as_slice()).collect(),
            first: reached.iter().map(|(_, first, _)| *first).collect(),
            last: reached.iter().map(|(.., last)| *last).collect(),
        };
        return arrays.execute(conn).map(drop);
    }
    for (id, first, last) in reached {
        SaveSearched { first: *first, last: *last, id }.execute_on(db)?;
    }
    Ok(())
}

cached! {
    for Db,
    struct SaveSearched<'a> {
        first: i64,
        last: i64,
        id: Bytes<'a>,
    }
    "UPDATE conversations SET searched_first = " [first: BigInt]
    ", searched_last = " [last: BigInt]
    " WHERE id = " [id: Binary]
}

cached! {
    for Postgres,
    struct SaveAllSearched<'a> {
        ids: Vec<Bytes<'a>>,
        first: Vec<i64>,
        last: Vec<i64>,
    }
    "UPDATE conversations SET searched_first = new.first, searched_last = new.last FROM unnest(" [ids: Array<Binary>]
    ", " [first: Array<BigInt>]
    ", " [last: Array<BigInt>]
    ") AS new (id, first, last) WHERE conversations.id = new.id"
}

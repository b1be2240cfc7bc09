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
        row.execute(db)?;
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
    for diesel::PgConnection,
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
        SaveEnds { first: ends.first_seq, last: ends.last_seq, said_at: *said_at, id: id.as_bytes() }.execute(db)?;
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
    for diesel::PgConnection,
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

//! Lines of conversations.
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text};

use super::{ARRAYS_FROM, Bytes};
use crate::store::deliveries::Ended;
use crate::store::dialect::Db;
use crate::store::dialect::cached::cached;
use crate::store::messages::NewRow as MessageRow;

pub(in crate::store) fn insert_messages(db: &mut Db, rows: &[MessageRow]) -> QueryResult<()> {
    if let Db::Postgres(conn) = db
        && rows.len() >= ARRAYS_FROM
    {
        let mut arrays = InsertMessages::default();
        rows.iter().for_each(|row| arrays.push(row));
        return arrays.execute(conn).map(drop);
    }
    for row in rows {
        insert_message(db, row)?;
    }
    Ok(())
}

fn insert_message(db: &mut Db, row: &MessageRow) -> QueryResult<usize> {
    let line = &row.line;
    let insert = InsertMessage {
        id: line.id.as_bytes(),
        conversation: line.conversation_id.as_bytes(),
        seq: line.seq,
        role: line.role as i32,
        kind: line.kind.map(|kind| kind as i32),
        text: &line.text,
        blocks: row.blocks.as_deref(),
        sender: line.sender_id.as_bytes(),
        said_at: line.said_at,
        created_at: line.created_at,
        late: line.late,
        supersedes: line.supersedes.as_ref().map(|id| id.as_bytes().as_slice()),
        in_reply_to: line.in_reply_to.as_ref().map(|id| id.as_bytes().as_slice()),
        hops: line.hops,
        error: line.error.as_deref(),
        key: row.idem.as_ref().map(|idem| idem.key.as_str()),
        hash: row.idem.as_ref().map(|idem| idem.hash.as_slice()),
    };
    insert.execute_on(db)
}

cached! {
    for Db,
    struct InsertMessage<'a> {
        id: Bytes<'a>,
        conversation: Bytes<'a>,
        seq: i64,
        role: i32,
        kind: Option<i32>,
        text: &'a str,
        blocks: Option<&'a str>,
        sender: Bytes<'a>,
        said_at: i64,
        created_at: i64,
        late: bool,
        supersedes: Option<Bytes<'a>>,
        in_reply_to: Option<Bytes<'a>>,
        hops: i32,
        error: Option<&'a str>,
        key: Option<&'a str>,
        hash: Option<Bytes<'a>>,
    }
    "INSERT INTO messages (id, conversation_id, seq, role, kind, text, blocks, sender_id, said_at, created_at, late, \
     supersedes, in_reply_to, hops, error, idem_key, idem_hash) VALUES (" [id: Binary]
    ", " [conversation: Binary]
    ", " [seq: BigInt]
    ", " [role: Integer]
    ", " [kind: Nullable<Integer>]
    ", " [text: Text]
    ", " [blocks: Nullable<Text>]
    ", " [sender: Binary]
    ", " [said_at: BigInt]
    ", " [created_at: BigInt]
    ", " [late: Bool]
    ", " [supersedes: Nullable<Binary>]
    ", " [in_reply_to: Nullable<Binary>]
    ", " [hops: Integer]
    ", " [error: Nullable<Text>]
    ", " [key: Nullable<Text>]
    ", " [hash: Nullable<Binary>]
    ")"
}

cached! {
    #[derive(Default)]
    for Postgres,
    struct InsertMessages<'a> {
        ids: Vec<Bytes<'a>>,
        conversations: Vec<Bytes<'a>>,
        seqs: Vec<i64>,
        roles: Vec<i32>,
        kinds: Vec<Option<i32>>,
        texts: Vec<&'a str>,
        blocks: Vec<Option<&'a str>>,
        senders: Vec<Bytes<'a>>,
        said_at: Vec<i64>,
        created_at: Vec<i64>,
        late: Vec<bool>,
        supersedes: Vec<Option<Bytes<'a>>>,
        in_reply_to: Vec<Option<Bytes<'a>>>,
        hops: Vec<i32>,
        errors: Vec<Option<&'a str>>,
        keys: Vec<Option<&'a str>>,
        hashes: Vec<Option<Bytes<'a>>>,
    }
    "INSERT INTO messages (id, conversation_id, seq, role, kind, text, blocks, sender_id, said_at, created_at, late, \
     supersedes, in_reply_to, hops, error, idem_key, idem_hash) SELECT * FROM unnest(" [ids: Array<Binary>]
    ", " [conversations: Array<Binary>]
    ", " [seqs: Array<BigInt>]
    ", " [roles: Array<Integer>]
    ", " [kinds: Array<Nullable<Integer>>]
    ", " [texts: Array<Text>]
    ", " [blocks: Array<Nullable<Text>>]
    ", " [senders: Array<Binary>]
    ", " [said_at: Array<BigInt>]
    ", " [created_at: Array<BigInt>]
    ", " [late: Array<Bool>]
    ", " [supersedes: Array<Nullable<Binary>>]
    ", " [in_reply_to: Array<Nullable<Binary>>]
    ", " [hops: Array<Integer>]
    ", " [errors: Array<Nullable<Text>>]
    ", " [keys: Array<Nullable<Text>>]
    ", " [hashes: Array<Nullable<Binary>>]
    ")"
}

impl<'a> InsertMessages<'a> {
    fn push(&mut self, row: &'a MessageRow) {
        let line = &row.line;
        self.ids.push(line.id.as_bytes());
        self.conversations.push(line.conversation_id.as_bytes());
        self.seqs.push(line.seq);
        self.roles.push(line.role as i32);
        self.kinds.push(line.kind.map(|kind| kind as i32));
        self.texts.push(&line.text);
        self.blocks.push(row.blocks.as_deref());
        self.senders.push(line.sender_id.as_bytes());
        self.said_at.push(line.said_at);
        self.created_at.push(line.created_at);
        self.late.push(line.late);
        self.supersedes.push(line.supersedes.as_ref().map(|id| id.as_bytes().as_slice()));
        self.in_reply_to.push(line.in_reply_to.as_ref().map(|id| id.as_bytes().as_slice()));
        self.hops.push(line.hops);
        self.errors.push(line.error.as_deref());
        self.keys.push(row.idem.as_ref().map(|idem| idem.key.as_str()));
        self.hashes.push(row.idem.as_ref().map(|idem| idem.hash.as_slice()));
    }
}

/// Stores how the deliveries of messages ended, before they are removed.
pub(in crate::store) fn save_message_ends(db: &mut Db, rows: &[Ended]) -> QueryResult<()> {
    if let Db::Postgres(conn) = db
        && rows.len() >= ARRAYS_FROM
    {
        let mut arrays = SaveMessageEnds::default();
        rows.iter().for_each(|row| arrays.push(row));
        return arrays.execute(conn).map(drop);
    }
    for row in rows {
        let update = SaveMessageEnd {
            state: row.state,
            reason: row.reason.as_deref(),
            ended_at: row.ended_at,
            id: &row.message_id,
        };
        update.execute_on(db)?;
    }
    Ok(())
}

cached! {
    for Db,
    struct SaveMessageEnd<'a> {
        state: i32,
        reason: Option<&'a str>,
        ended_at: Option<i64>,
        id: Bytes<'a>,
    }
    "UPDATE messages SET end_state = " [state: Integer]
    ", end_reason = " [reason: Nullable<Text>]
    ", ended_at = " [ended_at: Nullable<BigInt>]
    " WHERE id = " [id: Binary]
}

cached! {
    #[derive(Default)]
    for Postgres,
    struct SaveMessageEnds<'a> {
        ids: Vec<Bytes<'a>>,
        states: Vec<i32>,
        reasons: Vec<Option<&'a str>>,
        ended_at: Vec<Option<i64>>,
    }
    "UPDATE messages SET end_state = new.state, end_reason = new.reason, ended_at = new.ended_at FROM unnest("
    [ids: Array<Binary>]
    ", " [states: Array<Integer>]
    ", " [reasons: Array<Nullable<Text>>]
    ", " [ended_at: Array<Nullable<BigInt>>]
    ") AS new (id, state, reason, ended_at) WHERE messages.id = new.id"
}

impl<'a> SaveMessageEnds<'a> {
    fn push(&mut self, row: &'a Ended) {
        self.ids.push(&row.message_id);
        self.states.push(row.state);
        self.reasons.push(row.reason.as_deref());
        self.ended_at.push(row.ended_at);
    }
}

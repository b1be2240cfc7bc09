//! The rows that every message writes, many with one statement.
//!
//! In SQLite a row costs a few microseconds, in PostgreSQL a way to the server: there they go as arrays, but for so few
//! that the way is the cheaper part.
use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text};

use super::Db;
use super::cached::cached;
use crate::domain::delivery::Delivery;
use crate::domain::ids::{ConversationId, PartyId};
use crate::store::deliveries::NewRow as DeliveryRow;
use crate::store::messages::NewRow as MessageRow;
use crate::store::tx::Changed;

/// Rows from which on PostgreSQL gets arrays.
const ARRAYS_FROM: usize = 3;

type Bytes<'a> = &'a [u8];

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
        kind: row.kind.map(|kind| kind as i32),
        text: &line.text,
        blocks: row.blocks.as_deref(),
        sender: line.sender_id.as_bytes(),
        said_at: line.said_at,
        created_at: line.created_at,
        late: line.late,
        supersedes: line.supersedes.as_ref().map(|id| id.as_bytes().as_slice()),
        in_reply_to: line.in_reply_to.as_ref().map(|id| id.as_bytes().as_slice()),
        error: line.error.as_deref(),
        key: row.idem.as_ref().map(|idem| idem.key.as_str()),
        hash: row.idem.as_ref().map(|idem| idem.hash.as_slice()),
    };
    insert.execute(db)
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
        error: Option<&'a str>,
        key: Option<&'a str>,
        hash: Option<Bytes<'a>>,
    }
    "INSERT INTO messages (id, conversation_id, seq, role, kind, text, blocks, sender_id, said_at, created_at, late, \
     supersedes, in_reply_to, error, idem_key, idem_hash, hops) VALUES (" [id: Binary]
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
    ", " [error: Nullable<Text>]
    ", " [key: Nullable<Text>]
    ", " [hash: Nullable<Binary>]
    ", 0)"
}

cached! {
    #[derive(Default)]
    for diesel::PgConnection,
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
        errors: Vec<Option<&'a str>>,
        keys: Vec<Option<&'a str>>,
        hashes: Vec<Option<Bytes<'a>>>,
    }
    "INSERT INTO messages (id, conversation_id, seq, role, kind, text, blocks, sender_id, said_at, created_at, late, \
     supersedes, in_reply_to, error, idem_key, idem_hash, hops) SELECT *, 0 FROM unnest(" [ids: Array<Binary>]
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
        self.kinds.push(row.kind.map(|kind| kind as i32));
        self.texts.push(&line.text);
        self.blocks.push(row.blocks.as_deref());
        self.senders.push(line.sender_id.as_bytes());
        self.said_at.push(line.said_at);
        self.created_at.push(line.created_at);
        self.late.push(line.late);
        self.supersedes.push(line.supersedes.as_ref().map(|id| id.as_bytes().as_slice()));
        self.in_reply_to.push(line.in_reply_to.as_ref().map(|id| id.as_bytes().as_slice()));
        self.errors.push(line.error.as_deref());
        self.keys.push(row.idem.as_ref().map(|idem| idem.key.as_str()));
        self.hashes.push(row.idem.as_ref().map(|idem| idem.hash.as_slice()));
    }
}

pub(in crate::store) fn insert_deliveries(db: &mut Db, rows: &[DeliveryRow]) -> QueryResult<()> {
    if let Db::Postgres(conn) = db
        && rows.len() >= ARRAYS_FROM
    {
        let mut arrays = InsertDeliveries::default();
        rows.iter().for_each(|row| arrays.push(row));
        return arrays.execute(conn).map(drop);
    }
    for row in rows {
        insert_delivery(db, row)?;
    }
    Ok(())
}

fn insert_delivery(db: &mut Db, row: &DeliveryRow) -> QueryResult<usize> {
    let delivery = &row.delivery;
    let insert = InsertDelivery {
        id: delivery.id.as_bytes(),
        n: row.n,
        message: delivery.message_id.as_bytes(),
        conversation: delivery.conversation_id.as_bytes(),
        recipient: delivery.recipient_id.as_bytes(),
        seq: delivery.seq,
        state: delivery.state as i32,
        attempt: delivery.attempt,
        attempts_max: delivery.attempts_max,
        available_at: delivery.available_at,
        expires_at: delivery.expires_at,
        due_at: delivery.due_at(),
        events: &row.events,
        created_at: delivery.created_at,
    };
    insert.execute(db)
}

cached! {
    for Db,
    struct InsertDelivery<'a> {
        id: Bytes<'a>,
        n: i64,
        message: Bytes<'a>,
        conversation: Bytes<'a>,
        recipient: Bytes<'a>,
        seq: i64,
        state: i32,
        attempt: i32,
        attempts_max: i32,
        available_at: i64,
        expires_at: Option<i64>,
        due_at: Option<i64>,
        events: &'a str,
        created_at: i64,
    }
    "INSERT INTO deliveries (id, n, message_id, conversation_id, recipient_id, seq, state, attempt, attempts_max, \
     available_at, expires_at, due_at, events, created_at, priority, started) VALUES (" [id: Binary]
    ", " [n: BigInt]
    ", " [message: Binary]
    ", " [conversation: Binary]
    ", " [recipient: Binary]
    ", " [seq: BigInt]
    ", " [state: Integer]
    ", " [attempt: Integer]
    ", " [attempts_max: Integer]
    ", " [available_at: BigInt]
    ", " [expires_at: Nullable<BigInt>]
    ", " [due_at: Nullable<BigInt>]
    ", " [events: Text]
    ", " [created_at: BigInt]
    ", 0, false)"
}

cached! {
    #[derive(Default)]
    for diesel::PgConnection,
    struct InsertDeliveries<'a> {
        ids: Vec<Bytes<'a>>,
        ns: Vec<i64>,
        messages: Vec<Bytes<'a>>,
        conversations: Vec<Bytes<'a>>,
        recipients: Vec<Bytes<'a>>,
        seqs: Vec<i64>,
        states: Vec<i32>,
        attempts: Vec<i32>,
        attempts_max: Vec<i32>,
        available_at: Vec<i64>,
        expires_at: Vec<Option<i64>>,
        due_at: Vec<Option<i64>>,
        events: Vec<&'a str>,
        created_at: Vec<i64>,
    }
    "INSERT INTO deliveries (id, n, message_id, conversation_id, recipient_id, seq, state, attempt, attempts_max, \
     available_at, expires_at, due_at, events, created_at, priority, started) SELECT *, 0, false FROM unnest("
    [ids: Array<Binary>]
    ", " [ns: Array<BigInt>]
    ", " [messages: Array<Binary>]
    ", " [conversations: Array<Binary>]
    ", " [recipients: Array<Binary>]
    ", " [seqs: Array<BigInt>]
    ", " [states: Array<Integer>]
    ", " [attempts: Array<Integer>]
    ", " [attempts_max: Array<Integer>]
    ", " [available_at: Array<BigInt>]
    ", " [expires_at: Array<Nullable<BigInt>>]
    ", " [due_at: Array<Nullable<BigInt>>]
    ", " [events: Array<Text>]
    ", " [created_at: Array<BigInt>]
    ")"
}

impl<'a> InsertDeliveries<'a> {
    fn push(&mut self, row: &'a DeliveryRow) {
        let delivery = &row.delivery;
        self.ids.push(delivery.id.as_bytes());
        self.ns.push(row.n);
        self.messages.push(delivery.message_id.as_bytes());
        self.conversations.push(delivery.conversation_id.as_bytes());
        self.recipients.push(delivery.recipient_id.as_bytes());
        self.seqs.push(delivery.seq);
        self.states.push(delivery.state as i32);
        self.attempts.push(delivery.attempt);
        self.attempts_max.push(delivery.attempts_max);
        self.available_at.push(delivery.available_at);
        self.expires_at.push(delivery.expires_at);
        self.due_at.push(delivery.due_at());
        self.events.push(&row.events);
        self.created_at.push(delivery.created_at);
    }
}

/// Stores a delivery that has moved.
pub(in crate::store) fn save_move(db: &mut Db, delivery: &Delivery, events: &str) -> QueryResult<()> {
    let row = SaveMove {
        state: delivery.state as i32,
        outcome: delivery.outcome.map(|outcome| outcome as i32),
        reason: delivery.reason.as_deref(),
        attempt: delivery.attempt,
        available_at: delivery.available_at,
        lease_until: delivery.lease_until,
        expires_at: delivery.expires_at,
        due_at: delivery.due_at(),
        result_hash: delivery.result_hash.as_ref().map(<[u8; 32]>::as_slice),
        events,
        ended_at: delivery.ended_at,
        id: delivery.id.as_bytes(),
    };
    row.execute(db).map(drop)
}

cached! {
    for Db,
    struct SaveMove<'a> {
        state: i32,
        outcome: Option<i32>,
        reason: Option<&'a str>,
        attempt: i32,
        available_at: i64,
        lease_until: Option<i64>,
        expires_at: Option<i64>,
        due_at: Option<i64>,
        result_hash: Option<Bytes<'a>>,
        events: &'a str,
        ended_at: Option<i64>,
        id: Bytes<'a>,
    }
    "UPDATE deliveries SET state = " [state: Integer]
    ", outcome = " [outcome: Nullable<Integer>]
    ", reason = " [reason: Nullable<Text>]
    ", attempt = " [attempt: Integer]
    ", available_at = " [available_at: BigInt]
    ", lease_until = " [lease_until: Nullable<BigInt>]
    ", expires_at = " [expires_at: Nullable<BigInt>]
    ", due_at = " [due_at: Nullable<BigInt>]
    ", result_hash = " [result_hash: Nullable<Binary>]
    ", events = " [events: Text]
    ", ended_at = " [ended_at: Nullable<BigInt>]
    " WHERE id = " [id: Binary]
}

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

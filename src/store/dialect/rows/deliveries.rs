//! Deliveries, new ones and those that have moved.
use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};

use super::{ARRAYS_FROM, Bytes};
use crate::domain::ids::DeliveryId;
use crate::store::deliveries::{Moved, NewRow as DeliveryRow};
use crate::store::dialect::Db;
use crate::store::dialect::cached::cached;

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
        n: delivery.n,
        message: delivery.message_id.as_bytes(),
        conversation: delivery.conversation_id.as_bytes(),
        recipient: delivery.recipient_id.as_bytes(),
        channel: delivery.channel_id.as_ref().map(|id| id.as_bytes().as_slice()),
        seq: delivery.seq,
        state: delivery.state as i32,
        attempt: delivery.attempt,
        attempts_max: delivery.attempts_max,
        priority: delivery.priority,
        available_at: delivery.available_at,
        expires_at: delivery.expires_at,
        due_at: delivery.due_at(),
        coalesce_key: row.coalesce_key.as_deref(),
        events: &row.events,
        created_at: delivery.created_at,
    };
    insert.execute_on(db)
}

cached! {
    for Db,
    struct InsertDelivery<'a> {
        id: Bytes<'a>,
        n: i64,
        message: Bytes<'a>,
        conversation: Bytes<'a>,
        recipient: Bytes<'a>,
        channel: Option<Bytes<'a>>,
        seq: i64,
        state: i32,
        attempt: i32,
        attempts_max: i32,
        priority: i32,
        available_at: i64,
        expires_at: Option<i64>,
        due_at: Option<i64>,
        coalesce_key: Option<&'a str>,
        events: &'a str,
        created_at: i64,
    }
    "INSERT INTO deliveries (id, n, message_id, conversation_id, recipient_id, channel_id, seq, state, attempt, \
     attempts_max, priority, available_at, expires_at, due_at, coalesce_key, events, created_at, started) VALUES (" [id: Binary]
    ", " [n: BigInt]
    ", " [message: Binary]
    ", " [conversation: Binary]
    ", " [recipient: Binary]
    ", " [channel: Nullable<Binary>]
    ", " [seq: BigInt]
    ", " [state: Integer]
    ", " [attempt: Integer]
    ", " [attempts_max: Integer]
    ", " [priority: Integer]
    ", " [available_at: BigInt]
    ", " [expires_at: Nullable<BigInt>]
    ", " [due_at: Nullable<BigInt>]
    ", " [coalesce_key: Nullable<Text>]
    ", " [events: Text]
    ", " [created_at: BigInt]
    ", false)"
}

cached! {
    #[derive(Default)]
    for Postgres,
    struct InsertDeliveries<'a> {
        ids: Vec<Bytes<'a>>,
        ns: Vec<i64>,
        messages: Vec<Bytes<'a>>,
        conversations: Vec<Bytes<'a>>,
        recipients: Vec<Bytes<'a>>,
        channels: Vec<Option<Bytes<'a>>>,
        seqs: Vec<i64>,
        states: Vec<i32>,
        attempts: Vec<i32>,
        attempts_max: Vec<i32>,
        priorities: Vec<i32>,
        available_at: Vec<i64>,
        expires_at: Vec<Option<i64>>,
        due_at: Vec<Option<i64>>,
        coalesce_keys: Vec<Option<&'a str>>,
        events: Vec<&'a str>,
        created_at: Vec<i64>,
    }
    "INSERT INTO deliveries (id, n, message_id, conversation_id, recipient_id, channel_id, seq, state, attempt, \
     attempts_max, priority, available_at, expires_at, due_at, coalesce_key, events, created_at, started) SELECT *, false FROM unnest("
    [ids: Array<Binary>]
    ", " [ns: Array<BigInt>]
    ", " [messages: Array<Binary>]
    ", " [conversations: Array<Binary>]
    ", " [recipients: Array<Binary>]
    ", " [channels: Array<Nullable<Binary>>]
    ", " [seqs: Array<BigInt>]
    ", " [states: Array<Integer>]
    ", " [attempts: Array<Integer>]
    ", " [attempts_max: Array<Integer>]
    ", " [priorities: Array<Integer>]
    ", " [available_at: Array<BigInt>]
    ", " [expires_at: Array<Nullable<BigInt>>]
    ", " [due_at: Array<Nullable<BigInt>>]
    ", " [coalesce_keys: Array<Nullable<Text>>]
    ", " [events: Array<Text>]
    ", " [created_at: Array<BigInt>]
    ")"
}

impl<'a> InsertDeliveries<'a> {
    fn push(&mut self, row: &'a DeliveryRow) {
        let delivery = &row.delivery;
        self.ids.push(delivery.id.as_bytes());
        self.ns.push(delivery.n);
        self.messages.push(delivery.message_id.as_bytes());
        self.conversations.push(delivery.conversation_id.as_bytes());
        self.recipients.push(delivery.recipient_id.as_bytes());
        self.channels.push(delivery.channel_id.as_ref().map(|id| id.as_bytes().as_slice()));
        self.seqs.push(delivery.seq);
        self.states.push(delivery.state as i32);
        self.attempts.push(delivery.attempt);
        self.attempts_max.push(delivery.attempts_max);
        self.priorities.push(delivery.priority);
        self.available_at.push(delivery.available_at);
        self.expires_at.push(delivery.expires_at);
        self.due_at.push(delivery.due_at());
        self.coalesce_keys.push(row.coalesce_key.as_deref());
        self.events.push(&row.events);
        self.created_at.push(delivery.created_at);
    }
}

/// Stores deliveries that have moved.
pub(in crate::store) fn save_moves(db: &mut Db, rows: &HashMap<DeliveryId, Moved>) -> QueryResult<()> {
    if let Db::Postgres(conn) = db
        && rows.len() >= ARRAYS_FROM
    {
        let mut arrays = SaveMoves::default();
        rows.values().for_each(|row| arrays.push(row));
        return arrays.execute(conn).map(drop);
    }
    for row in rows.values() {
        save_move(db, row)?;
    }
    Ok(())
}

fn save_move(db: &mut Db, row: &Moved) -> QueryResult<usize> {
    let delivery = &row.delivery;
    let update = SaveMove {
        state: delivery.state as i32,
        outcome: delivery.outcome.map(|outcome| outcome as i32),
        reason: delivery.reason.as_deref(),
        attempt: delivery.attempt,
        available_at: delivery.available_at,
        lease_until: delivery.lease_until,
        leased_at: delivery.leased_at,
        expires_at: delivery.expires_at,
        due_at: delivery.due_at(),
        result_hash: delivery.result_hash.as_ref().map(<[u8; 32]>::as_slice),
        events: &row.events,
        ended_at: delivery.ended_at,
        id: delivery.id.as_bytes(),
    };
    update.execute_on(db)
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
        leased_at: Option<i64>,
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
    ", leased_at = " [leased_at: Nullable<BigInt>]
    ", expires_at = " [expires_at: Nullable<BigInt>]
    ", due_at = " [due_at: Nullable<BigInt>]
    ", result_hash = " [result_hash: Nullable<Binary>]
    ", events = " [events: Text]
    ", ended_at = " [ended_at: Nullable<BigInt>]
    " WHERE id = " [id: Binary]
}

cached! {
    #[derive(Default)]
    for Postgres,
    struct SaveMoves<'a> {
        ids: Vec<Bytes<'a>>,
        states: Vec<i32>,
        outcomes: Vec<Option<i32>>,
        reasons: Vec<Option<&'a str>>,
        attempts: Vec<i32>,
        available_at: Vec<i64>,
        lease_until: Vec<Option<i64>>,
        leased_at: Vec<Option<i64>>,
        expires_at: Vec<Option<i64>>,
        due_at: Vec<Option<i64>>,
        result_hashes: Vec<Option<Bytes<'a>>>,
        events: Vec<&'a str>,
        ended_at: Vec<Option<i64>>,
    }
    "UPDATE deliveries SET state = new.state, outcome = new.outcome, reason = new.reason, attempt = new.attempt, \
     available_at = new.available_at, lease_until = new.lease_until, leased_at = new.leased_at, \
     expires_at = new.expires_at, due_at = new.due_at, result_hash = new.result_hash, events = new.events, \
     ended_at = new.ended_at FROM unnest(" [ids: Array<Binary>]
    ", " [states: Array<Integer>]
    ", " [outcomes: Array<Nullable<Integer>>]
    ", " [reasons: Array<Nullable<Text>>]
    ", " [attempts: Array<Integer>]
    ", " [available_at: Array<BigInt>]
    ", " [lease_until: Array<Nullable<BigInt>>]
    ", " [leased_at: Array<Nullable<BigInt>>]
    ", " [expires_at: Array<Nullable<BigInt>>]
    ", " [due_at: Array<Nullable<BigInt>>]
    ", " [result_hashes: Array<Nullable<Binary>>]
    ", " [events: Array<Text>]
    ", " [ended_at: Array<Nullable<BigInt>>]
    ") AS new (id, state, outcome, reason, attempt, available_at, lease_until, leased_at, expires_at, due_at, \
     result_hash, events, ended_at) WHERE deliveries.id = new.id"
}

impl<'a> SaveMoves<'a> {
    fn push(&mut self, row: &'a Moved) {
        let delivery = &row.delivery;
        self.ids.push(delivery.id.as_bytes());
        self.states.push(delivery.state as i32);
        self.outcomes.push(delivery.outcome.map(|outcome| outcome as i32));
        self.reasons.push(delivery.reason.as_deref());
        self.attempts.push(delivery.attempt);
        self.available_at.push(delivery.available_at);
        self.lease_until.push(delivery.lease_until);
        self.leased_at.push(delivery.leased_at);
        self.expires_at.push(delivery.expires_at);
        self.due_at.push(delivery.due_at());
        self.result_hashes.push(delivery.result_hash.as_ref().map(<[u8; 32]>::as_slice));
        self.events.push(&row.events);
        self.ended_at.push(delivery.ended_at);
    }
}

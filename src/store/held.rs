//! Rows that a transaction holds back, to write those of many commands with one statement.
//!
//! Whoever reads or writes by the connection writes them first ([`Tx::read`](super::tx::Tx::read)), so that nobody misses
//! them. Whoever asks for nothing that is ever held says so ([`Tx::read_around_held`](super::tx::Tx::read_around_held)).
//! Without other readers the rows leave together, before the commit.
use std::collections::HashMap;

use super::deliveries::{Moved, NewRow as DeliveryRow};
use super::dialect::{self, Db};
use super::messages::NewRow as MessageRow;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, DeliveryId, PartyId};

#[derive(Default)]
pub(super) struct Held {
    pub(super) messages: Vec<MessageRow>,
    pub(super) deliveries: Vec<DeliveryRow>,
    /// Deliveries that have moved, each as it is now.
    pub(super) moves: HashMap<DeliveryId, Moved>,
    /// How far parties have read by their own lines, the newest of each.
    pub(super) read: HashMap<(ConversationId, PartyId), i64>,
}

impl Held {
    /// Writes all that is held; nothing is held afterwards, also when it failed.
    pub(super) fn write(&mut self, db: &mut Db, now_ms: i64) -> Result<(), Error> {
        let Self { messages, deliveries, moves, read } = std::mem::take(self);
        // In this order the rows refer to what is there.
        if !messages.is_empty() {
            dialect::insert_messages(db, &messages)?;
        }
        if !deliveries.is_empty() {
            dialect::insert_deliveries(db, &deliveries)?;
        }
        if !moves.is_empty() {
            dialect::save_moves(db, &moves)?;
        }
        if !read.is_empty() {
            dialect::note_read(db, &read, now_ms)?;
        }
        Ok(())
    }
}

//! The rows that every message writes, many with one statement.
//!
//! In SQLite a row costs a few microseconds, in PostgreSQL a way to the server: there they go as arrays, but for so few
//! that the way is the cheaper part.
mod conversations;
mod deliveries;
mod messages;

pub(in crate::store) use conversations::{note_read, save_ends, save_searched};
pub(in crate::store) use deliveries::{insert_deliveries, save_moves};
pub(in crate::store) use messages::{insert_messages, save_message_ends};

/// Rows from which on PostgreSQL gets arrays.
const ARRAYS_FROM: usize = 3;

type Bytes<'a> = &'a [u8];

//! New deliveries.
use super::Stored;
use super::events::{self, Entry};
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::error::Error;
use crate::domain::ids::{ChannelId, DeliveryId, PartyId};
use crate::domain::message::Line;
use crate::store::tx::Tx;

/// What a new delivery is made of.
#[derive(Clone, Debug)]
pub(in crate::store) struct NewDelivery {
    pub(in crate::store) recipient_id: PartyId,
    /// The channel that brings it to a person.
    pub(in crate::store) channel_id: Option<ChannelId>,
    pub(in crate::store) attempts_max: i32,
    pub(in crate::store) options: DeliveryOptions,
}

/// How a sender wants its message handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// From 0 to 2; of two that may be handed out the higher one goes first.
    pub priority: i32,
    /// Not before this time.
    pub available_at: Option<i64>,
    /// Not after this time.
    pub expires_at: Option<i64>,
    /// While it waits, a newer message of the same sender and key takes its place.
    pub coalesce_key: Option<String>,
}

/// A delivery on its way to its table.
pub(in crate::store) struct NewRow {
    pub(in crate::store) delivery: Delivery,
    pub(in crate::store) coalesce_key: Option<String>,
    /// Its history, as stored.
    pub(in crate::store) events: String,
}

/// Inserts a pending delivery of a line that was just appended.
pub(in crate::store) fn insert(tx: &mut Tx<'_>, line: &Line, new: NewDelivery) -> Result<Stored, Error> {
    let now_ms = tx.now_ms();
    let options = new.options;
    let delivery = Delivery {
        id: DeliveryId::new(),
        n: tx.next_delivery_n()?,
        message_id: line.id,
        conversation_id: line.conversation_id,
        recipient_id: new.recipient_id,
        channel_id: new.channel_id,
        seq: line.seq,
        priority: options.priority,
        state: DeliveryState::Pending,
        outcome: None,
        reason: None,
        attempt: 0,
        attempts_max: new.attempts_max,
        available_at: options.available_at.unwrap_or(now_ms).max(now_ms),
        lease_until: None,
        leased_at: None,
        expires_at: options.expires_at,
        result_hash: None,
        created_at: now_ms,
        ended_at: None,
    };
    let history = vec![Entry::accepted(now_ms)];
    let events = events::text(&history)?;
    tx.add_delivery(NewRow { delivery: delivery.clone(), coalesce_key: options.coalesce_key, events });
    Ok(Stored { delivery, started: false, events: history })
}

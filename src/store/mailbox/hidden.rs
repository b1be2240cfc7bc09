//! Lines of a talk that are nothing to one of those who talk.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diesel::prelude::*;

use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::{MessageId, PartyId};
use crate::domain::message::{Line, MessageKind};
use crate::store::dialect::Db;
use crate::store::messages::IDS_MAX;
use crate::store::schema::{deliveries, messages};

/// What is read of a message: its id, its sender, how a removed delivery of it ended; the state and the newest hand-out
/// of one that is there. A redrive counts the hand-outs anew.
type Row = (Vec<u8>, Vec<u8>, Option<i32>, Option<i32>, Option<i64>);

/// Returns which of these lines are nothing to this party: notices to somebody else, and what others asked and nobody
/// had before it was withdrawn or its time was over. Of a removed delivery it is not known: it counts as had by nobody,
/// but where it is still in memory that somebody had it (`actors/agents/recent.rs`). One query for all of them.
pub fn hidden_from<'a>(
    db: &mut Db,
    reader: PartyId,
    lines: impl Iterator<Item = &'a Arc<Line>>,
) -> Result<HashSet<MessageId>, Error> {
    // Notices, with what they are about.
    let mut notices: HashMap<MessageId, Option<MessageId>> = HashMap::new();
    let mut requests: HashSet<MessageId> = HashSet::new();
    for line in lines {
        match line.kind {
            Some(MessageKind::Notice) => {
                notices.insert(line.id, line.in_reply_to);
            }
            Some(MessageKind::Request) if line.sender_id != reader => {
                requests.insert(line.id);
            }
            Some(MessageKind::Request | MessageKind::Reply) | None => {}
        }
    }
    let wanted: HashSet<MessageId> = notices.values().flatten().chain(&requests).copied().collect();
    let wanted: Vec<MessageId> = wanted.into_iter().collect();
    let mut senders: HashMap<MessageId, PartyId> = HashMap::new();
    let mut had_by_nobody: HashSet<MessageId> = HashSet::new();
    for ids in wanted.chunks(IDS_MAX) {
        for (id, sender, ended, state, leased_at) in read(db, ids)? {
            let id = MessageId::try_from(id.as_slice())?;
            senders.insert(id, PartyId::try_from(sender.as_slice())?);
            let state = state.or(ended).and_then(DeliveryState::from_code);
            let is_off = matches!(state, Some(DeliveryState::Cancelled | DeliveryState::Expired));
            if is_off && leased_at.is_none() {
                had_by_nobody.insert(id);
            }
        }
    }
    // A notice goes to whoever sent what it is about.
    let is_its = |about: Option<MessageId>| about.and_then(|id| senders.get(&id)) == Some(&reader);
    let foreign = notices.into_iter().filter(|(_, about)| !is_its(*about)).map(|(id, _)| id);
    Ok(requests.into_iter().filter(|id| had_by_nobody.contains(id)).chain(foreign).collect())
}

fn read(db: &mut Db, ids: &[MessageId]) -> Result<Vec<Row>, Error> {
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    Ok(messages::table
        .left_join(deliveries::table.on(deliveries::message_id.eq(messages::id)))
        .filter(messages::id.eq_any(ids))
        .select((
            messages::id,
            messages::sender_id,
            messages::end_state,
            deliveries::state.nullable(),
            deliveries::leased_at.nullable(),
        ))
        .load(db)?)
}

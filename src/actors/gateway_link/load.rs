//! What a link starts with: its secrets, its sessions, and what is open in them.
//!
//! Invariants
//! - DLV-2: the open turns and questions are read after everything that an earlier link of the gateway has submitted is
//!   on disk, so that none of it is missed.
use std::collections::HashMap;

use super::LinkParts;
use super::effects::question_of;
use super::session::Question;
use crate::domain::conversation::Conversation;
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, GatewayId, MessageId, PartyId};
use crate::domain::secret::Secret;
use crate::gateway::device::DeviceIdentity;
use crate::store::gateways::{self, Credentials, KeepDevice};
use crate::store::turns::{self, Turn};
use crate::store::{Db, Probe, conversations, deliveries, messages};

/// Rows that are read at once.
const PAGE: i64 = 1_000;

/// A session with the turn it was in and the questions that wait.
pub(super) type LoadedSession = (Conversation, Option<(Turn, Option<Question>)>, Vec<Question>);

/// What a link starts with.
pub(super) struct Loaded {
    pub(super) credentials: Credentials,
    pub(super) device: DeviceIdentity,
    pub(super) sessions: Vec<LoadedSession>,
}

/// Reads the secrets of a gateway, and its sessions with what is open in them.
pub(super) async fn load(parts: &LinkParts) -> Result<Loaded, Error> {
    // The writer takes commands in order: what was submitted before this one is committed with it.
    parts.store.write(Probe).await?;
    let (id, vault) = (parts.gateway.id.clone(), parts.vault.clone());
    let party = parts.gateway.party_id;
    let (mut credentials, sessions) = parts
        .store
        .read(move |db| {
            let credentials = gateways::credentials(db, &vault, &id)?;
            Ok::<_, Error>((credentials, open_sessions(db, &id, party)?))
        })
        .await?;
    let device = match credentials.device_seed.take() {
        Some(seed) => device_from(&seed)?,
        None => make_device(parts).await?,
    };
    Ok(Loaded { credentials, device, sessions })
}

/// Reads the sessions of a gateway with what is open in them.
fn open_sessions(db: &mut Db, id: &GatewayId, party: PartyId) -> Result<Vec<LoadedSession>, Error> {
    let mut sessions: Vec<LoadedSession> = Vec::new();
    let mut after = None;
    loop {
        let found = conversations::of_gateway(db, id, after, PAGE)?;
        after = found.last().map(|conversation| conversation.id);
        sessions.extend(found.into_iter().map(|conversation| (conversation, None, Vec::new())));
        if after.is_none() {
            break;
        }
    }
    let places: HashMap<ConversationId, usize> =
        sessions.iter().enumerate().map(|(place, (conversation, ..))| (conversation.id, place)).collect();
    let turns = turns::open_of_gateway(db, id)?;
    let asked: Vec<MessageId> = turns.iter().filter_map(|turn| turn.message_id).collect();
    let lines = messages::by_ids(db, &asked)?;
    for turn in turns {
        let question = turn.message_id.zip(turn.delivery_id).and_then(|(message_id, delivery_id)| {
            let line = lines.get(&message_id)?;
            Some(Question { delivery_id, message_id, seq: line.seq, text: line.text.as_str().into() })
        });
        if let Some(session) = places.get(&turn.conversation_id).and_then(|place| sessions.get_mut(*place)) {
            session.1 = Some((turn, question));
        }
    }
    let mut next = Some(0);
    while let Some(after_n) = next {
        let (open, more) = deliveries::work_of_recipient(db, party, after_n, PAGE)?;
        next = more;
        let waiting: Vec<_> = open
            .into_iter()
            .map(|stored| stored.delivery)
            .filter(|delivery| delivery.state == DeliveryState::Pending)
            .collect();
        let asked: Vec<MessageId> = waiting.iter().map(|delivery| delivery.message_id).collect();
        let lines = messages::by_ids(db, &asked)?;
        for delivery in waiting {
            if let Some(line) = lines.get(&delivery.message_id)
                && let Some(session) = places.get(&delivery.conversation_id).and_then(|place| sessions.get_mut(*place))
            {
                session.2.push(question_of(&delivery, line));
            }
        }
    }
    Ok(sessions)
}

fn device_from(seed: &Secret) -> Result<DeviceIdentity, Error> {
    use base64::Engine;
    let damaged = || Error::corrupt("a device identity is not 32 bytes in base64");
    let bytes = zeroize::Zeroizing::new(
        base64::engine::general_purpose::STANDARD.decode(seed.reveal()).map_err(|_| damaged())?,
    );
    let seed: zeroize::Zeroizing<[u8; 32]> =
        zeroize::Zeroizing::new(bytes.as_slice().try_into().map_err(|_| damaged())?);
    Ok(DeviceIdentity::from_seed(&seed))
}

/// Makes our identity for this gateway; it is on disk before it is used, since a person may have to approve it.
async fn make_device(parts: &LinkParts) -> Result<DeviceIdentity, Error> {
    use base64::Engine;
    let device = DeviceIdentity::generate()?;
    let seed = Secret::new(base64::engine::general_purpose::STANDARD.encode(device.seed().as_slice()));
    let keep = KeepDevice {
        id: parts.gateway.id.clone(),
        seed: Some(seed),
        token: None,
        scopes: Vec::new(),
        vault: parts.vault.clone(),
    };
    parts.store.write(keep).await?;
    Ok(device)
}

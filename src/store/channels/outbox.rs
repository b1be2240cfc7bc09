//! The moves of a channel's outbox: a delivery is leased before anything is sent, and ended or given back afterwards.
use crate::domain::channel::{Address, Channel, ChannelKind, Contact};
use crate::domain::delivery::{Delivery, DeliveryState, Move, Outcome, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{ChannelId, ConversationId, DeliveryId, MemberId};
use crate::domain::member::Member;
use crate::domain::party::PartyKind;
use crate::store::channel_refs::{self, ChannelRef, Direction};
use crate::store::deliveries::{self, Stored};
use crate::store::dialect::Db;
use crate::store::tx::{Command, Tx};
use crate::store::{members, messages, parties};

/// Reads open deliveries that a channel is to bring after number `after_n`, and the number after which the next page
/// begins; `None` at the end.
pub fn open_of_channel(
    db: &mut Db,
    id: ChannelId,
    after_n: i64,
    limit: i64,
) -> Result<(Vec<Stored>, Option<i64>), Error> {
    deliveries::open_by_channel(db, id, after_n, limit)
}

/// A message to a person with all that its sending takes.
#[derive(Clone, Debug)]
pub struct Letter {
    pub delivery: Delivery,
    /// When it was handed out for the first time.
    pub first_leased_at: Option<i64>,
    /// An attempt before may have arrived, though nobody knows.
    pub may_have_arrived: bool,
    /// With the name of who speaks before it, where the provider does not show it otherwise.
    pub text: String,
    /// Who speaks.
    pub from: String,
    /// Where it may go, in the order in which that is tried; nowhere if the person has no such address any more.
    pub to: Vec<Address>,
    pub conversation_id: ConversationId,
    /// When it was said.
    pub created_at: i64,
    /// The provider's id of the line of the person that it answers.
    pub reply_to: Option<String>,
}

/// Reads what is to be sent; `None` if it is gone.
pub fn letter(db: &mut Db, channel: &Channel, id: DeliveryId) -> Result<Option<Letter>, Error> {
    let Some(stored) = deliveries::get(db, id)? else { return Ok(None) };
    let (first_leased_at, may_have_arrived) = (stored.first_leased_at(), stored.may_have_arrived());
    let delivery = stored.delivery;
    let line =
        messages::get(db, delivery.message_id)?.ok_or_else(|| Error::corrupt("a delivery without its message"))?;
    let answered = match line.in_reply_to {
        Some(asked) => messages::get(db, asked)?.filter(|asked| asked.sender_id == delivery.recipient_id),
        None => None,
    };
    // An answer goes back to the chat where the person asked.
    let asked = match answered {
        Some(asked) => channel_refs::of_message(db, asked.id)?
            .into_iter()
            .find(|known| known.channel_id == channel.id && known.direction == Direction::In),
        None => None,
    };
    let back = asked.as_ref().and_then(|asked| Address::of_chat(channel.kind, &asked.chat));
    let to = match (recipient(db, &delivery)?, back) {
        (None, _) => Vec::new(),
        (Some(_), Some(address)) => vec![address],
        (Some(member), None) => Contact::from(&member.addresses).addresses(channel.kind),
    };
    let is_shown = matches!(channel.kind, ChannelKind::Email | ChannelKind::Webhook)
        || channel.agent_id.is_some_and(|id| id.to_string() == line.sender.id);
    let text = if is_shown { line.text.clone() } else { format!("{}: {}", line.sender.name, line.text) };
    Ok(Some(Letter {
        first_leased_at,
        may_have_arrived,
        text,
        from: line.sender.name.clone(),
        to,
        conversation_id: line.conversation_id,
        created_at: line.created_at,
        reply_to: asked.map(|asked| asked.external_id),
        delivery,
    }))
}

/// Reads the person whom a delivery is for; `None` for one who was removed.
fn recipient(db: &mut Db, delivery: &Delivery) -> Result<Option<Member>, Error> {
    let party = parties::get(db, delivery.recipient_id)?.filter(|party| party.kind == PartyKind::Member);
    let Some(party) = party else { return Ok(None) };
    let id: MemberId = party.reference.parse().map_err(|_| Error::corrupt("whose the party of a person is"))?;
    members::get(db, id)
}

/// Leases a delivery, before the first request that sends it. Its lease has no clock: only its outbox ends it.
pub struct LeaseSend {
    pub channel_id: ChannelId,
    pub id: DeliveryId,
}

impl Command for LeaseSend {
    /// The number of the hand-out; `None` if it may not be sent now.
    type Output = Option<i32>;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Option<i32>, Error> {
        let leased = moved(tx, self.channel_id, self.id, |_| Move::Lease { until: None })?;
        Ok(leased.map(|delivery| delivery.attempt))
    }
}

/// What a provider has: by this a part of the message is known there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub chat: String,
    /// Empty where the provider tells none.
    pub external_id: String,
}

/// How a sending ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendEnd {
    Sent,
    /// It never will be, in these words.
    Dead(String),
}

/// Ends a delivery, and notes what has arrived of it in the same transaction. A repeat changes nothing.
pub struct EndSend {
    pub channel_id: ChannelId,
    pub id: DeliveryId,
    /// The number it was handed out with.
    pub attempt: i32,
    pub arrived: Vec<Arrived>,
    pub end: SendEnd,
}

impl Command for EndSend {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let Some(stored) = deliveries::get(tx.read()?, self.id)? else { return Ok(()) };
        let attempt = Some(self.attempt);
        moved(tx, self.channel_id, self.id, |stored| match &self.end {
            SendEnd::Sent => Move::Complete { outcome: Outcome::Sent, attempt, result_hash: None },
            // An attempt before this one may have brought it, whatever was said to the last one.
            SendEnd::Dead(_) if stored.may_have_arrived() => {
                Move::Fail { attempt, reason: reason::OUTCOME_UNKNOWN.to_owned() }
            }
            SendEnd::Dead(words) => Move::Fail { attempt, reason: words.clone() },
        })?;
        // Also of one that somebody ended meanwhile: the person may answer it.
        for part in self.arrived.iter().filter(|part| !part.external_id.is_empty()) {
            let known = ChannelRef {
                channel_id: self.channel_id,
                chat: part.chat.clone(),
                external_id: part.external_id.clone(),
                message_id: stored.delivery.message_id,
                direction: Direction::Out,
            };
            channel_refs::note(tx, &known)?;
        }
        Ok(())
    }
}

/// Gives back what could not be sent for a reason that passes; after the last attempt it is dead. Words that begin with
/// [`reason::OUTCOME_UNKNOWN`] say that it may have arrived, which is never forgotten.
pub struct RetrySend {
    pub channel_id: ChannelId,
    pub id: DeliveryId,
    pub attempt: i32,
    /// How long until it is tried again, in milliseconds.
    pub wait_ms: i64,
    /// The provider's words.
    pub why: String,
}

impl Command for RetrySend {
    type Output = Option<Delivery>;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Option<Delivery>, Error> {
        let retry_at = tx.now_ms().saturating_add(self.wait_ms);
        moved(tx, self.channel_id, self.id, |stored| {
            let delivery = &stored.delivery;
            if delivery.attempt >= delivery.attempts_max {
                let reason = if stored.may_have_arrived() {
                    reason::OUTCOME_UNKNOWN.to_owned()
                } else {
                    format!("given up after {} attempts: {}", delivery.attempt, self.why)
                };
                return Move::Fail { attempt: Some(self.attempt), reason };
            }
            Move::Nack { attempt: Some(self.attempt), retry_at, reason: Some(self.why.clone()) }
        })
    }
}

/// Settles what was leased when this outbox began: nobody knows whether it was sent (D5). Where the provider recognises a
/// repeat it is sent again; else it is dead.
pub struct RecoverSends {
    pub channel_id: ChannelId,
    pub ids: Vec<DeliveryId>,
    /// For how long the provider recognises a repeat, in milliseconds; 0 if it does not.
    pub repeat_ms: i64,
}

impl Command for RecoverSends {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let now_ms = tx.now_ms();
        for id in &self.ids {
            let Some(stored) = deliveries::get(tx.read()?, *id)? else { continue };
            if stored.delivery.state != DeliveryState::Leased {
                continue;
            }
            let until = stored.first_leased_at().unwrap_or(0).saturating_add(self.repeat_ms);
            let again = now_ms < until && stored.delivery.attempt < stored.delivery.attempts_max;
            moved(tx, self.channel_id, *id, |_| {
                let unknown = reason::OUTCOME_UNKNOWN.to_owned();
                if again {
                    return Move::Nack { attempt: None, retry_at: now_ms, reason: Some(unknown) };
                }
                Move::Fail { attempt: None, reason: unknown }
            })?;
        }
        Ok(())
    }
}

/// Moves a delivery of a channel, if it may be moved so now. What belongs to it and cannot be read keeps it where it
/// is.
fn moved(
    tx: &mut Tx<'_>,
    channel_id: ChannelId,
    id: DeliveryId,
    action: impl FnOnce(&Stored) -> Move,
) -> Result<Option<Delivery>, Error> {
    let Some(stored) = deliveries::get(tx.read()?, id)? else { return Ok(None) };
    if stored.delivery.channel_id != Some(channel_id) {
        return Ok(None);
    }
    // Before it moves: what cannot be read later would take its neighbours back with it (STO-3).
    if deliveries::surroundings(tx, &stored.delivery)?.is_none() {
        return Ok(None);
    }
    let action = action(&stored);
    match deliveries::apply_to(tx, stored, &action, true) {
        Ok(delivery) => Ok(Some(delivery)),
        // Anything else is a refusal, before anything was written.
        Err(error) if matches!(error.code(), ErrorCode::Internal | ErrorCode::StoreBusy | ErrorCode::StorageFull) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

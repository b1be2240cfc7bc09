//! A question: its line and its delivery, in one transaction.
use std::sync::Arc;

use super::deliveries::{self, DeliveryOptions, NewDelivery};
use super::messages::{self, Idem, NewLine, Place};
use super::tx::{Command, Tx};
use super::{conversations, parties};
use crate::domain::delivery::Delivery;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{AckTo, Event, Topic};
use crate::domain::ids::{ConversationId, GatewayId, PartyId, SocketId};
use crate::domain::message::{Block, Line, MessageRole};
use crate::domain::party::PartyKind;
use crate::domain::user::Caller;

/// Accepts a question for a gateway.
pub struct AcceptChat {
    pub conversation_id: ConversationId,
    /// Who may write here or not.
    pub caller: Caller,
    /// Who says it, where that is not the caller.
    pub from: Option<PartyId>,
    pub text: String,
    /// The sender's key: it counts per sender and session (D10).
    pub client_key: Option<String>,
    pub socket_id: Option<SocketId>,
    /// The gateway can take it at once.
    pub gateway_up: bool,
    /// Refuse instead of waiting, when the gateway is down or a question is before it.
    pub no_queue: bool,
    /// Questions that may wait in one session.
    pub queued_max: usize,
    /// Add the line only; nobody is to handle it.
    pub line_only: Option<MessageRole>,
}

/// What came of a question.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub topic: Arc<Topic>,
    pub line: Arc<Line>,
    pub delivery: Option<Delivery>,
    /// It goes out now; else it waits.
    pub sent: bool,
    /// The key had been used for the same question: nothing new was written.
    pub repeated: bool,
}

impl Command for AcceptChat {
    type Output = Accepted;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Accepted, Error> {
        let id = self.conversation_id;
        let owner = tx.owner(id)?;
        // Before anything else: whoever may not write here learns nothing of what goes on in it (SEC-2).
        if !self.caller.may_write(owner) {
            return Err(Error::not_found("conversation", id));
        }
        let topic = tx.topic(id)?;
        if let Some(repeat) = self.repeated(tx, &topic)? {
            return Ok(repeat);
        }
        let gateway = topic.gateway_id.as_ref().ok_or_else(|| {
            Error::new(ErrorCode::InvalidRequest, "this conversation has no gateway that could answer")
        })?;
        let waiting = if self.line_only.is_some() { 0 } else { self.waiting(tx, gateway)? };
        let sender = tx.party(self.sender_id())?.ok_or_else(|| Error::corrupt("a sender without its party"))?;
        let sender_id = sender.id;
        let hash = digest(self.line_only, &self.text);
        let new = NewLine {
            idem: self.client_key.as_ref().map(|key| Idem { key: scoped(id, key), hash }),
            blocks: vec![Block::text(self.text.clone())],
            ..NewLine::text(self.line_only.unwrap_or(MessageRole::User), sender, "")
        };
        let line = messages::append(tx, id, Place::End, new)?;
        if sender_id == self.caller.party_id {
            tx.note_spoken(id, sender_id, line.seq);
        } else {
            // Whoever is shown as the sender has seen nothing.
            conversations::join(tx, id, sender_id)?;
        }
        let sent = self.gateway_up && waiting == 0;
        let ack_to = self.socket_id.map(|socket_id| AckTo { socket_id, client_key: self.client_key.clone(), sent });
        tx.emit(Event::Line { topic: topic.clone(), line: line.clone(), ack_to, end: None });
        let delivery = if self.line_only.is_some() {
            None
        } else {
            let recipient = parties::ensure_named(tx, PartyKind::Gateway, gateway.as_str())?;
            let new = NewDelivery {
                recipient_id: recipient.id,
                attempts_max: deliveries::ATTEMPTS_MAX,
                options: DeliveryOptions::default(),
            };
            let delivery = deliveries::insert(tx, &line, new)?.delivery;
            deliveries::tell(tx, &delivery, None, Some(line.clone()))?;
            Some(delivery)
        };
        Ok(Accepted { topic, line, delivery, sent, repeated: false })
    }
}

impl AcceptChat {
    fn sender_id(&self) -> PartyId {
        self.from.unwrap_or(self.caller.party_id)
    }

    /// Finds the first answer to a key that was used before.
    fn repeated(&self, tx: &mut Tx<'_>, topic: &Arc<Topic>) -> Result<Option<Accepted>, Error> {
        let Some(key) = &self.client_key else { return Ok(None) };
        accepted_before(tx, topic, self.sender_id(), key, digest(self.line_only, &self.text))
    }

    /// Counts the questions before this one, and refuses it where there is no room or no gateway.
    fn waiting(&self, tx: &mut Tx<'_>, gateway: &GatewayId) -> Result<usize, Error> {
        let waiting = tx.open_deliveries(self.conversation_id)?;
        if self.no_queue && !self.gateway_up {
            return Err(not_connected());
        }
        if self.no_queue && waiting > 0 {
            return Err(Error::new(
                ErrorCode::SessionBusy,
                "a question is being answered in this session, and you asked not to wait",
            ));
        }
        if waiting >= self.queued_max {
            return Err(Error::new(
                ErrorCode::MailboxFull,
                format!("{waiting} questions wait in this session already; try again when some are answered"),
            ));
        }
        // Of a removed gateway the conversations stay readable; nobody is left to answer in them (DLV-2).
        if !tx.is_registered(gateway)? {
            return Err(super::gateways::not_found(gateway));
        }
        Ok(waiting)
    }
}

/// Finds what came of a sender's key that was used in a conversation before (D10).
pub(super) fn accepted_before(
    tx: &mut Tx<'_>,
    topic: &Arc<Topic>,
    sender: PartyId,
    key: &str,
    hash: [u8; 32],
) -> Result<Option<Accepted>, Error> {
    let known = messages::by_key(tx, sender, &scoped(topic.conversation_id, key))?;
    let Some((id, known)) = known else { return Ok(None) };
    if known != hash {
        return Err(Error::new(
            ErrorCode::IdempotencyConflict,
            "this idempotency key was used for another message in this session",
        ));
    }
    let line = messages::get(tx.read()?, id)?.ok_or_else(|| Error::corrupt("a key without its message"))?;
    let delivery = deliveries::of_message(tx.read()?, id)?.pop().map(|stored| stored.delivery);
    Ok(Some(Accepted { topic: topic.clone(), line, delivery, sent: true, repeated: true }))
}

/// Digests what a sender's key is used for.
pub(super) fn digest(line_only: Option<MessageRole>, text: &str) -> [u8; 32] {
    use sha2::Digest;
    let mut digest = sha2::Sha256::new();
    // A line that nobody is to handle is another request than a question of the same words.
    digest.update([line_only.map_or(0, |role| role as u8)]);
    digest.update(text.as_bytes());
    digest.finalize().into()
}

/// The refusal of a question that must not wait, while the gateway is away.
pub fn not_connected() -> Error {
    Error::new(ErrorCode::GatewayUnavailable, "the gateway is not connected, and you asked not to wait")
}

/// A sender's key counts in one conversation.
pub(super) fn scoped(id: ConversationId, key: &str) -> String {
    format!("{id}/{key}")
}

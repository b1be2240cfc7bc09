//! A browser's question: its line, its delivery and its conversation, in one transaction.
use std::sync::Arc;

use diesel::prelude::*;

use super::conversations::{self, NewSession, SessionName};
use super::deliveries::{self, NewDelivery};
use super::messages::{self, Idem, NewLine, Place};
use super::parties;
use super::schema::participants;
use super::tx::{Command, Tx};
use crate::domain::conversation::Conversation;
use crate::domain::delivery::Delivery;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{AckTo, Event};
use crate::domain::ids::{ConversationId, PartyId, SocketId};
use crate::domain::message::{Block, Line, MessageRole};
use crate::domain::party::PartyKind;
use crate::domain::user::Caller;

/// Where a question goes.
#[derive(Clone, Debug)]
pub enum To {
    /// A session by name; it is made if there is none.
    Name(SessionName),
    Conversation(ConversationId),
}

/// Accepts a question for a gateway.
pub struct AcceptChat {
    pub to: To,
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
    pub conversation: Conversation,
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
        let found = match &self.to {
            To::Name(name) => conversations::find(tx.read(), name)?,
            To::Conversation(id) => {
                Some(conversations::get(tx.read(), *id)?.ok_or_else(|| Error::not_found("conversation", id))?)
            }
        };
        let mut waiting = 0;
        if let Some(conversation) = &found {
            // Before anything else: whoever may not write here learns nothing of what goes on in it (SEC-2).
            self.check_writer(conversation)?;
            if let Some(repeat) = self.repeated(tx, conversation)? {
                return Ok(repeat);
            }
            waiting = deliveries::count_open_of_conversation(tx.read(), conversation.id)?;
        }
        self.check_queue(waiting)?;
        let conversation = match (&self.to, found) {
            (_, Some(found)) => found,
            (To::Name(name), None) => {
                conversations::insert(tx, name, Some(self.caller.user_id), NewSession::default())?
            }
            (To::Conversation(id), None) => return Err(Error::not_found("conversation", id)),
        };
        let gateway = conversation.gateway_id.clone().ok_or_else(|| {
            Error::new(ErrorCode::InvalidRequest, "this conversation has no gateway that could answer")
        })?;
        // Of a removed gateway the conversations stay readable; nobody is left to answer in them (DLV-2).
        if super::gateways::get(tx.read(), &gateway)?.is_none() && self.line_only.is_none() {
            return Err(super::gateways::not_found(&gateway));
        }
        let sender =
            parties::get(tx.read(), self.sender_id())?.ok_or_else(|| Error::corrupt("a sender without its party"))?;
        let sender_id = sender.id;
        let new = NewLine {
            idem: self.client_key.as_ref().map(|key| Idem { key: scoped(conversation.id, key), hash: self.hash() }),
            blocks: vec![Block::text(self.text.clone())],
            ..NewLine::text(self.line_only.unwrap_or(MessageRole::User), sender, "")
        };
        let line = Arc::new(messages::append(tx, conversation.id, Place::End, new)?);
        if sender_id == self.caller.party_id {
            spoke(tx, conversation.id, sender_id, line.seq)?;
        } else {
            // Whoever is shown as the sender has seen nothing.
            conversations::join(tx, conversation.id, sender_id)?;
        }
        let topic = tx.topic(conversation.id)?;
        let sent = self.gateway_up && waiting == 0;
        let ack_to = self.socket_id.map(|socket_id| AckTo { socket_id, client_key: self.client_key.clone(), sent });
        tx.emit(Event::Line { topic, line: line.clone(), ack_to, end: None });
        let delivery = if self.line_only.is_some() {
            None
        } else {
            let recipient = parties::ensure_named(tx, PartyKind::Gateway, gateway.as_str())?;
            let delivery = deliveries::insert(
                tx,
                NewDelivery {
                    message_id: line.id,
                    conversation_id: conversation.id,
                    recipient_id: recipient.id,
                    seq: line.seq,
                    available_at: None,
                    expires_at: None,
                },
            )?;
            deliveries::tell(tx, &delivery, None, Some(line.clone()))?;
            Some(delivery)
        };
        Ok(Accepted { conversation, line, delivery, sent, repeated: false })
    }
}

impl AcceptChat {
    fn sender_id(&self) -> PartyId {
        self.from.unwrap_or(self.caller.party_id)
    }

    fn check_writer(&self, conversation: &Conversation) -> Result<(), Error> {
        if self.caller.may_write(conversation.owner_id) {
            return Ok(());
        }
        Err(match &self.to {
            To::Name(name) => conversations::taken(name),
            To::Conversation(id) => Error::not_found("conversation", id),
        })
    }

    /// Finds the first answer to a key that was used before.
    fn repeated(&self, tx: &mut Tx<'_>, conversation: &Conversation) -> Result<Option<Accepted>, Error> {
        let Some(key) = &self.client_key else { return Ok(None) };
        let known = messages::by_key(tx.read(), self.sender_id(), &scoped(conversation.id, key))?;
        let Some((id, hash)) = known else { return Ok(None) };
        if hash != self.hash() {
            return Err(Error::new(
                ErrorCode::IdempotencyConflict,
                "this idempotency key was used for another message in this session",
            ));
        }
        let line = messages::get(tx.read(), id)?.ok_or_else(|| Error::corrupt("a key without its message"))?;
        let delivery = deliveries::of_message(tx.read(), id)?.pop().map(|stored| stored.delivery);
        Ok(Some(Accepted { conversation: conversation.clone(), line, delivery, sent: true, repeated: true }))
    }

    fn check_queue(&self, waiting: usize) -> Result<(), Error> {
        if self.line_only.is_some() {
            return Ok(());
        }
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
        Ok(())
    }

    fn hash(&self) -> [u8; 32] {
        use sha2::Digest;
        let mut digest = sha2::Sha256::new();
        // A line that nobody is to handle is another request than a question of the same words.
        digest.update([self.line_only.map_or(0, |role| role as u8)]);
        digest.update(self.text.as_bytes());
        digest.finalize().into()
    }
}

/// The refusal of a question that must not wait, while the gateway is away.
pub fn not_connected() -> Error {
    Error::new(ErrorCode::GatewayUnavailable, "the gateway is not connected, and you asked not to wait")
}

/// Notes that a party takes part and has read all up to its own line, the newest one.
fn spoke(tx: &mut Tx<'_>, id: ConversationId, party: PartyId, seq: i64) -> Result<(), Error> {
    let mark = |tx: &mut Tx<'_>| {
        diesel::update(participants::table.find((id.as_bytes().as_slice(), party.as_bytes().as_slice())))
            .set(participants::read_seq.eq(seq))
            .execute(tx.write())
    };
    if mark(tx)? == 0 {
        conversations::join(tx, id, party)?;
        mark(tx)?;
    }
    Ok(())
}

fn scoped(id: ConversationId, key: &str) -> String {
    format!("{id}/{key}")
}

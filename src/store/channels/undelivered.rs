//! Messages to people that a provider had taken, and then could not deliver: some say so later, by a call.
//!
//! The delivery stays completed, since it was sent; its history says what the provider said, and whoever asked is told
//! by a notice, in one transaction (STO-2).
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::{ChannelId, MessageId};
use crate::domain::message::{MessageKind, MessageRole};
use crate::domain::party::PartyKind;
use crate::store::deliveries::{self, DeliveryOptions};
use crate::store::mailbox::{MailLimits, append, deliver};
use crate::store::messages::{self, NewLine};
use crate::store::tx::{Command, Tx};
use crate::store::{channel_refs, conversations, parties};

/// Who signs notices.
const BROKER: &str = "clawbroker";
/// Notices come in whether there is room or not.
const LIMITS: MailLimits = MailLimits { messages_max: usize::MAX, attempts_max: deliveries::ATTEMPTS_MAX };

/// Notes that a provider could not deliver a message that it had taken, and tells whoever asked. A repeat changes
/// nothing, and neither does what is said of another part of the same message.
pub struct NoteUndelivered {
    pub channel_id: ChannelId,
    /// The provider's ids of the chat; it is known by one of them.
    pub chats: Vec<String>,
    /// The provider's id of the message, or of a part of it.
    pub external_id: String,
    /// The provider's words.
    pub why: String,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndeliveredAs {
    /// It is noted.
    New(MessageId),
    /// It had been noted before.
    Repeated,
    /// No message of ours is known by this id: not yet, not any more, or it was never ours.
    Unknown,
}

impl Command for NoteUndelivered {
    type Output = UndeliveredAs;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<UndeliveredAs, Error> {
        let mut found = None;
        for chat in &self.chats {
            if found.is_none() {
                found = channel_refs::message(tx.read()?, self.channel_id, chat, &self.external_id)?;
            }
        }
        let Some(id) = found else { return Ok(UndeliveredAs::Unknown) };
        // What a person wrote is delivered by no channel.
        let by_us = |stored: &deliveries::Stored| stored.delivery.channel_id == Some(self.channel_id);
        let Some(stored) = deliveries::of_message(tx.read()?, id)?.into_iter().find(by_us) else {
            return Ok(UndeliveredAs::Unknown);
        };
        if stored.delivery.state.is_open() {
            return Ok(UndeliveredAs::Unknown);
        }
        let line = messages::get(tx.read()?, id)?.ok_or_else(|| Error::corrupt("a delivery without its message"))?;
        let recipient = tx.party(stored.delivery.recipient_id)?;
        let recipient = recipient.ok_or_else(|| Error::corrupt("a delivery without its recipient's party"))?;
        let asker = match tx.party(line.sender_id)? {
            Some(party) => tx.agent_of(&party)?,
            None => None,
        };
        let is_there = conversations::get(tx.read()?, line.conversation_id)?.is_some();
        // Replies and notices beget nothing (RTE-1), and of what has not ended well its sender knows already.
        let is_awaited = line.kind == Some(MessageKind::Request) && stored.delivery.state == DeliveryState::Completed;
        if !deliveries::note_undelivered(tx, stored, &self.why)? {
            return Ok(UndeliveredAs::Repeated);
        }
        if let Some(agent) = asker.filter(|_| is_awaited && is_there) {
            let broker = parties::ensure_named(tx, PartyKind::System, BROKER)?;
            let text = format!("Your message to {} was not delivered: {}", recipient.display_name, self.why);
            let new = NewLine {
                kind: Some(MessageKind::Notice),
                in_reply_to: Some(id),
                hops: line.hops,
                ..NewLine::text(MessageRole::System, broker, text)
            };
            let notice = append(tx, line.conversation_id, new)?;
            deliver(tx, &notice, &agent, DeliveryOptions::default(), LIMITS)?;
        }
        Ok(UndeliveredAs::New(id))
    }
}

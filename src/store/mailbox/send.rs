//! An agent writes to another agent: the line and its delivery, in one transaction.
use std::sync::Arc;

use super::MailLimits;
use crate::domain::agent::{AgentFacts, AgentKind};
use crate::domain::conversation::ConversationKind;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, ConversationId, MessageId};
use crate::domain::message::{Line, MessageKind, MessageRole};
use crate::store::conversations;
use crate::store::deliveries::{self, DeliveryOptions, Mail, NewDelivery};
use crate::store::messages::{self, Idem, NewLine, Place};
use crate::store::tx::{Command, Tx};

/// Accepts a request of one agent to another.
pub struct SendMessage {
    pub from: Arc<AgentFacts>,
    pub to: AgentId,
    pub text: String,
    /// The sender's own key for it (D10).
    pub idem: Option<Idem>,
    /// The message that led to it, where the sender says so.
    pub in_reply_to: Option<MessageId>,
    pub options: DeliveryOptions,
    pub limits: MailLimits,
}

/// What came of a message.
#[derive(Clone, Debug)]
pub struct Sent {
    pub line: Arc<Line>,
    pub target: Arc<AgentFacts>,
    /// The key had been used for the same message: nothing new was written.
    pub repeated: bool,
}

impl Command for SendMessage {
    type Output = Sent;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Sent, Error> {
        let target = tx.agent(self.to)?.ok_or_else(|| Error::not_found("agent", self.to))?;
        if let Some(line) = self.repeated(tx)? {
            return Ok(Sent { line, target, repeated: true });
        }
        if target.kind == AgentKind::Native {
            let message =
                format!("{} is a native agent; writing to native agents comes with a later version", target.name);
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        let sender = tx.party(self.from.party_id)?.ok_or_else(|| Error::corrupt("an agent without its party"))?;
        let hops = self.hops(tx)?;
        check_room(tx, &target, self.limits)?;
        let conversation_id = conversation(tx, &self.from, &target)?;
        let new = NewLine {
            kind: Some(MessageKind::Request),
            in_reply_to: self.in_reply_to,
            hops,
            idem: self.idem.as_ref().map(|idem| Idem { key: scoped(&idem.key), hash: idem.hash }),
            ..NewLine::text(MessageRole::User, sender, self.text.as_str())
        };
        let line = append(tx, conversation_id, new)?;
        deliver(tx, &line, &target, self.options.clone(), self.limits)?;
        Ok(Sent { line, target, repeated: false })
    }
}

impl SendMessage {
    /// Finds what this key has sent before.
    fn repeated(&self, tx: &mut Tx<'_>) -> Result<Option<Arc<Line>>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        let Some((id, hash)) = messages::by_key(tx, self.from.party_id, &scoped(&idem.key))? else { return Ok(None) };
        if hash != idem.hash {
            return Err(Error::new(
                ErrorCode::IdempotencyConflict,
                "this idempotency key was used for another message",
            ));
        }
        messages::get(tx.read()?, id)?.ok_or_else(|| Error::corrupt("a key without its message")).map(Some)
    }

    /// Counts the requests that led to this one, as far as the sender tells.
    fn hops(&self, tx: &mut Tx<'_>) -> Result<i32, Error> {
        let Some(id) = self.in_reply_to else { return Ok(1) };
        let line = messages::get(tx.read()?, id)?;
        let line = match line {
            // Only what the sender wrote or was sent: of others it learns nothing (SEC-2).
            Some(line) if line.sender_id == self.from.party_id => Some(line),
            Some(line) => tx.mail_of(line.id, self.from.party_id)?.map(|_| line),
            None => None,
        };
        line.map(|line| line.hops.saturating_add(1)).ok_or_else(|| Error::not_found("message", id))
    }
}

/// Keys of sent messages cannot meet those of a chat, which begin with a conversation's id.
fn scoped(key: &str) -> String {
    format!("send/{key}")
}

/// Refuses what a full mailbox cannot take.
fn check_room(tx: &mut Tx<'_>, target: &AgentFacts, limits: MailLimits) -> Result<(), Error> {
    let open = tx.open_of(target.party_id)?;
    if open < limits.messages_max {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::MailboxFull,
        format!("{open} messages wait for {} already; try again when some are handled", target.name),
    ))
}

/// Returns the conversation in which one agent asks another, made at the first message. Each asking direction has its own
/// (D6 of the mailbox contract).
fn conversation(tx: &mut Tx<'_>, from: &AgentFacts, to: &AgentFacts) -> Result<ConversationId, Error> {
    let key = format!("gw_agent_{}_{}", from.id, to.id);
    if let Some(known) = tx.named(ConversationKind::Agents, &key)? {
        return Ok(known);
    }
    let title = format!("{} ↔ {}", from.name, to.name);
    let id = conversations::insert_named(tx, ConversationKind::Agents, &key, title, None)?;
    for party in [from.party_id, to.party_id] {
        conversations::join(tx, id, party)?;
    }
    Ok(id)
}

/// Appends a line at the end of a conversation, and tells of it.
pub(super) fn append(tx: &mut Tx<'_>, id: ConversationId, new: NewLine) -> Result<Arc<Line>, Error> {
    let line = messages::append(tx, id, Place::End, new)?;
    let topic = tx.topic(id)?;
    tx.emit(Event::Line { topic, line: line.clone(), ack_to: None, end: None });
    Ok(line)
}

/// Puts a line into an agent's mailbox.
pub(super) fn deliver(
    tx: &mut Tx<'_>,
    line: &Arc<Line>,
    to: &AgentFacts,
    options: DeliveryOptions,
    limits: MailLimits,
) -> Result<(), Error> {
    let attempts_max = to.attempts_max.unwrap_or(limits.attempts_max);
    let stored = deliveries::insert(tx, line, NewDelivery { recipient_id: to.party_id, attempts_max, options })?;
    deliveries::tell(tx, &stored.delivery, None, Some(line.clone()))?;
    tx.add_mail(Mail::of(stored, line));
    Ok(())
}

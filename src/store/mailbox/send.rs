//! An agent writes to another agent: the line and its delivery, in one transaction.
use std::sync::Arc;

use super::MailLimits;
use super::pair::{self, LoopGuards};
use crate::domain::agent::{AgentFacts, AgentKind};
use crate::domain::conversation::{ConversationKind, agent_and_member_of_key};
use crate::domain::delivery::{Move, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, ConversationId, MessageId, PartyId};
use crate::domain::message::{Line, MessageKind, MessageRole};
use crate::domain::party::PartyKind;
use crate::store::channels::{self, ToMember};
use crate::store::deliveries::{self, DeliveryOptions, Mail, NewDelivery};
use crate::store::dialect::Db;
use crate::store::messages::{self, Idem, NewLine, Place};
use crate::store::tx::{Command, Tx};
use crate::store::{conversations, parties};

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
    pub guards: LoopGuards,
}

/// What came of a message.
#[derive(Clone, Debug)]
pub struct Sent {
    pub line: Arc<Line>,
    /// The recipient's name.
    pub target: String,
    /// The key had been used for the same message: nothing new was written.
    pub repeated: bool,
}

impl Command for SendMessage {
    type Output = Sent;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Sent, Error> {
        // Its key counted when the call came; it may have been removed since.
        if tx.agent(self.from.id)?.is_none() {
            return Err(Error::new(ErrorCode::Unauthenticated, "Invalid API key"));
        }
        if let Some(sent) = self.repeated(tx)? {
            return Ok(sent);
        }
        let target = tx.agent(self.to)?.ok_or_else(|| Error::not_found("agent", self.to))?;
        check_remote(&target)?;
        let sender = tx.party(self.from.party_id)?.ok_or_else(|| Error::corrupt("an agent without its party"))?;
        let led_to_it = self.led_to_it(tx)?;
        let options = self.options();
        let replaced = match &options.coalesce_key {
            Some(key) => deliveries::waiting_by_key(tx.read()?, target.party_id, key)?,
            None => Vec::new(),
        };
        check_room(tx, &target, replaced.len(), self.limits)?;
        let hops = pair::admit(tx, &self.from, &target, led_to_it, self.guards)?;
        for stored in replaced {
            let action = Move::Cancel { reason: Some(reason::COALESCED.to_owned()) };
            deliveries::apply_to(tx, stored, &action, true)?;
        }
        let conversation_id = conversation(tx, &self.from, &target)?;
        let new = NewLine {
            kind: Some(MessageKind::Request),
            in_reply_to: self.in_reply_to,
            hops,
            idem: self.idem.as_ref().map(|idem| Idem { key: scoped(&idem.key), hash: idem.hash }),
            ..NewLine::text(MessageRole::User, sender, self.text.as_str())
        };
        let line = append(tx, conversation_id, new)?;
        deliver(tx, &line, &target, options, self.limits)?;
        pair::note_request(tx, self.from.party_id, target.party_id, self.guards);
        Ok(Sent { line, target: target.name.to_string(), repeated: false })
    }
}

impl SendMessage {
    /// Finds what this key has sent before.
    fn repeated(&self, tx: &mut Tx<'_>) -> Result<Option<Sent>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        if messages::by_key(tx, self.from.party_id, &scoped(&idem.key))?.is_none() {
            return Ok(None);
        }
        match sent_before(tx.read()?, self.from.party_id, idem)? {
            Some(Before::ToAgent(sent)) => Ok(Some(sent)),
            // The same words, and they meant a person then.
            Some(Before::ToMember(_)) => Err(Error::new(
                ErrorCode::IdempotencyConflict,
                "this idempotency key was used for a message to a person",
            )),
            None => Ok(None),
        }
    }

    /// Returns how it is handed out. Coalescing keys of other senders are others.
    fn options(&self) -> DeliveryOptions {
        let coalesce_key = self.options.coalesce_key.as_ref().map(|key| format!("{}/{key}", self.from.party_id));
        DeliveryOptions { coalesce_key, ..self.options.clone() }
    }

    /// Returns the hops of the message that led to it, where the sender names one.
    fn led_to_it(&self, tx: &mut Tx<'_>) -> Result<Option<i32>, Error> {
        let Some(id) = self.in_reply_to else { return Ok(None) };
        match tx.hops_of(id, self.from.party_id)? {
            Some(hops) => Ok(Some(hops)),
            None => Err(Error::not_found("message", id)),
        }
    }
}

/// What a key has sent before.
#[derive(Clone, Debug)]
pub enum Before {
    ToAgent(Sent),
    ToMember(Box<ToMember>),
}

/// Finds what a sender has sent with this key before, and to whom, whether they are still there or not (D10).
pub fn sent_before(db: &mut Db, sender: PartyId, idem: &Idem) -> Result<Option<Before>, Error> {
    let found = messages::stored_by_key(db, sender, &scoped(&idem.key))?;
    let Some(id) = idem.same(found, "message")? else { return Ok(None) };
    let line = messages::get(db, id)?.ok_or_else(|| Error::corrupt("a key without its message"))?;
    let topic = conversations::topic(db, line.conversation_id)?;
    if agent_and_member_of_key(&topic.key).is_some() {
        return Ok(channels::sent_to_member(db, id)?.map(|sent| Before::ToMember(Box::new(sent))));
    }
    // The delivery may be gone; the key of the conversation ends with the recipient.
    let to = topic.key.rsplit('_').next().unwrap_or_default();
    let to =
        parties::find(db, PartyKind::Agent, to)?.ok_or_else(|| Error::corrupt("a message without its recipient"))?;
    Ok(Some(Before::ToAgent(Sent { line, target: to.display_name, repeated: true })))
}

/// Keys of sent messages cannot meet those of a chat, which begin with a conversation's id.
pub(in crate::store) fn scoped(key: &str) -> String {
    format!("send/{key}")
}

/// Refuses an agent that has no mailbox.
pub(super) fn check_remote(target: &AgentFacts) -> Result<(), Error> {
    if target.kind != AgentKind::Native {
        return Ok(());
    }
    let message = format!("{} is a native agent; writing to native agents comes with a later version", target.name);
    Err(Error::new(ErrorCode::InvalidRequest, message))
}

/// Refuses what a full mailbox cannot take, from which so many go first.
pub(in crate::store) fn check_room(
    tx: &mut Tx<'_>,
    target: &AgentFacts,
    replaced: usize,
    limits: MailLimits,
) -> Result<(), Error> {
    let open = tx.open_of(target.party_id)?.saturating_sub(replaced);
    if open < limits.messages_max {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::MailboxFull,
        format!("{open} messages wait for {} already; try again when some are handled", target.name),
    ))
}

/// Returns the conversation in which one agent asks another, made at the first message.
fn conversation(tx: &mut Tx<'_>, from: &AgentFacts, to: &AgentFacts) -> Result<ConversationId, Error> {
    let key = pair::key(from.id, to.id);
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
pub(in crate::store) fn append(tx: &mut Tx<'_>, id: ConversationId, new: NewLine) -> Result<Arc<Line>, Error> {
    let line = messages::append(tx, id, Place::End, new)?;
    let topic = tx.topic(id)?;
    tx.emit(Event::Line { topic, line: line.clone(), ack_to: None, end: None });
    Ok(line)
}

/// Puts a line into an agent's mailbox.
pub(in crate::store) fn deliver(
    tx: &mut Tx<'_>,
    line: &Arc<Line>,
    to: &AgentFacts,
    options: DeliveryOptions,
    limits: MailLimits,
) -> Result<(), Error> {
    let attempts_max = to.attempts_max.unwrap_or(limits.attempts_max);
    let new = NewDelivery { recipient_id: to.party_id, channel_id: None, attempts_max, options };
    let stored = deliveries::insert(tx, line, new)?;
    deliveries::tell(tx, &stored.delivery, None, Some(line.clone()))?;
    tx.add_mail(Mail::of(stored, line));
    Ok(())
}

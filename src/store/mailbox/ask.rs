//! A person and an agent: their conversation, and what the agent is asked in it.
use std::sync::Arc;

use serde_json::json;

use super::MailLimits;
use super::send::{append, check_remote, check_room, deliver};
use crate::domain::agent::AgentFacts;
use crate::domain::conversation::{Conversation, ConversationKind, agent_of_key, user_agent_key};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Topic;
use crate::domain::ids::{AgentId, ConversationId, PartyId, UserId};
use crate::domain::message::{MessageKind, MessageRole};
use crate::domain::user::Caller;
use crate::store::audit::{self, Actor};
use crate::store::chat::{self, Accepted};
use crate::store::deliveries::DeliveryOptions;
use crate::store::messages::{Idem, NewLine};
use crate::store::tx::{Command, Tx};
use crate::store::{conversations, users};

/// Finds the conversation of a user with an agent, or makes it: the user's own, whoever asks for it.
pub struct OpenUserAgent {
    pub user_id: UserId,
    pub agent_id: AgentId,
    pub actor: Actor,
}

impl Command for OpenUserAgent {
    /// The conversation, and whether it was made now.
    type Output = (Conversation, bool);

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(Conversation, bool), Error> {
        let agent = tx.agent(self.agent_id)?.ok_or_else(|| Error::not_found("agent", self.agent_id))?;
        let user = users::get(tx.read()?, self.user_id)?.ok_or_else(|| Error::not_found("user", self.user_id))?;
        let key = user_agent_key(self.user_id, self.agent_id);
        if let Some(known) = tx.named(ConversationKind::UserAgent, &key)? {
            return Ok((read(tx, known)?, false));
        }
        let title = format!("{} ↔ {}", user.display_name, agent.name);
        let id = conversations::insert_named(tx, ConversationKind::UserAgent, &key, title, Some(self.user_id))?;
        for party in [user.party_id, agent.party_id] {
            conversations::join(tx, id, party)?;
        }
        let after = json!({ "key": key, "owner_id": self.user_id, "agent_id": self.agent_id });
        audit::record(tx, &self.actor, "conversation.add", ("conversation", &id.to_string()), None, Some(&after))?;
        Ok((read(tx, id)?, true))
    }
}

/// Reads a conversation as this transaction sees it.
fn read(tx: &mut Tx<'_>, id: ConversationId) -> Result<Conversation, Error> {
    let found = conversations::get(tx.read()?, id)?;
    let found = found.ok_or_else(|| Error::corrupt("a key without its conversation"))?;
    let ends = tx.ends(id)?;
    Ok(Conversation { first_seq: ends.first_seq, last_seq: ends.last_seq, ..found })
}

/// Adds a line to a person's conversation with an agent, and has the agent handle it.
pub struct Ask {
    pub conversation_id: ConversationId,
    /// Who may write here or not.
    pub caller: Caller,
    /// Who says it, where that is not the caller.
    pub from: Option<PartyId>,
    pub text: String,
    /// The sender's key: it counts per sender and conversation (D10).
    pub client_key: Option<String>,
    /// Add the line only; nobody is to handle it.
    pub line_only: Option<MessageRole>,
    pub limits: MailLimits,
}

impl Command for Ask {
    type Output = Accepted;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Accepted, Error> {
        let id = self.conversation_id;
        let owner = tx.owner(id)?;
        // Before anything else: whoever may not write here learns nothing of what goes on in it (SEC-2).
        if !self.caller.may_write(owner) {
            return Err(Error::not_found("conversation", id));
        }
        let topic = tx.topic(id)?;
        let sender_id = self.from.unwrap_or(self.caller.party_id);
        let hash = chat::digest(self.line_only, &self.text);
        if let Some(key) = &self.client_key
            && let Some(repeat) = chat::accepted_before(tx, &topic, sender_id, key, hash)?
        {
            return Ok(repeat);
        }
        let agent = if self.line_only.is_some() { None } else { Some(self.agent(tx, &topic)?) };
        let sender = tx.party(sender_id)?.ok_or_else(|| Error::corrupt("a sender without its party"))?;
        let new = NewLine {
            // No request of another agent led to what a person asks.
            kind: agent.is_some().then_some(MessageKind::Request),
            idem: self.client_key.as_ref().map(|key| Idem { key: chat::scoped(id, key), hash }),
            ..NewLine::text(self.line_only.unwrap_or(MessageRole::User), sender, self.text.as_str())
        };
        let line = append(tx, id, new)?;
        if sender_id == self.caller.party_id {
            tx.note_spoken(id, sender_id, line.seq);
        } else {
            // Whoever is shown as the sender has seen nothing.
            conversations::join(tx, id, sender_id)?;
        }
        let delivery = match agent {
            Some(agent) => {
                deliver(tx, &line, &agent, DeliveryOptions::default(), self.limits)?;
                tx.mail_of(line.id, agent.party_id)?.map(|mail| mail.stored.delivery)
            }
            None => None,
        };
        // Until the agent polls.
        Ok(Accepted { topic, line, delivery, sent: false, repeated: false })
    }
}

impl Ask {
    /// Finds who is asked, and refuses where nobody would answer.
    fn agent(&self, tx: &mut Tx<'_>, topic: &Topic) -> Result<Arc<AgentFacts>, Error> {
        let id = agent_of_key(&topic.key).ok_or_else(|| {
            Error::new(ErrorCode::InvalidRequest, "this is not a person's conversation with an agent")
        })?;
        // Of a removed agent the conversations stay readable; nobody is left to answer in them (DLV-2).
        let agent = tx.agent(id)?.ok_or_else(|| Error::not_found("agent", id))?;
        check_remote(&agent)?;
        check_room(tx, &agent, self.limits)?;
        Ok(agent)
    }
}

//! What the writer knows of mail that is under way and of the agents that send it, so that the cycle of an agent reads
//! nothing twice.
use std::collections::HashMap;
use std::sync::Arc;

use super::Tx;
use crate::domain::agent::{Agent, AgentFacts};
use crate::domain::conversation::ConversationKind;
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, ChannelId, ConversationId, DeliveryId, MessageId, PartyId};
use crate::domain::party::{Party, PartyKind};
use crate::store::deliveries::{self, Mail};
use crate::store::mailbox::Pairs;
use crate::store::memory::remember;
use crate::store::{agents, conversations};

impl Tx<'_> {
    /// Returns a delivery with what is known of its message.
    pub(in crate::store) fn mail(&mut self, id: DeliveryId) -> Result<Option<Mail>, Error> {
        self.load_mail(&[id])?;
        Ok(self.memory.mail.get(id).cloned())
    }

    /// Reads what is not known of these deliveries, with one query.
    pub(in crate::store) fn load_mail(&mut self, ids: &[DeliveryId]) -> Result<(), Error> {
        let unknown: Vec<DeliveryId> = ids.iter().copied().filter(|id| self.memory.mail.get(*id).is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        for mail in deliveries::mail_by_ids(self.read()?, &unknown)? {
            self.add_mail(mail);
        }
        Ok(())
    }

    /// Returns the delivery of a message to a recipient, open or not.
    pub(in crate::store) fn mail_of(&mut self, message: MessageId, recipient: PartyId) -> Result<Option<Mail>, Error> {
        if let Some(known) = self.memory.mail.of_message(message, recipient) {
            return Ok(Some(known.clone()));
        }
        let found = deliveries::mail_of(self.read()?, message, recipient)?;
        found.iter().for_each(|mail| self.add_mail(mail.clone()));
        Ok(found)
    }

    /// Returns the hops of a message that a party wrote or was sent; nobody else learns anything of it (SEC-2).
    pub(in crate::store) fn hops_of(&mut self, message: MessageId, party: PartyId) -> Result<Option<i32>, Error> {
        if let Some(known) = self.memory.mail.of_message(message, party) {
            return Ok(Some(known.hops));
        }
        // Nobody has been told of a message that is still held back.
        deliveries::hops_of(self.read_around_held().0, message, party)
    }

    /// What agents have written to each other of late.
    pub(in crate::store) fn pairs(&mut self) -> &mut Pairs {
        &mut self.memory.pairs
    }

    /// Returns the deliveries of those of these messages that a recipient was sent, open or not. What is not known of
    /// them is read with one query.
    pub(in crate::store) fn mail_of_all(
        &mut self,
        messages: &[MessageId],
        recipient: PartyId,
    ) -> Result<HashMap<MessageId, Mail>, Error> {
        let mut found = HashMap::with_capacity(messages.len());
        let mut unknown = Vec::new();
        for message in messages {
            match self.memory.mail.of_message(*message, recipient) {
                Some(known) => drop(found.insert(*message, known.clone())),
                None => unknown.push(*message),
            }
        }
        if !unknown.is_empty() {
            for mail in deliveries::mail_of_messages(self.read()?, &unknown, recipient)? {
                found.insert(mail.stored.delivery.message_id, mail.clone());
                self.add_mail(mail);
            }
        }
        Ok(found)
    }

    /// Remembers an open delivery.
    pub(in crate::store) fn add_mail(&mut self, mail: Mail) {
        self.memory.mail.add(mail);
    }

    /// Returns how many deliveries of a recipient are open.
    pub(in crate::store) fn open_of(&mut self, id: PartyId) -> Result<usize, Error> {
        if let Some(open) = self.memory.open_of.get(&id) {
            return Ok(*open);
        }
        let open = deliveries::count_open_of_recipient(self.read()?, id)?;
        remember(&mut self.memory.open_of, id, open);
        Ok(open)
    }

    /// Returns how many deliveries that a channel is to bring are open.
    pub(in crate::store) fn open_by(&mut self, id: ChannelId) -> Result<usize, Error> {
        if let Some(open) = self.memory.open_by.get(&id) {
            return Ok(*open);
        }
        let open = deliveries::count_open_by_channel(self.read()?, id)?;
        remember(&mut self.memory.open_by, id, open);
        Ok(open)
    }

    /// Returns an agent that was not removed.
    pub(in crate::store) fn agent(&mut self, id: AgentId) -> Result<Option<Arc<AgentFacts>>, Error> {
        if let Some(known) = self.memory.agents.get(&id) {
            return Ok(Some(known.clone()));
        }
        let found = agents::get(self.read_around_held().0, id)?.map(|agent: Agent| Arc::new(agent.facts()));
        if let Some(facts) = &found {
            remember(&mut self.memory.agents, id, facts.clone());
        }
        Ok(found)
    }

    /// Returns the agent that a party stands for, if it is one that was not removed.
    pub(in crate::store) fn agent_of(&mut self, party: &Party) -> Result<Option<Arc<AgentFacts>>, Error> {
        match party.kind {
            PartyKind::Agent => {
                let id = party.reference.parse::<AgentId>();
                self.agent(id.map_err(|_| Error::corrupt("an agent's party that stands for no agent"))?)
            }
            _ => Ok(None),
        }
    }

    /// Tells whether a recipient is an agent that was removed: nothing reaches it any more.
    pub(in crate::store) fn is_removed(&mut self, recipient: PartyId) -> Result<bool, Error> {
        match self.party(recipient)? {
            Some(party) if party.kind == PartyKind::Agent => Ok(self.agent_of(&party)?.is_none()),
            _ => Ok(false),
        }
    }

    /// Forgets an agent that was changed or removed.
    pub(in crate::store) fn forget_agent(&mut self, id: AgentId) {
        self.memory.agents.remove(&id);
    }

    /// Finds the conversation of this kind and key that has no gateway.
    pub(in crate::store) fn named(
        &mut self,
        kind: ConversationKind,
        key: &str,
    ) -> Result<Option<ConversationId>, Error> {
        if let Some(known) = self.memory.named.get(&(kind, key.to_owned())) {
            return Ok(Some(*known));
        }
        let found = conversations::named(self.read_around_held().0, kind, key)?;
        if let Some(id) = found {
            self.note_named(kind, key, id);
        }
        Ok(found)
    }

    /// Remembers the conversation of a key.
    pub(in crate::store) fn note_named(&mut self, kind: ConversationKind, key: &str, id: ConversationId) {
        remember(&mut self.memory.named, (kind, key.to_owned()), id);
    }
}

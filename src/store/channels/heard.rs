//! What people write on channels: each line once, to the agent whom they talk to.
use std::sync::Arc;

use crate::domain::agent::{AgentFacts, AgentKind};
use crate::domain::channel::Channel;
use crate::domain::conversation::{ConversationKind, agent_and_member_of_key};
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, ChannelId, ConversationId, MessageId};
use crate::domain::member::Member;
use crate::domain::message::{Line, MessageKind, MessageRole};
use crate::store::channel_refs::{self, ChannelRef, Direction};
use crate::store::deliveries::DeliveryOptions;
use crate::store::mailbox::{MailLimits, append, check_room, deliver};
use crate::store::messages::{self, NewLine};
use crate::store::tx::{Command, Tx};
use crate::store::{channels, conversations};

use super::{member, senders};

/// Messages of a chat among which the newest one of this person is looked for; others may talk in a group.
const LOOKED_AT: i64 = 20;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Takes a line of a person that came in on a channel. Which conversation it belongs to: the one of the message that it
/// answers, else the newest one on that chat, else the person's with the channel's own agent.
pub struct Hear {
    pub channel_id: ChannelId,
    /// The provider's id of the line, unique on its chat.
    pub external_id: String,
    pub chat: String,
    /// Who speaks, in the provider's words.
    pub sender_ref: String,
    /// Another name of the same.
    pub sender_alias: Option<String>,
    pub sender_name: Option<String>,
    pub text: String,
    /// The provider's id of the line that this one answers.
    pub reply_to: Option<String>,
    /// When it was said, by the provider's clock.
    pub said_at: Option<i64>,
    pub limits: MailLimits,
    /// Unknown senders that are noted for one channel.
    pub senders_max: usize,
}

/// What became of a line that came in.
#[derive(Clone, Debug)]
pub enum HeardAs {
    /// An agent has been asked.
    Line(Arc<Line>),
    /// It had come before.
    Repeated,
    /// Nobody knows who wrote it: refused, and noted for an operator.
    Unknown,
    /// There is no agent whom it could be for.
    ForNobody,
    /// The channel is gone or disabled.
    Closed,
}

impl Command for Hear {
    type Output = HeardAs;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<HeardAs, Error> {
        let Some(channel) = channels::get(tx.read()?, self.channel_id)?.filter(|channel| channel.enabled) else {
            return Ok(HeardAs::Closed);
        };
        if channel_refs::message(tx.read()?, channel.id, &self.chat, &self.external_id)?.is_some() {
            return Ok(HeardAs::Repeated);
        }
        let refs: Vec<&str> = std::iter::once(self.sender_ref.as_str()).chain(self.sender_alias.as_deref()).collect();
        let Some(person) = senders::member(tx, channel.id, &refs)? else {
            senders::note(tx, channel.id, &self.sender_ref, self.sender_name.as_deref(), self.senders_max)?;
            return Ok(HeardAs::Unknown);
        };
        let answered = match &self.reply_to {
            Some(external_id) => channel_refs::message(tx.read()?, channel.id, &self.chat, external_id)?,
            None => None,
        };
        let Some(agent) = self.agent(tx, &channel, &person, answered)? else { return Ok(HeardAs::ForNobody) };
        let sender = tx.party(person.party_id)?.ok_or_else(|| Error::corrupt("a member without its party"))?;
        check_room(tx, &agent, 0, self.limits)?;
        let conversation_id = member::conversation(tx, &agent, &person)?;
        let in_reply_to = match answered {
            Some(id) => messages::place_of(tx.read()?, id)?.filter(|(of, _)| *of == conversation_id).map(|_| id),
            None => None,
        };
        let now_ms = tx.now_ms();
        let new = NewLine {
            // No request of another agent led to what a person asks.
            kind: Some(MessageKind::Request),
            in_reply_to,
            // A provider's clock may be wrong; nothing is said tomorrow.
            said_at: self.said_at.filter(|at| (0..=now_ms.saturating_add(DAY_MS)).contains(at)),
            ..NewLine::text(MessageRole::User, sender, self.text.as_str())
        };
        let line = append(tx, conversation_id, new)?;
        deliver(tx, &line, &agent, DeliveryOptions::default(), self.limits)?;
        let known = ChannelRef {
            channel_id: channel.id,
            chat: self.chat.clone(),
            external_id: self.external_id.clone(),
            message_id: line.id,
            direction: Direction::In,
        };
        channel_refs::note(tx, &known)?;
        Ok(HeardAs::Line(line))
    }
}

impl Hear {
    /// Finds the agent whom a line is for.
    fn agent(
        &self,
        tx: &mut Tx<'_>,
        channel: &Channel,
        person: &Member,
        answered: Option<MessageId>,
    ) -> Result<Option<Arc<AgentFacts>>, Error> {
        let mut lines: Vec<MessageId> = answered.into_iter().collect();
        lines.extend(channel_refs::newest(tx.read()?, channel.id, &self.chat, LOOKED_AT)?);
        let mut seen: Vec<ConversationId> = Vec::new();
        for id in lines {
            let Some((conversation_id, _)) = messages::place_of(tx.read()?, id)? else { continue };
            if seen.contains(&conversation_id) {
                continue;
            }
            seen.push(conversation_id);
            if let Some(agent) = self.agent_of(tx, conversation_id, person)? {
                return Ok(Some(agent));
            }
        }
        match channel.agent_id {
            Some(id) => remote(tx, id),
            None => Ok(None),
        }
    }

    /// Returns the agent who talks to this person in a conversation that is open.
    fn agent_of(&self, tx: &mut Tx<'_>, id: ConversationId, person: &Member) -> Result<Option<Arc<AgentFacts>>, Error> {
        let open = conversations::get(tx.read()?, id)?;
        let key = open.filter(|open| open.kind == ConversationKind::AgentMember).map(|open| open.key);
        // What others talk about is not theirs (SEC-2).
        match key.and_then(|key| agent_and_member_of_key(&key)) {
            Some((agent, member)) if member == person.id => remote(tx, agent),
            _ => Ok(None),
        }
    }
}

/// Returns an agent that has a mailbox.
fn remote(tx: &mut Tx<'_>, id: AgentId) -> Result<Option<Arc<AgentFacts>>, Error> {
    Ok(tx.agent(id)?.filter(|agent| agent.kind != AgentKind::Native))
}

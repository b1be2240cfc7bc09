//! What people write on channels: each line once, to the agent whom they talk to.
use std::sync::Arc;

use crate::domain::agent::{AgentFacts, AgentKind};
use crate::domain::channel::{Channel, ChannelKind, Contact};
use crate::domain::conversation::{ConversationKind, agent_and_member_of_key};
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, ChannelId, ConversationId, MemberId, MessageId};
use crate::domain::member::Member;
use crate::domain::message::{Line, MessageKind, MessageRole};
use crate::store::channel_refs::{self, ChannelRef, Direction};
use crate::store::deliveries::DeliveryOptions;
use crate::store::mailbox::{LoopGuards, MailLimits, admits_member, append, check_room, deliver, note_request};
use crate::store::messages::{self, NewLine};
use crate::store::tx::{Command, Tx};
use crate::store::{channels, conversations, members};

use super::{member, readable, senders};

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
    pub guards: LoopGuards,
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
    /// This person has written too much to the agent of late (RTE-1): refused.
    TooMany,
    /// The channel is gone or disabled.
    Closed,
}

impl Command for Hear {
    type Output = HeardAs;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<HeardAs, Error> {
        let Some(channel) = channels::get(tx.read()?, self.channel_id)?.filter(|channel| channel.enabled) else {
            return Ok(HeardAs::Closed);
        };
        // At WhatsApp a person is the chat, and a message may have gone to either of two names.
        let other = self.sender_alias.as_deref().filter(|_| channel.kind == ChannelKind::WhatsApp);
        let mut answered: Option<MessageId> = None;
        let mut newest: Vec<MessageId> = Vec::new();
        for chat in std::iter::once(self.chat.as_str()).chain(other) {
            if channel_refs::message(tx.read()?, channel.id, chat, &self.external_id)?.is_some() {
                return Ok(HeardAs::Repeated);
            }
            if let (None, Some(external_id)) = (answered, &self.reply_to) {
                answered = channel_refs::message(tx.read()?, channel.id, chat, external_id)?;
            }
            newest.extend(channel_refs::newest(tx.read()?, channel.id, chat, LOOKED_AT)?);
        }
        if other.is_some() {
            // Ids of messages go by their time.
            newest.sort_unstable_by_key(|id| std::cmp::Reverse(*id));
        }
        let mut lines: Vec<MessageId> = answered.into_iter().collect();
        lines.extend(newest);
        let refs: Vec<&str> = std::iter::once(self.sender_ref.as_str()).chain(self.sender_alias.as_deref()).collect();
        let person = match senders::member(tx, channel.id, &refs)? {
            Some(person) => Some(person),
            None => self.written_to(tx, channel.kind, &lines)?,
        };
        let Some(person) = person else {
            senders::note(tx, channel.id, &self.sender_ref, self.sender_name.as_deref(), self.senders_max)?;
            return Ok(HeardAs::Unknown);
        };
        let Some(agent) = agent(tx, &channel, &person, &lines)? else { return Ok(HeardAs::ForNobody) };
        if !admits_member(tx, &person, &agent, self.guards)? {
            log::warn!(channel:% = channel.id, member:% = person.id, agent:% = agent.id; "a person's line is one too many");
            return Ok(HeardAs::TooMany);
        }
        let sender = tx.party(person.party_id)?.ok_or_else(|| Error::corrupt("a member without its party"))?;
        check_room(tx, &agent, 0, self.limits)?;
        let conversation_id = member::conversation(tx, &agent, &person)?;
        let in_reply_to = match answered {
            Some(id) => {
                let place = readable(messages::place_of(tx.read()?, id), "where a line belongs")?;
                place.filter(|(of, _)| *of == conversation_id).map(|_| id)
            }
            None => None,
        };
        let now_ms = tx.now_ms();
        let new = NewLine {
            // What a person asks begins anew: no request of another agent led to it.
            kind: Some(MessageKind::Request),
            in_reply_to,
            // A provider's clock may be wrong; nothing is said tomorrow.
            said_at: self.said_at.filter(|at| (0..=now_ms.saturating_add(DAY_MS)).contains(at)),
            ..NewLine::text(MessageRole::User, sender, self.text.as_str())
        };
        // Read first: what cannot be read must be said before anything is written.
        tx.topic(conversation_id)?;
        let line = append(tx, conversation_id, new)?;
        deliver(tx, &line, &agent, DeliveryOptions::default(), self.limits)?;
        note_request(tx, person.party_id, agent.party_id, self.guards);
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
    /// Finds the person to whom we wrote on this chat, and who writes from just the address that an operator gave for it:
    /// the provider has proven that. A group's own address proves nobody.
    fn written_to(&self, tx: &mut Tx<'_>, kind: ChannelKind, lines: &[MessageId]) -> Result<Option<Member>, Error> {
        let mut seen = Vec::new();
        for line in lines {
            let Some((_, id)) = talk(tx, *line, &mut seen)? else { continue };
            let member = readable(members::get(tx.read()?, id), "a member")?;
            if let Some(member) = member.filter(|member| self.is_at(kind, member)) {
                return Ok(Some(member));
            }
        }
        Ok(None)
    }

    /// Tells whether it comes from one of a person's addresses.
    fn is_at(&self, kind: ChannelKind, member: &Member) -> bool {
        let known = Contact::from(&member.addresses).addresses(kind);
        let is_known = |said: &str| known.iter().any(|address| address.as_str() == said);
        match kind {
            ChannelKind::Feishu => is_known(&self.sender_ref) || self.sender_alias.as_deref().is_some_and(is_known),
            // The alias is a name, and names change hands.
            ChannelKind::Telegram => is_known(&self.sender_ref),
            // Both names are proven.
            ChannelKind::WhatsApp => std::iter::once(&self.sender_ref)
                .chain(&self.sender_alias)
                .any(|said| known.iter().any(|address| is_same_person(address.as_str(), said))),
            // Who speaks there is whoever the caller says, and no address.
            ChannelKind::Email | ChannelKind::Webhook => false,
        }
    }
}

/// Tells whether two addresses of WhatsApp are one: an id there holds digits, and is no number.
fn is_same_person(known: &str, said: &str) -> bool {
    let is_number = |text: &str| !text.chars().any(char::is_alphabetic);
    known == said || (is_number(known) && is_number(said) && digits(known) == digits(said))
}

fn digits(number: &str) -> String {
    number.chars().filter(char::is_ascii_digit).collect()
}

/// Finds the agent whom a line of a person is for: who talks to it in these lines, else whose channel it is.
fn agent(
    tx: &mut Tx<'_>,
    channel: &Channel,
    person: &Member,
    lines: &[MessageId],
) -> Result<Option<Arc<AgentFacts>>, Error> {
    let mut seen = Vec::new();
    for line in lines {
        // What others talk about is not theirs (SEC-2).
        if let Some((id, member)) = talk(tx, *line, &mut seen)?
            && member == person.id
            && let Some(agent) = remote(tx, id)?
        {
            return Ok(Some(agent));
        }
    }
    match channel.agent_id {
        Some(id) => remote(tx, id),
        None => Ok(None),
    }
}

/// Finds which agent talks to which person in the conversation of a line. `None`: it is another kind of conversation, is not
/// open, cannot be read, or has been seen.
fn talk(
    tx: &mut Tx<'_>,
    line: MessageId,
    seen: &mut Vec<ConversationId>,
) -> Result<Option<(AgentId, MemberId)>, Error> {
    let place = readable(messages::place_of(tx.read()?, line), "where a line belongs")?;
    let Some((id, _)) = place.filter(|(id, _)| !seen.contains(id)) else { return Ok(None) };
    seen.push(id);
    let open = readable(conversations::get(tx.read()?, id), "a conversation with a person")?;
    let of_kind = open.filter(|open| open.kind == ConversationKind::AgentMember);
    Ok(of_kind.and_then(|open| agent_and_member_of_key(&open.key)))
}

/// Returns an agent that has a mailbox.
fn remote(tx: &mut Tx<'_>, id: AgentId) -> Result<Option<Arc<AgentFacts>>, Error> {
    let agent = readable(tx.agent(id), "an agent")?;
    Ok(agent.filter(|agent| agent.kind != AgentKind::Native))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_whatsapp_is_nobodys_number() {
        for (known, said, expected) in [
            ("+49 (30) 123456", "4930123456", true),
            ("4930123456", "4930123457", false),
            ("US.13491208655", "US.13491208655", true),
            ("US.13491208655", "13491208655", false),
            ("13491208655", "US.13491208655", false),
            ("13491208655", "US.ENT.13491208655", false),
            ("US.13491208655", "DE.13491208655", false),
        ] {
            assert_eq!(is_same_person(known, said), expected, "{known} {said}");
        }
    }
}

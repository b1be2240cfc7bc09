//! An agent writes to a person: the line and its delivery by a channel, in one transaction. The sending itself is the
//! outbox's.
use std::sync::Arc;

use crate::domain::agent::AgentFacts;
use crate::domain::channel::{Channel, ChannelKind, Contact};
use crate::domain::conversation::{ConversationKind, agent_and_member_of_key, agent_member_key};
use crate::domain::delivery::{Delivery, DeliveryState, Move, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, ChannelId, ConversationId, MemberId, MessageId, PartyId};
use crate::domain::member::{Addresses, Member};
use crate::domain::message::{Line, MessageKind, MessageRole};
use crate::domain::party::{Party, PartyKind};
use crate::store::channel_refs::{self, Direction};
use crate::store::deliveries::{self, DeliveryOptions, NewDelivery};
use crate::store::dialect::Db;
use crate::store::mailbox::{LoopGuards, admit_to_member, note_request, scoped};
use crate::store::messages::{self, Idem, NewLine, Place};
use crate::store::tx::{Command, Tx};
use crate::store::{channels, conversations, members, parties};

use super::readable;

/// Attempts before a message to a person is dead: with the growing wait between them they last for more than an hour.
pub const ATTEMPTS_MAX: i32 = 12;

/// Accepts a message of an agent to a person.
pub struct SendToMember {
    pub from: Arc<AgentFacts>,
    pub to: MemberId,
    /// By which kind of channel; the first that works, if the sender does not say.
    pub kind: Option<ChannelKind>,
    pub text: String,
    /// The sender's own key for it (D10).
    pub idem: Option<Idem>,
    /// The message that led to it, where the sender says so.
    pub in_reply_to: Option<MessageId>,
    pub options: DeliveryOptions,
    /// Messages that may wait for one channel.
    pub queue_max: usize,
    /// Channels whose providers could be made: others would never bring it. `None`: the caller does not know, and one that
    /// is enabled is enough.
    pub working: Option<Vec<ChannelId>>,
    pub guards: LoopGuards,
}

/// A message to a person.
#[derive(Clone, Debug)]
pub struct ToMember {
    pub message_id: MessageId,
    /// The person's name.
    pub target: String,
    /// By which kind of channel it goes, if that is known any more.
    pub kind: Option<ChannelKind>,
    /// Its delivery as it was when this was read; `None` if that has been removed since.
    pub delivery: Option<Delivery>,
    /// How the removed one ended, and why.
    pub ended: Option<(DeliveryState, Option<String>)>,
}

impl Command for SendToMember {
    type Output = ToMember;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<ToMember, Error> {
        // Its key counted when the call came; it may have been removed since.
        if tx.agent(self.from.id)?.is_none() {
            return Err(Error::new(ErrorCode::Unauthenticated, "Invalid API key"));
        }
        if let Some(sent) = self.repeated(tx)? {
            return Ok(sent);
        }
        let member = members::get(tx.read()?, self.to)?.ok_or_else(|| Error::not_found("member", self.to))?;
        let channel = choose(tx.read()?, self.from.id, &member, self.kind, self.working.as_deref())?;
        let channel = channel.ok_or_else(|| unreachable(&member, self.kind))?;
        let sender = tx.party(self.from.party_id)?.ok_or_else(|| Error::corrupt("an agent without its party"))?;
        let led_to_it = match self.in_reply_to {
            None => None,
            Some(id) => Some(tx.hops_of(id, self.from.party_id)?.ok_or_else(|| Error::not_found("message", id))?),
        };
        let options = self.options();
        let replaced = match &options.coalesce_key {
            Some(key) => deliveries::waiting_by_key(tx.read()?, member.party_id, key)?,
            None => Vec::new(),
        };
        let open = tx.open_by(channel.id)?.saturating_sub(replaced.len());
        if open >= self.queue_max {
            return Err(Error::new(
                ErrorCode::MailboxFull,
                format!(
                    "{open} messages wait for the channel `{}` already; try again when some are sent",
                    channel.name
                ),
            ));
        }
        let hops = admit_to_member(tx, &self.from, &member, led_to_it, self.guards)?;
        for stored in replaced {
            let action = Move::Cancel { reason: Some(reason::COALESCED.to_owned()) };
            deliveries::apply_to(tx, stored, &action, true)?;
        }
        let conversation_id = conversation(tx, &self.from, &member)?;
        let new = NewLine {
            kind: Some(MessageKind::Request),
            in_reply_to: self.in_reply_to,
            hops,
            idem: self.idem.as_ref().map(|idem| Idem { key: scoped(&idem.key), hash: idem.hash }),
            ..NewLine::text(MessageRole::Assistant, sender, self.text.as_str())
        };
        // Read first: what cannot be read must be said before anything is written.
        let topic = tx.topic(conversation_id)?;
        let line = messages::append(tx, conversation_id, Place::End, new)?;
        tx.emit(Event::Line { topic, line: line.clone(), ack_to: None, end: None });
        let delivery = deliver(tx, &line, member.party_id, &channel, options)?;
        note_request(tx, self.from.party_id, member.party_id, self.guards);
        Ok(ToMember {
            message_id: line.id,
            target: member.name,
            kind: Some(channel.kind),
            delivery: Some(delivery),
            ended: None,
        })
    }
}

impl SendToMember {
    /// Finds what this key has sent before.
    fn repeated(&self, tx: &mut Tx<'_>) -> Result<Option<ToMember>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        let found = messages::stored_by_key(tx.read()?, self.from.party_id, &scoped(&idem.key))?;
        let Some(id) = idem.same(found, "message")? else { return Ok(None) };
        let sent = sent_to_member(tx.read()?, id)?;
        // The same words, and they meant an agent then.
        sent.map(Some).ok_or_else(|| {
            Error::new(ErrorCode::IdempotencyConflict, "this idempotency key was used for a message to an agent")
        })
    }

    /// Returns how it is handed out. Coalescing keys of other senders are others.
    fn options(&self) -> DeliveryOptions {
        let coalesce_key = self.options.coalesce_key.as_ref().map(|key| format!("{}/{key}", self.from.party_id));
        DeliveryOptions { coalesce_key, ..self.options.clone() }
    }
}

/// Reads what became of a message to a person; `None` if it was to somebody else.
pub fn sent_to_member(db: &mut Db, id: MessageId) -> Result<Option<ToMember>, Error> {
    let Some((conversation_id, _)) = messages::place_of(db, id)? else { return Ok(None) };
    let topic = conversations::topic(db, conversation_id)?;
    let Some((_, member)) = agent_and_member_of_key(&topic.key) else { return Ok(None) };
    let party = parties::find(db, PartyKind::Member, &member.to_string())?;
    let party = party.ok_or_else(|| Error::corrupt("a message without its recipient"))?;
    let delivery = deliveries::of_message(db, id)?.into_iter().map(|stored| stored.delivery).next();
    let channel = match &delivery {
        Some(delivery) => delivery.channel_id,
        None => channel_refs::of_message(db, id)?.first().map(|known| known.channel_id),
    };
    let kind = match channel {
        Some(channel) => channels::kind_of(db, channel)?,
        None => None,
    };
    let ended = match &delivery {
        Some(_) => None,
        None => messages::ended(db, id)?.map(|ended| (ended.state, ended.reason)),
    };
    Ok(Some(ToMember { message_id: id, target: party.display_name, kind, delivery, ended }))
}

/// Chooses the channel that brings a message to a person: of the kinds in their order the first for which there is a
/// channel that works and the person has an address. The sender's own channel goes before those of nobody, and these before
/// other agents'.
fn choose(
    db: &mut Db,
    agent: AgentId,
    member: &Member,
    kind: Option<ChannelKind>,
    working: Option<&[ChannelId]>,
) -> Result<Option<Channel>, Error> {
    let contact = Contact::from(&member.addresses);
    let works = |channel: &Channel| channel.enabled && working.is_none_or(|ids| ids.contains(&channel.id));
    let usable: Vec<Channel> = channels::list(db)?.into_iter().filter(works).collect();
    let kinds = ChannelKind::BY_PREFERENCE.into_iter().filter(|one| kind.is_none_or(|kind| kind == *one));
    for kind in kinds.filter(|kind| !contact.addresses(*kind).is_empty()) {
        let of_kind = usable.iter().filter(|channel| channel.kind == kind);
        let first = of_kind.min_by_key(|channel| match channel.agent_id {
            Some(id) if id == agent => 0,
            None => 1,
            Some(_) => 2,
        });
        if let Some(channel) = first {
            return Ok(Some(channel.clone()));
        }
    }
    Ok(None)
}

/// Refuses to write to a person whom no channel reaches, in the ancestor's words.
pub fn unreachable(person: &Member, kind: Option<ChannelKind>) -> Error {
    let Addresses { feishu_user_id, feishu_open_id, .. } = &person.addresses;
    let has_feishu = feishu_user_id.is_some() || feishu_open_id.is_some();
    if has_feishu && kind.is_none_or(|kind| kind == ChannelKind::Feishu) {
        return Error::new(ErrorCode::InvalidRequest, "No Feishu channel configured");
    }
    let known = |address: &Option<String>| if address.is_some() { "yes" } else { "no" };
    let message = format!(
        "No available channel to reach {}. feishu_user_id={}, feishu_open_id={}",
        person.name,
        known(feishu_user_id),
        known(feishu_open_id)
    );
    Error::new(ErrorCode::InvalidRequest, message)
}

/// Returns the conversation of an agent with a person, made at the first message.
pub(super) fn conversation(tx: &mut Tx<'_>, agent: &AgentFacts, member: &Member) -> Result<ConversationId, Error> {
    let key = agent_member_key(agent.id, member.id);
    if let Some(known) = tx.named(ConversationKind::AgentMember, &key)? {
        return Ok(known);
    }
    let title = format!("{} ↔ {}", agent.name, member.name);
    let id = conversations::insert_named(tx, ConversationKind::AgentMember, &key, title, None)?;
    for party in [agent.party_id, member.party_id] {
        conversations::join(tx, id, party)?;
    }
    Ok(id)
}

/// Has a channel bring a line to a person.
fn deliver(
    tx: &mut Tx<'_>,
    line: &Arc<Line>,
    to: PartyId,
    channel: &Channel,
    options: DeliveryOptions,
) -> Result<Delivery, Error> {
    let new = NewDelivery { recipient_id: to, channel_id: Some(channel.id), attempts_max: ATTEMPTS_MAX, options };
    let stored = deliveries::insert(tx, line, new)?;
    deliveries::tell(tx, &stored.delivery, None, Some(line.clone()))?;
    Ok(stored.delivery)
}

/// Sends an agent's answer to the person who asked: back by the channel on which the question came, or by another one if
/// that is gone or disabled. Where there is none it waits for its own; if that is gone it is a line that is read in the
/// console. What cannot be read is done without: the answer stands (STO-3).
pub(in crate::store) fn answer_to_member(
    tx: &mut Tx<'_>,
    answer: &Arc<Line>,
    asked: MessageId,
    member: &Party,
    agent: AgentId,
) -> Result<(), Error> {
    let Ok(id) = member.reference.parse::<MemberId>() else {
        log::error!("which person party `{}` stands for cannot be read", member.id);
        return Ok(());
    };
    let Some(person) = readable(members::get(tx.read()?, id), "a member")? else { return Ok(()) };
    let known = readable(channel_refs::of_message(tx.read()?, asked).map(Some), "how a line came in")?;
    let came_by = known.unwrap_or_default().into_iter().find(|one| one.direction == Direction::In);
    let own = match came_by {
        Some(known) => readable(channels::get(tx.read()?, known.channel_id), "a channel")?,
        None => None,
    };
    let channel = match own {
        Some(own) if own.enabled => Some(own),
        // Which of them work is not known here: one that is enabled is enough.
        own => choose(tx.read()?, agent, &person, None, None)?.or(own),
    };
    let Some(channel) = channel else {
        log::warn!(member:% = person.id, message:% = answer.id; "no channel brings an answer to a person");
        return Ok(());
    };
    deliver(tx, answer, member.id, &channel, DeliveryOptions::default()).map(drop)
}

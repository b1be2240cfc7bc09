//! What the end of a message to an agent or a person begets.
//!
//! Invariants
//! - STO-2: the notice to whoever asked is written in the transaction that ends the request.
//! - RTE-1: the end of a reply or a notice begets nothing; it is counted.
use std::sync::Arc;

use super::send::{append, deliver};
use super::{MailLimits, pair};
use crate::domain::agent::AgentFacts;
use crate::domain::delivery::{Delivery, DeliveryState, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{AgentId, ConversationId, PartyId};
use crate::domain::message::{MessageKind, MessageRole};
use crate::domain::party::{Party, PartyKind};
use crate::store::channels;
use crate::store::deliveries::{self, DeliveryOptions, Mail};
use crate::store::messages::NewLine;
use crate::store::parties;
use crate::store::tx::Tx;

/// Who signs notices.
const BROKER: &str = "clawbroker";
/// Longest part of a recipient's own words that its asker is told, in characters.
const REASON_CHARS_MAX: usize = 500;
/// Notices come in whether there is room or not, as replies do.
const LIMITS: MailLimits = MailLimits { messages_max: usize::MAX, attempts_max: deliveries::ATTEMPTS_MAX };

/// How many messages to agents and people died, by their kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Deaths {
    pub(in crate::store) requests: u64,
    pub(in crate::store) replies: u64,
    pub(in crate::store) notices: u64,
}

impl Deaths {
    fn count(&mut self, kind: Option<MessageKind>) {
        match kind {
            Some(MessageKind::Request) => self.requests += 1,
            Some(MessageKind::Reply) => self.replies += 1,
            Some(MessageKind::Notice) => self.notices += 1,
            None => {}
        }
    }
}

/// A message to an agent or a person that nobody will handle now.
pub(in crate::store) struct Lost {
    recipient: Party,
    mail: Mail,
}

impl Lost {
    /// Looks at a delivery that was in the state `from` and has just moved, before that is stored. `None`: it goes on,
    /// it ended as somebody wanted, or its recipient is neither an agent nor a person.
    pub(in crate::store) fn of(
        tx: &mut Tx<'_>,
        delivery: &Delivery,
        from: DeliveryState,
    ) -> Result<Option<Self>, Error> {
        if !from.is_open() || !matches!(delivery.state, DeliveryState::Dead | DeliveryState::Expired) {
            return Ok(None);
        }
        match tx.party(delivery.recipient_id)? {
            Some(recipient) if matches!(recipient.kind, PartyKind::Agent | PartyKind::Member) => {
                Ok(tx.mail(delivery.id)?.map(|mail| Self { recipient, mail }))
            }
            _ => Ok(None),
        }
    }

    /// Tells whoever asked that nobody handled it, and counts it.
    pub(in crate::store) fn tell(self, tx: &mut Tx<'_>, delivery: &Delivery) -> Result<(), Error> {
        let Self { recipient, mail } = self;
        if delivery.state == DeliveryState::Dead {
            tx.deaths().count(mail.kind);
        }
        let id = delivery.conversation_id;
        if mail.kind != Some(MessageKind::Request) || hears_nothing(tx, id)? {
            return Ok(());
        }
        let asker = match asker(tx, mail.sender_id) {
            // The end of the request stands (STO-3).
            Err(error) if error.is_unreadable() => {
                log::error!("who sent `{}` cannot be read and is not told: {}", delivery.message_id, error.cause());
                None
            }
            found => Some(found?),
        };
        let broker = parties::ensure_named(tx, PartyKind::System, BROKER)?;
        let (name, why) = (&recipient.display_name, why(delivery));
        let text = match recipient.kind {
            PartyKind::Member => format!("Your message to {name} was not sent: {why}"),
            _ => format!("Your request to {name} was not handled: {why}"),
        };
        let new = NewLine {
            kind: Some(MessageKind::Notice),
            in_reply_to: Some(delivery.message_id),
            hops: mail.hops,
            ..NewLine::text(MessageRole::System, broker, text)
        };
        let notice = append(tx, id, new)?;
        match asker {
            Some((party, Some(agent))) => {
                deliver(tx, &notice, &agent, DeliveryOptions::default(), LIMITS)?;
                pair::note_came_back(tx, party.id, recipient.id, notice.hops);
            }
            Some((person, None)) if person.kind == PartyKind::Member => match recipient.reference.parse::<AgentId>() {
                Ok(agent) => channels::answer_to_member(tx, &notice, delivery.message_id, &person, agent)?,
                // The end of the request stands (STO-3).
                Err(_) => log::error!("which agent party `{}` stands for cannot be read", recipient.id),
            },
            // A user sees the line; an agent that was removed meanwhile gets nothing.
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// Returns who asked, with the agent that it stands for: `None` for a person, and for one that was removed meanwhile.
fn asker(tx: &mut Tx<'_>, sender: PartyId) -> Result<(Party, Option<Arc<AgentFacts>>), Error> {
    let party = tx.party(sender)?.ok_or_else(|| Error::corrupt("a message without its sender's party"))?;
    let agent = tx.agent_of(&party)?;
    Ok((party, agent))
}

/// Tells whether nobody is told in a conversation: it was deleted, or whose it is cannot be read (STO-3).
fn hears_nothing(tx: &mut Tx<'_>, id: ConversationId) -> Result<bool, Error> {
    match tx.owner(id) {
        Ok(_) => Ok(false),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(true),
        Err(error) if error.is_unreadable() => {
            log::error!("whose conversation `{id}` is cannot be read, and nobody is told in it: {}", error.cause());
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Says in words why a message was not handled.
fn why(delivery: &Delivery) -> String {
    match (delivery.state, delivery.reason.as_deref()) {
        (DeliveryState::Expired, _) if delivery.attempt > 0 => "its time was over before it was handled".to_owned(),
        (DeliveryState::Expired, _) => "its time was over before anybody took it".to_owned(),
        (_, Some(reason::ATTEMPTS)) => format!("nobody reported on it (attempts: {})", delivery.attempt),
        (_, Some(reason::OUTCOME_UNKNOWN)) => "whether it arrived is not known, so it is not sent again".to_owned(),
        (_, Some(reason::CHANNEL_REMOVED)) => "its channel was removed".to_owned(),
        (_, Some(reason::RECIPIENT_REMOVED)) => "the agent was removed".to_owned(),
        (_, Some(words)) => {
            words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect()
        }
        (_, None) => "no reason was given".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{DeliveryId, MessageId, PartyId};

    fn ended(state: DeliveryState, reason: Option<&str>) -> Delivery {
        Delivery {
            id: DeliveryId::new(),
            n: 1,
            message_id: MessageId::new(),
            conversation_id: ConversationId::new(),
            recipient_id: PartyId::new(),
            channel_id: None,
            seq: 1,
            priority: 0,
            state,
            outcome: None,
            reason: reason.map(str::to_owned),
            attempt: 3,
            attempts_max: 3,
            available_at: 0,
            lease_until: None,
            leased_at: None,
            expires_at: None,
            result_hash: None,
            created_at: 0,
            ended_at: Some(1),
        }
    }

    #[test]
    fn the_reason_is_a_line_of_words() {
        let of_dead = |reason: &str| why(&ended(DeliveryState::Dead, Some(reason)));
        assert_eq!(of_dead(reason::ATTEMPTS), "nobody reported on it (attempts: 3)");
        assert_eq!(of_dead(reason::RECIPIENT_REMOVED), "the agent was removed");
        assert_eq!(of_dead("out of\npaper\u{7}"), "out of paper ");
        assert_eq!(of_dead(&"ä".repeat(501)), "ä".repeat(500));
        assert_eq!(why(&ended(DeliveryState::Dead, None)), "no reason was given");
        let expired = ended(DeliveryState::Expired, None);
        assert_eq!(why(&expired), "its time was over before it was handled", "it was handed out");
        assert_eq!(why(&Delivery { attempt: 0, ..expired }), "its time was over before anybody took it");
    }
}

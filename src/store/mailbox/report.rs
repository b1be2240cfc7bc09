//! Reports: an agent says that a message is done, and what came of it.
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::send::{append, deliver};
use super::{MailLimits, pair, retained};
use crate::domain::agent::AgentFacts;
use crate::domain::delivery::{Applied, DeliveryState, Move, Outcome};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::MessageId;
use crate::domain::message::{Line, MessageKind, MessageRole};
use crate::domain::party::PartyKind;
use crate::store::channels;
use crate::store::deliveries::{self, DeliveryOptions, Mail};
use crate::store::messages::NewLine;
use crate::store::tx::{Command, Tx};

/// An agent's word that a message is done, and its answer.
pub struct Report {
    pub reporter: Arc<AgentFacts>,
    pub message_id: MessageId,
    /// The number of the hand-out, where the agent says it.
    pub attempt: Option<i32>,
    pub result: String,
    pub limits: MailLimits,
}

/// What a report did.
#[derive(Clone, Debug)]
pub struct Reported {
    /// It had been reported before, in the same words.
    pub repeated: bool,
    /// The line that the asker gets; `None` on a repeat, and for what asks for no answer.
    pub reply: Option<Arc<Line>>,
}

impl Command for Report {
    type Output = Reported;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Reported, Error> {
        let Some(mail) = tx.mail_of(self.message_id, self.reporter.party_id)? else {
            let known = retained::reported(tx, self.reporter.party_id, self.message_id, &self.result)?;
            return known.ok_or_else(|| Error::new(ErrorCode::NotFound, "Message not found"));
        };
        match mail.kind {
            Some(MessageKind::Request) => self.answer(tx, mail),
            _ => self.end(tx, mail),
        }
    }
}

impl Report {
    /// Ends what asks for no answer; what was said about it is not kept (RTE-1).
    fn end(&self, tx: &mut Tx<'_>, mail: Mail) -> Result<Reported, Error> {
        mail.stored.delivery.check_number(self.attempt)?;
        let repeated = mail.stored.delivery.state == DeliveryState::Completed;
        if !repeated {
            let action = Move::Complete { outcome: Outcome::HandedOut, attempt: self.attempt, result_hash: None };
            deliveries::apply_to(tx, mail.stored, &action, true)?;
        }
        Ok(Reported { repeated, reply: None })
    }

    /// Completes a request, and sends its reply back to whoever asked.
    fn answer(&self, tx: &mut Tx<'_>, mail: Mail) -> Result<Reported, Error> {
        let action = Move::Complete {
            outcome: Outcome::Reported,
            attempt: self.attempt,
            result_hash: Some(Sha256::digest(self.result.as_bytes()).into()),
        };
        // Judged first: a refusal must come before anything is written.
        if mail.stored.delivery.clone().apply(&action, tx.now_ms())? == Applied::Repeated {
            return Ok(Reported { repeated: true, reply: None });
        }
        let conversation_id = mail.stored.delivery.conversation_id;
        tx.owner(conversation_id).map_err(|error| match error.code() {
            ErrorCode::NotFound => Error::new(ErrorCode::DeliveryEnded, "the conversation of this message was deleted"),
            _ => error,
        })?;
        let reporter = tx.party(self.reporter.party_id)?.ok_or_else(|| Error::corrupt("an agent without its party"))?;
        let asker = tx.party(mail.sender_id)?.ok_or_else(|| Error::corrupt("a message without its sender's party"))?;
        let person = (asker.kind == PartyKind::Member).then(|| asker.clone());
        let asker = tx.agent_of(&asker)?;
        deliveries::apply_to(tx, mail.stored, &action, true)?;
        let new = NewLine {
            kind: Some(MessageKind::Reply),
            in_reply_to: Some(self.message_id),
            hops: mail.hops,
            ..NewLine::text(MessageRole::Assistant, reporter, self.result.as_str())
        };
        let reply = append(tx, conversation_id, new)?;
        if let Some(person) = person {
            channels::answer_to_member(tx, &reply, self.message_id, &person, self.reporter.id)?;
        }
        // A user sees the line; an agent that was removed meanwhile gets nothing.
        if let Some(asker) = asker {
            deliver(tx, &reply, &asker, DeliveryOptions::default(), self.limits)?;
            pair::note_came_back(tx, asker.party_id, self.reporter.party_id, reply.hops);
        }
        Ok(Reported { repeated: false, reply: Some(reply) })
    }
}

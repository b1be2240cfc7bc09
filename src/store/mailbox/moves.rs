//! What a recipient says about its mail short of a report: it gives it back, gives it up, needs longer, has it.
use std::collections::HashMap;

use super::retained;
use crate::domain::delivery::{Delivery, DeliveryState, Move, Outcome};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{MessageId, PartyId};
use crate::domain::message::MessageKind;
use crate::store::deliveries::{self, Mail};
use crate::store::tx::{Command, Tx};

/// Gives back what is leased: it comes again, unless it has had all its hand-outs.
pub struct Nack {
    pub recipient: PartyId,
    pub message_id: MessageId,
    /// The number of the hand-out, where the recipient says it.
    pub attempt: Option<i32>,
    /// How long it is not handed out. Milliseconds.
    pub delay_ms: i64,
    pub reason: Option<String>,
}

impl Command for Nack {
    type Output = DeliveryState;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<DeliveryState, Error> {
        let retry_at = tx.now_ms().saturating_add(self.delay_ms);
        let action = Move::Nack { attempt: self.attempt, retry_at, reason: self.reason.clone() };
        move_own(tx, self.recipient, self.message_id, &action)
    }
}

/// Ends what waits or is leased for good: its recipient will never handle it.
pub struct Fail {
    pub recipient: PartyId,
    pub message_id: MessageId,
    /// The number of the hand-out, where the recipient says it.
    pub attempt: Option<i32>,
    pub reason: String,
}

impl Command for Fail {
    type Output = DeliveryState;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<DeliveryState, Error> {
        let action = Move::Fail { attempt: self.attempt, reason: self.reason.clone() };
        move_own(tx, self.recipient, self.message_id, &action)
    }
}

fn move_own(tx: &mut Tx<'_>, recipient: PartyId, id: MessageId, action: &Move) -> Result<DeliveryState, Error> {
    let mail = own(tx, recipient, id)?;
    // It is judged before anything is written.
    deliveries::apply_to(tx, mail.stored, action, true).map(|delivery| delivery.state)
}

/// Finds what a recipient was sent; of what others were sent it learns nothing (SEC-2).
fn own(tx: &mut Tx<'_>, recipient: PartyId, id: MessageId) -> Result<Mail, Error> {
    tx.mail_of(id, recipient)?.ok_or_else(|| Error::new(ErrorCode::NotFound, "Message not found"))
}

/// By how much a lease is prolonged.
#[derive(Clone, Copy, Debug)]
pub struct Prolonging {
    /// How long it lasts from now on, in milliseconds.
    pub lease_ms: i64,
    /// How long it may last in all since the hand-out, in milliseconds.
    pub total_max_ms: i64,
}

impl Prolonging {
    /// Says until when a lease lasts if it is prolonged now: never for a shorter time than before, and never beyond
    /// what it may last in all.
    fn until(self, delivery: &Delivery, attempt: Option<i32>, now_ms: i64) -> Result<i64, Error> {
        let end = delivery.leased_at.unwrap_or(now_ms).saturating_add(self.total_max_ms);
        let until = now_ms.saturating_add(self.lease_ms).min(end);
        let mut prolonged = delivery.clone();
        prolonged.apply(&Move::Extend { attempt, until }, now_ms)?;
        prolonged.lease_until.filter(|until| *until > now_ms).ok_or_else(|| {
            let id = delivery.message_id;
            let message = format!("the lease of message `{id}` is over, and was as long as it may be");
            Error::new(ErrorCode::NotLeased, message)
        })
    }
}

/// Prolongs a lease; answers when it ends now, in epoch milliseconds.
pub struct Extend {
    pub recipient: PartyId,
    pub message_id: MessageId,
    /// The number of the hand-out, where the recipient says it.
    pub attempt: Option<i32>,
    pub by: Prolonging,
}

impl Command for Extend {
    type Output = i64;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<i64, Error> {
        let mail = own(tx, self.recipient, self.message_id)?;
        let until = self.by.until(&mail.stored.delivery, self.attempt, tx.now_ms())?;
        prolong(tx, mail, until)?;
        Ok(until)
    }
}

/// Has a lease end at that time, unless it does already.
fn prolong(tx: &mut Tx<'_>, mail: Mail, until: i64) -> Result<(), Error> {
    if mail.stored.delivery.lease_until != Some(until) {
        deliveries::apply_to(tx, mail.stored, &Move::Extend { attempt: None, until }, true)?;
    }
    Ok(())
}

/// Prolongs the leases of all that a recipient works on, as far as they are its own.
pub struct ExtendAll {
    pub recipient: PartyId,
    /// Each with the number of its hand-out, where the recipient says it.
    pub working_on: Vec<(MessageId, Option<i32>)>,
    pub by: Prolonging,
}

/// What became of leases that were to be prolonged, in the order in which they were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// Their leases last as long as they may.
    pub extended: Vec<MessageId>,
    /// They are not leased to the recipient, or not by that number any more.
    pub stale: Vec<MessageId>,
}

impl Command for ExtendAll {
    type Output = Extended;

    /// Refuses the number of a hand-out that never was; everything else that is not possible is told of.
    fn apply(&self, tx: &mut Tx<'_>) -> Result<Extended, Error> {
        let ids: Vec<MessageId> = self.working_on.iter().map(|(id, _)| *id).collect();
        let mut found = tx.mail_of_all(&ids, self.recipient)?;
        let now_ms = tx.now_ms();
        let mut extended = Extended::default();
        let mut ends = HashMap::new();
        for (id, attempt) in &self.working_on {
            let Some(mail) = found.get(id) else {
                extended.stale.push(*id);
                continue;
            };
            mail.stored.delivery.check_number(*attempt)?;
            match self.by.until(&mail.stored.delivery, *attempt, now_ms) {
                Ok(until) => {
                    ends.insert(*id, until);
                    extended.extended.push(*id);
                }
                Err(_) => extended.stale.push(*id),
            }
        }
        for id in &extended.extended {
            // Whatever is named twice is prolonged once.
            if let (Some(until), Some(mail)) = (ends.remove(id), found.remove(id)) {
                prolong(tx, mail, until)?;
            }
        }
        Ok(extended)
    }
}

/// A recipient has replies and notices, of which nothing more is asked.
pub struct Acknowledge {
    pub recipient: PartyId,
    pub message_ids: Vec<MessageId>,
}

/// What a recipient may acknowledge of what it named, in the order in which it named it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// They are complete now, or were before.
    pub acked: Vec<MessageId>,
    /// They are not its own, are requests, or ended otherwise.
    pub unknown: Vec<MessageId>,
}

impl Command for Acknowledge {
    type Output = Acknowledged;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Acknowledged, Error> {
        let mut found = tx.mail_of_all(&self.message_ids, self.recipient)?;
        let mut told = Acknowledged::default();
        for id in &self.message_ids {
            let is_its_own = match found.get(id) {
                Some(mail) => may_be_acknowledged(mail),
                None => retained::is_acknowledged(tx.read()?, self.recipient, *id)?,
            };
            let list = if is_its_own { &mut told.acked } else { &mut told.unknown };
            list.push(*id);
        }
        for id in &told.acked {
            // Whatever is named twice is complete the second time.
            if let Some(mail) = found.remove(id).filter(|mail| mail.stored.delivery.state.is_open()) {
                let action = Move::Complete { outcome: Outcome::Acknowledged, attempt: None, result_hash: None };
                deliveries::apply_to(tx, mail.stored, &action, true)?;
            }
        }
        Ok(told)
    }
}

/// Tells whether its recipient may say that it has it. A request is done by a report only.
fn may_be_acknowledged(mail: &Mail) -> bool {
    let state = mail.stored.delivery.state;
    mail.kind != Some(MessageKind::Request) && (state.is_open() || state == DeliveryState::Completed)
}

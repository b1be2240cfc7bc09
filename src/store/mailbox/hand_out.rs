//! Hand-outs: leased before anybody sees them, ended or given back afterwards.
use crate::domain::delivery::{Delivery, Move, Outcome};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{DeliveryId, PartyId};
use crate::store::deliveries;
use crate::store::tx::{Command, Tx};

/// Leases these deliveries of a recipient; what cannot be leased now is left out.
pub struct HandOut {
    pub recipient: PartyId,
    pub ids: Vec<DeliveryId>,
    /// End of the leases, epoch milliseconds.
    pub until: i64,
}

/// A delivery that was leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOut {
    pub delivery: DeliveryId,
    pub attempt: i32,
    pub lease_until: i64,
}

impl Command for HandOut {
    type Output = Vec<HandedOut>;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Vec<HandedOut>, Error> {
        // What is still open for it is about to end.
        if tx.is_removed(self.recipient)? {
            return Ok(Vec::new());
        }
        tx.load_mail(&self.ids)?;
        let mut leased = Vec::with_capacity(self.ids.len());
        for id in &self.ids {
            let action = Move::Lease { until: Some(self.until) };
            if let Some(delivery) = moved(tx, self.recipient, *id, &action)? {
                leased.push(HandedOut { delivery: *id, attempt: delivery.attempt, lease_until: self.until });
            }
        }
        Ok(leased)
    }
}

/// Ends hand-outs that need no report. What is not leased by that number any more is left out.
pub struct Close {
    pub recipient: PartyId,
    /// Each with the number it was handed out with.
    pub handed_out: Vec<(DeliveryId, i32)>,
    pub outcome: Outcome,
}

impl Command for Close {
    type Output = usize;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<usize, Error> {
        let ids: Vec<DeliveryId> = self.handed_out.iter().map(|(id, _)| *id).collect();
        tx.load_mail(&ids)?;
        let mut closed = 0;
        for (id, attempt) in &self.handed_out {
            let action = Move::Complete { outcome: self.outcome, attempt: Some(*attempt), result_hash: None };
            closed += usize::from(moved(tx, self.recipient, *id, &action)?.is_some());
        }
        Ok(closed)
    }
}

/// Gives back hand-outs that nobody took: they wait again at once. The hand-out counts.
pub struct GiveBack {
    pub recipient: PartyId,
    /// Each with the number it was handed out with, where that is known.
    pub handed_out: Vec<(DeliveryId, Option<i32>)>,
}

impl Command for GiveBack {
    type Output = usize;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<usize, Error> {
        let ids: Vec<DeliveryId> = self.handed_out.iter().map(|(id, _)| *id).collect();
        tx.load_mail(&ids)?;
        let retry_at = tx.now_ms();
        let mut given_back = 0;
        for (id, attempt) in &self.handed_out {
            let action = Move::Nack { attempt: *attempt, retry_at, reason: None };
            given_back += usize::from(moved(tx, self.recipient, *id, &action)?.is_some());
        }
        Ok(given_back)
    }
}

/// Moves a delivery of a recipient, if it may be moved so now.
fn moved(tx: &mut Tx<'_>, recipient: PartyId, id: DeliveryId, action: &Move) -> Result<Option<Delivery>, Error> {
    let Some(mail) = tx.mail(id)?.filter(|mail| mail.stored.delivery.recipient_id == recipient) else {
        return Ok(None);
    };
    match deliveries::apply_to(tx, mail.stored, action, true) {
        Ok(delivery) => Ok(Some(delivery)),
        // Anything else is a refusal, before anything was written.
        Err(error) if matches!(error.code(), ErrorCode::Internal | ErrorCode::StoreBusy | ErrorCode::StorageFull) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

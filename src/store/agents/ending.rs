//! What is open for an agent that was removed ends in small steps.
//!
//! Whoever removes an agent marks it: from then on nothing new is accepted for it, and nothing that is there is handed
//! out. Its open deliveries die in steps of bounded size, so that other writes get in between; what a stopped server
//! left over ends after its next start.
use diesel::prelude::*;

use crate::domain::delivery::{Move, reason};
use crate::domain::error::Error;
use crate::domain::ids::{DeliveryId, PartyId};
use crate::store::deliveries;
use crate::store::dialect::Db;
use crate::store::schema::agents;
use crate::store::tx::{Command, Tx};

/// Deliveries that one step ends.
const ROWS_MAX: i64 = 500;

/// Counts the removed agents for whom something may be open.
pub fn ending(db: &mut Db) -> Result<i64, Error> {
    Ok(agents::table.filter(agents::ending).count().get_result(db)?)
}

/// Ends what is open for removed agents, at most about 500 deliveries; tells whether more waits. What cannot be
/// read is left as it is. Belongs in the bulk lane.
pub struct EndMailStep;

impl Command for EndMailStep {
    type Output = bool;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let mut room = ROWS_MAX;
        while room > 0 {
            let next: Option<(Vec<u8>, Vec<u8>)> = agents::table
                .filter(agents::ending)
                .order(agents::id)
                .select((agents::id, agents::party_id))
                .first(tx.read()?)
                .optional()?;
            let Some((id, party)) = next else { return Ok(false) };
            let party = PartyId::try_from(party.as_slice())?;
            let mut after_n = Some(i64::MIN);
            while room > 0
                && let Some(n) = after_n
            {
                let (open, next) = deliveries::work_of_recipient(tx.read()?, party, n, room)?;
                after_n = next;
                room -= open.len() as i64;
                // With one query: what is read one by one has the moves before it be written one by one.
                let ids: Vec<DeliveryId> = open.iter().map(|stored| stored.delivery.id).collect();
                tx.load_mail(&ids)?;
                for stored in open {
                    // Before it moves: what cannot be read later would take its neighbours back with it (STO-3).
                    if deliveries::surroundings(tx, &stored.delivery)?.is_none() {
                        continue;
                    }
                    let action = Move::Fail { attempt: None, reason: reason::RECIPIENT_REMOVED.to_owned() };
                    deliveries::apply_to(tx, stored, &action, true)?;
                }
            }
            if after_n.is_none() {
                diesel::update(agents::table.find(id)).set(agents::ending.eq(false)).execute(tx.write()?)?;
            }
            // One without any is work, too.
            room -= 1;
        }
        Ok(true)
    }
}

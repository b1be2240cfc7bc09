//! The node lease: which node is the active one on this database (D5).
use diesel::prelude::*;

use super::dialect;
use super::schema::node_lease;
use super::tx::{Command, Tx};
use crate::domain::error::Error;
use crate::domain::ids::{HomeId, NodeId};

/// How long a lease holds without being renewed, by the database's clock.
pub const LEASE_MS: i64 = 6_000;
/// How often the active node renews it.
pub const RENEW_MS: u64 = 2_000;

/// The epoch of a node that stands by: only what asks for the lease may write.
pub const STANDBY: i64 = -1;
/// The epoch of a tool that works alone on the database: nothing is checked.
pub const UNCHECKED: i64 = 0;

/// What came of asking for the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// This node is the active one, under this epoch.
    Ours { epoch: i64 },
    /// Another node is, for this long at most.
    Theirs { for_ms: i64, address: String },
}

/// Takes the lease, or renews it.
pub struct TakeLease {
    pub node_id: NodeId,
    /// Where this node answers, for people.
    pub address: String,
    /// The data directory that this node holds the lock of: a lease from there is that of a start that has ended.
    pub home: Option<HomeId>,
    /// No other node can be there: the file lock says so (SQLite).
    pub alone: bool,
    /// Whoever asks begins from what is stored, and so does the writer: it forgets what it remembers. Behind the lock of
    /// the lease no earlier transaction of this node can become visible any more (D12).
    pub afresh: bool,
}

impl Command for TakeLease {
    type Output = Lease;

    const IN_STANDBY: bool = true;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Lease, Error> {
        let now_ms = dialect::database_now_ms(tx.read()?)?;
        let until = now_ms + LEASE_MS;
        let home = self.home.as_ref().map(|home| home.as_bytes().as_slice());
        let found = dialect::lock_lease(tx.read()?)?;
        if self.afresh {
            tx.forget_all()?;
        }
        let Some((holder, epoch, held_until, address, held_at)) = found else {
            diesel::insert_into(node_lease::table)
                .values((
                    node_lease::id.eq(1),
                    node_lease::node_id.eq(self.node_id.as_bytes().as_slice()),
                    node_lease::epoch.eq(1_i64),
                    node_lease::until.eq(until),
                    node_lease::address.eq(&self.address),
                    node_lease::home.eq(home),
                ))
                .execute(tx.write()?)?;
            return Ok(Lease::Ours { epoch: 1 });
        };
        let ours = holder.as_slice() == self.node_id.as_bytes();
        let ended = home.is_some() && held_at.as_deref() == home;
        if !ours && !ended && !self.alone && held_until > now_ms {
            return Ok(Lease::Theirs { for_ms: held_until - now_ms, address });
        }
        let epoch = if ours { epoch } else { epoch + 1 };
        diesel::update(node_lease::table.find(1))
            .set((
                node_lease::node_id.eq(self.node_id.as_bytes().as_slice()),
                node_lease::epoch.eq(epoch),
                node_lease::until.eq(until),
                node_lease::address.eq(&self.address),
                node_lease::home.eq(home),
            ))
            .execute(tx.write()?)?;
        Ok(Lease::Ours { epoch })
    }
}

/// Gives the lease up, so that a stand-by need not wait for its end.
pub struct DropLease {
    pub node_id: NodeId,
}

impl Command for DropLease {
    type Output = ();

    const IN_STANDBY: bool = true;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        diesel::update(node_lease::table.find(1))
            .filter(node_lease::node_id.eq(self.node_id.as_bytes().as_slice()))
            .set(node_lease::until.eq(0_i64))
            .execute(tx.write()?)?;
        Ok(())
    }
}

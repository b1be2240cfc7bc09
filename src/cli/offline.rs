//! The database, opened by a command itself: only while no server runs, and under the server's own lock.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::failure::Failure;
use crate::config::Config;
use crate::domain::clock::SystemClock;
use crate::domain::event::{Event, Publish};
use crate::domain::ids::NodeId;
use crate::node;
use crate::store::audit::Actor;
use crate::store::lease::{DropLease, Lease, STANDBY, TakeLease, UNCHECKED};
use crate::store::vault::{KEY_FILE, Vault};
use crate::store::{Location, Opener, ServerLock, Store, WriterParts, lock_for_server, spawn_writer, writer_queues};

/// Nobody watches while no server runs.
struct Nobody;

impl Publish for Nobody {
    fn publish(&self, _: Vec<Event>) {}
}

/// A store of this process's own.
pub(super) struct Offline {
    pub(super) store: Store,
    pub(super) vault: Vault,
    /// On PostgreSQL the node lease keeps servers elsewhere away.
    lease: Option<NodeId>,
    /// Last: a server may come when everything else has ended.
    _locks: Vec<ServerLock>,
}

impl Offline {
    /// Opens the database, which is made and migrated if need be, under locks that the caller has taken.
    pub(super) async fn open_locked(config: &Config, locks: Vec<ServerLock>) -> Result<Self, Failure> {
        let opener = node::opener(&config.store);
        opener.prepare()?;
        let orphaned = node::orphaned_secrets(config, &opener)?;
        if orphaned > 0 {
            return Err(Failure::new(format!(
                "{orphaned} gateways and channels have secrets, and the key is not there: put the key that belongs to this \
                 database back as `{}`; if it is lost, start the server, which makes a new one, and give them their \
                 secrets anew",
                config.app.data_dir.join(KEY_FILE).display()
            )));
        }
        let vault = node::vault(config)?;
        let store = open_store(config, opener)?;
        let lease = take_lease(&store).await?;
        Ok(Self { store, vault, lease, _locks: locks })
    }

    /// Gives the lease back.
    pub(super) async fn close(self) {
        if let Some(node_id) = self.lease
            && let Err(error) = self.store.write(DropLease { node_id }).await
        {
            log::warn!("the lease could not be given up: {error}");
        }
    }
}

/// Takes the server's lock for a command that must have the data for itself.
pub(super) fn lock_alone(config: &Config, location: &Location) -> Result<Vec<ServerLock>, Failure> {
    node::make_private_dir(&config.app.data_dir)?;
    lock_for_server(&config.app.data_dir, location).map_err(|_| {
        Failure::new(format!(
            "a server, or another command, uses the data in `{}`: stop it first",
            config.app.data_dir.display()
        ))
    })
}

/// Opens a store with a writer, which may not write yet.
pub(super) fn open_store(config: &Config, opener: Opener) -> Result<Store, Failure> {
    let (parts, epoch) = parts(config, &opener);
    let (writer, _) = spawn_writer(parts)?;
    Ok(Store::new(writer, opener, node::readers(&config.store), epoch)?)
}

/// Opens a store that only reads: it has no writer, so what is written waits for ever.
pub(super) fn open_to_read(config: &Config, opener: Opener) -> Result<Store, Failure> {
    let (parts, epoch) = parts(config, &opener);
    let (writer, _) = writer_queues(parts);
    Ok(Store::new(writer, opener, node::readers(&config.store), epoch)?)
}

fn parts(config: &Config, opener: &Opener) -> (WriterParts, Arc<AtomicI64>) {
    let epoch = Arc::new(AtomicI64::new(STANDBY));
    let parts = WriterParts {
        opener: opener.clone(),
        options: node::writer_options(&config.store),
        clock: Arc::new(SystemClock),
        publish: Arc::new(Nobody),
        epoch: epoch.clone(),
    };
    (parts, epoch)
}

/// Becomes the one that may write: on SQLite by the lock that is held, on PostgreSQL by the node lease.
async fn take_lease(store: &Store) -> Result<Option<NodeId>, Failure> {
    if matches!(store.location(), Location::Sqlite(_)) {
        store.epoch().store(UNCHECKED, Ordering::SeqCst);
        return Ok(None);
    }
    let node_id = NodeId::new();
    match store.write(take(node_id)).await? {
        Lease::Ours { epoch } => {
            store.epoch().store(epoch, Ordering::SeqCst);
            Ok(Some(node_id))
        }
        Lease::Theirs { address, for_ms } => Err(active_elsewhere(&address, for_ms)),
    }
}

/// Takes the lease for a moment, unless another node has it; a database without our tables has none.
pub(super) async fn lease_of_another(store: &Store, node_id: NodeId) -> Option<Failure> {
    match store.write(take(node_id)).await {
        Ok(Lease::Theirs { address, for_ms }) => Some(active_elsewhere(&address, for_ms)),
        Ok(Lease::Ours { .. }) | Err(_) => None,
    }
}

fn take(node_id: NodeId) -> TakeLease {
    TakeLease { node_id, address: "a command".to_owned(), home: None, alone: false, afresh: false }
}

fn active_elsewhere(address: &str, for_ms: i64) -> Failure {
    let seconds = (for_ms / 1_000).max(0) + 1;
    Failure::new(format!(
        "another node ({address}) is active on this database: run the command where its data directory is, or stop it \
         first; if it was killed, its lease ends in {seconds} s"
    ))
}

/// Who makes a change from the command line, for the audit log.
pub(super) fn actor() -> Actor {
    Actor { user_id: None, name: "command line".to_owned(), address: None, request_id: None }
}

/// Says that there is nothing to read yet, instead of making an empty database.
pub(super) fn must_exist(config: &Config) -> Result<(), Failure> {
    match &node::opener(&config.store).location {
        Location::Sqlite(path) if !Path::exists(path) => Err(Failure::new(format!(
            "there is no database at `{}` yet: `clawbroker serve` makes it; --data-dir names another directory",
            path.display()
        ))),
        _ => Ok(()),
    }
}

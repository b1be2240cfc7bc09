//! `migrate`: brings the database to the newest schema without starting a server, which would do the same.
use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::offline::{lease_of_another, lock_alone, open_store};
use super::output::{json as print_json, say};
use super::{Common, Format};
use crate::domain::ids::NodeId;
use crate::node;
use crate::store::Location;
use crate::store::lease::DropLease;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(common: &Common, migrate: &Migrate) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    let opener = node::opener(&config.store);
    // Held until the end: a server that starts now waits for its turn or refuses.
    let _locks = lock_alone(&config, &opener.location)?;
    let mut lease = None;
    if let Location::Postgres(_) = opener.location {
        let node_id = NodeId::new();
        let store = open_store(&config, opener.clone())?;
        // In a database without our tables there is no lease, and nobody to have it.
        if let Some(refusal) = lease_of_another(&store, node_id).await {
            return Err(refusal);
        }
        lease = Some((store, node_id));
    }
    let migrated = opener.prepare();
    if let Some((store, node_id)) = lease
        && let Err(error) = store.write(DropLease { node_id }).await
    {
        log::warn!("the lease could not be given up: {error}");
    }
    migrated?;
    if migrate.format.json {
        return print_json(&json!({ "database": config.store.url.to_string() }));
    }
    say(format_args!("The database {} has the newest schema.", config.store.url));
    Ok(())
}

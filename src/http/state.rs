//! What every handler may use; made once at start, shared by all workers.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::prelude::*;

use crate::actors::agent_mailbox::OpenMailbox;
use crate::actors::browser_session::Shared;
use crate::actors::directory::Directory;
use crate::actors::hub::Hubs;
use crate::actors::messages::ToLink;
use crate::actors::supervisor::ObserveAll;
use crate::config::Config;
use crate::domain::clock::Clock;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::GatewayId;
use crate::store::Store;
use crate::store::vault::Vault;

use super::auth::{Limiter, Tickets};
use super::edge::Edge;

/// The parts of the running broker that the edge works with.
pub struct AppState {
    pub config: Arc<Config>,
    pub store: Store,
    pub directory: Arc<Directory>,
    pub hubs: Arc<Hubs>,
    pub clock: Arc<dyn Clock>,
    pub vault: Vault,
    /// What the browser sessions share of this.
    pub sessions: Arc<Shared>,
    /// Finds the link of a gateway.
    pub links: Recipient<ToLink>,
    /// Opens the mailbox of an agent.
    pub mailboxes: Recipient<OpenMailbox>,
    /// Asks every actor about itself.
    pub observe: Recipient<ObserveAll>,
    pub tickets: Tickets,
    pub limiter: Limiter,
    /// Counters and the like of the edge itself; `Edge::default()`.
    pub edge: Edge,
    /// When the process started, epoch milliseconds.
    pub started_at: i64,
}

impl AppState {
    /// Tells whether the store can be written to, and all that may have been committed was told (D12).
    pub fn is_store_sure(&self) -> bool {
        self.store.writer().stats().broken.load(Ordering::Relaxed) == 0 && !self.directory.is_in_doubt()
    }

    /// Asks the link of a gateway. `None` in time means that it is not there or does not answer.
    pub async fn ask_link<T>(
        &self,
        gateway_id: &GatewayId,
        request: impl FnOnce(crate::actors::messages::Reply<T>) -> crate::actors::messages::LinkRequest,
        wait: std::time::Duration,
    ) -> Result<T, Error> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let message = ToLink { gateway_id: gateway_id.clone(), request: request(reply) };
        let unavailable =
            || Error::new(ErrorCode::GatewayUnavailable, format!("gateway `{gateway_id}` is not connected now"));
        self.links.try_send(message).map_err(|_| unavailable())?;
        match tokio::time::timeout(wait, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(unavailable()),
        }
    }
}

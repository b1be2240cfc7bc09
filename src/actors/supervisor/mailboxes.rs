//! Opens the mailboxes of agents when they are needed.
use std::sync::Arc;

use actix::prelude::*;

use super::{Child, Supervisor};
use crate::actors::agent_mailbox::{self, Card, MailboxParts, OpenMailbox};
use crate::domain::error::{Error, ErrorCode};

impl Handler<OpenMailbox> for Supervisor {
    type Result = Result<Arc<Card>, Error>;

    fn handle(&mut self, OpenMailbox(agent): OpenMailbox, ctx: &mut Self::Context) -> Self::Result {
        let directory = &self.parts.directory;
        if self.stopping || directory.is_stopping() {
            return Err(Error::new(ErrorCode::ShuttingDown, "the server is stopping; try again in a moment"));
        }
        if !directory.is_active() {
            return Err(Error::stands_by());
        }
        if self.restarts.get(&Child::Mailbox(agent.id)).is_some_and(|restarts| restarts.parked) {
            return Err(Error::store_busy());
        }
        let parts = MailboxParts {
            store: self.parts.store.clone(),
            directory: directory.clone(),
            clock: self.parts.clock.clone(),
            config: self.parts.config.mailbox.clone(),
            parent: ctx.address().recipient(),
        };
        Ok(agent_mailbox::open(&agent, parts))
    }
}

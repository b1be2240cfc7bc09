//! The first contact with a session that the gateway knew before we did: the store says whether its owner may have it.
use super::{BUSY_RETRY_MS, Contact, Effect, Session, Wake};
use crate::domain::error::Error;
use crate::gateway::history::HistoryPage;

impl Session {
    /// The page of the first contact has come. Nothing is sent before it is known that the session may be used.
    pub(super) fn on_first_page(&mut self, page: HistoryPage, now_ms: i64) -> Vec<Effect> {
        let is_asking = self.contact == Contact::Asking;
        if is_asking && self.conversation.owner_id.is_some() && page.has_content() {
            return vec![Effect::Claim(Box::new(page))];
        }
        self.on_contact(&page, now_ms)
    }

    /// The store has decided.
    pub(in super::super) fn on_claimed(
        &mut self,
        page: &HistoryPage,
        result: Result<bool, Error>,
        now_ms: i64,
    ) -> Vec<Effect> {
        match result {
            Ok(true) => self.on_contact(page, now_ms),
            // The session is gone from here, which the store tells the link as well.
            Ok(false) => Vec::new(),
            Err(error) => {
                log::warn!(session = &*self.topic.key; "whose a session is could not be found out and is asked again: {error}");
                vec![Effect::WakeIn { ms: BUSY_RETRY_MS, wake: Wake::Contact }]
            }
        }
    }
}

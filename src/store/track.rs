//! Sessions that others use on a gateway of which all sessions are kept.
use super::conversations::{self, NewSession, SessionName};
use super::tx::{Command, Tx};
use crate::domain::conversation::Conversation;
use crate::domain::error::Error;

/// Tracks a session that somebody else uses on the gateway; it belongs to nobody here. One that was deleted here stays
/// so until a person names it again.
pub struct TrackSession {
    pub name: SessionName,
    /// The name without the gateway's default agent, under which it may have been deleted before its first contact.
    pub short_key: Option<String>,
}

impl Command for TrackSession {
    /// `None`: it was deleted here.
    type Output = Option<Conversation>;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Option<Conversation>, Error> {
        if let Some(known) = conversations::find(tx.read(), &self.name)? {
            return Ok(Some(known));
        }
        let key = self.short_key.as_ref().unwrap_or(&self.name.key).clone();
        let short = SessionName { key, ..self.name.clone() };
        for name in [&self.name, &short] {
            if conversations::deleted_at(tx.read(), name)?.is_some() {
                return Ok(None);
            }
        }
        conversations::insert(tx, &self.name, None, NewSession::default()).map(Some)
    }
}

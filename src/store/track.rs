//! Sessions that others use on a gateway of which all sessions are kept.
use super::conversations::{self, NewSession, SessionName};
use super::tx::{Command, Tx};
use crate::domain::conversation::Conversation;
use crate::domain::error::Error;

/// Tracks a session that somebody else uses on the gateway; it belongs to nobody here. One that was deleted here stays
/// so until a person names it again.
pub struct TrackSession {
    pub name: SessionName,
}

impl Command for TrackSession {
    /// `None`: it was deleted here.
    type Output = Option<Conversation>;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Option<Conversation>, Error> {
        if let Some(known) = conversations::find(tx.read()?, &self.name)? {
            return Ok(Some(known));
        }
        if conversations::deleted_at(tx.read()?, &self.name)?.is_some() {
            return Ok(None);
        }
        conversations::insert(tx, &self.name, None, NewSession::default()).map(Some)
    }
}

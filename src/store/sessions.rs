//! Sessions that a person makes by name: refused where the name is taken, and made once for each key.
use std::collections::HashSet;

use diesel::prelude::*;

use super::conversations::{self, NewSession, SessionName};
use super::dialect::Db;
use super::messages::Idem;
use super::schema::conversations as table;
use super::tx::{Command, Tx};
use crate::domain::conversation::Conversation;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{ConversationId, GatewayId};
use crate::domain::user::Caller;

/// Names that one query looks for.
const NAMES_AT_ONCE: usize = 500;

/// Returns the canonical keys of those of a gateway's sessions that are kept here.
pub fn kept(db: &mut Db, gateway_id: &GatewayId, names: &[SessionName]) -> Result<HashSet<String>, Error> {
    let mut kept = HashSet::new();
    for names in names.chunks(NAMES_AT_ONCE) {
        let forms: Vec<String> = names.iter().flat_map(SessionName::forms).collect();
        let found: Vec<Option<String>> = table::table
            .filter(table::gateway_id.eq(gateway_id.as_str()).and(table::deleted_at.is_null()))
            .filter(table::canonical_key.eq_any(forms))
            .select(table::canonical_key)
            .load(db)?;
        let found: HashSet<String> = found.into_iter().flatten().collect();
        let is_kept = |name: &&SessionName| name.forms().iter().any(|form| found.contains(form));
        kept.extend(names.iter().filter(is_kept).map(|name| name.canonical.clone()));
    }
    Ok(kept)
}

/// Makes a session; a name that is in use is refused.
pub struct CreateSession {
    pub name: SessionName,
    pub caller: Caller,
    pub new: NewSession,
    pub idem: Option<Idem>,
}

impl Command for CreateSession {
    type Output = Conversation;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Conversation, Error> {
        if let Some(repeated) = self.repeated(tx)? {
            return Ok(repeated);
        }
        if let Some(found) = conversations::find(tx.read()?, &self.name)? {
            if !self.caller.may_write(found.owner_id) {
                return Err(conversations::taken(&self.name));
            }
            return Err(Error::new(
                ErrorCode::AlreadyExists,
                format!("session `{}` exists on gateway `{}`", self.name.key, self.name.gateway_id),
            ));
        }
        let made = conversations::insert(tx, &self.name, Some(self.caller.user_id), self.new.clone())?;
        if let Some(idem) = &self.idem {
            diesel::update(table::table.find(made.id.as_bytes().as_slice()))
                .set((table::idem_key.eq(Some(&idem.key)), table::idem_hash.eq(Some(idem.hash.as_slice()))))
                .execute(tx.write()?)?;
        }
        conversations::join(tx, made.id, self.caller.party_id)?;
        Ok(made)
    }
}

impl CreateSession {
    /// Finds the session that this key made before, for as long as it lives.
    fn repeated(&self, tx: &mut Tx<'_>) -> Result<Option<Conversation>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        // By owner, which has an index: the keys have none, since hardly anybody sends one.
        let known: Option<(Vec<u8>, Option<Vec<u8>>)> = table::table
            .filter(table::owner_id.eq(self.caller.user_id.as_bytes().as_slice()))
            .filter(table::idem_key.eq(&idem.key).and(table::deleted_at.is_null()))
            .select((table::id, table::idem_hash))
            .first(tx.read()?)
            .optional()?;
        let Some(id) = idem.same(known, "session")? else { return Ok(None) };
        conversations::get(tx.read()?, ConversationId::try_from(id.as_slice())?)
    }
}

/// Changes what a person may change of a session. `None` leaves a field as it is.
pub struct PatchSession {
    pub id: ConversationId,
    pub title: Option<Option<String>>,
    pub archived: Option<bool>,
}

impl Command for PatchSession {
    type Output = Conversation;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Conversation, Error> {
        let mut found = conversations::get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("session", self.id))?;
        if let Some(title) = &self.title {
            found.title.clone_from(title);
        }
        if let Some(archived) = self.archived {
            found.archived = archived;
        }
        diesel::update(table::table.find(self.id.as_bytes().as_slice()))
            .set((table::title.eq(&found.title), table::archived.eq(found.archived)))
            .execute(tx.write()?)?;
        Ok(found)
    }
}

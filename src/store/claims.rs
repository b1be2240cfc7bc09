//! Who may use a session that its gateway knew before we did.
//!
//! SEC-2: the gateway's agent answers from all that was said in a session, so whoever may ask in it may learn it. What
//! others have begun on the gateway is an operator's; a member may have it only if it was the member's own here before.
use diesel::prelude::*;

use super::conversations::{self, SessionName};
use super::deliveries;
use super::dialect::Db;
use super::schema::{conversations as table, turns};
use super::tx::{Command, Tx};
use super::users;
use crate::domain::conversation::Conversation;
use crate::domain::delivery::Move;
use crate::domain::error::Error;
use crate::domain::event::Event;
use crate::domain::ids::{ConversationId, UserId};
use crate::domain::turn::TurnState;
use crate::domain::user::Role;

/// Why the questions of a refused session are dead: nothing was sent.
pub const FOREIGN_SESSION: &str = "foreign_session";

/// Decides on a session whose first contact has shown that the gateway has something of it already. One that its owner
/// may not have ends here before anything was sent: its questions die, its name is free again.
#[derive(Clone, Debug)]
pub struct ClaimSession {
    pub conversation_id: ConversationId,
    /// By the gateway's own name of it, where it has told one.
    pub name: SessionName,
}

impl Command for ClaimSession {
    /// Whether the owner may have it.
    type Output = bool;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let Some(found) = conversations::get(tx.read()?, self.conversation_id)? else { return Ok(false) };
        if may_have(tx.read()?, &found, &self.name)? {
            return Ok(true);
        }
        let topic = tx.topic(found.id)?;
        tx.emit(Event::SessionRefused { topic });
        for stored in deliveries::open_of_conversation(tx.read()?, found.id, i64::MAX)? {
            let action = Move::Fail { attempt: None, reason: FOREIGN_SESSION.to_owned() };
            deliveries::apply_to(tx, stored, &action, true)?;
        }
        conversations::DeleteConversation { id: found.id }.apply(tx)?;
        // It never was the member's: whoever names it next is not kept from what stands on the gateway.
        diesel::update(table::table.find(found.id.as_bytes().as_slice()))
            .set(table::owner_id.eq(None::<Vec<u8>>))
            .execute(tx.write()?)?;
        Ok(false)
    }
}

fn may_have(db: &mut Db, found: &Conversation, name: &SessionName) -> Result<bool, Error> {
    let Some(owner) = found.owner_id else { return Ok(true) };
    let is_operator = users::get(db, owner)?.is_some_and(|user| user.role >= Role::Operator);
    Ok(is_operator
        || found.upstream.contacted
        || was_asked(db, found.id)?
        || last_owner(db, found, name)? == Some(owner))
}

/// A question of ours may have reached the gateway: what it has of the session is ours, and the note of the first
/// contact was lost. A turn that ended in an error proves nothing: the gateway may have refused the session.
fn was_asked(db: &mut Db, id: ConversationId) -> Result<bool, Error> {
    let asked = turns::table
        .filter(turns::conversation_id.eq(id.as_bytes().as_slice()).and(turns::state.ne(TurnState::Error as i32)));
    Ok(diesel::select(diesel::dsl::exists(asked)).get_result(db)?)
}

/// Whose this session of the gateway is here under another name, or was until it was deleted.
fn last_owner(db: &mut Db, found: &Conversation, name: &SessionName) -> Result<Option<UserId>, Error> {
    let (gateway, forms) = (name.gateway_id.as_str().to_owned(), name.forms());
    let contacted = || {
        table::table
            .filter(table::gateway_id.eq(gateway.clone()).and(table::contacted.eq(true)))
            .select((table::deleted_at, table::owner_id))
            .into_boxed()
    };
    let living: Option<Used> = contacted()
        .filter(table::deleted_at.is_null().and(table::canonical_key.eq_any(&forms)))
        .filter(table::id.ne(found.id.as_bytes().as_slice()))
        .order(table::id)
        .first(db)
        .optional()?;
    let deleted = || contacted().filter(table::deleted_at.is_not_null()).order(table::deleted_at.desc());
    let newest: Option<Used> = deleted().filter(table::canonical_key.eq_any(&forms)).first(db).optional()?;
    let owner = living.or(newest).and_then(|(_, owner)| owner);
    owner.map(|owner| UserId::try_from(owner.as_slice())).transpose()
}

/// When a session was deleted, if it was, and whose it is.
type Used = (Option<i64>, Option<Vec<u8>>);

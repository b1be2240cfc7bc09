//! The audit log: who changed what, from what to what, without secrets.
use diesel::prelude::*;

use super::dialect::Db;
use super::schema::audit;
use super::tx::{Command, Tx};
use crate::domain::error::Error;
use crate::domain::ids::{AuditId, UserId};
use crate::domain::user::Caller;

/// Who makes a change, and where the call came from.
#[derive(Clone, Debug)]
pub struct Actor {
    pub user_id: Option<UserId>,
    pub name: String,
    pub address: Option<String>,
    pub request_id: Option<String>,
}

impl Actor {
    /// The broker itself, for example at its first start.
    pub fn system() -> Self {
        Self { user_id: None, name: "system".into(), address: None, request_id: None }
    }

    pub fn caller(caller: &Caller, address: Option<String>, request_id: Option<String>) -> Self {
        Self { user_id: Some(caller.user_id), name: caller.name.clone(), address, request_id }
    }
}

/// One row of the log.
#[derive(Clone, Debug, Queryable)]
pub struct Record {
    pub id: Vec<u8>,
    pub at: i64,
    pub actor_id: Option<Vec<u8>>,
    pub actor_name: String,
    pub action: String,
    pub target_kind: String,
    pub target: String,
    /// JSON, without secrets.
    pub before: Option<String>,
    pub after: Option<String>,
    pub address: Option<String>,
    pub request_id: Option<String>,
}

/// Writes a row about a change, in the change's own transaction (STO-2).
pub(super) fn record(
    tx: &mut Tx<'_>,
    actor: &Actor,
    action: &str,
    (target_kind, target): (&str, &str),
    before: Option<&serde_json::Value>,
    after: Option<&serde_json::Value>,
) -> Result<(), Error> {
    let at = tx.now_ms();
    diesel::insert_into(audit::table)
        .values((
            audit::id.eq(AuditId::new().as_bytes().as_slice()),
            audit::at.eq(at),
            audit::actor_id.eq(actor.user_id.as_ref().map(|id| id.as_bytes().as_slice())),
            audit::actor_name.eq(&actor.name),
            audit::action.eq(action),
            audit::target_kind.eq(target_kind),
            audit::target.eq(target),
            audit::before.eq(before.map(ToString::to_string)),
            audit::after.eq(after.map(ToString::to_string)),
            audit::address.eq(&actor.address),
            audit::request_id.eq(&actor.request_id),
        ))
        .execute(tx.write()?)?;
    Ok(())
}

/// A change with its row in the log, for changes that do not write one themselves.
pub struct Audited<C: Command> {
    pub change: C,
    pub actor: Actor,
    pub action: &'static str,
    /// Kind and id of what is changed.
    pub target: (&'static str, String),
    /// What the log shows of it, made of what the change gave.
    pub shown: fn(&C::Output) -> serde_json::Value,
}

impl<C: Command> Command for Audited<C> {
    type Output = C::Output;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<C::Output, Error> {
        let done = self.change.apply(tx)?;
        let (kind, id) = &self.target;
        record(tx, &self.actor, self.action, (kind, id), None, Some(&(self.shown)(&done)))?;
        Ok(done)
    }
}

/// Something that an operator did which changes no row of ours.
pub struct Note {
    pub actor: Actor,
    pub action: &'static str,
    pub target: (&'static str, String),
    pub shown: serde_json::Value,
}

impl Command for Note {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let (kind, id) = &self.target;
        record(tx, &self.actor, self.action, (kind, id), None, Some(&self.shown))
    }
}

/// Which rows to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub action: Option<String>,
    pub target: Option<String>,
    pub actor: Option<String>,
    /// Continue after this row: its time and id.
    pub after: Option<(i64, AuditId)>,
}

/// Lists the log.
pub fn list(db: &mut Db, filter: &Filter, limit: i64) -> Result<Vec<Record>, Error> {
    let mut query = matching(filter).order((audit::at.desc(), audit::id.desc())).limit(limit);
    if let Some((at, id)) = filter.after {
        query = query.filter(audit::at.lt(at).or(audit::at.eq(at).and(audit::id.lt(id.as_bytes().to_vec()))));
    }
    Ok(query.load(db)?)
}

/// Counts the rows that [`list`] would give on all its pages. It reads an index only, which holds all that is filtered
/// by: below 100 ms for a million rows.
pub fn count(db: &mut Db, filter: &Filter) -> Result<i64, Error> {
    Ok(matching(filter).count().get_result(db)?)
}

/// Finds the oldest rows from before a time.
pub fn oldest(db: &mut Db, before: i64, limit: i64) -> Result<Vec<Vec<u8>>, Error> {
    Ok(audit::table
        .filter(audit::at.lt(before))
        .order((audit::at.asc(), audit::id.asc()))
        .limit(limit)
        .select(audit::id)
        .load(db)?)
}

/// Removes rows for good, and returns how many there were.
pub(super) fn remove(tx: &mut Tx<'_>, ids: &[Vec<u8>]) -> Result<usize, Error> {
    Ok(diesel::delete(audit::table.filter(audit::id.eq_any(ids))).execute(tx.write()?)?)
}

/// What a filter lets through, wherever the list goes on.
fn matching(filter: &Filter) -> audit::BoxedQuery<'static, <Db as diesel::Connection>::Backend> {
    let mut query = audit::table.into_boxed();
    if let Some(action) = &filter.action {
        query = query.filter(audit::action.eq(action.clone()));
    }
    if let Some(target) = &filter.target {
        query = query.filter(audit::target.eq(target.clone()));
    }
    if let Some(actor) = &filter.actor {
        query = query.filter(audit::actor_name.eq(actor.clone()));
    }
    query
}

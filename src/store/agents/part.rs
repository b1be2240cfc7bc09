//! Agents by a part of their name.
use diesel::prelude::*;

use super::Row;
use crate::domain::agent::Agent;
use crate::domain::error::Error;
use crate::store::dialect::{Db, like_escaped};
use crate::store::schema::agents;

/// Finds at most `limit` agents that have `folded` in their folded name. No character of it stands for others. There is
/// no index for it: to be asked where nothing exact was found.
pub fn part_of_name(db: &mut Db, folded: &str, limit: i64) -> Result<Vec<Agent>, Error> {
    agents::table
        .filter(agents::name_folded.like(format!("%{}%", like_escaped(folded))).escape('\\'))
        .filter(agents::deleted_at.is_null())
        .order((agents::name_folded.asc(), agents::id.asc()))
        .limit(limit)
        .select(Row::as_select())
        .load::<Row>(db)?
        .into_iter()
        .map(Agent::try_from)
        .collect()
}

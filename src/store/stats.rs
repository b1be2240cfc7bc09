//! Counts for the admin's overview.
use diesel::prelude::*;

use super::dialect::Db;
use super::schema::{conversations, users};
use crate::domain::error::Error;

/// How much there is. Cheap: no table of lines is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    pub conversations: i64,
    /// Lines of conversations that were not deleted; `seq` is dense, so the ends tell (CNV-1).
    pub messages: i64,
    pub users: i64,
}

/// Counts what there is.
pub fn totals(db: &mut Db) -> Result<Totals, Error> {
    let live = || conversations::table.filter(conversations::deleted_at.is_null());
    let sum = diesel::dsl::sql::<diesel::sql_types::Nullable<diesel::sql_types::BigInt>>(
        "CAST(SUM(last_seq - first_seq + 1) AS BIGINT)",
    );
    Ok(Totals {
        conversations: live().count().get_result(db)?,
        messages: live().select(sum).get_result::<Option<i64>>(db)?.unwrap_or(0),
        users: users::table.filter(users::deleted_at.is_null()).count().get_result(db)?,
    })
}

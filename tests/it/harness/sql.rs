//! Hand-written SQL for tests that look behind the store's back.
use clawbroker::store::Db;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    value: String,
}

/// Runs statements that must succeed.
pub(crate) fn run(db: &mut Db, sql: &str) {
    let done = match db {
        Db::Sqlite(connection) => connection.batch_execute(sql),
        Db::Postgres(connection) => connection.batch_execute(sql),
    };
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Runs a statement whose failure does not matter.
pub(crate) fn try_run(db: &mut Db, sql: &str) {
    let _ = match db {
        Db::Sqlite(connection) => connection.batch_execute(sql),
        Db::Postgres(connection) => connection.batch_execute(sql),
    };
}

/// Reads one number; its column is called `value`.
pub(crate) fn number(db: &mut Db, sql: &str) -> i64 {
    let rows: Vec<Number> = match db {
        Db::Sqlite(connection) => diesel::sql_query(sql).load(connection),
        Db::Postgres(connection) => diesel::sql_query(sql).load(connection),
    }
    .unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.first().unwrap_or_else(|| panic!("{sql}: no row")).value
}

/// Reads texts; their column is called `value`.
pub(crate) fn texts(db: &mut Db, sql: &str) -> Vec<String> {
    let rows: Vec<Line> = match db {
        Db::Sqlite(connection) => diesel::sql_query(sql).load(connection),
        Db::Postgres(connection) => diesel::sql_query(sql).load(connection),
    }
    .unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter().map(|row| row.value).collect()
}

/// Writes an id as a literal of either database.
pub(crate) fn bytes(db: &Db, bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match db {
        Db::Sqlite(_) => format!("X'{hex}'"),
        Db::Postgres(_) => format!("'\\x{hex}'::bytea"),
    }
}

//! The two databases behind one connection type, and every place where they differ.
//!
//! Most queries run on [`Db`] as they are. What `MultiConnection` does not have (upserts, locks, `BEGIN IMMEDIATE`,
//! pragmas) is written twice, side by side, here and nowhere else.
use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DbError};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::domain::error::{Error, ErrorCode};

mod cached;
mod rows;
mod words;

pub(super) use rows::{
    insert_deliveries, insert_messages, note_read, save_ends, save_message_ends, save_moves, save_searched,
};
pub(super) use words::{Indexed, add_lines, remove_words, said};

/// A connection to either database.
#[derive(diesel::MultiConnection)]
pub enum Db {
    Postgres(diesel::PgConnection),
    Sqlite(diesel::SqliteConnection),
}

type Manager = <Db as Connection>::TransactionManager;

const SQLITE_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Marks an SQLite file as ours: `clbr` as a big-endian number (D8).
pub(super) const APPLICATION_ID: i32 = 0x636c_6272;
/// Our schema in PostgreSQL (D8).
pub(super) const SCHEMA: &str = "clawbroker";
/// Key of the transaction-level advisory lock that keeps two nodes from migrating at once.
const MIGRATION_LOCK: i64 = 0x636c_6272_6d69_6772;

/// Without these switches PostgreSQL's planner turns updates by array into scans of the table (hot-path notes, 6), and
/// what is left of scans looks so dear to it that it would compile them, for milliseconds each time. `set` is `SET` or
/// `SET LOCAL`.
fn plan_for_arrays(set: &str) -> String {
    ["jit", "enable_seqscan", "enable_hashjoin", "enable_mergejoin"]
        .map(|switch| format!("{set} {switch} = off"))
        .join("; ")
}

/// How a PostgreSQL connection finds our schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// A connection of our own: settings last as long as it does.
    Session,
    /// PgBouncer in transaction mode: settings last for one transaction, and nothing is prepared.
    Transaction,
}

/// Starts a write transaction.
///
/// SQLite starts with `BEGIN IMMEDIATE`: a transaction that reads first and writes later fails with "database is
/// locked" at once, whatever the busy timeout. PostgreSQL limits how long a node that fell asleep in it can hold its
/// locks (D5).
pub(super) fn begin_write(db: &mut Db, settings: &Settings) -> QueryResult<()> {
    match db {
        Db::Sqlite(conn) => AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE"),
        Db::Postgres(conn) => {
            let path = match settings.pooling {
                Pooling::Session => String::new(),
                Pooling::Transaction => {
                    let commit = if settings.full_durability { "on" } else { "off" };
                    let planner = plan_for_arrays("SET LOCAL");
                    format!("; SET LOCAL search_path = {SCHEMA}; SET LOCAL synchronous_commit = {commit}; {planner}")
                }
            };
            // One way to the server for all of it.
            let begin = format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = '3s'{path}");
            AnsiTransactionManager::begin_transaction_sql(conn, &begin)
        }
    }
}

/// Starts a read transaction: all its queries see the same state.
pub(super) fn begin_read(db: &mut Db, pooling: Pooling) -> QueryResult<()> {
    match db {
        Db::Sqlite(conn) => AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN"),
        Db::Postgres(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
            match pooling {
                Pooling::Session => Ok(()),
                Pooling::Transaction => conn.batch_execute(&format!("SET LOCAL search_path = {SCHEMA}")),
            }
        }
    }
}

pub(super) fn commit(db: &mut Db) -> QueryResult<()> {
    Manager::commit_transaction(db)
}

pub(super) fn rollback(db: &mut Db) -> QueryResult<()> {
    Manager::rollback_transaction(db)
}

/// Keeps a fresh connection from preparing statements that the next transaction would not find, or find as somebody
/// else's: behind a pooler each may go to another session.
pub(super) fn prepare_nothing(db: &mut Db, settings: &Settings) {
    if let (Db::Postgres(conn), Pooling::Transaction) = (db, settings.pooling) {
        conn.set_prepared_statement_cache_size(diesel::connection::CacheSize::Disabled);
    }
}

/// Prepares a fresh connection. `busy_timeout` comes first: the pragmas after it may have to wait.
pub(super) fn configure(db: &mut Db, settings: &Settings, writable: bool) -> QueryResult<()> {
    match db {
        Db::Sqlite(conn) => {
            let synchronous = if settings.full_durability { "FULL" } else { "NORMAL" };
            conn.batch_execute(&format!("PRAGMA busy_timeout = {};", settings.busy_timeout_ms))?;
            // SQLite's own knows ASCII only.
            lower_utils::register_impl(conn, |text: String| text.to_lowercase())?;
            if writable {
                conn.batch_execute("PRAGMA journal_mode = WAL;")?;
            }
            conn.batch_execute(&format!(
                "PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY; \
                 PRAGMA cache_size = {}; PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;",
                if writable { -16_384 } else { -2_048 },
            ))?;
            if writable { Ok(()) } else { conn.batch_execute("PRAGMA query_only = ON;") }
        }
        Db::Postgres(conn) => match settings.pooling {
            Pooling::Session => {
                let commit = if settings.full_durability { "on" } else { "off" };
                let kind =
                    if writable { plan_for_arrays("SET") } else { "SET default_transaction_read_only = on".to_owned() };
                conn.batch_execute(&format!(
                    "SET search_path = {SCHEMA}; SET synchronous_commit = {commit}; SET statement_timeout = '30s'; \
                     {kind}"
                ))
            }
            Pooling::Transaction => Ok(()),
        },
    }
}

/// Marks a new SQLite file as ours, before it is switched to a write-ahead log: from then on the file's own header
/// would stay empty until the first checkpoint, and nobody could tell whose it is (D8).
pub(super) fn mark_as_ours(db: &mut Db, settings: &Settings) -> QueryResult<()> {
    #[derive(diesel::QueryableByName)]
    struct Mark {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        application_id: i32,
    }
    let Db::Sqlite(conn) = db else { return Ok(()) };
    conn.batch_execute(&format!("PRAGMA busy_timeout = {};", settings.busy_timeout_ms))?;
    let mark = diesel::sql_query("PRAGMA application_id").get_result::<Mark>(conn)?;
    if mark.application_id == APPLICATION_ID {
        return Ok(());
    }
    conn.batch_execute(&format!("PRAGMA application_id = {APPLICATION_ID};"))
}

/// What a connection is set up with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub full_durability: bool,
    pub busy_timeout_ms: u32,
    pub pooling: Pooling,
}

/// Makes sure after an I/O error that everything which counts as committed is on the disk (D12).
///
/// SQLite keeps the pages of a commit whose fsync failed in its log. When the last connection is gone they count again for
/// the next one, but only the memory of the kernel has them: whatever is written behind them would be lost with the power.
/// So the log is carried over into the file, whose pages are written and synced anew, and begins afresh. Where nothing is
/// left in the log that touches no disk, and neither does a commit of nothing; so one field of the header is written again as
/// it is. An `UPDATE` to the same values would not do: SQLite leaves a page alone that would not change.
pub(super) fn verify(db: &mut Db) -> Result<(), Error> {
    #[derive(diesel::QueryableByName)]
    struct Carried {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        busy: i32,
    }
    let Db::Sqlite(conn) = db else { return Ok(()) };
    let carried = diesel::sql_query("PRAGMA wal_checkpoint(TRUNCATE)").get_result::<Carried>(conn)?;
    if carried.busy != 0 {
        return Err(Error::store_busy());
    }
    Ok(conn.batch_execute(&format!("PRAGMA application_id = {APPLICATION_ID};"))?)
}

/// Runs the migrations that are missing. Two nodes may call it at once: one waits for the other.
pub(super) fn migrate(db: &mut Db) -> Result<(), Error> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| Error::internal(format!("migration failed: {error}"));
    match db {
        Db::Sqlite(conn) => conn.run_pending_migrations(SQLITE_MIGRATIONS).map(drop).map_err(failed),
        Db::Postgres(conn) => {
            // A transaction-level lock, so that it works behind PgBouncer as well; the migrations run inside it. The
            // schema too: two that make it at once fail, for all that `IF NOT EXISTS` says.
            conn.transaction::<_, Error, _>(|conn| {
                conn.batch_execute(&format!(
                    "SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); CREATE SCHEMA IF NOT EXISTS {SCHEMA}; \
                     SET LOCAL search_path = {SCHEMA}"
                ))?;
                conn.run_pending_migrations(POSTGRES_MIGRATIONS).map(drop).map_err(failed)
            })
        }
    }
}

/// Undoes all migrations; for tests of the way down.
pub fn revert_all(db: &mut Db) -> Result<(), Error> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| Error::internal(format!("migration failed: {error}"));
    match db {
        Db::Sqlite(conn) => conn.revert_all_migrations(SQLITE_MIGRATIONS).map(drop).map_err(failed),
        Db::Postgres(conn) => {
            conn.batch_execute(&format!("SET search_path = {SCHEMA}"))?;
            conn.revert_all_migrations(POSTGRES_MIGRATIONS).map(drop).map_err(failed)
        }
    }
}

/// Runs the missing migrations; public for tests of the way up.
pub fn migrate_all(db: &mut Db) -> Result<(), Error> {
    migrate(db)
}

/// Runs `work` between savepoints, so that its failure leaves the transaction as it was.
pub(super) fn savepoint<T>(db: &mut Db, work: impl FnOnce(&mut Db) -> Result<T, Error>) -> Result<T, Error> {
    db.transaction(work)
}

/// Sorts a database error: what the caller can do about it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The statement was refused; the connection is fine.
    Statement,
    /// What is stored cannot be read (STO-3): the connection is fine, and so is what does not touch it.
    Damaged,
    /// No space on the device: roll back, go on when there is room (D12).
    NoSpace,
    /// Somebody else holds the lock: nothing has happened.
    Locked,
    /// Input or output failed, or the connection broke: whatever was under way has an unknown outcome (D12).
    Broken,
}

/// Tells what kind of fault a database error is, by its kind and by the words of either database.
pub(super) fn fault(error: &DbError) -> Fault {
    let DbError::DatabaseError(kind, info) = error else {
        return match error {
            DbError::BrokenTransactionManager => Fault::Broken,
            _ => Fault::Statement,
        };
    };
    let text = info.message();
    if text.contains("database or disk is full") || text.contains("No space left on device") {
        return Fault::NoSpace;
    }
    if text.contains("database disk image is malformed") || text.contains("file is not a database") {
        return Fault::Damaged;
    }
    if text.contains("database is locked") {
        return Fault::Locked;
    }
    let broken = matches!(kind, DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand)
        || [
            "disk I/O error",
            "server closed the connection",
            "terminating connection",
            "no connection to the server",
            "connection to server",
            "could not receive data",
            "SSL connection has been closed",
            "the database system is",
            "idle-in-transaction timeout",
            "could not fsync",
            "read-only transaction",
        ]
        .iter()
        .any(|words| text.contains(words));
    if broken { Fault::Broken } else { Fault::Statement }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        match fault(&error) {
            Fault::Damaged => Self::corrupt(format!(
                "{error}; `clawbroker doctor` tells what is damaged, `clawbroker restore FILE` brings a backup back"
            )),
            Fault::NoSpace => Self::new(ErrorCode::StorageFull, "no space is left for the database; try again later"),
            Fault::Locked | Fault::Broken => {
                log::warn!("database connection failed: {error}");
                Self::new(ErrorCode::StoreBusy, "the database is not reachable now, try again in a second")
            }
            Fault::Statement => Self::internal(error),
        }
    }
}

impl From<r2d2::Error> for Error {
    fn from(error: r2d2::Error) -> Self {
        log::warn!("no database connection: {error}");
        Self::new(ErrorCode::StoreBusy, "no database connection is free now, try again in a second")
    }
}

/// Reads one number from hand-written SQL that both databases understand.
#[derive(diesel::QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    value: i64,
}

/// Returns the database's own time in epoch milliseconds: the one clock that all nodes share.
pub(super) fn database_now_ms(db: &mut Db) -> QueryResult<i64> {
    let sql = match db {
        Db::Sqlite(_) => "SELECT CAST(unixepoch('subsec') * 1000 AS BIGINT) AS value",
        Db::Postgres(_) => "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS value",
    };
    let rows = match db {
        Db::Sqlite(conn) => diesel::sql_query(sql).load::<Number>(conn)?,
        Db::Postgres(conn) => diesel::sql_query(sql).load::<Number>(conn)?,
    };
    rows.first().map(|row| row.value).ok_or(DbError::NotFound)
}

/// Locks the lease row against writers until the transaction ends and returns its epoch. SQLite needs no lock: it has
/// one writer, and the file lock keeps other nodes out.
pub(super) fn epoch_for_share(db: &mut Db) -> QueryResult<Option<i64>> {
    use super::schema::node_lease;
    match db {
        Db::Sqlite(conn) => node_lease::table.find(1).select(node_lease::epoch).first(conn).optional(),
        Db::Postgres(conn) => node_lease::table.find(1).select(node_lease::epoch).for_share().first(conn).optional(),
    }
}

/// The lease as stored: its holder, epoch, end, address and the holder's home.
pub(super) type LeaseRow = (Vec<u8>, i64, i64, String, Option<Vec<u8>>);

/// Locks the lease row for a change.
pub(super) fn lock_lease(db: &mut Db) -> QueryResult<Option<LeaseRow>> {
    use super::schema::node_lease::dsl::{address, epoch, home, node_id, node_lease, until};
    let columns = (node_id, epoch, until, address, home);
    match db {
        Db::Sqlite(conn) => node_lease.find(1).select(columns).first(conn).optional(),
        Db::Postgres(conn) => node_lease.find(1).select(columns).for_update().first(conn).optional(),
    }
}

#[diesel::declare_sql_function]
extern "SQL" {
    /// Lower case of all letters.
    fn lower(text: diesel::sql_types::Text) -> diesel::sql_types::Text;
    /// The first of two that is not null.
    fn coalesce(
        text: diesel::sql_types::Nullable<diesel::sql_types::Text>,
        otherwise: diesel::sql_types::Text,
    ) -> diesel::sql_types::Text;
    /// Bytes of a text; neither database reads the text for it.
    fn octet_length(
        text: diesel::sql_types::Nullable<diesel::sql_types::Text>,
    ) -> diesel::sql_types::Nullable<diesel::sql_types::Integer>;
    /// Characters of a text, from the `from`-th on, counted from 1.
    fn substr(
        text: diesel::sql_types::Text,
        from: diesel::sql_types::Integer,
        count: diesel::sql_types::Integer,
    ) -> diesel::sql_types::Text;
}

/// Escapes what `LIKE` would take for a wildcard; used with `ESCAPE '\'`.
pub(super) fn like_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 2);
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Copies the database to `target` while it runs. `None` where the database has tools of its own for it.
pub(super) fn copy_to(db: &mut Db, target: &std::path::Path) -> QueryResult<Option<()>> {
    match db {
        Db::Sqlite(conn) => {
            let name = target.to_string_lossy().into_owned();
            diesel::sql_query("VACUUM INTO ?").bind::<diesel::sql_types::Text, _>(name).execute(conn).map(|_| Some(()))
        }
        Db::Postgres(_) => Ok(None),
    }
}

/// Asks the database to check itself; returns what it complains of.
pub(super) fn integrity_check(db: &mut Db) -> QueryResult<Vec<String>> {
    #[derive(diesel::QueryableByName)]
    struct Finding {
        #[diesel(sql_type = diesel::sql_types::Text)]
        integrity_check: String,
    }
    match db {
        Db::Sqlite(conn) => Ok(diesel::sql_query("PRAGMA integrity_check(20)")
            .load::<Finding>(conn)?
            .into_iter()
            .map(|row| row.integrity_check)
            .filter(|text| text != "ok")
            .collect()),
        // PostgreSQL checks pages as it reads them; a full check is its administrator's pg_amcheck.
        Db::Postgres(_) => Ok(Vec::new()),
    }
}

/// Returns the plan of a query as text, for the tests that forbid scans.
pub fn explain(db: &mut Db, sql: &str) -> QueryResult<String> {
    #[derive(diesel::QueryableByName)]
    struct SqlitePlan {
        #[diesel(sql_type = diesel::sql_types::Text)]
        detail: String,
    }
    #[derive(diesel::QueryableByName)]
    struct PostgresPlan {
        #[diesel(sql_type = diesel::sql_types::Text, column_name = "QUERY PLAN")]
        plan: String,
    }
    let lines: Vec<String> = match db {
        Db::Sqlite(conn) => diesel::sql_query(format!("EXPLAIN QUERY PLAN {sql}"))
            .load::<SqlitePlan>(conn)?
            .into_iter()
            .map(|row| row.detail)
            .collect(),
        Db::Postgres(conn) => diesel::sql_query(format!("EXPLAIN {sql}"))
            .load::<PostgresPlan>(conn)?
            .into_iter()
            .map(|row| row.plan)
            .collect(),
    };
    Ok(lines.join("\n"))
}

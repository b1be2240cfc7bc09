//! Statements that a database keeps prepared. diesel keeps queries and plain inserts; its `UPDATE`s it prepares anew each
//! time, because the same type may make other text of other values. A statement of this kind has one text.

/// Declares a statement for a database, or for either (`Db`): its values, and its text with `[value: SqlType]` where a
/// value goes. One for `Db` is run by `execute_on`, on the connection that `Db` stands for: `MultiConnection` would write
/// it down anew each time.
macro_rules! cached {
    ($(#[$meta:meta])* for Db, struct $name:ident<'a> { $($fields:tt)* } $($text:tt)*) => {
        cached!(@values [$(#[$meta])*] $name { $($fields)* });
        cached!(@text diesel::PgConnection, diesel::pg::Pg, $name, $($text)*);
        cached!(@text diesel::SqliteConnection, diesel::sqlite::Sqlite, $name, $($text)*);

        impl $name<'_> {
            fn execute_on(self, db: &mut crate::store::dialect::Db) -> diesel::QueryResult<usize> {
                match db {
                    crate::store::dialect::Db::Postgres(conn) => diesel::RunQueryDsl::execute(self, conn),
                    crate::store::dialect::Db::Sqlite(conn) => diesel::RunQueryDsl::execute(self, conn),
                }
            }
        }
    };
    ($(#[$meta:meta])* for Postgres, struct $name:ident<'a> { $($fields:tt)* } $($text:tt)*) => {
        cached!(@values [$(#[$meta])*] $name { $($fields)* });
        cached!(@text diesel::PgConnection, diesel::pg::Pg, $name, $($text)*);
    };
    ($(#[$meta:meta])* for Sqlite, struct $name:ident<'a> { $($fields:tt)* } $($text:tt)*) => {
        cached!(@values [$(#[$meta])*] $name { $($fields)* });
        cached!(@text diesel::SqliteConnection, diesel::sqlite::Sqlite, $name, $($text)*);
    };
    (@values [$(#[$meta:meta])*] $name:ident { $($field:ident: $rust:ty,)* }) => {
        $(#[$meta])*
        struct $name<'a> { $($field: $rust,)* }

        impl diesel::query_builder::QueryId for $name<'_> {
            type QueryId = $name<'static>;
            const HAS_STATIC_QUERY_ID: bool = true;
        }
    };
    (@text $connection:ty, $backend:ty, $name:ident, $($text:literal $([$bind:ident: $sql:ty])?)*) => {
        impl diesel::RunQueryDsl<$connection> for $name<'_> {}

        impl diesel::query_builder::QueryFragment<$backend> for $name<'_> {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, $backend>,
            ) -> diesel::QueryResult<()> {
                $(
                    out.push_sql($text);
                    $(out.push_bind_param::<$sql, _>(&self.$bind)?;)?
                )*
                Ok(())
            }
        }
    };
}

pub(super) use cached;

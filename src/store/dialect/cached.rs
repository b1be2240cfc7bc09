//! Statements that a database keeps prepared. diesel keeps queries and plain inserts; its `UPDATE`s it prepares anew each
//! time, because the same type may make other text of other values. A statement of this kind has one text.

/// Declares a statement for a connection: its values, and its text with `[value: SqlType]` where a value goes.
macro_rules! cached {
    (
        $(#[$meta:meta])*
        for $connection:ty,
        struct $name:ident<'a> { $($field:ident: $rust:ty,)* }
        $($text:literal $([$bind:ident: $sql:ty])?)*
    ) => {
        $(#[$meta])*
        struct $name<'a> { $($field: $rust,)* }

        impl diesel::query_builder::QueryId for $name<'_> {
            type QueryId = $name<'static>;
            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl diesel::RunQueryDsl<$connection> for $name<'_> {}

        impl diesel::query_builder::QueryFragment<<$connection as diesel::Connection>::Backend> for $name<'_> {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, <$connection as diesel::Connection>::Backend>,
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

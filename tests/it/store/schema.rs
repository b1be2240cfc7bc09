//! The two schemas are twins, and `src/store/schema.rs` says what they are. Whoever changes one changes all three.
use std::collections::{BTreeMap, BTreeSet};

use clawbroker::store::Db;

use crate::harness::{Database, Kind, sql};

/// What both databases must agree on, in words that both can say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Schema {
    /// Columns of each table: name, type, and whether they may be null.
    pub(super) tables: BTreeMap<String, BTreeSet<String>>,
    /// Primary keys, in the order of their columns.
    keys: BTreeSet<String>,
    indexes: BTreeSet<String>,
    references: BTreeSet<String>,
}

// The index of words is another thing in each; the tests of the search hold them together.
const SQLITE_TABLES: &str = "FROM sqlite_master m WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' \
     AND m.name <> '__diesel_schema_migrations' AND m.name NOT LIKE 'search_words%'";
const POSTGRES_NAMESPACE: &str = "connamespace = 'clawbroker'::regnamespace \
     AND conrelid::regclass::text NOT LIKE '%__diesel_schema_migrations' AND conrelid::regclass::text NOT LIKE '%search_words'";

impl Schema {
    pub(super) fn read(db: &mut Db) -> Self {
        let (columns, keys, indexes, references) = match db {
            Db::Sqlite(_) => (
                format!(
                    "SELECT m.name || '|' || c.name || '|' || lower(c.type) || '|' || (c.\"notnull\" = 0) AS value \
                     {SQLITE_TABLES}",
                )
                .replace("FROM sqlite_master m", "FROM sqlite_master m JOIN pragma_table_info(m.name) c"),
                format!(
                    "SELECT k.t || '(' || group_concat(k.c, ', ') || ')' AS value FROM (SELECT m.name AS t, c.name AS c \
                     FROM sqlite_master m JOIN pragma_table_info(m.name) c {} AND c.pk > 0 ORDER BY m.name, c.pk) k GROUP BY k.t",
                    SQLITE_TABLES.trim_start_matches("FROM sqlite_master m"),
                ),
                "SELECT sql AS value FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL".to_owned(),
                format!(
                    "SELECT m.name || '(' || f.\"from\" || ') ' || f.\"table\" || '(' || f.\"to\" || ')' AS value \
                     {SQLITE_TABLES}",
                )
                .replace("FROM sqlite_master m", "FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f"),
            ),
            Db::Postgres(_) => (
                "SELECT table_name || '|' || column_name || '|' || data_type || '|' \
                 || (CASE is_nullable WHEN 'YES' THEN 1 ELSE 0 END) AS value FROM information_schema.columns \
                 WHERE table_schema = 'clawbroker' AND table_name NOT IN ('__diesel_schema_migrations', 'search_words')"
                    .to_owned(),
                format!(
                    "SELECT conrelid::regclass::text || replace(pg_get_constraintdef(oid), 'PRIMARY KEY ', '') AS value \
                     FROM pg_constraint WHERE contype = 'p' AND {POSTGRES_NAMESPACE}",
                ),
                "SELECT indexdef AS value FROM pg_indexes WHERE schemaname = 'clawbroker' AND indexname NOT LIKE '%_pkey' \
                 AND tablename <> 'search_words'"
                    .to_owned(),
                format!(
                    "SELECT conrelid::regclass::text || replace(replace(pg_get_constraintdef(oid), 'FOREIGN KEY ', ''), \
                     ' REFERENCES', '') AS value FROM pg_constraint WHERE contype = 'f' AND {POSTGRES_NAMESPACE}",
                ),
            ),
        };
        let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in sql::texts(db, &columns) {
            let [table, column, kind, nullable] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
            let kind = match kind {
                "blob" | "bytea" => "Binary",
                "text" => "Text",
                "integer" => "Integer",
                "bigint" => "BigInt",
                "boolean" => "Bool",
                other => panic!("{table}.{column} has the type `{other}`, which the twins have no common word for"),
            };
            let kind = if nullable == "1" { format!("Nullable<{kind}>") } else { kind.to_owned() };
            tables.entry(table.to_owned()).or_default().insert(format!("{column}: {kind}"));
        }
        let plain = |sql: Vec<String>| sql.iter().map(|text| in_plain_words(text)).collect();
        Self {
            tables,
            keys: plain(sql::texts(db, &keys)),
            indexes: plain(sql::texts(db, &indexes)),
            references: plain(sql::texts(db, &references)),
        }
    }
}

/// Takes out what only one of the two says.
fn in_plain_words(sql: &str) -> String {
    let sql = sql.replace("clawbroker.", "").replace(" USING btree", "");
    let (head, condition) = sql.split_once(" WHERE ").unwrap_or((&sql, ""));
    let head = head.replace(" (", "(");
    format!("{head} {}", condition.replace(['(', ')'], "")).trim().to_owned()
}

fn of(kind: Kind) -> Schema {
    Schema::read(&mut Database::migrated(kind).connect())
}

#[test]
fn both_databases_have_the_same_schema() {
    let (sqlite, postgres) = (of(Kind::Sqlite), of(Kind::Postgres));
    assert_eq!(sqlite.tables, postgres.tables);
    assert_eq!(sqlite.keys, postgres.keys);
    assert_eq!(sqlite.indexes, postgres.indexes);
    assert_eq!(sqlite.references, postgres.references);
    assert_eq!(sqlite.keys.len(), sqlite.tables.len(), "every table has a primary key");
    assert!(sqlite.indexes.len() > 20 && sqlite.references.len() > 10, "they were read at all");
}

#[test]
fn diesel_knows_the_schema_as_it_is() {
    let source = include_str!("../../../src/store/schema.rs");
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for block in source.split("diesel::table! {").skip(1) {
        let mut lines = block.lines().map(str::trim).filter(|line| !line.is_empty());
        let head = lines.next().unwrap().trim_end_matches(" {");
        let (table, _) = head.split_once(" (").unwrap();
        keys.insert(head.replace(" (", "("));
        let columns = lines
            .take_while(|line| *line != "}")
            .map(|line| line.trim_end_matches(',').replace(" -> ", ": ").replace("r#", ""))
            .collect();
        tables.insert(table.to_owned(), columns);
    }
    let real = of(Kind::Sqlite);
    assert_eq!(tables, real.tables);
    assert_eq!(keys, real.keys);
}

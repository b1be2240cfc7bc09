//! The index of words: FTS5 in SQLite, text search vectors in PostgreSQL. Both get the words that `domain::search` cuts;
//! neither cuts any itself.
use std::collections::HashMap;
use std::fmt::Write as _;

use diesel::expression::{SqlLiteral, UncheckedBind};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Text};

use super::Db;
use crate::domain::search::{Phrase, Search};

/// Indexes the words of line `n`, which is one of this conversation.
pub(in crate::store) fn add_words(db: &mut Db, n: i64, conversation: &[u8], words: &[String]) -> QueryResult<()> {
    match db {
        Db::Sqlite(conn) => diesel::sql_query("INSERT INTO search_words (rowid, words) VALUES (?, ?)")
            .bind::<BigInt, _>(n)
            .bind::<Text, _>(words.join(" "))
            .execute(conn),
        Db::Postgres(conn) => {
            diesel::sql_query("INSERT INTO search_words (n, conversation_id, words) VALUES ($1, $2, $3::tsvector)")
                .bind::<BigInt, _>(n)
                .bind::<Binary, _>(conversation)
                .bind::<Text, _>(vector(words))
                .execute(conn)
        }
    }
    .map(drop)
}

/// Takes lines out of the index.
pub(in crate::store) fn remove_words(db: &mut Db, ns: &[i64]) -> QueryResult<()> {
    match db {
        Db::Sqlite(conn) => {
            for n in ns {
                diesel::sql_query("DELETE FROM search_words WHERE rowid = ?").bind::<BigInt, _>(n).execute(conn)?;
            }
        }
        Db::Postgres(conn) => {
            diesel::sql_query("DELETE FROM search_words WHERE n = ANY ($1)")
                .bind::<Array<BigInt>, _>(ns)
                .execute(conn)?;
        }
    }
    Ok(())
}

/// A condition on conversations: one of their indexed lines has what is searched for.
pub(in crate::store) type Said = SqlLiteral<Bool, UncheckedBind<SqlLiteral<Bool>, diesel::dsl::AsExprOf<String, Text>>>;

/// Makes the condition; `None` for a search without words.
pub(in crate::store) fn said(db: &Db, search: &Search) -> Option<Said> {
    if search.phrases().is_empty() {
        return None;
    }
    let (before, query, after) = match db {
        Db::Sqlite(_) => (
            "conversations.id IN (SELECT l.conversation_id FROM search_lines l WHERE l.n IN \
             (SELECT rowid FROM search_words WHERE search_words MATCH ",
            joined(search, " AND ", fts5),
            "))",
        ),
        Db::Postgres(_) => (
            "conversations.id IN (SELECT w.conversation_id FROM search_words w WHERE w.words @@ ",
            joined(search, " & ", tsquery),
            "::tsquery)",
        ),
    };
    Some(diesel::dsl::sql::<Bool>(before).bind::<Text, _>(query).sql(after))
}

/// Words hold letters, digits and marks only, so nothing in them needs escaping.
fn joined(search: &Search, and: &str, one: impl Fn(&Phrase) -> String) -> String {
    search.phrases().iter().map(one).collect::<Vec<_>>().join(and)
}

fn fts5(phrase: &Phrase) -> String {
    format!("\"{}\" *", phrase.join(" "))
}

fn tsquery(phrase: &Phrase) -> String {
    let words: Vec<String> = phrase.iter().map(|word| format!("'{word}'")).collect();
    format!("({}:*)", words.join(" <-> "))
}

/// Writes words as PostgreSQL reads a vector: each once, with its places. It keeps the first 255 places of a word.
fn vector(words: &[String]) -> String {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, word) in words.iter().enumerate() {
        places.entry(word).or_default().push(index + 1);
    }
    let mut text = String::new();
    for (word, places) in places {
        let places: Vec<String> = places.iter().take(255).map(ToString::to_string).collect();
        // Writing to a string does not fail.
        let _ = write!(text, "'{word}':{} ", places.join(","));
    }
    text
}

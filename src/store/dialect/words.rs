//! The index of words: FTS5 in SQLite, text search vectors in PostgreSQL. Both get the words that `domain::search` cuts;
//! neither cuts any itself.
use std::collections::HashMap;
use std::fmt::Write as _;

use diesel::expression::{SqlLiteral, UncheckedBind};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Text};

use super::Db;
use super::cached::cached;
use crate::domain::search::{Phrase, Search};

/// A line as the index gets it.
pub(in crate::store) struct Indexed {
    pub(in crate::store) n: i64,
    pub(in crate::store) conversation: Vec<u8>,
    pub(in crate::store) seq: i64,
    pub(in crate::store) words: Vec<String>,
}

/// Indexes lines. PostgreSQL gets them in two statements, each of which is a way to the server.
pub(in crate::store) fn add_lines(db: &mut Db, lines: &[Indexed]) -> QueryResult<()> {
    match db {
        Db::Sqlite(conn) => {
            for line in lines {
                AddLine { n: line.n, conversation: &line.conversation, seq: line.seq }.execute(conn)?;
                AddWords { n: line.n, words: &line.words.join(" ") }.execute(conn)?;
            }
        }
        Db::Postgres(conn) => {
            let ns: Vec<i64> = lines.iter().map(|line| line.n).collect();
            let conversations: Vec<&[u8]> = lines.iter().map(|line| line.conversation.as_slice()).collect();
            let seqs: Vec<i64> = lines.iter().map(|line| line.seq).collect();
            let vectors: Vec<String> = lines.iter().map(|line| vector(&line.words)).collect();
            diesel::sql_query(
                "INSERT INTO search_lines (n, conversation_id, seq) \
                 SELECT * FROM unnest($1, $2, $3) AS line (n, conversation_id, seq)",
            )
            .bind::<Array<BigInt>, _>(&ns)
            .bind::<Array<Binary>, _>(&conversations)
            .bind::<Array<BigInt>, _>(seqs)
            .execute(conn)?;
            diesel::sql_query(
                "INSERT INTO search_words (n, conversation_id, words) \
                 SELECT n, conversation_id, words::tsvector FROM unnest($1, $2, $3) AS line (n, conversation_id, words)",
            )
            .bind::<Array<BigInt>, _>(&ns)
            .bind::<Array<Binary>, _>(&conversations)
            .bind::<Array<Text>, _>(vectors)
            .execute(conn)?;
        }
    }
    Ok(())
}

cached! {
    for Sqlite,
    struct AddLine<'a> {
        n: i64,
        conversation: &'a [u8],
        seq: i64,
    }
    "INSERT INTO search_lines (n, conversation_id, seq) VALUES (" [n: BigInt]
    ", " [conversation: Binary]
    ", " [seq: BigInt]
    ")"
}

cached! {
    for Sqlite,
    struct AddWords<'a> {
        n: i64,
        words: &'a str,
    }
    "INSERT INTO search_words (rowid, words) VALUES (" [n: BigInt]
    ", " [words: Text]
    ")"
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

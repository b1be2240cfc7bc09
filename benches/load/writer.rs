//! Rows that reach the disk with full durability, through the store's own queue: one writer at a time, 64 at once, and
//! beside them what one row after the other costs without anything of ours.
use std::path::Path;
use std::time::Duration;

use clawbroker::domain::ids::ConversationId;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::Caller;
use clawbroker::store::Location;
use clawbroker::store::chat::AcceptChat;
use tokio::time::Instant;

use super::database::{self, Opened, line, question};
use super::figures::{say, syncs_per_s};

const WRITERS: usize = 64;
const FOR: Duration = Duration::from_secs(5);

pub(crate) async fn run() {
    let dir = super::data_dir();
    say(&format!(
        "  the disk: {:.0} appends of 4 KiB with fdatasync a second, one after the other",
        syncs_per_s(dir.path())
    ));
    measure("SQLite", Location::Sqlite(dir.path().join("load.db")), dir.path()).await;
    if let Some(url) = database::postgres() {
        measure("PostgreSQL", Location::Postgres(Secret::new(url)), dir.path()).await;
    }
}

async fn measure(what: &str, location: Location, dir: &Path) {
    let scratch = match &location {
        Location::Sqlite(path) => Location::Sqlite(path.with_extension("bare")),
        Location::Postgres(url) => Location::Postgres(url.clone()),
    };
    let bare = bare(scratch);
    say(&format!("  {what}, bare: {bare:.0} single-row commits/s"));
    let opened = database::open(location, dir).await;
    let alone = rate(&opened, &[opened.session], 1, line).await;
    let together = rate(&opened, &[opened.session], WRITERS, line).await;
    say(&format!(
        "  {what}: 1 writer {:.0} messages/s; {WRITERS} writers {:.0} messages/s, {:.1} times as many",
        alone.messages,
        together.messages,
        together.messages / alone.messages,
    ));
    let sessions = opened.sessions(WRITERS).await;
    let apart = rate(&opened, &sessions, WRITERS, line).await;
    let asked = rate(&opened, &sessions, WRITERS, question).await;
    for (how, rate) in [
        ("lines in one session", together),
        ("lines, each in a session of its own", apart),
        ("questions, each in a session of its own", asked),
    ] {
        say(&format!(
            "  {what}, {WRITERS} writers, {how}: {:.0} messages/s, {:.0} rows/s, {:.1} times the bare commits",
            rate.messages,
            rate.rows,
            rate.rows / bare,
        ));
    }
}

/// Commits a second when each is one row in a transaction of its own, on a connection like the store's writer's.
fn bare(location: Location) -> f64 {
    database::empty(&location);
    let mut db = database::opener(location).writable().expect("a database");
    database::run(&mut db, "CREATE TABLE bare (n INTEGER NOT NULL PRIMARY KEY, text TEXT NOT NULL)");
    let (mut count, began) = (0_u32, Instant::now());
    while began.elapsed() < FOR {
        let row = format!("INSERT INTO bare (n, text) VALUES ({count}, '{}')", text(count, 0));
        database::run(&mut db, &row);
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn text(count: u32, writer: usize) -> String {
    format!("message {count} of writer {writer}, as long as messages usually are")
}

/// What reached the disk in a second.
struct Rate {
    messages: f64,
    /// Rows of `messages` and of `deliveries`; what is changed beside them is not counted.
    rows: f64,
}

/// Measures so many writers who each wait for one message to be on disk before they bring the next; they share the
/// sessions evenly.
async fn rate(
    opened: &Opened,
    sessions: &[ConversationId],
    writers: usize,
    make: fn(&Caller, ConversationId, String) -> AcceptChat,
) -> Rate {
    let began = Instant::now();
    let each = (0..writers).map(async |writer| {
        let session = sessions[writer % sessions.len()];
        let (mut messages, mut rows) = (0_u32, 0_u32);
        while began.elapsed() < FOR {
            let message = make(&opened.caller, session, text(messages, writer));
            let accepted = opened.store.write(message).await.expect("a disk that works");
            messages += 1;
            rows += 1 + u32::from(accepted.delivery.is_some());
        }
        (messages, rows)
    });
    let counts = futures_util::future::join_all(each).await;
    let seconds = began.elapsed().as_secs_f64();
    let messages: u32 = counts.iter().map(|(messages, _)| messages).sum();
    let rows: u32 = counts.iter().map(|(_, rows)| rows).sum();
    Rate { messages: f64::from(messages) / seconds, rows: f64::from(rows) / seconds }
}

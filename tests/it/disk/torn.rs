//! Damaged files: the log cut short, single bits turned over in the log and in the main file.
//!
//! `CLAWBROKER_TEST_CUTS` says how many of the last 4,096 bytes of the log are tried as its end, `CLAWBROKER_TEST_FLIPS` how
//! many bits are turned over in each file.
use std::path::Path;
use std::sync::Arc;

use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::ids::ConversationId;
use clawbroker::domain::user::Caller;
use clawbroker::store::messages::{self, Span};
use clawbroker::store::{gateways, users};

use crate::crash::{number_from, seeded};
use crate::harness::test_store::roomy;
use crate::harness::{Database, Kind, Seeded, TestStore, question, run_on, sql};

/// Lines in the log, each a commit of its own.
const LINES: usize = 20;
/// Bytes at the end of the log that the next file may end in.
const TAIL: usize = 4_096;

/// The files of a store in which some commits are in the log only.
struct Files {
    main: Vec<u8>,
    log: Vec<u8>,
    /// Where the log ended after each line.
    ends: Vec<usize>,
    caller: Caller,
    conversation: ConversationId,
}

fn log_of(file: &Path) -> std::path::PathBuf {
    file.with_extension("db-wal")
}

fn text(n: usize) -> String {
    format!("line {n} {}", "and so on ".repeat(30))
}

impl Files {
    async fn make(database: Database) -> Self {
        let database = Arc::new(database);
        let file = database.file();
        let store = TestStore::with(database.clone(), roomy());
        let (caller, conversation) = store.chat().await;
        let mut ends = Vec::new();
        for n in 0..LINES {
            store.ask(&caller, conversation.id, &text(n)).await;
            ends.push(std::fs::metadata(log_of(&file)).unwrap().len() as usize);
        }
        let read = |path: &Path| std::fs::read(path).unwrap();
        let (main, log) = (read(&file), read(&log_of(&file)));
        assert_eq!(ends.last(), Some(&log.len()), "all of it is in the log");
        Self { main, log, ends, caller, conversation: conversation.id }
    }

    /// The same with everything in the main file.
    fn carried_over(mut self) -> Self {
        let database = self.put(&self.main, &self.log);
        sql::run(&mut database.connect(), "PRAGMA wal_checkpoint(TRUNCATE)");
        self.main = std::fs::read(database.file()).unwrap();
        self.log.clear();
        self
    }

    /// Returns the main file when the page that the first text stands in has lost its order, and the place of that; the
    /// texts are as they were.
    fn out_of_order(&self) -> (Vec<u8>, usize) {
        const PAGE: usize = 4_096;
        let first = text(0);
        let at = self.main.windows(first.len()).position(|bytes| bytes == first.as_bytes()).expect("it is there");
        // The high byte of the count of what is on the page.
        let at = at / PAGE * PAGE + 3;
        let mut main = self.main.clone();
        main[at] ^= 1;
        (main, at)
    }

    fn put(&self, main: &[u8], log: &[u8]) -> Database {
        let database = Database::empty(Kind::Sqlite);
        std::fs::write(database.file(), main).unwrap();
        std::fs::write(log_of(&database.file()), log).unwrap();
        database
    }

    /// Opens the store with this log: what is there is what was committed before the log was damaged at `intact`.
    fn check_log(&self, log: &[u8], intact: usize, what: &str) {
        let database = self.put(&self.main, log);
        let mut db = database.connect();
        let expected: Vec<String> = (0..self.ends.iter().filter(|end| **end <= intact).count()).map(text).collect();
        let found = sql::texts(&mut db, "SELECT text AS value FROM messages ORDER BY seq");
        assert_eq!(found, expected, "{what}");
        let sound = sql::texts(&mut db, "SELECT integrity_check AS value FROM pragma_integrity_check");
        assert_eq!(sound, ["ok"], "{what}");
    }
}

/// Turns one bit over, somewhere.
fn turned(bytes: &[u8], random: &mut Seeded) -> (Vec<u8>, usize) {
    turned_in(bytes, &(0..bytes.len()).collect::<Vec<_>>(), random)
}

/// Turns one bit over in one of these places.
fn turned_in(bytes: &[u8], places: &[usize], random: &mut Seeded) -> (Vec<u8>, usize) {
    let (at, bit) = (places[random.below(places.len() as u64) as usize], random.below(8));
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << bit;
    (bytes, at)
}

#[test]
fn a_log_that_ends_early_is_a_prefix_of_the_commits() {
    run_on(Kind::Sqlite, async |database: Database| {
        let files = Files::make(database).await;
        let tried = number_from("CLAWBROKER_TEST_CUTS", 64).clamp(1, TAIL as u64) as usize;
        for missing in (1..=TAIL).step_by(TAIL / tried) {
            let length = files.log.len() - missing;
            files.check_log(&files.log[..length], length, &format!("{missing} bytes are missing"));
        }
    });
}

#[test]
fn a_bit_turned_over_in_the_log_leaves_a_prefix_of_the_commits() {
    run_on(Kind::Sqlite, async |database: Database| {
        let files = Files::make(database).await;
        let mut random = seeded(0xB17);
        for _ in 0..number_from("CLAWBROKER_TEST_FLIPS", 60) {
            let (log, at) = turned(&files.log, &mut random);
            files.check_log(&log, at, &format!("a bit at {at}"));
        }
    });
}

/// What became of the main file with one bit turned over.
#[derive(Debug, Default)]
struct Seen {
    refused: usize,
    reported: usize,
    /// Nothing was noticed by use, but `integrity_check` tells.
    found_by_check: usize,
    /// A text that reads differently, or a bit that means nothing: SQLite has no sums of its pages.
    unnoticed: usize,
}

/// STO-3: whatever bit is wrong, nobody panics, nothing is deleted, and what cannot be read is reported.
#[test]
fn a_bit_turned_over_in_the_main_file_is_reported_and_nothing_is_deleted() {
    run_on(Kind::Sqlite, async |database: Database| {
        let files = Files::make(database).await.carried_over();
        let mut random = seeded(0xF11);
        let mut sure = Seen::default();
        let (main, at) = files.out_of_order();
        use_damaged(&files, &main, at, &mut sure).await;
        assert_eq!(sure.unnoticed, 0, "the lines cannot be found any more: {sure:?}");
        let flips = number_from("CLAWBROKER_TEST_FLIPS", 60);
        let mut seen = Seen::default();
        // Most of a page is empty, and nobody looks there.
        let places: Vec<usize> = (0..files.main.len()).filter(|at| files.main[*at] != 0).collect();
        for _ in 0..flips {
            let (main, at) = turned_in(&files.main, &places, &mut random);
            use_damaged(&files, &main, at, &mut seen).await;
        }
        println!("{seen:?}");
        // About six in ten are.
        let noticed = seen.reported + seen.refused + seen.found_by_check;
        assert!(noticed as u64 >= flips / 6, "much of it is noticed: {seen:?}");
    });
}

async fn use_damaged(files: &Files, main: &[u8], at: usize, seen: &mut Seen) {
    let database = Arc::new(files.put(main, &[]));
    let file = database.file();
    let opener = database.opener();
    if let Err(error) = opener.prepare() {
        fine(&error, at);
        seen.refused += 1;
        assert_eq!(std::fs::read(&file).unwrap(), main, "refused and left as it is: {at}");
        return;
    }
    let store = TestStore::by(opener, database.clone(), roomy());
    let mut errors = Vec::new();
    let id = files.conversation;
    let log = store.read(move |db| messages::page(db, id, Span::After(0), 1_000, usize::MAX)).await;
    let log = log.map_err(|error| errors.push(error)).ok();
    errors.extend(store.read(gateways::list).await.err());
    errors.extend(store.read(users::list).await.err());
    let complaints = match store.integrity_check().await {
        Ok(complaints) => !complaints.is_empty(),
        Err(error) => {
            errors.push(error);
            true
        }
    };
    if let Some(log) = &log {
        let all = log.len() == LINES && (1..).zip(log).all(|(seq, line)| line.seq == seq);
        assert!(all || complaints, "a log of {} lines, and nobody complains of the bit at {at}", log.len());
    }
    let written = store.write(question(&files.caller, id, "one more")).await;
    match written {
        Err(error) => errors.push(error),
        // The bit may have been in what only a write needs; then the log says so from now on. A log that could not be read
        // before cannot be read now either, or has what was taken.
        Ok(_) => match store.read(move |db| messages::page(db, id, Span::After(0), 1_000, usize::MAX)).await {
            Ok(after) => {
                let all = after.len() == LINES + 1;
                let lines = after.len();
                assert!(all || complaints, "a log of {lines} lines now, and nobody had complained of the bit at {at}");
            }
            Err(error) => errors.push(error),
        },
    }
    assert!(std::fs::metadata(&file).unwrap().len() >= main.len() as u64, "nothing is deleted: {at}");
    for error in &errors {
        fine(error, at);
    }
    match (errors.is_empty(), complaints) {
        (false, _) => seen.reported += 1,
        (true, true) => seen.found_by_check += 1,
        (true, false) => seen.unnoticed += 1,
    }
}

/// An error that says something: not that we have panicked, nor that it will be better in a second.
fn fine(error: &Error, at: usize) {
    assert_ne!(error.code(), ErrorCode::StoreBusy, "a bit at {at}: {}", error.cause());
    assert!(!error.message().is_empty() && !error.cause().contains("panicked"), "a bit at {at}: {}", error.cause());
}

#[test]
fn the_doctor_tells_of_a_damaged_page() {
    run_on(Kind::Sqlite, async |database: Database| {
        let files = Files::make(database).await.carried_over();
        let (main, _) = files.out_of_order();
        let database = files.put(&main, &[]);
        let said = std::process::Command::new(env!("CARGO_BIN_EXE_clawbroker"))
            .args(["doctor", "--listen", "127.0.0.1:0"])
            .current_dir(database.data_dir())
            .env_clear()
            .env("CLAWBROKER_DATA_DIR", database.data_dir())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_eq!(said.status.code(), Some(1), "{told}");
        assert!(told.contains("WRONG") && told.contains("damaged") && told.contains("restore"), "{told}");
        assert_eq!(std::fs::read(database.file()).unwrap(), main, "it changes nothing");
    });
}

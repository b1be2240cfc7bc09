//! D8: whose database is it? What is not ours is refused and left byte for byte as it was.
use std::path::{Path, PathBuf};

use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::store::{Db, Location, ServerLock, lock_for_server};
use diesel::prelude::*;

use crate::harness::database::opener;
use crate::harness::{Database, Kind, TestStore, run_on, sql};

/// An ancestor's tables.
const CHAT_DB: &str = "CREATE TABLE sessions (id VARCHAR PRIMARY KEY, title VARCHAR, created_at DATETIME);
    CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id VARCHAR, role VARCHAR, content TEXT);
    INSERT INTO messages (session_id, role, content) VALUES ('s', 'user', 'precious');";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn raw(path: &Path) -> Db {
    Db::Sqlite(SqliteConnection::establish(&path.to_string_lossy()).unwrap())
}

fn prepare(path: PathBuf) -> Result<(), Error> {
    opener(Location::Sqlite(path)).prepare()
}

/// All files of a folder with their bytes.
fn bytes_of(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        // The index of a write-ahead log is shared memory, not data.
        .filter(|path| !path.to_string_lossy().ends_with("-shm"))
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn assert_refused_untouched(path: &Path) {
    let folder = path.parent().unwrap();
    let before = bytes_of(folder);
    let refused = prepare(path.to_owned()).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
    assert!(refused.message().contains("is not a clawbroker database"), "{}", refused.message());
    assert!(refused.message().contains("DATABASE_URL"), "it says what to do: {}", refused.message());
    assert_eq!(bytes_of(folder), before);
}

#[test]
fn an_ancestors_database_is_refused() {
    let folder = folder();
    let path = folder.path().join("chat.db");
    sql::run(&mut raw(&path), CHAT_DB);
    assert_refused_untouched(&path);
}

/// Its server was killed: all it had written lies in the write-ahead log, and the file itself looks new.
#[test]
fn an_ancestors_database_is_refused_when_its_log_holds_everything() {
    let (live, copy) = (folder(), folder());
    let path = live.path().join("chat.db");
    let mut db = raw(&path);
    sql::run(&mut db, "PRAGMA journal_mode = WAL");
    sql::run(&mut db, CHAT_DB);
    // What a kill leaves behind: the files as they are while the connection is open.
    for (file, bytes) in bytes_of(live.path()) {
        std::fs::write(copy.path().join(file.file_name().unwrap()), bytes).unwrap();
    }
    drop(db);
    assert!(copy.path().join("chat.db-wal").exists());
    assert_refused_untouched(&copy.path().join("chat.db"));
}

#[test]
fn what_is_not_sqlite_is_refused() {
    let folder = folder();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "dear diary").unwrap();
    assert_refused_untouched(&path);
}

#[test]
fn a_missing_and_an_empty_file_become_ours() {
    let folder = folder();
    let missing = folder.path().join("deep/in/here.db");
    prepare(missing.clone()).unwrap();
    prepare(missing).unwrap();
    let empty = folder.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    prepare(empty.clone()).unwrap();
    assert_eq!(sql::number(&mut raw(&empty), "SELECT count(*) AS value FROM messages"), 0);
}

/// Killed before its first checkpoint, ours must not be taken for somebody else's.
#[test]
fn our_own_file_is_known_by_its_first_bytes() {
    run_on(Kind::Sqlite, async |store: TestStore| {
        let (caller, conversation) = store.chat().await;
        store.ask(&caller, conversation.id, "hello").await;
        let copy = folder();
        for (file, bytes) in bytes_of(store.database.data_dir()) {
            std::fs::write(copy.path().join(file.file_name().unwrap()), bytes).unwrap();
        }
        let path = copy.path().join("clawbroker.db");
        let header = std::fs::read(&path).unwrap();
        assert_eq!(header.get(68..72), Some(b"clbr".as_slice()));
        prepare(path.clone()).unwrap();
        assert_eq!(sql::number(&mut raw(&path), "SELECT count(*) AS value FROM messages"), 1);
    });
}

#[test]
fn a_second_server_is_refused_until_the_first_has_gone() {
    let database = Database::empty(Kind::Sqlite);
    let location = database.location();
    let first = lock_for_server(database.data_dir(), &location).unwrap();
    assert_eq!(first.len(), 1, "file and data are in one folder");
    let refused = lock_for_server(database.data_dir(), &location).unwrap_err();
    assert!(refused.message().contains("another clawbroker runs on"), "{}", refused.message());
    // A data directory of its own does not help while the file is the same.
    let elsewhere = folder();
    lock_for_server(elsewhere.path(), &location).unwrap_err();
    drop(first);
    assert_eq!(lock_for_server(elsewhere.path(), &location).unwrap().len(), 2);
    ServerLock::take(database.data_dir()).unwrap();
}

#[test]
fn on_postgres_the_data_directory_is_one_servers() {
    let location = Location::Postgres(clawbroker::domain::secret::Secret::new("postgres://nowhere"));
    let (data, other) = (folder(), folder());
    let held = lock_for_server(data.path(), &location).unwrap();
    lock_for_server(data.path(), &location).unwrap_err();
    lock_for_server(other.path(), &location).unwrap();
    drop(held);
    lock_for_server(data.path(), &location).unwrap();
}

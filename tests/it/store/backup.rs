use clawbroker::domain::error::ErrorCode;
use clawbroker::store::Location;

use crate::harness::database::opener;
use crate::harness::{Database, Kind, TestStore, run_on, sql};

#[test]
fn an_sqlite_backup_is_a_database_that_opens() {
    run_on(Kind::Sqlite, async |store: TestStore| {
        let (caller, conversation) = store.chat().await;
        store.ask(&caller, conversation.id, "hello").await;
        let elsewhere = Database::empty(Kind::Sqlite);
        let target = elsewhere.data_dir().join("copy.db");
        store.backup(target.clone()).await.unwrap();
        let copy = opener(Location::Sqlite(target.clone()));
        copy.prepare().unwrap();
        assert_eq!(sql::number(&mut copy.writable().unwrap(), "SELECT count(*) AS value FROM messages"), 1);
        // The server goes on, and no copy is written over.
        store.ask(&caller, conversation.id, "again").await;
        let refused = store.backup(target).await.unwrap_err();
        assert_eq!((refused.code(), refused.http_status()), (ErrorCode::AlreadyExists, 409));
    });
}

#[test]
fn a_postgres_backup_says_what_to_run() {
    run_on(Kind::Postgres, async |store: TestStore| {
        let target = store.database.data_dir().join("copy.db");
        let refused = store.backup(target.clone()).await.unwrap_err();
        assert_eq!(refused.http_status(), 409);
        assert!(refused.message().contains("pg_dump --schema=clawbroker"), "{}", refused.message());
        assert!(!target.exists());
    });
}

async fn a_healthy_database_has_nothing_to_complain_of(store: TestStore) {
    store.chat().await;
    assert!(store.integrity_check().await.unwrap().is_empty());
}

on_both_databases!(a_healthy_database_has_nothing_to_complain_of);

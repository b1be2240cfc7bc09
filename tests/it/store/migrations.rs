use std::collections::BTreeSet;
use std::path::Path;

use clawbroker::store::{migrate_all, revert_all};

use super::schema::Schema;
use crate::harness::{Database, Kind};

async fn up_down_and_up_again_is_the_same_schema(database: Database) {
    let mut db = database.connect();
    let up = Schema::read(&mut db);
    assert!(up.tables.contains_key("messages"));
    revert_all(&mut db).unwrap();
    assert_eq!(Schema::read(&mut db), Schema::default(), "down leaves nothing");
    migrate_all(&mut db).unwrap();
    drop(db);
    assert_eq!(Schema::read(&mut database.connect()), up);
    // What is up to date stays as it is.
    database.opener().prepare().unwrap();
}

on_both_databases!(up_down_and_up_again_is_the_same_schema);

#[test]
fn a_new_postgres_database_gets_our_own_schema() {
    crate::harness::run_on(Kind::Sqlite, async |_: Database| {
        let database = Database::empty(Kind::Postgres);
        // Two nodes may start at once.
        let (one, two) = (database.opener(), database.opener());
        let (one, two) = tokio::join!(
            tokio::task::spawn_blocking(move || one.prepare()),
            tokio::task::spawn_blocking(move || two.prepare()),
        );
        one.unwrap().unwrap();
        two.unwrap().unwrap();
        let mut db = database.connect();
        assert!(Schema::read(&mut db).tables.contains_key("messages"));
        let outside = "SELECT count(*) AS value FROM information_schema.tables WHERE table_schema = 'public'";
        assert_eq!(crate::harness::sql::number(&mut db, outside), 0, "D8: nothing of ours outside");
    });
}

#[test]
fn the_two_trees_are_twins() {
    let names = |tree: &str| -> BTreeSet<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(tree);
        std::fs::read_dir(root)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                for file in ["up.sql", "down.sql"] {
                    assert!(entry.path().join(file).is_file(), "{} has no {file}", entry.path().display());
                }
                entry.file_name().into_string().unwrap()
            })
            .collect()
    };
    let sqlite = names("sqlite");
    assert!(!sqlite.is_empty());
    assert_eq!(sqlite, names("postgres"));
}

//! `backup`, `restore` and `migrate`.
use std::fs;

use clawbroker::store::Location;

use super::run;
use crate::harness::database::opener;
use crate::harness::{Broker, Database, Kind, run_on, sql};

#[test]
fn a_backup_brings_back_what_was_there_when_it_was_made() {
    run_on(Kind::Sqlite, async |database: Database| {
        let mut broker = Broker::start(&database, &[], &[]).await;
        run(&database, &["gateway", "add", "first", "ws://127.0.0.1:9"]).fine();
        let folder = Database::empty(Kind::Sqlite);
        let (live, alone) = (folder.data_dir().join("live.db"), folder.data_dir().join("alone.db"));
        run(&database, &["backup", live.to_str().unwrap()]).fine();
        let again = run(&database, &["backup", live.to_str().unwrap()]).refused(1);
        assert!(again.contains("exists already"), "{again}");
        let nowhere = folder.data_dir().join("missing/live.db");
        let refused = run(&database, &["backup", nowhere.to_str().unwrap()]).refused(1);
        assert!(refused.contains("make it, or choose another"), "{refused}");
        assert_eq!(fs::read_dir(database.data_dir().join("backups")).unwrap().count(), 0, "no copy is left over");
        for args in [&["restore", live.to_str().unwrap()][..], &["migrate"]] {
            assert!(run(&database, args).refused(1).ends_with("stop it first"));
        }
        run(&database, &["gateway", "add", "second", "ws://127.0.0.1:9"]).fine();
        broker.kill();
        // What a killed server left in its write-ahead log belongs to the old database, not to the new one.
        let restored = run(&database, &["restore", live.to_str().unwrap(), "--json"]).fine().json();
        assert_eq!(ids(&database), ["first"]);
        let aside = restored["moved_aside"].as_str().expect("the old one is kept");
        let kept = "SELECT count(*) AS value FROM gateways";
        assert_eq!(sql::number(&mut opener(Location::Sqlite(aside.into())).writable().unwrap(), kept), 2);
        run(&database, &["backup", alone.to_str().unwrap()]).fine();
        let migrated = run(&database, &["migrate", "--json"]).fine().json();
        assert!(migrated["database"].as_str().is_some_and(|url| url.starts_with("sqlite:")), "{migrated}");
        broker.start_again().await;
        assert_eq!(ids(&database), ["first"]);
    });
}

fn ids(database: &Database) -> Vec<String> {
    let listed = run(database, &["gateway", "list", "--json"]).fine().json();
    listed.as_array().unwrap().iter().map(|gateway| gateway["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn only_a_sound_backup_of_ours_is_restored() {
    let database = Database::migrated(Kind::Sqlite);
    let before = fs::read(database.file()).unwrap();
    let folder = Database::empty(Kind::Sqlite);
    let file = folder.data_dir().join("wrong.db");
    let path = file.to_str().unwrap();
    assert!(run(&database, &["restore", path]).refused(1).contains("cannot be read"));
    for wrong in [&b""[..], b"text", &[b"SQLite format 3\0", &[0; 84][..]].concat()] {
        fs::write(&file, wrong).unwrap();
        let sentence = run(&database, &["restore", path]).refused(1);
        assert!(sentence.ends_with("is not a backup of a clawbroker database"), "{sentence}");
    }
    // Ours, but with a page of rubbish in it.
    let mut damaged = before.clone();
    let end = damaged.len();
    damaged[4_096..end.min(4_096 * 6)].fill(0xAA);
    fs::write(&file, &damaged).unwrap();
    let refused = run(&database, &["restore", path]);
    assert!(refused.status == Some(1) && refused.err.contains("was not restored"), "{refused:?}");
    assert_eq!(fs::read(&file).unwrap(), damaged, "the backup is left as it was");
    assert_eq!(fs::read(database.file()).unwrap(), before, "and so is the database");
    let left: Vec<_> = fs::read_dir(database.data_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("restor")), "{left:?}");
}

#[test]
fn postgres_is_copied_by_its_own_tools() {
    let database = Database::migrated(Kind::Postgres);
    let file = database.data_dir().join("copy.db");
    let path = file.to_str().unwrap();
    assert!(run(&database, &["backup", path]).refused(1).contains("pg_dump --schema=clawbroker"));
    assert!(run(&database, &["restore", path]).refused(1).contains("pg_restore"));
    run(&database, &["migrate"]).fine();
}

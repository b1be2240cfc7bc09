//! `token`: what is made without a server counts when one starts, and what a server made ends when it is told to.
use std::time::Duration;

use serde_json::json;

use super::{command, finish, run};
use crate::harness::{Broker, Database, Kind};

on_both_databases!(
    tokens_work_whoever_made_them,
    roles_belong_to_users,
    a_token_that_is_not_taken_is_told_from_none_at_all,
);

async fn tokens_work_whoever_made_them(database: Database) {
    let alone = run(&database, &["token", "create", "--name", "before"]).fine();
    let broker = Broker::start(&database, &[], &[]).await;
    let served =
        run(&database, &["token", "create", "--user", "ann", "--role", "member", "--expires-in-days", "1"]).fine();
    for (ran, name) in [(&alone, "admin"), (&served, "ann")] {
        let token = ran.out.trim();
        assert!(token.starts_with("cbk_") && token.len() == 47 && !token.contains(char::is_whitespace), "{ran:?}");
        assert!(ran.err.contains(&format!("the user `{name}`")) && !ran.err.contains(token), "{ran:?}");
        assert_eq!(status_for(&broker, token).await, 200);
    }
    let listed = run(&database, &["token", "list", "--json"]).fine();
    assert!(!listed.out.contains(served.out.trim()), "a token is told once");
    let tokens = listed.json();
    let anns = tokens.as_array().unwrap().iter().find(|token| token["user"] == "ann").unwrap().clone();
    run(&database, &["token", "revoke", anns["id"].as_str().unwrap()]).fine();
    assert_eq!(status_for(&broker, served.out.trim()).await, 401);
    assert!(run(&database, &["token", "list"]).fine().out.contains("revoked"));
}

async fn roles_belong_to_users(database: Database) {
    for server in [false, true] {
        let broker = if server { Some(Broker::start(&database, &[], &[]).await) } else { None };
        let name = if server { "ben" } else { "ann" };
        let sentence = run(&database, &["token", "create", "--user", name]).refused(1);
        assert_eq!(sentence, format!("there is no user `{name}`; add --role to make it, for example --role member"));
        let made = run(&database, &["token", "create", "--user", name, "--role", "viewer", "--json"]).fine().json();
        assert_eq!((&made["user"], &made["expires_at"]), (&json!(name), &json!(null)));
        let sentence = run(&database, &["token", "create", "--user", name, "--role", "admin"]).refused(1);
        assert!(sentence.starts_with(&format!("the user `{name}` has the role `viewer`")), "{sentence}");
        run(&database, &["token", "create", "--user", name]).fine();
        drop(broker);
    }
}

async fn a_token_that_is_not_taken_is_told_from_none_at_all(database: Database) {
    let _broker = Broker::start(&database, &[], &[]).await;
    let file = database.data_dir().join("admin.token");
    let list = || command(&database, &["token", "list"]);
    std::fs::write(&file, "cbk_another").unwrap();
    let sentence = finish(list()).refused(1);
    assert!(sentence.starts_with("the server does not take the token in `admin.token`"), "{sentence}");
    std::fs::remove_file(&file).unwrap();
    let sentence = finish(list()).refused(1);
    let dir = database.data_dir().display();
    let expected = format!(
        "there is no `admin.token` in `{dir}`: start the server again, which makes one, or set CLAWBROKER_ADMIN_TOKEN"
    );
    assert_eq!(sentence, expected);
    let mut configured = list();
    configured.env("CLAWBROKER_ADMIN_TOKEN", "another-token-of-somebodys-own-choice");
    let sentence = finish(configured).refused(1);
    assert!(sentence.starts_with("the server does not take the token of CLAWBROKER_ADMIN_TOKEN"), "{sentence}");
}

/// What is shown once and cannot be printed is lost: the caller must hear of it.
#[test]
fn a_token_that_cannot_be_printed_is_a_failure() {
    let database = Database::empty(Kind::Sqlite);
    for args in [&["token", "create"][..], &["token", "create", "--json"], &["token", "list"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a device that is full");
        let output = command(&database, args).stdout(full).output().expect("the binary starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("clawbroker: standard output cannot be written: "), "{args:?}: {said}");
    }
    // A reader that has gone has read what it wanted.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut list = command(&database, &["token", "list"]);
    list.stdout(writer);
    finish(list).fine();
}

async fn status_for(broker: &Broker, token: &str) -> u16 {
    let request = awc::Client::new()
        .get(format!("http://{}/api/gateways", broker.address))
        .timeout(Duration::from_secs(45))
        .insert_header(("Authorization", format!("Bearer {token}")));
    request.send().await.expect("an answer").status().as_u16()
}

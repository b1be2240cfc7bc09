//! `channel` and `member`: set up by a running server, and secrets that come from files only.
use serde_json::json;

use super::run;
use crate::harness::{Broker, Database};

on_both_databases!(channels_and_people_are_kept);

const CANARY: &str = "c4n4ry-bot-token";

async fn channels_and_people_are_kept(database: Database) {
    let sentence = run(&database, &["channel", "list"]).refused(1);
    assert!(sentence.contains("no server runs"), "{sentence}");
    let _broker = Broker::start(&database, &[], &[]).await;
    assert!(run(&database, &["channel", "list"]).fine().out.starts_with("There is no channel yet"));
    let file = database.data_dir().join("bot-token.txt");
    std::fs::write(&file, format!("{CANARY}\n")).expect("a file");
    let secret = format!("bot_token={}", file.display());
    // Nobody listens there.
    let args = ["channel", "add", "telegram", "Our bot", "--base-url", "http://127.0.0.1:1", "--set", "receive=off"];
    let made = run(&database, &[&args[..], &["--secret-file", &secret, "--json"][..]].concat()).fine().json();
    assert_eq!((&made["name"], &made["config"]["receive"]), (&json!("Our bot"), &json!("off")));
    let id = made["id"].as_str().expect("an id");
    let list = run(&database, &["channel", "list"]).fine();
    assert!(list.out.contains("Our bot") && list.out.contains("enabled") && list.out.contains(id), "{list:?}");
    let tested = run(&database, &["channel", "test", id]).refused(1);
    assert!(tested.contains("no connection"), "{tested}");
    assert_eq!(run(&database, &["channel", "add", "telegram", "x", "--set", "receive"]).status, Some(2));
    for text in [list.out.as_str(), &list.err, &tested, &made.to_string()] {
        assert!(!text.contains(CANARY), "{text}");
    }
    let eve = run(&database, &["member", "add", "Eve", "--telegram", "-100", "--email", "eve@example.org", "--json"]);
    let eve = eve.fine().json();
    let people = run(&database, &["member", "list"]).fine().out;
    assert!(people.contains("telegram, email"), "{people}");
    run(&database, &["member", "remove", eve["id"].as_str().expect("an id")]).fine();
    run(&database, &["channel", "remove", id]).fine();
    assert_eq!(run(&database, &["channel", "list", "--json"]).fine().json(), json!([]));
}

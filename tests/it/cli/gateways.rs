//! `gateway`: the same answers with a server and without one, and no secret in any of them.
use serde_json::json;

use super::{run, run_with};
use crate::harness::{Broker, Database};
use crate::ws::sample_gateway;

on_both_databases!(
    gateways_are_managed_while_no_server_runs,
    gateways_are_managed_through_the_running_server,
    what_stands_in_the_way_is_told_with_its_remedy,
    a_key_that_is_gone_is_not_replaced_in_silence,
);

/// The token that the sample gateway wants, and a secret to look for in everything that is printed.
const TOKEN: &str = "sample-token";
const CANARY: &str = "c4n4ry-5e2b";

async fn gateways_are_managed_while_no_server_runs(database: Database) {
    let added = run_with(&database, &["gateway", "add", "home", "ws://127.0.0.1:9", "--token-stdin"], CANARY).fine();
    assert!(added.out.contains("No server runs"), "{added:?}");
    assert!(run(&database, &["gateway", "add", "home", "ws://127.0.0.1:9"]).refused(1).contains("exists already"));
    let listed = run(&database, &["gateway", "list", "--json"]).fine();
    let home = &listed.json()[0];
    assert_eq!((&home["id"], &home["token_set"], &home["state"]), (&json!("home"), &json!(true), &json!(null)));
    assert!(!listed.out.contains(CANARY));
    let sentence = run(&database, &["gateway", "test", "home"]).refused(1);
    assert_eq!(sentence, "no server runs, so nothing can be tested: start one with `clawbroker serve`");
    run(&database, &["gateway", "remove", "home"]).fine();
    assert!(run(&database, &["gateway", "remove", "home"]).refused(1).starts_with("there is no gateway `home`"));
    assert_eq!(run(&database, &["gateway", "list", "--json"]).fine().json(), json!([]));
}

async fn gateways_are_managed_through_the_running_server(database: Database) {
    let gateway = sample_gateway(|_| {});
    let broker = Broker::start(&database, &[], &[]).await;
    let file = database.data_dir().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.to_str().unwrap();
    let args = ["gateway", "add", "home", &gateway.url, "--name", "At home", "--token-file", file, "--json"];
    let added = run(&database, &args).fine().json();
    assert_eq!((&added["state"], &added["name"]), (&json!("connected"), &json!("At home")), "{}", broker.log());
    assert!(run(&database, &["gateway", "list"]).fine().out.contains("connected"));
    let tested = run(&database, &["gateway", "test", "home", "--json"]).fine().json();
    assert_eq!(tested["ok"], true);
    assert!(run(&database, &["gateway", "test", "nobody"]).refused(1).starts_with("there is no gateway `nobody`"));
    run(&database, &["gateway", "remove", "home", "--purge"]).fine();
    assert_eq!(broker.get("/api/admin/gateways/home").await.0, 404);
}

async fn a_key_that_is_gone_is_not_replaced_in_silence(database: Database) {
    run_with(&database, &["gateway", "add", "home", "ws://127.0.0.1:9", "--token-stdin"], CANARY).fine();
    let key = database.data_dir().join("secret.key");
    std::fs::remove_file(&key).unwrap();
    let sentence = run(&database, &["gateway", "list"]).refused(1);
    assert!(sentence.starts_with("1 gateways and channels have secrets, and the key is not there"), "{sentence}");
    assert!(!key.exists(), "a command makes no other key");
    let broker = Broker::start(&database, &[], &[]).await;
    let log = broker.log();
    assert!(key.exists() && log.contains("so a new key was made: the secrets of 1 gateways and channels"), "{log}");
}

async fn what_stands_in_the_way_is_told_with_its_remedy(database: Database) {
    let gateway = sample_gateway(|options| options.token = Some("another".to_owned()));
    let _broker = Broker::start(&database, &[], &[]).await;
    let added = run_with(&database, &["gateway", "add", "home", &gateway.url, "--token-stdin"], CANARY).fine();
    assert!(added.out.contains("refused") && added.out.contains("gateway.auth.token"), "{added:?}");
    let tested = run(&database, &["gateway", "test", "home"]);
    assert_eq!(tested.status, Some(1), "{tested:?}");
    let checked = run(&database, &["doctor", "--json"]);
    assert_eq!(checked.status, Some(1), "{checked:?}");
    let wrong: Vec<_> = checked.json()["findings"].as_array().unwrap().clone();
    let wrong: Vec<_> = wrong.iter().filter(|finding| finding["check"] == "gateway").collect();
    assert!(wrong.len() == 1 && wrong[0]["state"] == "wrong" && wrong[0]["remedy"].is_string(), "{wrong:?}");
    for ran in [added, tested, checked] {
        assert!(!format!("{ran:?}").contains(CANARY), "{ran:?}");
    }
}

#[test]
fn a_url_that_could_hold_a_password_is_not_repeated() {
    let database = Database::empty(crate::harness::Kind::Sqlite);
    let url = format!("ws://user:{CANARY}@host");
    let sentence = run(&database, &["gateway", "add", "home", &url]).refused(2);
    assert!(sentence.starts_with("the URL must be a `ws://`") && !sentence.contains(CANARY), "{sentence}");
}

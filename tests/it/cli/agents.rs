//! `agent` and `send`: the same answers with a server and without one, and a client that two agents can talk with.
use serde_json::{Value, json};

use super::{Ran, bare, command, finish, run};
use crate::harness::{Broker, Database, Kind};

on_both_databases!(
    agents_are_managed_with_a_server_and_without_one,
    a_key_counts_whoever_made_it,
    keys_are_listed_and_revoked,
    two_agents_talk_by_the_command_line,
    what_is_refused_is_said_in_a_sentence,
);

/// Runs a command as the agent that has this key.
pub(super) fn by(database: &Database, key: &str, args: &[&str]) -> Ran {
    let mut command = command(database, args);
    command.env("CLAWBROKER_API_KEY", key);
    finish(command)
}

/// Makes a key of an agent.
pub(super) fn key(database: &Database, agent: &str) -> String {
    let made = run(database, &["agent", "key", agent]).fine();
    let key = made.out.trim().to_owned();
    assert!(key.starts_with("oc-") && key.len() == 46, "{made:?}");
    assert!(made.err.contains("shown this once") && !made.err.contains(&key), "{made:?}");
    key
}

async fn agents_are_managed_with_a_server_and_without_one(database: Database) {
    for with_server in [false, true] {
        let broker = if with_server { Some(Broker::start(&database, &[], &[]).await) } else { None };
        let told = run(&database, &["agent", "add", " Ann B. "]).fine();
        assert_eq!(told.out, "Agent `ann-b` is registered. Make a key of it: clawbroker agent key ann-b\n");
        let args = ["agent", "add", "Ann B.", "--slug", "ops", "--role-description", "Looks after it", "--lease", "60"];
        let made = run(&database, &[&args[..], &["--max-attempts", "2", "--json"][..]].concat()).fine().json();
        for (field, value) in [
            ("slug", json!("ops")),
            ("name", json!("Ann B.")),
            ("kind", json!("openclaw")),
            ("status", json!("running")),
            ("role_description", json!("Looks after it")),
            ("lease_seconds", json!(60)),
            ("max_attempts", json!(2)),
        ] {
            assert_eq!(made[field], value, "{field}: {made}");
        }
        let taken = run(&database, &["agent", "add", "x", "--slug", "ops"]).refused(1);
        assert!(taken.contains("ops"), "{taken}");
        let list = run(&database, &["agent", "list", "--json"]).fine().json();
        let slugs: Vec<&str> = list.as_array().unwrap().iter().map(|agent| agent["slug"].as_str().unwrap()).collect();
        assert_eq!(slugs, ["ann-b", "ops"]);
        let presence = if with_server { json!("offline") } else { Value::Null };
        assert_eq!(list[0]["presence"], presence);
        let shown = run(&database, &["agent", "list"]).fine().out;
        assert!(shown.starts_with("SLUG") && shown.contains("Ann B.") && shown.lines().count() == 3, "{shown}");

        // By slug, by id, and not by a name that two have.
        let several = run(&database, &["agent", "remove", "Ann B."]).refused(1);
        assert!(several.starts_with("several agents are called `Ann B.`"), "{several}");
        let removed = run(&database, &["agent", "remove", "ops"]).fine().out;
        assert!(removed.starts_with("Agent `ops` is removed"), "{removed}");
        run(&database, &["agent", "key", made["id"].as_str().unwrap()]).refused(1);
        key(&database, "Ann B.");
        let id = list[0]["id"].as_str().unwrap();
        assert_eq!(run(&database, &["agent", "remove", id, "--json"]).fine().json(), json!({ "ok": true }));
        assert_eq!(run(&database, &["agent", "list", "--json"]).fine().json(), json!([]));
        assert!(run(&database, &["agent", "list"]).fine().out.contains("clawbroker agent add NAME"));
        let gone = run(&database, &["agent", "remove", "ops"]).refused(1);
        assert!(gone.starts_with("there is no agent `ops`"), "{gone}");
        drop(broker);
    }
}

async fn a_key_counts_whoever_made_it(database: Database) {
    run(&database, &["agent", "add", "Ann"]).fine();
    let alone = key(&database, "ann");
    let broker = Broker::start(&database, &[], &[("LOG_LEVEL", "trace")]).await;
    let args = ["agent", "key", "ann", "--label", "by the server", "--expires-in-days", "1", "--json"];
    let made = run(&database, &args).fine().json();
    assert_eq!((&made["label"], made["expires_at"].is_string()), (&json!("by the server"), true), "{made}");
    let served = made["api_key"].as_str().unwrap();
    let file = database.data_dir().join("key");
    std::fs::write(&file, format!("{served}\n")).unwrap();
    let url = format!("http://{}/", broker.address);
    let nothing = "Nothing waits.\n";
    assert_eq!(by(&database, &alone, &["agent", "poll"]).fine().err, nothing);
    assert_eq!(run(&database, &["agent", "poll", "--key", &alone, "--url", &url]).fine().err, nothing);
    let args = ["agent", "poll", "--key-file", file.to_str().unwrap(), "--url", &url];
    assert_eq!(run(&database, &args).fine().err, nothing);
    // What is named on the command line goes before the environment.
    let args = ["agent", "poll", "--key", "oc-wrong"];
    assert_eq!(by(&database, &alone, &args).refused(1), "Invalid API key");
    run(&database, &["agent", "remove", "ann"]).fine();
    for key in [alone.as_str(), served] {
        let refused = by(&database, key, &["agent", "poll"]).refused(1);
        assert_eq!(refused, "Invalid API key");
        assert!(!broker.log().contains(key));
    }
}

async fn keys_are_listed_and_revoked(database: Database) {
    for name in ["Ann", "Ben"] {
        run(&database, &["agent", "add", name]).fine();
    }
    let none = run(&database, &["agent", "keys", "ann"]).fine().out;
    assert!(none.contains("clawbroker agent key ann"), "{none}");
    for with_server in [false, true] {
        let broker = if with_server { Some(Broker::start(&database, &[], &[]).await) } else { None };
        let (first, second) = (key(&database, "ann"), key(&database, "ann"));
        let listed = run(&database, &["agent", "keys", "Ann", "--json"]).fine();
        assert!(!listed.out.contains(&first) && !listed.out.contains(&second), "a key is told once");
        let keys = listed.json();
        let newest = |place: usize| keys[place]["id"].as_str().unwrap().to_owned();
        let (second_id, first_id) = (newest(0), newest(1));
        assert!(first.starts_with(keys[1]["prefix"].as_str().unwrap()), "{keys}");
        assert_eq!(keys[0]["label"], "command line");

        let others = run(&database, &["agent", "revoke", "ben", &first_id]).refused(1);
        assert_eq!(others, format!("agent key `{first_id}` does not exist"));
        let told = run(&database, &["agent", "revoke", "ann", &first_id]).fine().out;
        assert_eq!(told, format!("Key {first_id} of the agent `ann` is revoked.\n"));
        if broker.is_some() {
            assert_eq!(by(&database, &first, &["agent", "poll"]).refused(1), "Invalid API key");
            by(&database, &second, &["agent", "poll"]).fine();
        }
        let shown = run(&database, &["agent", "keys", "ann"]).fine().out;
        let state = |id: &str| shown.lines().find(|line| line.starts_with(id)).expect("its line").to_owned();
        assert!(shown.starts_with("ID") && state(&first_id).contains("revoked 2"), "{shown}");
        assert!(state(&second_id).ends_with("valid"), "{shown}");
        let done = run(&database, &["agent", "revoke", "ann", &second_id, "--json"]).fine().json();
        assert_eq!(done, json!({ "ok": true }));
    }
    assert_eq!(run(&database, &["agent", "revoke", "ann", "7"]).status, Some(2));
}

async fn two_agents_talk_by_the_command_line(database: Database) {
    let _broker = Broker::start(&database, &[], &[]).await;
    for name in ["Ann", "Ben"] {
        run(&database, &["agent", "add", name]).fine();
    }
    let (ann, ben) = (key(&database, "ann"), key(&database, "ben"));
    let args = ["send", "--to", "be", "How are \u{1b}[31myou?\nWell?", "--message-id", "q-1"];
    let sent = by(&database, &ann, &args).fine().out;
    let id = sent.strip_prefix("Message ").and_then(|rest| rest.split(' ').next()).expect("an id").to_owned();
    assert_eq!(sent, format!("Message {id} to Ben is accepted.\n"));
    assert_eq!(by(&database, &ann, &args).fine().out, sent, "a repeat is sent once");
    let other = by(&database, &ann, &["send", "--to", "Ben", "And now?", "--json"]).fine().json();

    let polled = by(&database, &ben, &["agent", "poll", "--limit", "1", "--lease", "60"]).fine();
    let lines: Vec<&str> = polled.out.lines().collect();
    assert!(lines[0].starts_with(&format!("{id}  request from Ann, attempt 1, leased until 2")), "{polled:?}");
    assert_eq!(lines[1..], ["  How are \u{fffd}[31myou?", "  Well?"]);
    assert_eq!(polled.err, "1 more can be polled now.\n");
    let args = ["agent", "report", &id, "Fine", "--attempt", "1"];
    assert_eq!(by(&database, &ben, &args).fine().out, format!("Message {id} is done.\n"));
    by(&database, &ben, &args).fine();
    let second = by(&database, &ben, &["agent", "poll", "--json"]).fine().json();
    assert_eq!((&second["messages"][0]["id"], second["messages"].as_array().unwrap().len()), (&other["message_id"], 1));

    // With an ack of its own a reply stays until it is named.
    let reply = by(&database, &ann, &["agent", "poll", "--wait", "30", "--ack", "--json"]).fine().json();
    let reply = &reply["messages"][0];
    assert_eq!((&reply["content"], &reply["kind"]), (&json!("Fine"), &json!("reply")), "{reply}");
    assert_eq!(reply["in_reply_to"], id.as_str());
    let reply_id = reply["id"].as_str().unwrap();
    let acked = by(&database, &ann, &["agent", "ack", reply_id]).fine();
    assert_eq!((acked.out.as_str(), acked.err.as_str()), ("1 acknowledged.\n", ""));
    let sentence = "clawbroker: 1 cannot be acknowledged: not in this mailbox, a request, or ended\n";
    let acked = by(&database, &ann, &["agent", "ack", reply_id, &id]);
    assert_eq!((acked.status, acked.out.as_str(), acked.err.as_str()), (Some(1), "1 acknowledged.\n", sentence));
    let acked = by(&database, &ann, &["agent", "ack", &id, "--json"]);
    assert_eq!((acked.status, acked.err.as_str()), (Some(1), sentence));
    assert_eq!(acked.json(), json!({ "status": "ok", "acked": [], "unknown": [id] }));

    // Because of a message, and with a text from elsewhere.
    let mut piped = command(&database, &["send", "--to", "Ann", "-", "--in-reply-to", &id, "--json"]);
    let file = database.data_dir().join("text");
    std::fs::write(&file, "from a file\n").unwrap();
    piped.env("CLAWBROKER_API_KEY", &ben).stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(finish(piped).fine().json()["status"], "accepted");
    let got = by(&database, &ann, &["agent", "poll", "--json"]).fine().json();
    assert_eq!(got["messages"][0]["content"], "from a file", "{got}");
}

async fn what_is_refused_is_said_in_a_sentence(database: Database) {
    let no_server = by(&database, "oc-x", &["agent", "poll"]).refused(1);
    assert_eq!(no_server, "no server runs on the data directory: say with --url where one is");
    let nobody = by(&database, "oc-x", &["agent", "poll", "--url", "http://127.0.0.1:9"]).refused(1);
    assert!(nobody.starts_with("the server at http://127.0.0.1:9 does not answer"), "{nobody}");
    let args = ["send", "--to", "ben", "hello", "--url", "http://127.0.0.1:9"];
    let unsure = by(&database, "oc-x", &args).refused(1);
    let (_, name) = unsure.split_once("; repeat with --message-id ").expect("a name to repeat it with");
    assert_eq!(name.len(), 36, "{unsure}");
    let named = by(&database, "oc-x", &[&args[..], &["--message-id", "q-1"][..]].concat()).refused(1);
    assert!(named.ends_with("; repeat with --message-id q-1"), "{named}");
    let _broker = Broker::start(&database, &[], &[]).await;
    for (name, slug) in [("Ann", "ann"), ("Ben", "ben-1"), ("Ben", "ben-2")] {
        run(&database, &["agent", "add", name, "--slug", slug]).fine();
    }
    let ann = key(&database, "ann");
    let several = by(&database, &ann, &["send", "--to", "ben", "hello"]).refused(1);
    assert!(several.ends_with(": ben-1, ben-2"), "{several}");
    let none = by(&database, &ann, &["send", "--to", "eve", "hello"]).refused(1);
    assert_eq!(none, "Target 'eve' not found. Check your relationships list.");
    let args = ["agent", "report", "01890000-0000-7000-8000-000000000000", "done"];
    assert_eq!(by(&database, &ann, &args).refused(1), "Message not found");
}

#[test]
fn what_is_wrong_before_anybody_is_asked() {
    let database = Database::empty(Kind::Sqlite);
    let sentence = run(&database, &["agent", "poll"]).refused(2);
    assert!(sentence.contains("CLAWBROKER_API_KEY") && sentence.contains("--key-file"), "{sentence}");
    for key in ["oc-c4n4ry x", " ", "oc-c4n4ry\u{e4}"] {
        let refused = run(&database, &["agent", "poll", "--key", key]).refused(2);
        assert!(!refused.contains("c4n4ry"), "{refused}");
    }
    let sentence = run(&database, &["agent", "poll", "--key", "oc-x", "--url", "http://u:c4n4ry@host"]).refused(2);
    assert!(sentence.starts_with("--url must be an address") && !sentence.contains("c4n4ry"), "{sentence}");
    for name in ["", " ", "a\nb", &"x".repeat(101)] {
        let sentence = run(&database, &["agent", "add", name]).refused(2);
        assert!(sentence.starts_with("the name must be 1 to 100 characters"), "{sentence}");
    }
    run(&database, &["agent", "add", "x", "--role-description", &"x".repeat(4_001)]).refused(2);
    let folder = database.data_dir().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    for args in [&["agent", "poll", "--key=oc-x"][..], &["send", "--to", "ben", "hello", "--key=oc-x"][..]] {
        let sentence = finish(bare(&folder, args)).refused(1);
        assert_eq!(sentence, "no server runs on the data directory: say with --url where one is");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is made where no server has run");
    assert!(!database.file().exists(), "nothing was made");
    for args in [
        ["agent", "add", "x", "--lease=9"],
        ["agent", "add", "x", "--max-attempts=101"],
        ["agent", "add", "x", "--slug=A B"],
        ["agent", "key", "x", "--expires=0"],
        ["agent", "poll", "--wait=61", "--key=oc-x"],
        ["agent", "report", "7", "done"],
    ] {
        let refused = run(&database, &args);
        assert_eq!(refused.status, Some(2), "{args:?}: {refused:?}");
    }
}

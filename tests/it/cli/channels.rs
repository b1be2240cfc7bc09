//! `channel`, `member` and whom an agent knows: the same with a server and without one, and secrets that come from files
//! only.
use serde_json::{Value, json};

use super::run;
use crate::harness::{Broker, Database};

on_both_databases!(
    channels_are_kept_with_a_server_and_without_one,
    people_and_whom_an_agent_knows_are_kept_with_a_server_and_without_one,
);

const CANARY: &str = "c4n4ry-bot-token";

async fn channels_are_kept_with_a_server_and_without_one(database: Database) {
    run(&database, &["agent", "add", "Ann"]).fine();
    let ann = run(&database, &["agent", "list", "--json"]).fine().json()[0]["id"].clone();
    let file = database.data_dir().join("bot-token.txt");
    std::fs::write(&file, format!("{CANARY}\n")).expect("a file");
    let secret = format!("bot_token={}", file.display());
    for with_server in [false, true] {
        let broker = if with_server { Some(Broker::start(&database, &[], &[]).await) } else { None };
        assert!(run(&database, &["channel", "list"]).fine().out.starts_with("There is no channel yet"));
        let missing = run(&database, &["channel", "add", "telegram", "x"]).refused(1);
        assert_eq!(missing, "secret: `bot_token` is missing");
        let unknown = ["channel", "add", "telegram", "x", "--secret-file", &secret, "--set", "host=x"];
        assert!(run(&database, &unknown).refused(1).starts_with("config: `host` is not known here"));
        assert_eq!(run(&database, &["channel", "add", "telegram", "x", "--set", "receive"]).status, Some(2));
        assert!(
            run(&database, &["channel", "add", "telegram", " "]).refused(2).starts_with("the name must be 1 to 128")
        );

        // Nobody listens there.
        let args = ["channel", "add", "telegram", "Our bot", "--base-url", "http://127.0.0.1:1", "--agent", "ann"];
        let more = ["--set", "receive=off", "--secret-file", &secret, "--json"];
        let made = run(&database, &[&args[..], &more[..]].concat()).fine().json();
        let id = made["id"].as_str().expect("an id");
        for (field, value) in [
            ("kind", json!("telegram")),
            ("name", json!("Our bot")),
            ("agent_id", ann.clone()),
            ("config", json!({ "receive": "off" })),
            ("secrets", json!(["bot_token"])),
            ("base_url", json!("http://127.0.0.1:1")),
            ("enabled", json!(true)),
            ("hook", json!(format!("/hooks/{id}"))),
        ] {
            assert_eq!(made[field], value, "{field}: {made}");
        }
        let list = run(&database, &["channel", "list"]).fine();
        assert!(list.out.contains("Our bot") && list.out.contains("enabled") && list.out.contains(id), "{list:?}");
        let shown = run(&database, &["channel", "show", "Our bot"]).fine();
        let rows: Vec<Vec<&str>> = shown.out.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in [["id", id], ["receive", "off"], ["secrets", "bot_token"], ["state", "enabled"]] {
            assert!(rows.contains(&row.to_vec()), "{row:?}: {shown:?}");
        }

        let nothing = run(&database, &["channel", "change", id, "--unset", "password"]).refused(2);
        assert!(nothing.contains("`password`"), "{nothing}");
        let args = ["channel", "change", id, "--name", "The bot", "--set", "receive=poll", "--unset", "agent"];
        let changed = run(&database, &[&args[..], &["--disable", "--json"][..]].concat()).fine().json();
        let expected = json!({
            "name": "The bot", "config": { "receive": "poll" }, "agent_id": null, "enabled": false,
            "secrets": ["bot_token"], "base_url": "http://127.0.0.1:1",
        });
        for (field, value) in expected.as_object().expect("fields") {
            assert_eq!(&changed[field], value, "{field}: {changed}");
        }
        // A secret that the kind needs cannot be taken away.
        assert_eq!(
            run(&database, &["channel", "change", id, "--unset", "bot_token"]).refused(1),
            "secret: `bot_token` is missing"
        );
        let told = run(&database, &["channel", "change", "The bot", "--set", "receive=off", "--enable"]).fine().out;
        assert_eq!(told, format!("Channel `{id}` is changed; it is enabled.\n"));

        let tested = run(&database, &["channel", "test", "The bot"]).refused(1);
        let expected = if with_server { "no connection" } else { "no server runs" };
        assert!(tested.contains(expected), "{tested}");
        assert_eq!(run(&database, &["channel", "senders", id, "--json"]).fine().json(), json!([]));
        run(&database, &["member", "add", "Sam"]).fine();
        let stranger = run(&database, &["channel", "allow", id, "7", "Sam"]).refused(1);
        assert_eq!(stranger, "sender `7` does not exist");
        assert_eq!(run(&database, &["channel", "forget", id, "7"]).refused(1), "sender `7` does not exist");
        run(&database, &["member", "remove", "Sam"]).fine();
        for text in [&list.out, &list.err, &shown.out, &tested, &made.to_string(), &changed.to_string()] {
            assert!(!text.contains(CANARY), "{text}");
        }
        run(&database, &["channel", "remove", "The bot"]).fine();
        assert_eq!(run(&database, &["channel", "list", "--json"]).fine().json(), json!([]));
        let gone = run(&database, &["channel", "remove", id]).refused(1);
        assert!(gone.starts_with(&format!("there is no channel `{id}`")), "{gone}");
        drop(broker);
    }
}

async fn people_and_whom_an_agent_knows_are_kept_with_a_server_and_without_one(database: Database) {
    for name in ["Ann", "Ben"] {
        run(&database, &["agent", "add", name]).fine();
    }
    for with_server in [false, true] {
        let broker = if with_server { Some(Broker::start(&database, &[], &[]).await) } else { None };
        assert!(run(&database, &["member", "list"]).fine().out.starts_with("There is nobody yet"));
        let args =
            ["member", "add", "Eve", "--telegram", "-100", "--email", "eve@example.org", "--feishu-open", "ou_1"];
        let eve = run(&database, &[&args[..], &["--phone", "+49 30 1", "--json"][..]].concat()).fine().json();
        let expected = json!({
            "name": "Eve", "telegram_chat_id": "-100", "email": "eve@example.org", "phone": "+49 30 1",
            "feishu": { "user_id": null, "open_id": "ou_1" }, "whatsapp": null, "webhook_url": null, "user_id": null,
        });
        for (field, value) in expected.as_object().expect("fields") {
            assert_eq!(&eve[field], value, "{field}: {eve}");
        }
        let people = run(&database, &["member", "list"]).fine().out;
        assert!(people.contains("feishu, telegram, email"), "{people}");
        let wrong = run(&database, &["member", "add", "x", "--email", "nobody"]).refused(1);
        assert!(wrong.starts_with("email: must be an e-mail address"), "{wrong}");
        let args = ["member", "change", "Eve", "--name", "Eva", "--unset", "email", "--unset", "feishu-open"];
        let more = ["--whatsapp", "+4930123456", "--json"];
        let changed = run(&database, &[&args[..], &more[..]].concat()).fine().json();
        let expected = json!({
            "id": eve["id"], "name": "Eva", "telegram_chat_id": "-100", "email": null, "feishu": null,
            "whatsapp": "+4930123456",
        });
        for (field, value) in expected.as_object().expect("fields") {
            assert_eq!(&changed[field], value, "{field}: {changed}");
        }
        let wrong = run(&database, &["member", "change", "Eva", "--whatsapp", "call me"]).refused(1);
        assert!(wrong.starts_with("whatsapp: must be"), "{wrong}");
        for (way, set) in [("telegram", "--telegram"), ("feishu", "--feishu-user"), ("feishu-open", "--feishu-open")] {
            let wrong = run(&database, &["member", "change", "Eva", set, "5", "--unset", way]).refused(2);
            assert_eq!(wrong, format!("`{way}` is both set and unset: leave one of the two out"));
        }
        assert!(
            run(&database, &["member", "change", "Eve", "--name", "x"]).refused(1).starts_with("there is no member")
        );

        let told = run(&database, &["agent", "know", "ann", "Eva", "boss", "--description", "likes tea"]).fine().out;
        assert_eq!(told, "Agent `ann` knows Eva now.\n");
        run(&database, &["agent", "know", "Ann", "ben", "collaborator"]).fine();
        let known = run(&database, &["agent", "known", "ann", "--json"]).fine().json();
        let told = |one: &Value| ["name", "type", "relation", "description"].map(|field| one[field].clone());
        assert_eq!(told(&known[0]), [json!("Eva"), json!("human"), json!("boss"), json!("likes tea")]);
        assert_eq!(told(&known[1]), [json!("Ben"), json!("agent"), json!("collaborator"), Value::Null]);
        assert_eq!((&known[0]["member_id"], known.as_array().expect("a list").len()), (&eve["id"], 2));
        let again = run(&database, &["agent", "know", "ann", "Eva", "friend"]).refused(1);
        assert_eq!(again, "the agent has a relationship to Eva already");
        let itself = run(&database, &["agent", "know", "ann", "ann", "friend"]).refused(1);
        assert!(itself.ends_with("an agent has no relationship to itself"), "{itself}");
        let nobody = run(&database, &["agent", "know", "ann", "Sam", "friend"]).refused(1);
        assert!(nobody.starts_with("nobody is called `Sam`"), "{nobody}");
        run(&database, &["agent", "know", "ann", "Eva", " "]).refused(2);
        // Ben knows nobody, and so cannot forget her.
        let unknown = run(&database, &["agent", "forget", "ben", "Eva"]).refused(1);
        assert_eq!(unknown, "agent `ben` knows nobody called `Eva`; `clawbroker agent known ben` shows whom it knows");
        run(&database, &["agent", "forget", "ann", "ben"]).fine();
        let told = run(&database, &["agent", "forget", "ann", eve["id"].as_str().expect("an id")]).fine().out;
        assert_eq!(told, "Agent `ann` does not know Eva any more.\n");
        assert_eq!(run(&database, &["agent", "known", "ann", "--json"]).fine().json(), json!([]));
        assert_eq!(run(&database, &["member", "remove", "Eva"]).fine().out, "Eva is removed; what was said stays.\n");
        assert_eq!(run(&database, &["member", "list", "--json"]).fine().json(), json!([]));
        drop(broker);
    }
}

//! The skill of the setup guide: true to the API, and good to follow to the letter.
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use clawbroker::domain::error::ErrorCode;
use serde_json::{Map, Value, json};

use super::client::Agent;
use crate::harness::{Broker, Database};

on_both_databases!(whoever_follows_the_skill_gets_the_work_done);

const SKILL: &str = include_str!("../../../src/http/mailbox/skill.md");

/// What the one command has that calls nothing.
const SAVES_THE_KEY: &str = "mkdir";

/// Returns the command of a skill that puts the key into the file where the others find it.
pub(crate) fn save_the_key(skill: &str) -> String {
    commands(skill).into_iter().find(|text| text.contains(SAVES_THE_KEY)).expect("the key has a file")
}

/// Returns the commands of a skill, in order.
pub(crate) fn commands(skill: &str) -> Vec<String> {
    blocks(skill).into_iter().filter(|(kind, _)| kind == "sh").map(|(_, text)| text).collect()
}

/// Returns the first command of a skill that calls this route.
pub(crate) fn command(skill: &str, route: &str) -> String {
    let found = commands(skill).into_iter().find(|text| text.contains(&format!("/api/gateway/{route}")));
    found.unwrap_or_else(|| panic!("no command for {route}"))
}

/// Returns what stands between fences, with what kind of text it is.
fn blocks(skill: &str) -> Vec<(String, String)> {
    let parts: Vec<&str> = skill.split("```").collect();
    assert_eq!(parts.len() % 2, 1, "each fence is closed");
    let inside = parts.into_iter().skip(1).step_by(2);
    inside
        .map(|part| {
            let (kind, text) = part.split_once('\n').expect("a line for the kind");
            (kind.to_owned(), text.trim_end().to_owned())
        })
        .collect()
}

/// A call that a command makes.
struct Called {
    method: &'static str,
    /// As the description has it.
    path: String,
    /// The names of its query and of its own headers.
    parameters: Vec<String>,
    body: Option<Value>,
}

impl Called {
    fn of(api: &Value, command: &str) -> Self {
        let method = if command.contains("-X POST") { "post" } else { "get" };
        let url = command.split("{{url}}").nth(1).and_then(|rest| rest.split('"').next()).expect("an address");
        let (called, query) = url.split_once('?').unwrap_or((url, ""));
        let is_same = |path: &str| {
            let same = |(a, b): (&str, &str)| a == b || a.starts_with('{');
            path.split('/').count() == called.split('/').count() && path.split('/').zip(called.split('/')).all(same)
        };
        let paths = api["paths"].as_object().unwrap();
        let found = paths.iter().find(|(path, item)| is_same(path.as_str()) && item.get(method).is_some());
        let (path, _) = found.unwrap_or_else(|| panic!("{method} {called} is not in the description"));
        let mut parameters: Vec<String> =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned()).collect();
        let named = |flag: &str, end: char| {
            let flags = command.split(flag).skip(1);
            flags.filter_map(|rest| rest.split_once(end)).map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        parameters.extend(named("--data-urlencode \"", '='));
        let own = |name: &String| !["X-Api-Key", "Content-Type"].contains(&name.as_str());
        parameters.extend(named("-H \"", ':').into_iter().filter(own));
        let body = command.split_once("<<'JSON'\n").map(|(_, rest)| rest.strip_suffix("\nJSON").expect("its end"));
        let body = body.map(|text| text.replace(": <delivery_attempt>", ": 1"));
        let body = body.map(|text| serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
        Self { method, path: path.clone(), parameters, body }
    }

    fn operation<'a>(&self, api: &'a Value) -> &'a Value {
        &api["paths"][&self.path][self.method]
    }
}

/// Returns the fields that a schema names, each with its own schema; none if it says nothing of fields.
fn fields(api: &Value, schema: &Value) -> Map<String, Value> {
    let mut known = schema["properties"].as_object().cloned().unwrap_or_default();
    for part in parts(api, schema) {
        known.extend(fields(api, &part));
    }
    known
}

/// Returns the schema of what a list holds.
fn item(api: &Value, schema: &Value) -> Option<Value> {
    let own = schema.get("items").cloned();
    own.or_else(|| parts(api, schema).iter().find_map(|part| item(api, part)))
}

/// Returns what a schema is made of.
fn parts(api: &Value, schema: &Value) -> Vec<Value> {
    let named = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
    let mut parts: Vec<Value> = named.map(|name| api["components"]["schemas"][name].clone()).into_iter().collect();
    for together in ["allOf", "oneOf", "anyOf"] {
        parts.extend(schema[together].as_array().cloned().unwrap_or_default());
    }
    parts
}

/// Checks that each field of a value is one that its schema names.
#[track_caller]
fn check(api: &Value, schema: &Value, value: &Value, place: &str) {
    match value {
        Value::Object(given) => {
            let known = fields(api, schema);
            for (name, value) in given.iter().filter(|_| !known.is_empty()) {
                let schema =
                    known.get(name).unwrap_or_else(|| panic!("{place} has no `{name}`, but {:?}", known.keys()));
                check(api, schema, value, &format!("{place}.{name}"));
            }
        }
        Value::Array(given) => {
            let Some(schema) = item(api, schema) else { return };
            for value in given {
                check(api, &schema, value, place);
            }
        }
        _ => {}
    }
}

#[test]
fn the_skill_names_only_what_the_api_has_and_all_of_it() {
    let api = serde_json::to_value(clawbroker::http::openapi::openapi()).unwrap();
    let mut named = BTreeSet::new();
    let mut last = None;
    for (kind, text) in blocks(SKILL).into_iter().filter(|(_, text)| !text.contains(SAVES_THE_KEY)) {
        let Some(called) = (kind == "sh").then(|| Called::of(&api, &text)).or_else(|| last.take()) else {
            panic!("nothing was called before {text}");
        };
        let operation = called.operation(&api);
        let place = format!("{} {}", called.method, called.path);
        if kind == "json" {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            let body = json!({ "$ref": "#/components/schemas/ErrorBody" });
            let answer = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            assert!(!fields(&api, answer).is_empty(), "{place}");
            check(&api, if value.get("error").is_some() { &body } else { answer }, &value, &place);
        } else {
            assert_eq!(kind, "sh", "{text}");
            assert_eq!(operation["security"], json!([{ "agentKey": [] }]), "{place}");
            for name in &called.parameters {
                let known = operation["parameters"].as_array().unwrap();
                assert!(known.iter().any(|known| known["name"] == name.as_str()), "{place} has no `{name}`");
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if let Some(body) = &called.body {
                assert!(!fields(&api, schema).is_empty(), "{place}");
                check(&api, schema, body, &place);
            }
            named.insert(place);
        }
        last = Some(called);
    }
    let mut all = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/api/gateway/")) {
        let own = item.as_object().unwrap().iter().filter(|(_, call)| call["security"][0].get("agentKey").is_some());
        all.extend(own.map(|(method, _)| format!("{method} {path}")));
    }
    all.retain(|place| !place.contains("/setup-guide/"));
    assert_eq!(named, all);
}

#[test]
fn the_skill_says_of_each_code_the_status_that_it_has() {
    let mut told = BTreeSet::new();
    for line in SKILL.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5")) {
        let cell = line.split('|').nth(1).expect("the first cell").trim();
        let status: u16 = cell.get(..3).and_then(|status| status.parse().ok()).expect("a status");
        for code in cell.split('`').skip(1).step_by(2) {
            let known = ErrorCode::ALL.iter().find(|(_, name, _)| *name == code);
            let (_, name, right) = known.unwrap_or_else(|| panic!("there is no code `{code}`"));
            assert_eq!(*right, status, "{code}");
            told.insert(*name);
        }
    }
    for code in [
        "invalid_request",
        "internal",
        "unauthenticated",
        "not_found",
        "stale_attempt",
        "not_leased",
        "delivery_ended",
        "result_conflict",
        "ambiguous_target",
        "message_too_large",
        "validation_error",
        "rate_limited",
        "mailbox_full",
        "pair_rate_limited",
        "hop_limit",
        "channel_failed",
        "store_busy",
    ] {
        assert!(told.contains(code), "{code}");
    }
}

#[test]
fn nothing_in_a_command_counts_for_one_message_only() {
    for text in commands(SKILL) {
        assert!(!text.contains("deliver_at"), "a time that stands there would hold back whatever follows: {text}");
        let rest = text.replace("\"delivery_attempt\": <delivery_attempt>", "");
        assert!(!rest.contains("delivery_attempt"), "each hand-out has its own number: {text}");
    }
}

/// Runs a command of the skill in this home, and returns what it says.
fn run(home: &Path, command: &str) -> String {
    let done = Command::new("sh").args(["-c", command]).env("HOME", home).output().expect("a shell");
    assert!(done.status.success(), "{command}\n{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("a text")
}

/// The same with these in the place of what stands in `<…>`; returns the answer.
fn follow(home: &Path, command: &str, replaced: &[(&str, &str)]) -> Value {
    let command = replaced.iter().fold(command.to_owned(), |text, (place, by)| text.replace(place, by));
    let out = run(home, &command);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{command}"))
}

async fn whoever_follows_the_skill_gets_the_work_done(database: Database) {
    let broker = Broker::start(&database, &[], &[("LOG_LEVEL", "trace")]).await;
    let (ann, ben) = (Agent::register(&broker, "Ann").await, Agent::register(&broker, "Ben").await);
    let (anns, bens) = (ann.skill(&broker).await, ben.skill(&broker).await);
    let home = tempfile::tempdir().expect("a directory");
    for (agent, skill) in [(&ann, &anns), (&ben, &bens)] {
        // Whoever is told a new key writes it over the old one.
        for _ in 0..2 {
            assert_eq!(run(home.path(), &save_the_key(skill)), "");
        }
        let file = home.path().join(".clawbroker").join(&agent.id);
        assert_eq!(std::fs::read_to_string(&file).expect("it is there"), format!("X-Api-Key: {}\n", agent.key));
        assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(skill.matches(&agent.key).count(), 1, "no other command shows it");
    }
    // A file that is gone costs a refused call, and the skill says what to do.
    std::fs::remove_file(home.path().join(".clawbroker").join(&ann.id)).expect("it was there");
    let missing = Command::new("sh").args(["-c", &command(&anns, "poll")]).env("HOME", home.path()).output();
    let missing = missing.expect("a shell");
    let told = String::from_utf8_lossy(&missing.stdout);
    assert!(!missing.status.success() || told.contains("\"code\":\"unauthenticated\""), "{missing:?}");
    assert!(anns.contains("put the key into its file again"));
    run(home.path(), &save_the_key(&anns));
    let send = |name: &str, text: &str| {
        let replaced = [("<name>", "ben"), ("<your message>", text), ("<a new name>", name)];
        let sent = follow(home.path(), &command(&anns, "send-message"), &replaced);
        assert_eq!(sent["status"], "accepted", "{sent}");
        sent["message_id"].as_str().unwrap().to_owned()
    };
    let text = "It's \\\"me\\\"\\n$HOME";
    let ids = ["k-1", "k-2", "k-3", "k-4"].map(|key| send(key, text));
    assert_eq!(send("k-1", text), ids[0], "a repeat is sent once");

    let polled = follow(home.path(), &command(&bens, "poll"), &[]);
    let messages = polled["messages"].as_array().unwrap();
    let got: Vec<&str> = messages.iter().map(|message| message["id"].as_str().unwrap()).collect();
    assert_eq!(got, ids);
    let first = &messages[0];
    assert_eq!((&first["content"], &first["kind"]), (&json!("It's \"me\"\n$HOME"), &json!("request")));
    assert_eq!(first["delivery_attempt"], 1, "{first}");

    let about = |route: &str, id: &str| {
        let replaced = [
            ("<id>", id),
            ("<delivery_attempt>", "1"),
            ("<your answer>", "done"),
            ("<why not now>", "busy"),
            ("<why it cannot be done>", "no"),
        ];
        follow(home.path(), &command(&bens, route), &replaced)
    };
    assert_eq!(about("report", &ids[0]), json!({ "status": "ok" }));
    assert_eq!(about("report", &ids[0]), json!({ "status": "ok" }), "a repeat changes nothing");
    assert!(about("extend", &ids[1])["lease_until"].is_string());
    let heard = about("heartbeat", &ids[1]);
    assert_eq!((&heard["extended"], &heard["stale"]), (&json!([ids[1]]), &json!([])), "{heard}");
    assert_eq!(about("nack", &ids[1])["state"], "pending");
    assert_eq!(about("fail", &ids[2])["state"], "dead");
    let refused = about("report", &ids[2]);
    assert_eq!(refused["error"]["code"], "delivery_ended", "{refused}");
    let with_all = commands(&bens).into_iter().find(|text| text.contains("coalesce_key")).expect("the long form");
    let replaced = [
        ("<name>", "Ann"),
        ("<your message>", "Which me?"),
        ("<a new name>", "b-1"),
        ("<id>", ids[3].as_str()),
        ("<subject>", "who"),
    ];
    let asked = follow(home.path(), &with_all, &replaced);
    assert_eq!((&asked["status"], &asked["target"]), (&json!("accepted"), &json!("Ann")), "{asked}");
    about("report", &ids[3]);

    let polled = follow(home.path(), &command(&anns, "poll"), &[]);
    let messages = polled["messages"].as_array().unwrap();
    let of_kind = |kind: &str| {
        let mut found: Vec<&str> =
            messages.iter().filter(|one| one["kind"] == kind).map(|one| one["in_reply_to"].as_str().unwrap()).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(of_kind("reply"), [ids[0].as_str(), ids[3].as_str()], "{polled}");
    assert_eq!(of_kind("notice"), [ids[2].as_str()], "{polled}");
    assert_eq!(of_kind("request"), [ids[3].as_str()], "{polled}");
    let reply = messages.iter().find(|one| one["kind"] == "reply").expect("one")["id"].as_str().unwrap();
    let acked = follow(home.path(), &command(&anns, "ack"), &[("<id>", reply)]);
    assert_eq!((&acked["acked"], &acked["unknown"]), (&json!([reply]), &json!([])), "{acked}");

    let receipt = follow(home.path(), &command(&anns, "messages/"), &[("<id>", ids[0].as_str())]);
    assert_eq!((&receipt["status"], &receipt["reply"]["content"]), (&json!("completed"), &json!("done")), "{receipt}");
    let found = follow(home.path(), &command(&anns, "directory"), &[("<part of a name>", "Be")]);
    assert_eq!(found["agents"][0]["name"], "Ben", "{found}");
    let log = broker.log();
    assert!(!log.contains(&ann.key) && !log.contains(&ben.key), "a key is in no line of the log");
}

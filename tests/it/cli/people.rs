//! A talk with a person that is set up and led by commands only, as the documentation of channels begins.
use std::time::Duration;

use clawbroker::channels::webhook;
use clawbroker::domain::clock::{Clock, SystemClock};
use clawbroker::domain::secret::Secret;
use serde_json::{Value, json};

use super::agents::{by, key};
use super::{Ran, command, finish, run};
use crate::harness::providers::hook::{self, HookRules};
use crate::harness::providers::{Fault, Provider, Reply};
use crate::harness::{Broker, Database};
use crate::mailbox::client::Agent;

on_both_databases!(an_agent_and_a_person_talk_by_commands);

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Runs a command as an agent, beside the provider that the broker asks meanwhile.
async fn beside(database: &Database, key: &str, args: &[&str]) -> Ran {
    let mut command = command(database, args);
    command.env("CLAWBROKER_API_KEY", key);
    tokio::task::spawn_blocking(move || finish(command)).await.expect("it ends")
}

/// Calls the hook of a channel as a sender of webhooks does; returns the status.
async fn call(broker: &Broker, channel: &str, line: &Value) -> u16 {
    let (time, body) = ((SystemClock.now_ms() / 1_000).to_string(), line.to_string());
    let signature = webhook::signature(&Secret::new(hook::SECRET), &time, body.as_bytes());
    let request = awc::Client::new()
        .post(format!("http://{}/hooks/{channel}", broker.address))
        .timeout(PATIENCE)
        .insert_header((webhook::TIMESTAMP, time.as_str()))
        .insert_header((webhook::SIGNATURE, signature.as_str()));
    request.send_body(body).await.expect("an answer").status().as_u16()
}

/// Returns who has written on the channel, and which person each of them is.
fn senders(database: &Database) -> Vec<(String, Value)> {
    let list = run(database, &["channel", "senders", "CRM", "--json"]).fine().json();
    let items = list.as_array().expect("a list");
    items.iter().map(|one| (one["ref"].as_str().expect("a ref").to_owned(), one["member_id"].clone())).collect()
}

async fn an_agent_and_a_person_talk_by_commands(database: Database) {
    let provider = Provider::start(HookRules::default());
    let settings = database.data_dir().join("settings.toml");
    std::fs::write(&settings, "[channels]\nwebhook_plain = true\nwebhook_private = true\n").expect("a file");
    let broker = Broker::start(&database, &[], &[("CLAWBROKER_CONFIG", &settings.to_string_lossy())]).await;
    run(&database, &["agent", "add", "Ann"]).fine();
    let ann = key(&database, "ann");
    let file = database.data_dir().join("secret.txt");
    std::fs::write(&file, hook::SECRET).expect("a file");
    let secret = format!("secret={}", file.display());
    let args = ["channel", "add", "webhook", "CRM", "--agent", "ann", "--secret-file", &secret, "--json"];
    let channel = run(&database, &args).fine().json()["id"].as_str().expect("an id").to_owned();
    let url = format!("{}/in", provider.url);
    let eve = run(&database, &["member", "add", "Eve", "--webhook", &url, "--json"]).fine().json()["id"].clone();
    let unknown = by(&database, &ann, &["send", "--to", "Eve", "Lunch?"]).refused(1);
    assert_eq!(unknown, "Target 'Eve' not found. Check your relationships list.");
    run(&database, &["agent", "know", "ann", "Eve", "boss"]).fine();

    let told = beside(&database, &ann, &["send", "--to", "Eve", "Lunch?", "--channel", "webhook"]).await.fine();
    let id = told.out.strip_prefix("Message ").and_then(|rest| rest.split(' ').next()).expect("an id").to_owned();
    assert_eq!((told.out, told.err), (format!("Message {id} to Eve is sent by webhook.\n"), String::new()));
    let got = provider.with(|rules| rules.got[0].clone());
    assert_eq!(got["text"], "Lunch?");
    let other = beside(&database, &ann, &["send", "--to", "Eve", "Lunch?", "--channel", "telegram"]).await.refused(1);
    assert!(other.starts_with("No available channel to reach Eve."), "{other}");
    // The message is on disk, and a repeat would get the same answer: nothing is said of one.
    provider.fail(Fault::Says(Reply::new(403, json!({}))));
    let refused = beside(&database, &ann, &["send", "--to", "Eve", "Tea?"]).await.refused(1);
    assert!(refused.starts_with("Webhook send failed: ") && !refused.contains("repeat with"), "{refused}");

    // Who calls here is no address that we wrote to: somebody has to say who it is.
    let line = |id: &str, text: &str| {
        let (conversation, to) = (&got["conversation_id"], &got["id"]);
        json!({ "id": id, "text": text, "from": "crm-7", "conversation_id": conversation, "reply_to": to })
    };
    assert_eq!(call(&broker, &channel, &line("1", "let me in")).await, 200);
    assert_eq!(senders(&database), [("crm-7".to_owned(), Value::Null)]);
    let told = run(&database, &["channel", "allow", "CRM", "crm-7", "Eve"]).fine().out;
    assert_eq!(told, "What `crm-7` writes is taken from now on.\n");
    assert_eq!(senders(&database), [("crm-7".to_owned(), eve)]);
    assert_eq!(call(&broker, &channel, &line("2", "yes")).await, 200);
    let polled = beside(&database, &ann, &["agent", "poll", "--wait", "30", "--json"]).await.fine().json();
    let messages = polled["messages"].as_array().expect("a list");
    let answer = messages.iter().find(|one| one["kind"] == "request").expect("her answer");
    assert_eq!((&answer["content"], &answer["sender_user_name"]), (&json!("yes"), &json!("Eve")), "{polled}");
    assert_eq!(answer["in_reply_to"], id.as_str());
    // The receipt of what she answered shows it, too.
    let agent = Agent { id: String::new(), key: ann.clone() };
    let path = format!("/api/gateway/messages/{id}");
    let (status, receipt) = agent.call(&broker, "GET", &path, None).await;
    assert_eq!((status, &receipt["reply"]["content"]), (200, &json!("yes")), "{receipt}");
    assert_eq!(receipt["reply"]["message_id"], answer["id"]);
    let (_, receipt) = broker.get(&format!("/api/admin/messages/{id}")).await;
    assert_eq!((&receipt["reply"]["id"], &receipt["reply"]["content"][0]["text"]), (&answer["id"], &json!("yes")));
    beside(&database, &ann, &["agent", "report", answer["id"].as_str().expect("an id"), "At noon"]).await.fine();
    let began = tokio::time::Instant::now();
    while provider.with(|rules| rules.got.len()) < 2 {
        assert!(began.elapsed() < PATIENCE, "the report did not come\n{}", broker.log());
        tokio::time::sleep(LOOK).await;
    }
    assert_eq!(provider.with(|rules| rules.got[1]["text"].clone()), "At noon");

    let told = run(&database, &["channel", "forget", "CRM", "crm-7"]).fine().out;
    assert_eq!(told, "What `crm-7` writes is refused from now on.\n");
    assert_eq!(call(&broker, &channel, &line("3", "still there?")).await, 200);
    assert_eq!(senders(&database), [("crm-7".to_owned(), Value::Null)]);
}

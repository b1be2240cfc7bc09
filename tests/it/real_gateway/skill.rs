//! An agent behind a real gateway follows our skill to the letter: its model is scripted, its tools are the gateway's.
use serde_json::{Value, json};

use super::check::check;
use super::stories::{connected, until_end};
use crate::harness::{Browser, Database, Peer};
use crate::mailbox::client::Agent;
use crate::mailbox::skill::{command, save_the_key};

on_both_databases!(
    #[ignore = "takes minutes and a real gateway: ./test --real-gateway"]
    an_agent_of_a_gateway_follows_the_skill,
);

const SESSION: &str = "skill";

/// Has the agent's model call a tool of the gateway; returns what the model then knows of the result.
async fn tool(browser: &mut Browser, name: &str, arguments: Value) -> String {
    browser.ask(SESSION, &format!("tool {name} {arguments}")).await;
    let end = until_end(browser).await;
    assert_eq!(end["state"], "final", "{end}");
    end["text"].as_str().expect("a text").to_owned()
}

/// Has the agent's model call the gateway's `exec` with a command of the skill, with these in the place of what stands
/// in `<…>`; returns what the model then knows of the result.
async fn obey(browser: &mut Browser, command: &str, replaced: &[(&str, &str)]) -> String {
    let command = replaced.iter().fold(command.to_owned(), |text, (place, by)| text.replace(place, by));
    tool(browser, "exec", json!({ "command": command })).await
}

async fn an_agent_of_a_gateway_follows_the_skill(database: Database) {
    // The gateway runs its agent's commands without asking a person.
    let config = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(config.path(), json!({ "tools": { "exec": { "mode": "full" } } }).to_string())
        .expect("it is written");
    let path = config.path().to_string_lossy().into_owned();
    let peer = Peer::start(&[("PEER_CONFIG", &path)]).await;
    let broker = connected(&database, &peer).await;
    let claw = Agent::register(&broker, "Claw").await;
    let (ann, ben) = (Agent::register(&broker, "Ann").await, Agent::register(&broker, "Ben").await);
    let skill = claw.skill(&broker).await;
    let mut browser = broker.browser("/ws/chat/gw").await;

    // A gateway blacks out what looks like a key to it, in what people say and in what tools find: nothing that the agent
    // has to run may be hidden from it.
    for command in [save_the_key(&skill), command(&skill, "poll"), command(&skill, "send-message")] {
        let line = command.lines().next().expect("a line");
        std::fs::write(peer.workspace().join("skill.md"), line).expect("it is written");
        let told = tool(&mut browser, "read", json!({ "path": "skill.md" })).await;
        assert!(told.contains(line), "{line}\n{told}");
    }
    obey(&mut browser, &save_the_key(&skill), &[]).await;

    // It gets a question, asks another agent because of it, and answers.
    let question = ann.send(&broker, "Claw", "What is 6 times 7?").await;
    let told = obey(&mut browser, &command(&skill, "poll"), &[]).await;
    assert!(told.contains(&question), "{told}");
    let replaced = [("<name>", "Ben"), ("<your message>", "Is it 42?"), ("<a new name>", "ben-1")];
    let told = obey(&mut browser, &command(&skill, "send-message"), &replaced).await;
    assert!(told.contains("\"status\":\"accepted\""), "{told}");
    let asked = ben.messages(&broker).await;
    assert_eq!((&asked[0]["content"], &asked[0]["sender_agent_name"]), (&json!("Is it 42?"), &json!("Claw")));
    let done = json!({ "message_id": asked[0]["id"], "result": "It is." });
    assert_eq!(ben.call(&broker, "POST", "/api/gateway/report", Some(done)).await.0, 200);
    let replaced = [("<id>", question.as_str()), ("<delivery_attempt>", "1"), ("<your answer>", "It's \\\"42\\\"")];
    let told = obey(&mut browser, &command(&skill, "report"), &replaced).await;
    assert!(told.contains("\"status\":\"ok\""), "{told}");
    let answer = ann.messages(&broker).await;
    assert_eq!((&answer[0]["content"], &answer[0]["in_reply_to"]), (&json!("It's \"42\""), &json!(question)));

    // The other one's reply comes until it is acknowledged.
    let told = obey(&mut browser, &command(&skill, "poll"), &[]).await;
    let reply = told.split("\"id\":\"").nth(1).and_then(|rest| rest.get(..36)).expect("an id");
    let told = obey(&mut browser, &command(&skill, "ack"), &[("<id>", reply)]).await;
    assert!(told.contains(&format!("\"acked\":[\"{reply}\"]")), "{told}");
    check(&database, &broker, &peer, "gw", SESSION, &[&browser]).await;
}

//! People who write to agents by the admin API, and what they see of the answer.
use std::time::Duration;

use actix::prelude::*;
use clawbroker::actors::hub::{Hub, HubMessage};
use clawbroker::domain::event::Event;
use clawbroker::domain::ids::{ConversationId, SocketId};
use clawbroker::domain::user::Role;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{messages, poll, report, send};
use crate::harness::Database;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    a_person_asks_and_sees_the_answer,
    a_user_has_one_conversation_with_an_agent,
    a_message_with_a_key_is_said_once,
    what_nobody_would_answer_is_refused,
    a_full_mailbox_takes_no_more,
    what_agents_say_to_each_other_is_only_read,
);

const CONVERSATIONS: &str = "/api/admin/conversations";
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

/// Opens a conversation as an operator.
async fn open(node: &TestNode, body: Value) -> Reply {
    node.post(CONVERSATIONS).json(&body).by(Role::Operator).await
}

/// Makes the operator's conversation with an agent; returns the path of its messages.
async fn talk(node: &TestNode, agent: &str) -> String {
    let made = open(node, json!({ "agent_id": agent })).await.expect_status(201).json;
    format!("{CONVERSATIONS}/{}/messages", made["id"].as_str().unwrap())
}

async fn say(node: &TestNode, path: &str, body: Value) -> Reply {
    node.post(path).json(&body).by(Role::Operator).await
}

/// A socket of a browser, as its hub sees it.
struct Tab(mpsc::UnboundedSender<HubMessage>);

impl Actor for Tab {
    type Context = Context<Self>;
}

impl Handler<HubMessage> for Tab {
    type Result = ();

    fn handle(&mut self, message: HubMessage, _: &mut Context<Self>) {
        // The test may be over.
        let _ = self.0.send(message);
    }
}

/// Watches a conversation.
fn watch(node: &TestNode, conversation: ConversationId) -> mpsc::UnboundedReceiver<HubMessage> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (hub, socket) = (Hub::local(&node.state.hubs), SocketId::new());
    hub.enter(socket, Tab(sender).start().recipient());
    hub.watch(socket, conversation);
    receiver
}

/// Waits for the next line that a watching browser is told of.
async fn next_line(told: &mut mpsc::UnboundedReceiver<HubMessage>) -> String {
    loop {
        let message = timeout(Duration::from_secs(30), told.recv()).await.expect("in time").expect("the hub is there");
        let HubMessage::Events(events) = message else { continue };
        for event in events.iter() {
            if let Event::Line { line, .. } = event.as_ref() {
                return line.text.clone();
            }
        }
    }
}

async fn a_person_asks_and_sees_the_answer(node: TestNode) {
    let (ben_id, ben) = node.agent("Ben").await;
    let operator = node.user("operator", Role::Operator).await.user_id;
    let made = open(&node, json!({ "agent_id": ben_id })).await.expect_status(201).json;
    let key = format!("user_agent_{operator}_{ben_id}");
    assert_eq!((&made["kind"], &made["key"]), (&json!("user_agent"), &json!(key)));
    assert_eq!((&made["agent_id"], &made["owner_id"]), (&json!(ben_id), &json!(operator)));
    assert_eq!((&made["title"], &made["messages"]), (&json!("OPERATOR ↔ Ben"), &json!(0)));
    let one = format!("{CONVERSATIONS}/{}", made["id"].as_str().unwrap());
    let mut told = watch(&node, made["id"].as_str().unwrap().parse().unwrap());
    let said = say(&node, &format!("{one}/messages"), json!({ "content": "How far?" })).await.expect_status(201).json;
    assert_eq!((&said["message"]["kind"], &said["message"]["role"]), (&json!("request"), &json!("user")));
    let delivery = &said["deliveries"][0];
    assert_eq!((&delivery["recipient"]["kind"], &delivery["recipient"]["id"]), (&json!("agent"), &json!(ben_id)));
    assert_eq!(delivery["state"], "pending");
    assert_eq!(next_line(&mut told).await, "How far?");

    let polled = messages(&node, &ben, "").await;
    assert_eq!(polled.len(), 1);
    let question = &polled[0];
    assert_eq!((&question["id"], &question["content"]), (&said["message"]["id"], &json!("How far?")));
    assert_eq!((&question["conversation_id"], &question["kind"]), (&json!(key), &json!("request")));
    assert_eq!(
        (&question["sender_user_name"], &question["sender_user_id"], &question["sender_agent_name"]),
        (&json!("OPERATOR"), &json!(operator), &Value::Null)
    );
    let done = json!({ "message_id": question["id"], "result": "Ten miles" });
    assert_eq!(report(&node, &ben, done).await.0, 200);
    assert_eq!(next_line(&mut told).await, "Ten miles");

    let log = node.get(&format!("{one}/messages")).by(Role::Viewer).await.expect_status(200).json;
    let answer = &log["items"][1];
    assert_eq!((&answer["kind"], &answer["in_reply_to"]), (&json!("reply"), &question["id"]));
    assert_eq!((&answer["sender"]["kind"], &answer["sender"]["name"]), (&json!("agent"), &json!("Ben")));
    let path = format!("/api/admin/messages/{}", question["id"].as_str().unwrap());
    let receipt = node.get(&path).by(Role::Viewer).await.expect_status(200).json;
    let chain = receipt["deliveries"].as_array().unwrap();
    assert_eq!((chain.len(), &chain[0]["state"], &chain[0]["outcome"]), (1, &json!("completed"), &json!("reported")));
    let events: Vec<&str> =
        chain[0]["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap()).collect();
    assert_eq!(events, ["accepted", "stored", "leased", "completed"]);
    assert_eq!(receipt["reply"]["content"], json!([{ "type": "text", "text": "Ten miles" }]));
    let shown = node.get(&one).by(Role::Viewer).await.expect_status(200).json;
    let mut parties: Vec<&str> =
        shown["parties"].as_array().unwrap().iter().map(|party| party["kind"].as_str().unwrap()).collect();
    parties.sort_unstable();
    assert_eq!(parties, ["agent", "user"]);
    // The next question comes with what was said.
    say(&node, &format!("{one}/messages"), json!({ "content": "And back?" })).await.expect_status(201);
    let polled = messages(&node, &ben, "").await;
    let next = &polled[0];
    let history: Vec<(&Value, &Value)> =
        next["history"].as_array().unwrap().iter().map(|line| (&line["content"], &line["sender_name"])).collect();
    assert_eq!(history, [(&json!("How far?"), &json!("OPERATOR")), (&json!("Ten miles"), &json!("Ben"))]);
}

async fn a_user_has_one_conversation_with_an_agent(node: TestNode) {
    let (ben, _) = node.agent("Ben").await;
    let ann = node.user("ann", Role::Member).await.user_id;
    let own = open(&node, json!({ "agent_id": ben })).await.expect_status(201).json;
    let again = open(&node, json!({ "agent_id": ben, "user_id": null })).await.expect_status(200).json;
    assert_eq!(again, own);
    let of_ann = open(&node, json!({ "agent_id": ben, "user_id": ann })).await.expect_status(201).json;
    assert_eq!((&of_ann["owner_id"], &of_ann["title"]), (&json!(ann), &json!("ANN ↔ Ben")));
    assert_ne!(of_ann["id"], own["id"]);
    let list = node.get(&format!("{CONVERSATIONS}?kind=user_agent&owner_id={ann}")).by(Role::Viewer).await;
    let list = list.expect_status(200).json;
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["id"]), (1, &of_ann["id"]));
    let target = own["id"].as_str().unwrap();
    let audit = node.get(&format!("/api/admin/audit?target={target}")).by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(
        (audit["items"].as_array().unwrap().len(), &audit["items"][0]["action"]),
        (1, &json!("conversation.add"))
    );
    for unknown in [json!({ "agent_id": NOBODY }), json!({ "agent_id": ben, "user_id": NOBODY })] {
        open(&node, unknown).await.expect_error(404, "not_found");
    }
    for (wrong, field) in [
        (json!({}), "agent_id"),
        (json!({ "agent_id": "Ben" }), "agent_id"),
        (json!({ "agent_id": ben, "user_id": "ann" }), "user_id"),
        (json!({ "agent_id": ben, "title": "x" }), "title"),
    ] {
        assert_eq!(open(&node, wrong).await.expect_error(422, "validation_error").fields(), [field]);
    }
}

async fn a_message_with_a_key_is_said_once(node: TestNode) {
    let (id, ben) = node.agent("Ben").await;
    let path = talk(&node, &id).await;
    let send = |body: Value| node.post(&path).header("idempotency-key", "k-1").json(&body).by(Role::Operator);
    let first = send(json!({ "content": "hello" })).await.expect_status(201).json;
    assert_eq!(send(json!({ "content": "hello" })).await.expect_status(201).json, first);
    send(json!({ "content": "bye" })).await.expect_error(409, "idempotency_conflict");
    send(json!({ "content": "hello", "deliver": false })).await.expect_error(409, "idempotency_conflict");
    assert_eq!(messages(&node, &ben, "").await.len(), 1);
}

async fn what_nobody_would_answer_is_refused(node: TestNode) {
    let (ben_id, ben) = node.agent("Ben").await;
    let with_ben = talk(&node, &ben_id).await;
    let its_own = format!("agent:{ben_id}");
    let (cat_id, _) = node.agent("Cat").await;
    for (wrong, field) in [
        (json!({ "content": "x", "role": "system" }), "role"),
        (json!({ "content": "x", "from": its_own }), "from"),
        (json!({ "content": "x", "from": format!("agent:{cat_id}") }), "from"),
        (json!({ "content": " " }), "content"),
    ] {
        assert_eq!(say(&node, &with_ben, wrong).await.expect_error(422, "validation_error").fields(), [field]);
    }
    for from in [its_own, format!("agent:{cat_id}")] {
        let line = json!({ "content": "said elsewhere", "from": from, "role": "assistant", "deliver": false });
        let said = say(&node, &with_ben, line).await.expect_status(201).json;
        assert_eq!((&said["message"]["kind"], &said["deliveries"]), (&Value::Null, &json!([])));
    }
    assert_eq!(poll(&node, &ben, "").await["messages"], json!([]));

    let native = json!({ "name": "Nat", "kind": "native" });
    let native = node.post("/api/admin/agents").json(&native).by(Role::Operator).await.expect_status(201).json;
    let with_native = talk(&node, native["id"].as_str().unwrap()).await;
    let refused = say(&node, &with_native, json!({ "content": "hello" })).await.expect_error(400, "invalid_request");
    let sentence = "Nat is a native agent; writing to native agents comes with a later version";
    assert_eq!(refused.json["detail"], sentence);
    say(&node, &with_native, json!({ "content": "noted", "deliver": false })).await.expect_status(201);

    node.delete(&format!("/api/admin/agents/{ben_id}")).by(Role::Operator).await.expect_status(200);
    say(&node, &with_ben, json!({ "content": "hello" })).await.expect_error(404, "not_found");
    open(&node, json!({ "agent_id": ben_id })).await.expect_error(404, "not_found");
    say(&node, &with_ben, json!({ "content": "noted", "deliver": false })).await.expect_status(201);
    let log = node.get(&with_ben).by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(log["items"].as_array().unwrap().len(), 3, "what was said stays");
}

async fn a_full_mailbox_takes_no_more(database: Database) {
    let node = TestNode::with(database, |config| config.limits.mailbox_messages_max = 1);
    let (id, ben) = node.agent("Ben").await;
    let path = talk(&node, &id).await;
    say(&node, &path, json!({ "content": "one" })).await.expect_status(201);
    say(&node, &path, json!({ "content": "two" })).await.expect_error(429, "mailbox_full");
    let polled = messages(&node, &ben, "").await;
    assert_eq!(report(&node, &ben, json!({ "message_id": polled[0]["id"], "result": "done" })).await.0, 200);
    say(&node, &path, json!({ "content": "two" })).await.expect_status(201);
}

async fn what_agents_say_to_each_other_is_only_read(node: TestNode) {
    let (_, ann) = node.agent("Ann").await;
    node.agent("Ben").await;
    send(&node, &ann, "Ben", "hello").await;
    let found = node.get(&format!("{CONVERSATIONS}?kind=agents")).by(Role::Viewer).await.expect_status(200).json;
    let path = format!("{CONVERSATIONS}/{}/messages", found["items"][0]["id"].as_str().unwrap());
    for body in [json!({ "content": "x" }), json!({ "content": "x", "role": "system", "deliver": false })] {
        let refused = say(&node, &path, body).await.expect_error(409, "invalid_request");
        assert!(refused.json["detail"].as_str().unwrap().contains("two agents"), "{}", refused.text);
    }
    let log = node.get(&path).by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(log["items"].as_array().unwrap().len(), 1);
}

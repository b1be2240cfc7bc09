//! Messages that an operator adds as somebody else.
use clawbroker::domain::ids::{DeliveryId, TurnId};
use clawbroker::domain::user::Role;
use clawbroker::store::turns::BeginTurn;
use serde_json::{Value, json};

use super::TestNode;
use super::node::Reply;
use crate::harness::test_store::answer;

on_both_databases!(
    a_message_is_said_by_the_party_that_was_named,
    what_is_no_party_is_refused,
    a_key_counts_for_the_sender,
    a_gateway_speaks_but_is_not_asked_in_its_own_name,
);

/// Makes a session of `ann` and returns the path of its messages and the id of `ann`.
async fn session(node: &TestNode) -> (String, String) {
    node.gateway("lab").await;
    let made = node
        .post("/api/gateways/lab/sessions")
        .json(&json!({ "session_key": "a" }))
        .by_user("ann", Role::Member)
        .await
        .expect_status(200);
    let path = format!("/api/admin/conversations/{}/messages", made.json["id"].as_str().unwrap());
    (path, node.user("ann", Role::Member).await.user_id.to_string())
}

async fn post(node: &TestNode, path: &str, body: &Value) -> Reply {
    node.post(path).json(body).by(Role::Operator).await
}

async fn a_message_is_said_by_the_party_that_was_named(node: TestNode) {
    let (path, ann) = session(&node).await;
    let party_id = node.user("ann", Role::Member).await.party_id.to_string();
    let as_shown = json!({ "kind": "user", "id": ann, "name": "ANN" });
    for (from, text) in [
        (json!(party_id), "one"),
        (json!(format!("user:{ann}")), "two"),
        (json!({ "kind": "user", "id": ann }), "three"),
        (as_shown.clone(), "four"),
    ] {
        let said = post(&node, &path, &json!({ "content": text, "from": from })).await.expect_status(201).json;
        assert_eq!((&said["message"]["sender"], &said["message"]["role"]), (&as_shown, &json!("user")));
        // It is answered like any other question.
        let delivery_id: DeliveryId = said["deliveries"][0]["id"].as_str().unwrap().parse().unwrap();
        let turn_id = TurnId::new();
        node.state.store.write(BeginTurn { turn_id, delivery_id }).await.unwrap();
        node.state.store.write(answer(turn_id, &format!("re: {text}"))).await.unwrap();
        let receipt = format!("/api/admin/messages/{}", said["message"]["id"].as_str().unwrap());
        let receipt = node.get(&receipt).by(Role::Viewer).await.expect_status(200).json;
        assert_eq!(
            (&receipt["message"]["sender"], &receipt["reply"]["content"][0]["text"]),
            (&as_shown, &json!(format!("re: {text}")))
        );
    }
    // Without a name it is the caller, as ever.
    let own = post(&node, &path, &json!({ "content": "five", "from": null })).await.expect_status(201).json;
    assert_eq!(own["message"]["sender"]["name"], "OPERATOR");
    // A user of a higher role, too; the audit tells both.
    let admin = node.user("root", Role::Admin).await.user_id;
    let note = json!({ "content": "noted", "from": format!("user:{admin}"), "role": "system", "deliver": false });
    post(&node, &path, &note).await.expect_status(201);
    let rows = node.get("/api/admin/audit?action=message.add&limit=1").by(Role::Viewer).await.expect_status(200).json;
    let row = &rows["items"][0];
    assert_eq!((&row["actor"], &row["after"]["sender"]["name"]), (&json!("operator"), &json!("ROOT")));
    assert!(!row.to_string().contains("noted"), "{row}");
}

async fn what_is_no_party_is_refused(node: TestNode) {
    let (path, ann) = session(&node).await;
    for from in [
        json!("01890000-0000-7000-8000-000000000000"),
        // A user's id is not its party's.
        json!(ann),
        json!("user:nobody"),
        json!({ "kind": "user", "id": "nobody" }),
        json!({ "kind": "robot", "id": "x" }),
        json!({ "kind": "user" }),
        json!("ann"),
        json!("user:\u{0}"),
        json!(""),
        json!(7),
        json!([]),
    ] {
        let body = json!({ "content": "x", "from": from });
        let refused = post(&node, &path, &body).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), ["from"], "{body}");
    }
    let log = node.get(&path).by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(log["items"], json!([]));
}

/// D10: the scope of a message's key is its sender.
async fn a_key_counts_for_the_sender(node: TestNode) {
    let (path, ann) = session(&node).await;
    let send = async |by: &str, text: &str, from: Option<&str>| {
        let body = json!({ "content": text, "from": from.map(|id| format!("user:{id}")) });
        node.post(&path).header("idempotency-key", "k").json(&body).by_user(by, Role::Operator).await
    };
    let first = send("op-1", "hello", Some(&ann)).await.expect_status(201).json;
    let second = send("op-2", "hello", Some(&ann)).await.expect_status(201).json;
    assert_eq!(first, second, "one key of one sender is one message");
    send("op-1", "other", Some(&ann)).await.expect_error(409, "idempotency_conflict");
    let own = send("op-1", "other", None).await.expect_status(201).json;
    assert_ne!(own["message"]["id"], first["message"]["id"]);
}

async fn a_gateway_speaks_but_is_not_asked_in_its_own_name(node: TestNode) {
    let (path, _) = session(&node).await;
    node.gateway("other").await;
    let itself = json!({ "content": "x", "from": "gateway:lab" });
    assert_eq!(post(&node, &path, &itself).await.expect_error(422, "validation_error").fields(), ["from"]);
    let line = json!({ "content": "said elsewhere", "from": "gateway:lab", "role": "assistant", "deliver": false });
    let said = post(&node, &path, &line).await.expect_status(201).json;
    assert_eq!((&said["message"]["sender"]["kind"], &said["deliveries"]), (&json!("gateway"), &json!([])));
    let another = json!({ "content": "a question of another one", "from": "gateway:other" });
    let said = post(&node, &path, &another).await.expect_status(201).json;
    assert_eq!(said["deliveries"][0]["recipient"]["id"], "lab");
}

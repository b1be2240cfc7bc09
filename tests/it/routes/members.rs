//! The admin API: people, and whom agents know.
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;
use super::node::Reply;

on_both_databases!(
    a_person_is_kept_changed_and_removed,
    what_is_said_of_a_person_has_bounds,
    people_are_listed_by_name,
    an_agent_is_told_whom_it_knows,
    what_is_said_of_a_relationship_has_bounds,
    a_relationship_is_found_at_its_own_agent_only,
);

const MEMBERS: &str = "/api/admin/members";
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

async fn create(node: &TestNode, body: Value) -> Reply {
    node.post(MEMBERS).json(&body).by(Role::Operator).await
}

/// Keeps a person who is only called something; returns its id.
async fn named(node: &TestNode, name: &str) -> String {
    let made = create(node, json!({ "name": name })).await.expect_status(201).json;
    made["id"].as_str().unwrap().to_owned()
}

async fn a_person_is_kept_changed_and_removed(node: TestNode) {
    let made = create(&node, json!({ "name": " Eve " })).await.expect_status(201).json;
    let expected = json!({
        "id": made["id"], "name": "Eve", "user_id": null, "email": null, "phone": null, "feishu": null,
        "telegram_chat_id": null, "whatsapp": null, "webhook_url": null, "created_at": made["created_at"],
        "updated_at": made["created_at"],
    });
    assert_eq!(made, expected);
    let one = format!("{MEMBERS}/{}", made["id"].as_str().unwrap());
    assert_eq!(node.get(&one).by(Role::Operator).await.expect_status(200).json, made);
    let user = node.user("eve", Role::Member).await.user_id;
    node.clock.advance_ms(1_000);
    let patch = |body: Value| node.patch(&one).json(&body).by(Role::Operator);
    let change = json!({
        "name": "Eva", "user_id": user, "email": "eva@example.com", "phone": "+49 30 1",
        "feishu": { "user_id": "u", "open_id": "o" }, "telegram_chat_id": "-1001", "whatsapp": "+4930123",
        "webhook_url": "https://example.com/hook?key=x",
    });
    let changed = patch(change.clone()).await.expect_status(200).json;
    for (field, value) in change.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field}");
    }
    assert_ne!(changed["updated_at"], made["updated_at"]);
    // A number is what Telegram's own clients show.
    assert_eq!(patch(json!({ "telegram_chat_id": 7 })).await.expect_status(200).json["telegram_chat_id"], "7");
    let half = patch(json!({ "feishu": { "user_id": null } })).await.expect_status(200).json;
    assert_eq!((&half["feishu"], &half["email"]), (&json!({ "user_id": null, "open_id": "o" }), &change["email"]));
    for field in ["user_id", "email", "phone", "feishu", "telegram_chat_id", "whatsapp", "webhook_url"] {
        let cleared = patch(json!({ field: null })).await.expect_status(200).json;
        assert_eq!((&cleared[field], &cleared["name"]), (&Value::Null, &json!("Eva")), "{field}");
    }
    assert_eq!(patch(json!({ "id": NOBODY })).await.expect_error(422, "validation_error").fields(), ["id"]);
    node.delete(&one).by(Role::Operator).await.expect_status(200);
    node.delete(&one).by(Role::Operator).await.expect_error(404, "not_found");
    patch(json!({})).await.expect_error(404, "not_found");
    node.get(&one).by(Role::Operator).await.expect_error(404, "not_found");
    let target = made["id"].as_str().unwrap();
    let audit = node.get(&format!("/api/admin/audit?target={target}")).by(Role::Viewer).await.expect_status(200);
    assert_eq!(audit.header("x-total-count"), "12", "each change is told of");
    assert_eq!(audit.json["items"][0]["action"], "member.remove");
}

async fn what_is_said_of_a_person_has_bounds(node: TestNode) {
    for (wrong, field) in [
        (json!({}), "name"),
        (json!({ "name": " " }), "name"),
        (json!({ "name": "ä".repeat(101) }), "name"),
        (json!({ "name": "a\nb" }), "name"),
        (json!({ "name": "a", "user_id": NOBODY }), "user_id"),
        (json!({ "name": "a", "user_id": "7" }), "user_id"),
        (json!({ "name": "a", "email": "a" }), "email"),
        (json!({ "name": "a", "email": "üser@example.com" }), "email"),
        (json!({ "name": "a", "email": "a@[127.0.0.1]" }), "email"),
        (json!({ "name": "a", "email": format!("{}@x", "a".repeat(253)) }), "email"),
        (json!({ "name": "a", "phone": "call me" }), "phone"),
        (json!({ "name": "a", "feishu": "u" }), "feishu"),
        (json!({ "name": "a", "feishu": { "user_id": "" } }), "feishu"),
        (json!({ "name": "a", "feishu": { "union_id": "u" } }), "feishu"),
        (json!({ "name": "a", "telegram_chat_id": 1.5 }), "telegram_chat_id"),
        (json!({ "name": "a", "telegram_chat_id": "a b" }), "telegram_chat_id"),
        (json!({ "name": "a", "whatsapp": "1" }), "whatsapp"),
        (json!({ "name": "a", "webhook_url": "example.com" }), "webhook_url"),
        (json!({ "name": "a", "webhook_url": "file:///etc/passwd" }), "webhook_url"),
        (json!({ "name": "a", "slug": "a" }), "slug"),
    ] {
        let refused = create(&node, wrong.clone()).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{wrong}");
    }
    create(&node, json!({ "name": "ä".repeat(100), "feishu": {}, "email": null })).await.expect_status(201);
    assert_eq!(node.get(MEMBERS).by(Role::Operator).await.header("x-total-count"), "1", "nothing else was made");
}

async fn people_are_listed_by_name(node: TestNode) {
    for name in ["bob", "Ärger", "ann", "Bob", "a/b"] {
        named(&node, name).await;
    }
    let (mut names, mut path) = (Vec::new(), format!("{MEMBERS}?limit=2"));
    loop {
        let page = node.get(&path).by(Role::Operator).await.expect_status(200);
        assert_eq!(page.header("x-total-count"), "5");
        names.extend(page.json["items"].as_array().unwrap().iter().map(|person| person["name"].clone()));
        let Some(next) = page.json["next"].as_str() else { break };
        path = format!("{MEMBERS}?limit=2&cursor={next}");
    }
    let place = |name: &str| names.iter().position(|known| known == name).unwrap();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(place("ann") < place("bob") && place("Bob") == place("bob") + 1, "{names:?}");
    assert!(names.contains(&json!("Ärger")) && names.contains(&json!("a/b")), "{names:?}");
    node.get(&format!("{MEMBERS}?cursor=xyz")).by(Role::Operator).await.expect_error(422, "validation_error");
}

async fn an_agent_is_told_whom_it_knows(node: TestNode) {
    let (ann, _) = node.agent("ann").await;
    let (ben, _) = node.agent("ben").await;
    let eve = named(&node, "Eve").await;
    let path = format!("/api/admin/agents/{ann}/relationships");
    let post = |body: Value| node.post(&path).json(&body).by(Role::Operator);
    let new = json!({ "member_id": eve, "relation": " boss ", "description": "asks" });
    let to_eve = post(new.clone()).await.expect_status(201).json;
    let expected = json!({
        "id": to_eve["id"], "type": "human", "member_id": eve, "agent_id": null, "name": "Eve", "relation": "boss",
        "description": "asks", "created_at": to_eve["created_at"],
    });
    assert_eq!(to_eve, expected);
    let to_ben = post(json!({ "agent_id": ben, "relation": "peer", "description": " " })).await.expect_status(201).json;
    assert_eq!((&to_ben["type"], &to_ben["agent_id"]), (&json!("agent"), &json!(ben)));
    assert_eq!((&to_ben["member_id"], &to_ben["description"]), (&Value::Null, &Value::Null));
    post(new).await.expect_error(409, "already_exists");
    let first = node.get(&format!("{path}?limit=1")).by(Role::Operator).await.expect_status(200);
    assert_eq!((first.header("x-total-count"), &first.json["items"]), ("2", &json!([to_eve])));
    let next = first.json["next"].as_str().unwrap();
    let rest = node.get(&format!("{path}?limit=1&cursor={next}")).by(Role::Operator).await.expect_status(200).json;
    assert_eq!((&rest["items"], &rest["next"]), (&json!([to_ben]), &Value::Null));
    let id = to_eve["id"].as_str().unwrap();
    node.delete(&format!("{path}/{id}")).by(Role::Operator).await.expect_status(200);
    let left = node.get(&path).by(Role::Operator).await.expect_status(200).json;
    assert_eq!(left["items"], json!([to_ben]));
    let audit = node.get(&format!("/api/admin/audit?target={id}")).by(Role::Viewer).await.json;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["relationship.remove", "relationship.add"]);
    // Whom it knew is known no more.
    node.delete(&format!("/api/admin/agents/{ben}")).by(Role::Operator).await.expect_status(200);
    assert_eq!(node.get(&path).by(Role::Operator).await.expect_status(200).json["items"], json!([]));
}

async fn what_is_said_of_a_relationship_has_bounds(node: TestNode) {
    let (ann, _) = node.agent("ann").await;
    let (ben, _) = node.agent("ben").await;
    let eve = named(&node, "Eve").await;
    let path = format!("/api/admin/agents/{ann}/relationships");
    for (wrong, field) in [
        (json!({ "relation": "boss" }), "member_id"),
        (json!({ "member_id": eve, "agent_id": ben, "relation": "boss" }), "agent_id"),
        (json!({ "member_id": eve }), "relation"),
        (json!({ "member_id": eve, "relation": " " }), "relation"),
        (json!({ "member_id": eve, "relation": "ä".repeat(51) }), "relation"),
        (json!({ "member_id": eve, "relation": "a\nb" }), "relation"),
        (json!({ "member_id": eve, "relation": "boss", "description": "x".repeat(1_001) }), "description"),
        (json!({ "member_id": eve, "relation": "boss", "role": "x" }), "role"),
        (json!({ "member_id": NOBODY, "relation": "boss" }), "member_id"),
        (json!({ "member_id": "7", "relation": "boss" }), "member_id"),
        // An agent is no person, and the other way round.
        (json!({ "member_id": ben, "relation": "boss" }), "member_id"),
        (json!({ "agent_id": eve, "relation": "boss" }), "agent_id"),
        (json!({ "agent_id": ann, "relation": "boss" }), "agent_id"),
    ] {
        let refused = node.post(&path).json(&wrong).by(Role::Operator).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{wrong}");
    }
    let longest = json!({ "member_id": eve, "relation": "ä".repeat(50), "description": "ä".repeat(1_000) });
    node.post(&path).json(&longest).by(Role::Operator).await.expect_status(201);
    assert_eq!(node.get(&path).by(Role::Operator).await.header("x-total-count"), "1", "nothing else was made");
}

async fn a_relationship_is_found_at_its_own_agent_only(node: TestNode) {
    let (ann, _) = node.agent("ann").await;
    let (ben, _) = node.agent("ben").await;
    let path = |agent: &str| format!("/api/admin/agents/{agent}/relationships");
    let knows = json!({ "agent_id": ben, "relation": "peer" });
    let made = node.post(&path(&ann)).json(&knows).by(Role::Operator).await.expect_status(201).json;
    let id = made["id"].as_str().unwrap();
    for wrong in [format!("{}/{id}", path(&ben)), format!("{}/{NOBODY}", path(&ann)), format!("{}/{id}", path(NOBODY))]
    {
        node.delete(&wrong).by(Role::Operator).await.expect_error(404, "not_found");
    }
    assert_eq!(node.get(&path(&ann)).by(Role::Operator).await.header("x-total-count"), "1");
    assert_eq!(node.get(&path(&ben)).by(Role::Operator).await.header("x-total-count"), "0");
}

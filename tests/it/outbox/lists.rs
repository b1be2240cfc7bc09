//! Channels and those who write on them as lists, what the audit log says of them, and a key that is used twice.
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::limits::{call, hook_channel, make};
use crate::harness::providers::hook;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    channels_come_in_pages,
    senders_come_in_pages,
    letting_in_and_removing_is_told_of,
    a_ref_may_hold_whatever_a_provider_calls_people_by,
    a_key_means_one_channel,
);

const CHANNELS: &str = "/api/admin/channels";

/// Reads a list in pages of two rows; returns what it holds under this name.
async fn pages(node: &TestNode, path: &str, name: &str, total: usize) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("{path}?limit=2{cursor}")).by(Role::Admin).await.expect_status(200);
        assert_eq!(page.header("x-total-count"), total.to_string(), "{}", page.text);
        let items = page.json["items"].as_array().expect("a list");
        found.extend(items.iter().map(|item| item[name].as_str().expect("a text").to_owned()));
        let Some(next) = page.json["next"].as_str() else {
            assert_eq!(page.header("link"), "", "the last page");
            return found;
        };
        assert_eq!(items.len(), 2, "{}", page.text);
        cursor = format!("&cursor={next}");
        assert_eq!(page.header("link"), format!("<{path}?limit=2{cursor}>; rel=\"next\""));
        assert!(found.len() < total, "a page follows that is empty: {}", page.text);
    }
}

/// What no list takes.
async fn wrong_pages(node: &TestNode, path: &str) {
    for (query, field) in [("limit=0", "limit"), ("limit=501", "limit"), ("cursor=x", "cursor")] {
        let refused: Reply = node.get(&format!("{path}?{query}")).by(Role::Admin).await;
        assert_eq!(refused.expect_error(422, "validation_error").fields(), [field], "{query}");
    }
}

async fn channels_come_in_pages(node: TestNode) {
    let mut ids = Vec::new();
    for name in ["c", "a", "b", "a", "d"] {
        ids.push(hook_channel(&node, name, None).await);
    }
    assert_eq!(pages(&node, CHANNELS, "id", 5).await, ids, "oldest first");
    // A page that goes on after what was removed.
    let first = node.get(&format!("{CHANNELS}?limit=2")).by(Role::Admin).await.expect_status(200).json;
    node.delete(&format!("{CHANNELS}/{}", ids[1])).by(Role::Admin).await.expect_status(200);
    let rest = format!("{CHANNELS}?cursor={}", first["next"].as_str().expect("a cursor"));
    let rest = node.get(&rest).by(Role::Admin).await.expect_status(200);
    let items = rest.json["items"].as_array().expect("a list");
    let found: Vec<&str> = items.iter().map(|one| one["id"].as_str().expect("an id")).collect();
    assert_eq!(found, [ids[2].as_str(), &ids[3], &ids[4]], "{}", rest.text);
    assert_eq!(rest.header("x-total-count"), "4");
    wrong_pages(&node, CHANNELS).await;
}

async fn senders_come_in_pages(node: TestNode) {
    let channel = hook_channel(&node, "CRM", None).await;
    let path = format!("{CHANNELS}/{channel}/senders");
    assert_eq!(pages(&node, &path, "ref", 0).await, [""; 0]);
    for sender in ["d", "b", "a/ä", "c"] {
        let line = json!({ "id": format!("1-{sender}"), "text": "hello", "from": sender });
        call(&node, &channel, &line).await.expect_status(200);
    }
    let mut found = pages(&node, &path, "ref", 4).await;
    // Whatever the database holds for their order, each is there once.
    found.sort();
    assert_eq!(found, ["a/ä", "b", "c", "d"]);
    wrong_pages(&node, &path).await;
}

/// What the audit log says of a channel, oldest first: who did what, before and after.
async fn told(node: &TestNode, channel: &str) -> Vec<Value> {
    let audit = node.get(&format!("/api/admin/audit?target={channel}")).by(Role::Viewer).await.expect_status(200);
    assert!(!audit.text.contains(hook::SECRET), "{}", audit.text);
    let mut rows = audit.json["items"].as_array().expect("a list").clone();
    rows.reverse();
    rows
}

async fn letting_in_and_removing_is_told_of(node: TestNode) {
    let channel = hook_channel(&node, "CRM", None).await;
    let eve = make(&node, "/api/admin/members", json!({ "name": "Eve" })).await;
    let line = json!({ "id": "1", "text": "hello", "from": "crm-7" });
    call(&node, &channel, &line).await.expect_status(200);
    let allow = format!("{CHANNELS}/{channel}/senders/crm-7/allow");
    let nobody = json!({ "member_id": "01890000-0000-7000-8000-000000000000" });
    node.post(&allow).json(&nobody).by(Role::Admin).await.expect_error(422, "validation_error");
    node.post(&allow).json(&json!({ "member_id": eve })).by(Role::Admin).await.expect_status(200);
    node.delete(&format!("{CHANNELS}/{channel}")).by(Role::Admin).await.expect_status(200);
    let rows = told(&node, &channel).await;
    let actions: Vec<&Value> = rows.iter().map(|row| &row["action"]).collect();
    assert_eq!(actions, ["channel.add", "channel.allow", "channel.remove"], "what was refused is not told of");
    for row in &rows {
        assert_eq!((&row["target_kind"], &row["target"]), (&json!("channel"), &json!(channel)), "{row}");
        assert_eq!(row["actor"], "admin", "{row}");
    }
    let of_allow = (&rows[1]["before"], &rows[1]["after"]);
    let expected = |member: Value| json!({ "sender": "crm-7", "member_id": member });
    assert_eq!(of_allow, (&expected(Value::Null), &expected(json!(eve))));
    assert_eq!((&rows[2]["before"]["name"], &rows[2]["after"]), (&json!("CRM"), &Value::Null));
}

async fn a_ref_may_hold_whatever_a_provider_calls_people_by(node: TestNode) {
    let channel = hook_channel(&node, "CRM", None).await;
    let eve = make(&node, "/api/admin/members", json!({ "name": "Eve" })).await;
    let path = format!("{CHANNELS}/{channel}/senders");
    // The last one is what another one looks like in a path.
    let refs =
        [("a/b c", "a%2Fb%20c"), ("a/allow", "a%2Fallow"), ("ä?#%", "%C3%A4%3F%23%25"), ("a%2Fb c", "a%252Fb%20c")];
    for (sender, _) in refs {
        let line = json!({ "id": format!("1-{sender}"), "text": "hello", "from": sender });
        call(&node, &channel, &line).await.expect_status(200);
    }
    let mut left = pages(&node, &path, "ref", refs.len()).await;
    for (sender, escaped) in refs {
        let allow = node.post(&format!("{path}/{escaped}/allow")).json(&json!({ "member_id": eve }));
        let allowed = allow.by(Role::Admin).await.expect_status(200).json;
        assert_eq!((&allowed["ref"], &allowed["member_id"]), (&json!(sender), &json!(eve)), "{escaped}");
        node.delete(&format!("{path}/{escaped}")).by(Role::Admin).await.expect_status(200);
        left.retain(|one| one != sender);
        assert_eq!(pages(&node, &path, "ref", left.len()).await, left, "only `{sender}` was forgotten");
        node.delete(&format!("{path}/{escaped}")).by(Role::Admin).await.expect_error(404, "not_found");
    }
    assert!(left.is_empty(), "{left:?}");
}

async fn a_key_means_one_channel(node: TestNode) {
    let post = async |key: &str, name: &str, secret: &str| {
        let body = json!({ "kind": "webhook", "name": name, "secret": { "secret": secret } });
        node.post(CHANNELS).header("idempotency-key", key).json(&body).by(Role::Admin).await
    };
    let first = post("k-1", "CRM", hook::SECRET).await.expect_status(201).json;
    let other = "another secret of both sides";
    for (name, secret) in [("Other", hook::SECRET), ("CRM", other)] {
        let refused = post("k-1", name, secret).await.expect_error(409, "idempotency_conflict");
        assert!(!refused.text.contains(other) && !refused.text.contains(hook::SECRET), "{}", refused.text);
    }
    assert_eq!(post("k-1", "CRM", hook::SECRET).await.expect_status(201).json, first);
    let second = post("k-2", "CRM", hook::SECRET).await.expect_status(201).json;
    assert_ne!(second["id"], first["id"], "another key is another channel");
    let list = node.get(CHANNELS).by(Role::Admin).await.expect_status(200);
    assert_eq!(list.header("x-total-count"), "2", "{}", list.text);
}

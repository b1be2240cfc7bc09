//! Channels as an admin sets them up: what is checked, what is shown, what is not.
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use crate::harness::Database;
use crate::routes::TestNode;

on_both_databases!(
    a_channel_is_set_up_changed_and_removed,
    what_a_kind_does_not_ask_for_is_refused,
    no_more_channels_than_the_settings_allow,
    a_secret_goes_nowhere_else,
    a_repeat_outlives_the_agent,
);

const CHANNELS: &str = "/api/admin/channels";
const SECRET: &str = "c4n4ry-of-a-channel";

async fn a_channel_is_set_up_changed_and_removed(node: TestNode) {
    let (ann, _) = node.agent("ann").await;
    let body = json!({
        "kind": "telegram", "name": " Bot ", "agent_id": ann, "config": { "receive": "poll" },
        "secret": { "bot_token": SECRET }, "base_url": "https://example.org",
    });
    let call = || node.post(CHANNELS).header("idempotency-key", "k").json(&body).by(Role::Admin);
    let made = call().await.expect_status(201).json;
    let id = made["id"].as_str().unwrap();
    let expected = json!({
        "id": id, "kind": "telegram", "name": "Bot", "agent_id": ann, "config": { "receive": "poll" },
        "secrets": ["bot_token"], "base_url": "https://example.org", "enabled": true, "receives": true,
        "hook": format!("/hooks/{id}"),
        "waiting": 0, "paused": false, "created_at": made["created_at"], "updated_at": made["updated_at"],
    });
    assert_eq!((&made, call().await.expect_status(201).json), (&expected, expected.clone()));
    let one = format!("{CHANNELS}/{id}");
    let change = json!({
        "name": "Robot", "agent_id": null, "secret": { "secret_token": SECRET, "bot_token": SECRET }, "base_url": null,
        "enabled": false,
    });
    let changed = node.patch(&one).json(&change).by(Role::Admin).await.expect_status(200).json;
    assert_eq!((&changed["name"], &changed["agent_id"]), (&json!("Robot"), &Value::Null));
    assert_eq!((&changed["secrets"], &changed["enabled"]), (&json!(["bot_token", "secret_token"]), &json!(false)));
    assert_eq!((&changed["config"], &changed["base_url"]), (&json!({ "receive": "poll" }), &Value::Null));
    let less = json!({ "secret": { "secret_token": null } });
    let changed = node.patch(&one).json(&less).by(Role::Admin).await.expect_status(200).json;
    assert_eq!(changed["secrets"], json!(["bot_token"]));
    let without = json!({ "secret": { "bot_token": null } });
    node.patch(&one).json(&without).by(Role::Admin).await.expect_error(422, "validation_error");
    let list = node.get(CHANNELS).by(Role::Admin).await.expect_status(200);
    assert_eq!((list.json["items"].as_array().unwrap().len(), list.header("x-total-count")), (1, "1"));
    let audit = node.get(&format!("/api/admin/audit?target={id}")).by(Role::Viewer).await.expect_status(200);
    let actions: Vec<&str> =
        audit.json["items"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["channel.change", "channel.change", "channel.add"]);
    assert!(!audit.text.contains(SECRET) && !list.text.contains(SECRET) && !made.to_string().contains(SECRET));
    node.delete(&one).by(Role::Admin).await.expect_status(200);
    node.get(&one).by(Role::Admin).await.expect_error(404, "not_found");
    node.patch(&one).json(&less).by(Role::Admin).await.expect_error(404, "not_found");
}

async fn what_a_kind_does_not_ask_for_is_refused(node: TestNode) {
    for (body, field) in [
        (json!({ "kind": "fax", "name": "x" }), "kind"),
        (json!({ "kind": "telegram" }), "name"),
        (json!({ "kind": "telegram", "name": "x" }), "secret"),
        (json!({ "kind": "telegram", "name": "x", "secret": SECRET }), "secret"),
        (json!({ "kind": "telegram", "name": "x", "secret": { "bot_token": [SECRET] } }), "secret"),
        (json!({ "kind": "telegram", "name": "x", "secret": { "bot_token": SECRET, "password": SECRET } }), "secret"),
        (
            json!({ "kind": "telegram", "name": "x", "secret": { "bot_token": SECRET }, "config": { "app_id": "x" } }),
            "config",
        ),
        (
            json!({ "kind": "telegram", "name": "x", "secret": { "bot_token": SECRET }, "base_url": "ftp://x" }),
            "base_url",
        ),
        (
            json!({ "kind": "webhook", "name": "x", "secret": { "secret": SECRET }, "base_url": "https://x" }),
            "base_url",
        ),
        (json!({ "kind": "webhook", "name": "x", "secret": { "secret": SECRET }, "token": SECRET }), "token"),
        (
            json!({ "kind": "webhook", "name": "x", "secret": { "secret": SECRET }, "agent_id": "01890000-0000-7000-8000-000000000000" }),
            "agent_id",
        ),
        (json!({ "kind": "email", "name": "x", "config": { "host": "h", "from": "a@b", "port": "25" } }), "config"),
    ] {
        let refused = node.post(CHANNELS).json(&body).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{body}");
        assert!(!refused.text.contains(SECRET), "{}", refused.text);
    }
    let list = node.get(CHANNELS).by(Role::Admin).await.expect_status(200);
    assert_eq!(list.json["items"], json!([]));
}

async fn no_more_channels_than_the_settings_allow(database: Database) {
    let node = TestNode::with(database, |config| config.channels.channels_max = 1);
    let body = json!({ "kind": "webhook", "name": "x", "secret": { "secret": SECRET } });
    node.post(CHANNELS).json(&body).by(Role::Admin).await.expect_status(201);
    let refused = node.post(CHANNELS).json(&body).by(Role::Admin).await.expect_error(409, "invalid_request");
    assert!(refused.text.contains("channels_max"), "{}", refused.text);
}

async fn a_secret_goes_nowhere_else(node: TestNode) {
    let feishu = json!({
        "kind": "feishu", "name": "Feishu", "config": { "app_id": "cli_1" }, "enabled": false,
        "secret": { "app_secret": SECRET, "verification_token": SECRET },
    });
    let mail = json!({
        "kind": "email", "name": "Mail", "secret": { "password": SECRET }, "enabled": false,
        "config": { "host": "mail.example.org", "from": "bot@example.org", "username": "bot" },
    });
    let elsewhere = json!({ "host": "collector.example", "from": "bot@example.org", "username": "bot" });
    let mut other_port = mail["config"].clone();
    other_port["port"] = json!(2_525);
    let mut own_place = feishu.clone();
    own_place["base_url"] = json!("https://open.example.org");
    for (new, change, secret) in [
        (feishu, json!({ "base_url": "https://collector.example" }), "app_secret"),
        // To the provider's usual place is elsewhere, too.
        (own_place, json!({ "base_url": null }), "app_secret"),
        (mail.clone(), json!({ "config": elsewhere }), "password"),
        (mail, json!({ "config": other_port }), "password"),
    ] {
        let made = node.post(CHANNELS).json(&new).by(Role::Admin).await.expect_status(201).json;
        let one = format!("{CHANNELS}/{}", made["id"].as_str().unwrap());
        let refused = node.patch(&one).json(&change).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), ["secret"], "{change}");
        assert_eq!(node.get(&one).by(Role::Admin).await.expect_status(200).json, made, "nothing has changed");
        let mut anew = change.clone();
        anew["secret"] = json!({ secret: SECRET });
        node.patch(&one).json(&anew).by(Role::Admin).await.expect_status(200);
        // It is there already.
        node.patch(&one).json(&change).by(Role::Admin).await.expect_status(200);
    }
}

async fn a_repeat_outlives_the_agent(node: TestNode) {
    let (ann, _) = node.agent("ann").await;
    let body = json!({ "kind": "webhook", "name": "x", "agent_id": ann, "secret": { "secret": SECRET } });
    let call = || node.post(CHANNELS).header("idempotency-key", "k").json(&body).by(Role::Admin);
    let made = call().await.expect_status(201).json;
    node.delete(&format!("/api/admin/agents/{ann}")).by(Role::Admin).await.expect_status(200);
    assert_eq!(call().await.expect_status(201).json["id"], made["id"]);
}

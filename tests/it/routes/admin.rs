//! The admin API: gateways, users, tokens, backup, counters.
use clawbroker::domain::gateway::{LinkState, LinkStatus, Problem};
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;
use crate::harness::Kind;

on_both_databases!(
    a_gateway_shows_what_is_wrong_and_what_to_do,
    a_gateway_is_changed_field_by_field,
    a_test_asks_the_gateway,
    users_are_made_changed_and_removed,
    a_token_is_told_once,
    a_revoked_token_ends_at_once,
    a_backup_is_a_private_copy,
    the_overview_counts,
);

async fn a_gateway_shows_what_is_wrong_and_what_to_do(node: TestNode) {
    let id = node.gateway("lab").await;
    let status = LinkStatus {
        state: LinkState::PairingRequired,
        since_ms: 1_000,
        problem: Some(Problem {
            code: "PAIRING_REQUIRED".into(),
            message: "someone must approve this device".into(),
            remedy: Some("openclaw devices approve req-1".into()),
            request_id: Some("req-1".into()),
        }),
        ..LinkStatus::default()
    };
    node.state.directory.set_status(&id, std::sync::Arc::new(status));
    let shown = node.get("/api/admin/gateways/lab").by(Role::Viewer).await.expect_status(200).json;
    assert_eq!((&shown["state"], &shown["since"]), (&json!("pairing_required"), &json!("1970-01-01T00:00:01.000Z")));
    assert_eq!(shown["problem"]["remedy"], "openclaw devices approve req-1");
    assert_eq!((&shown["token_set"], &shown["track"]), (&json!(false), &json!("used")));
    let list = node.get("/api/admin/gateways").by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(list, json!({ "items": [shown], "next": null }));
    for path in ["/api/admin/gateways/none", "/api/admin/gateways/%20", "/api/admin/gateways/federated"] {
        node.get(path).by(Role::Viewer).await.expect_error(404, "gateway_not_found");
    }
}

async fn a_gateway_is_changed_field_by_field(node: TestNode) {
    let new = json!({ "id": "lab", "name": "Lab", "url": "ws://a", "token": "t", "password": "p", "admin": true, "track": "all" });
    let made = node.post("/api/admin/gateways").json(&new).by(Role::Operator).await.expect_status(201).json;
    assert_eq!(
        (&made["token_set"], &made["password_set"], &made["admin"], &made["track"]),
        (&json!(true), &json!(true), &json!(true), &json!("all"))
    );
    node.post("/api/admin/gateways").json(&new).by(Role::Operator).await.expect_error(400, "already_exists");
    let extra = json!({ "id": "x", "name": "x", "url": "ws://x", "tokn": "t" });
    let refused =
        node.post("/api/admin/gateways").json(&extra).by(Role::Operator).await.expect_error(422, "validation_error");
    assert_eq!(refused.fields(), ["tokn"]);
    let change = |body: Value| node.patch("/api/admin/gateways/lab").json(&body).by(Role::Operator);
    let changed = change(json!({ "token": null, "name": "Laboratory" })).await.expect_status(200).json;
    assert_eq!(
        (&changed["token_set"], &changed["password_set"], &changed["name"]),
        (&json!(false), &json!(true), &json!("Laboratory"))
    );
    let changed = change(json!({ "password": "", "enabled": false, "url": "wss://b" })).await.expect_status(200).json;
    assert_eq!(
        (&changed["password_set"], &changed["enabled"], &changed["url"]),
        (&json!(false), &json!(false), &json!("wss://b"))
    );
    assert_eq!(changed["state"], "disabled", "as it is after the change");
    let back = change(json!({ "enabled": true })).await.expect_status(200).json;
    assert_eq!((&back["state"], &back["since"]), (&json!("connecting"), &back["updated_at"]));
    assert_eq!(change(json!({ "url": "http://x" })).await.expect_error(422, "validation_error").fields(), ["url"]);
    assert_eq!(change(json!({ "id": "other" })).await.expect_error(422, "validation_error").fields(), ["id"]);
    node.delete("/api/admin/gateways/lab").by(Role::Operator).await.expect_status(200);
    change(json!({})).await.expect_error(404, "gateway_not_found");
    let audit = node.get("/api/admin/audit").by(Role::Viewer).await.expect_status(200).json;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions.iter().filter(|action| action.starts_with("gateway.")).count(), 5, "{actions:?}");
}

async fn a_test_asks_the_gateway(node: TestNode) {
    node.gateway("lab").await;
    let tested = node.post("/api/admin/gateways/lab/test").by(Role::Operator).await.expect_status(200).json;
    assert_eq!(
        (&tested["ok"], &tested["latency_ms"], &tested["gateway"]["id"]),
        (&json!(true), &json!(7), &json!("lab"))
    );
    node.patch("/api/admin/gateways/lab")
        .json(&json!({ "enabled": false }))
        .by(Role::Operator)
        .await
        .expect_status(200);
    let tested = node.post("/api/admin/gateways/lab/test").by(Role::Operator).await.expect_status(200).json;
    assert_eq!((&tested["ok"], &tested["message"]), (&json!(false), &json!("the gateway is disabled")));
    node.post("/api/admin/gateways/none/test").by(Role::Operator).await.expect_error(404, "gateway_not_found");
}

async fn users_are_made_changed_and_removed(node: TestNode) {
    let path = "/api/admin/users";
    let new = json!({ "name": "ann", "display_name": "Ann", "role": "member", "password": "correct horse battery" });
    let made = node.post(path).header("idempotency-key", "u-1").json(&new).by(Role::Admin).await.expect_status(201);
    assert!(!made.text.contains("horse") && !made.text.contains("argon2"));
    assert_eq!((&made.json["role"], &made.json["password_set"]), (&json!("member"), &json!(true)));
    let again = node.post(path).header("idempotency-key", "u-1").json(&new).by(Role::Admin).await.expect_status(201);
    assert_eq!(again.json, made.json);
    let other = json!({ "name": "eve", "role": "member" });
    node.post(path)
        .header("idempotency-key", "u-1")
        .json(&other)
        .by(Role::Admin)
        .await
        .expect_error(409, "idempotency_conflict");
    node.post(path).json(&new).by(Role::Admin).await.expect_error(409, "already_exists");
    for (wrong, field) in [
        (json!({ "name": "x y", "role": "member" }), "name"),
        (json!({ "name": "x" }), "role"),
        (json!({ "name": "x", "role": "king" }), "role"),
        (json!({ "name": "x", "role": "member", "password": "short" }), "password"),
        (json!({ "name": "x", "role": "member", "password": 123_456_789_012_u64 }), "password"),
    ] {
        let refused = node.post(path).json(&wrong).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field]);
        assert!(!refused.text.contains("short\"") && !refused.text.contains("123456789012"), "{}", refused.text);
    }
    let one = format!("{path}/{}", made.json["id"].as_str().unwrap());
    let changed = node
        .patch(&one)
        .json(&json!({ "role": "operator", "password": null }))
        .by(Role::Admin)
        .await
        .expect_status(200)
        .json;
    assert_eq!(
        (&changed["role"], &changed["password_set"], &changed["display_name"]),
        (&json!("operator"), &json!(false), &json!("Ann"))
    );
    let list = node.get(path).by(Role::Admin).await.expect_status(200).json;
    assert!(list["items"].as_array().unwrap().contains(&changed));
    let admin = list["items"].as_array().unwrap().iter().find(|user| user["name"] == "admin").unwrap();
    let admin = format!("{path}/{}", admin["id"].as_str().unwrap());
    node.patch(&admin).json(&json!({ "role": "viewer" })).by(Role::Admin).await.expect_error(409, "invalid_request");
    node.patch(&admin).json(&json!({ "name": "root" })).by(Role::Admin).await.expect_error(409, "invalid_request");
    node.delete(&admin).by(Role::Admin).await.expect_error(409, "invalid_request");
    // A name is taken once, also by a change; it is its own again at once.
    let rename = |name: &str| node.patch(&one).json(&json!({ "name": name })).by(Role::Admin);
    rename("admin").await.expect_error(409, "already_exists");
    assert_eq!(rename("a b").await.expect_error(422, "validation_error").fields(), ["name"]);
    let ann = node.token("ann", Role::Operator).await;
    assert_eq!(rename("anna").await.expect_status(200).json["name"], "anna");
    rename("anna").await.expect_status(200);
    let body = json!({ "id": "g", "name": "G", "url": "ws://g" });
    node.post("/api/admin/gateways").json(&body).with_token(&ann).await.expect_status(201);
    let audit = node.get("/api/admin/audit?actor=anna").by(Role::Admin).await.expect_status(200).json;
    assert_eq!(audit["items"][0]["action"], "gateway.add", "the log has the new name");
    node.post(path).json(&json!({ "name": "ann", "role": "viewer" })).by(Role::Admin).await.expect_status(201);
    node.delete(&one).by(Role::Admin).await.expect_status(200);
    node.delete(&one).by(Role::Admin).await.expect_error(404, "not_found");
    node.patch(&one).json(&json!({})).by(Role::Admin).await.expect_error(404, "not_found");
}

async fn a_token_is_told_once(node: TestNode) {
    node.user("ann", Role::Member).await;
    let path = "/api/admin/tokens";
    let new = json!({ "name": "laptop", "user": "ann", "expires_at": "2099-01-01T00:00:00Z" });
    let send = |body: &Value| node.post(path).header("idempotency-key", "t-1").json(body).by(Role::Admin);
    let made = send(&new).await.expect_status(201).json;
    let token = made["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("cbk_") && token.starts_with(made["prefix"].as_str().unwrap()) && token.len() == 47);
    assert_eq!(
        (&made["user"], &made["secret_shown"], &made["expires_at"]),
        (&json!("ann"), &json!(false), &json!("2099-01-01T00:00:00.000Z"))
    );
    let again = send(&new).await.expect_status(201);
    assert_eq!((&again.json["id"], &again.json["secret_shown"]), (&made["id"], &json!(true)));
    assert!(!again.text.contains(&token));
    send(&json!({ "name": "other", "user": "ann" })).await.expect_error(409, "idempotency_conflict");
    // It works at once, and is never told again.
    node.get("/api/gateways").with_token(&token).await.expect_status(200);
    let list = node.get(&format!("{path}?limit=1")).by(Role::Admin).await.expect_status(200);
    assert!(!list.text.contains(&token));
    assert_eq!((list.json["items"].as_array().unwrap().len(), list.header("x-total-count")), (1, "2"));
    let next = list.json["next"].as_str().unwrap();
    let rest = node.get(&format!("{path}?limit=1&cursor={next}")).by(Role::Admin).await.expect_status(200).json;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
    for (wrong, field) in [
        (json!({ "name": "x", "user": "nobody" }), "user"),
        (json!({ "name": "x", "user_id": "01890000-0000-7000-8000-000000000000" }), "user_id"),
        (json!({ "name": "x", "user_id": "7" }), "user_id"),
        (json!({ "name": "x", "expires_at": "1999-01-01T00:00:00Z" }), "expires_at"),
        (json!({ "name": "x", "expires_at": "soon" }), "expires_at"),
        (json!({ "name": "" }), "name"),
    ] {
        let refused = node.post(path).json(&wrong).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{wrong}");
    }
}

async fn a_revoked_token_ends_at_once(node: TestNode) {
    let made =
        node.post("/api/admin/tokens").json(&json!({ "name": "x" })).by(Role::Admin).await.expect_status(201).json;
    let token = made["token"].as_str().unwrap();
    node.get("/api/gateways").with_token(token).await.expect_status(200);
    let one = format!("/api/admin/tokens/{}", made["id"].as_str().unwrap());
    node.delete(&one).by(Role::Admin).await.expect_status(200);
    node.get("/api/gateways").with_token(token).await.expect_error(401, "unauthenticated");
    node.delete(&one).by(Role::Admin).await.expect_status(200);
    node.delete("/api/admin/tokens/01890000-0000-7000-8000-000000000000")
        .by(Role::Admin)
        .await
        .expect_error(404, "not_found");
    // Whoever is removed or gets another role loses or changes what its tokens may.
    let bob = node.token("bob", Role::Operator).await;
    let list = node.get("/api/admin/users").by(Role::Admin).await.json;
    let id = list["items"].as_array().unwrap().iter().find(|user| user["name"] == "bob").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    node.patch(&format!("/api/admin/users/{id}"))
        .json(&json!({ "role": "viewer" }))
        .by(Role::Admin)
        .await
        .expect_status(200);
    node.get("/api/admin/deliveries").with_token(&bob).await.expect_error(403, "forbidden");
    node.delete(&format!("/api/admin/users/{id}")).by(Role::Admin).await.expect_status(200);
    node.get("/api/gateways").with_token(&bob).await.expect_error(401, "unauthenticated");
}

async fn a_backup_is_a_private_copy(node: TestNode) {
    let backup = node.post("/api/admin/backup").by(Role::Admin).await;
    if node.database.kind() == Kind::Postgres {
        let refused = backup.expect_error(409, "invalid_request");
        assert!(refused.text.contains("pg_dump"));
        return;
    }
    let made = backup.expect_status(201).json;
    let name = made["name"].as_str().unwrap();
    assert!(name.starts_with("backups/clawbroker-") && name.ends_with("Z.db"), "{name}");
    let file = node.database.data_dir().join(name);
    let metadata = std::fs::metadata(&file).unwrap();
    assert_eq!(metadata.len(), made["bytes"].as_u64().unwrap());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let audit = node.get("/api/admin/audit?action=backup.create").by(Role::Viewer).await.expect_status(200).json;
    assert_eq!((audit["items"].as_array().unwrap().len(), &audit["items"][0]["target"]), (1, &json!(name)));
}

async fn the_overview_counts(node: TestNode) {
    node.gateway("lab").await;
    node.post("/api/gateways/lab/sessions")
        .json(&json!({ "session_key": "a" }))
        .by(Role::Member)
        .await
        .expect_status(200);
    node.clock.advance_ms(5_000);
    let stats = node.get("/api/admin/stats").by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(
        (&stats["gateways"], &stats["gateways_connected"], &stats["uptime_s"]),
        (&json!(1), &json!(1), &json!(5))
    );
    assert_eq!((&stats["conversations"], &stats["messages"], &stats["users"]), (&json!(1), &json!(0), &json!(3)));
    assert_eq!(stats["deliveries"], json!({ "pending": 0, "leased": 0, "dead": 0 }));
    let actors = node.get("/api/admin/actors").by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(actors["items"][0]["actor"], "supervisor");
}

//! What holds for every request, whatever its route.
use actix_web::http::Method;
use clawbroker::domain::user::Role;
use serde_json::json;

use super::TestNode;
use crate::harness::{Database, Kind};

on_both_databases!(
    every_answer_has_its_id_and_our_headers,
    errors_have_one_body_whatever_they_come_from,
    a_path_works_with_and_without_its_trailing_slash,
    bodies_are_checked_in_order,
    wrong_credentials_are_counted_by_address,
);

async fn every_answer_has_its_id_and_our_headers(node: TestNode) {
    let given = node.get("/health").header("x-request-id", "abc-1").send().await.expect_status(200);
    assert_eq!(given.header("x-request-id"), "abc-1");
    let made = node.get("/nowhere").header("x-request-id", "not plain!").send().await.expect_error(404, "not_found");
    assert_eq!(made.header("x-request-id").len(), 36);
    for reply in [given, made, node.get("/docs").send().await] {
        for name in
            ["x-content-type-options", "x-frame-options", "referrer-policy", "content-security-policy", "cache-control"]
        {
            assert!(reply.headers.contains_key(name), "{name}: {reply:?}");
        }
    }
    let api = node.get("/api/gateways").by(Role::Viewer).await.expect_status(200);
    assert_eq!(api.header("cache-control"), "no-store");
}

async fn errors_have_one_body_whatever_they_come_from(node: TestNode) {
    node.get("/api/nothing").send().await.expect_error(404, "not_found");
    let method = node.call(Method::PUT, "/api/gateways").send().await.expect_error(405, "method_not_allowed");
    assert_eq!(method.header("allow"), "GET, POST");
    node.call(Method::OPTIONS, "/api/gateways").send().await.expect_error(405, "method_not_allowed");
    node.get("/api/gateways").header("accept", "text/html").by(Role::Viewer).await.expect_error(406, "not_acceptable");
    node.get("/api/gateways").header("accept", "text/html, */*;q=0.1").by(Role::Viewer).await.expect_status(200);
    node.get("/api/gateways")
        .header("x-long", &"x".repeat(17_000))
        .by(Role::Viewer)
        .await
        .expect_error(431, "header_too_large");
    node.get("/api/gateways").send().await.expect_error(401, "unauthenticated");
    let unknown = node.get("/api/gateways").with_token("cbk_wrong").await.expect_error(401, "unauthenticated");
    assert!(unknown.header("www-authenticate").starts_with("Bearer"));
    // Not a handshake.
    node.get("/ws/chat/federated").by(Role::Viewer).await.expect_error(400, "invalid_request");
    // Not text.
    let path = node.get("/api/gateways/%ff/status").by(Role::Viewer).await;
    assert!(path.status.is_client_error() && !path.code().is_empty(), "{path:?}");
    let query = node.get("/api/admin/audit?nothing=1").by(Role::Viewer).await.expect_error(422, "validation_error");
    assert_eq!(query.json["detail"][0]["loc"], json!(["query", "nothing"]));
}

async fn a_path_works_with_and_without_its_trailing_slash(node: TestNode) {
    node.get("/health/").send().await.expect_status(200);
    node.get("/api/gateways/").by(Role::Viewer).await.expect_status(200);
    let body = json!({ "id": "a", "name": "A", "url": "ws://x" });
    node.post("/api/gateways/").json(&body).by(Role::Operator).await.expect_status(200);
    node.call(Method::HEAD, "/health").send().await.expect_status(200);
}

async fn bodies_are_checked_in_order(node: TestNode) {
    let path = "/api/admin/users";
    // The credential first, then what the path names, then the body.
    node.post(path).body("text/plain", "x").send().await.expect_error(401, "unauthenticated");
    node.post(path).body("text/plain", "x").by(Role::Operator).await.expect_error(403, "forbidden");
    let gone = "/api/admin/users/01890000-0000-7000-8000-000000000000";
    node.patch(gone).body("text/plain", "x").by(Role::Admin).await.expect_error(404, "not_found");
    node.post("/api/gateways/none/sessions")
        .body("text/plain", "x")
        .by(Role::Member)
        .await
        .expect_error(404, "gateway_not_found");
    let malformed =
        node.patch("/api/admin/users/1").json(&json!({})).by(Role::Admin).await.expect_error(422, "validation_error");
    assert_eq!(malformed.json["detail"][0]["loc"][0], "path");

    let send = |kind: &str, text: &str| node.post(path).body(kind, text).by(Role::Admin);
    send("text/plain", "{}").await.expect_error(415, "unsupported_media_type");
    send("application/x-www-form-urlencoded", "a=b").await.expect_error(415, "unsupported_media_type");
    let invalid = send("application/json", "{\"name\": ").await.expect_error(422, "validation_error");
    assert_eq!(invalid.json["detail"][0]["type"], "json_invalid");
    send("application/json", "").await.expect_error(422, "validation_error");
    send("application/json", "[]").await.expect_error(422, "validation_error");
    send("application/json", "\"\u{1}\"").await.expect_error(422, "validation_error");
    send("application/json", &"[".repeat(10_000)).await.expect_error(422, "validation_error");
    send("application/json", &format!("{{\"name\":\"{}\"}}", "x".repeat(1_100_000)))
        .await
        .expect_error(413, "payload_too_large");
    let zipped =
        node.post(path).header("content-encoding", "gzip").body("application/json", "{}").by(Role::Admin).await;
    zipped.expect_error(415, "unsupported_media_type");
    let missing = send("application/json", "{}").await.expect_error(422, "validation_error");
    assert_eq!(missing.fields(), ["name"]);
    let unknown = send("application/json; charset=utf-8", r#"{"name":"x","role":"member","nmae":1}"#).await;
    assert_eq!(unknown.expect_error(422, "validation_error").fields(), ["nmae"]);
    let key = node.post(path).header("idempotency-key", "ä").json(&json!({})).by(Role::Admin).await;
    assert_eq!(key.expect_error(422, "validation_error").json["detail"][0]["loc"][0], "header");
}

async fn wrong_credentials_are_counted_by_address(node: TestNode) {
    let right = node.token("viewer", Role::Viewer).await;
    for _ in 0..20 {
        node.get("/api/gateways").with_token("cbk_guess").await.expect_error(401, "unauthenticated");
    }
    node.get("/api/gateways").with_token("cbk_guess").await.expect_error(429, "rate_limited");
    node.get("/api/gateways").with_token(&right).await.expect_status(200);
    node.get("/api/gateways").from("192.0.2.8:1").with_token("cbk_guess").await.expect_error(401, "unauthenticated");
    // Nothing wrong was sent, so nothing is counted.
    node.get("/api/gateways").send().await.expect_error(401, "unauthenticated");
}

/// Runs a test of what has nothing to do with the database.
fn on_sqlite<F: Future<Output = ()>>(
    change: impl FnOnce(&mut clawbroker::config::Config),
    test: impl FnOnce(TestNode) -> F,
) {
    actix::System::new().block_on(async move { test(TestNode::with(Database::migrated(Kind::Sqlite), change)).await });
}

#[test]
fn a_request_for_another_host_is_refused() {
    on_sqlite(
        |config| config.server.trusted_hosts = vec!["broker.example".parse().unwrap()],
        |node| async move {
            for host in ["localhost:8000", "127.0.0.1", "broker.example"] {
                node.get("/health").header("host", host).send().await.expect_status(200);
            }
            for host in ["evil.example", "broker.example.evil", "", "localhost:8000@evil"] {
                node.get("/health").header("host", host).send().await.expect_error(400, "invalid_request");
            }
            node.get("http://evil.example/health").send().await.expect_error(400, "invalid_request");
        },
    );
}

#[test]
fn pages_of_the_configured_origins_may_call() {
    on_sqlite(
        |_| {},
        |node| async move {
            let preflight = |origin: &'static str| {
                node.call(Method::OPTIONS, "/api/gateways")
                    .header("origin", origin)
                    .header("access-control-request-method", "POST")
                    .header("access-control-request-headers", "authorization, content-type, idempotency-key")
                    .send()
            };
            let fine = preflight("http://localhost:3000").await.expect_status(200);
            assert_eq!(fine.header("access-control-allow-origin"), "http://localhost:3000");
            assert_eq!(fine.header("access-control-allow-credentials"), "true");
            preflight("http://evil.example").await.expect_error(400, "invalid_request");
            // Errors can be read by the page, too.
            let refused = node.get("/api/gateways").header("origin", "http://localhost:5173").send().await;
            assert_eq!(refused.header("access-control-allow-origin"), "http://localhost:5173");
            let foreign = node.get("/api/gateways").header("origin", "http://evil.example").by(Role::Viewer).await;
            assert_eq!(foreign.expect_status(200).header("access-control-allow-origin"), "");
        },
    );
}

#[test]
fn a_node_that_stands_by_or_stops_answers_few_paths() {
    on_sqlite(
        |_| {},
        |node| async move {
            let token = node.token("viewer", Role::Viewer).await;
            let few = ["/health", "/api/health", "/metrics"];
            node.state.directory.set_active(false);
            node.get("/api/gateways").with_token(&token).await.expect_error(503, "standby");
            node.get("/").send().await.expect_error(503, "standby");
            let ready = node.get("/ready").send().await.expect_error(503, "standby");
            assert_eq!(ready.json["error"]["details"]["not_ready"], json!(["standby"]));
            for path in few {
                node.get(path).from("127.0.0.1:1").send().await.expect_status(200);
            }
            node.state.directory.set_active(true);
            // The lease is over by our own clock.
            node.state.directory.set_lease_until(0, None);
            node.get("/api/gateways/").with_token(&token).await.expect_error(503, "standby");
            node.state.directory.set_lease_until(i64::MAX, None);
            node.get("/ready").send().await.expect_status(200);
            node.state.directory.set_stopping();
            node.get("/api/gateways").with_token(&token).await.expect_error(503, "shutting_down");
            node.get("/ready").send().await.expect_error(503, "shutting_down");
            for path in few {
                node.get(path).from("127.0.0.1:1").send().await.expect_status(200);
            }
        },
    );
}

#[test]
fn local_clients_are_trusted_only_when_told_so_and_never_through_a_proxy_or_a_foreign_page() {
    let local = "127.0.0.1:5000";
    on_sqlite(
        |_| {},
        |node| async move {
            let admin = node.user("admin", Role::Admin).await;
            node.state.directory.set_trusted(Some(admin));
            node.get("/api/admin/users").from(local).send().await.expect_error(401, "unauthenticated");
        },
    );
    on_sqlite(
        |config| config.auth.local_clients = clawbroker::config::LocalClients::Trusted,
        |node| async move {
            node.get("/api/admin/users").from(local).send().await.expect_error(401, "unauthenticated");
            let admin = node.user("admin", Role::Admin).await;
            node.state.directory.set_trusted(Some(admin));
            let get = || node.get("/api/admin/users").header("host", "localhost:8000");
            get().from(local).send().await.expect_status(200);
            get().from("[::1]:5000").send().await.expect_status(200);
            get().from(local).header("origin", "http://localhost:3000").send().await.expect_status(200);
            get().from(local).header("origin", "http://localhost:8000").send().await.expect_status(200);
            for foreign in ["http://evil.example", "null", "http://localhost:8001"] {
                get().from(local).header("origin", foreign).send().await.expect_error(401, "unauthenticated");
            }
            get()
                .from(local)
                .header("x-forwarded-for", "198.51.100.9")
                .send()
                .await
                .expect_error(401, "unauthenticated");
            get().from("192.0.2.1:1").send().await.expect_error(401, "unauthenticated");
            get().from(local).with_token("cbk_wrong").await.expect_error(401, "unauthenticated");
        },
    );
}

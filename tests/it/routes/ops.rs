//! Health, metrics, tickets, pages, and the description of the API.
use std::collections::BTreeSet;

use clawbroker::domain::event::Event;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;

on_both_databases!(
    health_says_what_the_ancestors_ask_for,
    metrics_are_for_observers_and_this_machine,
    a_ticket_is_given_to_whoever_signed_in
);

async fn health_says_what_the_ancestors_ask_for(node: TestNode) {
    let health = node.get("/health").send().await.expect_status(200);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        health.json,
        json!({ "status": "healthy", "service": "clawbroker", "environment": "development", "version": version })
    );
    assert_eq!(node.get("/api/health").send().await.expect_status(200).json, json!({ "status": "ok" }));
    assert_eq!(node.get("/ready").send().await.expect_status(200).json, json!({ "status": "ready" }));
    // It is about to begin anew from what is stored (D12).
    node.state.directory.on_event(&Event::OutcomeUnknown);
    let waits = node.get("/ready").send().await.expect_error(503, "store_busy");
    assert_eq!(waits.json["error"]["details"]["not_ready"], json!(["writer"]));
    node.state.directory.end_doubt();
    node.get("/ready").send().await.expect_status(200);
    let index = node.get("/").send().await.expect_status(200);
    assert_eq!(index.json, json!({ "name": "clawbroker", "version": version, "status": "running" }));
    let page = node.get("/").header("accept", "text/html,*/*;q=0.8").header("host", "localhost:1").send().await;
    let page = page.expect_status(200);
    assert!(page.header("content-type").starts_with("text/html") && page.text.contains("http://localhost:1/api"));
    assert!(!page.header("content-security-policy").contains("script-src"));
}

async fn metrics_are_for_observers_and_this_machine(node: TestNode) {
    node.gateway("lab").await;
    node.get("/metrics").send().await.expect_error(401, "unauthenticated");
    node.get("/metrics").by(Role::Member).await.expect_error(403, "forbidden");
    node.get("/metrics")
        .from("127.0.0.1:9")
        .header("x-forwarded-for", "1.2.3.4")
        .send()
        .await
        .expect_error(401, "unauthenticated");
    node.get("/metrics").from("127.0.0.1:9").send().await.expect_status(200);
    let metrics = node.get("/metrics").by(Role::Viewer).await.expect_status(200);
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "clawbroker_gateway_state{gateway=\"lab\",state=\"connected\"} 1",
        "clawbroker_requests_total{family=\"ops\",status=\"4xx\"} 3",
        "clawbroker_deliveries{state=\"dead\"} 0",
        "clawbroker_writer_broken 0",
        "clawbroker_active 1",
        "clawbroker_mailboxes_active 0",
        "clawbroker_polls_waiting 0",
        "clawbroker_agents_online 0",
        "clawbroker_handed_out_total 0",
        "clawbroker_given_back_total 0",
        "# EOF",
    ] {
        assert!(metrics.text.lines().any(|told| told == line), "{line}\n{}", metrics.text);
    }
}

async fn a_ticket_is_given_to_whoever_signed_in(node: TestNode) {
    node.post("/api/ws-ticket").send().await.expect_error(401, "unauthenticated");
    let made = node.post("/api/ws-ticket").by(Role::Viewer).await.expect_status(200);
    assert_eq!(made.json["expires_in"], 30);
    let ticket = made.json["ticket"].as_str().unwrap().to_owned();
    let shake = |ticket: &str| {
        node.get("/ws/chat/federated")
            .header("sec-websocket-protocol", &format!("clawbroker.v1, ticket.{ticket}"))
            .send()
    };
    // Signed in, but not a handshake.
    shake(&ticket).await.expect_error(400, "invalid_request");
    shake(&ticket).await.expect_error(401, "unauthenticated");
    shake("nonsense").await.expect_error(401, "unauthenticated");
    let foreign = node.get("/ws/chat/federated").header("origin", "http://evil.example").by(Role::Viewer).await;
    foreign.expect_error(403, "forbidden");
    // A ticket is worth nothing once its token has ended.
    let made = node.post("/api/ws-ticket").by(Role::Viewer).await.expect_status(200);
    let ticket = made.json["ticket"].as_str().unwrap().to_owned();
    let tokens = node.get("/api/admin/tokens").by(Role::Admin).await.expect_status(200);
    let id =
        tokens.json["items"].as_array().unwrap().iter().find(|token| token["user"] == "viewer").unwrap()["id"].clone();
    node.delete(&format!("/api/admin/tokens/{}", id.as_str().unwrap())).by(Role::Admin).await.expect_status(200);
    shake(&ticket).await.expect_error(401, "unauthenticated");
    node.get("/api/gateways").by(Role::Viewer).await.expect_error(401, "unauthenticated");
}

#[actix_web::test]
async fn the_pages_that_show_the_api_are_complete_and_load_nothing_from_elsewhere() {
    let node = TestNode::from(crate::harness::Database::migrated(crate::harness::Kind::Sqlite));
    for page in ["/docs", "/redoc"] {
        let page = node.get(page).header("accept", "text/html").send().await.expect_status(200);
        let policy = page.header("content-security-policy").to_owned();
        assert!(policy.contains("script-src 'self'") && !policy.contains("http") && !policy.contains("unsafe-eval"));
        let mut files = 0;
        for part in page.text.split(['"']).filter(|part| part.starts_with("/docs/") || part.starts_with("/redoc/")) {
            let file = node.get(part).send().await.expect_status(200);
            assert!(!file.text.is_empty() && file.header("cache-control").contains("max-age"), "{part}");
            files += 1;
        }
        assert!(files >= 3);
    }
    node.get("/docs/swagger-initializer.js").send().await.expect_error(404, "not_found");
    node.get("/redoc/x").send().await.expect_error(404, "not_found");
}

/// The committed description. `UPDATE_OPENAPI=1 cargo nextest run openapi` writes it anew.
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

#[test]
fn the_committed_openapi_file_is_current() {
    let generated = serde_json::to_value(clawbroker::http::openapi::openapi()).unwrap();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        let text = serde_json::to_string_pretty(&generated).unwrap();
        std::fs::write(COMMITTED, text + "\n").unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
    assert!(committed == generated, "docs/openapi.json is stale: run `UPDATE_OPENAPI=1 cargo test openapi`");
}

#[test]
fn every_route_has_a_name_a_summary_and_answers() {
    let api = serde_json::to_value(clawbroker::http::openapi::openapi()).unwrap();
    let mut names = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap_or_default();
            assert!(!name.is_empty() && names.insert(name.to_owned()), "{method} {path}: operation id `{name}`");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}: summary");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}: answers");
            let named: BTreeSet<&str> = path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
            let described: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path")
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            assert_eq!(named, described, "{method} {path}: parameters of the path");
        }
    }
    assert!(names.len() > 40, "{}", names.len());
    assert!(api["paths"]["/ws/chat/{gw_id}"]["get"].is_object());
    for schema in api["components"]["schemas"].as_object().unwrap().values() {
        assert!(!schema.is_null());
    }
}

/// A schema of the description.
fn schema(name: &str) -> Value {
    let api = serde_json::to_value(clawbroker::http::openapi::openapi()).unwrap();
    let found = api["components"]["schemas"][name].clone();
    assert!(found.is_object(), "{name}");
    found
}

#[test]
fn an_answer_to_a_sender_fits_one_schema_only() {
    let kind = |name: &str| schema(name)["properties"]["type"].clone();
    assert_eq!(kind("SentMessage"), json!({ "type": "string", "enum": ["openclaw_agent"] }));
    assert_eq!(kind("SentToPerson"), json!({ "type": "string", "enum": ["human"] }));
    for name in ["SentMessage", "SentToPerson"] {
        assert!(schema(name)["required"].as_array().unwrap().contains(&json!("type")), "{name}");
    }
}

#[test]
fn what_is_told_of_a_line_is_described() {
    let described = schema("Message")["properties"].clone();
    for field in ["kind", "in_reply_to", "hops", "late", "supersedes", "error"] {
        assert!(described[field].is_object(), "{field}");
    }
}

#[test]
fn providers_send_and_get_objects() {
    let api = serde_json::to_value(clawbroker::http::openapi::openapi()).unwrap();
    let call = &api["paths"]["/hooks/{id}"]["post"];
    for content in [&call["requestBody"]["content"], &call["responses"]["200"]["content"]] {
        assert_eq!(content["application/json"]["schema"]["type"], "object", "{content}");
    }
}

#[test]
fn what_agents_may_say_is_described_with_its_bounds() {
    let field = |name: &str, field: &str| schema(name)["properties"][field].clone();
    assert_eq!(field("MessageToSend", "deliver_at")["type"], json!(["string", "integer", "null"]));
    for (name, of, bounds) in [
        ("MessageNack", "delay_seconds", [("minimum", 0), ("maximum", 43_200)]),
        ("LeaseExtension", "lease", [("minimum", 10), ("maximum", 43_200)]),
        ("MessageNack", "reason", [("minLength", 1), ("maxLength", 500)]),
        ("MessageFailure", "reason", [("minLength", 1), ("maxLength", 500)]),
    ] {
        for (bound, value) in bounds {
            assert_eq!(field(name, of)[bound].as_f64(), Some(f64::from(value)), "{name}.{of}: {bound}");
        }
    }
    assert_eq!(field("HeartbeatOf", "working_on")["maxItems"], 100);
    let api = serde_json::to_value(clawbroker::http::openapi::openapi()).unwrap();
    let answers = |path: &str| api["paths"][path]["post"]["responses"].clone();
    assert!(answers("/api/gateway/heartbeat")["415"].is_null(), "it takes any body");
    assert!(answers("/api/gateway/report")["415"].is_object());
}

#[test]
fn what_a_polled_message_always_has_is_required() {
    for name in ["AgentMessage", "AgentHistoryLine"] {
        let schema = schema(name);
        let fields: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let required: BTreeSet<&str> =
            schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(required, fields, "{name}");
    }
}

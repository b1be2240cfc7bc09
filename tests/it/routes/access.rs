//! Who may call what, for every route of the description: a new route must be added here, or the test fails.
use actix_web::http::Method;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;
use super::order::Known;

on_both_databases!(every_route_asks_for_its_role, nonsense_never_breaks_a_route);

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Who {
    Anybody,
    /// From this role on.
    From(Role),
    /// A viewer, an operator or an admin, but not a member.
    Observer,
    /// An agent by its key, and no user.
    Agent,
}

pub(super) const TABLE: &[(&str, &str, Who)] = &[
    ("get", "/", Who::Anybody),
    ("get", "/health", Who::Anybody),
    ("get", "/api/health", Who::Anybody),
    ("get", "/ready", Who::Anybody),
    ("get", "/openapi.json", Who::Anybody),
    ("get", "/docs", Who::Anybody),
    ("get", "/docs/{file}", Who::Anybody),
    ("get", "/redoc", Who::Anybody),
    ("get", "/redoc/{file}", Who::Anybody),
    ("get", "/metrics", Who::Observer),
    ("post", "/api/ws-ticket", Who::From(Role::Viewer)),
    ("get", "/ws/chat/{gw_id}", Who::From(Role::Viewer)),
    ("get", "/ws/agent", Who::Agent),
    ("get", "/api/gateways", Who::From(Role::Viewer)),
    ("post", "/api/gateways", Who::From(Role::Operator)),
    ("delete", "/api/gateways/{id}", Who::From(Role::Operator)),
    ("get", "/api/gateways/{id}/status", Who::From(Role::Viewer)),
    ("get", "/api/gateways/{gw_id}/sessions", Who::From(Role::Viewer)),
    ("post", "/api/gateways/{gw_id}/sessions", Who::From(Role::Member)),
    ("get", "/api/gateways/{gw_id}/sessions/{key}", Who::From(Role::Viewer)),
    ("patch", "/api/gateways/{gw_id}/sessions/{key}", Who::From(Role::Member)),
    ("delete", "/api/gateways/{gw_id}/sessions/{key}", Who::From(Role::Member)),
    ("get", "/api/gateways/{gw_id}/sessions/{key}/messages", Who::From(Role::Viewer)),
    ("get", "/api/admin/gateways", Who::Observer),
    ("post", "/api/admin/gateways", Who::From(Role::Operator)),
    ("get", "/api/admin/gateways/{id}", Who::Observer),
    ("patch", "/api/admin/gateways/{id}", Who::From(Role::Operator)),
    ("delete", "/api/admin/gateways/{id}", Who::From(Role::Operator)),
    ("post", "/api/admin/gateways/{id}/test", Who::From(Role::Operator)),
    ("get", "/api/gateway/poll", Who::Agent),
    ("post", "/api/gateway/report", Who::Agent),
    ("post", "/api/gateway/nack", Who::Agent),
    ("post", "/api/gateway/fail", Who::Agent),
    ("post", "/api/gateway/extend", Who::Agent),
    ("post", "/api/gateway/ack", Who::Agent),
    ("post", "/api/gateway/send-message", Who::Agent),
    ("post", "/api/gateway/heartbeat", Who::Agent),
    ("get", "/api/gateway/setup-guide/{id}", Who::Agent),
    ("get", "/api/gateway/directory", Who::Agent),
    ("get", "/api/gateway/messages/{id}", Who::Agent),
    ("post", "/api/gateway/agents/{id}/api-key", Who::From(Role::Operator)),
    ("post", "/api/gateway/generate-key/{id}", Who::From(Role::Operator)),
    ("get", "/api/admin/agents", Who::From(Role::Operator)),
    ("post", "/api/admin/agents", Who::From(Role::Operator)),
    ("get", "/api/admin/agents/{id}", Who::From(Role::Operator)),
    ("patch", "/api/admin/agents/{id}", Who::From(Role::Operator)),
    ("delete", "/api/admin/agents/{id}", Who::From(Role::Operator)),
    ("get", "/api/admin/agents/{id}/keys", Who::From(Role::Admin)),
    ("post", "/api/admin/agents/{id}/keys", Who::From(Role::Admin)),
    ("delete", "/api/admin/agents/{id}/keys/{key_id}", Who::From(Role::Admin)),
    ("get", "/api/admin/agents/{id}/relationships", Who::From(Role::Operator)),
    ("post", "/api/admin/agents/{id}/relationships", Who::From(Role::Operator)),
    ("delete", "/api/admin/agents/{id}/relationships/{rel_id}", Who::From(Role::Operator)),
    ("get", "/api/admin/members", Who::From(Role::Operator)),
    ("post", "/api/admin/members", Who::From(Role::Operator)),
    ("get", "/api/admin/members/{id}", Who::From(Role::Operator)),
    ("patch", "/api/admin/members/{id}", Who::From(Role::Operator)),
    ("delete", "/api/admin/members/{id}", Who::From(Role::Operator)),
    ("get", "/api/admin/channels", Who::From(Role::Admin)),
    ("post", "/api/admin/channels", Who::From(Role::Admin)),
    ("get", "/api/admin/channels/{id}", Who::From(Role::Admin)),
    ("patch", "/api/admin/channels/{id}", Who::From(Role::Admin)),
    ("delete", "/api/admin/channels/{id}", Who::From(Role::Admin)),
    ("post", "/api/admin/channels/{id}/test", Who::From(Role::Admin)),
    ("get", "/api/admin/channels/{id}/senders", Who::From(Role::Admin)),
    ("post", "/api/admin/channels/{id}/senders/{ref}/allow", Who::From(Role::Admin)),
    ("delete", "/api/admin/channels/{id}/senders/{ref}", Who::From(Role::Admin)),
    ("get", "/hooks/{id}", Who::Anybody),
    ("post", "/hooks/{id}", Who::Anybody),
    ("get", "/api/admin/users", Who::From(Role::Admin)),
    ("post", "/api/admin/users", Who::From(Role::Admin)),
    ("patch", "/api/admin/users/{id}", Who::From(Role::Admin)),
    ("delete", "/api/admin/users/{id}", Who::From(Role::Admin)),
    ("get", "/api/admin/tokens", Who::From(Role::Admin)),
    ("post", "/api/admin/tokens", Who::From(Role::Admin)),
    ("delete", "/api/admin/tokens/{id}", Who::From(Role::Admin)),
    ("get", "/api/admin/conversations", Who::Observer),
    ("post", "/api/admin/conversations", Who::From(Role::Operator)),
    ("get", "/api/admin/conversations/{id}", Who::Observer),
    ("delete", "/api/admin/conversations/{id}", Who::From(Role::Operator)),
    ("get", "/api/admin/conversations/{id}/export", Who::From(Role::Operator)),
    ("get", "/api/admin/conversations/{id}/messages", Who::Observer),
    ("post", "/api/admin/conversations/{id}/messages", Who::From(Role::Operator)),
    ("get", "/api/admin/messages/{id}", Who::Observer),
    ("get", "/api/admin/deliveries", Who::From(Role::Operator)),
    ("delete", "/api/admin/deliveries", Who::From(Role::Operator)),
    ("post", "/api/admin/deliveries/redrive", Who::From(Role::Operator)),
    ("post", "/api/admin/deliveries/{id}/redrive", Who::From(Role::Operator)),
    ("post", "/api/admin/deliveries/{id}/cancel", Who::From(Role::Operator)),
    ("get", "/api/admin/audit", Who::Observer),
    ("get", "/api/admin/stats", Who::Observer),
    ("get", "/api/admin/actors", Who::Observer),
    ("post", "/api/admin/backup", Who::From(Role::Admin)),
];

pub(super) fn routes() -> Vec<(String, String)> {
    let api = serde_json::to_value(clawbroker::http::openapi::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        routes.extend(item.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    routes
}

pub(super) fn method(name: &str) -> Method {
    name.to_uppercase().parse().unwrap()
}

/// What may stand for something in a path.
const PLACES: [&str; 7] = ["{id}", "{gw_id}", "{key}", "{key_id}", "{rel_id}", "{ref}", "{file}"];

/// Fills the places of a path with an id that is well formed and does not exist.
pub(super) fn filled(path: &str) -> String {
    PLACES.iter().fold(path.to_owned(), |path, place| path.replace(place, "01890000-0000-7000-8000-000000000000"))
}

async fn every_route_asks_for_its_role(node: TestNode) {
    let (_, key) = node.agent("ann").await;
    let mut known = TABLE.to_vec();
    for (name, path) in routes() {
        let place = known.iter().position(|(method, known, _)| *method == name && *known == path);
        let (_, _, who) = known.swap_remove(place.unwrap_or_else(|| panic!("{name} {path} is not in the table")));
        let call = || node.call(method(&name), &filled(&path)).header("accept", "*/*");
        let without = call().send().await;
        assert_eq!(without.status.as_u16() == 401, who != Who::Anybody, "{name} {path}: {}", without.text);
        // An agent's key opens its own routes, and no others.
        let by_key = call().with_key(&key).await;
        let may = matches!(who, Who::Anybody | Who::Agent);
        assert_eq!(by_key.status.as_u16() != 401, may, "{name} {path} by an agent: {}", by_key.text);
        for role in [Role::Viewer, Role::Member, Role::Operator, Role::Admin] {
            let reply = call().by(role).await;
            if who == Who::Agent {
                reply.expect_error(401, "unauthenticated");
                continue;
            }
            let may = match who {
                Who::Anybody | Who::Agent => true,
                Who::From(least) => role >= least,
                Who::Observer => role != Role::Member,
            };
            assert_eq!(reply.status.as_u16() != 403, may, "{name} {path} by {role:?}: {}", reply.text);
            assert_ne!(reply.status.as_u16(), 401, "{name} {path} by {role:?}: {}", reply.text);
        }
    }
    assert!(known.is_empty(), "no longer there: {known:?}");
}

async fn nonsense_never_breaks_a_route(node: TestNode) {
    let known = Known::make(&node).await;
    let paths = ["lab", "%00", "a%2Fb", "..%2f..", "%F0%9F%92%A5", "-1", "' OR 1=1 --", &"x".repeat(2_000)];
    let queries = [
        "",
        "?limit=-1",
        "?limit=99999999999",
        "?cursor=%00%ff",
        "?before=x&after=y",
        "?purge=maybe&dry_run=2",
        "?=&&a=%",
        "?q=%00&actor=%00&target=%00&recipient=user:%00",
    ];
    let bodies: Vec<Value> = vec![
        json!(null),
        json!([]),
        json!({}),
        json!({ "name": null, "role": 7, "id": [], "url": {}, "title": 1, "content": [[]], "session_key": "\u{0}", "user": 1 }),
        json!({ "name": "x".repeat(10_000), "url": "ws://", "session_key": "x".repeat(10_000), "role": "king", "expires_at": "soon" }),
        json!({ "name": "\u{202e}", "session_key": " ", "archived": "yes", "recipient": "x", "older_than": "99999999-01-01" }),
        json!({ "name": "n", "user": "\u{0}", "recipient": "user:\u{0}", "content": "\u{0}x", "from": "user:\u{0}" }),
    ];
    let check = async |name: &str, path: &str, body: Option<&Value>| {
        let call = node.call(method(name), path).header("x-api-key", &known.agent_key);
        let call = if let Some(body) = body { call.json(body) } else { call };
        let reply = call.by(Role::Admin).await;
        // The one route that only says where another is.
        let fine = reply.status.as_u16() < 500 || reply.status.as_u16() == 501 && path.contains("/generate-key/");
        assert!(fine, "{name} {path} {body:?}: {} {}", reply.status, reply.text);
        if reply.status.is_client_error() {
            assert!(!reply.code().is_empty(), "{name} {path}: {}", reply.text);
        }
    };
    for (name, path) in routes() {
        let writes = name == "post" || name == "patch";
        for (index, part) in paths.iter().enumerate() {
            let escaped = part.replace(' ', "%20").replace('\'', "%27");
            let mut full = path.clone();
            for place in PLACES {
                full = full.replace(place, &escaped);
            }
            full.push_str(queries[index % queries.len()]);
            check(&name, &full, writes.then(|| &bodies[index % bodies.len()])).await;
        }
        // And where what the path names exists, so that the rest is looked at.
        let there = known.filled(&path);
        for query in queries.iter().filter(|_| name == "get") {
            check(&name, &format!("{there}{query}"), None).await;
        }
        for body in bodies.iter().filter(|_| writes) {
            check(&name, &there, Some(body)).await;
        }
    }
}

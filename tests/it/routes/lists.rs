//! Lists: their totals, over all pages and for every filter.
use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;
use super::access::routes;
use super::order::Known;

on_both_databases!(every_list_tells_its_total, totals_follow_the_filters_and_not_the_page);

/// The rows of an answer that is a list.
fn rows(answer: &Value) -> Option<&Vec<Value>> {
    answer.as_array().or_else(|| answer.get("items")?.as_array())
}

fn total(reply: &super::node::Reply) -> usize {
    reply.header("x-total-count").parse().unwrap_or_else(|_| panic!("no total: {}", reply.text))
}

async fn every_list_tells_its_total(node: TestNode) {
    let known = Known::make(&node).await;
    let mut lists = Vec::new();
    for (name, path) in routes() {
        if name != "get" || !path.starts_with("/api/") || path.ends_with("/export") {
            continue;
        }
        let call = node.get(&known.filled(&path)).header("x-api-key", &known.agent_key);
        let reply = call.by(Role::Admin).await.expect_status(200);
        if let Some(rows) = rows(&reply.json) {
            assert_eq!((total(&reply), reply.json["next"].as_str()), (rows.len(), None), "{path}");
            lists.push(path);
        }
    }
    assert!(lists.len() >= 10, "{lists:?}");
}

async fn totals_follow_the_filters_and_not_the_page(node: TestNode) {
    let known = Known::make(&node).await;
    let say = async |text: &str| {
        let path = format!("/api/admin/conversations/{}/messages", known.conversation);
        let said = node.post(&path).json(&json!({ "content": text })).by(Role::Operator).await.expect_status(201);
        said.json["deliveries"][0]["id"].as_str().unwrap().to_owned()
    };
    for text in ["two", "three", "four"] {
        let id = say(text).await;
        node.post(&format!("/api/admin/deliveries/{id}/cancel")).by(Role::Operator).await.expect_status(200);
    }
    let get = async |path: &str| node.get(path).by(Role::Operator).await.expect_status(200);
    for (query, expected) in [
        ("", 4),
        ("?state=pending", 1),
        ("?state=cancelled", 3),
        ("?state=cancelled&recipient=gateway:lab", 3),
        ("?recipient=gateway:lab", 4),
        ("?recipient=gateway:none", 0),
        ("?older_than=2000-01-01T00:00:00Z", 0),
        ("?state=cancelled&recipient=gateway:lab&older_than=2999-01-01T00:00:00Z", 3),
    ] {
        assert_eq!(total(&get(&format!("/api/admin/deliveries{query}")).await), expected, "{query}");
    }
    for state in DeliveryState::ALL {
        let reply = get(&format!("/api/admin/deliveries?state={}", state.as_str())).await;
        assert_eq!(total(&reply), rows(&reply.json).unwrap().len(), "{state:?}");
    }
    for (query, expected) in [
        ("?action=delivery.cancel", 3),
        ("?action=delivery.cancel&actor=operator", 3),
        ("?actor=nobody", 0),
        ("?target=lab", 1),
        ("?target=lab&action=gateway.add", 1),
        ("?target=lab&action=gateway.remove", 0),
    ] {
        assert_eq!(total(&get(&format!("/api/admin/audit{query}")).await), expected, "{query}");
    }
    for path in [
        "/api/admin/audit?actor=%00",
        "/api/admin/audit?target=a%00b",
        "/api/admin/deliveries?recipient=gateway:%00",
        "/api/admin/conversations?q=%00",
        "/api/gateways/lab/sessions?q=%00",
    ] {
        // What PostgreSQL cannot store, it cannot look for either.
        node.get(path).by(Role::Operator).await.expect_error(422, "validation_error");
    }
    node.gateway("lab-2").await;
    // Each page tells the same total, and together they have so many rows.
    for list in [
        "/api/admin/deliveries?limit=3",
        "/api/admin/audit?limit=3",
        "/api/admin/users?limit=2",
        "/api/admin/gateways?limit=1",
    ] {
        let (mut seen, mut path) = (0, list.to_owned());
        let all = total(&node.get(list).by(Role::Admin).await);
        assert!(all > 1, "{list}");
        loop {
            let page = node.get(&path).by(Role::Admin).await.expect_status(200);
            assert_eq!(total(&page), all, "{path}");
            seen += rows(&page.json).unwrap().len();
            let Some(next) = page.json["next"].as_str() else { break };
            path = format!("{list}&cursor={next}");
        }
        assert_eq!(seen, all, "{list}");
        for wrong in ["limit=501", "limit=0", "cursor=xyz"] {
            let list = list.split('?').next().unwrap();
            node.get(&format!("{list}?{wrong}")).by(Role::Admin).await.expect_error(422, "validation_error");
        }
    }
}

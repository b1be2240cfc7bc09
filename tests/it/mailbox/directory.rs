//! The directory: whom an agent may write to.
use clawbroker::config::Reach;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::{member, relate};
use crate::harness::Database;
use crate::routes::TestNode;

on_both_databases!(
    it_tells_of_agents_and_of_people,
    those_who_are_known_come_first,
    it_tells_no_more_than_may_be_reached,
    a_text_is_looked_for_as_it_is,
);

const DIRECTORY: &str = "/api/gateway/directory";

async fn look(node: &TestNode, key: &str, query: &str) -> Value {
    node.get(&format!("{DIRECTORY}{query}")).with_key(key).await.expect_status(200).json
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

async fn it_tells_of_agents_and_of_people(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let (ben_id, ben) = node.agent("ben").await;
    let new = json!({ "name": "nat", "kind": "native", "role_description": "sums up" });
    let nat = node.post("/api/admin/agents").json(&new).by(Role::Operator).await.expect_status(201).json;
    relate(&node, &ann_id, ("agent_id", &ben_id), "peer").await;
    let eve = member(&node, json!({ "name": "Eve", "email": "eve@example.com" })).await;
    relate(&node, &ann_id, ("member_id", &eve), "boss").await;
    member(&node, json!({ "name": "Stranger" })).await;
    let told = |online: bool| {
        json!({
            "agents": [
                {
                    "id": ben_id, "slug": "ben", "name": "ben", "type": "openclaw", "role_description": "",
                    "online": online, "related": true,
                },
                {
                    "id": nat["id"], "slug": "nat", "name": "nat", "type": "native", "role_description": "sums up",
                    "online": false, "related": false,
                },
            ],
            "people": [{ "name": "Eve", "role": "boss", "description": null, "channels": [] }],
            "more_agents": false, "more_people": false,
        })
    };
    assert_eq!(look(&node, &ann, "").await, told(false));
    node.post("/api/gateway/heartbeat").with_key(&ben).await.expect_status(200);
    assert_eq!(look(&node, &ann, "").await, told(true));
    node.clock.advance_ms(300_000);
    assert_eq!(look(&node, &ann, "").await, told(false));
    let of_ben = look(&node, &ben, "").await;
    assert_eq!((names(&of_ben["agents"]), names(&of_ben["people"])), (vec!["ann", "nat"], vec![]));
}

async fn those_who_are_known_come_first(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    for name in ["a", "b", "c", "d"] {
        let (id, _) = node.agent(name).await;
        if ["b", "d"].contains(&name) {
            relate(&node, &ann_id, ("agent_id", &id), "peer").await;
        }
        let person = member(&node, json!({ "name": name })).await;
        relate(&node, &ann_id, ("member_id", &person), "boss").await;
    }
    for (query, agents, people, more) in [
        ("", "b d a c", "a b c d", false),
        ("?limit=4", "b d a c", "a b c d", false),
        ("?limit=3", "b d a", "a b c", true),
        ("?limit=2", "b d", "a b", true),
        ("?limit=1", "b", "a", true),
        ("?limit=1&q=c", "c", "c", false),
    ] {
        let told = look(&node, &ann, query).await;
        assert_eq!(
            (names(&told["agents"]).join(" "), names(&told["people"]).join(" ")),
            (agents.to_owned(), people.to_owned())
        );
        assert_eq!((&told["more_agents"], &told["more_people"]), (&json!(more), &json!(more)), "{query}");
    }
    for (wrong, field) in [("?limit=0", "limit"), ("?limit=101", "limit"), ("?limit=x", "limit")] {
        let refused = node.get(&format!("{DIRECTORY}{wrong}")).with_key(&ann).await;
        assert_eq!(refused.expect_error(422, "validation_error").fields(), [field], "{wrong}");
    }
}

async fn it_tells_no_more_than_may_be_reached(database: Database) {
    let node = TestNode::with(database, |config| config.mailbox.reach = Reach::Relationships);
    let (ann_id, ann) = node.agent("ann").await;
    let (ben_id, ben) = node.agent("ben").await;
    node.agent("carl").await;
    relate(&node, &ann_id, ("agent_id", &ben_id), "peer").await;
    assert_eq!(names(&look(&node, &ann, "").await["agents"]), ["ben"]);
    assert_eq!(look(&node, &ann, "?q=carl").await["agents"], json!([]));
    assert_eq!(look(&node, &ben, "").await["agents"], json!([]));
    node.delete(&format!("/api/admin/agents/{ben_id}")).by(Role::Operator).await.expect_status(200);
    assert_eq!(look(&node, &ann, "").await["agents"], json!([]));
}

async fn a_text_is_looked_for_as_it_is(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    for (name, known) in [("100% sure", true), ("100 percent", true), ("snake_case", false), ("Ärger", false)] {
        let (id, _) = node.agent(name).await;
        let person = member(&node, json!({ "name": name })).await;
        if known {
            relate(&node, &ann_id, ("agent_id", &id), "peer").await;
            relate(&node, &ann_id, ("member_id", &person), "boss").await;
        }
    }
    for (q, agents, people) in [
        ("100", "100% sure,100 percent", "100% sure,100 percent"),
        ("%25", "100% sure", "100% sure"),
        ("_", "snake_case", ""),
        ("%C3%A4RGE", "Ärger", ""),
        ("ANN", "", ""),
        ("1%25e", "", ""),
        ("%5C", "", ""),
    ] {
        let told = look(&node, &ann, &format!("?q={q}")).await;
        assert_eq!(
            (names(&told["agents"]).join(","), names(&told["people"]).join(",")),
            (agents.to_owned(), people.to_owned())
        );
    }
    // Space alone is no text.
    assert_eq!(look(&node, &ann, "?q=%20").await, look(&node, &ann, "").await);
    let long = format!("{DIRECTORY}?q={}", "x".repeat(129));
    assert_eq!(node.get(&long).with_key(&ann).await.expect_error(422, "validation_error").fields(), ["q"]);
}

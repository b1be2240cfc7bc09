//! Whom agents know: what their polls tell of it, and whom a name means by it.
use clawbroker::config::Reach;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::{SEND, member, messages, poll, relate};
use crate::harness::Database;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    a_poll_tells_whom_an_agent_knows,
    a_poll_tells_what_has_changed,
    the_related_are_meant_before_the_others,
    an_agent_may_reach_only_whom_it_knows,
    a_person_is_found_among_those_who_are_known,
    agents_go_before_people,
    a_person_without_a_channel_is_not_written_to,
);

async fn a_poll_tells_whom_an_agent_knows(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let (ben_id, ben) = node.agent("ben").await;
    let empty = poll(&node, &ann, "").await;
    assert_eq!(empty["relationships"], json!([]));
    relate(&node, &ann_id, ("agent_id", &ben_id), "peer").await;
    let eve = member(&node, json!({ "name": "Eve", "email": "eve@example.com", "feishu": { "open_id": "o" } })).await;
    let described = json!({ "member_id": eve, "relation": "boss", "description": "asks for reports" });
    let path = format!("/api/admin/agents/{ann_id}/relationships");
    node.post(&path).json(&described).by(Role::Operator).await.expect_status(201);
    let polled = poll(&node, &ann, "").await;
    // People first; there is no channel to them yet, whatever addresses they have.
    let known = json!([
        { "name": "Eve", "type": "human", "role": "boss", "description": "asks for reports", "channels": [] },
        { "name": "ben", "type": "agent", "role": "peer", "description": null, "channels": ["agent"] },
    ]);
    assert_eq!(polled["relationships"], known);
    let version = polled["relationships_version"].as_str().unwrap();
    assert!(version.len() == 16 && version.bytes().all(|b| b.is_ascii_hexdigit()), "{version}");
    let again = poll(&node, &ann, &format!("?relationships={version}")).await;
    assert_eq!((again.get("relationships"), &again["relationships_version"]), (None, &json!(version)));
    let older = empty["relationships_version"].as_str().unwrap();
    assert_eq!(poll(&node, &ann, &format!("?relationships={older}")).await["relationships"], known);
    // One direction, and nothing of others.
    let of_ben = poll(&node, &ben, "").await;
    assert_eq!((&of_ben["relationships"], &of_ben["relationships_version"]), (&json!([]), &json!(older)));
    // A mailbox that left memory says the same.
    node.state.directory.agents().cards().stop_all();
    assert_eq!(poll(&node, &ann, "").await["relationships_version"], version);
}

async fn a_poll_tells_what_has_changed(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let (ben_id, _) = node.agent("ben").await;
    let eve = member(&node, json!({ "name": "Eve" })).await;
    let to_eve = relate(&node, &ann_id, ("member_id", &eve), "boss").await;
    relate(&node, &ann_id, ("agent_id", &ben_id), "peer").await;
    let names = async || {
        let polled = poll(&node, &ann, "").await;
        let known = polled["relationships"].as_array().unwrap().clone();
        known.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["Eve", "ben"]);
    for (path, name) in [(format!("/api/admin/members/{eve}"), "Eva"), (format!("/api/admin/agents/{ben_id}"), "Benno")]
    {
        node.patch(&path).json(&json!({ "name": name })).by(Role::Operator).await.expect_status(200);
    }
    assert_eq!(names().await, ["Eva", "Benno"]);
    // A poll that waits is told as well.
    let version = poll(&node, &ann, "").await["relationships_version"].as_str().unwrap().to_owned();
    let one = format!("/api/admin/agents/{ann_id}/relationships/{to_eve}");
    node.delete(&one).by(Role::Operator).await.expect_status(200);
    node.delete(&one).by(Role::Operator).await.expect_error(404, "not_found");
    let waited = poll(&node, &ann, &format!("?wait=1&relationships={version}")).await;
    assert_eq!(waited["relationships"][0]["name"], "Benno");
    node.delete(&format!("/api/admin/agents/{ben_id}")).by(Role::Operator).await.expect_status(200);
    assert_eq!(names().await, [""; 0]);
    relate(&node, &ann_id, ("member_id", &eve), "boss").await;
    node.delete(&format!("/api/admin/members/{eve}")).by(Role::Operator).await.expect_status(200);
    assert_eq!(names().await, [""; 0]);
}

async fn to(node: &TestNode, key: &str, target: &str) -> Reply {
    node.post(SEND).json(&json!({ "target": target, "content": "hello" })).with_key(key).await
}

/// The slugs of those who may be meant.
fn candidates(refused: &Reply) -> Vec<String> {
    let candidates = refused.json["error"]["details"]["candidates"].as_array().unwrap();
    let mut slugs: Vec<String> = candidates.iter().map(|one| one["slug"].as_str().unwrap().to_owned()).collect();
    slugs.sort();
    slugs
}

/// Registers an agent under a slug; returns its id.
async fn agent(node: &TestNode, slug: &str, name: &str) -> String {
    let body = json!({ "name": name, "slug": slug });
    let made = node.post("/api/admin/agents").json(&body).by(Role::Operator).await.expect_status(201).json;
    made["id"].as_str().unwrap().to_owned()
}

/// Agents of like names, some of whom `ann` knows; returns the id and the key of `ann`.
async fn likenesses(node: &TestNode) -> (String, String) {
    let (ann_id, ann) = node.agent("ann").await;
    for (slug, name, known) in [
        ("w-1", "Writer", false),
        ("w-2", "Writer", true),
        ("w-3", "Writer two", true),
        ("r-1", "Reader", false),
        ("r-2", "Reader of all", false),
        ("p-1", "100% sure", true),
        ("p-2", "100 percent sure", true),
        ("s-1", "snake_case", false),
        ("s-2", "snake case", false),
    ] {
        let id = agent(node, slug, name).await;
        if known {
            relate(node, &ann_id, ("agent_id", &id), "peer").await;
        }
    }
    (ann_id, ann)
}

async fn the_related_are_meant_before_the_others(node: TestNode) {
    let (ann_id, ann) = likenesses(&node).await;
    for (target, name) in [
        ("w-1", "Writer"),
        ("Writer", "Writer"),
        ("WRITER TWO", "Writer two"),
        ("Reader", "Reader"),
        ("of all", "Reader of all"),
        ("%", "100% sure"),
        ("_", "snake_case"),
    ] {
        assert_eq!(to(&node, &ann, target).await.expect_status(200).json["target"], name, "{target}");
    }
    // Of two who are called so it is the one that it knows.
    let key = node.agent_key(&slug_to_id(&node, "w-2").await).await;
    assert_eq!(messages(&node, &key, "").await.len(), 1);
    for (target, slugs) in [("writer", ["w-2", "w-3"]), ("READ", ["r-1", "r-2"]), ("sure", ["p-1", "p-2"])] {
        assert_eq!(candidates(&to(&node, &ann, target).await.expect_error(409, "ambiguous_target")), slugs, "{target}");
    }
    for target in ["ann", ann_id.as_str(), "s%e", "nobody"] {
        to(&node, &ann, target).await.expect_error(404, "not_found");
    }
    // However many others have the name: they do not take the places of the one that it knows.
    for n in 0..13 {
        agent(&node, &format!("many-{n}"), "Many").await;
    }
    let last = agent(&node, "many-last", "Many").await;
    to(&node, &ann, "Many").await.expect_error(409, "ambiguous_target");
    relate(&node, &ann_id, ("agent_id", &last), "peer").await;
    for target in ["Many", "MAN"] {
        to(&node, &ann, target).await.expect_status(200);
    }
    assert_eq!(messages(&node, &node.agent_key(&last).await, "").await.len(), 2);
    // One that is gone is not meant.
    node.delete(&format!("/api/admin/agents/{last}")).by(Role::Operator).await.expect_status(200);
    to(&node, &ann, "many-last").await.expect_error(404, "not_found");
    to(&node, &ann, "Many").await.expect_error(409, "ambiguous_target");
}

async fn slug_to_id(node: &TestNode, slug: &str) -> String {
    let list = node.get("/api/admin/agents").by(Role::Operator).await.expect_status(200).json;
    let found = list["items"].as_array().unwrap().iter().find(|one| one["slug"] == slug).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

async fn an_agent_may_reach_only_whom_it_knows(database: Database) {
    let node = TestNode::with(database, |config| config.mailbox.reach = Reach::Relationships);
    let (_, ann) = likenesses(&node).await;
    for (target, name) in [("w-2", "Writer"), ("Writer", "Writer"), ("two", "Writer two"), ("%", "100% sure")] {
        assert_eq!(to(&node, &ann, target).await.expect_status(200).json["target"], name, "{target}");
    }
    let stranger = slug_to_id(&node, "r-1").await;
    for target in ["w-1", "Reader", "read", "_", stranger.as_str()] {
        to(&node, &ann, target).await.expect_error(404, "not_found");
    }
    let key = node.agent_key(&slug_to_id(&node, "w-2").await).await;
    assert_eq!(messages(&node, &key, "").await.len(), 2);
}

/// What is said where a person has no channel.
fn no_way(name: &str, user_id: &str, open_id: &str) -> String {
    format!("No available channel to reach {name}. feishu_user_id={user_id}, feishu_open_id={open_id}")
}

async fn a_person_is_found_among_those_who_are_known(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let mut ids = Vec::new();
    for name in ["Eve", "Eve Smith", "Evelyn", "100%", "Mia", "Mia"] {
        let id = member(&node, json!({ "name": name })).await;
        relate(&node, &ann_id, ("member_id", &id), "boss").await;
        ids.push(id);
    }
    let stranger = member(&node, json!({ "name": "Stranger" })).await;
    for (target, name) in
        [("Eve", "Eve"), ("SMITH", "Eve Smith"), ("elyn", "Evelyn"), ("%", "100%"), (ids[2].as_str(), "Evelyn")]
    {
        let refused = to(&node, &ann, target).await.expect_error(400, "invalid_request");
        assert_eq!(refused.json["detail"], no_way(name, "no", "no").as_str(), "{target}");
        // Only of those whom the sender knows.
        to(&node, &ben, target).await.expect_error(404, "not_found");
    }
    let refused = to(&node, &ann, "Mia").await.expect_error(409, "ambiguous_target");
    assert_eq!(refused.json["detail"], "'Mia' may mean several; name one by its id", "people have no slug");
    let candidates = refused.json["error"]["details"]["candidates"].as_array().unwrap();
    assert!(
        candidates.contains(&json!({ "id": ids[4], "slug": null, "name": "Mia", "type": "human" })),
        "{candidates:?}"
    );
    assert_eq!(candidates.len(), 2);
    to(&node, &ann, "eve").await.expect_error(409, "ambiguous_target");
    for target in ["Stranger", stranger.as_str(), "E%e", "_"] {
        to(&node, &ann, target).await.expect_error(404, "not_found");
    }
    node.delete(&format!("/api/admin/members/{}", ids[0])).by(Role::Operator).await.expect_status(200);
    to(&node, &ann, &ids[0]).await.expect_error(404, "not_found");
}

async fn agents_go_before_people(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    node.agent("Sam the agent").await;
    let sam = member(&node, json!({ "name": "Sam" })).await;
    relate(&node, &ann_id, ("member_id", &sam), "boss").await;
    let send = async |target: &str, channel: Value| {
        let body = json!({ "target": target, "content": "hello", "channel": channel });
        node.post(SEND).json(&body).with_key(&ann).await
    };
    for channel in [json!(null), json!(""), json!("agent"), json!(" AGENT ")] {
        assert_eq!(send("sam", channel).await.expect_status(200).json["target"], "Sam the agent");
    }
    // Who is called just so is meant, not an agent that has it in its name; unless an agent is wanted.
    assert_eq!(send("Sam", json!("agent")).await.expect_status(200).json["target"], "Sam the agent");
    for channel in ["", "feishu", "Email", "pigeon"] {
        let refused = send("Sam", json!(channel)).await.expect_error(400, "invalid_request");
        assert_eq!(refused.json["detail"], no_way("Sam", "no", "no").as_str());
    }
}

async fn a_person_without_a_channel_is_not_written_to(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let eve = member(&node, json!({ "name": "Eve" })).await;
    relate(&node, &ann_id, ("member_id", &eve), "boss").await;
    let one = format!("/api/admin/members/{eve}");
    for (feishu, user_id, open_id) in [
        (json!({ "user_id": "u", "open_id": "o" }), "yes", "yes"),
        (json!({ "user_id": null }), "no", "yes"),
        (json!({ "user_id": "u", "open_id": null }), "yes", "no"),
        (json!(null), "no", "no"),
    ] {
        node.patch(&one).json(&json!({ "feishu": feishu })).by(Role::Operator).await.expect_status(200);
        // The ancestor's words: the first ones where it is Feishu that is wanted.
        let expected =
            if feishu.is_null() { no_way("Eve", "no", "no") } else { "No Feishu channel configured".to_owned() };
        let refused = to(&node, &ann, "Eve").await.expect_error(400, "invalid_request");
        assert_eq!(refused.json["detail"], expected.as_str());
        let by_mail = json!({ "target": "Eve", "content": "hello", "channel": "email" });
        let refused = node.post(SEND).json(&by_mail).with_key(&ann).await.expect_error(400, "invalid_request");
        assert_eq!(refused.json["detail"], no_way("Eve", user_id, open_id).as_str());
    }
    let talks = node.get("/api/admin/conversations").by(Role::Operator).await.expect_status(200);
    assert_eq!(talks.header("x-total-count"), "0", "nothing was written");
}

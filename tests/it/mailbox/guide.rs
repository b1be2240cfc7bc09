//! The setup guide: made out for whoever asks, and for nobody else.
use std::collections::BTreeSet;

use clawbroker::domain::user::Role;
use serde_json::json;

use crate::harness::Database;
use crate::routes::TestNode;

on_both_databases!(
    a_guide_is_made_out_for_whoever_asks,
    a_guide_is_only_for_the_agent_itself,
    the_guide_leads_to_where_it_was_asked,
    the_guide_has_the_numbers_of_the_settings,
);

const GUIDE: &str = "/api/gateway/setup-guide";
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

async fn a_guide_is_made_out_for_whoever_asks(node: TestNode) {
    let (id, key) = node.agent("Ann {{key}} `x`").await;
    let path = format!("{GUIDE}/{id}");
    let reply = node.get(&path).with_key(&key).await.expect_status(200);
    assert_eq!(reply.header("cache-control"), "no-store");
    let guide = reply.json;
    assert_eq!(guide.as_object().unwrap().len(), 3, "{guide}");
    assert_eq!(guide["skill_filename"], "clawith_sync.md");
    let addition = "- Check Clawith inbox using the clawith_sync skill and process any pending messages";
    assert_eq!(guide["heartbeat_addition"], addition);
    let skill = guide["skill_content"].as_str().unwrap();
    assert!(skill.starts_with("---\nname: clawith_sync\n"), "{skill}");
    assert!(skill.contains(&format!("You are the agent `Ann {{{{key}}}} 'x'` (id `{id}`).\n")), "{skill}");
    assert!(skill.contains(&format!("k=\"{key}\" && ")), "{skill}");
    assert_eq!(skill.matches("{{").count(), 1, "only what the agent is called");

    let reply = node.get(&format!("{path}?name=clawbroker_sync&key=env&extra=1")).with_key(&key).await;
    let reply = reply.expect_status(200);
    assert_eq!(reply.header("cache-control"), "no-store");
    assert!(!reply.text.contains(&key), "{}", reply.text);
    assert_eq!(reply.json["skill_filename"], "clawbroker_sync.md");
    let addition = "- Check clawbroker inbox using the clawbroker_sync skill and process any pending messages";
    assert_eq!(reply.json["heartbeat_addition"], addition);
    let other = reply.json["skill_content"].as_str().unwrap();
    assert!(other.starts_with("---\nname: clawbroker_sync\n"), "{other}");
    let from_env = skill.replace(&key, "$CLAWBROKER_API_KEY").replace("clawith_sync", "clawbroker_sync");
    assert_eq!(other, from_env);

    // A paused agent may set itself up, too, and each key is told to whoever has it only.
    let second = node.agent_key(&id).await;
    let paused = json!({ "status": "paused" });
    node.patch(&format!("/api/admin/agents/{id}")).json(&paused).by(Role::Operator).await.expect_status(200);
    let text = node.get(&path).with_key(&second).await.expect_status(200).text;
    assert!(text.contains(&second) && !text.contains(&key), "{text}");
}

async fn a_guide_is_only_for_the_agent_itself(node: TestNode) {
    let (ann, key) = node.agent("ann").await;
    let (ben, _) = node.agent("ben").await;
    let mut told = BTreeSet::new();
    for other in [ben.as_str(), NOBODY] {
        let refused = node.get(&format!("{GUIDE}/{other}")).with_key(&key).await.expect_error(403, "forbidden");
        assert_eq!(refused.json["detail"], "Key does not match this agent");
        told.insert(refused.text);
    }
    assert_eq!(told.len(), 1, "one that is not there is refused in the same words: {told:?}");
    for wrong in ["7", "ann", "0189000000007000800000000000000z"] {
        let refused = node.get(&format!("{GUIDE}/{wrong}")).with_key(&key).await;
        let refused = refused.expect_error(422, "validation_error");
        assert_eq!(refused.json["detail"][0]["loc"][0], "path");
    }
    for (query, field) in [("name=other", "name"), ("name=", "name"), ("key=plain", "key"), ("key=%00", "key")] {
        let refused = node.get(&format!("{GUIDE}/{ann}?{query}")).with_key(&key).await;
        assert_eq!(refused.expect_error(422, "validation_error").fields(), [field], "{query}");
    }
    node.get(&format!("{GUIDE}/{ann}")).send().await.expect_error(401, "unauthenticated");
    node.get(&format!("{GUIDE}/7?name=other")).with_key("oc-x").await.expect_error(401, "unauthenticated");
    node.get(&format!("{GUIDE}/{ann}")).by(Role::Admin).await.expect_error(401, "unauthenticated");
    node.post(&format!("{GUIDE}/{ann}")).with_key(&key).await.expect_error(405, "method_not_allowed");
}

async fn the_guide_leads_to_where_it_was_asked(database: Database) {
    let other = Database::migrated(database.kind());
    let node = TestNode::from(database);
    let (id, key) = node.agent("ann").await;
    let path = format!("{GUIDE}/{id}");
    let call = || node.get(&path).header("host", "localhost:8000");
    let poll = |base: &str| format!("\"{base}/api/gateway/poll?");
    for (call, base) in [
        (node.get(&path), "http://127.0.0.1:8080"),
        (call(), "http://localhost:8000"),
        (call().header("x-forwarded-proto", "HTTPS"), "https://localhost:8000"),
        (call().header("x-forwarded-proto", "https, http"), "https://localhost:8000"),
        (call().header("x-forwarded-proto", "http,https"), "http://localhost:8000"),
        (call().header("x-forwarded-proto", "ftp"), "http://localhost:8000"),
        (call().header("x-forwarded-host", "evil.example"), "http://localhost:8000"),
    ] {
        let guide = call.with_key(&key).await.expect_status(200).json;
        let skill = guide["skill_content"].as_str().unwrap();
        assert!(skill.contains(&poll(base)), "{base}: {skill}");
        assert_eq!(skill.matches("://").count(), skill.matches(base).count(), "one place only: {skill}");
    }
    let evil = node.get(&path).header("host", "evil.example").with_key(&key).await;
    evil.expect_error(400, "invalid_request");

    let public = "https://broker.example.com/agents";
    let node = TestNode::with(other, |config| config.app.public_url = public.parse().ok());
    let (id, key) = node.agent("ann").await;
    let call = node.get(&format!("{GUIDE}/{id}")).header("host", "localhost:8000");
    let guide = call.with_key(&key).await.expect_status(200).json;
    assert!(guide["skill_content"].as_str().unwrap().contains(&poll(public)), "{guide}");
}

async fn the_guide_has_the_numbers_of_the_settings(database: Database) {
    let other = Database::migrated(database.kind());
    for (database, hops_max, told) in
        [(database, 3, "passed on; more than 3 are refused."), (other, 0, "passed on; here there is no bound.")]
    {
        let node = TestNode::with(database, |config| {
            config.mailbox.lease_total_max_s = 7_200;
            config.mailbox.hops_max = hops_max;
        });
        let (id, key) = node.agent("ann").await;
        let guide = node.get(&format!("{GUIDE}/{id}")).with_key(&key).await.expect_status(200).json;
        let skill = guide["skill_content"].as_str().unwrap();
        for told in ["can be held for 7200 seconds altogether.", told] {
            assert!(skill.contains(told), "{told}: {skill}");
        }
    }
}

//! A provider that fails is left alone for a while, and nothing is lost by that.
use std::time::Duration;

use serde_json::{Value, json};

use super::{LOOK, PATIENCE, World};
use crate::harness::Database;
use crate::harness::providers::feishu::{APP, FeishuRules, refused};
use crate::harness::providers::{Fault, Provider};

on_both_databases!(a_provider_that_fails_is_left_alone_for_a_while);

const SETTINGS: &str = "[channels]\nsend_wait_ms = 0\npause_after = 2\npause_s = 6\npause_max_s = 6\n";

/// Returns the only channel as the list shows it.
async fn listed(world: &World) -> Value {
    let (status, list) = world.broker.get("/api/admin/channels").await;
    assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(1)), "{list}");
    list["items"][0].clone()
}

/// Waits until the channel pauses or not, with so many messages that wait.
async fn until_paused(world: &World, paused: bool, waiting: usize) {
    let began = tokio::time::Instant::now();
    loop {
        let channel = listed(world).await;
        if channel["paused"] == paused && channel["waiting"] == waiting {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "not {paused} with {waiting}: {channel}\n{}", world.broker.log());
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads the gauge of a channel.
async fn gauge(world: &World, channel: &str) -> String {
    let (_, metrics) = world.broker.get("/metrics").await;
    let name = format!("clawbroker_channel_paused{{channel=\"{channel}\",kind=\"feishu\"}} ");
    let metrics = metrics.as_str().expect("a text");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no gauge: {metrics}")).to_owned()
}

/// Has the agent write to a person; returns the message's id.
async fn send(world: &World, to: &str, content: &str) -> Value {
    Value::from(world.ann.send(&world.broker, to, content).await)
}

async fn a_provider_that_fails_is_left_alone_for_a_while(database: Database) {
    let world = World::with(&database, SETTINGS, json!({ "feishu": { "user_id": "u1" } })).await;
    let provider = Provider::start(FeishuRules::new(&["user_id:u1", "user_id:u2", "user_id:u3"]));
    let app = json!({
        "kind": "feishu", "name": "Feishu", "base_url": provider.url, "config": { "app_id": APP.0 },
        "secret": { "app_secret": APP.1 },
    });
    let channel = world.channel(app).await;
    // What fails for one person may be that person's own fault.
    for (name, id) in [("Bob", "u2"), ("Cleo", "u3")] {
        world.person(name, json!({ "feishu": { "user_id": id } })).await;
    }
    assert_eq!((&listed(&world).await["paused"], gauge(&world, &channel).await.as_str()), (&json!(false), "0"));
    for _ in 0..3 {
        provider.fail(Fault::Says(refused(500, 1_500, "internal error")));
    }
    let mut sent = vec![send(&world, "Eve", "one").await, send(&world, "Bob", "two").await];
    until_paused(&world, true, 2).await;
    assert_eq!((provider.messages(), gauge(&world, &channel).await.as_str()), (2, "1"));
    // What comes now waits like the others.
    sent.push(send(&world, "Cleo", "three").await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(provider.messages(), 2);
    until_paused(&world, true, 3).await;
    // After the pause one goes first, and since it fails the others go on waiting.
    let began = tokio::time::Instant::now();
    while provider.messages() < 3 {
        assert!(began.elapsed() < PATIENCE, "nothing was tried: {}", world.broker.log());
        tokio::time::sleep(LOOK).await;
    }
    until_paused(&world, true, 3).await;
    assert_eq!(provider.messages(), 3);
    for message in &sent {
        assert_eq!(world.ended(message).await["state"], "completed");
    }
    until_paused(&world, false, 0).await;
    assert_eq!(gauge(&world, &channel).await, "0");
    let mut got = provider.with(|rules| rules.sent.clone());
    got.sort();
    let expected = [("user_id:u1", "ann: one"), ("user_id:u2", "ann: two"), ("user_id:u3", "ann: three")];
    assert_eq!(got, expected.map(|(to, text)| (to.to_owned(), text.to_owned())));
    assert_eq!(provider.messages(), 6, "three failed, and each arrived once");
}

//! Feishu's tokens from end to end: shared as long as they are good, and not used after that.
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::World;
use crate::harness::Database;
use crate::harness::providers::Provider;
use crate::harness::providers::feishu::{APP, FeishuRules};

on_both_databases!(a_token_whose_time_is_over_is_not_used, sendings_at_the_same_time_share_a_token);

async fn world(database: &Database) -> (World, Provider<FeishuRules>) {
    // A slow machine is not to look like a silent provider.
    let world = World::with(database, "", json!({ "feishu": { "user_id": "u1" } })).await;
    let provider = Provider::start(FeishuRules::new(&["user_id:u1"]));
    let channel = json!({
        "kind": "feishu", "name": "Feishu", "base_url": provider.url, "config": { "app_id": APP.0 },
        "secret": { "app_secret": APP.1 },
    });
    world.channel(channel).await;
    (world, provider)
}

async fn a_token_whose_time_is_over_is_not_used(database: Database) {
    let (world, provider) = world(&database).await;
    // Five minutes are held back, so that this one is good for a second.
    provider.with(|rules| rules.expire = 301);
    let first = world.send_as(&world.ann, "one").await;
    assert_eq!(world.ended(&first).await["state"], "completed");
    assert_eq!(provider.with(|rules| rules.tokens), 1);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // The provider believes the newest token only.
    provider.with(|rules| (rules.token, rules.expire) = (None, 7_200));
    for content in ["two", "three"] {
        let sent = world.send_as(&world.ann, content).await;
        assert_eq!(world.ended(&sent).await["state"], "completed");
    }
    let counts = provider.with(|rules| (rules.tokens, rules.unauthorized, rules.asked));
    assert_eq!(counts, (2, 0, 3), "asked for before it was needed, and then kept");
}

async fn sendings_at_the_same_time_share_a_token(database: Database) {
    let (world, provider) = world(&database).await;
    provider.with(|rules| rules.token_takes = Duration::from_millis(500));
    let mut agents = Vec::new();
    for name in ["ben", "cy", "dan", "fay"] {
        agents.push(world.acquaintance(name).await);
    }
    let sent = join_all(agents.iter().map(|agent| world.send_as(agent, "hello"))).await;
    for message in &sent {
        let delivery = world.ended(message).await;
        assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("completed"), &json!(1)));
    }
    let counts = provider.with(|rules| (rules.tokens, rules.unauthorized, rules.sent.len()));
    assert_eq!(counts, (1, 0, 4));
}

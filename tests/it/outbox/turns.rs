//! Whose turn it is: a person whose time has not come holds up nobody else, and a channel that is turned off and on again
//! goes on where it was.
use std::time::Duration;

use serde_json::{Value, json};

use super::{World, until};
use crate::harness::Database;
use crate::harness::providers::feishu::{APP, FeishuRules};
use crate::harness::providers::telegram::{BOT, TelegramRules};
use crate::harness::providers::whatsapp::{NUMBER, TOKEN, WhatsAppRules};
use crate::harness::providers::{Fault, Provider};

on_both_databases!(
    who_must_wait_holds_up_nobody_else,
    those_who_wait_between_two_parts_do_not_stop_each_other,
    a_channel_that_is_turned_off_and_on_loses_nothing,
    a_stop_waits_for_what_is_on_its_way,
);

/// One message at a time: who holds its place and waits has all others wait.
const SETTINGS: &str = "[channels]\nsend_wait_ms = 0\nin_flight_max = 1\n";

/// How many messages a person gets by WhatsApp within a minute.
const A_MINUTE: usize = 10;

async fn who_must_wait_holds_up_nobody_else(database: Database) {
    let world = World::with(&database, SETTINGS, json!({ "whatsapp": "+4930123456" })).await;
    world.person("Bob", json!({ "whatsapp": "+4930123457" })).await;
    let provider = Provider::start(WhatsAppRules::new(&["4930123456", "4930123457"]));
    let business = json!({
        "kind": "whatsapp", "name": "Business", "base_url": format!("{}/v23.0", provider.url),
        "config": { "phone_number_id": NUMBER }, "secret": { "access_token": TOKEN },
    });
    world.channel(business).await;
    let mut to_eve = Vec::new();
    for n in 0..=A_MINUTE {
        to_eve.push(world.send_as(&world.ann, &n.to_string()).await);
    }
    for message in &to_eve[..A_MINUTE] {
        assert_eq!(world.ended(message).await["state"], "completed");
    }
    let to_bob = Value::from(world.ann.send(&world.broker, "Bob", "hello").await);
    assert_eq!(world.ended(&to_bob).await["state"], "completed");
    let path = format!("/api/admin/messages/{}", to_eve[A_MINUTE].as_str().expect("an id"));
    let (_, receipt) = world.broker.get(&path).await;
    let waiting = &receipt["deliveries"][0];
    assert_eq!((&waiting["state"], &waiting["attempt"]), (&json!("pending"), &json!(0)), "{receipt}");
    let newest = provider.with(|rules| (rules.sent.len(), rules.sent.last().cloned()));
    assert_eq!(newest, (A_MINUTE + 1, Some(("4930123457".to_owned(), "ann: hello".to_owned()))));
}

async fn those_who_wait_between_two_parts_do_not_stop_each_other(database: Database) {
    let world = World::with(&database, SETTINGS, json!({ "telegram_chat_id": 7 })).await;
    world.person("Bob", json!({ "telegram_chat_id": 8 })).await;
    world.person("Cleo", json!({ "telegram_chat_id": 9 })).await;
    let provider = Provider::start(TelegramRules::new(&["7", "8", "9"]));
    let bot = json!({
        "kind": "telegram", "name": "Bot", "base_url": provider.url, "secret": { "bot_token": BOT }, "config": {},
    });
    world.channel(bot).await;
    // Longer than a chat's turn takes: the others have waited for theirs before it is answered.
    provider.fail(Fault::Slow(Duration::from_millis(1_500)));
    let mut sent = Vec::new();
    for name in ["Eve", "Bob", "Cleo"] {
        sent.push(Value::from(world.ann.send(&world.broker, name, &"x".repeat(5_000)).await));
    }
    for message in &sent {
        assert_eq!(world.ended(message).await["state"], "completed");
    }
    assert_eq!(provider.with(|rules| rules.sent.len()), 6, "two parts each");
}

async fn a_channel_that_is_turned_off_and_on_loses_nothing(database: Database) {
    let world = World::with(&database, SETTINGS, json!({ "feishu": { "user_id": "u1" } })).await;
    let provider = Provider::start(FeishuRules::new(&["user_id:u1"]));
    let app = json!({
        "kind": "feishu", "name": "Feishu", "base_url": provider.url, "config": { "app_id": APP.0 },
        "secret": { "app_secret": APP.1 },
    });
    let path = format!("/api/admin/channels/{}", world.channel(app).await);
    let mut sent = Vec::new();
    for n in 0..10 {
        // It is on its way for shorter and longer than the changes take.
        provider.fail(Fault::Slow(Duration::from_millis(10 * n)));
        sent.push(world.send_as(&world.ann, &n.to_string()).await);
        for enabled in [false, true] {
            let (status, changed) = world.broker.call("PATCH", &path, Some(json!({ "enabled": enabled }))).await;
            assert_eq!((status, &changed["enabled"]), (200, &json!(enabled)), "{changed}");
        }
    }
    for message in &sent {
        assert_eq!(world.ended(message).await["state"], "completed");
    }
    let texts: Vec<String> = provider.with(|rules| rules.sent.iter().map(|(_, text)| text.clone()).collect());
    let expected: Vec<String> = (0..10).map(|n| format!("ann: {n}")).collect();
    assert_eq!(texts, expected, "each once, in their order");
}

async fn a_stop_waits_for_what_is_on_its_way(database: Database) {
    let mut world = World::with(&database, SETTINGS, json!({ "telegram_chat_id": 7 })).await;
    let provider = Provider::start(TelegramRules::new(&["7"]));
    let bot = json!({ "kind": "telegram", "name": "Bot", "base_url": provider.url, "secret": { "bot_token": BOT } });
    world.channel(bot).await;
    // Longer than a lease holds that is renewed no more.
    provider.fail(Fault::Slow(Duration::from_secs(6)));
    let sent = world.send_as(&world.ann, "hello").await;
    until("it is on its way", || provider.with(|rules| rules.sent.len()) == 1).await;
    assert_eq!(world.broker.stop().await, Some(0));
    world.broker.start_again().await;
    assert_eq!(world.ended(&sent).await["state"], "completed");
    assert_eq!(provider.with(|rules| rules.sent.len()), 1);
}

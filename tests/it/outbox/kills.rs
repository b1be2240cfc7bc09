//! A broker that dies while a provider is silent: nobody knows whether the message arrived (D5).
use serde_json::{Value, json};

use super::{World, until};
use crate::harness::Database;
use crate::harness::providers::feishu::{APP, FeishuRules};
use crate::harness::providers::hook::{self, HookRules};
use crate::harness::providers::smtp::{MailServer, Says};
use crate::harness::providers::telegram::{BOT, TelegramRules};
use crate::harness::providers::whatsapp::{NUMBER, TOKEN, WhatsAppRules};
use crate::harness::providers::{Fault, Provider};

on_both_databases!(what_the_provider_knows_again_arrives_once, what_the_provider_would_send_twice_is_dead);

/// Nobody but the test ends a silence.
const SETTINGS: &str = "[channels]\nsend_wait_ms = 0\ntimeout_s = 300\nwebhook_plain = true\nwebhook_private = true\n";

/// Has the agent write to the person by a kind of channel; returns the message's id.
async fn send(world: &World, kind: &str, content: &str) -> Value {
    let (status, sent) = world.send_with(json!({ "content": content, "channel": kind })).await;
    assert_eq!((status, &sent["channel"]), (200, &json!(kind)), "{sent}");
    sent["message_id"].clone()
}

async fn what_the_provider_knows_again_arrives_once(database: Database) {
    let (feishu, webhook) = (Provider::start(FeishuRules::new(&["user_id:u1"])), Provider::start(HookRules::default()));
    let addresses = json!({ "feishu": { "user_id": "u1" }, "webhook_url": format!("{}/in", webhook.url) });
    let mut world = World::with(&database, SETTINGS, addresses).await;
    let app = json!({
        "kind": "feishu", "name": "Feishu", "base_url": feishu.url, "config": { "app_id": APP.0 },
        "secret": { "app_secret": APP.1 },
    });
    world.channel(app).await;
    world.channel(json!({ "kind": "webhook", "name": "Hook", "secret": { "secret": hook::SECRET } })).await;
    feishu.fail(Fault::Silent);
    webhook.fail(Fault::Silent);
    let sent = [send(&world, "feishu", "once").await, send(&world, "webhook", "once").await];
    until("both have acted", || {
        feishu.with(|rules| rules.sent.len()) == 1 && webhook.with(|rules| rules.got.len()) == 1
    })
    .await;
    world.broker.kill();
    world.broker.start_again().await;
    for message in &sent {
        let delivery = world.ended(message).await;
        let expected = (&json!("completed"), &json!("sent"), &json!(2));
        assert_eq!((&delivery["state"], &delivery["outcome"], &delivery["attempt"]), expected, "{delivery}");
    }
    let texts = feishu.with(|rules| rules.sent.clone());
    assert_eq!(texts, [("user_id:u1".to_owned(), "ann: once".to_owned())]);
    assert_eq!(feishu.with(|rules| rules.asked), 2, "it was asked again and knew it");
    let (got, calls) = webhook.with(|rules| (rules.got.clone(), rules.calls));
    assert_eq!((got.len(), &got[0]["text"], calls), (1, &json!("once"), 2));
}

async fn what_the_provider_would_send_twice_is_dead(database: Database) {
    let (telegram, whatsapp) =
        (Provider::start(TelegramRules::new(&["7"])), Provider::start(WhatsAppRules::new(&["4930123456"])));
    let mail = MailServer::start().await;
    let addresses = json!({ "telegram_chat_id": "7", "whatsapp": "+4930123456", "email": "eve@example.org" });
    let mut world = World::with(&database, SETTINGS, addresses).await;
    let bot = json!({ "kind": "telegram", "name": "Bot", "base_url": telegram.url, "secret": { "bot_token": BOT } });
    world.channel(bot).await;
    let business = json!({
        "kind": "whatsapp", "name": "Business", "base_url": format!("{}/v23.0", whatsapp.url),
        "config": { "phone_number_id": NUMBER }, "secret": { "access_token": TOKEN },
    });
    world.channel(business).await;
    let server = json!({ "host": "127.0.0.1", "port": mail.port, "security": "plain", "from": "bot@example.org" });
    world.channel(json!({ "kind": "email", "name": "Mail", "config": server })).await;
    telegram.fail(Fault::Silent);
    whatsapp.fail(Fault::Silent);
    mail.say(".", Says::Silence);
    let mut sent = Vec::new();
    for kind in ["telegram", "whatsapp", "email"] {
        sent.push(send(&world, kind, "once").await);
    }
    let arrived = || {
        let by_phone = (telegram.with(|rules| rules.sent.len()), whatsapp.with(|rules| rules.sent.len()));
        (by_phone, mail.letters().len())
    };
    until("all have acted", || arrived() == ((1, 1), 1)).await;
    world.broker.kill();
    mail.say(".", Says::Line("250 queued"));
    world.broker.start_again().await;
    for message in &sent {
        let delivery = world.ended(message).await;
        let expected = (&json!("dead"), &json!("outcome_unknown"), &json!(1));
        assert_eq!((&delivery["state"], &delivery["reason"], &delivery["attempt"]), expected, "{delivery}");
    }
    // Whoever sent them is told of each.
    let mut notices = Vec::new();
    while notices.len() < sent.len() {
        let told = world.ann.messages(&world.broker).await;
        assert!(!told.is_empty(), "told of these only: {notices:?}");
        notices.extend(told);
    }
    assert!(notices.iter().all(|notice| notice["kind"] == "notice"), "{notices:?}");
    let mut of: Vec<&str> = notices.iter().filter_map(|notice| notice["in_reply_to"].as_str()).collect();
    let mut expected: Vec<&str> = sent.iter().filter_map(Value::as_str).collect();
    of.sort_unstable();
    expected.sort_unstable();
    assert_eq!(of, expected);
    // The channels go on, and what was unknown did not go out again.
    for kind in ["telegram", "whatsapp", "email"] {
        let next = send(&world, kind, "next").await;
        assert_eq!(world.ended(&next).await["state"], "completed", "{kind}");
    }
    assert_eq!(arrived(), ((2, 2), 2));
}

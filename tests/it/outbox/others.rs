//! Telegram, WhatsApp, e-mail and webhooks from end to end: what goes out.
use std::time::Duration;

use serde_json::{Value, json};

use super::{SETTINGS, World};
use crate::harness::Database;
use crate::harness::providers::hook::{self, HookRules};
use crate::harness::providers::smtp::{MailServer, Says};
use crate::harness::providers::telegram::{self, BOT, TelegramRules};
use crate::harness::providers::whatsapp::{NUMBER, TOKEN, WhatsAppRules};
use crate::harness::providers::{Fault, Provider};

on_both_databases!(
    telegram_is_not_asked_twice_when_nobody_knows,
    a_long_text_goes_out_in_parts_at_the_providers_pace,
    a_part_that_is_refused_does_not_hide_those_that_arrived,
    the_first_channel_that_works_is_taken_and_a_hint_counts,
    whatsapp_says_why_it_will_not,
    a_letter_goes_out_once_and_waits_for_its_server,
    a_webhook_that_was_silent_knows_the_repeat,
    a_webhook_may_not_go_where_only_we_can,
    the_agents_own_channel_goes_before_the_others,
);

async fn telegram(world: &World, provider: &Provider<TelegramRules>) -> String {
    let body = json!({
        "kind": "telegram", "name": "Bot", "base_url": provider.url, "secret": { "bot_token": BOT }, "config": {},
    });
    world.channel(body).await
}

fn texts(provider: &Provider<TelegramRules>) -> Vec<String> {
    provider.with(|rules| rules.sent.iter().map(|(_, text)| text.clone()).collect())
}

async fn telegram_is_not_asked_twice_when_nobody_knows(database: Database) {
    let world = World::new(&database, json!({ "telegram_chat_id": 7 })).await;
    let provider = Provider::start(TelegramRules::new(&["7"]));
    telegram(&world, &provider).await;
    for fault in [Fault::Silent, Fault::Cut] {
        provider.fail(fault);
        let (status, sent) = world.send("once").await;
        assert_eq!((status, &sent["status"]), (200, &json!("accepted")), "{sent}");
        let delivery = world.ended(&sent["message_id"]).await;
        let expected = (&json!("dead"), &json!("outcome_unknown"), &json!(1));
        assert_eq!((&delivery["state"], &delivery["reason"], &delivery["attempt"]), expected);
        let notice = &world.ann.messages(&world.broker).await[0];
        assert_eq!((&notice["kind"], &notice["in_reply_to"]), (&json!("notice"), &sent["message_id"]));
    }
    assert_eq!(texts(&provider), ["ann: once", "ann: once"], "each message once");
    assert_eq!(world.send("next").await.1["status"], "sent");
}

async fn a_long_text_goes_out_in_parts_at_the_providers_pace(database: Database) {
    let world = World::new(&database, json!({ "telegram_chat_id": "7" })).await;
    let provider = Provider::start(TelegramRules::new(&["7"]));
    telegram(&world, &provider).await;
    // What is sent at the right time may be on its way for longer than what is sent after it.
    provider.with(|rules| rules.pace.per = Duration::from_millis(500));
    provider.fail(Fault::Says(telegram::refused(429, "Too Many Requests: retry after 1", json!({ "retry_after": 1 }))));
    let text = "x".repeat(9_000);
    let (_, sent) = world.send(&text).await;
    let delivery = world.ended(&sent["message_id"]).await;
    assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("completed"), &json!(2)));
    let parts = texts(&provider);
    assert_eq!((parts.len(), parts.concat()), (3, format!("ann: {text}")));
    assert_eq!(provider.with(|rules| rules.too_fast), 0, "no part was sent too early");
    // A person who blocked the bot will never get it.
    provider.with(|rules| rules.blocked.insert("7".to_owned()));
    let (status, refused) = world.send("hello").await;
    assert_eq!(status, 502, "{refused}");
    assert_eq!(refused["detail"], "Telegram send failed: Forbidden: bot was blocked by the user (Telegram 403)");
}

async fn a_part_that_is_refused_does_not_hide_those_that_arrived(database: Database) {
    let world = World::with(&database, "[channels]\nsend_wait_ms = 0\n", json!({ "telegram_chat_id": "7" })).await;
    let provider = Provider::start(TelegramRules::new(&["7"]));
    telegram(&world, &provider).await;
    provider.fail(Fault::Slow(Duration::ZERO));
    let blocked = telegram::refused(403, "Forbidden: bot was blocked by the user", Value::Null);
    provider.fail(Fault::Says(blocked));
    let sent = world.send_as(&world.ann, &"x".repeat(5_000)).await;
    let delivery = world.ended(&sent).await;
    let words = "a part of it was sent, the rest was not: Forbidden: bot was blocked by the user (Telegram 403)";
    assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("dead"), &json!(words)));
    assert_eq!(texts(&provider).len(), 1);
}

async fn the_first_channel_that_works_is_taken_and_a_hint_counts(database: Database) {
    let mail = MailServer::start().await;
    let addresses = json!({ "telegram_chat_id": "7", "email": "eve@example.org", "whatsapp": "4930123456" });
    let world = World::new(&database, addresses).await;
    let provider = Provider::start(TelegramRules::new(&["7"]));
    let server = json!({ "host": "127.0.0.1", "port": mail.port, "security": "plain", "from": "bot@example.org" });
    world.channel(json!({ "kind": "email", "name": "Mail", "config": server })).await;
    assert_eq!(world.send("by mail").await.1["channel"], "email");
    telegram(&world, &provider).await;
    assert_eq!(world.send("by telegram").await.1["channel"], "telegram");
    let (_, polled) = world.ann.call(&world.broker, "GET", "/api/gateway/poll", None).await;
    assert_eq!(polled["relationships"][0]["channels"], json!(["telegram", "email"]));
    let hinted = |channel: &str| world.send_with(json!({ "content": "hinted", "channel": channel }));
    assert_eq!(hinted("EMAIL").await.1["channel"], "email");
    for nowhere in ["whatsapp", "feishu", "pigeon"] {
        let (status, refused) = hinted(nowhere).await;
        let words = "No available channel to reach Eve. feishu_user_id=no, feishu_open_id=no";
        assert_eq!((status, &refused["detail"]), (400, &json!(words)), "{nowhere}");
        assert_eq!(refused["error"]["details"]["channels"], json!(["telegram", "email"]), "{nowhere}");
    }
    assert_eq!((mail.letters().len(), texts(&provider)), (2, vec!["ann: by telegram".to_owned()]));
}

async fn whatsapp_says_why_it_will_not(database: Database) {
    let world = World::new(&database, json!({ "whatsapp": "+4930123456" })).await;
    let provider = Provider::start(WhatsAppRules::new(&["4930123456"]));
    let body = json!({
        "kind": "whatsapp", "name": "Business", "base_url": format!("{}/v23.0", provider.url),
        "config": { "phone_number_id": NUMBER }, "secret": { "access_token": TOKEN },
    });
    let channel = world.channel(body).await;
    let (_, tested) = world.broker.call("POST", &format!("/api/admin/channels/{channel}/test"), None).await;
    assert_eq!(tested["ok"], true, "{tested}");
    assert_eq!(world.send("hello").await.1["status"], "sent");
    provider.with(|rules| rules.open.clear());
    let (status, refused) = world.send("late").await;
    let words = refused["detail"].as_str().expect("words");
    assert!(status == 502 && words.contains("131047") && words.contains("24 hours"), "{refused}");
    provider.with(|rules| rules.open.insert("4930123456".to_owned()));
    provider.fail(Fault::Silent);
    let (_, sent) = world.send("once").await;
    assert_eq!(world.ended(&sent["message_id"]).await["reason"], "outcome_unknown");
    let sent = provider.with(|rules| rules.sent.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>());
    assert_eq!(sent, ["ann: hello", "ann: once"]);
}

async fn a_letter_goes_out_once_and_waits_for_its_server(database: Database) {
    let world = World::new(&database, json!({ "email": "eve@example.org" })).await;
    let mail = MailServer::start().await;
    let server = json!({ "host": "127.0.0.1", "port": mail.port, "security": "plain", "from": "bot@example.org" });
    let channel = world.channel(json!({ "kind": "email", "name": "Mail", "config": server })).await;
    let (_, tested) = world.broker.call("POST", &format!("/api/admin/channels/{channel}/test"), None).await;
    assert_eq!(tested["ok"], true, "{tested}");
    let (_, sent) = world.send("hello").await;
    assert_eq!(sent["status"], "sent", "{sent}");
    let letters = mail.letters();
    assert!(letters.len() == 1 && letters[0].contains("Subject: Message from ann"), "{letters:?}");
    mail.say("RCPT", Says::Line("550 no such person"));
    let (status, refused) = world.send("hello").await;
    assert_eq!(status, 502, "{refused}");
    assert!(refused["detail"].as_str().expect("words").starts_with("Email send failed: "), "{refused}");
    mail.say("RCPT", Says::Line("250 ok"));
    // The letter is on its way, and nothing is said about it.
    mail.say(".", Says::Silence);
    let (_, sent) = world.send("once").await;
    assert_eq!(world.ended(&sent["message_id"]).await["reason"], "outcome_unknown");
    assert_eq!(mail.letters().len(), 2);
    mail.say(".", Says::Line("250 queued"));
    mail.say("MAIL", Says::Line("451 later"));
    let (_, waiting) = world.send("later").await;
    assert_eq!(waiting["status"], "accepted", "{waiting}");
    mail.say("MAIL", Says::Line("250 ok"));
    assert_eq!(world.ended(&waiting["message_id"]).await["state"], "completed");
    assert_eq!(mail.letters().len(), 3);
}

async fn a_webhook_that_was_silent_knows_the_repeat(database: Database) {
    let provider = Provider::start(HookRules::default());
    let world = World::new(&database, json!({ "webhook_url": format!("{}/in", provider.url) })).await;
    world.channel(json!({ "kind": "webhook", "name": "Hook", "secret": { "secret": hook::SECRET } })).await;
    provider.fail(Fault::Silent);
    let (_, sent) = world.send("once").await;
    assert_eq!(world.ended(&sent["message_id"]).await["state"], "completed");
    let (got, calls) = provider.with(|rules| (rules.got.clone(), rules.calls));
    assert_eq!((got.len(), &got[0]["text"], &got[0]["from"], calls), (1, &json!("once"), &json!("ann"), 2));
    // The silence before counts as a failure, and ends with the answer.
    let (status, sent) = world.send("again").await;
    assert_eq!((status, &sent["status"]), (200, &json!("sent")), "{sent}");
}

async fn a_webhook_may_not_go_where_only_we_can(database: Database) {
    let provider = Provider::start(HookRules::default());
    let address = json!({ "webhook_url": format!("{}/in", provider.url.replace("127.0.0.1", "localhost")) });
    let settings = SETTINGS.replace("webhook_private = true\n", "");
    let world = World::with(&database, &settings, address).await;
    world.channel(json!({ "kind": "webhook", "name": "Hook", "secret": { "secret": hook::SECRET } })).await;
    let (status, refused) = world.send("hello").await;
    let words = refused["detail"].as_str().expect("words");
    assert!(status == 502 && words.contains("not a public one"), "{refused}");
    assert_eq!(provider.with(|rules| rules.calls), 0);
}

async fn the_agents_own_channel_goes_before_the_others(database: Database) {
    let world = World::new(&database, json!({ "telegram_chat_id": "7" })).await;
    let (other, own) = (Provider::start(TelegramRules::new(&["7"])), Provider::start(TelegramRules::new(&["7"])));
    telegram(&world, &other).await;
    let mut body: Value =
        json!({ "kind": "telegram", "name": "Ann's", "base_url": own.url, "secret": { "bot_token": BOT } });
    body["agent_id"] = json!(world.ann.id);
    world.channel(body).await;
    assert_eq!(world.send("hello").await.1["status"], "sent");
    // Everybody knows who speaks there.
    assert_eq!((texts(&own), texts(&other)), (vec!["hello".to_owned()], vec![]));
}

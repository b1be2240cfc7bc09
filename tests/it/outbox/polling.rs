//! Telegram is asked for what people wrote: nothing of it is lost, and nothing holds up what comes behind it.
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{LOOK, PATIENCE, SETTINGS, World, until};
use crate::harness::Database;
use crate::harness::providers::telegram::{BOT, TelegramRules};
use crate::harness::providers::{Fault, Provider};

on_both_databases!(
    an_answer_to_what_we_wrote_needs_no_permission,
    numbers_that_begin_anew_are_heard,
    a_page_that_is_too_long_is_read_in_parts,
    what_comes_as_a_channel_is_disabled_stays_with_telegram,
);

/// A person who has been written to on a bot that is asked for what people write.
async fn greeted(database: &Database, settings: &str) -> (World, Provider<TelegramRules>, String) {
    let world = World::with(database, settings, json!({ "telegram_chat_id": "7" })).await;
    let provider = Provider::start(TelegramRules::new(&["7"]));
    let body = json!({
        "kind": "telegram", "name": "Bot", "base_url": provider.url, "agent_id": world.ann.id,
        "config": { "receive": "poll" }, "secret": { "bot_token": BOT },
    });
    let channel = world.channel(body).await;
    let (_, sent) = world.send("hello").await;
    assert_eq!(world.ended(&sent["message_id"]).await["state"], "completed");
    (world, provider, channel)
}

/// What somebody writes to Eve's chat.
fn update(id: i64, sender: i64, text: &str) -> Value {
    json!({ "update_id": id, "message": { "message_id": 1_000 + id, "date": 1_795_189_101, "chat": { "id": 7 },
        "from": { "id": sender, "is_bot": false, "first_name": "Eve" }, "text": text } })
}

async fn an_answer_to_what_we_wrote_needs_no_permission(database: Database) {
    let (world, provider, channel) = greeted(&database, SETTINGS).await;
    // Somebody else speaks there as well.
    provider.with(|rules| rules.updates.extend([update(1, 8, "me, too"), update(2, 7, "yes")]));
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("yes")));
    assert_eq!(got[0]["sender_user_name"], "Eve");
    assert_eq!(world.senders(&channel).await, [("8".to_owned(), Value::Null)]);
}

async fn numbers_that_begin_anew_are_heard(database: Database) {
    let (world, provider, _) = greeted(&database, SETTINGS).await;
    provider.with(|rules| rules.updates.push(update(1_000_000, 7, "one")));
    assert_eq!(world.ann.messages(&world.broker).await[0]["content"], "one");
    until("it was confirmed", || provider.with(|rules| rules.updates.is_empty())).await;
    // After a week without one Telegram begins anywhere.
    provider.with(|rules| rules.updates.push(update(5, 7, "two")));
    assert_eq!(world.ann.messages(&world.broker).await[0]["content"], "two");
}

async fn a_page_that_is_too_long_is_read_in_parts(database: Database) {
    let (world, provider, _) = greeted(&database, SETTINGS).await;
    let text = "好".repeat(4_096);
    provider.with(|rules| rules.updates.extend((1..=90).map(|id| update(id, 7, &text))));
    until("all were read", || provider.with(|rules| rules.updates.is_empty())).await;
    let (_, metrics) = world.broker.get("/metrics").await;
    let metrics = metrics.as_str().expect("a text");
    assert!(metrics.contains("outcome=\"taken\"} 90\n"), "{metrics}");
}

async fn what_comes_as_a_channel_is_disabled_stays_with_telegram(database: Database) {
    // A message on its way keeps the outbox for some seconds after its channel was disabled.
    let settings = SETTINGS.replace("timeout_s = 1\n", "timeout_s = 5\nsend_wait_ms = 0\n");
    let (world, provider, channel) = greeted(&database, &settings).await;
    let enable = async |enabled: bool| {
        let path = format!("/api/admin/channels/{channel}");
        let (status, changed) = world.broker.call("PATCH", &path, Some(json!({ "enabled": enabled }))).await;
        assert_eq!((status, &changed["enabled"]), (200, &json!(enabled)), "{changed}");
    };
    provider.fail(Fault::Silent);
    assert_eq!(world.send("slow").await.1["status"], "accepted");
    until("it is on its way", || provider.with(|rules| rules.sent.len() == 2)).await;
    enable(false).await;
    provider.with(|rules| rules.updates.push(update(1, 7, "one")));
    let began = Instant::now();
    while world.broker.get("/api/admin/actors").await.1.to_string().contains("channel_outbox") {
        assert!(began.elapsed() < PATIENCE, "the outbox has not left");
        sleep(LOOK).await;
    }
    assert_eq!(provider.with(|rules| rules.updates.len()), 1, "nobody has heard it");
    assert_eq!(world.ann.messages(&world.broker).await[0]["kind"], "notice");
    enable(true).await;
    assert_eq!(world.ann.messages(&world.broker).await[0]["content"], "one");
}

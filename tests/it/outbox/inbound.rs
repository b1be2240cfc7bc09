//! What people write on channels: believed by its proof, taken in once, answered where it came from.
use clawbroker::channels::{hmac_sha256_hex, webhook};
use clawbroker::domain::clock::{Clock, SystemClock};
use clawbroker::domain::secret::Secret;
use serde_json::{Value, json};

use super::{World, until};
use crate::harness::Database;
use crate::harness::providers::Provider;
use crate::harness::providers::feishu::{APP, FeishuRules};
use crate::harness::providers::hook::{self, HookRules};
use crate::harness::providers::telegram::{BOT, TelegramRules};
use crate::harness::providers::whatsapp::{NUMBER, TOKEN, WhatsAppRules};

on_both_databases!(
    an_unknown_sender_is_refused_until_somebody_lets_it_in,
    a_line_goes_to_the_conversation_that_it_answers,
    telegram_calls_with_its_secret,
    telegram_is_asked_where_it_cannot_call,
    whatsapp_signs_its_calls,
    feishu_proves_itself_by_its_token,
    nobody_else_is_believed,
);

/// A signed call of a webhook.
pub(super) async fn call(world: &World, channel: &str, line: &Value) -> (u16, String) {
    let (time, body) = ((SystemClock.now_ms() / 1_000).to_string(), line.to_string());
    let signature = webhook::signature(&Secret::new(hook::SECRET), &time, body.as_bytes());
    let headers = [(webhook::TIMESTAMP, time.as_str()), (webhook::SIGNATURE, signature.as_str())];
    world.hook("POST", &format!("/hooks/{channel}"), &headers, &body).await
}

fn hook_channel(agent: Option<&str>) -> Value {
    json!({ "kind": "webhook", "name": "CRM", "agent_id": agent, "secret": { "secret": hook::SECRET } })
}

async fn an_unknown_sender_is_refused_until_somebody_lets_it_in(database: Database) {
    let provider = Provider::start(HookRules::default());
    let world = World::new(&database, json!({ "webhook_url": format!("{}/in", provider.url) })).await;
    let channel = world.channel(hook_channel(Some(&world.ann.id))).await;
    let line = |id: &str, text: &str| json!({ "id": id, "text": text, "from": "crm-7", "from_name": "Eve S." });
    // The provider is not to call again.
    assert_eq!(call(&world, &channel, &line("1", "let me in")).await.0, 200);
    assert_eq!(world.senders(&channel).await, [("crm-7".to_owned(), Value::Null)]);
    let path = format!("/api/admin/channels/{channel}/senders/nobody/allow");
    assert_eq!(world.broker.post(&path, json!({ "member_id": world.eve })).await.0, 404);
    world.allow(&channel, "crm-7").await;
    assert_eq!(world.senders(&channel).await, [("crm-7".to_owned(), json!(world.eve))]);
    for _ in 0..3 {
        assert_eq!(call(&world, &channel, &line("2", "How far?")).await.0, 200);
    }
    let got = world.ann.messages(&world.broker).await;
    assert_eq!(got.len(), 1, "what was refused stays so, and a repeat is one message: {got:?}");
    assert_eq!((&got[0]["content"], &got[0]["kind"]), (&json!("How far?"), &json!("request")));
    assert_eq!((&got[0]["sender_user_name"], &got[0]["sender_agent_name"]), (&json!("Eve"), &Value::Null));
    let key = format!("agent_member_{}_{}", world.ann.id, world.eve);
    assert_eq!(got[0]["conversation_id"], key.as_str());
    world.report(&got[0], "Ten miles").await;
    until("the answer came", || provider.with(|rules| rules.got.len() == 1)).await;
    assert_eq!(provider.with(|rules| rules.got[0]["text"].clone()), "Ten miles");
    assert_eq!(call(&world, &channel, &line("2", "How far?")).await.0, 200);
    let (_, list) = world.broker.get("/api/admin/conversations?kind=agent_member").await;
    let path = format!("/api/admin/conversations/{}/messages", list["items"][0]["id"].as_str().expect("an id"));
    let (_, log) = world.broker.get(&path).await;
    let said: Vec<&Value> =
        log["items"].as_array().expect("a list").iter().map(|line| &line["sender"]["name"]).collect();
    assert_eq!(said, ["Eve", "ann"]);
    let (_, metrics) = world.broker.get("/metrics").await;
    let metrics = metrics.as_str().expect("a text");
    for (outcome, count) in [("taken", 1), ("repeated", 3), ("refused", 1)] {
        assert!(metrics.contains(&format!("outcome=\"{outcome}\"}} {count}\n")), "{outcome}: {metrics}");
    }
}

async fn a_line_goes_to_the_conversation_that_it_answers(database: Database) {
    let provider = Provider::start(HookRules::default());
    let world = World::new(&database, json!({ "webhook_url": format!("{}/in", provider.url) })).await;
    let ben = crate::mailbox::client::Agent::register(&world.broker, "ben").await;
    let knows = json!({ "member_id": world.eve, "relation": "boss" });
    world.broker.post(&format!("/api/admin/agents/{}/relationships", ben.id), knows).await;
    let channel = world.channel(hook_channel(None)).await;
    // Nobody is there whom a line out of nothing could be for.
    assert_eq!(call(&world, &channel, &json!({ "id": "0", "text": "hello", "from": "eve" })).await.0, 200);
    world.allow(&channel, "eve").await;
    assert_eq!(call(&world, &channel, &json!({ "id": "1", "text": "hello", "from": "eve" })).await.0, 200);
    let (_, of_ann) = world.send("from ann").await;
    let to_eve = json!({ "target": "Eve", "content": "from ben" });
    let (_, of_ben) = ben.call(&world.broker, "POST", super::SEND, Some(to_eve)).await;
    assert_eq!((&of_ann["status"], &of_ben["status"]), (&json!("sent"), &json!("sent")));
    let got = provider.with(|rules| rules.got.clone());
    let answer = |id: &str, to: &Value| json!({ "id": id, "text": "yes", "from": "eve", "conversation_id": to["conversation_id"], "reply_to": to["id"] });
    for (id, to) in [("2", &got[1]), ("3", &got[0])] {
        assert_eq!(call(&world, &channel, &answer(id, to)).await.0, 200);
    }
    for (agent, sent) in [(&world.ann, &of_ann), (&ben, &of_ben)] {
        let messages = agent.messages(&world.broker).await;
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert_eq!((&messages[0]["content"], &messages[0]["in_reply_to"]), (&json!("yes"), &sent["message_id"]));
    }
    // Without a word of what it answers it belongs to the newest of its chat.
    let more = json!({ "id": "4", "text": "and", "from": "eve", "conversation_id": got[1]["conversation_id"] });
    assert_eq!(call(&world, &channel, &more).await.0, 200);
    assert_eq!(ben.messages(&world.broker).await[0]["content"], "and");
}

async fn telegram_calls_with_its_secret(database: Database) {
    let world = World::new(&database, json!({})).await;
    let provider = Provider::start(TelegramRules::new(&["-100"]));
    let body = json!({
        "kind": "telegram", "name": "Bot", "base_url": provider.url, "agent_id": world.ann.id,
        "secret": { "bot_token": BOT, "secret_token": "the-secret-of-a-hook" },
    });
    let channel = world.channel(body).await;
    let update = json!({ "update_id": 1, "message": {
        "message_id": 5, "date": 1_795_189_101, "chat": { "id": -100, "type": "group" },
        "from": { "id": 7, "is_bot": false, "first_name": "Eve" }, "text": "How far?",
    } });
    let path = format!("/hooks/{channel}");
    let call = |secret: &'static str| {
        let (path, update) = (path.clone(), update.to_string());
        let world = &world;
        async move { world.hook("POST", &path, &[("X-Telegram-Bot-Api-Secret-Token", secret)], &update).await.0 }
    };
    assert_eq!(call("the-secret-of-a-hook").await, 200);
    world.allow(&channel, "7").await;
    assert_eq!((call("other").await, call("").await), (401, 401));
    assert_eq!((call("the-secret-of-a-hook").await, call("the-secret-of-a-hook").await), (200, 200));
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("How far?")));
    world.report(&got[0], "Ten miles").await;
    // Back to the group, though Eve has no address of her own.
    until("the answer came", || provider.with(|rules| rules.sent.len() == 1)).await;
    assert_eq!(provider.with(|rules| rules.sent[0].clone()), ("-100".to_owned(), "Ten miles".to_owned()));
}

async fn telegram_is_asked_where_it_cannot_call(database: Database) {
    let mut world = World::new(&database, json!({ "telegram_chat_id": "7" })).await;
    let provider = Provider::start(TelegramRules::new(&["7"]));
    let update = |id: i64, text: &str| {
        json!({ "update_id": id, "message": { "message_id": id, "date": 1_795_189_101, "chat": { "id": 7 },
            "from": { "id": 7, "is_bot": false, "first_name": "Eve" }, "text": text } })
    };
    provider.with(|rules| rules.updates.push(update(1, "let me in")));
    let body = json!({
        "kind": "telegram", "name": "Bot", "base_url": provider.url, "agent_id": world.ann.id,
        "config": { "receive": "poll" }, "secret": { "bot_token": BOT },
    });
    let channel = world.channel(body).await;
    until("the first page was read", || provider.with(|rules| rules.updates.is_empty())).await;
    world.allow(&channel, "7").await;
    provider.with(|rules| rules.updates.push(update(2, "one")));
    assert_eq!(world.ann.messages(&world.broker).await[0]["content"], "one");
    until("it was confirmed", || provider.with(|rules| rules.updates.is_empty())).await;
    // After a restart it goes on where it was.
    assert_eq!(world.broker.stop().await, Some(0));
    world.broker.start_again().await;
    provider.with(|rules| rules.updates.extend([update(2, "one"), update(3, "two")]));
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("two")));
}

async fn whatsapp_signs_its_calls(database: Database) {
    let world = World::new(&database, json!({ "whatsapp": "+4930123456" })).await;
    let provider = Provider::start(WhatsAppRules::new(&["4930123456"]));
    let body = json!({
        "kind": "whatsapp", "name": "Business", "base_url": format!("{}/v23.0", provider.url), "agent_id": world.ann.id,
        "config": { "phone_number_id": NUMBER },
        "secret": { "access_token": TOKEN, "app_secret": "app-secret", "verify_token": "verify" },
    });
    let channel = world.channel(body).await;
    let path = format!("/hooks/{channel}");
    let check = |token: &str| format!("{path}?hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1158201444");
    assert_eq!(world.hook("GET", &check("verify"), &[], "").await, (200, "1158201444".to_owned()));
    assert_eq!(world.hook("GET", &check("other"), &[], "").await.0, 401);
    let event = |text: &str| {
        json!({ "object": "whatsapp_business_account", "entry": [{ "id": "1", "changes": [{ "field": "messages",
            "value": { "metadata": { "phone_number_id": NUMBER },
                "contacts": [{ "wa_id": "4930123456", "profile": { "name": "Eve" } }],
                "messages": [{ "from": "4930123456", "id": format!("wamid.in.{text}"), "timestamp": "1795189101",
                    "type": "text", "text": { "body": text } }] } }] }] })
        .to_string()
    };
    let call = async |key: &str, body: &str| {
        let signature = format!("sha256={}", hmac_sha256_hex(key.as_bytes(), &[body.as_bytes()]));
        world.hook("POST", &path, &[("X-Hub-Signature-256", signature.as_str())], body).await.0
    };
    assert_eq!(call("app-secret", &event("a")).await, 200);
    world.allow(&channel, "4930123456").await;
    assert_eq!(call("other", &event("b")).await, 401);
    for _ in 0..2 {
        assert_eq!(call("app-secret", &event("b")).await, 200);
    }
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("b")));
    world.report(&got[0], "c").await;
    until("the answer came", || provider.with(|rules| rules.sent.len() == 1)).await;
}

async fn feishu_proves_itself_by_its_token(database: Database) {
    let world = World::new(&database, json!({ "feishu": { "open_id": "ou_1" } })).await;
    let provider = Provider::start(FeishuRules::new(&["chat_id:oc_9"]));
    let body = json!({
        "kind": "feishu", "name": "Feishu", "base_url": provider.url, "agent_id": world.ann.id,
        "config": { "app_id": APP.0 }, "secret": { "app_secret": APP.1, "verification_token": "vt" },
    });
    let channel = world.channel(body).await;
    let path = format!("/hooks/{channel}");
    let check = json!({ "type": "url_verification", "challenge": "c-1", "token": "vt" }).to_string();
    let (status, answer) = world.hook("POST", &path, &[], &check).await;
    assert_eq!((status, answer.as_str()), (200, "{\"challenge\":\"c-1\"}"));
    let event = |token: &str, id: &str| {
        json!({ "schema": "2.0",
            "header": { "event_id": "e1", "event_type": "im.message.receive_v1", "token": token },
            "event": { "sender": { "sender_id": { "open_id": "ou_1" }, "sender_type": "user" }, "message": {
                "message_id": id, "create_time": "1795189101062", "chat_id": "oc_9", "message_type": "text",
                "content": "{\"text\":\"How far?\"}" } } })
        .to_string()
    };
    assert_eq!(world.hook("POST", &path, &[], &event("vt", "om_a")).await.0, 200);
    world.allow(&channel, "ou_1").await;
    assert_eq!(world.hook("POST", &path, &[], &event("other", "om_b")).await.0, 401);
    for _ in 0..2 {
        assert_eq!(world.hook("POST", &path, &[], &event("vt", "om_b")).await.0, 200);
    }
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("How far?")));
    world.report(&got[0], "Ten miles").await;
    until("the answer came", || provider.with(|rules| rules.sent.len() == 1)).await;
    assert_eq!(provider.with(|rules| rules.sent[0].clone()), ("chat_id:oc_9".to_owned(), "Ten miles".to_owned()));
}

async fn nobody_else_is_believed(database: Database) {
    let world = World::new(&database, json!({})).await;
    let mail = json!({ "host": "127.0.0.1", "security": "plain", "from": "bot@example.org" });
    let closed = world.channel(json!({ "kind": "email", "name": "Mail", "config": mail })).await;
    let channel = world.channel(hook_channel(Some(&world.ann.id))).await;
    for (path, expected) in [
        ("/hooks/nonsense".to_owned(), 404),
        ("/hooks/01890000-0000-7000-8000-000000000000".to_owned(), 404),
        (format!("/hooks/{closed}"), 404),
        (format!("/hooks/{channel}"), 401),
    ] {
        assert_eq!(world.hook("POST", &path, &[], "{}").await.0, expected, "{path}");
    }
    let off = json!({ "enabled": false });
    world.broker.call("PATCH", &format!("/api/admin/channels/{channel}"), Some(off)).await;
    let line = json!({ "id": "1", "text": "hello", "from": "eve" });
    assert_eq!(call(&world, &channel, &line).await.0, 404);
    assert!(world.senders(&channel).await.is_empty());
}

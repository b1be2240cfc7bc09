//! Ways out that are not the usual ones: an address that sends us on, and an agent that speaks over its socket.
use std::collections::HashSet;

use serde_json::json;

use super::{LOOK, PATIENCE, World, until};
use crate::harness::providers::feishu::{APP, FeishuRules, refused};
use crate::harness::providers::hook::{self, HookRules};
use crate::harness::providers::{Fault, Provider, Reply};
use crate::harness::{Browser, Database};

on_both_databases!(
    a_webhook_that_moved_is_not_followed,
    an_agents_socket_writes_to_people,
    a_send_that_waits_holds_up_no_other_frame,
);

/// A slow machine is not to look like a silent provider.
const SETTINGS: &str = "[channels]\nsend_wait_ms = 30000\nwebhook_plain = true\nwebhook_private = true\n";

async fn a_webhook_that_moved_is_not_followed(database: Database) {
    let (there, elsewhere) = (Provider::start(HookRules::default()), Provider::start(HookRules::default()));
    let world = World::with(&database, SETTINGS, json!({ "webhook_url": format!("{}/in", there.url) })).await;
    world.channel(json!({ "kind": "webhook", "name": "Hook", "secret": { "secret": hook::SECRET } })).await;
    for moved in [301, 302, 303, 307, 308] {
        let mut reply = Reply::new(moved, json!({}));
        reply.headers.push(("location", format!("{}/in", elsewhere.url)));
        there.fail(Fault::Says(reply));
        let (status, refused) = world.send("hello").await;
        assert_eq!((status, &refused["error"]["code"]), (502, &json!("channel_failed")), "{refused}");
        assert!(refused["detail"].as_str().expect("words").contains(&format!("HTTP {moved}")), "{refused}");
        let delivery = world.ended(&refused["error"]["details"]["message_id"]).await;
        assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("dead"), &json!(1)), "{delivery}");
    }
    // What was signed for one receiver has gone to no other.
    assert_eq!((there.messages(), elsewhere.messages()), (5, 0));
    assert_eq!(world.send("hello").await.1["status"], "sent");
    assert_eq!(there.with(|rules| rules.got.len()), 1);
}

async fn an_agents_socket_writes_to_people(database: Database) {
    let world = World::with(&database, SETTINGS, json!({ "feishu": { "user_id": "u1" } })).await;
    let provider = Provider::start(FeishuRules::new(&["user_id:u1"]));
    let app = json!({
        "kind": "feishu", "name": "Feishu", "base_url": provider.url, "config": { "app_id": APP.0 },
        "secret": { "app_secret": APP.1 },
    });
    world.channel(app).await;
    let mut socket = Browser::by_key(&world.broker.address, &world.ann.key).await;
    let new = json!({ "type": "send", "id": 1, "target": "Eve", "content": "hello", "message_id": "k-1" });
    let mut answers = Vec::new();
    for _ in 0..2 {
        socket.send(new.clone()).await;
        answers.push(socket.until("an answer", |frame| frame["id"] == 1).await);
    }
    let sent = &answers[0];
    let expected = json!({
        "type": "ok", "id": 1, "status": "sent", "target": "Eve", "target_type": "human", "channel": "feishu",
        "message_id": sent["message_id"],
    });
    assert_eq!((sent, &answers[1]), (&expected, &expected), "a repeat is answered as the first time");
    assert_eq!(world.ended(&sent["message_id"]).await["state"], "completed");
    // The same key over HTTP is the same message.
    let repeat = world.send_with(json!({ "content": "hello", "message_id": "k-1" })).await;
    assert_eq!((repeat.0, &repeat.1["message_id"]), (200, &sent["message_id"]), "{}", repeat.1);
    assert_eq!(provider.with(|rules| rules.sent.clone()), [("user_id:u1".to_owned(), "ann: hello".to_owned())]);
    provider.fail(Fault::Says(refused(400, 230_013, "Bot has NO availability to this user.")));
    socket.send(json!({ "type": "send", "id": 2, "target": "Eve", "content": "more" })).await;
    let refused = socket.until("an answer", |frame| frame["id"] == 2).await;
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("channel_failed")), "{refused}");
    assert_eq!(refused["detail"], "Feishu send failed: Bot has NO availability to this user. (code 230013)");
    assert_eq!(world.ended(&refused["details"]["message_id"]).await["state"], "dead");
    socket.send(json!({ "type": "send", "id": 3, "target": "Eve", "content": "more", "channel": "telegram" })).await;
    let refused = socket.until("an answer", |frame| frame["id"] == 3).await;
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("invalid_request")), "{refused}");
}

async fn a_send_that_waits_holds_up_no_other_frame(database: Database) {
    // With so small an outbox eight answers may be still to come.
    let settings = format!("{SETTINGS}timeout_s = 300\n[limits]\noutbox_frames_max = 16\n");
    let there = Provider::start(HookRules::default());
    let world = World::with(&database, &settings, json!({ "webhook_url": format!("{}/in", there.url) })).await;
    let new = json!({ "kind": "webhook", "name": "Hook", "secret": { "secret": hook::SECRET } });
    let channel = format!("/api/admin/channels/{}", world.channel(new).await);
    there.fail(Fault::Silent);
    let mut socket = Browser::by_key(&world.broker.address, &world.ann.key).await;
    let send = |id: u32| json!({ "type": "send", "id": id, "target": "Eve", "content": format!("line {id}") });
    socket.send(send(1)).await;
    until("the message is with its receiver", || there.messages() == 1).await;
    socket.send(json!({ "type": "heartbeat", "id": "still here" })).await;
    let first = socket.until("an answer", |frame| !frame["id"].is_null()).await;
    assert_eq!((&first["type"], &first["id"]), (&json!("ok"), &json!("still here")), "{}", socket.transcript());
    // Seven more, which wait behind the first one; then no other frame is handled before one of them is answered.
    for id in 2..=8_u32 {
        socket.send(send(id)).await;
    }
    socket.send(json!({ "type": "ping", "id": "nine" })).await;
    let began = tokio::time::Instant::now();
    while world.broker.get(&channel).await.1["waiting"] != 8 {
        assert!(began.elapsed() < PATIENCE, "they are not on disk\n{}", world.broker.log());
        tokio::time::sleep(LOOK).await;
    }
    let (status, removed) = world.broker.call("DELETE", &channel, None).await;
    assert_eq!(status, 200, "{removed}");
    let mut ids = HashSet::new();
    for id in 1..=8_u32 {
        let answer = socket.since(0, "an answer", |frame| frame["id"] == id).await;
        let message = if id == 1 {
            // Nobody knows whether its receiver took it.
            assert_eq!((&answer["type"], &answer["status"]), (&json!("ok"), &json!("accepted")), "{answer}");
            &answer["message_id"]
        } else {
            assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("channel_failed")), "{answer}");
            assert_eq!(answer["detail"], "Webhook send failed: channel_removed");
            &answer["details"]["message_id"]
        };
        assert!(ids.insert(message.as_str().expect("an id").to_owned()), "{answer}");
    }
    socket.since(0, "a pong", |frame| frame["type"] == "pong").await;
    let next = socket.seen.iter().skip_while(|frame| frame["id"] != "still here").nth(1).expect("a frame");
    assert!(next["id"].is_u64(), "it was handled before one of them was answered: {}", socket.transcript());
}

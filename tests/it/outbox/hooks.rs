//! What is between a line of text and a provider: wrong proofs, slow callers, failures told later, and what an agent is
//! told of texts and people that do not fit.
use std::sync::atomic::Ordering;
use std::time::Duration;

use clawbroker::domain::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::inbound::call;
use super::{PATIENCE, SETTINGS, World, until};
use crate::harness::Database;
use crate::harness::providers::Provider;
use crate::harness::providers::hook::{self, HookRules};
use crate::harness::providers::whatsapp::{self, NUMBER, TOKEN, Teller, WhatsAppRules};

on_both_databases!(
    what_whatsapp_could_not_deliver_is_told_once,
    a_failure_that_comes_before_its_message_is_asked_for_again,
    the_failure_of_an_answer_is_no_question,
    wrong_proofs_are_counted_and_slowed_down,
    whoever_is_slow_takes_nobodys_place,
    a_text_that_is_too_long_is_said_to_be,
    an_address_that_may_not_be_called_is_no_way,
    whoever_wants_an_agent_gets_no_person,
    a_sender_is_forgotten,
);

const APP_SECRET: &str = "app-secret";
/// The person's number.
const EVE: &str = "4930123456";

/// A world in which the person has WhatsApp, and the channel's id.
async fn with_whatsapp(database: &Database, provider: &Provider<WhatsAppRules>) -> (World, String) {
    let world = World::new(database, json!({ "whatsapp": EVE })).await;
    let body = json!({
        "kind": "whatsapp", "name": "Business", "base_url": format!("{}/v23.0", provider.url),
        "config": { "phone_number_id": NUMBER }, "secret": { "access_token": TOKEN, "app_secret": APP_SECRET },
    });
    let channel = world.channel(body).await;
    (world, channel)
}

async fn hook_channel(world: &World) -> String {
    world.channel(json!({ "kind": "webhook", "name": "CRM", "secret": { "secret": hook::SECRET } })).await
}

async fn metrics(world: &World) -> String {
    world.broker.get("/metrics").await.1.as_str().expect("a text").to_owned()
}

async fn what_whatsapp_could_not_deliver_is_told_once(database: Database) {
    let provider = Provider::start(WhatsAppRules::new(&[EVE]));
    let (world, channel) = with_whatsapp(&database, &provider).await;
    let teller = Teller::new(format!("http://{}/hooks/{channel}", world.broker.address), APP_SECRET);
    let heard = teller.heard.clone();
    provider.with(|rules| {
        rules.open.clear();
        rules.teller = Some(teller);
    });
    let (status, sent) = world.send("late").await;
    assert_eq!((status, &sent["status"]), (200, &json!("sent")), "{sent}");
    until("it was told again and again", || heard.load(Ordering::SeqCst) == whatsapp::TELLS).await;
    let notices = world.ann.messages(&world.broker).await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    let words = notices[0]["content"].as_str().expect("words");
    assert!(words.starts_with("Your message to Eve was not delivered: "), "{words}");
    assert!(words.contains("131047") && words.contains("24 hours"), "{words}");
    assert_eq!((&notices[0]["kind"], &notices[0]["in_reply_to"]), (&json!("notice"), &sent["message_id"]));
    // It was sent, and its history says what came of it.
    let delivery = world.ended(&sent["message_id"]).await;
    assert_eq!((&delivery["state"], &delivery["channel_id"]), (&json!("completed"), &json!(channel)));
    let events = delivery["events"].as_array().expect("a list");
    let failed: Vec<&Value> = events.iter().filter(|event| event["what"] == "undelivered").collect();
    assert_eq!(failed.len(), 1, "{events:?}");
    assert!(failed[0]["reason"].as_str().expect("words").contains("131047"), "{failed:?}");
    let metrics = metrics(&world).await;
    assert!(metrics.contains("outcome=\"undelivered\"} 1\n"), "{metrics}");
}

async fn a_failure_that_comes_before_its_message_is_asked_for_again(database: Database) {
    let provider = Provider::start(WhatsAppRules::new(&[EVE]));
    let (world, channel) = with_whatsapp(&database, &provider).await;
    let (_, sent) = world.send("hello").await;
    let mut notices = Vec::new();
    let now_s = SystemClock.now_ms() / 1_000;
    for (at, expected) in [(now_s, 503), (now_s - 86_400, 200)] {
        let (body, signature) = whatsapp::failed(EVE, &[("wamid.unknown", at), ("wamid.1", at)], APP_SECRET);
        let headers = [("X-Hub-Signature-256", signature.as_str())];
        assert_eq!(world.hook("POST", &format!("/hooks/{channel}"), &headers, &body).await.0, expected, "{at}");
        // What stands behind it in the same call is told all the same, once.
        let (_, polled) = world.ann.call(&world.broker, "GET", "/api/gateway/poll", None).await;
        notices.extend(polled["messages"].as_array().expect("a list").clone());
        assert_eq!((notices.len(), &notices[0]["in_reply_to"]), (1, &sent["message_id"]), "{notices:?}");
    }
}

async fn the_failure_of_an_answer_is_no_question(database: Database) {
    let provider = Provider::start(WhatsAppRules::new(&[EVE]));
    let (world, channel) = with_whatsapp(&database, &provider).await;
    let line = |id: &str| json!({ "from": EVE, "id": id, "type": "image", "image": { "caption": "How far?" } });
    for (id, allow) in [("wamid.in.1", true), ("wamid.in.2", false)] {
        let (body, signature) = whatsapp::event("messages", &[line(id)], APP_SECRET);
        let headers = [("X-Hub-Signature-256", signature.as_str())];
        assert_eq!(world.hook("POST", &format!("/hooks/{channel}"), &headers, &body).await.0, 200);
        if allow {
            world.allow(&channel, EVE).await;
            assert_eq!(world.send("Can you hear me?").await.1["status"], "sent");
        }
    }
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("[image] How far?")));
    let teller = Teller::new(format!("http://{}/hooks/{channel}", world.broker.address), APP_SECRET);
    let heard = teller.heard.clone();
    provider.with(|rules| {
        rules.open.clear();
        rules.teller = Some(teller);
    });
    world.report(&got[0], "Ten miles").await;
    until("it was told", || heard.load(Ordering::SeqCst) == whatsapp::TELLS).await;
    // An answer that is lost is counted, and begets nothing.
    let (_, polled) = world.ann.call(&world.broker, "GET", "/api/gateway/poll", None).await;
    assert_eq!(polled["messages"], json!([]), "{polled}");
    assert!(metrics(&world).await.contains("outcome=\"undelivered\"} 1\n"));
}

async fn wrong_proofs_are_counted_and_slowed_down(database: Database) {
    let world = World::new(&database, json!({})).await;
    let channel = hook_channel(&world).await;
    let path = format!("/hooks/{channel}");
    // What is proven and makes no sense was no guess.
    assert_eq!(call(&world, &channel, &json!({})).await.0, 400);
    let mut wrong = 0;
    loop {
        wrong += 1;
        match world.hook("POST", &path, &[], "{}").await.0 {
            401 => assert!(wrong < 500, "it is never too much"),
            status => {
                assert_eq!(status, 429);
                break;
            }
        }
    }
    assert!(wrong > 20, "{wrong}");
    let line = json!({ "id": "1", "text": "hello", "from": "eve" });
    assert_eq!(call(&world, &channel, &line).await.0, 200, "a right proof passes");
    let metrics = metrics(&world).await;
    assert!(metrics.contains(&format!("outcome=\"unproven\"}} {wrong}\n")), "{wrong}: {metrics}");
}

async fn whoever_is_slow_takes_nobodys_place(database: Database) {
    let world = World::with(&database, &format!("{SETTINGS}calls_max = 1\n"), json!({})).await;
    let channel = hook_channel(&world).await;
    let address = &world.broker.address;
    let head = format!("POST /hooks/{channel} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 10\r\n\r\n{{");
    let come_slowly = async || {
        let mut slow = TcpStream::connect(address.as_str()).await.expect("a connection");
        slow.write_all(head.as_bytes()).await.expect("it is written");
        slow
    };
    // Time for them to come.
    let arrived = async || tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = async |mut slow: TcpStream, status: &str| {
        let mut answer = vec![0; 1_024];
        let read = tokio::time::timeout(PATIENCE, slow.read(&mut answer)).await.expect("in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    };
    let mut all = vec![come_slowly().await];
    arrived().await;
    let line = json!({ "id": "1", "text": "hello", "from": "eve" });
    assert_eq!(call(&world, &channel, &line).await.0, 200);
    // Four may be on their way to a channel where one is worked on; other channels have places of their own.
    for _ in 1..4 {
        all.push(come_slowly().await);
    }
    arrived().await;
    refused(come_slowly().await, "503").await;
    assert_eq!(call(&world, &hook_channel(&world).await, &line).await.0, 200);
    for slow in all {
        refused(slow, "408").await;
    }
    assert_eq!(call(&world, &channel, &line).await.0, 200, "their places are free again");
}

async fn a_text_that_is_too_long_is_said_to_be(database: Database) {
    let provider = Provider::start(WhatsAppRules::new(&[EVE]));
    let (world, _) = with_whatsapp(&database, &provider).await;
    let long = json!({ "content": "x".repeat(40_000), "message_id": "k" });
    let (status, sent) = world.send_with(long.clone()).await;
    assert_eq!((status, &sent["status"]), (200, &json!("sent")), "{sent}");
    assert!(sent["message"].as_str().expect("words").contains("only its beginning"), "{sent}");
    assert_eq!(world.send_with(long).await.1, sent, "a repeat is told the same");
    let parts = provider.with(|rules| rules.sent.clone());
    assert_eq!(parts.len(), 8);
    assert!(parts[7].1.ends_with('…'), "{}", parts[7].1);
    let (_, sent) = world.send("short").await;
    assert_eq!((&sent["status"], &sent["message"]), (&json!("sent"), &Value::Null), "{sent}");
}

async fn an_address_that_may_not_be_called_is_no_way(database: Database) {
    let world = World::with(&database, "", json!({ "webhook_url": "http://example.org/in" })).await;
    hook_channel(&world).await;
    let (_, polled) = world.ann.call(&world.broker, "GET", "/api/gateway/poll", None).await;
    assert_eq!(polled["relationships"][0]["channels"], json!([]));
    for body in [json!({ "content": "hello" }), json!({ "content": "hello", "channel": "webhook" })] {
        let (status, refused) = world.send_with(body).await;
        let words = "No available channel to reach Eve. feishu_user_id=no, feishu_open_id=no";
        assert_eq!((status, &refused["detail"]), (400, &json!(words)), "{refused}");
    }
}

async fn whoever_wants_an_agent_gets_no_person(database: Database) {
    let provider = Provider::start(HookRules::default());
    let world = World::new(&database, json!({ "webhook_url": format!("{}/in", provider.url) })).await;
    hook_channel(&world).await;
    let (status, refused) = world.send_with(json!({ "content": "for an agent", "channel": "agent" })).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("invalid_request")), "{refused}");
    assert_eq!(world.send("for Eve").await.1["status"], "sent");
    assert_eq!(provider.with(|rules| rules.calls), 1);
}

async fn a_sender_is_forgotten(database: Database) {
    let world = World::new(&database, json!({})).await;
    let body = json!({
        "kind": "webhook", "name": "CRM", "agent_id": world.ann.id, "secret": { "secret": hook::SECRET },
    });
    let channel = world.channel(body).await;
    let line = |id: &str| json!({ "id": id, "text": format!("line {id}"), "from": "crm-7" });
    assert_eq!(call(&world, &channel, &line("1")).await.0, 200);
    world.allow(&channel, "crm-7").await;
    assert_eq!(call(&world, &channel, &line("2")).await.0, 200);
    let path = format!("/api/admin/channels/{channel}/senders/crm-7");
    assert_eq!(world.broker.call("DELETE", &path, None).await.0, 200);
    assert!(world.senders(&channel).await.is_empty());
    assert_eq!(world.broker.call("DELETE", &path, None).await.0, 404);
    assert_eq!(call(&world, &channel, &line("3")).await.0, 200);
    assert_eq!(world.senders(&channel).await, [("crm-7".to_owned(), Value::Null)], "unknown again");
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("line 2")));
}

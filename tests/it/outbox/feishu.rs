//! Feishu from end to end.
use std::time::Duration;

use serde_json::{Value, json};

use super::{World, until};
use crate::harness::Database;
use crate::harness::providers::feishu::{APP, FeishuRules, refused};
use crate::harness::providers::{Fault, Provider};

on_both_databases!(
    a_message_reaches_a_person_with_one_token_for_many,
    a_token_that_ended_is_renewed_once,
    a_person_is_tried_by_both_ids,
    no_person_gets_more_than_the_provider_allows,
    a_silent_provider_is_asked_again_and_sends_once,
    what_the_provider_will_never_take_is_told_in_its_words,
    a_repeat_is_answered_as_the_first_time,
    what_fails_for_a_while_is_sent_later,
    a_channel_that_was_mended_goes_on,
);

fn body(provider: &Provider<FeishuRules>) -> Value {
    json!({
        "kind": "feishu", "name": "Feishu", "base_url": provider.url, "config": { "app_id": APP.0 },
        "secret": { "app_secret": APP.1 },
    })
}

async fn world(database: &Database, known: &[&str]) -> (World, Provider<FeishuRules>, String) {
    let addresses = json!({ "feishu": { "user_id": "u1", "open_id": "ou_1" } });
    let world = World::new(database, addresses).await;
    let provider = Provider::start(FeishuRules::new(known));
    let channel = world.channel(body(&provider)).await;
    (world, provider, channel)
}

fn texts(provider: &Provider<FeishuRules>) -> Vec<String> {
    provider.with(|rules| rules.sent.iter().map(|(_, text)| text.clone()).collect())
}

async fn a_message_reaches_a_person_with_one_token_for_many(database: Database) {
    let (world, provider, _) = world(&database, &["user_id:u1"]).await;
    let (_, polled) = world.ann.call(&world.broker, "GET", "/api/gateway/poll", None).await;
    assert_eq!(polled["relationships"][0]["channels"], json!(["feishu"]));
    for content in ["one", "two", "three"] {
        let (status, sent) = world.send(content).await;
        assert_eq!(status, 200, "{sent}");
        let expected = json!({
            "status": "sent", "target": "Eve", "type": "human", "channel": "feishu", "message_id": sent["message_id"],
        });
        assert_eq!(sent, expected);
        let delivery = world.ended(&sent["message_id"]).await;
        assert_eq!((&delivery["state"], &delivery["outcome"]), (&json!("completed"), &json!("sent")));
        assert_eq!((&delivery["recipient"]["kind"], &delivery["recipient"]["name"]), (&json!("member"), &json!("Eve")));
    }
    let all: Vec<(String, String)> =
        ["ann: one", "ann: two", "ann: three"].map(|text| ("user_id:u1".to_owned(), text.to_owned())).into();
    assert_eq!(provider.with(|rules| (rules.sent.clone(), rules.tokens)), (all, 1));
    let (_, metrics) = world.broker.get("/metrics").await;
    let metrics = metrics.as_str().expect("a text");
    assert!(metrics.contains("outcome=\"sent\"} 3"), "{metrics}");
}

async fn a_token_that_ended_is_renewed_once(database: Database) {
    let (world, provider, _) = world(&database, &["user_id:u1"]).await;
    assert_eq!(world.send("one").await.1["status"], "sent");
    provider.with(|rules| rules.token = None);
    assert_eq!(world.send("two").await.1["status"], "sent");
    assert_eq!((texts(&provider).len(), provider.with(|rules| rules.tokens)), (2, 2));
    let ended = || Fault::Says(refused(400, 99_991_663, "Invalid access token for authorization."));
    provider.fail(ended());
    provider.fail(ended());
    let (status, refused) = world.send("three").await;
    assert_eq!((status, &refused["error"]["code"]), (502, &json!("channel_failed")), "{refused}");
    assert!(refused["detail"].as_str().expect("words").contains("(code 99991663)"), "{refused}");
    assert_eq!((texts(&provider).len(), provider.with(|rules| rules.tokens)), (2, 3));
}

async fn a_person_is_tried_by_both_ids(database: Database) {
    let (world, provider, _) = world(&database, &["open_id:ou_1"]).await;
    assert_eq!(world.send("hello").await.1["status"], "sent");
    assert_eq!(provider.with(|rules| rules.sent[0].0.clone()), "open_id:ou_1");
}

async fn no_person_gets_more_than_the_provider_allows(database: Database) {
    // A slow machine is not to look like a silent provider.
    let world = World::with(&database, "", json!({ "feishu": { "user_id": "u1", "open_id": "ou_1" } })).await;
    let provider = Provider::start(FeishuRules::new(&["user_id:u1"]));
    world.channel(body(&provider)).await;
    // What is sent at the right time may be on its way for longer than what is sent after it.
    provider.with(|rules| rules.pace.per = Duration::from_millis(500));
    let all: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let sending = all.iter().map(|content| world.send(content));
    for (status, sent) in futures_util::future::join_all(sending).await {
        assert_eq!(status, 200, "{sent}");
        let delivery = world.ended(&sent["message_id"]).await;
        assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("completed"), &json!(1)));
    }
    assert_eq!(provider.with(|rules| (rules.asked, rules.too_fast)), (12, 0), "none was sent too early");
    let mut expected: Vec<String> = all.iter().map(|content| format!("ann: {content}")).collect();
    let mut got = texts(&provider);
    expected.sort();
    got.sort();
    assert_eq!(got, expected, "each once");
}

async fn a_silent_provider_is_asked_again_and_sends_once(database: Database) {
    let (world, provider, _) = world(&database, &["user_id:u1"]).await;
    // It acts and does not say so: nobody knows, and it knows our id.
    provider.fail(Fault::Silent);
    let (status, sent) = world.send("once").await;
    assert_eq!(status, 200, "{sent}");
    let delivery = world.ended(&sent["message_id"]).await;
    assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("completed"), &json!(2)));
    assert_eq!((texts(&provider), provider.with(|rules| rules.asked)), (vec!["ann: once".to_owned()], 2));
}

async fn what_the_provider_will_never_take_is_told_in_its_words(database: Database) {
    let (world, provider, _) = world(&database, &["open_id:ou_1"]).await;
    provider.with(|rules| rules.out_of_range.insert("user_id:u1".to_owned()));
    let (status, refused) = world.send("hello").await;
    assert_eq!((status, &refused["error"]["code"]), (502, &json!("channel_failed")));
    assert_eq!(refused["detail"], "Feishu send failed: Bot has NO availability to this user. (code 230013)");
    let delivery = world.ended(&refused["error"]["details"]["message_id"]).await;
    assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("dead"), &refused["detail"]));
    // Whoever sent it and did not wait is told, too.
    let notice = &world.ann.messages(&world.broker).await[0];
    assert_eq!(notice["kind"], "notice");
    let words =
        "Your message to Eve was not sent: Feishu send failed: Bot has NO availability to this user. (code 230013)";
    assert_eq!(notice["content"], words);
    assert_eq!(texts(&provider), [""; 0]);
}

async fn a_repeat_is_answered_as_the_first_time(database: Database) {
    let (world, provider, channel) = world(&database, &["user_id:u1"]).await;
    let message = json!({ "content": "once", "message_id": "my-1" });
    let (_, first) = world.send_with(message.clone()).await;
    assert_eq!(first["status"], "sent");
    assert_eq!(world.send_with(message.clone()).await, (200, first.clone()));
    let (status, _) = world.send_with(json!({ "content": "other", "message_id": "my-1" })).await;
    assert_eq!(status, 409);
    let path = format!("/api/admin/channels/{channel}");
    assert_eq!(world.broker.call("DELETE", &path, None).await.0, 200);
    assert_eq!(world.send_with(message).await, (200, first), "also when the channel is gone");
    let (status, refused) = world.send("more").await;
    assert_eq!((status, &refused["detail"]), (400, &json!("No Feishu channel configured")));
    assert_eq!(texts(&provider).len(), 1);
}

async fn what_fails_for_a_while_is_sent_later(database: Database) {
    let (world, provider, _) = world(&database, &["user_id:u1"]).await;
    provider.fail(Fault::Says(refused(500, 1_500, "internal error")));
    let (_, one) = world.send("one").await;
    let (_, two) = world.send("two").await;
    for sent in [&one, &two] {
        assert_eq!(world.ended(&sent["message_id"]).await["state"], "completed");
    }
    // What came after it waited for it.
    assert_eq!(texts(&provider), ["ann: one", "ann: two"]);
}

async fn a_channel_that_was_mended_goes_on(database: Database) {
    let (world, provider, channel) = world(&database, &["user_id:u1"]).await;
    let path = format!("/api/admin/channels/{channel}");
    let off = json!({ "enabled": false });
    assert_eq!(world.broker.call("PATCH", &path, Some(off)).await.0, 200);
    let (status, refused) = world.send("hello").await;
    assert_eq!((status, &refused["detail"]), (400, &json!("No Feishu channel configured")));
    let on = json!({ "enabled": true, "secret": { "app_secret": "wrong" } });
    assert_eq!(world.broker.call("PATCH", &path, Some(on)).await.0, 200);
    let (_, tested) = world.broker.call("POST", &format!("{path}/test"), None).await;
    assert_eq!(tested["ok"], false);
    assert!(tested["message"].as_str().expect("words").contains("app secret invalid"), "{tested}");
    let right = json!({ "secret": { "app_secret": APP.1 } });
    assert_eq!(world.broker.call("PATCH", &path, Some(right)).await.0, 200);
    let (_, tested) = world.broker.call("POST", &format!("{path}/test"), None).await;
    assert_eq!((&tested["ok"], &tested["message"]), (&json!(true), &Value::Null));
    let (_, sent) = world.send("hello").await;
    assert_eq!(world.ended(&sent["message_id"]).await["state"], "completed");
    until("it came", || texts(&provider) == ["ann: hello"]).await;
}

//! Proofs of calls from end to end: an app whose events are encrypted, and a signature that is too old.
use aes::Aes256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit};
use clawbroker::channels::webhook;
use clawbroker::domain::clock::{Clock, SystemClock};
use clawbroker::domain::secret::Secret;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{World, until};
use crate::harness::Database;
use crate::harness::providers::Provider;
use crate::harness::providers::feishu::{APP, FeishuRules};
use crate::harness::providers::hook;

on_both_databases!(feishus_encrypted_events_are_opened_and_believed, an_old_signature_is_not_believed);

const KEY: &str = "an encrypt key of Feishu";
const TOKEN: &str = "a verification token of Feishu";
const TIME: &str = "1795189101";
const NONCE: &str = "a nonce";

/// Encrypts an event as Feishu does.
fn seal(key: &str, event: &Value) -> String {
    let iv = [3_u8; 16];
    let sealer = cbc::Encryptor::<Aes256>::new_from_slices(&Sha256::digest(key), &iv).expect("lengths fit");
    let mut sealed = iv.to_vec();
    sealed.extend(sealer.encrypt_padded_vec::<Pkcs7>(event.to_string().as_bytes()));
    json!({ "encrypt": STANDARD.encode(sealed) }).to_string()
}

/// Signs a body as Feishu does.
fn signature(key: &str, body: &str) -> String {
    Sha256::digest(format!("{TIME}{NONCE}{key}{body}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn event(id: &str, token: &str) -> Value {
    json!({
        "schema": "2.0",
        "header": { "event_id": "e1", "event_type": "im.message.receive_v1", "token": token },
        "event": { "sender": { "sender_id": { "open_id": "ou_1" }, "sender_type": "user" }, "message": {
            "message_id": id, "create_time": "1795189101062", "chat_id": "oc_9", "message_type": "text",
            "content": "{\"text\":\"How far?\"}" } },
    })
}

async fn feishus_encrypted_events_are_opened_and_believed(database: Database) {
    let world = World::new(&database, json!({})).await;
    let provider = Provider::start(FeishuRules::new(&["chat_id:oc_9"]));
    let app = json!({
        "kind": "feishu", "name": "Feishu", "base_url": provider.url, "agent_id": world.ann.id,
        "config": { "app_id": APP.0 },
        "secret": { "app_secret": APP.1, "encrypt_key": KEY, "verification_token": TOKEN },
    });
    let channel = world.channel(app).await;
    let path = format!("/hooks/{channel}");
    let call = async |body: &str, signature: &str| {
        let headers =
            [("X-Lark-Request-Timestamp", TIME), ("X-Lark-Request-Nonce", NONCE), ("X-Lark-Signature", signature)];
        world.hook("POST", &path, &headers, body).await
    };
    // The check of the address is encrypted, but not signed.
    let check = json!({ "type": "url_verification", "challenge": "c-1", "token": TOKEN });
    let answer = world.hook("POST", &path, &[], &seal(KEY, &check)).await;
    assert_eq!(answer, (200, "{\"challenge\":\"c-1\"}".to_owned()));
    let first = seal(KEY, &event("om_a", TOKEN));
    assert_eq!(call(&first, &signature(KEY, &first)).await.0, 200);
    assert_eq!(world.senders(&channel).await, [("ou_1".to_owned(), Value::Null)]);
    world.allow(&channel, "ou_1").await;
    let (right, other) = (seal(KEY, &event("om_b", TOKEN)), "an encrypt key of others");
    let (foreign, plain) = (seal(other, &event("om_b", TOKEN)), event("om_b", TOKEN).to_string());
    let unknown = seal(KEY, &event("om_b", "a verification token of others"));
    for (body, signature) in [
        (&right, String::new()),
        (&right, signature(other, &right)),
        (&right, signature(KEY, &first)),
        (&foreign, signature(KEY, &foreign)),
        (&plain, signature(KEY, &plain)),
        (&unknown, signature(KEY, &unknown)),
    ] {
        let (status, answer) = call(body, &signature).await;
        assert_eq!(status, 401, "{answer}");
    }
    let (_, metrics) = world.broker.get("/metrics").await;
    let metrics = metrics.as_str().expect("a text");
    assert!(metrics.contains("outcome=\"unproven\"} 6\n"), "{metrics}");
    for _ in 0..2 {
        assert_eq!(call(&right, &signature(KEY, &right)).await.0, 200);
    }
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("How far?")));
    world.report(&got[0], "Ten miles").await;
    until("the answer came", || provider.with(|rules| rules.sent.len() == 1)).await;
    assert_eq!(provider.with(|rules| rules.sent[0].clone()), ("chat_id:oc_9".to_owned(), "Ten miles".to_owned()));
}

async fn an_old_signature_is_not_believed(database: Database) {
    let world = World::new(&database, json!({})).await;
    let body = json!({
        "kind": "webhook", "name": "CRM", "agent_id": world.ann.id, "secret": { "secret": hook::SECRET },
    });
    let channel = world.channel(body).await;
    let call = async |seconds: i64, id: &str| {
        let time = (SystemClock.now_ms() / 1_000 + seconds).to_string();
        let line = json!({ "id": id, "text": format!("line {id}"), "from": "crm-7" }).to_string();
        let signature = webhook::signature(&Secret::new(hook::SECRET), &time, line.as_bytes());
        let headers = [(webhook::TIMESTAMP, time.as_str()), (webhook::SIGNATURE, signature.as_str())];
        world.hook("POST", &format!("/hooks/{channel}"), &headers, &line).await
    };
    let beyond = webhook::WINDOW_S + 60;
    for seconds in [-beyond, beyond] {
        let (status, answer) = call(seconds, "0").await;
        assert!(status == 401 && answer.contains("signed too long ago, or for the future"), "{status} {answer}");
    }
    assert!(world.senders(&channel).await.is_empty(), "nobody was heard");
    assert_eq!(call(0, "0").await.0, 200);
    world.allow(&channel, "crm-7").await;
    // A call that somebody kept and sends again.
    assert_eq!(call(-beyond, "1").await.0, 401);
    for seconds in [-60, 0, 60] {
        assert_eq!(call(seconds, "2").await.0, 200, "within the window");
    }
    let got = world.ann.messages(&world.broker).await;
    assert_eq!((got.len(), &got[0]["content"]), (1, &json!("line 2")));
}

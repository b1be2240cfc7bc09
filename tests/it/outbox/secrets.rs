//! What channels are set up with shows nowhere (SEC-1): not in the log, whatever their providers refuse, and not in
//! what anybody is told of it.
use serde_json::{Value, json};

use super::{World, until};
use crate::harness::Database;
use crate::harness::providers::feishu::{APP, FeishuRules};
use crate::harness::providers::hook::HookRules;
use crate::harness::providers::smtp::MailServer;
use crate::harness::providers::telegram::TelegramRules;
use crate::harness::providers::whatsapp::{self, NUMBER, WhatsAppRules};
use crate::harness::providers::{Fault, Provider};

on_both_databases!(no_failure_tells_a_secret);

/// The log tells as much as an operator would have it tell who looks for a fault.
const SETTINGS: &str = "[log]\nlevel = \"debug\"\n\
                        [channels]\nsend_wait_ms = 30000\nwebhook_plain = true\nwebhook_private = true\n";

/// In each of the secrets.
const CANARY: &str = "c4n4ry";

fn secret(name: &str) -> String {
    format!("{CANARY}-of-sixteen-and-more-{name}")
}

/// Providers that know other secrets than the broker does.
struct Strangers {
    feishu: Provider<FeishuRules>,
    telegram: Provider<TelegramRules>,
    whatsapp: Provider<WhatsAppRules>,
    mail: MailServer,
    webhook: Provider<HookRules>,
}

impl Strangers {
    async fn start() -> Self {
        Self {
            feishu: Provider::start(FeishuRules::new(&["user_id:u1"])),
            telegram: Provider::start(TelegramRules::new(&["7"])),
            whatsapp: Provider::start(WhatsAppRules::new(&["4930123456"])),
            mail: MailServer::start().await,
            webhook: Provider::start(HookRules::default()),
        }
    }

    /// The channels to them, and one to where nobody is.
    fn channels(&self) -> Vec<Value> {
        let bot = |name: &str, base_url: &str| {
            json!({
                "kind": "telegram", "name": name, "base_url": base_url, "config": { "receive": "poll" },
                "secret": { "bot_token": secret("bot"), "secret_token": secret("bots-hook") },
            })
        };
        vec![
            json!({
                "kind": "feishu", "name": "Feishu", "base_url": self.feishu.url, "config": { "app_id": APP.0 },
                "secret": {
                    "app_secret": secret("app"), "verification_token": secret("token"), "encrypt_key": secret("key"),
                },
            }),
            bot("Bot", &self.telegram.url),
            bot("Nobody", "http://127.0.0.1:1"),
            json!({
                "kind": "whatsapp", "name": "Business", "base_url": format!("{}/v23.0", self.whatsapp.url),
                "config": { "phone_number_id": NUMBER },
                "secret": {
                    "access_token": secret("access"), "app_secret": secret("meta"), "verify_token": secret("verify"),
                },
            }),
            json!({
                "kind": "email", "name": "Mail", "secret": { "password": secret("password") },
                "config": {
                    "host": "127.0.0.1", "port": self.mail.port, "from": "bot@example.org", "username": "bot",
                },
            }),
            json!({ "kind": "webhook", "name": "Hook", "secret": { "secret": secret("hook") } }),
        ]
    }
}

/// Calls a hook without a proof, and as WhatsApp checks it.
async fn called(world: &World, id: &str) -> Vec<String> {
    let path = format!("/hooks/{id}");
    let guess = secret("guess");
    let headers =
        ["X-Telegram-Bot-Api-Secret-Token", "X-Hub-Signature-256", "X-Lark-Signature", "X-Clawbroker-Signature"]
            .map(|name| (name, guess.as_str()));
    let body = json!({ "token": guess, "challenge": guess, "text": guess }).to_string();
    let mut answers = vec![world.hook("POST", &path, &headers, &body).await.1];
    for token in [&guess, &secret("verify")] {
        let check = format!("{path}?hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1158201444");
        answers.push(world.hook("GET", &check, &[], "").await.1);
    }
    answers
}

async fn no_failure_tells_a_secret(database: Database) {
    let strangers = Strangers::start().await;
    // An address of somebody's own may hold a secret as well.
    let url = format!("{}/in?key={}", strangers.webhook.url, secret("of-eve"));
    let addresses = json!({
        "feishu": { "user_id": "u1" }, "telegram_chat_id": "7", "whatsapp": "+4930123456", "email": "eve@example.org",
        "webhook_url": url,
    });
    let mut world = World::with(&database, SETTINGS, addresses).await;
    let mut texts = Vec::new();
    for body in strangers.channels() {
        let (status, made) = world.broker.post("/api/admin/channels", body).await;
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().expect("an id").to_owned();
        let (status, tested) = world.broker.call("POST", &format!("/api/admin/channels/{id}/test"), None).await;
        assert_eq!((status, &tested["ok"]), (200, &json!(made["kind"] == "webhook")), "{tested}");
        texts.extend([made.to_string(), tested.to_string()]);
        texts.extend(called(&world, &id).await);
    }
    // Meta repeats a token that it cannot read.
    let repeated = format!("Malformed access token {}", secret("access"));
    strangers.whatsapp.fail(Fault::Says(whatsapp::refused(401, 190, &repeated)));
    for kind in ["feishu", "telegram", "whatsapp", "email", "webhook"] {
        let (status, refused) = world.send_with(json!({ "content": "hello", "channel": kind })).await;
        assert_eq!((status, &refused["error"]["code"]), (502, &json!("channel_failed")), "{kind}: {refused}");
        let delivery = world.ended(&refused["error"]["details"]["message_id"]).await;
        assert_eq!(delivery["state"], "dead", "{kind}: {delivery}");
        texts.extend([refused.to_string(), delivery.to_string()]);
    }
    // Also where nobody knows what became of it.
    strangers.telegram.fail(Fault::Cut);
    let (status, sent) = world.send_with(json!({ "content": "hello", "channel": "telegram" })).await;
    assert_eq!(status, 200, "{sent}");
    assert_eq!(world.ended(&sent["message_id"]).await["reason"], "outcome_unknown");
    until("Telegram was asked for lines", || strangers.telegram.with(|rules| rules.strangers) > 0).await;
    until("its refusal was logged", || world.broker.log().contains("Telegram")).await;
    for path in ["channels", "actors", "audit?limit=500", "deliveries?limit=500", "stats"] {
        let (status, answer) = world.broker.get(&format!("/api/admin/{path}")).await;
        assert_eq!(status, 200, "{path}: {answer}");
        texts.push(answer.to_string());
    }
    texts.push(world.broker.get("/metrics").await.1.to_string());
    // What it says at its end, and what at a start where all are known from the database.
    assert_eq!(world.broker.stop().await, Some(0));
    world.broker.start_again().await;
    let log = world.broker.log();
    assert!(log.contains("/hooks/"), "calls are logged at this level: {log}");
    texts.push(log);
    for text in &texts {
        assert!(!text.contains(CANARY), "{text}");
    }
}

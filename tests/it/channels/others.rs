//! Telegram, WhatsApp and webhooks.
use clawbroker::channels::ssrf::Reach;
use clawbroker::channels::telegram::Telegram;
use clawbroker::channels::webhook::Webhook;
use clawbroker::channels::whatsapp::WhatsApp;
use clawbroker::channels::{Outcome, Step};
use clawbroker::domain::channel::Address;
use clawbroker::domain::secret::Secret;
use serde_json::{Value, json};

use super::{IMPATIENCE, PATIENCE, carry_http, nobody, outgoing, send, send_all};
use crate::harness::providers::hook::{self, HookRules};
use crate::harness::providers::telegram::{self, BOT, TelegramRules};
use crate::harness::providers::whatsapp::{self, NUMBER, TOKEN, WhatsAppRules};
use crate::harness::providers::{Fault, Provider, Reply};

fn telegram() -> (Provider<TelegramRules>, Telegram) {
    let provider = Provider::start(TelegramRules::new(&["42"]));
    let channel = Telegram { base_url: provider.url.clone(), bot_token: Secret::new(BOT), secret_token: None };
    (provider, channel)
}

#[actix_web::test]
async fn telegram_gets_a_text_in_parts_and_the_step_is_kept_over_a_limit() {
    let (provider, channel) = telegram();
    let to = [Address::Telegram("42".into())];
    let text = "word ".repeat(1_500);
    let out = outgoing(&to, &text);
    // The second part comes within the same second.
    provider.with(|rules| rules.pace.per = PATIENCE);
    let (outcome, step) = send(&channel, &out, Step::default(), PATIENCE).await;
    assert!(matches!(outcome, Outcome::Retry { after_ms: Some(1_000), .. }), "{outcome:?}");
    assert_eq!(step, Step::default().next_part());
    provider.with(|rules| rules.pace.count = 10);
    let (outcome, _) = send(&channel, &out, step, PATIENCE).await;
    assert_eq!(outcome, Outcome::Sent { external_id: "2".into(), chat: "42".into() });
    let arrived: String = provider.with(|rules| rules.sent.iter().map(|(_, part)| part.clone()).collect());
    assert_eq!(arrived, text);
}

#[actix_web::test]
async fn telegrams_refusals_are_final_and_silence_is_unknown() {
    let (provider, channel) = telegram();
    provider.with(|rules| {
        rules.pace.count = 10;
        rules.blocked.insert("43".to_owned());
    });
    for (chat, words) in [("43", "bot was blocked"), ("44", "chat not found")] {
        let to = [Address::Telegram(chat.into())];
        let outcome = send_all(&channel, &outgoing(&to, "x")).await;
        assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains(words)), "{outcome:?}");
    }
    let to = [Address::Telegram("42".into())];
    let out = outgoing(&to, "x");
    let stranger = Telegram { bot_token: Secret::new("1:x"), ..channel.clone() };
    let outcome = send_all(&stranger, &out).await;
    assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains("token")), "{outcome:?}");
    let outcome = send_all(&channel, &outgoing(&to, " ")).await;
    assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains("empty")), "{outcome:?}");

    provider.fail(Fault::Cut);
    assert!(matches!(send_all(&channel, &out).await, Outcome::Unknown { .. }));
    assert_eq!(provider.with(|rules| rules.sent.len()), 1);
    provider.fail(Fault::Silent);
    assert!(matches!(send(&channel, &out, Step::default(), IMPATIENCE).await.0, Outcome::Unknown { .. }));
    provider.fail(Fault::Says(Reply::new(502, json!("bad gateway"))));
    assert!(matches!(send_all(&channel, &out).await, Outcome::Unknown { .. }));
    provider.fail(Fault::Says(telegram::refused(500, "Internal Server Error", Value::Null)));
    assert!(matches!(send_all(&channel, &out).await, Outcome::Retry { .. }));
    let away = Telegram { base_url: nobody(), ..channel };
    assert!(matches!(send_all(&away, &out).await, Outcome::Retry { .. }));
}

#[actix_web::test]
async fn telegrams_updates_are_read_page_by_page() {
    let (provider, channel) = telegram();
    let update = |id: i64| {
        json!({ "update_id": id, "message": { "message_id": id, "from": { "id": 7, "first_name": "Ada" },
            "chat": { "id": 42 }, "date": 1, "text": format!("line {id}") } })
    };
    provider.with(|rules| rules.updates = (1..=150).map(update).collect());
    let mut offset = None;
    let mut texts = Vec::new();
    loop {
        let answer = carry_http(channel.updates_request(offset, 100, 0), PATIENCE).await;
        let page = channel.updates(&answer).expect("a page");
        texts.extend(page.lines.into_iter().map(|line| line.text));
        let Some(next) = page.offset else { break };
        offset = Some(next);
    }
    assert_eq!(texts, (1..=150).map(|id| format!("line {id}")).collect::<Vec<_>>());
    assert!(provider.with(|rules| rules.updates.is_empty()));
    provider.with(|rules| rules.webhook = true);
    let answer = carry_http(channel.updates_request(offset, 100, 0), PATIENCE).await;
    assert!(matches!(channel.updates(&answer), Err(Outcome::Retry { why, .. }) if why.contains("webhook")));
}

#[actix_web::test]
async fn whatsapp_takes_what_it_documents() {
    let provider = Provider::start(WhatsAppRules::new(&["4917012345", "4917012346"]));
    let channel = WhatsApp {
        base_url: format!("{}/v23.0", provider.url),
        phone_number_id: NUMBER.into(),
        access_token: Secret::new(TOKEN),
        app_secret: None,
        verify_token: None,
    };
    let to = [Address::WhatsApp("+49 170 12345".into())];
    let text = "ä".repeat(5_000);
    let out = outgoing(&to, &text);
    let sent = Outcome::Sent { external_id: "wamid.2".into(), chat: "4917012345".into() };
    assert_eq!(send_all(&channel, &out).await, sent);
    let arrived: String = provider.with(|rules| rules.sent.iter().map(|(_, part)| part.clone()).collect());
    assert_eq!(arrived, text);

    provider.with(|rules| rules.open.remove("4917012346"));
    for (number, words) in [("4917012346", "24 hours"), ("4917012347", "undeliverable")] {
        let to = [Address::WhatsApp(number.into())];
        let outcome = send_all(&channel, &outgoing(&to, "x")).await;
        assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains(words)), "{outcome:?}");
    }
    let stranger = WhatsApp { access_token: Secret::new("other"), ..channel.clone() };
    let outcome = send_all(&stranger, &out).await;
    assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains("new access token")), "{outcome:?}");
    for code in [130_429, 131_056, 80_007] {
        provider.fail(Fault::Says(whatsapp::refused(400, code, "rate limit hit")));
        assert!(matches!(send_all(&channel, &out).await, Outcome::Retry { after_ms: Some(_), .. }), "{code}");
    }
    provider.fail(Fault::Cut);
    assert!(matches!(send_all(&channel, &out).await, Outcome::Unknown { .. }));
}

#[actix_web::test]
async fn a_receiver_of_webhooks_believes_us_and_knows_repeats() {
    let provider = Provider::start(HookRules::default());
    let reach = Reach { plain: true, private: true };
    let channel = Webhook { secret: Secret::new(hook::SECRET), reach };
    let to = [Address::Webhook(format!("{}/in?tenant=1", provider.url))];
    let out = outgoing(&to, "Hello");
    provider.fail(Fault::Cut);
    assert!(matches!(send_all(&channel, &out).await, Outcome::Unknown { .. }));
    let sent = Outcome::Sent { external_id: out.id.to_string(), chat: out.conversation_id.to_string() };
    assert_eq!(send_all(&channel, &out).await, sent);
    let (got, calls) = provider.with(|rules| (rules.got.clone(), rules.calls));
    assert_eq!((got.len(), calls), (1, 2));
    assert_eq!((&got[0]["text"], &got[0]["from"]), (&json!("Hello"), &json!("Ada")));

    let stranger = Webhook { secret: Secret::new("other"), reach };
    let outcome = send_all(&stranger, &out).await;
    assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains("401")), "{outcome:?}");
    let careful = Webhook { reach: Reach::default(), ..channel };
    assert!(matches!(send_all(&careful, &out).await, Outcome::Permanent { .. }));
    assert_eq!(provider.with(|rules| rules.calls), 3);
}

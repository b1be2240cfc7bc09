use std::time::Duration;

use clawbroker::channels::feishu::Feishu;
use clawbroker::channels::{Channel, Outcome, Repeat, Step};
use clawbroker::domain::channel::Address;
use clawbroker::domain::secret::Secret;
use serde_json::json;

use super::{IMPATIENCE, PATIENCE, nobody, outgoing, send, send_all};
use crate::harness::providers::feishu::{APP, FeishuRules, refused};
use crate::harness::providers::{Fault, Pace, Provider, Reply};

fn channel(base_url: &str) -> Feishu {
    Feishu {
        base_url: base_url.to_owned(),
        app_id: APP.0.to_owned(),
        app_secret: Secret::new(APP.1),
        verification_token: None,
        encrypt_key: None,
    }
}

fn feishu(known: &[&str]) -> (Provider<FeishuRules>, Feishu) {
    let provider = Provider::start(FeishuRules::new(known));
    let channel = channel(&provider.url);
    (provider, channel)
}

fn person() -> [Address; 2] {
    [Address::FeishuUser("u1".into()), Address::FeishuOpen("ou_1".into())]
}

#[actix_web::test]
async fn a_person_is_reached_by_the_id_that_feishu_knows() {
    let to = person();
    for known in ["user_id:u1", "open_id:ou_1"] {
        let (provider, channel) = feishu(&[known]);
        let sent = Outcome::Sent { external_id: "om_1".into(), chat: "oc_1".into() };
        assert_eq!(send_all(&channel, &outgoing(&to, "Hello")).await, sent, "{known}");
        assert_eq!(provider.with(|rules| rules.sent.clone()), [(known.to_owned(), "Hello".to_owned())]);
    }
    let (provider, channel) = feishu(&[]);
    let outcome = send_all(&channel, &outgoing(&to, "Hello")).await;
    assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains("(code 230001)")), "{outcome:?}");
    assert_eq!(provider.with(|rules| rules.asked), 2);
}

#[actix_web::test]
async fn who_is_out_of_the_bots_range_is_so_by_any_id() {
    let to = person();
    let (provider, channel) = feishu(&["open_id:ou_1"]);
    provider.with(|rules| rules.out_of_range.insert("user_id:u1".to_owned()));
    let outcome = send_all(&channel, &outgoing(&to, "Hello")).await;
    let why = "Feishu send failed: Bot has NO availability to this user. (code 230013)".to_owned();
    assert_eq!(outcome, Outcome::Permanent { why });
    assert!(provider.with(|rules| rules.sent.is_empty()));
}

#[actix_web::test]
async fn a_token_that_ended_is_renewed_once() {
    let to = person();
    let (provider, channel) = feishu(&["user_id:u1"]);
    let ended = || Fault::Says(refused(400, 99_991_663, "Invalid access token for authorization."));
    provider.fail(ended());
    assert!(matches!(send_all(&channel, &outgoing(&to, "Hello")).await, Outcome::Sent { .. }));
    assert_eq!(provider.with(|rules| rules.tokens), 2);
    provider.fail(ended());
    provider.fail(ended());
    let outcome = send_all(&channel, &outgoing(&to, "Hello")).await;
    assert!(matches!(outcome, Outcome::Permanent { .. }), "{outcome:?}");
    assert_eq!(provider.with(|rules| (rules.tokens, rules.sent.len())), (4, 1));

    let wrong = Feishu { app_secret: Secret::new("other"), ..channel.clone() };
    let outcome = send_all(&wrong, &outgoing(&to, "Hello")).await;
    assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains("app secret invalid")), "{outcome:?}");
}

#[actix_web::test]
async fn an_unknown_outcome_is_repeated_and_feishu_sends_once() {
    let to = person();
    let (provider, channel) = feishu(&["user_id:u1"]);
    let out = outgoing(&to, "Hello");
    provider.fail(Fault::Cut);
    assert!(matches!(send_all(&channel, &out).await, Outcome::Unknown { .. }));
    assert_eq!(provider.with(|rules| rules.sent.len()), 1);
    assert!(matches!(channel.repeat(), Repeat::WithinMs(_)));
    assert!(matches!(send_all(&channel, &out).await, Outcome::Sent { external_id, .. } if external_id == "om_1"));
    assert_eq!(provider.with(|rules| (rules.asked, rules.sent.len())), (2, 1));

    provider.fail(Fault::Silent);
    let (outcome, _) = send(&channel, &outgoing(&to, "Hello"), Step::default(), IMPATIENCE).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    provider.fail(Fault::Slow(Duration::from_millis(50)));
    assert!(matches!(send_all(&channel, &outgoing(&to, "Hello")).await, Outcome::Sent { .. }));
}

#[actix_web::test]
async fn what_passes_is_tried_again() {
    let to = person();
    let (provider, channel) = feishu(&["user_id:u1"]);
    // A window that does not end within the test.
    provider.with(|rules| rules.pace = Pace::new(5, Duration::from_secs(3_600)));
    for _ in 0..5 {
        assert!(matches!(send_all(&channel, &outgoing(&to, "Hello")).await, Outcome::Sent { .. }));
    }
    let limited = send_all(&channel, &outgoing(&to, "Hello")).await;
    assert!(matches!(&limited, Outcome::Retry { why, .. } if why.contains("230020")), "{limited:?}");
    assert_eq!(provider.with(|rules| rules.sent.len()), 5);

    let mut slow_down = Reply::new(429, json!({ "code": 99_991_400, "msg": "request trigger frequency limit" }));
    slow_down.headers.push(("x-ogw-ratelimit-reset", "2".to_owned()));
    provider.fail(Fault::Says(slow_down));
    let limited = send_all(&channel, &outgoing(&to, "Hello")).await;
    assert!(matches!(limited, Outcome::Retry { after_ms: Some(2_000), .. }), "{limited:?}");

    let away = self::channel(&nobody());
    let (outcome, step) = send(&away, &outgoing(&to, "Hello"), Step::default(), PATIENCE).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    assert_eq!(step, Step::default());
}

#[actix_web::test]
async fn a_long_text_arrives_in_parts() {
    let to = person();
    let (provider, channel) = feishu(&["user_id:u1"]);
    let text = format!("{}\n{}", "\u{1}ä".repeat(6_000), "\"\\".repeat(9_000));
    assert!(matches!(send_all(&channel, &outgoing(&to, &text)).await, Outcome::Sent { .. }));
    let sent = provider.with(|rules| rules.sent.clone());
    assert_eq!(sent.len(), channel.parts(&text));
    let arrived: String = sent.iter().map(|(_, part)| part.as_str()).collect();
    assert_eq!(arrived.replace('\n', ""), text.replace('\n', ""));
}

use proptest::prelude::*;

use super::super::fixtures::{HIDDEN, answer, answer_with, any_json, body, header, http, outgoing, silence};
use super::*;

pub(super) fn feishu() -> Feishu {
    Feishu {
        base_url: "https://feishu.test/".into(),
        app_id: "cli_1".into(),
        app_secret: Secret::new(HIDDEN),
        verification_token: Some(Secret::new("vt")),
        encrypt_key: None,
    }
}

fn people() -> [Address; 2] {
    [Address::FeishuUser("u1".into()), Address::FeishuOpen("ou_1".into())]
}

fn token() -> Token {
    Token { value: Secret::new(HIDDEN), expires_in_s: 6_900 }
}

#[test]
fn a_token_is_asked_for_with_the_apps_secret() {
    let request = feishu().token_request().expect("Feishu needs one");
    assert_eq!(request.url.reveal(), "https://feishu.test/open-apis/auth/v3/tenant_access_token/internal");
    assert_eq!(body(&request), json!({ "app_id": "cli_1", "app_secret": HIDDEN }));
    assert!(!format!("{request:?} {:?}", feishu()).contains(HIDDEN));

    let given = answer(200, json!({ "code": 0, "msg": "ok", "tenant_access_token": "t-1", "expire": 7200 }));
    let token = feishu().token(&given).expect("a token");
    assert_eq!((token.value.reveal(), token.expires_in_s), ("t-1", 6_900));
}

#[test]
fn a_token_that_is_not_given_is_asked_for_again_unless_the_app_is_wrong() {
    for (said, permanent) in [
        (answer(200, json!({ "code": 10003, "msg": "invalid param" })), true),
        (answer(200, json!({ "code": 10014, "msg": "app secret invalid" })), true),
        (answer(404, "not found"), true),
        (answer(200, json!({ "code": 99991400, "msg": "slow down" })), false),
        (answer(500, json!({ "code": 10014, "msg": "x" })), false),
        (answer(200, json!({ "code": 0 })), false),
        (answer(502, "bad gateway"), false),
        (silence(true), false),
        (silence(false), false),
    ] {
        let judged = feishu().token(&said).expect_err("no token");
        assert_eq!(matches!(judged, Outcome::Permanent { .. }), permanent, "{said:?}: {judged:?}");
        assert_eq!(matches!(judged, Outcome::Retry { .. }), !permanent, "{said:?}: {judged:?}");
    }
}

#[test]
fn a_message_is_text_in_json_in_json_with_our_id() {
    let to = people();
    let out = outgoing(&to, "Hello \"Ada\"");
    let request = http(feishu().request(&out, Step::default(), Some(&token())).expect("a request"));
    assert_eq!(request.method, Method::Post);
    assert_eq!(request.url.reveal(), "https://feishu.test/open-apis/im/v1/messages?receive_id_type=user_id");
    assert_eq!(header(&request, "Authorization"), Some("Bearer hidden-value"));
    let uuid = format!("{}-0", out.id);
    assert!(uuid.len() <= 50);
    assert_eq!(
        body(&request),
        json!({ "receive_id": "u1", "msg_type": "text", "content": "{\"text\":\"Hello \\\"Ada\\\"\"}", "uuid": uuid })
    );
    let second = http(feishu().request(&out, Step::default().next_address(), Some(&token())).expect("a request"));
    assert!(second.url.reveal().ends_with("=open_id"));
    assert!(feishu().request(&out, Step::default(), None).is_err());
    assert!(feishu().request(&outgoing(&[], "x"), Step::default(), Some(&token())).is_err());
    assert!(
        feishu().request(&outgoing(&[Address::Telegram("1".into())], "x"), Step::default(), Some(&token())).is_err()
    );
    assert!(!format!("{request:?}").contains(HIDDEN));
}

#[test]
fn what_agents_say_rings_nobody() {
    let to = people();
    let text = "<at user_id=\"all\"></at> <AT\tid=all> <at> a < b <attribute> <b>at </b> <";
    let request = http(feishu().request(&outgoing(&to, text), Step::default(), Some(&token())).expect("a request"));
    let content: Value = serde_json::from_str(body(&request)["content"].as_str().expect("a text")).expect("JSON");
    let sent = content["text"].as_str().expect("a text");
    let broken = "<\u{200b}at user_id=\"all\"></at> <\u{200b}AT\tid=all> <\u{200b}at> a < b <attribute> <b>at </b> <";
    assert_eq!(sent, broken);
    assert_eq!(sent.replace('\u{200b}', ""), text);
    // What is added counts.
    let tags = "<at >".repeat(4_000);
    assert_eq!((feishu().parts(&tags), feishu().cuts(&tags)), (2, false));
    assert!(feishu().cuts(&"x".repeat(8 * PART_BYTES + 1)));
}

#[test]
fn parts_stay_below_the_size_of_a_request_and_have_ids_of_their_own() {
    let to = people();
    let text = "\u{1}".repeat(50_000);
    let out = outgoing(&to, &text);
    assert_eq!(feishu().parts(&text), 3);
    let mut step = Step::default();
    for part in 0..3 {
        let request = http(feishu().request(&out, step, Some(&token())).expect("a request"));
        assert!(request.body.len() < 150_000, "{}", request.body.len());
        assert_eq!(body(&request)["uuid"], format!("{}-{part}", out.id));
        step = step.next_part();
    }
    assert!(feishu().request(&out, step, Some(&token())).is_err());
}

#[test]
fn answers_mean_what_feishu_documents() {
    let to = people();
    let out = outgoing(&to, "x");
    let judge =
        |step, code: i64, status| feishu().outcome(&out, step, &answer(status, json!({ "code": code, "msg": "no" })));
    let first = Step::default();
    let last = first.next_address();
    for code in [99_991_663, 99_991_664, 99_991_661, 99_991_677] {
        assert!(matches!(judge(first, code, 400), Outcome::RenewToken { .. }), "{code}");
        assert!(matches!(judge(first.renewed(), code, 400), Outcome::Permanent { .. }), "{code}");
    }
    for code in [230_001, 230_034, 99_992_351, 99_992_361] {
        assert!(matches!(judge(first, code, 400), Outcome::NextAddress { .. }), "{code}");
        assert!(matches!(judge(last, code, 400), Outcome::Permanent { .. }), "{code}");
    }
    for code in [230_002, 230_006, 230_013, 230_025, 230_027, 99_991_672, 99_992_402, 1, -1] {
        let why = format!("Feishu send failed: no (code {code})");
        assert_eq!(judge(first, code, 400), Outcome::Permanent { why }, "{code}");
    }
    for (code, status) in [(99_991_400, 400), (230_020, 400), (230_049, 200), (1, 500), (1, 429)] {
        assert!(matches!(judge(first, code, status), Outcome::Retry { .. }), "{code}");
    }
    let limited = answer_with(429, &[("X-OGW-RateLimit-Reset", "3")], json!({ "code": 99_991_400, "msg": "slow" }));
    assert!(matches!(feishu().outcome(&out, first, &limited), Outcome::Retry { after_ms: Some(3_000), .. }));

    let sent = answer(200, json!({ "code": 0, "data": { "message_id": "om_1", "chat_id": "oc_1" } }));
    let expected = Outcome::Sent { external_id: "om_1".into(), chat: "oc_1".into() };
    assert_eq!(feishu().outcome(&out, first, &sent), expected);

    assert!(matches!(feishu().outcome(&out, first, &silence(true)), Outcome::Unknown { .. }));
    assert!(matches!(feishu().outcome(&out, first, &silence(false)), Outcome::Retry { .. }));
    assert!(matches!(feishu().outcome(&out, first, &answer(200, "<html>")), Outcome::Unknown { .. }));
    assert!(matches!(feishu().repeat(), Repeat::WithinMs(ms) if ms < 3_600_000));
}

proptest! {
    #[test]
    fn any_answer_is_judged(value in any_json(), status in 100u16..600, renewed: bool, second: bool) {
        let to = people();
        let out = outgoing(&to, "x");
        let step = Step { part: 0, address: usize::from(second), renewed };
        let said = answer(status, value);
        let judged = feishu().outcome(&out, step, &said);
        let renews = matches!(judged, Outcome::RenewToken { .. });
        prop_assert!(!(renewed && renews));
        let goes_on = matches!(judged, Outcome::NextAddress { .. });
        prop_assert!(!(second && goes_on));
        if let Err(judged) = feishu().token(&said) {
            let known = matches!(judged, Outcome::Retry { .. } | Outcome::Permanent { .. });
            prop_assert!(known);
        }
    }
}

use proptest::prelude::*;

use super::super::fixtures::{HIDDEN, answer, any_json, body, http, outgoing, silence};
use super::*;

fn telegram() -> Telegram {
    Telegram {
        base_url: "https://telegram.test".into(),
        bot_token: Secret::new(HIDDEN),
        secret_token: Some(Secret::new("st")),
    }
}

fn chat() -> [Address; 1] {
    [Address::Telegram("42".into())]
}

#[test]
fn a_message_goes_to_its_chat_and_the_token_shows_nowhere() {
    let to = chat();
    let out = Outgoing { reply_to: Some("7"), ..outgoing(&to, "*Hello*") };
    let request = http(telegram().request(&out, Step::default(), None).expect("a request"));
    assert_eq!(request.url.reveal(), "https://telegram.test/bothidden-value/sendMessage");
    assert_eq!(
        body(&request),
        json!({
            "chat_id": "42",
            "text": "*Hello*",
            "reply_parameters": { "message_id": 7, "allow_sending_without_reply": true },
        })
    );
    assert!(!format!("{request:?} {:?}", telegram()).contains(HIDDEN));
    assert!(telegram().request(&outgoing(&[Address::Email("a@b".into())], "x"), Step::default(), None).is_err());
    assert!(telegram().token_request().is_none());
}

#[test]
fn long_texts_go_out_in_parts_of_utf_16_units() {
    let to = chat();
    let text = "😀".repeat(3_000);
    let out = Outgoing { reply_to: Some("7"), ..outgoing(&to, &text) };
    assert_eq!(telegram().parts(&text), 2);
    let first = body(&http(telegram().request(&out, Step::default(), None).expect("a part")));
    let second = body(&http(telegram().request(&out, Step::default().next_part(), None).expect("a part")));
    let text_of = |body: &Value| body["text"].as_str().expect("a text").to_owned();
    assert_eq!(text_of(&first).encode_utf16().count(), PART_UNITS);
    assert_eq!(text_of(&first) + &text_of(&second), text);
    // The second part, too, goes to the topic of what it answers.
    let reply = json!({ "message_id": 7, "allow_sending_without_reply": true });
    assert_eq!((&first["reply_parameters"], &second["reply_parameters"]), (&reply, &reply));
}

#[test]
fn answers_mean_what_telegram_documents() {
    let to = chat();
    let out = outgoing(&to, "x");
    let judge = |answer: &Answer| telegram().outcome(&out, Step::default(), answer);
    let sent = answer(200, json!({ "ok": true, "result": { "message_id": 9, "chat": { "id": -100 } } }));
    assert_eq!(judge(&sent), Outcome::Sent { external_id: "9".into(), chat: "-100".into() });

    let no = |code: u16, description: &str, parameters: Value| {
        let body = json!({ "ok": false, "error_code": code, "description": description, "parameters": parameters });
        judge(&answer(code, body))
    };
    let why = "Too Many Requests (Telegram 429)".to_owned();
    assert_eq!(
        no(429, "Too Many Requests", json!({ "retry_after": 5 })),
        Outcome::Retry { after_ms: Some(5_000), why }
    );
    assert!(matches!(no(500, "restart", Value::Null), Outcome::Retry { after_ms: None, .. }));
    for (code, words) in [
        (403, "Forbidden: bot was blocked by the user"),
        (400, "Bad Request: chat not found"),
        (401, "Unauthorized"),
        (404, "Not Found"),
    ] {
        let judged = no(code, words, Value::Null);
        assert!(matches!(&judged, Outcome::Permanent { why } if why.starts_with(words)), "{judged:?}");
    }
    let moved = no(400, "group upgraded", json!({ "migrate_to_chat_id": -1001 }));
    assert!(matches!(&moved, Outcome::Permanent { why } if why.ends_with("-1001")), "{moved:?}");

    // A proxy's answer tells nothing of Telegram; sending again might send twice.
    assert!(matches!(judge(&answer(502, "<html>")), Outcome::Unknown { .. }));
    assert!(matches!(judge(&answer(200, "<html>")), Outcome::Unknown { .. }));
    assert!(matches!(judge(&silence(true)), Outcome::Unknown { .. }));
    assert!(matches!(judge(&silence(false)), Outcome::Retry { .. }));
    assert_eq!(telegram().repeat(), super::super::Repeat::Never);
}

fn update(id: i64) -> Value {
    json!({
        "update_id": id,
        "message": {
            "message_id": 5,
            "from": { "id": 77, "is_bot": false, "first_name": "Ada", "last_name": "L", "username": "ada" },
            "chat": { "id": -42, "type": "group" },
            "date": 1_795_189_101,
            "text": "hello",
            "reply_to_message": { "message_id": 4 },
        },
    })
}

fn line() -> Inbound {
    Inbound {
        external_id: "5".into(),
        chat: "-42".into(),
        sender_ref: "77".into(),
        sender_alias: Some("ada".into()),
        sender_name: Some("Ada L".into()),
        text: "hello".into(),
        reply_to_external_id: Some("4".into()),
        sent_at: Some(1_795_189_101_000),
    }
}

fn call(telegram: &Telegram, secret: &str, body: &str) -> Result<Heard, Refused> {
    let headers = [("x-telegram-bot-api-secret-token", secret)];
    let call = InboundCall { method: Method::Post, headers: &headers, query: &[], body: body.as_bytes() };
    telegram.hear(&call, 0)
}

#[test]
fn a_call_is_believed_by_its_secret() {
    let body = update(1).to_string();
    assert_eq!(call(&telegram(), "st", &body), Ok(Heard::Messages(vec![line()])));
    for wrong in ["", "su", "st "] {
        assert_eq!(call(&telegram(), wrong, &body), Err(Refused::Unproven), "{wrong:?}");
    }
    let closed = Telegram { secret_token: None, ..telegram() };
    assert_eq!(call(&closed, "", &body), Err(Refused::Closed));
    assert!(matches!(call(&telegram(), "st", "{}"), Err(Refused::Shape(_))));
    let mut bot = update(1);
    bot["message"]["from"]["is_bot"] = true.into();
    assert_eq!(call(&telegram(), "st", &bot.to_string()), Ok(Heard::Messages(vec![])));
    assert_eq!(call(&telegram(), "st", "{\"update_id\":1,\"edited_message\":{}}"), Ok(Heard::Messages(vec![])));
}

#[test]
fn what_is_no_text_is_heard_by_a_word() {
    for (what, expected) in [
        (json!({ "photo": [{ "file_id": "f" }], "caption": "the roof" }), Some("[image] the roof")),
        (json!({ "voice": { "file_id": "f" } }), Some("[voice]")),
        (json!({ "animation": {}, "document": {} }), Some("[video]")),
        (json!({ "document": { "file_name": "a.pdf" }, "caption": " " }), Some("[file]")),
        (json!({ "dice": { "emoji": "🎲", "value": 5 } }), Some("[dice]")),
        (json!({ "game": { "title": "x" } }), Some("[game]")),
        (json!({ "story": { "id": 1 } }), Some("[story]")),
        (json!({ "checklist": { "title": "x" } }), Some("[checklist]")),
        (json!({ "paid_media": { "star_count": 1 }, "caption": "the roof" }), Some("[paid media] the roof")),
        (json!({ "hologram": {} }), Some("[something that is not known here]")),
        (json!({ "new_chat_title": "x" }), None),
        (json!({ "new_chat_members": [{ "id": 7 }], "new_chat_member": { "id": 7 } }), None),
        (json!({ "pinned_message": { "message_id": 4 } }), None),
        (json!({ "forum_topic_created": { "name": "x" } }), None),
    ] {
        let mut update = update(1);
        let message = update["message"].as_object_mut().expect("an object");
        message.remove("text");
        message.extend(what.as_object().expect("an object").clone());
        let heard = call(&telegram(), "st", &update.to_string());
        let Ok(Heard::Messages(lines)) = heard else { panic!("lines") };
        assert_eq!(lines.first().map(|line| line.text.as_str()), expected);
    }
}

#[test]
fn pages_are_asked_for_and_forgotten_by_offset() {
    let request = telegram().updates_request(None, PAGE, 50);
    assert_eq!(request.url.reveal(), "https://telegram.test/bothidden-value/getUpdates");
    assert_eq!(body(&request), json!({ "limit": 100, "timeout": 50, "allowed_updates": ["message"] }));
    assert_eq!(
        body(&telegram().updates_request(Some(12), 1, 0)),
        json!({ "limit": 1, "timeout": 0, "allowed_updates": ["message"], "offset": 12 })
    );

    let page = |result: Value| telegram().updates(&answer(200, json!({ "ok": true, "result": result })));
    assert_eq!(page(json!([])), Ok(Page { lines: vec![], offset: None }));
    // What is passed over is forgotten as well.
    let full = page(json!([update(10), { "update_id": 11, "poll": {} }]));
    assert_eq!(full, Ok(Page { lines: vec![line()], offset: Some(12) }));

    for (said, permanent) in [
        (answer(401, json!({ "ok": false, "error_code": 401, "description": "Unauthorized" })), true),
        (answer(409, json!({ "ok": false, "error_code": 409, "description": "Conflict: webhook is active" })), false),
        (answer(429, json!({ "ok": false, "error_code": 429, "parameters": { "retry_after": 1 } })), false),
        (answer(502, ""), false),
        (answer(200, "{\"ok\":true}"), false),
        (silence(true), false),
    ] {
        let judged = telegram().updates(&said).expect_err("no page");
        assert_eq!(matches!(judged, Outcome::Permanent { .. }), permanent, "{judged:?}");
        assert_eq!(matches!(judged, Outcome::Retry { .. }), !permanent, "{judged:?}");
    }
}

proptest! {
    #[test]
    fn any_answer_and_any_update_is_read(value in any_json(), status in 100u16..600) {
        let to = chat();
        let _ = telegram().outcome(&outgoing(&to, "x"), Step::default(), &answer(status, &value));
        let _ = telegram().updates(&answer(status, &value));
        let _ = telegram().updates(&answer(200, json!({ "ok": true, "result": [value] })));
        let body = json!({ "update_id": 1, "message": value }).to_string();
        prop_assert!(call(&telegram(), "st", &body).is_ok());
    }
}

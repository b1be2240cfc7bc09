use proptest::prelude::*;

use super::super::fixtures::{HIDDEN, answer, any_json, body, header, http, outgoing, silence};
use super::super::{Inbound, Undelivered, hmac_sha256_hex};
use super::*;

fn whatsapp() -> WhatsApp {
    WhatsApp {
        base_url: "https://graph.test/v1".into(),
        phone_number_id: "555".into(),
        access_token: Secret::new(HIDDEN),
        app_secret: Some(Secret::new("as")),
        verify_token: Some(Secret::new("vt")),
    }
}

fn number() -> [Address; 1] {
    [Address::WhatsApp("+49 (170) 123-4567".into())]
}

#[test]
fn a_message_goes_to_the_digits_of_a_number() {
    let to = number();
    let out = Outgoing { reply_to: Some("wamid.1"), ..outgoing(&to, "Hello") };
    let request = http(whatsapp().request(&out, Step::default(), None).expect("a request"));
    assert_eq!(request.url.reveal(), "https://graph.test/v1/555/messages");
    assert_eq!(header(&request, "Authorization"), Some("Bearer hidden-value"));
    assert_eq!(
        body(&request),
        json!({
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": "491701234567",
            "type": "text",
            "text": { "preview_url": false, "body": "Hello" },
            "biz_opaque_callback_data": out.id.to_string(),
            "context": { "message_id": "wamid.1" },
        })
    );
    assert!(!format!("{request:?} {:?}", whatsapp()).contains(HIDDEN));
    for wrong in ["", "1234", "1234567890123456", "1234567a", "١٢٣٤٥٦٧"] {
        let to = [Address::WhatsApp(wrong.into())];
        assert!(whatsapp().request(&outgoing(&to, "x"), Step::default(), None).is_err(), "{wrong}");
    }
    assert_eq!(whatsapp().parts(&"ä".repeat(4_097)), 2);
}

/// Whoever has taken a name at WhatsApp shows no number.
#[test]
fn a_person_with_a_name_is_known_by_an_id() {
    let to = [Address::WhatsApp("US.13491208655302741918".into())];
    let out = outgoing(&to, "Hello");
    let asked = body(&http(whatsapp().request(&out, Step::default(), None).expect("a request")));
    assert_eq!(asked["recipient"], "US.13491208655302741918");
    assert_eq!((&asked["recipient_type"], asked.get("to")), (&json!("individual"), None));
    for contact in [json!({}), json!({ "user_id": "US.13491208655302741918" })] {
        let sent = answer(200, json!({ "contacts": [contact], "messages": [{ "id": "wamid.2" }] }));
        let chat = "US.13491208655302741918".to_owned();
        let expected = Outcome::Sent { external_id: "wamid.2".into(), chat };
        assert_eq!(whatsapp().outcome(&out, Step::default(), &sent), expected);
    }

    let mut event = event();
    let value = &mut event["entry"][0]["changes"][0]["value"];
    value["contacts"] = json!([
        { "profile": { "name": "Tom" }, "user_id": "US.2" },
        { "profile": { "name": "Ada", "username": "ada" }, "user_id": "US.1" },
    ]);
    value["messages"] = json!([
        { "from_user_id": "US.1", "id": "wamid.3", "type": "text", "text": { "body": "hello" } },
        { "from": "", "from_user_id": "US.1", "id": "wamid.4", "type": "text", "text": { "body": "again" } },
        { "from": "4917", "from_user_id": "US.1", "id": "wamid.5", "type": "text", "text": { "body": "a number" } },
    ]);
    value["statuses"] = json!([{ "id": "wamid.6", "status": "failed", "recipient_user_id": "US.1" }]);
    let body = event.to_string();
    let Ok(Heard::WithFailures { lines, failed }) = call(&whatsapp(), &signed(&body), &body) else {
        panic!("lines and a failure");
    };
    let senders: Vec<(&str, &str)> = lines.iter().map(|line| (line.sender_ref.as_str(), line.chat.as_str())).collect();
    assert_eq!(senders, [("US.1", "US.1"), ("US.1", "US.1"), ("4917", "4917")]);
    assert!(lines[..2].iter().all(|line| line.sender_name.as_deref() == Some("Ada")));
    assert_eq!(failed[0].chats, ["US.1"]);
}

#[test]
fn answers_mean_what_meta_documents() {
    let to = number();
    let out = outgoing(&to, "x");
    let judge = |answer: &Answer| whatsapp().outcome(&out, Step::default(), answer);
    let sent = json!({ "contacts": [{ "input": "4917", "wa_id": "4917" }], "messages": [{ "id": "wamid.2" }] });
    assert_eq!(judge(&answer(200, sent)), Outcome::Sent { external_id: "wamid.2".into(), chat: "4917".into() });
    let bare = json!({ "messages": [{ "id": "wamid.2" }] });
    assert_eq!(judge(&answer(200, bare)), Outcome::Sent { external_id: "wamid.2".into(), chat: "491701234567".into() });

    let no = |code: i64, status| {
        judge(&answer(
            status,
            json!({ "error": { "message": "m", "code": code, "error_data": { "details": "the details" } } }),
        ))
    };
    for code in [4, 80_007, 130_429, 131_056, 131_048, 131_000, 131_016, 2] {
        assert!(matches!(no(code, 400), Outcome::Retry { .. }), "{code}");
    }
    for (code, hint) in [(131_047, "24 hours"), (131_026, "the details"), (190, "access token"), (100, "the details")] {
        let judged = no(code, 400);
        assert!(matches!(&judged, Outcome::Permanent { why } if why.contains(hint)), "{judged:?}");
    }
    for (code, status) in [(123_456, 500), (123_456, 429), (131_047, 429)] {
        assert!(matches!(no(code, status), Outcome::Retry { .. }), "{code} {status}");
    }
    assert!(matches!(no(131_047, 500), Outcome::Permanent { .. }));
    assert!(matches!(judge(&answer(504, "")), Outcome::Unknown { .. }));
    assert!(matches!(judge(&answer(200, "{}")), Outcome::Unknown { .. }));
    assert!(matches!(judge(&silence(true)), Outcome::Unknown { .. }));
    assert!(matches!(judge(&silence(false)), Outcome::Retry { .. }));
}

fn event() -> Value {
    json!({
        "object": "whatsapp_business_account",
        "entry": [{ "id": "1", "changes": [{ "field": "messages", "value": {
            "messaging_product": "whatsapp",
            "metadata": { "display_phone_number": "1555", "phone_number_id": "555" },
            "contacts": [{ "profile": { "name": "Ada" }, "wa_id": "4917" }],
            "messages": [
                { "from": "4917", "id": "wamid.3", "timestamp": "1795189101", "type": "text",
                  "text": { "body": "hello" },
                  "context": { "from": "1555", "id": "wamid.2" } },
                { "from": "4917", "id": "wamid.4", "timestamp": "1795189102", "type": "reaction", "reaction": {} },
            ],
            "statuses": [{ "id": "wamid.2", "status": "read", "recipient_id": "4917" }],
        } }] }],
    })
}

fn call(whatsapp: &WhatsApp, signature: &str, body: &str) -> Result<Heard, Refused> {
    let headers = [("x-hub-signature-256", signature)];
    let call = InboundCall { method: Method::Post, headers: &headers, query: &[], body: body.as_bytes() };
    whatsapp.hear(&call, 0)
}

fn signed(body: &str) -> String {
    format!("sha256={}", hmac_sha256_hex(b"as", &[body.as_bytes()]))
}

#[test]
fn a_call_is_believed_by_its_signature_over_the_raw_bytes() {
    let body = event().to_string();
    let line = Inbound {
        external_id: "wamid.3".into(),
        chat: "4917".into(),
        sender_ref: "4917".into(),
        sender_alias: None,
        sender_name: Some("Ada".into()),
        text: "hello".into(),
        reply_to_external_id: Some("wamid.2".into()),
        sent_at: Some(1_795_189_101_000),
    };
    assert_eq!(call(&whatsapp(), &signed(&body), &body), Ok(Heard::Messages(vec![line])));
    let spaced = format!("{body} ");
    for (signature, body) in
        [(signed(&body), &spaced), (String::new(), &body), (signed(&body).replace("sha256=", ""), &body)]
    {
        assert_eq!(call(&whatsapp(), &signature, body), Err(Refused::Unproven));
    }
    let closed = WhatsApp { app_secret: Some(Secret::new("")), ..whatsapp() };
    assert_eq!(call(&closed, &signed(&body), &body), Err(Refused::Closed));
    assert!(matches!(call(&whatsapp(), &signed("{}"), "{}"), Err(Refused::Shape(_))));
    // Another number's.
    let other = WhatsApp { phone_number_id: "556".into(), ..whatsapp() };
    assert_eq!(call(&other, &signed(&body), &body), Ok(Heard::Messages(vec![])));
}

#[test]
fn what_could_not_be_delivered_is_told() {
    let mut event = event();
    let errors =
        json!([{ "code": 131_047, "title": "Re-engagement message", "error_data": { "details": "too late" } }]);
    event["entry"][0]["changes"][0]["value"]["statuses"] = json!([
        { "id": "wamid.5", "status": "failed", "timestamp": "1795189103", "recipient_id": "4917", "errors": errors },
        { "id": "wamid.6", "status": "failed", "recipient_id": "4917" },
        { "id": "wamid.7", "status": "delivered", "recipient_id": "4917" },
        { "id": "", "status": "failed", "recipient_id": "4917" },
    ]);
    let body = event.to_string();
    let Ok(Heard::WithFailures { lines, failed }) = call(&whatsapp(), &signed(&body), &body) else {
        panic!("lines and failures");
    };
    assert_eq!(lines.len(), 1);
    let why = "too late (WhatsApp 131047): the person has not written within the last 24 hours, \
        and only a template may be sent";
    let first = Undelivered {
        chats: vec!["4917".into()],
        external_id: "wamid.5".into(),
        why: why.into(),
        at: Some(1_795_189_103_000),
    };
    let why = "WhatsApp gives no reason".to_owned();
    let second = Undelivered { external_id: "wamid.6".into(), why, at: None, ..first.clone() };
    assert_eq!(failed, [first, second]);
    let other = WhatsApp { phone_number_id: "556".into(), ..whatsapp() };
    assert_eq!(call(&other, &signed(&body), &body), Ok(Heard::Messages(vec![])));
}

#[test]
fn what_is_no_text_is_heard_by_a_word() {
    for (message, expected) in [
        (json!({ "type": "image", "image": { "caption": " the roof " } }), "[image] the roof"),
        (json!({ "type": "image", "image": {} }), "[image]"),
        (json!({ "type": "document", "document": { "filename": "a.pdf", "caption": "the bill" } }), "[file] the bill"),
        (json!({ "type": "audio", "audio": { "voice": true } }), "[voice]"),
        (json!({ "type": "contacts", "contacts": [] }), "[contact]"),
        (json!({ "type": "button", "button": { "text": "Yes" } }), "Yes"),
        (json!({ "type": "order", "order": { "text": "two, please", "product_items": [] } }), "[order] two, please"),
        (json!({ "type": "order", "order": { "product_items": [] } }), "[order]"),
        (json!({ "type": "interactive", "interactive": { "nfm_reply": { "response_json": "{}" } } }), "[form]"),
        (json!({ "type": "interactive", "interactive": { "list_reply": { "title": "Two" } } }), "Two"),
        (json!({ "type": "hologram", "hologram": {} }), "[something that is not known here]"),
    ] {
        let mut event = event();
        let mut message = message;
        message["from"] = "4917".into();
        message["id"] = "wamid.8".into();
        event["entry"][0]["changes"][0]["value"]["messages"] = json!([message]);
        let body = event.to_string();
        let heard = call(&whatsapp(), &signed(&body), &body);
        assert!(
            matches!(&heard, Ok(Heard::Messages(lines)) if lines.len() == 1 && lines[0].text == expected),
            "{heard:?}"
        );
    }
}

#[test]
fn the_check_of_the_address_is_answered() {
    let check = |token: &str, mode: &str, challenge: &str| {
        let query = [("hub.mode", mode), ("hub.verify_token", token), ("hub.challenge", challenge)];
        whatsapp().hear(&InboundCall { method: Method::Get, headers: &[], query: &query, body: b"" }, 0)
    };
    let answered = Heard::Challenge { content_type: "text/plain", body: "1158201444".into() };
    assert_eq!(check("vt", "subscribe", "1158201444"), Ok(answered));
    assert_eq!(check("vu", "subscribe", "1"), Err(Refused::Unproven));
    assert_eq!(check("vt", "other", "1"), Err(Refused::Unproven));
    for wrong in ["", "<script>", &"1".repeat(129)] {
        assert!(matches!(check("vt", "subscribe", wrong), Err(Refused::Shape(_))), "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_answer_and_any_event_is_read(value in any_json(), status in 100u16..600) {
        let to = number();
        let _ = whatsapp().outcome(&outgoing(&to, "x"), Step::default(), &answer(status, &value));
        let body = json!({
            "object": "whatsapp_business_account",
            "entry": [value.clone(), { "changes": [{ "value": value }] }],
        });
        let body = body.to_string();
        prop_assert!(call(&whatsapp(), &signed(&body), &body).is_ok());
    }
}

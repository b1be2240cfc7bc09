//! Feishu's calls: the check of the address, and `im.message.receive_v1`.
//!
//! With an encrypt key the body is `{"encrypt": …}`, AES-256 in CBC mode under the SHA-256 of the key, and
//! `X-Lark-Signature` is the SHA-256 of time, nonce, key and raw body. The check of the address comes without a
//! signature; it is proven by the verification token.
use aes::Aes256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::inbound::{UNKNOWN, heard, not_text};
use super::super::signature::{hex, same_secret};
use super::super::{Heard, Inbound, InboundCall, Method, Refused, json as read};
use super::Feishu;
use crate::domain::secret::Secret;

/// The event that is a message of a person to the bot, or in a chat where the bot is.
const MESSAGE: &str = "im.message.receive_v1";

pub(super) fn hear(feishu: &Feishu, call: &InboundCall<'_>) -> Result<Heard, Refused> {
    let key = feishu.encrypt_key.as_ref().filter(|key| !key.is_empty());
    let token = feishu.verification_token.as_ref().filter(|token| !token.is_empty());
    if key.is_none() && token.is_none() {
        return Err(Refused::Closed);
    }
    if call.method != Method::Post {
        return Err(Refused::Shape("Feishu calls with POST"));
    }
    let outer = read::parse(call.body);
    let event = match key {
        None => outer,
        Some(key) => decrypt(key, &outer).ok_or(Refused::Unproven)?,
    };
    if let Some(token) = token {
        // Old events have it at the top.
        let said = read::text(&event, "/header/token").or_else(|| read::text(&event, "/token"));
        if !said.is_some_and(|said| same_secret(token.reveal().as_bytes(), said.as_bytes())) {
            return Err(Refused::Unproven);
        }
    }
    if read::text(&event, "/type") == Some("url_verification") {
        let challenge = read::text(&event, "/challenge").ok_or(Refused::Shape("a check without a challenge"))?;
        let body = json!({ "challenge": challenge }).to_string().into();
        return Ok(Heard::Challenge { content_type: "application/json", body });
    }
    if let Some(key) = key
        && !is_signed(key, call)
    {
        return Err(Refused::Unproven);
    }
    if read::text(&event, "/header/event_type") != Some(MESSAGE) {
        return Ok(Heard::Messages(Vec::new()));
    }
    Ok(heard(line(&event).into_iter()))
}

/// Checks the signature over the raw body. How old it is does not matter: Feishu calls again for hours, and a line
/// that comes again is the same line.
fn is_signed(key: &Secret, call: &InboundCall<'_>) -> bool {
    let header = |name| call.header(name).unwrap_or_default();
    let mut digest = Sha256::new();
    digest.update(header("x-lark-request-timestamp"));
    digest.update(header("x-lark-request-nonce"));
    digest.update(key.reveal());
    digest.update(call.body);
    let expected = hex(&digest.finalize());
    same_secret(expected.as_bytes(), header("x-lark-signature").as_bytes())
}

/// Opens `{"encrypt": Base64 of IV and ciphertext}`.
fn decrypt(key: &Secret, outer: &Value) -> Option<Value> {
    let sealed = STANDARD.decode(read::text(outer, "/encrypt")?).ok()?;
    let (iv, sealed) = sealed.split_at_checked(16)?;
    let key = Sha256::digest(key.reveal());
    let plain = Decryptor::<Aes256>::new_from_slices(&key, iv).ok()?.decrypt_padded_vec::<Pkcs7>(sealed).ok()?;
    serde_json::from_slice(&plain).ok()
}

fn line(event: &Value) -> Option<Inbound> {
    // Bots hear each other, too.
    if read::text(event, "/event/sender/sender_type").is_some_and(|kind| kind != "user") {
        return None;
    }
    let content = read::parse(read::text(event, "/event/message/content").unwrap_or_default().as_bytes());
    let mut text = match read::text(event, "/event/message/message_type")? {
        "text" => read::text(&content, "/text")?.to_owned(),
        "post" => post(&content),
        "image" => not_text("image", None),
        "media" | "video" => not_text("video", None),
        "audio" => not_text("voice", None),
        "file" | "folder" => not_text("file", None),
        "sticker" => not_text("sticker", None),
        "location" => not_text("location", None),
        "share_user" => not_text("contact", None),
        // Of Feishu's own making.
        "system" => return None,
        _ => not_text(UNKNOWN, None),
    };
    for mention in read::items(event, "/event/message/mentions").iter().take(50) {
        if let (Some(key), Some(name)) = (read::id(mention, "/key"), read::text(mention, "/name")) {
            text = text.replacen(&key, &format!("@{name}"), 1);
        }
    }
    let open_id = read::id(event, "/event/sender/sender_id/open_id");
    let user_id = read::id(event, "/event/sender/sender_id/user_id");
    Some(Inbound {
        external_id: read::id(event, "/event/message/message_id")?,
        chat: read::id(event, "/event/message/chat_id")?,
        sender_ref: open_id.or_else(|| user_id.clone())?,
        sender_alias: user_id,
        sender_name: None,
        text,
        reply_to_external_id: read::id(event, "/event/message/parent_id"),
        sent_at: read::number(event, "/event/message/create_time"),
    })
}

/// Reads a text with a format: its title and its lines, without the format.
fn post(content: &Value) -> String {
    let title = read::text(content, "/title").filter(|title| !title.is_empty()).map(str::to_owned);
    let line = |line: &Value| read::items(line, "").iter().map(piece).collect::<String>();
    let lines = read::items(content, "/content").iter().map(line);
    title.into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

/// Reads a piece of a line.
fn piece(piece: &Value) -> String {
    let text = read::text(piece, "/text").unwrap_or_default();
    match read::text(piece, "/tag").unwrap_or_default() {
        "a" => match read::text(piece, "/href").filter(|href| *href != text) {
            Some(href) => format!("{text} ({href})"),
            None => text.to_owned(),
        },
        "at" => match read::text(piece, "/user_name") {
            Some(name) => format!("@{name}"),
            // A key among the mentions.
            None => read::text(piece, "/user_id").unwrap_or_default().to_owned(),
        },
        "img" => not_text("image", None),
        "media" => not_text("video", None),
        "emotion" => read::text(piece, "/emoji_type").map(|name| format!(":{name}:")).unwrap_or_default(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use cbc::cipher::BlockModeEncrypt;
    use proptest::prelude::*;

    use super::super::super::fixtures::any_json;
    use super::super::tests::feishu;
    use super::*;

    const KEY: &str = "encrypt-key";

    fn encrypted() -> Feishu {
        Feishu { encrypt_key: Some(Secret::new(KEY)), ..feishu() }
    }

    fn seal(key: &str, plain: &str) -> String {
        let iv = [3u8; 16];
        let sealer = cbc::Encryptor::<Aes256>::new_from_slices(&Sha256::digest(key), &iv).expect("lengths fit");
        let mut sealed = iv.to_vec();
        sealed.extend(sealer.encrypt_padded_vec::<Pkcs7>(plain.as_bytes()));
        json!({ "encrypt": STANDARD.encode(sealed) }).to_string()
    }

    fn signature(key: &str, body: &str) -> String {
        hex(&Sha256::digest(format!("1795189101nonce{key}{body}")))
    }

    fn call(feishu: &Feishu, signature: &str, body: &str) -> Result<Heard, Refused> {
        let headers = [
            ("x-lark-request-timestamp", "1795189101"),
            ("x-lark-request-nonce", "nonce"),
            ("x-lark-signature", signature),
        ];
        hear(feishu, &InboundCall { method: Method::Post, headers: &headers, query: &[], body: body.as_bytes() })
    }

    fn message() -> Value {
        json!({
            "schema": "2.0",
            "header": { "event_id": "e1", "event_type": MESSAGE, "token": "vt", "app_id": "cli_1" },
            "event": {
                "sender": {
                    "sender_id": { "open_id": "ou_1", "user_id": "u1", "union_id": "on_1" },
                    "sender_type": "user",
                },
                "message": {
                    "message_id": "om_2", "root_id": "om_0", "parent_id": "om_1", "create_time": "1795189101062",
                    "chat_id": "oc_1", "chat_type": "p2p", "message_type": "text",
                    "content": "{\"text\":\"@_user_1 hello\"}",
                    "mentions": [{ "key": "@_user_1", "name": "Bot", "id": { "open_id": "ou_9" } }],
                },
            },
        })
    }

    fn expected() -> Inbound {
        Inbound {
            external_id: "om_2".into(),
            chat: "oc_1".into(),
            sender_ref: "ou_1".into(),
            sender_alias: Some("u1".into()),
            sender_name: None,
            text: "@Bot hello".into(),
            reply_to_external_id: Some("om_1".into()),
            sent_at: Some(1_795_189_101_062),
        }
    }

    #[test]
    fn an_event_is_believed_by_its_token() {
        assert_eq!(call(&feishu(), "", &message().to_string()), Ok(Heard::Messages(vec![expected()])));
        for wrong in [Value::Null, json!("vu"), json!(""), json!(7)] {
            let mut message = message();
            message["header"]["token"] = wrong;
            assert_eq!(call(&feishu(), "", &message.to_string()), Err(Refused::Unproven));
        }
        assert_eq!(call(&feishu(), "", "<html>"), Err(Refused::Unproven));
        let open = Feishu { verification_token: Some(Secret::new("")), ..feishu() };
        assert_eq!(call(&open, "", &message().to_string()), Err(Refused::Closed));
    }

    #[test]
    fn an_encrypted_event_is_believed_by_its_signature_as_well() {
        let body = seal(KEY, &message().to_string());
        let signed = signature(KEY, &body);
        assert_eq!(call(&encrypted(), &signed, &body), Ok(Heard::Messages(vec![expected()])));
        for (signature, body) in [
            (signed.clone(), message().to_string()),
            (String::new(), body.clone()),
            (signature("other", &body), body.clone()),
            (signature("other", &seal("other", "{}")), seal("other", &message().to_string())),
            (signed, format!("{body} ")),
            (String::new(), json!({ "encrypt": "AAAA" }).to_string()),
            (String::new(), json!({ "encrypt": "ä" }).to_string()),
        ] {
            assert_eq!(call(&encrypted(), &signature, &body), Err(Refused::Unproven), "{body}");
        }
    }

    #[test]
    fn feishus_own_example_of_encryption_is_opened() {
        let sealed = "P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk=";
        let bytes = STANDARD.decode(sealed).expect("Base64");
        let (iv, rest) = bytes.split_at(16);
        let opener = Decryptor::<Aes256>::new_from_slices(&Sha256::digest("test key"), iv).expect("lengths fit");
        assert_eq!(opener.decrypt_padded_vec::<Pkcs7>(rest).expect("the padding is right"), b"hello world");
        // It is no JSON, so it is no event.
        assert_eq!(decrypt(&Secret::new("test key"), &json!({ "encrypt": sealed })), None);
    }

    #[test]
    fn the_check_of_the_address_is_answered() {
        let check = json!({ "type": "url_verification", "challenge": "c\"1", "token": "vt" }).to_string();
        let answered = Heard::Challenge { content_type: "application/json", body: "{\"challenge\":\"c\\\"1\"}".into() };
        assert_eq!(call(&feishu(), "", &check), Ok(answered.clone()));
        assert_eq!(call(&encrypted(), "", &seal(KEY, &check)), Ok(answered));
        assert_eq!(call(&encrypted(), "", &check), Err(Refused::Unproven));
        let foreign = json!({ "type": "url_verification", "challenge": "c", "token": "x" }).to_string();
        assert_eq!(call(&feishu(), "", &foreign), Err(Refused::Unproven));
    }

    #[test]
    fn what_no_person_said_is_passed_over() {
        for (place, value) in [
            ("/header/event_type", json!("im.message.message_read_v1")),
            ("/event/sender/sender_type", json!("app")),
            ("/event/message/message_type", json!("system")),
            ("/event/message/content", json!("{}")),
            ("/event/message/message_id", json!("")),
        ] {
            let mut message = message();
            *message.pointer_mut(place).expect("it is there") = value;
            assert_eq!(call(&feishu(), "", &message.to_string()), Ok(Heard::Messages(Vec::new())), "{place}");
        }
    }

    #[test]
    fn a_text_with_a_format_is_heard_without_it() {
        let content = json!({ "title": "The roof", "content": [
            [{ "tag": "at", "user_id": "@_user_1" }, { "tag": "text", "text": " is it " }, { "tag": "text", "text": "done?", "style": ["bold"] }],
            [],
            [{ "tag": "a", "href": "https://example.org", "text": "plan" }, { "tag": "img", "image_key": "k" }],
            [{ "tag": "at", "user_id": "@_user_2", "user_name": "Tom" }, { "tag": "emotion", "emoji_type": "SMILE" }],
        ] });
        let mut message = message();
        message["event"]["message"]["message_type"] = "post".into();
        message["event"]["message"]["content"] = content.to_string().into();
        let text = "The roof\n@Bot is it done?\n\nplan (https://example.org)[image]\n@Tom:SMILE:";
        let line = Inbound { text: text.into(), ..expected() };
        assert_eq!(call(&feishu(), "", &message.to_string()), Ok(Heard::Messages(vec![line])));
    }

    #[test]
    fn what_is_no_text_is_heard_by_a_word() {
        for (kind, expected) in [
            ("image", "[image]"),
            ("audio", "[voice]"),
            ("file", "[file]"),
            ("vote", "[something that is not known here]"),
        ] {
            let mut message = message();
            message["event"]["message"]["message_type"] = kind.into();
            message["event"]["message"]["content"] = "{\"image_key\":\"k\"}".into();
            let heard = call(&feishu(), "", &message.to_string());
            assert!(
                matches!(&heard, Ok(Heard::Messages(lines)) if lines.len() == 1 && lines[0].text == expected),
                "{heard:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_event_is_read(event in any_json(), message in any_json()) {
            let event = json!({
                "header": { "event_type": MESSAGE, "token": "vt" },
                "event": { "sender": event, "message": message },
            });
            prop_assert!(call(&feishu(), "", &event.to_string()).is_ok());
        }

        #[test]
        fn any_content_is_read(content in any_json(), kind in prop::sample::select(vec!["post", "text", "image"])) {
            let mut message = message();
            message["event"]["message"]["message_type"] = kind.into();
            message["event"]["message"]["content"] = content.to_string().into();
            prop_assert!(call(&feishu(), "", &message.to_string()).is_ok());
        }

        #[test]
        fn any_bytes_may_be_a_call(body in "[ -~]{0,60}") {
            let _ = call(&encrypted(), "", &json!({ "encrypt": STANDARD.encode(&body) }).to_string());
        }
    }
}

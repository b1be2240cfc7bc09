//! WhatsApp's calls: the check of the address (GET); what people write, and what became of ours (POST, signed over the
//! raw bytes).
use serde_json::Value;

use super::super::inbound::{UNKNOWN, heard_with, not_text};
use super::super::signature::{is_hmac_sha256, same_secret};
use super::super::{Heard, Inbound, InboundCall, Method, Refused, Undelivered, json as read};
use super::{WhatsApp, first_id, words};

pub(super) fn hear(whatsapp: &WhatsApp, call: &InboundCall<'_>) -> Result<Heard, Refused> {
    match call.method {
        Method::Get => check(whatsapp, call),
        Method::Post => {
            let secret = whatsapp.app_secret.as_ref().filter(|secret| !secret.is_empty()).ok_or(Refused::Closed)?;
            let said = call.header("x-hub-signature-256").and_then(|value| value.strip_prefix("sha256="));
            if !said.is_some_and(|said| is_hmac_sha256(secret.reveal().as_bytes(), &[call.body], said)) {
                return Err(Refused::Unproven);
            }
            let event = read::parse(call.body);
            if read::text(&event, "/object") != Some("whatsapp_business_account") {
                return Err(Refused::Shape("the object of a call is a WhatsApp business account"));
            }
            let number = whatsapp.phone_number_id.as_str();
            Ok(heard_with(lines(&event, number), failed(&event, number)))
        }
    }
}

fn check(whatsapp: &WhatsApp, call: &InboundCall<'_>) -> Result<Heard, Refused> {
    let token = whatsapp.verify_token.as_ref().filter(|token| !token.is_empty()).ok_or(Refused::Closed)?;
    let said = call.query("hub.verify_token").unwrap_or_default();
    if call.query("hub.mode") != Some("subscribe") || !same_secret(token.reveal().as_bytes(), said.as_bytes()) {
        return Err(Refused::Unproven);
    }
    // A number. Anything else would be someone's page under our name.
    let challenge =
        call.query("hub.challenge").filter(|challenge| challenge.bytes().all(|b| b.is_ascii_alphanumeric()));
    let challenge = challenge.filter(|challenge| (1..=128).contains(&challenge.len()));
    let challenge = challenge.ok_or(Refused::Shape("a check without a challenge"))?;
    Ok(Heard::Challenge { content_type: "text/plain", body: challenge.to_owned().into() })
}

/// What is told of this number. One app may have several numbers; those have channels of their own.
fn ours<'a>(event: &'a Value, number: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
    let changes = read::items(event, "/entry").iter().flat_map(|entry| read::items(entry, "/changes"));
    let values = changes.filter_map(|change| change.get("value"));
    values.filter(move |value| read::id(value, "/metadata/phone_number_id").as_deref() == Some(number))
}

/// What was written.
fn lines<'a>(event: &'a Value, number: &'a str) -> impl Iterator<Item = Inbound> + 'a {
    let ours = ours(event, number);
    ours.flat_map(|value| read::items(value, "/messages").iter().filter_map(move |message| line(value, message)))
}

/// What of ours could not be delivered; that something was sent, delivered or read is passed over.
fn failed<'a>(event: &'a Value, number: &'a str) -> impl Iterator<Item = Undelivered> + 'a {
    let statuses = ours(event, number).flat_map(|value| read::items(value, "/statuses"));
    statuses.filter(|status| read::text(status, "/status") == Some("failed")).filter_map(|status| {
        let error = read::items(status, "/errors").first();
        let why = error.and_then(|error| Some(words(error, read::number(error, "/code")?)));
        Some(Undelivered {
            chats: ["/recipient_id", "/recipient_user_id"].into_iter().filter_map(|at| read::id(status, at)).collect(),
            external_id: read::id(status, "/id")?,
            why: why.unwrap_or_else(|| "WhatsApp gives no reason".to_owned()),
            at: read::number(status, "/timestamp").map(|seconds| seconds.saturating_mul(1_000)),
        })
    })
}

/// Returns what a message says; for what is no text a word for it. Reactions, and what tells that something happened, are
/// passed over.
fn text(message: &Value) -> Option<String> {
    let places = ["/text/body", "/button/text", "/interactive/button_reply/title", "/interactive/list_reply/title"];
    if let Some(text) = places.into_iter().find_map(|place| read::text(message, place)) {
        return Some(text.to_owned());
    }
    let (what, caption) = match read::text(message, "/type")? {
        "image" => ("image", read::text(message, "/image/caption")),
        "video" => ("video", read::text(message, "/video/caption")),
        "document" => ("file", read::text(message, "/document/caption")),
        "audio" => ("voice", None),
        "sticker" => ("sticker", None),
        "location" => ("location", None),
        "contacts" => ("contact", None),
        "order" => ("order", read::text(message, "/order/text")),
        "interactive" if message.pointer("/interactive/nfm_reply").is_some() => ("form", None),
        "unsupported" | "unknown" => ("something that WhatsApp does not pass on", None),
        "reaction" | "system" | "edit" | "revoke" | "request_welcome" => return None,
        _ => (UNKNOWN, None),
    };
    Some(not_text(what, caption))
}

fn line(value: &Value, message: &Value) -> Option<Inbound> {
    let from = first_id(message, ["/from", "/from_user_id"])?;
    let is_from = |contact: &&Value| {
        ["/wa_id", "/user_id"].into_iter().any(|place| read::id(contact, place).as_ref() == Some(&from))
    };
    let contact = read::items(value, "/contacts").iter().find(is_from);
    // A number comes with the id: a message may have gone to either.
    let alias = read::id(message, "/from_user_id").filter(|id| *id != from);
    Some(Inbound {
        external_id: read::id(message, "/id")?,
        chat: from.clone(),
        sender_ref: from,
        sender_alias: alias,
        sender_name: contact.and_then(|contact| read::text(contact, "/profile/name")).map(str::to_owned),
        text: text(message)?,
        reply_to_external_id: read::id(message, "/context/id"),
        sent_at: read::number(message, "/timestamp").map(|seconds| seconds.saturating_mul(1_000)),
    })
}

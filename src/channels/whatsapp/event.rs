//! WhatsApp's calls: the check of the address (GET), and what people write (POST, signed over the raw bytes).
use serde_json::Value;

use super::super::inbound::heard;
use super::super::signature::{is_hmac_sha256, same_secret};
use super::super::{Heard, Inbound, InboundCall, Method, Refused, json as read};
use super::WhatsApp;

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
            Ok(heard(lines(&event, &whatsapp.phone_number_id)))
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

/// What was written to this number. One app may have several numbers; those have channels of their own.
fn lines<'a>(event: &'a Value, number: &'a str) -> impl Iterator<Item = Inbound> + 'a {
    let changes = read::items(event, "/entry").iter().flat_map(|entry| read::items(entry, "/changes"));
    let values = changes.filter_map(|change| change.get("value"));
    let ours = values.filter(move |value| read::id(value, "/metadata/phone_number_id").as_deref() == Some(number));
    // `statuses`, the fate of what we sent, are passed over.
    ours.flat_map(|value| read::items(value, "/messages").iter().filter_map(move |message| line(value, message)))
}

fn line(value: &Value, message: &Value) -> Option<Inbound> {
    let from = read::id(message, "/from")?;
    let places = ["/text/body", "/button/text", "/interactive/button_reply/title", "/interactive/list_reply/title"];
    let text = places.into_iter().find_map(|place| read::text(message, place))?;
    let contact =
        read::items(value, "/contacts").iter().find(|contact| read::id(contact, "/wa_id").as_ref() == Some(&from));
    Some(Inbound {
        external_id: read::id(message, "/id")?,
        chat: from.clone(),
        sender_ref: from,
        sender_alias: None,
        sender_name: contact.and_then(|contact| read::text(contact, "/profile/name")).map(str::to_owned),
        text: text.to_owned(),
        reply_to_external_id: read::id(message, "/context/id"),
        sent_at: read::number(message, "/timestamp").map(|seconds| seconds.saturating_mul(1_000)),
    })
}

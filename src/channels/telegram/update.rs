//! What Telegram tells of people: an `Update`, alone in a webhook's call or many on a page of `getUpdates`.
use serde_json::Value;

use super::super::inbound::{UNKNOWN, heard, not_text};
use super::super::signature::same_secret;
use super::super::{Heard, Inbound, InboundCall, Method, Refused, json as read};
use super::{Page, Telegram};

pub(super) fn hear(telegram: &Telegram, call: &InboundCall<'_>) -> Result<Heard, Refused> {
    let secret = telegram.secret_token.as_ref().filter(|secret| !secret.is_empty()).ok_or(Refused::Closed)?;
    let said = call.header("x-telegram-bot-api-secret-token").unwrap_or_default();
    if !same_secret(secret.reveal().as_bytes(), said.as_bytes()) {
        return Err(Refused::Unproven);
    }
    if call.method != Method::Post {
        return Err(Refused::Shape("Telegram calls with POST"));
    }
    let update = read::parse(call.body);
    read::number(&update, "/update_id").ok_or(Refused::Shape("an update has an id"))?;
    Ok(heard(line(&update).into_iter()))
}

pub(super) fn page(updates: &[Value]) -> Page {
    let last = updates.iter().filter_map(|update| read::number(update, "/update_id")).max();
    let Heard::Messages(lines) = heard(updates.iter().filter_map(line)) else {
        return Page { lines: vec![], offset: None };
    };
    Page { lines, offset: last.map(|id| id.saturating_add(1)) }
}

/// What is no message of a person, but tells that something happened: these fields, and those with these beginnings.
const SERVICE: [&str; 30] = [
    "left_chat_member",
    "left_chat_participant",
    "delete_chat_photo",
    "group_chat_created",
    "supergroup_chat_created",
    "channel_chat_created",
    "message_auto_delete_timer_changed",
    "migrate_to_chat_id",
    "migrate_from_chat_id",
    "pinned_message",
    "successful_payment",
    "refunded_payment",
    "user_shared",
    "users_shared",
    "chat_shared",
    "gift",
    "unique_gift",
    "gift_upgrade_sent",
    "connected_website",
    "write_access_allowed",
    "passport_data",
    "proximity_alert_triggered",
    "boost_added",
    "chat_background_set",
    "checklist_tasks_done",
    "checklist_tasks_added",
    "direct_message_price_changed",
    "paid_message_price_changed",
    "giveaway_created",
    "giveaway_completed",
];
const SERVICES: [&str; 8] = [
    "new_chat_",
    "chat_owner_",
    "forum_topic_",
    "general_forum_topic_",
    "video_chat_",
    "voice_chat_",
    "suggested_post_",
    "web_app_",
];

fn is_service(message: &Value) -> bool {
    let is_one =
        |name: &String| SERVICE.contains(&name.as_str()) || SERVICES.iter().any(|begin| name.starts_with(*begin));
    message.as_object().is_some_and(|fields| fields.keys().any(is_one))
}

/// Returns what a message says; for what is no text a word for it. That somebody joined and the like is passed over.
fn text(message: &Value) -> Option<String> {
    if let Some(text) = read::text(message, "/text") {
        return Some(text.to_owned());
    }
    // An animation is a document as well, for those who do not know it.
    let places = [
        ("/photo", "image"),
        ("/animation", "video"),
        ("/video", "video"),
        ("/video_note", "video"),
        ("/voice", "voice"),
        ("/audio", "audio"),
        ("/document", "file"),
        ("/sticker", "sticker"),
        ("/location", "location"),
        ("/contact", "contact"),
        ("/poll", "poll"),
        ("/dice", "dice"),
        ("/game", "game"),
        ("/story", "story"),
        ("/checklist", "checklist"),
        ("/paid_media", "paid media"),
        ("/invoice", "invoice"),
        ("/giveaway", "giveaway"),
        ("/giveaway_winners", "giveaway"),
    ];
    let found = places.into_iter().find(|(place, _)| message.pointer(place).is_some());
    let caption = read::text(message, "/caption");
    match found {
        Some((_, what)) => Some(not_text(what, caption)),
        None if caption.is_some() => caption.map(str::to_owned),
        None if is_service(message) => None,
        // Telegram learns new kinds: that somebody has written is heard.
        None => Some(not_text(UNKNOWN, None)),
    }
}

/// Reads a new message of a person; edits, channels' posts and other bots are passed over.
fn line(update: &Value) -> Option<Inbound> {
    let message = update.get("message")?;
    if message.pointer("/from/is_bot") == Some(&Value::Bool(true)) {
        return None;
    }
    let names = [read::text(message, "/from/first_name"), read::text(message, "/from/last_name")];
    Some(Inbound {
        external_id: read::id(message, "/message_id")?,
        chat: read::id(message, "/chat/id")?,
        sender_ref: read::id(message, "/from/id")?,
        sender_alias: read::id(message, "/from/username"),
        sender_name: Some(names.into_iter().flatten().collect::<Vec<_>>().join(" ")),
        text: text(message)?,
        reply_to_external_id: read::id(message, "/reply_to_message/message_id"),
        sent_at: read::number(message, "/date").map(|seconds| seconds.saturating_mul(1_000)),
    })
}

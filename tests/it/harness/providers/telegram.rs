//! Telegram's Bot API: `sendMessage`, `getUpdates` and `getMe`.
use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Asked, Pace, Reply, Rules};

pub(crate) const BOT: &str = "42:fake-token-of-the-bot";

/// The rules, for one bot.
pub(crate) struct TelegramRules {
    pub(crate) chats: HashSet<String>,
    /// Chats whose people blocked the bot.
    pub(crate) blocked: HashSet<String>,
    /// One a second for a chat.
    pub(crate) pace: Pace,
    /// Messages that came too fast for their chat.
    pub(crate) too_fast: usize,
    /// Requests with the token of another bot, messages too.
    pub(crate) strangers: usize,
    /// Chat and text of what was sent.
    pub(crate) sent: Vec<(String, String)>,
    /// What `getUpdates` gives; what was confirmed is gone.
    pub(crate) updates: Vec<Value>,
    /// A webhook is set, so that `getUpdates` is refused.
    pub(crate) webhook: bool,
}

impl TelegramRules {
    pub(crate) fn new(chats: &[&str]) -> Self {
        Self {
            chats: chats.iter().map(|id| (*id).to_owned()).collect(),
            blocked: HashSet::new(),
            pace: Pace::new(1, Duration::from_secs(1)),
            too_fast: 0,
            strangers: 0,
            sent: Vec::new(),
            updates: Vec::new(),
            webhook: false,
        }
    }

    fn send(&mut self, body: &Value) -> Reply {
        let chat = body["chat_id"].as_str().unwrap_or_default().to_owned();
        let text = body["text"].as_str().unwrap_or_default();
        if text.trim().is_empty() {
            return refused(400, "Bad Request: message text is empty", Value::Null);
        }
        if text.encode_utf16().count() > 4_096 {
            return refused(400, "Bad Request: message is too long", Value::Null);
        }
        if self.blocked.contains(&chat) {
            return refused(403, "Forbidden: bot was blocked by the user", Value::Null);
        }
        if !self.chats.contains(&chat) {
            return refused(400, "Bad Request: chat not found", Value::Null);
        }
        if !self.pace.allows(&chat) {
            self.too_fast += 1;
            return refused(429, "Too Many Requests: retry after 1", json!({ "retry_after": 1 }));
        }
        let id: i64 = chat.parse().expect("chats of these tests are numbers");
        self.sent.push((chat, text.to_owned()));
        Reply::new(
            200,
            json!({ "ok": true, "result": { "message_id": self.sent.len(), "chat": { "id": id }, "text": text } }),
        )
    }

    fn page(&mut self, body: &Value) -> Reply {
        if self.webhook {
            return refused(409, "Conflict: can't use getUpdates method while webhook is active", Value::Null);
        }
        if let Some(offset) = body["offset"].as_i64() {
            self.updates.retain(|update| update["update_id"].as_i64() >= Some(offset));
        }
        let limit = body["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(100);
        let page: Vec<&Value> = self.updates.iter().take(limit.min(100)).collect();
        Reply::new(200, json!({ "ok": true, "result": page }))
    }
}

/// An answer that is a refusal.
pub(crate) fn refused(code: u16, description: &str, parameters: Value) -> Reply {
    let mut body = json!({ "ok": false, "error_code": code, "description": description });
    if !parameters.is_null() {
        body["parameters"] = parameters;
    }
    Reply::new(code, body)
}

impl Rules for TelegramRules {
    fn is_message(&self, asked: &Asked) -> bool {
        asked.path.ends_with("/sendMessage")
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        let Some((bot, name)) = asked.path.strip_prefix("/bot").and_then(|path| path.split_once('/')) else {
            return refused(404, "Not Found", Value::Null);
        };
        if bot != BOT {
            self.strangers += 1;
            return refused(401, "Unauthorized", Value::Null);
        }
        let body = asked.json();
        match (asked.method.as_str(), name) {
            ("POST", "sendMessage") => self.send(&body),
            ("POST", "getUpdates") => self.page(&body),
            ("POST", "getMe") => {
                Reply::new(200, json!({ "ok": true, "result": { "id": 42, "is_bot": true, "username": "bot" } }))
            }
            _ => refused(404, "Not Found: method not found", Value::Null),
        }
    }
}

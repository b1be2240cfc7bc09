//! Telegram: `sendMessage` of the Bot API; what people write comes by webhook or by `getUpdates`
//! (`telegram/update.rs`).
//!
//! - The bot's token stands in the path of each URL, so URLs are secrets.
//! - A text has at most 4,096 UTF-16 units, so longer ones go out in parts. No markup: nothing needs escaping.
//! - An answer goes to the topic of what it answers, where a group has topics.
//! - 30 messages a second for a bot, one a second for a chat.
//! - Telegram recognises no repeat: an unknown outcome is final.
use serde_json::{Value, json};

use super::{
    Answer, Channel, Heard, HttpAnswer, HttpRequest, Inbound, InboundCall, Limits, Method, Outcome, Outgoing, Rate,
    Refused, Request, Step, Token, address, foreign, join, json as read, judge, text,
};
use crate::domain::channel::{Address, ChannelKind};
use crate::domain::secret::Secret;

mod update;

/// Where Telegram is; a Bot API server of one's own is another.
pub const BASE_URL: &str = "https://api.telegram.org";

/// UTF-16 units of a message.
const PART_UNITS: usize = 4_096;
/// Updates of one page; Telegram gives at most this many.
pub const PAGE: u32 = 100;
const LIMITS: Limits =
    Limits { channel: &[Rate { count: 30, per_ms: 1_000 }], address: Some(Rate { count: 1, per_ms: 1_000 }) };

/// A bot.
#[derive(Clone, Debug)]
pub struct Telegram {
    /// [`BASE_URL`], or another.
    pub base_url: String,
    pub bot_token: Secret,
    /// What `setWebhook` was given as `secret_token`; without it no call is believed.
    pub secret_token: Option<Secret>,
}

/// A page of `getUpdates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub lines: Vec<Inbound>,
    /// What to ask from next, once the lines are on disk; `None` when the page is empty. Asking with it is what tells
    /// Telegram to forget the page.
    pub offset: Option<i64>,
}

impl Telegram {
    /// Asks for what came since, at most `limit` updates of it, from 1 to [`PAGE`]; waits up to `wait_s` seconds for
    /// something to come.
    pub fn updates_request(&self, offset: Option<i64>, limit: u32, wait_s: u32) -> HttpRequest {
        let mut body = json!({ "limit": limit, "timeout": wait_s, "allowed_updates": ["message"] });
        if let (Some(offset), Some(fields)) = (offset, body.as_object_mut()) {
            fields.insert("offset".to_owned(), offset.into());
        }
        self.call("getUpdates", &body)
    }

    /// Reads the answer to [`Telegram::updates_request`]; the error is `Retry` or `Permanent`.
    pub fn updates(&self, answer: &Answer) -> Result<Page, Outcome> {
        let again = |why: String| Outcome::Retry { after_ms: None, why };
        let answer = match answer {
            Answer::Http(answer) => answer,
            Answer::None { why, .. } => return Err(again(judge::words(why))),
            Answer::Smtp(_) => return Err(judge::foreign()),
        };
        let value = read::parse(&answer.body);
        if let Some(result) = value.get("result").and_then(Value::as_array)
            && value.get("ok") == Some(&Value::Bool(true))
        {
            return Ok(update::page(result));
        }
        Err(match judged(answer, &value) {
            // Reading has no effect. A webhook that is still set, or another reader, may go away.
            Outcome::Unknown { why } => again(why),
            Outcome::Permanent { why } if answer.status == 409 => again(why),
            other => other,
        })
    }

    fn call(&self, name: &str, body: &Value) -> HttpRequest {
        HttpRequest {
            method: Method::Post,
            url: Secret::new(join(&self.base_url, &format!("bot{}/{name}", self.bot_token.reveal()))),
            headers: vec![("Content-Type", Secret::new("application/json"))],
            body: body.to_string().into(),
        }
    }
}

/// Judges an answer that is not a success. Telegram's own have `ok: false`; others are a proxy's.
fn judged(answer: &HttpAnswer, value: &Value) -> Outcome {
    if value.get("ok") != Some(&Value::Bool(false)) {
        return judge::bare(answer);
    }
    let code = read::number(value, "/error_code").unwrap_or_else(|| i64::from(answer.status));
    let described = judge::words(read::text(value, "/description").unwrap_or_default());
    let why = format!("{described} (Telegram {code})");
    let wait = read::number(value, "/parameters/retry_after").and_then(|s| u64::try_from(s).ok()).map(judge::wait_ms);
    match code {
        429 => Outcome::Retry { after_ms: wait, why },
        // It says itself that it did not.
        500..=599 => Outcome::Retry { after_ms: wait, why },
        401 | 404 => Outcome::Permanent { why: format!("{why}: the bot's token is wrong or was revoked") },
        _ => match read::id(value, "/parameters/migrate_to_chat_id") {
            Some(chat) => Outcome::Permanent { why: format!("{why}: the group is now the chat {chat}") },
            None => Outcome::Permanent { why },
        },
    }
}

impl Channel for Telegram {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Telegram
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn parts(&self, text: &str) -> usize {
        text::parts(text, text::Unit::Utf16, PART_UNITS).len()
    }

    fn cuts(&self, text: &str) -> bool {
        text::is_cut(&text::parts(text, text::Unit::Utf16, PART_UNITS))
    }

    fn request(&self, out: &Outgoing<'_>, step: Step, _token: Option<&Token>) -> Result<Request, String> {
        let Address::Telegram(chat) = address(out, step)? else { return Err(foreign(ChannelKind::Telegram)) };
        let parts = text::parts(out.text, text::Unit::Utf16, PART_UNITS);
        let part = parts.get(step.part).ok_or_else(|| "the text has no such part".to_owned())?;
        let mut body = json!({ "chat_id": chat, "text": part });
        // Each part answers: in a group with topics it is what brings it to the same topic.
        let answered = out.reply_to.and_then(|id| id.parse::<i64>().ok());
        if let (Some(answered), Some(fields)) = (answered, body.as_object_mut()) {
            let reply = json!({ "message_id": answered, "allow_sending_without_reply": true });
            fields.insert("reply_parameters".to_owned(), reply);
        }
        Ok(Request::Http(self.call("sendMessage", &body)))
    }

    fn outcome(&self, _out: &Outgoing<'_>, _step: Step, answer: &Answer) -> Outcome {
        let answer = match answer {
            Answer::Http(answer) => answer,
            Answer::None { may_have_arrived, why } => return judge::silence(*may_have_arrived, why),
            Answer::Smtp(_) => return judge::foreign(),
        };
        let value = read::parse(&answer.body);
        if value.get("ok") == Some(&Value::Bool(true)) {
            return Outcome::Sent {
                external_id: read::id(&value, "/result/message_id").unwrap_or_default(),
                chat: read::id(&value, "/result/chat/id").unwrap_or_default(),
            };
        }
        judged(answer, &value)
    }

    fn hear(&self, call: &InboundCall<'_>, _now_ms: i64) -> Result<Heard, Refused> {
        update::hear(self, call)
    }
}

#[cfg(test)]
mod tests;

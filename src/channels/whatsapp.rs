//! WhatsApp: the Cloud API of the Graph (`/{phone number id}/messages`), and its webhooks (`whatsapp/event.rs`).
//!
//! - A text goes only to who wrote within the last 24 hours; else it is refused with 131047, and only a template would
//!   do. Mostly that is told later, by a call with a `failed` status, after an answer of 200.
//! - A text has at most 4,096 characters, so longer ones go out in parts.
//! - 80 messages a second for a number; to one person one in 6 s over time, more at once is refused with 131056.
//! - People are known by their numbers; who has taken a name there, by an id that is good for one business only
//!   (`US.1349…`). Such a one stands in other fields than a number.
//! - WhatsApp recognises no repeat: an unknown outcome is final. Our id goes along for the operator's logs only.
use serde_json::{Value, json};

use super::{
    Answer, Channel, Heard, HttpRequest, InboundCall, Limits, Method, Outcome, Outgoing, Rate, Refused, Request, Step,
    Token, address, foreign, join, json as read, judge, text,
};
use crate::domain::channel::{Address, ChannelKind, is_whatsapp_user_id};
use crate::domain::secret::Secret;

mod event;

/// Where the Graph is, with the version that this was written for.
pub const BASE_URL: &str = "https://graph.facebook.com/v23.0";

/// Characters of a message.
const PART_CHARS: usize = 4_096;
const LIMITS: Limits =
    Limits { channel: &[Rate { count: 80, per_ms: 1_000 }], address: Some(Rate { count: 10, per_ms: 60_000 }) };

/// A telephone number of a business.
#[derive(Clone, Debug)]
pub struct WhatsApp {
    /// [`BASE_URL`], or another.
    pub base_url: String,
    pub phone_number_id: String,
    /// Of a system user; it does not end.
    pub access_token: Secret,
    /// Signs the calls; without it no call is believed.
    pub app_secret: Option<Secret>,
    /// What the operator typed in beside our address; without it the check of the address is refused.
    pub verify_token: Option<Secret>,
}

/// Returns the digits of a telephone number: 5 to 15 of them, as a person's may have.
fn digits(number: &str) -> Option<String> {
    let plain = number.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-' | '(' | ')' | '.' | '/'));
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    (plain && (5..=15).contains(&digits.len())).then_some(digits)
}

/// Returns the field in which a person's address stands, and the address as WhatsApp knows it.
fn recipient(address: &str) -> Option<(&'static str, String)> {
    if is_whatsapp_user_id(address) {
        return Some(("recipient", address.to_owned()));
    }
    digits(address).map(|number| ("to", number))
}

/// Returns a person's number; of whoever has a name there and shows none, the id that is for us.
fn first_id(value: &Value, places: [&str; 2]) -> Option<String> {
    places.into_iter().find_map(|place| read::id(value, place))
}

/// Says in words what an error of the Graph means.
fn words(error: &Value, code: i64) -> String {
    let places = ["/error_data/details", "/message", "/title"];
    let details = places.into_iter().find_map(|place| read::text(error, place));
    let why = format!("{} (WhatsApp {code})", judge::words(details.unwrap_or_default()));
    match code {
        131_047 => {
            format!("{why}: the person has not written within the last 24 hours, and only a template may be sent")
        }
        0 | 190 => format!("{why}: the channel needs a new access token"),
        _ => why,
    }
}

/// Judges an error of the Graph. The code counts, not the status, but for 429: too many never lasts.
fn judged(error: &Value, status: u16) -> Outcome {
    let code = read::number(error, "/code").unwrap_or_else(|| i64::from(status));
    let why = words(error, code);
    let retry = |after_ms, why| Outcome::Retry { after_ms, why };
    match code {
        // Too many: for the app, the account, the number; overloaded, or a fault of theirs that they say passes.
        4 | 80_007 | 130_429 | 131_048 => retry(Some(60_000), why),
        131_056 => retry(Some(6_000), why),
        2 | 131_000 | 131_016 | 131_057 | 133_004 => retry(None, why),
        _ if status == 429 => retry(None, why),
        0 | 190 | 131_047 => Outcome::Permanent { why },
        _ if status >= 500 => retry(None, why),
        _ => Outcome::Permanent { why },
    }
}

impl Channel for WhatsApp {
    fn kind(&self) -> ChannelKind {
        ChannelKind::WhatsApp
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn parts(&self, text: &str) -> usize {
        text::parts(text, text::Unit::Chars, PART_CHARS).len()
    }

    fn cuts(&self, text: &str) -> bool {
        text::is_cut(&text::parts(text, text::Unit::Chars, PART_CHARS))
    }

    fn request(&self, out: &Outgoing<'_>, step: Step, _token: Option<&Token>) -> Result<Request, String> {
        let Address::WhatsApp(to) = address(out, step)? else { return Err(foreign(ChannelKind::WhatsApp)) };
        let (field, to) =
            recipient(to).ok_or_else(|| "this is no telephone number with its country code, and no id".to_owned())?;
        let parts = text::parts(out.text, text::Unit::Chars, PART_CHARS);
        let part = parts.get(step.part).ok_or_else(|| "the text has no such part".to_owned())?;
        let mut body = json!({
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            field: to,
            "type": "text",
            "text": { "preview_url": false, "body": part },
            "biz_opaque_callback_data": out.id.to_string(),
        });
        let answered = out.reply_to.filter(|_| step.part == 0);
        if let (Some(answered), Some(fields)) = (answered, body.as_object_mut()) {
            fields.insert("context".to_owned(), json!({ "message_id": answered }));
        }
        Ok(Request::Http(HttpRequest {
            method: Method::Post,
            url: Secret::new(join(&self.base_url, &format!("{}/messages", self.phone_number_id))),
            headers: vec![
                ("Authorization", Secret::new(format!("Bearer {}", self.access_token.reveal()))),
                ("Content-Type", Secret::new("application/json")),
            ],
            body: body.to_string().into(),
        }))
    }

    fn outcome(&self, out: &Outgoing<'_>, step: Step, answer: &Answer) -> Outcome {
        let answer = match answer {
            Answer::Http(answer) => answer,
            Answer::None { may_have_arrived, why } => return judge::silence(*may_have_arrived, why),
            Answer::Smtp(_) => return judge::foreign(),
        };
        let value = read::parse(&answer.body);
        if let Some(error) = value.get("error").filter(|error| error.is_object()) {
            return judged(error, answer.status);
        }
        match read::id(&value, "/messages/0/id") {
            Some(external_id) if (200..300).contains(&answer.status) => {
                // The chat is the person as WhatsApp knows it, which is how calls name it.
                let known = first_id(&value, ["/contacts/0/wa_id", "/contacts/0/user_id"]);
                let given = || address(out, step).ok().and_then(|to| recipient(to.as_str())).map(|(_, to)| to);
                Outcome::Sent { external_id, chat: known.or_else(given).unwrap_or_default() }
            }
            _ => judge::bare(answer),
        }
    }

    fn hear(&self, call: &InboundCall<'_>, _now_ms: i64) -> Result<Heard, Refused> {
        event::hear(self, call)
    }
}

#[cfg(test)]
mod tests;

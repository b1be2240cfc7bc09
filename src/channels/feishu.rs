//! Feishu: messages of a self-built app's bot (`im/v1/messages`), and its events (`feishu/event.rs`).
//!
//! - A tenant token, two hours at most, is asked for with the app's id and secret. With the code of a token that is no
//!   longer good (`9999xxxx`) it is renewed once.
//! - `uuid` is our id and the number of the part: Feishu sends at most one message for it within an hour, so that an
//!   unknown outcome is repeated rather than dead.
//! - People are tried by `user_id`, then by `open_id`, when the answer says that the id is none.
//! - 1,000 a minute and 50 a second for an app, 5 a second for a person. A request has at most 150 KB; our parts have
//!   20,000 bytes, which escaped twice stay below.
//! - Feishu reads `<at …>` in a text as a mention; what agents say mentions nobody.
use std::borrow::Cow;

use serde_json::{Value, json};

use super::{
    Answer, Channel, Heard, HttpAnswer, HttpRequest, InboundCall, Limits, Method, Outcome, Outgoing, Rate, Refused,
    Repeat, Request, Step, Token, address, foreign, join, json as read, judge, text,
};
use crate::domain::channel::{Address, ChannelKind};
use crate::domain::secret::Secret;

mod event;

/// Where Feishu is; Lark's is `https://open.larksuite.com`.
pub const BASE_URL: &str = "https://open.feishu.cn";

/// Bytes of a part. One byte becomes seven at most: a control character in JSON in JSON.
const PART_BYTES: usize = 20_000;
/// Feishu recognises a `uuid` for an hour; some of it is held back for the way.
const REPEAT_MS: u64 = 50 * 60_000;
/// A token is given back so long before its end: asked sooner than 30 minutes before, Feishu gives the same one again.
const TOKEN_MARGIN_S: u64 = 300;
/// What a bot may send over all, and to one person.
const LIMITS: Limits = Limits {
    channel: &[Rate { count: 50, per_ms: 1_000 }, Rate { count: 1_000, per_ms: 60_000 }],
    address: Some(Rate { count: 5, per_ms: 1_000 }),
};

/// A self-built app.
#[derive(Clone, Debug)]
pub struct Feishu {
    /// [`BASE_URL`], Lark's, or a test's.
    pub base_url: String,
    pub app_id: String,
    pub app_secret: Secret,
    /// Stands in every event. Without it and without a key no event is believed.
    pub verification_token: Option<Secret>,
    /// With it events are encrypted and signed, and others are refused.
    pub encrypt_key: Option<Secret>,
}

/// What a code of Feishu means.
enum Code {
    /// Too many, or not now.
    Passing,
    /// The token.
    Token,
    /// The id of the recipient.
    Id,
    Final,
}

impl Code {
    fn of(code: i64) -> Self {
        match code {
            // Limits of the app and of a chat; the same `uuid` is being sent; Feishu's own faults.
            99_991_400 | 230_020 | 11_232 | 11_233 | 230_049 | 1_500 | 1_551 | 2_200 | 1_000_004 | 1_000_005 => {
                Self::Passing
            }
            // A right is missing, or a field: no token helps.
            99_991_672 | 99_991_679 | 99_992_402 => Self::Final,
            // Not an id of this kind, of another app, of another tenant.
            99_992_350..=99_992_369 | 230_001 | 230_034 => Self::Id,
            99_990_000..=99_999_999 => Self::Token,
            _ => Self::Final,
        }
    }
}

impl Feishu {
    /// Reads `{code, msg}`, which stands in answers of any status.
    fn code(answer: &HttpAnswer) -> Option<(i64, String, Value)> {
        let value = read::parse(&answer.body);
        let code = read::number(&value, "/code")?;
        let message = judge::words(read::text(&value, "/msg").unwrap_or_default());
        // The form in which senders know it.
        Some((code, format!("Feishu send failed: {message} (code {code})"), value))
    }

    fn passing(answer: &HttpAnswer, why: String) -> Outcome {
        let after_ms = judge::header_wait_ms(answer, "x-ogw-ratelimit-reset");
        Outcome::Retry { after_ms: after_ms.or_else(|| judge::header_wait_ms(answer, "retry-after")), why }
    }
}

/// Takes the meaning out of a tag that would ring people, or all of a group (`<at user_id="all">`): an invisible
/// character breaks it, so that it reads as it was written.
fn plain(text: &str) -> Cow<'_, str> {
    let is_tag = |at: usize| {
        let mut after = text.get(at..).unwrap_or_default().chars().skip(1);
        let (a, t, end) = (after.next(), after.next(), after.next());
        a.is_some_and(|c| c.eq_ignore_ascii_case(&'a'))
            && t.is_some_and(|c| c.eq_ignore_ascii_case(&'t'))
            && end.is_some_and(|c| c.is_whitespace() || matches!(c, '>' | '/'))
    };
    let tags: Vec<usize> = text.match_indices('<').map(|(at, _)| at).filter(|at| is_tag(*at)).collect();
    if tags.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut broken = text.to_owned();
    for at in tags.into_iter().rev() {
        broken.insert(at + 1, '\u{200b}');
    }
    Cow::Owned(broken)
}

impl Channel for Feishu {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Feishu
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn repeat(&self) -> Repeat {
        Repeat::WithinMs(REPEAT_MS)
    }

    fn parts(&self, text: &str) -> usize {
        text::parts(&plain(text), text::Unit::Bytes, PART_BYTES).len()
    }

    fn cuts(&self, text: &str) -> bool {
        text::is_cut(&text::parts(&plain(text), text::Unit::Bytes, PART_BYTES))
    }

    fn token_request(&self) -> Option<HttpRequest> {
        let body = json!({ "app_id": self.app_id, "app_secret": self.app_secret.reveal() });
        Some(HttpRequest {
            method: Method::Post,
            url: Secret::new(join(&self.base_url, "open-apis/auth/v3/tenant_access_token/internal")),
            headers: vec![("Content-Type", Secret::new("application/json; charset=utf-8"))],
            body: body.to_string().into(),
        })
    }

    fn token(&self, answer: &Answer) -> Result<Token, Outcome> {
        let answer = match answer {
            Answer::Http(answer) => answer,
            Answer::None { why, .. } => return Err(Outcome::Retry { after_ms: None, why: judge::words(why) }),
            Answer::Smtp(_) => return Err(judge::foreign()),
        };
        let Some((code, _, value)) = Self::code(answer) else {
            return Err(match judge::bare(answer) {
                // Asking has no effect, so whatever happened may happen again.
                Outcome::Unknown { why } => Outcome::Retry { after_ms: None, why },
                judged => judged,
            });
        };
        let why = || {
            let message = judge::words(read::text(&value, "/msg").unwrap_or_default());
            format!("Feishu gives no token: {message} (code {code})")
        };
        match (code, read::text(&value, "/tenant_access_token").filter(|token| !token.is_empty())) {
            (0, Some(token)) => {
                let expires_in_s = read::number(&value, "/expire").and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
                Ok(Token { value: Secret::new(token), expires_in_s: expires_in_s.saturating_sub(TOKEN_MARGIN_S) })
            }
            (0, None) => Err(Outcome::Retry { after_ms: None, why: why() }),
            _ if matches!(Code::of(code), Code::Passing) || answer.status >= 500 => Err(Self::passing(answer, why())),
            _ => Err(Outcome::Permanent { why: why() }),
        }
    }

    fn request(&self, out: &Outgoing<'_>, step: Step, token: Option<&Token>) -> Result<Request, String> {
        let (id_type, id) = match address(out, step)? {
            Address::FeishuUser(id) => ("user_id", id),
            Address::FeishuOpen(id) => ("open_id", id),
            Address::FeishuChat(id) => ("chat_id", id),
            _ => return Err(foreign(ChannelKind::Feishu)),
        };
        let token = token.ok_or_else(|| "Feishu needs a token".to_owned())?;
        let plain = plain(out.text);
        let parts = text::parts(&plain, text::Unit::Bytes, PART_BYTES);
        let part = parts.get(step.part).ok_or_else(|| "the text has no such part".to_owned())?;
        let body = json!({
            "receive_id": id,
            "msg_type": "text",
            // JSON within JSON.
            "content": json!({ "text": part }).to_string(),
            // At most 50 characters.
            "uuid": format!("{}-{}", out.id, step.part),
        });
        let path = format!("open-apis/im/v1/messages?receive_id_type={id_type}");
        Ok(Request::Http(HttpRequest {
            method: Method::Post,
            url: Secret::new(join(&self.base_url, &path)),
            headers: vec![
                ("Authorization", Secret::new(format!("Bearer {}", token.value.reveal()))),
                ("Content-Type", Secret::new("application/json; charset=utf-8")),
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
        let Some((code, why, value)) = Self::code(answer) else { return judge::bare(answer) };
        match Code::of(code) {
            _ if code == 0 => Outcome::Sent {
                external_id: read::id(&value, "/data/message_id").unwrap_or_default(),
                chat: read::id(&value, "/data/chat_id").unwrap_or_default(),
            },
            Code::Passing => Self::passing(answer, why),
            Code::Token if !step.renewed => Outcome::RenewToken { why },
            Code::Id if step.address + 1 < out.to.len() => Outcome::NextAddress { why },
            // `uuid` makes it safe to ask again.
            _ if answer.status >= 500 || answer.status == 429 => Self::passing(answer, why),
            Code::Token | Code::Id | Code::Final => Outcome::Permanent { why },
        }
    }

    fn hear(&self, call: &InboundCall<'_>, _now_ms: i64) -> Result<Heard, Refused> {
        event::hear(self, call)
    }
}

#[cfg(test)]
mod tests;

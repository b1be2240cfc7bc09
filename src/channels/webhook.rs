//! Webhooks: a JSON body to a URL of the recipient's own, signed; and calls of the same form to us.
//!
//! Out: `POST {"id", "text", "from", "conversation_id", "created_at"}` with
//! - `X-Clawbroker-Id`: our id of the message, the same for each attempt: by it the receiver knows a repeat, so that an
//!   unknown outcome may be repeated;
//! - `X-Clawbroker-Timestamp`: when it was sent, in epoch seconds;
//! - `X-Clawbroker-Signature`: `v1=` and the hex of the HMAC-SHA-256 over `{timestamp}.{body}` with the shared secret.
//!
//! 2xx is a success; 408, 425, 429 and 5xx are tried again, after `Retry-After` if that is there; the rest is final.
//!
//! In: `POST {"id", "text", "from", "from_name"?, "conversation_id"?, "reply_to"?, "created_at"?}` with the same time
//! and signature, at most five minutes old. `id` is the caller's own and repeats are one line; `reply_to` is the `id`
//! of one of ours, in the conversation that ours named.
use serde_json::json;

use super::inbound::heard;
use super::ssrf::{self, Reach};
use super::{
    Answer, Channel, Heard, HttpRequest, Inbound, InboundCall, Limits, Method, Outcome, Outgoing, Rate, Refused,
    Repeat, Request, Step, Token, address, foreign, hmac_sha256_hex, is_hmac_sha256, json as read, judge,
};
use crate::domain::channel::{Address, ChannelKind};
use crate::domain::secret::Secret;
use crate::domain::time::{iso, parse_iso};

pub const ID: &str = "X-Clawbroker-Id";
pub const TIMESTAMP: &str = "X-Clawbroker-Timestamp";
pub const SIGNATURE: &str = "X-Clawbroker-Signature";

/// How far the time of a call may be from ours, in seconds.
pub const WINDOW_S: i64 = 300;

const LIMITS: Limits =
    Limits { channel: &[Rate { count: 50, per_ms: 1_000 }], address: Some(Rate { count: 10, per_ms: 1_000 }) };

/// A channel to URLs of the recipients.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Signs both ways.
    pub secret: Secret,
    /// What the operator allows beyond public `https:`.
    pub reach: Reach,
}

/// Returns the value of the signature's header.
pub fn signature(secret: &Secret, timestamp: &str, body: &[u8]) -> String {
    format!("v1={}", hmac_sha256_hex(secret.reveal().as_bytes(), &[timestamp.as_bytes(), b".", body]))
}

impl Channel for Webhook {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Webhook
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn repeat(&self) -> Repeat {
        Repeat::Always
    }

    fn parts(&self, _text: &str) -> usize {
        1
    }

    /// The owner resolves the host and asks [`ssrf::allowed`] before it connects.
    fn request(&self, out: &Outgoing<'_>, step: Step, _token: Option<&Token>) -> Result<Request, String> {
        let Address::Webhook(text) = address(out, step)? else { return Err(foreign(ChannelKind::Webhook)) };
        if self.secret.is_empty() {
            return Err("the channel has no secret to sign with".to_owned());
        }
        let url = ssrf::url(text, self.reach)?;
        let body = json!({
            "id": out.id,
            "text": out.text,
            "from": out.from,
            "conversation_id": out.conversation_id,
            "created_at": iso(out.created_at),
        });
        let body = body.to_string();
        let timestamp = out.now_ms.div_euclid(1_000).to_string();
        let signature = signature(&self.secret, &timestamp, body.as_bytes());
        Ok(Request::Http(HttpRequest {
            method: Method::Post,
            url: Secret::new(url),
            headers: vec![
                (ID, Secret::new(out.id.to_string())),
                (TIMESTAMP, Secret::new(timestamp)),
                (SIGNATURE, Secret::new(signature)),
                ("Content-Type", Secret::new("application/json")),
            ],
            body: body.into(),
        }))
    }

    fn outcome(&self, out: &Outgoing<'_>, _step: Step, answer: &Answer) -> Outcome {
        let answer = match answer {
            Answer::Http(answer) => answer,
            Answer::None { may_have_arrived, why } => return judge::silence(*may_have_arrived, why),
            Answer::Smtp(_) => return judge::foreign(),
        };
        let why = judge::said(answer);
        match answer.status {
            // Said on the way; the answer itself never came.
            100..=199 => Outcome::Unknown { why },
            // By these the receiver refers to it.
            200..=299 => Outcome::Sent { external_id: out.id.to_string(), chat: out.conversation_id.to_string() },
            408 | 425 | 429 | 500..=599 => Outcome::Retry { after_ms: judge::retry_after_ms(answer, out.now_ms), why },
            _ => Outcome::Permanent { why },
        }
    }

    fn hear(&self, call: &InboundCall<'_>, now_ms: i64) -> Result<Heard, Refused> {
        if self.secret.is_empty() {
            return Err(Refused::Closed);
        }
        if call.method != Method::Post {
            return Err(Refused::Shape("a webhook is called with POST"));
        }
        let timestamp = call.header("x-clawbroker-timestamp").ok_or(Refused::Unproven)?;
        let said = call.header("x-clawbroker-signature").and_then(|value| value.strip_prefix("v1="));
        let signed: [&[u8]; 3] = [timestamp.as_bytes(), b".", call.body];
        if !said.is_some_and(|said| is_hmac_sha256(self.secret.reveal().as_bytes(), &signed, said)) {
            return Err(Refused::Unproven);
        }
        let at: i64 = timestamp.parse().map_err(|_| Refused::Stale)?;
        if now_ms.div_euclid(1_000).abs_diff(at) > WINDOW_S.unsigned_abs() {
            return Err(Refused::Stale);
        }
        let value = read::parse(call.body);
        if !value.is_object() {
            return Err(Refused::Shape("the body must be JSON, an object, not compressed"));
        }
        let sender_ref = read::id(&value, "/from").ok_or(Refused::Shape("`from` says who speaks"))?;
        let line = Inbound {
            external_id: read::id(&value, "/id").ok_or(Refused::Shape("`id` is the caller's own id of the line"))?,
            chat: read::id(&value, "/conversation_id").unwrap_or_else(|| sender_ref.clone()),
            sender_ref,
            sender_alias: None,
            sender_name: read::text(&value, "/from_name").map(str::to_owned),
            text: read::text(&value, "/text").ok_or(Refused::Shape("`text` is what is said"))?.to_owned(),
            reply_to_external_id: read::id(&value, "/reply_to"),
            sent_at: read::text(&value, "/created_at").and_then(|at| parse_iso("created_at", at).ok()),
        };
        let heard = heard(std::iter::once(line));
        // Its caller can mend it, unlike a provider's.
        if heard == Heard::Messages(Vec::new()) {
            return Err(Refused::Shape("the text is blank, or an id is longer than 256 bytes"));
        }
        Ok(heard)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::fixtures::{HIDDEN, answer, answer_with, any_json, header, http, outgoing, silence};
    use super::*;

    const NOW: i64 = 1_795_189_200_999;

    fn webhook() -> Webhook {
        Webhook { secret: Secret::new(HIDDEN), reach: Reach::default() }
    }

    fn url() -> [Address; 1] {
        [Address::Webhook("https://example.org/in".into())]
    }

    #[test]
    fn a_message_is_signed_with_its_time() {
        let to = url();
        let out = outgoing(&to, "Hello");
        let request = http(webhook().request(&out, Step::default(), None).expect("a request"));
        assert_eq!(request.url.reveal(), "https://example.org/in");
        let body = "{\"id\":\"07070707-0707-0707-0707-070707070707\",\"text\":\"Hello\",\"from\":\"Ada\",\
            \"conversation_id\":\"09090909-0909-0909-0909-090909090909\",\"created_at\":\"2026-11-20T15:38:21.062Z\"}";
        assert_eq!(request.body, body);
        assert_eq!(header(&request, ID), Some("07070707-0707-0707-0707-070707070707"));
        assert_eq!(header(&request, TIMESTAMP), Some("1795189200"));
        let signed = [&b"1795189200."[..], &request.body[..]].concat();
        let expected = format!("v1={}", hmac_sha256_hex(HIDDEN.as_bytes(), &[&signed]));
        assert_eq!(header(&request, SIGNATURE), Some(expected.as_str()));
        assert!(!format!("{request:?} {:?}", webhook()).contains(HIDDEN));

        for wrong in ["http://example.org", "https://127.0.0.1", "https://u:p@example.org", "no url"] {
            let to = [Address::Webhook(wrong.into())];
            assert!(webhook().request(&outgoing(&to, "x"), Step::default(), None).is_err(), "{wrong}");
        }
        let unsigned = Webhook { secret: Secret::new(""), ..webhook() };
        assert!(unsigned.request(&out, Step::default(), None).is_err());
    }

    #[test]
    fn the_status_says_what_became_of_it() {
        let to = url();
        let out = outgoing(&to, "x");
        let judge = |answer: &Answer| webhook().outcome(&out, Step::default(), answer);
        for status in [200, 201, 204] {
            let sent = Outcome::Sent { external_id: out.id.to_string(), chat: out.conversation_id.to_string() };
            assert_eq!(judge(&answer(status, "")), sent);
        }
        for status in [408, 425, 429, 500, 502, 599] {
            assert!(matches!(judge(&answer(status, "")), Outcome::Retry { after_ms: None, .. }), "{status}");
        }
        let wait = answer_with(503, &[("Retry-After", "9")], "later");
        assert_eq!(judge(&wait), Outcome::Retry { after_ms: Some(9_000), why: "HTTP 503".into() });
        let until = answer_with(503, &[("Retry-After", "Fri, 20 Nov 2026 15:41:00 GMT")], "later");
        let Outcome::Retry { after_ms: Some(wait_ms), .. } = judge(&until) else { panic!("it passes") };
        assert_eq!(wait_ms, 1_795_189_260_000 - out.now_ms.unsigned_abs());
        for status in [301, 302, 400, 401, 404, 410] {
            assert!(matches!(judge(&answer(status, "")), Outcome::Permanent { .. }), "{status}");
        }
        for status in [100, 103, 199] {
            assert!(matches!(judge(&answer(status, "")), Outcome::Unknown { .. }), "{status}");
        }
        assert!(matches!(judge(&silence(true)), Outcome::Unknown { .. }));
        assert!(matches!(judge(&silence(false)), Outcome::Retry { .. }));
        assert_eq!(webhook().repeat(), Repeat::Always);
    }

    fn call(timestamp: &str, signature: &str, body: &str) -> Result<Heard, Refused> {
        let headers = [("x-clawbroker-timestamp", timestamp), ("x-clawbroker-signature", signature)];
        let call = InboundCall { method: Method::Post, headers: &headers, query: &[], body: body.as_bytes() };
        webhook().hear(&call, NOW)
    }

    fn signed(timestamp: &str, body: &str) -> Result<Heard, Refused> {
        call(timestamp, &signature(&Secret::new(HIDDEN), timestamp, body.as_bytes()), body)
    }

    #[test]
    fn a_call_is_believed_by_its_signature_for_five_minutes() {
        let body = json!({
            "id": 5, "text": "hello", "from": "crm", "from_name": "Ada", "conversation_id": "c1", "reply_to": "r",
            "created_at": "1970-01-01T00:00:01Z",
        });
        let body = body.to_string();
        let line = Inbound {
            external_id: "5".into(),
            chat: "c1".into(),
            sender_ref: "crm".into(),
            sender_alias: None,
            sender_name: Some("Ada".into()),
            text: "hello".into(),
            reply_to_external_id: Some("r".into()),
            sent_at: Some(1_000),
        };
        for good in ["1795189200", "1795188900", "1795189500"] {
            assert_eq!(signed(good, &body), Ok(Heard::Messages(vec![line.clone()])), "{good}");
        }
        for stale in ["1795188899", "1795189501", "0", "-9223372036854775808", "9223372036854775807", "x", ""] {
            assert_eq!(signed(stale, &body), Err(Refused::Stale), "{stale}");
        }
        let good = signature(&Secret::new(HIDDEN), "1795189200", body.as_bytes());
        for (timestamp, signature, body) in [
            ("1795189201", good.as_str(), body.as_str()),
            ("1795189200", good.as_str(), "{}"),
            ("1795189200", "", body.as_str()),
            ("1795189200", good.trim_start_matches("v1="), body.as_str()),
        ] {
            assert_eq!(call(timestamp, signature, body), Err(Refused::Unproven), "{timestamp} {signature}");
        }
    }

    #[test]
    fn a_call_without_what_is_needed_is_told_so() {
        for wrong in ["<html>", "[]", "{}", r#"{"id":"1","from":"a"}"#, r#"{"id":"1","from":"a","text":" "}"#] {
            assert!(matches!(signed("1795189200", wrong), Err(Refused::Shape(_))), "{wrong}");
        }
        for wrong in ["<html>", "[]", "\u{1f}\u{8b}\u{8}", ""] {
            let words = "the body must be JSON, an object, not compressed";
            assert_eq!(signed("1795189200", wrong), Err(Refused::Shape(words)), "{wrong}");
        }
        let least = r#"{"id":"1","from":"a","text":"t"}"#;
        assert!(matches!(signed("1795189200", least), Ok(Heard::Messages(lines)) if lines[0].chat == "a"));
    }

    proptest! {
        #[test]
        fn any_answer_and_any_call_is_read(value in any_json(), text in any_json(), status in 0u16..1000) {
            let to = url();
            let _ = webhook().outcome(&outgoing(&to, "x"), Step::default(), &answer(status, &value));
            let body = json!({ "id": value, "from": "a", "text": text });
            let heard = signed("1795189200", &body.to_string());
            let known: bool = matches!(&heard, Ok(Heard::Messages(lines)) if lines.len() == 1)
                || matches!(heard, Err(Refused::Shape(_)));
            prop_assert!(known);
            prop_assert!(!(text == Value::Null && heard.is_ok()));
        }
    }
}

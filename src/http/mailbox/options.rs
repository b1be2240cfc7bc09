//! How a sender wants its message handed out: until when, from when on, before what, and in whose place.
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::config::MailboxConfig;
use crate::domain::error::Error;
use crate::domain::time::parse_iso;
use crate::store::deliveries::DeliveryOptions;

/// Priorities, the highest last.
const PRIORITIES: RangeInclusive<i64> = 0..=2;
/// Longest coalescing key, in characters.
const KEY_CHARS_MAX: usize = 128;

/// What a sender said of it, not checked yet.
pub(super) struct Wishes {
    pub(super) ttl_seconds: Option<i64>,
    /// An ISO-8601 time, or epoch milliseconds.
    pub(super) deliver_at: Option<Value>,
    pub(super) priority: Option<i64>,
    pub(super) coalesce_key: Option<String>,
}

impl Wishes {
    /// Checks what was said, and counts it from `now_ms`.
    pub(super) fn checked(self, now_ms: i64, config: &MailboxConfig) -> Result<DeliveryOptions, Error> {
        let priority = self.priority.map(|priority| within("priority", priority, PRIORITIES)).transpose()?;
        let ttls = 1..=i64::try_from(config.ttl_max_s).unwrap_or(i64::MAX);
        let ttl_s = self.ttl_seconds.map(|ttl_s| within("ttl_seconds", ttl_s, ttls)).transpose()?;
        let ahead_max_s = i64::try_from(config.deliver_at_max_s).unwrap_or(i64::MAX);
        let deliver_at = self.deliver_at.as_ref().map(|at| deliver_at(at, now_ms, ahead_max_s)).transpose()?;
        // What lies in the past is now.
        let available_at = deliver_at.filter(|at| *at > now_ms);
        if let Some(key) = &self.coalesce_key
            && !(1..=KEY_CHARS_MAX).contains(&key.chars().count())
        {
            let message = format!("`coalesce_key` must be 1 to {KEY_CHARS_MAX} characters");
            return Err(Error::invalid("coalesce_key", message));
        }
        Ok(DeliveryOptions {
            priority: priority.and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            available_at,
            expires_at: ttl_s.map(|ttl_s| available_at.unwrap_or(now_ms).saturating_add(ttl_s.saturating_mul(1_000))),
            coalesce_key: self.coalesce_key,
        })
    }
}

fn within(field: &str, number: i64, allowed: RangeInclusive<i64>) -> Result<i64, Error> {
    if allowed.contains(&number) {
        return Ok(number);
    }
    let (least, most) = (allowed.start(), allowed.end());
    Err(Error::invalid(field, format!("`{field}` must be a whole number from {least} to {most}")))
}

/// Reads the time before which a message is not handed out, in epoch milliseconds.
fn deliver_at(at: &Value, now_ms: i64, ahead_max_s: i64) -> Result<i64, Error> {
    let read = match at {
        Value::String(text) => Some(parse_iso("deliver_at", text)?),
        Value::Number(number) => number.as_i64(),
        _ => None,
    };
    let at = read.ok_or_else(|| {
        let message = "`deliver_at` must be a time such as `2026-11-20T17:31:00Z`, or epoch milliseconds";
        Error::invalid("deliver_at", message)
    })?;
    if at.saturating_sub(now_ms) > ahead_max_s.saturating_mul(1_000) {
        return Err(Error::invalid("deliver_at", format!("`deliver_at` must be at most {ahead_max_s} seconds ahead")));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW_MS: i64 = 1_795_189_101_062;
    const NOTHING: Wishes = Wishes { ttl_seconds: None, deliver_at: None, priority: None, coalesce_key: None };

    fn checked(wishes: Wishes) -> Result<DeliveryOptions, Error> {
        wishes.checked(NOW_MS, &MailboxConfig::default())
    }

    fn field(wishes: Wishes) -> String {
        checked(wishes).expect_err("not allowed").fields()[0].field.clone()
    }

    #[test]
    fn wishes_become_times() {
        assert_eq!(checked(NOTHING).expect("nothing said"), DeliveryOptions::default());
        let at = |deliver_at: Value| Wishes { deliver_at: Some(deliver_at), ttl_seconds: Some(10), ..NOTHING };
        let times = |options: DeliveryOptions| (options.available_at, options.expires_at);
        let later = (Some(NOW_MS + 60_000), Some(NOW_MS + 70_000));
        for told in [json!(NOW_MS + 60_000), json!(crate::domain::time::iso(NOW_MS + 60_000))] {
            assert_eq!(times(checked(at(told)).expect("a minute ahead")), later, "the ttl begins then");
        }
        for past in [json!(0), json!(-1), json!(NOW_MS), json!("1970-01-01T00:00:00Z")] {
            assert_eq!(times(checked(at(past)).expect("now")), (None, Some(NOW_MS + 10_000)));
        }
        let year_ms = 31_536_000_000;
        checked(at(json!(NOW_MS + year_ms))).expect("a year ahead");
        for wrong in [json!(NOW_MS + year_ms + 1), json!(i64::MAX), json!(1.5), json!("soon"), json!(true), json!([1])]
        {
            assert_eq!(field(at(wrong)), "deliver_at");
        }
    }

    #[test]
    fn wishes_have_bounds() {
        for (priority, fine) in [(-1, false), (0, true), (2, true), (3, false)] {
            let result = checked(Wishes { priority: Some(priority), ..NOTHING });
            assert_eq!(result.is_ok(), fine, "{priority}");
            if let Ok(options) = result {
                assert_eq!(i64::from(options.priority), priority);
            }
        }
        for (ttl_s, fine) in [(0, false), (1, true), (31_536_000, true), (31_536_001, false)] {
            assert_eq!(checked(Wishes { ttl_seconds: Some(ttl_s), ..NOTHING }).is_ok(), fine, "{ttl_s}");
        }
        let key = |key: &str| Wishes { coalesce_key: Some(key.to_owned()), ..NOTHING };
        for fine in ["k".to_owned(), "ä".repeat(128)] {
            assert_eq!(checked(key(&fine)).expect("as long as it may be").coalesce_key, Some(fine));
        }
        for wrong in [String::new(), "k".repeat(129)] {
            assert_eq!(field(key(&wrong)), "coalesce_key");
        }
    }
}

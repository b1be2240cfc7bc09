//! What all providers' answers have in common.
use jiff::fmt::rfc2822::DateTimeParser;

use super::{ANSWER_BYTES_MAX, HttpAnswer, Outcome};

/// Characters of a provider's words that are kept.
pub(super) const WORDS_MAX: usize = 300;
/// Longest wait that a provider may ask for; who asks for more is asked again sooner.
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;
/// Reads dates as HTTP writes them, `Wed, 21 Oct 2026 07:28:00 GMT`: such a one is one of RFC 2822, too.
static DATES: DateTimeParser = DateTimeParser::new();

/// Makes one bounded line of what a provider said; it is stored and shown to people.
pub(super) fn words(text: &str) -> String {
    let mut chars = text.chars();
    let line: String = chars.by_ref().take(4 * WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if chars.next().is_none() && line.chars().count() <= WORDS_MAX {
        return line;
    }
    let mut cut: String = line.chars().take(WORDS_MAX).collect();
    cut.push('…');
    cut
}

/// What is told of an answer that is not what the provider documents. Its body is not repeated: it may hold what was
/// sent, and this is logged.
pub(super) fn said(answer: &HttpAnswer) -> String {
    let status = answer.status;
    if answer.body.len() >= ANSWER_BYTES_MAX {
        format!("HTTP {status}: the answer is longer than 1 MiB")
    } else if (200..300).contains(&status) {
        format!("HTTP {status}: an answer that cannot be read")
    } else {
        format!("HTTP {status}")
    }
}

/// A wait that a provider asked for, in seconds.
pub(super) fn wait_ms(seconds: u64) -> u64 {
    seconds.saturating_mul(1_000).min(RETRY_AFTER_MS_MAX)
}

/// Reads a header that holds whole seconds.
pub(super) fn header_wait_ms(answer: &HttpAnswer, name: &str) -> Option<u64> {
    answer.header(name)?.trim().parse().ok().map(wait_ms)
}

/// Reads a `Retry-After` of either form: whole seconds, or a date.
pub(super) fn retry_after_ms(answer: &HttpAnswer, now_ms: i64) -> Option<u64> {
    header_wait_ms(answer, "retry-after").or_else(|| {
        let at = DATES.parse_timestamp(answer.header("retry-after")?.trim()).ok()?;
        let wait_ms = at.as_millisecond().saturating_sub(now_ms);
        Some(u64::try_from(wait_ms).unwrap_or(0).min(RETRY_AFTER_MS_MAX))
    })
}

/// Judges that there was no answer.
pub(super) fn silence(may_have_arrived: bool, why: &str) -> Outcome {
    let why = words(why);
    if may_have_arrived { Outcome::Unknown { why } } else { Outcome::Retry { after_ms: None, why } }
}

/// Judges an answer in which nothing of the provider's own is found: it may be a proxy's that stands before it.
pub(super) fn bare(answer: &HttpAnswer) -> Outcome {
    let why = said(answer);
    match answer.status {
        // Said by whoever did not pass it on.
        429 | 503 => Outcome::Retry { after_ms: header_wait_ms(answer, "retry-after"), why },
        // With 3xx too: nobody at a provider's API moves, so an operator's base URL is wrong.
        300..=499 => Outcome::Permanent { why },
        _ => Outcome::Unknown { why },
    }
}

/// An answer of the wrong kind: a mistake of ours, so nothing is known.
pub(super) fn foreign() -> Outcome {
    Outcome::Unknown { why: "the answer came over another protocol".to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(status: u16, headers: &[(&str, &str)], body: &str) -> HttpAnswer {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HttpAnswer { status, headers, body: body.to_owned().into() }
    }

    #[test]
    fn an_answer_that_is_not_the_providers_says_as_much_as_it_can() {
        for (header, expected) in [
            ("", None),
            ("7", Some(7_000)),
            ("18446744073709551615", Some(3_600_000)),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            for status in [429, 503] {
                let Outcome::Retry { after_ms, .. } = bare(&with(status, &[("Retry-After", header)], "")) else {
                    panic!("{status} passes");
                };
                assert_eq!(after_ms, expected, "{header}");
            }
        }
        for status in [301, 400, 404, 499] {
            assert!(matches!(bare(&with(status, &[], "")), Outcome::Permanent { .. }), "{status}");
        }
        for status in [0, 200, 204, 500, 502, 504, 999] {
            assert!(matches!(bare(&with(status, &[], "")), Outcome::Unknown { .. }), "{status}");
        }
    }

    /// It may be an echo of what was sent.
    #[test]
    fn a_body_that_is_not_the_providers_is_not_repeated() {
        assert_eq!(said(&with(502, &[], "the text")), "HTTP 502");
        assert_eq!(said(&with(200, &[], "the text")), "HTTP 200: an answer that cannot be read");
        let long = "x".repeat(ANSWER_BYTES_MAX);
        assert_eq!(said(&with(200, &[], &long)), "HTTP 200: the answer is longer than 1 MiB");
    }

    #[test]
    fn words_that_are_cut_show_it() {
        assert!(!words("short").ends_with('…'));
        assert!(words(&format!("a{}b", " ".repeat(5 * WORDS_MAX))).ends_with('…'));
        assert!(words(&"x".repeat(WORDS_MAX + 1)).ends_with('…'));
    }

    #[test]
    fn a_wait_is_said_in_seconds_or_until_a_date() {
        // Wed, 21 Oct 2026 07:28:00 GMT
        let at = 1_792_567_680_000;
        for (said, now_ms, expected) in [
            ("7", at, Some(7_000)),
            ("Wed, 21 Oct 2026 07:28:00 GMT", at - 90_000, Some(90_000)),
            (" Wed, 21 Oct 2026 07:28:00 GMT ", at - 1, Some(1)),
            ("Wed, 21 Oct 2026 07:28:00 GMT", at + 1, Some(0)),
            ("Wed, 21 Oct 2026 07:28:00 GMT", 0, Some(3_600_000)),
            ("Thu, 21 Oct 2026 07:28:00 GMT", at, None),
            ("soon", at, None),
            ("", at, None),
        ] {
            assert_eq!(retry_after_ms(&with(503, &[("Retry-After", said)], ""), now_ms), expected, "{said}");
        }
        assert_eq!(retry_after_ms(&with(503, &[], ""), at), None);
    }

    #[test]
    fn silence_is_unknown_unless_nothing_went_out() {
        assert!(matches!(silence(true, "x"), Outcome::Unknown { .. }));
        assert!(matches!(silence(false, "x"), Outcome::Retry { after_ms: None, .. }));
    }

    proptest! {
        #[test]
        fn words_are_one_bounded_line(text in "\\PC{0,2000}|[\\x00-\\x7f]{0,2000}") {
            let line = words(&text);
            prop_assert!(line.chars().count() <= WORDS_MAX + 1);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }
}

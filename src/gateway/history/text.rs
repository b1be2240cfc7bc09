//! Comparing a message with what the gateway made of it.
use unicode_normalization::UnicodeNormalization;

/// What the gateway writes behind a text that it cut.
pub(super) const CUT_MARK: &str = "\n...(truncated)...";

/// Tells whether a row's text is the message we sent. Protocol 3 keeps no key, so there the text is all there is.
///
/// The gateway brings a message into Unicode form NFC, removes control characters but tab and line ends, takes the
/// blanks at the ends and a bracket with a date at the start for its own, and cuts a long one; protocol 3 makes
/// `\r\n` a `\n` (`chat-text-cleaned`, `protocol-3-text-cleaned`). It also removes marks like `[[reply_to_current]]`
/// and lines like `[message_id: 5]`, which is not followed here.
///
/// In doubt they are the same: taking equal words for ours leaves a question open, the other mistake asks it twice.
pub fn same_text(ours: &str, theirs: &str) -> bool {
    let (ours, theirs) = (clean(ours), clean(theirs));
    let (ours, theirs) = (trim(&ours), trim(&theirs));
    let is_same = |ours: &str| match theirs.strip_suffix(CUT_MARK) {
        Some(start) => ours == theirs || ours.starts_with(start),
        None => ours == theirs,
    };
    is_same(ours) || without_date(ours).is_some_and(is_same)
}

fn clean(text: &str) -> String {
    let is_kept = |character: &char| matches!(character, '\t' | '\n') || !character.is_ascii_control();
    text.nfc().filter(is_kept).collect()
}

/// Trims what JavaScript calls white space, which includes the byte-order mark.
fn trim(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}

/// What is left of `[… 2026-01-01 10:00 …] text` without its bracket.
fn without_date(text: &str) -> Option<&str> {
    let (bracket, rest) = text.strip_prefix('[')?.split_once(']')?;
    bracket.contains(|character: char| character.is_ascii_digit()).then(|| trim(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gateways_cleaning_makes_no_difference() {
        assert!(same_text("he\u{301}llo", "h\u{e9}llo"));
        assert!(same_text("a\u{7}b\u{7f}\u{0}c", "abc"));
        assert!(same_text(" \n text\t \n", "text"));
        assert!(same_text("a\tb\r\nc", "a\tb\r\nc") && same_text("a\r\nb", "a\nb"));
        assert!(same_text("[2026-01-01 10:00] text", "text"));
        assert!(same_text("\u{feff}text", "text"));
        assert!(same_text("a long text", "a long\n...(truncated)..."));
        assert!(same_text("my own\n...(truncated)...", "my own\n...(truncated)..."));
    }

    #[test]
    fn words_make_a_difference() {
        assert!(!same_text("text", "Text"));
        assert!(!same_text("a b", "a  b"));
        assert!(!same_text("a\tb", "ab"));
        assert!(!same_text("text", ""));
        assert!(!same_text("[note] text", "text"));
        assert!(!same_text("other", "a long\n...(truncated)..."));
    }

    proptest! {
        #[test]
        fn cleaned_text_is_the_same_text(text: String) {
            prop_assert!(same_text(&text, &clean(&text)));
            prop_assert!(same_text(&text, clean(&text).trim()));
            prop_assert!(same_text(&clean(&text), &text));
        }
    }
}

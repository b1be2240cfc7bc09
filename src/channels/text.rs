//! Bringing a text into the sizes that providers take.
use std::borrow::Cow;

/// Parts into which one text is split at most; what is longer is cut, with `…` at its end, and its sender is told.
pub const PARTS_MAX: usize = 8;

const CUT: &str = "…";

/// How a provider counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Chars,
    Utf16,
    Bytes,
}

impl Unit {
    fn of(self, c: char) -> usize {
        match self {
            Self::Chars => 1,
            Self::Utf16 => c.len_utf16(),
            Self::Bytes => c.len_utf8(),
        }
    }

    fn count(self, text: &str) -> usize {
        text.chars().map(|c| self.of(c)).sum()
    }
}

/// Splits a text into parts of at most `max` units, at the end of a line or of a word where there is one in the second
/// half. Blank parts are left out, since providers refuse them; there is at least one part.
pub(super) fn parts(text: &str, unit: Unit, max: usize) -> Vec<Cow<'_, str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.trim().is_empty() {
        let end = end_of(rest, unit, max);
        if end == rest.len() {
            parts.push(Cow::Borrowed(rest));
            break;
        }
        if parts.len() + 1 == PARTS_MAX {
            let (head, _) = rest.split_at(end_of(rest, unit, max.saturating_sub(unit.count(CUT))));
            parts.push(Cow::Owned(format!("{head}{CUT}")));
            break;
        }
        let (head, tail) = rest.split_at(break_before(rest, end));
        if !head.trim().is_empty() {
            parts.push(Cow::Borrowed(head));
        }
        rest = tail.trim_start_matches(['\r', '\n']);
    }
    if parts.is_empty() {
        parts.push(Cow::Borrowed(""));
    }
    parts
}

/// Tells whether something was cut off.
pub(super) fn is_cut(parts: &[Cow<'_, str>]) -> bool {
    matches!(parts.last(), Some(Cow::Owned(_)))
}

/// Byte index after as many characters as fit; at least one character, so that splitting comes to an end.
fn end_of(text: &str, unit: Unit, max: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += unit.of(c);
        if used > max && at > 0 {
            return at;
        }
    }
    text.len()
}

/// Where to split, at `end` or somewhat before it.
fn break_before(text: &str, end: usize) -> usize {
    let (head, _) = text.split_at(end);
    let in_second_half = |at: &usize| *at > end / 2;
    let line = head.rfind('\n').filter(in_second_half);
    line.or_else(|| head.rfind(' ').map(|at| at + 1).filter(in_second_half)).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_split_where_it_hurts_least() {
        for (text, unit, max, expected) in [
            ("short", Unit::Chars, 10, vec!["short"]),
            ("one two three", Unit::Chars, 8, vec!["one two ", "three"]),
            ("one\ntwo three", Unit::Chars, 5, vec!["one", "two ", "three"]),
            ("aaaaaaaaaa", Unit::Chars, 4, vec!["aaaa", "aaaa", "aa"]),
            ("😀😀😀", Unit::Utf16, 4, vec!["😀😀", "😀"]),
            ("ää", Unit::Bytes, 3, vec!["ä", "ä"]),
            ("", Unit::Chars, 4, vec![""]),
            (" \n \n          ", Unit::Chars, 4, vec![""]),
        ] {
            assert_eq!(parts(text, unit, max), expected, "{text:?}");
        }
    }

    #[test]
    fn a_text_that_is_far_too_long_is_cut_and_shows_it() {
        let text = "x".repeat(100);
        let parts = parts(&text, Unit::Bytes, 10);
        assert_eq!(parts.len(), PARTS_MAX);
        assert_eq!(parts.last().expect("a part"), "xxxxxxx…");
        assert!(is_cut(&parts));
        for whole in ["", "x", &"x".repeat(10 * PARTS_MAX)] {
            assert!(!is_cut(&super::parts(whole, Unit::Bytes, 10)), "{}", whole.len());
        }
    }

    proptest! {
        #[test]
        fn no_part_is_too_long_and_nothing_is_lost(text in "[a😀ä \n]{0,300}", max in 8usize..40, kind in 0..3) {
            let unit = [Unit::Chars, Unit::Utf16, Unit::Bytes][usize::try_from(kind).expect("small")];
            let parts = parts(&text, unit, max);
            prop_assert!(!parts.is_empty() && parts.len() <= PARTS_MAX);
            prop_assert!(parts.iter().all(|part| unit.count(part) <= max));
            let seen = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let sent = seen(&parts.concat());
            match sent.strip_suffix(CUT) {
                Some(begin) => prop_assert!(seen(&text).starts_with(begin)),
                None => prop_assert_eq!(sent, seen(&text)),
            }
        }
    }
}

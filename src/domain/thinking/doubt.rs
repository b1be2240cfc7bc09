//! Holds a thinking tag that stands behind a backtick until it is known whether it is code.
//!
//! Role: `ThinkingFilter` makes a [`Doubt`] of every complete tag in what may be an inline code span. It ends with the
//! span, with the line, or when `SPAN_BYTES_MAX` are held.
//!
//! Invariant: `bytes() <= SPAN_BYTES_MAX`, and no line break is held.

use super::{SPAN_BYTES_MAX, tag::Tag};

/// A tag in what may be an inline code span, and the text behind it.
#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) tag: Tag,
    pub(super) tag_text: String,
    pub(super) behind: String,
    /// Backticks that opened the span.
    ticks: usize,
    /// Backticks at the end of `behind`.
    run: usize,
}

pub(super) enum Verdict {
    /// The character was taken.
    Open,
    /// The span is closed; the character stands behind it.
    Code,
    /// The span never closes; the character is not taken.
    Text,
}

impl Doubt {
    /// Starts at a complete tag behind a run of `ticks` backticks.
    pub(super) fn new(tag: Tag, tag_text: String, ticks: usize) -> Self {
        Self { tag, tag_text, behind: String::new(), ticks, run: 0 }
    }

    /// Takes the next character, or says what the tag was.
    pub(super) fn read(&mut self, next: char) -> Verdict {
        if next == '`' {
            self.run += 1;
        } else if self.is_closed() {
            return Verdict::Code;
        } else if next == '\n' {
            return Verdict::Text;
        } else {
            self.run = 0;
        }
        if self.bytes() + next.len_utf8() > SPAN_BYTES_MAX {
            return Verdict::Text;
        }
        self.behind.push(next);
        Verdict::Open
    }

    /// Says whether the span is closed, if nothing more or no further backtick follows.
    pub(super) fn is_closed(&self) -> bool {
        self.run == self.ticks
    }

    /// Counts the bytes held back.
    pub(super) fn bytes(&self) -> usize {
        self.tag_text.len() + self.behind.len()
    }
}

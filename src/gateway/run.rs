//! The text of one run as its events bring it, with the model's thinking removed as it comes.
use crate::domain::thinking::ThinkingFilter;

use super::frames::ChatEvent;

/// Longest text that is kept of a run; the store cuts there as well (`domain::message::TEXT_BYTES_MAX`).
const RAW_BYTES_MAX: usize = crate::domain::message::TEXT_BYTES_MAX + 1;

/// The gateway cuts live texts at 500,000 UTF-16 units, which are at least as many bytes.
const CUT_BYTES_MIN: usize = 500_000;

/// What an event did to the visible text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// Text was added behind this many bytes and UTF-16 code units.
    Added { at: usize, at_utf16: usize },
    /// The text is another one.
    Replaced,
}

/// The text of a run so far.
#[derive(Debug, Default)]
pub struct RunText {
    /// As the gateway has it; its cumulative texts are compared with this.
    raw: String,
    visible: String,
    visible_utf16: usize,
    thinking: String,
    filter: ThinkingFilter,
}

impl RunText {
    /// Starts with the text that history gives of a run in flight.
    pub fn starting_with(raw: &str) -> Self {
        let mut text = Self::default();
        text.append(raw);
        text
    }

    /// Takes a delta. Protocol 4 says what is new, protocol 3 only what there is by now.
    pub fn on_delta(&mut self, event: &ChatEvent) -> Change {
        match (&event.delta_text, event.replace, &event.text) {
            (Some(whole), true, _) => self.replace(whole),
            (Some(part), false, whole) => self.append_checked(part, whole.as_deref()),
            (None, _, Some(whole)) => match whole.strip_prefix(self.raw.as_str()) {
                Some(part) => self.append(part),
                None => self.replace(whole),
            },
            (None, _, None) => Change::None,
        }
    }

    /// Appends, unless the gateway's own text so far says that something was missed (a gap, a reconnect).
    fn append_checked(&mut self, part: &str, whole: Option<&str>) -> Change {
        let expected = self.raw.len() + part.len();
        match whole {
            // Of a very long text the gateway keeps the end only; then there is nothing to compare with.
            Some(whole) if expected < CUT_BYTES_MIN && (whole.len() != expected || !whole.starts_with(&self.raw)) => {
                match whole.strip_prefix(self.raw.as_str()) {
                    Some(missed) => self.append(missed),
                    None => self.replace(whole),
                }
            }
            _ => self.append(part),
        }
    }

    /// Takes another text in place of what there was.
    pub fn replace(&mut self, whole: &str) -> Change {
        if whole == self.raw {
            return Change::None;
        }
        *self = Self::starting_with(whole);
        Change::Replaced
    }

    fn append(&mut self, part: &str) -> Change {
        let room = RAW_BYTES_MAX.saturating_sub(self.raw.len());
        let mut end = part.len().min(room);
        while !part.is_char_boundary(end) {
            end -= 1;
        }
        let part = part.get(..end).unwrap_or_default();
        self.raw.push_str(part);
        let filtered = self.filter.push(part);
        self.thinking.push_str(&filtered.thinking);
        self.show(&filtered.visible)
    }

    fn show(&mut self, part: &str) -> Change {
        if part.is_empty() {
            return Change::None;
        }
        let change = Change::Added { at: self.visible.len(), at_utf16: self.visible_utf16 };
        self.visible.push_str(part);
        self.visible_utf16 += part.encode_utf16().count();
        change
    }

    /// Returns the visible text so far.
    pub fn visible(&self) -> &str {
        &self.visible
    }

    /// Ends the run. `whole` is the text of the terminal event, which wins over what the deltas gave.
    pub fn finish(mut self, whole: Option<&str>) -> Finished {
        if let Some(whole) = whole
            && whole != self.raw
        {
            self = Self::starting_with(whole);
        }
        let rest = self.filter.finish();
        self.visible.push_str(&rest.visible);
        self.thinking.push_str(&rest.thinking);
        Finished { visible: self.visible, thinking: self.thinking }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub visible: String,
    pub thinking: String,
}

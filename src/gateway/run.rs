//! The text of one run as its events bring it, with the model's thinking removed as it comes.
use crate::domain::thinking::ThinkingFilter;

use super::frames::ChatEvent;

/// Longest text that is kept of a run; the store cuts there as well (`domain::message::TEXT_BYTES_MAX`).
const RAW_BYTES_MAX: usize = crate::domain::message::TEXT_BYTES_MAX + 1;

/// The gateway keeps the last 500,000 UTF-16 units of a live text, which are at least as many bytes; a little less,
/// because the cut must not part a character.
const CUT_BYTES_MIN: usize = 499_990;

/// The place in our text where a cut one begins is found by so many of its first bytes.
const CUT_HEAD_BYTES: usize = 1_024;

/// Places that are tried before a cut text is taken for another one.
const CUT_PLACES_MAX: usize = 64;

/// What an event did to the visible text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// Text was added behind this many bytes and UTF-16 code units.
    Added {
        at: usize,
        at_utf16: usize,
    },
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
            // The gateway's own text so far says that something was missed: a gap, a reconnect.
            (Some(part), false, Some(whole)) if !self.follows(part, whole) => self.become_whole(whole),
            (Some(part), false, _) => self.append(part),
            (None, _, Some(whole)) => self.become_whole(whole),
            (None, _, None) => Change::None,
        }
    }

    /// Tells whether `whole` is what we have and `part` behind it, or the end of that.
    fn follows(&self, part: &str, whole: &str) -> bool {
        let expected = self.raw.len() + part.len();
        let Some(before) = whole.strip_suffix(part) else { return is_cut(whole) && part.ends_with(whole) };
        whole.len() == expected && before == self.raw
            || is_cut(whole) && whole.len() < expected && (self.raw.ends_with(before) || self.is_full())
    }

    /// Goes on to a text so far, which continues ours or is another one.
    fn become_whole(&mut self, whole: &str) -> Change {
        match whole.strip_prefix(self.raw.as_str()) {
            Some(missed) => self.append(missed),
            None => self.replace(whole),
        }
    }

    /// Takes another text in place of what there was. One that was cut goes on from ours where it can: so nothing of a
    /// long answer is lost, and a thought whose beginning was cut off stays one.
    pub fn replace(&mut self, whole: &str) -> Change {
        if whole == self.raw || self.is_full() && is_cut(whole) {
            return Change::None;
        }
        if let Some(known) = self.overlap(whole) {
            return self.append(whole.get(known..).unwrap_or_default());
        }
        *self = Self::starting_with(whole);
        Change::Replaced
    }

    /// Finds how many bytes of a cut text we have, when it begins in ours and goes on behind it.
    fn overlap(&self, whole: &str) -> Option<usize> {
        if !is_cut(whole) {
            return None;
        }
        let head = start_of(whole, CUT_HEAD_BYTES);
        let from = self.raw.len() - end_of(&self.raw, whole.len()).len();
        let ours = self.raw.get(from..)?;
        let mut places = ours.match_indices(head).take(CUT_PLACES_MAX).filter_map(|(at, _)| ours.get(at..));
        places.find(|known| whole.starts_with(known)).map(str::len)
    }

    fn is_full(&self) -> bool {
        // The last character may not have fitted.
        self.raw.len() + 4 > RAW_BYTES_MAX
    }

    fn append(&mut self, part: &str) -> Change {
        let part = start_of(part, RAW_BYTES_MAX.saturating_sub(self.raw.len()));
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
        if let Some(whole) = whole {
            // Whoever shows the text gets it anew with the end, so the change does not matter.
            let _ = self.become_whole(whole);
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

fn is_cut(whole: &str) -> bool {
    whole.len() >= CUT_BYTES_MIN
}

/// Returns at most the first `bytes` of a text, without parting a character.
fn start_of(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Returns at most the last `bytes` of a text, without parting a character.
fn end_of(text: &str, bytes: usize) -> &str {
    let start = (text.len().saturating_sub(bytes)..=text.len()).find(|start| text.is_char_boundary(*start));
    text.get(start.unwrap_or(text.len())..).unwrap_or_default()
}

#[cfg(test)]
mod tests;

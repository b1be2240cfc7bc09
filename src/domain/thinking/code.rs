//! Follows Markdown, a character at a time, only as far as needed to know what is code.
//!
//! Role: tells `ThinkingFilter` whether the next character stands in text, perhaps in an inline code span, or
//! in a fenced block. It reads what is shown (or thought), never what was removed.
//!
//! Rules
//! - A fence opens at the start of a line behind at most 3 spaces with 3 or more backticks or tildes. It ends at a line
//!   of the same character, at least as many of them, with only blanks behind.
//! - A backtick fence with a backtick behind it on its line is no fence but a span, as in CommonMark.
//! - A run of `n` backticks elsewhere opens what may be a span; the next run of exactly `n` closes it. A span does not
//!   outlive its line: CommonMark lets it, but one stray backtick must not turn a paragraph into code.

/// Fewer marks than this at the start of a line are no fence.
const FENCE_MARKS_MIN: usize = 3;
/// With four spaces a line is indented code in CommonMark and opens no fence.
const FENCE_INDENT_MAX: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Text,
    /// Behind a run of `ticks` backticks that nothing has closed yet: code if something does.
    PerhapsSpan {
        ticks: usize,
    },
    /// In a fenced block or on the line that opens it.
    Block,
}

#[derive(Debug)]
pub(super) struct CodeTracker {
    state: State,
    fences: bool,
}

#[derive(Debug, Clone, Copy)]
struct Fence {
    mark: char,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    LineStart {
        spaces: usize,
    },
    Line,
    /// A run that may still grow, so its meaning is open.
    Run {
        mark: char,
        len: usize,
        may_fence: bool,
    },
    Span {
        ticks: usize,
        run: usize,
    },
    /// On the opening line of a fence. `spoiled`: a backtick showed that it is no fence after all.
    Info {
        fence: Fence,
        run: usize,
        spoiled: bool,
    },
    Block {
        fence: Fence,
        line: BlockLine,
    },
}

/// How far the current line of a block may be its closing fence.
#[derive(Debug, Clone, Copy)]
enum BlockLine {
    Indent { spaces: usize },
    Marks { len: usize },
    Closed,
    Content,
}

impl CodeTracker {
    /// Starts at the beginning of a message.
    pub(super) fn visible() -> Self {
        Self { state: State::LineStart { spaces: 0 }, fences: true }
    }

    /// Starts at the beginning of a thought, where fences do not count: one that the model left open would swallow
    /// the end of the thought and with it the answer.
    pub(super) fn thought() -> Self {
        Self { state: State::Line, fences: false }
    }

    /// Says where the next character stands if it is neither backtick nor tilde.
    pub(super) fn place(&self) -> Place {
        match self.state.settled() {
            State::LineStart { .. } | State::Line | State::Run { .. } => Place::Text,
            State::Span { ticks, .. } => Place::PerhapsSpan { ticks },
            State::Info { .. } | State::Block { .. } => Place::Block,
        }
    }

    /// Notes that a tag was taken out here: an open run or span before it was plain text.
    pub(super) fn interrupt(&mut self) {
        self.state = match self.state.settled() {
            State::Span { .. } => State::Line,
            other => other,
        };
    }

    /// Reads one character.
    pub(super) fn read(&mut self, next: char) {
        self.state = match self.state {
            State::Run { mark, len, may_fence } if next == mark => State::Run { mark, len: len + 1, may_fence },
            State::Span { ticks, run } if next == '`' => State::Span { ticks, run: run + 1 },
            State::Info { fence, run, spoiled } if next == '`' && fence.mark == '`' => {
                State::Info { fence, run: run + 1, spoiled }
            }
            State::Block { fence, line } => read_in_block(fence, line, next),
            other => self.read_settled(other.settled(), next),
        };
    }

    fn read_settled(&self, state: State, next: char) -> State {
        match (state, next) {
            (State::Info { fence, spoiled: false, .. }, '\n') => {
                State::Block { fence, line: BlockLine::Indent { spaces: 0 } }
            }
            (_, '\n') => State::LineStart { spaces: 0 },
            (State::Info { .. } | State::Span { .. }, _) => state,
            (State::LineStart { spaces }, ' ') if spaces < FENCE_INDENT_MAX => State::LineStart { spaces: spaces + 1 },
            (State::LineStart { .. }, '`') => State::Run { mark: '`', len: 1, may_fence: self.fences },
            (State::LineStart { .. }, '~') if self.fences => State::Run { mark: '~', len: 1, may_fence: true },
            (_, '`') => State::Run { mark: '`', len: 1, may_fence: false },
            _ => State::Line,
        }
    }
}

impl State {
    /// Gives the state in which a run of backticks or tildes has ended.
    fn settled(self) -> Self {
        match self {
            Self::Run { mark, len, may_fence: true } if len >= FENCE_MARKS_MIN => {
                Self::Info { fence: Fence { mark, len }, run: 0, spoiled: false }
            }
            Self::Run { mark: '~', .. } => Self::Line,
            Self::Run { len, .. } => Self::Span { ticks: len, run: 0 },
            Self::Span { ticks, run } if run == ticks => Self::Line,
            Self::Span { ticks, .. } => Self::Span { ticks, run: 0 },
            Self::Info { fence, run, .. } if run == fence.len => Self::Line,
            Self::Info { fence, run, spoiled } => Self::Info { fence, run: 0, spoiled: spoiled || run > 0 },
            other => other,
        }
    }
}

fn read_in_block(fence: Fence, line: BlockLine, next: char) -> State {
    let line = match (line, next) {
        (BlockLine::Closed, '\n') => return State::LineStart { spaces: 0 },
        (BlockLine::Marks { len }, '\n') if len >= fence.len => return State::LineStart { spaces: 0 },
        (_, '\n') => BlockLine::Indent { spaces: 0 },
        (BlockLine::Indent { spaces }, ' ') if spaces < FENCE_INDENT_MAX => BlockLine::Indent { spaces: spaces + 1 },
        (BlockLine::Indent { .. }, mark) if mark == fence.mark => BlockLine::Marks { len: 1 },
        (BlockLine::Marks { len }, mark) if mark == fence.mark => BlockLine::Marks { len: len + 1 },
        (BlockLine::Marks { len }, ' ' | '\t' | '\r') if len >= fence.len => BlockLine::Closed,
        (BlockLine::Closed, ' ' | '\t' | '\r') => BlockLine::Closed,
        _ => BlockLine::Content,
    };
    State::Block { fence, line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_after(text: &str) -> Place {
        let mut tracker = CodeTracker::visible();
        text.chars().for_each(|next| tracker.read(next));
        tracker.place()
    }

    #[test]
    fn fences_open_and_close_as_in_commonmark() {
        for (text, place) in [
            ("```", Place::Block),
            ("a\n   ~~~~ info `x`\n", Place::Block),
            ("    ```\n", Place::Text),
            ("a ```\n", Place::Text),
            ("~~ ", Place::Text),
            ("```\nx\n``\n", Place::Block),
            ("```\nx\n~~~\n", Place::Block),
            ("````\n```\n", Place::Block),
            ("```\n``` x\n", Place::Block),
            ("```\n    ```\n", Place::Block),
            ("```\n```", Place::Block),
            ("```\n````` \t\r\n", Place::Text),
            ("```\r\n```\r\n", Place::Text),
            ("~~~\nx\n  ~~~~\n", Place::Text),
        ] {
            assert_eq!(place_after(text), place, "{text:?}");
        }
    }

    #[test]
    fn spans_close_at_an_equal_run_or_at_the_end_of_the_line() {
        for (text, place) in [
            ("`a", Place::PerhapsSpan { ticks: 1 }),
            ("``a ` b", Place::PerhapsSpan { ticks: 2 }),
            ("``a `` b", Place::Text),
            ("`a\n", Place::Text),
            ("``", Place::PerhapsSpan { ticks: 2 }),
            ("    ```", Place::PerhapsSpan { ticks: 3 }),
            ("```a``` b", Place::Text),
            ("```a``` b\n", Place::Text),
            ("```a` b\n", Place::Text),
            ("```a` b", Place::Block),
        ] {
            assert_eq!(place_after(text), place, "{text:?}");
        }
    }

    #[test]
    fn thought_knows_spans_but_no_fences() {
        let mut tracker = CodeTracker::thought();
        "\n```\n~~~\n".chars().for_each(|next| tracker.read(next));
        assert_eq!(tracker.place(), Place::Text);
        tracker.read('`');
        assert_eq!(tracker.place(), Place::PerhapsSpan { ticks: 1 });
        tracker.interrupt();
        assert_eq!(tracker.place(), Place::Text);
    }
}

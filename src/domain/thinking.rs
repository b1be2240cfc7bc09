//! Takes a model's thinking out of a stream of text chunks.
//!
//! Role: one [`ThinkingFilter`] follows one answer, from its first delta to its end, and says what of it may be
//! shown. Owner: whoever follows the run. Pure: no clock, no I/O, no log.
//!
//! Rules
//! - Tags are `<think>`, `<thinking>`, `<antthinking>`: see `tag.rs`. They nest; any closing tag closes the innermost
//!   one; after an unclosed opening tag everything is thought; a closing tag without an opening one is dropped.
//! - Text in fenced blocks is never touched, nor is text in inline code: see `code.rs`. Whether a backtick opens a span
//!   is known only when the span closes. So text behind a backtick flows on until a complete tag stands there; from
//!   that tag on it is held until the span closes (all of it was code), or until the line ends, the message ends or
//!   `SPAN_BYTES_MAX` are held (the backtick was a plain one, and the tag counts).
//! - Inside a thought a closed span protects the tags in it likewise, so that a thought *about* these tags does not
//!   swallow the answer. Fences do not count there.
//! - When a tag is taken out before any visible character, blanks before and behind it go with it: the visible text
//!   begins at its first character that is not blank. All other text is kept exactly.
//!
//! Invariants
//! - THK-1: the output depends on the characters alone, never on how they were cut into chunks. It holds because
//!   `step` sees one character at a time and nothing else.
//! - THK-2: at most `SPAN_BYTES_MAX` bytes are held back: a span, or blanks at the start and a tag behind them.
//! - THK-3: the work is linear. Only what a span held is read twice; every time that happens a tag is used up, and
//!   the runs of backticks in the window that made it happen are all of different lengths, so they are few.

mod code;
mod doubt;
mod tag;

use code::{CodeTracker, Place};
use doubt::{Doubt, Verdict};
use tag::{Candidate, Step, Tag};

/// A tag longer than this is not a tag. Real ones carry an attribute or two at most.
pub const TAG_BYTES_MAX: usize = 256;
/// Text held from a tag on in what may be inline code: longer than code in a sentence is, short enough to wait for.
const SPAN_BYTES_MAX: usize = 512;
/// Blanks held at the start of a message. One that begins with more of them means them.
const LEAD_BYTES_MAX: usize = 256;

/// What became known by one call. Tags themselves are in neither part.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filtered {
    /// Text to show, to be appended to what was shown before.
    pub visible: String,
    /// Thought that was taken out, to be appended likewise.
    pub thinking: String,
}

/// Takes the thinking out of one answer.
#[derive(Debug)]
pub struct ThinkingFilter {
    /// Opening tags not closed yet; 0 means that text is visible.
    depth: u32,
    lead: Lead,
    /// Stands still during a thought: the visible text goes on as if the thought were not there.
    visible_code: CodeTracker,
    /// Needs no reset between thoughts: the tag that ends one also ends a span in it.
    thought_code: CodeTracker,
    candidate: Option<Candidate>,
    /// Never `Some` together with `candidate`.
    doubt: Option<Doubt>,
    out: Filtered,
}

/// What has happened to the blanks at the start of the message.
#[derive(Debug, PartialEq, Eq)]
enum Lead {
    /// Only these blanks so far: shown if text follows, dropped if a tag does.
    Held(String),
    /// A tag was taken out and nothing shown yet: further blanks are dropped.
    Dropped,
    /// A visible character was there; blanks are text like any other.
    Over,
}

impl Default for ThinkingFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the thinking out of a whole text.
pub fn strip(text: &str) -> Filtered {
    let mut filter = ThinkingFilter::new();
    let mut all = filter.push(text);
    let rest = filter.finish();
    all.visible.push_str(&rest.visible);
    all.thinking.push_str(&rest.thinking);
    all
}

impl ThinkingFilter {
    /// Creates a filter for one answer.
    pub fn new() -> Self {
        Self {
            depth: 0,
            lead: Lead::Held(String::new()),
            visible_code: CodeTracker::visible(),
            thought_code: CodeTracker::thought(),
            candidate: None,
            doubt: None,
            out: Filtered::default(),
        }
    }

    /// Reads the next chunk and returns what is decided by it.
    pub fn push(&mut self, chunk: &str) -> Filtered {
        chunk.chars().for_each(|next| self.step(next));
        std::mem::take(&mut self.out)
    }

    /// Ends the answer: returns what was held back, and leaves the filter as new.
    pub fn finish(&mut self) -> Filtered {
        while let Some(doubt) = self.doubt.take() {
            if doubt.is_closed() { self.keep(&doubt) } else { self.give_up(&doubt) }
        }
        if let Some(candidate) = self.candidate.take() {
            self.emit_all(&candidate.text);
        }
        if let Lead::Held(blanks) = &self.lead {
            self.out.visible.push_str(blanks);
        }
        std::mem::take(self).out
    }

    fn step(&mut self, next: char) {
        // A loop, because giving up one doubt may raise another about the text it held.
        while let Some(mut doubt) = self.doubt.take() {
            match doubt.read(next) {
                Verdict::Open => {
                    self.doubt = Some(doubt);
                    return;
                }
                Verdict::Code => self.keep(&doubt),
                Verdict::Text => self.give_up(&doubt),
            }
        }
        if let Some(mut candidate) = self.candidate.take() {
            match candidate.read(next) {
                Step::More => {
                    self.candidate = Some(candidate);
                    return;
                }
                Step::Tag(tag) => return self.meet(tag, candidate.text),
                Step::NotATag => self.emit_all(&candidate.text),
            }
        }
        if next == '<' && self.code().place() != Place::Block {
            self.candidate = Some(Candidate::start());
        } else {
            self.emit(next);
        }
    }

    /// Decides what a complete tag means where it stands.
    fn meet(&mut self, tag: Tag, text: String) {
        match self.code().place() {
            // A tag with a line break in it has left the span, which ends with its line.
            Place::PerhapsSpan { ticks } if !text.contains('\n') => {
                self.doubt = Some(Doubt::new(tag, text, ticks));
            }
            _ => self.apply(tag),
        }
    }

    /// Lets a doubt pass as the code it turned out to be.
    fn keep(&mut self, doubt: &Doubt) {
        self.emit_all(&doubt.tag_text);
        self.emit_all(&doubt.behind);
    }

    /// Lets the tag of a doubt count and reads again what was held behind it.
    ///
    /// That text has no line break and is shorter than `SPAN_BYTES_MAX`, so no second doubt is given up inside, and
    /// the recursion ends there.
    fn give_up(&mut self, doubt: &Doubt) {
        self.apply(doubt.tag);
        doubt.behind.chars().for_each(|next| self.step(next));
    }

    fn apply(&mut self, tag: Tag) {
        self.code().interrupt();
        if self.depth == 0 && self.lead != Lead::Over {
            self.lead = Lead::Dropped;
            self.visible_code = CodeTracker::visible();
        }
        match tag {
            Tag::Open => self.depth = self.depth.saturating_add(1),
            Tag::Close => self.depth = self.depth.saturating_sub(1),
            Tag::Empty => {}
        }
    }

    fn emit_all(&mut self, text: &str) {
        text.chars().for_each(|next| self.emit(next));
    }

    fn emit(&mut self, next: char) {
        if self.depth > 0 {
            self.thought_code.read(next);
            self.out.thinking.push(next);
        } else {
            self.emit_visible(next);
        }
    }

    fn emit_visible(&mut self, next: char) {
        let blank = next.is_whitespace();
        match &mut self.lead {
            Lead::Over => {}
            Lead::Dropped if blank => return,
            Lead::Held(blanks) if blank && blanks.len() + next.len_utf8() <= LEAD_BYTES_MAX => {
                blanks.push(next);
                self.visible_code.read(next);
                return;
            }
            Lead::Held(blanks) => {
                self.out.visible.push_str(blanks);
                self.lead = Lead::Over;
            }
            Lead::Dropped => self.lead = Lead::Over,
        }
        self.visible_code.read(next);
        self.out.visible.push(next);
    }

    fn code(&mut self) -> &mut CodeTracker {
        if self.depth > 0 { &mut self.thought_code } else { &mut self.visible_code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the generated texts are made of, separated by `|`.
    const PIECES: &str = "<|>|/|</|<think>|</think>|<Thinking a=\"b\">|</thinking >|<antthinking|think|thinking|\
        antthinking|ant|th|ink|THINK|<think/>|<b>| |  |    |\t|\n|\n\n|\r\n|`|``|```|\n```rust\n|\n```\n|~|~~~|\n~~~\n|\
        =|\"|a|word |é|\u{a0}|😀";

    fn pieces(count_max: usize) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(PIECES.split('|').collect::<Vec<_>>()), 0..count_max)
    }

    fn parts(visible: &str, thinking: &str) -> Filtered {
        Filtered { visible: visible.to_owned(), thinking: thinking.to_owned() }
    }

    fn strip_by(text: &str, sizes: &[usize]) -> Filtered {
        let mut filter = ThinkingFilter::new();
        let mut all = Filtered::default();
        let mut add = |part: Filtered| {
            all.visible.push_str(&part.visible);
            all.thinking.push_str(&part.thinking);
        };
        let mut sizes = sizes.iter().copied().cycle();
        let mut chars = text.chars().peekable();
        while chars.peek().is_some() {
            let chunk: String = chars.by_ref().take(sizes.next().unwrap_or(1)).collect();
            add(filter.push(&chunk));
            assert!(held_bytes(&filter) <= SPAN_BYTES_MAX, "THK-2");
        }
        add(filter.finish());
        all
    }

    fn held_bytes(filter: &ThinkingFilter) -> usize {
        let lead = if let Lead::Held(blanks) = &filter.lead { blanks.len() } else { 0 };
        let candidate = filter.candidate.as_ref().map_or(0, |candidate| candidate.text.len());
        let doubt = filter.doubt.as_ref().map_or(0, |doubt| doubt.bytes());
        lead + candidate + doubt
    }

    #[test]
    fn texts_are_parted_as_the_rules_say() {
        let long = format!("<think {}>x", "a".repeat(TAG_BYTES_MAX));
        let far = "y".repeat(SPAN_BYTES_MAX);
        for (text, visible, thinking) in [
            // Tags.
            ("", "", ""),
            ("plain <b>text</b> < & >", "plain <b>text</b> < & >", ""),
            ("a<think>b</think>c", "ac", "b"),
            ("a <THINKING x='1'>b</Thinking > c", "a  c", "b"),
            ("a<antThinking>b</antthinking>c", "ac", "b"),
            ("a<think>b</thinking>c", "ac", "b"),
            ("a<think\n>b</think\t>c", "ac", "b"),
            ("a<think>b<think>c</think>d</think>e", "ae", "bcd"),
            ("a<think>b", "a", "b"),
            ("a<think>b</thi", "a", "b</thi"),
            ("a<thi", "a<thi", ""),
            ("a<think b", "a<think b", ""),
            ("a</think>b</thinking>c", "abc", ""),
            ("a<think/>b", "ab", ""),
            ("a<thinker>b</thinker>", "a<thinker>b</thinker>", ""),
            ("a<<think>b</think>", "a<", "b"),
            ("a<think <think>b</think>c", "a<think c", "b"),
            (&long, &long, ""),
            // The beginning of the message.
            ("<think>b</think>\n\n c \n", "c \n", "b"),
            (" \n<think>b</think>\n<think>c</think> \u{3000}d", "d", "bc"),
            ("</think>\n\nanswer", "answer", ""),
            ("\n  answer\n", "\n  answer\n", ""),
            ("  ", "  ", ""),
            ("  <thi", "  <thi", ""),
            ("<think>b</think>  ", "", "b"),
            ("a\n\n<think>b</think>\n\nc", "a\n\n\n\nc", "b"),
            ("<think>b</think>     ```\n<think>", "```\n<think>", "b"),
            ("     <think>b</think>```\n<think>", "```\n<think>", "b"),
            // Fenced blocks.
            ("```\n<think>x</think>\n```\n<think>b</think>", "```\n<think>x</think>\n```\n", "b"),
            ("a\n  ~~~xml <think>\n</think>\n~~~~ \n<think>b", "a\n  ~~~xml <think>\n</think>\n~~~~ \n", "b"),
            ("````\n```\n<think>", "````\n```\n<think>", ""),
            ("    ```\n<think>b", "    ```\n", "b"),
            ("a\n<think>b</think>```\n<think>", "a\n```\n<think>", "b"),
            ("<think>\n```\nb\n</think>c", "c", "\n```\nb\n"),
            // Inline code.
            ("use `<think>` here", "use `<think>` here", ""),
            ("use ``a ` <think>`` <think>b", "use ``a ` <think>`` ", "b"),
            ("`</think>`", "`</think>`", ""),
            ("it`s <think>b</think>c", "it`s c", "b"),
            ("it`s <think>b</think>c\nd`", "it`s c\nd`", "b"),
            ("it`s <think>b\n</think>c `<think>` d", "it`s c `<think>` d", "b\n"),
            ("``a <think>b ` ` c</think>d", "``a d", "b ` ` c"),
            ("it`s\n<think>b</think> `c`", "it`s\n `c`", "b"),
            ("`a <think\n>b</think>`", "`a `", "b"),
            ("```x``` <think>b</think>", "```x``` ", "b"),
            ("`a ``<think>b ``` </think>c", "`a ``c", "b ``` "),
            ("<think>the `<think>` tag</think>c", "c", "the `<think>` tag"),
        ] {
            assert_eq!(strip(text), parts(visible, thinking), "{text:?}");
            assert_eq!(strip_by(text, &[1]), parts(visible, thinking), "{text:?}, one character at a time");
        }
        let text = format!("a`<think>{far}`");
        assert_eq!(strip(&text), parts("a`", &format!("{far}`")), "no span is waited for without end");
    }

    #[test]
    fn chunk_shows_all_that_is_decided_and_finish_leaves_the_filter_as_new() {
        let mut filter = ThinkingFilter::new();
        assert_eq!(filter.push("so <thi"), parts("so ", ""));
        assert_eq!(filter.push("nk>wh"), parts("", "wh"));
        assert_eq!(filter.push("y</THINK"), parts("", "y"));
        assert_eq!(filter.push("> an `open"), parts(" an `open", ""));
        assert_eq!(filter.push(" <b> <think> x"), parts(" <b> ", ""));
        assert_eq!(filter.push("` ~~ <"), parts("<think> x` ~~ ", ""));
        assert_eq!(filter.finish(), parts("<", ""));
        assert_eq!(filter.push("<think>"), parts("", ""));
        assert_eq!(filter.finish(), Filtered::default());
        assert_eq!(filter.push("x"), parts("x", ""));
    }

    /// Work that grew with the square of the length would not end in a lifetime here.
    #[test]
    fn megabyte_of_openings_takes_linear_time() {
        for unit in ["<", "<think", "</think", "<think>"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let visible = if unit == "<think>" { "" } else { &text };
            assert_eq!(strip(&text), parts(visible, ""));
        }
        // The worst for spans: every run has its own length, so none closes and every tag is held and read again.
        let runs: String = (1..=30).map(|ticks| "`".repeat(ticks) + "<think>").collect();
        let text = runs.repeat((1 << 16) / runs.len());
        assert_eq!(strip(&text), strip_by(&text, &[1, 4_096]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

        #[test]
        fn cut_never_changes_the_output(
            pieces in pieces(60),
            sizes in prop::collection::vec(1_usize..9, 1..20),
        ) {
            let text = pieces.concat();
            prop_assert_eq!(strip_by(&text, &sizes), strip(&text), "THK-1");
            prop_assert_eq!(strip_by(&text, &[1]), strip(&text), "THK-1");
        }

        #[test]
        fn nothing_is_lost_or_changed_in_text_without_tags(text in "[a-z <>/`~\n]{0,200}", blanks in "[ \n]{0,300}") {
            let text = blanks + &text.replace("think", "");
            prop_assert_eq!(strip(&text), parts(&text, ""));
        }

        #[test]
        fn text_without_brackets_passes_at_once(chunks in prop::collection::vec("[^<]{1,20}", 1..10)) {
            let mut filter = ThinkingFilter::new();
            filter.push(".");
            for chunk in chunks {
                prop_assert_eq!(filter.push(&chunk), parts(&chunk, ""));
            }
        }

        #[test]
        fn fenced_text_is_never_touched(pieces in pieces(40)) {
            // No piece and no run of pieces is a line of nine tildes.
            let text = format!("~~~~~~~~~\n{}", pieces.concat().replace('~', "-"));
            prop_assert_eq!(strip(&text), parts(&text, ""));
        }

        #[test]
        fn outside_code_every_character_is_text_thought_or_tag(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["<think>", "</think>", "<THINKING a=b>", "x", " y"]),
                0..40,
            ),
        ) {
            let (mut depth, mut visible, mut thinking) = (0_u32, String::from("."), String::new());
            for piece in &pieces {
                match *piece {
                    "</think>" => depth = depth.saturating_sub(1),
                    tag if tag.starts_with('<') => depth += 1,
                    text if depth > 0 => thinking.push_str(text),
                    text => visible.push_str(text),
                }
            }
            prop_assert_eq!(strip(&format!(".{}", pieces.concat())), parts(&visible, &thinking));
        }
    }
}

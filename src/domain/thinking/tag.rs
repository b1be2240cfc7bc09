//! Recognises one thinking tag, a character at a time.
//!
//! Role: `ThinkingFilter` starts a [`Candidate`] at every `<` that may be a tag, and learns as early as possible
//! whether it is one.
//!
//! Grammar: `<`, `/` for a closing tag, the name in any letter case, then `>`, or white space or `/` and anything up
//! to the first `>`. A `>` inside a quoted attribute therefore ends the tag early; the rest of the attribute
//! then counts as thought, which is where it belongs.
//!
//! Invariants
//! - A candidate never holds `<` (after its first character), a backtick or a tilde: what it holds back can become
//!   plain text without being read again, and no tag reaches into Markdown code.
//! - `text.len() <= TAG_BYTES_MAX`.

use super::TAG_BYTES_MAX;

const NAMES: [&str; 3] = ["think", "thinking", "antthinking"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Open,
    Close,
    /// `<think/>`: opens and closes at once.
    Empty,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The character was taken; it may still become a tag.
    More,
    /// The character was taken and ends a tag.
    Tag(Tag),
    /// Not a tag. The character was not taken and is to be read afresh.
    NotATag,
}

#[derive(Debug)]
pub(super) struct Candidate {
    /// Everything taken so far, beginning with `<`.
    pub(super) text: String,
    closing: bool,
    part: Part,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    /// Inside the name: what each known name still expects, `None` once it no longer fits.
    Name([Option<&'static str>; 3]),
    /// Behind the name. `slash`: the last character that is not blank was a `/`.
    Attributes { slash: bool },
}

impl Candidate {
    /// Starts a candidate at a `<`.
    pub(super) fn start() -> Self {
        Self { text: String::from("<"), closing: false, part: Part::Name(NAMES.map(Some)) }
    }

    /// Takes the next character, or says that this is no tag.
    pub(super) fn read(&mut self, next: char) -> Step {
        if self.text.len() + next.len_utf8() > TAG_BYTES_MAX {
            return Step::NotATag;
        }
        let step = match self.part {
            Part::Name(expected) => self.read_name(expected, next),
            Part::Attributes { slash } => self.read_attribute(slash, next),
        };
        if step != Step::NotATag {
            self.text.push(next);
        }
        step
    }

    fn read_name(&mut self, expected: [Option<&'static str>; 3], next: char) -> Step {
        if next == '/' && self.text == "<" {
            self.closing = true;
            return Step::More;
        }
        if next == '>' || next == '/' || next.is_whitespace() {
            return if expected.contains(&Some("")) { self.read_attribute(false, next) } else { Step::NotATag };
        }
        let letter = next.to_ascii_lowercase();
        let expected = expected.map(|name| name.and_then(|rest| rest.strip_prefix(letter)));
        if expected.iter().all(Option::is_none) {
            return Step::NotATag;
        }
        self.part = Part::Name(expected);
        Step::More
    }

    fn read_attribute(&mut self, slash: bool, next: char) -> Step {
        let slash = match next {
            '<' | '`' | '~' => return Step::NotATag,
            '>' if self.closing => return Step::Tag(Tag::Close),
            '>' if slash => return Step::Tag(Tag::Empty),
            '>' => return Step::Tag(Tag::Open),
            '/' => true,
            blank if blank.is_whitespace() => slash,
            _ => false,
        };
        self.part = Part::Attributes { slash };
        Step::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` behind a `<`; gives the verdict and how many characters were taken.
    fn read(text: &str) -> (Step, usize) {
        let mut candidate = Candidate::start();
        for (taken, next) in text.chars().enumerate() {
            match candidate.read(next) {
                Step::More => {}
                Step::Tag(tag) => return (Step::Tag(tag), taken + 1),
                Step::NotATag => return (Step::NotATag, taken),
            }
        }
        (Step::More, text.chars().count())
    }

    #[test]
    fn names_are_known_in_any_case_and_with_attributes() {
        for (text, tag) in [
            ("think>", Tag::Open),
            ("THINK>", Tag::Open),
            ("Thinking>", Tag::Open),
            ("antThinking>", Tag::Open),
            ("think \t\n>", Tag::Open),
            ("think a=\"b/c\" d>", Tag::Open),
            ("think/>", Tag::Empty),
            ("think a=b / >", Tag::Empty),
            ("think / a>", Tag::Open),
            ("/think>", Tag::Close),
            ("/antthinking >", Tag::Close),
            ("/think/>", Tag::Close),
        ] {
            assert_eq!(read(text), (Step::Tag(tag), text.chars().count()), "{text}");
        }
    }

    #[test]
    fn other_names_are_refused_at_the_first_wrong_character() {
        for (text, taken) in [
            (" think>", 0),
            (">", 0),
            ("//think>", 1),
            ("/ think>", 1),
            ("thing>", 4),
            ("thin>", 4),
            ("thinker>", 5),
            ("think-hard>", 5),
            ("thinkings>", 8),
            ("antthink>", 8),
            ("think a<", 7),
            ("think a`", 7),
            ("think\n~", 6),
            ("thınk>", 2),
        ] {
            assert_eq!(read(text), (Step::NotATag, taken), "{text}");
        }
    }

    #[test]
    fn tag_of_the_longest_length_is_a_tag_and_one_byte_more_is_not() {
        let longest = format!("think {}>", "a".repeat(TAG_BYTES_MAX - "<think >".len()));
        assert_eq!(read(&longest).0, Step::Tag(Tag::Open));
        assert_eq!(read(&longest.replace('>', "a>")).0, Step::NotATag);
    }
}

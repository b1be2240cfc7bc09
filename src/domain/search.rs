//! Search by words: how a text is cut into them, and what a search asks for.
//!
//! Both databases index and look up the words that are cut here, so both find the same. A word is a run of letters and
//! digits in one case; in scripts that put no space between words every two neighbours are one, so that any part of a
//! sentence can be found.
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Words of one line that can be found; the rest of a longer line cannot.
pub const WORDS_MAX: usize = 16_000;
/// Bytes of one line's words, for the same purpose.
const WORDS_BYTES_MAX: usize = 256 * 1024;
/// Characters of one line that are looked at for words.
pub const CHARS_MAX: i32 = 256 * 1024;
/// Bytes of a word; a longer one is cut, in a line as in a search.
const WORD_BYTES_MAX: usize = 64;
/// Characters that may be searched for.
pub const SEARCH_CHARS_MAX: usize = 256;

/// Cuts a text into words, in their order.
pub fn words(text: &str) -> Vec<String> {
    if text.is_ascii() {
        return cut(text.chars().map(|character| character.to_ascii_lowercase()));
    }
    cut(text.nfkc().flat_map(char::to_lowercase))
}

/// Cuts what is in one form and case.
fn cut(text: impl Iterator<Item = char>) -> Vec<String> {
    let mut words = Words::default();
    for character in text {
        if !words.take(character) {
            break;
        }
    }
    words.end_word();
    words.end_run();
    words.found
}

#[derive(Default)]
struct Words {
    found: Vec<String>,
    bytes: usize,
    word: String,
    word_full: bool,
    /// The last character of a run without spaces, whose right neighbour is not known yet.
    last: Option<char>,
}

impl Words {
    /// Takes the next character; tells whether there is room for more.
    fn take(&mut self, character: char) -> bool {
        if is_unspaced(character) {
            self.end_word();
            if let Some(before) = self.last.replace(character) {
                self.push(String::from_iter([before, character]));
            }
        } else {
            self.end_run();
            if !(character.is_alphanumeric() || is_combining_mark(character)) {
                self.end_word();
            } else if !self.word_full && self.word.len() + character.len_utf8() <= WORD_BYTES_MAX {
                self.word.push(character);
            } else {
                self.word_full = true;
            }
        }
        self.found.len() < WORDS_MAX && self.bytes < WORDS_BYTES_MAX
    }

    fn end_word(&mut self) {
        self.word_full = false;
        if !self.word.is_empty() {
            let word = std::mem::take(&mut self.word);
            self.push(word);
        }
    }

    fn end_run(&mut self) {
        if let Some(last) = self.last.take() {
            self.push(last.into());
        }
    }

    fn push(&mut self, word: String) {
        self.bytes += word.len();
        self.found.push(word);
    }
}

/// Tells whether a character is of a script that is written without spaces between words: Chinese, Japanese, Korean,
/// Thai, Lao, Burmese, Khmer.
fn is_unspaced(character: char) -> bool {
    matches!(u32::from(character),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1100..=0x11FF | 0x1780..=0x17FF | 0x2E80..=0x2FDF | 0x3005..=0x3007
        | 0x3021..=0x3029 | 0x3040..=0x30FF | 0x31F0..=0x31FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7AF
        | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
        && (character.is_alphanumeric() || is_combining_mark(character))
}

/// Words one behind the other; of the last one the beginning is enough.
pub type Phrase = Vec<String>;

/// What somebody searches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// As it was asked for.
    text: String,
    phrases: Vec<Phrase>,
}

impl Search {
    /// Reads a search: parts between blanks, or between quotes, must all occur in a line, each as one phrase.
    pub fn new(text: &str) -> Self {
        let mut phrases = Vec::new();
        for (index, part) in text.split('"').enumerate() {
            let quoted = index % 2 == 1;
            let parts = if quoted { vec![part] } else { part.split_whitespace().collect() };
            phrases.extend(parts.into_iter().map(phrase).filter(|phrase| !phrase.is_empty()));
        }
        Self { text: text.to_owned(), phrases }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns what must occur; nothing when the search has no words, for example only punctuation.
    pub fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    /// Tells whether a line with these words is found.
    pub fn finds(&self, words: &[String]) -> bool {
        !self.phrases.is_empty() && self.phrases.iter().all(|phrase| occurs(phrase, words))
    }
}

/// Cuts a part of a search. A run of several characters without spaces says all by its pairs.
fn phrase(part: &str) -> Phrase {
    let mut words = words(part);
    if let [.., before, last] = words.as_slice()
        && let (Some(end), true) = (before.chars().nth(1), last.chars().all(is_unspaced))
        && last.chars().eq([end])
        && before.chars().all(is_unspaced)
    {
        words.pop();
    }
    words
}

fn occurs(phrase: &Phrase, words: &[String]) -> bool {
    let Some((last, before)) = phrase.split_last() else { return true };
    words.windows(phrase.len()).any(|window| {
        window.split_last().is_some_and(|(ending, beginning)| beginning == before && ending.starts_with(last.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(query: &str, text: &str) -> bool {
        Search::new(query).finds(&words(text))
    }

    #[test]
    fn texts_are_cut_into_words() {
        assert_eq!(words("Hello, World! x2"), ["hello", "world", "x2"]);
        assert_eq!(words("Straße ＡＢＣ"), ["straße", "abc"]);
        assert_eq!(words("网关重启"), ["网关", "关重", "重启", "启"]);
        assert_eq!(words("OpenClaw网关 v2"), ["openclaw", "网关", "关", "v2"]);
        assert_eq!(words("…!?"), [""; 0]);
        assert_eq!(words(&"x".repeat(100)), ["x".repeat(WORD_BYTES_MAX)]);
        assert_eq!(words(&"a ".repeat(WORDS_MAX + 10)).len(), WORDS_MAX);
        assert!(words(&"word ".repeat(1_000_000)).len() <= WORDS_MAX);
    }

    #[test]
    fn all_parts_must_occur_and_each_as_a_phrase() {
        let text = "The gateway restarts; 网关已经重启了 (exit-code 12).";
        for query in [
            "gateway",
            "GATE",
            "restarts gateway",
            "\"gateway restarts\"",
            "exit-code",
            "\"code 12\"",
            "网关",
            "重启了",
            "重",
            "启",
            "了",
            "gateway 重启",
            "!gateway?",
        ] {
            assert!(found(query, text), "{query}");
        }
        for query in ["way", "\"restarts gateway\"", "gateways", "关网", "网关重启", "code-exit", "!?", "", "\""]
        {
            assert!(!found(query, text), "{query}");
        }
    }

    proptest! {
        #[test]
        fn every_part_of_a_sentence_without_spaces_is_found(text in "[网关重启消息会话]{1,12}", from in 0_usize..12, len in 1_usize..12) {
            let part: String = text.chars().skip(from).take(len).collect();
            prop_assert_eq!(found(&part, &text), !part.is_empty());
        }

        #[test]
        fn the_beginning_of_every_word_is_found(text in "[a-zA-Z0-9äßçñЖ网关 .,!-]{0,60}", len in 1_usize..10) {
            for word in text.split_whitespace() {
                let beginning: String = word.chars().take(len).collect();
                let search = Search::new(&format!("\"{}\"", beginning.replace('"', "")));
                prop_assert!(search.phrases().is_empty() || search.finds(&words(&text)), "{} in {}", beginning, text);
            }
        }
    }
}

//! The removal of thinking: the same whatever the cut, nothing lost but tags and blanks, nothing that was not there.
use clawbroker::domain::thinking::{Filtered, ThinkingFilter, strip};

/// So much may be held back (THK-2), a tag that is being read aside.
const HELD_BYTES_MAX: usize = 512;
/// The longest tag.
const TAG_BYTES_MAX: usize = 256;

/// The first byte says how the text is cut, the rest is the text.
pub(crate) fn check(data: &[u8]) {
    let Some((&length, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let whole = strip(text);
    assert_eq!(whole, in_parts(text, usize::from(length)), "THK-1");
    for part in [&whole.visible, &whole.thinking] {
        assert!(is_part(part, text), "nothing is made up");
    }
    if !text.contains('<') {
        assert_eq!((whole.visible.as_str(), whole.thinking.as_str()), (text, ""), "without a tag nothing changes");
    }
}

fn in_parts(text: &str, length: usize) -> Filtered {
    let mut filter = ThinkingFilter::new();
    let mut all = Filtered::default();
    let mut add = |part: Filtered| {
        all.visible.push_str(&part.visible);
        all.thinking.push_str(&part.thinking);
        all.visible.len() + all.thinking.len()
    };
    let characters: Vec<char> = text.chars().collect();
    let (mut read, mut tags, mut blanks) = (0, 0, 0);
    for chunk in characters.chunks(length.max(1)) {
        let chunk: String = chunk.iter().collect();
        read += chunk.len();
        // A tag that was taken out is neither told nor held, nor are blanks beside it.
        tags += chunk.matches('<').count();
        blanks += chunk.chars().filter(|one| one.is_whitespace()).map(char::len_utf8).sum::<usize>();
        let told = add(filter.push(&chunk));
        assert!(read <= told + HELD_BYTES_MAX + (tags + 1) * TAG_BYTES_MAX + blanks, "THK-2");
    }
    add(filter.finish());
    all
}

/// Tells whether `part` is what is left of `whole` when some of it is taken out.
fn is_part(part: &str, whole: &str) -> bool {
    let mut rest = whole.chars();
    part.chars().all(|wanted| rest.any(|found| found == wanted))
}

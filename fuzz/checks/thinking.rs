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
    let kept = letters(&format!("{}{}", whole.visible, whole.thinking));
    assert!(is_part(&kept, &letters(text)), "nothing is said twice");
    let owed = letters(&without_tags(text));
    assert!(is_part(&owed, &kept), "nothing is lost but tags and blanks");
    if !text.contains(['`', '~']) {
        assert_eq!(kept, owed, "where no code is, every tag is taken out");
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

/// Cuts out whatever has the form of a tag, in code or not.
fn without_tags(text: &str) -> String {
    let mut parts = text.split('<');
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('>') {
            Some((inside, behind)) if is_tag(inside) => rest.push_str(behind),
            _ => {
                rest.push('<');
                rest.push_str(part);
            }
        }
    }
    rest
}

/// Tells whether this is a tag's text, between `<` and the first `>`.
fn is_tag(inside: &str) -> bool {
    let lower = inside.to_ascii_lowercase();
    let name = lower.split(char::is_whitespace).next().unwrap_or_default();
    let name = name.strip_prefix('/').unwrap_or(name).split('/').next().unwrap_or_default();
    matches!(name, "think" | "thinking" | "antthinking")
        && inside.len() + "<>".len() <= TAG_BYTES_MAX
        && !inside.contains(['`', '~'])
}

/// The characters that are not blank, in the order of their codes: so that texts can be compared of which one is parted.
fn letters(text: &str) -> String {
    let mut letters: Vec<char> = text.chars().filter(|one| !one.is_whitespace()).collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

/// Tells whether `part` is what is left of `whole` when some of it is taken out.
fn is_part(part: &str, whole: &str) -> bool {
    let mut rest = whole.chars();
    part.chars().all(|wanted| rest.any(|found| found == wanted))
}

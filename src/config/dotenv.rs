//! Reads `.env` by the rules of python-dotenv, because the ancestors' files are written for it.
//!
//! The crate dotenvy follows the shell instead: it refuses the ancestor's own `APP_NAME=OpenClaw Backend`, takes the
//! quotes out of `CORS_ORIGINS=["http://…"]`, cuts a password at `$`, and repeats a line it does not understand in its
//! error. Here only `${NAME}` and `${NAME:-default}` are replaced, from earlier lines, then from the environment; never
//! inside single quotes. An error tells the line's number and nothing of the line.
use std::collections::BTreeMap;

/// What is wrong, and in which line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) reason: &'static str,
}

/// Returns the variables of the file; the last of several with the same name counts.
pub(super) fn parse(text: &str, environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Fault> {
    let mut values = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text).trim_start();
    while !rest.is_empty() {
        let fault = |reason| {
            let line = text.lines().count().saturating_sub(rest.lines().count()) + 1;
            Fault { line, reason }
        };
        let (name, after) = take_name(rest).map_err(fault)?;
        let after = match (name, after.strip_prefix('=')) {
            (Some(name), Some(after)) => {
                let (value, after) = take_value(after).map_err(fault)?;
                let value = match value {
                    Value::Literal(value) => value,
                    Value::Template(value) => fill_in(&value, &values, environment),
                };
                values.insert(name.to_owned(), value);
                after
            }
            _ => after,
        };
        rest = after.trim_start();
    }
    Ok(values)
}

enum Value {
    /// Taken as it stands.
    Literal(String),
    /// `${NAME}` in it is replaced.
    Template(String),
}

/// Splits off the name; what is left begins with `=`, or is the next line. A comment has no name.
fn take_name(text: &str) -> Result<(Option<&str>, &str), &'static str> {
    if text.starts_with('#') {
        return Ok((None, after_line(text)));
    }
    let (name, rest) = split_before(text, |c| c == '=' || c == '\n');
    let name = name.trim();
    let name = match name.strip_prefix("export") {
        Some(after) if after.starts_with([' ', '\t']) => after.trim_start(),
        _ => name,
    };
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    // A name alone declares nothing; python-dotenv passes over it, too.
    if plain && !name.is_empty() { Ok((Some(name), rest)) } else { Err("is not `NAME=value`") }
}

/// Splits off the value after `=` with the end of its line.
fn take_value(text: &str) -> Result<(Value, &str), &'static str> {
    let spaced = text.starts_with([' ', '\t']);
    let text = text.trim_start_matches([' ', '\t']);
    if let Some(inner) = text.strip_prefix('\'') {
        let (value, rest) = take_quoted(inner, '\'').ok_or("has no closing `'`")?;
        return Ok((Value::Literal(value), end_of_line(rest)?));
    }
    if let Some(inner) = text.strip_prefix('"') {
        let (value, rest) = take_quoted(inner, '"').ok_or("has no closing `\"`")?;
        return Ok((Value::Template(value), end_of_line(rest)?));
    }
    let (value, _) = split_before(text, |c| c == '\n');
    let mut before = if spaced { ' ' } else { '=' };
    let (value, _comment) = split_before(value, |c| {
        let comment = c == '#' && before.is_whitespace();
        before = c;
        comment
    });
    Ok((Value::Template(value.trim_end().to_owned()), after_line(text)))
}

/// Reads up to the closing quote, which may stand on a later line.
fn take_quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Some((value, chars.as_str())),
            '\\' => match (chars.next()?, quote) {
                (c @ ('\\' | '\''), _) | (c @ '"', '"') => value.push(c),
                ('n', '"') => value.push('\n'),
                ('r', '"') => value.push('\r'),
                ('t', '"') => value.push('\t'),
                (c, _) => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

/// Skips blanks and a comment after a closing quote.
fn end_of_line(text: &str) -> Result<&str, &'static str> {
    let (tail, _) = split_before(text, |c| c == '\n');
    if tail.trim().is_empty() || tail.trim_start().starts_with('#') {
        Ok(after_line(text))
    } else {
        Err("goes on after the closing quote")
    }
}

/// Replaces `${NAME}` and `${NAME:-default}`; an unknown name without a default is empty.
fn fill_in(text: &str, earlier: &BTreeMap<String, String>, environment: &BTreeMap<String, String>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            filled.push_str("${");
            rest = after;
            continue;
        };
        let (name, default) = name.split_once(":-").unwrap_or((name, ""));
        filled.push_str(earlier.get(name).or_else(|| environment.get(name)).map_or(default, String::as_str));
        rest = tail;
    }
    filled.push_str(rest);
    filled
}

fn after_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

fn split_before(text: &str, stop: impl FnMut(char) -> bool) -> (&str, &str) {
    text.find(stop).and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(line: &str) -> String {
        let environment = BTreeMap::from([("HOME_DB".to_owned(), "db".to_owned())]);
        parse(line, &environment).expect(line).remove("A").expect("a value for A")
    }

    #[test]
    fn values_are_read_as_python_dotenv_reads_them() {
        for (line, expected) in [
            ("A=OpenClaw Backend", "OpenClaw Backend"),
            ("A=[\"http://a\",\"http://b\"]", "[\"http://a\",\"http://b\"]"),
            ("A=pa$$word#1", "pa$$word#1"),
            ("A = x # comment", "x"),
            ("A= # comment", ""),
            ("A=#x", "#x"),
            ("A=", ""),
            ("export A=x\r\n", "x"),
            ("A=\"two\\nlines\" # comment", "two\nlines"),
            ("A=\"first\nsecond\"", "first\nsecond"),
            ("A='${HOME_DB}\\'\\n'", "${HOME_DB}'\\n"),
            ("B=x\nA=${B}/${HOME_DB}/${NONE:-c}/${NONE}/$B/${", "x/db/c//$B/${"),
            ("A=1\nA=2", "2"),
            ("\u{feff}A=x", "x"),
            ("# comment A=1\n\nC\nA=x", "x"),
        ] {
            assert_eq!(value(line), expected, "{line}");
        }
    }

    #[test]
    fn a_fault_tells_its_line_and_no_value() {
        for (text, line) in [
            ("A=1\n\nc4n4ry c4n4ry=1", 3),
            ("A='c4n4ry", 1),
            ("# x\nA=\"c4n4ry\" c4n4ry\n", 2),
            ("=c4n4ry", 1),
            ("A='it''c4n4ry'", 1),
        ] {
            let fault = parse(text, &BTreeMap::new()).expect_err(text);
            assert_eq!(fault.line, line, "{text}");
            assert!(!fault.reason.contains("c4n4ry"), "{}", fault.reason);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_loop_or_panic(text in "[A=\\n'\"\\\\$ {}#\u{e4}]{0,60}") {
            let _ = parse(&text, &BTreeMap::new());
        }
    }
}

//! Reads a config file and says where in it something is wrong.
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::Config;
use super::error::ConfigError;
use super::section::must_be_within;

/// Longest file that is read: configurations and secrets are small, and a mistyped path may lead to anything.
const FILE_BYTES_MAX: u64 = 1_048_576;

/// Reads a small text file. The text is wiped when dropped: any of our files may hold a secret.
pub(super) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_BYTES_MAX) {
        return Ok(text);
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {FILE_BYTES_MAX} bytes")))
}

/// Reads a configuration and lists the keys that the file sets, as `section.key`.
pub(super) fn parse(text: &str, name: &str) -> Result<(Config, Vec<String>), ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let place = |at: usize| place(text, name, at);
    let syntax = |error: toml::de::Error| ConfigError::Syntax {
        place: place(error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    };
    let table = DeTable::parse(text).map_err(syntax)?;
    let entries = entries(table.get_ref());
    let known = Config::default().shown();
    for entry in &entries {
        if !known.iter().any(|(key, _)| *key == entry.key || entry.is_section_of(key)) {
            let suggestion = suggestion(&entry.key, known.iter().map(|(key, _)| key.as_str()));
            return Err(ConfigError::UnknownKey { key: entry.key.clone(), place: place(entry.span.start), suggestion });
        }
    }
    let config: Config = toml::from_str(text).map_err(|error| wrong_value(&error, &entries, &place))?;
    Ok((config, entries.into_iter().filter(|entry| !entry.is_table).map(|entry| entry.key).collect()))
}

/// A key of the file, with the stretch of text from the key to the end of its value.
struct Entry {
    key: String,
    span: Range<usize>,
    is_table: bool,
    is_text: bool,
}

impl Entry {
    fn is_section_of(&self, key: &str) -> bool {
        key.split_once('.').is_some_and(|(section, _)| section == self.key)
    }
}

fn entries(root: &DeTable<'_>) -> Vec<Entry> {
    let mut all = Vec::new();
    for (section, value) in root {
        all.push(entry(section.get_ref().to_string(), section.span(), value));
        if let DeValue::Table(keys) = value.get_ref() {
            for (key, value) in keys {
                all.push(entry(format!("{}.{}", section.get_ref(), key.get_ref()), key.span(), value));
            }
        }
    }
    all.sort_by_key(|entry| entry.span.start);
    all
}

fn entry(key: String, span: Range<usize>, value: &Spanned<DeValue<'_>>) -> Entry {
    let value_span = value.span();
    Entry {
        key,
        span: span.start..value_span.end.max(span.end),
        is_table: matches!(value.get_ref(), DeValue::Table(_)),
        is_text: matches!(value.get_ref(), DeValue::String(_)),
    }
}

/// Puts an error of the deserializer into our words. Its own may repeat the value, so a secret's is not used.
fn wrong_value(error: &toml::de::Error, entries: &[Entry], place: &impl Fn(usize) -> String) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let Some(entry) = entries.iter().filter(|entry| entry.span.contains(&at)).min_by_key(|entry| entry.span.len())
    else {
        return ConfigError::Syntax { place: place(at), reason: "holds a value of the wrong type".to_owned() };
    };
    let defaults = Config::default();
    let is_secret = defaults.shown().iter().any(|(key, shown)| *key == entry.key && shown.secret);
    let reason = match defaults.range_of(&entry.key) {
        Some(number) => must_be_within(&number.allowed),
        None if !entry.key.contains('.') => "must be a table".to_owned(),
        None if is_secret && !entry.is_text => "must be a text in quotes".to_owned(),
        None if error.message().starts_with("invalid") => format!("has an {}", error.message()),
        None => error.message().to_owned(),
    };
    ConfigError::Invalid { key: entry.key.clone(), origin: Some(place(entry.span.start)), reason }
}

/// Finds the key that was probably meant.
fn suggestion<'a>(wrong: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let (section, name) = match wrong.split_once('.') {
        Some((section, name)) => (section, name),
        None => ("", wrong),
    };
    let names = known.clone().filter_map(|key| key.split_once('.'));
    if let Some((home, _)) = names.clone().find(|(home, key)| *key == name && *home != section) {
        return Some(format!("{home}.{name}"));
    }
    let in_section = names.clone().filter(|(home, _)| *home == section).map(|(_, key)| key);
    let sections = names.clone().map(|(home, _)| home);
    let similar = if section.is_empty() { closest(name, sections) } else { closest(name, in_section) };
    similar.map(str::to_owned)
}

/// Returns the most similar word, if one is similar enough to have been meant.
pub(super) fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.chars().take(64).collect();
    known
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn place(text: &str, name: &str, at: usize) -> String {
    let (before, _) = text.split_at_checked(at).unwrap_or((text, ""));
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    format!("{name}, line {line}, column {column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(text, "x.toml").expect_err(text).to_string()
    }

    #[test]
    fn the_keys_of_the_file_are_listed() {
        let text = "log.level = 'debug'\n[server]\nworkers = 2\n[app]\n[limits]\n";
        let (config, keys) = parse(text, "x.toml").expect("valid");
        assert_eq!((config.server.workers, config.log.level.as_str()), (2, "debug"));
        assert_eq!(keys, ["log.level", "server.workers"]);
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place_and_a_suggestion() {
        for (text, sentence) in [
            (
                "[limits]\n bodybytes_max = 1",
                "x.toml, line 2, column 2: unknown key `limits.bodybytes_max`, did you mean `body_bytes_max`?",
            ),
            ("workers = 1", "x.toml, line 1, column 1: unknown key `workers`, did you mean `server.workers`?"),
            ("[app]\nlisten = []", "x.toml, line 2, column 1: unknown key `app.listen`, did you mean `server.listen`?"),
            ("[sever]\nworkers = 1", "x.toml, line 1, column 2: unknown key `sever`, did you mean `server`?"),
            (
                "[store]\nzzz = 1",
                "x.toml, line 2, column 1: unknown key `store.zzz`; config/default.toml lists all keys",
            ),
        ] {
            assert_eq!(refusal(text), sentence);
        }
    }

    #[test]
    fn a_wrong_value_is_told_with_its_key_and_what_is_allowed() {
        for (text, sentence) in [
            (
                "[server]\nworkers = 'two'",
                "`server.workers` (x.toml, line 2, column 1) must be a whole number from 0 to 256",
            ),
            (
                "[server]\nworkers = -1",
                "`server.workers` (x.toml, line 2, column 1) must be a whole number from 0 to 256",
            ),
            ("server = 5", "`server` (x.toml, line 1, column 1) must be a table"),
            (
                "[server]\nlisten = ['127.0.0.1:1', 'x']",
                "`server.listen` (x.toml, line 2, column 1) must be `host:port`, for example `127.0.0.1:8000` or `[::1]:8000`, not `x`",
            ),
            (
                "[auth]\nlocal_clients = 'all'",
                "`auth.local_clients` (x.toml, line 2, column 1) must be `token` or `trusted`, not `all`",
            ),
            (
                "[gateway]\nstore_thinking = 1",
                "`gateway.store_thinking` (x.toml, line 2, column 1) has an invalid type: integer `1`, expected a boolean",
            ),
        ] {
            assert_eq!(refusal(text), sentence);
        }
        assert!(refusal("[server\n").starts_with("x.toml, line 1, column "));
    }

    #[test]
    fn no_error_repeats_a_secret() {
        for text in [
            "[auth]\nadmin_token = 987654321",
            "[auth]\nadmin_token = ['987654321']",
            "[auth]\nadmin_token = 987654321x",
            "[auth]\nadmin_token = \"987654321",
            "[auth.admin_token]\n987654321 = 1",
            "[gateway]\ntoken = 987654321.5",
            "[store]\nencryption_key = '987654321'",
            "[store]\nurl = 'mysql://u:987654321@h/a'",
            "[store]\nurl = 987654321",
        ] {
            let sentence = refusal(text);
            assert!(!sentence.contains("987654321"), "{sentence}");
        }
    }
}

//! What people and scripts read. A reader that goes away (`| head`) is no error.
use std::fmt::Display;
use std::io::{Error, ErrorKind, Write};
use std::sync::OnceLock;

use super::failure::Failure;

/// Why a line could not be printed, the first time that one could not.
static UNPRINTED: OnceLock<Error> = OnceLock::new();

/// Prints a line on standard output. What cannot be printed makes the command fail when its work is done.
pub(super) fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        // A second error says nothing new.
        let _ = UNPRINTED.set(error);
    }
}

/// Tells whether all that was said was printed: it may have been a secret that is shown once.
pub(super) fn printed() -> Result<(), Failure> {
    match UNPRINTED.get() {
        Some(error) => Err(Failure::new(format!("standard output cannot be written: {error}"))),
        None => Ok(()),
    }
}

/// Prints a line on standard error.
pub(super) fn complain(line: impl Display) {
    // There is no better place to say that this failed.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints rows in columns as wide as their widest cell; the last column is not padded.
pub(super) fn columns(indent: &str, rows: &[Vec<String>]) {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
        }
        say(line.trim_end());
    }
}

/// Prints a value for scripts.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(error.to_string()))?;
    say(text);
    Ok(())
}

/// Shortens a time of the wire for people, for example `2026-11-20 17:31:05`; all times are UTC.
pub(super) fn date(iso: &str) -> String {
    match iso.split_once('T') {
        Some((day, time)) => format!("{day} {}", time.split(['.', 'Z']).next().unwrap_or_default()),
        None => "-".to_owned(),
    }
}

/// Reads a text of an answer; empty where there is none.
pub(super) fn text<'a>(value: &'a serde_json::Value, field: &str) -> &'a str {
    value.get(field).and_then(serde_json::Value::as_str).unwrap_or_default()
}

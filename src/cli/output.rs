//! What people and scripts read. A reader that goes away (`| head`) is no error.
use std::fmt::Display;
use std::io::Write;

/// Prints a line on standard output.
pub(super) fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    // Whoever read it has gone, and the command's work is done all the same.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
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

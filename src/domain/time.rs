//! Times on the wire: ISO-8601 in UTC with milliseconds and `Z`; at rest and inside they are epoch milliseconds.
use jiff::fmt::temporal::DateTimePrinter;

use super::error::Error;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
/// Length of most times as text.
const ISO_BYTES: usize = 24;

/// Formats epoch milliseconds, for example `2026-11-20T17:31:00.000Z`.
pub fn iso(ms: i64) -> String {
    let mut text = String::with_capacity(ISO_BYTES);
    match jiff::Timestamp::from_millisecond(ms).and_then(|at| PRINTER.print_timestamp(&at, &mut text)) {
        Ok(()) => text,
        // Only a damaged row can hold a time outside the years ±9999.
        Err(_) => "0000-01-01T00:00:00.000Z".to_owned(),
    }
}

/// Reads an ISO-8601 time; one without an offset counts as UTC.
pub fn parse_iso(field: &str, value: &str) -> Result<i64, Error> {
    let instant = value.parse::<jiff::Timestamp>().or_else(|_| {
        value
            .parse::<jiff::civil::DateTime>()
            .and_then(|naive| naive.to_zoned(jiff::tz::TimeZone::UTC))
            .map(|z| z.timestamp())
    });
    instant
        .map(|at| at.as_millisecond())
        .map_err(|_| Error::invalid(field, format!("`{field}` must be a time such as `2026-11-20T17:31:00Z`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_out_in_utc_and_come_back() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(parse_iso("at", &iso(1_795_189_101_062)).expect("own form"), 1_795_189_101_062);
        assert_eq!(parse_iso("at", "1970-01-01T01:00:00+01:00").expect("offset"), 0);
        assert_eq!(parse_iso("at", "1970-01-01T00:00:01").expect("naive counts as UTC"), 1_000);
        assert!(parse_iso("at", "yesterday").is_err());
    }
}

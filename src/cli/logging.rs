//! The log: one line on standard error for each record, readable as it stands, with its values as `key=value` behind.
use std::io::Write;

use env_logger::Builder;
use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Record};

use crate::config::LogFilter;
use crate::http::request;

/// What these modules say below their level is told only to whoever names them in the filter.
const QUIET: [(&str, LevelFilter); 4] = [
    // What actix says at its start we say better.
    ("actix_server", LevelFilter::Warn),
    ("actix_web::middleware", LevelFilter::Warn),
    // An error for each request that is no HTTP: strangers could fill the log.
    ("actix_http::h1::decoder", LevelFilter::Off),
    ("actix_http::h1::dispatcher", LevelFilter::Off),
];

/// Starts the log, and has panics told in it.
pub(super) fn start(filter: &LogFilter) {
    let mut builder = filtered(filter);
    builder.format(|buffer, record| {
        let time = buffer.timestamp_millis();
        let style = buffer.default_level_style(record.level());
        let line = Line::of(record);
        writeln!(buffer, "{time} {style}{:<5}{style:#} {}: {}", record.level(), record.target(), line.0)
    });
    if builder.try_init().is_err() {
        super::output::complain("clawbroker: the log was started twice");
    }
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text =
            payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        log::error!(place = place.as_str(), thread = thread.as_str(); "panic: {}", text.unwrap_or("no text"));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            super::output::complain(trace);
        }
    }));
}

fn filtered(filter: &LogFilter) -> Builder {
    let mut builder = Builder::new();
    for (module, level) in QUIET.into_iter().filter(|(module, _)| !names(filter, module)) {
        builder.filter_module(module, level);
    }
    builder.parse_filters(filter.as_str());
    builder
}

/// Tells whether a filter names a module, or one that it is in.
fn names(filter: &LogFilter, module: &str) -> bool {
    filter.split(',').filter_map(|part| part.split_once('=')).any(|(target, _)| module.starts_with(target))
}

/// Message and values of a record, without line breaks: a text from outside cannot pass for a record of its own.
struct Line(String);

impl Line {
    fn of(record: &Record<'_>) -> Self {
        let mut line = Self(String::new());
        line.push(&record.args().to_string());
        let values = record.key_values();
        // Every value can be printed, and printing into memory does not fail.
        let _ = values.visit(&mut line);
        if values.get(Key::from("request_id")).is_none()
            && let Some(id) = request::current_id()
        {
            line.pair("request_id", &id);
        }
        line
    }

    fn push(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_control() { self.0.extend(c.escape_default()) } else { self.0.push(c) }
        }
    }

    fn pair(&mut self, key: &str, value: &str) {
        self.0.push(' ');
        self.push(key);
        self.0.push('=');
        let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
        if plain { self.push(value) } else { self.push(&format!("{value:?}")) }
    }
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.pair(key.as_str(), &value.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use log::{Level, Log as _, Metadata};

    use super::*;

    #[test]
    fn strangers_do_not_fill_the_log() {
        let tells = |filter: &str, target: &str| {
            let logger = filtered(&filter.parse().expect("a filter")).build();
            logger.enabled(&Metadata::builder().level(Level::Error).target(target).build())
        };
        for module in ["actix_http::h1::dispatcher", "actix_http::h1::decoder"] {
            for quiet in ["info", "trace", "info,clawbroker=debug"] {
                assert!(!tells(quiet, module), "{quiet}: {module}");
            }
            for named in ["info,actix_http=error", "info,actix_http::h1=debug", &format!("info,{module}=error")] {
                assert!(tells(named, module), "{named}: {module}");
            }
        }
        assert!(tells("info", "actix_http::ws") && tells("info", "actix_server"));
    }

    #[test]
    fn a_line_holds_message_and_values_and_no_break() {
        let values = [("gateway_id", "lab"), ("cause", "no \"way\"\n"), ("none", "")];
        let record = Record::builder().args(format_args!("a\nb")).key_values(&values).build();
        assert_eq!(Line::of(&record).0, r#"a\nb gateway_id=lab cause="no \"way\"\n" none="""#);
    }
}

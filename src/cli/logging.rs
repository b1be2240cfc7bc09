//! The log: one line on standard error for each record, readable as it stands, with its values as `key=value` behind.
use std::io::Write;

use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Record};

use crate::config::LogFilter;
use crate::http::request;

/// Starts the log, and has panics told in it.
pub(super) fn start(filter: &LogFilter) {
    let mut builder = env_logger::Builder::new();
    // What actix says at its start we say better; whoever names the module in the filter hears it.
    for module in ["actix_server", "actix_web::middleware"] {
        builder.filter_module(module, LevelFilter::Warn);
    }
    builder.parse_filters(filter.as_str()).format(|buffer, record| {
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
    use super::*;

    #[test]
    fn a_line_holds_message_and_values_and_no_break() {
        let values = [("gateway_id", "lab"), ("cause", "no \"way\"\n"), ("none", "")];
        let record = Record::builder().args(format_args!("a\nb")).key_values(&values).build();
        assert_eq!(Line::of(&record).0, r#"a\nb gateway_id=lab cause="no \"way\"\n" none="""#);
    }
}

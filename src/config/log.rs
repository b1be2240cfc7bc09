//! `[log]`: what is written to the log.
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::Deserialize;

use super::section::{Section, Shown, listed, quoted, through_text};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A level, or directives such as `info,clawbroker::gateway=debug`. `info` tells the life cycle and nothing per
    /// message, so a busy node can run with it. The ancestors call it `LOG_LEVEL`.
    pub level: LogFilter,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogFilter("info".to_owned()) }
    }
}

impl Section for Log {
    const NAME: &'static str = "log";

    fn shown(&self) -> Vec<Shown> {
        listed!(self { level })
    }
}

/// Filter directives that env_logger understands, checked and in its own words.
#[derive(Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// Level names with what they mean here; Python's among them, because the ancestors' files use them.
const LEVELS: &[(&str, &str)] = &[
    ("off", "off"),
    ("error", "error"),
    ("critical", "error"),
    ("fatal", "error"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
    ("notset", "trace"),
];

const DIRECTIVES_MAX: usize = 64;

impl LogFilter {
    /// Returns the directives for `env_logger::Builder::parse_filters`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        if value.trim().is_empty() || value.split(',').count() > DIRECTIVES_MAX {
            return Err(format!("must be a level or up to {DIRECTIVES_MAX} directives"));
        }
        let directives: Result<Vec<String>, String> = value.split(',').map(|part| directive(part.trim())).collect();
        directives.map(|all| Self(all.join(",")))
    }
}

/// Reads `level` or `target=level`. A bare target is refused: env_logger takes a mistyped level for one and goes silent.
fn directive(text: &str) -> Result<String, String> {
    let (target, level) = match text.split_once('=') {
        Some((target, level)) => (Some(target.trim()), level.trim()),
        None => (None, text),
    };
    let lower = level.to_ascii_lowercase();
    let Some((_, level)) = LEVELS.iter().find(|(name, _)| *name == lower) else {
        return Err(format!(
            "has no level {}; levels are off, error, warn, info, debug, trace, and `target=level` sets one of them",
            quoted(level)
        ));
    };
    match target {
        None => Ok((*level).to_owned()),
        Some(target) if is_target(target) => Ok(format!("{target}={level}")),
        Some(target) => {
            Err(format!("has a wrong target {}; a target looks like `clawbroker::gateway`", quoted(target)))
        }
    }
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-' | b'.'))
}

impl Deref for LogFilter {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

through_text!(LogFilter, secret: false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_python_and_directives_of_env_logger_are_understood() {
        let cases = [
            ("INFO", "info"),
            ("WARNING", "warn"),
            ("CRITICAL", "error"),
            ("NotSet", "trace"),
            (" debug ", "debug"),
            ("warn, clawbroker::gateway=DEBUG", "warn,clawbroker::gateway=debug"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<LogFilter>().expect(text).as_str(), expected);
        }
    }

    #[test]
    fn a_mistyped_level_does_not_pass_for_a_target() {
        for wrong in ["", "inof", "clawbroker", "info,", "a b=info", "clawbroker=loud"] {
            assert!(wrong.parse::<LogFilter>().is_err(), "{wrong}");
        }
    }
}

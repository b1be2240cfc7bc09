//! Why a configuration was refused. No variant ever holds the value of a secret (SEC-1).
use std::fmt;

/// What is wrong with the configuration; the sentence says which key, where it was set and what would be right.
#[derive(Debug)]
pub enum ConfigError {
    /// A value that may not be. `origin` is filled in by the loader.
    Invalid { key: String, origin: Option<String>, reason: String },
    /// A key that does not exist, with its place in the file.
    UnknownKey { key: String, place: String, suggestion: Option<String> },
    /// A file that cannot be understood.
    Syntax { place: String, reason: String },
    /// Two names for one setting in one place, with different values.
    Conflict { layer: &'static str, first: String, second: String },
    /// A file that was asked for and cannot be read.
    Unreadable { file: String, origin: String, source: std::io::Error },
}

impl ConfigError {
    /// Adds where the value came from.
    #[must_use]
    pub(super) fn set_by(mut self, find: impl FnOnce(&str) -> Option<String>) -> Self {
        if let Self::Invalid { key, origin: origin @ None, .. } = &mut self {
            *origin = find(key);
        }
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { key, origin: Some(origin), reason } => write!(f, "`{key}` ({origin}) {reason}"),
            Self::Invalid { key, origin: None, reason } => write!(f, "`{key}` {reason}"),
            Self::UnknownKey { key, place, suggestion: Some(known) } => {
                write!(f, "{place}: unknown key `{key}`, did you mean `{known}`?")
            }
            Self::UnknownKey { key, place, suggestion: None } => {
                write!(f, "{place}: unknown key `{key}`; config/default.toml lists all keys")
            }
            Self::Syntax { place, reason } => write!(f, "{place}: {reason}"),
            Self::Conflict { layer, first, second } => {
                write!(f, "{layer} sets both `{first}` and `{second}`, which name one setting: keep one of them")
            }
            Self::Unreadable { file, origin, source } => write!(f, "cannot read `{file}` ({origin}): {source}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

//! Why a command failed: one sentence that says what to do.
use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::domain::error::{Error, ErrorCode};

/// Ends a command. The sentence never holds a secret.
#[derive(Debug)]
pub(super) struct Failure {
    sentence: String,
    usage: bool,
}

impl Failure {
    pub(super) fn new(sentence: impl Into<String>) -> Self {
        // libpq, for one, says what went wrong on several lines.
        let lines: Vec<String> = sentence.into().lines().map(|line| line.trim().to_owned()).collect();
        Self { sentence: lines.join(" ").trim_end().to_owned(), usage: false }
    }

    /// The command line was wrong: exit status 2.
    pub(super) fn usage(sentence: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(sentence) }
    }

    /// A refusal of the API's own checks, where no server runs: it names the fields, as a server's refusal does.
    pub(super) fn of_field(error: Error) -> Self {
        let named = error.fields().iter().filter(|fault| !fault.field.is_empty());
        let sentences: Vec<String> = named.map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
        if sentences.is_empty() { error.into() } else { Self::new(sentences.join("; ")) }
    }

    /// Prints the sentence and returns the exit status.
    pub(super) fn report(&self) -> ExitCode {
        super::output::complain(format_args!("clawbroker: {}", self.sentence));
        ExitCode::from(if self.usage { 2 } else { 1 })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<Error> for Failure {
    /// An internal error hides its cause from callers of the API; whoever sits at the terminal may see it.
    fn from(error: Error) -> Self {
        match (error.code(), error.source()) {
            (ErrorCode::Internal, Some(source)) => Self::new(source.to_string()),
            _ => Self::new(error.message()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match &error {
            ConfigError::Invalid { origin: Some(origin), .. } if origin.starts_with("flag ") => {
                Self::usage(error.to_string())
            }
            _ => Self::new(error.to_string()),
        }
    }
}

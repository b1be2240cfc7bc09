//! What goes into the loader and what comes out of it.
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::error::ConfigError;
use super::{Config, aliases, dotenv, file};
use crate::domain::secret::Secret;

/// What the command line says; empty where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--listen`, several times or with commas
    pub listen: Vec<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--database-url`
    pub database_url: Option<Secret>,
    /// `--trust-local`
    pub trust_local: bool,
    /// `--log-level`
    pub log_level: Option<String>,
}

/// What surrounds the process. Given in, so that tests touch nothing that others share. Not printable: it holds secrets.
pub struct Sources {
    pub env: BTreeMap<String, String>,
    pub working_dir: PathBuf,
}

/// A setting as `doctor` explains it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// `section.key`
    pub key: String,
    /// The value; a secret shows as `[set]`.
    pub value: String,
    /// Who set it: for example `flag --listen`, `environment HOST`, `.env PORT`, `config/clawbroker.toml`, `default`.
    pub origin: String,
}

/// The configuration and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub origins: Vec<Setting>,
    /// Sentences about what is legal but probably not meant. None holds a secret.
    pub warnings: Vec<String>,
}

impl Sources {
    /// Reads the environment and the working directory of this process.
    pub fn from_process() -> Result<Self, ConfigError> {
        let mut env = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => {
                    env.insert(name, value);
                }
                Err(_) if aliases::is_name(&name) => {
                    let place = format!("environment {name}");
                    return Err(ConfigError::Syntax { place, reason: "the value is not UTF-8".to_owned() });
                }
                Err(_) => {}
            }
        }
        let working_dir = std::env::current_dir().map_err(|source| ConfigError::Unreadable {
            file: ".".to_owned(),
            origin: "working directory".to_owned(),
            source,
        })?;
        Ok(Self { env, working_dir })
    }

    /// Reads `.env` of the working directory, if there is one.
    pub(super) fn dotenv(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let path = self.working_dir.join(".env");
        // Some people keep a Python environment in a directory of that name.
        if path.is_dir() {
            return Ok(BTreeMap::new());
        }
        match file::read_text(&path) {
            Ok(text) => dotenv::parse(&text, &self.env).map_err(|fault| ConfigError::Syntax {
                place: format!(".env, line {}", fault.line),
                reason: format!("the line {}", fault.reason),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(source) => {
                Err(ConfigError::Unreadable { file: ".env".to_owned(), origin: "working directory".to_owned(), source })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_called_dotenv_is_not_read() {
        let dir = super::super::tests::Dir::new();
        std::fs::create_dir(dir.path().join(".env")).expect("a directory");
        dir.load(&[]).expect("an environment of Python, not ours");
    }

    #[test]
    fn the_process_has_a_working_directory() {
        assert!(Sources::from_process().expect("readable").working_dir.is_absolute());
    }
}

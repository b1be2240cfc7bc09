//! Puts the configuration together: flag, environment, `.env`, config file, default, the first that is there.
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::hosts::TrustedHost;
use super::{Config, DatabaseUrl, LocalClients, dotenv, env, file};
use crate::domain::secret::Secret;

/// Read from the working directory when no other config file is named; it need not exist.
const CONFIG_FILE: &str = "config/clawbroker.toml";
/// Below this a token can be guessed with patience; 24 characters of base64 are 144 bits.
const ADMIN_TOKEN_BYTES_ADVISED: usize = 24;

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
                Err(_) if env::is_known(&name) => {
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
}

impl Config {
    /// Loads and checks the configuration. Paths in the result are absolute.
    pub fn load(overrides: &Overrides, sources: &Sources) -> Result<Loaded, ConfigError> {
        let dotenv = read_dotenv(sources)?;
        let environment = env::Environment::new(&sources.env, &dotenv, &sources.working_dir);
        let mut loading = Loading::default();
        loading.take_file(overrides, &environment, &sources.working_dir)?;
        loading.take_environment(&environment)?;
        loading.take_flags(overrides)?;
        loading.settle_paths(&sources.working_dir);
        loading.config.validate().map_err(|error| error.from_origin(|key| loading.origins.get(key).cloned()))?;
        let mut warnings = environment.near_misses();
        warnings.extend(loading.warnings(overrides));
        Ok(Loaded { origins: loading.settings(), config: loading.config, warnings })
    }
}

fn read_dotenv(sources: &Sources) -> Result<BTreeMap<String, String>, ConfigError> {
    let path = sources.working_dir.join(".env");
    // Some people keep a Python environment in a directory of that name.
    if path.is_dir() {
        return Ok(BTreeMap::new());
    }
    match file::read_text(&path) {
        Ok(text) => dotenv::parse(&text, &sources.env).map_err(|fault| ConfigError::Syntax {
            place: format!(".env, line {}", fault.line),
            reason: format!("the line {}", fault.reason),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(source) => {
            Err(ConfigError::Unreadable { file: ".env".to_owned(), origin: "working directory".to_owned(), source })
        }
    }
}

/// The configuration while its layers are laid on, lowest first.
#[derive(Default)]
struct Loading {
    config: Config,
    /// Who set a key; those that nobody set are not in it.
    origins: BTreeMap<String, String>,
}

impl Loading {
    fn take_file(&mut self, overrides: &Overrides, environment: &env::Environment<'_>, working_dir: &Path) -> Result<(), ConfigError> {
        let (path, named_by) = match (&overrides.config, environment.find(&[env::CONFIG], false)?) {
            (Some(path), _) => (path.clone(), Some("flag --config".to_owned())),
            (None, Some(found)) => (PathBuf::from(found.value.reveal()), Some(found.origin)),
            (None, None) => (PathBuf::from(CONFIG_FILE), None),
        };
        let name = path.display().to_string();
        let text = match (file::read_text(&working_dir.join(&path)), named_by) {
            (Ok(text), _) => text,
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            (Err(source), named_by) => {
                let origin = named_by.unwrap_or_else(|| "working directory".to_owned());
                return Err(ConfigError::Unreadable { file: name, origin, source });
            }
        };
        let (config, keys) = file::parse(&text, &name)?;
        self.config = config;
        self.origins.extend(keys.into_iter().map(|key| (key, name.clone())));
        Ok(())
    }

    fn take_environment(&mut self, environment: &env::Environment<'_>) -> Result<(), ConfigError> {
        if let Some((listeners, origin)) = environment.find_listeners(&self.config.server.listen)? {
            self.config.server.listen = listeners;
            self.set("server.listen", origin);
        }
        for alias in env::ALIASES {
            if let Some(found) = environment.find_alias(alias)? {
                alias.apply(&mut self.config, &found)?;
                self.set(alias.key, found.origin);
            }
        }
        // Only for the gateway that is registered here, and only where it has no token of its own: a token that is ours
        // alone must not go to another machine.
        if self.config.gateway.url.is_some()
            && self.config.gateway.token.is_none()
            && let Some(found) = environment.find(&[env::AUTH_TOKEN], true)?
        {
            self.config.gateway.token = Some(found.value);
            self.set("gateway.token", found.origin);
        }
        Ok(())
    }

    fn take_flags(&mut self, overrides: &Overrides) -> Result<(), ConfigError> {
        let invalid = |key: &str, flag: &str, reason: String| ConfigError::Invalid {
            key: key.to_owned(),
            origin: Some(format!("flag {flag}")),
            reason,
        };
        if !overrides.listen.is_empty() {
            env::put_list(&mut self.config.server.listen, &overrides.listen.join(","))
                .map_err(|reason| invalid("server.listen", "--listen", reason))?;
            self.set("server.listen", "flag --listen");
        }
        if let Some(data_dir) = &overrides.data_dir {
            self.config.app.data_dir.clone_from(data_dir);
            self.set("app.data_dir", "flag --data-dir");
        }
        if let Some(url) = &overrides.database_url {
            self.config.store.url =
                url.reveal().parse().map_err(|reason| invalid("store.url", "--database-url", reason))?;
            self.set("store.url", "flag --database-url");
        }
        if overrides.trust_local {
            self.config.auth.local_clients = LocalClients::Trusted;
            self.set("auth.local_clients", "flag --trust-local");
        }
        if let Some(level) = &overrides.log_level {
            self.config.log.level = level.parse().map_err(|reason| invalid("log.level", "--log-level", reason))?;
            self.set("log.level", "flag --log-level");
        }
        Ok(())
    }

    /// Makes paths absolute and puts the database into the data directory, unless someone put it elsewhere.
    fn settle_paths(&mut self, working_dir: &Path) {
        let absolute = |path: &Path| working_dir.join(path).components().collect::<PathBuf>();
        let app = &mut self.config.app;
        // An empty path stays empty, for validation to refuse.
        if !app.data_dir.as_os_str().is_empty() {
            app.data_dir = absolute(&app.data_dir);
        }
        if !self.origins.contains_key("store.url") {
            self.config.store.url = DatabaseUrl::in_data_dir(&app.data_dir);
        } else if let DatabaseUrl::Sqlite(path) = &mut self.config.store.url {
            *path = absolute(path);
        }
    }

    fn set(&mut self, key: &str, origin: impl Into<String>) {
        self.origins.insert(key.to_owned(), origin.into());
    }

    fn settings(&self) -> Vec<Setting> {
        let origin = |key: &String| self.origins.get(key).cloned().unwrap_or_else(|| "default".to_owned());
        let shown = self.config.shown().into_iter();
        shown.map(|(key, shown)| Setting { origin: origin(&key), key, value: shown.value }).collect()
    }

    fn warnings(&self, overrides: &Overrides) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_short = |token: &Secret| token.reveal().len() < ADMIN_TOKEN_BYTES_ADVISED;
        if self.config.auth.admin_token.as_ref().is_some_and(is_short) {
            warnings.push(format!(
                "`auth.admin_token` is shorter than {ADMIN_TOKEN_BYTES_ADVISED} characters and can be guessed; `openssl rand -hex 32` makes a good one"
            ));
        }
        if self.config.server.trusted_hosts.contains(&TrustedHost::Any) {
            warnings.push("`server.trusted_hosts` holds `*`, which switches the protection against DNS rebinding off".to_owned());
        }
        if overrides.database_url.as_ref().is_some_and(|url| url.reveal().contains('@')) {
            warnings.push(
                "everybody on this machine can read the password in `--database-url`; use `DATABASE_URL` or `DATABASE_URL_FILE`".to_owned(),
            );
        }
        warnings
    }
}

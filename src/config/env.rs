//! Environment variables and `.env`: the ancestors' names and ours.
//!
//! A variable that is empty counts as not set, because compose files pass on what is not there as empty. A setting that
//! holds a secret may come as `NAME_FILE` instead, with the path of a file that holds it.
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::Config;
use super::error::ConfigError;
use super::file;
use super::listen::ListenAddress;
use super::section::quoted;
use crate::domain::secret::Secret;

/// A setting with its names; several ancestors may have named it.
pub(super) struct Alias {
    pub(super) names: &'static [&'static str],
    pub(super) key: &'static str,
    /// May also come as `NAME_FILE`.
    secret: bool,
    /// Sets the value; the error ends a sentence that begins with the key and repeats no secret.
    set: fn(&mut Config, &str) -> Result<(), String>,
}

const fn plain(names: &'static [&'static str], key: &'static str, set: fn(&mut Config, &str) -> Result<(), String>) -> Alias {
    Alias { names, key, secret: false, set }
}

const fn secret(names: &'static [&'static str], key: &'static str, set: fn(&mut Config, &str) -> Result<(), String>) -> Alias {
    Alias { names, key, secret: true, set }
}

/// Everything but the listeners, which have rules of their own.
pub(super) const ALIASES: &[Alias] = &[
    plain(&["APP_NAME"], "app.name", |config, text| put(&mut config.app.name, text)),
    plain(&["APP_ENV"], "app.environment", |config, text| put(&mut config.app.environment, text)),
    plain(&["CLAWBROKER_DATA_DIR"], "app.data_dir", |config, text| put(&mut config.app.data_dir, text)),
    plain(&["CLAWBROKER_PUBLIC_URL"], "app.public_url", |config, text| put_some(&mut config.app.public_url, text)),
    plain(&["CORS_ORIGINS", "APP_ALLOWED_ORIGINS"], "server.cors_origins", |config, text| {
        put_list(&mut config.server.cors_origins, text)
    }),
    plain(&["APP_TRUSTED_HOSTS"], "server.trusted_hosts", |config, text| {
        put_list(&mut config.server.trusted_hosts, text)
    }),
    secret(&["CLAWBROKER_ADMIN_TOKEN"], "auth.admin_token", |config, text| put_secret(&mut config.auth.admin_token, text)),
    secret(&[AUTH_TOKEN], "auth.operator_token", |config, text| put_secret(&mut config.auth.operator_token, text)),
    secret(&["DATABASE_URL"], "store.url", |config, text| put(&mut config.store.url, text)),
    secret(&["CLAWBROKER_ENCRYPTION_KEY"], "store.encryption_key", |config, text| {
        put_some(&mut config.store.encryption_key, text)
    }),
    plain(&["OPENCLAW_GATEWAY_URL"], "gateway.url", |config, text| put_some(&mut config.gateway.url, text)),
    plain(&["HEALTH_CHECK_INTERVAL"], "gateway.health_check_interval_s", |config, text| {
        config.gateway.health_check_interval_s = seconds_of_milliseconds(text)?;
        Ok(())
    }),
    plain(&["LOG_LEVEL"], "log.level", |config, text| put(&mut config.log.level, text)),
    plain(&["TOOL_LOOP_MODEL"], "legacy.tool_loop_model", |config, text| put_some(&mut config.legacy.tool_loop_model, text)),
    plain(&["TOOL_LOOP_MODEL_OVERRIDES"], "legacy.tool_loop_model_overrides", |config, text| {
        put_some(&mut config.legacy.tool_loop_model_overrides, text)
    }),
];

/// The ancestor's one token: ours for an operator, and that of the gateway which the configuration registers.
pub(super) const AUTH_TOKEN: &str = "AUTH_TOKEN";
/// Names the config file, so it is read before all others.
pub(super) const CONFIG: &str = "CLAWBROKER_CONFIG";
const LISTEN: &str = "CLAWBROKER_LISTEN";
const HOST: &str = "HOST";
const PORT: &str = "PORT";

impl Alias {
    /// Sets the value in the configuration.
    pub(super) fn apply(&self, config: &mut Config, found: &Found) -> Result<(), ConfigError> {
        (self.set)(config, found.value.reveal()).map_err(|reason| found.invalid(self.key, reason))
    }
}

/// A value with where it stood.
pub(super) struct Found {
    pub(super) value: Secret,
    pub(super) origin: String,
    /// 0 is the environment, 1 is `.env`: the smaller one wins.
    rank: usize,
}

impl Found {
    pub(super) fn invalid(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { key: key.to_owned(), origin: Some(self.origin.clone()), reason: reason.into() }
    }
}

/// The process environment before `.env`.
pub(super) struct Environment<'a> {
    layers: [(&'static str, &'a BTreeMap<String, String>); 2],
    working_dir: &'a Path,
}

impl<'a> Environment<'a> {
    pub(super) fn new(env: &'a BTreeMap<String, String>, dotenv: &'a BTreeMap<String, String>, working_dir: &'a Path) -> Self {
        Self { layers: [("environment", env), (".env", dotenv)], working_dir }
    }

    pub(super) fn find_alias(&self, alias: &Alias) -> Result<Option<Found>, ConfigError> {
        self.find(alias.names, alias.secret)
    }

    /// Finds a value under any of its names. Two names with different values in one place are an error: either choice
    /// would surprise somebody.
    pub(super) fn find(&self, names: &[&str], secret: bool) -> Result<Option<Found>, ConfigError> {
        for (rank, (label, values)) in self.layers.iter().enumerate() {
            let mut first: Option<(String, Secret)> = None;
            for name in names {
                for (name, value) in [(*name).to_owned(), format!("{name}_FILE")].into_iter().zip([false, true]) {
                    if value && !secret {
                        continue;
                    }
                    let Some(text) = values.get(&name).map(|text| text.trim()).filter(|text| !text.is_empty()) else { continue };
                    let text = if value { self.read_secret(&name, label, text)? } else { Secret::new(text) };
                    match &first {
                        Some((_, other)) if *other == text => {}
                        Some((other, _)) => {
                            return Err(ConfigError::Conflict { layer: label, first: other.clone(), second: name });
                        }
                        None => first = Some((name, text)),
                    }
                }
            }
            if let Some((name, value)) = first {
                return Ok(Some(Found { value, origin: format!("{label} {name}"), rank }));
            }
        }
        Ok(None)
    }

    fn read_secret(&self, name: &str, label: &str, path: &str) -> Result<Secret, ConfigError> {
        let origin = format!("{label} {name}");
        match file::read_text(&self.working_dir.join(path)) {
            Ok(text) if text.trim().is_empty() => {
                Err(ConfigError::Syntax { place: format!("{path} ({origin})"), reason: "the file is empty".to_owned() })
            }
            Ok(text) => Ok(Secret::new(text.trim())),
            Err(source) => Err(ConfigError::Unreadable { file: path.to_owned(), origin, source }),
        }
    }

    /// Finds the listeners. `CLAWBROKER_LISTEN` names all of them; `HOST` and `PORT` together describe one, and the half
    /// that is missing is taken from the first listener of the layers below.
    pub(super) fn find_listeners(&self, below: &[ListenAddress]) -> Result<Option<(Vec<ListenAddress>, String)>, ConfigError> {
        const KEY: &str = "server.listen";
        let mut base: Vec<ListenAddress> = below.to_vec();
        let whole = self.find(&[LISTEN], false)?;
        if let Some(found) = &whole {
            put_list(&mut base, found.value.reveal()).map_err(|reason| found.invalid(KEY, reason))?;
        }
        let (host, port) = (self.find(&[HOST], false)?, self.find(&[PORT], false)?);
        let halves = [host.as_ref(), port.as_ref()].into_iter().flatten();
        let Some(rank) = halves.clone().map(|found| found.rank).min() else {
            return Ok(whole.map(|found| (base, found.origin)));
        };
        if let Some(whole) = whole.filter(|whole| whole.rank <= rank) {
            return Ok(Some((base, whole.origin)));
        }
        let first = base.first();
        let port_number = match &port {
            Some(found) => found
                .value
                .reveal()
                .parse()
                .map_err(|_| found.invalid(KEY, format!("must have a port from 0 to 65535, not {}", quoted(found.value.reveal()))))?,
            None => first.map_or(8_000, ListenAddress::port),
        };
        let host_name = host.as_ref().map(|found| found.value.reveal()).or(first.map(ListenAddress::host));
        let origin = halves.map(|found| found.origin.as_str()).collect::<Vec<_>>().join(", ");
        let listener = ListenAddress::new(host_name.unwrap_or("127.0.0.1"), port_number).map_err(|reason| {
            ConfigError::Invalid { key: KEY.to_owned(), origin: Some(origin.clone()), reason }
        })?;
        Ok(Some((vec![listener], origin)))
    }

    /// Lists variables that look like one of ours but are none. Not an error: container platforms make such names
    /// themselves, for example `CLAWBROKER_SERVICE_HOST`.
    pub(super) fn near_misses(&self) -> Vec<String> {
        let ours = || known_names().filter(|name| name.starts_with("CLAWBROKER_"));
        let mut warnings = Vec::new();
        for (label, values) in &self.layers {
            for name in values.keys().filter(|name| name.starts_with("CLAWBROKER_") && !is_known(name)) {
                // The common beginning would make any two names similar.
                let tail = |name: &'static str| name.strip_prefix("CLAWBROKER_").unwrap_or(name);
                let wrong = name.strip_prefix("CLAWBROKER_").unwrap_or(name);
                if let Some(meant) = file::closest(wrong, ours().map(tail)) {
                    warnings.push(format!("{label} `{name}` is not a setting, did you mean `CLAWBROKER_{meant}`?"));
                }
            }
        }
        warnings
    }
}

fn known_names() -> impl Iterator<Item = &'static str> {
    ALIASES.iter().flat_map(|alias| alias.names.iter().copied()).chain([CONFIG, LISTEN, HOST, PORT])
}

/// Tells whether we would read a variable of this name.
pub(super) fn is_known(name: &str) -> bool {
    let file = name.strip_suffix("_FILE");
    known_names().any(|known| known == name)
        || ALIASES.iter().any(|alias| alias.secret && alias.names.iter().any(|known| file == Some(*known)))
}

fn put<T: FromStr<Err: fmt::Display>>(slot: &mut T, text: &str) -> Result<(), String> {
    *slot = text.parse().map_err(|error: T::Err| error.to_string())?;
    Ok(())
}

fn put_some<T: FromStr<Err: fmt::Display>>(slot: &mut Option<T>, text: &str) -> Result<(), String> {
    *slot = Some(text.parse().map_err(|error: T::Err| error.to_string())?);
    Ok(())
}

fn put_secret(slot: &mut Option<Secret>, text: &str) -> Result<(), String> {
    *slot = Some(Secret::new(text));
    Ok(())
}

/// Reads a list with commas, or a JSON list of texts, which can also be empty.
pub(super) fn put_list<T: FromStr<Err = String>>(slot: &mut Vec<T>, text: &str) -> Result<(), String> {
    let items: Vec<String> = if text.trim_start().starts_with('[') && !text.trim_end().ends_with(|c: char| c.is_ascii_digit()) {
        serde_json::from_str(text).map_err(|_| "must be a list with commas, or a JSON list of texts".to_owned())?
    } else {
        text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
    };
    *slot = items.iter().map(|item| item.parse()).collect::<Result<_, _>>()?;
    Ok(())
}

/// Reads the ancestor's milliseconds. Values under a second are refused rather than taken for seconds.
fn seconds_of_milliseconds(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(ms) if (1_000..=86_400_000).contains(&ms) => Ok(ms.div_ceil(1_000)),
        _ => Err(format!("must be in milliseconds here, from 1000 to 86400000, not {}", quoted(text))),
    }
}

//! Looks settings up in the environment, then in `.env`.
//!
//! A variable that is empty counts as not set, because compose files pass on what is not there as empty. A setting that
//! holds a secret may come as `NAME_FILE` instead, with the path of a file that holds it.
use std::collections::BTreeMap;
use std::path::Path;

use super::aliases::{self, Alias, HOST, LISTEN, PORT, put_list};
use super::error::ConfigError;
use super::file;
use super::listen::ListenAddress;
use super::section::quoted;
use crate::domain::secret::Secret;

/// A value with where it stood.
pub(super) struct Found {
    pub(super) value: Secret,
    /// For example `environment HOST`.
    pub(super) origin: String,
    /// 0 is the environment, 1 is `.env`: the smaller one wins.
    rank: usize,
}

impl Found {
    pub(super) fn invalid(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { key: key.to_owned(), origin: Some(self.origin.clone()), reason: reason.into() }
    }
}

/// The process environment, with `.env` behind it.
pub(super) struct Environment<'a> {
    layers: [(&'static str, &'a BTreeMap<String, String>); 2],
    working_dir: &'a Path,
}

impl<'a> Environment<'a> {
    pub(super) fn new(
        env: &'a BTreeMap<String, String>,
        dotenv: &'a BTreeMap<String, String>,
        working_dir: &'a Path,
    ) -> Self {
        Self { layers: [("environment", env), (".env", dotenv)], working_dir }
    }

    /// Finds a setting under any of its names.
    ///
    /// Two names with different values in one layer are an error, since either choice would surprise somebody.
    pub(super) fn find(&self, alias: &Alias) -> Result<Option<Found>, ConfigError> {
        for (rank, (layer, values)) in self.layers.iter().enumerate() {
            let mut first: Option<(String, Secret)> = None;
            for name in alias.names {
                let file_name = format!("{name}_FILE");
                let direct = value(values, name).map(|text| ((*name).to_owned(), Secret::new(text)));
                let from_file = match value(values, &file_name).filter(|_| alias.secret) {
                    Some(path) => Some((file_name.clone(), self.read_secret(layer, &file_name, path)?)),
                    None => None,
                };
                for (name, value) in [direct, from_file].into_iter().flatten() {
                    match &first {
                        Some((_, other)) if *other == value => {}
                        Some((other, _)) => {
                            return Err(ConfigError::Conflict { layer, first: other.clone(), second: name });
                        }
                        None => first = Some((name, value)),
                    }
                }
            }
            if let Some((name, value)) = first {
                return Ok(Some(Found { value, origin: format!("{layer} {name}"), rank }));
            }
        }
        Ok(None)
    }

    /// Finds a variable that is no secret and has one name.
    pub(super) fn find_plain(&self, name: &str) -> Option<Found> {
        self.layers.iter().enumerate().find_map(|(rank, (layer, values))| {
            let text = value(values, name)?;
            Some(Found { value: Secret::new(text), origin: format!("{layer} {name}"), rank })
        })
    }

    fn read_secret(&self, layer: &str, name: &str, path: &str) -> Result<Secret, ConfigError> {
        let origin = format!("{layer} {name}");
        match file::read_text(&self.working_dir.join(path)) {
            Ok(text) if text.trim().is_empty() => {
                Err(ConfigError::Syntax { place: origin, reason: format!("the file `{path}` is empty") })
            }
            Ok(text) => Ok(Secret::new(text.trim())),
            Err(source) => Err(ConfigError::Unreadable { file: path.to_owned(), origin, source }),
        }
    }

    /// Finds the listeners and who named them.
    ///
    /// `CLAWBROKER_LISTEN` names all of them. `HOST` and `PORT` describe one listener; the half that is not set is taken
    /// from the first listener of the layers `below`.
    pub(super) fn find_listeners(
        &self,
        below: &[ListenAddress],
    ) -> Result<Option<(Vec<ListenAddress>, String)>, ConfigError> {
        const KEY: &str = "server.listen";
        let mut listeners = below.to_vec();
        let whole = self.find_plain(LISTEN);
        if let Some(found) = &whole {
            put_list(&mut listeners, found.value.reveal()).map_err(|reason| found.invalid(KEY, reason))?;
        }
        let (host, port) = (self.find_plain(HOST), self.find_plain(PORT));
        let halves = || [&host, &port].into_iter().flatten();
        let rank = halves().map(|found| found.rank).min();
        if let Some(whole) = whole.filter(|whole| rank.is_none_or(|rank| whole.rank <= rank)) {
            return Ok(Some((listeners, whole.origin)));
        }
        if rank.is_none() {
            return Ok(None);
        }
        let mut host_and_port = listeners.first().map_or(("127.0.0.1", 8_000), |first| (first.host(), first.port()));
        if let Some(found) = &port {
            let text = found.value.reveal();
            let wrong = |_| found.invalid(KEY, format!("must have a port from 0 to 65535, not {}", quoted(text)));
            host_and_port.1 = text.parse().map_err(wrong)?;
        }
        if let Some(found) = &host {
            host_and_port.0 = found.value.reveal();
        }
        let origin = halves().map(|found| found.origin.as_str()).collect::<Vec<_>>().join(", ");
        match ListenAddress::new(host_and_port.0, host_and_port.1) {
            Ok(listener) => Ok(Some((vec![listener], origin))),
            Err(reason) => Err(ConfigError::Invalid { key: KEY.to_owned(), origin: Some(origin), reason }),
        }
    }

    /// Lists variables that look like one of ours but are none. Not an error: container platforms make such names
    /// themselves, for example `CLAWBROKER_SERVICE_HOST`.
    pub(super) fn near_misses(&self) -> Vec<String> {
        const OURS: &str = "CLAWBROKER_";
        let mut warnings = Vec::new();
        for (layer, values) in &self.layers {
            for name in values.keys().filter(|name| !aliases::is_name(name)) {
                // Compared without the common beginning, which would make any two names similar.
                let Some(tail) = name.strip_prefix(OURS) else { continue };
                if let Some(meant) = file::closest(tail, aliases::names().filter_map(|known| known.strip_prefix(OURS)))
                {
                    warnings.push(format!("{layer} `{name}` is not a setting, did you mean `{OURS}{meant}`?"));
                }
            }
        }
        warnings
    }
}

fn value<'a>(values: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    values.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Dir, load, setting};

    #[test]
    fn host_and_port_describe_one_listener_over_the_layers() {
        for (env, dotenv, listen, origin) in [
            (vec![("HOST", "0.0.0.0"), ("PORT", "9")], "", "0.0.0.0:9", "environment HOST, environment PORT"),
            (vec![("PORT", "9")], "HOST=0.0.0.0\nPORT=1", "0.0.0.0:9", ".env HOST, environment PORT"),
            (vec![("HOST", "0.0.0.0")], "CLAWBROKER_LISTEN=[::1]:7,[::1]:8", "0.0.0.0:7", "environment HOST"),
            (vec![("CLAWBROKER_LISTEN", "[::1]:7")], "HOST=x", "[::1]:7", "environment CLAWBROKER_LISTEN"),
            (vec![("CLAWBROKER_LISTEN", "[::1]:7"), ("HOST", "x")], "", "[::1]:7", "environment CLAWBROKER_LISTEN"),
            (vec![], "CLAWBROKER_LISTEN=[::1]:7", "[::1]:7", ".env CLAWBROKER_LISTEN"),
            (vec![("HOST", " "), ("PORT", "")], "", "127.0.0.1:8000", "default"),
        ] {
            let loaded = Dir::new().write(".env", dotenv).load(&env).expect(listen);
            assert_eq!(setting(&loaded, "server.listen"), (listen.to_owned(), origin.to_owned()));
        }
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_last_line_end() {
        let dir = Dir::new().write("token", "c4n4ry\n").write(".env", "AUTH_TOKEN=other");
        let loaded = dir.load(&[("AUTH_TOKEN_FILE", "token")]).expect("valid");
        assert_eq!(loaded.config.auth.operator_token.as_ref().map(|token| token.reveal()), Some("c4n4ry"));
        assert_eq!(
            setting(&loaded, "auth.operator_token"),
            ("[set]".to_owned(), "environment AUTH_TOKEN_FILE".to_owned())
        );
        let absolute = dir.path().join("token").display().to_string();
        dir.load(&[("CLAWBROKER_ADMIN_TOKEN_FILE", &absolute)]).expect("an absolute path");
    }

    #[test]
    fn a_secret_file_that_is_missing_empty_or_doubted_is_refused() {
        let dir = Dir::new().write("token", "c4n4ry").write("empty", " \n");
        for (env, beginning) in [
            (vec![("AUTH_TOKEN_FILE", "none")], "cannot read `none` (environment AUTH_TOKEN_FILE): "),
            (vec![("AUTH_TOKEN_FILE", "empty")], "environment AUTH_TOKEN_FILE: the file `empty` is empty"),
            (
                vec![("AUTH_TOKEN_FILE", "token"), ("AUTH_TOKEN", "c4n4ry2")],
                "environment sets both `AUTH_TOKEN` and `AUTH_TOKEN_FILE`, which name one setting",
            ),
            (
                vec![("CORS_ORIGINS", "http://a"), ("APP_ALLOWED_ORIGINS", "http://b")],
                "environment sets both `CORS_ORIGINS` and `APP_ALLOWED_ORIGINS`",
            ),
        ] {
            let sentence = dir.load(&env).expect_err(beginning).to_string();
            assert!(sentence.starts_with(beginning) && !sentence.contains("c4n4ry"), "{sentence}");
        }
        dir.load(&[("AUTH_TOKEN_FILE", "token"), ("AUTH_TOKEN", "c4n4ry")]).expect("twice the same is no doubt");
    }

    #[test]
    fn a_mistyped_name_is_a_warning() {
        let env = [("CLAWBROKER_LISTN", "x"), ("CLAWBROKER_SERVICE_HOST", "x"), ("CLAWBROKER_PORT", "tcp://x")];
        assert_eq!(
            load(&env).expect("not an error").warnings,
            ["environment `CLAWBROKER_LISTN` is not a setting, did you mean `CLAWBROKER_LISTEN`?"]
        );
    }
}

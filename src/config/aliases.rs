//! The names of settings in the environment: the ancestors' as they were, ours with `CLAWBROKER_` before them.
use std::fmt;
use std::str::FromStr;

use super::Config;
use super::env::Found;
use super::error::ConfigError;
use super::section::quoted;
use crate::domain::secret::Secret;

/// A setting with its names; several ancestors may have named it.
pub(super) struct Alias {
    pub(super) names: &'static [&'static str],
    pub(super) key: &'static str,
    /// May also come as `NAME_FILE`.
    pub(super) secret: bool,
    set: Set,
}

/// Sets the value; the error ends a sentence that begins with the key and repeats no secret.
type Set = fn(&mut Config, &str) -> Result<(), String>;

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
    secret(&["CLAWBROKER_ADMIN_TOKEN"], "auth.admin_token", |config, text| {
        put_secret(&mut config.auth.admin_token, text)
    }),
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
    plain(&["TOOL_LOOP_MODEL"], "legacy.tool_loop_model", |config, text| {
        put_some(&mut config.legacy.tool_loop_model, text)
    }),
    plain(&["TOOL_LOOP_MODEL_OVERRIDES"], "legacy.tool_loop_model_overrides", |config, text| {
        put_some(&mut config.legacy.tool_loop_model_overrides, text)
    }),
];

/// The ancestor's one token: ours for an operator, and that of the gateway which the configuration registers.
pub(super) const AUTH_TOKEN: &str = "AUTH_TOKEN";
/// Names the config file, so it is read before all others.
pub(super) const CONFIG: &str = "CLAWBROKER_CONFIG";
/// Names all listeners.
pub(super) const LISTEN: &str = "CLAWBROKER_LISTEN";
/// The host of the ancestors' one listener.
pub(super) const HOST: &str = "HOST";
/// The port of the ancestors' one listener.
pub(super) const PORT: &str = "PORT";

const fn plain(names: &'static [&'static str], key: &'static str, set: Set) -> Alias {
    Alias { names, key, secret: false, set }
}

const fn secret(names: &'static [&'static str], key: &'static str, set: Set) -> Alias {
    Alias { names, key, secret: true, set }
}

impl Alias {
    /// Sets the value in the configuration.
    pub(super) fn apply(&self, config: &mut Config, found: &Found) -> Result<(), ConfigError> {
        (self.set)(config, found.value.reveal()).map_err(|reason| found.invalid(self.key, reason))
    }
}

/// Lists all names but those that end in `_FILE`.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALIASES.iter().flat_map(|alias| alias.names.iter().copied()).chain([CONFIG, LISTEN, HOST, PORT])
}

/// Tells whether we would read a variable of this name.
pub(super) fn is_name(name: &str) -> bool {
    let without_file = name.strip_suffix("_FILE");
    let is_file_of = |alias: &Alias| alias.secret && alias.names.iter().any(|known| without_file == Some(*known));
    names().any(|known| known == name) || ALIASES.iter().any(is_file_of)
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
    // An IPv6 address begins with a bracket, too.
    let is_json = text.trim().strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with(['"', ']']));
    let items: Vec<String> = if is_json {
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

#[cfg(test)]
mod tests {
    use super::super::tests::{load, setting};
    use super::*;

    #[test]
    fn every_name_sets_its_key() {
        let key = "07".repeat(32);
        for (name, text, key, shown) in [
            ("APP_NAME", "OpenClaw Backend", "app.name", "OpenClaw Backend"),
            ("APP_ENV", "production", "app.environment", "production"),
            ("CLAWBROKER_DATA_DIR", "/srv/x", "app.data_dir", "/srv/x"),
            ("CLAWBROKER_PUBLIC_URL", "https://x.example/", "app.public_url", "https://x.example"),
            ("CLAWBROKER_LISTEN", "[::1]:1, 0.0.0.0:2", "server.listen", "[::1]:1, 0.0.0.0:2"),
            ("HOST", "0.0.0.0", "server.listen", "0.0.0.0:8000"),
            ("HOST", "::", "server.listen", "[::]:8000"),
            ("PORT", "18789", "server.listen", "127.0.0.1:18789"),
            ("CORS_ORIGINS", "http://a:1,http://b:2/", "server.cors_origins", "http://a:1, http://b:2"),
            ("APP_ALLOWED_ORIGINS", r#"["http://a:1", "http://b:2"]"#, "server.cors_origins", "http://a:1, http://b:2"),
            ("CORS_ORIGINS", "[]", "server.cors_origins", "[none]"),
            ("APP_TRUSTED_HOSTS", "localhost,*.corp,[::1]", "server.trusted_hosts", "localhost, *.corp, ::1"),
            ("APP_TRUSTED_HOSTS", "[::1]", "server.trusted_hosts", "::1"),
            ("CLAWBROKER_ADMIN_TOKEN", "c4n4ry", "auth.admin_token", "[set]"),
            ("AUTH_TOKEN", "your-token", "auth.operator_token", "[set]"),
            ("DATABASE_URL", "sqlite:////srv/chat.db", "store.url", "sqlite:/srv/chat.db"),
            ("DATABASE_URL", "postgresql+asyncpg://u:c4n4ry@db:5432/x", "store.url", "postgresql://[set]@db:5432/x"),
            ("CLAWBROKER_ENCRYPTION_KEY", &key, "store.encryption_key", "[set]"),
            ("OPENCLAW_GATEWAY_URL", "ws://127.0.0.1:18789", "gateway.url", "ws://127.0.0.1:18789"),
            ("HEALTH_CHECK_INTERVAL", "30000", "gateway.health_check_interval_s", "30"),
            ("HEALTH_CHECK_INTERVAL", "1500", "gateway.health_check_interval_s", "2"),
            ("LOG_LEVEL", "WARNING", "log.level", "warn"),
            ("TOOL_LOOP_MODEL", "gpt", "legacy.tool_loop_model", "gpt"),
            ("TOOL_LOOP_MODEL_OVERRIDES", "a=b,c=d", "legacy.tool_loop_model_overrides", "a=b,c=d"),
        ] {
            let loaded = load(&[(name, text)]).expect(name);
            assert_eq!(setting(&loaded, key), (shown.to_owned(), format!("environment {name}")), "{name}={text}");
            assert!(is_name(name), "{name}");
        }
    }

    #[test]
    fn every_wrong_value_is_told_with_its_key_and_its_name_and_no_secret() {
        for (name, text, beginning) in [
            ("PORT", "tcp://10.0.0.1:80", "`server.listen` (environment PORT) must have a port from 0 to 65535"),
            ("HOST", "a b", "`server.listen` (environment HOST) has no valid host in `a b`"),
            ("CLAWBROKER_LISTEN", "8000", "`server.listen` (environment CLAWBROKER_LISTEN) must be `host:port`"),
            ("CORS_ORIGINS", "*", "`server.cors_origins` (environment CORS_ORIGINS) must name its origins"),
            ("CORS_ORIGINS", r#"["http://a", 1]"#, "`server.cors_origins` (environment CORS_ORIGINS) must be a list"),
            ("DATABASE_URL", "c4n4ry", "`store.url` (environment DATABASE_URL) must begin with `sqlite:`"),
            ("AUTH_TOKEN", "c4n4ry c4n4ry", "`auth.operator_token` (environment AUTH_TOKEN) must be 1 to 512"),
            (
                "CLAWBROKER_ENCRYPTION_KEY",
                "c4n4ry",
                "`store.encryption_key` (environment CLAWBROKER_ENCRYPTION_KEY) must",
            ),
            (
                "OPENCLAW_GATEWAY_URL",
                "ws://u:c4n4ry@x",
                "`gateway.url` (environment OPENCLAW_GATEWAY_URL) must be a `ws://`",
            ),
            (
                "HEALTH_CHECK_INTERVAL",
                "30",
                "`gateway.health_check_interval_s` (environment HEALTH_CHECK_INTERVAL) must be in milliseconds here, from 1000",
            ),
            ("LOG_LEVEL", "loud", "`log.level` (environment LOG_LEVEL) has no level `loud`"),
        ] {
            let sentence = load(&[(name, text)]).expect_err(name).to_string();
            assert!(sentence.starts_with(beginning) && !sentence.contains("c4n4ry"), "{sentence}");
        }
    }

    #[test]
    fn names_of_files_are_known_for_secrets_only() {
        assert!(is_name("AUTH_TOKEN_FILE") && is_name("DATABASE_URL_FILE"));
        assert!(!is_name("APP_NAME_FILE") && !is_name("HOST_FILE") && !is_name("PATH"));
    }
}

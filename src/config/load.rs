//! Puts the configuration together: flag, environment, `.env`, config file, default, the first that is there.
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::aliases::{self, ALIASES};
use super::error::ConfigError;
use super::hosts::TrustedHost;
use super::sources::{Loaded, Overrides, Setting, Sources};
use super::{Config, DatabaseUrl, LocalClients, env, file};
use crate::domain::secret::Secret;

/// Read from the working directory when no other config file is named; it need not exist.
const CONFIG_FILE: &str = "config/clawbroker.toml";
/// Below this a token can be guessed with patience; 24 characters of base64 are 144 bits.
const ADMIN_TOKEN_BYTES_ADVISED: usize = 24;

impl Config {
    /// Loads and checks the configuration. Paths in the result are absolute.
    pub fn load(overrides: &Overrides, sources: &Sources) -> Result<Loaded, ConfigError> {
        let dotenv = sources.dotenv()?;
        let environment = env::Environment::new(&sources.env, &dotenv, &sources.working_dir);
        let mut loading = Loading::default();
        loading.take_file(overrides, &environment, &sources.working_dir)?;
        loading.take_environment(&environment)?;
        loading.take_flags(overrides)?;
        loading.settle_paths(&sources.working_dir);
        loading.config.validate().map_err(|error| error.set_by(|key| loading.origins.get(key).cloned()))?;
        let mut warnings = environment.near_misses();
        warnings.extend(loading.warnings(overrides));
        Ok(Loaded { origins: loading.settings(), config: loading.config, warnings })
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
    fn take_file(
        &mut self,
        overrides: &Overrides,
        environment: &env::Environment<'_>,
        working_dir: &Path,
    ) -> Result<(), ConfigError> {
        let (path, named_by) = match (&overrides.config, environment.find_plain(aliases::CONFIG)) {
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
        for alias in ALIASES {
            if let Some(found) = environment.find(alias)? {
                alias.apply(&mut self.config, &found)?;
                self.set(alias.key, found.origin);
            }
        }
        self.lend_token_to_gateway(environment)
    }

    /// Gives the ancestor's `AUTH_TOKEN` to the gateway that is registered here, if that has no token of its own. An
    /// operator's token from a config file is ours alone and never goes to another machine.
    fn lend_token_to_gateway(&mut self, environment: &env::Environment<'_>) -> Result<(), ConfigError> {
        let gateway = &mut self.config.gateway;
        let lent = ALIASES.iter().find(|alias| alias.names.contains(&aliases::AUTH_TOKEN));
        if gateway.url.is_some()
            && gateway.token.is_none()
            && let Some(found) = lent.map(|alias| environment.find(alias)).transpose()?.flatten()
        {
            gateway.token = Some(found.value);
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
            aliases::put_list(&mut self.config.server.listen, &overrides.listen.join(","))
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
            warnings.push(
                "`server.trusted_hosts` holds `*`, which switches the protection against DNS rebinding off".to_owned(),
            );
        }
        if overrides.database_url.as_ref().is_some_and(|url| url.reveal().contains('@')) {
            warnings.push(
                "everybody on this machine can read the password in `--database-url`; use `DATABASE_URL` or `DATABASE_URL_FILE`".to_owned(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Dir, setting};
    use super::*;

    #[test]
    fn the_first_layer_that_has_a_value_wins() {
        let flag = Overrides { log_level: Some("trace".to_owned()), ..Overrides::default() };
        let env: &[(&str, &str)] = &[("LOG_LEVEL", "debug")];
        let none: (Overrides, &[(&str, &str)]) = (Overrides::default(), &[]);
        for (overrides, env, dotenv, file, value, origin) in [
            (flag, env, "LOG_LEVEL=INFO", "log.level = 'warn'", "trace", "flag --log-level"),
            (none.0.clone(), env, "LOG_LEVEL=INFO", "log.level = 'warn'", "debug", "environment LOG_LEVEL"),
            (none.0.clone(), none.1, "LOG_LEVEL=ERROR", "log.level = 'warn'", "error", ".env LOG_LEVEL"),
            (none.0.clone(), none.1, "", "log.level = 'warn'", "warn", "config/clawbroker.toml"),
            (none.0, none.1, "", "", "info", "default"),
        ] {
            let dir = Dir::new().write(".env", dotenv).write(CONFIG_FILE, file);
            let loaded = dir.load_with(&overrides, env).expect(origin);
            assert_eq!(setting(&loaded, "log.level"), (value.to_owned(), origin.to_owned()));
        }
    }

    #[test]
    fn every_flag_wins_over_the_environment() {
        let overrides = Overrides {
            config: None,
            listen: vec!["[::1]:1".to_owned(), "127.0.0.1:2,127.0.0.1:3".to_owned()],
            data_dir: Some(PathBuf::from("elsewhere")),
            database_url: Some(Secret::new("postgresql://u:c4n4ry@h/x")),
            trust_local: true,
            log_level: Some("DEBUG".to_owned()),
        };
        let dir = Dir::new();
        let env = [("HOST", "x"), ("CLAWBROKER_DATA_DIR", "x"), ("DATABASE_URL", "sqlite:x"), ("LOG_LEVEL", "off")];
        let loaded = dir.load_with(&overrides, &env).expect("valid");
        let data_dir = dir.path().join("elsewhere").display().to_string();
        for (key, value, flag) in [
            ("server.listen", "[::1]:1, 127.0.0.1:2, 127.0.0.1:3", "--listen"),
            ("app.data_dir", data_dir.as_str(), "--data-dir"),
            ("store.url", "postgresql://[set]@h/x", "--database-url"),
            ("auth.local_clients", "trusted", "--trust-local"),
            ("log.level", "debug", "--log-level"),
        ] {
            assert_eq!(setting(&loaded, key), (value.to_owned(), format!("flag {flag}")));
        }
        assert!(loaded.warnings.iter().any(|text| text.contains("`--database-url`")), "{:?}", loaded.warnings);
    }

    #[test]
    fn trust_is_refused_with_the_flag_and_the_listener_in_the_sentence() {
        let overrides = Overrides { trust_local: true, ..Overrides::default() };
        let error = Dir::new().load_with(&overrides, &[("HOST", "0.0.0.0")]).expect_err("open to all");
        assert_eq!(
            error.to_string(),
            "`auth.local_clients` (flag --trust-local) may be `trusted` only while every listener is on a loopback \
             address, and `0.0.0.0:8000` is not"
        );
    }

    #[test]
    fn the_database_follows_the_data_directory_unless_it_was_put_elsewhere() {
        let dir = Dir::new();
        for (env, path) in [
            (vec![], "data/clawbroker.db"),
            (vec![("CLAWBROKER_DATA_DIR", "./var")], "var/clawbroker.db"),
            (vec![("CLAWBROKER_DATA_DIR", "var"), ("DATABASE_URL", "sqlite:///./data/chat.db")], "data/chat.db"),
        ] {
            let loaded = dir.load(&env).expect(path);
            assert_eq!(loaded.config.store.url, DatabaseUrl::Sqlite(dir.path().join(path)));
        }
    }

    #[test]
    fn a_config_file_that_was_named_must_be_there() {
        let dir = Dir::new().write("a.toml", "app.name = 'a'").write("b.toml", "app.name = 'b'");
        let env = [("CLAWBROKER_CONFIG", "a.toml")];
        let flag = |path: &str| Overrides { config: Some(PathBuf::from(path)), ..Overrides::default() };
        assert_eq!(setting(&dir.load(&env).expect("valid"), "app.name"), ("a".to_owned(), "a.toml".to_owned()));
        let by_flag = dir.load_with(&flag("b.toml"), &env).expect("valid");
        assert_eq!(setting(&by_flag, "app.name"), ("b".to_owned(), "b.toml".to_owned()));
        let error = dir.load_with(&flag("c.toml"), &[]).expect_err("missing").to_string();
        assert!(error.starts_with("cannot read `c.toml` (flag --config): "), "{error}");
    }

    #[test]
    fn auth_token_is_also_the_token_of_the_registered_gateway() {
        let url = ("OPENCLAW_GATEWAY_URL", "ws://127.0.0.1:18789");
        let token = |dir: &Dir, env: &[(&str, &str)]| {
            let loaded = dir.load(env).expect("valid");
            loaded.config.gateway.token.map(|token| token.reveal().to_owned())
        };
        let dir = Dir::new();
        assert_eq!(token(&dir, &[url, ("AUTH_TOKEN", "one")]).as_deref(), Some("one"));
        assert_eq!(token(&dir, &[("AUTH_TOKEN", "one")]), None, "no gateway, no token");
        let dir = dir.write(CONFIG_FILE, "auth.operator_token = 'ours'");
        assert_eq!(token(&dir, &[url]), None, "an operator's token does not leave");
        let dir = dir.write(CONFIG_FILE, "gateway.token = 'its'");
        assert_eq!(token(&dir, &[url, ("AUTH_TOKEN", "one")]).as_deref(), Some("its"));
    }

    #[test]
    fn the_ancestors_files_are_read_as_they_are() {
        let tasks = "APP_NAME=OpenClaw Backend\nAPP_ENV=development\n\n\
            DATABASE_URL=postgresql+asyncpg://openclaw:openclaw_password@localhost:5432/openclaw_db\n\n\
            HOST=0.0.0.0\nPORT=8000\n\nLOG_LEVEL=INFO\n";
        let chat = "DATABASE_URL=sqlite:///./data/chat.db\nCORS_ORIGINS=http://localhost:3000,http://localhost:5173\n";
        let lifecycle = "PORT=18789\nHOST=127.0.0.1\nAUTH_TOKEN=your-token\nLOG_LEVEL=info\nHEALTH_CHECK_INTERVAL=30000\n\
            DATABASE_URL=postgresql://user:pass@host:6432/ainative_app\nOPENCLAW_GATEWAY_URL=ws://127.0.0.1:18789\n";
        for text in [tasks, chat, lifecycle] {
            let loaded = Dir::new().write(".env", text).load(&[]).expect(text);
            let from_dotenv = loaded.origins.iter().filter(|setting| setting.origin.starts_with(".env ")).count();
            assert!(from_dotenv > 0 && loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            assert!(!format!("{loaded:?}").contains("your-token") && !format!("{loaded:?}").contains("password"));
        }
    }

    #[test]
    fn a_fault_in_dotenv_tells_its_line() {
        let error = Dir::new().write(".env", "A=1\nAUTH_TOKEN='c4n4ry").load(&[]).expect_err("open quote");
        assert_eq!(error.to_string(), ".env, line 2: the line has no closing `'`");
    }
}

//! The configuration: one struct and one file per concern, loaded once by `main` and passed down in parts.
//!
//! Precedence: flag, environment, `.env` in the working directory, config file, default. Nothing here is global, and
//! nothing here changes the process environment. Unknown keys of a file are errors. Every limit of the program has its
//! name here (LIM-1), and no secret is ever printed (SEC-1).
mod aliases;
mod app;
mod auth;
mod channels;
mod database_url;
mod dotenv;
mod encryption_key;
mod env;
mod error;
mod file;
mod gateway;
mod hosts;
mod legacy;
mod limits;
mod listen;
mod load;
mod log;
mod mailbox;
mod origin;
mod retention;
mod section;
mod server;
mod sources;
mod store;

use serde::Deserialize;

pub use app::{App, PublicUrl};
pub use auth::{Auth, LocalClients};
pub use channels::ChannelsConfig;
pub use database_url::DatabaseUrl;
pub use encryption_key::EncryptionKey;
pub use error::ConfigError;
pub use gateway::GatewayConfig;
pub use hosts::{AllowedHosts, TrustedHost};
pub use legacy::Legacy;
pub use limits::Limits;
pub use listen::ListenAddress;
pub use log::{Log, LogFilter};
pub use mailbox::{MailboxConfig, Reach};
pub use origin::CorsOrigin;
pub use retention::RetentionConfig;
pub use section::{Ranged, Section, Show, Shown};
pub use server::Server;
pub use sources::{Loaded, Overrides, Setting, Sources};
pub use store::{Durability, StoreConfig};

/// The whole configuration. Each part goes to whoever needs it; nobody gets the whole.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub app: App,
    pub server: Server,
    pub auth: Auth,
    pub store: StoreConfig,
    pub limits: Limits,
    pub gateway: GatewayConfig,
    pub mailbox: MailboxConfig,
    pub channels: ChannelsConfig,
    pub retention: RetentionConfig,
    pub log: Log,
    pub legacy: Legacy,
}

impl Config {
    /// Checks every section, then what holds between sections.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.app.validate()?;
        self.server.validate()?;
        self.auth.validate()?;
        self.store.validate()?;
        self.limits.validate()?;
        self.gateway.validate()?;
        self.mailbox.validate()?;
        self.channels.validate()?;
        self.retention.validate()?;
        self.log.validate()?;
        self.legacy.validate()?;
        self.auth.check_trust(&self.server, &self.app)
    }

    /// Lists every key as `section.key` with its value; secrets show only that they are set.
    pub fn shown(&self) -> Vec<(String, Shown)> {
        let mut all = Vec::new();
        list(&self.app, &mut all);
        list(&self.server, &mut all);
        list(&self.auth, &mut all);
        list(&self.store, &mut all);
        list(&self.limits, &mut all);
        list(&self.gateway, &mut all);
        list(&self.mailbox, &mut all);
        list(&self.channels, &mut all);
        list(&self.retention, &mut all);
        list(&self.log, &mut all);
        list(&self.legacy, &mut all);
        all
    }

    /// Returns what the number at `section.key` may be; `None` if the key is not a number.
    fn range_of(&self, key: &str) -> Option<Ranged> {
        let (section, key) = key.split_once('.')?;
        let ranges = match section {
            Server::NAME => self.server.ranges(),
            Auth::NAME => self.auth.ranges(),
            StoreConfig::NAME => self.store.ranges(),
            Limits::NAME => self.limits.ranges(),
            GatewayConfig::NAME => self.gateway.ranges(),
            MailboxConfig::NAME => self.mailbox.ranges(),
            ChannelsConfig::NAME => self.channels.ranges(),
            RetentionConfig::NAME => self.retention.ranges(),
            _ => Vec::new(),
        };
        ranges.into_iter().find(|number| number.key == key)
    }
}

fn list<S: Section>(section: &S, all: &mut Vec<(String, Shown)>) {
    all.extend(section.shown().into_iter().map(|shown| (format!("{}.{}", S::NAME, shown.key), shown)));
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::domain::secret::Secret;

    /// A working directory of a test's own.
    pub(super) struct Dir(PathBuf);

    impl Dir {
        pub(super) fn new() -> Self {
            let path = std::env::temp_dir().join(format!("clawbroker-config-{}", uuid::Uuid::now_v7()));
            std::fs::create_dir_all(path.join("config")).expect("a directory");
            Self(path)
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }

        pub(super) fn write(self, name: &str, text: &str) -> Self {
            std::fs::write(self.0.join(name), text).expect("a file");
            self
        }

        pub(super) fn load(&self, env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
            self.load_with(&Overrides::default(), env)
        }

        pub(super) fn load_with(&self, overrides: &Overrides, env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
            let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Config::load(overrides, &Sources { env, working_dir: self.0.clone() })
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            // What is left over is in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Loads in an empty directory.
    pub(super) fn load(env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        Dir::new().load(env)
    }

    /// Returns value and origin of a key.
    pub(super) fn setting(loaded: &Loaded, key: &str) -> (String, String) {
        let found = loaded.origins.iter().find(|setting| setting.key == key).expect("a known key");
        (found.value.clone(), found.origin.clone())
    }

    /// The documented defaults; read by this test only, never at run time.
    const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented: Config = toml::from_str(DEFAULT_TOML).expect("default.toml parses");
        assert_eq!(documented, Config::default());
        documented.validate().expect("the defaults are valid");
    }

    #[test]
    fn every_key_is_documented() {
        let mut section = "";
        let mut documented = Vec::new();
        for line in DEFAULT_TOML.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
            } else if let Some((key, _)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")
                && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            {
                documented.push(format!("{section}.{key}"));
            }
        }
        let keys: Vec<String> = Config::default().shown().into_iter().map(|(key, _)| key).collect();
        assert_eq!(documented, keys, "same keys, same order");
    }

    #[test]
    fn every_number_has_a_range_and_its_default_lies_inside() {
        let config = Config::default();
        for (key, shown) in config.shown() {
            if shown.value.parse::<u64>().is_ok() {
                let range = config.range_of(&key).expect(&key);
                assert!(range.allowed.contains(&range.value), "{key}");
            }
        }
    }

    #[test]
    fn debug_and_the_list_show_no_secret() {
        const CANARY: &str = "c4n4ry-9f2d";
        let mut config = Config::default();
        config.auth.admin_token = Some(Secret::new(CANARY));
        config.auth.operator_token = Some(Secret::new(CANARY));
        config.gateway.token = Some(Secret::new(CANARY));
        config.store.url = format!("postgresql+asyncpg://user:{CANARY}@db/x?password={CANARY}").parse().expect("valid");
        config.store.encryption_key = Some("c4".repeat(32).parse().expect("valid"));
        let text = format!("{config:?} {config:#?} {:?}", config.shown());
        assert!(!text.contains(CANARY), "{text}");
        assert!(!text.contains("c4c4"), "{text}");
        assert!(!text.contains("196, 196"), "{text}");
    }
}

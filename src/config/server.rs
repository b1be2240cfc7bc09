//! `[server]`: where we listen and whom we answer.
use serde::Deserialize;

use super::app::App;
use super::error::ConfigError;
use super::hosts::{AllowedHosts, TrustedHost};
use super::listen::ListenAddress;
use super::origin::CorsOrigin;
use super::section::{Ranged, Section, Shown, listed, ranged};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Listeners. Loopback by default: nobody else reaches a fresh install. `HOST` and `PORT` name one of them.
    pub listen: Vec<ListenAddress>,
    /// Worker threads; 0 is one per core. More only add switches between threads, since workers never block.
    pub workers: usize,
    /// Origins whose pages may call us; the two are where the ancestors' front ends run during development.
    pub cors_origins: Vec<CorsOrigin>,
    /// Hosts that requests may name, beside the listeners' and the public URL's.
    pub trusted_hosts: Vec<TrustedHost>,
    /// How long a stop waits for answers on their way and for the writer.
    /// Ten seconds is what container runtimes wait before they kill.
    pub shutdown_timeout_s: u64,
    /// How long the head of a request may take to arrive; a slow sender does not hold a connection longer than that.
    pub client_request_timeout_ms: u64,
}

impl Default for Server {
    fn default() -> Self {
        let listen = ListenAddress::new("127.0.0.1", 8_000).into_iter().collect();
        let cors_origins = ["http://localhost:3000", "http://localhost:5173"];
        Self {
            listen,
            workers: 0,
            cors_origins: cors_origins.iter().filter_map(|origin| origin.parse().ok()).collect(),
            trusted_hosts: Vec::new(),
            shutdown_timeout_s: 10,
            client_request_timeout_ms: 5_000,
        }
    }
}

/// Each listener costs a socket per worker; more than a handful of addresses is what `0.0.0.0` is for.
const LISTENERS_MAX: usize = 16;
/// Each request is compared with the lists.
const ENTRIES_MAX: usize = 256;

impl Section for Server {
    const NAME: &'static str = "server";

    fn shown(&self) -> Vec<Shown> {
        listed!(self { listen, workers, cors_origins, trusted_hosts, shutdown_timeout_s, client_request_timeout_ms })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self { workers: 0..=256, shutdown_timeout_s: 1..=600, client_request_timeout_ms: 100..=300_000 })
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() || self.listen.len() > LISTENERS_MAX {
            return Err(Self::invalid("listen", format!("must name 1 to {LISTENERS_MAX} listeners")));
        }
        for (index, address) in self.listen.iter().enumerate() {
            if address.port() != 0 && self.listen.iter().skip(index + 1).any(|other| other == address) {
                return Err(Self::invalid("listen", format!("names `{address}` twice")));
            }
        }
        for (key, count) in [("cors_origins", self.cors_origins.len()), ("trusted_hosts", self.trusted_hosts.len())] {
            if count > ENTRIES_MAX {
                return Err(Self::invalid(key, format!("must not have more than {ENTRIES_MAX} entries, not {count}")));
            }
        }
        Ok(())
    }
}

impl Server {
    /// Returns the hosts that requests may name: the trusted ones, the listeners' and the public URL's.
    pub fn allowed_hosts(&self, app: &App) -> AllowedHosts {
        AllowedHosts::new(self, app)
    }

    /// Returns the number of worker threads to start.
    pub fn worker_threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            count => count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete() {
        let server = Server::default();
        assert_eq!((server.listen.len(), server.cors_origins.len()), (1, 2), "no default was dropped as invalid");
        assert!(server.worker_threads() >= 1);
    }

    #[test]
    fn refusals_name_the_key_and_what_is_allowed() {
        let none = Server { listen: Vec::new(), ..Server::default() };
        let slow = Server { shutdown_timeout_s: 0, ..Server::default() };
        let mut twice = Server::default();
        twice.listen.extend(twice.listen.clone());
        for (server, sentence) in [
            (none, "`server.listen` must name 1 to 16 listeners"),
            (slow, "`server.shutdown_timeout_s` must be a whole number from 1 to 600, not 0"),
            (twice, "`server.listen` names `127.0.0.1:8000` twice"),
        ] {
            assert_eq!(server.validate().expect_err(sentence).to_string(), sentence);
        }
    }
}

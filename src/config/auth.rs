//! `[auth]`: how callers prove who they are.
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::app::App;
use super::error::ConfigError;
use super::hosts::TrustedHost;
use super::listen::ListenAddress;
use super::section::{Ranged, Section, Shown, listed, quoted, ranged, through_text};
use super::server::Server;
use crate::domain::secret::Secret;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// What a client on this machine needs. A token by default: any program of any local user could call us otherwise.
    pub local_clients: LocalClients,
    /// Token of the user `admin`, instead of one made at the first start. `CLAWBROKER_ADMIN_TOKEN`.
    pub admin_token: Option<Secret>,
    /// An ancestor's `AUTH_TOKEN`, accepted from an operator.
    pub operator_token: Option<Secret>,
    /// Wrong credentials that one address may send a minute. Twenty lets a person mistype and stops guessing.
    pub wrong_credentials_per_minute: u32,
    /// Addresses whose wrong credentials are counted at a time, some 100 bytes each; the oldest go first.
    pub counted_addresses_max: usize,
    /// How long a WebSocket ticket lasts: it is made just before the socket is opened.
    pub ws_ticket_ttl_s: u64,
    /// Unused tickets held at a time, some 200 bytes each; every socket that may be open can come back at once.
    pub ws_tickets_max: usize,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            local_clients: LocalClients::Token,
            admin_token: None,
            operator_token: None,
            wrong_credentials_per_minute: 20,
            counted_addresses_max: 10_000,
            ws_ticket_ttl_s: 30,
            ws_tickets_max: 20_000,
        }
    }
}

/// What a client on this machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LocalClients {
    /// A token, like everybody.
    #[default]
    Token,
    /// Nothing: it is the user `admin`. For the ancestors' clients, which know no tokens.
    Trusted,
}

impl FromStr for LocalClients {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        match value {
            "token" => Ok(Self::Token),
            "trusted" => Ok(Self::Trusted),
            _ => Err(format!("must be `token` or `trusted`, not {}", quoted(value))),
        }
    }
}

impl fmt::Display for LocalClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::Trusted => "trusted",
        })
    }
}

through_text!(LocalClients, secret: false);

impl Section for Auth {
    const NAME: &'static str = "auth";

    fn shown(&self) -> Vec<Shown> {
        listed!(self {
            local_clients,
            admin_token,
            operator_token,
            wrong_credentials_per_minute,
            counted_addresses_max,
            ws_ticket_ttl_s,
            ws_tickets_max,
        })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self {
            wrong_credentials_per_minute: 1..=10_000,
            counted_addresses_max: 100..=1_000_000,
            ws_ticket_ttl_s: 5..=600,
            ws_tickets_max: 1..=1_000_000,
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (key, token) in [("admin_token", &self.admin_token), ("operator_token", &self.operator_token)] {
            if !token.as_ref().is_none_or(is_token) {
                return Err(Self::invalid(key, "must be 1 to 512 visible ASCII characters without spaces"));
            }
        }
        if self.admin_token.is_some() && self.admin_token == self.operator_token {
            return Err(Self::invalid(
                "admin_token",
                "must differ from `auth.operator_token`, or every operator is an admin",
            ));
        }
        Ok(())
    }
}

impl Auth {
    /// Refuses trust in local clients where a stranger could pass for one.
    pub(super) fn check_trust(&self, server: &Server, app: &App) -> Result<(), ConfigError> {
        if self.local_clients != LocalClients::Trusted {
            return Ok(());
        }
        let refused = |reason: String| Err(Self::invalid("local_clients", reason));
        if let Some(open) = server.listen.iter().find(|address| !address.is_loopback()) {
            return refused(format!(
                "may be `trusted` only while every listener is on a loopback address, and `{open}` is not"
            ));
        }
        // Behind a proxy on this machine every stranger connects from loopback.
        let public = app.public_url.as_ref().map(|url| url.host());
        if let Some(host) =
            public.filter(|host| !ListenAddress::new(host, 0).is_ok_and(|address| address.is_loopback()))
        {
            return refused(format!(
                "may not be `trusted` while `app.public_url` names `{host}`: through a proxy strangers come from loopback, too"
            ));
        }
        if server.trusted_hosts.contains(&TrustedHost::Any) {
            return refused(
                "may not be `trusted` while `server.trusted_hosts` holds `*`: any web page could call us".to_owned(),
            );
        }
        Ok(())
    }
}

/// Tells whether it can stand in an `Authorization` header.
pub(super) fn is_token(secret: &Secret) -> bool {
    (1..=512).contains(&secret.reveal().len()) && secret.reveal().bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(listen: &str, trusted_host: Option<&str>, public_url: Option<&str>) -> Result<(), String> {
        let mut config = super::super::Config::default();
        config.auth.local_clients = LocalClients::Trusted;
        config.server.listen.push(listen.parse().expect("listener"));
        config.server.trusted_hosts = trusted_host.iter().map(|host| host.parse().expect("host")).collect();
        config.app.public_url = public_url.map(|url| url.parse().expect("url"));
        config.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn local_clients_are_trusted_only_where_strangers_cannot_pass_for_one() {
        trusted("[::1]:8000", Some("*.localhost"), Some("http://localhost:8000")).expect("all local");
        for (listen, host, url, named) in [
            ("0.0.0.0:8000", None, None, "`0.0.0.0:8000`"),
            ("192.168.1.5:8000", None, None, "`192.168.1.5:8000`"),
            ("[::1]:8000", None, Some("https://chat.example.com"), "`chat.example.com`"),
            ("[::1]:8000", None, Some("https://ch!t.example.com"), "`ch!t.example.com`"),
            ("[::1]:8000", Some("*"), None, "`server.trusted_hosts`"),
        ] {
            let sentence = trusted(listen, host, url).expect_err(named);
            assert!(sentence.starts_with("`auth.local_clients` may ") && sentence.contains(named), "{sentence}");
        }
    }

    #[test]
    fn tokens_fit_into_a_header_and_differ() {
        for wrong in ["", "c4n4ry two", "c4n4ry\n", "c4n4ryä"] {
            let auth = Auth { operator_token: Some(Secret::new(wrong)), ..Auth::default() };
            let error = auth.validate().expect_err(wrong).to_string();
            assert!(
                error.starts_with("`auth.operator_token` must be 1 to 512") && !error.contains("c4n4ry"),
                "{error}"
            );
        }
        let same = Some(Secret::new("c4n4ry"));
        let auth = Auth { operator_token: same.clone(), admin_token: same, ..Auth::default() };
        assert!(!auth.validate().expect_err("same").to_string().contains("c4n4ry"));
    }
}

//! Which `Host` headers we answer. A page of a stranger that points its own name at us (DNS rebinding) is not among them.
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::app::App;
use super::section::{quoted, through_text};
use super::server::Server;

/// One entry of `server.trusted_hosts`, in the ancestors' way of writing.
#[derive(Clone, PartialEq, Eq)]
pub enum TrustedHost {
    /// `*`: any host. The check is off.
    Any,
    /// `*.example.com`: the names below it, not the name itself.
    Below(String),
    /// A name or an address.
    Exact(String),
}

impl TrustedHost {
    fn allows(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            Self::Exact(name) => host == name,
        }
    }
}

impl FromStr for TrustedHost {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        if value == "*" {
            return Ok(Self::Any);
        }
        let wrong = || {
            format!(
                "must hold hosts without scheme and port, such as `broker.local` or `*.example.com`, not {}",
                quoted(value)
            )
        };
        if let Some(name) = value.strip_prefix("*.") {
            return plain_name(name).map(Self::Below).ok_or_else(wrong);
        }
        plain_host(value).map(Self::Exact).ok_or_else(wrong)
    }
}

impl fmt::Display for TrustedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Exact(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for TrustedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

through_text!(TrustedHost, secret: false);

/// The hosts that requests may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHosts {
    hosts: Vec<TrustedHost>,
    /// A listener on all addresses is reached under any of them. A bare address cannot be rebound by a stranger, so all
    /// addresses are let in; names still have to be listed.
    any_address: bool,
}

impl AllowedHosts {
    pub(super) fn new(server: &Server, app: &App) -> Self {
        let mut hosts = server.trusted_hosts.clone();
        let mut any_address = false;
        for listener in &server.listen {
            any_address |= listener.is_unspecified();
            if !listener.is_unspecified() {
                hosts.extend(plain_host(listener.host()).map(TrustedHost::Exact));
            }
            if listener.is_loopback() || listener.is_unspecified() {
                // Names that browsers never ask a name server for, so nobody can point them elsewhere.
                hosts.extend(["localhost", "127.0.0.1", "::1"].map(|name| TrustedHost::Exact(name.to_owned())));
                hosts.push(TrustedHost::Below("localhost".to_owned()));
            }
        }
        hosts.extend(app.public_url.as_ref().and_then(|url| plain_host(url.host())).map(TrustedHost::Exact));
        let mut once: Vec<TrustedHost> = Vec::with_capacity(hosts.len());
        for host in hosts {
            if !once.contains(&host) {
                once.push(host);
            }
        }
        Self { hosts: once, any_address }
    }

    /// Tells whether a request with this `Host` header (with or without a port) may go on.
    pub fn allows(&self, header: &str) -> bool {
        let Some(host) = without_port(header).and_then(plain_host) else { return false };
        (self.any_address && host.parse::<IpAddr>().is_ok()) || self.hosts.iter().any(|allowed| allowed.allows(&host))
    }

    /// Lists the hosts, for `doctor`.
    pub fn iter(&self) -> impl Iterator<Item = &TrustedHost> {
        self.hosts.iter()
    }
}

/// Cuts the port from a `Host` header; `None` if it is not a host with an optional port.
fn without_port(header: &str) -> Option<&str> {
    let (host, port) = match header.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').map(|(host, tail)| (host, tail.strip_prefix(':').or(tail.is_empty().then_some(""))))?
        }
        None => match header.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (header, Some("")),
        },
    };
    port.filter(|port| port.bytes().all(|b| b.is_ascii_digit())).map(|_| host)
}

/// Brings a host into the form in which hosts are compared: lower case, no closing dot, addresses in their short form.
fn plain_host(host: &str) -> Option<String> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    plain_name(host)
}

fn plain_name(name: &str) -> Option<String> {
    is_host_name(name).then(|| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
}

/// Tells whether this can be the name of a machine. Underscores are not legal but common in container networks.
pub(super) fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(|label| !label.is_empty())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(listen: &[&str], trusted: &[&str], public_url: Option<&str>) -> AllowedHosts {
        let server = Server {
            listen: listen.iter().map(|text| text.parse().expect("listener")).collect(),
            trusted_hosts: trusted.iter().map(|text| text.parse().expect("host")).collect(),
            ..Server::default()
        };
        let app = App { public_url: public_url.map(|text| text.parse().expect("url")), ..App::default() };
        server.allowed_hosts(&app)
    }

    #[test]
    fn listeners_and_the_public_url_are_always_allowed() {
        let hosts =
            allowed(&["127.0.0.1:8000", "10.1.2.3:80"], &["*.corp", "Broker"], Some("https://chat.example.com/x"));
        for good in [
            "localhost",
            "LOCALHOST:8000",
            "localhost.:8000",
            "127.0.0.1:9",
            "[::1]:8000",
            "a.localhost",
            "10.1.2.3",
            "chat.example.com",
            "broker:1",
            "a.b.corp",
        ] {
            assert!(hosts.allows(good), "{good}");
        }
        for bad in [
            "",
            "evil.com",
            "corp",
            ".corp",
            "xcorp",
            "10.1.2.4",
            "localhost.evil.com",
            "evil.com:127.0.0.1",
            "localhost@evil.com",
            "localhost:80:80",
            "[::1",
            "[::1]x",
            "example.com",
        ] {
            assert!(!hosts.allows(bad), "{bad}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_by_address_but_not_by_any_name() {
        let hosts = allowed(&["0.0.0.0:8000"], &[], None);
        for good in ["192.168.1.5:8000", "[fe80::1]:8000", "localhost:8000", "0.0.0.0:8000"] {
            assert!(hosts.allows(good), "{good}");
        }
        assert!(!hosts.allows("evil.com:8000"));
    }

    #[test]
    fn a_star_allows_every_name() {
        assert!(allowed(&["127.0.0.1:1"], &["*"], None).allows("whatever.example"));
    }

    #[test]
    fn entries_have_no_scheme_and_no_port() {
        for wrong in ["", "http://x", "x:80", "*.", "*x", "a/b", "*.a:1", ".", "a..b", "a..", "*.a..", "*..a"] {
            assert!(wrong.parse::<TrustedHost>().is_err(), "{wrong}");
        }
        assert_eq!("[::1]".parse::<TrustedHost>().expect("valid"), TrustedHost::Exact("::1".to_owned()));
    }

    #[test]
    fn a_closing_dot_makes_no_difference() {
        let hosts = allowed(&["broker.:80"], &["chat.example.", "*.corp."], None);
        for good in ["broker", "broker.:80", "chat.example", "chat.example.", "a.corp", "a.corp."] {
            assert!(hosts.allows(good), "{good}");
        }
        assert!(!hosts.allows("chat.example..") && !hosts.allows("a.corp.."));
    }
}

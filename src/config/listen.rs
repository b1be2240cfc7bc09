//! The address of a listener.
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use super::hosts::is_host_name;
use super::section::{quoted, through_text};

/// `host:port`, IPv6 in brackets. Port 0 lets the system choose, for tests.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    host: String,
    port: u16,
}

impl ListenAddress {
    /// Reads a host on its own, as in `HOST`; an IPv6 address may stand with or without brackets.
    pub(super) fn new(host: &str, port: u16) -> Result<Self, String> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => Ok(Self { host: address.to_string(), port }),
            Err(_) if is_host_name(host) => Ok(Self { host: host.to_ascii_lowercase(), port }),
            Err(_) => Err(format!("has no valid host in {}", quoted(host))),
        }
    }

    /// Returns the host, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Tells whether only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }

    /// Tells whether it means all addresses of this machine.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_unspecified())
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let wrong =
            || format!("must be `host:port`, for example `127.0.0.1:8000` or `[::1]:8000`, not {}", quoted(value));
        let (host, port) = value.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.contains(':') && !bracketed {
            return Err(wrong());
        }
        Self::new(host, port.parse().map_err(|_| wrong())?).map_err(|_| wrong())
    }
}

impl ToSocketAddrs for ListenAddress {
    type Iter = std::vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> std::io::Result<Self::Iter> {
        (self.host.as_str(), self.port).to_socket_addrs()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

through_text!(ListenAddress, secret: false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown, loopback) in [
            ("127.0.0.1:8000", "127.0.0.1:8000", true),
            ("127.9.9.9:0", "127.9.9.9:0", true),
            ("[::1]:8000", "[::1]:8000", true),
            ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80", true),
            ("LocalHost:8000", "localhost:8000", true),
            ("0.0.0.0:8000", "0.0.0.0:8000", false),
            ("[::]:8000", "[::]:8000", false),
            ("localhost.example.com:1", "localhost.example.com:1", false),
        ] {
            let address: ListenAddress = text.parse().expect(text);
            assert_eq!((address.to_string().as_str(), address.is_loopback()), (shown, loopback));
        }
        for wrong in ["", "8000", ":8000", "host", "host:", "host:65536", "::1:8000", "[::1", "a b:1", "http://x:1"] {
            assert!(wrong.parse::<ListenAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_alone_may_be_ipv6() {
        assert_eq!(ListenAddress::new("::", 1).expect("valid").to_string(), "[::]:1");
        assert_eq!(ListenAddress::new("[::1]", 1).expect("valid").to_string(), "[::1]:1");
    }
}

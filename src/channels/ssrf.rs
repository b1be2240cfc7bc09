//! Where a webhook may go: a URL that someone wrote must not reach what only we can reach (F18).
//!
//! The owner resolves the name itself, asks [`allowed`] about *all* addresses, and connects to one of those that come
//! back, so that a name cannot mean something else a moment later. Redirects are not followed.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::{Host, Url};

/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 2_048;

/// What an operator has allowed beyond the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// `http:` as well.
    pub plain: bool,
    /// Addresses of this machine and of private networks.
    pub private: bool,
}

/// Reads a webhook's URL; the error is shown to whoever wrote it. A host that is an address is judged here already,
/// in whatever way it is written.
pub fn url(text: &str, reach: Reach) -> Result<Url, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("a webhook's URL has at most {URL_BYTES_MAX} bytes"));
    }
    let url = Url::parse(text).map_err(|error| format!("this is no URL: {error}"))?;
    match url.scheme() {
        "https" => {}
        "http" if reach.plain => {}
        _ => return Err("a webhook's URL begins with `https://`".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a webhook's URL holds no user and no password".to_owned());
    }
    let address = match url.host() {
        None => return Err("a webhook's URL names a host".to_owned()),
        Some(Host::Domain(_)) => return Ok(url),
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
    };
    if reach.private || is_public(address) { Ok(url) } else { Err(not_public(address)) }
}

/// Judges what a name was resolved to: all of it must be public, or none of it is used.
pub fn allowed(resolved: &[SocketAddr], reach: Reach) -> Result<&[SocketAddr], String> {
    if resolved.is_empty() {
        return Err("the webhook's host has no address".to_owned());
    }
    match resolved.iter().find(|address| !reach.private && !is_public(address.ip())) {
        Some(address) => Err(not_public(address.ip())),
        None => Ok(resolved),
    }
}

fn not_public(address: IpAddr) -> String {
    format!("the webhook's host has the address {address}, which is not a public one")
}

/// Tells whether an address belongs to the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        // The metadata service of clouds is here.
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        // Future use, and broadcast.
        || a >= 240
        // Between providers and their customers (RFC 6598).
        || (a == 100 && (64..128).contains(&b))
        // Protocols' own, relays of 6to4, benchmarks.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        // NAT64: an IPv4 address in disguise.
        let [[g1, g2], [h1, h2]] = [g.to_be_bytes(), h.to_be_bytes()];
        return is_public_v4(Ipv4Addr::new(g1, g2, h1, h2));
    }
    let global = (0x2000..0x4000).contains(&a);
    // Teredo and other protocols' own, 6to4, documentation.
    let special = (a == 0x2001 && (b < 0x200 || b == 0xdb8)) || a == 0x2002 || (a == 0x3fff && b < 0x1000);
    global && !special
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRIVATE: Reach = Reach { plain: false, private: true };

    #[test]
    fn only_the_public_internet_is_reached() {
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for hidden in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
        ] {
            let address: IpAddr = hidden.parse().expect("an address");
            assert!(!is_public(address), "{hidden}");
            let resolved = [SocketAddr::new(address, 443)];
            assert!(allowed(&resolved, Reach::default()).expect_err(hidden).contains("not a public one"));
            assert_eq!(allowed(&resolved, PRIVATE).expect("allowed"), resolved);
        }
    }

    #[test]
    fn one_hidden_address_among_public_ones_is_enough_to_refuse() {
        let public: SocketAddr = "1.1.1.1:443".parse().expect("an address");
        let hidden: SocketAddr = "[::1]:443".parse().expect("an address");
        assert_eq!(allowed(&[public], Reach::default()).expect("public"), [public]);
        assert!(allowed(&[public, hidden], Reach::default()).is_err());
        assert!(allowed(&[], PRIVATE).is_err());
    }

    #[test]
    fn urls_are_refused_in_whatever_way_an_address_is_written() {
        let reach = Reach { plain: true, private: false };
        for good in
            ["https://example.org/in?x=1", "http://example.org:8080", "https://1.1.1.1/", "https://[2606:4700::1111]"]
        {
            assert!(url(good, reach).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "example.org",
            "file:///etc/passwd",
            "gopher://example.org",
            "ftp://example.org",
            "https://",
            "data:,x",
            "https://user@example.org",
            "https://:secret@example.org",
            "http://127.0.0.1",
            "http://2130706433",
            "http://0x7f.1",
            "http://0177.0.0.1",
            "http://127.1",
            "http://0",
            "http://[::1]",
            "http://[::ffff:7f00:1]",
            "http://[fd00::1]",
            "http://１２７.0.0.1",
            "http://169.254.169.254/latest/meta-data",
            &format!("https://example.org/{}", "x".repeat(URL_BYTES_MAX)),
        ] {
            assert!(url(wrong, reach).is_err(), "{wrong}");
        }
        assert!(url("http://example.org", Reach::default()).is_err());
        assert!(url("https://127.0.0.1", PRIVATE).is_ok());
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_like_the_one_it_maps(bits: u32) {
            let plain = Ipv4Addr::from(bits);
            prop_assert_eq!(is_public(plain.into()), is_public(plain.to_ipv6_mapped().into()));
        }

        #[test]
        fn any_text_may_be_a_url(text in ".{0,100}") {
            let _ = url(&text, Reach::default());
        }
    }
}

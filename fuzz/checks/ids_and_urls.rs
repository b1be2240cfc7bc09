//! Ids, names and addresses that come from outside: what is read is written the same, and no secret is repeated.
use std::fmt::{Debug, Display};
use std::net::Ipv6Addr;
use std::str::FromStr;

use clawbroker::config::{CorsOrigin, DatabaseUrl, ListenAddress, PublicUrl, Server, TrustedHost};
use clawbroker::domain::gateway::GatewayUrl;
use clawbroker::domain::ids::{ConversationId, FEDERATED, GatewayId, MessageId};
use clawbroker::domain::session_key::SessionKey;
use clawbroker::domain::time::{iso, parse_iso};

/// Stands where a password stands.
const CANARY: &str = "c4n4ry";
/// The longest name of a machine.
const HOST_BYTES_MAX: usize = 253;

/// Reads a text; what it is, written and read again, is the same.
fn same<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let again = value.to_string().parse::<T>().ok();
    assert_eq!(again.as_ref(), Some(&value), "{text:?}");
    Some(value)
}

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(id) = same::<GatewayId>(text) {
        let plain = id.as_str().bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\%?#:".contains(&byte));
        assert!(plain && id.as_str() != FEDERATED && id.as_str().len() <= GatewayId::BYTES_MAX, "{id}");
    }
    same::<ConversationId>(text);
    same::<MessageId>(text);
    if let Some(key) = same::<SessionKey>(text) {
        assert!(key.as_str().chars().count() <= SessionKey::CHARS_MAX);
        let canonical = key.canonical("main");
        assert_eq!(canonical.canonical("main"), canonical, "{key}");
    }
    if let Some(address) = same::<ListenAddress>(text) {
        assert!(!(address.is_loopback() && address.is_unspecified()));
    }
    same::<CorsOrigin>(text);
    same::<PublicUrl>(text);
    same::<TrustedHost>(text);
    if let Ok(ms) = parse_iso("at", text) {
        assert_eq!(parse_iso("at", &iso(ms)).ok(), Some(ms), "{text:?}");
    }
    hosts(text);
    gateway_urls(text);
    database_urls(text);
}

/// What is let in by default is this machine, and all of its names are.
fn hosts(text: &str) {
    let config = clawbroker::config::Config::default();
    let allowed = Server::allowed_hosts(&config.server, &config.app);
    // A stranger's name that begins with one of ours, too.
    for header in [text.to_owned(), format!("localhost{text}"), format!("{text}.localhost:8000"), format!("[{text}]")] {
        assert_eq!(allowed.allows(&header), is_this_machine(&header), "{header:?}");
    }
}

/// Tells whether a `Host` header is `localhost`, a name below it, `127.0.0.1` or `::1`: each may have a port, brackets,
/// and a name a closing dot.
fn is_this_machine(header: &str) -> bool {
    let host = match header.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        // Colons in brackets are the address's own.
        Some(_) if !header.ends_with(']') => return false,
        _ => header,
    };
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_below = name.strip_suffix(".localhost").is_some_and(|labels| labels.split('.').all(is_label));
    matches!(name.as_str(), "localhost" | "127.0.0.1")
        || (is_below && name.len() <= HOST_BYTES_MAX)
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

/// What may hold a credential is refused and not repeated; what is let in leads to a gateway.
fn gateway_urls(text: &str) {
    for url in [
        format!("ws://u:{CANARY}@{text}"),
        format!("wss://gw/?{text}&token={CANARY}"),
        format!("ws://gw/{text}#{CANARY}"),
    ] {
        let Err(error) = url.parse::<GatewayUrl>() else { panic!("{url:?} is let in") };
        assert!(!format!("{error} {error:?}").contains(CANARY), "{url:?}: {error:?}");
    }
    for url in [text.to_owned(), format!("ws://{text}")].iter().filter_map(|url| same::<GatewayUrl>(url)) {
        let shown = url.to_string();
        assert!(shown.len() <= GatewayUrl::BYTES_MAX && !shown.contains('#'), "{shown:?}");
        // Readers of addresses overlook line breaks and tabs, and what is no text before the scheme.
        let plain: String = shown.chars().filter(|one| !matches!(one, '\t' | '\n' | '\r')).collect();
        let (scheme, rest) = plain.trim_start_matches(|one: char| one <= ' ').split_once(':').unwrap_or_default();
        let authority = rest.trim_start_matches(['/', '\\']).split(['/', '\\', '?']).next().unwrap_or_default();
        let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        assert!(matches!(scheme.to_ascii_lowercase().as_str(), "ws" | "wss"), "{shown:?}");
        assert!(matches!(user, "" | ":"), "{shown:?}");
        assert!(!place.is_empty() && !place.starts_with(':'), "{shown:?}");
    }
}

/// What is refused is not repeated, and what is shown holds no password (SEC-1).
fn database_urls(text: &str) {
    for url in [text.to_owned(), format!("postgresql://user:{CANARY}{text}"), format!("postgresql:{text}{CANARY}@h/x")]
    {
        match url.parse::<DatabaseUrl>() {
            Ok(DatabaseUrl::Sqlite(path)) => assert!(!path.as_os_str().is_empty()),
            Ok(postgres) => {
                let shown = format!("{postgres} {postgres:?}");
                let is_place = text.contains(CANARY) || url.starts_with("postgresql:") && !url.contains('@');
                assert!(is_place || !shown.contains(CANARY), "{url:?} is shown as {shown:?}");
            }
            Err(error) => assert!(text.contains(CANARY) || !error.contains(CANARY), "{url:?}: {error}"),
        }
    }
}

//! Ids, names and addresses that come from outside: what is read is written the same, and no secret is repeated.
use std::fmt::{Debug, Display};
use std::str::FromStr;

use clawbroker::config::{CorsOrigin, DatabaseUrl, ListenAddress, PublicUrl, Server, TrustedHost};
use clawbroker::domain::ids::{ConversationId, FEDERATED, GatewayId, MessageId};
use clawbroker::domain::session_key::SessionKey;
use clawbroker::domain::time::{iso, parse_iso};

/// Stands where a password stands.
const CANARY: &str = "c4n4ry";

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
    database_urls(text);
}

/// A name that is let in by default belongs to this machine.
fn hosts(header: &str) {
    let config = clawbroker::config::Config::default();
    if Server::allowed_hosts(&config.server, &config.app).allows(header) {
        let host = header.trim_start_matches('[').to_ascii_lowercase();
        let local = ["localhost", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1", "0000:"];
        assert!(local.iter().any(|name| host.contains(name)) || host.contains("::"), "{header:?}");
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

//! Where the data is: `DATABASE_URL` in the ancestors' (SQLAlchemy's) and in PostgreSQL's own way of writing.
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::section::through_text;
use crate::domain::secret::Secret;

/// A database. Whether an SQLite file is ours is for the store to find out (D8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    /// A URL for libpq. It holds a password.
    Postgres(Secret),
}

impl DatabaseUrl {
    /// Returns the embedded database in a data directory.
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self::Sqlite(data_dir.join("clawbroker.db"))
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    /// No error repeats any part of the value: a password may stand anywhere in a mistyped URL.
    fn from_str(value: &str) -> Result<Self, String> {
        let unknown = "must begin with `sqlite:`, `postgresql://` or `postgres://`";
        let (scheme, rest) = value.split_once(':').ok_or(unknown)?;
        let (dialect, driver) = match scheme.split_once('+') {
            Some((dialect, driver)) => (dialect, Some(driver)),
            None => (scheme, None),
        };
        if driver.is_some_and(|name| name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')) {
            return Err(unknown.to_owned());
        }
        match dialect.to_ascii_lowercase().as_str() {
            "sqlite" => sqlite_path(rest).map(Self::Sqlite).map_err(str::to_owned),
            "postgresql" | "postgres" => postgres_url(rest).map(Self::Postgres).map_err(str::to_owned),
            _ => Err(unknown.to_owned()),
        }
    }
}

/// Reads what follows `sqlite:`: a path, or SQLAlchemy's `///relative` and `////absolute`.
fn sqlite_path(rest: &str) -> Result<PathBuf, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some("" | "/") => "",
        Some(after) => after.strip_prefix('/').ok_or(
            "has two slashes after `sqlite:`: write `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite:path.db`",
        )?,
        None => rest,
    };
    if path.is_empty() || path == ":memory:" {
        return Err("must name a file: a database in memory would lose what was acknowledged");
    }
    if path.contains('?') {
        return Err("takes no parameters after the path of an SQLite file; the keys of `[store]` set what they would");
    }
    if path.ends_with('/') || path.contains('\0') || path.starts_with("file:") {
        return Err("must name an SQLite file by its path");
    }
    Ok(PathBuf::from(path))
}

/// Reads what follows `postgresql:`. Kept close to libpq, which also knows several hosts and sockets.
fn postgres_url(rest: &str) -> Result<Secret, &'static str> {
    let rest = rest.strip_prefix("//").ok_or("must have two slashes after `postgresql:`")?;
    if rest.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#') {
        return Err("must not hold spaces or `#`; percent-encode them in a password (`%20`, `%23`)");
    }
    let (authority, tail) = split_before(rest, &['/', '?']);
    let hosts = match authority.split_once('@') {
        Some((_, hosts)) => hosts,
        None => authority,
    };
    if hosts.contains('@') || tail.contains('@') {
        return Err("must have at most one `@`; percent-encode `@`, `/` and `?` in a password (`%40`, `%2F`, `%3F`)");
    }
    if !hosts.split(',').all(is_host_and_port) {
        return Err("must name hosts as `host` or `host:port`; percent-encode `@`, `:` and `/` in a password");
    }
    let (path, query) = split_before(tail, &['?']);
    let mut url = format!("postgresql://{authority}{path}");
    for (index, parameter) in query.trim_start_matches('?').split('&').filter(|text| !text.is_empty()).enumerate() {
        url.push(if index == 0 { '?' } else { '&' });
        url.push_str(&libpq_parameter(parameter));
    }
    Ok(Secret::new(url))
}

/// Translates asyncpg's `ssl`, which libpq does not know.
fn libpq_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some(("ssl", "true" | "True" | "1")) => "sslmode=require".to_owned(),
        Some(("ssl", "false" | "False" | "0")) => "sslmode=disable".to_owned(),
        Some(("ssl", mode)) => format!("sslmode={mode}"),
        _ => parameter.to_owned(),
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, tail)) => (host, Some(tail.strip_prefix(':').unwrap_or("?"))),
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'%' | b':'));
    plain && port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok())
}

fn split_before<'a>(text: &'a str, stops: &[char]) -> (&'a str, &'a str) {
    text.find(stops).and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""))
}

impl fmt::Display for DatabaseUrl {
    /// Shows host and name of a PostgreSQL database, never the user, the password or the parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => {
                let rest = url.reveal().strip_prefix("postgresql://").unwrap_or_default();
                let (shown, _) = split_before(rest, &['?']);
                match shown.split_once('@') {
                    Some((_, place)) => write!(f, "postgresql://[set]@{place}"),
                    None => write!(f, "postgresql://{shown}"),
                }
            }
        }
    }
}

// Marked secret so that a value of the wrong type is not repeated in an error either.
through_text!(DatabaseUrl, secret: true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_urls_of_the_ancestors_name_a_path() {
        for (text, path) in [
            ("sqlite:///./data/chat.db", "./data/chat.db"),
            ("sqlite:///data/chat.db", "data/chat.db"),
            ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
            ("sqlite+aiosqlite:///./data/chat.db", "./data/chat.db"),
            ("sqlite+pysqlite:////x.db", "/x.db"),
            ("sqlite:data/x.db", "data/x.db"),
            ("sqlite:/var/x.db", "/var/x.db"),
            ("SQLite:x.db", "x.db"),
        ] {
            assert_eq!(text.parse(), Ok(DatabaseUrl::Sqlite(PathBuf::from(path))), "{text}");
        }
        for wrong in [
            "sqlite:",
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            "sqlite://data/x.db",
            "sqlite:x.db?mode=ro",
            "sqlite:dir/",
        ] {
            assert!(wrong.parse::<DatabaseUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn postgres_urls_become_libpq_urls() {
        for (text, url, shown) in [
            ("postgresql://u:p@h:6432/app", "postgresql://u:p@h:6432/app", "postgresql://[set]@h:6432/app"),
            ("postgres://u:p@h/app", "postgresql://u:p@h/app", "postgresql://[set]@h/app"),
            (
                "postgresql+asyncpg://u:p%40@h/a?ssl=require",
                "postgresql://u:p%40@h/a?sslmode=require",
                "postgresql://[set]@h/a",
            ),
            ("postgresql+psycopg://h/a?ssl=true&x=1", "postgresql://h/a?sslmode=require&x=1", "postgresql://h/a"),
            ("postgresql+psycopg2:///a?host=/run/pg", "postgresql:///a?host=/run/pg", "postgresql:///a"),
            ("postgresql://u@h1:1,[::1]:2/a", "postgresql://u@h1:1,[::1]:2/a", "postgresql://[set]@h1:1,[::1]:2/a"),
        ] {
            let parsed: DatabaseUrl = text.parse().expect(text);
            assert_eq!(parsed, DatabaseUrl::Postgres(Secret::new(url)), "{text}");
            assert_eq!(parsed.to_string(), shown);
        }
    }

    #[test]
    fn a_refused_url_is_not_repeated() {
        for wrong in [
            "",
            "c4n4ry",
            "c4n4ry:c4n4ry",
            "mysql://u:c4n4ry@h/a",
            "postgresql+://c4n4ry@h",
            "postgresql:u:c4n4ry@h/a",
            "postgresql://u:c4n4ry@@h/a",
            "postgresql://u:c4n4ry/@h/a",
            "postgresql://u:c4n4ry#x@h/a",
            "postgresql://u:1/c4n4ry@h/a",
            "postgresql://u:1?c4n4ry@h/a",
            "postgresql://u:p@h:c4n4ry/a",
            "postgresql://u:c4n4ry @h/a",
        ] {
            let error = wrong.parse::<DatabaseUrl>().expect_err(wrong);
            assert!(!error.contains("c4n4ry"), "{error}");
        }
    }
}

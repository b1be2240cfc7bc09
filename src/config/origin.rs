//! An origin that pages may call us from.
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use url::{Origin, Url};

use super::section::{quoted, through_text};

/// `scheme://host[:port]` exactly as browsers send it in `Origin`: lower case, no default port, no closing slash.
#[derive(Clone, PartialEq, Eq)]
pub struct CorsOrigin(String);

impl CorsOrigin {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CorsOrigin {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        if value == "*" {
            return Err("must name its origins: `*` would let any page act as the user who is signed in".to_owned());
        }
        let wrong = || {
            if value.contains('@') {
                return "must hold origins such as `http://localhost:3000`, without credentials".to_owned();
            }
            format!("must hold origins such as `http://localhost:3000`, without a path, not {}", quoted(value))
        };
        let url = Url::parse(value).map_err(|_| wrong())?;
        let bare = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let host = url.host_str().filter(|host| bare && !host.is_empty()).ok_or_else(wrong)?;
        let text = match (url.origin(), url.port()) {
            (origin @ Origin::Tuple(..), _) => origin.ascii_serialization(),
            // Shells around web pages have schemes of their own, for example `tauri://localhost`.
            (_, Some(port)) => format!("{}://{}:{port}", url.scheme(), host.to_ascii_lowercase()),
            (_, None) => format!("{}://{}", url.scheme(), host.to_ascii_lowercase()),
        };
        Ok(Self(text))
    }
}

impl Deref for CorsOrigin {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

through_text!(CorsOrigin, secret: false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_get_the_form_that_browsers_send() {
        for (text, expected) in [
            ("http://localhost:3000", "http://localhost:3000"),
            ("HTTP://LocalHost:3000/", "http://localhost:3000"),
            ("https://x.example:443", "https://x.example"),
            ("tauri://localhost", "tauri://localhost"),
        ] {
            assert_eq!(text.parse::<CorsOrigin>().expect(text).as_str(), expected);
        }
        for wrong in ["", "*", "null", "localhost:3000", "http://x/path", "http://x?y", "http://u:p@x", "file:///x"] {
            assert!(wrong.parse::<CorsOrigin>().is_err(), "{wrong}");
        }
    }
}

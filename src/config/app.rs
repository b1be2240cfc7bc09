//! `[app]`: who we are and where our files are.
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use url::Url;

use super::error::ConfigError;
use super::section::{Section, Shown, is_plain_text, listed, through_text};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct App {
    /// `service` of `GET /health`. The ancestors call it `APP_NAME`.
    pub name: String,
    /// `environment` of `GET /health`; told, never acted upon: a name must not change behaviour. `APP_ENV`.
    pub environment: String,
    /// Holds the database, the key, blobs and the admin's token. The loader makes it absolute.
    /// In the working directory by default, as the ancestors have it, so that a first try leaves nothing elsewhere.
    pub data_dir: PathBuf,
    /// Where people reach us through a proxy: links begin with it and its host is allowed.
    /// Not set: links begin with the first listener.
    pub public_url: Option<PublicUrl>,
}

impl Default for App {
    fn default() -> Self {
        Self {
            name: "clawbroker".to_owned(),
            environment: "development".to_owned(),
            data_dir: PathBuf::from("data"),
            public_url: None,
        }
    }
}

impl Section for App {
    const NAME: &'static str = "app";

    fn shown(&self) -> Vec<Shown> {
        listed!(self { name, environment, data_dir, public_url })
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (key, value) in [("name", &self.name), ("environment", &self.environment)] {
            if !is_plain_text(value) {
                return Err(Self::invalid(key, "must be 1 to 128 bytes of text without control characters"));
            }
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(Self::invalid("data_dir", "must name a directory"));
        }
        Ok(())
    }
}

/// An `http` or `https` address without credentials, query, fragment and closing slash.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    host: String,
    origin: String,
}

impl PublicUrl {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the host as it stands in a `Host` header, IPv6 in brackets, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns what a browser calls the pages of this address in `Origin`.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    /// The error never repeats the value: it may hold a password.
    fn from_str(value: &str) -> Result<Self, String> {
        let wrong =
            || "must be an address such as `https://broker.example.com`, without credentials, query and fragment";
        let url = Url::parse(value).map_err(|_| wrong())?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        match url.host_str() {
            Some(host) if plain => Ok(Self {
                text: url.as_str().trim_end_matches('/').to_owned(),
                host: host.to_owned(),
                origin: url.origin().ascii_serialization(),
            }),
            _ => Err(wrong().to_owned()),
        }
    }
}

impl Deref for PublicUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

through_text!(PublicUrl, secret: false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_a_plain_web_address() {
        let url: PublicUrl = "https://Broker.Example.com:8443/chat/".parse().expect("valid");
        assert_eq!((url.as_str(), url.host()), ("https://broker.example.com:8443/chat", "broker.example.com"));
        assert_eq!("http://[::1]:8000".parse::<PublicUrl>().expect("valid").host(), "[::1]");
        for wrong in
            ["broker.example.com", "ftp://x", "https://", "https://u:c4n4ry@x", "https://x?c4n4ry", "https://x#y"]
        {
            let error = wrong.parse::<PublicUrl>().expect_err(wrong);
            assert!(!error.contains("c4n4ry"), "{error}");
        }
    }

    #[test]
    fn names_are_plain_text() {
        let app = App { name: "two\nlines".to_owned(), ..App::default() };
        let error = app.validate().expect_err("control character");
        assert!(error.to_string().starts_with("`app.name` must be 1 to 128 bytes"), "{error}");
    }
}

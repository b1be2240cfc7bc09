//! What an operator says of a channel: which settings and secrets each kind asks for, and the provider made of them.
use std::collections::BTreeMap;

use serde_json::{Map, Value};
use url::Url;

use super::email::{self, Email, Security, Server};
use super::feishu::{self, Feishu};
use super::ssrf::Reach;
use super::telegram::{self, Telegram};
use super::webhook::Webhook;
use super::whatsapp::{self, WhatsApp};
use super::{Channel, HttpRequest, Method, join};
use crate::domain::channel::{self, ChannelKind};
use crate::domain::error::Error;
use crate::domain::secret::Secret;

/// Characters of a setting.
const SETTING_MAX: usize = 256;
/// Bytes of a secret.
const SECRET_BYTES_MAX: usize = 4_096;
/// Secrets that an operator makes up, and by which a call is believed: whoever guesses one speaks for everybody.
const MADE_UP: [&str; 2] = ["secret_token", "secret"];
/// Least bytes of one.
const MADE_UP_BYTES_MIN: usize = 16;
/// Most bytes of Telegram's, which besides has letters, digits, `_` and `-` only.
const SECRET_TOKEN_BYTES_MAX: usize = 256;

/// How Telegram's lines come in.
const RECEIVE: [&str; 3] = ["poll", "webhook", "off"];

/// A channel's provider.
#[derive(Clone, Debug)]
pub enum Provider {
    Feishu(Feishu),
    Telegram {
        bot: Telegram,
        /// Its lines are asked for; else they come by calls, if there is a `secret_token`.
        polls: bool,
    },
    WhatsApp(WhatsApp),
    Email(Email),
    Webhook(Webhook),
}

impl Provider {
    pub fn channel(&self) -> &dyn Channel {
        match self {
            Self::Feishu(feishu) => feishu,
            Self::Telegram { bot, .. } => bot,
            Self::WhatsApp(whatsapp) => whatsapp,
            Self::Email(email) => email,
            Self::Webhook(webhook) => webhook,
        }
    }

    /// Asks the provider who we are, without any effect; `None` where there is nothing of the kind, or where a token is
    /// asked for instead.
    pub fn who_am_i(&self) -> Option<HttpRequest> {
        match self {
            Self::Telegram { bot, .. } => Some(HttpRequest {
                method: Method::Post,
                url: Secret::new(join(&bot.base_url, &format!("bot{}/getMe", bot.bot_token.reveal()))),
                headers: Vec::new(),
                body: bytes::Bytes::new(),
            }),
            Self::WhatsApp(whatsapp) => Some(HttpRequest {
                method: Method::Get,
                url: Secret::new(join(&whatsapp.base_url, &whatsapp.phone_number_id)),
                headers: vec![("Authorization", Secret::new(format!("Bearer {}", whatsapp.access_token.reveal())))],
                body: bytes::Bytes::new(),
            }),
            Self::Feishu(_) | Self::Email(_) | Self::Webhook(_) => None,
        }
    }
}

/// What a kind of channel asks for: the settings and the secrets, each with whether there must be one.
pub struct Asks {
    pub config: &'static [(&'static str, bool)],
    pub secrets: &'static [(&'static str, bool)],
    /// Whether the provider may be elsewhere.
    pub base_url: bool,
}

/// Tells what a kind of channel asks for.
pub fn asks(kind: ChannelKind) -> Asks {
    match kind {
        ChannelKind::Feishu => Asks {
            config: &[("app_id", true)],
            secrets: &[("app_secret", true), ("verification_token", false), ("encrypt_key", false)],
            base_url: true,
        },
        ChannelKind::Telegram => Asks {
            config: &[("receive", false)],
            secrets: &[("bot_token", true), ("secret_token", false)],
            base_url: true,
        },
        ChannelKind::WhatsApp => Asks {
            config: &[("phone_number_id", true)],
            secrets: &[("access_token", true), ("app_secret", false), ("verify_token", false)],
            base_url: true,
        },
        ChannelKind::Email => Asks {
            config: &[("host", true), ("port", false), ("security", false), ("from", true), ("username", false)],
            secrets: &[("password", false)],
            base_url: false,
        },
        ChannelKind::Webhook => Asks { config: &[], secrets: &[("secret", true)], base_url: false },
    }
}

/// Checks what an operator says of a channel; `secrets` are the names of those that are set. Errors name the field.
pub fn check(
    kind: ChannelKind,
    config: &Map<String, Value>,
    secrets: &[String],
    base_url: Option<&str>,
) -> Result<(), Error> {
    let asks = asks(kind);
    if let Some(unknown) = config.keys().find(|key| !asks.config.iter().any(|(known, _)| known == key)) {
        let shown: String = unknown.chars().take(64).collect();
        return Err(Error::invalid("config", format!("`{shown}` is not known here; {}", known(asks.config))));
    }
    for (key, value) in config {
        let fine = match (key.as_str(), value) {
            ("port", value) => value.as_u64().is_some_and(|port| (1..=65_535).contains(&port)),
            (_, Value::String(text)) => {
                !text.trim().is_empty() && text.chars().count() <= SETTING_MAX && !text.chars().any(char::is_control)
            }
            _ => false,
        };
        if !fine {
            let must = if key == "port" { "a number from 1 to 65535" } else { "a text of 1 to 256 characters" };
            return Err(Error::invalid("config", format!("`{key}` must be {must}")));
        }
    }
    if let Some((key, _)) = asks.config.iter().find(|(key, needed)| *needed && !config.contains_key(*key)) {
        return Err(Error::invalid("config", format!("`{key}` is missing")));
    }
    if let Some(unknown) = secrets.iter().find(|name| !asks.secrets.iter().any(|(known, _)| known == name)) {
        let shown: String = unknown.chars().take(64).collect();
        return Err(Error::invalid("secret", format!("`{shown}` is not known here; {}", known(asks.secrets))));
    }
    for (name, _) in asks.secrets.iter().filter(|(_, needed)| *needed) {
        if !secrets.iter().any(|set| set == name) {
            return Err(Error::invalid("secret", format!("`{name}` is missing")));
        }
    }
    match base_url {
        Some(_) if !asks.base_url => return Err(Error::invalid("base_url", "this kind of channel has none")),
        Some(url) => check_base_url(url)?,
        None => {}
    }
    if kind == ChannelKind::Email {
        check_email(config, secrets)?;
    }
    match text(config, "receive") {
        Some("webhook") if !is_set(secrets, "secret_token") => {
            Err(Error::invalid("secret", "`secret_token` is missing: without it no call of Telegram is believed"))
        }
        Some(way) if !RECEIVE.contains(&way) => {
            Err(Error::invalid("config", "`receive` must be `poll`, `webhook` or `off`"))
        }
        _ => Ok(()),
    }
}

fn is_set(secrets: &[String], name: &str) -> bool {
    secrets.iter().any(|set| set == name)
}

/// Tells whether what people write on a channel comes in.
pub fn is_receiving(channel: &channel::Channel) -> bool {
    channel.enabled && receives(channel.kind, &channel.config, &channel.secrets)
}

/// Tells whether a channel that is set up like this could receive; `secrets` are the names of those that are set.
fn receives(kind: ChannelKind, config: &Map<String, Value>, secrets: &[String]) -> bool {
    match kind {
        ChannelKind::Feishu => is_set(secrets, "verification_token") || is_set(secrets, "encrypt_key"),
        ChannelKind::Telegram => match text(config, "receive") {
            Some("poll") => true,
            Some("off") => false,
            _ => is_set(secrets, "secret_token"),
        },
        ChannelKind::WhatsApp => is_set(secrets, "app_secret"),
        ChannelKind::Email => false,
        ChannelKind::Webhook => true,
    }
}

/// Returns the secret that a channel sends to its provider; the others only prove calls.
fn sent_secret(kind: ChannelKind) -> Option<&'static str> {
    match kind {
        ChannelKind::Feishu => Some("app_secret"),
        ChannelKind::Telegram => Some("bot_token"),
        ChannelKind::WhatsApp => Some("access_token"),
        ChannelKind::Email => Some("password"),
        ChannelKind::Webhook => None,
    }
}

/// Refuses a change that has a channel call another server with a secret that is kept; else whoever may change a channel
/// could read it (SEC-1). `config` and `base_url` are as they will be, `secrets` those that change. Errors name the field.
pub fn check_move(
    before: &channel::Channel,
    config: &Map<String, Value>,
    base_url: Option<&str>,
    secrets: &BTreeMap<String, Option<Secret>>,
) -> Result<(), Error> {
    let moves = before.base_url.as_deref() != base_url
        || ["host", "port"].into_iter().any(|key| before.config.get(key) != config.get(key));
    match sent_secret(before.kind).filter(|_| moves) {
        Some(secret) if is_set(&before.secrets, secret) && !secrets.contains_key(secret) => {
            let message = format!("`{secret}` must be given anew, since it would go to another address");
            Err(Error::invalid("secret", message))
        }
        _ => Ok(()),
    }
}

fn known(names: &[(&str, bool)]) -> String {
    match names {
        [] => "this takes none".to_owned(),
        names => format!("known are: {}", names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")),
    }
}

fn check_base_url(text: &str) -> Result<(), Error> {
    let url = Url::parse(text).ok();
    let plain = url.is_some_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    if plain && text.len() <= SETTING_MAX {
        return Ok(());
    }
    Err(Error::invalid("base_url", "must be an `http://` or `https://` address without a user, a query and a fragment"))
}

fn check_email(config: &Map<String, Value>, secrets: &[String]) -> Result<(), Error> {
    let security = security(config)?;
    let has_password = is_set(secrets, "password");
    if config.contains_key("username") != has_password {
        return Err(Error::invalid("secret", "`username` and `password` come together"));
    }
    if security == Security::Plain && has_password {
        return Err(Error::invalid(
            "config",
            "a password is never sent without TLS: `security` must be `tls` or `starttls`",
        ));
    }
    if !text(config, "from").is_some_and(email::is_address) {
        return Err(Error::invalid("config", "`from` must be an e-mail address, as `bot@example.org`, in ASCII"));
    }
    Ok(())
}

fn security(config: &Map<String, Value>) -> Result<Security, Error> {
    match text(config, "security").unwrap_or("starttls") {
        "tls" => Ok(Security::Tls),
        "starttls" => Ok(Security::StartTls),
        "plain" => Ok(Security::Plain),
        _ => Err(Error::invalid("config", "`security` must be `tls`, `starttls` or `plain`")),
    }
}

/// Refuses a secret that no provider gives.
pub fn check_secret(name: &str, secret: &Secret) -> Result<(), Error> {
    let text = secret.reveal();
    let least = if MADE_UP.contains(&name) { MADE_UP_BYTES_MIN } else { 1 };
    let most = if name == "secret_token" { SECRET_TOKEN_BYTES_MAX } else { SECRET_BYTES_MAX };
    if !(least..=most).contains(&text.len()) || text.chars().any(char::is_control) {
        let message = format!("`{name}` must be {least} to {most} bytes of text without control characters");
        return Err(Error::invalid("secret", message));
    }
    let is_telegrams = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if name == "secret_token" && !text.bytes().all(is_telegrams) {
        let message = format!("`{name}` must be {least} to {most} letters, digits, `_` and `-`, as Telegram wants it");
        return Err(Error::invalid("secret", message));
    }
    Ok(())
}

/// Makes the provider of settings that were checked.
pub fn build(
    kind: ChannelKind,
    config: &Map<String, Value>,
    secrets: &BTreeMap<String, Secret>,
    base_url: Option<&str>,
    reach: Reach,
) -> Result<Provider, Error> {
    let setting = |key: &str| {
        let found = text(config, key).map(str::to_owned);
        found.ok_or_else(|| Error::invalid("config", format!("`{key}` is missing")))
    };
    let secret = |name: &str| secrets.get(name).cloned();
    let needed = |name: &str| secret(name).ok_or_else(|| Error::invalid("secret", format!("`{name}` is missing")));
    let base = |usual: &str| base_url.unwrap_or(usual).to_owned();
    Ok(match kind {
        ChannelKind::Feishu => Provider::Feishu(Feishu {
            base_url: base(feishu::BASE_URL),
            app_id: setting("app_id")?,
            app_secret: needed("app_secret")?,
            verification_token: secret("verification_token"),
            encrypt_key: secret("encrypt_key"),
        }),
        ChannelKind::Telegram => Provider::Telegram {
            bot: Telegram {
                base_url: base(telegram::BASE_URL),
                bot_token: needed("bot_token")?,
                secret_token: secret("secret_token").filter(|_| text(config, "receive") != Some("off")),
            },
            polls: text(config, "receive") == Some("poll"),
        },
        ChannelKind::WhatsApp => Provider::WhatsApp(WhatsApp {
            base_url: base(whatsapp::BASE_URL),
            phone_number_id: setting("phone_number_id")?,
            access_token: needed("access_token")?,
            app_secret: secret("app_secret"),
            verify_token: secret("verify_token"),
        }),
        ChannelKind::Email => {
            let security = security(config)?;
            let usual = match security {
                Security::Tls => 465,
                Security::StartTls => 587,
                Security::Plain => 25,
            };
            let port = config.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            let credentials = text(config, "username").map(str::to_owned).zip(secret("password"));
            Provider::Email(Email {
                server: Server { host: setting("host")?, port: port.unwrap_or(usual), security, credentials },
                from: setting("from")?,
            })
        }
        ChannelKind::Webhook => Provider::Webhook(Webhook { secret: needed("secret")?, reach }),
    })
}

fn text<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    config.get(key).and_then(Value::as_str).map(str::trim)
}

#[cfg(test)]
mod tests;

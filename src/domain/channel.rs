//! Channels: the ways to people outside. A channel is of one kind; a person has addresses for some of them.
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::ids::{AgentId, ChannelId, PartyId};
use super::member::{Addresses, Way};

/// Which provider carries a channel's messages. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum ChannelKind {
    Feishu = 1,
    Telegram = 2,
    WhatsApp = 3,
    Email = 4,
    Webhook = 5,
}

impl ChannelKind {
    /// All of them, in the order in which they are tried for a person when the sender names none (decision 10).
    pub const BY_PREFERENCE: [Self; 5] = [Self::Feishu, Self::Telegram, Self::WhatsApp, Self::Email, Self::Webhook];

    pub fn from_code(code: i32) -> Option<Self> {
        Self::BY_PREFERENCE.into_iter().find(|kind| *kind as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Feishu => "feishu",
            Self::Telegram => "telegram",
            Self::WhatsApp => "whatsapp",
            Self::Email => "email",
            Self::Webhook => "webhook",
        }
    }
}

impl FromStr for ChannelKind {
    type Err = Error;

    /// Reads the name as clients write it, in any case.
    fn from_str(value: &str) -> Result<Self, Error> {
        let named = Self::BY_PREFERENCE.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(value));
        named.ok_or_else(|| {
            Error::invalid("channel", "a channel is one of `feishu`, `telegram`, `whatsapp`, `email`, `webhook`")
        })
    }
}

impl From<ChannelKind> for Way {
    fn from(kind: ChannelKind) -> Self {
        match kind {
            ChannelKind::Feishu => Self::Feishu,
            ChannelKind::Telegram => Self::Telegram,
            ChannelKind::WhatsApp => Self::WhatsApp,
            ChannelKind::Email => Self::Email,
            ChannelKind::Webhook => Self::Webhook,
        }
    }
}

/// A channel as an operator set it up. Its secrets are elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    pub id: ChannelId,
    pub party_id: PartyId,
    pub kind: ChannelKind,
    pub name: String,
    /// Whose channel it is: this agent prefers it, and answers who writes there of their own accord.
    pub agent_id: Option<AgentId>,
    /// What the kind asks for that is no secret.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Names of the secrets that are set, sorted.
    pub secrets: Vec<String>,
    /// Where the provider is, if not at its usual place.
    pub base_url: Option<String>,
    pub enabled: bool,
    pub created_at: i64,
    pub updated_at: i64,
}

/// Where one provider finds one person or one chat, in the provider's own words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `user_id` of a person in the tenant.
    FeishuUser(String),
    /// `open_id` of a person, which is another one for each app.
    FeishuOpen(String),
    /// `chat_id` of a chat, for answers into a group.
    FeishuChat(String),
    /// `chat_id` of a chat: a number, or `@name` of a public channel.
    Telegram(String),
    /// A telephone number with its country code, of which only the digits count; or an id ([`is_whatsapp_user_id`]).
    WhatsApp(String),
    Email(String),
    /// A whole URL.
    Webhook(String),
}

/// Tells whether this is an id that WhatsApp gives to somebody for one business, as `US.13491208655302741918`. Whoever has
/// taken a name there is known by it, and not by a telephone number.
pub fn is_whatsapp_user_id(text: &str) -> bool {
    text.split_once('.').is_some_and(|(country, id)| {
        country.len() == 2
            && country.bytes().all(|b| b.is_ascii_uppercase())
            && (1..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

impl Address {
    /// Which kind of channel reaches it.
    pub fn kind(&self) -> ChannelKind {
        match self {
            Self::FeishuUser(_) | Self::FeishuOpen(_) | Self::FeishuChat(_) => ChannelKind::Feishu,
            Self::Telegram(_) => ChannelKind::Telegram,
            Self::WhatsApp(_) => ChannelKind::WhatsApp,
            Self::Email(_) => ChannelKind::Email,
            Self::Webhook(_) => ChannelKind::Webhook,
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::FeishuUser(value)
            | Self::FeishuOpen(value)
            | Self::FeishuChat(value)
            | Self::Telegram(value)
            | Self::WhatsApp(value)
            | Self::Email(value)
            | Self::Webhook(value) => value,
        }
    }

    /// Makes the address of a chat from where a message came in, so that an answer goes back there. There is none for
    /// e-mail and webhooks: what comes in there does not say where answers are taken.
    pub fn of_chat(kind: ChannelKind, chat: &str) -> Option<Self> {
        match kind {
            ChannelKind::Feishu => Some(Self::FeishuChat(chat.to_owned())),
            ChannelKind::Telegram => Some(Self::Telegram(chat.to_owned())),
            ChannelKind::WhatsApp => Some(Self::WhatsApp(chat.to_owned())),
            ChannelKind::Email | ChannelKind::Webhook => None,
        }
    }
}

/// The addresses of a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    pub feishu_user_id: Option<String>,
    pub feishu_open_id: Option<String>,
    pub telegram_chat_id: Option<String>,
    pub whatsapp: Option<String>,
    pub email: Option<String>,
    pub webhook_url: Option<String>,
}

impl From<&Addresses> for Contact {
    fn from(addresses: &Addresses) -> Self {
        Self {
            feishu_user_id: addresses.feishu_user_id.clone(),
            feishu_open_id: addresses.feishu_open_id.clone(),
            telegram_chat_id: addresses.telegram_chat_id.clone(),
            whatsapp: addresses.whatsapp.clone(),
            email: addresses.email.clone(),
            webhook_url: addresses.webhook_url.as_ref().map(|url| url.as_str().to_owned()),
        }
    }
}

impl Contact {
    /// Returns the addresses for a kind of channel in the order in which they are tried; none means unreachable.
    pub fn addresses(&self, kind: ChannelKind) -> Vec<Address> {
        let all = [
            self.feishu_user_id.clone().map(Address::FeishuUser),
            self.feishu_open_id.clone().map(Address::FeishuOpen),
            self.telegram_chat_id.clone().map(Address::Telegram),
            self.whatsapp.clone().map(Address::WhatsApp),
            self.email.clone().map(Address::Email),
            self.webhook_url.clone().map(Address::Webhook),
        ];
        all.into_iter().flatten().filter(|address| address.kind() == kind && !address.as_str().is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_numbers_and_names() {
        for (code, kind) in (1..).zip(ChannelKind::BY_PREFERENCE) {
            assert_eq!(ChannelKind::from_code(code), Some(kind));
            assert_eq!(kind.as_str().to_uppercase().parse::<ChannelKind>().expect("its name"), kind);
            assert_eq!(serde_json::to_value(kind).expect("a name"), kind.as_str());
        }
        assert_eq!((ChannelKind::from_code(0), ChannelKind::from_code(6)), (None, None));
        assert!("fax".parse::<ChannelKind>().is_err());
    }

    #[test]
    fn an_id_of_whatsapp_is_no_number() {
        for (text, expected) in [
            ("US.13491208655302741918", true),
            ("DE.a", true),
            (format!("US.{}", "1".repeat(128)).as_str(), true),
            (format!("US.{}", "1".repeat(129)).as_str(), false),
            ("us.1349", false),
            ("USA.1349", false),
            ("US.", false),
            ("US.13.49", false),
            ("US1349", false),
            ("4917012345", false),
            ("", false),
        ] {
            assert_eq!(is_whatsapp_user_id(text), expected, "{text}");
        }
    }

    #[test]
    fn a_person_of_feishu_is_tried_by_user_id_first() {
        let contact = Contact {
            feishu_user_id: Some("u1".into()),
            feishu_open_id: Some("ou_1".into()),
            email: Some(String::new()),
            webhook_url: Some("https://example.org/in".into()),
            ..Contact::default()
        };
        assert_eq!(
            contact.addresses(ChannelKind::Feishu),
            [Address::FeishuUser("u1".into()), Address::FeishuOpen("ou_1".into())]
        );
        assert_eq!(contact.addresses(ChannelKind::Webhook).len(), 1);
        for kind in [ChannelKind::Telegram, ChannelKind::WhatsApp, ChannelKind::Email] {
            assert!(contact.addresses(kind).is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn answers_go_back_to_the_chat() {
        for kind in ChannelKind::BY_PREFERENCE {
            let address = Address::of_chat(kind, "c1");
            assert!(address.is_none_or(|address| address.kind() == kind && address.as_str() == "c1"), "{kind:?}");
        }
        assert_eq!(Address::of_chat(ChannelKind::Telegram, "7"), Some(Address::Telegram("7".into())));
        assert_eq!(Address::of_chat(ChannelKind::Email, "a@example.org"), None);
    }
}

//! People who are reached on channels, and by what each of them is reached.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use super::error::Error;
use super::ids::{AgentId, MemberId, PartyId, RelationshipId, UserId};
use super::url::plain_url;

/// What agents call the kind of a person.
pub const HUMAN: &str = "human";

/// A person who is reached on channels; whoever signs in is a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    pub party_id: PartyId,
    /// Shown to agents; several people may have the same.
    pub name: String,
    /// The user that this person is, if it signs in as well.
    pub user_id: Option<UserId>,
    pub addresses: Addresses,
    pub created_at: i64,
    pub updated_at: i64,
}

/// By what a person is reached; stored as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// For people who read it; no channel calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feishu_user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feishu_open_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telegram_chat_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whatsapp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<WebhookUrl>,
}

/// A way to a person, in the order in which they are tried (decision 10 of the mailbox contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Feishu,
    Telegram,
    WhatsApp,
    Email,
    Webhook,
}

impl Way {
    pub const ALL: [Self; 5] = [Self::Feishu, Self::Telegram, Self::WhatsApp, Self::Email, Self::Webhook];

    /// Returns the name on the wire.
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

impl Addresses {
    /// Returns the ways that would reach this person now: those it has an address for, and that can be used.
    pub fn ways(&self, usable: &[Way]) -> Vec<Way> {
        Way::ALL.into_iter().filter(|way| usable.contains(way) && self.has(*way)).collect()
    }

    fn has(&self, way: Way) -> bool {
        match way {
            Way::Feishu => self.feishu_user_id.is_some() || self.feishu_open_id.is_some(),
            Way::Telegram => self.telegram_chat_id.is_some(),
            Way::WhatsApp => self.whatsapp.is_some(),
            Way::Email => self.email.is_some(),
            Way::Webhook => self.webhook_url.is_some(),
        }
    }
}

/// Where a person's messages are posted. Its path or query may hold a secret: only operators see all of it (SEC-1).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WebhookUrl(String);

impl WebhookUrl {
    /// Longest address in bytes.
    pub const BYTES_MAX: usize = 2_048;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what may stand in logs and in the audit log: where it leads, without path and query.
    pub fn masked(&self) -> String {
        let url = Url::parse(&self.0).ok();
        let origin = url.map_or_else(|| "https://".to_owned(), |url| url.origin().ascii_serialization());
        format!("{origin}/…")
    }
}

impl FromStr for WebhookUrl {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let value = value.trim();
        if plain_url(value, ["http", "https"], Self::BYTES_MAX).is_none() {
            let message = "must be an `http://` or `https://` address without a user, a password and a fragment";
            return Err(Error::invalid("webhook_url", message));
        }
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// Whom an agent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Member(MemberId),
    Agent(AgentId),
}

/// What an agent knows of a person or of another agent. It has one direction: the other one knows nothing by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relationship {
    pub id: RelationshipId,
    pub agent_id: AgentId,
    pub known: Known,
    /// What the other one is to the agent, for example `collaborator`.
    pub relation: String,
    pub description: Option<String>,
    pub created_at: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_needs_an_address_and_a_channel() {
        let addresses = Addresses {
            email: Some("ann@example.com".into()),
            feishu_open_id: Some("ou_1".into()),
            ..Addresses::default()
        };
        assert!(addresses.ways(&[]).is_empty());
        assert_eq!(addresses.ways(&Way::ALL), [Way::Feishu, Way::Email]);
        assert_eq!(addresses.ways(&[Way::Webhook, Way::Email]), [Way::Email]);
        let all = Addresses {
            feishu_user_id: Some("u".into()),
            telegram_chat_id: Some("1".into()),
            whatsapp: Some("49".into()),
            webhook_url: Some("https://example.com".parse().expect("an address")),
            ..addresses
        };
        assert_eq!(all.ways(&Way::ALL), Way::ALL);
    }

    #[test]
    fn addresses_come_back_as_they_were_stored() {
        assert_eq!(serde_json::to_string(&Addresses::default()).expect("JSON"), "{}");
        let addresses = Addresses {
            phone: Some("+49 30 1".into()),
            webhook_url: Some("https://example.com/s3cret?x=y".parse().expect("an address")),
            ..Addresses::default()
        };
        let text = serde_json::to_string(&addresses).expect("JSON");
        assert_eq!(serde_json::from_str::<Addresses>(&text).expect("its own"), addresses);
    }

    #[test]
    fn a_webhooks_secret_is_in_no_debug_text() {
        let url: WebhookUrl = " https://example.com:8443/hooks/s3cret?key=s3cret ".parse().expect("an address");
        assert_eq!(url.as_str(), "https://example.com:8443/hooks/s3cret?key=s3cret");
        assert_eq!(
            (url.masked(), format!("{url:?}")),
            ("https://example.com:8443/…".to_owned(), "https://example.com:8443/…".to_owned(),)
        );
        for wrong in [
            "",
            "example.com/x",
            "ftp://example.com/s3cret",
            "https://ann:s3cret@example.com",
            "https://example.com/#s3cret",
            "https://example.com/a b",
            "https:\\\\example.com",
            "javascript:s3cret",
            &format!("https://example.com/{}", "x".repeat(2_048)),
        ] {
            let refused = wrong.parse::<WebhookUrl>().expect_err(wrong);
            assert!(!refused.message().contains("s3cret"), "{refused}");
        }
    }
}

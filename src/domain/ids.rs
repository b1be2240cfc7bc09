//! Typed identifiers. All are UUIDv7: 16 bytes at rest, the plain hyphenated form on the wire (D6).
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::Error;

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a new id; ids made later sort later.
            #[expect(clippy::new_without_default, reason = "a default that differs at each call would mislead")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps an id that was read from the store.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Returns the 16 bytes that are stored.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Accepts only the plain hyphenated form, in either case.
            fn from_str(value: &str) -> Result<Self, Error> {
                let plain = value.len() == 36;
                match Uuid::try_parse(value) {
                    Ok(id) if plain => Ok(Self(id)),
                    _ => Err(Error::invalid(
                        $kind,
                        format!("`{}` is not a valid {} id", value.chars().take(64).collect::<String>(), $kind),
                    )),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                value.parse().map_err(serde::de::Error::custom)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = Error;

            fn try_from(bytes: &[u8]) -> Result<Self, Error> {
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|_| Error::corrupt(concat!("a stored ", $kind, " id is not 16 bytes long")))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($kind, ":{}"), self.0.as_hyphenated())
            }
        }
    };
}

typed_id!(/// A conversation: an append-only log.
    ConversationId, "conversation");
typed_id!(/// A message: one line of a conversation.
    MessageId, "message");
typed_id!(/// A delivery: the obligation of one recipient to handle one message.
    DeliveryId, "delivery");
typed_id!(/// A turn: the live side of an answer.
    TurnId, "turn");
typed_id!(/// A step of a turn, for example a tool call.
    StepId, "step");
typed_id!(/// A party: whoever can speak or receive.
    PartyId, "party");
typed_id!(/// A user who signs in.
    UserId, "user");
typed_id!(/// A token of a user.
    TokenId, "token");
typed_id!(/// An agent.
    AgentId, "agent");
typed_id!(/// A key of an agent.
    AgentKeyId, "agent key");
typed_id!(/// A person who is reached on channels.
    MemberId, "member");
typed_id!(/// A channel to people.
    ChannelId, "channel");
typed_id!(/// What one agent knows of a person or of another agent.
    RelationshipId, "relationship");
typed_id!(/// A row of the audit log.
    AuditId, "audit");
typed_id!(/// A live browser socket; never stored.
    SocketId, "socket");
typed_id!(/// One start of this process; never stored but in the node lease.
    NodeId, "node");
typed_id!(/// The data directory of a node, over all its starts.
    HomeId, "data directory");

/// The name of an upstream gateway, chosen by whoever registers it: 1 to 64 of `A–Z a–z 0–9 . _ -`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GatewayId(std::sync::Arc<str>);

/// Names a socket path that means all gateways at once, so no gateway may bear it.
pub const FEDERATED: &str = "federated";

impl GatewayId {
    /// Longest id in bytes; it is part of paths and log lines.
    pub const BYTES_MAX: usize = 64;

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GatewayId {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let plain = !value.is_empty()
            && value.len() <= Self::BYTES_MAX
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !matches!(value, "." | "..");
        if !plain {
            return Err(Error::invalid(
                "id",
                "a gateway id has 1 to 64 characters out of letters, digits, dot, underscore and hyphen",
            ));
        }
        if value == FEDERATED {
            return Err(Error::invalid("id", "`federated` means all gateways at once and cannot be a gateway's id"));
        }
        Ok(Self(value.into()))
    }
}

impl<'de> Deserialize<'de> for GatewayId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        value.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gateway:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_their_plain_form_only() {
        let id = MessageId::new();
        assert_eq!(id.to_string().parse::<MessageId>().expect("plain form"), id);
        for wrong in ["", "x", "{00000000-0000-0000-0000-000000000000}", "00000000000000000000000000000000"] {
            assert!(wrong.parse::<MessageId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn gateway_ids_are_safe_in_paths() {
        for good in ["default", "gw-1", "a.b_C"] {
            assert_eq!(good.parse::<GatewayId>().expect("valid").as_str(), good);
        }
        for wrong in ["", ".", "..", "a/b", "a b", "ä", "federated", &"x".repeat(65)] {
            assert!(wrong.parse::<GatewayId>().is_err(), "{wrong}");
        }
    }
}

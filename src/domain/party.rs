//! Parties: everyone who can speak in a conversation or receive a delivery (D3).
use serde::Serialize;

use super::ids::PartyId;

/// What a party is. The numbers are stored; a retired one is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum PartyKind {
    Gateway = 1,
    Agent = 2,
    User = 3,
    Member = 4,
    Channel = 5,
    System = 6,
}

impl PartyKind {
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::Gateway, Self::Agent, Self::User, Self::Member, Self::Channel, Self::System]
            .into_iter()
            .find(|kind| *kind as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Agent => "agent",
            Self::User => "user",
            Self::Member => "member",
            Self::Channel => "channel",
            Self::System => "system",
        }
    }
}

/// Someone who can speak or receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    pub id: PartyId,
    pub kind: PartyKind,
    /// The id in its own table: a gateway's name, a user's UUID.
    pub reference: String,
    pub display_name: String,
}

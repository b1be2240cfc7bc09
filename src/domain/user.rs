//! Users, their roles, and who is calling.
use serde::{Deserialize, Serialize};

use super::error::{Error, ErrorCode};
use super::ids::{PartyId, TokenId, UserId};

/// What a user may do; each role may do what the ones before it may. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum Role {
    /// Reads; its WebSocket is read-only.
    Viewer = 1,
    /// Chats; sees and changes its own conversations only.
    Member = 2,
    /// All but keys, channels, users, models, tool policy and runtime config.
    Operator = 3,
    Admin = 4,
}

impl Role {
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::Viewer, Self::Member, Self::Operator, Self::Admin].into_iter().find(|role| *role as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Who is calling: a user, by one of its tokens or as the trusted local client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub user_id: UserId,
    pub party_id: PartyId,
    pub name: String,
    pub role: Role,
    /// `None` for the trusted local client, which has no token.
    pub token_id: Option<TokenId>,
    /// When the token ends, in epoch milliseconds.
    pub expires_at: Option<i64>,
}

impl Caller {
    /// Refuses a caller whose role is below `needed`.
    pub fn require(&self, needed: Role) -> Result<(), Error> {
        if self.role >= needed {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Forbidden,
            format!("this needs the role `{}`; the token's user has `{}`", needed.as_str(), self.role.as_str()),
        ))
    }

    /// Tells whether the caller may read a conversation with this owner.
    pub fn may_read(&self, owner: Option<UserId>) -> bool {
        match self.role {
            Role::Admin | Role::Operator | Role::Viewer => true,
            Role::Member => owner == Some(self.user_id),
        }
    }

    /// Tells whether the caller may write to a conversation with this owner.
    pub fn may_write(&self, owner: Option<UserId>) -> bool {
        match self.role {
            Role::Admin | Role::Operator => true,
            Role::Member => owner == Some(self.user_id),
            Role::Viewer => false,
        }
    }
}

/// Prefix of every user token, so that a leaked one is recognised by scanners.
pub const TOKEN_PREFIX: &str = "cbk_";

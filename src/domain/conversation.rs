//! Conversations: append-only logs that differ only in kind.
use serde::Serialize;

use super::error::{Error, ErrorCode};
use super::ids::{AgentId, ConversationId, GatewayId, UserId};

/// What a conversation is. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum ConversationKind {
    /// A chat session on an upstream gateway.
    Session = 1,
    /// Two agents.
    Agents = 2,
    /// A user and an agent.
    UserAgent = 3,
    /// A native agent's session.
    Native = 4,
    /// A task's reminders.
    Task = 5,
}

impl ConversationKind {
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::Session, Self::Agents, Self::UserAgent, Self::Native, Self::Task].into_iter().find(|k| *k as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Agents => "agents",
            Self::UserAgent => "user_agent",
            Self::Native => "native",
            Self::Task => "task",
        }
    }
}

/// A conversation, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub id: ConversationId,
    pub kind: ConversationKind,
    pub gateway_id: Option<GatewayId>,
    /// The name it was first called by here.
    pub key: String,
    /// The gateway's own name for it; filled at first contact.
    pub canonical_key: Option<String>,
    pub title: Option<String>,
    /// The gateway's agent, where the client named one.
    pub agent_id: Option<String>,
    pub model: Option<String>,
    pub owner_id: Option<UserId>,
    pub archived: bool,
    /// Lowest and highest `seq`; `last_seq < first_seq` while it is empty.
    pub first_seq: i64,
    pub last_seq: i64,
    pub created_at: i64,
    /// Time of the last line, or of its making.
    pub updated_at: i64,
    pub deleted_at: Option<i64>,
    /// How far the gateway's log of it is known here.
    pub upstream: Upstream,
}

/// Stands before the ids of the two in the key of a person's conversation with an agent.
const USER_AGENT: &str = "user_agent_";

/// Names the conversation of a user with an agent; there is one at a time.
pub fn user_agent_key(user: UserId, agent: AgentId) -> String {
    format!("{USER_AGENT}{user}_{agent}")
}

/// Finds whom a user talks to in the conversation of this key.
pub fn agent_of_key(key: &str) -> Option<AgentId> {
    let (_, agent) = key.strip_prefix(USER_AGENT)?.split_once('_')?;
    agent.parse().ok()
}

/// Says that a session is not a member's to use: it was begun on the gateway, not here.
pub fn foreign_session(key: &str) -> Error {
    Error::new(
        ErrorCode::Forbidden,
        format!(
            "the session `{key}` exists on the gateway and was not begun here, so it takes an operator to use it; \
             choose another key"
        ),
    )
}

/// How far an upstream session's log is known here (D1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// The first `chat.history` has been read: the boundary is known.
    pub contacted: bool,
    /// The gateway's id of the session's transcript; another one means a reset.
    pub session_id: Option<String>,
    /// Rows up to this number of that transcript are mapped to lines or steps, or lie below the boundary.
    pub mapped_seq: i64,
    /// Rows below the boundary are still to be imported; the number of the oldest one that is here.
    pub import_below: Option<i64>,
    /// Rows that were said before this time belong to a deleted predecessor and are not imported.
    pub not_before_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_both_who_talk() {
        let (user, agent) = (UserId::new(), AgentId::new());
        let key = user_agent_key(user, agent);
        assert_eq!(key, format!("user_agent_{user}_{agent}"));
        assert_eq!(agent_of_key(&key), Some(agent));
        for other in
            [format!("gw_agent_{user}_{agent}"), format!("user_agent_{user}"), format!("{key}x"), String::new()]
        {
            assert_eq!(agent_of_key(&other), None, "{other}");
        }
    }
}

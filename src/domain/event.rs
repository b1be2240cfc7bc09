//! Events: what the writer tells after a commit, and what links tell of live runs.
//!
//! They go to one hub per worker thread and to the supervisor, in the order of commitment. An event is shared, never
//! copied; a frame made of it is serialised once.
use std::sync::Arc;

use super::agent::{Agent, KeyFacts};
use super::delivery::{Delivery, DeliveryState};
use super::gateway::LinkStatus;
use super::ids::{
    AgentId, AgentKeyId, ChannelId, ConversationId, DeliveryId, GatewayId, MessageId, SocketId, TokenId, TurnId, UserId,
};
use super::message::Line;
use super::turn::TurnState;
use super::user::{Caller, Role};

/// Which conversation an event is of, with all that a frame needs to name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    pub conversation_id: ConversationId,
    pub gateway_id: Option<GatewayId>,
    /// The session key as shown on the wire.
    pub key: Arc<str>,
}

/// The socket that wrote a line; it gets an `ack` instead of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckTo {
    pub socket_id: SocketId,
    /// The key the client sent, if any.
    pub client_key: Option<String>,
    /// `true`: the line goes out now; `false`: the gateway is down or a question is before it.
    pub sent: bool,
}

/// How a turn ended, for the terminal frame.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnEnd {
    pub turn_id: TurnId,
    pub state: TurnState,
    /// The whole answer, or the part that came.
    pub text: Arc<str>,
    pub error: Option<String>,
    /// Our code for the error, for example `upstream_refused`.
    pub code: Option<&'static str>,
    pub usage: Option<serde_json::Value>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A line was committed. With `end` it is the answer of a turn.
    Line { topic: Arc<Topic>, line: Arc<Line>, ack_to: Option<AckTo>, end: Option<Arc<TurnEnd>> },
    /// A turn ended without a line.
    TurnEnded { topic: Arc<Topic>, end: Arc<TurnEnd> },
    /// A delivery was accepted (with its line, and no state before) or moved.
    Delivery { topic: Arc<Topic>, delivery: Arc<Delivery>, from: Option<DeliveryState>, line: Option<Arc<Line>> },
    /// Lines were added above the oldest one.
    Imported { topic: Arc<Topic>, first_seq: i64, done: bool },
    /// A session was not its owner's to use: the gateway had it before. Its deletion follows.
    SessionRefused { topic: Arc<Topic> },
    /// A conversation was deleted.
    ConversationDeleted { topic: Arc<Topic>, first_seq: i64, last_seq: i64 },
    /// A live run moved; not yet on disk.
    Live { topic: Arc<Topic>, live: Arc<Live> },
    /// A gateway's connection changed.
    Link { gateway_id: GatewayId, status: Arc<LinkStatus>, change: LinkChange },
    /// A gateway was registered, changed or removed.
    GatewayChanged { gateway_id: GatewayId, change: GatewayChange },
    /// A token ended; its sockets must close.
    TokenEnded { token_id: TokenId },
    /// A token was made; it counts from now on.
    TokenAdded { digest: [u8; 32], caller: Arc<Caller> },
    /// A user was changed, to this name and role, or removed; its sockets must close.
    UserChanged { user_id: UserId, now: Option<(String, Role)> },
    /// A key of an agent was made; it counts from now on.
    AgentKeyAdded { digest: [u8; 32], key: Arc<KeyFacts> },
    /// A key of an agent ended.
    AgentKeyEnded { agent_id: AgentId, key_id: AgentKeyId },
    /// An agent was registered, changed or removed; its keys end with it.
    AgentChanged { agent_id: AgentId, now: Option<Arc<Agent>> },
    /// What these agents know of people and of other agents changed, or what those are called. Nobody may know a person
    /// that is called otherwise now.
    RelationshipsChanged { agents: Vec<AgentId> },
    /// A channel to people was set up, changed or removed.
    ChannelChanged { channel_id: ChannelId },
    /// Whether a batch was committed is not known; if it was, nobody was told of it (D12).
    OutcomeUnknown,
    /// This node may no longer speak for the database; all sockets must close.
    SteppedDown,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    Up,
    Down {
        reason: String,
        retry_in_ms: Option<u64>,
    },
    /// Its lists or its state changed.
    Changed,
}

/// The state of a live run after one of its events.
#[derive(Clone, Debug)]
pub struct Live {
    pub turn_id: TurnId,
    /// The question's message; `None` for a run that somebody else started.
    pub message_id: Option<MessageId>,
    pub delivery_id: Option<DeliveryId>,
    pub started_at: i64,
    /// Counts the run's events from 1, so that a late reader can tell what it has seen.
    pub rev: u64,
    /// The visible text so far.
    pub text: Arc<str>,
    pub step: LiveStep,
}

/// What became of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayChange {
    /// Registered, or changed and enabled.
    Changed,
    /// Changed, and it is switched off now.
    Disabled,
    Removed,
}

/// What one event of a run brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveStep {
    /// The run has begun or changed phase.
    Phase(String),
    /// New text at the end; `at_utf16` code units and `at` bytes stood before it.
    Delta { at: usize, at_utf16: usize },
    /// The whole text is new.
    Replace,
}

impl Event {
    /// Returns the conversation the event belongs to, if it belongs to one.
    pub fn topic(&self) -> Option<&Arc<Topic>> {
        match self {
            Self::Line { topic, .. }
            | Self::TurnEnded { topic, .. }
            | Self::Delivery { topic, .. }
            | Self::Imported { topic, .. }
            | Self::SessionRefused { topic }
            | Self::ConversationDeleted { topic, .. }
            | Self::Live { topic, .. } => Some(topic),
            Self::Link { .. }
            | Self::GatewayChanged { .. }
            | Self::TokenAdded { .. }
            | Self::TokenEnded { .. }
            | Self::UserChanged { .. }
            | Self::AgentKeyAdded { .. }
            | Self::AgentKeyEnded { .. }
            | Self::AgentChanged { .. }
            | Self::RelationshipsChanged { .. }
            | Self::ChannelChanged { .. }
            | Self::OutcomeUnknown
            | Self::SteppedDown => None,
        }
    }
}

/// Takes events in order. Called after the commit and before anybody is answered.
pub trait Publish: Send + Sync {
    fn publish(&self, events: Vec<Event>);
}

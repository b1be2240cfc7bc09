//! Messages that more than one actor knows.
use actix::prelude::*;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, GatewayId, TurnId};

/// What every actor tells of itself when asked: the admin page, metrics and tests read the same.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The actor's role, for example `gateway_link`.
    pub actor: &'static str,
    /// Which one, where there are several.
    pub id: String,
    /// Counters, queue lengths, last error.
    pub state: serde_json::Value,
}

/// Ask an actor about itself.
#[derive(Message)]
#[rtype(result = "Report")]
pub struct Observe;

/// Where the reports of many actors are gathered; dropped by each when it has told.
pub type Reports = mpsc::Sender<Report>;

/// Stop in an orderly way: finish what is under way, start nothing new.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

/// A request for one gateway's link; the supervisor finds it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ToLink {
    pub gateway_id: GatewayId,
    pub request: LinkRequest,
}

/// Where the answer to a request goes. Dropping it says that the link is not there.
pub type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a link can be asked.
#[derive(Debug)]
pub enum LinkRequest {
    /// Someone looks at this session: contact it upstream if that has not been done. Answers when its log is known.
    Touch { conversation_id: ConversationId, reply: Reply<()> },
    /// End the run of this session; with `queued` also what waits behind it. With `turn_id` nothing is done unless that
    /// turn is the one that runs. Answers when the link has taken it up.
    Abort { conversation_id: ConversationId, turn_id: Option<TurnId>, queued: bool, reply: Reply<()> },
    /// List the sessions the gateway has.
    Sessions { reply: Reply<Vec<UpstreamSession>> },
    /// Delete a session upstream.
    DeleteSession { key: String, reply: Reply<()> },
    /// Connect now, whatever the waiting time.
    Reconnect,
    /// Tell how the connection is.
    Test { reply: Reply<u32> },
}

/// A session as the gateway lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSession {
    /// Canonical.
    pub key: String,
    pub title: Option<String>,
    pub agent_id: Option<String>,
    pub model: Option<String>,
    /// Epoch milliseconds.
    pub updated_at: Option<i64>,
    pub archived: bool,
}

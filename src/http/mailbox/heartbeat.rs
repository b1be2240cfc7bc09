//! What an agent says when it has nothing else to say: that it is there, and what it works on.
use actix_web::{HttpResponse, post, web};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::key::KeyCall;
use super::moves::MESSAGES_MAX;
use super::prolonging;
use crate::domain::agent::KeyFacts;
use crate::domain::error::Error;
use crate::domain::ids::MessageId;
use crate::http::body::LooseJson;
use crate::http::error::ErrorBody;
use crate::http::fields;
use crate::http::state::AppState;
use crate::store::mailbox::{ExtendAll, Extended};

/// What an agent works on.
#[derive(Deserialize, ToSchema)]
#[schema(as = HeartbeatOf)]
pub(super) struct Beat {
    /// The messages whose leases are prolonged, 100 at most.
    #[schema(max_items = 100)]
    working_on: Option<Vec<Work>>,
}

/// A message that is worked on: its id, or its id with the number of its hand-out.
#[derive(Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "each must be the id of a message, or an object with `message_id` and perhaps `delivery_attempt`"
)]
#[schema(as = WorkingOn)]
pub(super) enum Work {
    #[schema(value_type = String)]
    Message(MessageId),
    HandOut(#[serde(deserialize_with = "of_object")] HandOut),
}

/// Reads a hand-out from an object, and from nothing else.
fn of_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HandOut, D::Error> {
    fields::of_value(Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A hand-out of a message.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkingOnHandOut)]
pub(super) struct HandOut {
    #[schema(value_type = String)]
    message_id: MessageId,
    /// The number of the hand-out. An older one than the newest is stale.
    delivery_attempt: Option<i32>,
}

impl Work {
    fn named(&self) -> (MessageId, Option<i32>) {
        match self {
            Self::Message(id) => (*id, None),
            Self::HandOut(HandOut { message_id, delivery_attempt }) => (*message_id, *delivery_attempt),
        }
    }
}

/// That the call was heard.
#[derive(Serialize, ToSchema)]
#[schema(as = Heartbeat)]
pub(super) struct Heard {
    status: &'static str,
    agent_id: String,
    /// Of what it works on: what is leased to it, for longer now if it may be. Only with `working_on`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    extended: Option<Vec<MessageId>>,
    /// Of what it works on: what is not leased to it any more; it may leave that. Only with `working_on`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    stale: Option<Vec<MessageId>>,
}

/// Tell that an agent is there: it counts as online for five minutes. With `working_on` the leases of these messages
/// are prolonged; without it nothing is written to the disk, and whatever else the body may be is not looked at.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "agentHeartbeat",
    security(("agentKey" = [])),
    request_body = Option<Beat>,
    responses((status = 200, body = Heard), (status = "default", body = ErrorBody))
)]
#[post("/api/gateway/heartbeat")]
pub(super) async fn heartbeat(
    call: KeyCall,
    state: web::Data<AppState>,
    body: LooseJson<Beat>,
) -> Result<HttpResponse, Error> {
    hear(&state, &call.key, body.read().await?).await.map(|heard| HttpResponse::Ok().json(heard))
}

/// Hears an agent, whichever way it spoke; that it was seen is noted with its key.
pub(super) async fn hear(state: &AppState, key: &KeyFacts, beat: Beat) -> Result<Heard, Error> {
    let Beat { working_on } = beat;
    let agent = &key.agent;
    let told = match working_on {
        None => None,
        Some(work) if work.len() > MESSAGES_MAX => {
            let message = format!("`working_on` must name at most {MESSAGES_MAX} messages");
            return Err(Error::invalid("working_on", message));
        }
        Some(work) if work.is_empty() => Some(Extended::default()),
        Some(work) => {
            let working_on = work.iter().map(Work::named).collect();
            let by = prolonging(None, agent, &state.config.mailbox);
            Some(state.store.write(ExtendAll { recipient: agent.party_id, working_on, by }).await?)
        }
    };
    let (extended, stale) = told.map(|Extended { extended, stale }| (extended, stale)).unzip();
    Ok(Heard { status: "ok", agent_id: agent.id.to_string(), extended, stale })
}

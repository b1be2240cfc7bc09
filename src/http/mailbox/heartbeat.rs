//! What an agent says when it has nothing else to say: that it is there.
use actix_web::{HttpResponse, post};
use serde::Serialize;
use utoipa::ToSchema;

use super::key::KeyCall;
use crate::domain::agent::KeyFacts;
use crate::http::error::ErrorBody;

/// That the call was heard.
#[derive(Serialize, ToSchema)]
#[schema(as = Heartbeat)]
pub(super) struct Heard {
    status: &'static str,
    agent_id: String,
}

/// Tell that an agent is there: it counts as online for five minutes. Nothing is written to the disk for it, and a body
/// is not looked at.
#[utoipa::path(tag = "mailbox", operation_id = "agentHeartbeat", security(("agentKey" = [])), responses((status = 200, body = Heard), (status = "default", body = ErrorBody)))]
#[post("/api/gateway/heartbeat")]
pub(super) async fn heartbeat(call: KeyCall) -> HttpResponse {
    HttpResponse::Ok().json(hear(&call.key))
}

/// Hears an agent, whichever way it spoke; that it was seen is noted with its key.
pub(super) fn hear(key: &KeyFacts) -> Heard {
    Heard { status: "ok", agent_id: key.agent.id.to_string() }
}

//! Reports: an agent's word that a message is done.
use actix_web::{HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::key::KeyCall;
use super::mail_limits;
use crate::domain::agent::KeyFacts;
use crate::domain::error::Error;
use crate::domain::ids::MessageId;
use crate::domain::message::check_length;
use crate::http::body::ApiJson;
use crate::http::error::ErrorBody;
use crate::http::state::AppState;
use crate::store::mailbox::Report;

/// What became of a message.
#[derive(Deserialize, ToSchema)]
#[schema(as = MessageReport)]
pub(super) struct New {
    #[schema(value_type = String)]
    message_id: MessageId,
    /// The answer; its asker gets it as a reply.
    #[schema(min_length = 1)]
    result: String,
    /// The number of the hand-out that it is about. A report on an older one than the newest is refused.
    delivery_attempt: Option<i32>,
}

/// That the report was taken.
#[derive(Serialize, ToSchema)]
#[schema(as = Reported)]
pub(super) struct Taken {
    status: &'static str,
}

/// Say that a message is done, with the answer to it. The same report again changes nothing; another one is refused.
///
/// A report on a `reply` or a `notice` ends it and answers nobody.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "reportMessage",
    security(("agentKey" = [])),
    request_body = New,
    responses(
        (status = 200, body = Taken),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It ended otherwise, or was handed out again since that attempt", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/gateway/report")]
pub(super) async fn report(
    call: KeyCall,
    state: web::Data<AppState>,
    body: ApiJson<New>,
) -> Result<HttpResponse, Error> {
    take(&state, &call.key, body.read().await?).await.map(|taken| HttpResponse::Ok().json(taken))
}

/// Takes a report, whichever way it came.
pub(super) async fn take(state: &AppState, key: &KeyFacts, new: New) -> Result<Taken, Error> {
    let New { message_id, result, delivery_attempt } = new;
    if result.is_empty() {
        return Err(Error::invalid("result", "`result` must not be empty"));
    }
    check_length(&result, state.config.limits.message_bytes_max)?;
    let reporter = key.agent.clone();
    let limits = mail_limits(&state.config);
    state.store.write(Report { reporter, message_id, attempt: delivery_attempt, result, limits }).await?;
    Ok(Taken { status: "ok" })
}

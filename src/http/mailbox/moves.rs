//! What an agent says about a message that it has, short of a report: it gives it back, gives it up, needs longer, or
//! just has it.
use std::ops::RangeInclusive;

use actix_web::{HttpResponse, post, web};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::key::KeyCall;
use super::{prolonging, within};
use crate::domain::agent::{KeyFacts, LEASE_S};
use crate::domain::delivery::{DeliveryState, reason};
use crate::domain::error::Error;
use crate::domain::ids::MessageId;
use crate::domain::time::iso;
use crate::http::body::ApiJson;
use crate::http::error::ErrorBody;
use crate::http::state::AppState;
use crate::store::mailbox::{Acknowledge, Extend, Fail, Nack};

/// Seconds for which a message may be held back that is given back.
const DELAY_S: RangeInclusive<u32> = 0..=43_200;
/// Longest reason in characters; people and other agents read it.
const REASON_CHARS_MAX: usize = 500;
/// Messages of one call.
pub(super) const MESSAGES_MAX: usize = 100;

/// Why a message is not handled.
#[derive(Debug)]
struct Reason(String);

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let text = text.trim();
        if text.is_empty() || text.chars().count() > REASON_CHARS_MAX || text.chars().any(char::is_control) {
            let message = format!("must be 1 to {REASON_CHARS_MAX} characters without control characters");
            return Err(D::Error::custom(message));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What became of a message.
#[derive(Serialize, ToSchema)]
#[schema(as = MovedMessage)]
pub(super) struct Moved {
    status: &'static str,
    /// `pending`: it comes again; `dead`: it does not.
    state: &'static str,
}

impl Moved {
    fn to(state: DeliveryState) -> Self {
        Self { status: "ok", state: state.as_str() }
    }
}

/// A message that is given back.
#[derive(Deserialize, ToSchema)]
#[schema(as = MessageNack)]
pub(super) struct NewNack {
    #[schema(value_type = String)]
    message_id: MessageId,
    /// Why: 1 to 500 characters.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500)]
    reason: Option<Reason>,
    /// Seconds for which it is not handed out, 0 to 43200.
    #[schema(minimum = 0, maximum = 43200)]
    delay_seconds: Option<u32>,
    /// The number of the hand-out that it is about. An older one than the newest is refused.
    delivery_attempt: Option<i32>,
}

/// Give a message back: it comes again at once, or after a while, with the next `delivery_attempt`. After the last one
/// it is dead.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "nackMessage",
    security(("agentKey" = [])),
    request_body = NewNack,
    responses(
        (status = 200, body = Moved),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It is not leased, has ended, or was handed out again since that attempt", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/gateway/nack")]
pub(super) async fn nack(
    call: KeyCall,
    state: web::Data<AppState>,
    body: ApiJson<NewNack>,
) -> Result<HttpResponse, Error> {
    give_back(&state, &call.key, body.read().await?).await.map(|told| HttpResponse::Ok().json(told))
}

/// Takes a message back, whichever way that was said.
pub(super) async fn give_back(state: &AppState, key: &KeyFacts, new: NewNack) -> Result<Moved, Error> {
    let NewNack { message_id, reason, delay_seconds, delivery_attempt } = new;
    let delay_s = within("body", "delay_seconds", delay_seconds, DELAY_S)?.unwrap_or(0);
    let command = Nack {
        recipient: key.agent.party_id,
        message_id,
        attempt: delivery_attempt,
        delay_ms: i64::from(delay_s) * 1_000,
        reason: reason.map(|reason| reason.0),
    };
    state.store.write(command).await.map(Moved::to)
}

/// A message that will never be handled.
#[derive(Deserialize, ToSchema)]
#[schema(as = MessageFailure)]
pub(super) struct NewFailure {
    #[schema(value_type = String)]
    message_id: MessageId,
    /// Why: 1 to 500 characters.
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: Reason,
    /// The number of the hand-out that it is about. An older one than the newest is refused.
    delivery_attempt: Option<i32>,
}

/// Say that a message will never be handled: it is dead and does not come again. The same again changes nothing.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "failMessage",
    security(("agentKey" = [])),
    request_body = NewFailure,
    responses(
        (status = 200, body = Moved),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It has ended otherwise, or was handed out again since that attempt", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/gateway/fail")]
pub(super) async fn fail(
    call: KeyCall,
    state: web::Data<AppState>,
    body: ApiJson<NewFailure>,
) -> Result<HttpResponse, Error> {
    give_up(&state, &call.key, body.read().await?).await.map(|told| HttpResponse::Ok().json(told))
}

/// Ends a message for good, whichever way that was said.
pub(super) async fn give_up(state: &AppState, key: &KeyFacts, new: NewFailure) -> Result<Moved, Error> {
    let NewFailure { message_id, reason: Reason(why), delivery_attempt } = new;
    // Whoever asked would be told what is not so; and what is dead by its attempts may still be reported on.
    if reason::ALL.contains(&why.as_str()) {
        let message = format!("`{why}` is the broker's own word; give a reason of your own");
        return Err(Error::invalid("reason", message));
    }
    let recipient = key.agent.party_id;
    let command = Fail { recipient, message_id, attempt: delivery_attempt, reason: why };
    state.store.write(command).await.map(Moved::to)
}

/// A message that takes longer.
#[derive(Deserialize, ToSchema)]
#[schema(as = LeaseExtension)]
pub(super) struct NewExtension {
    #[schema(value_type = String)]
    message_id: MessageId,
    /// Seconds for which it is leased from now on, 10 to 43200.
    #[schema(minimum = 10, maximum = 43200)]
    lease: Option<u32>,
    /// The number of the hand-out that it is about. An older one than the newest is refused.
    delivery_attempt: Option<i32>,
}

/// Until when a message is leased now.
#[derive(Serialize, ToSchema)]
#[schema(as = ExtendedLease)]
pub(super) struct Until {
    status: &'static str,
    /// It is not handed out again before this time.
    lease_until: String,
}

/// Keep a message for longer. A lease never becomes shorter by it, nor longer in all than the settings allow.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "extendLease",
    security(("agentKey" = [])),
    request_body = NewExtension,
    responses(
        (status = 200, body = Until),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It is not leased, has ended, or was handed out again since that attempt", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/gateway/extend")]
pub(super) async fn extend(
    call: KeyCall,
    state: web::Data<AppState>,
    body: ApiJson<NewExtension>,
) -> Result<HttpResponse, Error> {
    prolong(&state, &call.key, body.read().await?).await.map(|told| HttpResponse::Ok().json(told))
}

/// Prolongs a lease, whichever way that was asked for.
pub(super) async fn prolong(state: &AppState, key: &KeyFacts, new: NewExtension) -> Result<Until, Error> {
    let NewExtension { message_id, lease, delivery_attempt } = new;
    let lease = within("body", "lease", lease, LEASE_S)?;
    let agent = &key.agent;
    let by = prolonging(lease, agent, &state.config.mailbox);
    let command = Extend { recipient: agent.party_id, message_id, attempt: delivery_attempt, by };
    let until = state.store.write(command).await?;
    Ok(Until { status: "ok", lease_until: iso(until) })
}

/// Replies and notices that their recipient has.
#[derive(Deserialize, ToSchema)]
#[schema(as = Acknowledgement)]
pub(super) struct NewAck {
    /// Their ids, 1 to 100.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 100)]
    message_ids: Vec<MessageId>,
}

/// What was acknowledged.
#[derive(Serialize, ToSchema)]
#[schema(as = Acknowledged)]
pub(super) struct Acked {
    status: &'static str,
    /// Those that are complete, now or since before.
    #[schema(value_type = Vec<String>)]
    acked: Vec<MessageId>,
    /// Those that are not the agent's, are requests, or are dead.
    #[schema(value_type = Vec<String>)]
    unknown: Vec<MessageId>,
}

/// Say that replies and notices have come, which were polled with `ack=explicit`: they do not come again. A request is
/// done by a report only.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "acknowledgeMessages",
    security(("agentKey" = [])),
    request_body = NewAck,
    responses((status = 200, body = Acked), (status = "default", body = ErrorBody))
)]
#[post("/api/gateway/ack")]
pub(super) async fn ack(
    call: KeyCall,
    state: web::Data<AppState>,
    body: ApiJson<NewAck>,
) -> Result<HttpResponse, Error> {
    acknowledge(&state, &call.key, body.read().await?).await.map(|told| HttpResponse::Ok().json(told))
}

/// Ends replies and notices, whichever way that was said.
pub(super) async fn acknowledge(state: &AppState, key: &KeyFacts, new: NewAck) -> Result<Acked, Error> {
    let NewAck { message_ids } = new;
    if !(1..=MESSAGES_MAX).contains(&message_ids.len()) {
        let message = format!("`message_ids` must name 1 to {MESSAGES_MAX} messages");
        return Err(Error::invalid("message_ids", message));
    }
    let told = state.store.write(Acknowledge { recipient: key.agent.party_id, message_ids }).await?;
    Ok(Acked { status: "ok", acked: told.acked, unknown: told.unknown })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reason_is_short_and_plain() {
        let read = |text: &str| serde_json::from_value::<Reason>(json!(text));
        let long = "ä".repeat(REASON_CHARS_MAX);
        for (text, reason) in [("x", "x"), (" out of paper\n", "out of paper"), (long.as_str(), long.as_str())] {
            assert_eq!(read(text).expect(text).0, reason);
        }
        for wrong in ["", "  \n", "a\nb", "a\0b", "\u{1b}[31m", &format!("{long}x")] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! Sending: an agent writes to another one.
use actix_web::{HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::key::KeyCall;
use super::mail_limits;
use super::target::{self, Meant};
use crate::domain::error::{Error, ErrorCode};
use crate::http::body::ApiJson;
use crate::http::error::ErrorBody;
use crate::http::idempotency::IdempotencyKey;
use crate::http::state::AppState;
use crate::store::deliveries::DeliveryOptions;
use crate::store::mailbox::SendMessage;
use crate::store::messages::Idem;

/// A message that is to be sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = MessageToSend)]
pub(super) struct New {
    /// An agent: its id, its slug, its name, or a part of its name that no other has.
    #[schema(min_length = 1)]
    target: String,
    #[schema(min_length = 1)]
    content: String,
    /// By which way; `agent` is the only one now, and the default.
    channel: Option<String>,
    /// The sender's own key for it: the same message with the same key is sent once. As `Idempotency-Key`.
    #[schema(min_length = 1, max_length = 255)]
    message_id: Option<String>,
}

/// That a message is on disk and waits for its recipient.
#[derive(Serialize, ToSchema)]
#[schema(as = SentMessage)]
pub(super) struct Accepted {
    status: &'static str,
    /// The recipient's name.
    target: String,
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
    message_id: String,
}

/// Write to another agent. The answer comes as a message of the kind `reply`, by a poll.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "sendMessage",
    security(("agentKey" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = New,
    responses(
        (status = 200, body = Accepted),
        (status = 404, body = ErrorBody),
        (status = 409, description = "The target may mean several, or the key was used for another message", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/gateway/send-message")]
pub(super) async fn send_message(
    call: KeyCall,
    state: web::Data<AppState>,
    key: IdempotencyKey,
    body: ApiJson<New>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let received = body.receive().await?;
    let hash = received.digest;
    let New { target, content, channel, message_id } = received.value;
    let (target, text) = (stripped("target", &target)?, stripped("content", &content)?);
    let bytes_max = state.config.limits.message_bytes_max;
    if text.len() > bytes_max {
        let message = format!("a message must not be longer than {bytes_max} bytes");
        return Err(Error::new(ErrorCode::MessageTooLarge, message));
    }
    let idem = key.plain_or("message_id", message_id)?.map(|key| Idem { key, hash });
    let channel = channel.unwrap_or_default().trim().to_lowercase();
    if !matches!(channel.as_str(), "" | "agent") {
        return Err(target::nobody(&target));
    }
    let (sender, named) = (call.key.agent.id, target.clone());
    let to = match state.store.read(move |db| target::find(db, sender, &named)).await? {
        Meant::One(id) => id,
        Meant::Several(agents) => return Err(target::several(&target, &agents)),
        Meant::Nobody => return Err(target::nobody(&target)),
    };
    let command = SendMessage {
        from: call.key.agent.clone(),
        to,
        text,
        idem,
        in_reply_to: None,
        options: DeliveryOptions::default(),
        limits: mail_limits(&state.config),
    };
    let sent = state.store.write(command).await?;
    let name: &str = &sent.target.name;
    Ok(HttpResponse::Ok().json(Accepted {
        status: "accepted",
        target: name.to_owned(),
        kind: "openclaw_agent",
        message: format!("Message sent to {name}. Reply will appear in your next poll."),
        message_id: sent.line.id.to_string(),
    }))
}

/// Takes the space around a text away; nothing must not be left.
fn stripped(field: &str, text: &str) -> Result<String, Error> {
    match text.trim() {
        "" => Err(Error::invalid(field, format!("`{field}` must not be empty"))),
        text => Ok(text.to_owned()),
    }
}

//! Sending: an agent writes to another one.
use actix_web::{HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::key::KeyCall;
use super::mail_limits;
use super::target::{self, Meant};
use crate::domain::agent::{AgentFacts, KeyFacts};
use crate::domain::error::Error;
use crate::domain::message::check_length;
use crate::http::body::{ApiJson, Received};
use crate::http::error::ErrorBody;
use crate::http::idempotency::{IdempotencyKey, Key};
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::deliveries::DeliveryOptions;
use crate::store::mailbox::{SendMessage, Sent, sent_before};
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
    accept(&state, &call.key, key, received).await.map(|accepted| HttpResponse::Ok().json(accepted))
}

/// Accepts a message, whichever way it came; `key` is the sender's for it, where it does not stand in the message.
pub(super) async fn accept(
    state: &AppState,
    by: &KeyFacts,
    key: Key,
    received: Received<New>,
) -> Result<Accepted, Error> {
    let hash = received.digest;
    let New { target, content, channel, message_id } = received.value;
    let (target, text) = (stripped("target", &target)?, stripped("content", &content)?);
    check_length(&text, state.config.limits.message_bytes_max)?;
    let idem = key.plain_or("message_id", message_id)?.map(|key| Idem { key, hash });
    let channel = channel.unwrap_or_default().trim().to_lowercase();
    if !matches!(channel.as_str(), "" | "agent") {
        return Err(target::nobody(&target));
    }
    let (sender, key, named) = (by.agent.clone(), idem.clone(), target.clone());
    let sent = match state.store.read(move |db| before(db, &sender, key.as_ref(), &named)).await? {
        Before::Sent(sent) => sent,
        Before::For(Meant::Several(agents)) => return Err(target::several(&target, &agents)),
        Before::For(Meant::Nobody) => return Err(target::nobody(&target)),
        Before::For(Meant::One(to)) => {
            let command = SendMessage {
                from: by.agent.clone(),
                to,
                text,
                idem,
                in_reply_to: None,
                options: DeliveryOptions::default(),
                limits: mail_limits(&state.config),
            };
            state.store.write(command).await?
        }
    };
    Ok(Accepted {
        status: "accepted",
        kind: "openclaw_agent",
        message: format!("Message sent to {}. Reply will appear in your next poll.", sent.target),
        target: sent.target,
        message_id: sent.line.id.to_string(),
    })
}

/// What is known of a message before it is written.
enum Before {
    /// It was sent already.
    Sent(Sent),
    For(Meant),
}

/// Looks up the sender's key first: a repeat is answered as the first time, whomever the name means by now (D10).
fn before(db: &mut Db, sender: &AgentFacts, idem: Option<&Idem>, target: &str) -> Result<Before, Error> {
    if let Some(idem) = idem
        && let Some(sent) = sent_before(db, sender.party_id, idem)?
    {
        return Ok(Before::Sent(sent));
    }
    target::find(db, sender.id, target).map(Before::For)
}

/// Takes the space around a text away; nothing must not be left.
fn stripped(field: &str, text: &str) -> Result<String, Error> {
    match text.trim() {
        "" => Err(Error::invalid(field, format!("`{field}` must not be empty"))),
        text => Ok(text.to_owned()),
    }
}

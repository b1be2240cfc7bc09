//! Receipts: what became of a message.
use std::sync::Arc;

use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::deliveries::Chain;
use super::messages::of_message;
use crate::domain::error::Error;
use crate::domain::ids::MessageId;
use crate::domain::message::Line;
use crate::domain::time::iso;
use crate::domain::user::Caller;
use crate::domain::wire::message_json;
use crate::http::auth::Observer;
use crate::http::call::{self, Call, Target};
use crate::http::chat::Message;
use crate::http::error::ErrorBody;
use crate::http::state::AppState;
use crate::store::{Db, conversations, messages};

/// What became of a message.
#[derive(Serialize, ToSchema)]
pub(super) struct Receipt {
    #[schema(value_type = Message)]
    message: Value,
    /// How sure its being stored is: `full` survives a power cut, `normal` a crash of ours.
    durability: &'static str,
    deliveries: Vec<Chain>,
    /// How its delivery ended, where that was removed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    /// The line that answers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Message>)]
    reply: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Ended {
    state: &'static str,
    reason: Option<String>,
    at: Option<String>,
}

/// A message; a deleted conversation takes its messages out of sight.
impl Target for Arc<Line> {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id: MessageId = call::id(&path)?;
        let read = move |db: &mut Db| {
            let Some(line) = messages::get(db, id)? else { return Ok(None) };
            Ok::<_, Error>(conversations::get(db, line.conversation_id)?.map(|_| line))
        };
        state.store.read(read).await?.ok_or_else(|| Error::not_found("message", id))
    }
}

/// Read a message and its receipt chain: what happened to it, when, and why.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminGetReceipt",
    params(("id" = String, Path)),
    responses((status = 200, body = Receipt), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/messages/{id}")]
pub(super) async fn receipt(
    call: Call<Observer, Arc<Line>>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Error> {
    let line = call.target;
    let (id, conversation, seq, is_mail) = (line.id, line.conversation_id, line.seq, line.kind.is_some());
    let asked = line.clone();
    let read = move |db: &mut Db| {
        let open = if is_mail { conversations::get(db, conversation)? } else { None };
        let reply = match open {
            Some(open) => messages::answer_of(db, &asked, open.kind)?,
            None => messages::reply_to(db, conversation, seq, id)?,
        };
        Ok::<_, Error>((of_message(db, id)?, messages::ended(db, id)?, reply))
    };
    let (found, ended, reply) = state.store.read(read).await?;
    let show = |line: &Arc<Line>| message_json(line, Some(&line.conversation_id.to_string()));
    Ok(HttpResponse::Ok().json(Receipt {
        message: show(&line),
        durability: state.config.store.durability.as_str(),
        deliveries: found.iter().map(Chain::from).collect(),
        ended: ended.map(|ended| Ended { state: ended.state.as_str(), reason: ended.reason, at: ended.at.map(iso) }),
        reply: reply.as_ref().map(show),
    }))
}

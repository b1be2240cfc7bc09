//! Receipts: what became of a message, for the agent that sent it or got it.
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, get, web};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::{MessageId, PartyId};
use crate::domain::message::Line;
use crate::domain::time::iso;
use crate::domain::wire::message_json;
use crate::http::call::{self, NoQuery};
use crate::http::chat::Message;
use crate::http::error::ErrorBody;
use crate::http::history::{self, Happened};
use crate::http::request::state_of;
use crate::http::state::AppState;
use crate::http::{auth, body};
use crate::store::deliveries::{self, Stored};
use crate::store::mailbox::was_sent_to;
use crate::store::messages::{self, Ended};
use crate::store::{Db, conversations};

/// What became of a message.
#[derive(Serialize, ToSchema)]
#[schema(as = AgentReceipt)]
pub(super) struct Receipt {
    #[schema(value_type = Message)]
    message: Value,
    /// `pending`: not handed out yet; `delivered`: it was; `completed`: it is done. The events tell of another end.
    status: &'static str,
    /// How sure its being stored is: `full` survives a power cut, `normal` a crash of ours.
    durability: &'static str,
    /// What happened to it, oldest first.
    events: Vec<Happened>,
    /// The answer to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Reply>,
}

/// The answer to a message.
#[derive(Serialize, ToSchema)]
#[schema(as = AgentReply)]
pub(super) struct Reply {
    message_id: String,
    content: String,
    created_at: String,
}

/// A message that an agent sent or got, with what became of it.
struct Its {
    line: Arc<Line>,
    /// What its conversation is called.
    key: String,
    /// Its own delivery, or that of whom it wrote to; `None` if there is none, or none any more.
    delivery: Option<Stored>,
    /// How the delivery ended that there is no more.
    ended: Option<Ended>,
    reply: Option<Arc<Line>>,
}

/// A call about one message of the calling agent, checked in the order of every call.
pub(super) struct MessageCall(Its);

impl FromRequest for MessageCall {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let req = req.clone();
        async move {
            let key = auth::authenticate_agent(&req)?;
            let party = key.agent.party_id;
            let id: MessageId = call::id(&body::path::<String>(&req)?)?;
            let found = state_of(&req)?.store.read(move |db| find(db, party, id)).await?;
            let its = found.ok_or_else(|| Error::not_found("message", id))?;
            let NoQuery {} = call::rest_of_head(&req)?;
            Ok(Self(its))
        }
        .boxed_local()
    }
}

/// Finds a message that this party sent or got; a deleted conversation takes its messages out of sight.
fn find(db: &mut Db, party: PartyId, id: MessageId) -> Result<Option<Its>, Error> {
    let Some(line) = messages::get(db, id)? else { return Ok(None) };
    let Some(conversation) = conversations::get(db, line.conversation_id)? else { return Ok(None) };
    let mut delivered = deliveries::of_message(db, id)?;
    if line.sender_id != party {
        // Of what others got it learns nothing.
        delivered.retain(|stored| stored.delivery.recipient_id == party);
        if delivered.is_empty() && !was_sent_to(db, id, party)? {
            return Ok(None);
        }
    }
    let reply = messages::reply_to(db, line.conversation_id, line.seq, id)?;
    let ended = if delivered.is_empty() { messages::ended(db, id)? } else { None };
    Ok(Some(Its { line, key: conversation.key, delivery: delivered.into_iter().next(), ended, reply }))
}

impl Its {
    /// Returns the ancestor's word for how far it has come.
    fn status(&self) -> &'static str {
        let (state, was_handed_out) = match (&self.delivery, &self.ended) {
            (Some(stored), _) => (stored.delivery.state, stored.delivery.attempt > 0),
            (None, Some(ended)) => (ended.state, ended.state == DeliveryState::Dead),
            // It was said to nobody who had to do anything.
            (None, None) => (DeliveryState::Completed, true),
        };
        match state {
            DeliveryState::Completed => "completed",
            DeliveryState::Pending => "pending",
            DeliveryState::Leased => "delivered",
            DeliveryState::Dead | DeliveryState::Expired | DeliveryState::Cancelled if was_handed_out => "delivered",
            DeliveryState::Dead | DeliveryState::Expired | DeliveryState::Cancelled => "pending",
        }
    }

    fn events(&self) -> Vec<Happened> {
        if let Some(stored) = &self.delivery {
            return history::shown(&stored.events);
        }
        let at = self.line.created_at;
        let mut events = vec![Happened::plain(at, "accepted"), Happened::plain(at, "stored")];
        if let Some(ended) = &self.ended {
            events.push(Happened::end(ended.at.unwrap_or(at), ended.state.as_str(), ended.reason.clone()));
        }
        events
    }
}

/// Read what became of a message that you sent or got.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "agentReceipt",
    security(("agentKey" = [])),
    params(("id" = String, Path)),
    responses((status = 200, body = Receipt), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/gateway/messages/{id}")]
pub(super) async fn receipt(call: MessageCall, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let MessageCall(its) = call;
    Ok(HttpResponse::Ok().json(Receipt {
        message: message_json(&its.line, Some(&its.key)),
        status: its.status(),
        durability: state.config.store.durability.as_str(),
        events: its.events(),
        reply: its.reply.as_ref().map(|line| Reply {
            message_id: line.id.to_string(),
            content: line.text.clone(),
            created_at: iso(line.created_at),
        }),
    }))
}

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
use crate::domain::party::Party;
use crate::domain::time::iso;
use crate::domain::wire::message_json;
use crate::http::admin::PartyView;
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
    /// `pending`: it waits to be handed out, for the first time or after a lease that is over; `delivered`: it was
    /// handed out; `completed`: it is done. The deliveries tell of another end.
    status: &'static str,
    /// How sure its being stored is: `full` survives a power cut, `normal` a crash of ours.
    durability: &'static str,
    /// What happened to it, oldest first.
    events: Vec<Happened>,
    /// Its deliveries: all of them for its sender, for a recipient its own. None if they were removed since.
    deliveries: Vec<Chain>,
    /// The answer to it: a report, or what a person said to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Reply>,
}

/// A delivery of a message, with everything that happened to it.
#[derive(Serialize, ToSchema)]
#[schema(as = AgentDelivery)]
pub(super) struct Chain {
    id: String,
    message_id: String,
    recipient: PartyView,
    /// `pending`, `leased`, `completed`, `dead`, `expired` or `cancelled`.
    state: &'static str,
    /// How a completed one ended: `reported`, `handed_out` (nobody said that it has come), `acknowledged` …
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Hand-outs so far.
    attempt: i32,
    attempts_max: i32,
    available_at: String,
    /// Told to the recipient only.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    events: Vec<Happened>,
}

impl Chain {
    /// Shows a delivery to this party.
    fn to(party: PartyId, (stored, recipient): &(Stored, Party)) -> Self {
        let delivery = &stored.delivery;
        let own_lease = delivery.lease_until.filter(|_| delivery.recipient_id == party);
        Self {
            id: delivery.id.to_string(),
            message_id: delivery.message_id.to_string(),
            recipient: recipient.into(),
            state: delivery.state.as_str(),
            outcome: delivery.outcome.map(|outcome| outcome.as_str()),
            reason: delivery.reason.clone(),
            attempt: delivery.attempt,
            attempts_max: delivery.attempts_max,
            available_at: iso(delivery.available_at),
            lease_until: own_lease.map(iso),
            expires_at: delivery.expires_at.map(iso),
            created_at: iso(delivery.created_at),
            ended_at: delivery.ended_at.map(iso),
            events: history::shown(&stored.events),
        }
    }
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
    /// Who asks.
    party: PartyId,
    /// Its own delivery, or those of whom it wrote to; none if there is none, or none any more.
    delivered: Vec<(Stored, Party)>,
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
    let reply = messages::answer_of(db, &line, conversation.kind)?;
    let ended = if delivered.is_empty() { messages::ended(db, id)? } else { None };
    let delivered = deliveries::with_recipients(db, delivered)?;
    Ok(Some(Its { line, key: conversation.key, party, delivered, ended, reply }))
}

impl Its {
    /// Returns the delivery that its status tells of.
    fn delivery(&self) -> Option<&Stored> {
        self.delivered.first().map(|(stored, _)| stored)
    }

    /// Returns the ancestor's word for how far it has come.
    fn status(&self) -> &'static str {
        let (state, was_handed_out) = match (self.delivery(), &self.ended) {
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
        if let Some(stored) = self.delivery() {
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
        deliveries: its.delivered.iter().map(|one| Chain::to(its.party, one)).collect(),
        reply: its.reply.as_ref().map(|line| Reply {
            message_id: line.id.to_string(),
            content: line.text.clone(),
            created_at: iso(line.created_at),
        }),
    }))
}

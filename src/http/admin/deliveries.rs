//! Deliveries: what waits, what is under way, what died, and what to do about it.
use actix_web::{HttpRequest, HttpResponse, get, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::party::{PartyName, PartyView};
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::error::Error;
use crate::domain::ids::PartyId;
use crate::domain::party::Party;
use crate::domain::time::{iso, parse_iso};
use crate::domain::user::Caller;
use crate::http::auth::Operator;
use crate::http::call::{self, Call, Target};
use crate::http::error::ErrorBody;
use crate::http::history::{self, Happened};
use crate::http::page::{self, Listing, Page};
use crate::http::state::AppState;
use crate::store::Store;
use crate::store::deliveries::{self, Filter, Stored};

pub(super) type WithRecipient = (Stored, Party);

/// A delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct Shown {
    id: String,
    message_id: String,
    conversation_id: String,
    recipient: PartyView,
    /// The channel that brings it; `null` where none does.
    channel_id: Option<String>,
    /// `pending`, `leased`, `completed`, `dead`, `expired` or `cancelled`.
    state: &'static str,
    /// How a completed one ended: `answered`, `aborted`, `error` …
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Hand-outs so far.
    attempt: i32,
    attempts_max: i32,
    available_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

impl Shown {
    fn of(delivery: &Delivery, recipient: &Party) -> Self {
        Self {
            id: delivery.id.to_string(),
            message_id: delivery.message_id.to_string(),
            conversation_id: delivery.conversation_id.to_string(),
            recipient: recipient.into(),
            channel_id: delivery.channel_id.map(|id| id.to_string()),
            state: delivery.state.as_str(),
            outcome: delivery.outcome.map(|outcome| outcome.as_str()),
            reason: delivery.reason.clone(),
            attempt: delivery.attempt,
            attempts_max: delivery.attempts_max,
            available_at: iso(delivery.available_at),
            lease_until: delivery.lease_until.map(iso),
            expires_at: delivery.expires_at.map(iso),
            created_at: iso(delivery.created_at),
            ended_at: delivery.ended_at.map(iso),
        }
    }
}

impl From<&WithRecipient> for Shown {
    fn from((stored, recipient): &WithRecipient) -> Self {
        Self::of(&stored.delivery, recipient)
    }
}

/// A delivery with everything that happened to it.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryChain)]
pub(super) struct Chain {
    #[serde(flatten)]
    delivery: Shown,
    events: Vec<Happened>,
}

impl From<&WithRecipient> for Chain {
    fn from(found: &WithRecipient) -> Self {
        Self { delivery: found.into(), events: history::shown(&found.0.events) }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// `pending`, `leased`, `completed`, `dead`, `expired` or `cancelled`.
    state: Option<String>,
    /// `kind:id`, for example `gateway:default`.
    recipient: Option<String>,
    /// Only those made before this time (ISO-8601).
    older_than: Option<String>,
    #[param(minimum = 1)]
    limit: Option<u32>,
    cursor: Option<String>,
}

/// List deliveries, newest first.
#[utoipa::path(tag = "admin", operation_id = "adminListDeliveries", params(Asked), responses((status = 200, body = Page<Shown>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/deliveries")]
pub(super) async fn list(
    call: Call<Operator, (), Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let asked = call.query;
    let rows = page::rows(asked.limit, 100, state.config.limits.page_rows_max)?;
    let after_n = page::after_number(asked.cursor.as_deref())?;
    let wanted = asked.state.as_deref().map(state_of).transpose()?;
    let Some(filter) = filter(&state.store, "query", wanted, asked.recipient, asked.older_than).await? else {
        return Ok(Listing::of(&req).total(0_u64).page(Vec::<Shown>::new(), None));
    };
    let (mut found, total) = state
        .store
        .read(move |db| {
            let total = deliveries::count(db, &filter)?;
            Ok::<_, Error>((deliveries::list(db, &Filter { after_n, ..filter }, rows as i64 + 1)?, total))
        })
        .await?;
    let more = page::cut(&mut found, rows);
    let next = found.last().filter(|_| more).map(|(stored, _)| page::number_cursor(stored.delivery.n));
    Ok(Listing::of(&req).total(total).page(found.iter().map(Shown::from).collect(), next))
}

impl Target for Stored {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = call::id(&path)?;
        state.store.read(move |db| deliveries::get(db, id)).await?.ok_or_else(|| Error::not_found("delivery", id))
    }
}

pub(super) fn state_of(text: &str) -> Result<DeliveryState, Error> {
    DeliveryState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let all = DeliveryState::ALL.map(|state| format!("`{}`", state.as_str())).join(", ");
        Error::invalid_at("query", "state", format!("must be one of {all}"), "value_error")
    })
}

/// Builds a filter. `None`: nobody has that name, so there is nothing.
pub(super) async fn filter(
    store: &Store,
    place: &'static str,
    state: Option<DeliveryState>,
    recipient: Option<String>,
    older_than: Option<String>,
) -> Result<Option<Filter>, Error> {
    let created_before =
        older_than.map(|text| parse_iso("older_than", &text)).transpose().map_err(|error| error.at(place))?;
    let recipient: Option<PartyId> = match recipient {
        None => None,
        Some(text) => match party_of(store, place, &text).await? {
            Some(party) => Some(party.id),
            None => return Ok(None),
        },
    };
    Ok(Some(Filter { state, recipient, created_before, ..Filter::default() }))
}

/// Finds a party by `kind:id`, or by its UUID.
async fn party_of(store: &Store, place: &'static str, text: &str) -> Result<Option<Party>, Error> {
    let named = PartyName::of_text(text).ok_or_else(|| {
        Error::invalid_at(place, "recipient", "must be `kind:id`, for example `gateway:default`", "value_error")
    })?;
    store.read(move |db| named.find(db)).await
}

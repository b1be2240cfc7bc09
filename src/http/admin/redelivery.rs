//! What an operator does about deliveries: starts dead ones afresh, cancels open ones, removes dead ones.
use actix_web::{HttpResponse, delete, post, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::deliveries::{Shown, filter, state_of};
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::ids::DeliveryId;
use crate::http::auth::Operator;
use crate::http::body::{NoBody, StrictJson};
use crate::http::call::Call;
use crate::http::error::ErrorBody;
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::audit::{Actor, Audited};
use crate::store::deliveries::{self, Cancel, Filter, Purge, Redrive, Stored};
use crate::store::{Db, Store};

/// Deliveries that one call changes at most; it says when there are more.
const AT_ONCE: i64 = 500;

/// Start a dead delivery afresh.
///
/// One that had reached its gateway is refused (409 `delivery_ended`): sending it again could ask twice. One that is
/// not dead yet is refused as well (409 `not_leased`).
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRedriveDelivery",
    params(("id" = String, Path)),
    responses((status = 200, body = Shown), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/deliveries/{id}/redrive")]
pub(super) async fn redrive(
    call: Call<Operator, Stored>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: NoBody,
) -> Result<HttpResponse, Error> {
    body.check().await?;
    let id = call.target.delivery.id;
    state.store.write(redrive_of(id, info.actor(&call.caller))).await?;
    answer(&state.store, id).await
}

fn redrive_of(id: DeliveryId, actor: Actor) -> Audited<Redrive> {
    Audited {
        change: Redrive { id },
        actor,
        action: "delivery.redrive",
        target: ("delivery", id.to_string()),
        shown: |delivery| serde_json::json!({ "state": delivery.state }),
    }
}

async fn answer(store: &Store, id: DeliveryId) -> Result<HttpResponse, Error> {
    let read = move |db: &mut Db| {
        let stored = deliveries::get(db, id)?.into_iter().collect();
        deliveries::with_recipients(db, stored)
    };
    let found = store.read(read).await?.pop().ok_or_else(|| Error::not_found("delivery", id))?;
    Ok(HttpResponse::Ok().json(Shown::from(&found)))
}

/// Which dead deliveries are meant.
#[derive(Deserialize, ToSchema)]
pub(super) struct DeadOnes {
    /// `kind:id`, for example `gateway:default`.
    recipient: Option<String>,
    /// Only those made before this time (ISO-8601).
    older_than: Option<String>,
}

/// What a redrive did.
#[derive(Serialize, ToSchema)]
pub(super) struct Redriven {
    redriven: usize,
    /// Those that had reached their gateway, or whose conversation, agent or channel is gone, stay dead. Counted when
    /// `more` is false.
    refused: usize,
    /// Those that the store could not take, for example because it had no room for more work: call again.
    failed: usize,
    /// There are more than one call takes: call again, unless nothing was redriven.
    more: bool,
}

/// Start dead deliveries afresh, the newest first, at most 500 a call.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRedriveDeliveries",
    request_body = DeadOnes,
    responses((status = 200, body = Redriven), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/deliveries/redrive")]
pub(super) async fn redrive_many(
    call: Call<Operator>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<DeadOnes>,
) -> Result<HttpResponse, Error> {
    let DeadOnes { recipient, older_than } = body.read().await?;
    let dead = Some(DeliveryState::Dead);
    let Some(filter) = filter(&state.store, "body", dead, recipient, older_than).await? else {
        return Ok(HttpResponse::Ok().json(Redriven { redriven: 0, refused: 0, failed: 0, more: false }));
    };
    let read = move |db: &mut Db| {
        let redrivable = Filter { redrivable: true, ..filter.clone() };
        let found = deliveries::list(db, &redrivable, AT_ONCE + 1)?;
        let more = found.len() as i64 > AT_ONCE;
        // Once, by the last call: the count looks at all dead ones.
        let stay = if more { 0 } else { deliveries::count(db, &filter)? - found.len() as i64 };
        Ok::<_, Error>((found, more, stay))
    };
    let (found, more, stay) = state.store.read(read).await?;
    let actor = info.actor(&call.caller);
    // Handed in together, so that they share a commit.
    let asked = found
        .iter()
        .take(AT_ONCE as usize)
        .map(|(stored, _)| state.store.write(redrive_of(stored.delivery.id, actor.clone())));
    let done = futures_util::future::join_all(asked).await;
    let redriven = done.iter().filter(|outcome| outcome.is_ok()).count();
    let failed = done.iter().filter(|outcome| outcome.as_ref().is_err_and(|error| error.http_status() >= 500)).count();
    // Somebody else was faster with the rest.
    let refused = usize::try_from(stay).unwrap_or(0) + done.len() - redriven - failed;
    Ok(HttpResponse::Ok().json(Redriven { redriven, refused, failed, more }))
}

/// Cancel a delivery that is still open.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCancelDelivery",
    params(("id" = String, Path)),
    responses((status = 200, body = Shown), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/deliveries/{id}/cancel")]
pub(super) async fn cancel(
    call: Call<Operator, Stored>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: NoBody,
) -> Result<HttpResponse, Error> {
    body.check().await?;
    let id = call.target.delivery.id;
    let command = Audited {
        change: Cancel { id, reason: Some("operator".to_owned()) },
        actor: info.actor(&call.caller),
        action: "delivery.cancel",
        target: ("delivery", id.to_string()),
        shown: |delivery| serde_json::json!({ "state": delivery.state }),
    };
    state.store.write(command).await?;
    answer(&state.store, id).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Purged {
    /// Only `dead` ones can be removed.
    state: Option<String>,
    /// `kind:id`, for example `gateway:default`.
    recipient: Option<String>,
    /// Only those made before this time (ISO-8601).
    older_than: Option<String>,
    /// Counts what would be removed, and removes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// What a removal found and did.
#[derive(Serialize, ToSchema)]
pub(super) struct Removed {
    /// How many there were.
    matching: i64,
    removed: usize,
}

/// Remove dead deliveries for good; their messages stay and keep how it ended.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminPurgeDeliveries",
    params(Purged),
    responses((status = 200, body = Removed), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/deliveries")]
pub(super) async fn purge(
    call: Call<Operator, (), Purged>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    let asked = call.query;
    let wanted = asked.state.as_deref().map_or(Ok(DeliveryState::Dead), state_of)?;
    if wanted != DeliveryState::Dead {
        return Err(Error::invalid_at("query", "state", "only `dead` deliveries can be removed", "value_error"));
    }
    let Some(filter) = filter(&state.store, "query", Some(wanted), asked.recipient, asked.older_than).await? else {
        return Ok(HttpResponse::Ok().json(Removed { matching: 0, removed: 0 }));
    };
    let counted = filter.clone();
    let matching = state.store.read(move |db| deliveries::count(db, &counted)).await?;
    let mut removed = 0;
    while !asked.dry_run && (removed as i64) < matching {
        let chunk = filter.clone();
        let found = state.store.read(move |db| deliveries::list(db, &chunk, AT_ONCE)).await?;
        if found.is_empty() {
            break;
        }
        let command = Audited {
            change: Purge { ids: found.iter().map(|(stored, _)| stored.delivery.id).collect() },
            actor: info.actor(&call.caller),
            action: "delivery.purge",
            target: ("delivery", "dead".to_owned()),
            shown: |removed| serde_json::json!({ "removed": removed }),
        };
        let done = state.store.write_bulk(command).await?;
        if done == 0 {
            break;
        }
        removed += done;
    }
    Ok(HttpResponse::Ok().json(Removed { matching, removed }))
}

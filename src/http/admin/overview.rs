//! How the broker is: counters, and what every actor says of itself.
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::actors::messages::Report;
use crate::actors::supervisor::ObserveAll;
use crate::domain::delivery::DeliveryState;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::time::iso;
use crate::http::auth::Observer;
use crate::http::call::Call;
use crate::http::error::ErrorBody;
use crate::http::page::{self, Listing, Page};
use crate::http::state::AppState;
use crate::store::stats::totals;

/// How long the actors may take to tell of themselves.
const OBSERVE_WAIT: Duration = Duration::from_secs(5);

/// Counters, as they are now.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    version: &'static str,
    started_at: String,
    uptime_s: i64,
    /// `SQLite` or `PostgreSQL`.
    database: &'static str,
    gateways: usize,
    gateways_connected: usize,
    sockets: u64,
    /// Answers that are under way.
    runs: usize,
    users: i64,
    conversations: i64,
    messages: i64,
    deliveries: OpenDeliveries,
    writer: Writer,
}

#[derive(Serialize, ToSchema)]
pub(super) struct OpenDeliveries {
    pending: i64,
    leased: i64,
    dead: i64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Writer {
    commits_total: u64,
    commands_total: u64,
    refused_total: u64,
    failed_total: u64,
    opened_total: u64,
    queued: usize,
    queued_bulk: usize,
    last_commit_at: Option<String>,
    /// The database cannot be written to.
    broken: bool,
}

/// Read the counters.
#[utoipa::path(tag = "admin", operation_id = "adminGetStats", responses((status = 200, body = Stats), (status = "default", body = ErrorBody)))]
#[get("/api/admin/stats")]
pub(super) async fn stats(_call: Call<Observer>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let totals = state.store.read(totals).await?;
    let counts = state.edge.deliveries(&state.store).await?;
    let of = |wanted| counts.iter().find(|(state, _)| *state == wanted).map_or(0, |(_, count)| *count);
    let gateways = state.directory.gateways();
    let (writer, (queued, queued_bulk)) = (state.store.writer().stats(), state.store.writer().queued());
    let last_commit_at = writer.last_commit_at.load(Relaxed);
    Ok(HttpResponse::Ok().json(Stats {
        version: env!("CARGO_PKG_VERSION"),
        started_at: iso(state.started_at),
        uptime_s: (state.clock.now_ms() - state.started_at).max(0) / 1_000,
        database: state.store.location().kind(),
        gateways: gateways.len(),
        gateways_connected: gateways.iter().filter(|card| card.status.is_connected()).count(),
        sockets: state.directory.sockets(),
        runs: state.directory.runs(),
        users: totals.users,
        conversations: totals.conversations,
        messages: totals.messages,
        deliveries: OpenDeliveries {
            pending: of(DeliveryState::Pending),
            leased: of(DeliveryState::Leased),
            dead: of(DeliveryState::Dead),
        },
        writer: Writer {
            commits_total: writer.commits_total.load(Relaxed),
            commands_total: writer.commands_total.load(Relaxed),
            refused_total: writer.refused_total.load(Relaxed),
            failed_total: writer.failed_total.load(Relaxed),
            opened_total: writer.opened_total.load(Relaxed),
            queued,
            queued_bulk,
            last_commit_at: (last_commit_at > 0).then(|| iso(last_commit_at)),
            broken: writer.broken.load(Relaxed) != 0,
        },
    }))
}

/// What an actor says of itself.
#[derive(Serialize, ToSchema)]
#[schema(as = ActorReport)]
pub(super) struct View {
    /// Its role, for example `gateway_link`.
    actor: &'static str,
    /// Which one, where there are several.
    id: String,
    #[schema(value_type = Object)]
    state: serde_json::Value,
}

impl From<Report> for View {
    fn from(report: Report) -> Self {
        Self { actor: report.actor, id: report.id, state: report.state }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only those of this role, for example `gateway_link`.
    actor: Option<String>,
    #[param(minimum = 1)]
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Read the live state of every actor, by role and id. One that does not answer within two seconds is left out.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminListActors",
    params(Asked),
    responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/actors")]
pub(super) async fn actors(
    call: Call<Observer, (), Asked>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let asked = call.query;
    let rows = page::rows(asked.limit, 100, state.config.limits.page_rows_max)?;
    let start = page::after_number(asked.cursor.as_deref())?.unwrap_or(0);
    let reports = tokio::time::timeout(OBSERVE_WAIT, state.observe.send(ObserveAll)).await;
    let Ok(Ok(mut reports)) = reports else {
        return Err(Error::new(
            ErrorCode::StoreBusy,
            "the actors did not tell of themselves in time, try again in a second",
        ));
    };
    reports.retain(|report| asked.actor.as_ref().is_none_or(|actor| report.actor == actor));
    reports.sort_by(|a, b| (a.actor, &a.id).cmp(&(b.actor, &b.id)));
    let (total, start) = (reports.len(), usize::try_from(start).unwrap_or(usize::MAX));
    let views: Vec<View> = reports.into_iter().skip(start).take(rows).map(View::from).collect();
    let end = start.saturating_add(views.len());
    let next = (end < total).then(|| page::number_cursor(end as i64));
    Ok(Listing::of(&req).total(total).page(views, next))
}

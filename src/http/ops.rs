//! What operations ask: is it there, is it ready, how is it. And tickets for WebSockets.
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::auth::{self, Observer, Right, Viewer};
use super::call::Call;
use super::error::ErrorBody;
use super::state::AppState;
use super::{accept, metrics, middleware};
use crate::domain::error::{Error, ErrorCode};
use crate::store::deliveries;

/// How long the store may take to answer before it counts as not ready.
const STORE_WAIT: Duration = Duration::from_secs(2);

/// Adds the routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(health).service(api_health).service(ready).service(metrics_text).service(ticket);
}

/// That the process runs.
#[derive(Serialize, ToSchema)]
struct Health<'a> {
    status: &'static str,
    service: &'a str,
    environment: &'a str,
    version: &'static str,
}

/// Tell that the process runs.
#[utoipa::path(tag = "operations", operation_id = "getHealth", security(()), responses((status = 200, body = Health<'static>)))]
#[get("/health")]
async fn health(state: web::Data<AppState>) -> HttpResponse {
    let app = &state.config.app;
    HttpResponse::Ok().json(Health {
        status: "healthy",
        service: &app.name,
        environment: &app.environment,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// A word.
#[derive(Serialize, ToSchema)]
struct Status {
    status: &'static str,
}

/// Tell that the process runs, in the words of another ancestor.
#[utoipa::path(tag = "operations", operation_id = "getApiHealth", security(()), responses((status = 200, body = Status)))]
#[get("/api/health")]
async fn api_health(req: HttpRequest) -> Result<HttpResponse, Error> {
    accept::check(&req)?;
    Ok(HttpResponse::Ok().json(Status { status: "ok" }))
}

/// Tell whether this node can work: it is the active one and its store can be read and written.
#[utoipa::path(
    tag = "operations",
    operation_id = "getReady",
    security(()),
    responses((status = 200, body = Status), (status = 503, description = "`error.details.not_ready` says what is not", body = ErrorBody))
)]
#[get("/ready")]
async fn ready(state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let mut not_ready = Vec::new();
    let closed = middleware::not_answering(&state);
    if let Some(error) = &closed {
        not_ready.push(if error.code() == ErrorCode::ShuttingDown { "stopping" } else { "standby" });
    }
    let look = state.store.read(|db| deliveries::due(db, 1));
    if !tokio::time::timeout(STORE_WAIT, look).await.is_ok_and(|found| found.is_ok()) {
        // Its migrations have run before anything else, so a store that can be read has them.
        not_ready.push("store");
    }
    // As long as the node is about to begin anew its store is not well for those who wait for that.
    if !state.is_store_sure() {
        not_ready.push("writer");
    }
    if not_ready.is_empty() {
        return Ok(HttpResponse::Ok().json(Status { status: "ready" }));
    }
    let code = closed.map_or(ErrorCode::StoreBusy, |error| error.code());
    Err(Error::new(code, format!("not ready: {}", not_ready.join(", ")))
        .with_details(json!({ "not_ready": not_ready })))
}

/// Read counters and gauges, for Prometheus.
///
/// For whoever may read everything, or from this machine.
#[utoipa::path(
    tag = "operations",
    operation_id = "getMetrics",
    security((), ("token" = [])),
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = "default", body = ErrorBody))
)]
#[get("/metrics")]
async fn metrics_text(req: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    if !auth::is_local(&req) {
        Observer::check(&*auth::authenticate(&req)?)?;
    }
    let text = metrics::encode(&state).await?;
    Ok(HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text))
}

/// A ticket for one WebSocket.
#[derive(Serialize, ToSchema)]
struct Ticket {
    /// Offer the subprotocols `clawbroker.v1, ticket.<ticket>`.
    ticket: String,
    /// Seconds.
    expires_in: u64,
}

/// Get a one-use ticket for a WebSocket: browsers cannot send a bearer header there.
#[utoipa::path(tag = "chat", operation_id = "createTicket", responses((status = 200, body = Ticket), (status = "default", body = ErrorBody)))]
#[post("/api/ws-ticket")]
async fn ticket(call: Call<Viewer>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let ticket = state.tickets.issue(call.caller)?;
    Ok(HttpResponse::Ok().json(Ticket { ticket, expires_in: state.tickets.ttl().as_secs() }))
}

//! Gateways, as people who chat see them.
use actix_web::{HttpResponse, delete, get, post, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::directory::GatewayCard;
use crate::domain::error::Error;
use crate::domain::gateway::Gateway;
use crate::http::auth::{Operator, Viewer};
use crate::http::body::ApiJson;
use crate::http::call::Call;
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::gateway_input::{self, NewGateway, Removal};
use crate::http::idempotency::IdempotencyKey;
use crate::http::request::RequestInfo;
use crate::http::state::AppState;

/// A gateway: these four and nothing else.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatGateway)]
pub(super) struct View {
    id: String,
    name: String,
    url: String,
    connected: bool,
}

impl View {
    fn new(gateway: &Gateway, connected: bool) -> Self {
        let Gateway { id, name, url, .. } = gateway;
        Self { id: id.to_string(), name: name.clone(), url: url.clone(), connected }
    }
}

impl From<&GatewayCard> for View {
    fn from(card: &GatewayCard) -> Self {
        Self::new(&card.gateway, card.status.is_connected())
    }
}

/// List the gateways.
#[utoipa::path(tag = "chat", operation_id = "listGateways", responses((status = 200, body = [View]), (status = "default", body = ErrorBody)))]
#[get("/api/gateways")]
pub(super) async fn list(_call: Call<Viewer>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let known = state.directory.known(|directory| Some(directory.gateways()).filter(|cards| !cards.is_empty()))?;
    let cards: Vec<View> = known.unwrap_or_default().iter().map(View::from).collect();
    Ok(HttpResponse::Ok().insert_header(("x-total-count", cards.len())).json(cards))
}

/// Register a gateway.
///
/// The broker connects to it at once and keeps the connection. Token and password are kept encrypted and never told.
#[utoipa::path(
    tag = "chat",
    operation_id = "createGateway",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = NewGateway,
    responses((status = 200, body = View), (status = 400, description = "The id is taken", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/gateways")]
pub(super) async fn create(
    call: Call<Operator>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: ApiJson<NewGateway>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of("gateways", &call.caller, new.digest);
    let gateway = gateway_input::register(&state, new.value, info.actor(&call.caller), idem).await?;
    let connected = state.directory.gateway(&gateway.id).is_some_and(|card| card.status.is_connected());
    Ok(HttpResponse::Ok().json(View::new(&gateway, connected)))
}

/// Remove a gateway.
#[utoipa::path(
    tag = "chat",
    operation_id = "removeGateway",
    params(("id" = String, Path), Removal),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/gateways/{id}")]
pub(super) async fn remove(
    call: Call<Operator, GatewayCard, Removal>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    gateway_input::remove(&state, &call.target, &call.query, info.actor(&call.caller)).await
}

/// How a gateway is, with its own lists of agents and models; while it is down, as they were last.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatGatewayStatus)]
pub(super) struct Status {
    id: String,
    connected: bool,
    #[schema(value_type = Vec<Object>)]
    agents: Vec<serde_json::Value>,
    #[schema(value_type = Vec<Object>)]
    models: Vec<serde_json::Value>,
    default_model: Option<String>,
    /// `connecting`, `connected`, `not_authorised`, `pairing_required`, `refused`, `waiting` or `disabled`.
    state: &'static str,
}

/// Connection status, agents and models of a gateway.
#[utoipa::path(
    tag = "chat",
    operation_id = "getGatewayStatus",
    params(("id" = String, Path)),
    responses((status = 200, body = Status), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/gateways/{id}/status")]
pub(super) async fn status(call: Call<Viewer, GatewayCard>) -> Result<HttpResponse, Error> {
    let GatewayCard { gateway, status } = call.target;
    Ok(HttpResponse::Ok().json(Status {
        id: gateway.id.to_string(),
        connected: status.is_connected(),
        agents: status.agents.clone(),
        models: status.models.clone(),
        default_model: status.default_model.clone(),
        state: status.state.as_str(),
    }))
}

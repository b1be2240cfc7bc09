//! Gateways, as whoever runs the broker sees them: what is wrong and what to do about it.
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::directory::GatewayCard;
use crate::domain::error::Error;
use crate::domain::gateway::{GatewayUrl, Track};
use crate::domain::ids::GatewayId;
use crate::domain::time::iso;
use crate::http::auth::{Observer, Operator};
use crate::http::body::StrictJson;
use crate::http::call::Call;
use crate::http::done::Done;
use crate::http::error::ErrorBody;
use crate::http::gateway_input::{self, GatewaySecret, Name, NewGateway, Removal, sent};
use crate::http::idempotency::IdempotencyKey;
use crate::http::page::{self, Listing, Page, Paging};
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::gateways::{self, ChangeGateway, Changes};

/// A gateway with the state of its connection.
#[derive(Serialize, ToSchema)]
#[schema(as = Gateway)]
pub(super) struct View {
    id: String,
    name: String,
    url: String,
    /// `used` or `all`.
    #[schema(value_type = String)]
    track: Track,
    /// The scope `operator.admin` is asked for, too.
    admin: bool,
    enabled: bool,
    /// Whether a token is kept; never the token.
    token_set: bool,
    password_set: bool,
    created_at: String,
    updated_at: String,
    /// `connecting`, `connected`, `not_authorised`, `pairing_required`, `refused`, `waiting` or `disabled`.
    state: &'static str,
    /// Since when it is in this state.
    since: Option<String>,
    /// What stands between us and a working connection, and what to do about it.
    #[schema(value_type = Option<Object>)]
    problem: Option<crate::domain::gateway::Problem>,
    /// When the next attempt is made.
    retry_at: Option<String>,
    latency_ms: Option<u32>,
    reconnects: u64,
    protocol: Option<u32>,
    version: Option<String>,
    scopes: Vec<String>,
    scopes_missing: Vec<String>,
    default_agent: Option<String>,
    default_model: Option<String>,
}

impl From<&GatewayCard> for View {
    fn from(card: &GatewayCard) -> Self {
        let (gateway, status) = (&card.gateway, &card.status);
        Self {
            id: gateway.id.to_string(),
            name: gateway.name.clone(),
            url: gateway.url.clone(),
            track: gateway.track,
            admin: gateway.admin,
            enabled: gateway.enabled,
            token_set: gateway.has_token,
            password_set: gateway.has_password,
            created_at: iso(gateway.created_at),
            updated_at: iso(gateway.updated_at),
            state: status.state.as_str(),
            since: (status.since_ms > 0).then(|| iso(status.since_ms)),
            problem: status.problem.clone(),
            retry_at: status.retry_at_ms.map(iso),
            latency_ms: status.latency_ms,
            reconnects: status.reconnects,
            protocol: status.protocol,
            version: status.version.clone(),
            scopes: status.scopes.clone(),
            scopes_missing: status.scopes_missing.clone(),
            default_agent: status.default_agent.clone(),
            default_model: status.default_model.clone(),
        }
    }
}

/// Shows a gateway as it is now.
pub(super) fn now(state: &AppState, id: &GatewayId) -> Result<View, Error> {
    let card = state.directory.known(|directory| directory.gateway(id))?;
    card.as_ref().map(View::from).ok_or_else(|| gateways::not_found(id))
}

/// List the gateways with the state of their connections, by id.
#[utoipa::path(tag = "admin", operation_id = "adminListGateways", params(Paging), responses((status = 200, body = Page<View>), (status = "default", body = ErrorBody)))]
#[get("/api/admin/gateways")]
pub(super) async fn list(
    call: Call<Observer, (), Paging>,
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<HttpResponse, Error> {
    let rows_max = state.config.limits.page_rows_max;
    let rows = page::rows(call.query.limit, rows_max, rows_max)?;
    let after = page::after_name(call.query.cursor.as_deref())?;
    let known = state.directory.known(|directory| Some(directory.gateways()).filter(|cards| !cards.is_empty()))?;
    let cards = known.unwrap_or_default();
    let rest = cards.iter().filter(|card| after.as_deref().is_none_or(|id| card.gateway.id.as_str() > id));
    let mut rest: Vec<&GatewayCard> = rest.take(rows + 1).collect();
    let more = page::cut(&mut rest, rows);
    let next = rest.last().filter(|_| more).map(|last| page::name_cursor(last.gateway.id.as_str()));
    Ok(Listing::of(&req).total(cards.len()).page(rest.into_iter().map(View::from).collect(), next))
}

/// Register a gateway.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateGateway",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = NewGateway,
    responses((status = 201, body = View), (status = 400, description = "The id is taken", body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/gateways")]
pub(super) async fn create(
    call: Call<Operator>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: StrictJson<NewGateway>,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    let new = body.receive().await?;
    let idem = key.of("admin/gateways", &call.caller, new.digest);
    let gateway = gateway_input::register(&state, new.value, info.actor(&call.caller), idem).await?;
    Ok(HttpResponse::Created().json(now(&state, &gateway.id)?))
}

/// Read a gateway.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminGetGateway",
    params(("id" = String, Path)),
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[get("/api/admin/gateways/{id}")]
pub(super) async fn get(call: Call<Observer, GatewayCard>) -> Result<HttpResponse, Error> {
    Ok(HttpResponse::Ok().json(View::from(&call.target)))
}

/// What may be changed; a field that is not sent stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = GatewayChange)]
pub(super) struct Change {
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    #[schema(value_type = Option<String>)]
    url: Option<GatewayUrl>,
    /// `null` or an empty text removes it.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>, write_only)]
    token: Option<Option<GatewaySecret>>,
    /// `null` or an empty text removes it.
    #[serde(default, deserialize_with = "sent")]
    #[schema(value_type = Option<String>, write_only)]
    password: Option<Option<GatewaySecret>>,
    /// `used` or `all`.
    #[schema(value_type = Option<String>)]
    track: Option<Track>,
    admin: Option<bool>,
    enabled: Option<bool>,
}

/// Change a gateway; its connection is made anew, unless only its name is another one.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminChangeGateway",
    params(("id" = String, Path)),
    request_body = Change,
    responses((status = 200, body = View), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[patch("/api/admin/gateways/{id}")]
pub(super) async fn patch(
    call: Call<Operator, GatewayCard>,
    state: web::Data<AppState>,
    info: RequestInfo,
    body: StrictJson<Change>,
) -> Result<HttpResponse, Error> {
    let id = call.target.gateway.id.clone();
    let change = body.read().await?;
    let secret = |sent: Option<Option<GatewaySecret>>| sent.map(|secret| secret.and_then(|secret| secret.given()));
    let changes = Changes {
        name: change.name.map(|name| name.0),
        url: change.url.map(|url| url.to_string()),
        token: secret(change.token),
        password: secret(change.password),
        track: change.track,
        admin: change.admin,
        enabled: change.enabled,
    };
    let command =
        ChangeGateway { id: id.clone(), changes, actor: info.actor(&call.caller), vault: state.vault.clone() };
    let gateway = state.store.write(command).await?;
    // The supervisor does the same when it hears of it, which it does not of a name; and the caller may ask before.
    state.directory.set_gateway(gateway);
    Ok(HttpResponse::Ok().json(now(&state, &id)?))
}

/// Remove a gateway and its secrets.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminRemoveGateway",
    params(("id" = String, Path), Removal),
    responses((status = 200, body = Done), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[delete("/api/admin/gateways/{id}")]
pub(super) async fn remove(
    call: Call<Operator, GatewayCard, Removal>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    gateway_input::remove(&state, &call.target, &call.query, info.actor(&call.caller)).await
}

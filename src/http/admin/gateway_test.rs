//! Testing a gateway: connect now, ask it something, tell how it went.
use std::time::Duration;

use actix_web::{HttpResponse, post, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::gateways::View;
use crate::actors::directory::GatewayCard;
use crate::actors::messages::{LinkRequest, ToLink};
use crate::domain::error::Error;
use crate::domain::gateway::LinkState;
use crate::domain::ids::GatewayId;
use crate::http::auth::Operator;
use crate::http::body::NoBody;
use crate::http::call::Call;
use crate::http::error::ErrorBody;
use crate::http::state::AppState;
use crate::store::gateways;

/// How long a test waits for the connection, and then for the gateway's answer.
const TEST_WAIT: Duration = Duration::from_secs(10);
/// How often a test looks whether the connection has come or has failed.
const LOOK: Duration = Duration::from_millis(50);

/// What came of a test.
#[derive(Serialize, ToSchema)]
#[schema(as = GatewayTest)]
pub(super) struct Tested {
    /// Whether the gateway answered just now.
    ok: bool,
    /// How long it took to answer.
    latency_ms: Option<u32>,
    /// Why it did not.
    message: Option<String>,
    gateway: View,
}

/// Connect now if it is not connected, ask the gateway something, and tell how it went.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminTestGateway",
    params(("id" = String, Path)),
    responses((status = 200, body = Tested), (status = 404, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/gateways/{id}/test")]
pub(super) async fn test(
    call: Call<Operator, GatewayCard>,
    state: web::Data<AppState>,
    body: NoBody,
) -> Result<HttpResponse, Error> {
    body.check().await?;
    let card = call.target;
    let id = card.gateway.id.clone();
    if card.gateway.enabled && !card.status.is_connected() {
        connect(&state, &id).await;
    }
    let outcome = if card.gateway.enabled {
        state
            .ask_link(&id, |reply| LinkRequest::Test { reply }, TEST_WAIT)
            .await
            .map_err(|error| error.message().to_owned())
    } else {
        Err("the gateway is disabled".to_owned())
    };
    let card = state.directory.known(|directory| directory.gateway(&id))?;
    let card = card.ok_or_else(|| gateways::not_found(&id))?;
    let problem = card.status.problem.as_ref().map(|problem| problem.message.clone());
    Ok(HttpResponse::Ok().json(Tested {
        ok: outcome.is_ok(),
        latency_ms: outcome.as_ref().ok().copied(),
        // What the handshake complained of says more than that there is no connection.
        message: outcome.err().map(|refusal| problem.unwrap_or(refusal)),
        gateway: View::from(&card),
    }))
}

/// Has the link connect now, and waits until that has worked or failed.
async fn connect(state: &AppState, id: &GatewayId) {
    let before = state.directory.gateway(id).map(|card| card.status.since_ms);
    let request = ToLink { gateway_id: id.clone(), request: LinkRequest::Reconnect };
    // A supervisor that is overrun does not hear it; the test then tells of the connection as it is.
    if state.links.try_send(request).is_err() {
        return;
    }
    let settled = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(card) = state.directory.gateway(id) else { return };
            let moved = before != Some(card.status.since_ms);
            match card.status.state {
                LinkState::Connected => return,
                LinkState::Connecting => {}
                _ if moved => return,
                _ => {}
            }
        }
    };
    // Late is an answer, too: it is still not connected.
    let _ = tokio::time::timeout(TEST_WAIT, settled).await;
}

//! The socket of an agent that can hold one: its messages are pushed instead of polled.
use actix_web::{HttpRequest, HttpResponse, get, web};
use actix_web_actors::ws;

use super::transport::{self, no_handshake};
use crate::actors::agent_session::{self, AgentSession, SessionParts};
use crate::actors::hub::Hub;
use crate::domain::error::{Error, ErrorCode};
use crate::http::auth;
use crate::http::error::ErrorBody;
use crate::http::mailbox::AgentDesk;
use crate::http::state::AppState;

/// The mailbox of an agent over a socket: the same messages, leases and calls as over HTTP.
///
/// The frames are described in `docs/websocket.md`. The credential is the header `X-Api-Key`.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "agentSocket",
    security(("agentKey" = [])),
    responses(
        (status = 101, description = "Switched to WebSocket, version `clawbroker.v1`"),
        (status = 400, description = "Not a WebSocket handshake"),
        (status = 401, description = "No key, or one that does not count"),
        (status = 403, description = "The page's origin may not use this broker"),
        (status = 429, description = "Too many sockets"),
        (status = 503, description = "This node stands by or is about to stop", body = ErrorBody),
        (status = "default", body = ErrorBody),
    )
)]
#[get("/ws/agent")]
pub(crate) async fn agent(
    req: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Error> {
    let key = auth::authenticate_agent(&req)?;
    // A request that is no handshake is refused before anything is counted.
    ws::handshake(&req).map_err(no_handshake)?;
    let limits = &state.config.limits;
    let (of_agent_max, max) = (limits.sockets_per_agent_max, limits.sockets_max);
    let seat = state.directory.agent_seat(key.agent.id, of_agent_max, max).ok_or_else(|| {
        Error::new(
            ErrorCode::RateLimited,
            format!("too many sockets are open: at most {of_agent_max} of one agent and {max} in all"),
        )
    })?;
    let frame_bytes_max = limits.frame_bytes_max;
    let state = state.into_inner();
    let begin: transport::Begin = Box::new(move |transport, kill| {
        let session = AgentSession::new(SessionParts {
            shared: state.sessions.clone(),
            hub: Hub::local(&state.hubs),
            key: key.clone(),
            desk: Box::new(AgentDesk { state, key }),
            transport,
            kill,
            seat,
        });
        Ok(actix::Actor::start(session).recipient())
    });
    transport::open(&req, payload, frame_bytes_max, agent_session::broken, begin)
}

//! The WebSocket routes: who may open a socket, and which session it gets. The transport carries its frames
//! (`transport.rs`); the socket of an agent has a route of its own (`agent.rs`).
mod agent;
mod transport;

use std::sync::Arc;

use actix::prelude::*;
use actix_web::{HttpRequest, HttpResponse, get, web};
use actix_web_actors::ws;
use serde::Deserialize;
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;

use self::transport::{Begin, Goodbye, no_handshake};
use super::error::ErrorBody;
use super::fields::{self, Unknown};
use super::mailbox::mail_limits;
use super::state::AppState;
use super::{auth, body};
use crate::actors::agent_dialect::{self, AgentDialect};
use crate::actors::browser_session::{BrowserSession, Deltas, Kill, Outgoing, Scope, SessionParts, Talk};
use crate::actors::hub::Hub;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{AgentId, FEDERATED, GatewayId};
use crate::domain::user::Caller;
use crate::store::agents;

pub use self::transport::Cut;

/// Adds the WebSocket routes.
pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(chat).service(agent::agent);
}

#[derive(Debug, Deserialize)]
struct Wanted {
    deltas: Option<String>,
    frames: Option<String>,
    session_id: Option<String>,
}

/// What `frames` is for the ancestor's frames.
const AGENT_FRAMES: &str = "agent";

/// Chat with one gateway, with all of them as `federated`, or with an agent.
///
/// The frames are described in `docs/websocket.md`. Credentials: bearer header, or the subprotocols
/// `clawbroker.v1, ticket.<ticket>` with a ticket from `POST /api/ws-ticket`.
#[utoipa::path(
    tag = "chat",
    params(
        ("gw_id" = String, Path, description = "A gateway's id, `federated`, or an agent's id"),
        ("deltas" = Option<String>, Query, description = "`increment`: deltas carry the new part only"),
        ("frames" = Option<String>, Query, description = "`agent`: the frames of an ancestor, with an agent only"),
        ("session_id" = Option<String>, Query, description = "With `frames=agent`: the session that is meant; there is one"),
    ),
    responses(
        (status = 101, description = "Switched to WebSocket, version `clawbroker.v1`"),
        (status = 400, description = "Not a WebSocket handshake"),
        (status = 401, description = "No valid credential"),
        (status = 403, description = "The page's origin may not use this broker"),
        (status = 404, description = "No such gateway or agent, and not a WebSocket handshake"),
        (status = 422, description = "`deltas` or `frames` is not valid", body = ErrorBody),
        (status = 429, description = "Too many sockets"),
        (status = 503, description = "This node stands by or is about to stop", body = ErrorBody),
        (status = "default", body = ErrorBody),
    )
)]
#[get("/ws/chat/{gw_id}")]
pub(crate) async fn chat(
    req: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Error> {
    let frame_bytes_max = state.config.limits.frame_bytes_max;
    let caller = match auth::authenticate_socket(&req) {
        // The ancestor's clients are told on the socket.
        Err(error)
            if error.code() == ErrorCode::Unauthenticated && speaks_agent(&req) && ws::handshake(&req).is_ok() =>
        {
            let goodbye = agent_goodbye(4001, "Authentication failed");
            return transport::open(&req, payload, frame_bytes_max, agent_dialect::broken, dismiss(goodbye));
        }
        caller => caller?,
    };
    let scope = scope(&state, &body::path::<String>(&req)?).await?;
    // A request that is no handshake is refused before anything is counted.
    ws::handshake(&req).map_err(|error| match &scope {
        Some(_) => no_handshake(error),
        None => unknown_gateway(),
    })?;
    let Some(scope) = scope else {
        // Of what does not exist the socket itself tells.
        return if speaks_agent(&req) {
            let begin = dismiss(agent_goodbye(4002, "Setup failed"));
            transport::open(&req, payload, frame_bytes_max, agent_dialect::broken, begin)
        } else {
            transport::open(&req, payload, frame_bytes_max, broken, dismiss(nobody_there()))
        };
    };
    let Spoken { deltas, agents_for } = spoken(&req, &scope)?;
    let (limits, user) = (&state.config.limits, caller.user_id);
    if !state.directory.enter_socket(user, limits.sockets_per_user_max, limits.sockets_max) {
        return Err(Error::new(
            ErrorCode::RateLimited,
            format!(
                "too many sockets are open: at most {} of one user and {} in all",
                limits.sockets_per_user_max, limits.sockets_max
            ),
        ));
    }
    let start = Start { state: state.clone().into_inner(), caller, scope, deltas };
    let opened = match agents_for {
        None => transport::open(&req, payload, frame_bytes_max, broken, start.browser()),
        Some(session_id) => {
            let begin = start.agent_dialect(session_id);
            transport::open(&req, payload, frame_bytes_max, agent_dialect::broken, begin)
        }
    };
    opened.inspect_err(|_| state.directory.leave_socket(user))
}

/// Finds what a socket talks to by the name in its path: a gateway, else an agent. `None`: there is no such thing.
async fn scope(state: &AppState, name: &str) -> Result<Option<Scope>, Error> {
    if name == FEDERATED {
        return Ok(Some(Scope::Federated));
    }
    if let Ok(id) = name.parse::<GatewayId>()
        && state.directory.known(|directory| directory.gateway(&id))?.is_some()
    {
        return Ok(Some(Scope::Gateway(id)));
    }
    let Ok(id) = name.parse::<AgentId>() else { return Ok(None) };
    let found = state.store.read(move |db| agents::get(db, id)).await?;
    let limits = mail_limits(&state.config);
    Ok(found.map(|agent| Scope::Agent(Arc::new(Talk { agent: agent.facts(), limits }))))
}

fn unknown_gateway() -> Error {
    Error::new(ErrorCode::GatewayNotFound, "Gateway not found")
}

/// `error` in the words of the browsers' frames; a close follows.
fn broken(code: ErrorCode, reason: &str) -> String {
    json!({ "type": "error", "error": reason, "code": code }).to_string()
}

fn nobody_there() -> Goodbye {
    let error = unknown_gateway();
    Goodbye { frame: broken(error.code(), error.message()), code: 4404, reason: "unknown gateway" }
}

fn agent_goodbye(code: u16, reason: &'static str) -> Goodbye {
    Goodbye { frame: agent_dialect::error(reason), code, reason }
}

fn dismiss(goodbye: Goodbye) -> Begin {
    Box::new(move |_, _| Err(goodbye))
}

/// How a socket wants its frames.
struct Spoken {
    deltas: Deltas,
    /// Those of the ancestor's conversations with agents: the session that is meant, where the client names one.
    agents_for: Option<Option<String>>,
}

/// Tells whether a client wants the ancestor's frames, before anything else of its query is looked at.
fn speaks_agent(req: &HttpRequest) -> bool {
    let wanted = fields::of_query::<Wanted>(req.query_string(), Unknown::Ignored);
    wanted.is_ok_and(|wanted| wanted.frames.as_deref() == Some(AGENT_FRAMES))
}

fn spoken(req: &HttpRequest, scope: &Scope) -> Result<Spoken, Error> {
    let wanted: Wanted = fields::of_query(req.query_string(), Unknown::Ignored)?;
    let refused = |field: &str, message: &str| Err(Error::invalid_at("query", field, message, "value_error"));
    let deltas = match wanted.deltas.as_deref() {
        None | Some("cumulative") => Deltas::Cumulative,
        Some("increment") => Deltas::Increment,
        Some(_) => return refused("deltas", "`deltas` is `increment` or `cumulative`"),
    };
    let agents_for = match wanted.frames.as_deref() {
        None | Some("browser") => None,
        Some(AGENT_FRAMES) if matches!(scope, Scope::Agent(_)) => Some(wanted.session_id),
        Some(AGENT_FRAMES) => return refused("frames", "`frames=agent` is for conversations with an agent"),
        Some(_) => return refused("frames", "`frames` is `browser` or `agent`"),
    };
    Ok(Spoken { deltas, agents_for })
}

/// What the session is made of, once the transport has an address.
struct Start {
    state: Arc<AppState>,
    caller: Arc<Caller>,
    scope: Scope,
    deltas: Deltas,
}

impl Start {
    fn browser(self) -> Begin {
        Box::new(move |transport, kill| Ok(self.session(transport, kill).recipient()))
    }

    /// The same with somebody in between who speaks the ancestor's frames.
    fn agent_dialect(self, session_id: Option<String>) -> Begin {
        Box::new(move |transport, kill| {
            let dialect = AgentDialect::create(move |ctx| {
                let session = self.session(ctx.address().recipient(), kill);
                AgentDialect::new(session.recipient(), transport, session_id)
            });
            Ok(dialect.recipient())
        })
    }

    fn session(self, transport: Recipient<Outgoing>, kill: Kill) -> Addr<BrowserSession> {
        let parts = SessionParts {
            shared: self.state.sessions.clone(),
            hub: Hub::local(&self.state.hubs),
            caller: self.caller,
            scope: self.scope,
            deltas: self.deltas,
            transport,
            kill,
        };
        BrowserSession::new(parts).start()
    }
}

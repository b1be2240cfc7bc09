//! The WebSocket route, and the transport: a thin actor that carries frames between a socket and its
//! [`BrowserSession`], on the same thread.
//!
//! The transport is the response body of its connection, so a browser that does not read freezes it. Therefore it
//! decides nothing: bounds, heartbeats and closing belong to the session, which is a plain actor and goes on. It takes
//! one batch at a time and says when it has; that is the whole flow control.
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use actix_web::{HttpRequest, HttpResponse, get, web};
use actix_web_actors::ws::{self, CloseCode, CloseReason, Message, ProtocolError, WebsocketContext};
use bytestring::ByteString;
use serde::Deserialize;
use utoipa_actix_web::service_config::ServiceConfig;

use super::error::ErrorBody;
use super::fields::{self, Unknown};
use super::state::AppState;
use super::{auth, body};
use crate::actors::browser_session::{BrowserSession, Deltas, FromTransport, Outgoing, Scope, SessionParts};
use crate::actors::hub::Hub;
use crate::actors::messages::Report;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{FEDERATED, GatewayId};
use crate::ws::fragments::{FragmentJoiner, Joined};
use crate::ws::frame_guard::{FrameGuard, Pace, TripHandle};

/// Close code for a frame over the limit.
const FRAME_TOO_LARGE: u16 = 1009;
/// Close code for what is not the protocol.
const PROTOCOL_ERROR: u16 = 4400;
/// How often the session is told of a browser that says nothing; far below the silence that it takes for the end.
const HEARD_EVERY: Duration = Duration::from_secs(1);

/// Adds the WebSocket routes.
pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(chat);
}

/// The connection's socket, for cutting it from outside; put there by the server when it accepts.
#[derive(Clone)]
pub struct Cut(pub Arc<socket2::Socket>);

#[derive(Debug, Deserialize)]
struct Wanted {
    deltas: Option<String>,
}

/// Chat with one gateway, or with all of them as `federated`.
///
/// The frames are described in `docs/websocket.md`. Credentials: bearer header, or the subprotocols
/// `clawbroker.v1, ticket.<ticket>` with a ticket from `POST /api/ws-ticket`.
#[utoipa::path(
    tag = "chat",
    params(
        ("gw_id" = String, Path, description = "A gateway's id, or `federated`"),
        ("deltas" = Option<String>, Query, description = "`increment`: deltas carry the new part only"),
    ),
    responses(
        (status = 101, description = "Switched to WebSocket, version `clawbroker.v1`"),
        (status = 400, description = "Not a WebSocket handshake"),
        (status = 401, description = "No valid credential"),
        (status = 403, description = "The page's origin may not use this broker"),
        (status = 404, description = "No such gateway, and not a WebSocket handshake"),
        (status = 422, description = "`deltas` is not valid", body = ErrorBody),
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
    let caller = auth::authenticate_socket(&req)?;
    let scope = match body::path::<String>(&req)?.as_str() {
        FEDERATED => Some(Scope::Federated),
        id => id.parse::<GatewayId>().ok().filter(|id| state.directory.gateway(id).is_some()).map(Scope::Gateway),
    };
    // A request that is no handshake is refused before anything is counted.
    ws::handshake(&req).map_err(|error| match &scope {
        Some(_) => Error::new(ErrorCode::InvalidRequest, format!("not a WebSocket handshake: {error}")),
        None => unknown_gateway(),
    })?;
    // Of an unknown gateway the socket itself tells.
    let deltas = if scope.is_some() { deltas_wanted(&req)? } else { Deltas::Cumulative };
    let limits = state.config.limits.clone();
    let user = caller.user_id;
    if !state.directory.enter_socket(user, limits.sockets_per_user_max, limits.sockets_max) {
        return Err(Error::new(
            ErrorCode::RateLimited,
            format!(
                "too many sockets are open: at most {} of one user and {} in all",
                limits.sockets_per_user_max, limits.sockets_max
            ),
        ));
    }
    let mut guard = FrameGuard::new(payload, limits.frame_bytes_max);
    let (trip, pace) = (guard.trip_handle(), guard.pace());
    let frame_bytes_max = limits.frame_bytes_max;
    let transport = WsTransport {
        session: None,
        start: Some(Box::new(Start {
            state: state.clone().into_inner(),
            caller,
            scope,
            deltas,
            cut: req.conn_data::<Cut>().cloned(),
        })),
        joiner: FragmentJoiner::new(frame_bytes_max),
        trip,
        pace,
        closed: false,
        heard_at: None,
    };
    let started = ws::WsResponseBuilder::new(transport, &req, guard)
        .protocols(&[auth::SUBPROTOCOL])
        .frame_size(frame_bytes_max)
        .start();
    match started {
        Ok(mut response) => {
            select_protocol(&req, &mut response);
            Ok(response)
        }
        Err(error) => {
            state.directory.leave_socket(user);
            Err(Error::new(ErrorCode::InvalidRequest, format!("not a WebSocket handshake: {error}")))
        }
    }
}

fn unknown_gateway() -> Error {
    Error::new(ErrorCode::GatewayNotFound, "Gateway not found")
}

fn deltas_wanted(req: &HttpRequest) -> Result<Deltas, Error> {
    let wanted: Wanted = fields::of_query(req.query_string(), Unknown::Ignored)?;
    match wanted.deltas.as_deref() {
        None | Some("cumulative") => Ok(Deltas::Cumulative),
        Some("increment") => Ok(Deltas::Increment),
        Some(_) => Err(Error::invalid_at("query", "deltas", "`deltas` is `increment` or `cumulative`", "value_error")),
    }
}

/// Answers with our version only when the client offered it; a client that offered none speaks it anyway.
fn select_protocol(req: &HttpRequest, response: &mut HttpResponse) {
    let offered = req
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == auth::SUBPROTOCOL);
    response.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
    if offered {
        let version = HeaderValue::from_static(auth::SUBPROTOCOL);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, version);
    }
}

/// What the session is made of, once the transport has an address.
struct Start {
    state: Arc<AppState>,
    caller: Arc<crate::domain::user::Caller>,
    /// `None`: the gateway does not exist.
    scope: Option<Scope>,
    deltas: Deltas,
    cut: Option<Cut>,
}

/// Carries frames; see the module's header.
pub struct WsTransport {
    session: Option<Addr<BrowserSession>>,
    /// Boxed: it is gone once the session has begun.
    start: Option<Box<Start>>,
    joiner: FragmentJoiner,
    trip: TripHandle,
    pace: Pace,
    closed: bool,
    /// When the session was told last that the browser lives.
    heard_at: Option<tokio::time::Instant>,
}

impl Actor for WsTransport {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(8);
        let Some(start) = self.start.take() else { return };
        let Some(scope) = start.scope else {
            start.state.directory.leave_socket(start.caller.user_id);
            let error = unknown_gateway();
            let error = serde_json::json!({ "type": "error", "error": error.message(), "code": error.code() });
            ctx.text(error.to_string());
            self.close(4404, "unknown gateway", ctx);
            return;
        };
        let kill: crate::actors::browser_session::Kill = match start.cut {
            Some(Cut(socket)) => Box::new(move || {
                // A connection that has ended cannot be shut down, which is what was wanted.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }),
            None => Box::new(|| {}),
        };
        let session = BrowserSession::new(SessionParts {
            shared: start.state.sessions.clone(),
            hub: Hub::local(&start.state.hubs),
            caller: start.caller,
            scope,
            deltas: start.deltas,
            transport: ctx.address().recipient(),
            kill,
        });
        self.session = Some(session.start());
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        if let Some(session) = self.session.take() {
            session.do_send(FromTransport::Gone);
        }
    }
}

impl Handler<Outgoing> for WsTransport {
    type Result = ();

    fn handle(&mut self, msg: Outgoing, ctx: &mut Self::Context) {
        match msg {
            _ if self.closed => {}
            Outgoing::Frames(frames) => {
                for frame in frames {
                    ctx.text(frame);
                }
                self.tell(FromTransport::Written, ctx);
            }
            Outgoing::Ping => ctx.ping(b""),
            Outgoing::Observe(id, reports) => {
                let report = Report {
                    actor: "ws_transport",
                    id: id.to_string(),
                    state: serde_json::json!({ "fragment_bytes": self.joiner.waiting() }),
                };
                // Whoever asked may have gone.
                let _ = reports.try_send(report);
            }
            Outgoing::Close { code, reason } => self.close(code, reason, ctx),
        }
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for WsTransport {
    fn handle(&mut self, msg: Result<Message, ProtocolError>, ctx: &mut Self::Context) {
        self.pace.take_one();
        match msg {
            Ok(Message::Text(text)) => self.tell(FromTransport::Text(text), ctx),
            Ok(Message::Binary(bytes)) => self.text(ByteString::try_from(bytes).ok(), ctx),
            Ok(Message::Continuation(part)) => match self.joiner.push(part) {
                Ok(Joined::Incomplete) => self.heard(ctx),
                Ok(Joined::Text(text)) => self.tell(FromTransport::Text(text), ctx),
                Ok(Joined::Binary(bytes)) => self.text(ByteString::try_from(bytes).ok(), ctx),
                Err(error) => self.broken(error.close_code().into(), "the fragments do not make a message", ctx),
            },
            Ok(Message::Ping(payload)) => {
                ctx.pong(&payload);
                self.heard(ctx);
            }
            Ok(Message::Pong(_)) => self.heard(ctx),
            Ok(Message::Close(reason)) => {
                self.closed = true;
                ctx.close(reason);
                ctx.stop();
            }
            Ok(Message::Nop) => {}
            Err(error) => {
                let code = match (self.trip.get(), &error) {
                    (Some(trip), _) => trip.close_code().into(),
                    (None, ProtocolError::Overflow) => FRAME_TOO_LARGE,
                    (None, _) => PROTOCOL_ERROR,
                };
                let reason = if code == FRAME_TOO_LARGE {
                    "the frame is larger than this broker takes"
                } else {
                    "this is not the WebSocket protocol"
                };
                self.broken(code, reason, ctx);
            }
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl WsTransport {
    fn text(&mut self, text: Option<ByteString>, ctx: &mut WebsocketContext<Self>) {
        match text {
            Some(text) => self.tell(FromTransport::Text(text), ctx),
            None => self.broken(PROTOCOL_ERROR, "the text is not UTF-8", ctx),
        }
    }

    /// Answers a frame that cannot be taken and closes. The session is not asked: the stream ends right after this.
    fn broken(&mut self, code: u16, reason: &'static str, ctx: &mut WebsocketContext<Self>) {
        let error = if code == FRAME_TOO_LARGE { ErrorCode::FrameTooLarge } else { ErrorCode::BadFrame };
        let frame = serde_json::json!({ "type": "error", "error": reason, "code": error });
        ctx.text(frame.to_string());
        self.close(code, reason, ctx);
    }

    /// Tells the session that the browser lives, once a second: whoever sends nothing but such frames costs it no more.
    fn heard(&mut self, ctx: &mut WebsocketContext<Self>) {
        let now = tokio::time::Instant::now();
        if self.heard_at.is_none_or(|at| now - at >= HEARD_EVERY) {
            self.heard_at = Some(now);
            self.tell(FromTransport::Heard, ctx);
        }
    }

    /// Tells the session. While it has no room, nothing more is read from the socket.
    fn tell(&mut self, msg: FromTransport, ctx: &mut WebsocketContext<Self>) {
        let Some(session) = &self.session else { return };
        if matches!(msg, FromTransport::Text(_)) {
            match session.try_send(msg) {
                Ok(()) => {}
                Err(SendError::Full(msg)) => {
                    let sent = session.send(msg);
                    // The socket is not read meanwhile; the session's own writes wait as well, for one frame's time.
                    ctx.wait(sent.into_actor(self).map(|_, _, _| ()));
                }
                Err(SendError::Closed(_)) => ctx.stop(),
            }
        } else {
            // At most one for each batch, which are bounded themselves, or a second.
            session.do_send(msg);
        }
    }

    fn close(&mut self, code: u16, reason: &str, ctx: &mut WebsocketContext<Self>) {
        self.closed = true;
        ctx.close(Some(CloseReason { code: CloseCode::from(code), description: Some(reason.to_owned()) }));
        ctx.stop();
    }
}

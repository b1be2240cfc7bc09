//! The transport: a thin actor that carries frames between a socket and its session, on the same thread.
//!
//! The transport is the response body of its connection, so a client that does not read freezes it. Therefore it
//! decides nothing: bounds, heartbeats and closing belong to the session, which is a plain actor and goes on. It takes
//! one batch at a time and says when it has; that is the whole flow control. A frozen one takes nothing, so that a batch
//! that is taken says of the one before it that it was written.
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws::{self, CloseCode, CloseReason, Message, ProtocolError, WebsocketContext};
use bytestring::ByteString;

use crate::actors::browser_session::{FromTransport, Kill, Outgoing};
use crate::actors::messages::Report;
use crate::domain::error::{Error, ErrorCode};
use crate::http::auth;
use crate::ws::fragments::{FragmentJoiner, Joined};
use crate::ws::frame_guard::{FrameGuard, Pace, TripHandle};

/// Close code for a frame over the limit.
const FRAME_TOO_LARGE: u16 = 1009;
/// Close code for what is not the protocol.
const PROTOCOL_ERROR: u16 = 4400;
/// How often the session is told of a client that says nothing; far below the silence that it takes for the end.
const HEARD_EVERY: Duration = Duration::from_secs(1);

/// The connection's socket, for cutting it from outside; put there by the server when it accepts.
#[derive(Clone)]
pub struct Cut(pub Arc<socket2::Socket>);

/// What a socket is told that gets no session.
pub(super) struct Goodbye {
    pub(super) frame: String,
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

/// Starts the session of a socket, once the transport has an address.
pub(super) type Begin = Box<dyn FnOnce(Recipient<Outgoing>, Kill) -> Result<Recipient<FromTransport>, Goodbye>>;

/// Makes the frame that says why a socket is closed whose client broke the protocol, in the words of its family.
pub(super) type Words = fn(ErrorCode, &str) -> String;

/// Refuses a request that is no handshake.
pub(super) fn no_handshake(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, format!("not a WebSocket handshake: {error}"))
}

/// Opens the socket of a handshake that was checked.
pub(super) fn open(
    req: &HttpRequest,
    payload: web::Payload,
    frame_bytes_max: usize,
    words: Words,
    begin: Begin,
) -> Result<HttpResponse, Error> {
    let mut guard = FrameGuard::new(payload, frame_bytes_max);
    let (trip, pace) = (guard.trip_handle(), guard.pace());
    let transport = WsTransport {
        session: None,
        begin: Some(begin),
        words,
        cut: req.conn_data::<Cut>().cloned(),
        joiner: FragmentJoiner::new(frame_bytes_max),
        trip,
        pace,
        closed: false,
        heard_at: None,
    };
    let started = ws::WsResponseBuilder::new(transport, req, guard)
        .protocols(&[auth::SUBPROTOCOL])
        .frame_size(frame_bytes_max)
        .start();
    let mut response = started.map_err(no_handshake)?;
    select_protocol(req, &mut response);
    Ok(response)
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

/// Carries frames; see the module's header.
struct WsTransport {
    session: Option<Recipient<FromTransport>>,
    /// Gone once the session has begun.
    begin: Option<Begin>,
    words: Words,
    cut: Option<Cut>,
    joiner: FragmentJoiner,
    trip: TripHandle,
    pace: Pace,
    closed: bool,
    /// When the session was told last that the client lives.
    heard_at: Option<tokio::time::Instant>,
}

impl Actor for WsTransport {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(8);
        let Some(begin) = self.begin.take() else { return };
        let kill: Kill = match self.cut.take() {
            Some(Cut(socket)) => Box::new(move || {
                // A connection that has ended cannot be shut down, which is what was wanted.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }),
            None => Box::new(|| {}),
        };
        match begin(ctx.address().recipient(), kill) {
            Ok(session) => self.session = Some(session),
            Err(Goodbye { frame, code, reason }) => {
                ctx.text(frame);
                self.close(code, reason, ctx);
            }
        }
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
        ctx.text((self.words)(error, reason));
        self.close(code, reason, ctx);
    }

    /// Tells the session that the client lives, once a second: whoever sends nothing but such frames costs it no more.
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

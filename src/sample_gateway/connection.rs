//! One WebSocket connection of the sample gateway: decodes frames, writes what it is told to.
//!
//! Owner: the HTTP server's worker. All decisions are made under the lock of [`Shared`]; this actor keeps only the state
//! of its socket.
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_http::ws::Item;
use actix_web::web::{Bytes, BytesMut};
use actix_web_actors::ws::{self, CloseCode, CloseReason, Message, ProtocolError, WebsocketContext};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::FRAME_BYTES_MAX;
use super::connect::Attempt;
use super::frames::{Refusal, Request, event, response};
use super::peers::{FRAMES_WAITING_MAX, Out, Wire};
use super::server::Shared;
use super::session::fresh_id;

/// Frames before the handshake are smaller: who sends them is not known yet.
const GREETING_BYTES_MAX: usize = 64 * 1_024;
const CONNECT_WAIT: Duration = Duration::from_secs(15);
const PING_EVERY: Duration = Duration::from_secs(25);
/// A client that was silent for three pings is gone.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// How long we wait for the other side's close frame.
const CLOSE_WAIT: Duration = Duration::from_millis(500);
/// What fits into a close frame beside the code.
const REASON_BYTES_MAX: usize = 123;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Open,
    Closing,
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    wire: Option<Wire>,
    from_browser: bool,
    /// Set when the connection has started.
    peer: Option<u64>,
    conn_id: String,
    nonce: String,
    stage: Stage,
    /// The beginning of a fragmented message.
    fragments: BytesMut,
    heard_at: Instant,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, wire: Option<Wire>, from_browser: bool) -> Self {
        Self {
            shared,
            wire,
            from_browser,
            peer: None,
            conn_id: fresh_id(),
            nonce: fresh_id(),
            stage: Stage::Greeting,
            fragments: BytesMut::new(),
            heard_at: Instant::now(),
        }
    }
}

impl Actor for Connection {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (out, frames) = mpsc::channel(FRAMES_WAITING_MAX);
        self.peer = self.shared.admit(out, self.wire.take());
        if self.peer.is_none() {
            return self.leave(1013, "too many connections", ctx);
        }
        ctx.add_stream(stream::unfold(frames, |mut frames| async move { Some((frames.recv().await?, frames)) }));
        let ts = self.shared.options.clock.now_ms();
        let payload = json!({ "nonce": self.nonce, "ts": ts, "capabilities": ["model-catalog-snapshot"] });
        ctx.text(event("connect.challenge", &payload, None));
        ctx.run_later(CONNECT_WAIT, |connection, ctx| {
            if connection.stage == Stage::Greeting {
                connection.leave(1000, "", ctx);
            }
        });
        ctx.run_interval(PING_EVERY, |connection, ctx| {
            if connection.heard_at.elapsed() > SILENCE_MAX {
                ctx.stop();
            }
            ctx.ping(b"");
        });
        ctx.run_interval(Duration::from_millis(self.shared.options.tick_ms.max(1)), |connection, _| {
            if let Some(peer) = connection.peer {
                connection.shared.tick(peer);
            }
        });
    }
}

impl StreamHandler<Out> for Connection {
    fn handle(&mut self, out: Out, ctx: &mut Self::Context) {
        match out {
            _ if self.stage == Stage::Closing => {}
            Out::Text(text) => ctx.text(text),
            Out::Close { code, reason } => self.leave(code, &reason, ctx),
        }
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Connection {
    fn handle(&mut self, message: Result<Message, ProtocolError>, ctx: &mut Self::Context) {
        self.heard_at = Instant::now();
        match message {
            Ok(Message::Close(reason)) => {
                if self.stage != Stage::Closing {
                    ctx.close(reason);
                }
                ctx.stop();
            }
            _ if self.stage == Stage::Closing => {}
            Ok(Message::Text(text)) => self.read(text.as_bytes(), ctx),
            // The real gateway takes JSON in a binary frame too.
            Ok(Message::Binary(bytes)) => self.read(&bytes, ctx),
            Ok(Message::Continuation(Item::FirstText(bytes) | Item::FirstBinary(bytes))) => {
                self.fragments.clear();
                self.gather(&bytes, ctx);
            }
            Ok(Message::Continuation(Item::Continue(bytes))) => self.gather(&bytes, ctx),
            Ok(Message::Continuation(Item::Last(bytes))) => {
                self.gather(&bytes, ctx);
                let whole = self.fragments.split().freeze();
                if self.stage != Stage::Closing {
                    self.read(&whole, ctx);
                }
            }
            Ok(Message::Ping(bytes)) => ctx.pong(&bytes),
            Ok(Message::Pong(_) | Message::Nop) => {}
            // The guard's refusal comes as an I/O error.
            Err(ProtocolError::Overflow | ProtocolError::Io(_)) => self.leave(1009, "", ctx),
            Err(_) => self.leave(1002, "", ctx),
        }
    }
}

impl Connection {
    fn gather(&mut self, bytes: &Bytes, ctx: &mut ws::WebsocketContext<Self>) {
        if self.fragments.len() + bytes.len() > FRAME_BYTES_MAX {
            self.fragments.clear();
            return self.leave(1009, "", ctx);
        }
        self.fragments.extend_from_slice(bytes);
    }

    fn read(&mut self, bytes: &[u8], ctx: &mut ws::WebsocketContext<Self>) {
        let Some(peer) = self.peer else { return };
        let greeting = self.stage == Stage::Greeting;
        if greeting && bytes.len() > GREETING_BYTES_MAX {
            return self.leave(1009, "", ctx);
        }
        let frame = match serde_json::from_slice::<Value>(bytes) {
            Ok(frame) => frame,
            Err(_) if greeting => return self.leave(1000, "", ctx),
            // What is not JSON is ignored once the client is known.
            Err(_) => return,
        };
        let request = match Request::try_from(frame) {
            Ok(request) => request,
            Err(_) if greeting => return self.leave(1008, "invalid request frame", ctx),
            Err(bad) => return self.shared.answer(peer, response(&bad.id, &Err(Refusal::invalid(bad.message)))),
        };
        if !greeting {
            return self.shared.request(peer, &request);
        }
        if request.method != "connect" {
            let refusal = Refusal::invalid("invalid handshake: first request must be connect");
            ctx.text(response(&request.id, &Err(refusal.clone())));
            return self.leave(1008, &refusal.message, ctx);
        }
        let now = self.shared.options.clock.now_ms();
        let attempt = Attempt { conn_id: &self.conn_id, nonce: &self.nonce, from_browser: self.from_browser, now };
        // A refusal is followed by its close, through the same queue as the answer.
        self.shared.connect(peer, &attempt, &request);
        self.stage = Stage::Open;
    }

    /// Sends a close frame and waits a moment for the other side's.
    fn leave(&mut self, code: u16, reason: &str, ctx: &mut ws::WebsocketContext<Self>) {
        self.stage = Stage::Closing;
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let description = reason.get(..end).filter(|reason| !reason.is_empty()).map(str::to_owned);
        ctx.close(Some(CloseReason { code: CloseCode::from(code), description }));
        ctx.run_later(CLOSE_WAIT, |_, ctx| ctx.stop());
    }
}

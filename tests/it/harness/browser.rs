//! A browser's socket: sends frames, keeps all that came.
use std::time::Duration;

use awc::ws::{Frame, Message};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;

/// How long a test waits for a frame, and for a handshake.
const PATIENCE: Duration = Duration::from_secs(45);

/// Builds a client that gives a handshake as long as a frame; by default it has five seconds.
pub(crate) fn client() -> awc::Client {
    awc::Client::builder().timeout(PATIENCE).finish()
}

/// A socket of `/ws/chat/…`.
pub(crate) struct Browser {
    socket: actix_codec::Framed<awc::BoxedSocket, awc::ws::Codec>,
    /// Every frame so far, oldest first.
    pub(crate) seen: Vec<Value>,
    /// Set when the server has closed: the code.
    pub(crate) closed: Option<u16>,
}

impl Browser {
    pub(crate) async fn open(address: &str, path: &str, token: Option<&str>) -> Self {
        Self::try_open(address, path, token).await.expect("the socket opens")
    }

    /// Opens a socket, if the server is there and wants to.
    pub(crate) async fn try_open(address: &str, path: &str, token: Option<&str>) -> Option<Self> {
        let mut request = client().ws(format!("ws://{address}{path}")).max_frame_size(32 << 20);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        Self::connect(request).await
    }

    /// Opens a socket with a ticket, as pages do.
    pub(crate) async fn by_ticket(address: &str, path: &str, ticket: &str) -> Self {
        let request = client().ws(format!("ws://{address}{path}"));
        let offered = ["clawbroker.v1".to_owned(), format!("ticket.{ticket}")];
        Self::connect(request.protocols(offered)).await.expect("the socket opens")
    }

    /// Opens the socket of an agent, by its key.
    pub(crate) async fn by_key(address: &str, key: &str) -> Self {
        let request = client().ws(format!("ws://{address}/ws/agent")).max_frame_size(32 << 20);
        Self::connect(request.header("X-Api-Key", key)).await.expect("the socket opens")
    }

    async fn connect(request: awc::ws::WebsocketsRequest) -> Option<Self> {
        let (_, socket) = request.connect().await.ok()?;
        Some(Self { socket, seen: Vec::new(), closed: None })
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    /// Sends a frame on a socket that may have ended, which the next read tells.
    pub(crate) async fn try_send(&mut self, frame: Value) {
        let _ = self.socket.send(Message::Text(frame.to_string().into())).await;
    }

    pub(crate) async fn send_text(&mut self, text: String) {
        self.socket.send(Message::Text(text.into())).await.expect("the socket is open");
    }

    /// Returns the next frame, or `None` when the socket was closed.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        self.next_within(PATIENCE).await
    }

    pub(crate) async fn next_within(&mut self, patience: Duration) -> Option<Value> {
        // Pings do not count: they come for ever.
        let until = tokio::time::Instant::now() + patience;
        loop {
            let item = tokio::time::timeout_at(until, self.socket.next())
                .await
                .unwrap_or_else(|_| panic!("no frame came; so far: {}", self.transcript()));
            match item {
                Some(Ok(Frame::Text(bytes))) => {
                    let frame: Value = serde_json::from_slice(&bytes).expect("frames are JSON");
                    self.seen.push(frame.clone());
                    return Some(frame);
                }
                Some(Ok(Frame::Ping(payload))) => {
                    // A socket that closes meanwhile is noticed by the next read.
                    let _ = self.socket.send(Message::Pong(payload)).await;
                }
                Some(Ok(Frame::Close(reason))) => {
                    self.closed = Some(reason.map_or(1005, |reason| reason.code.into()));
                    return None;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.closed = self.closed.or(Some(1006));
                    return None;
                }
            }
        }
    }

    /// Reads until a frame fits, and returns it.
    pub(crate) async fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, what, fits).await
    }

    pub(crate) async fn until_within(
        &mut self,
        patience: Duration,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        loop {
            match self.next_within(patience).await {
                Some(frame) if fits(&frame) => return frame,
                Some(_) => {}
                None => panic!("closed with {:?} before {what}; so far: {}", self.closed, self.transcript()),
            }
        }
    }

    /// Reads until a frame of this type.
    pub(crate) async fn until_type(&mut self, kind: &str) -> Value {
        self.until(kind, |frame| frame["type"] == kind).await
    }

    /// Returns the first frame that fits among all from place `from` of `seen` on, and reads on if none of them does.
    pub(crate) async fn since(&mut self, from: usize, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let known = self.seen[from..].iter().find(|frame| fits(frame)).cloned();
        match known {
            Some(frame) => frame,
            None => self.until(what, fits).await,
        }
    }

    /// Reads until a run has ended, and returns its terminal frame.
    pub(crate) async fn until_terminal(&mut self) -> Value {
        self.until("a terminal frame", is_terminal).await
    }

    /// Reads until a run of this session has ended, and returns its terminal frame.
    pub(crate) async fn until_end_of(&mut self, session: &str) -> Value {
        self.until("the end", |frame| is_terminal(frame) && frame["sessionKey"] == session).await
    }

    /// Sends a question and waits for its acknowledgement.
    pub(crate) async fn ask(&mut self, session: &str, message: &str) -> Value {
        self.send(serde_json::json!({ "type": "chat", "sessionKey": session, "message": message })).await;
        self.until_type("ack").await
    }

    /// Reads whatever comes within `quiet`.
    pub(crate) async fn drain(&mut self, quiet: Duration) {
        while let Ok(Some(_)) = tokio::time::timeout(quiet, self.next()).await {}
    }

    /// Reads to the answer to a ping: what the broker had told this socket before has been read then.
    pub(crate) async fn catch_up(&mut self) {
        self.send(serde_json::json!({ "type": "ping" })).await;
        self.until_type("pong").await;
    }

    pub(crate) fn transcript(&self) -> String {
        self.seen
            .iter()
            .map(|frame| format!("\n  {}", frame.to_string().chars().take(300).collect::<String>()))
            .collect()
    }
}

/// Tells whether a frame ends a run.
pub(crate) fn is_terminal(frame: &Value) -> bool {
    frame["type"] == "stream" && ["final", "aborted", "error"].iter().any(|state| frame["state"] == *state)
}

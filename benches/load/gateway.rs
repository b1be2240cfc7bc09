//! A gateway that says what the tool tells it to, when it tells it to.
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::wire::Socket;

/// The key of the one session that is used.
pub(crate) const SESSION: &str = "load";
const CANONICAL: &str = "agent:main:load";

pub(crate) struct Gateway {
    pub(crate) url: String,
    events: mpsc::UnboundedSender<Value>,
    asked: mpsc::UnboundedReceiver<String>,
    /// The run at hand.
    run_id: String,
    n: u64,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        let (events, to_send) = mpsc::unbounded_channel();
        let (asks, asked) = mpsc::unbounded_channel();
        actix::spawn(async move {
            let (stream, _) = listener.accept().await.expect("the broker comes");
            serve(Socket::accept(stream).await, to_send, asks).await;
        });
        Self { url, events, asked, run_id: String::new(), n: 0 }
    }

    /// Waits for a question; what is said from now on answers it.
    pub(crate) async fn asked(&mut self) {
        self.run_id = self.asked.recv().await.expect("the broker asks");
        self.n = 0;
    }

    /// Says the next words of the answer.
    pub(crate) fn delta(&mut self, words: &str) {
        self.n += 1;
        self.tell(json!({ "state": "delta", "deltaText": words }));
    }

    /// Ends the answer.
    pub(crate) fn end(&mut self, text: &str) {
        let message = json!({ "role": "assistant", "content": [{ "type": "text", "text": text }], "timestamp": 1 });
        self.tell(json!({ "state": "final", "message": message }));
    }

    fn tell(&self, more: Value) {
        let mut payload = json!({ "runId": self.run_id, "sessionKey": CANONICAL, "agentId": "main", "seq": self.n });
        if let (Some(payload), Value::Object(more)) = (payload.as_object_mut(), more) {
            payload.extend(more);
        }
        self.events.send(payload).expect("the gateway lives");
    }
}

async fn serve(mut socket: Socket, mut to_send: mpsc::UnboundedReceiver<Value>, asks: mpsc::UnboundedSender<String>) {
    let challenge = json!({ "nonce": "a-nonce-of-the-load-gateway", "ts": 1 });
    socket.send(&json!({ "type": "event", "event": "connect.challenge", "payload": challenge }).to_string()).await;
    let mut seq = 0;
    loop {
        tokio::select! {
            payload = to_send.recv() => {
                let Some(payload) = payload else { return };
                seq += 1;
                socket.send(&json!({ "type": "event", "event": "chat", "payload": payload, "seq": seq }).to_string()).await;
            }
            frame = socket.next() => {
                let Some(frame) = frame else { return };
                let request: Value = serde_json::from_slice(frame).expect("the broker sends JSON");
                let answer = answer(&request, &asks);
                let id = &request["id"];
                socket.send(&json!({ "type": "res", "id": id, "ok": true, "payload": answer }).to_string()).await;
            }
        }
    }
}

fn answer(request: &Value, asks: &mpsc::UnboundedSender<String>) -> Value {
    match request["method"].as_str() {
        Some("connect") => json!({
            "type": "hello-ok", "protocol": 4, "server": { "version": "load", "connId": "c", "bootId": "b" },
            "features": { "methods": [], "events": ["chat"] },
            "snapshot": { "sessionDefaults": { "defaultAgentId": "main" } },
            "auth": { "role": "operator", "scopes": request["params"]["scopes"] },
            "policy": { "maxPayload": 1_048_576, "maxBufferedBytes": 2_097_152, "tickIntervalMs": 600_000 },
        }),
        Some("agents.list") => json!({ "defaultId": "main", "agents": [{ "id": "main", "name": "Load" }] }),
        Some("models.list") => json!({ "models": [] }),
        Some("sessions.list") => json!({ "sessions": [] }),
        Some("chat.history") => json!({
            "sessionId": "log", "messages": [], "hasMore": false, "totalMessages": 0,
            "sessionInfo": { "key": CANONICAL, "hasActiveRun": false, "activeRunIds": [] },
        }),
        Some("chat.send") => {
            let run_id = request["params"]["idempotencyKey"].as_str().expect("a key").to_owned();
            asks.send(run_id.clone()).expect("the tool lives");
            json!({ "runId": run_id, "status": "started" })
        }
        _ => json!({}),
    }
}

//! The sample gateway over real sockets: handshake, methods, runs. Faults are in `faults`.
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use actix_codec::Framed;
use awc::ws::{Codec, Frame, Message};
use awc::{BoxedSocket, Client};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Options, Running, devices, start};
use crate::domain::clock::ManualClock;

mod faults;

const SESSION: &str = "agent:main:s";
/// How long a test waits for a frame.
const PATIENCE: Duration = Duration::from_secs(45);

/// A gateway that does not pause between deltas.
fn gateway(change: impl FnOnce(&mut Options)) -> Running {
    let mut options = Options::new(Arc::new(ManualClock::at(1_795_189_101_062)));
    options.delta_ms = 0;
    change(&mut options);
    start(options).expect("a free port")
}

fn connect_params() -> Value {
    json!({
        "minProtocol": 3, "maxProtocol": 4, "role": "operator", "auth": { "token": "sample-token" },
        "client": { "id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend" },
        "scopes": ["operator.read", "operator.write", "operator.admin"],
    })
}

struct Peer {
    socket: Framed<BoxedSocket, Codec>,
    requests: u32,
}

impl Peer {
    /// Opens a connection; returns it with the challenge.
    async fn dial(url: &str) -> (Self, Value) {
        // A provider that is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(PATIENCE).finish();
        let (_, socket) = client.ws(url).max_frame_size(1 << 24).connect().await.expect("an upgrade");
        let mut peer = Self { socket, requests: 0 };
        let challenge = peer.next().await;
        assert_eq!(challenge["event"], "connect.challenge");
        (peer, challenge["payload"].clone())
    }

    /// Opens a connection and shakes hands; returns it with the `hello-ok`.
    async fn open(gateway: &Running) -> (Self, Value) {
        let (mut peer, _) = Self::dial(&gateway.url).await;
        let hello = peer.ask("connect", connect_params()).await;
        assert_eq!(hello["payload"]["type"], "hello-ok", "{hello}");
        (peer, hello["payload"].clone())
    }

    async fn send(&mut self, text: String) {
        self.socket.send(Message::Text(text.into())).await.expect("sent");
    }

    async fn request(&mut self, method: &str, params: Value) {
        self.requests += 1;
        let frame = json!({ "type": "req", "id": self.requests.to_string(), "method": method, "params": params });
        self.send(frame.to_string()).await;
    }

    /// Returns the next frame; a close as `{"close":code,"reason":…}`, the end of the stream as `{"gone":true}`.
    async fn next(&mut self) -> Value {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("in time");
            match frame {
                Some(Ok(Frame::Text(text))) => return serde_json::from_slice(&text).expect("JSON"),
                Some(Ok(Frame::Close(reason))) => {
                    let (code, text) = reason.map_or((1005, None), |reason| (reason.code.into(), reason.description));
                    return json!({ "close": code, "reason": text.unwrap_or_default() });
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return json!({ "gone": true }),
            }
        }
    }

    /// Sends a request and returns its answer; events that come before it are passed over.
    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.request(method, params).await;
        let id = self.requests.to_string();
        self.until(|frame| frame["id"] == id.as_str() || frame.get("close").is_some()).await
    }

    async fn say(&mut self, key: &str, message: &str) -> Value {
        self.ask("chat.send", json!({ "sessionKey": "s", "message": message, "idempotencyKey": key })).await
    }

    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.next().await;
            if wanted(&frame) || frame == json!({ "gone": true }) {
                return frame;
            }
        }
    }

    /// Returns the payloads of a run's chat events up to its first last word.
    async fn run(&mut self, run_id: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let frame = self.until(|frame| frame["event"] == "chat" && frame["payload"]["runId"] == run_id).await;
            assert!(frame["seq"].as_u64().is_some(), "{frame}");
            let last = ["final", "error", "aborted"].iter().any(|state| frame["payload"]["state"] == *state);
            events.push(frame["payload"].clone());
            if last {
                return events;
            }
        }
    }
}

/// Puts deltas together the way a client does, and checks that the cumulative text agrees.
fn streamed(events: &[Value]) -> String {
    let mut text = String::new();
    for event in events.iter().filter(|event| event["state"] == "delta") {
        if event["replace"] == true {
            text.clear();
        }
        text.push_str(event["deltaText"].as_str().expect("deltaText"));
        assert_eq!(event["message"]["content"][0]["text"], text.as_str());
    }
    text
}

fn last_text(events: &[Value]) -> &str {
    events.last().and_then(|event| event["message"]["content"][0]["text"].as_str()).unwrap_or_default()
}

#[actix_web::test]
async fn a_handshake_is_refused_with_a_code_and_a_close() {
    let gateway = gateway(|options| options.grant_scopes = Some(vec!["operator.read".to_owned()]));
    for (pointer, value, code, close) in [
        ("minProtocol", json!(5), "PROTOCOL_MISMATCH", 1002),
        ("auth", json!({ "token": "wrong" }), "AUTH_TOKEN_MISMATCH", 1008),
        ("auth", json!({}), "DEVICE_IDENTITY_REQUIRED", 1008),
        ("bogus", json!(1), "", 1008),
        ("client", json!({ "id": "mine", "version": "1", "platform": "x", "mode": "backend" }), "", 1008),
    ] {
        let (mut peer, _) = Peer::dial(&gateway.url).await;
        let mut params = connect_params();
        params[pointer] = value;
        let refused = peer.ask("connect", params).await;
        assert_eq!(refused["error"]["details"]["code"].as_str().unwrap_or_default(), code, "{refused}");
        let closed = peer.next().await;
        assert_eq!((closed["close"].as_u64(), &closed["reason"]), (Some(close), &refused["error"]["message"]));
    }
    for (text, code, reason) in [
        ("not JSON".to_owned(), 1000, ""),
        (json!({ "type": "req" }).to_string(), 1008, "invalid request frame"),
        ("x".repeat(70_000), 1009, ""),
    ] {
        let (mut peer, _) = Peer::dial(&gateway.url).await;
        peer.send(text).await;
        assert_eq!(peer.next().await, json!({ "close": code, "reason": reason }));
    }
    let (mut peer, hello) = Peer::open(&gateway).await;
    assert_eq!(hello["auth"]["scopes"], json!(["operator.read"]), "cut to what is granted");
    let forbidden = peer.say("k", "x").await;
    assert_eq!(forbidden["error"]["details"]["missingScope"], "operator.write");
    assert_eq!(peer.ask("no.such", json!({})).await["error"]["message"], "missing scope: operator.admin");
    assert_eq!(gateway.connections(), 1);
}

#[actix_web::test]
async fn an_answer_is_streamed_to_everybody_and_kept() {
    let gateway = gateway(|_| {});
    let (mut peer, _) = Peer::open(&gateway).await;
    let (mut other, _) = Peer::open(&gateway).await;
    assert_eq!(
        peer.say("k", " say[chunks=3]: hello you ").await["payload"],
        json!({ "runId": "k", "status": "started" })
    );
    let events = peer.run("k").await;
    let states: Vec<_> = events.iter().map(|event| event["state"].as_str().expect("state")).collect();
    assert_eq!(states, ["status", "status", "status", "delta", "delta", "delta", "final"]);
    assert!(events.iter().all(|event| event["sessionKey"] == SESSION));
    assert_eq!((streamed(&events).as_str(), last_text(&events)), ("hello you", "hello you"));
    assert_eq!(other.run("k").await, events);
    let rows = gateway.rows("s");
    assert_eq!(
        (&rows[0]["idempotencyKey"], &rows[0]["content"]),
        (&json!("k:user"), &json!("say[chunks=3]: hello you"))
    );
    assert_eq!((&rows[1]["__openclaw"]["runId"], &rows[1]["__openclaw"]["seq"]), (&json!("k"), &json!(2)));

    assert_eq!(peer.say("k", "say[chunks=3]: hello you").await["payload"]["status"], "ok");
    assert_eq!(peer.say("k", "something else").await["error"]["details"]["reason"], "chat-request-conflict");
    assert_eq!((gateway.sends().len(), gateway.rows("s").len()), (3, 2));
    let unknown = peer.ask("chat.send", json!({ "sessionKey": "s", "message": "x" })).await;
    assert_eq!(unknown["error"]["message"], "invalid chat.send params: must have required property 'idempotencyKey'");
}

#[actix_web::test]
async fn what_is_sent_meanwhile_is_steered_into_the_run() {
    let gateway = gateway(|_| {});
    let (mut peer, _) = Peer::open(&gateway).await;
    peer.say("1", "gate g: first answer").await;
    for key in ["2", "3"] {
        assert_eq!(peer.say(key, &format!("say: answer {key}")).await["payload"]["status"], "started");
    }
    assert_eq!(peer.say("2", "say: answer 2").await["payload"]["status"], "in_flight");
    // The run takes a moment to come to its gate.
    let page = loop {
        let page = peer.ask("chat.history", json!({ "sessionKey": "s" })).await["payload"].clone();
        if page["inFlightRun"]["text"] != "" {
            break page;
        }
    };
    assert_eq!((&page["inFlightRun"]["runId"], &page["inFlightRun"]["text"]), (&json!("1"), &json!("first ")));
    gateway.release("g");
    for key in ["2", "3"] {
        let events = peer.run(key).await;
        assert_eq!((events.len(), events[0].get("message")), (1, None), "a bare final");
    }
    let events = peer.run("1").await;
    assert_eq!(last_text(&events), "first answer\n\nanswer 3");
    let rows = gateway.rows("s");
    let roles: Vec<_> = rows.iter().map(|row| row["role"].as_str().expect("role")).collect();
    assert_eq!(roles, ["user", "assistant", "user", "user", "assistant"]);
    assert_eq!(rows[4]["content"][0]["text"], "answer 3");
}

#[actix_web::test]
async fn an_abort_is_reported_before_it_is_acknowledged() {
    let gateway = gateway(|_| {});
    let (mut peer, _) = Peer::open(&gateway).await;
    peer.say("k", "gate never: one two").await;
    peer.until(|frame| frame["payload"]["message"]["content"][0]["text"] == "one ").await;
    peer.request("chat.abort", json!({ "sessionKey": "s" })).await;
    let events = peer.run("k").await;
    assert_eq!((&events.last().expect("an end")["state"], last_text(&events)), (&json!("aborted"), "one "));
    let answer = peer.until(|frame| frame["type"] == "res").await;
    assert_eq!(answer["payload"], json!({ "ok": true, "aborted": true, "runIds": ["k"] }));
    assert_eq!(gateway.rows("s")[1]["openclawAbort"]["aborted"], true);
    let again = peer.ask("chat.abort", json!({ "sessionKey": "s" })).await;
    assert_eq!(again["payload"]["aborted"], false);
    assert_eq!(peer.ask("sessions.reset", json!({ "key": "s" })).await["payload"]["key"], SESSION);
    assert_eq!(gateway.rows("s").len(), 1, "the row that tells of it");
    assert!(gateway.reset("s") && !gateway.reset(""));
}

#[actix_web::test]
async fn the_script_plays_the_odd_ends() {
    let gateway = gateway(|_| {});
    let (mut peer, _) = Peer::open(&gateway).await;
    peer.say("think", "think: x").await;
    assert_eq!(last_text(&peer.run("think").await), "<think>about: x</think>x");
    peer.say("replace", "replace: right").await;
    assert_eq!(streamed(&peer.run("replace").await), "right");
    peer.say("empty", "empty").await;
    assert_eq!(peer.run("empty").await.last().and_then(|event| event.get("message")), None);
    for (key, message, state) in [("fail", "fail", "error"), ("dup", "dup: twice", "final")] {
        peer.say(key, message).await;
        let first = peer.run(key).await;
        let second = peer.run(key).await;
        assert_eq!((&first.last().expect("an end")["state"], second.len()), (&json!(state), 1));
        assert_eq!((&second[0]["state"], &second[0]["seq"]), (&json!(state), &json!(1)));
    }
    peer.say("tool", "tool look {\"at\":1}").await;
    let events = peer.run("tool").await;
    let (said, taken_back) = (&events[events.len() - 3], &events[events.len() - 2]);
    assert_eq!(said["message"]["content"][0]["text"], "tool result: sample result of look with {\"at\":1}");
    assert_eq!((&taken_back["replace"], &taken_back["deltaText"]), (&json!(true), &json!("")));
    assert_eq!(events.last().and_then(|event| event.get("message")), None);
    peer.say("word", "tool look {\"at\":1}").await;
    let word = peer.until(|frame| frame["payload"]["data"]["phase"] == "end").await;
    assert_eq!(word["payload"]["data"]["terminalReply"]["text"], said["message"]["content"][0]["text"]);
    assert_eq!(peer.run("word").await.len(), 1, "the end comes behind it");
    let rows = gateway.rows("s");
    let tool: Vec<_> = rows.iter().rev().take(4).map(|row| row["role"].as_str().expect("role")).collect();
    assert_eq!(tool, ["assistant", "toolResult", "assistant", "user"]);
    gateway.inject("s", "by hand").expect("injected");
    let injected = peer.until(|frame| frame["payload"]["message"]["content"][0]["text"] == "by hand").await;
    assert_eq!(injected["payload"]["state"], "final");
    let run_id = gateway.foreign_send("s", "hello").expect("accepted");
    assert_eq!(last_text(&peer.run(&run_id).await), "You said: hello");
    let sessions =
        peer.ask("sessions.list", json!({ "limit": 1, "includeLastMessage": true })).await["payload"].clone();
    assert_eq!(sessions["sessions"][0]["lastMessagePreview"], "You said: hello");
    let page = peer.ask("chat.history", json!({ "sessionKey": "s", "limit": 2 })).await["payload"].clone();
    assert_eq!((&page["nextOffset"], page["messages"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    assert_eq!(page["totalMessages"], gateway.rows("s").len());
}

//! People who talk to an agent over their socket: in our own frames and in an ancestor's. With the real binary.
use awc::http::Method;
use serde_json::{Value, json};

use super::strangers::member;
use crate::harness::{Broker, Browser, Database};

on_both_databases!(
    a_question_to_an_agent_is_answered,
    the_same_key_asks_once,
    nobody_sees_what_others_talk_about,
    a_viewer_may_only_look,
    a_socket_ends_with_its_agent,
    what_is_missed_is_resumed,
    the_ancestors_frames_are_spoken,
    the_ancestors_refusals_are_told_on_the_socket,
);

/// An agent that answers by hand.
struct Agent {
    id: String,
    key: String,
}

impl Agent {
    async fn register(broker: &Broker, name: &str) -> Self {
        let (status, agent) = broker.post("/api/admin/agents", json!({ "name": name })).await;
        assert_eq!(status, 201, "{agent}");
        let id = agent["id"].as_str().unwrap().to_owned();
        let (status, made) = broker.post(&format!("/api/admin/agents/{id}/keys"), json!({})).await;
        assert_eq!(status, 201, "{made}");
        Self { id, key: made["api_key"].as_str().unwrap().to_owned() }
    }

    fn path(&self) -> String {
        format!("/ws/chat/{}", self.id)
    }

    async fn call(&self, broker: &Broker, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("http://{}/api/gateway/{path}", broker.address);
        let request = awc::Client::new().request(method, url).timeout(std::time::Duration::from_secs(60));
        let request = request.insert_header(("X-Api-Key", self.key.clone()));
        let sent = match body {
            Some(body) => request.send_json(&body).await,
            None => request.send().await,
        };
        let mut answer = sent.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        answer.json().await.expect("JSON")
    }

    /// Waits for the next question and answers it; returns the question.
    async fn answer(&self, broker: &Broker, text: &str) -> Value {
        let polled = self.call(broker, Method::GET, "poll?wait=30&limit=1", None).await;
        let question = polled["messages"][0].clone();
        let body = json!({ "message_id": question["id"], "result": text });
        self.call(broker, Method::POST, "report", Some(body)).await;
        question
    }
}

/// Asks and returns the acknowledgement.
async fn ask(socket: &mut Browser, message: &str) -> Value {
    socket.send(json!({ "type": "chat", "message": message })).await;
    socket.until_type("ack").await
}

fn text(message: &Value) -> &Value {
    &message["message"]["content"][0]["text"]
}

async fn a_question_to_an_agent_is_answered(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let token = member(&broker, "ann").await;
    let mut ann = Browser::open(&broker.address, &agent.path(), Some(&token)).await;
    let connected = ann.until_type("connected").await;
    assert_eq!((&connected["agent"]["id"], &connected["gateway"]), (&json!(agent.id), &Value::Null));
    assert_eq!(
        (&connected["agent"]["name"], &connected["agent"]["presence"]),
        (&json!("Ben"), &json!("offline")),
        "{connected}"
    );
    let ack = ask(&mut ann, "How are you?").await;
    assert_eq!((&ack["state"], &ack["seq"]), (&json!("queued"), &json!(1)), "{ack}");
    let question = agent.answer(&broker, "Fine").await;
    assert_eq!((&question["content"], &question["sender_user_name"]), (&json!("How are you?"), &json!("ann")));
    assert_eq!((&question["id"], &question["conversation_id"]), (&ack["messageId"], &ack["sessionKey"]));
    let sent = ann.since(0, "sent", |frame| frame["type"] == "delivery" && frame["state"] == "sent").await;
    assert_eq!(sent["messageId"], ack["messageId"]);
    let reply = ann.since(0, "a reply", |frame| frame["type"] == "message").await;
    assert_eq!((text(&reply), &reply["message"]["sender"]["kind"]), (&json!("Fine"), &json!("agent")));
    assert_eq!(reply["message"]["seq"], 2);
    ann.send(json!({ "type": "history", "sessionKey": ack["sessionKey"] })).await;
    let history = ann.until_type("history").await;
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(2), "{history}");
    // Nothing came twice.
    ann.catch_up().await;
    let lines = ann.seen.iter().filter(|frame| frame["type"] == "message" || frame["type"] == "ack").count();
    assert_eq!(lines, 2, "{}", ann.transcript());
    ann.send(json!({ "type": "abort" })).await;
    assert_eq!(ann.until_type("error").await["code"], "invalid_request");
}

async fn the_same_key_asks_once(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let mut admin = broker.browser(&agent.path()).await;
    let chat = json!({ "type": "chat", "message": "hello", "idempotencyKey": "k" });
    admin.send(chat.clone()).await;
    let first = admin.until_type("ack").await;
    assert_eq!(first["idempotencyKey"], "k");
    admin.send(chat).await;
    assert_eq!(admin.until_type("ack").await["messageId"], first["messageId"]);
    admin.send(json!({ "type": "chat", "message": "other", "idempotencyKey": "k" })).await;
    assert_eq!(admin.until_type("error").await["code"], "idempotency_conflict");
    admin.send(json!({ "type": "history" })).await;
    assert_eq!(admin.until_type("history").await["messages"].as_array().map(Vec::len), Some(1));
}

async fn nobody_sees_what_others_talk_about(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let (ann, eve) = (member(&broker, "ann").await, member(&broker, "eve").await);
    let mut ann = Browser::open(&broker.address, &agent.path(), Some(&ann)).await;
    let mut eve = Browser::open(&broker.address, &agent.path(), Some(&eve)).await;
    eve.send(json!({ "type": "subscribe" })).await;
    let hers = eve.until_type("subscribed").await;
    let ack = ask(&mut ann, "the secret plan").await;
    assert_ne!(ack["sessionKey"], hers["sessionKey"]);
    agent.answer(&broker, "secret, too").await;
    ann.until_type("message").await;
    // By its name it is not hers either.
    for kind in ["subscribe", "history", "chat"] {
        eve.send(json!({ "type": kind, "sessionKey": ack["sessionKey"], "message": "hello" })).await;
        assert_eq!(eve.until_type("error").await["code"], "not_found", "{kind}");
    }
    eve.catch_up().await;
    assert!(!eve.transcript().contains("secret"), "{}", eve.transcript());
    ask(&mut eve, "hello").await;
    let question = agent.answer(&broker, "hello, eve").await;
    assert_eq!((&question["sender_user_name"], &question["history"]), (&json!("eve"), &json!([])));
    assert_eq!(text(&eve.until_type("message").await), "hello, eve");
    ann.catch_up().await;
    assert!(!ann.transcript().contains("eve"), "{}", ann.transcript());
}

async fn a_viewer_may_only_look(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let (status, user) = broker.post("/api/admin/users", json!({ "name": "vic", "role": "viewer" })).await;
    assert_eq!(status, 201, "{user}");
    let (_, made) = broker.post("/api/admin/tokens", json!({ "name": "t", "user": "vic" })).await;
    let mut vic = Browser::open(&broker.address, &agent.path(), made["token"].as_str()).await;
    vic.send(json!({ "type": "chat", "message": "hello" })).await;
    assert_eq!(vic.until_type("error").await["code"], "forbidden");
    vic.send(json!({ "type": "history" })).await;
    assert_eq!(vic.until_type("history").await["messages"], json!([]));
    let (_, found) = broker.get("/api/admin/conversations").await;
    assert_eq!(found["items"], json!([]), "nothing was made");
}

async fn a_socket_ends_with_its_agent(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let mut admin = broker.browser(&agent.path()).await;
    admin.until_type("connected").await;
    let (status, answer) = broker.call("DELETE", &format!("/api/admin/agents/{}", agent.id), None).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!((admin.next().await, admin.closed), (None, Some(4404)));
    // Now there is no such thing.
    let mut gone = broker.browser(&agent.path()).await;
    assert_eq!(gone.until_type("error").await["code"], "gateway_not_found");
    assert_eq!((gone.next().await, gone.closed), (None, Some(4404)));
}

async fn what_is_missed_is_resumed(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let token = member(&broker, "ann").await;
    let mut before = Browser::open(&broker.address, &agent.path(), Some(&token)).await;
    let ack = ask(&mut before, "hello").await;
    drop(before);
    agent.answer(&broker, "hello, ann").await;
    let mut after = Browser::open(&broker.address, &agent.path(), Some(&token)).await;
    after.send(json!({ "type": "resume", "after": ack["seq"] })).await;
    assert_eq!(after.until_type("resumed").await["lastSeq"], 2);
    assert_eq!(text(&after.until_type("message").await), "hello, ann");
    ask(&mut after, "again").await;
    agent.answer(&broker, "yes?").await;
    assert_eq!(text(&after.until_type("message").await), "yes?");
}

async fn the_ancestors_frames_are_spoken(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let path = format!("{}?frames=agent", agent.path());
    let (ann, eve) = (member(&broker, "ann").await, member(&broker, "eve").await);
    let mut ann = Browser::open(&broker.address, &path, Some(&ann)).await;
    let mut eve = Browser::open(&broker.address, &path, Some(&eve)).await;
    let session = ann.next().await.expect("a frame");
    assert_eq!(session["type"], "connected", "it comes first");
    let hers = eve.next().await.expect("a frame");
    assert_ne!(session["session_id"], hers["session_id"]);
    ann.send(json!({ "content": "hello", "display_content": "Hello!", "file_name": "a.txt" })).await;
    let done = |content: &str| json!({ "type": "done", "role": "assistant", "content": content });
    let told = "Message forwarded to OpenClaw agent. Waiting for response...";
    assert_eq!(ann.next().await, Some(done(told)));
    let question = agent.answer(&broker, "hello, ann").await;
    assert_eq!((&question["content"], &question["conversation_id"]), (&json!("hello"), &session["session_id"]));
    assert_eq!(ann.next().await, Some(done("hello, ann")));
    for (frame, words) in [
        (json!({ "content": " " }), "`content` must not be empty"),
        (json!({ "content": 7 }), "`content` must be a text"),
        (json!({}), "`content` is missing"),
    ] {
        ann.send(frame).await;
        assert_eq!(ann.next().await, Some(json!({ "type": "error", "content": words, "code": "bad_frame" })));
    }
    eve.catch_up().await;
    assert_eq!(eve.seen.len(), 2, "her own two frames: {}", eve.transcript());
}

async fn the_ancestors_refusals_are_told_on_the_socket(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let agent = Agent::register(&broker, "Ben").await;
    let nobody = "/ws/chat/01890000-0000-7000-8000-000000000000";
    let own = agent.path();
    for (path, token, content, code) in [
        (format!("{own}?frames=agent"), "cbk_wrong", "Authentication failed", 4001),
        (
            format!("{own}?frames=agent&session_id=other"),
            broker.token.as_str(),
            "Not authorized for this session",
            4003,
        ),
        (format!("{nobody}?frames=agent"), broker.token.as_str(), "Setup failed", 4002),
    ] {
        let mut socket = Browser::open(&broker.address, &path, Some(token)).await;
        assert_eq!(socket.until_type("error").await["content"], content, "{path}");
        assert_eq!((socket.next().await, socket.closed), (None, Some(code)), "{path}");
    }
    for wrong in [format!("{own}?frames=gateway"), "/ws/chat/federated?frames=agent".to_owned()] {
        assert!(Browser::try_open(&broker.address, &wrong, Some(&broker.token)).await.is_none(), "{wrong}");
    }
}

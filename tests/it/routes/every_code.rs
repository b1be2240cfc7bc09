//! Every error code is provoked once, by the shortest real way. A new code must be added here, or the test fails; one
//! that nothing makes yet stands in `LATER`, as long as that is true.
use std::collections::BTreeSet;

use actix_web::http::Method;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::user::Role;
use clawbroker::store::channels::{EndSend, LeaseSend, SendEnd};
use serde_json::{Value, json};

use super::TestNode;
use super::node::Reply;
use super::order::Known;
use crate::harness::{Database, Kind, sql};
use crate::ws::connected;

on_both_databases!(every_code_is_provoked_once);

/// Codes that nothing in `src/` makes yet.
const LATER: [(ErrorCode, &str); 1] =
    [(ErrorCode::ScopeMissing, "a gateway without the scopes is `not_authorised`, and questions to it wait")];

/// The codes that were seen.
#[derive(Default)]
struct Seen(BTreeSet<&'static str>);

impl Seen {
    /// Notes an answer over HTTP: right status, right body.
    #[track_caller]
    fn reply(&mut self, code: ErrorCode, reply: Reply) -> Reply {
        self.0.insert(code.as_str());
        reply.expect_error(code.http_status(), code.as_str())
    }

    /// Notes a frame of a socket.
    #[track_caller]
    fn frame(&mut self, code: ErrorCode, frame: &Value) {
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!(code)), "{frame}");
        assert!(frame["error"].as_str().is_some_and(|sentence| !sentence.is_empty()), "{frame}");
        self.0.insert(code.as_str());
    }
}

async fn every_code_is_provoked_once(database: Database) {
    let mut seen = Seen::default();
    let elsewhere = Database::migrated(database.kind());
    let node = TestNode::with(database, |config| {
        config.limits.queued_per_session_max = 1;
        config.mailbox.hops_max = 1;
        config.channels.send_wait_ms = 0;
        config.mailbox.pair_requests_max = 2;
    });
    let known = Known::make(&node).await;
    by_wrong_calls(&node, &known, &mut seen).await;
    by_guessing(&node, &mut seen).await;
    by_the_gateway(&node, &mut seen).await;
    by_the_state_of_the_node(&node, &mut seen).await;
    by_moves_of_a_delivery(&node, &mut seen).await;
    by_a_name_of_several(&node, &known, &mut seen).await;
    by_eager_agents(&node, &mut seen).await;
    by_a_provider(&node, &known, &mut seen).await;
    by_the_database(&node, &mut seen).await;
    by_frames(&elsewhere, &mut seen).await;
    let expected: BTreeSet<&str> = ErrorCode::ALL
        .iter()
        .filter(|(code, ..)| !LATER.iter().any(|(later, _)| later == code))
        .map(|(_, name, _)| *name)
        .collect();
    assert_eq!(seen.0, expected);
}

/// A message to a person that the provider of its channel will never take.
async fn by_a_provider(node: &TestNode, known: &Known, seen: &mut Seen) {
    let reached = json!({ "webhook_url": "https://example.org/in" });
    node.patch(&known.filled("/api/admin/members/{id}")).json(&reached).by(Role::Admin).await.expect_status(200);
    let body = json!({ "target": "Eve", "content": "hello", "message_id": "to-eve" });
    let send = || node.post("/api/gateway/send-message").json(&body).with_key(&known.agent_key);
    let sent = send().await.expect_status(200).json;
    let path = format!("/api/admin/messages/{}", sent["message_id"].as_str().unwrap());
    let receipt = node.get(&path).by(Role::Admin).await.expect_status(200).json;
    let id = receipt["deliveries"][0]["id"].as_str().unwrap().parse().unwrap();
    let channel_id = known.filled("/api/admin/channels/{id}").rsplit('/').next().unwrap().parse().unwrap();
    let store = &node.state.store;
    let attempt = store.write(LeaseSend { channel_id, id }).await.unwrap().unwrap();
    let end = SendEnd::Dead("HTTP 410: gone".to_owned());
    store.write(EndSend { channel_id, id, attempt, arrived: Vec::new(), end }).await.unwrap();
    let refused = seen.reply(ErrorCode::ChannelFailed, send().await);
    assert_eq!(refused.json["detail"], "Webhook send failed: HTTP 410: gone");
}

async fn by_wrong_calls(node: &TestNode, known: &Known, seen: &mut Seen) {
    let lab = json!({ "id": "lab", "name": "Lab", "url": "ws://127.0.0.1:1" });
    let user = |name: &str| json!({ "name": name, "role": "viewer" });
    let users = "/api/admin/users";
    let keyed = |name: &str| node.post(users).header("idempotency-key", "k").json(&user(name));
    keyed("bob").by(Role::Admin).await.expect_status(201);
    let messages = format!("/api/admin/conversations/{}/messages", known.conversation);
    let text = |length: usize| json!({ "content": "x".repeat(length) });
    let redrive = format!("/api/admin/deliveries/{}/redrive", known.delivery);
    let list = || node.get("/api/gateways");
    let nobody = None;
    let viewer = Some(Role::Viewer);
    let admin = Some(Role::Admin);
    let wrong = [
        (ErrorCode::Unauthenticated, nobody, list()),
        (ErrorCode::Forbidden, viewer, node.post("/api/gateways").json(&lab)),
        (ErrorCode::NotFound, nobody, node.get("/api/nothing")),
        (ErrorCode::GatewayNotFound, viewer, node.get("/api/gateways/none/status")),
        (ErrorCode::MethodNotAllowed, nobody, node.call(Method::PUT, "/api/gateways")),
        (ErrorCode::NotAcceptable, viewer, list().header("accept", "text/html")),
        (ErrorCode::AlreadyExists, admin, node.post("/api/gateways").json(&lab)),
        // Not a handshake.
        (ErrorCode::InvalidRequest, viewer, node.get("/ws/chat/lab")),
        (ErrorCode::IdempotencyConflict, admin, keyed("eve")),
        // It waits, so there is nothing to start afresh.
        (ErrorCode::NotLeased, admin, node.post(&redrive)),
        (ErrorCode::PayloadTooLarge, admin, node.post(&messages).json(&text(1 << 20))),
        (ErrorCode::MessageTooLarge, admin, node.post(&messages).json(&text((256 << 10) + 1))),
        (ErrorCode::UnsupportedMediaType, admin, node.post(users).body("text/plain", "{}")),
        (ErrorCode::ValidationError, admin, node.post(users).json(&json!({}))),
        (ErrorCode::HeaderTooLarge, viewer, list().header("x-long", &"x".repeat(17_000))),
        // One question waits already.
        (ErrorCode::MailboxFull, admin, node.post(&messages).json(&text(1))),
    ];
    for (code, by, call) in wrong {
        let reply = match by {
            Some(role) => call.by(role).await,
            None => call.send().await,
        };
        seen.reply(code, reply);
    }
}

async fn by_guessing(node: &TestNode, seen: &mut Seen) {
    for _ in 0..20 {
        node.get("/api/gateways").with_token("cbk_guess").await.expect_error(401, "unauthenticated");
    }
    seen.reply(ErrorCode::RateLimited, node.get("/api/gateways").with_token("cbk_guess").await);
}

async fn by_the_gateway(node: &TestNode, seen: &mut Seen) {
    let delete = async || node.delete("/api/gateways/lab/sessions/a?upstream=true").by(Role::Admin).await;
    node.upstream.lock().unwrap().refuses = true;
    seen.reply(ErrorCode::UpstreamRefused, delete().await);
    node.upstream.lock().unwrap().silent = true;
    seen.reply(ErrorCode::GatewayUnavailable, delete().await);
}

async fn by_the_state_of_the_node(node: &TestNode, seen: &mut Seen) {
    let get = async || node.get("/api/gateways").by(Role::Viewer).await;
    node.state.directory.set_active(false);
    seen.reply(ErrorCode::Standby, node.get("/ready").send().await);
    seen.reply(ErrorCode::Standby, get().await);
    node.state.directory.set_active(true);
    get().await.expect_status(200);
}

/// What agents say about messages that they have, or had.
async fn by_moves_of_a_delivery(node: &TestNode, seen: &mut Seen) {
    let (_, asks) = node.agent("Cid").await;
    let (_, works) = node.agent("Dora").await;
    let post = async |path: &str, key: &str, body: Value| node.post(path).json(&body).with_key(key).await;
    let asked = post("/api/gateway/send-message", &asks, json!({ "target": "Dora", "content": "hello" })).await;
    let asked = asked.expect_status(200).json;
    let id = &asked["message_id"];
    let poll = async || node.get("/api/gateway/poll").with_key(&works).await.expect_status(200);
    let nack = async || post("/api/gateway/nack", &works, json!({ "message_id": id })).await;
    let report = async |attempt: i32, result: &str| {
        let body = json!({ "message_id": id, "result": result, "delivery_attempt": attempt });
        post("/api/gateway/report", &works, body).await
    };
    seen.reply(ErrorCode::NotLeased, nack().await);
    poll().await;
    nack().await.expect_status(200);
    poll().await;
    seen.reply(ErrorCode::StaleAttempt, report(1, "done").await);
    report(2, "done").await.expect_status(200);
    seen.reply(ErrorCode::ResultConflict, report(2, "not done").await);
    seen.reply(ErrorCode::DeliveryEnded, nack().await);
}

async fn by_a_name_of_several(node: &TestNode, known: &Known, seen: &mut Seen) {
    node.agent("Ben the first").await;
    node.agent("Ben the second").await;
    let body = json!({ "target": "ben", "content": "hello" });
    let reply = node.post("/api/gateway/send-message").json(&body).with_key(&known.agent_key).await;
    seen.reply(ErrorCode::AmbiguousTarget, reply);
}

async fn by_eager_agents(node: &TestNode, seen: &mut Seen) {
    let (_, ida) = node.agent("ida").await;
    let (_, joe) = node.agent("joe").await;
    node.agent("kim").await;
    let send = async |target: &str| {
        let body = json!({ "target": target, "content": "hello" });
        node.post("/api/gateway/send-message").json(&body).with_key(&ida).await
    };
    let sent = send("joe").await.expect_status(200).json;
    let body = json!({ "message_id": sent["message_id"], "result": "done" });
    node.post("/api/gateway/report").json(&body).with_key(&joe).await.expect_status(200);
    seen.reply(ErrorCode::HopLimit, send("joe").await);
    for _ in 0..2 {
        send("kim").await.expect_status(200);
    }
    seen.reply(ErrorCode::PairRateLimited, send("kim").await);
}

/// How the database is made to fail for whoever adds a user: in its own words.
fn failure(kind: Kind, sqlite: &str, postgres: &str) -> String {
    match kind {
        Kind::Sqlite => {
            format!("CREATE TRIGGER fail BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, '{sqlite}'); END")
        }
        Kind::Postgres => format!(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {postgres}; RETURN NEW; END $$; \
             CREATE TRIGGER fail BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION fail()"
        ),
    }
}

async fn by_the_database(node: &TestNode, seen: &mut Seen) {
    let kind = node.database.kind();
    let mut db = node.database.connect();
    let add = async |name: &str| {
        node.post("/api/admin/users").json(&json!({ "name": name, "role": "viewer" })).by(Role::Admin).await
    };
    let full = "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'";
    // The server ends the writer's own connection in the middle of its transaction.
    let lost = "PERFORM pg_terminate_backend(pg_backend_pid())";
    for (code, sqlite, postgres) in
        [(ErrorCode::StorageFull, "database or disk is full", full), (ErrorCode::StoreBusy, "disk I/O error", lost)]
    {
        sql::run(&mut db, &failure(kind, sqlite, postgres));
        seen.reply(code, add("late").await);
        sql::run(&mut db, if kind == Kind::Sqlite { "DROP TRIGGER fail" } else { "DROP TRIGGER fail ON users" });
        // It goes on by itself, and what was refused is not there.
        let name = format!("after-{}", code.as_str());
        add(&name).await.expect_status(201);
    }
    add("late").await.expect_status(201);
    // A record that cannot be read is told of, and stays (STO-3).
    sql::run(&mut db, "UPDATE deliveries SET state = 99");
    let told = seen.reply(ErrorCode::Internal, node.get("/api/admin/deliveries").by(Role::Admin).await);
    assert!(!told.text.contains("delivery"), "{}", told.text);
    let (all, unreadable) = ("SELECT count(*) AS value FROM deliveries", " WHERE state = 99");
    let there = sql::number(&mut db, all);
    assert!(there > 0);
    assert_eq!(sql::number(&mut db, &format!("{all}{unreadable}")), there);
    node.state.directory.set_stopping();
    seen.reply(ErrorCode::ShuttingDown, node.get("/api/gateways").by(Role::Viewer).await);
}

/// What comes on sockets only, from the real binary.
async fn by_frames(database: &Database, seen: &mut Seen) {
    let (broker, gateway) = connected(database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.send(json!({ "type": "dance" })).await;
    seen.frame(ErrorCode::BadFrame, &browser.until_type("error").await);
    browser.ask("a", "gate g: busy").await;
    browser.send(json!({ "type": "chat", "sessionKey": "a", "message": "me, too", "queue": false })).await;
    seen.frame(ErrorCode::SessionBusy, &browser.until_type("error").await);
    gateway.release("g");
    assert_eq!(browser.until_terminal().await["text"], "busy");
    browser.send_text("x".repeat((1 << 20) + 1)).await;
    seen.frame(ErrorCode::FrameTooLarge, &browser.until_type("error").await);
    assert!(browser.next().await.is_none());
    assert_eq!(browser.closed, Some(1009));
}

#[test]
fn a_code_of_a_later_capability_is_made_nowhere() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            files += 1;
            for (code, why) in LATER {
                let made = text.contains(&format!("ErrorCode::{code:?}"));
                assert!(!made, "{}: {code:?} is made now, so provoke it here; before: {why}", path.display());
            }
        }
    }
    assert!(files > 100, "{files}");
}

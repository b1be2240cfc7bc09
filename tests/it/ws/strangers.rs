//! Sessions that others have begun on the gateway: an operator's, not a member's (SEC-2).
use serde_json::{Value, json};

use super::connected;
use crate::harness::{Broker, Browser, Database};

on_both_databases!(
    a_member_cannot_ask_in_a_session_of_others,
    over_rest_it_is_refused_at_once,
    a_question_that_waited_for_the_gateway_is_not_sent_either,
    a_members_own_sessions_are_as_ever,
);

/// Makes a member and returns its token.
pub(super) async fn member(broker: &Broker, name: &str) -> String {
    let (status, user) = broker.post("/api/admin/users", json!({ "name": name, "role": "member" })).await;
    assert_eq!(status, 201, "{user}");
    let (status, made) = broker.post("/api/admin/tokens", json!({ "name": "t", "user": name })).await;
    assert_eq!(status, 201, "{made}");
    made["token"].as_str().expect("told once").to_owned()
}

/// Calls the API with another token.
async fn call(broker: &mut Broker, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let own = std::mem::replace(&mut broker.token, token.to_owned());
    let answer = broker.call(method, path, body).await;
    broker.token = own;
    answer
}

const SESSIONS: &str = "/api/gateways/gw/sessions";

async fn a_member_cannot_ask_in_a_session_of_others(database: Database) {
    let (mut broker, gateway) = connected(&database).await;
    gateway.foreign_send("theirs", "say: the secret plan").expect("a new session");
    gateway.idle().await;
    let token = member(&broker, "ann").await;
    let mut ann = Browser::open(&broker.address, "/ws/chat/gw", Some(&token)).await;
    for key in ["theirs", "agent:main:theirs"] {
        ann.send(json!({ "type": "chat", "sessionKey": key, "message": "what is the plan?" })).await;
        ann.until("a refusal", |frame| {
            frame["type"] == "error" && frame["code"] == "forbidden" && frame["sessionKey"] == key
        })
        .await;
    }
    ann.send(json!({ "type": "history", "sessionKey": "theirs" })).await;
    assert_eq!(ann.until_type("history").await["messages"], json!([]));
    assert!(!ann.transcript().contains("secret"), "{}", ann.transcript());
    assert_eq!(call(&mut broker, &token, "GET", SESSIONS, None).await, (200, json!([])));
    assert!(gateway.sends().is_empty(), "nothing was asked");
    // An operator has it whole.
    let mut admin = broker.browser("/ws/chat/gw").await;
    admin.send(json!({ "type": "history", "sessionKey": "theirs" })).await;
    assert_eq!(admin.until_type("history").await["messages"].as_array().map(Vec::len), Some(2));
    admin.ask("theirs", "say: go on").await;
    assert_eq!(admin.until_terminal().await["text"], "go on");
    // From now on the name is taken.
    ann.send(json!({ "type": "chat", "sessionKey": "theirs", "message": "again" })).await;
    ann.until("a refusal", |frame| frame["code"] == "already_exists").await;
}

async fn over_rest_it_is_refused_at_once(database: Database) {
    let (mut broker, gateway) = connected(&database).await;
    gateway.foreign_send("theirs", "say: before us").expect("a new session");
    gateway.idle().await;
    let token = member(&broker, "ann").await;
    let new = |key: &str| Some(json!({ "session_key": key }));
    let (status, refused) = call(&mut broker, &token, "POST", SESSIONS, new("theirs")).await;
    assert_eq!((status, &refused["error"]["code"]), (403, &json!("forbidden")), "{refused}");
    let own = format!("{SESSIONS}/theirs");
    assert_eq!(call(&mut broker, &token, "GET", &own, None).await.0, 404);
    assert_eq!(call(&mut broker, &token, "GET", &format!("{own}/messages"), None).await, (200, json!([])));
    assert_eq!(call(&mut broker, &token, "GET", SESSIONS, None).await, (200, json!([])));
    let (status, made) = call(&mut broker, &token, "POST", SESSIONS, new("my own")).await;
    assert_eq!((status, &made["session_key"]), (200, &json!("my own")), "{made}");
    let (status, opened) = broker.post(SESSIONS, json!({ "session_key": "theirs" })).await;
    assert_eq!(status, 200, "{opened}");
}

async fn a_question_that_waited_for_the_gateway_is_not_sent_either(database: Database) {
    let (broker, gateway) = connected(&database).await;
    gateway.foreign_send("theirs", "say: before us").expect("a new session");
    gateway.idle().await;
    let token = member(&broker, "ann").await;
    let mut ann = Browser::open(&broker.address, "/ws/chat/gw", Some(&token)).await;
    ann.until_type("connected").await;
    gateway.stop_listening().await;
    gateway.kill();
    ann.until_type("disconnected").await;
    let theirs = ann.ask("theirs", "say: into theirs").await;
    assert_eq!(theirs["state"], "queued");
    assert_eq!(ann.ask("mine", "say: into mine").await["state"], "queued");
    gateway.listen_again().await.expect("the port is free again");
    // Both are contacted when the gateway is back, in any order.
    let (mut of_theirs, mut answered) = (Vec::new(), false);
    while of_theirs.len() < 3 || !answered {
        let frame = ann.next().await.expect("the socket is open");
        if frame["sessionKey"] == "theirs" {
            of_theirs.push(frame);
        } else {
            answered |= frame["state"] == "final" && frame["text"] == "into mine";
        }
    }
    let [error, dead, reset] = of_theirs.as_slice() else { panic!("{of_theirs:?}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("forbidden")));
    assert_eq!(
        (&dead["state"], &dead["reason"], &dead["messageId"]),
        (&json!("dead"), &json!("foreign_session"), &theirs["messageId"])
    );
    assert_eq!((&reset["type"], &reset["reason"]), (&json!("reset"), &json!("deleted")));
    assert_eq!(gateway.sends().len(), 1);
    let (_, shown) = broker.get("/api/admin/deliveries?state=dead").await;
    assert_eq!(shown["items"][0]["reason"], "foreign_session", "{shown}");
}

async fn a_members_own_sessions_are_as_ever(database: Database) {
    let (mut broker, gateway) = connected(&database).await;
    let (ann_token, ben_token) = (member(&broker, "ann").await, member(&broker, "ben").await);
    let mut ann = Browser::open(&broker.address, "/ws/chat/gw", Some(&ann_token)).await;
    ann.ask("mine", "say: first").await;
    assert_eq!(ann.until_terminal().await["text"], "first");
    // Deleted here, it is still on the gateway: hers to name again, and nobody else's.
    let path = format!("{SESSIONS}/mine");
    assert_eq!(call(&mut broker, &ann_token, "DELETE", &path, None).await.0, 200);
    let (status, refused) =
        call(&mut broker, &ben_token, "POST", SESSIONS, Some(json!({ "session_key": "mine" }))).await;
    assert_eq!((status, &refused["error"]["code"]), (403, &json!("forbidden")), "{refused}");
    ann.until_type("reset").await;
    ann.ask("mine", "say: second").await;
    assert_eq!(ann.until_terminal().await["text"], "second");
    let (_, messages) = call(&mut broker, &ann_token, "GET", &format!("{path}/messages"), None).await;
    assert_eq!(messages.as_array().map(Vec::len), Some(2), "{messages}");
    assert_eq!(gateway.sends().len(), 2);
}

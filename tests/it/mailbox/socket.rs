//! Agents that hold a socket: what is pushed to them, and what their frames do. With the real binary.
use awc::http::Method;
use clawbroker::domain::clock::{Clock, SystemClock};
use clawbroker::domain::time::iso;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::broken_off::{agent, call, count};
use super::{POLL, REPORT, SEND};
use crate::harness::{Broker, Browser, Database};

on_both_databases!(
    a_message_is_pushed_and_reported_on,
    no_more_is_out_than_the_window_allows,
    what_others_end_frees_its_place,
    a_reply_is_complete_when_it_was_written,
    with_explicit_ack_a_reply_keeps_its_place,
    whatever_ends_a_message_frees_its_place,
    frames_are_the_calls_of_the_family,
    two_sockets_of_one_agent_share_its_messages,
    what_a_crashed_reader_had_comes_again,
    a_paused_agent_is_told_so_and_gets_nothing,
    a_socket_ends_with_its_key,
    a_socket_ends_when_its_key_expires,
    a_node_that_stops_says_goodbye,
);

/// Opens the socket of an agent and reads its first frame.
async fn socket(broker: &Broker, key: &str) -> Browser {
    let mut socket = Browser::by_key(&broker.address, key).await;
    let first = socket.next().await.expect("a frame");
    assert_eq!((&first["type"], &first["paused"]), (&json!("ready"), &json!(false)), "{first}");
    socket
}

/// Sends a frame and returns its answer.
async fn ask(socket: &mut Browser, frame: Value) -> Value {
    let id = frame["id"].clone();
    assert!(!id.is_null(), "{frame} has no id");
    socket.send(frame).await;
    socket.until("an answer", |answer| answer["id"] == id && answer["type"] != "message").await
}

/// Has a socket wait for so many messages at a time.
async fn poll(socket: &mut Browser, window: u32) {
    let told = ask(socket, json!({ "type": "poll", "id": format!("window {window}"), "window": window })).await;
    assert_eq!((&told["type"], &told["window"]), (&json!("ok"), &json!(window)), "{told}");
}

async fn send(broker: &Broker, key: &str, target: &str, content: &str) -> String {
    let body = json!({ "target": target, "content": content });
    let sent = call(broker, key, Method::POST, SEND, Some(body)).await;
    sent["message_id"].as_str().unwrap().to_owned()
}

/// The texts of all messages that a socket got so far.
fn texts(socket: &Browser) -> Vec<&str> {
    let messages = socket.seen.iter().filter(|frame| frame["type"] == "message");
    messages.map(|message| message["content"].as_str().unwrap()).collect()
}

/// Reads until so many messages came in all.
async fn until_messages(socket: &mut Browser, count: usize) {
    while texts(socket).len() < count {
        socket.until_type("message").await;
    }
}

/// Waits until so many deliveries are in a state.
async fn until_count(broker: &Broker, state: &str, expected: usize) {
    let began = Instant::now();
    while count(broker, state).await != expected {
        assert!(began.elapsed().as_secs() < 30, "{} are {state}, not {expected}", count(broker, state).await);
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn a_message_is_pushed_and_reported_on(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let mut socket = socket(&broker, &ben).await;
    assert_eq!(socket.seen[0]["agent_name"], "ben");
    poll(&mut socket, 2).await;
    let id = send(&broker, &ann, "ben", "How are you?").await;
    let pushed = socket.until_type("message").await;
    assert_eq!((&pushed["id"], &pushed["content"]), (&json!(id), &json!("How are you?")));
    assert_eq!((&pushed["kind"], &pushed["delivery_attempt"]), (&json!("request"), &json!(1)));
    // The fields of a poll, and the frame's own.
    let mut fields: Vec<&str> = pushed.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let expected = [
        "content",
        "conversation_id",
        "created_at",
        "delivery_attempt",
        "history",
        "hops",
        "id",
        "in_reply_to",
        "kind",
        "lease_until",
        "sender_agent_name",
        "sender_user_id",
        "sender_user_name",
        "type",
    ];
    assert_eq!(fields, expected);
    let report = json!({ "type": "report", "id": 7, "message_id": id, "result": "Fine", "delivery_attempt": 1 });
    assert_eq!(ask(&mut socket, report.clone()).await, json!({ "type": "ok", "id": 7, "status": "ok" }));
    assert_eq!(ask(&mut socket, report).await["status"], "ok", "a repeat changes nothing");
    let other = json!({ "type": "report", "id": 8, "message_id": id, "result": "Bad" });
    assert_eq!(ask(&mut socket, other).await["code"], "result_conflict");
    let replies = call(&broker, &ann, Method::GET, POLL, None).await;
    assert_eq!((&replies["messages"][0]["content"], &replies["messages"][1]), (&json!("Fine"), &Value::Null));
    assert_eq!(texts(&socket), ["How are you?"]);
}

async fn no_more_is_out_than_the_window_allows(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    for text in ["1", "2", "3", "4", "5"] {
        send(&broker, &ann, "ben", text).await;
    }
    let mut socket = socket(&broker, &ben).await;
    socket.send(json!({ "type": "heartbeat", "id": "first" })).await;
    socket.until("its answer", |frame| frame["id"] == "first").await;
    assert_eq!((texts(&socket), count(&broker, "leased").await), (vec![], 0), "nobody has asked");
    poll(&mut socket, 2).await;
    until_messages(&mut socket, 2).await;
    ask(&mut socket, json!({ "type": "heartbeat", "id": "second" })).await;
    assert_eq!((texts(&socket), count(&broker, "leased").await), (vec!["1", "2"], 2));
    let first = socket.seen.iter().find(|frame| frame["content"] == "1").unwrap()["id"].clone();
    ask(&mut socket, json!({ "type": "report", "id": 1, "message_id": first, "result": "done" })).await;
    until_messages(&mut socket, 3).await;
    ask(&mut socket, json!({ "type": "heartbeat", "id": "third" })).await;
    assert_eq!((texts(&socket), count(&broker, "leased").await), (vec!["1", "2", "3"], 2));
    poll(&mut socket, 100).await;
    until_messages(&mut socket, 5).await;
    assert_eq!(texts(&socket), ["1", "2", "3", "4", "5"], "in the order in which they were said");
}

async fn what_others_end_frees_its_place(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let mut socket = socket(&broker, &ben).await;
    poll(&mut socket, 1).await;
    let first = send(&broker, &ann, "ben", "reported over HTTP").await;
    let second = send(&broker, &ann, "ben", "cancelled").await;
    send(&broker, &ann, "ben", "last").await;
    until_messages(&mut socket, 1).await;
    call(&broker, &ben, Method::POST, REPORT, Some(json!({ "message_id": first, "result": "x" }))).await;
    until_messages(&mut socket, 2).await;
    let (_, receipt) = broker.get(&format!("/api/admin/messages/{second}")).await;
    let delivery = receipt["deliveries"][0]["id"].as_str().unwrap();
    let (status, answer) = broker.post(&format!("/api/admin/deliveries/{delivery}/cancel"), json!({})).await;
    assert_eq!(status, 200, "{answer}");
    until_messages(&mut socket, 3).await;
    assert_eq!(texts(&socket), ["reported over HTTP", "cancelled", "last"]);
}

/// Asks so many questions and has them answered; the replies wait for `asker`.
async fn replies(broker: &Broker, asker: &str, answerer: &str, target: &str, count: usize) {
    for number in 0..count {
        let id = send(broker, asker, target, &format!("question {number}")).await;
        let body = json!({ "message_id": id, "result": format!("answer {number}") });
        call(broker, answerer, Method::POST, REPORT, Some(body)).await;
    }
}

async fn a_reply_is_complete_when_it_was_written(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    replies(&broker, &ann, &ben, "ben", 3).await;
    let mut socket = socket(&broker, &ann).await;
    poll(&mut socket, 1).await;
    until_messages(&mut socket, 3).await;
    assert_eq!(texts(&socket), ["answer 0", "answer 1", "answer 2"]);
    until_count(&broker, "completed", 6).await;
}

async fn with_explicit_ack_a_reply_keeps_its_place(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    replies(&broker, &ann, &ben, "ben", 2).await;
    let mut socket = socket(&broker, &ann).await;
    let wants = json!({ "type": "poll", "id": "p", "window": 1, "lease": 60, "ack": "explicit" });
    assert_eq!(ask(&mut socket, wants).await["type"], "ok");
    until_messages(&mut socket, 1).await;
    ask(&mut socket, json!({ "type": "heartbeat", "id": "h" })).await;
    assert_eq!((texts(&socket), count(&broker, "leased").await), (vec!["answer 0"], 1));
    let first = socket.seen.iter().find(|frame| frame["type"] == "message").unwrap()["id"].clone();
    ask(&mut socket, json!({ "type": "report", "id": "r", "message_id": first, "result": "seen" })).await;
    until_messages(&mut socket, 2).await;
}

async fn frames_are_the_calls_of_the_family(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let mut socket = socket(&broker, &ann).await;
    let beat = ask(&mut socket, json!({ "type": "heartbeat", "id": 1 })).await;
    assert_eq!(beat["agent_id"], socket.seen[0]["agent_id"]);
    let new = json!({ "type": "send", "id": 2, "target": "ben", "content": " hello ", "message_id": "key" });
    let sent = ask(&mut socket, new.clone()).await;
    assert_eq!((&sent["status"], &sent["target"]), (&json!("accepted"), &json!("ben")), "{sent}");
    assert_eq!((&sent["type"], &sent["target_type"]), (&json!("ok"), &json!("openclaw_agent")));
    assert_eq!(ask(&mut socket, new).await["message_id"], sent["message_id"]);
    // The same key over HTTP is the same message, and another message is a conflict.
    let body = json!({ "target": "ben", "content": " hello ", "message_id": "key" });
    assert_eq!(call(&broker, &ann, Method::POST, SEND, Some(body)).await["message_id"], sent["message_id"]);
    let other = json!({ "type": "send", "id": 3, "target": "ben", "content": "other", "message_id": "key" });
    assert_eq!(ask(&mut socket, other).await["code"], "idempotency_conflict");
    let nobody = json!({ "type": "send", "id": 4, "target": "eve", "content": "hello" });
    let refused = ask(&mut socket, nobody).await;
    assert_eq!((&refused["code"], &refused["type"]), (&json!("not_found"), &json!("error")));
    let foreign = json!({ "type": "report", "id": 5, "message_id": sent["message_id"], "result": "mine" });
    assert_eq!(ask(&mut socket, foreign).await["detail"], "Message not found");
    let polled = call(&broker, &ben, Method::GET, POLL, None).await;
    assert_eq!(polled["messages"].as_array().map(Vec::len), Some(1), "{polled}");
}

async fn whatever_ends_a_message_frees_its_place(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    replies(&broker, &ann, &ben, "ben", 1).await;
    for text in ["failed", "given back"] {
        send(&broker, &ben, "ann", text).await;
    }
    let mut socket = socket(&broker, &ann).await;
    let wants = json!({ "type": "poll", "id": "p", "window": 1, "lease": 60, "ack": "explicit" });
    assert_eq!(ask(&mut socket, wants).await["type"], "ok");
    let id = |socket: &Browser, number: usize| {
        socket.seen.iter().filter(|frame| frame["type"] == "message").nth(number).unwrap()["id"].clone()
    };
    until_messages(&mut socket, 1).await;
    let ack = json!({ "type": "ack", "id": 1, "message_ids": [id(&socket, 0)] });
    let told = ask(&mut socket, ack).await;
    assert_eq!((&told["acked"], &told["unknown"]), (&json!([id(&socket, 0)]), &json!([])));
    until_messages(&mut socket, 2).await;
    let extend = json!({ "type": "extend", "id": 2, "message_id": id(&socket, 1), "lease": 600 });
    let longer = ask(&mut socket, extend).await;
    assert!(
        longer["lease_until"].as_str()
            > socket.seen.iter().find(|f| f["content"] == "failed").unwrap()["lease_until"].as_str()
    );
    let working_on = json!({ "type": "heartbeat", "id": 3, "working_on": [id(&socket, 1)] });
    assert_eq!(ask(&mut socket, working_on).await["extended"], json!([id(&socket, 1)]));
    let failed = json!({ "type": "fail", "id": 4, "message_id": id(&socket, 1), "reason": "no paper" });
    assert_eq!(ask(&mut socket, failed).await["state"], "dead");
    until_messages(&mut socket, 3).await;
    let back = json!({ "type": "nack", "id": 5, "message_id": id(&socket, 2) });
    assert_eq!(ask(&mut socket, back).await["state"], "pending");
    until_messages(&mut socket, 4).await;
    assert_eq!(texts(&socket), ["answer 0", "failed", "given back", "given back"]);
    let attempts: Vec<&Value> = socket
        .seen
        .iter()
        .filter(|frame| frame["content"] == "given back")
        .map(|frame| &frame["delivery_attempt"])
        .collect();
    assert_eq!(attempts, [&json!(1), &json!(2)]);
}

async fn two_sockets_of_one_agent_share_its_messages(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let (mut first, mut second) = (socket(&broker, &ben).await, socket(&broker, &ben).await);
    poll(&mut first, 1).await;
    poll(&mut second, 1).await;
    for text in ["1", "2", "3"] {
        send(&broker, &ann, "ben", text).await;
    }
    until_messages(&mut first, 1).await;
    until_messages(&mut second, 1).await;
    let mut all = [texts(&first), texts(&second)].concat();
    all.sort_unstable();
    assert_eq!(all, ["1", "2"], "each went to one of them");
    assert_eq!(count(&broker, "leased").await, 2);
}

async fn what_a_crashed_reader_had_comes_again(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let mut gone = socket(&broker, &ben).await;
    // The shortest lease that there is.
    ask(&mut gone, json!({ "type": "poll", "id": 1, "window": 1, "lease": 10 })).await;
    let id = send(&broker, &ann, "ben", "hello").await;
    assert_eq!(gone.until_type("message").await["delivery_attempt"], 1);
    drop(gone);
    let mut next = socket(&broker, &ben).await;
    poll(&mut next, 1).await;
    let again = next.until_type("message").await;
    assert_eq!((&again["id"], &again["delivery_attempt"]), (&json!(id), &json!(2)));
    let late = json!({ "type": "report", "id": 2, "message_id": id, "result": "late", "delivery_attempt": 1 });
    assert_eq!(ask(&mut next, late).await["code"], "stale_attempt");
}

async fn a_paused_agent_is_told_so_and_gets_nothing(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let mut socket = socket(&broker, &ben).await;
    poll(&mut socket, 1).await;
    let path = format!("/api/admin/agents/{}", socket.seen[0]["agent_id"].as_str().unwrap());
    let set = async |status: &str| {
        let (code, answer) = broker.call("PATCH", &path, Some(json!({ "status": status }))).await;
        assert_eq!(code, 200, "{answer}");
    };
    set("paused").await;
    assert_eq!(socket.until_type("ready").await["paused"], true);
    send(&broker, &ann, "ben", "hello").await;
    ask(&mut socket, json!({ "type": "heartbeat", "id": 1 })).await;
    assert_eq!((texts(&socket), count(&broker, "pending").await), (vec![], 1));
    set("running").await;
    socket.until("ready", |frame| frame["type"] == "ready" && frame["paused"] == false).await;
    until_messages(&mut socket, 1).await;
}

async fn a_socket_ends_with_its_key(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let old = agent(&broker, "ben").await;
    let mut of_old = socket(&broker, &old).await;
    let id = of_old.seen[0]["agent_id"].as_str().unwrap().to_owned();
    let keys = format!("/api/admin/agents/{id}/keys");
    let (_, made) = broker.post(&keys, json!({})).await;
    let mut of_new = socket(&broker, made["api_key"].as_str().unwrap()).await;
    let (_, list) = broker.get(&keys).await;
    let mut ids = list["items"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap());
    let oldest = ids.find(|id| Some(*id) != made["id"].as_str()).unwrap();
    assert_eq!(broker.call("DELETE", &format!("{keys}/{oldest}"), None).await.0, 200);
    assert_eq!((of_old.next().await, of_old.closed), (None, Some(1008)));
    ask(&mut of_new, json!({ "type": "heartbeat", "id": 1 })).await;
    assert_eq!(broker.call("DELETE", &format!("/api/admin/agents/{id}"), None).await.0, 200);
    assert_eq!((of_new.next().await, of_new.closed), (None, Some(1008)));
}

async fn a_socket_ends_when_its_key_expires(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, lasting) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let mut of_lasting = socket(&broker, &lasting).await;
    let keys = format!("/api/admin/agents/{}/keys", of_lasting.seen[0]["agent_id"].as_str().unwrap());
    let at = SystemClock.now_ms() + 10_000;
    let (status, made) = broker.post(&keys, json!({ "expires_at": iso(at) })).await;
    assert_eq!(status, 201, "{made}");
    let mut of_expiring = socket(&broker, made["api_key"].as_str().unwrap()).await;
    poll(&mut of_expiring, 2).await;
    let id = send(&broker, &ann, "ben", "in time").await;
    until_messages(&mut of_expiring, 1).await;
    let report = json!({ "type": "report", "id": 1, "message_id": id, "result": "done" });
    assert_eq!(ask(&mut of_expiring, report).await["status"], "ok");
    // It waits for more, and nobody says anything until then.
    assert_eq!((of_expiring.next().await, of_expiring.closed), (None, Some(1008)));
    assert!(SystemClock.now_ms() > at - 1_000, "not before its time");
    let id = send(&broker, &ann, "ben", "too late").await;
    poll(&mut of_lasting, 1).await;
    let pushed = of_lasting.until_type("message").await;
    assert_eq!((&pushed["id"], &pushed["delivery_attempt"]), (&json!(id), &json!(1)), "nobody had it before");
    assert_eq!(texts(&of_expiring), ["in time"]);
}

async fn a_node_that_stops_says_goodbye(database: Database) {
    let mut broker = Broker::start(&database, &[], &[]).await;
    let ben = agent(&broker, "ben").await;
    let mut socket = socket(&broker, &ben).await;
    poll(&mut socket, 1).await;
    let stopped = tokio::join!(broker.stop(), async {
        socket.until_type("going_away").await;
        assert_eq!((socket.next().await, socket.closed), (None, Some(1012)));
    });
    assert_eq!(stopped.0, Some(0));
}

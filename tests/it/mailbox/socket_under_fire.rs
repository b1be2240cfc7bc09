//! Sockets of agents that break the rules, and those that may not open one. With the real binary.
use std::time::Duration;

use awc::http::Method;
use serde_json::{Value, json};

use super::broken_off::{agent, call};
use super::{POLL, SEND};
use crate::harness::{Broker, Browser, Database};
use crate::hostile::raw::{Raw, frame, text, upgrade};
use crate::routes::TestNode;

on_both_databases!(
    a_frame_that_cannot_be_read_is_answered,
    a_frame_that_breaks_the_protocol_ends_its_socket,
    a_flood_is_dropped_and_the_socket_stays,
    a_reader_that_reads_nothing_is_sent_away,
    whoever_may_not_gets_no_socket,
    only_so_many_sockets_may_be_open,
);

async fn socket(broker: &Broker, key: &str) -> Browser {
    let mut socket = Browser::by_key(&broker.address, key).await;
    socket.until_type("ready").await;
    socket
}

async fn a_frame_that_cannot_be_read_is_answered(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let ben = agent(&broker, "ben").await;
    let mut socket = socket(&broker, &ben).await;
    let deep = format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(70), "]".repeat(70));
    let very_deep = "[".repeat(200_000);
    for wrong in [
        "",
        "7",
        "[]",
        "{",
        "{}",
        r#"{"type":7}"#,
        r#"{"type":"dance"}"#,
        r#"{"type":"ping","id":[1]}"#,
        r#"{"type":"ping","id":true}"#,
        &deep,
        &very_deep,
    ] {
        socket.send_text(wrong.to_owned()).await;
        let told = socket.until_type("error").await;
        let shown: String = wrong.chars().take(40).collect();
        assert_eq!((&told["code"], told.get("id")), (&json!("bad_frame"), None), "{shown}");
    }
    let message = "01890000-0000-7000-8000-000000000000";
    for (wrong, field) in [
        (json!({ "type": "poll" }), "window"),
        (json!({ "type": "poll", "window": 0 }), "window"),
        (json!({ "type": "poll", "window": 101 }), "window"),
        (json!({ "type": "poll", "window": "2" }), "window"),
        (json!({ "type": "poll", "window": 1, "lease": 9 }), "lease"),
        (json!({ "type": "poll", "window": 1, "ack": "perhaps" }), "ack"),
        (json!({ "type": "report", "result": "x" }), "message_id"),
        (json!({ "type": "report", "message_id": "7", "result": "x" }), "message_id"),
        (json!({ "type": "report", "message_id": message, "result": "" }), "result"),
        (json!({ "type": "report", "message_id": message, "result": "a\0b" }), "result"),
        (json!({ "type": "send", "target": " ", "content": "x" }), "target"),
        (json!({ "type": "send", "target": "ben", "content": [] }), "content"),
    ] {
        let mut frame = wrong.clone();
        frame["id"] = json!("x");
        socket.send(frame).await;
        let told = socket.until_type("error").await;
        assert_eq!((&told["code"], &told["id"]), (&json!("validation_error"), &json!("x")), "{wrong}: {told}");
        assert_eq!(told["fields"][0]["field"], field, "{wrong}: {told}");
    }
    socket.send(json!({ "type": "ping", "id": 1.5 })).await;
    assert_eq!(socket.until_type("pong").await["id"], 1.5);
}

/// Opens a socket of an agent on a connection of this kind.
async fn raw(connect: impl AsyncFn(&Broker) -> Raw, broker: &Broker, key: &str) -> Raw {
    let request = upgrade(broker, "/ws/agent").replace("\r\n\r\n", &format!("\r\nX-Api-Key: {key}\r\n\r\n"));
    let mut raw = connect(broker).await;
    raw.write(request.as_bytes()).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    raw
}

async fn a_frame_that_breaks_the_protocol_ends_its_socket(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let ben = agent(&broker, "ben").await;
    // Its header alone, which tells enough.
    let huge = [&[0x81, 0xFF][..], &(1_u64 << 36).to_be_bytes()].concat();
    for (what, bytes, code, name) in [
        ("bytes that are not UTF-8", frame(0x82, b"\xFF\xFE"), 4400, "bad_frame"),
        ("a reserved bit", frame(0xC1, b"{}"), 4400, "bad_frame"),
        ("a frame that is too large", huge, 1009, "frame_too_large"),
    ] {
        let mut raw = raw(Raw::connect, &broker, &ben).await;
        raw.until(|frame| frame["type"] == "ready").await;
        raw.write(&bytes).await;
        let (closed, frames) = raw.closed().await;
        assert_eq!(closed, Some(code), "{what}: {frames:?}");
        assert_eq!((&frames[0]["type"], &frames[0]["code"]), (&json!("error"), &json!(name)), "{what}");
        assert!(frames[0]["detail"].is_string(), "{what}: {frames:?}");
    }
    // A frame in bytes that are a text is taken as one.
    let mut raw = raw(Raw::connect, &broker, &ben).await;
    raw.write(&frame(0x82, br#"{"type":"ping","id":1}"#)).await;
    assert_eq!(raw.until(|frame| frame["type"] == "pong").await["id"], 1);
}

async fn a_flood_is_dropped_and_the_socket_stays(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let ben = agent(&broker, "ben").await;
    let mut socket = socket(&broker, &ben).await;
    for number in 0..1_000 {
        socket.send(json!({ "type": "heartbeat", "id": number })).await;
    }
    let mut told = (0, 0);
    while told.0 + told.1 < 1_000 {
        let frame = socket.next().await.expect("the socket stays");
        match frame["type"].as_str() {
            Some("ok") => told.0 += 1,
            Some("error") if frame["code"] == "rate_limited" => told.1 += 1,
            _ => panic!("{frame}"),
        }
    }
    assert!(told.0 >= 200 && told.1 > 0, "{told:?}: a burst is taken, and no more");
}

/// Waits until so many agents hold a socket.
async fn sessions(broker: &Broker, expected: usize) {
    let began = tokio::time::Instant::now();
    loop {
        let (_, reports) = broker.get("/api/admin/actors?actor=agent_session").await;
        if reports["items"].as_array().is_some_and(|items| items.len() == expected) {
            return;
        }
        // It takes half a minute until a reader counts as too slow.
        assert!(began.elapsed() < Duration::from_secs(120), "not {expected}: {reports}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn a_reader_that_reads_nothing_is_sent_away(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    // More than the system takes for a client that reads nothing.
    for number in 0..40 {
        let body = json!({ "target": "ben", "content": format!("{number} {}", "x".repeat(250 << 10)) });
        call(&broker, &ann, Method::POST, SEND, Some(body)).await;
    }
    let mut slow = raw(Raw::connect_narrow, &broker, &ben).await;
    slow.write(&text(&json!({ "type": "poll", "window": 100 }).to_string())).await;
    sessions(&broker, 1).await;
    sessions(&broker, 0).await;
    // What was on its way when it was given up is free again, with the next number.
    let mut numbers: Vec<Value> = Vec::new();
    while !numbers.contains(&json!(2)) {
        let polled = call(&broker, &ben, Method::GET, &format!("{POLL}?wait=60"), None).await;
        let messages = polled["messages"].as_array().unwrap();
        assert!(!messages.is_empty(), "nothing came back: {numbers:?}");
        numbers.extend(messages.iter().map(|message| message["delivery_attempt"].clone()));
    }
    slow.reset();
}

async fn whoever_may_not_gets_no_socket(node: TestNode) {
    let (_, ben) = node.agent("ben").await;
    let get = |path: &str| node.get(path);
    get("/ws/agent").send().await.expect_error(401, "unauthenticated");
    get("/ws/agent").with_key("oc-wrong").await.expect_error(401, "unauthenticated");
    get(&format!("/ws/agent?api_key={ben}")).send().await.expect_error(401, "unauthenticated");
    let foreign = get("/ws/agent").header("origin", "https://evil.example");
    foreign.with_key(&ben).await.expect_error(403, "forbidden");
    get("/ws/agent").with_key(&ben).await.expect_error(400, "invalid_request");
}

async fn only_so_many_sockets_may_be_open(database: Database) {
    let file = database.data_dir().join("sockets.toml");
    std::fs::write(&file, "[limits]\nsockets_per_agent_max = 1\n").expect("written");
    let broker = Broker::start(&database, &[], &[("CLAWBROKER_CONFIG", &file.to_string_lossy())]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    let request = upgrade(&broker, "/ws/agent").replace("\r\n\r\n", &format!("\r\nX-Api-Key: {ben}\r\n\r\n"));
    let mut first = socket(&broker, &ben).await;
    let mut second = Raw::connect(&broker).await;
    second.write(request.as_bytes()).await;
    let head = second.head().await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    socket(&broker, &ann).await;
    first.send(json!({ "type": "ping" })).await;
    first.until_type("pong").await;
    drop(first);
    // Its place is free a moment later.
    let began = tokio::time::Instant::now();
    loop {
        let mut next = Raw::connect(&broker).await;
        next.write(request.as_bytes()).await;
        let head = next.head().await;
        if head.starts_with("HTTP/1.1 101") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{head}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

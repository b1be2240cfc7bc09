//! Floods, and what stands right at a limit and right behind it.
use std::time::Duration;

use serde_json::{Value, json};

use super::raw::{Raw, Said, frame, text, upgrade};
use super::{Bystander, LONG, broker_with, has_not_grown, is_sound, memory_before, nothing_is_held};
use crate::harness::{Broker, Database};

on_sqlite!(
    a_flood_of_frames_is_slowed_down,
    a_flood_of_connections_is_turned_away,
    headers_are_bounded,
    bodies_are_taken_up_to_their_limit,
    messages_and_frames_are_taken_up_to_their_limit,
);

/// Who does not read is not answered without end, and who floods does not slow others down.
async fn a_flood_of_frames_is_slowed_down(database: Database) {
    let broker = broker_with(&database, "").await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    let memory = memory_before(&broker);
    // While it is read: 200 at once and 50 a second, and a word about each of the others.
    let mut raw = Raw::open(&broker).await;
    let began = tokio::time::Instant::now();
    let ping = text("{\"type\":\"ping\"}");
    let (mut pongs, mut refused) = (0, 0);
    for _ in 0..10 {
        raw.write(&ping.repeat(100)).await;
        for _ in 0..100 {
            let said = raw.frame().await;
            pongs += u64::from(said["type"] == "pong");
            refused += u64::from(said["code"] == "rate_limited");
        }
        bystander.is_served().await;
    }
    let allowed = 200 + 50 * began.elapsed().as_secs_f64().ceil() as u64;
    assert_eq!(pongs + refused, 1_000);
    assert!((200..=allowed).contains(&pongs), "{pongs} of {allowed} were let pass");
    drop(raw);
    // While it is not: control frames, frames that are answered, frames that are wrong.
    for (what, bytes, is_answered) in [
        ("pings of the protocol", frame(0x89, &[b'p'; 125]), true),
        ("pongs", frame(0x8A, &[b'p'; 125]), false),
        ("frames", ping.clone(), true),
        ("wrong frames", text("{\"type\":\"dance\"}"), true),
        ("empty fragments", frame(0x00, b""), false),
    ] {
        let mut raw = Raw::open_narrow(&broker).await;
        if what == "empty fragments" {
            raw.write(&frame(0x01, b"{")).await;
        }
        let block = bytes.repeat((1 << 20) / bytes.len());
        // Who has nothing to answer may take it all, and is only given some time for it.
        let (most, patience) = if is_answered { (96, 3_000) } else { (64, 300) };
        let mut taken = 0;
        while taken < most && raw.try_write(&block, Duration::from_millis(patience)).await {
            taken += 1;
            if taken % 16 == 0 {
                bystander.is_served().await;
            }
        }
        println!("{taken} MiB of {what} were taken");
        // The system holds up to some 40 MiB between the two.
        assert!(!is_answered || taken < most, "all {what} were taken from somebody who reads no answer");
        bystander.is_served().await;
        has_not_grown(&broker, memory, 32 << 10);
        raw.reset();
    }
    nothing_is_held(&broker).await;
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

async fn a_flood_of_connections_is_turned_away(database: Database) {
    let mut broker = broker_with(&database, "[limits]\nsockets_max = 12\nsockets_per_user_max = 10\n").await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    let memory = memory_before(&broker);
    let (status, _) = broker.post("/api/admin/users", json!({ "name": "ann", "role": "member" })).await;
    assert_eq!(status, 201);
    let (status, made) = broker.post("/api/admin/tokens", json!({ "name": "t", "user": "ann" })).await;
    assert_eq!(status, 201, "{made}");
    let anns = made["token"].as_str().expect("told once").to_owned();
    // The bystander has one of the ten of this user.
    let mut open = Vec::new();
    for _ in 0..9 {
        open.push(Raw::open(&broker).await);
    }
    assert_refused(&broker, 30).await;
    bystander.is_served().await;
    // Another one gets what is left, and no more.
    let admins = std::mem::replace(&mut broker.token, anns);
    for _ in 0..2 {
        open.push(Raw::open(&broker).await);
    }
    assert_refused(&broker, 30).await;
    broker.token = admins;
    bystander.is_served().await;
    // A place that is given back can be had.
    for _ in 0..5 {
        open.remove(0).reset();
        let began = tokio::time::Instant::now();
        loop {
            let mut raw = Raw::connect(&broker).await;
            raw.write(upgrade(&broker, "/ws/chat/calm").as_bytes()).await;
            if raw.head().await.starts_with("HTTP/1.1 101") {
                open.push(raw);
                break;
            }
            assert!(began.elapsed() < LONG, "the place is not free");
        }
    }
    // Connections that say nothing are ended after five seconds, and those of others are taken meanwhile.
    let mut mute = Vec::new();
    for n in 0..1_000 {
        mute.push(Raw::connect(&broker).await);
        if n % 250 == 0 {
            bystander.is_served().await;
        }
    }
    assert_eq!(broker.get("/health").await.0, 200);
    for mut raw in mute {
        let said = raw.rest().await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    open.clear();
    nothing_is_held(&broker).await;
    // For each of the mute ones; all were there at once.
    has_not_grown(&broker, memory, 1_000 * 96);
    bystander.is_served().await;
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

/// No socket is to be had.
async fn assert_refused(broker: &Broker, times: usize) {
    for _ in 0..times {
        let (_, said) = Raw::asked(Raw::connect, broker, &upgrade(broker, "/ws/chat/calm")).await;
        assert!(said.starts_with("HTTP/1.1 429 "), "{said}");
    }
}

/// Sends a request on a connection of its own and returns status and body.
async fn status_of(broker: &Broker, head: &str, body: &[u8]) -> (u16, Value) {
    let mut raw = Raw::connect(broker).await;
    let head = format!(
        "{head}Host: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        broker.address, broker.token
    );
    // Who is refused early need not be read to the end.
    let _ = raw.try_write(head.as_bytes(), Duration::from_secs(5)).await
        && raw.try_write(body, Duration::from_secs(5)).await;
    let answer = raw.rest().await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or_default())
}

async fn headers_are_bounded(database: Database) {
    let broker = broker_with(&database, "").await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    let memory = memory_before(&broker);
    let path = "GET /api/gateways HTTP/1.1\r\n";
    // The other headers have their share of the 16 KiB.
    let with = |bytes: usize| format!("{path}X-Long: {}\r\n", "x".repeat(bytes));
    assert_eq!(status_of(&broker, &with(15_000), b"").await.0, 200);
    let (status, refused) = status_of(&broker, &with(17_000), b"").await;
    assert_eq!((status, &refused["error"]["code"]), (431, &json!("header_too_large")), "{refused}");
    let many: String = (0..90).map(|n| format!("X-{n}: {}\r\n", "x".repeat(200))).collect();
    assert_eq!(status_of(&broker, &format!("{path}{many}"), b"").await.0, 431);
    // What is larger never reaches the broker; the connection is ended, the answer may get lost with it.
    for bytes in [140_000, 1 << 20, 64 << 20] {
        for head in [with(bytes), format!("GET /{} HTTP/1.1\r\n", "x".repeat(bytes)), "x".repeat(bytes)] {
            let (status, _) = status_of(&broker, &head, b"").await;
            assert!([0, 400, 414, 431].contains(&status), "{status} for {bytes} bytes");
        }
        let socket =
            upgrade(&broker, "/ws/chat/calm").replace("Upgrade: ", &format!("X-L: {}\r\nUpgrade: ", "x".repeat(bytes)));
        let mut raw = Raw::connect(&broker).await;
        let _ = raw.try_write(socket.as_bytes(), Duration::from_secs(5)).await;
        let head = raw.head().await;
        assert!(head.is_empty() || head.starts_with("HTTP/1.1 431"), "{head}");
        bystander.is_served().await;
    }
    nothing_is_held(&broker).await;
    has_not_grown(&broker, memory, 32 << 10);
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

async fn bodies_are_taken_up_to_their_limit(database: Database) {
    const MAX: usize = 4_096;
    let settings = format!("[limits]\nbody_bytes_max = {MAX}\nmessage_bytes_max = 1024\n");
    let broker = broker_with(&database, &settings).await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    let (_, session) = broker.get("/api/gateways/calm/sessions/calm").await;
    let path = format!("/api/admin/conversations/{}/messages", session["id"].as_str().expect("an id"));
    let whole = |bytes: usize| {
        let frame = json!({ "content": "x", "deliver": false }).to_string();
        format!("{}{frame}", " ".repeat(bytes - frame.len()))
    };
    let head = |more: &str| format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n{more}\r\n");
    for (bytes, status, code) in [(MAX, 201, Value::Null), (MAX + 1, 413, json!("payload_too_large"))] {
        let body = whole(bytes);
        let told = status_of(&broker, &head(&format!("Content-Length: {bytes}")), body.as_bytes()).await;
        assert_eq!((told.0, &told.1["error"]["code"]), (status, &code), "{bytes} bytes: {}", told.1);
        // The same without a length that is told before.
        let halves = body.as_bytes().split_at(bytes / 2);
        let mut chunks = Vec::new();
        for half in [halves.0, halves.1] {
            chunks.extend_from_slice(format!("{:x}\r\n", half.len()).as_bytes());
            chunks.extend_from_slice(half);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        let told = status_of(&broker, &head("Transfer-Encoding: chunked"), &chunks).await;
        assert_eq!((told.0, &told.1["error"]["code"]), (status, &code), "{bytes} bytes in chunks: {}", told.1);
    }
    // A length alone is enough to be refused; one that is a lie is not waited for for ever.
    let told = status_of(&broker, &head("Content-Length: 68719476736"), b"{").await;
    assert_eq!((told.0, &told.1["error"]["code"]), (413, &json!("payload_too_large")), "{}", told.1);
    for lie in ["Content-Length: -1", "Content-Length: 18446744073709551616", "Content-Length: 1\r\nContent-Length: 2"]
    {
        let told = status_of(&broker, &head(lie), b"{}").await;
        assert_eq!(told.0, 400, "{lie}: {}", told.1);
    }
    let (status, _) = status_of(&broker, &head("Transfer-Encoding: chunked"), b"ffffffffffffffffff\r\nxx").await;
    assert!([0, 400].contains(&status), "{status}");
    for (bytes, status, code) in [(1_024, 201, Value::Null), (1_025, 413, json!("message_too_large"))] {
        let (told, answer) = broker
            .post(&path, json!({ "content": "ü".repeat(bytes / 2) + &"x".repeat(bytes % 2), "deliver": false }))
            .await;
        assert_eq!((told, &answer["error"]["code"]), (status, &code), "{bytes} bytes: {answer}");
    }
    bystander.is_served().await;
    nothing_is_held(&broker).await;
    is_sound(&broker).await;
}

async fn messages_and_frames_are_taken_up_to_their_limit(database: Database) {
    let settings = "[limits]\nframe_bytes_max = 8192\nmessage_bytes_max = 1024\n";
    let broker = broker_with(&database, settings).await;
    let mut bystander = Bystander::beside(&broker).await;
    let chat = |bytes: usize| json!({ "type": "chat", "sessionKey": "calm", "message": "x".repeat(bytes) }).to_string();
    let mut raw = Raw::open(&broker).await;
    raw.write(&text(&chat(1_024))).await;
    raw.until(|frame| frame["type"] == "ack").await;
    raw.until(|frame| frame["state"] == "final").await;
    raw.write(&text(&chat(1_025))).await;
    let refused = raw.until(|frame| frame["type"] == "error").await;
    assert_eq!(refused["code"], "message_too_large", "{refused}");
    // A frame of the limit, whole and in fragments; one byte more ends the socket.
    let ping = |bytes: usize| format!("{{\"type\":\"ping\"{}}}", " ".repeat(bytes - 15));
    for (bytes, is_taken) in [(8_192, true), (8_193, false)] {
        let ping = ping(bytes);
        let (start, end) = ping.as_bytes().split_at(8_000);
        let frames = [text(&ping), [frame(0x01, start), frame(0x80, end)].concat()];
        for bytes in frames {
            raw.write(&bytes).await;
            if is_taken {
                assert_eq!(raw.frame().await["type"], "pong");
                continue;
            }
            let (code, told) = raw.closed().await;
            assert_eq!((code, &told[0]["code"]), (Some(1009), &json!("frame_too_large")), "{told:?}");
            raw = Raw::open(&broker).await;
        }
    }
    raw.write(&frame(0x88, b"")).await;
    assert_eq!(raw.next().await, Said::Close(1005));
    drop(raw);
    bystander.is_served().await;
    nothing_is_held(&broker).await;
    is_sound(&broker).await;
}

//! A browser that breaks the protocol: it is told so with the right code, and nobody else notices.
use std::time::Duration;

use serde_json::json;

use super::raw::{Raw, Said, frame, header, text, upgrade};
use super::{Bystander, broker_with, has_not_grown, is_sound, memory_before, nothing_is_held};
use crate::harness::{Database, Seeded};

on_sqlite!(
    a_frame_that_breaks_the_protocol_ends_its_socket,
    a_close_frame_is_answered_by_a_good_one,
    odd_frames_that_keep_to_the_protocol_are_answered,
    half_a_handshake_holds_nothing,
);

async fn a_frame_that_breaks_the_protocol_ends_its_socket(database: Database) {
    // Fewer places than sockets in this test: each gives its place back.
    let broker = broker_with(&database, "[limits]\nsockets_max = 4\nsockets_per_user_max = 4\n").await;
    let mut bystander = Bystander::beside(&broker).await;
    bystander.is_served().await;
    let memory = memory_before(&broker);
    let begun = frame(0x01, b"{\"type\":");
    let unmasked = [&[0x81, 15][..], b"{\"type\":\"ping\"}"].concat();
    let behind = json!({ "type": "chat", "sessionKey": "behind", "message": "say: too late" }).to_string();
    let wrong: Vec<(&str, Vec<u8>, u16)> = vec![
        ("text that is not UTF-8", frame(0x81, b"{\"type\":\"p\xFFng\"}"), 4400),
        ("a text that ends in the middle of a character", frame(0x81, b"\"\xC3"), 4400),
        ("a surrogate in UTF-8", frame(0x81, b"\"\xED\xA0\x80\""), 4400),
        ("bytes that are not UTF-8", frame(0x82, b"\xFF\xFE"), 4400),
        ("fragments that are not UTF-8", [frame(0x01, b"\"\xC3"), frame(0x80, b"\x28\"")].concat(), 4400),
        ("the first reserved bit", frame(0xC1, b"{}"), 4400),
        ("the second reserved bit", frame(0xA1, b"{}"), 4400),
        ("the third reserved bit", frame(0x91, b"{}"), 4400),
        ("a reserved bit on a ping", frame(0xC9, b""), 4400),
        ("a reserved kind of data", frame(0x83, b""), 4400),
        ("a reserved kind of control", frame(0x8B, b""), 4400),
        ("a fragmented ping", frame(0x09, b"a"), 4400),
        ("a fragmented close", frame(0x08, b"\x03\xE8"), 4400),
        ("a ping that is too long", frame(0x89, &[b'x'; 126]), 4400),
        ("a ping that declares 64 GiB", header(0x89, 1 << 36), 4400),
        ("a frame without a mask", unmasked.clone(), 4400),
        ("a continuation of nothing", frame(0x80, b"{}"), 4400),
        ("an unfinished continuation of nothing", frame(0x00, b"{}"), 4400),
        ("a message inside another", [begun.clone(), frame(0x01, b"{")].concat(), 4400),
        ("a whole message inside another", [begun.clone(), text("{\"type\":\"ping\"}")].concat(), 4400),
        ("a close with one byte", frame(0x88, b"\x03"), 4400),
        ("a close with a code that is not for the wire", frame(0x88, &1006_u16.to_be_bytes()), 4400),
        ("a close without a code that counts", frame(0x88, &999_u16.to_be_bytes()), 4400),
        ("a close whose reason is not UTF-8", frame(0x88, b"\x03\xE8\xFF\xFF"), 4400),
        ("a frame that is one byte too large", frame(0x81, &vec![b'x'; 1_048_577]), 1009),
        ("a frame that declares 64 GiB", header(0x82, 1 << 36), 1009),
        ("a frame that declares all there is", header(0x81, u64::MAX), 1009),
        (
            "fragments that are one byte too large together",
            { [frame(0x01, &vec![b'x'; 1_000_000]), frame(0x80, &vec![b'x'; 48_577])].concat() },
            1009,
        ),
        ("what is behind a bad frame", [frame(0xC1, b"{}"), text("{\"type\":\"ping\"}")].concat(), 4400),
        ("a question behind a bad text", [frame(0x81, b"\xFF"), text(&behind)].concat(), 4400),
        ("several bad texts", [frame(0x81, b"\xFF"), frame(0x81, b"\xFF"), frame(0x81, b"\xFF")].concat(), 4400),
    ];
    for (what, bytes, code) in &wrong {
        let mut raw = Raw::open(&broker).await;
        // A ping before it is answered, and nothing behind it is.
        raw.write(&text("{\"type\":\"ping\"}")).await;
        raw.until(|frame| frame["type"] == "pong").await;
        raw.try_write(bytes, Duration::from_secs(5)).await;
        let (closed, frames) = raw.closed().await;
        assert_eq!(closed, Some(*code), "{what}: {frames:?}");
        let told: Vec<_> = frames.iter().map(|frame| (&frame["type"], &frame["code"])).collect();
        let name = if *code == 1009 { "frame_too_large" } else { "bad_frame" };
        assert_eq!(told, [(&json!("error"), &json!(name))], "{what}");
        bystander.is_served().await;
    }
    let (_, found) = broker.get("/api/admin/conversations?q=behind").await;
    assert_eq!(found["items"], json!([]), "{found}");
    // What a frame declares is not taken in, though it comes: 64 MiB, as far as they are taken.
    let block = vec![b'x'; 1 << 20];
    for declared in [header(0x82, 1 << 36), header(0x81, u64::MAX)] {
        let mut raw = Raw::open(&broker).await;
        let mut is_taken = raw.try_write(&declared, Duration::from_secs(5)).await;
        for _ in 0..64 {
            is_taken = is_taken && raw.try_write(&block, Duration::from_secs(5)).await;
        }
        bystander.is_served().await;
    }
    nothing_is_held(&broker).await;
    has_not_grown(&broker, memory, 32 << 10);
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

async fn a_close_frame_is_answered_by_a_good_one(database: Database) {
    let broker = broker_with(&database, "").await;
    let mut bystander = Bystander::beside(&broker).await;
    let long = [&1000_u16.to_be_bytes()[..], "ä".repeat(61).as_bytes()].concat();
    for (payload, code) in [
        (Vec::new(), 1005),
        (1000_u16.to_be_bytes().to_vec(), 1000),
        (1001_u16.to_be_bytes().to_vec(), 1001),
        (3000_u16.to_be_bytes().to_vec(), 3000),
        (4999_u16.to_be_bytes().to_vec(), 4999),
        (long, 1000),
    ] {
        let mut raw = Raw::open(&broker).await;
        raw.write(&frame(0x88, &payload)).await;
        let (closed, frames) = raw.closed().await;
        assert_eq!((closed, frames), (Some(code), Vec::new()), "{payload:?}");
    }
    // Whoever has taken leave says nothing more.
    let chat = json!({ "type": "chat", "sessionKey": "behind", "message": "say: too late" }).to_string();
    let mut raw = Raw::open(&broker).await;
    raw.write(&[frame(0x88, &1000_u16.to_be_bytes()), text(&chat)].concat()).await;
    let (closed, frames) = raw.closed().await;
    assert_eq!((closed, frames), (Some(1000), Vec::new()));
    // Without waiting for an answer, in the middle of something, with a reset.
    for bytes in [frame(0x88, b""), frame(0x01, b"{"), header(0x81, 1_000), vec![0x81], Vec::new()] {
        for is_reset in [true, false] {
            let mut raw = Raw::open(&broker).await;
            raw.write(&text("{\"type\":\"subscribe\",\"sessionKey\":\"calm\"}")).await;
            raw.write(&bytes).await;
            if is_reset { raw.reset() } else { drop(raw) }
        }
    }
    bystander.is_served().await;
    nothing_is_held(&broker).await;
    let (_, found) = broker.get("/api/admin/conversations?q=behind").await;
    assert_eq!(found["items"], json!([]), "{found}");
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

async fn odd_frames_that_keep_to_the_protocol_are_answered(database: Database) {
    let broker = broker_with(&database, "[limits]\nframes_burst_max = 1000\n").await;
    let mut bystander = Bystander::beside(&broker).await;
    let mut raw = Raw::open(&broker).await;
    let nested = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    let all = |item: &str| format!("[{}]", vec![item; 1_000_000 / (item.len() + 1)].join(","));
    let wrong = [
        ("nothing", String::new()),
        ("a blank", " ".to_owned()),
        ("no JSON", "\u{0}\u{1}".to_owned()),
        ("a number", "1e999".to_owned()),
        ("a list", "[]".to_owned()),
        ("half of it", "{\"type\":\"ping\"".to_owned()),
        ("two of them", "{\"type\":\"ping\"}{\"type\":\"ping\"}".to_owned()),
        ("a type that is none", "{\"type\":null}".to_owned()),
        ("an unknown type", "{\"type\":\"dance\"}".to_owned()),
        ("an unknown type that is long", format!("{{\"type\":\"{}\"}}", "ü".repeat(400_000))),
        ("lists in lists", nested("[", "]", 500_000)),
        ("objects in objects", nested("{\"type\":", "}", 100_000)),
        ("many lists", all("[]")),
        ("many objects", all("{\"a\":{}}")),
        ("many numbers", all("0")),
        ("one long text", format!("\"{}\"", "x".repeat(1_048_574))),
        ("all escapes", format!("\"{}\"", "\\u0041".repeat(170_000))),
        ("a key twice", "{\"type\":\"ping\",\"type\":\"dance\"}".to_owned()),
        ("another case", "{\"Type\":\"ping\"}".to_owned()),
        ("a lone surrogate", "{\"type\":\"\\ud800\"}".to_owned()),
        ("a session without a name", "{\"type\":\"subscribe\",\"sessionKey\":\"\"}".to_owned()),
        ("a name that is too long", format!("{{\"type\":\"subscribe\",\"sessionKey\":\"{}\"}}", "x".repeat(513))),
        ("a number where none is", "{\"type\":\"resume\",\"sessionKey\":\"calm\",\"after\":1e400}".to_owned()),
        ("a number beyond all", "{\"type\":\"read\",\"sessionKey\":\"calm\",\"seq\":99999999999999999999}".to_owned()),
    ];
    // To read one costs many times its size. The same memory does for those that come after the first two rounds: 8 MB in
    // each.
    let mut memory = 0;
    for round in 0..8 {
        for (what, wrong) in &wrong {
            raw.write(&text(wrong)).await;
            let error = raw.frame().await;
            assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("bad_frame")), "{what}: {error}");
            assert!(error.to_string().len() < 1_000, "{what}: it is not said back: {error}");
        }
        if round == 1 {
            memory = broker.peak_kib();
        }
        bystander.is_served().await;
    }
    // Far ends of what is a number.
    for after in [i64::MIN, i64::MAX] {
        raw.write(&text(&json!({ "type": "resume", "sessionKey": "calm", "after": after }).to_string())).await;
        let answer = raw.frame().await;
        assert!(answer["type"] == "reset" || answer["code"] == "not_found", "{answer}");
        raw.write(&text(&json!({ "type": "read", "sessionKey": "calm", "seq": after }).to_string())).await;
        raw.write(&text(&json!({ "type": "history", "sessionKey": "calm", "limit": after }).to_string())).await;
        raw.until(|frame| frame["code"] == "validation_error").await;
    }
    // Frames that are cut as finely as can be, with pings between them, are one message.
    let ping = b"{\"type\":\"ping\"}";
    for (index, byte) in ping.iter().enumerate() {
        let first = if index == 0 {
            0x01
        } else if index + 1 == ping.len() {
            0x80
        } else {
            0x00
        };
        for byte in frame(first, &[*byte]).iter().chain(&frame(0x89, &[index as u8])) {
            raw.write(&[*byte]).await;
        }
        assert_eq!(raw.next().await, Said::Pong(vec![index as u8]), "after {index} bytes");
        if index == 0 {
            raw.write(&frame(0x00, b"")).await;
        }
    }
    assert_eq!(raw.frame().await["type"], "pong");
    // A pong that nobody asked for, and JSON in a binary frame.
    raw.write(&[frame(0x8A, b"what?"), frame(0x82, ping)].concat()).await;
    assert_eq!(raw.frame().await["type"], "pong");
    has_not_grown(&broker, memory, 20 << 10);
    bystander.is_served().await;
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

async fn half_a_handshake_holds_nothing(database: Database) {
    let broker = broker_with(&database, "").await;
    let mut bystander = Bystander::beside(&broker).await;
    let whole = upgrade(&broker, "/ws/chat/calm");
    let mut random = Seeded::new(crate::crash::number_from("CLAWBROKER_TEST_SEED", 0x4A1F));
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let mut raw = Raw::connect(&broker).await;
        let until = random.below(whole.len() as u64) as usize;
        raw.write(&whole.as_bytes()[..until]).await;
        match random.below(3) {
            0 => drop(raw),
            1 => raw.reset(),
            _ => waiting.push((until, raw)),
        }
    }
    bystander.is_served().await;
    // Who waits is not waited for beyond five seconds.
    for (until, mut raw) in waiting {
        let said = raw.rest().await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "after {until} bytes: {said}");
    }
    for (what, request, status) in [
        ("no key", whole.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "400"),
        ("another version", whole.replace("Version: 13", "Version: 99"), "400"),
        ("no version", whole.replace("Sec-WebSocket-Version: 13\r\n", ""), "400"),
        ("no upgrade", whole.replace("Upgrade: websocket\r\n", ""), "400"),
        ("another upgrade", whole.replace("websocket", "h2c"), "400"),
        ("a method", whole.replace("GET", "POST"), "405"),
        ("no credential", whole.replace("Authorization", "X-Nothing"), "401"),
        ("a foreign page", whole.replace("Upgrade: ", "Origin: http://evil.example\r\nUpgrade: "), "403"),
        ("another host", whole.replace(&format!("Host: {}", broker.address), "Host: evil.example"), "400"),
        ("no HTTP", whole.replace("HTTP/1.1", "HTTP/9.9"), "400"),
        ("garbage", "\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n".to_owned(), "400"),
    ] {
        let (_, head) = Raw::asked(Raw::connect, &broker, &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
    }
    bystander.is_served().await;
    nothing_is_held(&broker).await;
    bystander.noticed_nothing();
    is_sound(&broker).await;
}

//! A delta's way: from the gateway's write to the one browser's read, in one process with one clock.
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::broker::Broker;
use super::figures::{Times, say};
use super::gateway::{Gateway, SESSION};
use super::wire::Socket;

const DELTAS: u32 = 2_000;
const EVERY: Duration = Duration::from_millis(5);

pub(crate) async fn run() {
    let dir = super::data_dir();
    let mut gateway = Gateway::start().await;
    let broker = Broker::start(dir.path(), Some(&gateway.url)).await;
    broker.connected().await;
    let mut browser = Socket::open(&broker.address, "/ws/chat/default?deltas=increment", &broker.token).await;
    browser.send(&json!({ "type": "chat", "sessionKey": SESSION, "message": "go" }).to_string()).await;
    gateway.asked().await;
    let mut times = Times::default();
    for n in 0..DELTAS {
        tokio::time::sleep(EVERY).await;
        let words = format!("@{n} some words of an answer ");
        let began = Instant::now();
        gateway.delta(&words);
        until(&mut browser, words.as_bytes()).await;
        times.add_us(began.elapsed().as_micros() as u64);
    }
    say(&format!("  gateway to browser, {DELTAS} deltas, one every 5 ms: {}", times.shown()));
    gateway.end("done");
    until(&mut browser, b"\"final\"").await;
    say(&format!("  beside it: a TCP loopback there and back, 2 tasks of one process: {}", loopback().await.shown()));
}

async fn until(browser: &mut Socket, words: &[u8]) {
    loop {
        let frame = browser.next().await.expect("the socket is open");
        if frame.windows(words.len()).any(|part| part == words) {
            return;
        }
    }
}

async fn loopback() -> Times {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    actix::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("the tool comes");
        stream.set_nodelay(true).expect("a socket");
        let mut bytes = [0; 64];
        while stream.read_exact(&mut bytes).await.is_ok() && stream.write_all(&bytes).await.is_ok() {}
    });
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let mut times = Times::default();
    for _ in 0..DELTAS {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        stream.write_all(&[0; 64]).await.expect("it reads");
        stream.read_exact(&mut [0; 64]).await.expect("it answers");
        times.add_us(began.elapsed().as_micros() as u64);
    }
    times
}

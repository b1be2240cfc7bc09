//! Memory of sockets that are open and silent: ours, each with a session that it watches, and a bare echo server's.
use std::time::Duration;

use serde_json::json;

use super::broker::Broker;
use super::figures::{resident, say};
use super::gateway::{Gateway, SESSION};
use super::naive::{ECHO, Naive};
use super::wire::Socket;

/// One file each here, two each in the broker: as many as the usual hard limit of 20,000 leaves room for.
const SOCKETS: usize = 9_900;
/// Handshakes under way at once.
const AT_ONCE: usize = 100;

pub(crate) async fn run() {
    let dir = super::data_dir();
    let gateway = Gateway::start().await;
    let broker = Broker::start(dir.path(), Some(&gateway.url)).await;
    broker.connected().await;
    // What the first sockets bring with them is not the price of one.
    let warm = open(&broker.address, "/ws/chat/default", &broker.token, Some(SESSION), 100).await;
    let before = resident(broker.pid());
    let sockets = open(&broker.address, "/ws/chat/default", &broker.token, Some(SESSION), SOCKETS - warm.len()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    show("clawbroker, connected and watching a session", before, resident(broker.pid()), sockets.len());
    drop((warm, sockets, broker));

    let naive = Naive::start(ECHO).await;
    let warm = open(&naive.address, "/", "", None, 100).await;
    let before = resident(naive.pid());
    let sockets = open(&naive.address, "/", "", None, SOCKETS - warm.len()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    show("beside it: a bare actix-web echo server", before, resident(naive.pid()), sockets.len());
}

fn show(what: &str, before: u64, after: u64, sockets: usize) {
    let each = after.saturating_sub(before) as f64 / sockets as f64 / 1_024.0;
    say(&format!("  {what}: {each:.1} KiB each ({sockets} sockets, {} -> {} MiB)", before >> 20, after >> 20));
}

async fn open(address: &str, path: &str, token: &str, session: Option<&str>, count: usize) -> Vec<Socket> {
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let next = (0..AT_ONCE.min(count - sockets.len())).map(async |_| {
            let mut socket = Socket::open(address, path, token).await;
            if let Some(session) = session {
                socket.send(&json!({ "type": "subscribe", "sessionKey": session }).to_string()).await;
                while !contains(socket.next().await.expect("it is open"), b"\"subscribed\"") {}
            }
            socket
        });
        sockets.extend(futures_util::future::join_all(next).await);
    }
    sockets
}

fn contains(frame: &[u8], words: &[u8]) -> bool {
    frame.windows(words.len()).any(|part| part == words)
}

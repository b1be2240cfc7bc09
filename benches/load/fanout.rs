//! One stream to many browsers: every delta must reach every browser; how late, how many a second, at what price.
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::broker::Broker;
use super::figures::{Times, cpu, say};
use super::gateway::{Gateway, SESSION};
use super::naive::{BROADCAST, Naive};
use super::wire::Socket;

const BROWSERS: usize = 1_000;
/// Bytes of one delta's text.
const TEXT_BYTES: usize = 120;
/// Deltas a second, and how many of them; 0: as fast as they go out.
const PACES: [(u64, usize); 4] = [(50, 500), (150, 1_000), (300, 1_500), (0, 2_000)];
/// Without any delivery for so long, something was lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// What has arrived.
#[derive(Default)]
struct Arrived {
    times: Times,
    frames: usize,
}

pub(crate) async fn run() {
    let base = Instant::now();
    let arrived = Rc::new(RefCell::new(Arrived::default()));
    {
        let dir = super::data_dir();
        let mut gateway = Gateway::start().await;
        let broker = Broker::start(dir.path(), Some(&gateway.url)).await;
        broker.connected().await;
        let path = "/ws/chat/default?deltas=increment";
        for _ in 0..BROWSERS {
            let mut socket = Socket::open(&broker.address, path, &broker.token).await;
            socket.send(&json!({ "type": "subscribe", "sessionKey": SESSION }).to_string()).await;
            read(socket, arrived.clone(), base);
        }
        let mut asker = Socket::open(&broker.address, path, &broker.token).await;
        for (pace, deltas) in PACES {
            asker.send(&json!({ "type": "chat", "sessionKey": SESSION, "message": "go" }).to_string()).await;
            gateway.asked().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            measure("clawbroker", broker.pid(), &arrived, base, (pace, deltas), async |text| gateway.delta(&text))
                .await;
            gateway.end("done");
            tokio::time::sleep(Duration::from_millis(500)).await;
            // The asker's own frames are not counted.
            while tokio::time::timeout(Duration::from_millis(200), asker.next())
                .await
                .is_ok_and(|frame| frame.is_some())
            {}
        }
    }
    let naive = Naive::start(BROADCAST).await;
    for _ in 0..BROWSERS {
        read(Socket::open(&naive.address, "/", "").await, arrived.clone(), base);
    }
    let mut publisher = Socket::open(&naive.address, "/", "").await;
    for (pace, deltas) in PACES {
        let said = async |text: String| publisher.send(&text).await;
        measure("naive broadcast", naive.pid(), &arrived, base, (pace, deltas), said).await;
        // What it told itself is not counted.
        while tokio::time::timeout(Duration::from_millis(200), publisher.next())
            .await
            .is_ok_and(|frame| frame.is_some())
        {}
    }
}

/// Reads what comes for one browser and counts the deltas in it; a frame may carry several.
fn read(mut socket: Socket, arrived: Rc<RefCell<Arrived>>, base: Instant) {
    actix::spawn(async move {
        while let Some(frame) = socket.next().await {
            let now = base.elapsed().as_micros() as u64;
            let mut arrived = arrived.borrow_mut();
            let mut found = false;
            for (at, _) in frame.iter().enumerate().filter(|(_, byte)| **byte == b'@') {
                let digits = frame.get(at + 1..at + 17).and_then(|digits| std::str::from_utf8(digits).ok());
                if let Some(said) = digits.and_then(|digits| digits.parse::<u64>().ok()) {
                    arrived.times.add_us(now.saturating_sub(said));
                    found = true;
                }
            }
            arrived.frames += usize::from(found);
        }
    });
}

async fn measure(
    what: &str,
    pid: u32,
    arrived: &Rc<RefCell<Arrived>>,
    base: Instant,
    (pace, deltas): (u64, usize),
    mut say_words: impl AsyncFnMut(String),
) {
    {
        let mut arrived = arrived.borrow_mut();
        arrived.times.clear();
        arrived.frames = 0;
    }
    let (began, cpu_before) = (Instant::now(), cpu(pid));
    let mut due = began;
    for _ in 0..deltas {
        match 1_000_000_u64.checked_div(pace) {
            Some(every_us) => {
                tokio::time::sleep_until(due).await;
                due += Duration::from_micros(every_us);
            }
            None => tokio::task::yield_now().await,
        }
        let mut text = format!("@{:016}", base.elapsed().as_micros());
        text.extend(std::iter::repeat_n('x', TEXT_BYTES - text.len()));
        say_words(text).await;
    }
    let wanted = deltas * BROWSERS;
    let (mut seen, mut since) = (0, Instant::now());
    while arrived.borrow().times.count() < wanted && since.elapsed() < LOST_AFTER {
        if arrived.borrow().times.count() > seen {
            (seen, since) = (arrived.borrow().times.count(), Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    let used = cpu(pid) - cpu_before;
    let mut arrived = arrived.borrow_mut();
    let count = arrived.times.count();
    let asked = if pace > 0 { format!("{pace} deltas/s") } else { "as fast as they go".to_owned() };
    let lost = if count < wanted { format!(", LOST {}", wanted - count) } else { String::new() };
    say(&format!(
        "  {what}, {asked}: {:.0} deliveries/s in {:.0} frames/s, {}, {:.1} us of processor each{lost}",
        count as f64 / took.as_secs_f64(),
        arrived.frames as f64 / took.as_secs_f64(),
        arrived.times.shown(),
        used.as_secs_f64() * 1e6 / count.max(1) as f64,
    ));
}

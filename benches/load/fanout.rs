//! One stream to many browsers: every delta must reach every browser; how late, how many a second, at what price, and
//! whether browsers that stop reading make it later for the others.
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
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
/// The pace at which it is measured what readers that have stopped do to the others.
const CALM: (u64, usize) = PACES[0];
/// Sockets that never read.
const SILENT: usize = 10;
/// Bytes of the text that fills what the kernel keeps for those.
const FILLING_BYTES: usize = 64 * 1_024;
/// The broker gives a silent socket up after 75 s; it must be stuck long before.
const STUCK_WITHIN: Duration = Duration::from_secs(30);

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
        let mut stage = Stage::set(&arrived, base).await;
        for pace in PACES {
            stage.answer("clawbroker", pace).await;
        }
        let alone = stage.answer("clawbroker, all read", CALM).await;
        let silent = stage.silent().await;
        let beside = stage.answer("clawbroker, some do not read", CALM).await;
        let stuck = stage.stuck().await;
        say(&format!(
            "  clawbroker, {} deltas/s: p99 {alone:.2} ms when all read, {beside:.2} ms beside {SILENT} sockets that never \
             read; {stuck} of them were stuck to the end",
            CALM.0,
        ));
        drop(silent);
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

/// A broker with one session, the gateway that answers in it, and all who watch it.
struct Stage {
    broker: Broker,
    gateway: Gateway,
    asker: Socket,
    arrived: Rc<RefCell<Arrived>>,
    base: Instant,
    /// Last: the broker has ended by then.
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn set(arrived: &Rc<RefCell<Arrived>>, base: Instant) -> Self {
        let dir = super::data_dir();
        let gateway = Gateway::start().await;
        let broker = Broker::start(dir.path(), Some(&gateway.url)).await;
        broker.connected().await;
        let path = "/ws/chat/default?deltas=increment";
        for _ in 0..BROWSERS {
            let mut socket = Socket::open(&broker.address, path, &broker.token).await;
            subscribe(&mut socket).await;
            read(socket, arrived.clone(), base);
        }
        let asker = Socket::open(&broker.address, path, &broker.token).await;
        Self { broker, gateway, asker, arrived: arrived.clone(), base, _dir: dir }
    }

    /// Asks, and measures how the answer comes to all browsers; returns its p99 in milliseconds.
    async fn answer(&mut self, what: &str, pace: (u64, usize)) -> f64 {
        self.ask().await;
        let gateway = &mut self.gateway;
        let said = async |text: String| gateway.delta(&text);
        let late = measure(what, self.broker.pid(), &self.arrived, self.base, pace, said).await;
        self.end().await;
        late
    }

    async fn ask(&mut self) {
        self.asker.send(&json!({ "type": "chat", "sessionKey": SESSION, "message": "go" }).to_string()).await;
        self.gateway.asked().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    async fn end(&mut self) {
        self.gateway.end("done");
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The asker's own frames are not counted.
        while tokio::time::timeout(Duration::from_millis(200), self.asker.next())
            .await
            .is_ok_and(|frame| frame.is_some())
        {}
    }

    /// Opens sockets that watch the session and never read, and has the gateway talk until nothing more can be written to
    /// any of them. They ask for whole texts, so that what the kernel keeps for them is soon full.
    async fn silent(&mut self) -> Vec<Socket> {
        let mut sockets = Vec::with_capacity(SILENT);
        for _ in 0..SILENT {
            let mut socket = Socket::open(&self.broker.address, "/ws/chat/default", &self.broker.token).await;
            subscribe(&mut socket).await;
            sockets.push(socket);
        }
        self.ask().await;
        let began = Instant::now();
        self.gateway.delta(&"x".repeat(FILLING_BYTES));
        loop {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.gateway.delta("x");
            }
            // Whoever reads has it all by then.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let stuck = self.stuck().await;
            if stuck == SILENT {
                break;
            }
            assert!(began.elapsed() < STUCK_WITHIN, "{stuck} sockets are stuck, not {SILENT}");
        }
        self.end().await;
        sockets
    }

    /// Counts the sockets for which something waits in the broker, which is in none of them that reads.
    async fn stuck(&self) -> usize {
        let list = self.broker.get("/api/admin/actors?actor=browser_session&limit=10000").await;
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let sessions = list["items"].as_array().expect("a list");
        assert!(sessions.len() > BROWSERS, "all sessions tell of themselves, not {}", sessions.len());
        sessions.iter().filter(|session| session["state"]["frames_waiting"].as_u64().is_some_and(|n| n > 0)).count()
    }
}

async fn subscribe(socket: &mut Socket) {
    socket.send(&json!({ "type": "subscribe", "sessionKey": SESSION }).to_string()).await;
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

/// Has these deltas said, and shows how they came to all browsers; returns the p99 in milliseconds.
async fn measure(
    what: &str,
    pid: u32,
    arrived: &Rc<RefCell<Arrived>>,
    base: Instant,
    (pace, deltas): (u64, usize),
    mut say_words: impl AsyncFnMut(String),
) -> f64 {
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
    arrived.times.at_ms(0.99)
}
